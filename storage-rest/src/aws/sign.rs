//! What MSK wants to see: a presigned request to connect, by AWS Signature Version 4
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>).

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bodley_io::Secret;
use reqsign_core::hash::hex_sha256;

use super::Credentials;
use super::sigv4::{ALGORITHM, Scope};
use crate::encode::{form, percent};
use crate::web::USER_AGENT;

/// How long a signed request is good for, in seconds; the most that MSK takes.
pub(crate) const SECONDS_VALID: u64 = 900;

const SERVICE: &str = "kafka-cluster";
const ACTION: &str = "kafka-cluster:Connect";

/// A signed request, in its parts.
struct Presigned {
    scoped_key: String,
    date: String,
    query: String,
    signature: String,
}

/// The document of AWS_MSK_IAM, for the broker with this name.
pub(crate) fn document(
    credentials: &Credentials,
    region: &str,
    host: &str,
    at: SystemTime,
) -> Result<Secret, String> {
    let signed = presign(credentials, region, host, at)?;
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let token = match &credentials.session_token {
        Some(token) => format!("\"x-amz-security-token\":{},", text(token.expose())),
        None => String::new(),
    };
    Ok(Secret::new(format!(
        "{{\"version\":\"2020_10_22\",\"host\":{host},\"user-agent\":{agent},\"action\":\"{ACTION}\",\
         \"x-amz-algorithm\":\"{ALGORITHM}\",\"x-amz-credential\":{key},\"x-amz-date\":\"{date}\",{token}\
         \"x-amz-signedheaders\":\"host\",\"x-amz-expires\":\"{SECONDS_VALID}\",\"x-amz-signature\":\"{signature}\"}}",
        host = text(host),
        agent = text(USER_AGENT),
        key = text(&signed.scoped_key),
        date = signed.date,
        signature = signed.signature,
    )))
}

/// The token that MSK takes by OAUTHBEARER: the presigned URL in Base64, as aws-msk-iam-sasl-signer makes it.
pub(crate) fn bearer(credentials: &Credentials, region: &str, at: SystemTime) -> Result<Secret, String> {
    let host = format!("kafka.{region}.amazonaws.com");
    let signed = presign(credentials, region, &host, at)?;
    let (query, signature) = (&signed.query, &signed.signature);
    let agent = form(USER_AGENT);
    let url = Secret::new(format!("https://{host}/?{query}&X-Amz-Signature={signature}&User-Agent={agent}"));
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(url.expose())))
}

fn presign(credentials: &Credentials, region: &str, host: &str, at: SystemTime) -> Result<Presigned, String> {
    let scope = Scope::new(at, region, SERVICE)?;
    let (scoped_key, date) = (scope.key(credentials), scope.date.clone());
    let token = credentials
        .session_token
        .as_ref()
        .map_or_else(String::new, |token| format!("&X-Amz-Security-Token={}", percent(token.expose())));
    // In the order of the names, which is the order of the signature.
    let query = format!(
        "Action={}&X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={}&X-Amz-Date={date}&X-Amz-Expires={SECONDS_VALID}{token}\
         &X-Amz-SignedHeaders=host",
        percent(ACTION),
        percent(&scoped_key),
    );
    let request = format!("GET\n/\n{query}\nhost:{host}\n\nhost\n{}", hex_sha256(b""));
    let signature = scope.sign(credentials, &request);
    Ok(Presigned { scoped_key, date, query, signature })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sigv4::http_request::{
        SignableBody, SignableRequest, SignatureLocation, SigningSettings, UriPathNormalizationMode, sign,
    };
    use serde_json::Value;
    use std::time::Duration;

    fn credentials(key: &str, secret: &str, token: Option<&str>) -> Credentials {
        Credentials {
            access_key_id: key.to_owned(),
            secret_access_key: Secret::new(secret),
            session_token: token.map(Secret::new),
            expires: None,
            source: "test".to_owned(),
        }
    }

    /// The signature by AWS's own crate.
    fn theirs(
        credentials: &Credentials,
        region: &str,
        host: &str,
        at: SystemTime,
    ) -> (String, Vec<(String, String)>) {
        let identity = aws_credential_types::Credentials::new(
            &credentials.access_key_id,
            credentials.secret_access_key.expose(),
            credentials.session_token.as_ref().map(|token| token.expose().to_owned()),
            None,
            "test",
        )
        .into();
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(Duration::from_secs(SECONDS_VALID));
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let params = aws_sigv4::sign::v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(SERVICE)
            .time(at)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let url = format!("https://{host}/?Action=kafka-cluster%3AConnect");
        let request = SignableRequest::new("GET", url, std::iter::empty(), SignableBody::Bytes(b"")).unwrap();
        let (instructions, signature) = sign(request, &params).unwrap().into_parts();
        let params = instructions.params().iter().map(|(n, v)| ((*n).to_owned(), v.to_string())).collect();
        (signature, params)
    }

    #[test]
    fn agrees_with_the_sdk_on_many_inputs() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..300 {
            let mut text = |from: &str, most: usize| -> String {
                let chars: Vec<char> = from.chars().collect();
                (0..random.usize(1..most)).map(|_| chars[random.usize(..chars.len())]).collect()
            };
            let key = text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", 128);
            let secret = text("abcXYZ019+/=", 64);
            let token = text("abcXYZ019+/=_-.~ %&?", 1200);
            let region = text("abcdefgh-0123456789", 20);
            let host = format!("b-1.{}.kafka.{region}.amazonaws.com", text("abcdefgh0123456789", 30));
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(random.u64(0..4_000_000_000_000));
            let credentials = credentials(&key, &secret, random.bool().then_some(token.as_str()));
            let (signature, params) = theirs(&credentials, &region, &host, at);
            let document: Value =
                serde_json::from_str(document(&credentials, &region, &host, at).unwrap().expose()).unwrap();
            assert_eq!(document["x-amz-signature"], *signature, "seed {seed}, round {round}");
            assert_eq!(document["host"], *host);
            for (name, value) in params {
                assert_eq!(document[name.to_lowercase()], *value, "seed {seed}, round {round}, {name}");
            }
        }
    }

    /// 2024-02-29T12:34:56Z
    const AT: Duration = Duration::from_secs(1_709_210_096);

    #[test]
    fn the_document_is_what_brokers_expect() {
        let with_token =
            credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", Some("tok/en+="));
        let host = "b-1.demo.abc.c2.kafka.eu-west-1.amazonaws.com";
        let document = document(&with_token, "eu-west-1", host, SystemTime::UNIX_EPOCH + AT).unwrap();
        let want = concat!(
            r#"{"version":"2020_10_22","host":"b-1.demo.abc.c2.kafka.eu-west-1.amazonaws.com","user-agent":"bodley/"#,
            env!("CARGO_PKG_VERSION"),
            r#"","action":"kafka-cluster:Connect","x-amz-algorithm":"AWS4-HMAC-SHA256","#,
            r#""x-amz-credential":"AKIDEXAMPLE/20240229/eu-west-1/kafka-cluster/aws4_request","#,
            r#""x-amz-date":"20240229T123456Z","x-amz-security-token":"tok/en+=","x-amz-signedheaders":"host","#,
            r#""x-amz-expires":"900","x-amz-signature":"274b36af4d909a87ca4022d5d85176e4f53b23f996c27fc613a3c0acff664c8b"}"#
        );
        assert_eq!(document.expose(), want);
    }

    #[test]
    fn the_bearer_token_is_a_presigned_url() {
        let plain = credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None);
        let token = bearer(&plain, "eu-west-1", SystemTime::UNIX_EPOCH + AT).unwrap();
        assert!(crate::jwt::is_bearer(token.expose()));
        let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token.expose()).unwrap()).unwrap();
        let want = concat!(
            "https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "&X-Amz-Credential=AKIDEXAMPLE%2F20240229%2Feu-west-1%2Fkafka-cluster%2Faws4_request",
            "&X-Amz-Date=20240229T123456Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host",
            "&X-Amz-Signature=78ef5eb5b4587b1c4ddd38c0050a79482ff2db730e71f450a18e68f56c2114d3&User-Agent=bodley%2F",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(url, want);
    }
}
