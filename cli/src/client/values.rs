//! Settings from several places, by key, with where each comes from; typed on demand. Values are never shown, but for paths.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bodley_io::Secret;

use super::keys::{self, Meaning};
use super::properties;
use super::reference::Providers;
use crate::files;

/// Looks an environment variable up.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is wrong with a setting, and what to do. Never holds a secret.
#[derive(Debug, PartialEq)]
pub struct SettingError {
    /// File and line, or another place.
    pub origin: String,
    /// As written there.
    pub key: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.origin, &self.key, &self.what];
        let parts: Vec<&str> =
            parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join(": "))
    }
}

/// A key with its value.
#[derive(Debug, Clone)]
pub struct Setting {
    /// As written.
    pub key: String,
    /// Could be a password, so it is treated as one.
    pub value: Secret,
    /// File and line, or another place.
    pub origin: String,
}

impl Setting {
    /// An error about it.
    pub fn error(&self, what: impl Into<String>) -> SettingError {
        SettingError { origin: self.origin.clone(), key: self.key.clone(), what: what.into() }
    }
}

/// Settings of one place.
#[derive(Debug, Default)]
pub struct Layer {
    /// In their order; the last of a key counts.
    pub settings: Vec<Setting>,
    /// Worth knowing.
    pub notes: Vec<String>,
}

/// Reads a `.properties` file and replaces references.
pub fn read_properties(path: &Path, env: Env<'_>) -> Result<Layer, SettingError> {
    let name = path.display().to_string();
    let of_file = |what| SettingError { origin: String::new(), key: String::new(), what };
    let text = files::text(path).map_err(|e| of_file(format!("{name} {e}")))?;
    let entries = properties::parse(&text).map_err(|e| of_file(format!("{name}: {e}")))?;
    let (mut settings, mut notes) = (Vec::new(), Vec::new());
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in &entries {
        let origin = format!("{name}:{}", entry.line);
        if !is_a_name(&entry.key) {
            let what = "this is no key: does the line before need a backslash at its end?".to_owned();
            return Err(SettingError { origin, key: String::new(), what });
        }
        if let Some(before) = lines.insert(&entry.key, entry.line)
            && keys::meaning(&entry.key) != Meaning::Unknown
        {
            notes.push(format!("{origin}: {} stands on line {before}, too; this one counts", entry.key));
        }
        settings.push(Setting { key: entry.key.clone(), value: Secret::new(entry.value.as_str()), origin });
    }
    let (mut layer, mut secret_inside) = (Layer { settings: Vec::new(), notes }, false);
    for (mut setting, replaced) in resolve_references(settings, env)? {
        secret_inside |= !replaced && holds_secret(&setting.key, setting.value.expose());
        setting.value = Secret::new(setting.value.expose().trim());
        layer.settings.push(setting);
    }
    if secret_inside && files::readable_by_others(path) {
        layer.notes.push(open_to_others(&name));
    }
    Ok(layer)
}

/// Replaces references in settings that stand in a file of another form; says of each whether it had any.
pub fn resolve_references(
    settings: Vec<Setting>,
    env: Env<'_>,
) -> Result<Vec<(Setting, bool)>, SettingError> {
    let entry = |setting: &Setting| {
        let value = setting.value.expose().to_owned();
        properties::Entry { key: setting.key.clone(), value, line: 0 }
    };
    let entries: Vec<properties::Entry> = settings.iter().map(entry).collect();
    let providers = Providers::declared(&entries).map_err(|(entry, what)| {
        let origin = settings.iter().find(|setting| setting.key == entry.key).map(|s| s.origin.clone());
        SettingError { origin: origin.unwrap_or_default(), key: entry.key.clone(), what }
    })?;
    let resolve = |setting: Setting| {
        let resolved = providers.resolve(setting.value.expose(), env).map_err(|what| setting.error(what))?;
        let replaced = resolved.is_some();
        let value = resolved.map_or_else(|| setting.value.clone(), Secret::new);
        Ok((Setting { value, ..setting }, replaced))
    };
    settings.into_iter().map(resolve).collect()
}

/// The note about a file that holds a secret for all to see.
pub fn open_to_others(name: &str) -> String {
    format!("{name} holds a secret and may be read by other users of this machine: chmod 600 {name}")
}

/// The value of this key is one, or has one inside.
pub fn holds_secret(key: &str, value: &str) -> bool {
    match keys::meaning(key) {
        Meaning::Honoured("sasl.jaas.config") => value.contains("assword") || value.contains("ecret"),
        Meaning::Honoured(name) => keys::SECRETS.contains(&name) && !value.trim().is_empty(),
        _ => false,
    }
}

/// Lines of keys and passwords that went astray are no names, and are not to be shown.
fn is_a_name(key: &str) -> bool {
    key.len() <= 100
        && key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[derive(Debug)]
struct Held {
    setting: Setting,
    rank: usize,
    used: Cell<bool>,
}

/// The settings that count, by the names they have here. Remembers which ones were asked for.
#[derive(Debug, Default)]
pub struct Values {
    held: BTreeMap<&'static str, Held>,
    without_meaning: BTreeSet<String>,
    unknown: BTreeSet<String>,
    unnamed: BTreeSet<String>,
}

impl Values {
    /// Puts layers over one another: later ones win.
    pub fn of(layers: &[Layer]) -> Result<Self, SettingError> {
        let mut values = Self::default();
        for (rank, layer) in layers.iter().enumerate() {
            for setting in &layer.settings {
                values.add(setting, rank)?;
            }
        }
        Ok(values)
    }

    fn add(&mut self, setting: &Setting, rank: usize) -> Result<(), SettingError> {
        match keys::meaning(&setting.key) {
            Meaning::Honoured(name) => {
                if let Some(held) = self.held.get(name)
                    && (held.rank == rank && held.setting.key != setting.key)
                    && held.setting.value != setting.value
                {
                    let what = format!("{} says something else about the same: leave one", held.setting.key);
                    return Err(setting.error(what));
                }
                let setting = setting.clone();
                self.held.insert(name, Held { setting, rank, used: Cell::new(false) });
            }
            Meaning::Refused(harmless, why) => {
                let value = setting.value.expose();
                if !value.is_empty() && !harmless.iter().any(|one| one.eq_ignore_ascii_case(value)) {
                    return Err(setting.error(format!("not supported: {why}")));
                }
            }
            Meaning::Nothing => _ = self.without_meaning.insert(setting.key.clone()),
            Meaning::Unknown => self.add_unknown(setting),
            Meaning::Provider => {}
        }
        Ok(())
    }

    /// Kafka's names have dots and no capitals. Others may be words of passwords or tokens that went astray: they are not shown, unless
    /// they are nearly a key.
    fn add_unknown(&mut self, setting: &Setting) {
        match keys::nearest(&setting.key) {
            Some(near) => _ = self.unknown.insert(format!("{} (did you mean {near}?)", setting.key)),
            None if setting.key.contains('.') && !setting.key.contains(|c: char| c.is_ascii_uppercase()) => {
                _ = self.unknown.insert(setting.key.clone())
            }
            None => _ = self.unnamed.insert(setting.origin.clone()),
        }
    }

    /// One line for each kind of setting that does nothing. To be asked when all that matter were.
    pub fn notes(&self) -> Vec<String> {
        let list = |keys: &BTreeSet<String>| keys.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let unused = self.held.values().filter(|held| !held.used.get());
        let unused: Vec<&str> = unused.map(|held| held.setting.key.as_str()).collect();
        let mut notes = Vec::new();
        if !unused.is_empty() {
            let unused = unused.join(", ");
            notes.push(format!("not used with this security.protocol and sasl.mechanism: {unused}"));
        }
        if !self.unknown.is_empty() {
            notes.push(format!("unknown settings, without effect: {}", list(&self.unknown)));
        }
        if !self.unnamed.is_empty() {
            notes.push(format!("no client's setting, without effect: {}", list(&self.unnamed)));
        }
        if !self.without_meaning.is_empty() {
            notes.push(format!("settings without meaning for bodley: {}", list(&self.without_meaning)));
        }
        notes
    }

    /// How much a setting weighs against others, and the setting. It counts as used.
    pub fn ranked(&self, name: &'static str) -> Option<(usize, &Setting)> {
        let held = self.held.get(name)?;
        held.used.set(true);
        Some((held.rank, &held.setting))
    }

    /// A setting, even an empty one.
    pub fn given(&self, name: &'static str) -> Option<&Setting> {
        self.ranked(name).map(|(_, setting)| setting)
    }

    /// A setting that is not empty.
    pub fn get(&self, name: &'static str) -> Option<&Setting> {
        self.given(name).filter(|setting| !setting.value.expose().is_empty())
    }

    /// The same, as text.
    pub fn text(&self, name: &'static str) -> Option<&str> {
        self.get(name).map(|setting| setting.value.expose())
    }

    /// A secret, even an empty one.
    pub fn secret(&self, name: &'static str) -> Option<Secret> {
        self.given(name).map(|setting| setting.value.clone())
    }

    /// A file's path.
    pub fn path(&self, name: &'static str) -> Option<(&Setting, PathBuf)> {
        self.get(name).map(|setting| (setting, PathBuf::from(setting.value.expose())))
    }

    /// A whole number within bounds.
    pub fn number(
        &self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, SettingError> {
        let Some(setting) = self.get(name) else { return Ok(None) };
        let number = setting.value.expose().parse().ok().filter(|number| range.contains(number));
        let bad = || setting.error(format!("write a whole number from {} to {}", range.start(), range.end()));
        number.map(Some).ok_or_else(bad)
    }

    /// Milliseconds within bounds.
    pub fn millis(
        &self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<Duration>, SettingError> {
        let number = self.number(name, range)?;
        Ok(number.map(|number| Duration::from_millis(number.unsigned_abs())))
    }

    /// One of several words, in any case.
    pub fn choice<T: Copy>(
        &self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, SettingError> {
        let Some(setting) = self.get(name) else { return Ok(None) };
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(setting.value.expose()));
        let bad = || {
            let words: Vec<&str> =
                words.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
            setting.error(format!("write one of {}", words.join(", ")))
        };
        found.map(|(_, choice)| Some(*choice)).ok_or_else(bad)
    }

    /// True or false.
    pub fn boolean(&self, name: &'static str) -> Result<Option<bool>, SettingError> {
        self.choice(name, &[("true", true), ("false", false)])
    }

    /// An error that says which settings are missing; it has no place of its own.
    pub fn missing(key: &str, what: impl Into<String>) -> SettingError {
        SettingError { origin: String::new(), key: key.to_owned(), what: what.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::layer;

    #[test]
    fn later_layers_win_whatever_the_spelling() {
        let values =
            Values::of(&[layer("sasl.mechanisms=A\nclient.id=x"), layer("sasl.mechanism=B")]).unwrap();
        assert_eq!((values.text("sasl.mechanism"), values.text("client.id")), (Some("B"), Some("x")));
        let error = Values::of(&[layer("sasl.mechanisms=A\nsasl.mechanism=B")]).unwrap_err();
        assert!(error.to_string().contains("sasl.mechanisms says something else"), "{error}");
        assert!(Values::of(&[layer("sasl.mechanisms=A\nsasl.mechanism=A")]).is_ok());
        let values = Values::of(&[layer("client.id=x\nclient.rack=r"), layer("client.id=")]).unwrap();
        assert_eq!(values.text("client.id"), None);
    }

    #[test]
    fn what_does_nothing_is_said_once() {
        let text = "acks=1\nclient.id=x\nclient.rack=r\nclientid=q\nmy.own=1\nword=2\nretries=3";
        let values = Values::of(&[layer(text)]).unwrap();
        values.text("client.id");
        let notes = values.notes();
        assert_eq!(
            notes,
            [
                "not used with this security.protocol and sasl.mechanism: client.rack",
                "unknown settings, without effect: clientid (did you mean client.id?), my.own",
                "no client's setting, without effect: test",
                "settings without meaning for bodley: acks, retries",
            ]
        );
    }

    #[test]
    fn types() {
        let values =
            Values::of(&[layer("request.timeout.ms=x1\nclient.id=yes\nretry.backoff.ms=7")]).unwrap();
        assert_eq!(values.millis("retry.backoff.ms", 0..=9), Ok(Some(Duration::from_millis(7))));
        let error = values.number("retry.backoff.ms", 8..=9).unwrap_err();
        assert_eq!(error.to_string(), "test: retry.backoff.ms: write a whole number from 8 to 9");
        assert!(values.number("request.timeout.ms", 0..=9).is_err());
        assert_eq!(values.boolean("client.id").unwrap_err().what, "write one of true, false");
    }

    #[test]
    fn files() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let read = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read_properties(&path, &|name| (name == "V").then(|| " value ".into()))
        };
        let layer =
            read("sasl.password=hunter2  \nsasl.username = ${env:V}\nsasl.username=a", 0o644).unwrap();
        assert_eq!(layer.settings[0].value.expose(), "hunter2");
        assert_eq!(layer.settings[1].value.expose(), "value");
        assert_eq!(layer.notes.len(), 2);
        assert!(layer.notes[0].contains(":3: sasl.username stands on line 2"), "{:?}", layer.notes);
        assert!(layer.notes[1].contains("chmod 600"), "{:?}", layer.notes);
        assert!(read("sasl.password=hunter2", 0o600).unwrap().notes.is_empty());
        assert!(read("sasl.password=${env:V}", 0o644).unwrap().notes.is_empty());
        let error = read("a.b=1\nssl.key.pem=-----BEGIN\nMIIEhunter2+/=", 0o600).unwrap_err().to_string();
        assert!(error.contains(":3: this is no key") && !error.contains("hunter2"), "{error}");
        let error = read("sasl.password=${env:NO}", 0o600).unwrap_err().to_string();
        assert!(error.contains("p:1: sasl.password: ${env:NO}: NO is not set"), "{error}");
        let error = read_properties(Path::new("/no/such"), &|_| None).unwrap_err().to_string();
        assert!(error.starts_with("/no/such can't be read"), "{error}");
    }
}
