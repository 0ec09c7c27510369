//! `bodley doctor` finds what is wrong, says where and how to mend it, and tells a program the same.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use bodley_testbed::security::{ALICE, BOB, ODD_NAME, User};
use bodley_testbed::workbench::Right;
use bodley_testbed::{Cluster, ClusterOptions, Door, Login, properties};
use common::site::Site;
use common::vault::Vault;
use common::{Ran, bodley, list};
use serde_json::Value;

fn site() -> Site {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| {
        let cluster = Cluster::start(ClusterOptions::new().authorized()).unwrap();
        let bench = cluster.workbench().unwrap();
        ["orders", "payments"].iter().for_each(|topic| bench.create_topic(topic, 1, &[]).unwrap());
        cluster
    });
    Site::at(cluster)
}

/// Looks at the cluster through a door.
fn doctor(door: Door, login: &Login, args: &[&str]) -> Ran {
    let settings = site().cluster.client_properties(door, login).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), properties::text(&settings)).unwrap();
    let file = file.path().display().to_string();
    bodley(&[&["doctor", "--command-config", &file, "--output", "json"], args].concat())
}

fn scram(user: User) -> Login {
    Login::password("SCRAM-SHA-512", user)
}

fn allow(user: &str, kind: &str, name: &str, operations: &[&str]) {
    for operation in operations {
        let principal = format!("User:{user}");
        let right = Right { principal: &principal, kind, name, pattern: "LITERAL", operation };
        site().bench.allow(right).unwrap();
    }
}

/// The checks of an area with this verdict.
fn checks<'a>(report: &'a Value, area: &str, verdict: &str) -> Vec<&'a str> {
    let of_area = list(report, "checks").iter().filter(|check| check["area"] == area);
    of_area.filter(|check| check["verdict"] == verdict).map(|check| check["what"].as_str().unwrap()).collect()
}

/// One thing is wrong, in this area, and says this; there is advice, unless the words themselves give it.
#[track_caller]
fn wrong(ran: Ran, area: &str, says: &str) {
    let ran = ran.exits(1);
    let report = ran.json();
    let wrong: Vec<&Value> =
        list(&report, "checks").iter().filter(|check| check["verdict"] == "wrong").collect();
    assert_eq!((wrong.len(), &wrong[0]["area"]), (1, &area.into()), "{ran}");
    assert!(wrong[0]["what"].as_str().unwrap().contains(says), "{ran}");
    let advises = wrong[0]["hint"].as_str().is_some_and(|hint| !hint.is_empty());
    assert!(advises || ["tls", "sasl"].contains(&area), "{ran}");
    assert_eq!((list(&report, "errors").len(), &report["errors"][0]["code"]), (1, &area.into()), "{ran}");
    assert_eq!(report["errors"][0]["hint"], wrong[0]["hint"], "{ran}");
}

#[test]
fn all_is_well() {
    allow("alice", "TOPIC", "orders", &["READ", "DESCRIBE_CONFIGS"]);
    let vault = Vault::new();
    let report = doctor(Door::SaslSsl, &scram(ALICE), &["--vault", vault.url()]).exits(0).json();
    let rights = checks(&report, "rights", "ok");
    assert!(rights.contains(&"Read is allowed on 1 of 1 topics that are to be seen"), "{report:#}");
    assert!(
        rights.contains(&"DescribeConfigs is allowed on 1 of 1 topics that are to be seen"),
        "{report:#}"
    );
    // What she may not do is no fault: a backup does without.
    let notes = checks(&report, "rights", "note");
    for note in [
        "0 consumer groups and 1 topics are to be seen",
        "which topics may be created is not told to users who may not describe the cluster",
        "of 1 topics that are there Write is allowed on 0, AlterConfigs on 0",
        "state can't be kept in groups bodley-restore-*",
        "transactional ids bodley-restore-* are not allowed",
    ] {
        assert!(notes.contains(&note), "{note}: {report:#}");
    }
    for area in ["names", "tcp", "tls", "kafka", "sasl", "versions"] {
        // It notes answers that are slow.
        let all = [checks(&report, area, "ok"), checks(&report, area, "note")].concat();
        assert!(!all.is_empty() && checks(&report, area, "wrong").is_empty(), "{area}: {report:#}");
    }
    assert_eq!(checks(&report, "store", "ok").len(), 2, "{report:#}");
    assert!(vault.objects().is_empty(), "the probe is gone: {:?}", vault.objects());
    assert_eq!(list(&report, "errors").len(), 0);
}

#[test]
fn a_right_is_missing() {
    allow("bob", "TOPIC", "orders", &["READ", "DESCRIBE_CONFIGS"]);
    allow("bob", "TOPIC", "payments", &["DESCRIBE", "DESCRIBE_CONFIGS"]);
    let says = "Read is allowed on 1 of 2 topics that are to be seen; missing on payments";
    wrong(doctor(Door::SaslPlaintext, &scram(BOB), &[]), "rights", says);
}

#[test]
fn who_may_restore() {
    let name = ODD_NAME.name;
    allow(name, "TOPIC", "payments", &["READ", "WRITE", "ALTER_CONFIGS"]);
    allow(name, "CLUSTER", "kafka-cluster", &["CREATE", "DESCRIBE"]);
    allow(name, "GROUP", "bodley-restore-doctor", &["READ"]);
    allow(name, "TRANSACTIONAL_ID", "bodley-restore-doctor", &["WRITE"]);
    let report = doctor(Door::SaslPlaintext, &scram(ODD_NAME), &[]).exits(0).json();
    let rights = checks(&report, "rights", "ok");
    for right in [
        "topics of any name may be created",
        "of 1 topics that are there Write is allowed on 1, AlterConfigs on 1",
        "state can be kept in groups bodley-restore-*",
        "transactional ids bodley-restore-* are allowed",
    ] {
        assert!(rights.contains(&right), "{right}: {report:#}");
    }
}

#[test]
fn who_is_not_let_in() {
    let stranger = User { password: "wrong", ..ALICE };
    let ran = doctor(Door::SaslSsl, &scram(stranger), &[]);
    assert!(!ran.out.contains(ALICE.password), "{ran}");
    wrong(ran, "sasl", "SCRAM-SHA-512");
    wrong(doctor(Door::SaslSsl, &Login::password("PLAIN", stranger), &[]), "sasl", "PLAIN");
}

#[test]
fn certificates_that_are_not_good() {
    wrong(doctor(Door::ExpiredCert, &Login::Anonymous, &[]), "tls", "expired");
    wrong(doctor(Door::WrongHost, &Login::Anonymous, &[]), "tls", "localhost");
    wrong(doctor(Door::UnknownCa, &Login::Anonymous, &[]), "tls", "certificate");
    // Of the client's the broker decides.
    wrong(doctor(Door::Mtls, &Login::Anonymous, &[]), "tls", "certificate");
}

#[test]
fn addresses_that_lead_nowhere() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let at = |address: &str| bodley(&["doctor", "-b", address, "--output", "json"]);
    wrong(at(&free), "tcp", &free);
    wrong(at("no-such-broker.invalid:9092"), "names", "lookup");
    // A door with TLS, and a client without.
    wrong(at(&site().cluster.door(Door::Ssl).unwrap()), "kafka", "TLS");
    // One of two is enough to look at the cluster, but the other one is told.
    wrong(at(&format!("{},{free}", site().cluster.bootstrap())), "tcp", &free);
}

#[test]
fn places_of_vaults() {
    let site = site();
    let bootstrap = site.cluster.bootstrap();
    // Nobody may write here; who may do everything has to be somebody else for that.
    let folder = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o555)).tempdir().unwrap();
    let place = folder.path().join("vault").display().to_string();
    let args = ["doctor", "-b", &bootstrap, "--vault", &place, "--output", "json"];
    let probe = folder.path().join("probe");
    let mut command = if fs::write(&probe, "").is_ok() {
        fs::remove_file(&probe).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_bodley")]);
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_bodley"))
    };
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let report = common::run(command, &args).exits(0).json();
    let notes = checks(&report, "store", "note");
    assert!(notes.len() == 1 && notes[0].contains("ermission denied"), "{report:#}");

    let at = |place: &str| bodley(&["doctor", "-b", &bootstrap, "--vault", place, "--output", "json"]);
    // In the way is a file.
    let file = tempfile::NamedTempFile::new().unwrap();
    let report = at(file.path().to_str().unwrap()).exits(1).json();
    assert!(!checks(&report, "store", "wrong").is_empty(), "{report:#}");
    let vault = site.vault_of(&["orders"]);
    let report = at(vault.url()).exits(0).json();
    assert!(checks(&report, "store", "ok")[0].starts_with("a vault, "), "{report:#}");
}

/// People read the same, and settings that can't be read are exit 2 as everywhere.
#[test]
fn in_words() {
    let bootstrap = site().cluster.bootstrap();
    let ran = bodley(&["doctor", "-b", &bootstrap]).exits(0);
    assert!(ran.out.ends_with("\nnothing is wrong\n"), "{ran}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ran = bodley(&["doctor", "-b", &free]).exits(1).says("\n1 thing is wrong");
    assert!(ran.out.contains("WRONG  tcp") && ran.out.contains("→ does a broker listen there?"), "{ran}");
    bodley(&["doctor", "-b", &free, "--command-config", "/no/such", "--output", "json"]).exits(2);
}
