//! `[clusters.NAME]`: where a cluster is and how to reach it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bodley_io::Secret;
use toml::{Table, Value};

use super::source::{self, Source};
use super::{Config, beside, meant};
use crate::client::{Env, Layer, Setting, holds_secret, open_to_others, resolve_references};
use crate::files;

const KEYS: [&str; 3] = ["bootstrap-server", "command-config", "properties"];

/// The clusters of the file of `--config`, if there is one.
#[derive(Clone, Default)]
pub struct Clusters(Option<Arc<Config>>);

impl fmt::Debug for Clusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clusters")
    }
}

/// A cluster that was asked for.
pub struct Named {
    /// A file of properties.
    pub command_config: Option<PathBuf>,
    /// Its own properties.
    pub layer: Layer,
}

impl Clusters {
    /// Checks the keys of all clusters; values are looked at when they are needed.
    pub(super) fn of(config: Config) -> Result<Self, String> {
        let clusters = config.section(&["clusters"])?;
        for name in clusters.keys() {
            let part = format!("[clusters.{name}]");
            let Some(Value::Table(table)) = clusters.get(name) else {
                return Err(config.error(&part, "this is a section"));
            };
            if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
                let meant = meant(key, &KEYS);
                return Err(config.error(&part, &format!("`{key}` is unknown ({meant})")));
            }
        }
        Ok(Self(Some(Arc::new(config))))
    }

    /// The settings of a cluster.
    pub fn named(&self, name: &str, env: Env<'_>) -> Result<Named, String> {
        let Some(config) = &self.0 else {
            return Err(format!(
                "--cluster {name}: there are no clusters: say --config FILE, or set BODLEY_CONFIG"
            ));
        };
        let clusters = config.section(&["clusters"])?;
        let Some(Value::Table(table)) = clusters.get(name) else {
            let meant = meant(name, &clusters.keys().map(String::as_str).collect::<Vec<_>>());
            return Err(
                config.error(&format!("[clusters.{name}]"), &format!("there is no such cluster ({meant})"))
            );
        };
        let part = format!("[clusters.{name}]");
        let text = |key| match table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(config.error(&part, &format!("{key}: write a text in quotes"))),
        };
        let mut layer = Layer::default();
        if let Some(servers) = text("bootstrap-server")? {
            let origin = format!("{}: {part}", config.path.display());
            layer.settings.push(Setting { key: SERVERS.into(), value: Secret::new(servers), origin });
        }
        match table.get("properties") {
            None => {}
            Some(Value::Table(properties)) => add_properties(config, &part, properties, env, &mut layer)?,
            Some(_) => return Err(config.error(&part, "properties: write { \"KEY\" = \"VALUE\", … }")),
        }
        if layer.settings.iter().filter(|setting| setting.key == SERVERS).count() > 1 {
            return Err(config.error(&part, "bootstrap-server and bootstrap.servers say the same: leave one"));
        }
        let command_config = text("command-config")?.map(|path| beside(&config.path, path));
        Ok(Named { command_config, layer })
    }
}

const SERVERS: &str = "bootstrap.servers";

fn add_properties(
    config: &Config,
    part: &str,
    properties: &Table,
    env: Env<'_>,
    layer: &mut Layer,
) -> Result<(), String> {
    let mut flat = Vec::new();
    flatten(properties, "", &mut flat)?;
    let folder = beside(&config.path, "");
    let (mut literals, mut secret_inside) = (Vec::new(), false);
    for (key, value) in flat {
        let origin = format!("{}: {part} properties", config.path.display());
        match Source::of(value) {
            Some(Source::Literal(text)) => {
                literals.push(Setting { key, value: Secret::new(text), origin });
            }
            Some(Source::Elsewhere(kind, what)) => {
                let value =
                    source::get(kind, what, &folder, env).map_err(|e| format!("{origin}: {key}: {e}"))?;
                layer.settings.push(Setting { key, value: Secret::new(value), origin });
            }
            None => {
                let forms =
                    "write \"text\", { env = \"VARIABLE\" }, { file = \"PATH\" } or { command = \"…\" }";
                return Err(format!("{origin}: {key}: {forms}"));
            }
        }
    }
    for (setting, replaced) in resolve_references(literals, env).map_err(|e| e.to_string())? {
        secret_inside |= !replaced && holds_secret(&setting.key, setting.value.expose());
        layer.settings.push(setting);
    }
    if secret_inside && files::readable_by_others(&config.path) {
        layer.notes.push(open_to_others(&config.path.display().to_string()));
    }
    Ok(())
}

/// `security.protocol = "SSL"` without quotes around the key is a table in a table for TOML.
fn flatten<'a>(table: &'a Table, before: &str, out: &mut Vec<(String, &'a Value)>) -> Result<(), String> {
    for (name, value) in table {
        let key = if before.is_empty() { name.clone() } else { format!("{before}.{name}") };
        match value {
            Value::Table(inner) if Source::of(value).is_none() && !inner.is_empty() => {
                flatten(inner, &key, out)?
            }
            _ => out.push((key, value)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn named(text: &str, name: &str) -> Result<Named, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        std::fs::write(folder.path().join("word"), "from-file\n").unwrap();
        let env = |name: &str| (name == "V").then(|| "from-env".to_owned());
        Clusters::of(Config::read(path)?)?.named(name, &env)
    }

    #[test]
    fn all_of_a_cluster() {
        let text = r#"
            [clusters.prod]
            bootstrap-server = "b1:9093"
            command-config = "prod.properties"
            [clusters.prod.properties]
            security.protocol = "SASL_SSL"
            "sasl.password" = { env = "V" }
            "ssl.key.password" = { file = "word" }
            ssl.truststore.password = { command = "echo from-command" }
            "request.timeout.ms" = 5000
            "ssl.keystore.password" = "a${env:V}b"
            "client.id" = "c"
            "#;
        let named = named(text, "prod").unwrap();
        assert!(named.command_config.unwrap().ends_with("prod.properties"));
        let found: Vec<(&str, &str)> =
            named.layer.settings.iter().map(|s| (s.key.as_str(), s.value.expose())).collect();
        for pair in [
            ("bootstrap.servers", "b1:9093"),
            ("security.protocol", "SASL_SSL"),
            ("sasl.password", "from-env"),
            ("ssl.key.password", "from-file"),
            ("ssl.truststore.password", "from-command"),
            ("request.timeout.ms", "5000"),
            ("ssl.keystore.password", "afrom-envb"),
            ("client.id", "c"),
        ] {
            assert!(found.contains(&pair), "{pair:?}");
        }
        assert_eq!((found.len(), named.layer.notes.len()), (8, 0));
    }

    #[test]
    fn a_secret_for_all_to_see() {
        let text = "[clusters.a]\nproperties = { \"sasl.password\" = \"hunter2\" }";
        let notes = named(text, "a").unwrap().layer.notes;
        assert!(notes[0].contains("chmod 600") && !notes[0].contains("hunter2"), "{notes:?}");
    }

    #[test]
    fn what_is_wrong() {
        for (text, says) in [
            ("[clusters.prod]\nbootstrap-servers = \"x\"", "did you mean bootstrap-server?"),
            ("[clusters]\nprod = 1", "this is a section"),
            ("[clusters.prot]", "there is no such cluster (did you mean prot?)"),
            ("[clusters.x]", "known: x"),
            (
                "[clusters.prod]\nbootstrap-server = 'a:1'\nproperties = { 'bootstrap.servers' = 'b:1' }",
                "bootstrap-server and bootstrap.servers say the same",
            ),
            ("[clusters.prod]\ncommand-config = 1", "command-config: write a text"),
            ("[clusters.prod]\nproperties = \"x\"", "properties: write {"),
            ("[clusters.prod]\nproperties = { \"a.b\" = [\"hunter2\"] }", "a.b: write \"text\""),
            (
                "[clusters.prod]\nproperties = { \"sasl.password\" = { env = \"NO\" } }",
                "sasl.password: NO is not set",
            ),
            (
                "[clusters.prod]\nproperties = { \"sasl.password\" = \"${env:NO}\" }",
                "sasl.password: ${env:NO}",
            ),
            ("[clusters.prod]\nx = \"hunter2", "c.toml:2: this is no TOML"),
        ] {
            let message = named(text, "prod").err().unwrap();
            assert!(message.contains(says) && !message.contains("hunter2"), "{text}: {message}");
        }
        assert!(Clusters::default().named("a", &|_| None).err().unwrap().contains("--config FILE"));
    }
}
