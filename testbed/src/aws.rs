//! The places where programs on AWS get their credentials, as one small server on loopback: STS, the container
//! endpoint of ECS and EKS, and the instance metadata service (IMDSv2). What they lend is known to an [`Iam`].

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use jiff::Timestamp;
use serde_json::json;
use tiny_http::{Header, Method, Request, Response, Server};

use crate::iam::{AwsCredentials, Iam, REGION};
use crate::ports;

/// The content of a file for `AWS_WEB_IDENTITY_TOKEN_FILE`.
pub const WEB_IDENTITY_TOKEN: &str = "web+identity/token.of&a=pod";
/// A role for `AWS_ROLE_ARN`.
pub const ROLE_ARN: &str = "arn:aws:iam::123456789012:role/testbed";
/// What the container endpoint wants as `Authorization`: the value of `AWS_CONTAINER_AUTHORIZATION_TOKEN`.
pub const CONTAINER_TOKEN: &str = "container token";
/// The name of the instance's role.
pub const INSTANCE_ROLE: &str = "testbed-instance";

const METADATA: &str = "/latest/meta-data/iam/security-credentials/";
const CONTAINER: &str = "/container";
const LIFETIME: Duration = Duration::from_secs(3600);

/// A place to get credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// STS, AssumeRoleWithWebIdentity.
    Sts,
    /// The container endpoint.
    Container,
    /// The instance metadata service; each of its three steps counts as a request.
    Instance,
}

#[derive(Debug)]
struct State {
    iam: Iam,
    lifetime: Duration,
    fail: Option<u16>,
    metadata_tokens: Vec<String>,
    requests: HashMap<Source, u64>,
    lent: HashMap<Source, u64>,
}

/// The server. It ends when dropped.
pub struct AwsEndpoints {
    port: u16,
    server: Arc<Server>,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

type Answer = Response<Cursor<Vec<u8>>>;

impl AwsEndpoints {
    /// Starts it; what it lends lasts an hour.
    pub fn start(iam: &Iam) -> Result<Self> {
        let port = ports::free_port()?;
        let server = Server::from_listener(ports::listen(port)?, None);
        let server = Arc::new(server.map_err(|e| anyhow!("serve on port {port}: {e}"))?);
        let (requests, lent) = (HashMap::new(), HashMap::new());
        let (iam, metadata_tokens) = (iam.clone(), Vec::new());
        let state = State { iam, lifetime: LIFETIME, fail: None, metadata_tokens, requests, lent };
        let state = Arc::new(Mutex::new(state));
        let (incoming, shared) = (Arc::clone(&server), Arc::clone(&state));
        let thread = std::thread::spawn(move || {
            for mut request in incoming.incoming_requests() {
                let answer = serve(&mut lock(&shared), &mut request);
                let _ = request.respond(answer); // a client that is gone needs no answer
            }
        });
        Ok(Self { port, server, state, thread: Some(thread) })
    }

    /// Where STS is: the value of `AWS_ENDPOINT_URL_STS`.
    pub fn sts(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where the container endpoint is: the value of `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    pub fn container(&self) -> String {
        format!("http://127.0.0.1:{}{CONTAINER}", self.port)
    }

    /// Where the instance metadata is: the value of `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub fn metadata(&self) -> String {
        self.sts()
    }

    /// Sets how long credentials last that are lent from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        lock(&self.state).lifetime = lifetime;
    }

    /// Makes every request fail with this status, or, with none, none.
    pub fn fail(&self, status: Option<u16>) {
        lock(&self.state).fail = status;
    }

    /// How many requests a source has got.
    pub fn requests(&self, source: Source) -> u64 {
        lock(&self.state).requests.get(&source).copied().unwrap_or(0)
    }

    /// How many credentials a source has lent.
    pub fn lent(&self, source: Source) -> u64 {
        lock(&self.state).lent.get(&source).copied().unwrap_or(0)
    }
}

impl Drop for AwsEndpoints {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn lend(&mut self, source: Source) -> (AwsCredentials, String) {
        let lent = AwsCredentials::lent(self.lifetime);
        self.iam.know(lent.clone());
        *self.lent.entry(source).or_default() += 1;
        let expires = lent.expires.unwrap_or_else(SystemTime::now);
        let whole = Timestamp::try_from(expires).and_then(|t| Timestamp::from_second(t.as_second()));
        (lent, whole.map(|t| t.to_string()).unwrap_or_default())
    }
}

fn serve(state: &mut State, request: &mut Request) -> Answer {
    let path = request.url().split('?').next().unwrap_or_default().to_owned();
    let source = match path.as_str() {
        "/" => Source::Sts,
        CONTAINER => Source::Container,
        _ => Source::Instance,
    };
    *state.requests.entry(source).or_default() += 1;
    if let Some(status) = state.fail {
        return Response::from_string("told to fail").with_status_code(status);
    }
    match source {
        Source::Sts => sts(state, request),
        Source::Container => container(state, request),
        Source::Instance => instance(state, request, &path),
    }
}

/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>
fn sts(state: &mut State, request: &mut Request) -> Answer {
    let mut text = request.url().split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default();
    if request.method() == &Method::Post {
        text.clear();
        if request.as_reader().read_to_string(&mut text).is_err() {
            return refusal("InvalidRequest", "the body is no text");
        }
    }
    let asked: HashMap<_, _> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let says = |name: &str, value: &str| asked.get(name).is_some_and(|v| v == value);
    if !says("Action", "AssumeRoleWithWebIdentity") || !says("Version", "2011-06-15") {
        return refusal("InvalidAction", "only AssumeRoleWithWebIdentity of 2011-06-15 is known here");
    }
    if !says("RoleArn", ROLE_ARN) || asked.get("RoleSessionName").is_none_or(|name| name.len() < 2) {
        return refusal("ValidationError", "RoleArn or RoleSessionName is missing or wrong");
    }
    if !says("WebIdentityToken", WEB_IDENTITY_TOKEN) {
        return refusal("InvalidIdentityToken", "the token is not the one that was given out");
    }
    let (lent, expires) = state.lend(Source::Sts);
    let token = lent.session_token.unwrap_or_default();
    xml(
        200,
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n\
             <AssumeRoleWithWebIdentityResult>\n\
             <SubjectFromWebIdentityToken>testbed</SubjectFromWebIdentityToken>\n<Credentials>\
             <AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{expires}</Expiration></Credentials>\n\
             <AssumedRoleUser><Arn>{ROLE_ARN}/session</Arn><AssumedRoleId>AROA:session</AssumedRoleId>\
             </AssumedRoleUser>\n</AssumeRoleWithWebIdentityResult>\n<ResponseMetadata>\
             <RequestId>testbed</RequestId></ResponseMetadata>\n</AssumeRoleWithWebIdentityResponse>\n",
            lent.access_key_id, lent.secret_access_key
        ),
    )
}

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>
fn container(state: &mut State, request: &Request) -> Answer {
    if header(request, "Authorization") != Some(CONTAINER_TOKEN) {
        return Response::from_string("{\"message\":\"Authorization is missing or wrong\"}")
            .with_status_code(401);
    }
    let (lent, expires) = state.lend(Source::Container);
    let body = json!({
        "RoleArn": ROLE_ARN,
        "AccessKeyId": lent.access_key_id,
        "SecretAccessKey": lent.secret_access_key,
        "Token": lent.session_token,
        "Expiration": expires,
    });
    Response::from_string(body.to_string())
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>
fn instance(state: &mut State, request: &Request, path: &str) -> Answer {
    if (request.method(), path) == (&Method::Put, "/latest/api/token") {
        let ttl = header(request, "X-aws-ec2-metadata-token-ttl-seconds").and_then(|t| t.parse::<u32>().ok());
        if !ttl.is_some_and(|ttl| (1..=21_600).contains(&ttl)) {
            return Response::from_string("").with_status_code(400);
        }
        let token: String = std::iter::repeat_with(fastrand::alphanumeric).take(56).collect();
        state.metadata_tokens.push(token.clone());
        return Response::from_string(token);
    }
    let token = header(request, "X-aws-ec2-metadata-token");
    if !token.is_some_and(|token| state.metadata_tokens.iter().any(|t| t == token)) {
        return Response::from_string("").with_status_code(401);
    }
    match path.strip_prefix(METADATA) {
        Some("") => Response::from_string(INSTANCE_ROLE),
        Some(INSTANCE_ROLE) => {
            let (lent, expires) = state.lend(Source::Instance);
            let body = json!({
                "Code": "Success",
                "Type": "AWS-HMAC",
                "LastUpdated": Timestamp::now().to_string(),
                "AccessKeyId": lent.access_key_id,
                "SecretAccessKey": lent.secret_access_key,
                "Token": lent.session_token,
                "Expiration": expires,
            });
            Response::from_string(body.to_string())
        }
        _ if path == "/latest/meta-data/placement/region" => Response::from_string(REGION),
        _ => Response::from_string("").with_status_code(404),
    }
}

fn header<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    request.headers().iter().find(|h| h.field.equiv(name)).map(|h| h.value.as_str())
}

fn refusal(code: &str, why: &str) -> Answer {
    xml(
        400,
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n<Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{why}</Message></Error>\n<RequestId>testbed</RequestId>\n</ErrorResponse>\n"
        ),
    )
}

fn xml(status: u16, text: String) -> Answer {
    let answer = Response::from_string(text).with_status_code(status);
    match Header::from_bytes("Content-Type", "text/xml") {
        Ok(kind) => answer.with_header(kind),
        Err(()) => answer,
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
