//! How to reach a cluster, as users of Kafka's Java client and of librdkafka write it: keys and values to typed settings.
//!
//! Layers of settings, lowest first: a command-config file, the properties of a named cluster, BODLEY_* variables.

mod aws;
mod connect;
mod jaas;
mod keys;
mod network;
mod oauth;
mod pem;
mod properties;
mod reference;
mod sasl;
mod tls;
mod values;

use std::fmt;

use bodley_io::Secret;
use bodley_io::kafka::ClientOptions;
use bodley_io::kafka::security::TlsOptions;

pub use connect::{Ready, connect_options};
pub use keys::nearest_of;
pub use sasl::SaslSettings;
pub use values::{
    Env, Layer, Setting, SettingError, holds_secret, open_to_others, read_properties, resolve_references,
};

use values::Values;

/// How to reach a cluster.
pub struct ClientSettings {
    /// Brokers to ask first.
    pub bootstrap: Option<String>,
    /// All but TLS and SASL.
    pub options: ClientOptions,
    /// `None`: plain text.
    pub tls: Option<TlsOptions>,
    /// `None`: no authentication beside TLS's.
    pub sasl: Option<SaslSettings>,
    /// Worth knowing, a line each.
    pub notes: Vec<String>,
}

impl fmt::Debug for ClientSettings {
    /// Without TLS, which holds private keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ClientSettings");
        debug.field("bootstrap", &self.bootstrap).field("options", &self.options);
        debug.field("sasl", &self.sasl).field("notes", &self.notes).finish_non_exhaustive()
    }
}

/// `security.protocol`: TLS, SASL.
const PROTOCOLS: [(&str, (bool, bool)); 4] = [
    ("PLAINTEXT", (false, false)),
    ("SSL", (true, false)),
    ("SASL_PLAINTEXT", (false, true)),
    ("SASL_SSL", (true, true)),
];

/// Makes settings of layers, of which later ones win.
pub fn settings(layers: &[Layer]) -> Result<ClientSettings, SettingError> {
    let values = Values::of(layers)?;
    let mut notes: Vec<String> = layers.iter().flat_map(|layer| layer.notes.iter().cloned()).collect();
    let (with_tls, with_sasl) = values.choice("security.protocol", &PROTOCOLS)?.unwrap_or_default();
    let options = network::options(&values)?;
    let tls = if with_tls { Some(tls::options(&values, &mut notes)?) } else { None };
    let sasl = if with_sasl { Some(sasl::settings(&values, &mut notes)?) } else { None };
    match sasl {
        Some(SaslSettings::Plain { .. }) if !with_tls => notes.push(
            "PLAIN without TLS (security.protocol=SASL_PLAINTEXT): anybody on the way can read the password".into(),
        ),
        Some(SaslSettings::OAuth(_)) if !with_tls => notes.push(
            "OAUTHBEARER without TLS (security.protocol=SASL_PLAINTEXT): anybody on the way can use the token".into(),
        ),
        Some(SaslSettings::MskIam(_)) if !with_tls => notes.push(
            "AWS_MSK_IAM without TLS (security.protocol=SASL_PLAINTEXT): anybody on the way can use the signed document for some minutes".into(),
        ),
        _ => {}
    }
    let bootstrap = values.text("bootstrap.servers").map(without_protocols);
    notes.extend(values.notes());
    Ok(ClientSettings { bootstrap, options, tls, sasl, notes })
}

/// Clients accept `SASL_SSL://host:port` and look at security.protocol only.
fn without_protocols(list: &str) -> String {
    let bare = |one: &str| match one.trim().split_once("://") {
        Some((scheme, rest)) if PROTOCOLS.iter().any(|(name, _)| name.eq_ignore_ascii_case(scheme)) => {
            rest.to_owned()
        }
        _ => one.trim().to_owned(),
    };
    list.split(',').map(bare).collect::<Vec<_>>().join(",")
}

/// Variables for secrets, with the keys that they stand for.
const VARIABLES: [(&str, &str); 6] = [
    ("BODLEY_SASL_USERNAME", "sasl.username"),
    ("BODLEY_SASL_PASSWORD", "sasl.password"),
    ("BODLEY_SASL_OAUTHBEARER_CLIENT_SECRET", "sasl.oauthbearer.client.credentials.client.secret"),
    ("BODLEY_SSL_KEY_PASSWORD", "ssl.key.password"),
    ("BODLEY_SSL_KEYSTORE_PASSWORD", "ssl.keystore.password"),
    ("BODLEY_SSL_TRUSTSTORE_PASSWORD", "ssl.truststore.password"),
];

/// The layer of BODLEY_* variables; an empty one is none.
pub fn environment(env: Env<'_>) -> Layer {
    let setting = |(variable, key): (&str, &str)| {
        let value = env(variable).filter(|value| !value.is_empty())?;
        Some(Setting { key: key.to_owned(), value: Secret::new(value), origin: variable.to_owned() })
    };
    Layer { settings: VARIABLES.into_iter().filter_map(setting).collect(), notes: Vec::new() }
}

#[cfg(test)]
mod tests;
