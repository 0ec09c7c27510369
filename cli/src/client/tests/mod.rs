//! Whole files, every key, and no secret anywhere.

mod every_key;
mod examples;
mod secrets;

use std::fmt::Write as _;

use super::sasl::SaslSettings;
use super::values::Values;
use super::*;
use crate::client::oauth::{ClientCredentials, TokenSource};
use bodley_io::kafka::security::{Identity, Material, Trust};

/// A layer of `key=value` lines.
pub fn layer(text: &str) -> Layer {
    let setting = |line: &str| {
        let (key, value) = line.split_once('=').unwrap();
        Setting { key: key.into(), value: Secret::new(value), origin: "test".into() }
    };
    Layer { settings: text.lines().map(setting).collect(), notes: Vec::new() }
}

pub fn values(text: &str) -> Values {
    Values::of(&[layer(text)]).unwrap()
}

pub fn of(text: &str) -> Result<ClientSettings, SettingError> {
    settings(&[layer(text)])
}

/// Everything in a few lines, secrets included. What is as ever is left out.
pub fn shown(settings: &ClientSettings) -> String {
    let mut out = String::new();
    let usual = ClientOptions::default();
    if let Some(bootstrap) = &settings.bootstrap {
        writeln!(out, "bootstrap {bootstrap}").unwrap();
    }
    if format!("{:?}", settings.options) != format!("{usual:?}") {
        writeln!(out, "{:?}", settings.options).unwrap();
    }
    if let Some(tls) = &settings.tls {
        let trust = show_trust(&tls.trust);
        writeln!(out, "tls trust={trust} {:?} {:?} {:?}", tls.verify, tls.versions, tls.ciphers).unwrap();
        if let Some(identity) = &tls.identity {
            writeln!(out, "identity {}", show_identity(identity)).unwrap();
        }
    }
    if let Some(sasl) = &settings.sasl {
        writeln!(out, "{}", show_sasl(sasl)).unwrap();
    }
    for note in &settings.notes {
        writeln!(out, "note {note}").unwrap();
    }
    out
}

/// Files that the tests' settings name as `{dir}/…`.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pem = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
    for (name, text) in [
        ("ca.pem", pem("CERTIFICATE")),
        ("service.cert", pem("CERTIFICATE")),
        ("service.key", pem("PRIVATE KEY")),
        ("both.pem", pem("PRIVATE KEY") + &pem("CERTIFICATE")),
        ("trust.jks", "JKS".into()),
        ("trust.p12", "P12".into()),
        ("key.p12", "KEY".into()),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::create_dir(folder.path().join("cas")).unwrap();
    std::fs::write(folder.path().join("cas/1.pem"), pem("CERTIFICATE")).unwrap();
    std::fs::write(folder.path().join("cas/README"), "no certificate").unwrap();
    folder
}

/// Settings as a file would have them, with `{dir}` filled in.
pub fn in_folder(folder: &tempfile::TempDir, text: &str) -> Result<ClientSettings, SettingError> {
    let path = folder.path().join("client.properties");
    std::fs::write(&path, text.replace("{dir}", &folder.path().display().to_string())).unwrap();
    let env = |name: &str| (name == "SECRET").then(|| "from-env".to_owned());
    let layer = read_properties(&path, &env)?;
    settings(&[Layer { notes: Vec::new(), ..layer }])
}

fn secret(secret: &Option<Secret>) -> &str {
    secret.as_ref().map_or("-", Secret::expose)
}

fn material(material: &Material) -> String {
    let name = material.source.rsplit('/').next().unwrap();
    format!("{name}[{}]", String::from_utf8_lossy(&material.bytes).trim())
}

fn show_trust(trust: &Trust) -> String {
    match trust {
        Trust::System => "system".into(),
        Trust::Pem(one) => format!("pem {}", material(one)),
        Trust::Store(store, password) => format!("store {} {}", material(store), secret(password)),
    }
}

fn show_identity(identity: &Identity) -> String {
    match identity {
        Identity::Pem { certificates, key, password } => {
            format!("pem {} {} {}", material(certificates), material(key), secret(password))
        }
        Identity::Store { store, password, key_password } => {
            format!("store {} {} {}", material(store), secret(password), secret(key_password))
        }
    }
}

fn show_sasl(sasl: &SaslSettings) -> String {
    match sasl {
        SaslSettings::Plain { username, password } => format!("plain {username} {}", password.expose()),
        SaslSettings::Scram { hash, username, password, delegation_token } => {
            format!("scram {hash:?} {username} {} {delegation_token}", password.expose())
        }
        SaslSettings::MskIam(identity) => format!("{identity:?}"),
        SaslSettings::OAuth(oauth) => {
            let rest = format!("{:?}", oauth.extensions);
            match &oauth.source {
                TokenSource::ClientCredentials(c) => {
                    let ClientCredentials { client_secret, trust, .. } = c.as_ref();
                    let trust = show_trust(trust);
                    let secret = client_secret.expose();
                    let (times, pauses) = ((c.connect_timeout, c.read_timeout), c.retry_backoff);
                    let (id, scope) = (&c.client_id, &c.scope);
                    let urlencode = c.urlencode_header;
                    format!(
                        "oauth {} {id} {secret} {scope:?} {urlencode} trust={trust} {times:?} {pauses:?} {:?} {rest}",
                        c.endpoint, c.refresh
                    )
                }
                source => format!("oauth {source:?} {rest}"),
            }
        }
    }
}

#[test]
fn combinations() {
    for (text, says) in [
        ("security.protocol=TLS", "security.protocol: write one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ("security.protocol=SASL_SSL", "GSSAPI (Kerberos), is not supported: set it to one of PLAIN"),
        ("security.protocol=SASL_SSL\nsasl.mechanism=GSSAPI", "GSSAPI (Kerberos) is not supported"),
        ("security.protocol=SASL_SSL\nsasl.mechanism=SCRAM", "write one of PLAIN, SCRAM-SHA-256"),
        ("security.protocol=SASL_SSL\nsasl.mechanism=PLAIN", "sasl.username: not set"),
        ("security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=u", "BODLEY_SASL_PASSWORD"),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.jaas.config=x.ScramLoginModule required;",
            "needs the login module PlainLoginModule",
        ),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required;",
            "Krb5LoginModule is not supported",
        ),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.jaas.config=x.PlainLoginModule required username=a password=b realm=c;",
            "an option that is not supported here (known: username, password, user_*)",
        ),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=x\nsasl.jaas.config=x.PlainLoginModule required username=a password=b;",
            "sasl.username: sasl.jaas.config says something else in `username`",
        ),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.client.callback.handler.class=x.IAMClientCallbackHandler",
            "write SaslClientCallbackHandler or leave it out",
        ),
        ("ssl.crl.location=/x", "ssl.crl.location: not supported: revocation lists are not checked"),
        ("sasl.oauthbearer.assertion.file=/x", "not supported: no assertions are made"),
    ] {
        let message = of(text).unwrap_err().to_string();
        assert!(message.contains(says), "{text}: {message}");
    }
    let fine =
        "ssl.keymanager.algorithm=SunX509\nsasl.oauthbearer.grant.type=client_credentials\nssl.crl.location=";
    assert_eq!(shown(&of(fine).unwrap()), "");
    let aws =
        "security.protocol=SASL_SSL\nsasl.mechanism=AWS_MSK_IAM\nsasl.jaas.config=x.IAMLoginModule required ";
    for (options, says) in [
        ("awsProfileName=a awsRoleArn=b;", "leave one"),
        ("awsRoleSessionName=a;", "need awsRoleArn"),
        ("awsRoleArn=b awsRoleAccessKeyId=c awsRoleSecretAccessKey=hunter2;", "AWS_ACCESS_KEY_ID"),
        ("awsProfile=a;", "known: awsProfileName"),
    ] {
        let message = of(&format!("{aws}{options}")).unwrap_err().to_string();
        assert!(message.contains(says) && !message.contains("hunter2"), "{options}: {message}");
    }
}

#[test]
fn oauth_is_checked() {
    let base = "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n";
    let credentials = "sasl.oauthbearer.client.id=i\nsasl.oauthbearer.client.secret=hunter2\n";
    let url = "sasl.oauthbearer.token.endpoint.url=";
    for (text, says) in [
        (String::new(), "name the identity provider's endpoint"),
        (format!("{url}https://h/t"), "client.id: not set"),
        (format!("{url}https://h/t\nsasl.oauthbearer.client.id=i"), "BODLEY_SASL_OAUTHBEARER_CLIENT_SECRET"),
        (format!("{credentials}{url}ftp://h/t"), "write https://"),
        (format!("{credentials}{url}http://idp.example/t"), "over http:// anybody"),
        (format!("{credentials}{url}http://127.evil.example/t"), "over http:// anybody"),
        (format!("{credentials}{url}https://u:hunter2@h/t"), "user and password are not part of it"),
        (format!("{credentials}{url}https:///t"), "names no host"),
        (format!("{url}file://relative"), "file:///absolute/path"),
        (
            format!("{url}file:///t\nsasl.oauthbearer.jwt.retriever.class=ClientCredentialsJwtRetriever"),
            "needs https",
        ),
        (
            format!("{url}https://h\nsasl.oauthbearer.jwt.retriever.class=a.FileJwtRetriever"),
            "needs file:///",
        ),
        (
            format!("{url}https://h\nsasl.oauthbearer.jwt.retriever.class=a.JwtBearerJwtRetriever"),
            "not supported",
        ),
        ("sasl.oauthbearer.method=default".into(), "only oidc is supported"),
        (
            "sasl.login.callback.handler.class=io.strimzi.JaasClientOauthLoginCallbackHandler".into(),
            "not supported",
        ),
        (
            "sasl.login.callback.handler.class=x.OAuthBearerUnsecuredLoginCallbackHandler".into(),
            "unsecured tokens",
        ),
        (format!("{credentials}{url}https://h\nsasl.oauthbearer.extensions=a1=b"), "only letters"),
        (format!("{credentials}{url}https://h\nsasl.oauthbearer.extensions=auth=b"), "only letters"),
        (format!("{credentials}{url}https://h\nsasl.oauthbearer.extensions=hunter2"), "NAME=VALUE"),
        (format!("{credentials}{url}https://h\nsasl.login.refresh.window.factor=0.4"), "from 0.5 to 1.0"),
    ] {
        let message = of(&format!("{base}{text}")).unwrap_err().to_string();
        assert!(message.contains(says) && !message.contains("hunter2"), "{text}: {message}");
    }
}

#[test]
fn plain_http_stays_on_this_machine() {
    for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:1"] {
        let text = format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.client.id=i\n\
             sasl.oauthbearer.client.secret=s\nsasl.oauthbearer.token.endpoint.url=http://{host}/t"
        );
        assert!(of(&text).unwrap().notes.is_empty(), "{host}");
    }
}

#[test]
fn layers_and_variables() {
    let file = "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-256\nsasl.jaas.config=x.ScramLoginModule required username=file password=file;";
    let sasl = |layers: &[Layer]| show_sasl(&settings(layers).unwrap().sasl.unwrap());
    assert_eq!(sasl(&[layer(file)]), "scram Sha256 file file false");
    let over = layer("sasl.password=toml\nsasl.mechanisms=SCRAM-SHA-512");
    assert_eq!(sasl(&[layer(file), over]), "scram Sha512 file toml false");
    let variables = environment(&|name| match name {
        "BODLEY_SASL_PASSWORD" => Some("env".into()),
        "BODLEY_SASL_USERNAME" => Some(String::new()),
        _ => None,
    });
    let over = layer("sasl.password=toml");
    assert_eq!(sasl(&[layer(file), over, variables]), "scram Sha256 file env false");
    let jaas = layer("sasl.jaas.config=x.ScramLoginModule required username=j password=j tokenauth=true;");
    let low =
        layer("security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-256\nsasl.username=u\nsasl.password=p");
    assert_eq!(sasl(&[low, jaas]), "scram Sha256 j j true");
    for (variable, key) in VARIABLES {
        let layer = environment(&|name| (name == variable).then(|| "x".into()));
        assert_eq!((layer.settings[0].key.as_str(), layer.settings.len()), (key, 1));
    }
}

#[test]
fn providers_are_plugged_in() {
    let mechanism = |text: &str| {
        let ready = connect_options(of(text).unwrap()).unwrap();
        (ready.options.sasl.unwrap().mechanism(), ready.provider.is_some())
    };
    let plain = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=p";
    assert_eq!(mechanism(plain), ("PLAIN", false));
    assert_eq!(mechanism("security.protocol=SASL_SSL\nsasl.mechanism=AWS_MSK_IAM"), ("AWS_MSK_IAM", false));
    let bearer =
        "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.token.endpoint.url=";
    let client = "sasl.oauthbearer.client.id=c\nsasl.oauthbearer.client.secret=s";
    assert_eq!(mechanism(&format!("{bearer}https://id.example/token\n{client}")), ("OAUTHBEARER", true));
    assert_eq!(mechanism(&format!("{bearer}file:///run/token")), ("OAUTHBEARER", false));
}
