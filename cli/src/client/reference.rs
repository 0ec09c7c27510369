//! References in values, `${env:VAR}`, `${file:/path:key}` and `${dir:/path:file}`, as Kafka's own config providers have them (KIP-297,
//! KIP-632, KIP-887).

use std::collections::BTreeMap;
use std::path::Path;

use super::properties::{self, Entry};
use super::values::Env;
use crate::files;

/// What a provider reads.
#[derive(Clone, Copy)]
enum Kind {
    Env,
    File,
    Directory,
}

/// Providers by name. `env`, `file` and `dir` are there without being declared.
pub struct Providers(BTreeMap<String, Kind>);

/// Keys that declare providers begin so.
pub const DECLARED_BY: &str = "config.providers";

impl Providers {
    /// Those that `config.providers` and `config.providers.NAME.class` declare. The error comes with its entry.
    pub fn declared(entries: &[Entry]) -> Result<Self, (&Entry, String)> {
        let usual = [("env", Kind::Env), ("file", Kind::File), ("dir", Kind::Directory)];
        let mut providers: BTreeMap<String, Kind> =
            usual.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        for entry in entries {
            let Some(rest) = entry.key.strip_prefix("config.providers.") else { continue };
            let Some(name) = rest.strip_suffix(".class") else {
                return Err((entry, "not supported: bodley's providers have no parameters".to_owned()));
            };
            let kind = match entry.value.trim().rsplit('.').next() {
                Some("EnvVarConfigProvider") => Kind::Env,
                Some("FileConfigProvider") => Kind::File,
                Some("DirectoryConfigProvider") => Kind::Directory,
                _ => {
                    let classes = "EnvVarConfigProvider, FileConfigProvider or DirectoryConfigProvider";
                    return Err((entry, format!("not supported: name Kafka's {classes}")));
                }
            };
            providers.insert(name.to_owned(), kind);
        }
        for entry in entries.iter().filter(|entry| entry.key == DECLARED_BY) {
            let mut names = entry.value.split(',').map(str::trim).filter(|name| !name.is_empty());
            if let Some(name) = names.find(|name| !providers.contains_key(*name)) {
                return Err((entry, format!("`{name}` has no class: add {DECLARED_BY}.{name}.class")));
            }
        }
        Ok(Self(providers))
    }

    /// `value` with all its references replaced; `None` where there are none. What comes in their place is not looked at again.
    pub fn resolve(&self, value: &str, env: Env<'_>) -> Result<Option<String>, String> {
        let (mut out, mut rest, mut found) = (String::new(), value, false);
        while let Some((before, after)) = rest.split_once("${") {
            let Some((inside, behind)) = after.split_once('}').filter(|(inside, _)| inside.contains(':'))
            else {
                out.push_str(before);
                out.push_str("${");
                rest = after;
                continue;
            };
            out.push_str(before);
            out.push_str(&self.one(inside, env)?);
            (rest, found) = (behind, true);
        }
        out.push_str(rest);
        Ok(found.then_some(out))
    }

    fn one(&self, inside: &str, env: Env<'_>) -> Result<String, String> {
        let (name, what) = inside.split_once(':').unwrap_or((inside, ""));
        let shown = format!("${{{inside}}}");
        let Some(kind) = self.0.get(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            // What merely looks like a reference may be part of a password.
            return Err(format!("holds a reference to no known provider (known: {})", known.join(", ")));
        };
        match (kind, what.split_once(':')) {
            (Kind::Env, None) => {
                env(what).ok_or_else(|| format!("{shown}: {what} is not set in the environment"))
            }
            (Kind::Env, Some(_)) => Err(format!("{shown}: write ${{{name}:VARIABLE}}")),
            (Kind::File, Some((path, key))) => {
                let text = files::text(Path::new(path)).map_err(|e| format!("{shown}: {path} {e}"))?;
                let entries = properties::parse(&text).map_err(|e| format!("{shown}: {path}: {e}"))?;
                let entry = entries.into_iter().rev().find(|entry| entry.key == key);
                entry.map(|entry| entry.value).ok_or_else(|| format!("{shown}: {path} has no key `{key}`"))
            }
            (Kind::Directory, Some((path, file))) => {
                if file.contains('/') || file.is_empty() || file == ".." {
                    return Err(format!("{shown}: name a file of the folder behind the last colon"));
                }
                let path = Path::new(path).join(file);
                let text = files::text(&path).map_err(|e| format!("{shown}: {} {e}", path.display()))?;
                Ok(files::without_last_newline(text))
            }
            (Kind::File, None) => Err(format!("{shown}: write ${{{name}:/path/to/file:key}}")),
            (Kind::Directory, None) => Err(format!("{shown}: write ${{{name}:/path/to/folder:file}}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn providers(text: &str) -> Result<Providers, String> {
        let entries = properties::parse(text).unwrap();
        Providers::declared(&entries).map_err(|(entry, what)| format!("{}: {what}", entry.key))
    }

    fn environment(name: &str) -> Option<String> {
        (name == "WORD").then(|| "open ${env:WORD}".to_owned())
    }

    #[test]
    fn references() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        std::fs::write(folder.path().join("p"), "user=a\nword = s\\u00e4same\n").unwrap();
        std::fs::write(folder.path().join("q"), "line\n").unwrap();
        let text = "config.providers=e,secrets\nconfig.providers.e.class=org.apache.kafka.common.config.provider.EnvVarConfigProvider\n\
                    config.providers.secrets.class=x.FileConfigProvider";
        let providers = providers(text).unwrap();
        let resolve = |value: &str| providers.resolve(value, &environment);
        assert_eq!(resolve("plain $ {x} ${y} }"), Ok(None));
        assert_eq!(resolve("a ${env:WORD} b").unwrap().unwrap(), "a open ${env:WORD} b");
        assert_eq!(resolve("${e:WORD}").unwrap().unwrap(), "open ${env:WORD}");
        assert_eq!(
            resolve(&format!("${{file:{path}/p:word}}${{secrets:{path}/p:user}}")).unwrap().unwrap(),
            "s\u{e4}samea"
        );
        assert_eq!(resolve(&format!("<${{dir:{path}:q}}>")).unwrap().unwrap(), "<line>");
        for (bad, says) in [
            ("${env:NO}", "NO is not set"),
            ("${env:A:B}", "VARIABLE"),
            ("${file:/no/such:key}", "/no/such can't be read"),
            (&format!("${{file:{path}/p:none}}"), "has no key `none`"),
            ("${file:x}", "/path/to/file:key"),
            ("${dir:/x}", "/path/to/folder:file"),
            (&format!("${{dir:{path}:../p}}"), "behind the last colon"),
            ("${vault:x}", "no known provider (known: dir, e, env, file, secrets)"),
        ] {
            let message = resolve(bad).unwrap_err();
            assert!(message.contains(says), "{bad}: {message}");
        }
    }

    #[test]
    fn declarations() {
        for (text, says) in [
            ("config.providers=vault", "config.providers.vault.class"),
            ("config.providers.a.class=com.example.VaultConfigProvider", "not supported"),
            ("config.providers.env.param.allowlist.pattern=X.*", "no parameters"),
        ] {
            let message = providers(text).err().unwrap();
            assert!(message.contains(says), "{message}");
        }
    }
}
