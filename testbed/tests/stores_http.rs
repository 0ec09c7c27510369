//! The server under the stores for tests: what it does, and each way in which it does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bodley_testbed::pki::Leaf;
use bodley_testbed::stores::http::{Action, Answer, Clock, Handler, Head, Request, Rule, Server, decode};

/// Keeps what is put, and gives it back.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, bytes::Bytes>>);

impl Handler for Shelf {
    fn operation(&self, head: &Head) -> &'static str {
        match head.method.as_str() {
            "PUT" => "Put",
            "GET" => "Get",
            _ => "Other",
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let (mut shelf, head) = (self.0.lock().unwrap(), &request.head);
        if request.is_twisted("upside down") {
            return Answer::new(200).body("umop apisdn");
        }
        match head.method.as_str() {
            "PUT" => {
                shelf.insert(head.path.clone(), request.body.clone());
                Answer::new(200).header("x-query", head.param("a b").unwrap_or("none"))
            }
            _ => match shelf.get(&head.path) {
                Some(body) => Answer::new(200).pieces(vec![body.slice(..1), body.slice(1..)]),
                None => Answer::new(404).body("nothing there"),
            },
        }
    }
}

struct World {
    shelf: Arc<Shelf>,
    server: Server,
    agent: ureq::Agent,
}

/// A status, a body.
type Outcome = Result<(u16, Vec<u8>), ureq::Error>;

impl World {
    fn new() -> Self {
        let shelf = Arc::new(Shelf::default());
        let server = Server::start(shelf.clone(), &Clock::default()).unwrap();
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(Some(Duration::from_secs(120))).build().into();
        Self { shelf, server, agent }
    }

    fn url(&self, path: &str) -> String {
        self.server.url() + path
    }

    fn put(&self, path: &str, body: &[u8]) -> Outcome {
        whole(self.agent.put(self.url(path)).send(body)?)
    }

    fn get(&self, path: &str) -> Outcome {
        whole(self.agent.get(self.url(path)).call()?)
    }

    fn has(&self, path: &str) -> bool {
        self.shelf.0.lock().unwrap().contains_key(path)
    }
}

fn whole(mut answer: ureq::http::Response<ureq::Body>) -> Outcome {
    let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec()?;
    Ok((answer.status().as_u16(), body))
}

#[test]
fn honest_answers_and_what_is_remembered() {
    let world = World::new();
    let large: Vec<u8> = (0..64usize << 20).map(|i| (i / 7) as u8).collect();
    assert_eq!(world.put("/large", &large).unwrap(), (200, vec![]));
    assert!(world.get("/large").unwrap() == (200, large));
    assert_eq!(world.put("/a%20b%zz+c?a+b=%26", b"small").unwrap().0, 200);
    assert_eq!(world.get("/a%20b%25zz+c").unwrap(), (200, b"small".to_vec()));
    assert_eq!(world.get("/none").unwrap(), (404, b"nothing there".to_vec()));

    let log = world.server.log();
    assert_eq!(log.counts(), BTreeMap::from([("Get", 3), ("Put", 2)]));
    assert_eq!((log.count("Put"), log.count("Other"), log.connections()), (2, 0, 1), "connections are kept");
    let records = log.records();
    let of =
        |n: usize| (records[n].path.as_str(), records[n].status, records[n].bytes_in, records[n].bytes_out);
    assert_eq!(of(0), ("/large", 200, 64 << 20, 0));
    assert_eq!(of(1), ("/large", 200, 0, 64 << 20));
    assert_eq!((of(2), records[2].query.as_str()), (("/a b%zz+c", 200, 5, 0), "a+b=%26"));
    assert_eq!((of(4), records[4].fault), (("/none", 404, 0, 13), false));
    assert!(records[4].header("user-agent").unwrap().contains("ureq"));
    log.clear();
    assert!(log.records().is_empty());
    assert_eq!(decode("%E2%82%AC%2f%"), "€/%");
}

#[test]
fn rules_answer_before_and_after_the_effect() {
    let world = World::new();
    let faults = world.server.faults();
    let slow = Answer::new(503).header("retry-after", "1").body("later");
    let before = faults.add(Rule::on("Put", Action::Answer(slow.clone())).path("before").times(2));
    for expected in [503, 503, 200] {
        assert_eq!(world.put("/before", b"x").unwrap().0, expected);
        assert_eq!(world.has("/before"), expected == 200);
    }
    assert_eq!(faults.fired(before), 2);
    faults.add(Rule::on("Put", Action::DoThenAnswer(slow.clone())).path("after").nth(2));
    let statuses = ["/after-1", "/after-2", "/after-3"].map(|path| world.put(path, b"x").unwrap().0);
    assert_eq!((statuses, world.has("/after-2")), ([200, 503, 200], true));

    let rule = faults.add(Rule::always(Action::Cut).when(|head| head.path == "/cut"));
    world.put("/cut", b"x").unwrap_err();
    assert!(!world.has("/cut"));
    faults.remove(rule);
    world.put("/cut", b"x").unwrap();
    faults.add(Rule::on("Put", Action::DoThenCut).path("/done"));
    world.put("/done", b"x").unwrap_err();
    assert!(world.has("/done"));
    faults.add(Rule::on("Put", Action::AnswerEarly(slow)).path("/early"));
    assert_eq!(world.put("/early", b"x").unwrap().0, 503);
    assert!(!world.has("/early"));

    let cuts: Vec<_> = world.server.log().records().into_iter().filter(|r| r.status == 0).collect();
    assert!(cuts.len() == 2 && cuts.iter().all(|r| r.fault));
    assert_eq!(faults.all_fired(), 6);
    faults.clear();
    assert_eq!(world.put("/done", b"x").unwrap().0, 200);
}

#[test]
fn bodies_are_cut_and_stall() {
    let world = World::new();
    let body: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
    world.put("/a", &body).unwrap();
    for at in [0, 1, 1000, 700_000] {
        world.server.faults().clear();
        world.server.faults().add(Rule::on("Get", Action::CutBody(at)));
        let mut answer = world.agent.get(world.url("/a")).call().unwrap();
        let told = answer.headers().get("content-length").unwrap().to_str().unwrap().to_owned();
        let mut seen = Vec::new();
        std::io::Read::read_to_end(&mut answer.body_mut().as_reader(), &mut seen).unwrap_err();
        assert_eq!((told.as_str(), seen.as_slice()), ("1048576", &body[..at]));
        assert_eq!(world.server.log().records().last().unwrap().bytes_out, at as u64);
    }
    let pause = Duration::from_millis(60);
    world.server.faults().clear();
    world.server.faults().add(Rule::on("Get", Action::StallBody(1000, pause)));
    let begun = Instant::now();
    assert!(world.get("/a").unwrap() == (200, body));
    assert!(begun.elapsed() >= pause);
}

#[test]
fn answers_wait_change_and_turn() {
    let world = World::new();
    let (faults, pause) = (world.server.faults(), Duration::from_millis(60));
    let took = |path: &str| {
        let begun = Instant::now();
        world.put(path, b"x").unwrap();
        begun.elapsed()
    };
    faults.delay(pause);
    assert!(took("/a") >= pause);
    faults.clear();
    faults.add(Rule::on("Put", Action::Stall(pause)).path("/stall"));
    assert!(took("/stall") >= pause);

    let late = Duration::from_secs(6);
    faults.add(Rule::on("Put", Action::Late(late)).path("/late"));
    let hasty = world.agent.put(world.url("/late"));
    hasty.config().timeout_global(Some(late / 4)).build().send("x").unwrap_err();
    assert!(!world.has("/late"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !world.has("/late") {
        assert!(Instant::now() < deadline, "it is done although the client has gone");
        std::thread::sleep(pause / 10);
    }

    faults.add(
        Rule::on("Get", Action::edit(|answer| *answer = answer.clone().header("x-more", "1"))).path("/a"),
    );
    let answer = world.agent.get(world.url("/a")).call().unwrap();
    assert_eq!(answer.headers().get("x-more").unwrap(), "1");
    faults.add(Rule::on("Get", Action::Twist("upside down")).path("/stall"));
    assert_eq!(world.get("/stall").unwrap().1, b"umop apisdn");
}

#[test]
fn chance_follows_the_seed_and_not_the_order() {
    let hits = |seed: u64, order: &[usize]| {
        let world = World::new();
        world.server.faults().seed(seed);
        world.server.faults().add(Rule::on("Get", Action::Answer(Answer::new(500))).chance(0.3));
        let mut hits: Vec<_> =
            order.iter().map(|n| (*n, world.get(&format!("/{n}")).unwrap().0 == 500)).collect();
        hits.sort_unstable();
        hits.into_iter().map(|(_, hit)| hit).collect::<Vec<_>>()
    };
    let (up, down): (Vec<usize>, Vec<usize>) = ((0..200).collect(), (0..200).rev().collect());
    let first = hits(7, &up);
    assert_eq!(first, hits(7, &down));
    assert_ne!(first, hits(8, &up));
    let share = first.iter().filter(|hit| **hit).count();
    assert!((30..=90).contains(&share), "{share} of 200");
}

#[test]
fn many_at_once_are_counted() {
    let world = World::new();
    world.server.faults().delay(Duration::from_millis(100));
    std::thread::scope(|scope| {
        for n in 0..12 {
            let world = &world;
            scope.spawn(move || world.put(&format!("/{n}"), b"x").unwrap());
        }
    });
    let log = world.server.log();
    assert_eq!((log.count("Put"), log.most_at_once("Get")), (12, 0));
    assert!((2..=12).contains(&log.most_at_once("Put")), "{}", log.most_at_once("Put"));
    world.server.faults().clear();
    log.clear();
    world.get("/1").unwrap();
    assert_eq!((log.most_at_once("Put"), log.most_at_once("Get")), (0, 1));
}

#[test]
fn clocks_and_certificates_may_be_wrong() {
    let clock = Clock::default();
    clock.set_wrong_by(-86_400 * 365);
    let server = Server::start_tls(Arc::new(Shelf::default()), &clock, Leaf::Server).unwrap();
    assert!(server.url().starts_with("https://127.0.0.1:"));
    // The openssl of the testbed's own set-up is an independent client.
    let talk = |trust: &std::path::Path| {
        let script = format!(
            "printf 'GET /x HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n' | \
             openssl s_client -quiet -verify_return_error -CAfile {} -connect 127.0.0.1:{} 2>&1",
            trust.display(),
            server.port()
        );
        let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let pki = bodley_testbed::Pki::ensure().unwrap();
    let a_year_ago =
        || (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(365 * 24)).strftime("%Y").to_string();
    let before = a_year_ago();
    let answer = talk(&pki.ca());
    assert!(answer.contains("HTTP/1.1 404") && answer.contains("nothing there"), "{answer}");
    assert!([before, a_year_ago()].iter().any(|year| answer.contains(&format!("{year} "))), "{answer}");
    assert!(talk(&pki.unknown_ca()).contains("verify error"));
    assert_eq!(server.log().connections(), 2);
}
