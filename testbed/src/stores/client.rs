//! Requests to any S3 that AWS's own crate signs and a plain HTTP client sends: to try a store without any code of Bodley.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;

use super::http::Answer;
use crate::iam::{AwsCredentials, REGION};

const LIMIT: Duration = Duration::from_secs(60);
const LARGEST_ANSWER: u64 = 1 << 30;

/// Somebody with a key. Over plain http only.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: String,
    credentials: AwsCredentials,
    region: String,
    agent: ureq::Agent,
}

impl Client {
    /// For the endpoint `http://HOST:PORT`, in [`REGION`].
    pub fn new(endpoint: &str, credentials: &AwsCredentials) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let agent = config.timeout_global(Some(LIMIT)).build().into();
        let (endpoint, region) = (endpoint.to_owned(), REGION.to_owned());
        Self { endpoint, credentials: credentials.clone(), region, agent }
    }

    /// Signs for another region.
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// Begins a request. `path` begins with `/`, is percent-encoded and may have a query.
    pub fn request(&self, method: &str, path: &str) -> Draft<'_> {
        Draft {
            client: self,
            method: method.to_owned(),
            path: path.to_owned(),
            host: None,
            headers: Vec::new(),
            unsigned: Vec::new(),
            body: Bytes::new(),
            hash: None,
            time: SystemTime::now(),
        }
    }

    /// Makes a bucket, with or without object lock.
    pub fn make_bucket(&self, name: &str, object_lock: bool) -> Result<()> {
        let request = self.request("PUT", &format!("/{name}"));
        let request =
            if object_lock { request.header("x-amz-bucket-object-lock-enabled", "true") } else { request };
        let answer = request.send()?;
        if answer.status != 200 {
            bail!("the bucket {name} was not made: {} {}", answer.status, answer.text());
        }
        Ok(())
    }
}

/// A request that is not sent yet.
#[derive(Debug, Clone)]
pub struct Draft<'a> {
    client: &'a Client,
    method: String,
    path: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    unsigned: Vec<(String, String)>,
    body: Bytes,
    hash: Option<String>,
    time: SystemTime,
}

impl Draft<'_> {
    /// Adds a header, which is signed.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header behind the signature's back.
    pub fn unsigned(mut self, name: &str, value: impl Into<String>) -> Self {
        self.unsigned.push((name.to_owned(), value.into()));
        self
    }

    /// Sends and signs another `Host`.
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// Takes this for its body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Says this in `x-amz-content-sha256`, and not the body's hash.
    pub fn hash(mut self, hash: &str) -> Self {
        self.hash = Some(hash.to_owned());
        self
    }

    /// Signs as of another time.
    pub fn time(mut self, time: SystemTime) -> Self {
        self.time = time;
        self
    }

    /// Sends it. An answer is one whatever its status; an error means that there is none, or that its body was cut.
    pub fn send(self) -> Result<Answer> {
        let url = format!("{}{}", self.client.endpoint, self.path);
        let mut request = ureq::http::Request::builder().method(self.method.as_str()).uri(&url);
        for (name, value) in self.signature()?.iter().chain(&self.headers).chain(&self.unsigned) {
            request = request.header(name, value);
        }
        if let Some(host) = &self.host {
            request = request.header("host", host);
        }
        let agent = &self.client.agent;
        let mut answer = if matches!(self.method.as_str(), "PUT" | "POST") {
            agent.run(request.body(&self.body[..])?)?
        } else {
            agent.run(request.body(())?)?
        };
        let headers = answer.headers().iter();
        let headers = headers.map(|(n, v)| (n.to_string(), v.to_str().unwrap_or_default().to_owned()));
        let (status, headers) = (answer.status().as_u16(), headers.collect());
        let body = answer.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec()?;
        Ok(Answer { status, headers, body: vec![body.into()] })
    }

    /// The headers that the signature consists of.
    fn signature(&self) -> Result<Vec<(String, String)>> {
        let known = &self.client.credentials;
        let (key, secret) = (&known.access_key_id, &known.secret_access_key);
        let identity = Credentials::new(key, secret, known.session_token.clone(), None, "testbed").into();
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = SigningParams::builder().identity(&identity).region(&self.client.region).name("s3");
        let params = params.time(self.time).settings(settings).build()?.into();
        let endpoint = self.client.endpoint.as_str();
        let base = self.host.as_ref().map_or_else(|| endpoint.to_owned(), |host| format!("http://{host}"));
        let url = base + &self.path;
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let body = match &self.hash {
            Some(hash) => SignableBody::Precomputed(hash.clone()),
            None => SignableBody::Bytes(&self.body),
        };
        let (parts, _) =
            sign(SignableRequest::new(self.method.as_str(), url, headers, body)?, &params)?.into_parts();
        Ok(parts.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
