//! OAUTHBEARER: where tokens come from (KIP-768, KIP-1139, librdkafka's `oidc`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bodley_io::Secret;
use bodley_io::kafka::security::Trust;

use super::aws::{self, AwsIdentity};
use super::pem;
use super::sasl::{Login, either};
use super::tls;
use super::values::{Layer, Setting, SettingError, Values};

/// How tokens are got.
#[derive(Debug, Clone)]
pub struct OAuth {
    /// From where.
    pub source: TokenSource,
    /// SASL extensions by name.
    pub extensions: BTreeMap<String, String>,
}

/// Where tokens come from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// An identity provider gives them for a client's id and secret.
    ClientCredentials(Box<ClientCredentials>),
    /// A file holds one; others renew it.
    TokenFile(PathBuf),
    /// They are made of AWS credentials (aws-msk-iam-auth's IAMOAuthBearerLoginCallbackHandler).
    AwsIam(AwsIdentity),
}

/// OAuth 2.0, grant type client_credentials.
#[derive(Debug, Clone)]
pub struct ClientCredentials {
    /// https://…, or http://… on this machine.
    pub endpoint: String,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// What is asked for.
    pub scope: Option<String>,
    /// Id and secret are URL-encoded before they go into the Authorization header.
    pub urlencode_header: bool,
    /// Whose certificates are good, at the endpoint.
    pub trust: Trust,
    /// For a connection; `None`: the usual.
    pub connect_timeout: Option<Duration>,
    /// For an answer; `None`: the usual.
    pub read_timeout: Option<Duration>,
    /// The first pause between tries, and the time for all of them together.
    pub retry_backoff: (Duration, Duration),
    /// When a new token is got before the old one ends.
    pub refresh: Refresh,
}

/// When a token is renewed.
#[derive(Debug, Clone, PartialEq)]
pub struct Refresh {
    /// After this share of its life, 0.5 to 1.0.
    pub window_factor: f64,
    /// At least so long before its end.
    pub buffer: Duration,
}

const URL: &str = "sasl.oauthbearer.token.endpoint.url";
const HOUR: i64 = 3_600_000;

/// What OAUTHBEARER needs.
pub fn settings(
    values: &Values,
    login: Option<&Login<'_>>,
    notes: &mut Vec<String>,
) -> Result<OAuth, SettingError> {
    let source = match handler(values)? {
        Handler::Aws => TokenSource::AwsIam(aws::identity(login, &["extension_*"], notes)?),
        Handler::Usual => by_url(values, login)?,
    };
    Ok(OAuth { source, extensions: extensions(values, login)? })
}

enum Handler {
    Usual,
    Aws,
}

fn handler(values: &Values) -> Result<Handler, SettingError> {
    let Some(setting) = values.get("sasl.login.callback.handler.class") else { return Ok(Handler::Usual) };
    match setting.value.expose().rsplit('.').next() {
        Some("OAuthBearerLoginCallbackHandler") => Ok(Handler::Usual),
        Some("IAMOAuthBearerLoginCallbackHandler") => Ok(Handler::Aws),
        Some("OAuthBearerUnsecuredLoginCallbackHandler") => Err(setting.error("unsecured tokens are not supported")),
        _ => Err(setting.error(
            "not supported: write org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler \
             or software.amazon.msk.auth.iam.IAMOAuthBearerLoginCallbackHandler",
        )),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Retriever {
    ByUrl,
    ClientCredentials,
    File,
}

fn retriever(values: &Values) -> Result<Retriever, SettingError> {
    let Some(setting) = values.get("sasl.oauthbearer.jwt.retriever.class") else {
        return Ok(Retriever::ByUrl);
    };
    match setting.value.expose().rsplit('.').next() {
        Some("DefaultJwtRetriever") => Ok(Retriever::ByUrl),
        Some("ClientCredentialsJwtRetriever") => Ok(Retriever::ClientCredentials),
        Some("FileJwtRetriever") => Ok(Retriever::File),
        _ => Err(setting.error(
            "not supported: write DefaultJwtRetriever, ClientCredentialsJwtRetriever or FileJwtRetriever",
        )),
    }
}

fn by_url(values: &Values, login: Option<&Login<'_>>) -> Result<TokenSource, SettingError> {
    if values.choice("sasl.oauthbearer.method", &[("oidc", true), ("default", false)])? == Some(false) {
        let what = "only oidc is supported: default leaves tokens to a program's callback";
        return Err(values
            .get("sasl.oauthbearer.method")
            .map_or_else(|| Values::missing(URL, what), |s| s.error(what)));
    }
    let Some(setting) = values.get(URL) else {
        return Err(Values::missing(
            URL,
            "not set: name the identity provider's endpoint (https://…) or a token file (file:///…); for AWS set \
             sasl.login.callback.handler.class to IAMOAuthBearerLoginCallbackHandler",
        ));
    };
    let url = setting.value.expose();
    match (retriever(values)?, url.split_once("://")) {
        (Retriever::ByUrl | Retriever::File, Some(("file", path))) if path.starts_with('/') => {
            if let Some(login) = login {
                login.only(&["extension_*"])?;
            }
            Ok(TokenSource::TokenFile(PathBuf::from(path)))
        }
        (Retriever::ByUrl | Retriever::ClientCredentials, Some((scheme @ ("https" | "http"), rest))) => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if host.contains('@') {
                return Err(
                    setting.error("user and password are not part of it: set the client's id and secret")
                );
            }
            if host.is_empty() {
                return Err(setting.error("names no host"));
            }
            if scheme == "http" && !is_here(host) {
                return Err(
                    setting.error("over http:// anybody on the way can read the secret: write https://…")
                );
            }
            let credentials = client_credentials(values, login, setting)?;
            Ok(TokenSource::ClientCredentials(Box::new(credentials)))
        }
        (Retriever::File, Some(_)) => Err(setting.error("FileJwtRetriever needs file:///absolute/path")),
        (Retriever::ClientCredentials, Some(_)) => {
            Err(setting.error("ClientCredentialsJwtRetriever needs https://…"))
        }
        _ => Err(setting.error("write https://… or file:///absolute/path")),
    }
}

/// This machine, by name or address, whatever the port.
fn is_here(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn client_credentials(
    values: &Values,
    login: Option<&Login<'_>>,
    endpoint: &Setting,
) -> Result<ClientCredentials, SettingError> {
    const ID: &str = "sasl.oauthbearer.client.credentials.client.id";
    const SECRET: &str = "sasl.oauthbearer.client.credentials.client.secret";
    if let Some(login) = login {
        login.only(&[&["clientId", "clientSecret", "scope", "extension_*"], &TRUSTSTORE[..]].concat())?;
    }
    let missing = |key, or| Values::missing(key, format!("not set: set it, or {or}"));
    let client_id = either(values, login, ID, "clientId")?;
    let client_secret = either(values, login, SECRET, "clientSecret")?;
    let scope = either(values, login, "sasl.oauthbearer.scope", "scope")?;
    let variable =
        "clientSecret in sasl.jaas.config, or BODLEY_SASL_OAUTHBEARER_CLIENT_SECRET in the environment";
    let millis = |name, usual: u64| -> Result<Duration, SettingError> {
        Ok(values.millis(name, 1..=HOUR)?.unwrap_or(Duration::from_millis(usual)))
    };
    let (first, most) =
        (millis("sasl.login.retry.backoff.ms", 100)?, millis("sasl.login.retry.backoff.max.ms", 10_000)?);
    Ok(ClientCredentials {
        endpoint: endpoint.value.expose().to_owned(),
        client_id: client_id
            .map(|id| id.expose().to_owned())
            .ok_or_else(|| missing(ID, "clientId in sasl.jaas.config"))?,
        client_secret: client_secret.ok_or_else(|| missing(SECRET, variable))?,
        scope: scope.map(|scope| scope.expose().to_owned()).filter(|scope| !scope.is_empty()),
        urlencode_header: values.boolean("sasl.oauthbearer.header.urlencode")?.unwrap_or(false),
        trust: trust(values, login)?,
        connect_timeout: values.millis("sasl.login.connect.timeout.ms", 1..=HOUR)?,
        read_timeout: values.millis("sasl.login.read.timeout.ms", 1..=HOUR)?,
        retry_backoff: (first, most),
        refresh: refresh(values)?,
    })
}

/// The endpoint's certificates have nothing to do with the brokers'.
fn trust(values: &Values, login: Option<&Login<'_>>) -> Result<Trust, SettingError> {
    let twice = |setting: &Setting, other: &str| {
        Err(setting.error(format!("{other} says the same in another way: leave one")))
    };
    let store = login.and_then(truststore);
    match (values.path("https.ca.location"), values.get("https.ca.pem"), store) {
        (None, None, None) => Ok(Trust::System),
        (None, None, Some(store)) => tls::trust(&Values::of(&[store])?),
        (Some((setting, path)), None, None) => tls::ca_location(setting, &path),
        (None, Some(setting), None) => Ok(Trust::Pem(pem::inline(setting)?)),
        (Some((setting, _)), Some(_), _) => twice(setting, "https.ca.pem"),
        (Some((setting, _)), None, _) | (None, Some(setting), _) => twice(setting, "sasl.jaas.config"),
    }
}

/// Options of the login module that Kafka's clients take for the endpoint, named as the settings for brokers are.
const TRUSTSTORE: [&str; 4] = [
    "ssl.truststore.location",
    "ssl.truststore.password",
    "ssl.truststore.type",
    "ssl.truststore.certificates",
];

fn truststore(login: &Login<'_>) -> Option<Layer> {
    let origin = format!("{}: {}", login.setting.origin, login.setting.key);
    let setting = |key: &&str| {
        let value = login.jaas.options.get(*key)?.clone();
        Some(Setting { key: (*key).to_owned(), value, origin: origin.clone() })
    };
    let settings: Vec<Setting> = TRUSTSTORE.iter().filter_map(setting).collect();
    (!settings.is_empty()).then(|| Layer { settings, notes: Vec::new() })
}

fn refresh(values: &Values) -> Result<Refresh, SettingError> {
    let buffer = values.number("sasl.login.refresh.buffer.seconds", 0..=3600)?.unwrap_or(300);
    let buffer = Duration::from_secs(buffer.unsigned_abs());
    Ok(Refresh { window_factor: window_factor(values)?.unwrap_or(0.8), buffer })
}

fn window_factor(values: &Values) -> Result<Option<f64>, SettingError> {
    let Some(setting) = values.get("sasl.login.refresh.window.factor") else { return Ok(None) };
    let factor = setting.value.expose().parse().ok().filter(|factor| (0.5..=1.0).contains(factor));
    factor.map(Some).ok_or_else(|| setting.error("write a number from 0.5 to 1.0"))
}

/// Those of the login module, and librdkafka's list `k=v,k=v`.
fn extensions(values: &Values, login: Option<&Login<'_>>) -> Result<BTreeMap<String, String>, SettingError> {
    let mut extensions = BTreeMap::new();
    if let Some(login) = login {
        for (option, value) in &login.jaas.options {
            let Some(name) = option.strip_prefix("extension_") else { continue };
            add(&mut extensions, login.setting, (name, value.expose()))?;
        }
    }
    if let Some(setting) = values.get("sasl.oauthbearer.extensions") {
        for pair in setting.value.expose().split(',') {
            let pair =
                pair.trim().split_once('=').ok_or_else(|| setting.error("write NAME=VALUE,NAME=VALUE"))?;
            add(&mut extensions, setting, pair)?;
        }
    }
    Ok(extensions)
}

/// RFC 7628 and KIP-342: letters only, and `auth` is taken.
fn add(
    extensions: &mut BTreeMap<String, String>,
    setting: &Setting,
    (name, value): (&str, &str),
) -> Result<(), SettingError> {
    let good_name = !name.is_empty() && name != "auth" && name.bytes().all(|b| b.is_ascii_alphabetic());
    let good_value = value.bytes().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    if !good_name || !good_value {
        return Err(
            setting.error("an extension's name has only letters and is not `auth`, its value is ASCII")
        );
    }
    extensions.insert(name.to_owned(), value.to_owned());
    Ok(())
}
