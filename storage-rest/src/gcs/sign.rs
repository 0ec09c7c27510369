//! How a service account proves itself: a JWT signed with its RSA key (RFC 7523,
//! <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>).

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bodley_io::Secret;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

/// How long the proof is good for, in seconds; Google allows no more.
const SECONDS_VALID: u64 = 3600;

/// The proof. The error continues a sentence that names the account, and holds nothing of the key.
pub(crate) fn assertion(
    email: &str,
    key_id: Option<&str>,
    key: &Secret,
    (scope, audience): (&str, &str),
) -> Result<Secret, String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_err(|_| "this machine's clock is out of range")?.as_secs();
    let header = match key_id {
        Some(id) => json!({ "alg": "RS256", "typ": "JWT", "kid": id }),
        None => json!({ "alg": "RS256", "typ": "JWT" }),
    };
    let claims =
        json!({ "iss": email, "scope": scope, "aud": audience, "iat": now, "exp": now + SECONDS_VALID });
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let unsigned = format!("{}.{}", part(header), part(claims));
    let signature = sign(key, unsigned.as_bytes())?;
    Ok(Secret::new(format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature))))
}

fn sign(key: &Secret, message: &[u8]) -> Result<Vec<u8>, String> {
    let der = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
        .map_err(|_| "has a private_key that is not in PEM form")?;
    let key = any_supported_type(&der).map_err(|_| "has a private_key that cannot be used")?;
    // The signer that TLS 1.2 uses for client certificates: RSASSA-PKCS1-v1_5 with SHA-256, which RFC 7518 calls RS256.
    let signer =
        key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).ok_or("has a private_key that is not RSA")?;
    signer.sign(message).map_err(|_| "has a private_key that does not sign".to_owned())
}
