//! A topic's settings on the way back: safe temporary ones while records are written, the real ones after.

use std::collections::{BTreeMap, BTreeSet};

use bodley_io::kafka::topics::{Change, Configs};

use crate::error::EngineError;

const MARK: &str = "segment.ms";
/// A value that no one sets by chance, so that a topic whose restore was cut is recognised: 100,000 days and 61 ms.
const TEMPORARY: &str = "8640000000061";
/// Likewise, for a topic that a restore has made and not begun to write.
const CREATED: &str = "8640000000062";
const MIN_INSYNC: &str = "min.insync.replicas";
const MAX_MESSAGE: &str = "max.message.bytes";
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
const FORMAT: &str = "message.format.version";
const FOREVER: &str = "9223372036854775807";
/// What the broker itself adds to a stored chunk never exceeds this.
const BATCH_SLACK: u64 = 1 << 20;
const DEFAULT_MAX_MESSAGE: u64 = 1_048_588;

/// By what a restore marks topics while it works on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Not marked.
    None,
    /// Made by a restore, nothing written yet.
    Created,
    /// Has temporary settings.
    Temporary,
}

impl Mark {
    /// Of a topic with these settings.
    pub fn of(configs: &Configs) -> Self {
        match configs.get(MARK).and_then(|config| config.value.as_deref()) {
            Some(TEMPORARY) => Self::Temporary,
            Some(CREATED) => Self::Created,
            _ => Self::None,
        }
    }
}

/// Settings of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// After the restore.
    real: BTreeMap<String, String>,
    /// While it runs.
    temporary: BTreeMap<String, String>,
    /// Whether names were checked against the target.
    checked: bool,
    /// The topic was there before: only what is temporary goes back.
    found: bool,
    /// The largest batch that a topic in use takes, bytes.
    in_use_takes: Option<usize>,
}

/// `[TOPIC:]KEY=VALUE` of --topic-config.
#[derive(Debug, Default)]
pub struct Overrides(Vec<(Option<String>, String, String)>);

impl Overrides {
    /// Reads the flags.
    pub fn parse(flags: &[String]) -> Result<Self, EngineError> {
        let parse = |flag: &String| {
            let bad = || {
                EngineError::Refused(format!("--topic-config `{flag}`: write KEY=VALUE or TOPIC:KEY=VALUE"))
            };
            let (left, value) = flag.split_once('=').ok_or_else(bad)?;
            let (topic, key) = match left.split_once(':') {
                Some((topic, key)) => (Some(topic.to_owned()), key),
                None => (None, left),
            };
            if key.is_empty() || topic.as_deref() == Some("") {
                return Err(bad());
            }
            Ok((topic, key.to_owned(), value.to_owned()))
        };
        flags.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// A setting that was typed must be one that the target knows.
    pub fn check_names(&self, known: Option<&BTreeSet<String>>) -> Result<(), EngineError> {
        let unknown = known.and_then(|known| self.0.iter().find(|(_, key, _)| !known.contains(key)));
        match unknown {
            Some((_, key, _)) => Err(EngineError::Refused(format!(
                "--topic-config `{key}`: the target knows no such topic setting"
            ))),
            None => Ok(()),
        }
    }

    /// A topic named in a flag must be one of the targets.
    pub fn check_topics<'a>(&self, targets: impl Iterator<Item = &'a str>) -> Result<(), EngineError> {
        let targets: BTreeSet<&str> = targets.collect();
        for (topic, key, _) in &self.0 {
            if let Some(topic) = topic.as_deref().filter(|topic| !targets.contains(topic)) {
                return Err(EngineError::Refused(format!(
                    "--topic-config `{topic}:{key}`: topic `{topic}` is not among those to restore (name it as it is called at the target)"
                )));
            }
        }
        Ok(())
    }
}

impl Settings {
    /// From the source's own settings and the user's overrides. `largest` bounds the size of the largest stored batch, bytes.
    pub fn of_source(
        own: BTreeMap<String, Option<String>>,
        overrides: &Overrides,
        target: &str,
        largest: u64,
    ) -> Self {
        let mut real: BTreeMap<String, String> =
            own.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        // They hold the source's broker ids.
        real.retain(|name, _| !name.ends_with(".replication.throttled.replicas"));
        for (topic, key, value) in &overrides.0 {
            if topic.as_deref().is_none_or(|topic| topic == target) {
                real.insert(key.clone(), value.clone());
            }
        }
        let max_message = real.get(MAX_MESSAGE).and_then(|v| v.parse().ok()).unwrap_or(DEFAULT_MAX_MESSAGE);
        let max_message = max_message.max(largest + BATCH_SLACK).min(i32::MAX as u64);
        let temporary = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            (MARK, TEMPORARY),
            ("compression.type", "producer"),
            (TIMESTAMP_TYPE, "CreateTime"),
            // The oldest whose batches know producers: an older one would have the broker refuse ours.
            (FORMAT, "0.11.0"),
            ("message.timestamp.before.max.ms", FOREVER),
            ("message.timestamp.after.max.ms", FOREVER),
            ("message.timestamp.difference.max.ms", FOREVER),
        ];
        let mut temporary: BTreeMap<String, String> =
            temporary.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        temporary.insert(MAX_MESSAGE.into(), max_message.to_string());
        Self { real, temporary, ..Self::default() }
    }

    /// Leaves out what the target does not know, and says so. Unknown temporary ones are for other versions and go silently.
    pub fn restrict(&mut self, known: Option<&BTreeSet<String>>, target: &str, notes: &mut Vec<String>) {
        let Some(known) = known else { return };
        self.checked = true;
        self.temporary.retain(|name, _| known.contains(name));
        let unknown: Vec<String> = self.real.keys().filter(|name| !known.contains(*name)).cloned().collect();
        for name in unknown {
            if let Some(value) = self.real.remove(&name) {
                notes.push(format!(
                    "topic {target}: the target does not know the setting {name} (was {value}); left out"
                ));
            }
        }
    }

    /// Names have been checked against the target's.
    pub fn is_checked(&self) -> bool {
        self.checked
    }

    /// The topic was there before: its own settings are the real ones; `old` are those that a run of this restore has replaced already.
    pub fn keep_targets_own(&mut self, configs: &Configs, old: Option<&BTreeMap<String, Option<String>>>) {
        self.found = true;
        // Its replicas are what they are.
        self.temporary.remove(MIN_INSYNC);
        let own = configs.iter().filter(|(_, config)| config.is_own);
        self.real = own.filter_map(|(name, config)| Some((name.clone(), config.value.clone()?))).collect();
        for (name, value) in old.into_iter().flatten() {
            match value {
                Some(value) => self.real.insert(name.clone(), value.clone()),
                None => self.real.remove(name),
            };
        }
    }

    /// What the topic has after the restore.
    pub fn real(&self) -> &BTreeMap<String, String> {
        &self.real
    }

    /// How many bytes of a partition the topic's retention keeps; `None`: all, or not known. `inherited` are the target's defaults.
    pub fn deletes_beyond(&self, inherited: &BTreeMap<String, String>) -> Option<u64> {
        let effective = |name: &str| self.real.get(name).or_else(|| inherited.get(name)).map(String::as_str);
        let deletes = effective("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
        effective("retention.bytes")?.parse().ok().filter(|_| deletes)
    }

    /// After how long, ms, the topic's retention deletes records by their time; `None`: never, or not known. `inherited` are the target's defaults.
    pub fn deletes_after(&self, inherited: &BTreeMap<String, String>) -> Option<i64> {
        let effective = |name: &str| self.real.get(name).or_else(|| inherited.get(name)).map(String::as_str);
        let deletes = effective("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
        effective("retention.ms")?.parse().ok().filter(|keep| deletes && *keep >= 0)
    }

    /// Makes the real settings keep records for `keep` ms; `inherited` are the target's defaults. Returns the flags of Kafka's own tool that set the
    /// real ones again, if anything had to be changed.
    pub fn hold_retention(&mut self, keep: i64, inherited: &BTreeMap<String, String>) -> Option<String> {
        let effective = |name: &str| self.real.get(name).or_else(|| inherited.get(name)).map(String::as_str);
        if effective("cleanup.policy").is_some_and(|policy| !policy.contains("delete")) {
            return None;
        }
        let held = [("retention.ms", keep), ("retention.bytes", -1)];
        let too_short =
            |(name, wanted): &(&str, i64)| match effective(name).and_then(|v| v.parse::<i64>().ok()) {
                Some(now) if now < 0 => false,
                Some(now) => *wanted < 0 || now < *wanted,
                None => true,
            };
        let (mut set, mut unset) = (Vec::new(), Vec::new());
        for (name, wanted) in held.into_iter().filter(too_short).collect::<Vec<_>>() {
            match self.real.insert(name.into(), wanted.to_string()) {
                Some(real) => set.push(format!("{name}={real}")),
                None => unset.push(name),
            }
        }
        let add = (!set.is_empty()).then(|| format!("--add-config {}", set.join(",")));
        let delete = (!unset.is_empty()).then(|| format!("--delete-config {}", unset.join(",")));
        let flags: Vec<String> = add.into_iter().chain(delete).collect();
        (!flags.is_empty()).then(|| flags.join(" "))
    }

    /// The topic is in use, with these settings: nothing is changed, not even for a time.
    pub fn leave_alone(&mut self, configs: &Configs) {
        let largest = configs.get(MAX_MESSAGE).and_then(|config| config.value.as_deref());
        let in_use_takes = largest.and_then(|largest| largest.parse().ok());
        *self = Self { found: true, checked: self.checked, in_use_takes, ..Self::default() };
    }

    /// Batches up to so many bytes are good for the topic, while it is written and after; `None`: not known. `inherited` are the target's defaults.
    pub fn largest_batch(&self, inherited: &BTreeMap<String, String>) -> Option<usize> {
        // The broker of a topic in use may pack a batch anew, and it must fit then, too.
        let in_use = self.in_use_takes.map(|takes| takes / 4 * 3);
        let real = self.real.get(MAX_MESSAGE).or_else(|| inherited.get(MAX_MESSAGE));
        in_use.or_else(|| real?.parse().ok())
    }

    /// What the temporary settings replace; `None` where the topic inherits.
    pub fn replaced(&self) -> BTreeMap<String, Option<String>> {
        self.temporary.keys().map(|name| (name.clone(), self.real.get(name).cloned())).collect()
    }

    /// For CreateTopics: the real ones, and a mark. Unchecked ones wait until the topic can be asked which names it knows.
    pub fn at_creation(&self) -> BTreeMap<String, String> {
        let mut configs = if self.checked { self.real.clone() } else { BTreeMap::new() };
        // A tiered topic cannot be un-tiered for the time of writing: tiering begins when all is there.
        configs.retain(|name, value| !(name == "remote.storage.enable" && value == "true"));
        // Brokers with ZooKeeper show changes of settings before their logs have taken them over, and what is written until then would be stamped anew, or refused.
        let would_change =
            |name: &str, value: &str| name == FORMAT || name == TIMESTAMP_TYPE && value == "LogAppendTime";
        for (name, value) in configs.iter_mut().filter(|(name, value)| would_change(name, value)) {
            if let Some(temporary) = self.temporary.get(name) {
                value.clone_from(temporary);
            }
        }
        if self.has_mark() {
            configs.insert(MARK.into(), CREATED.into());
        }
        configs
    }

    /// A topic under restore is marked: the target knows the setting that marks it.
    pub fn has_mark(&self) -> bool {
        self.temporary.contains_key(MARK)
    }

    /// No more in-sync replicas are asked for than a topic of `replicas` can have, while it is written.
    pub fn cap_min_insync(&mut self, replicas: i16) {
        let wanted = self.real.get(MIN_INSYNC).and_then(|value| value.parse().ok()).unwrap_or(1);
        if wanted > i32::from(replicas) {
            self.temporary.insert(MIN_INSYNC.into(), replicas.to_string());
        }
    }

    /// Changes from the real settings to the temporary ones.
    pub fn begin(&self) -> Vec<Change> {
        self.temporary.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect()
    }

    /// Changes from the temporary settings back to the real ones: what is not set for real is inherited again.
    pub fn end(&self) -> Vec<Change> {
        let mut changes = self.replaced();
        if !self.found {
            changes.extend(self.real.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
        }
        changes.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_io::kafka::topics::Config;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect()
    }

    #[test]
    fn retention_is_held() {
        let inherited =
            [("retention.ms".to_owned(), "604800000".to_owned()), ("retention.bytes".into(), "-1".into())];
        let inherited = inherited.into();
        let none = Overrides::default();
        let held = |own: &[(&str, &str)], keep| {
            let mut settings = Settings::of_source(map(own), &none, "a", 0);
            let back = settings.hold_retention(keep, &inherited);
            (back, settings.real.get("retention.ms").cloned(), settings.real.get("retention.bytes").cloned())
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(held(&[], 5), (None, None, None), "the target's default suffices");
        assert_eq!(held(&[], 700_000_000), (text("--delete-config retention.ms"), text("700000000"), None));
        assert_eq!(
            held(&[("retention.ms", "1000"), ("retention.bytes", "7")], 5000),
            (text("--add-config retention.ms=1000,retention.bytes=7"), text("5000"), text("-1"))
        );
        assert_eq!(held(&[("retention.ms", "-1")], 5000).0, None);
        assert_eq!(held(&[("cleanup.policy", "compact"), ("retention.ms", "1")], 5000).0, None);
    }

    #[test]
    fn largest_batches() {
        let inherited = [(MAX_MESSAGE.to_owned(), "900".to_owned())].into();
        let of = |own: &[(&str, &str)]| Settings::of_source(map(own), &Overrides::default(), "a", 5000);
        assert_eq!(of(&[]).largest_batch(&inherited), Some(900));
        assert_eq!(of(&[]).largest_batch(&BTreeMap::new()), None);
        assert_eq!(of(&[(MAX_MESSAGE, "70")]).largest_batch(&inherited), Some(70));
        let config = |value: &str| Config { value: Some(value.to_owned()), is_own: false };
        let in_use = |configs: Configs| {
            let mut settings = of(&[(MAX_MESSAGE, "70")]);
            settings.leave_alone(&configs);
            settings.largest_batch(&inherited)
        };
        assert_eq!(in_use([(MAX_MESSAGE.to_owned(), config("400"))].into()), Some(300));
    }

    #[test]
    fn there_and_back() {
        let own = map(&[
            ("retention.ms", "1000"),
            ("x.future", "1"),
            ("leader.replication.throttled.replicas", "0:1"),
            ("message.format.version", "0.10.0"),
            ("message.timestamp.type", "LogAppendTime"),
        ]);
        let overrides =
            Overrides::parse(&["retention.ms=5".into(), "b:cleanup.policy=compact".into()]).unwrap();
        let mut settings = Settings::of_source(own, &overrides, "a", 5 << 20);
        let mut notes = Vec::new();
        let known =
            ["retention.ms", "cleanup.policy", "segment.ms", "max.message.bytes", FORMAT, TIMESTAMP_TYPE];
        settings.restrict(Some(&known.iter().map(|s| (*s).to_owned()).collect()), "a", &mut notes);
        assert_eq!(notes, ["topic a: the target does not know the setting x.future (was 1); left out"]);
        let created =
            [("retention.ms", "5"), (MARK, CREATED), (FORMAT, "0.11.0"), (TIMESTAMP_TYPE, "CreateTime")];
        let created = created.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(settings.at_creation(), created.into());
        let begin: BTreeMap<_, _> = settings.begin().into_iter().collect();
        assert_eq!(begin["retention.ms"].as_deref(), Some("-1"));
        assert_eq!(begin["max.message.bytes"].as_deref(), Some("6291456"));
        assert!(!begin.contains_key("compression.type"), "the target does not know it");
        let end: BTreeMap<_, _> = settings.end().into_iter().collect();
        assert_eq!((end["retention.ms"].as_deref(), &end["segment.ms"]), (Some("5"), &None));
        assert_eq!(
            (end[FORMAT].as_deref(), end[TIMESTAMP_TYPE].as_deref()),
            (Some("0.10.0"), Some("LogAppendTime"))
        );
        assert!(overrides.check_topics(["a"].into_iter()).is_err());
        assert!(overrides.check_topics(["a", "b"].into_iter()).is_ok());
        for bad in ["x", "=1", ":k=v", "t:=v"] {
            assert!(Overrides::parse(&[bad.into()]).is_err(), "{bad}");
        }
    }
}
