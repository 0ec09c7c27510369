//! `--vault-option KEY=VALUE`: what a store is to know beside its URL.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use bodley_storage_rest::Patience;

use crate::args::{Interval, Rate};
use crate::client::nearest_of;

/// One option. `Debug` shows the name only: a value may be what nobody should read.
#[derive(Clone, PartialEq, Eq)]
pub struct VaultOption {
    key: String,
    value: String,
}

impl std::fmt::Debug for VaultOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=…", self.key)
    }
}

impl FromStr for VaultOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as region=eu-west-1")?;
        let key = key.trim();
        match key.is_empty() {
            true => Err("there is no name before the `=`".to_owned()),
            false => Ok(Self { key: key.to_owned(), value: value.trim().to_owned() }),
        }
    }
}

/// What Azure and Google call a lock that nobody can lift, and one that some can.
pub const LOCKED: [(&str, bool); 2] = [("Locked", true), ("Unlocked", false)];

/// Options on their way into settings: each is taken once, and what nobody took is an error.
pub struct Options {
    /// As it was typed.
    flag: &'static str,
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Options {
    /// Each key once.
    ///
    /// # Errors
    /// A key that is there twice.
    pub fn new(list: &[VaultOption], flag: &'static str) -> Result<Self, String> {
        let mut given = BTreeMap::new();
        for VaultOption { key, value } in list {
            if value.is_empty() {
                return Err(format!("{flag} {key} is empty: leave it out"));
            }
            if given.insert(key.clone(), value.clone()).is_some() {
                return Err(format!("{flag} {key} is given twice"));
            }
        }
        Ok(Self { flag, given, known: Vec::new() })
    }

    /// A text that is not empty.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.given.remove(key)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        self.choice(key, &[("true", true), ("false", false)])
    }

    /// One of some words.
    pub fn choice<T: Clone>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<Option<T>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text));
        let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let wrong = || format!("{} {key}={text}: write one of {}", self.flag, known());
        found.map(|(_, value)| Some(value.clone())).ok_or_else(wrong)
    }

    /// Anything that can be read.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str, form: &str) -> Result<Option<T>, String> {
        let Some(text) = self.text(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{} {key}={text}: write {form}", self.flag))
    }

    /// A number of bytes with K, M or G.
    pub fn bytes(&mut self, key: &'static str) -> Result<Option<usize>, String> {
        let rate: Option<Rate> = self.parsed(key, "bytes such as 16M")?;
        Ok(rate.map(|Rate(bytes)| bytes.try_into().unwrap_or(usize::MAX)))
    }

    fn span(&mut self, key: &'static str) -> Result<Option<Duration>, String> {
        let span: Option<Interval> = self.parsed(key, "a duration such as 30s or 2m")?;
        Ok(span.map(|Interval(span)| span))
    }

    /// Names and values: `a=b&c=d`.
    pub fn pairs(&mut self, key: &'static str) -> Result<Vec<(String, String)>, String> {
        let Some(text) = self.text(key) else { return Ok(Vec::new()) };
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty())?;
            Some((name.to_owned(), value.to_owned()))
        };
        let pairs: Option<Vec<_>> = text.split('&').map(pair).collect();
        pairs.ok_or_else(|| format!("{} {key}: write name=value&name=value", self.flag))
    }

    /// Whether a lock is for good, by one of two words, and for how many days: the two options go together.
    pub fn lock(
        &mut self,
        (mode, words): (&'static str, [(&str, bool); 2]),
        days: &'static str,
    ) -> Result<Option<(bool, u32)>, String> {
        match (self.choice(mode, &words)?, self.parsed(days, "a number of days")?) {
            (None, None) => Ok(None),
            (Some(for_good), Some(days)) => Ok(Some((for_good, days))),
            _ => Err(self.wrong(&format!("{mode} and {days} go together"))),
        }
    }

    /// A message about one of them, by the flag as it was typed.
    pub fn wrong(&self, what: &str) -> String {
        format!("{} {what}", self.flag)
    }

    /// Time-outs and how much at a time, which all stores across a network have.
    pub fn patience(&mut self) -> Result<Patience, String> {
        let usual = Patience::default();
        let concurrency = self.parsed("concurrency", "a number of requests such as 16")?;
        if concurrency == Some(0) || concurrency > Some(1024) {
            return Err(format!("{} concurrency: write 1 to 1024", self.flag));
        }
        Ok(Patience {
            connect: self.span("connect-timeout")?.unwrap_or(usual.connect),
            idle: self.span("timeout")?.unwrap_or(usual.idle),
            give_up_after: self.span("give-up-after")?.unwrap_or(usual.give_up_after),
            concurrency: concurrency.unwrap_or(usual.concurrency),
        })
    }

    /// Whatever is left is a slip.
    ///
    /// # Errors
    /// Names it, and what it may have been meant to be.
    pub fn none_left(&self, place: &str) -> Result<(), String> {
        let Some(key) = self.given.keys().next() else { return Ok(()) };
        if self.known.is_empty() {
            return Err(format!("{} {key} has no meaning for a vault in {place}", self.flag));
        }
        let meant = match nearest_of(key, self.known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known for {place}: {}", self.known.join(", ")),
        };
        Err(format!("{} {key} is unknown ({meant})", self.flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        Options::new(&list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>(), "--vault-option")
            .unwrap()
    }

    #[test]
    fn each_is_taken_once_and_slips_are_named() {
        let mut some =
            options(&["region=eu-west-1", "path-style=TRUE", "part-size=8M", "tags=a=b&c=", "timeout=5s"]);
        assert_eq!(some.text("region").unwrap(), "eu-west-1");
        assert_eq!(some.flag("path-style").unwrap(), Some(true));
        assert_eq!(some.bytes("part-size").unwrap(), Some(8 << 20));
        assert_eq!(some.pairs("tags").unwrap(), [("a".into(), "b".into()), ("c".into(), String::new())]);
        assert_eq!(some.patience().unwrap().idle, Duration::from_secs(5));
        some.none_left("s3://").unwrap();
        let mut slip = options(&["regoin=x"]);
        slip.text("region");
        assert!(slip.none_left("s3://").unwrap_err().contains("did you mean region"));
        assert!(options(&["region=x"]).none_left("a folder").unwrap_err().contains("no meaning"));
        assert!(options(&["path-style=maybe"]).flag("path-style").is_err());
        assert!(options(&["concurrency=0"]).patience().is_err());
        assert!(Options::new(&["a=1".parse().unwrap(), "a=2".parse().unwrap()], "--vault-option").is_err());
        assert!("region".parse::<VaultOption>().is_err() && "=x".parse::<VaultOption>().is_err());
        assert_eq!(format!("{:?}", "key=hunter2".parse::<VaultOption>().unwrap()), "key=…");
    }
}
