//! Sessions that end while a run goes on: it logs in again over the same connections, and tokens are renewed in time.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bodley_testbed::iam::{Admission, AwsCredentials};
use bodley_testbed::oidc;
use bodley_testbed::security::{ALICE, BOB};
use bodley_testbed::workloads::{BulkOptions, bulk};
use bodley_testbed::{Door, Login};

use crate::common::judge::same_digests;
use crate::common::vault::Vault;
use crate::common::{Ran, Running, seconds};

use super::client::Client;
use super::places::{Place, SESSION, away, together};

const TOPIC: &str = "slow";
const BYTES: u64 = 60 << 20;
/// So much a second makes it last five sessions.
const LIMIT: &str = "2560K";
const TOKEN: Duration = Duration::from_secs(8);
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

/// A backup and a restore that took their time.
struct Trip {
    backup: Ran,
    restore: Ran,
}

impl Trip {
    /// `disturb` is at work on each of both.
    #[track_caller]
    fn slowly(name: &str, client: &Client, disturb: impl Fn(&mut Running)) -> Self {
        let (site, vault) = (&away().site, Vault::new());
        let target = format!("{TOPIC}-{name}");
        let renamed = format!("{TOPIC}={target}");
        let run = |verb, args: &[&str]| {
            let mut run = client.start(verb, &vault, &[&["--topic", TOPIC, "-vv"], args].concat());
            disturb(&mut run);
            client.end(run).exits(0)
        };
        let backup = run("backup", &["--limit-read", LIMIT]);
        client.left_nothing_in(&vault);
        let restore = run("restore", &["--limit-write", LIMIT, "--rename", &renamed]);
        let trip = Self { backup, restore };
        for (verb, ran) in [("backup", &trip.backup), ("restore", &trip.restore)] {
            assert!(ran.took >= 4 * SESSION, "{name}: {verb} is too fast for this test: {ran}");
            let (took, renewed, again) = (ran.took, renewals(ran), again(ran));
            eprintln!("{name}: {verb} in {took:.1?}, {renewed} sessions renewed, {again} tries again");
        }
        same_digests(&site.bench, TOPIC, &target);
        trip
    }

    /// The same undisturbed: sessions are renewed, nothing is tried again, and after the start no connection is `opened`.
    #[track_caller]
    fn smoothly(name: &str, client: &Client, opened: impl Fn() -> u64) {
        in_peace(3, |attempt| {
            let more = Cell::new(0);
            let trip = Self::slowly(&format!("{name}-{attempt}"), client, |run| {
                let before = settled(run, &opened);
                run.leave_alone(seconds(9.0));
                more.set(more.get() + opened() - before);
            });
            let smooth = |ran: &Ran| renewals(ran) >= 4 && again(ran) == 0;
            let rough = [&trip.backup, &trip.restore].into_iter().find(|ran| !smooth(ran));
            match (rough, more.get()) {
                (Some(ran), _) => Err(format!("{name}: {ran}")),
                (None, 0) => Ok(()),
                (None, more) => Err(format!("{name}: {more} connections were opened in the middle")),
            }
        });
    }
}

/// Waits until no more connections are opened; how many there were.
fn settled(run: &mut Running, opened: impl Fn() -> u64) -> u64 {
    let (mut known, mut since) = (opened(), Instant::now());
    run.wait_until("connections remain the same", || {
        let now = opened();
        if now != known {
            (known, since) = (now, Instant::now());
        }
        since.elapsed() > seconds(3.0)
    });
    known
}

/// Sessions are renewed tenths of a second before they end: where others need the machine, that can be too late.
#[track_caller]
fn in_peace(attempts: usize, attempt: impl Fn(usize) -> Result<(), String>) {
    let mut complaints = (0..attempts).map(attempt).map_while(Result::err);
    if let Some(last) = complaints.by_ref().nth(attempts - 1) {
        panic!("{last}");
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
    let proxy = |door| place.site.cluster.door_proxy(door, 0).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = place.client(Door::SaslSsl, &Login::password("SCRAM-SHA-512", ALICE));
            Trip::smoothly("scram", &client, || proxy(Door::SaslSsl).opened());
        });
        scope.spawn(|| {
            let endpoint = place.oidc.token_endpoint();
            let login = Login::Client { client: oidc::SERVICE, endpoint };
            // Tokens end on whole seconds: after 8 s, or up to one sooner.
            let client = place.client(Door::SaslPlaintext, &login).set(REFRESH.0, REFRESH.1);
            let (before, begun) = (place.oidc.tokens().unwrap(), Instant::now());
            Trip::smoothly("tokens", &client, || proxy(Door::SaslPlaintext).opened());
            let tokens = place.oidc.tokens().unwrap() - before;
            // At least two ended on each way; none is asked for at each new session or connection.
            let most = 6 + (begun.elapsed().as_secs_f64() / (0.5 * TOKEN.as_secs_f64())) as u64;
            eprintln!("tokens: {tokens} were given, {most} may be");
            assert!((6..=most).contains(&tokens), "{tokens}");
        });
        scope.spawn(by_aws);
    });
}

fn by_aws() {
    let place = away();
    let credentials = AwsCredentials::random();
    place.iam.know(credentials.clone());
    let client = Client::aws(place.site.cluster, &credentials);
    let admitted = |again| {
        let all: Vec<Admission> = place.iam.admissions();
        let ours = |one: &&Admission| one.again == again && one.access_key_id == credentials.access_key_id;
        all.iter().filter(ours).count() as u64
    };
    Trip::smoothly("aws", &client, || admitted(false));
    let (began, again, expired) = (admitted(false), admitted(true), place.iam.expired_sessions());
    eprintln!("aws: {began} sessions began, {again} again, {expired} expired");
    assert!(again >= 8, "{again}");
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
            });
            assert!(proxy.opened() >= opened + 6);
        });
        scope.spawn(|| {
            let endpoint = place.oidc.token_endpoint();
            let login = Login::Client { client: oidc::ALICE, endpoint };
            let failures = || place.oidc.failures().unwrap();
            let client = place.client(Door::SaslPlaintext, &login).set(REFRESH.0, REFRESH.1);
            Trip::slowly("provider-down", &client, |run| {
                run.leave_alone(seconds(3.5));
                let before = failures();
                place.oidc.fail(Some(503)).unwrap();
                while failures() == before {
                    assert!(run.leave_alone(seconds(0.1)).is_running(), "nobody noticed");
                }
                run.leave_alone(seconds(1.5));
                place.oidc.fail(None).unwrap();
            });
        });
    });
}

/// A token that ends soon makes for a session that is over before brokers bear the next login.
#[test]
fn sessions_of_a_second() {
    let (_others, (_turn, place)) = (together(), turn());
    let credentials = AwsCredentials::random();
    place.iam.know(credentials.clone());
    let client = Client::aws(place.site.cluster, &credentials);
    in_peace(10, |_| {
        let expired = place.iam.expired_sessions();
        place.iam.set_session_lifetime(Some(Duration::from_secs(1)));
        let ran = client.run("backup", &Vault::new(), &["--topic", TOPIC, "-vv", "--limit-read", "16M"]);
        place.iam.set_session_lifetime(Some(SESSION));
        let (ran, expired) = (ran.exits(0), place.iam.expired_sessions() - expired);
        eprintln!("sessions of a second: {} renewed in {:.1?}", renewals(&ran), ran.took);
        let smooth = renewals(&ran) >= 2 && again(&ran) == 0 && expired == 0;
        if smooth { Ok(()) } else { Err(format!("{expired} expired: {ran}")) }
    });
}
