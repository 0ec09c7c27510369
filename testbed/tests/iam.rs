//! The stand-in for Amazon MSK's IAM, by the judgement of Amazon's own client library.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::process::Command;
use std::time::Duration;

use bodley_testbed::aws::{CONTAINER_TOKEN, INSTANCE_ROLE, ROLE_ARN, Source, WEB_IDENTITY_TOKEN};
use bodley_testbed::iam::{AwsCredentials, REGION};
use bodley_testbed::jars::{DEFAULT_VERSION, Kafka, msk_iam_auth};
use bodley_testbed::{AwsEndpoints, Cluster, ClusterOptions, Door, Iam, Login, properties};

/// Runs one of Kafka's own tools with Amazon's library, credentials from the environment.
fn run(cluster: &Cluster, tool: &[&str], env: &[(&str, &str)]) -> Result<String, String> {
    let settings = cluster.client_properties(Door::Iam, &Login::Iam).unwrap();
    let file = tempfile::NamedTempFile::new_in(cluster.dir()).unwrap();
    std::fs::write(&file, properties::text(&settings)).unwrap();
    let kafka = Kafka::ensure(DEFAULT_VERSION).unwrap();
    let classpath = format!("{}:{}/*", kafka.classpath(), msk_iam_auth().unwrap().display());
    let mut java = Command::new("java");
    java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &classpath]).args(tool);
    java.args(["--bootstrap-server", &cluster.door(Door::Iam).unwrap(), "--command-config"]).arg(file.path());
    // Nothing that this machine knows of AWS may help.
    let path = std::env::var_os("PATH").unwrap_or_default();
    java.env_clear().env("PATH", path).env("HOME", cluster.dir());
    java.env("AWS_REGION", REGION).envs(env.iter().copied());
    let out = java.output().unwrap();
    if out.status.success() {
        Ok(String::from_utf8(out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }
}

fn list(cluster: &Cluster, env: &[(&str, &str)]) -> Result<String, String> {
    run(cluster, &["org.apache.kafka.tools.TopicCommand", "--list"], env)
}

fn env(credentials: &AwsCredentials) -> Vec<(&'static str, &str)> {
    let mut env = vec![
        ("AWS_ACCESS_KEY_ID", &*credentials.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", &*credentials.secret_access_key),
    ];
    env.extend(credentials.session_token.as_deref().map(|token| ("AWS_SESSION_TOKEN", token)));
    env
}

#[test]
fn amazons_own_client_is_let_in() {
    let iam = Iam::new();
    let cluster = Cluster::start(ClusterOptions::new().iam(&iam)).unwrap();
    cluster.workbench().unwrap().create_topic("seen", 1, &[]).unwrap();
    let (own, lent) = (AwsCredentials::random(), AwsCredentials::lent(Duration::from_secs(3600)));
    for credentials in [&own, &lent] {
        iam.know(credentials.clone());
        assert_eq!(list(&cluster, &env(credentials)).unwrap(), "seen\n");
        let last = iam.admissions().pop().unwrap();
        assert_eq!((last.access_key_id, &*last.host), (credentials.access_key_id.clone(), "localhost"));
    }
    let refusals = iam.refusals();
    assert!(refusals.is_empty(), "{refusals:?}");

    // A client that stays logs in again and again, in between its other requests.
    let tool = ["org.apache.kafka.tools.ProducerPerformance", "--topic", "seen"];
    let load = ["--num-records", "4000", "--record-size", "100", "--throughput", "200"];
    iam.set_session_lifetime(Some(Duration::from_secs(5)));
    let said = run(&cluster, &[&tool[..], &load].concat(), &env(&own)).unwrap();
    assert!(said.contains("4000 records sent"), "{said}");
    let again = iam.admissions().iter().filter(|a| a.again).count() as u64;
    assert!(
        again >= 2 && iam.expired_sessions() < again,
        "{again} times, {} expired",
        iam.expired_sessions()
    );
    iam.set_session_lifetime(None);

    let wrong = AwsCredentials { secret_access_key: "wrong".to_owned(), ..own };
    let error = list(&cluster, &env(&wrong)).unwrap_err();
    assert!(error.contains("Access denied: the signature does not match"), "{error}");
    assert_eq!(iam.refusals(), ["the signature does not match"]);

    let aws = AwsEndpoints::start(&iam).unwrap();
    let container = aws.container();
    let from_container = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*container),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN),
    ];
    assert_eq!(list(&cluster, &from_container).unwrap(), "seen\n");
    let container = (aws.requests(Source::Container), aws.lent(Source::Container));
    // Its reads have a limit of a second, after which it asks again.
    assert!(container.0 == container.1 && container.0 >= 1, "{container:?}");
    assert_eq!(list(&cluster, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*aws.metadata())]).unwrap(), "seen\n");
    assert!(aws.lent(Source::Instance) >= 1);
}

#[test]
fn credentials_are_lent_to_those_who_ask_rightly() {
    let aws = AwsEndpoints::start(&Iam::new()).unwrap();
    let sts = |token: &str| {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("Action", "AssumeRoleWithWebIdentity"), ("Version", "2011-06-15")])
            .extend_pairs([("RoleArn", ROLE_ARN), ("RoleSessionName", "me"), ("WebIdentityToken", token)])
            .finish();
        ureq::post(aws.sts()).send(form).map(|mut a| a.body_mut().read_to_string().unwrap())
    };
    assert!(sts(WEB_IDENTITY_TOKEN).unwrap().contains("<SessionToken>IQoJ"));
    assert!(sts("wrong").is_err());
    assert_eq!((aws.requests(Source::Sts), aws.lent(Source::Sts)), (2, 1));

    assert!(ureq::get(aws.container()).call().is_err());
    let role = format!("{}/latest/meta-data/iam/security-credentials/{INSTANCE_ROLE}", aws.metadata());
    assert!(ureq::get(&role).call().is_err());
    aws.fail(Some(503));
    assert!(sts(WEB_IDENTITY_TOKEN).is_err());
}
