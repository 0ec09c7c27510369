//! Sessions that end while a run goes on: it logs in again over the same connections, and tokens are renewed in time.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Duration;

use bodley_testbed::iam::{Admission, AwsCredentials};
use bodley_testbed::oidc;
use bodley_testbed::security::{ALICE, BOB};
use bodley_testbed::workloads::{BulkOptions, bulk};
use bodley_testbed::{Door, Login, Proxy};

use crate::common::judge::same_digests;
use crate::common::vault::Vault;
use crate::common::{Ran, Running, seconds};

use super::client::Client;
use super::places::{Place, SESSION, away, together};

const TOPIC: &str = "slow";
const BYTES: u64 = 60 << 20;
/// So much a second makes it last five sessions.
const LIMIT: &str = "4M";
const TOKEN: Duration = Duration::from_secs(5);
const REFRESH: (&str, &str) = ("sasl.login.refresh.window.factor", "0.7");

/// One at a time: each makes use of the doors in its own way.
fn turn() -> (MutexGuard<'static, ()>, &'static Place) {
    static TURN: Mutex<()> = Mutex::new(());
    static FILLED: Once = Once::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let place = away();
    FILLED.call_once(|| {
        place.site.topic(TOPIC, 2);
        let options = BulkOptions { partitions: 2, ..BulkOptions::default() };
        bulk(&place.site.bench, TOPIC, BYTES, options).unwrap();
        place.oidc.set_lifetime(TOKEN).unwrap();
    });
    (turn, place)
}

/// A backup and a restore that take their time while `disturb` is at work on each.
struct Trip {
    backup: Ran,
    restore: Ran,
}

impl Trip {
    #[track_caller]
    fn slowly(name: &str, client: &Client, disturb: impl Fn(&mut Running) -> Result<(), String>) -> Self {
        let (site, vault) = (&away().site, Vault::new());
        let target = format!("{TOPIC}-{name}");
        let renamed = format!("{TOPIC}={target}");
        let run = |verb, args: &[&str]| {
            let mut run = client.start(verb, &vault, &[&["--topic", TOPIC, "-vv"], args].concat());
            let seen = disturb(&mut run);
            let ran = client.end(run).exits(0);
            seen.unwrap_or_else(|what| panic!("{name}: {what}: {ran}"));
            ran
        };
        let backup = run("backup", &["--limit-read", LIMIT]);
        client.left_nothing_in(&vault);
        let restore = run("restore", &["--limit-write", LIMIT, "--rename", &renamed]);
        let trip = Self { backup, restore };
        for (verb, ran) in trip.both() {
            assert!(ran.took >= 4 * SESSION, "{name}: {verb} is too fast for this test: {ran}");
            eprintln!(
                "{name}: {verb} in {:.1?}, {} sessions renewed, {} tries again",
                ran.took,
                renewals(ran),
                again(ran)
            );
        }
        same_digests(&site.bench, TOPIC, &target);
        trip
    }

    fn both(&self) -> [(&str, &Ran); 2] {
        [("backup", &self.backup), ("restore", &self.restore)]
    }

    /// Nothing was tried again, and sessions were renewed at least so often.
    #[track_caller]
    fn went_smoothly(&self) {
        for (verb, ran) in self.both() {
            assert!(renewals(ran) >= 4 && again(ran) == 0, "{verb}: {ran}");
        }
    }
}

fn renewals(ran: &Ran) -> usize {
    ran.err.matches("session renewed").count()
}

/// What it says when a request or a connection failed.
fn again(ran: &Ran) -> usize {
    ["again: ", " INFO broker "].map(|start| ran.err.matches(start).count()).iter().sum()
}

#[test]
fn logging_in_again() {
    let (_others, (_turn, place)) = (together(), turn());
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = place.client(Door::SaslSsl, &Login::password("SCRAM-SHA-512", ALICE));
            smoothly("scram", place.site.cluster.door_proxy(Door::SaslSsl, 0).unwrap(), &client);
        });
        scope.spawn(|| {
            let endpoint = place.oidc.token_endpoint();
            let login = Login::Client { client: oidc::SERVICE, endpoint };
            // Tokens end on whole seconds: after 5 s, or up to one sooner.
            let client = place.client(Door::SaslPlaintext, &login).set(REFRESH.0, REFRESH.1);
            let before = place.oidc.tokens().unwrap();
            smoothly("tokens", place.site.cluster.door_proxy(Door::SaslPlaintext, 0).unwrap(), &client);
            let tokens = place.oidc.tokens().unwrap() - before;
            eprintln!("tokens: {tokens} were given");
            // At least two ended on each way; none is asked for at each new session or connection.
            assert!((6..=14).contains(&tokens), "{tokens}");
        });
        scope.spawn(by_aws);
    });
}

fn unchanged<T: PartialEq + Display>(what: &str, then: T, now: T) -> Result<(), String> {
    if then == now { Ok(()) } else { Err(format!("{then} {what}, and then {now}")) }
}

/// No connection was opened but at the start of a run.
#[track_caller]
fn smoothly(name: &str, proxy: &Proxy, client: &Client) {
    Trip::slowly(name, client, |run| {
        run.leave_alone(seconds(3.0));
        let opened = proxy.opened();
        run.leave_alone(seconds(9.0));
        unchanged("connections", opened, proxy.opened())
    })
    .went_smoothly();
}

fn by_aws() {
    let place = away();
    let credentials = AwsCredentials::random();
    place.iam.know(credentials.clone());
    let client = Client::aws(place.site.cluster, &credentials);
    let admitted = |again| {
        let all: Vec<Admission> = place.iam.admissions();
        all.iter().filter(|one| one.again == again && one.access_key_id == credentials.access_key_id).count()
    };
    Trip::slowly("aws", &client, |run| {
        run.leave_alone(seconds(3.0));
        let (new, old) = (admitted(false), admitted(true));
        run.leave_alone(seconds(9.0));
        if admitted(true) < old + 2 {
            return Err(format!("{old} sessions began again, then {}", admitted(true)));
        }
        unchanged("connections", new, admitted(false))
    })
    .went_smoothly();
    assert_eq!(place.iam.expired_sessions(), 0);
    eprintln!("aws: {} sessions began, {} again", admitted(false), admitted(true));
    assert!(admitted(true) >= 8);
}

#[test]
fn through_trouble() {
    let (_others, (_turn, place)) = (together(), turn());
    let proxy = place.site.cluster.door_proxy(Door::SaslSsl, 0).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = place.client(Door::SaslSsl, &Login::password("SCRAM-SHA-256", BOB));
            let opened = proxy.opened();
            Trip::slowly("cut", &client, |run| {
                for _ in 0..3 {
                    run.leave_alone(seconds(3.7));
                    proxy.cut();
                }
                Ok(())
            });
            assert!(proxy.opened() >= opened + 6);
        });
        scope.spawn(|| {
            let endpoint = place.oidc.token_endpoint();
            let login = Login::Client { client: oidc::ALICE, endpoint };
            let failures = place.oidc.failures().unwrap();
            let client = place.client(Door::SaslPlaintext, &login).set(REFRESH.0, REFRESH.1);
            Trip::slowly("provider-down", &client, |run| {
                run.leave_alone(seconds(3.5));
                place.oidc.fail(Some(503)).unwrap();
                run.leave_alone(seconds(3.0));
                place.oidc.fail(None).map_err(|e| e.to_string())
            });
            assert!(place.oidc.failures().unwrap() > failures, "nobody noticed");
        });
    });
}

/// A token that ends soon makes for a session that is over before brokers bear the next login.
#[test]
fn sessions_of_a_second() {
    let (_others, (_turn, place)) = (together(), turn());
    let (credentials, vault) = (AwsCredentials::random(), Vault::new());
    place.iam.know(credentials.clone());
    place.iam.set_session_lifetime(Some(Duration::from_secs(1)));
    let client = Client::aws(place.site.cluster, &credentials);
    let ran = client.run("backup", &vault, &["--topic", TOPIC, "-vv", "--limit-read", "16M"]);
    place.iam.set_session_lifetime(Some(SESSION));
    let ran = ran.exits(0);
    eprintln!("sessions of a second: {} renewed in {:.1?}", renewals(&ran), ran.took);
    assert!(renewals(&ran) >= 2 && again(&ran) == 0, "{ran}");
    assert_eq!(place.iam.expired_sessions(), 0, "{ran}");
}
