//! SASL: which mechanism, and whose name and password.

use bodley_io::Secret;
use bodley_io::kafka::security::ScramHash;

use super::aws::{self, AwsIdentity};
use super::jaas::{self, Jaas};
use super::oauth::{self, OAuth};
use super::values::{Setting, SettingError, Values};

/// Who we say we are, before anybody was asked for a token.
#[derive(Debug, Clone)]
pub enum SaslSettings {
    /// PLAIN
    Plain {
        /// Name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// SCRAM-SHA-256, SCRAM-SHA-512
    Scram {
        /// Which of them.
        hash: ScramHash,
        /// Name, or the id of a delegation token.
        username: String,
        /// Password, or the HMAC of a delegation token.
        password: Secret,
        /// They are a delegation token's.
        delegation_token: bool,
    },
    /// OAUTHBEARER
    OAuth(OAuth),
    /// AWS_MSK_IAM
    MskIam(AwsIdentity),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mechanism {
    Plain,
    Scram(ScramHash),
    OAuth,
    MskIam,
}

const MECHANISMS: [(&str, Mechanism); 5] = [
    ("PLAIN", Mechanism::Plain),
    ("SCRAM-SHA-256", Mechanism::Scram(ScramHash::Sha256)),
    ("SCRAM-SHA-512", Mechanism::Scram(ScramHash::Sha512)),
    ("OAUTHBEARER", Mechanism::OAuth),
    ("AWS_MSK_IAM", Mechanism::MskIam),
];

impl Mechanism {
    /// The login module that belongs to it, and the callback handler for the client's side that it may name.
    fn classes(self) -> (&'static str, &'static str) {
        match self {
            Self::Plain => ("PlainLoginModule", "SaslClientCallbackHandler"),
            Self::Scram(_) => ("ScramLoginModule", "SaslClientCallbackHandler"),
            Self::OAuth => ("OAuthBearerLoginModule", "OAuthBearerSaslClientCallbackHandler"),
            Self::MskIam => ("IAMLoginModule", "IAMClientCallbackHandler"),
        }
    }
}

/// `sasl.jaas.config`, parsed.
pub struct Login<'a> {
    rank: usize,
    /// Where it stands.
    pub setting: &'a Setting,
    /// What it says.
    pub jaas: Jaas,
}

impl Login<'_> {
    /// An option, as text.
    pub fn option(&self, name: &str) -> Option<String> {
        self.jaas.options.get(name).map(|value| value.expose().to_owned())
    }

    /// Refuses options that would have no effect. Names are not repeated: they may be a password's tail.
    pub fn only(&self, known: &[&str]) -> Result<(), SettingError> {
        let is_known = |name: &&String| {
            let matches = |known: &&str| known.strip_suffix('*').is_some_and(|head| name.starts_with(head));
            known.contains(&name.as_str()) || known.iter().any(matches)
        };
        match self.jaas.options.keys().all(|name| is_known(&name)) {
            true => Ok(()),
            false => {
                let list = known.join(", ");
                Err(self.setting.error(format!("has an option that is not supported here (known: {list})")))
            }
        }
    }
}

/// What the mechanism needs.
pub fn settings(values: &Values, notes: &mut Vec<String>) -> Result<SaslSettings, SettingError> {
    let mechanism = mechanism(values)?;
    let login = login(values, mechanism)?;
    match mechanism {
        Mechanism::OAuth => oauth::settings(values, login.as_ref(), notes).map(SaslSettings::OAuth),
        Mechanism::MskIam => aws::identity(login.as_ref(), &[], notes).map(SaslSettings::MskIam),
        Mechanism::Plain => {
            let (username, password) = credentials(values, login.as_ref(), &[])?;
            Ok(SaslSettings::Plain { username, password })
        }
        Mechanism::Scram(hash) => {
            let (username, password) = credentials(values, login.as_ref(), &["tokenauth"])?;
            let tokenauth = login.as_ref().and_then(|login| login.option("tokenauth"));
            let delegation_token = tokenauth.is_some_and(|value| value.eq_ignore_ascii_case("true"));
            Ok(SaslSettings::Scram { hash, username, password, delegation_token })
        }
    }
}

fn mechanism(values: &Values) -> Result<Mechanism, SettingError> {
    let names = MECHANISMS.map(|(name, _)| name).join(", ");
    let Some(setting) = values.get("sasl.mechanism") else {
        let what = format!(
            "not set, and Kafka's default, GSSAPI (Kerberos), is not supported: set it to one of {names}"
        );
        return Err(Values::missing("sasl.mechanism", what));
    };
    if setting.value.expose().eq_ignore_ascii_case("GSSAPI") {
        return Err(setting.error(format!("GSSAPI (Kerberos) is not supported: write one of {names}")));
    }
    let mechanism = values.choice("sasl.mechanism", &MECHANISMS)?;
    mechanism.ok_or_else(|| setting.error(format!("write one of {names}")))
}

/// The login module, which must be the mechanism's.
fn login(values: &Values, mechanism: Mechanism) -> Result<Option<Login<'_>>, SettingError> {
    let (module, handler) = mechanism.classes();
    if let Some(setting) = values.get("sasl.client.callback.handler.class")
        && setting.value.expose().rsplit(['.', '$']).next() != Some(handler)
    {
        return Err(
            setting.error(format!("not supported with this sasl.mechanism: write {handler} or leave it out"))
        );
    }
    let Some((rank, setting)) = values.ranked("sasl.jaas.config") else { return Ok(None) };
    if setting.value.expose().is_empty() {
        return Ok(None);
    }
    let jaas = jaas::parse(setting.value.expose()).map_err(|what| setting.error(what))?;
    if jaas.module == "Krb5LoginModule" {
        return Err(setting.error("Krb5LoginModule is not supported: GSSAPI (Kerberos) is not"));
    }
    if jaas.module != module {
        return Err(setting.error(format!("this sasl.mechanism needs the login module {module}")));
    }
    Ok(Some(Login { rank, setting, jaas }))
}

/// A value that a key or an option of the login module may give: the one of the later layer.
pub fn either(
    values: &Values,
    login: Option<&Login<'_>>,
    key: &'static str,
    option: &str,
) -> Result<Option<Secret>, SettingError> {
    let by_key = values.ranked(key).filter(|(_, setting)| !setting.value.expose().is_empty());
    let by_login = login.and_then(|login| Some((login.rank, login.jaas.options.get(option)?)));
    match (by_key, by_login) {
        (Some((one, setting)), Some((other, value))) if one == other && setting.value != *value => {
            Err(setting.error(format!("sasl.jaas.config says something else in `{option}`: leave one")))
        }
        (Some((one, _)), Some((other, value))) if other > one => Ok(Some(value.clone())),
        (Some((_, setting)), _) => Ok(Some(setting.value.clone())),
        (None, Some((_, value))) => Ok(Some(value.clone())),
        (None, None) => Ok(None),
    }
}

fn credentials(
    values: &Values,
    login: Option<&Login<'_>>,
    more: &[&str],
) -> Result<(String, Secret), SettingError> {
    if let Some(login) = login {
        // The last are users of a broker that shares the string.
        login.only(&[&["username", "password"], more, &["user_*"]].concat())?;
    }
    let missing = |key, variable| {
        Values::missing(
            key,
            format!("not set: set it, or sasl.jaas.config, or {variable} in the environment"),
        )
    };
    let username = either(values, login, "sasl.username", "username")?;
    let username = username.ok_or_else(|| missing("sasl.username", "BODLEY_SASL_USERNAME"))?;
    let password = either(values, login, "sasl.password", "password")?;
    let password = password.ok_or_else(|| missing("sasl.password", "BODLEY_SASL_PASSWORD"))?;
    Ok((username.expose().to_owned(), password))
}
