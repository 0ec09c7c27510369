//! Every way to AWS credentials, against servers that behave well or badly: the one that is configured counts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::path::Path;
use std::time::{Duration, SystemTime};

use bodley_io::{TokenError, TokenProvider};
use bodley_storage_rest::{AwsCredentials, AwsOptions, Credentials, Environment, MskForm, MskTokens};
use common::{Asked, Fake, MARKER, Reply, reply, tls, until};

/// A home folder with these files in `.aws`, and an environment in which EC2 is off unless it says otherwise.
struct World {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl World {
    fn new(variables: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let off = [("AWS_EC2_METADATA_DISABLED", "true")];
        let variables =
            off.iter().chain(variables).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Self { home, variables }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.push((name.to_owned(), value.into()));
    }

    fn environment(&self) -> Environment {
        Environment::new(self.variables.clone(), Some(self.home.path().to_owned()))
    }

    fn credentials(&self, options: AwsOptions) -> AwsCredentials {
        AwsCredentials::new(options, self.environment(), tls()).unwrap()
    }

    async fn get(&self) -> Result<Credentials, TokenError> {
        self.with(AwsOptions::default()).await
    }

    /// Nothing that can be shown may show a secret.
    async fn with(&self, options: AwsOptions) -> Result<Credentials, TokenError> {
        let credentials = self.credentials(options);
        let outcome = credentials.get().await;
        let error = outcome.as_ref().err().map(ToString::to_string);
        let shown = format!("{:?} {credentials:?} {outcome:?} {error:?}", self.environment());
        assert!(!shown.contains(MARKER), "{shown}");
        outcome
    }
}

fn profile(name: &str) -> AwsOptions {
    AwsOptions { profile: Some(name.to_owned()), ..AwsOptions::default() }
}

/// The session tokens tell the sources apart.
fn session(credentials: &Credentials) -> &str {
    credentials.session_token.as_ref().map_or("", |token| token.expose())
}

fn time(from_now: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(from_now)).to_string()
}

fn json(token: &str, seconds: i64) -> Reply {
    let end = time(seconds);
    reply(
        200,
        format!(
            r#"{{"Code":"Success","AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"{MARKER}","Token":"{MARKER}{token}","Expiration":"{end}"}}"#
        ),
    )
}

fn sts(action: &str, token: &str, seconds: i64) -> Reply {
    let end = time(seconds);
    reply(
        200,
        format!(
            "<{action}Response><{action}Result><Credentials><AccessKeyId>ASIAEXAMPLEEXAMPLE00</AccessKeyId>\
             <SecretAccessKey>{MARKER}</SecretAccessKey><SessionToken>{MARKER}{token}</SessionToken>\
             <Expiration>{end}</Expiration></Credentials></{action}Result></{action}Response>"
        ),
    )
}

fn sts_error(status: u16, code: &str) -> Reply {
    let body = format!(
        "<ErrorResponse><Error><Code>{code}</Code><Message>no {MARKER}\n</Message></Error></ErrorResponse>"
    );
    reply(status, body)
}

const ROLE: &str = "arn:aws:iam::123456789012:role/backup";

#[tokio::test]
async fn the_environment_comes_first_and_must_be_whole() {
    let mut world = World::new(&[("AWS_ACCESS_KEY_ID", "AKIA1"), ("AWS_PROFILE", "absent")]);
    let error = world.get().await.unwrap_err();
    assert_eq!(error.what, "AWS credentials: AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not");
    world.set("AWS_SECRET_ACCESS_KEY", MARKER);
    world.set("AWS_SESSION_TOKEN", format!("{MARKER}-env"));
    let found = world.get().await.unwrap();
    assert_eq!(
        (found.source.as_str(), found.access_key_id.as_str(), found.expires),
        ("the environment", "AKIA1", None)
    );
    assert_eq!((found.secret_access_key.expose(), session(&found)), (MARKER, "hunter2-env"));
    let error = world.with(profile("asked-for")).await.unwrap_err();
    assert!(error.what.contains("profile asked-for is not in"), "an explicit profile stands alone: {error}");
}

#[tokio::test]
async fn profiles_are_read_from_both_files() {
    let mut world = World::new(&[]);
    world.file(
        ".aws/credentials",
        &format!("[default]\naws_access_key_id=A\naws_secret_access_key={MARKER}\n"),
    );
    world.file(
        ".aws/config",
        &format!("[profile prod]\naws_access_key_id = B\naws_secret_access_key = {MARKER}\naws_session_token={MARKER}-p\n"),
    );
    assert_eq!(world.get().await.unwrap().source, "profile default");
    world.set("AWS_PROFILE", "prod");
    let found = world.get().await.unwrap();
    assert_eq!((found.source.as_str(), session(&found)), ("profile prod", "hunter2-p"));
    assert_eq!(world.with(profile("default")).await.unwrap().access_key_id, "A");
    let elsewhere =
        world.file("other", &format!("[prod]\naws_access_key_id=C\naws_secret_access_key={MARKER}"));
    world.set("AWS_SHARED_CREDENTIALS_FILE", elsewhere);
    assert_eq!(world.get().await.unwrap().access_key_id, "C");
}

#[tokio::test]
async fn a_profile_that_cannot_work_is_named_and_nothing_takes_its_place() {
    // A container that would give credentials if it were asked.
    let fake = Fake::start(|_, _| json("container", 3600)).await;
    let world = World::new(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &fake.url)]);
    let config = format!(
        "[profile half]\naws_access_key_id = A\n[profile none]\nregion = x\n[profile sso]\nsso_session = s\n\
         [profile mfa]\nrole_arn = {ROLE}\nmfa_serial = 1\nsource_profile = half\n[profile lost]\nrole_arn = {ROLE}\n\
         [profile gone]\nrole_arn = {ROLE}\nsource_profile = nobody\n[profile a]\nrole_arn = {ROLE}\nsource_profile = b\n\
         [profile b]\nrole_arn = {ROLE}\nsource_profile = a\n[profile bad]\ncredential_process = echo {MARKER}\n\
         [profile fails]\ncredential_process = echo {MARKER} >&2; exit 3\n[profile old]\n\
         credential_process = echo '{{\"Version\":2}}'\n"
    );
    world.file(".aws/config", &config);
    for (name, why) in [
        ("absent", "profile absent is not in"),
        ("half", "profile half has an aws_access_key_id, but no aws_secret_access_key"),
        ("none", "profile none has no credentials in"),
        ("sso", "aws configure export-credentials --profile sso"),
        ("mfa", "profile mfa wants a second factor"),
        ("lost", "profile lost has a role_arn, but no source_profile"),
        ("gone", "profile gone has a role_arn, but its source has no credentials"),
        ("a", "go round in a circle"),
        ("bad", "credential_process of profile bad printed something that is not JSON"),
        ("fails", "credential_process of profile fails failed (exit status: 3)"),
        ("old", "not Version 1"),
    ] {
        let error = world.with(profile(name)).await.unwrap_err();
        // What a process says may be better the next time.
        let passing = ["bad", "fails", "old"].contains(&name);
        assert!(error.what.contains(why) && error.passing == passing, "{error}");
    }
    world.file(".aws/credentials", &format!("[default]\n{MARKER}\n"));
    let error = world.get().await.unwrap_err();
    assert!(error.what.contains(".aws/credentials line 2 is neither"), "{error}");
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn a_credential_process_is_run() {
    let world = World::new(&[]);
    let end = time(3600);
    let printed = format!(
        r#"{{"Version":1,"AccessKeyId":"A","SecretAccessKey":"{MARKER}","SessionToken":"{MARKER}-process","Expiration":"{end}"}}"#
    );
    let file = world.file("printed file", &printed);
    world.file(".aws/config", &format!("[default]\ncredential_process = cat \"{file}\"\n"));
    let found = world.get().await.unwrap();
    assert_eq!(
        (found.source.as_str(), session(&found)),
        ("credential_process of profile default", "hunter2-process")
    );
    assert!(found.expires.is_some());
}

async fn irsa(handler: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> (Fake, World) {
    let fake = Fake::start(handler).await;
    let mut world = World::new(&[("AWS_ROLE_ARN", ROLE), ("AWS_REGION", "eu-west-1")]);
    let token = world.file("token", &format!("{MARKER}.jwt\n"));
    world.set("AWS_WEB_IDENTITY_TOKEN_FILE", token);
    world.set("AWS_ENDPOINT_URL_STS", fake.url.clone());
    (fake, world)
}

#[tokio::test]
async fn web_identity_asks_sts() {
    let (fake, world) = irsa(|n, _| match n {
        0 => sts_error(500, "InternalFailure"),
        _ => sts("AssumeRoleWithWebIdentity", "-web", 3600),
    })
    .await;
    let found = world.get().await.unwrap();
    assert_eq!(
        (found.source.clone(), session(&found).to_owned()),
        (format!("web identity {ROLE}"), "hunter2-web".to_owned())
    );
    let asked = &fake.asked()[1];
    assert_eq!(asked.line, "POST /");
    for part in
        ["Action=AssumeRoleWithWebIdentity", "WebIdentityToken=hunter2.jwt&", "RoleSessionName=bodley"]
    {
        assert!(asked.body.contains(part), "{}", asked.body);
    }
}

#[tokio::test]
async fn web_identity_fails_by_name_and_nothing_takes_its_place() {
    for (reply, passing) in [(sts_error(403, "AccessDenied"), false), (sts_error(400, "Throttling"), true)] {
        let reply = std::sync::Mutex::new(Some(reply));
        let (fake, world) = irsa(move |_, _| reply.lock().unwrap().take().unwrap()).await;
        world.file(
            ".aws/credentials",
            &format!("[default]\naws_access_key_id=A\naws_secret_access_key={MARKER}\n"),
        );
        // The server echoes the token.
        let token = world.file("token", MARKER);
        assert!(Path::new(&token).exists());
        let error = world.get().await.unwrap_err();
        assert!(
            error
                .what
                .starts_with(&format!("AWS credentials: web identity {ROLE}: {}/ answered HTTP 4", fake.url)),
            "{error}"
        );
        assert!(error.what.ends_with(": no …"), "{error}");
        assert_eq!(error.passing, passing);
    }
    let (_fake, mut world) = irsa(|_, _| reply(200, format!("<x>{MARKER}"))).await;
    let error = world.get().await.unwrap_err();
    assert!(error.what.contains("web identity") && !error.passing, "{error}");
    world.set("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token");
    let error = world.get().await.unwrap_err();
    assert!(error.what.contains("token file /nowhere/token cannot be read"), "{error}");
    world.set("AWS_ROLE_ARN", "");
    assert!(world.get().await.unwrap_err().what.contains("AWS_ROLE_ARN is not"));
    world.set("AWS_ROLE_ARN", ROLE);
    world.set("AWS_ENDPOINT_URL_STS", "http://sts.example/");
    assert!(world.get().await.unwrap_err().what.contains("AWS_ENDPOINT_URL_STS: http would show secrets"));
}

#[tokio::test]
async fn containers_are_asked_with_their_token() {
    let fake = Fake::start(|_, _| json("-pod", 3600)).await;
    let mut world = World::new(&[("AWS_CONTAINER_AUTHORIZATION_TOKEN", "not this")]);
    world.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v1/credentials?a=b", fake.url));
    let token = world.file("pod-token", &format!("{MARKER}.pod\n"));
    world.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token);
    let found = world.get().await.unwrap();
    assert_eq!((found.source.as_str(), session(&found)), ("container credentials", "hunter2-pod"));
    assert_eq!(fake.asked()[0].line, "GET /v1/credentials?a=b");
    assert_eq!(fake.asked()[0].header("authorization"), "hunter2.pod");

    world.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/nowhere/pod");
    assert!(world.get().await.unwrap_err().what.contains("token file /nowhere/pod cannot be read"));
    world.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.1/");
    let error = world.get().await.unwrap_err();
    assert!(error.what.contains("AWS_CONTAINER_CREDENTIALS_FULL_URI: http would show secrets"), "{error}");
    world.set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@evil.example/");
    assert!(world.get().await.unwrap_err().what.contains("RELATIVE_URI does not begin with /"));
}

#[tokio::test]
async fn a_container_that_fails_is_named_without_what_it_sent() {
    for (status, body, passing) in [
        (403, format!(r#"{{"code":"AccessDeniedException","message":"{MARKER}t"}}"#), false),
        (404, String::new(), false),
        (302, String::new(), false),
        (200, format!(r#"{{"AccessKeyId":"{MARKER}"}}"#), false),
    ] {
        let sent = body.clone();
        let fake = Fake::start(move |_, _| reply(status, sent.clone())).await;
        let token = format!("{MARKER}t");
        let world = World::new(&[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &fake.url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", &token),
        ]);
        let error = world.get().await.unwrap_err();
        assert!(error.what.starts_with("AWS credentials: container credentials: "), "{error}");
        assert_eq!(error.passing, passing, "{error}");
        assert_eq!(fake.asked().len(), 1);
    }
    let flood = Fake::start(|_, _| Reply { flood: 100 << 20, ..reply(200, "") }).await;
    let world = World::new(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &flood.url)]);
    let error = world.get().await.unwrap_err();
    assert!(error.what.contains("more than 1048576 bytes") && !error.passing, "{error}");
}

fn metadata(_: usize, asked: &Asked) -> Reply {
    match asked.line.as_str() {
        "PUT /latest/api/token" => reply(200, "imds-token"),
        _ if asked.header("x-aws-ec2-metadata-token") != "imds-token" => reply(401, ""),
        "GET /latest/meta-data/iam/security-credentials/" => reply(200, "node-role"),
        "GET /latest/meta-data/iam/security-credentials/node-role" => json("-node", 3600),
        _ => reply(404, ""),
    }
}

#[tokio::test]
async fn instance_metadata_is_the_last_resort() {
    let fake = Fake::start(metadata).await;
    let mut world = World::new(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &format!("{}/", fake.url))]);
    let error = world.get().await.unwrap_err();
    assert!(error.what.contains("no AWS credentials: the environment has no AWS_ACCESS_KEY_ID"), "{error}");
    assert!(error.what.contains(".aws/credentials") && !error.passing && fake.asked().is_empty());
    world.set("AWS_EC2_METADATA_DISABLED", "false");
    let found = world.get().await.unwrap();
    assert_eq!((found.source.as_str(), session(&found)), ("instance metadata", "hunter2-node"));
    assert_eq!(fake.asked().len(), 3);

    let no_role = Fake::start(|n, asked| if n == 0 { metadata(n, asked) } else { reply(404, "") }).await;
    world.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", no_role.url.clone());
    let error = world.get().await.unwrap_err();
    assert!(error.what.contains("/iam/security-credentials/ answered HTTP 404") && !error.passing, "{error}");

    let silent = Fake::start(|_, _| Reply { delay: Duration::from_secs(60), ..reply(200, "") }).await;
    world.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", silent.url.clone());
    let begun = std::time::Instant::now();
    let error = world.get().await.unwrap_err();
    assert!(
        error.what.contains("instance metadata: ") && error.what.contains("gave no answer within 1000 ms"),
        "{error}"
    );
    assert!(
        error.what.ends_with("(asked because neither the environment nor a profile has AWS credentials)"),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn roles_are_taken_on_with_what_was_found() {
    let fake = Fake::start(|_, asked| {
        // Signed by the keys of the profile, for the region's STS, whoever stands in for it.
        let ok = asked.header("host") == "sts.eu-west-1.amazonaws.com"
            && asked.header("authorization").contains("Credential=AKIABASE/")
            && asked.header("authorization").contains("/eu-west-1/sts/aws4_request");
        if ok { sts("AssumeRole", "-role", 3600) } else { sts_error(403, "SignatureDoesNotMatch") }
    })
    .await;
    let world = World::new(&[("AWS_ENDPOINT_URL_STS", &fake.url)]);
    let config = format!(
        "[profile base]\naws_access_key_id=AKIABASE\naws_secret_access_key={MARKER}\n\
         [profile role]\nrole_arn={ROLE}\nsource_profile=base\nexternal_id=ext\nrole_session_name=night\nduration_seconds=900\n"
    );
    world.file(".aws/config", &config);
    let there = AwsOptions { sts_region: Some("eu-west-1".to_owned()), ..profile("role") };
    let found = world.with(there.clone()).await.unwrap();
    assert_eq!(
        (found.source.clone(), session(&found).to_owned()),
        (format!("role {ROLE} by profile base"), "hunter2-role".to_owned())
    );
    let line = fake.asked()[0].line.clone();
    for part in ["GET /?Action=AssumeRole&", "ExternalId=ext", "RoleSessionName=night", "DurationSeconds=900"]
    {
        assert!(line.contains(part), "{line}");
    }
    let on_top = AwsOptions {
        role_arn: Some(ROLE.to_owned()),
        role_session_name: Some("top".to_owned()),
        external_id: Some("ext2".to_owned()),
        ..AwsOptions { profile: Some("base".to_owned()), ..there }
    };
    world.with(on_top.clone()).await.unwrap();
    assert!(
        fake.asked()[1].line.contains("RoleSessionName=top")
            && fake.asked()[1].line.contains("ExternalId=ext2")
    );
    let wrong = AwsOptions { role_arn: Some("arn:aws:iam::1:role/x".to_owned()), ..on_top.clone() };
    let error = world.with(wrong).await.unwrap_err();
    assert!(error.what.contains("role ARN is invalid") && !error.passing, "{error}");
    let refused = AwsOptions { sts_region: Some("eu-west-2".to_owned()), ..on_top };
    let error = world.with(refused).await.unwrap_err();
    assert!(error.what.contains("answered HTTP 403 Forbidden: SignatureDoesNotMatch: no …"), "{error}");
}

#[tokio::test]
async fn credentials_are_renewed_early_and_survive_a_failed_renewal() {
    let fake = Fake::start(|n, _| match n {
        0 => json("-0", 10),
        1 => reply(403, ""),
        n => json(&format!("-{n}"), 3600),
    })
    .await;
    let world = World::new(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &fake.url)]);
    let credentials = world.credentials(AwsOptions::default());
    assert_eq!(credentials.identity(), None);
    assert_eq!(session(&credentials.get().await.unwrap()), "hunter2-0");
    assert_eq!(credentials.identity().unwrap(), "container credentials");
    // More than four fifths of 10 s are over.
    tokio::time::sleep(Duration::from_millis(8_200)).await;
    assert_eq!(session(&credentials.get().await.unwrap()), "hunter2-0");
    until("the renewal was tried and failed", async || fake.asked().len() >= 2).await;
    let renewed = async || session(&credentials.get().await.unwrap()) == "hunter2-2";
    until("another one was tried", renewed).await;
    let ended = Fake::start(|_, _| json("", -5)).await;
    let world = World::new(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &ended.url)]);
    let error = world.get().await.unwrap_err();
    assert!(error.what.contains("container credentials gave some that ended at 20"), "{error}");
}

#[tokio::test]
async fn msk_tokens_are_signed_for_the_broker() {
    let world = World::new(&[("AWS_ACCESS_KEY_ID", "AKIA1"), ("AWS_SECRET_ACCESS_KEY", MARKER)]);
    let host = "b-1.demo.abc.c2.kafka.eu-west-1.amazonaws.com";
    for (form, begins) in [
        (MskForm::Iam, r#"{"version":"2020_10_22","host":"b-1.demo"#),
        (MskForm::Bearer, "aHR0cHM6Ly9rYWZrYS5ldS13ZXN0LTEu"),
    ] {
        let tokens =
            MskTokens::with_environment(form, AwsOptions::default(), world.environment(), tls()).unwrap();
        let token = tokens.token(host).await.unwrap();
        assert!(token.text.expose().starts_with(begins), "{}", token.text.expose());
        let left = token.expires.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left > Duration::from_secs(890) && left <= Duration::from_secs(900));
        assert_eq!(tokens.identity().unwrap(), "the environment");
        assert!(!format!("{tokens:?} {token:?}").contains(MARKER));
        let error = tokens.token("broker.internal").await.unwrap_err();
        assert!(error.what.contains("the AWS region of broker.internal is not in its name"), "{error}");
    }
}

#[tokio::test]
async fn a_token_ends_with_its_credentials() {
    let fake = Fake::start(|_, _| json("", 100)).await;
    let world = World::new(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &fake.url), ("AWS_REGION", "eu-west-1")]);
    let tokens =
        MskTokens::with_environment(MskForm::Iam, AwsOptions::default(), world.environment(), tls()).unwrap();
    let token = tokens.token("broker").await.unwrap();
    assert!(token.text.expose().contains(r#""x-amz-security-token":"hunter2""#));
    assert!(token.expires.unwrap().duration_since(SystemTime::now()).unwrap() <= Duration::from_secs(100));
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let world = World::new(&[]);
    let new = |options| AwsCredentials::new(options, world.environment(), tls()).unwrap_err().to_string();
    let region = AwsOptions { region: Some("EU West".to_owned()), ..AwsOptions::default() };
    assert_eq!(new(region), r#"region: "EU West" is not an AWS region"#);
    let orphan = AwsOptions { external_id: Some("x".to_owned()), ..AwsOptions::default() };
    assert!(new(orphan).starts_with("role_arn: is missing"));
}
