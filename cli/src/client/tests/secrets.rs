//! No secret is in an error, a note or what `Debug` prints, whatever stands where.

use super::*;
use crate::client::keys::{HONOURED, SECRETS};

const MARKER: &str = "hunter2";

/// Files for each protocol and mechanism, in which a setting can be put.
const BASES: [&str; 8] = [
    "",
    "security.protocol=SSL\n",
    "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\n",
    "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=u\nsasl.password=hunter2\n",
    "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config=x.ScramLoginModule required username=u password=hunter2;\n",
    "security.protocol=SASL_SSL\nsasl.mechanism=AWS_MSK_IAM\n",
    "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.token.endpoint.url=https://h/t\n\
     sasl.oauthbearer.client.id=i\nsasl.oauthbearer.client.secret=hunter2\n",
    "security.protocol=SSL\nssl.keystore.location={dir}/key.p12\nssl.keystore.password=hunter2\nssl.key.password=hunter2\n\
     ssl.truststore.location={dir}/trust.p12\nssl.truststore.password=hunter2\n",
];

/// Forms in which a secret may stand: alone, in JAAS and PEM, torn or whole, in a list, in a URL, as a reference.
const FORMS: [&str; 12] = [
    "hunter2",
    "x.PlainLoginModule required username=\"u\" password=\"hunter2\";",
    "x.PlainLoginModule required username=\"u\" password=\"hunter2",
    "x.PlainLoginModule required username=\"u\" password=\"a\"hunter2\";",
    "x.OAuthBearerLoginModule required clientSecret='hunter2' clientId=i extension_hunter2=q;",
    "x.IAMLoginModule required awsRoleArn=a awsRoleSecretAccessKey=hunter2;",
    "-----BEGIN PRIVATE KEY----- hunter2 -----END PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY----- hunter2",
    "https://u:hunter2@host/t",
    "a=hunter2,hunter2",
    "TLSv1.2,hunter2",
    "${hunter2:x}",
];

/// Keys that hold what may be shown: a place, a name, a path.
const SHOWN: [&str; 14] = [
    "bootstrap.servers",
    "client.id",
    "client.rack",
    "sasl.username",
    "sasl.oauthbearer.client.credentials.client.id",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.extensions",
    "ssl.truststore.location",
    "ssl.ca.location",
    "ssl.keystore.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "https.ca.location",
    "https.ca.pem",
];

#[test]
fn secrets_stay_secret() {
    let folder = folder();
    for base in BASES {
        let rows = HONOURED.iter().filter(|row| !SHOWN.contains(&row[0]));
        for key in rows.flat_map(|row| row.iter()) {
            for form in FORMS {
                let kept = base.lines().filter(|line| !line.starts_with(&format!("{key}=")));
                let text: String =
                    kept.map(|line| format!("{line}\n")).collect::<String>() + key + "=" + form;
                let said = match in_folder(&folder, &text) {
                    Ok(settings) => format!("{settings:?} {:?}", settings.notes),
                    Err(error) => format!("{error} {error:?}"),
                };
                assert!(!said.contains(MARKER), "{text}\n{said}");
            }
        }
    }
    assert!(SECRETS.iter().all(|key| !SHOWN.contains(key)));
}

#[test]
fn lines_that_went_astray() {
    let folder = folder();
    for text in [
        "hunter2",
        "hunter2=",
        "Hunter2+x=hunter2",
        "hunter2 hunter2",
        "eyJhbGciOi.Hunter2.x",
        "  password=hunter2;",
        "a\\\nhunter2=1",
    ] {
        let said = match in_folder(&folder, text) {
            Ok(settings) => format!("{:?}", settings.notes),
            Err(error) => error.to_string(),
        };
        assert!(
            !said.to_lowercase().contains(MARKER) && said.contains("client.properties:1"),
            "{text}: {said}"
        );
    }
}
