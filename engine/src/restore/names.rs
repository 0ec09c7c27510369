//! Which life of which topic is restored, which of its partitions, and under which name.

use std::collections::{BTreeMap, BTreeSet};

use bodley_io::kafka::is_topic_name;

use crate::error::EngineError;
use crate::select::matches;
use crate::vault::rows::TopicRow;
use crate::vault::state::State;

/// Partitions named one by one at most.
const MAX_PARTITION: u32 = 1_000_000;

/// `--rename FROM=TO`.
#[derive(Debug, Default)]
pub struct Renames {
    names: BTreeMap<String, String>,
    /// What stands before and behind the `*`, on both sides.
    globs: Vec<Glob>,
}

#[derive(Debug)]
struct Glob {
    text: String,
    from: (String, String),
    to: (String, String),
}

impl Glob {
    fn apply(&self, name: &str) -> Option<String> {
        let middle = name.strip_prefix(&self.from.0)?.strip_suffix(self.from.1.as_str())?;
        Some(format!("{}{middle}{}", self.to.0, self.to.1))
    }
}

impl Renames {
    /// Reads the flags.
    pub fn parse(flags: &[String]) -> Result<Self, EngineError> {
        let mut renames = Self::default();
        for pair in flags {
            let bad = |what: &str| EngineError::Refused(format!("--rename `{pair}`: {what}"));
            let split = pair.split_once('=').filter(|(from, to)| !from.is_empty() && !to.is_empty());
            let (from, to) = split.ok_or_else(|| bad("write FROM=TO"))?;
            if from.contains('?') || to.contains('?') {
                return Err(bad("only `*` stands for other characters here"));
            }
            match (from.matches('*').count(), to.matches('*').count()) {
                (0, 0) => {
                    if renames.names.insert(from.to_owned(), to.to_owned()).is_some() {
                        return Err(EngineError::Refused(format!("--rename names topic `{from}` twice")));
                    }
                }
                (1, 1) => {
                    let half = |text: &str| {
                        let (before, behind) = text.split_once('*').unwrap_or((text, ""));
                        (before.to_owned(), behind.to_owned())
                    };
                    renames.globs.push(Glob { text: pair.clone(), from: half(from), to: half(to) });
                }
                _ => return Err(bad("a `*` must stand once on both sides, such as `*=dr-*`")),
            }
        }
        Ok(renames)
    }

    /// The name at the target of each chosen topic. Each flag must be about one of them.
    pub fn targets(&self, chosen: &BTreeSet<String>) -> Result<BTreeMap<String, String>, EngineError> {
        if let Some((from, to)) = self.names.iter().find(|(from, _)| !chosen.contains(*from)) {
            return Err(EngineError::Refused(format!(
                "--rename `{from}={to}`: topic `{from}` is not among those to restore"
            )));
        }
        if let Some(glob) =
            self.globs.iter().find(|glob| !chosen.iter().any(|name| glob.apply(name).is_some()))
        {
            return Err(EngineError::Refused(format!(
                "--rename `{}`: no topic among those to restore has such a name",
                glob.text
            )));
        }
        let mut targets: BTreeMap<String, String> = BTreeMap::new();
        let mut sources: BTreeMap<String, &String> = BTreeMap::new();
        for name in chosen {
            let target = self.target(name)?;
            check_name(name, &target)?;
            if let Some(other) = sources.insert(target.clone(), name) {
                return Err(EngineError::Refused(format!(
                    "topics `{other}` and `{name}` would both become `{target}`"
                )));
            }
            targets.insert(name.clone(), target);
        }
        Ok(targets)
    }

    fn target(&self, name: &str) -> Result<String, EngineError> {
        if let Some(target) = self.names.get(name) {
            return Ok(target.clone());
        }
        let mut hits = self.globs.iter().filter_map(|glob| Some((glob, glob.apply(name)?)));
        match (hits.next(), hits.next()) {
            (Some((first, _)), Some((second, _))) => Err(EngineError::Refused(format!(
                "--rename `{}` and --rename `{}` both rename topic `{name}`: name it by itself, too",
                first.text, second.text
            ))),
            (Some((_, target)), None) => Ok(target),
            _ => Ok(name.to_owned()),
        }
    }
}

fn check_name(name: &str, target: &str) -> Result<(), EngineError> {
    if target.starts_with("__") {
        let what = match name == target {
            true => format!(
                "topic `{target}` belongs to the target's brokers: restore it under another name with --rename"
            ),
            false => format!("--rename to `{target}`: names that begin with __ are the brokers' own"),
        };
        return Err(EngineError::Refused(what));
    }
    if !is_topic_name(target) {
        return Err(EngineError::Refused(format!(
            "`{target}` is no topic name: at most 249 letters, digits, dots, underscores and dashes"
        )));
    }
    Ok(())
}

/// `--incarnation [TOPIC=]N`: which life of topics that were deleted and created again.
#[derive(Debug, Default)]
pub struct Lives(Vec<(Option<String>, u32)>);

impl Lives {
    /// Reads the flags.
    pub fn parse(flags: &[String]) -> Result<Self, EngineError> {
        let parse = |flag: &String| {
            let (topic, number) = match flag.split_once('=') {
                Some((topic, number)) => (Some(topic.to_owned()), number),
                None => (None, flag.as_str()),
            };
            match number.parse() {
                Ok(number) if topic.as_deref() != Some("") => Ok((topic, number)),
                _ => Err(EngineError::Refused(format!(
                    "--incarnation `{flag}`: write N or TOPIC=N, as `bodley list` numbers them"
                ))),
            }
        };
        flags.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// The life of each chosen topic that is meant: the newest, unless a flag says otherwise.
    pub fn choose<'a>(
        &self,
        state: &'a State,
        chosen: &BTreeSet<String>,
    ) -> Result<BTreeMap<&'a str, &'a TopicRow>, EngineError> {
        let mut rows = state.newest();
        rows.retain(|name, _| chosen.contains(*name));
        let mut named = BTreeSet::new();
        for (topic, number) in &self.0 {
            let meant = |name: &str| topic.as_deref().is_none_or(|topic| matches(topic, name));
            let mut hit = false;
            for (name, row) in rows.iter_mut().filter(|(name, _)| meant(name)) {
                let lives = state.lives(name);
                let Some(life) = lives.iter().find(|life| life.incarnation == *number) else {
                    let numbers: Vec<String> =
                        lives.iter().rev().map(|life| life.incarnation.to_string()).collect();
                    return Err(EngineError::Refused(format!(
                        "--incarnation {number}: topic `{name}` has none of this number in the vault, but {}",
                        numbers.join(", ")
                    )));
                };
                if !named.insert(*name) {
                    return Err(EngineError::Refused(format!(
                        "--incarnation is given twice for topic `{name}`"
                    )));
                }
                (hit, *row) = (true, life);
            }
            if !hit {
                let topic = topic.as_deref().unwrap_or("*");
                return Err(EngineError::Refused(format!(
                    "--incarnation {topic}={number}: no such topic is among those to restore"
                )));
            }
        }
        Ok(rows)
    }
}

/// `--partitions 0,3-5`; `None`: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partitions(Option<BTreeSet<u32>>);

impl Partitions {
    /// Reads the flag.
    pub fn parse(flag: Option<&str>) -> Result<Self, EngineError> {
        let Some(flag) = flag else { return Ok(Self(None)) };
        let bad =
            || EngineError::Refused(format!("--partitions `{flag}`: write numbers and spans, such as 0,3-5"));
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number <= MAX_PARTITION);
        let mut all = BTreeSet::new();
        for part in flag.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) =
                number(first).zip(number(last)).filter(|(first, last)| first <= last).ok_or_else(bad)?;
            all.extend(first..=last);
        }
        Ok(Self(Some(all)))
    }

    /// Whether this one is meant.
    pub fn covers(&self, partition: u32) -> bool {
        self.0.as_ref().is_none_or(|some| some.contains(&partition))
    }

    /// All of them are meant.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Each one named must be in one of the topics.
    pub fn check_used(&self, parts: &BTreeSet<(&str, u32)>) -> Result<(), EngineError> {
        let unused = |number: &&u32| !parts.iter().any(|(_, partition)| partition == *number);
        match self.0.iter().flatten().find(unused) {
            Some(number) => Err(EngineError::Refused(format!(
                "--partitions: none of the topics to restore has a partition {number}"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn renaming() {
        let targets = |flags: &[&str], chosen: &[&str]| {
            let flags: Vec<String> = flags.iter().map(|s| (*s).to_owned()).collect();
            let targets = Renames::parse(&flags).and_then(|renames| renames.targets(&names(chosen)));
            targets.map(|targets| targets.into_values().collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert_eq!(targets(&[], &["a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!(targets(&["*=dr-*", "b=c"], &["a", "b"]).unwrap(), ["dr-a", "c"]);
        assert_eq!(targets(&["eu.*.x=*-y"], &["eu.orders.x", "b"]).unwrap(), ["b", "orders-y"]);
        assert_eq!(
            targets(&["a*=*"], &["a", "ab"]).unwrap_err(),
            "`` is no topic name: at most 249 letters, digits, dots, underscores and dashes"
        );
        for bad in ["a", "a=", "=a", "a*=b", "a=b*", "**=*", "a?=b"] {
            assert!(targets(&[bad], &["a", "ab"]).is_err(), "{bad}");
        }
        for (flags, chosen) in [
            (&["x=y"][..], &["a"][..]),
            (&["x*=y*"], &["a"]),
            (&["a=b", "a=c"], &["a"]),
            (&["a=b"], &["a", "b"]),
            (&["a*=x*", "*b=*y"], &["ab"]),
            (&["a=__b"], &["a"]),
            (&["a=b c"], &["a"]),
            (&[], &["__a"]),
        ] {
            assert!(targets(flags, chosen).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn partitions() {
        let parse = |flag| {
            Partitions::parse(Some(flag))
                .map(|partitions| partitions.0.unwrap().into_iter().collect::<Vec<_>>())
        };
        assert_eq!(parse("0,3-5").unwrap(), [0, 3, 4, 5]);
        assert_eq!(parse("7").unwrap(), [7]);
        for bad in ["", "a", "1-", "-1", "3-1", "1,,2", "0-4000000000"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let some = Partitions::parse(Some("0,9")).unwrap();
        assert!(some.covers(9) && !some.covers(1) && !some.is_all());
        assert!(some.check_used(&[("a", 0), ("b", 9)].into()).is_ok());
        assert!(some.check_used(&[("a", 0), ("b", 1)].into()).is_err());
    }

    #[test]
    fn lives() {
        let mut state = State::default();
        for (id, name, incarnation) in [(1, "a", 0), (2, "a", 1), (3, "b", 0)] {
            let topic = TopicRow {
                topic: [id; 16],
                name: name.into(),
                present: true,
                partitions: 1,
                replication: 1,
                internal: false,
                synthetic: false,
                incarnation,
            };
            state.topics.insert(topic.topic, topic);
        }
        let choose = |flags: &[&str]| {
            let flags: Vec<String> = flags.iter().map(|s| (*s).to_owned()).collect();
            let lives = Lives::parse(&flags)?;
            let rows = lives.choose(&state, &names(&["a", "b"]))?;
            Ok::<_, EngineError>(rows.into_values().map(|row| row.topic[0]).collect::<Vec<_>>())
        };
        assert_eq!(choose(&[]).unwrap(), [2, 3]);
        assert_eq!(choose(&["a=0"]).unwrap(), [1, 3]);
        assert_eq!(choose(&["0"]).unwrap(), [1, 3]);
        for bad in ["1", "a=2", "c=0", "x", "=1", "a="] {
            assert!(choose(&[bad]).is_err(), "{bad}");
        }
        assert!(choose(&["a=0", "0"]).is_err(), "twice");
    }
}
