//! What a client sends: a JSON document with the parts of a presigned request (AWS Signature Version 4, query form) of
//! `kafka-cluster:Connect`. <https://github.com/aws/aws-msk-iam-auth> describes it.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::{Admission, AwsCredentials, REGION, SKEW};

const VERSION: &str = "2020_10_22";
const ACTION: &str = "kafka-cluster:Connect";
const SERVICE: &str = "kafka-cluster";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const LONGEST: u64 = 900;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Document {
    version: String,
    host: String,
    user_agent: String,
    action: String,
    x_amz_algorithm: String,
    x_amz_credential: String,
    x_amz_date: String,
    x_amz_security_token: Option<String>,
    x_amz_signedheaders: String,
    x_amz_expires: String,
    x_amz_signature: String,
}

impl Document {
    pub(super) fn admission(self, again: bool) -> Admission {
        let access_key_id = self.x_amz_credential.split('/').next().unwrap_or_default().to_owned();
        Admission { access_key_id, user_agent: self.user_agent, host: self.host, again }
    }
}

/// The document and the end of its credentials, or what is wrong.
pub(super) fn judge(
    token: &[u8],
    known: &[AwsCredentials],
    now: SystemTime,
) -> Result<(Document, Option<SystemTime>), String> {
    let document: Document = serde_json::from_slice(token).map_err(|e| format!("no such document: {e}"))?;
    constants(&document)?;
    let (signed, expires) = times(&document, now)?;
    let key = scope(&document)?;
    let credentials = known.iter().find(|c| c.access_key_id == key);
    let credentials = credentials.ok_or_else(|| format!("access key {key:?} is not known"))?;
    if document.x_amz_security_token != credentials.session_token {
        return Err("the security token is not that of the access key".to_owned());
    }
    if credentials.expires.is_some_and(|end| end <= now) {
        return Err(format!("the credentials of {key:?} have expired"));
    }
    let expected = signature(&document, credentials, signed, expires).map_err(|e| e.to_string())?;
    if document.x_amz_signature != expected {
        return Err("the signature does not match".to_owned());
    }
    let end = credentials.expires;
    Ok((document, end))
}

fn constants(document: &Document) -> Result<(), String> {
    let hosts = ["localhost", "127.0.0.1"];
    let wrong = [
        ("version", &document.version, document.version == VERSION),
        ("host", &document.host, hosts.contains(&&*document.host)),
        ("user-agent", &document.user_agent, !document.user_agent.is_empty()),
        ("action", &document.action, document.action == ACTION),
        ("x-amz-algorithm", &document.x_amz_algorithm, document.x_amz_algorithm == ALGORITHM),
        ("x-amz-signedheaders", &document.x_amz_signedheaders, document.x_amz_signedheaders == "host"),
    ];
    match wrong.iter().find(|(.., right)| !right) {
        Some((name, value, _)) => Err(format!("{name} may not be {value:?}")),
        None => Ok(()),
    }
}

/// When it was signed, and for how long.
fn times(document: &Document, now: SystemTime) -> Result<(SystemTime, Duration), String> {
    let date = &document.x_amz_date;
    let signed = DateTime::strptime("%Y%m%dT%H%M%SZ", date).and_then(|d| d.to_zoned(TimeZone::UTC));
    let signed = SystemTime::from(signed.map_err(|e| format!("x-amz-date {date:?}: {e}"))?.timestamp());
    let expires = document.x_amz_expires.parse().ok().filter(|e| (1..=LONGEST).contains(e));
    let expires = expires.ok_or_else(|| format!("x-amz-expires may not be {:?}", document.x_amz_expires))?;
    let expires = Duration::from_secs(expires);
    if signed > now + SKEW || signed + expires + SKEW < now {
        return Err(format!("signed at {date}, which is not now"));
    }
    Ok((signed, expires))
}

/// The access key of a credential with the right scope.
fn scope(document: &Document) -> Result<&str, String> {
    let credential = &document.x_amz_credential;
    let parts: Vec<&str> = credential.split('/').collect();
    let date = document.x_amz_date.get(..8).unwrap_or_default();
    match parts[..] {
        [key, day, REGION, SERVICE, "aws4_request"] if day == date => Ok(key),
        _ => Err(format!(
            "x-amz-credential {credential:?} has not the scope {date}/{REGION}/{SERVICE}/aws4_request"
        )),
    }
}

fn signature(
    document: &Document,
    credentials: &AwsCredentials,
    signed: SystemTime,
    expires: Duration,
) -> anyhow::Result<String> {
    let token = credentials.session_token.clone();
    let (key, secret) = (&credentials.access_key_id, &credentials.secret_access_key);
    let identity = Credentials::new(key, secret, token, None, "testbed").into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.expires_in = Some(expires);
    let params = SigningParams::builder().identity(&identity).region(REGION).name(SERVICE);
    let params = params.time(signed).settings(settings).build()?.into();
    let host = document.host.as_str();
    let uri = format!("https://{host}/?Action=kafka-cluster%3AConnect");
    let headers = [("host", host)].into_iter();
    let request = SignableRequest::new("GET", &uri, headers, SignableBody::Bytes(b""))?;
    Ok(sign(request, &params)?.into_parts().1)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The document of a client that does everything right, at `now`.
    pub(in crate::iam) fn signed(credentials: &AwsCredentials, now: SystemTime) -> Value {
        let whole =
            jiff::Timestamp::from_second(jiff::Timestamp::try_from(now).unwrap().as_second()).unwrap();
        let date = whole.strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut document = json!({
            "version": VERSION, "host": "localhost", "user-agent": "test", "action": ACTION,
            "x-amz-algorithm": ALGORITHM,
            "x-amz-credential": format!("{}/{}/{REGION}/{SERVICE}/aws4_request", credentials.access_key_id, &date[..8]),
            "x-amz-date": date, "x-amz-signedheaders": "host", "x-amz-expires": "900", "x-amz-signature": "",
        });
        if let Some(token) = &credentials.session_token {
            document["x-amz-security-token"] = json!(token);
        }
        let parsed: Document = serde_json::from_value(document.clone()).unwrap();
        let right = signature(&parsed, credentials, whole.into(), Duration::from_secs(900)).unwrap();
        document["x-amz-signature"] = json!(right);
        document
    }

    fn judged(document: &Value, known: &AwsCredentials, now: SystemTime) -> Result<(), String> {
        judge(document.to_string().as_bytes(), std::slice::from_ref(known), now).map(|_| ())
    }

    #[test]
    fn every_field_counts() {
        let (credentials, now) = (AwsCredentials::lent(Duration::from_secs(60)), SystemTime::now());
        let right = signed(&credentials, now);
        judged(&right, &credentials, now).unwrap();
        for field in right.as_object().unwrap().keys() {
            let mut wrong = right.clone();
            wrong[field] = json!(if field == "user-agent" { "" } else { "wrong" });
            judged(&wrong, &credentials, now).unwrap_err();
            wrong.as_object_mut().unwrap().remove(field);
            judged(&wrong, &credentials, now).unwrap_err();
        }
        for (field, value) in [("x-amz-expires", "901"), ("host", "127.0.0.1"), ("more", "than needed")] {
            let mut wrong = right.clone();
            wrong[field] = json!(value);
            judged(&wrong, &credentials, now).unwrap_err();
        }
    }

    #[test]
    fn times_count() {
        let (credentials, now) = (AwsCredentials::random(), SystemTime::now());
        let minutes = |count: u64| Duration::from_secs(60 * count);
        for (signed_at, good) in [
            (now + minutes(4), true),
            (now + minutes(6), false),
            (now - minutes(19), true),
            (now - minutes(21), false),
        ] {
            assert_eq!(
                judged(&signed(&credentials, signed_at), &credentials, now).is_ok(),
                good,
                "{signed_at:?}"
            );
        }
        let ended = AwsCredentials { expires: Some(now), ..credentials };
        judged(&signed(&ended, now), &ended, now).unwrap_err();
    }
}
