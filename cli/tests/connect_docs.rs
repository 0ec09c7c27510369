//! Every block of settings in docs/connect is filled in and used on a stand-in for the cluster that it is for: `bodley doctor` finds nothing
//! wrong, and a backup takes a topic. Blocks without a stand-in are named here with the reason, and must at least be taken.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bodley_testbed::aws::{CONTAINER_TOKEN, ROLE_ARN, Source, WEB_IDENTITY_TOKEN};
use bodley_testbed::iam::{AwsCredentials, REGION};
use bodley_testbed::oidc::{SCOPE, SERVICE};
use bodley_testbed::pki::{KEY_PASSWORD, Leaf, PASSWORD, Pki, Store};
use bodley_testbed::security::BOB;
use bodley_testbed::{AwsEndpoints, Cluster, ClusterOptions, Door, Iam, Oidc, paths};
use common::site::Site;
use common::vault::Vault;
use common::{Ran, command, list};
use tempfile::TempDir;

/// What a block is run against.
enum Place {
    /// The listener without anything.
    Plain,
    Door(Door),
    /// There is no stand-in, because …
    Nowhere(&'static str),
}

/// By page and the heading above the block: the stand-in, and words that the page must say where there is none.
fn place(page: &str, heading: &str) -> Place {
    let tls = Place::Door(Door::Ssl);
    let mtls = Place::Door(Door::Mtls);
    let sasl = Place::Door(Door::SaslSsl);
    match (page, heading) {
        ("kafka", "PLAINTEXT") => Place::Plain,
        ("kafka", "TLS, authority in PEM" | "TLS, authority in JKS") => tls,
        ("kafka", "mTLS with PEM" | "mTLS with PKCS#12" | "mTLS with JKS") => mtls,
        ("kafka", "SASL/SCRAM without TLS") => Place::Door(Door::SaslPlaintext),
        ("kafka", "SASL/PLAIN" | "SASL/SCRAM-SHA-256") => sasl,
        ("kafka", "SASL/SCRAM-SHA-512, in librdkafka's words") => sasl,
        ("kafka", "SASL/OAUTHBEARER, client credentials" | "SASL/OAUTHBEARER, token in a file") => sasl,
        ("msk", "IAM" | "IAM with a named profile") => Place::Door(Door::Iam),
        ("msk", "IAM with a role to assume") => {
            Place::Nowhere("no stand-in for STS's AssumeRole with signed requests")
        }
        ("msk", "IAM by OAUTHBEARER") => Place::Nowhere("no stand-in takes such tokens"),
        ("msk", "SASL/SCRAM") => sasl,
        ("msk", "mTLS") => mtls,
        ("confluent-cloud", "API key" | "OAuth") => sasl,
        ("event-hubs", "Connection string" | "Entra ID") => sasl,
        ("redpanda", "Self-hosted, SCRAM and TLS" | "Redpanda Cloud") => sasl,
        ("redpanda", "Self-hosted, mTLS") => mtls,
        ("aiven", "Client certificate" | "Client certificate, files from the console") => mtls,
        ("aiven", "SASL") => sasl,
        ("strimzi", "User of type tls, PKCS#12" | "User of type tls, PEM") => mtls,
        ("strimzi", "User of type scram-sha-512") => sasl,
        ("warpstream", "SASL/PLAIN") => sasl,
        _ => panic!("docs/connect/{page}.md, \"{heading}\": say here how it is tested"),
    }
}

struct Block {
    page: String,
    heading: String,
    text: String,
    /// All that the page says under the heading.
    section: String,
}

/// All blocks of all pages.
fn blocks() -> Vec<Block> {
    let mut found = Vec::new();
    for entry in fs::read_dir(paths::workspace_dir().join("docs/connect")).unwrap() {
        let path = entry.unwrap().path();
        let page = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        for section in text.split("\n## ").skip(1) {
            let heading = section.lines().next().unwrap();
            let parts: Vec<&str> = section.split("```properties\n").collect();
            assert!(parts.len() <= 2, "{page}, {heading}: one block for each heading");
            let Some(block) = parts.get(1) else { continue };
            let (text, _) = block.split_once("```").unwrap();
            let (page, heading, text) = (page.clone(), heading.to_owned(), text.to_owned());
            found.push(Block { page, heading, text, section: section.to_owned() });
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

/// Files as services hand them out, and what words in `<…>` stand for.
struct Desk {
    folder: TempDir,
    pki: &'static Pki,
    oidc: Oidc,
}

impl Desk {
    fn new() -> Self {
        let (folder, pki, oidc) =
            (tempfile::tempdir().unwrap(), Pki::ensure().unwrap(), Oidc::start().unwrap());
        let desk = Self { folder, pki, oidc };
        // The secrets of Strimzi's user and authority, as Kubernetes mounts them.
        let jaas = format!(
            "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{}\" password=\"{}\";",
            BOB.name, BOB.password
        );
        for (file, content) in [
            ("ca/ca.p12", fs::read(pki.store(Store::TrustPkcs12)).unwrap()),
            ("ca/ca.password", PASSWORD.into()),
            ("ca/ca.crt", fs::read(pki.ca()).unwrap()),
            ("user/user.p12", fs::read(pki.store(Store::KeyPkcs12)).unwrap()),
            ("user/user.password", PASSWORD.into()),
            ("user/user.crt", fs::read(pki.cert(Leaf::Alice)).unwrap()),
            ("user/user.key", fs::read(pki.key(Leaf::Alice)).unwrap()),
            ("user/sasl.jaas.config", jaas.into_bytes()),
            ("token", desk.oidc.token(SERVICE).unwrap().into_bytes()),
        ] {
            desk.write(file, &content);
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn words(&self) -> BTreeMap<&'static str, String> {
        let text = |path: PathBuf| path.display().to_string();
        let (pki, bob) = (self.pki, BOB);
        BTreeMap::from([
            ("<ca.pem>", text(pki.ca())),
            ("<truststore.jks>", text(pki.store(Store::TrustJks))),
            ("<client.truststore.jks>", text(pki.store(Store::TrustJks))),
            ("<truststore.p12>", text(pki.store(Store::TrustPkcs12))),
            ("<client.pem>", text(pki.pem_keystore(Leaf::Alice))),
            ("<client.crt>", text(pki.cert(Leaf::Alice))),
            ("<service.cert>", text(pki.cert(Leaf::Alice))),
            ("<client.key>", text(pki.key(Leaf::Alice))),
            ("<service.key>", text(pki.key(Leaf::Alice))),
            ("<keystore.p12>", text(pki.store(Store::KeyPkcs12))),
            ("<client.keystore.p12>", text(pki.store(Store::KeyPkcs12))),
            ("<keystore.jks>", text(pki.store(Store::KeyJks))),
            ("<store password>", PASSWORD.to_owned()),
            ("<key password>", KEY_PASSWORD.to_owned()),
            ("<user>", bob.name.to_owned()),
            ("<API key>", bob.name.to_owned()),
            ("<password>", bob.password.to_owned()),
            ("<API secret>", bob.password.to_owned()),
            ("<connection string>", bob.password.to_owned()),
            ("<client id>", SERVICE.id.to_owned()),
            ("<client secret>", SERVICE.secret.to_owned()),
            ("<scope>", SCOPE.to_owned()),
            ("<token file>", text(self.path("token"))),
            ("<cluster id>", "lkc-1".to_owned()),
            ("<pool id>", "pool-1".to_owned()),
            ("<profile>", "backups".to_owned()),
            ("<role ARN>", ROLE_ARN.to_owned()),
            ("<region>", REGION.to_owned()),
        ])
    }

    /// A file of settings with everything filled in that is a user's to fill in, and with the stand-in's own: its addresses, the authority
    /// of its certificates where the system's are to be trusted, and the scope that its identity provider knows.
    fn fill_in(&self, block: &Block, servers: &str) -> PathBuf {
        let name = format!("{}, {}", block.page, block.heading);
        let mut lines: Vec<String> = Vec::new();
        for line in block.text.lines() {
            let key = line.split_once('=').map_or("", |(key, _)| key);
            let filled = match key {
                "bootstrap.servers" | "metadata.broker.list" => format!("{key}={servers}"),
                "sasl.oauthbearer.token.endpoint.url" if line.contains("https:") => {
                    lines.push(format!("https.ca.location={}", self.pki.ca().display()));
                    lines.push("sasl.oauthbearer.header.urlencode=true".to_owned());
                    format!("{key}={}", self.oidc.secure_token_endpoint())
                }
                _ => line.to_owned(),
            };
            lines.push(filled);
        }
        let mut text = lines.join("\n");
        for (from, to) in [
            ("\"$ConnectionString\"", "\"<user>\""),
            ("\"https://<namespace>.servicebus.windows.net/.default\"", "\"<scope>\""),
            ("/ca/", &format!("{}/", self.path("ca").display())),
            ("{dir:/ca:", &format!("{{dir:{}:", self.path("ca").display())),
            ("{dir:/user:", &format!("{{dir:{}:", self.path("user").display())),
            ("=/user/", &format!("={}/", self.path("user").display())),
        ] {
            text = text.replace(from, to);
        }
        for (word, value) in self.words() {
            text = text.replace(word, &value);
        }
        assert!(!text.contains('<'), "{name}: not filled in: {text}");
        let has = |word: &str| text.contains(word);
        if has("SSL") && !has("ssl.truststore") && !has("ssl.ca.location") {
            text +=
                &format!("\nssl.truststore.type=PEM\nssl.truststore.location={}", self.pki.ca().display());
        }
        let file = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        self.write(&format!("{file}.properties"), text.as_bytes())
    }
}

/// Runs bodley with nothing that this machine knows of AWS.
fn run(verb: &str, file: &Path, home: &Path, env: &[(&str, &str)], args: &[&str]) -> Ran {
    let file = file.display().to_string();
    let fixed = [verb, "--command-config", &file, "--output", "json"];
    let args = [&fixed, args].concat();
    let mut command = command(&args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", home).env("AWS_EC2_METADATA_DISABLED", "true").envs(env.iter().copied());
    common::run(command, &args)
}

#[track_caller]
fn works(name: &str, file: &Path, home: &Path, env: &[(&str, &str)]) {
    let said = run("doctor", file, home, env, &[]);
    assert_eq!(said.code, Some(0), "{name}: {said}");
    let report = said.json();
    assert!(list(&report, "checks").iter().all(|check| check["verdict"] != "wrong"), "{name}: {report:#}");
    let vault = Vault::new();
    let ran = run("backup", file, home, env, &["--vault", vault.url(), "--topic", "kept"]);
    assert_eq!(ran.code, Some(0), "{name}: {ran}");
    assert_eq!(ran.json()["records"], 7, "{name}: {ran}");
    let unknown = |note: &&serde_json::Value| {
        let note = note.as_str().unwrap();
        ["unknown", "without meaning", "not used"].iter().any(|word| note.contains(word))
    };
    assert_eq!(list(&report, "notes").iter().find(unknown), None, "{name}");
}

/// The ways in which AWS's credentials come, each against a stand-in.
fn every_source(desk: &Desk, iam: &Iam, file: &Path) {
    let (aws, own) = (AwsEndpoints::start(iam).unwrap(), AwsCredentials::random());
    iam.know(own.clone());
    let region = ("AWS_REGION", REGION);
    let keys = format!(
        "aws_access_key_id = {}\naws_secret_access_key = {}\n",
        own.access_key_id, own.secret_access_key
    );
    desk.write("home/.aws/credentials", format!("[default]\n{keys}[backups]\n{keys}").as_bytes());
    desk.write("home/.aws/config", format!("[default]\nregion = {REGION}\n").as_bytes());
    let token = desk.write("web-identity", WEB_IDENTITY_TOKEN.as_bytes()).display().to_string();
    let (nobody, home) = (desk.path("user"), desk.path("home"));
    let (container, sts, metadata) = (aws.container(), aws.sts(), aws.metadata());
    let environment =
        [("AWS_ACCESS_KEY_ID", &*own.access_key_id), ("AWS_SECRET_ACCESS_KEY", &own.secret_access_key)];
    works("keys in the environment", file, &nobody, &[&environment[..], &[region]].concat());
    works("the default profile", file, &home, &[region]);
    works("AWS_PROFILE", file, &home, &[region, ("AWS_PROFILE", "backups")]);
    let web_identity = [
        region,
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
        ("AWS_ROLE_ARN", ROLE_ARN),
        ("AWS_ENDPOINT_URL_STS", &sts),
    ];
    works("web identity", file, &nobody, &web_identity);
    let of_container = [
        region,
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*container),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN),
    ];
    works("container", file, &nobody, &of_container);
    let of_instance =
        [region, ("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata)];
    works("instance", file, &nobody, &of_instance);
    for source in [Source::Sts, Source::Container, Source::Instance] {
        assert_eq!(aws.lent(source), 2, "{source:?}");
    }
}

#[test]
fn every_block_of_settings_works() {
    let (desk, iam) = (Desk::new(), Iam::new());
    let options = ClusterOptions::new().secured().oidc(&desk.oidc).iam(&iam);
    let cluster: &Cluster = Box::leak(Box::new(Cluster::start(options).unwrap()));
    let site = Site::at(cluster);
    site.topic("kept", 1);
    site.write("kept", 0, "record", 7);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let home = desk.path("home");
    let mut skipped = 0;
    for block in blocks() {
        let name = format!("docs/connect/{}.md, {}", block.page, block.heading);
        let servers = match place(&block.page, &block.heading) {
            Place::Plain => cluster.bootstrap(),
            Place::Door(door) => cluster.door(door).unwrap(),
            Place::Nowhere(reason) => {
                assert!(
                    block.section.contains(&format!("Not run: {reason}.")),
                    "{name}: the page must say so"
                );
                let file = desk.fill_in(&block, &closed);
                let args = ["--vault", "/no/such", "--give-up-after", "1s"];
                let ran = run("backup", &file, &home, &[("AWS_REGION", REGION)], &args);
                assert_eq!(ran.code, Some(1), "{name}: {ran}");
                assert_eq!(ran.json()["errors"][0]["code"], "kafka_unreachable", "{name}: {ran}");
                skipped += 1;
                continue;
            }
        };
        let file = desk.fill_in(&block, &servers);
        match (&*block.page, &*block.heading) {
            ("msk", "IAM") => every_source(&desk, &iam, &file),
            // After "IAM", which has written the profile.
            ("msk", "IAM with a named profile") => works(&name, &file, &home, &[("AWS_REGION", REGION)]),
            _ => works(&name, &file, &home, &[]),
        }
    }
    assert_eq!(skipped, 2);
    assert!(iam.refusals().is_empty(), "{:?}", iam.refusals());
}
