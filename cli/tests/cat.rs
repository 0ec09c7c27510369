//! `bodley cat`: what it prints is what Apache's own client read, for every oddity of a log and any window; and how it ends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::io::Read;
use std::time::Duration;

use bodley_testbed::dump::{Data, DumpedRecord};
use bodley_testbed::shared_cluster;
use bodley_testbed::workbench::{ProduceOptions, Record};
use bodley_testbed::workloads::write_odd_topics;
use common::site::Site;
use common::vault::Vault;
use common::{Ran, Rng, bodley, command, list, start, start_in_shell};
use serde_json::{Value, json};

fn site() -> Site {
    Site::at(shared_cluster().unwrap())
}

/// `bodley cat --vault … --topic …` with more flags.
fn cat(vault: &Vault, topic: &str, args: &[&str]) -> Ran {
    bodley(&flags(vault, topic, args))
}

fn flags<'a>(vault: &'a Vault, topic: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["cat", "--vault", vault.url(), "--topic", topic], args].concat()
}

fn lines(ran: &Ran) -> Vec<Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn values(ran: &Ran) -> Vec<String> {
    lines(ran).iter().map(|line| line["value"].as_str().unwrap().to_owned()).collect()
}

/// Insists that `field` of a line says these bytes.
#[track_caller]
fn says_bytes(line: &Value, field: &str, expected: Option<&Data>) {
    let encoded = &line[&format!("{field}_base64")];
    match expected {
        None => assert!(line[field].is_null() && encoded.is_null() && line.get(field).is_some(), "{line}"),
        Some(data) => match (data.bytes(), line[field].as_str()) {
            (Some(bytes), Some(text)) => assert_eq!(bytes, text.as_bytes(), "{line}"),
            (Some(bytes), None) => {
                let Data::Inline(base64) = data else { panic!("{data}") };
                assert!(std::str::from_utf8(&bytes).is_err() && encoded == base64.as_str(), "{line}");
            }
            // A long one, of which the dump has a digest.
            (None, Some(text)) => assert_eq!(text.len() as u64, data.size()),
            (None, None) => assert_eq!(encoded.as_str().unwrap().len() as u64, data.size().div_ceil(3) * 4),
        },
    }
}

#[track_caller]
fn same(found: &[Value], expected: &[&DumpedRecord], case: &str) {
    for (line, record) in found.iter().zip(expected) {
        let place = json!([record.partition, record.offset, record.timestamp, record.timestamp_type]);
        let shown = json!([line["partition"], line["offset"], line["timestamp"], line["timestamp_type"]]);
        assert_eq!(shown, place, "{case}");
        says_bytes(line, "key", record.key.as_ref());
        says_bytes(line, "value", record.value.as_ref());
        let headers = list(line, "headers");
        assert_eq!(headers.len(), record.headers.len(), "{case}: {line}");
        for (header, (name, value)) in headers.iter().zip(&record.headers) {
            assert_eq!(header["name"], json!(name), "{case}");
            says_bytes(header, "value", value.as_ref());
        }
    }
    assert_eq!(found.len(), expected.len(), "{case}: records");
}

#[test]
fn every_oddity_and_any_window() {
    let (site, vault) = (site(), Vault::new());
    let specs = write_odd_topics(&site.bench, "catodd-").unwrap();
    site.backup(&vault, &["--topic", "catodd-*"]).exits(0);
    let mut rng = Rng::new("windows", 7);
    let mut held = 0;
    for spec in &specs {
        let records = site.dump(&spec.name).records().unwrap();
        let all = cat(&vault, &spec.name, &[]).exits(0);
        same(&lines(&all), &records.iter().collect::<Vec<_>>(), &spec.name);
        for _ in 0..5 {
            let mut pick = |of: &dyn Fn(&DumpedRecord) -> i64| {
                let record = records.get(rng.below(2 * records.len().max(1) as u64) as usize)?;
                Some(of(record) + rng.below(3) as i64 - 1).filter(|bound| *bound >= 0)
            };
            let times = [pick(&|record| record.timestamp), pick(&|record| record.timestamp)];
            let offsets = [pick(&|record| record.offset), pick(&|record| record.offset)];
            let [from, to] = sorted(times);
            let [from_offset, to_offset] = sorted(offsets);
            let bounds =
                [("--from", from), ("--to", to), ("--from-offset", from_offset), ("--to-offset", to_offset)];
            let args: Vec<String> =
                bounds.iter().filter_map(|(flag, bound)| Some(format!("{flag}={}", (*bound)?))).collect();
            let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
            let mut expected: Vec<&DumpedRecord> = records
                .iter()
                .filter(|r| from.is_none_or(|from| r.timestamp >= from))
                .filter(|r| to.is_none_or(|to| r.timestamp < to))
                .filter(|r| from_offset.is_none_or(|from| r.offset >= from))
                .filter(|r| to_offset.is_none_or(|to| r.offset < to))
                .collect();
            let case = format!("{} {args:?}", spec.name);
            same(&lines(&cat(&vault, &spec.name, &args).exits(0)), &expected, &case);
            args.push("--last=3");
            expected = last(&expected, 3);
            same(&lines(&cat(&vault, &spec.name, &args).exits(0)), &expected, &format!("{case}, last"));
            args.push("--limit=2");
            expected.truncate(2);
            same(&lines(&cat(&vault, &spec.name, &args).exits(0)), &expected, &format!("{case}, limit"));
            held += expected.len();
        }
    }
    assert!(held > 20, "the windows hold next to nothing: {held}");
}

/// No window is empty or inverted.
fn sorted([a, b]: [Option<i64>; 2]) -> [Option<i64>; 2] {
    match (a, b) {
        (Some(a), Some(b)) if a == b => [Some(a), None],
        (Some(a), Some(b)) => [Some(a.min(b)), Some(a.max(b))],
        bounds => bounds.into(),
    }
}

/// The last ones of each partition.
fn last<'a>(records: &[&'a DumpedRecord], count: usize) -> Vec<&'a DumpedRecord> {
    let by_partition = records.chunk_by(|a, b| a.partition == b.partition);
    by_partition.flat_map(|of| of.iter().skip(of.len().saturating_sub(count)).copied()).collect()
}

#[test]
fn formats_and_bad_flags() {
    let (site, vault) = (site(), Vault::new());
    // Times of 1970 are not to expire.
    site.bench.create_topic("cat-formats", 2, &[("retention.ms", "-1")]).unwrap();
    let records = [
        Record::new(0).key("k").value([0xff, 0x00]).at(1000).header("h", Some(b"x")).header("h", None),
        Record::new(0).value("").at(2000),
        Record::new(1).key("").at(3000),
    ];
    site.bench.produce("cat-formats", &records, &ProduceOptions::default()).unwrap();
    site.backup(&vault, &["--topic", "cat-formats"]).exits(0);
    let format = r"%t-%p@%o %T %K[%k] %S %h%%\n";
    let text = cat(&vault, "cat-formats", &["--format", format]).exits(0);
    let expected = "cat-formats-0@0 1000 1[k] 2 h=x,h=NULL%\n\
                    cat-formats-0@1 2000 -1[] 0 %\n\
                    cat-formats-1@0 3000 0[] -1 %\n";
    assert_eq!(text.out, expected);
    let mut raw = command(&flags(&vault, "cat-formats", &["--limit", "1", "--format", r"%s\x7f%R"]));
    assert_eq!(raw.output().unwrap().stdout, [0xff, 0x00, 0x7f, 0, 0, 0, 2]);
    // Partitions come in order, each once.
    let twice = cat(&vault, "cat-formats", &["--partition=1", "--partition=0", "--partition=1"]).exits(0);
    assert_eq!(lines(&twice).len(), 3);
    assert_eq!(lines(&cat(&vault, "cat-formats", &["--partition", "1"]).exits(0)).len(), 1);

    let refused: [(&[&str], &str); 19] = [
        (&["--from", "yesterday"], "yesterday"),
        (&["--to", "2026-13-01T00:00:00Z"], "2026-13-01"),
        (&["--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], "no time is between"),
        (&["--from", "5000", "--to", "5000"], "no time is between"),
        (&["--from-offset", "7", "--to-offset", "7"], "no offset is between"),
        (&["--from-offset", "-1"], "-1"),
        (&["--partition", "2"], "it has 0, 1"),
        (&["--partition", "x"], "x"),
        (&["--incarnation", "1"], "it has 0"),
        (&["--at", "99"], "commits 1 to 2"),
        (&["--at", "1000000000000"], "younger"),
        (&["--at", "soon"], "soon"),
        (&["--limit", "0"], "0"),
        (&["--last", "0"], "0"),
        (&["--format", "%x"], "%x"),
        (&["--format", r"\q"], r"\q"),
        (&["--format", ""], "empty"),
        (&["--limit-read", "0"], "0"),
        // The vault's first commit has no topics.
        (&["--at", "1"], "it has none"),
    ];
    for (args, says) in refused {
        let people = cat(&vault, "cat-formats", args).exits(2).says(says);
        assert_eq!(people.out, "", "{people}");
        assert!(people.err.starts_with("error: ") || people.err.lines().count() == 1, "{people}");
        let programs = cat(&vault, "cat-formats", &[args, &["--output", "json"]].concat()).exits(2);
        assert_eq!(programs.out.lines().count(), 1, "one line: {programs}");
    }
    cat(&vault, "cat-format", &[])
        .exits(2)
        .says("there is no topic `cat-format` in the vault: it has cat-formats");
    bodley(&["cat", "--vault", "/no/such/vault", "--topic", "x"]).exits(2);
}

#[test]
fn lives_and_commits() {
    let (site, vault) = (site(), Vault::new());
    let backup = || site.backup(&vault, &["--topic", "cat-lives"]).exits(0);
    site.topic("cat-lives", 1);
    site.write("cat-lives", 0, "early", 2);
    backup();
    let then = vault.commits().to_string();
    site.write("cat-lives", 0, "late", 2);
    backup();
    site.bench.delete_topic("cat-lives").unwrap();
    site.topic("cat-lives", 1);
    site.write("cat-lives", 0, "reborn", 1);
    backup();
    let all = |args: &[&str]| values(&cat(&vault, "cat-lives", args).exits(0));
    assert_eq!(all(&[]), ["reborn 0"]);
    assert_eq!(all(&["--incarnation", "1"]), ["reborn 0"]);
    assert_eq!(all(&["--incarnation", "0"]), ["early 0", "early 1", "late 0", "late 1"]);
    assert_eq!(all(&["--at", &then]), ["early 0", "early 1"]);
    assert_eq!(all(&["--incarnation", "0", "--last", "3", "--limit", "2"]), ["early 1", "late 0"]);
    cat(&vault, "cat-lives", &["--incarnation", "2"]).exits(2).says("it has 0, 1");
    cat(&vault, "cat-lives", &["--incarnation", "1", "--at", &then]).exits(2).says("it has 0");

    let listed = bodley(&["list", "--vault", vault.url()]).exits(0);
    let rows: Vec<&str> = listed.out.lines().filter(|line| line.starts_with("cat-lives")).collect();
    assert!(rows.len() == 2 && rows[0].ends_with("incarnation 1, the newest"), "{listed}");
    assert!(rows[1].ends_with("incarnation 0, older"), "{listed}");
    let listed = vault.bodley("list", &["--at", &then]).exits(0).json();
    let topics = list(&listed, "topics");
    assert_eq!((topics.len(), &topics[0]["records"], &listed["seq"]), (1, &json!(2), &json!(2)));
    let shown = vault.bodley("show", &["cat-lives", "--at", &then]).exits(0).json();
    let lives = list(&shown, "incarnations");
    assert_eq!((lives.len(), &lives[0]["partitions"][0]["next"]), (1, &json!(2)));
    vault.bodley("show", &["--groups", "--at", &then]).exits(0);
    vault.bodley("show", &["--commits", "--at", &then]).exits(2);
    vault.bodley("list", &["--at", "99"]).exits(2).says("commits 1 to");
}

/// A vault of a topic whose records are many times more than what lies between two processes, one in a batch, each with another value.
fn large(topic: &str) -> (Vault, Vec<String>) {
    let (site, vault) = (site(), Vault::new());
    site.topic(topic, 1);
    let text = |n: u32| format!("{n} ").repeat(60_000);
    let written: Vec<String> = (10..50).map(text).collect();
    let records: Vec<Record> = written.iter().map(|text| Record::new(0).value(text)).collect();
    site.bench.produce(topic, &records, &ProduceOptions::default().flush_every(1)).unwrap();
    site.backup(&vault, &["--topic", topic]).exits(0);
    (vault, written)
}

#[test]
fn whoever_reads_may_go_away_or_fail() {
    let (vault, written) = large("cat-large");
    assert_eq!(values(&cat(&vault, "cat-large", &[]).exits(0)), written);
    let args = flags(&vault, "cat-large", &[]);
    let head = start_in_shell(r#"{ "$0" "$@"; echo "ended with $?" >&2; } | head -c 10"#, &args).wait();
    assert_eq!((head.out.as_str(), head.err.as_str()), ("{\"topic\":\"", "ended with 0\n"));
    let full = start_in_shell(r#"exec "$0" "$@" >/dev/full"#, &args).wait().exits(1);
    assert_eq!(full.err.lines().count(), 1, "{full}");
    assert!(full.err.starts_with("bodley: cannot write to standard output"), "{full}");
    // A reader that takes nothing does not hold up the end.
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut child = command(&args).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut first = [0; 1];
        out.read_exact(&mut first).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let kill = format!("kill -{signal} {}", child.id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let asked = std::time::Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    }
    // One that goes on reading gets the document of a run that is slow and is ended.
    let mut slow = start(&[&args[..], &["--limit-read", "100K", "--output", "json"]].concat());
    slow.leave_alone(Duration::from_secs(1)).signal("INT");
    let slow = slow.wait();
    assert_eq!(slow.code, Some(130), "{slow}");
    assert_eq!(lines(&slow).last().unwrap()["interrupted"], json!(true));
}

#[test]
fn beside_damage_and_gaps_the_rest_is_printed() {
    let (site, vault) = (site(), Vault::new());
    site.topic("cat-hurt", 1);
    let backup = |code| site.backup(&vault, &["--topic", "cat-hurt"]).exits(code);
    for what in ["one", "two", "three"] {
        site.write("cat-hurt", 0, what, 2);
        backup(0);
    }
    let segments = vault.objects_in("data/");
    assert_eq!(segments.len(), 3);
    let expected = ["one 0", "one 1", "three 0", "three 1"];
    let check = |copy: &Vault, what: &str| {
        let people = cat(copy, "cat-hurt", &[]).exits(3);
        assert_eq!(values(&people), expected);
        let line = people.err.lines().next().unwrap();
        assert!(
            line.contains(&segments[1]) && line.contains(what) && line.contains("cat-hurt-0 offsets 2..4"),
            "{people}"
        );
        let programs = cat(copy, "cat-hurt", &["--output=json"]).exits(3);
        let lines = lines(&programs);
        let error = &lines[4]["errors"][0];
        assert_eq!((lines.len(), &lines[4]["exit_code"]), (5, &json!(3)));
        assert_eq!(
            (&error["code"], &error["topic"], &error["offset"]),
            (&json!("vault_damaged"), &json!("cat-hurt"), &json!(2))
        );
        // What is not asked for is not looked at.
        assert_eq!(values(&cat(copy, "cat-hurt", &["--last", "2"]).exits(0)), expected[2..]);
        assert_eq!(values(&cat(copy, "cat-hurt", &["--to-offset", "2"]).exits(0)), expected[..2]);
    };
    let copy = vault.snapshot();
    copy.flip(&segments[1], 70);
    check(&copy, "CRC-64");
    let copy = vault.snapshot();
    copy.lose(&segments[1]);
    check(&copy, "missing");

    site.write("cat-hurt", 0, "lost", 3);
    site.bench.delete_records("cat-hurt", 0, 9).unwrap();
    site.write("cat-hurt", 0, "four", 1);
    backup(3);
    let gap = cat(&vault, "cat-hurt", &["--from-offset", "4"]).exits(0);
    assert_eq!(values(&gap), ["three 0", "three 1", "four 0"]);
    assert_eq!(gap.err, "bodley: note: cat-hurt-0 offsets 6..9 are not in the vault (retention)\n");
    assert_eq!(cat(&vault, "cat-hurt", &["--from-offset", "9"]).exits(0).err, "");
}
