//! The strict S3 with a bucket, and ways to ask it.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bodley_testbed::iam::AwsCredentials;
use bodley_testbed::stores::S3;
use bodley_testbed::stores::client::{Client, Draft};
use bodley_testbed::stores::http::Answer;
use bodley_testbed::stores::s3::{BucketOptions, Settings};

pub const MIB: usize = 1 << 20;

/// A store with the bucket `vault`, and somebody with all rights.
pub struct World {
    pub s3: S3,
    pub admin: Client,
}

impl World {
    pub fn new() -> Self {
        let s3 = S3::start().unwrap();
        s3.make_bucket("vault", BucketOptions::default());
        let admin = Client::new(&s3.endpoint(), s3.admin());
        Self { s3, admin }
    }

    pub fn client(&self, credentials: &AwsCredentials) -> Client {
        Client::new(&self.s3.endpoint(), credentials)
    }

    pub fn put(&self, key: &str, body: impl Into<bytes::Bytes>) -> Draft<'_> {
        self.admin.request("PUT", &format!("/vault/{key}")).body(body)
    }

    pub fn get(&self, key: &str) -> Draft<'_> {
        self.admin.request("GET", &format!("/vault/{key}"))
    }

    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.s3.set(change);
    }

    pub fn kept(&self, key: &str) -> Vec<u8> {
        self.s3.object("vault", key).unwrap().bytes().to_vec()
    }
}

/// Status and code of a refusal; the code is empty when there is none.
pub fn outcome(draft: Draft<'_>) -> (u16, String) {
    let answer = draft.send().unwrap();
    (answer.status, element(&answer, "Code"))
}

pub fn element(answer: &Answer, name: &str) -> String {
    let text = answer.text();
    let inner =
        text.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once(&format!("</{name}>")));
    inner.map_or(String::new(), |(inner, _)| inner.to_owned())
}

pub fn elements(answer: &Answer, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let text = answer.text();
    text.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap().to_owned()).collect()
}

pub fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
}

pub fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

pub fn crc64(body: &[u8]) -> String {
    STANDARD.encode(crc_fast::crc64_nvme(body).to_be_bytes())
}

pub fn crc32c(body: &[u8]) -> String {
    STANDARD.encode(crc_fast::crc32_iscsi(body).to_be_bytes())
}
