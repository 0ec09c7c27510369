//! Which records of a partition are wanted: by time and by offset, for the whole run, a topic or a partition.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::error::EngineError;
use crate::look::Window;
use crate::moment::Moment;
use crate::select::{is_glob, matches};

/// As typed.
#[derive(Debug, Clone, Default)]
pub struct WindowFlags {
    /// Records before it are left out.
    pub from: Option<Moment>,
    /// Records at it and behind are left out.
    pub to: Option<Moment>,
    /// `TOPIC[:PARTITION]=FROM..TO`, in place of the two above.
    pub windows: Vec<String>,
    /// `TOPIC:PARTITION=N`: the first offset that is wanted.
    pub from_offset: Vec<String>,
    /// `TOPIC:PARTITION=N`: the first that is not wanted any more.
    pub to_offset: Vec<String>,
}

impl WindowFlags {
    /// What is wanted depends on when it is asked.
    pub fn is_relative(&self) -> Result<bool, EngineError> {
        let mut moments: Vec<Moment> = self.from.into_iter().chain(self.to).collect();
        for text in &self.windows {
            let rule = Rule::parse(text)?;
            moments.extend(rule.from.into_iter().chain(rule.to));
        }
        Ok(moments.into_iter().any(Moment::is_relative))
    }
}

/// `TOPIC[:PARTITION]=FROM..TO`.
#[derive(Debug, Clone)]
struct Rule {
    text: String,
    topic: String,
    partition: Option<u32>,
    from: Option<Moment>,
    to: Option<Moment>,
}

impl Rule {
    fn parse(text: &str) -> Result<Self, EngineError> {
        let bad = |what: &str| {
            EngineError::Refused(format!(
                "--window `{text}`: {what}; write TOPIC=FROM..TO or TOPIC:PARTITION=FROM..TO"
            ))
        };
        let (place, times) = text.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
        let (topic, partition) = match place.split_once(':') {
            None => (place, None),
            Some((topic, partition)) => {
                (topic, Some(partition.parse().map_err(|_| bad(&format!("`{partition}` is no partition")))?))
            }
        };
        let (from, to) = times.split_once("..").ok_or_else(|| bad("there is no `..`"))?;
        if topic.is_empty() || from.is_empty() && to.is_empty() {
            return Err(bad("the topic is missing, or both times are (all of a topic is `TOPIC=0..`)"));
        }
        let moment = |text: &str| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|what: String| bad(&what)),
        };
        Ok(Self {
            text: text.to_owned(),
            topic: topic.to_owned(),
            partition,
            from: moment(from)?,
            to: moment(to)?,
        })
    }

    fn covers(&self, topic: &str, partition: u32) -> bool {
        self.partition.is_none_or(|own| own == partition) && matches(&self.topic, topic)
    }

    /// Partitions go before topics, names before globs.
    fn rank(&self) -> u8 {
        2 * u8::from(self.partition.is_some()) + u8::from(!is_glob(&self.topic))
    }
}

/// All windows of a run, with times as they are meant.
#[derive(Debug, Default)]
pub struct Windows {
    all: Option<Range<i64>>,
    rules: Vec<(Rule, Option<Range<i64>>)>,
    offsets: BTreeMap<(String, u32), Range<i64>>,
}

impl Windows {
    /// From the flags; times ago count from `now`, ms. An empty window is refused.
    pub fn new(flags: &WindowFlags, now: i64) -> Result<Self, EngineError> {
        let all = times("--from and --to", (flags.from, flags.to), now)?;
        let mut rules = Vec::new();
        for text in &flags.windows {
            let rule = Rule::parse(text)?;
            let times = times(&format!("--window `{text}`"), (rule.from, rule.to), now)?;
            rules.push((rule, times));
        }
        let mut offsets: BTreeMap<(String, u32), Range<i64>> = BTreeMap::new();
        let mut said = BTreeSet::new();
        for (flag, texts) in [("--from-offset", &flags.from_offset), ("--to-offset", &flags.to_offset)] {
            for text in texts {
                let (place, offset) = offset(flag, text)?;
                if !said.insert((flag, place.clone())) {
                    return Err(EngineError::Refused(format!("{flag} names {}:{} twice", place.0, place.1)));
                }
                let range = offsets.entry(place).or_insert(0..i64::MAX);
                if flag == "--to-offset" { range.end = offset } else { range.start = offset }
            }
        }
        if let Some(((topic, partition), range)) = offsets.iter().find(|(_, range)| range.is_empty()) {
            return Err(EngineError::Refused(format!(
                "--from-offset and --to-offset of {topic}:{partition}: {} to {} (exclusive) holds no offset",
                range.start, range.end
            )));
        }
        Ok(Self { all, rules, offsets })
    }

    /// What is wanted of a partition.
    pub fn of(&self, topic: &str, partition: u32) -> Result<Window, EngineError> {
        let covering = || self.rules.iter().filter(|(rule, _)| rule.covers(topic, partition));
        let highest = covering().map(|(rule, _)| rule.rank()).max();
        let mut best = covering().filter(|(rule, _)| Some(rule.rank()) == highest);
        let (best, rival) = (best.next(), best.next());
        if let (Some((one, _)), Some((other, _))) = (best, rival) {
            return Err(EngineError::Refused(format!(
                "--window `{}` and --window `{}` both choose from {topic}-{partition}",
                one.text, other.text
            )));
        }
        let times = best.map_or(self.all.as_ref(), |(_, times)| times.as_ref());
        let offsets = self.offsets.get(&(topic.to_owned(), partition));
        let bound = |value: i64, none: i64| (value != none).then_some(value);
        Ok(Window {
            from: times.and_then(|times| bound(times.start, i64::MIN)),
            to: times.and_then(|times| bound(times.end, i64::MAX)),
            from_offset: offsets.and_then(|offsets| bound(offsets.start, 0)),
            to_offset: offsets.and_then(|offsets| bound(offsets.end, i64::MAX)),
        })
    }

    /// A flag must be about something that is restored.
    pub fn check_used(&self, parts: &BTreeSet<(&str, u32)>) -> Result<(), EngineError> {
        for (rule, _) in &self.rules {
            if !parts.iter().any(|(topic, partition)| rule.covers(topic, *partition)) {
                return Err(EngineError::Refused(format!(
                    "--window `{}`: no such topic or partition is among those to restore",
                    rule.text
                )));
            }
        }
        match self.offsets.keys().find(|(topic, partition)| !parts.contains(&(topic.as_str(), *partition))) {
            Some((topic, partition)) => Err(EngineError::Refused(format!(
                "--from-offset, --to-offset: {topic}:{partition} is not among the partitions to restore"
            ))),
            None => Ok(()),
        }
    }
}

/// `TOPIC:PARTITION=N`.
fn offset(flag: &str, text: &str) -> Result<((String, u32), i64), EngineError> {
    let parsed = text.split_once('=').and_then(|(place, offset)| {
        let (topic, partition) = place.split_once(':')?;
        let offset = offset.parse::<i64>().ok().filter(|offset| *offset >= 0)?;
        (!topic.is_empty()).then_some(((topic.to_owned(), partition.parse::<u32>().ok()?), offset))
    });
    parsed.ok_or_else(|| {
        EngineError::Refused(format!("{flag} `{text}`: write TOPIC:PARTITION=OFFSET, such as orders:3=1500"))
    })
}

/// A span of times, ms; `None`: without bounds.
fn times(
    what: &str,
    (from, to): (Option<Moment>, Option<Moment>),
    now: i64,
) -> Result<Option<Range<i64>>, EngineError> {
    if from.is_none() && to.is_none() {
        return Ok(None);
    }
    let start = from.map_or(i64::MIN, |from| from.resolve(now));
    let end = to.map_or(i64::MAX, |to| to.resolve(now));
    match start.cmp(&end) {
        std::cmp::Ordering::Less => Ok(Some(start..end)),
        order => {
            let how = if order.is_eq() { "empty" } else { "inverted" };
            let (start, end) = (Moment::At(start), Moment::At(end));
            Err(EngineError::Refused(format!(
                "{what}: the window is {how}: from {start} (inclusive) to {end} (exclusive)"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn flags(windows: &[&str], from_offset: &[&str], to_offset: &[&str]) -> WindowFlags {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let (from, to) = (Some(Moment::At(1000)), None);
        WindowFlags {
            from,
            to,
            windows: own(windows),
            from_offset: own(from_offset),
            to_offset: own(to_offset),
        }
    }

    #[test]
    fn the_nearest_rule_counts() {
        let flags = flags(
            &["orders:3=0..5", "orders=10..20", "o*=30..", "*:3=..-1h"],
            &["orders:3=7"],
            &["orders:3=9"],
        );
        let windows = Windows::new(&flags, NOW).unwrap();
        let of = |topic, partition| windows.of(topic, partition).unwrap();
        let window = Window { from: Some(0), to: Some(5), from_offset: Some(7), to_offset: Some(9) };
        assert_eq!(of("orders", 3), window);
        assert_eq!(of("orders", 2).times(), Some(10..20));
        assert_eq!(of("other", 2).times(), Some(30..i64::MAX));
        assert_eq!(of("other", 3).times(), Some(i64::MIN..NOW - 3_600_000), "partitions go first");
        assert_eq!(of("x", 1).times(), Some(1000..i64::MAX));
        assert!(flags.is_relative().unwrap());
        windows.check_used(&[("orders", 3), ("orders", 2), ("x", 3)].into()).unwrap();
        assert!(windows.check_used(&[("orders", 3), ("orders", 2)].into()).is_ok());
        assert!(windows.check_used(&[("orders", 2), ("x", 3)].into()).is_err());
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            "orders",
            "orders=1",
            "orders=..",
            "=1..2",
            "orders:x=1..2",
            "orders=1..y",
            "orders=5..5",
            "orders=6..5",
        ] {
            let refused = Windows::new(&flags(&[bad], &[], &[]), NOW).unwrap_err();
            assert!(refused.to_string().contains(bad), "{refused}");
        }
        for bad in ["orders=1", "orders:1", "orders:1=-1", "orders:x=1", ":1=1"] {
            assert!(Windows::new(&flags(&[], &[bad], &[]), NOW).is_err(), "{bad}");
        }
        assert!(Windows::new(&flags(&[], &["a:0=5"], &["a:0=5"]), NOW).is_err(), "no offset");
        assert!(Windows::new(&flags(&[], &["a:0=5", "a:0=6"], &[]), NOW).is_err(), "twice");
        let twice = Windows::new(&flags(&["a*=1..2", "*a=1..2"], &[], &[]), NOW).unwrap();
        assert!(twice.of("aa", 0).is_err() && twice.of("ab", 0).is_ok());
        // Whatever stands first.
        let named = Windows::new(&flags(&["a*=1..2", "*a=1..2", "aa=7..8"], &[], &[]), NOW).unwrap();
        assert_eq!(named.of("aa", 0).unwrap().times(), Some(7..8));
    }
}
