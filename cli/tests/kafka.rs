//! Bodley on a real Kafka of one node, which all tests here share: each has topics with a prefix of its own, and its own vault.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bodley_testbed::shared_cluster;
use bodley_testbed::workbench::{GroupOffset, ProduceOptions, Record};
use bodley_testbed::workloads::{BulkOptions, Oddity, TopicSpec, advance_odd_topics, bulk, write_odd_topics};
use bodley_testbed::{Cluster, ClusterOptions, Dump, Isolation};
use serde_json::{Value, json};

use common::judge::{Python, prefix, same};
use common::site::Site;
use common::vault::Vault;
use common::{Rng, bodley, list, start, start_on_a_small_disk, topics};

fn site() -> Site {
    Site::at(shared_cluster().unwrap())
}

// Odd topics: written, backed up and advanced once for all tests that look at them.

const ODD: &str = "odd-";

struct Odd {
    specs: Vec<TopicSpec>,
    /// The vault after each run, and what a consumer had who came whenever bodley came.
    rounds: Vec<(Vault, BTreeMap<String, Dump>)>,
}

impl Odd {
    fn get() -> &'static Self {
        static ODD_TOPICS: OnceLock<Odd> = OnceLock::new();
        ODD_TOPICS.get_or_init(Self::make)
    }

    fn make() -> Self {
        let site = site();
        let vault = Vault::below(site.cluster.dir());
        let specs = write_odd_topics(&site.bench, ODD).unwrap();
        let mut rounds: Vec<(Vault, BTreeMap<String, Dump>)> = Vec::new();
        for round in 0..3 {
            if round > 0 {
                advance_odd_topics(&site.bench, ODD, round).unwrap();
            }
            let report = site.backup(&vault, &["--topic", "odd-*"]).exits(0).json();
            assert_eq!(report["gaps"], json!([]), "round {round}");
            assert_eq!(list(&report, "topics").len(), Oddity::ALL.len());
            let seen = specs.iter().map(|spec| {
                let now = site.dump(&spec.name);
                let earlier = rounds.last().map(|(_, seen)| &seen[&spec.name]);
                (spec.name.clone(), earlier.map_or(now.clone(), |earlier| earlier.then(&now).unwrap()))
            });
            let seen = seen.collect();
            rounds.push((vault.snapshot(), seen));
        }
        Self { specs, rounds }
    }

    fn last(&self) -> &(Vault, BTreeMap<String, Dump>) {
        self.rounds.last().unwrap()
    }

    fn name(oddity: Oddity) -> String {
        format!("{ODD}{}", oddity.name())
    }
}

/// Restores odd topics under names with another prefix, with these flags for each compacted one.
fn restore_odd(vault: &Vault, specs: &[TopicSpec], prefix: &str, for_compacted: &[&str]) -> Value {
    let mut args = Vec::new();
    for spec in specs {
        let target = spec.name.replacen(ODD, prefix, 1);
        args.extend(["--topic".to_owned(), spec.name.clone()]);
        args.extend(["--rename".to_owned(), format!("{}={target}", spec.name)]);
        if spec.oddity.is_compacted() {
            let settings = for_compacted.iter().map(|setting| format!("{target}:{setting}"));
            args.extend(settings.flat_map(|setting| ["--topic-config".to_owned(), setting]));
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    site().restore(vault, &args).exits(0).json()
}

/// The target's own cleaner must not run before all records have been compared.
const UNCLEANED: &str = "min.compaction.lag.ms=315360000000";

#[test]
fn odd_topics_come_back() {
    let (odd, site) = (Odd::get(), site());
    for (round, (vault, seen)) in odd.rounds.iter().enumerate() {
        vault.verified();
        let prefix = format!("back{round}-");
        let report = restore_odd(vault, &odd.specs, &prefix, &[UNCLEANED]);
        assert_eq!(list(&report, "topics").len(), odd.specs.len());
        for spec in &odd.specs {
            let target = spec.name.replacen(ODD, &prefix, 1);
            same(&seen[&spec.name], &site.dump(&target));
            let mut settings = site.bench.describe(&spec.name).unwrap().own_configs();
            if spec.oddity.is_compacted() {
                settings.push(("min.compaction.lag.ms".to_owned(), "315360000000".to_owned()));
                settings.sort();
            }
            assert_eq!(site.bench.describe(&target).unwrap().own_configs(), settings, "{target}");
            // Nothing but what consumers see, control records aside: what was aborted has not come back.
            let all = site.bench.dump(&target, Isolation::Uncommitted).unwrap();
            assert_eq!(all.len(), seen[&spec.name].len(), "{target}: records of aborted transactions");
        }
        let records: u64 = seen.values().map(Dump::len).sum();
        assert_eq!(report["records"], records);
    }
}

/// With the source's own settings the target's cleaner goes to work at the end: the latest value of each key stays.
#[test]
fn compacted_topics_end_with_the_latest_values() {
    let (odd, site) = (Odd::get(), site());
    let specs: Vec<TopicSpec> = odd.specs.iter().filter(|s| s.oddity.is_compacted()).cloned().collect();
    let (vault, seen) = odd.last();
    restore_odd(vault, &specs, "latest-", &[]);
    for spec in &specs {
        let target = spec.name.replacen(ODD, "latest-", 1);
        assert_eq!(
            site.bench.describe(&target).unwrap().own_configs(),
            site.bench.describe(&spec.name).unwrap().own_configs()
        );
        assert_eq!(latest(&site.dump(&target)), latest(&seen[&spec.name]), "{target}");
    }
}

fn latest(dump: &Dump) -> BTreeMap<String, Option<String>> {
    let records = dump.records().unwrap().into_iter();
    let mut latest: BTreeMap<_, _> = records.map(|r| (r.key_text().unwrap(), r.value_text())).collect();
    latest.retain(|_, value| value.is_some());
    latest
}

#[test]
fn another_reader_sees_the_same() {
    let odd = Odd::get();
    for (vault, seen) in &odd.rounds {
        let python = Python::read(vault, &[]);
        for (topic, dump) in seen {
            python.saw(topic, dump);
        }
    }
}

#[test]
fn counts_in_list_show_and_verify_are_the_consumers() {
    let odd = Odd::get();
    for (vault, seen) in &odd.rounds {
        let (listed, verified) = (vault.listed(), vault.verified());
        assert_eq!(list(&listed, "topics").len(), seen.len());
        for (name, dump) in seen {
            // Records below the start of a log whose first batch begins there are counted with their chunk.
            let slack = if [Oddity::Trimmed, Oddity::Emptied].iter().any(|o| *name == Odd::name(*o)) {
                10
            } else {
                0
            };
            for document in [&listed, &verified] {
                let topic = topics(document, name)[0];
                let counted = topic["records"].as_u64().unwrap();
                assert!((dump.len()..=dump.len() + slack).contains(&counted), "{}: {topic}", dump.len());
                assert_eq!(topic["partitions"], dump.partitions().len());
            }
            let shown = vault.bodley("show", &[name]).exits(0).json();
            let partitions = list(&list(&shown, "incarnations")[0], "partitions");
            for (partition, summary) in partitions.iter().zip(dump.partitions()) {
                assert_eq!(partition["partition"], summary.partition);
                assert_eq!(partition["next"], summary.end, "{name}: {partition}");
            }
        }
    }
}

/// A run may end inside a transaction of which another, older one keeps the end from being seen: its data lies below the last stable
/// offset, its abort marker above.
#[test]
fn a_marker_beyond_the_end_of_a_run() {
    let site = site();
    let topic = "beyond";
    site.topic(topic, 1);
    let bench = &site.bench;
    let record = |what: &str| vec![Record::new(0).key("k").value(what); 3];
    let options = ProduceOptions::default();
    let producers = ["beyond-first", "beyond-second", "beyond-third"];
    let [first, second, third] = producers;
    for producer in [first, second] {
        bench.begin(producer, &options).unwrap();
        bench.send(producer, topic, &record(producer)).unwrap();
    }
    bench.begin(third, &options).unwrap();
    bench.send(third, topic, &record(third)).unwrap();
    bench.abort(second).unwrap();
    bench.commit(first).unwrap();

    // The third is open, so the marker of the second lies beyond the end.
    site.wait_for_stable_end(topic, 6);
    let vault = Vault::new();
    site.backup(&vault, &["--topic", topic]).exits(0);
    let early = site.dump(topic);
    assert_eq!(early.len(), 3);
    Python::read(&vault, &[]).saw(topic, &early);
    site.restore_as(&vault, topic, "beyond-early").exits(0);
    same(&early, &site.dump("beyond-early"));

    // The producer that aborted commits something now: that must not be taken for aborted.
    bench.begin(second, &options).unwrap();
    bench.send(second, topic, &record("second again")).unwrap();
    bench.commit(second).unwrap();
    bench.abort(third).unwrap();
    // Four times three records, four markers.
    site.wait_for_stable_end(topic, 16);
    site.backup(&vault, &["--topic", topic]).exits(0);
    let late = site.dump(topic);
    assert_eq!(late.len(), 6);
    Python::read(&vault, &[]).saw(topic, &late);
    assert_eq!(topics(&vault.verified(), topic)[0]["records"], 6);
    site.restore_as(&vault, topic, "beyond-late").exits(0);
    same(&late, &site.dump("beyond-late"));
}

// Damage

/// A small vault of two runs.
fn small_vault(site: &Site, prefix: &str) -> (Vault, Vec<String>) {
    let vault = Vault::new();
    let names = ["a", "b"].map(|name| format!("{prefix}-{name}"));
    for name in &names {
        site.topic(name, 2);
    }
    for round in 0..2 {
        for (name, partition) in names.iter().flat_map(|name| [(name, 0), (name, 1)]) {
            site.write(name, partition, &format!("round {round} of {name}-{partition}"), 40);
        }
        site.backup(&vault, &["--topic", &format!("{prefix}-*")]).exits(0);
    }
    (vault, names.to_vec())
}

/// Where the footer of a segment begins.
fn footer_start(vault: &Vault, segment: &str) -> u64 {
    let bytes = std::fs::read(vault.root().join(segment)).unwrap();
    let (rest, _magic) = bytes.split_last_chunk::<8>().unwrap();
    let (rest, length) = rest.split_last_chunk::<8>().unwrap();
    rest.len() as u64 - u64::from_le_bytes(*length)
}

/// Damages a copy; verify must say so and name the object.
#[track_caller]
fn damaged(vault: &Vault, object: &str, damage: impl FnOnce(&Vault)) -> (Vault, Vec<Value>) {
    let copy = vault.snapshot();
    damage(&copy);
    let report = copy.bodley("verify", &[]).exits(3).json();
    let errors = list(&report, "errors").to_vec();
    assert!(errors.iter().any(|e| e["object"] == object), "{object} is not named: {errors:#?}");
    (copy, errors)
}

#[test]
fn flipped_bits_are_found_and_named() {
    let site = site();
    let (vault, names) = small_vault(&site, "flip");
    let mut rng = Rng::new("flipped bits", 20);
    let objects = vault.objects();
    for folder in ["log/", "index/", "data/"] {
        assert!(objects.keys().filter(|path| path.starts_with(folder)).count() >= 2, "{objects:?}");
    }
    for (object, size) in objects.iter().filter(|(object, _)| object.as_str() != "vault.json") {
        let places: Vec<u64> = (0..6).map(|_| rng.below(*size)).collect();
        for at in places.into_iter().chain([0, size - 1]) {
            let (copy, errors) = damaged(&vault, object, |copy| copy.flip(object, at));
            if object.starts_with("data/") && at < footer_start(&vault, object) {
                let place = |e: &&Value| e["object"] == **object && e["partition"].is_u64();
                let error = errors.iter().find(place).unwrap_or_else(|| panic!("no place: {errors:#?}"));
                let topic = error["topic"].as_str().unwrap();
                assert!(names.iter().any(|name| name == topic), "{error:#}");
                let message = error["message"].as_str().unwrap();
                assert!(message.contains(object.as_str()) && message.contains(topic), "{message}");
            }
            if at == *size / 2 || rng.below(8) == 0 {
                let python = Python::read(&copy, &[]);
                assert!([Some(2), Some(3)].contains(&python.code), "{object} at {at}: {}", python.err);
            }
        }
    }
}

/// The log is there, so it is a vault, and its identity is damaged: the brackets and the magic no less than the ids.
#[test]
fn a_damaged_identity_is_found_and_named() {
    let (vault, _) = small_vault(&site(), "ident");
    let text = std::fs::read_to_string(vault.root().join("vault.json")).unwrap();
    let at = |what: &str| text.find(what).unwrap() as u64;
    for place in [at("cluster_id") + 16, at("vault_id") + 14, at("created") + 12, at("bodley-vault"), 0] {
        let copy = vault.snapshot();
        copy.flip("vault.json", place);
        copy.bodley("verify", &[]).exits(3).says("vault.json");
        assert_eq!(Python::read(&copy, &[]).code, Some(3));
    }
    let copy = vault.snapshot();
    copy.lose("vault.json");
    copy.bodley("verify", &[]).exits(3).says("vault.json");
    // A backup must not take it for a folder in which a vault is to be made.
    site().backup(&copy, &["--topic", "ident-*"]).exits(3).says("vault.json");
    assert!(!copy.objects().contains_key("vault.json"));
}

/// One flip of each kind, as the other reader sees it.
#[test]
fn another_reader_finds_flipped_bits() {
    let (vault, _) = small_vault(&site(), "flip2");
    for folder in ["log/", "index/", "data/"] {
        let object = vault.objects_in(folder).remove(1);
        let (copy, _) = damaged(&vault, &object, |copy| copy.flip(&object, copy.objects()[&object] / 2));
        let python = Python::read(&copy, &[]);
        assert_eq!(python.code, Some(3), "{}", python.err);
        assert!(python.err.contains(&object), "{object}: {}", python.err);
    }
}

#[test]
fn missing_and_cut_objects_are_found_and_named() {
    let site = site();
    let (vault, names) = small_vault(&site, "lost");
    let receipt = vault.verified()["receipt"].as_str().unwrap().to_owned();
    for folder in ["log/", "index/", "data/"] {
        let found = vault.objects_in(folder);
        // The last commit cannot be missed without a receipt.
        for object in found.iter().take(if folder == "log/" { found.len() - 1 } else { found.len() }) {
            damaged(&vault, object, |copy| copy.lose(object));
            damaged(&vault, object, |copy| copy.change(object, |bytes| bytes.truncate(bytes.len() - 1)));
            damaged(&vault, object, |copy| copy.change(object, Vec::clear));
        }
    }
    let segment = vault.objects_in("data/").remove(0);
    for damage in [0, 1] {
        let copy = vault.snapshot();
        match damage {
            0 => copy.lose(&segment),
            _ => copy.change(&segment, |bytes| bytes.truncate(bytes.len() / 2)),
        }
        let quick = copy.bodley("verify", &["--quick"]).exits(3).says(&segment).json();
        assert!(
            list(&quick, "errors").iter().all(|e| names.iter().any(|name| e["topic"] == **name)),
            "{quick:#}"
        );
    }

    let last = vault.objects_in("log/").pop().unwrap();
    let cut = vault.snapshot();
    cut.lose(&last);
    cut.verified();
    cut.bodley("verify", &["--expect", &receipt]).exits(3).says(&last);
    vault.bodley("verify", &["--expect", &receipt]).exits(0);
    let other = format!("{}:{}", vault.commits(), "0".repeat(64));
    vault.bodley("verify", &["--expect", &other]).exits(3);
}

#[test]
fn a_damaged_vault_gives_back_what_is_whole_and_says_what_is_not() {
    let site = site();
    let (vault, names) = small_vault(&site, "broken");
    let dumps: Vec<Dump> = names.iter().map(|name| site.dump(name)).collect();
    let segments = vault.objects_in("data/");
    for what in ["flipped", "missing", "cut"] {
        let copy = vault.snapshot();
        match what {
            "flipped" => copy.flip(&segments[0], footer_start(&copy, &segments[0]) / 2),
            "missing" => copy.lose(&segments[0]),
            _ => copy.change(&segments[0], |bytes| bytes.truncate(100)),
        }
        let renames: Vec<String> = names.iter().map(|name| format!("{name}={name}-{what}")).collect();
        let args = ["--topic", "broken-*", "--rename", &renames[0], "--rename", &renames[1]];
        let report = site.restore(&copy, &args).exits(3).says(&segments[0]).json();
        assert!(list(&report, "errors").iter().any(|e| e["partition"].is_u64()), "{report:#}");
        for (name, dump) in names.iter().zip(&dumps) {
            let target = format!("{name}-{what}");
            if !site.has(&target) {
                // Seen before anything was written.
                assert!(report["errors"][0]["message"].as_str().unwrap().contains("nothing was written"));
                continue;
            }
            let found = site.dump(&target);
            let found = found.records().unwrap();
            // In order, nothing invented; what is missing was said.
            let mut expected = dump.iter().unwrap().map(Result::unwrap);
            for record in &found {
                let known = expected.find(|r| {
                    (r.partition, &r.value, r.timestamp)
                        == (record.partition, &record.value, record.timestamp)
                });
                assert!(known.is_some(), "{name}: {record:?} is not the source's, or not in its place");
            }
        }
    }
    for lost in [vault.objects_in("index/").remove(0), vault.objects_in("log/").remove(1)] {
        let copy = vault.snapshot();
        copy.lose(&lost);
        let ran =
            site.restore(&copy, &["--topic", &names[0], "--rename", &format!("{}=broken-none", names[0])]);
        ran.exits(3).says(&lost);
        copy.bodley("list", &[]).exits(3).says(&lost);
        site.backup(&copy, &["--topic", "broken-a"]).exits(3).says(&lost);
    }
}

// Increments

#[test]
fn nothing_new_changes_nothing() {
    let site = site();
    let (vault, _) = small_vault(&site, "still");
    let (before, receipt) = (vault.objects(), vault.listed()["receipt"].clone());
    for _ in 0..2 {
        let report = site.backup(&vault, &["--topic", "still-*"]).exits(0).json();
        assert_eq!(
            (&report["bytes"], &report["records"], &report["objects"]),
            (&json!(0), &json!(0), &json!(0))
        );
        assert_eq!(report["receipt"], receipt);
    }
    assert_eq!(vault.objects(), before);
    let text =
        bodley(&["backup", "-b", &site.cluster.bootstrap(), "--vault", vault.url(), "--topic", "still-*"])
            .exits(0);
    assert!(text.out.contains("nothing new") && text.out.contains(receipt.as_str().unwrap()), "{text}");
    assert_eq!(text.out.lines().count(), 2, "{text}");
}

#[test]
fn partitions_topics_and_settings_that_come_later() {
    let site = site();
    let vault = Vault::new();
    let all = ["--topic", "later-*"];
    site.topic("later-grows", 1);
    site.write("later-grows", 0, "first", 20);
    site.backup(&vault, &all).exits(0);

    site.bench.add_partitions("later-grows", 3).unwrap();
    site.write("later-grows", 0, "second", 10);
    site.write("later-grows", 2, "second", 10);
    site.bench.create_topic("later-new", 1, &[("retention.ms", "123456789")]).unwrap();
    site.write("later-new", 0, "new", 7);
    site.bench.create_topic("later-empty", 3, &[("cleanup.policy", "compact")]).unwrap();
    site.bench.alter_config("later-grows", &[("retention.bytes", "987654321")], &[]).unwrap();
    let report = site.backup(&vault, &all).exits(0).json();
    assert_eq!((&report["records"], list(&report, "topics").len()), (&json!(27), 3));
    // A setting alone is news, too, and so is one that went.
    site.bench.alter_config("later-new", &[], &["retention.ms"]).unwrap();
    let commits = vault.commits();
    site.backup(&vault, &all).exits(0);
    assert_eq!(vault.commits(), commits + 1);

    vault.verified();
    let python = Python::read(&vault, &[]);
    for name in ["later-grows", "later-new", "later-empty"] {
        let target = format!("{name}-back");
        site.restore_as(&vault, name, &target).exits(0);
        same(&site.dump(name), &site.dump(&target));
        python.saw(name, &site.dump(name));
        let (was, is) = (site.bench.describe(name).unwrap(), site.bench.describe(&target).unwrap());
        assert_eq!(was.own_configs(), is.own_configs(), "{name}");
    }
    assert_eq!(site.bench.describe("later-empty-back").unwrap().partitions.len(), 3);
}

#[test]
fn a_deleted_topic_stays_in_the_vault() {
    let site = site();
    let vault = Vault::new();
    for name in ["gone-a", "gone-b"] {
        site.topic(name, 1);
        site.write(name, 0, name, 12);
    }
    site.backup(&vault, &["--topic", "gone-*"]).exits(0);
    let dump = site.dump("gone-a");
    site.bench.delete_topic("gone-a").unwrap();
    let report = site.backup(&vault, &["--topic", "gone-*"]).exits(0).json();
    assert!(list(&report, "notes").iter().any(|n| n.as_str().unwrap().contains("gone-a")), "{report:#}");
    // Once is enough.
    let again = site.backup(&vault, &["--topic", "gone-*"]).exits(0).json();
    assert_eq!(again["notes"], json!([]));
    assert_eq!(again["objects"], 0);
    site.backup(&vault, &["--topic", "gone-a"]).exits(2).says("gone-a");

    let listed = vault.listed();
    assert_eq!(topics(&listed, "gone-a")[0]["present"], false);
    assert_eq!(topics(&listed, "gone-a")[0]["records"], 12);
    assert_eq!(topics(&listed, "gone-b")[0]["present"], true);
    bodley(&["list", "--vault", vault.url()]).exits(0).says("gone from the source");
    assert_eq!(topics(&vault.verified(), "gone-a")[0]["records"], 12);
    // It comes back under its own name.
    site.restore(&vault, &["--topic", "gone-a"]).exits(0);
    same(&dump, &site.dump("gone-a"));
}

#[test]
fn a_topic_created_again_is_another_topic() {
    let site = site();
    let vault = Vault::new();
    let args = ["--topic", "again"];
    site.topic("again", 2);
    site.write("again", 0, "first life", 30);
    site.backup(&vault, &args).exits(0);
    let first = site.dump("again");
    site.bench.delete_topic("again").unwrap();
    site.bench.create_topic("again", 1, &[("retention.ms", "77777777777")]).unwrap();
    // Shorter than before: offsets alone would look like a truncated log.
    site.write("again", 0, "second life", 10);
    let second = site.dump("again");
    let bootstrap = site.cluster.bootstrap();
    let text = bodley(&["backup", "-b", &bootstrap, "--vault", vault.url(), "--topic", "again"]).exits(0);
    assert!(text.err.contains("again") && text.err.contains("incarnation"), "{text}");
    site.write("again", 0, "second life, later", 10);
    site.backup(&vault, &args).exits(0);
    let second = second.then(&site.dump("again")).unwrap();

    let listed = vault.listed();
    let lives = topics(&listed, "again");
    assert_eq!(lives.len(), 2);
    assert_eq!(
        (&lives[0]["incarnation"], &lives[0]["records"], &lives[0]["superseded"]),
        (&json!(1), &json!(20), &json!(false))
    );
    assert_eq!(
        (&lives[1]["incarnation"], &lives[1]["records"], &lives[1]["superseded"]),
        (&json!(0), &json!(30), &json!(true))
    );
    assert_eq!((&lives[0]["present"], &lives[1]["present"]), (&json!(true), &json!(false)));
    vault.verified();
    Python::read(&vault, &[]).saw("again", &second);
    let both = Python::read(&vault, &["--all-incarnations"]);
    assert_eq!(both.records("again").len() as u64, first.len() + second.len());
    site.restore_as(&vault, "again", "again-back").exits(0);
    same(&second, &site.dump("again-back"));
    let restored = site.bench.describe("again-back").unwrap();
    assert_eq!((restored.partitions.len(), restored.config("retention.ms")), (1, Some("77777777777")));
}

#[test]
fn what_retention_took_before_the_first_run_is_no_gap() {
    let site = site();
    let vault = Vault::new();
    site.topic("origin", 2);
    site.write("origin", 0, "old", 20);
    site.write("origin", 1, "old", 20);
    site.bench.delete_records("origin", 0, 7).unwrap();
    site.bench.delete_records("origin", 1, 20).unwrap();
    let report = site.backup(&vault, &["--topic", "origin"]).exits(0).json();
    assert_eq!(report["gaps"], json!([]));
    let dump = site.dump("origin");
    assert_eq!(dump.len(), 13);
    Python::read(&vault, &[]).saw("origin", &dump);
    site.restore_as(&vault, "origin", "origin-back").exits(0);
    same(&dump, &site.dump("origin-back"));
}

#[test]
fn what_retention_took_between_runs_is_a_gap() {
    let site = site();
    let vault = Vault::new();
    let args = ["--topic", "gap"];
    site.topic("gap", 2);
    site.write("gap", 0, "first", 20);
    site.write("gap", 1, "first", 20);
    site.backup(&vault, &args).exits(0);
    let first = site.dump("gap");
    site.write("gap", 0, "second", 20);
    site.write("gap", 1, "second", 20);
    // Partition 0 starts inside a batch then, partition 1 is empty.
    site.bench.delete_records("gap", 0, 33).unwrap();
    site.bench.delete_records("gap", 1, 40).unwrap();
    let gaps = json!([
        {"topic": "gap", "partition": 0, "first": 20, "next": 33, "reason": "retention"},
        {"topic": "gap", "partition": 1, "first": 20, "next": 40, "reason": "retention"},
    ]);
    let report = site.backup(&vault, &args).exits(3).json();
    let mut found = list(&report, "gaps").to_vec();
    found.sort_by_key(|gap| gap["partition"].as_u64());
    assert_eq!(Value::from(found), gaps);
    // Recorded once: the next run is none the worse for it.
    let again = site.backup(&vault, &args).exits(0).json();
    assert_eq!((&again["gaps"], &again["objects"]), (&json!([]), &json!(0)));
    site.write("gap", 1, "third", 5);
    site.backup(&vault, &args).exits(0);

    assert_eq!(vault.verified()["gaps"], gaps);
    assert_eq!(vault.listed()["gaps"], gaps);
    assert_eq!(topics(&vault.listed(), "gap")[0]["gaps"], 2);
    bodley(&["show", "gap", "--vault", vault.url()])
        .exits(0)
        .says("gap: partition 0 offsets 20..33 (retention)");
    bodley(&["verify", "--vault", vault.url()]).exits(0).says("gap-0 offsets 20..33 (retention)");
    let python = Python::read(&vault, &[]);
    assert!(
        python.err.contains("topic gap partition 0 offset 20: lost up to 33 (retention)"),
        "{}",
        python.err
    );
    let expected = first.then(&site.dump("gap")).unwrap();
    assert_eq!(expected.len(), 20 + 20 + 7 + 5);
    python.saw("gap", &expected);
    let report = site.restore_as(&vault, "gap", "gap-back").exits(3).json();
    assert_eq!(list(&report, "gaps").len(), 2);
    same(&expected, &site.dump("gap-back"));
}

// Which topics

#[test]
fn topics_are_chosen_by_name_and_glob() {
    let site = site();
    for name in ["pick.a", "pick.b", "pick-a", "Pick.a", "pick.tmp"] {
        site.topic(name, 1);
        site.write(name, 0, name, 1);
    }
    let chosen = |args: &[&str]| {
        let report = site.backup(&Vault::new(), args).exits(0).json();
        let names: Vec<String> =
            list(&report, "topics").iter().map(|t| t["topic"].as_str().unwrap().to_owned()).collect();
        names.join(" ")
    };
    assert_eq!(chosen(&["--topic", "pick.?"]), "pick.a pick.b");
    assert_eq!(chosen(&["--topic", "pick.*", "--exclude", "*.tmp"]), "pick.a pick.b");
    assert_eq!(chosen(&["--topic", "?ick.a", "--topic", "pick-a"]), "Pick.a pick-a pick.a");
    assert_eq!(
        chosen(&["--topic", "pick.a", "--topic", "pick.a", "--topic", "pick.*"]),
        "pick.a pick.b pick.tmp"
    );
    assert_eq!(chosen(&["--topic", "__consumer_offsets"]), "__consumer_offsets");

    let vault = Vault::new();
    for (pattern, args) in [
        ("pick.c", &["--topic", "pick.c"][..]),
        ("nowhere*", &["--topic", "pick.a", "--topic", "nowhere*"]),
        ("__consumer_*", &["--topic", "__consumer_*"]),
    ] {
        site.backup(&vault, args).exits(2).within(60).says(pattern);
        assert!(vault.objects().is_empty(), "{args:?} made {:?}", vault.objects());
    }
    site.backup(&vault, &["--topic", "pick.*"]).exits(0);
    let before = site.bench.topics().unwrap();
    site.restore(&vault, &["--topic", "pick.c"]).exits(2).says("pick.c");
    site.restore(&vault, &["--topic", "pick-*"]).exits(2).says("pick-*");
    site.restore(&vault, &["--topic", "pick.a", "--rename", "pick.b=other"]).exits(2).says("pick.b");
    vault.bodley("show", &["pick.c"]).exits(2).says("pick.c");
    assert_eq!(before.iter().filter(|t| t.contains("other")).count(), 0);
    let args = [
        "--topic",
        "pick.*",
        "--exclude",
        "pick.tmp",
        "--rename",
        "pick.a=picked.a",
        "--rename",
        "pick.b=picked.b",
    ];
    site.restore(&vault, &args).exits(0);
    assert!(site.has("picked.a") && site.has("picked.b"));
}

/// Kafka's own topics and whatever else is there: without --topic all but the internal ones are taken.
#[test]
fn without_a_choice_everything_but_internal_topics_is_taken() {
    let site = site();
    site.topic("everything", 1);
    site.write("everything", 0, "x", 3);
    site.bench.create_topic("__hidden", 1, &[]).unwrap();
    let vault = Vault::new();
    // Other tests delete topics meanwhile, and that is theirs to judge.
    let ran = site.backup(&vault, &[]);
    assert!([Some(0), Some(1), Some(3)].contains(&ran.code), "{ran}");
    let listed = vault.listed();
    assert_eq!(topics(&listed, "everything").len(), 1);
    assert!(
        list(&listed, "topics").iter().all(|t| !t["topic"].as_str().unwrap().starts_with("__")),
        "{listed:#}"
    );
    let vault = Vault::new();
    site.backup(&vault, &["--include-internal", "--topic", "__*"]).exits(0);
    for name in ["__hidden", "__consumer_offsets"] {
        assert_eq!(topics(&vault.listed(), name).len(), 1, "{name}");
    }
}

// Where the vault is

#[test]
fn vault_urls() {
    let site = site();
    site.topic("urls", 1);
    site.write("urls", 0, "x", 3);
    let bootstrap = site.cluster.bootstrap();
    let vault = Vault::new();
    let url = format!("file://{}", vault.url());
    bodley(&["backup", "-b", &bootstrap, "--topic", "urls", "--vault", &url]).exits(0);
    bodley(&["verify", "--vault", &url]).exits(0);
    assert_eq!(topics(&vault.verified(), "urls")[0]["records"], 3);

    // A relative path, and folders that have to be made on the way.
    let folder = vault.root().parent().unwrap();
    let args = ["backup", "-b", &bootstrap, "--topic", "urls", "--vault", "some/where/new"];
    let status =
        common::command(&args).current_dir(folder).stdout(std::process::Stdio::null()).status().unwrap();
    assert!(status.success());
    assert!(folder.join("some/where/new/vault.json").exists());

    // The first of several bootstrap servers need not answer.
    let several = format!("127.0.0.1:1,{bootstrap}");
    bodley(&["backup", "-b", &several, "--topic", "urls", "--vault", vault.url()]).exits(0).within(60);
}

#[test]
fn vaults_that_cannot_be_written() {
    let site = site();
    site.topic("unwritable", 1);
    site.write("unwritable", 0, "x", 3);
    let bootstrap = site.cluster.bootstrap();
    let vault = Vault::new();
    std::fs::create_dir_all(vault.root()).unwrap();
    let file = format!("{}/file", vault.url());
    std::fs::write(&file, "x").unwrap();
    let below = format!("{file}/vault");
    for url in [file.as_str(), &below] {
        let ran = bodley(&["backup", "-b", &bootstrap, "--topic", "unwritable", "--vault", url]).within(60);
        assert!([Some(1), Some(2)].contains(&ran.code), "{ran}");
        assert!(ran.err.contains(url) && ran.err.lines().count() <= 2, "no clear line: {ran}");
    }
    // A folder that may not be written to; to root all may.
    let closed = vault.root().join("closed");
    std::fs::create_dir_all(&closed).unwrap();
    let mut permissions = closed.metadata().unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&closed, permissions).unwrap();
    if std::fs::write(closed.join("probe"), "x").is_err() {
        let url = closed.join("vault").to_str().unwrap().to_owned();
        let ran = bodley(&["backup", "-b", &bootstrap, "--topic", "unwritable", "--vault", &url]).within(60);
        assert!([Some(1), Some(2)].contains(&ran.code), "{ran}");
        assert!(ran.err.contains(&url), "{ran}");
    }
}

#[test]
fn a_foreign_vault_is_refused_and_left_alone() {
    let site = site();
    let (vault, _) = small_vault(&site, "foreign");
    for identity in [&b"{}"[..], b"", br#"{"magic":"another","format":1}"#] {
        let other = Vault::new();
        std::fs::create_dir_all(other.root()).unwrap();
        std::fs::write(other.root().join("vault.json"), identity).unwrap();
        site.backup(&other, &["--topic", "foreign-*"]).exits(2).says(other.url());
        site.restore(&other, &["--topic", "foreign-*"]).exits(2).says(other.url());
        assert_eq!(other.objects().len(), 1);
    }
    let absent = Vault::new();
    site.restore(&absent, &[]).exits(2).within(60).says(absent.url());
    assert!(absent.objects().is_empty());
    // The vault of another cluster.
    let other = Cluster::start(ClusterOptions::new()).unwrap();
    other.workbench().unwrap().create_topic("foreign-a", 1, &[]).unwrap();
    let before = vault.objects();
    let bootstrap = other.bootstrap();
    let args =
        ["backup", "-b", &bootstrap, "--vault", vault.url(), "--topic", "foreign-*", "--output", "json"];
    bodley(&args).exits(2).says(other.id()).says("new vault");
    assert_eq!(vault.objects(), before);
}

/// The first thing that a new cluster sees is a restore.
#[test]
fn a_restore_into_a_new_cluster() {
    let site = site();
    let (vault, names) = small_vault(&site, "moved");
    site.bench.commit_offsets("moved-group", &[GroupOffset::new("moved-a", 0, 30)]).unwrap();
    site.backup(&vault, &["--topic", "moved-*"]).exits(0);
    let other = Cluster::start(ClusterOptions::new()).unwrap();
    bodley(&["restore", "-b", &other.bootstrap(), "--vault", vault.url(), "--output", "json"]).exits(0);
    let bench = other.workbench().unwrap();
    assert_eq!(bench.topics().unwrap(), names);
    for name in &names {
        same(&site.dump(name), &bench.dump(name, Isolation::Committed).unwrap());
        assert_eq!(bench.describe(name).unwrap().own_configs(), []);
    }
    assert_eq!(bench.group_offsets("moved-group").unwrap(), [GroupOffset::new("moved-a", 0, 30)]);
}

#[test]
fn two_backups_into_one_vault() {
    let site = site();
    for name in ["race-a", "race-b"] {
        site.topic(name, 2);
    }
    let vault = Vault::new();
    let mut both = 0;
    for round in 0..6 {
        for name in ["race-a", "race-b"] {
            site.write(name, 0, &format!("round {round}"), 50);
            site.write(name, 1, &format!("round {round}"), 50);
        }
        // In turn the same topics, and each its own.
        let choice = if round % 2 == 0 { ["race-*", "race-*"] } else { ["race-a", "race-b"] };
        let runs = choice.map(|topic| site.start("backup", &vault, &["--topic", topic]));
        let codes = runs.map(|run| {
            let ran = run.wait();
            assert!([Some(0), Some(1)].contains(&ran.code), "{ran}");
            if ran.code == Some(1) {
                assert_eq!(round % 2, 0, "disjoint partitions must not collide: {ran}");
                assert_eq!(list(&ran.json(), "errors")[0]["code"], "lost_race", "{ran}");
            }
            ran.code == Some(0)
        });
        assert!(codes.contains(&true), "none came through");
        both += u32::from(codes == [true, true]);
    }
    site.backup(&vault, &["--topic", "race-*"]).exits(0);
    eprintln!("both came through in {both} of 6 rounds");
    let verified = vault.verified();
    let python = Python::read(&vault, &[]);
    for name in ["race-a", "race-b"] {
        assert_eq!(topics(&verified, name)[0]["records"], 600);
        python.saw(name, &site.dump(name));
    }
}

#[test]
fn limits_hold() {
    let site = site();
    site.topic("limited", 1);
    let record = Record::new(0).value(vec![7; 100_000]);
    site.bench.produce("limited", &vec![record; 40], &ProduceOptions::default()).unwrap();
    for flag in ["--limit-read", "--limit-write"] {
        let start = Instant::now();
        site.backup(&Vault::new(), &["--topic", "limited", flag, "2M"]).exits(0);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(1200) && took < Duration::from_secs(60), "{flag}: {took:?}");
    }
}

// Consumer groups

#[test]
fn groups_are_kept_and_come_back() {
    let site = site();
    let topic = "grouped";
    site.topic(topic, 3);
    // Transactions leave markers: offsets at the target differ from the source's.
    for round in 0..3 {
        site.bench.begin("grouped-producer", &ProduceOptions::default()).unwrap();
        let records: Vec<Record> = (0..4).map(|n| Record::new(0).value(format!("{round} {n}"))).collect();
        site.bench.send("grouped-producer", topic, &records).unwrap();
        if round == 1 { site.bench.abort("grouped-producer") } else { site.bench.commit("grouped-producer") }
            .unwrap();
    }
    site.wait_for_stable_end(topic, 15);
    site.write(topic, 1, "x", 20);
    site.bench.delete_records(topic, 1, 5).unwrap();
    let end = |partition: usize| site.bench.describe(topic).unwrap().partitions[partition].end;
    let at = |partition, offset, metadata: &str| GroupOffset {
        metadata: metadata.to_owned(),
        ..GroupOffset::new(topic, partition, offset)
    };
    let positions = [at(0, 7, "in the aborted"), at(1, 12, ""), at(2, 0, "empty")];
    site.bench.commit_offsets("grouped-here", &positions).unwrap();
    site.bench.commit_offsets("grouped-end", &[at(0, end(0), ""), at(1, end(1), "the end")]).unwrap();
    site.bench.commit_offsets("grouped-goes", &[at(0, 1, "")]).unwrap();
    let vault = Vault::new();
    let report = site.backup(&vault, &["--topic", topic]).exits(0).json();
    assert_eq!(report["groups"], 3);
    let shown = vault.bodley("show", &["--groups"]).exits(0).json();
    let rows: Vec<(&str, i64, &str)> = list(&shown, "groups")
        .iter()
        .map(|row| {
            (
                row["group"].as_str().unwrap(),
                row["offset"].as_i64().unwrap(),
                row["metadata"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    let expected = [
        ("grouped-end", end(0), ""),
        ("grouped-end", end(1), "the end"),
        ("grouped-goes", 1, ""),
        ("grouped-here", 7, "in the aborted"),
        ("grouped-here", 12, ""),
        ("grouped-here", 0, "empty"),
    ];
    assert_eq!(rows, expected);

    // Positions that move are news, groups that go are gone.
    site.bench.delete_group("grouped-goes").unwrap();
    site.bench.commit_offsets("grouped-here", &[at(1, 13, "moved")]).unwrap();
    site.backup(&vault, &["--topic", topic]).exits(0);
    let shown = vault.bodley("show", &["--groups"]).exits(0).json();
    assert!(!list(&shown, "groups").iter().any(|row| row["group"] == "grouped-goes"), "{shown:#}");
    let commits = vault.commits();
    site.backup(&vault, &["--topic", topic]).exits(0);
    assert_eq!(vault.commits(), commits, "nothing moved");

    let source = site.dump(topic);
    let were: Vec<(&str, Vec<GroupOffset>)> = ["grouped-here", "grouped-end"]
        .map(|group| (group, site.bench.group_offsets(group).unwrap()))
        .to_vec();
    let renamed = format!("{topic}=grouped-back");
    let args = ["--topic", topic, "--rename", &renamed];
    site.restore(&vault, &[&args[..], &["--groups", "none"]].concat()).exits(0);
    for (group, was) in &were {
        assert_eq!(site.bench.group_offsets(group).unwrap(), *was, "{group}");
    }
    site.bench.delete_topic("grouped-back").unwrap();
    site.restore(&vault, &[&args[..], &["--groups", "map"]].concat()).exits(0);
    let restored = site.dump("grouped-back");
    same(&source, &restored);
    for (group, was) in were {
        let now = site.bench.group_offsets(group).unwrap();
        for position in was {
            let is = now.iter().find(|o| o.topic == "grouped-back" && o.partition == position.partition);
            let is = is.unwrap_or_else(|| panic!("{group} lost {position:?}: {now:?}"));
            assert_eq!(
                before(&restored, is),
                before(&source, &position),
                "{group}: {position:?} became {is:?}"
            );
            assert_eq!(is.metadata, position.metadata);
        }
        // The source's own positions stay as they were.
        assert!(now.iter().any(|o| o.topic == topic), "{group}: {now:?}");
    }
    for flag in ["--groups=some", "--groups="] {
        site.restore(&vault, &["--topic", topic, flag]).exits(2);
    }
}

/// How many records a group has behind it.
fn before(dump: &Dump, position: &GroupOffset) -> usize {
    let records = dump.records().unwrap();
    records.iter().filter(|r| r.partition == position.partition && r.offset < position.offset).count()
}

// Restores that must not happen, and those into topics that are there

/// Refused with exit 2; no topic appears and none changes.
#[track_caller]
fn refused(site: &Site, vault: &Vault, args: &[&str], prefix: &str, words: &[&str]) {
    let state = || -> Vec<_> {
        let names = site.bench.topics().unwrap().into_iter().filter(|name| name.starts_with(prefix));
        names.map(|name| site.bench.describe(&name).unwrap()).collect()
    };
    let before = state();
    let mut ran = site.restore(vault, args).exits(2).within(60);
    for word in words {
        ran = ran.says(word);
    }
    assert_eq!(state(), before, "something was written: {ran}");
}

#[test]
fn a_topic_that_holds_data_stops_the_whole_restore() {
    let site = site();
    let (vault, _) = small_vault(&site, "holds");
    site.topic("holds-taken", 2);
    site.write("holds-taken", 1, "mine", 1);
    // Of two topics one could be restored; none is.
    let args = ["--topic", "holds-*", "--rename", "holds-a=holds-free", "--rename", "holds-b=holds-taken"];
    refused(&site, &vault, &args, "holds", &["holds-taken", "--rename"]);
    // Under its own name, of course, too; both conflicts are listed.
    refused(&site, &vault, &["--topic", "holds-*"], "holds", &["holds-a", "holds-b"]);
    let renamed = ["--rename", "holds-a=holds-one", "--rename", "holds-b=holds-one"];
    refused(
        &site,
        &vault,
        &[&["--topic", "holds-*"], &renamed[..]].concat(),
        "holds",
        &["holds-one", "holds-a", "holds-b"],
    );
    let onto = ["--topic", "holds-*", "--rename", "holds-a=holds-b"];
    refused(&site, &vault, &onto, "holds", &["holds-b"]);
    let long = format!("holds-a={}", "x".repeat(250));
    for rename in ["holds-a", "holds-a=", "=x", "holds-a=a/b", "holds-a=..", "holds-a=holds-x,", &long] {
        refused(&site, &vault, &["--topic", "holds-a", "--rename", rename], "holds", &[]);
    }
    let factor = ["--topic", "holds-a", "--rename", "holds-a=holds-three", "--replication-factor", "3"];
    refused(&site, &vault, &factor, "holds", &["--replication-factor"]);
    for setting in ["retention.ms", "=1", "other:retention.ms=1", "retention.ms=soon", "no.such.setting=1"] {
        let args = ["--topic", "holds-a", "--rename", "holds-a=holds-set", "--topic-config", setting];
        refused(&site, &vault, &args, "holds", &[]);
    }
}

#[test]
fn a_topic_with_too_few_partitions_is_refused() {
    let site = site();
    let (vault, _) = small_vault(&site, "few");
    site.topic("few-target", 1);
    refused(
        &site,
        &vault,
        &["--topic", "few-a", "--rename", "few-a=few-target"],
        "few",
        &["few-target", "1", "2"],
    );
}

#[test]
fn an_empty_topic_is_filled_and_keeps_its_own_settings() {
    let site = site();
    let (vault, _) = small_vault(&site, "filled");
    let own = [
        ("retention.ms", "987654321000"),
        ("segment.ms", "600000"),
        ("cleanup.policy", "compact,delete"),
        ("max.message.bytes", "2000000"),
    ];
    site.bench.create_topic("filled-target", 2, &own).unwrap();
    let before = site.bench.describe("filled-target").unwrap().own_configs();
    site.restore_as(&vault, "filled-a", "filled-target").exits(0);
    same(&site.dump("filled-a"), &site.dump("filled-target"));
    assert_eq!(site.bench.describe("filled-target").unwrap().own_configs(), before);

    // Emptied, so that its log begins at another offset; and with one partition more.
    site.topic("filled-larger", 3);
    site.write("filled-larger", 0, "gone", 9);
    site.write("filled-larger", 2, "gone", 4);
    site.bench.delete_records("filled-larger", 0, 9).unwrap();
    site.bench.delete_records("filled-larger", 2, 4).unwrap();
    site.restore_as(&vault, "filled-b", "filled-larger").exits(0);
    prefix(&site.dump("filled-larger"), &site.dump("filled-b"));
    assert_eq!(site.dump("filled-larger").len(), site.dump("filled-b").len());
    assert_eq!(site.bench.describe("filled-larger").unwrap().own_configs(), []);
}

#[test]
fn settings_of_the_command_line_win() {
    let site = site();
    let vault = Vault::new();
    site.bench
        .create_topic(
            "set",
            1,
            &[
                ("retention.ms", "111111111111"),
                ("segment.bytes", "104857600"),
                ("cleanup.policy", "compact"),
            ],
        )
        .unwrap();
    site.write("set", 0, "x", 10);
    site.backup(&vault, &["--topic", "set"]).exits(0);
    let settings =
        ["retention.ms=5555555555", "set-back:cleanup.policy=compact,delete", "min.insync.replicas=1"];
    let flags = settings.iter().flat_map(|setting| ["--topic-config", setting]);
    let args: Vec<&str> = ["--topic", "set", "--rename", "set=set-back"].into_iter().chain(flags).collect();
    site.restore(&vault, &args).exits(0);
    let expected = [
        ("cleanup.policy", "compact,delete"),
        ("min.insync.replicas", "1"),
        ("retention.ms", "5555555555"),
        ("segment.bytes", "104857600"),
    ];
    let expected: Vec<(String, String)> =
        expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(site.bench.describe("set-back").unwrap().own_configs(), expected);
    same(&site.dump("set"), &site.dump("set-back"));
}

/// The record's age and the final retention: old records stay while the restore runs.
#[test]
fn old_records_survive_a_short_retention_until_the_end() {
    let site = site();
    let vault = Vault::new();
    site.bench.create_topic("aged", 1, &[("retention.ms", "-1"), ("segment.ms", "1000")]).unwrap();
    let record = |n: i64| Record::new(0).value(format!("{n}")).at(1_600_000_000_000 + n * 3_600_000);
    let records: Vec<Record> = (0..200).map(record).collect();
    site.bench.produce("aged", &records, &ProduceOptions::default().flush_every(1)).unwrap();
    site.backup(&vault, &["--topic", "aged"]).exits(0);
    site.restore_as(&vault, "aged", "aged-back").exits(0);
    same(&site.dump("aged"), &site.dump("aged-back"));
    assert_eq!(
        site.bench.describe("aged").unwrap().own_configs(),
        site.bench.describe("aged-back").unwrap().own_configs()
    );
}

// Restores that are cut

#[test]
fn a_restore_that_was_cut_is_never_doubled() {
    let site = site();
    let vault = Vault::new();
    site.topic("cut", 3);
    let record = |n: u32| Record::new((n % 3) as i32).key(n.to_string()).value(vec![n as u8; 3_000]);
    let records: Vec<Record> = (0..6_000).map(record).collect();
    site.bench.produce("cut", &records, &ProduceOptions::default()).unwrap();
    site.backup(&vault, &["--topic", "cut"]).exits(0);
    let source = site.dump("cut");
    let mut rng = Rng::new("cut restores", 5);
    let mut halves = 0;
    for n in 0..6 {
        let target = format!("cut-{n}");
        let rename = format!("cut={target}");
        let args = ["--topic", "cut", "--rename", &rename, "--limit-read", "8M"];
        let mut run = site.start("restore", &vault, &args);
        run.leave_alone(Duration::from_millis(50) + rng.millis(1800));
        let (ran, signal) = match n % 3 {
            0 => {
                run.signal("TERM");
                (run.wait(), Some(143))
            }
            1 => {
                run.signal("INT");
                (run.wait(), Some(130))
            }
            _ => (run.kill(), None),
        };
        let done = ran.code == Some(0);
        assert!(done || ran.code == signal, "{ran}");
        if signal.is_some() && !done {
            let there = site.has(&target);
            assert!(
                !there || ran.err.contains(&target) || ran.out.contains(&target),
                "the topic is not named: {ran}"
            );
        }
        std::thread::sleep(Duration::from_millis(200));
        if !site.has(&target) {
            site.restore(&vault, &args).exits(0);
            same(&source, &site.dump(&target));
            continue;
        }
        let found = site.dump(&target);
        prefix(&source, &found);
        if found.len() == source.len() && done {
            continue;
        }
        halves += u32::from(!found.is_empty());
        // The same command goes on; another flag that chooses other records would be another restore.
        let other = ["--topic", "cut", "--rename", &rename, "--topic-config", "retention.ms=-1"];
        refused(&site, &vault, &other, &target, &[&target, "delete"]);
        assert_eq!(site.dump(&target).len(), found.len());
        let report = site.restore(&vault, &args).exits(0).json();
        assert_eq!(report["records"], source.len());
        same(&source, &site.dump(&target));
        assert_eq!(site.bench.describe(&target).unwrap().own_configs(), []);
    }
    assert!(halves > 0, "no restore was caught half-way");
}

#[test]
fn others_who_write_to_the_target_are_noticed() {
    let site = site();
    let vault = Vault::new();
    fill(&site, "shared", 16 << 20);
    site.backup(&vault, &["--topic", "shared"]).exits(0);
    let source = site.dump("shared");
    let begin = |target: &str| {
        let rename = format!("shared={target}");
        site.start("restore", &vault, &["--topic", "shared", "--rename", &rename, "--limit-write", "8M"])
    };
    // Two restores at once into the same topic.
    for n in 0..3 {
        let target = format!("shared-{n}");
        let first = begin(&target);
        std::thread::sleep(Duration::from_millis(100 * n));
        let ran = [begin(&target), first].map(|run| run.wait());
        let done = ran.iter().filter(|ran| ran.code == Some(0)).count();
        for ran in &ran {
            assert!([Some(0), Some(1), Some(2)].contains(&ran.code), "{ran}");
        }
        assert!(done <= 1, "both say that they are done: {}{}", ran[0], ran[1]);
        if done == 1 {
            same(&source, &site.dump(&target));
        }
    }
    // A producer.
    let mut run = begin("shared-produced");
    site.until(&mut run, "shared-produced", 1);
    site.write("shared-produced", 0, "mine", 1);
    run.wait().exits(1).says("shared-produced").says("somebody else");
}

/// Some MiB in two partitions, in records of 4 KiB.
fn fill(site: &Site, topic: &str, bytes: u64) {
    site.topic(topic, 2);
    let options = BulkOptions { partitions: 2, value_bytes: 4096, ..BulkOptions::default() };
    bulk(&site.bench, topic, bytes, options).unwrap();
}

/// What is not durable in time after a signal is abandoned; a second signal does not even wait so long.
#[test]
fn a_signal_while_the_disk_is_slow() {
    let site = site();
    fill(&site, "slow", 24 << 20);
    let vaults = [Vault::new(), Vault::new()];
    let mut runs = vaults
        .each_ref()
        .map(|vault| site.start("backup", vault, &["--topic", "slow", "--limit-write", "256K", "-v"]));
    runs.iter_mut().for_each(|run| _ = run.reads());
    runs[0].leave_alone(Duration::from_secs(1));
    let asked = Instant::now();
    runs.iter_mut().for_each(|run| run.signal("TERM"));
    runs[1].leave_alone(Duration::from_millis(700));
    assert!(runs[1].is_running(), "too fast for this test");
    runs[1].signal("INT");
    let [patient, hurried] = runs;
    hurried.wait().exits_without_a_document(130);
    let hurried = asked.elapsed();
    patient.wait().exits(143);
    let patient = asked.elapsed();
    assert!(hurried < Duration::from_secs(8) && patient < Duration::from_secs(40), "{hurried:?} {patient:?}");
    for vault in &vaults {
        site.backup(vault, &["--topic", "slow"]).exits(0);
        assert_eq!(topics(&vault.verified(), "slow")[0]["records"], site.dump("slow").len());
    }
}

#[test]
fn a_signal_ends_verify() {
    let site = site();
    let vault = Vault::new();
    fill(&site, "checked", 16 << 20);
    site.backup(&vault, &["--topic", "checked"]).exits(0);
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut run = start(&["verify", "--vault", vault.url(), "--limit-read", "128K", "--output", "json"]);
        run.leave_alone(Duration::from_millis(300)).signal(signal);
        let report = run.wait().exits(code).within(60).json();
        assert_eq!(report["interrupted"], true);
    }
}

#[test]
fn a_full_disk() {
    let site = site();
    let vault = Vault::new();
    fill(&site, "full", 24 << 20);
    let bootstrap = site.cluster.bootstrap();
    let args = ["backup", "-b", &bootstrap, "--vault", vault.url(), "--topic", "full", "--output", "json"];
    let report = start_on_a_small_disk(&args).wait().exits(1).within(90).json();
    assert_eq!(list(&report, "errors")[0]["code"], "store", "{report:#}");
    let whole = vault.bodley("verify", &[]);
    assert!([Some(0), Some(2)].contains(&whole.code), "{whole}");
    site.backup(&vault, &["--topic", "full"]).exits(0);
    assert_eq!(topics(&vault.verified(), "full")[0]["records"], site.dump("full").len());
}

/// A vault that is read while a backup writes to it: whole at any time, and more with each commit.
#[test]
fn readers_beside_a_writer() {
    let site = site();
    let vault = Vault::new();
    fill(&site, "beside", 16 << 20);
    let bootstrap = site.cluster.bootstrap();
    let fixed = ["backup", "-b", &bootstrap, "--vault", vault.url(), "--topic", "beside"];
    let mut run = start(&[&fixed[..], &["--limit-read", "1M", "--commit-interval", "1s"]].concat());
    let mut seen = vec![0];
    while run.leave_alone(Duration::from_millis(250)).is_running() {
        let ran = vault.bodley("verify", &[]);
        if ran.code == Some(0) {
            let records = topics(&ran.json(), "beside").first().map_or(0, |t| t["records"].as_u64().unwrap());
            seen.push(records);
        } else {
            assert_eq!(seen, [0], "{}", ran.exits(2));
        }
    }
    run.wait().exits(0);
    let all = site.dump("beside").len();
    assert_eq!(topics(&vault.verified(), "beside")[0]["records"], all);
    assert!(seen.is_sorted() && seen.iter().any(|records| (1..all).contains(records)), "{seen:?} of {all}");
    Python::read(&vault, &[]).saw("beside", &site.dump("beside"));
}
