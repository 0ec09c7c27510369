//! AWS Signature Version 4 (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>), on
//! reqsign's HMAC: the scope, and the signature of a canonical request.
//!
//! reqsign's own request signers take the time from this machine's clock, which cannot be corrected by the store's, and fit only S3's
//! form of presigned URLs.

use std::time::SystemTime;

use bodley_io::Secret;
use reqsign_core::hash::{hex_hmac_sha256, hex_sha256, hmac_sha256};

use super::Credentials;

pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a signature is good for.
pub(crate) struct Scope {
    day: String,
    /// `20240229T123456Z`
    pub date: String,
    region: String,
    service: &'static str,
}

impl Scope {
    /// # Errors
    /// A clock beyond the calendar.
    pub fn new(at: SystemTime, region: &str, service: &'static str) -> Result<Self, String> {
        let time =
            jiff::Timestamp::try_from(at).map_err(|_| "this machine's clock is out of range".to_owned())?;
        let day = time.strftime("%Y%m%d").to_string();
        let date = time.strftime("%Y%m%dT%H%M%SZ").to_string();
        Ok(Self { day, date, region: region.to_owned(), service })
    }

    fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.day, self.region, self.service)
    }

    /// The key's id with the scope.
    pub fn key(&self, credentials: &Credentials) -> String {
        format!("{}/{}", credentials.access_key_id, self.text())
    }

    /// Signs a canonical request: 64 hex digits.
    pub fn sign(&self, credentials: &Credentials, request: &str) -> String {
        let to_sign =
            format!("{ALGORITHM}\n{}\n{}\n{}", self.date, self.text(), hex_sha256(request.as_bytes()));
        let secret = Secret::new(format!("AWS4{}", credentials.secret_access_key.expose()));
        let key = [self.day.as_str(), &self.region, self.service, "aws4_request"]
            .iter()
            .fold(secret.expose().as_bytes().to_vec(), |key, part| hmac_sha256(&key, part.as_bytes()));
        hex_hmac_sha256(&key, to_sign.as_bytes())
    }
}
