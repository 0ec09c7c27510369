//! Which topics a command is about. The one matcher of globs.

use std::collections::BTreeSet;

use wildmatch::WildMatch;

use crate::error::EngineError;

/// Patterns as given on the command line.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names or globs; none: all but internal topics.
    pub topics: Vec<String>,
    /// Names or globs to leave out.
    pub exclude: Vec<String>,
    /// Globs reach internal topics, too.
    pub include_internal: bool,
}

/// `*` and `?` only; everything else stands for itself.
pub fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether `name` as a whole matches `pattern`.
pub fn matches(pattern: &str, name: &str) -> bool {
    if is_glob(pattern) { WildMatch::new(pattern).matches(name) } else { pattern == name }
}

/// Internal by the broker's word or by Kafka's habit.
fn is_internal(name: &str, flagged: bool) -> bool {
    flagged || name.starts_with("__")
}

impl Selection {
    /// The chosen ones of `(name, the broker calls it internal)`. A name that does not exist, or a glob that matches nothing, is refused;
    /// `place` says where it was looked for.
    pub fn choose<'a>(
        &self,
        there: impl Iterator<Item = (&'a str, bool)> + Clone,
        place: &str,
    ) -> Result<BTreeSet<String>, EngineError> {
        let every = ["*".to_owned()];
        let patterns = if self.topics.is_empty() { &every[..] } else { &self.topics[..] };
        let mut chosen = BTreeSet::new();
        for pattern in patterns {
            let reaches = |name: &str, flagged| {
                matches(pattern, name)
                    && (!is_glob(pattern) || self.include_internal || !is_internal(name, flagged))
            };
            let mut hit = false;
            for (name, _) in there.clone().filter(|(name, flagged)| reaches(name, *flagged)) {
                hit = true;
                chosen.insert(name.to_owned());
            }
            if !hit && !self.topics.is_empty() {
                let what = if is_glob(pattern) { "no topic matches" } else { "there is no topic" };
                return Err(EngineError::Refused(format!("{what} `{pattern}` {place}")));
            }
        }
        chosen.retain(|name| !self.exclude.iter().any(|pattern| matches(pattern, name)));
        Ok(chosen)
    }

    /// The whole names among the patterns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str).filter(|pattern| !is_glob(pattern))
    }

    /// Whether a topic of this name is meant, should it exist.
    pub fn covers(&self, name: &str, flagged: bool) -> bool {
        let reached = match self.topics.as_slice() {
            [] => self.include_internal || !is_internal(name, flagged),
            patterns => patterns.iter().any(|pattern| {
                matches(pattern, name)
                    && (!is_glob(pattern) || self.include_internal || !is_internal(name, flagged))
            }),
        };
        reached && !self.exclude.iter().any(|pattern| matches(pattern, name))
    }
}

/// Which of some things with names, such as consumer groups: patterns as given on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pick {
    /// Names or globs; none: all.
    pub include: Vec<String>,
    /// Names or globs to leave out.
    pub exclude: Vec<String>,
}

impl Pick {
    /// Whether one of this name is meant.
    pub fn covers(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }

    /// The chosen ones of those that are there. A name that does not exist, or a glob that matches nothing, is refused; `what` they are, and `place`
    /// where they were looked for, are for the message.
    pub fn choose<'a>(
        &self,
        there: impl Iterator<Item = &'a str> + Clone,
        what: &str,
        place: &str,
    ) -> Result<BTreeSet<String>, EngineError> {
        for pattern in &self.include {
            if !there.clone().any(|name| matches(pattern, name)) {
                let none = if is_glob(pattern) {
                    format!("no {what} matches")
                } else {
                    format!("there is no {what}")
                };
                return Err(EngineError::Refused(format!("{none} `{pattern}` {place}")));
            }
        }
        Ok(there.filter(|name| self.covers(name)).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: [(&str, bool); 5] = [
        ("orders", false),
        ("orders.eu", false),
        ("Orders", false),
        ("__consumer_offsets", true),
        ("__x", false),
    ];

    fn choose(topics: &[&str], exclude: &[&str], include_internal: bool) -> Result<Vec<String>, String> {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let selection = Selection { topics: own(topics), exclude: own(exclude), include_internal };
        let chosen = selection.choose(THERE.into_iter(), "in the vault").map_err(|e| e.to_string())?;
        for (name, internal) in THERE {
            assert_eq!(selection.covers(name, internal), chosen.contains(name), "{name}");
        }
        Ok(chosen.into_iter().collect())
    }

    #[test]
    fn rules() {
        assert_eq!(choose(&[], &[], false).unwrap(), ["Orders", "orders", "orders.eu"]);
        assert_eq!(choose(&[], &["orders*"], false).unwrap(), ["Orders"]);
        assert_eq!(choose(&["orders"], &[], false).unwrap(), ["orders"]);
        assert_eq!(choose(&["orders.??"], &[], false).unwrap(), ["orders.eu"]);
        assert_eq!(choose(&["__consumer_offsets"], &[], false).unwrap(), ["__consumer_offsets"]);
        assert_eq!(choose(&["__*", "orders"], &[], true).unwrap(), ["__consumer_offsets", "__x", "orders"]);
        assert_eq!(choose(&["__*"], &[], false).unwrap_err(), "no topic matches `__*` in the vault");
        assert_eq!(choose(&["order"], &[], false).unwrap_err(), "there is no topic `order` in the vault");
        assert_eq!(choose(&["orders", "orders*"], &[], false).unwrap(), ["orders", "orders.eu"]);
        // A dot is a dot, a bracket a bracket.
        assert!(choose(&["orders[.]eu"], &[], false).is_err());
    }

    #[test]
    fn picks() {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let choose = |include: &[&str], exclude: &[&str]| {
            let pick = Pick { include: own(include), exclude: own(exclude) };
            let chosen = pick.choose(["billing", "audit", "audit-2"].into_iter(), "group", "in the vault");
            chosen.map(|chosen| chosen.into_iter().collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert_eq!(choose(&[], &["audit*"]).unwrap(), ["billing"]);
        assert_eq!(choose(&["audit*"], &["audit"]).unwrap(), ["audit-2"]);
        assert_eq!(choose(&["bill"], &[]).unwrap_err(), "there is no group `bill` in the vault");
        assert_eq!(choose(&["x*"], &[]).unwrap_err(), "no group matches `x*` in the vault");
    }
}
