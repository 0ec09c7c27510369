//! Bodley on every version of Apache Kafka that it is tested on: the oldest has no topic ids, the first two keep their metadata in
//! ZooKeeper, the newest has groups of the newer kind.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bodley_testbed::jars::TESTED_VERSIONS;
use bodley_testbed::workbench::{Generate, GroupOffset, ProduceOptions};
use bodley_testbed::workloads::{Oddity, TopicSpec, advance_topics, write_topics};
use bodley_testbed::{ClusterOptions, Dump};
use serde_json::{Value, json};

use common::in_flight::InFlight;
use common::judge::{same, same_digests};
use common::life::life;
use common::site::Site;
use common::stage::{Slot, Stage};
use common::vault::Vault;
use common::{Ran, bodley, list, topics};

/// One version at a time: each takes memory, and as many cores as it gets.
static TURN: Mutex<()> = Mutex::new(());
static SLOTS: [[Slot; 1]; 4] = [[Slot::new()], [Slot::new()], [Slot::new()], [Slot::new()]];

/// A cluster of one of the versions.
struct Version {
    stage: Stage,
    version: (u32, u32),
}

impl Version {
    fn at(place: usize) -> Self {
        let name = TESTED_VERSIONS[place];
        let mut numbers = name.split('.').map(|n| n.parse().unwrap());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        let stage = Slot::stage(&SLOTS[place], ClusterOptions::new().version(name), |_| ());
        Self { stage, version }
    }

    /// Topics have ids (KIP-516).
    fn has_ids(&self) -> bool {
        self.version >= (2, 8)
    }

    /// Fetch names topics by their ids.
    fn fetches_by_id(&self) -> bool {
        self.version >= (3, 1)
    }

    /// Offsets can be asked for with the word that none may be pending (KIP-447).
    fn tells_pending_commits(&self) -> bool {
        self.version >= (2, 5)
    }

    /// Groups of the newer kind (KIP-848).
    fn has_newer_groups(&self) -> bool {
        self.version >= (4, 0)
    }

    fn oddities(&self) -> Vec<Oddity> {
        Oddity::ALL.into_iter().filter(|oddity| oddity.needs() <= self.version).collect()
    }
}

impl Deref for Version {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.stage
    }
}

impl Drop for Version {
    /// The next one has the machine to itself.
    fn drop(&mut self) {
        self.cluster.nodes().iter().for_each(|node| drop(node.kill()));
    }
}

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn the_oldest() {
    whole(0);
}

#[test]
fn the_first_with_topic_ids() {
    whole(1);
}

#[test]
fn the_last_with_zookeeper_beside() {
    whole(2);
}

#[test]
fn the_newest() {
    whole(3);
}

fn whole(place: usize) {
    let _turn = turn();
    let site = Version::at(place);
    examined(&site);
    in_short(&site);
    odd_topics_come_back(&site);
    groups_go_on(&site);
    a_restore_that_is_killed_goes_on(&site);
    late_requests_are_refused(&site);
    a_topic_created_again_is_another_topic(&site);
    if !site.fetches_by_id() {
        a_topic_created_again_under_a_run(&site);
    }
}

/// A run that found nothing wrong, with these notes.
#[track_caller]
fn notes(report: &Value, expected: &[&str]) {
    assert_eq!((&report["gaps"], &report["errors"]), (&json!([]), &json!([])), "{report:#}");
    let notes = list(report, "notes");
    assert_eq!(notes.len(), expected.len(), "{notes:#?}");
    for (note, part) in notes.iter().zip(expected) {
        assert!(note.as_str().unwrap().contains(part), "{notes:#?}");
    }
}

const GROUPS_EXPIRE: &str = "restored group offsets expire";

/// What doctor finds is right, and nothing that the version lacks is called wrong.
fn examined(site: &Version) {
    let bootstrap = site.cluster.bootstrap();
    let report = bodley(&["doctor", "-b", &bootstrap, "--output", "json"]).exits(0).json();
    let verdict = |area: &str, subject: &str| {
        let mut checks = list(&report, "checks").iter();
        let found = checks.find(|check| check["area"] == area && check["subject"] == subject);
        found.unwrap_or_else(|| panic!("no {area} of {subject}: {report:#}"))
    };
    assert_eq!(verdict("versions", "to back up")["verdict"], "ok");
    assert_eq!(verdict("versions", "to restore")["verdict"], "ok");
    let ids = verdict("versions", "topic ids");
    let expected = if site.fetches_by_id() { "ok" } else { "note" };
    assert_eq!(ids["verdict"], expected, "{ids}");
    let hint = ids["hint"].as_str().unwrap_or_default();
    assert_eq!(hint.contains("have no ids"), !site.has_ids(), "{ids}");
}

fn in_short(site: &Version) {
    let vault = Vault::new();
    life(site, "short", &|args| {
        let (verb, rest) = args.split_first().unwrap();
        vault.bodley(verb, rest)
    });
    let cat = bodley(&["cat", "--vault", vault.url(), "--topic", "short"]).exits(0);
    assert_eq!(cat.out.lines().count(), 500);
}

/// The target's own cleaner must not run before all records have been compared.
const UNCLEANED: &str = "min.compaction.lag.ms=315360000000";

/// All oddities, over two runs, of which the second meets a partition more.
fn odd_topics_come_back(site: &Version) {
    let vault = Vault::new();
    let (seen, specs) = two_runs(site, &vault);
    vault.verified();
    let report = restore_odd(site, &vault, &specs);
    notes(&report, &[]);
    for spec in &specs {
        let target = spec.name.replacen("odd-", "back-", 1);
        same(&seen[&spec.name], &site.dump(&target));
        let mut settings = site.bench.describe(&spec.name).unwrap().own_configs();
        if spec.oddity.is_compacted() {
            settings.push(("min.compaction.lag.ms".to_owned(), "315360000000".to_owned()));
            settings.sort();
        }
        assert_eq!(site.bench.describe(&target).unwrap().own_configs(), settings, "{target}");
    }
    let records: u64 = seen.values().map(Dump::len).sum();
    assert_eq!(report["records"], records);
}

fn two_runs(site: &Version, vault: &Vault) -> (BTreeMap<String, Dump>, Vec<TopicSpec>) {
    let oddities = site.oddities();
    let specs = write_topics(&site.bench, "odd-", &oddities).unwrap();
    let open = ["odd-transaction-open-0"];
    notes(&site.backup(vault, &["--topic", "odd-*"]).exits(0).json(), &open);
    let first: BTreeMap<String, Dump> =
        specs.iter().map(|spec| (spec.name.clone(), site.dump(&spec.name))).collect();
    advance_topics(&site.bench, "odd-", &oddities, 1).unwrap();
    let grown = "odd-codec-none";
    site.bench.add_partitions(grown, 2).unwrap();
    site.write(grown, 1, "grown", 20);
    let report = site.backup(vault, &["--topic", "odd-*"]).exits(0).json();
    notes(&report, &[]);
    assert_eq!(list(&report, "topics").len(), oddities.len());
    let both = first.into_iter().map(|(topic, first)| {
        let both = first.then(&site.dump(&topic)).unwrap();
        (topic, both)
    });
    (both.collect(), specs)
}

fn restore_odd(site: &Version, vault: &Vault, specs: &[TopicSpec]) -> Value {
    let compacted = specs.iter().filter(|spec| spec.oddity.is_compacted());
    let settings: Vec<String> =
        compacted.map(|spec| format!("{}:{UNCLEANED}", spec.name.replacen("odd-", "back-", 1))).collect();
    let mut args = vec!["--topic", "odd-*", "--rename", "odd-*=back-*"];
    args.extend(settings.iter().flat_map(|setting| ["--topic-config", setting]));
    site.restore(vault, &args).exits(0).json()
}

fn groups(site: &Site, verb: &str, args: &[&str]) -> Ran {
    let bootstrap = site.cluster.bootstrap();
    bodley(&[&["groups", verb, "-b", &bootstrap, "--output", "json"], args].concat())
}

fn position(site: &Site, group: &str, topic: &str) -> Option<i64> {
    let offsets = site.bench.group_offsets(group).unwrap();
    offsets.into_iter().find(|of| of.topic == topic && of.partition == 0).map(|of| of.offset)
}

/// Positions are kept, compared, mapped and set: of idle groups, and of groups whose members have left.
fn groups_go_on(site: &Version) {
    let (vault, topic) = (Vault::new(), "grouped");
    site.topic(topic, 1);
    site.write(topic, 0, "x", 60);
    site.bench.delete_records(topic, 0, 10).unwrap();
    site.bench.commit_offsets("g-idle", &[GroupOffset::new(topic, 0, 25)]).unwrap();
    let kinds = [("g-classic", "classic"), ("g-consumer", "consumer")];
    let kinds = if site.has_newer_groups() { &kinds[..] } else { &kinds[..1] };
    for (group, protocol) in kinds {
        site.bench.commit_offsets(group, &[GroupOffset::new(topic, 0, 30)]).unwrap();
        site.bench.join(group, topic, protocol, false).unwrap();
    }
    // Who has a commit under way in a transaction is known as such, where that can be asked.
    site.bench.commit_offsets("g-pending", &[GroupOffset::new(topic, 0, 12)]).unwrap();
    site.bench.begin("g-producer", &ProduceOptions::default()).unwrap();
    site.bench.send_offsets("g-producer", "g-pending", &[GroupOffset::new(topic, 0, 22)]).unwrap();
    let report = site.backup(&vault, &["--topic", topic]).exits(0).json();
    site.bench.abort("g-producer").unwrap();
    notes(&report, &[]);
    assert_eq!(report["groups"], 2 + kinds.len());
    let shown = vault.bodley("show", &["--groups"]).exits(0).json();
    let pending = list(&shown, "groups").iter().find(|row| row["group"] == "g-pending").unwrap();
    assert_eq!(
        (&pending["offset"], &pending["unstable"]),
        (&json!(12), &json!(site.tells_pending_commits()))
    );
    for (group, _) in kinds {
        let args = ["--group", group, "--to", "earliest", "--execute", "--save", "/nonexistent/never"];
        groups(site, "reset", &args).exits(3).says("has live members");
        site.bench.leave(group).unwrap();
    }

    let restored =
        site.restore(&vault, &["--topic", topic, "--rename", "grouped=grouped-back"]).exits(0).json();
    notes(&restored, &[GROUPS_EXPIRE]);
    assert_eq!(position(site, "g-idle", "grouped-back"), Some(15));
    assert_eq!(position(site, "g-classic", "grouped-back"), Some(20));

    site.bench.commit_offsets("g-idle", &[GroupOffset::new(topic, 0, 40)]).unwrap();
    let diff = groups(site, "diff", &["--vault", vault.url(), "--topic", topic]).exits(0).json();
    let differs = &list(&diff, "groups")[0];
    assert_eq!((&differs["group"], &differs["difference"]), (&json!("g-idle"), &json!(15)));
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved.json").display().to_string();
    let reset = ["--vault", vault.url(), "--by", "timestamp", "--group", "g-*", "--topic", topic];
    groups(site, "reset", &[&reset[..], &["--execute", "--save", &saved]].concat()).exits(0);
    groups(site, "rollback", &[&saved, "--execute"]).exits(0);
    assert_eq!(position(site, "g-idle", topic), Some(40));
}

/// Four partitions of records of 4 KiB; of now, unless they have times.
fn generate(site: &Site, topic: &str, count: u64, first_timestamp: Option<i64>) {
    site.bench.create_topic(topic, 4, &[("retention.ms", "-1")]).unwrap();
    let load = Generate { count, partitions: 4, value_bytes: 4096, first_timestamp, ..Generate::default() };
    let options = ProduceOptions { batch_bytes: 64 << 10, linger_ms: 20, ..ProduceOptions::default() };
    site.bench.generate(topic, &load, &options).unwrap();
}

/// Records of today, and of 2017, whose producers a broker forgets at once: fenced, and none twice.
fn a_restore_that_is_killed_goes_on(site: &Version) {
    for (topic, first_timestamp) in [("kill-new", None), ("kill-old", Some(1_500_000_000_000))] {
        generate(site, topic, 4_000, first_timestamp);
        let (vault, target) = (site.vault_of(&[topic]), format!("{topic}-back"));
        let rename = format!("{topic}={target}");
        let args = ["--topic", topic, "--rename", &rename, "--limit-write", "8M"];
        let mut run = site.start("restore", &vault, &args);
        site.until(&mut run, &target, 1_000);
        run.kill();
        let report = site.restore(&vault, &args).exits(0).json();
        notes(&report, &["were there already, from an earlier run"]);
        same_digests(&site.bench, topic, &target);
        let own = |topic: &str| site.bench.describe(topic).unwrap().own_configs();
        assert_eq!(own(&target), own(topic));
        let before = site.ends(&target);
        site.restore(&vault, &args).exits(0).says("nothing to do");
        assert_eq!(site.ends(&target), before);
        // Begun anew after its topic was deleted: what is known of the old one is void.
        site.bench.delete_topic(&target).unwrap();
        notes(&site.restore(&vault, &["--topic", topic, "--rename", &rename]).exits(0).json(), &[]);
        same_digests(&site.bench, topic, &target);
    }
}

/// The markers that fence an earlier run do what they do in each version: what that run had on its way is refused.
fn late_requests_are_refused(site: &Version) {
    let held = InFlight::new(site, "kill-old", "late");
    let report = held.resume("one").wait().exits(0).json();
    notes(&report, &["were there already, from an earlier run"]);
    held.let_go();
    same_digests(&site.bench, "kill-old", "late");
}

/// Told by its id, or, where there are none, guessed as its log is shorter than what was backed up.
fn a_topic_created_again_is_another_topic(site: &Version) {
    let (vault, args) = (Vault::new(), ["--topic", "again"]);
    site.topic("again", 2);
    site.write("again", 0, "first life", 30);
    site.backup(&vault, &args).exits(0);
    site.bench.delete_topic("again").unwrap();
    site.topic("again", 1);
    site.write("again", 0, "second life", 10);
    let how = if site.has_ids() { "was deleted and created again" } else { "a guess" };
    notes(&site.backup(&vault, &args).exits(0).says("incarnation").json(), &[how]);
    let listed = vault.listed();
    let lives: Vec<(&Value, &Value)> =
        topics(&listed, "again").iter().map(|life| (&life["incarnation"], &life["records"])).collect();
    assert_eq!(lives, [(&json!(1), &json!(10)), (&json!(0), &json!(30))]);
    vault.verified();
    site.restore_as(&vault, "again", "again-back").exits(0);
    same(&site.dump("again"), &site.dump("again-back"));
}

/// Where Fetch knows names only, a run can have read either: none of the second life gets into the first, and all others are backed up to their ends.
fn a_topic_created_again_under_a_run(site: &Version) {
    let (first, second) = (8_000, 10);
    let records = |life: &Value| life["records"].as_u64().unwrap();
    site.topic("beside", 1);
    site.write("beside", 0, "beside", 100);
    for follow in [false, true] {
        let name = if follow { "under-follow" } else { "under" };
        generate(site, name, first, None);
        let vault = Vault::new();
        let mut args =
            vec!["--topic", name, "--topic", "beside", "--limit-read", "2M", "--commit-interval", "1s"];
        args.extend(follow.then_some("--follow"));
        let mut run = site.start("backup", &vault, &args);
        run =
            vault.until(run, "a commit", |listed| topics(listed, name).iter().any(|life| records(life) > 0));
        site.bench.delete_topic(name).unwrap();
        site.topic(name, 4);
        site.write(name, 0, "second life", second as usize);
        if follow {
            let is_there = |life: &&Value| records(life) == second;
            run = vault.until(run, "the second life", |listed| topics(listed, name).iter().any(is_there));
            run.signal("TERM");
        }
        let ran = run.wait();
        assert!(ran.out.contains("deleted and created again") || !site.has_ids(), "{ran}");
        vault.verified();
        site.backup(&vault, &args[..4]);
        let listed = vault.listed();
        let lives = topics(&listed, name);
        assert_eq!((lives.len(), records(lives[0])), (2, second), "{ran}\n{listed:#}");
        assert!((1..first).contains(&records(lives[1])), "{ran}\n{listed:#}");
        let old = bodley(&["cat", "--vault", vault.url(), "--topic", name, "--incarnation", "0"]);
        assert!(old.code == Some(0) && !old.out.contains("second life"), "{old}");
        vault.verified();
        assert_eq!(records(topics(&listed, "beside")[0]), 100);
    }
}

/// Before 2.8 nobody but a transaction's coordinator can put a fence: where that way is closed, sequences decide.
#[test]
fn the_oldest_without_transactional_ids() {
    static SLOT: [Slot; 1] = [Slot::new()];
    let _turn = turn();
    let options = ClusterOptions::new()
        .version(TESTED_VERSIONS[0])
        .set("authorizer.class.name", "kafka.security.authorizer.AclAuthorizer")
        .set("allow.everyone.if.no.acl.found", "true");
    let stage = Slot::stage(&SLOT, options, |site| generate(site, "plain", 3_000, None));
    stage.bench.deny("TRANSACTIONAL_ID", "bodley-restore-", &["ALL"]).unwrap();
    let vault = stage.vault_of(&["plain"]);
    let args = ["--topic", "plain", "--rename", "plain=back", "--limit-write", "4M"];
    let mut run = stage.start("restore", &vault, &args);
    stage.until(&mut run, "back", 500);
    run.kill();
    stage.restore(&vault, &args).exits(0).says("goes on by weaker means");
    same_digests(&stage.bench, "plain", "back");
    stage.cluster.nodes().iter().for_each(|node| drop(node.kill()));
}

/// With ZooKeeper only the controller creates topics, whichever broker is asked first, and whichever is the controller by then.
#[test]
fn the_controller_creates_topics() {
    static SLOT: [Slot; 1] = [Slot::new()];
    let _turn = turn();
    let options = ClusterOptions::new().version(TESTED_VERSIONS[0]).nodes(3);
    let stage = Slot::stage(&SLOT, options, |site| generate(site, "plain", 300, None));
    let vault = stage.vault_of(&["plain"]);
    let bootstrap = stage.cluster.bootstrap();
    let restored = |server: &str, target: &str| {
        let rename = format!("plain={target}");
        let args = ["restore", "-b", server, "--vault", vault.url(), "--rename", &rename, "--output", "json"];
        bodley(&[&args[..], &["--dry-run"]].concat()).exits(0);
        bodley(&args).exits(0);
        same_digests(&stage.bench, "plain", target);
    };
    for (n, server) in bootstrap.split(',').enumerate() {
        restored(server, &format!("back-{n}"));
    }
    // Another one becomes the controller.
    for node in 0..2 {
        stage.cluster.node(node).unwrap().restart().unwrap();
        stage.cluster.wait_until_up().unwrap();
        restored(&bootstrap, &format!("back-again-{node}"));
    }
    stage.cluster.nodes().iter().for_each(|node| drop(node.kill()));
}

/// What a run reads and writes goes on while brokers of two versions lead its partitions, each with requests of its own.
#[test]
fn brokers_are_upgraded_under_a_run() {
    static SLOT: [Slot; 1] = [Slot::new()];
    let _turn = turn();
    let [_, _, older, newest] = TESTED_VERSIONS;
    let stage = Slot::stage(&SLOT, ClusterOptions::new().version(older).nodes(3), |_| ());
    generate(&stage, "upgraded", 6_000, None);
    let upgrade = |node: usize| {
        stage.cluster.node(node).unwrap().upgrade(newest).unwrap();
        stage.cluster.wait_until_up().unwrap();
    };

    let vault = Vault::new();
    let mut run = stage.start("backup", &vault, &["--topic", "upgraded", "--limit-read", "512K"]);
    upgrade(0);
    assert!(run.is_running(), "too fast for this test");
    upgrade(1);
    run.wait().exits(0);
    vault.verified();
    let args = ["--topic", "upgraded", "--rename", "upgraded=back", "--limit-write", "512K"];
    let mut run = stage.start("restore", &vault, &args);
    stage.until(&mut run, "back", 300);
    upgrade(2);
    assert!(run.is_running(), "too fast for this test");
    notes(&run.wait().exits(0).json(), &[]);
    same_digests(&stage.bench, "upgraded", "back");
    stage.cluster.nodes().iter().for_each(|node| drop(node.kill()));
}

/// What one version knows and another one does not is said, and all else comes over: up, and down.
#[test]
fn between_the_oldest_and_the_newest() {
    let _turn = turn();
    let (oldest, newest) = (Version::at(0), Version::at(3));
    let ways = [
        (&oldest, &newest, "up", ("message.timestamp.difference.max.ms", "9000000000000")),
        (&newest, &oldest, "down", ("message.timestamp.after.max.ms", "9000000000000")),
    ];
    for (source, target, topic, (name, value)) in ways {
        source.bench.create_topic(topic, 2, &[("retention.ms", "-1"), (name, value)]).unwrap();
        source.write(topic, 0, "a", 100);
        source.write(topic, 1, "b", 50);
        source.bench.commit_offsets("crosses", &[GroupOffset::new(topic, 0, 70)]).unwrap();
        let vault = source.vault_of(&[topic]);
        let report = target.restore(&vault, &["--topic", topic]).exits(0).json();
        let unknown = format!("does not know the setting {name} (was {value})");
        notes(&report, &[&unknown, GROUPS_EXPIRE]);
        same(&source.dump(topic), &target.dump(topic));
        let own = target.bench.describe(topic).unwrap().own_configs();
        assert_eq!(own, [("retention.ms".to_owned(), "-1".to_owned())]);
        assert_eq!(position(target, "crosses", topic), Some(70));
    }
}
