//! Vaults in S3, on a real Kafka: whole lives of a vault, and everything that can go wrong between Bodley and the store.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bodley_testbed::iam::AwsCredentials;
use bodley_testbed::pki::Leaf;
use bodley_testbed::shared_cluster;
use bodley_testbed::stores::http::{Action, Rule};
use bodley_testbed::stores::s3::{Allowed, BucketOptions, PutIfAbsent, error};
use bodley_testbed::stores::{S3, SeaweedFs};
use bodley_testbed::workbench::{Generate, ProduceOptions};
use serde_json::json;

use common::bucket::{BUCKET, Bucket};
use common::judge::{same, same_digests};
use common::life::life;
use common::site::Site;
use common::{Rng, Running, list, run, seconds, soak};

fn site() -> Site {
    Site::at(shared_cluster().unwrap())
}

/// So many MiB in four partitions.
fn fill(site: &Site, topic: &str, mebibytes: u64) {
    // One after another: several of Apache's producers at once on a busy machine have run into their time-out of two minutes.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    site.bench.create_topic(topic, 4, &[("retention.ms", "-1")]).unwrap();
    let load = Generate { count: mebibytes * 256, partitions: 4, value_bytes: 4096, ..Generate::default() };
    let options = ProduceOptions { batch_bytes: 256 << 10, linger_ms: 20, ..ProduceOptions::default() };
    site.bench.generate(topic, &load, &options).unwrap();
}

#[test]
fn a_whole_life() {
    let (site, bucket) = (site(), Bucket::new());
    life(&site, "s3-life", &|args| bucket.bodley(args[0], "a b/prod", &args[1..]));
    assert!(bucket.s3.keys(BUCKET).iter().all(|key| key.starts_with("a b/prod/")));
    assert!(bucket.s3.uploads(BUCKET).is_empty());
}

#[test]
fn a_whole_life_in_seaweedfs() {
    let (site, seaweed) = (site(), SeaweedFs::start().unwrap());
    seaweed.make_bucket(BUCKET).unwrap();
    let bucket = Bucket::new();
    let weed = |args: &[&str]| {
        let url = Bucket::url("prod");
        let args = [&args[..1], &["--vault", &url, "--output", "json"], &args[1..]].concat();
        let mut command = bucket.command(&args);
        command
            .env("AWS_ENDPOINT_URL_S3", seaweed.endpoint())
            .env("AWS_ACCESS_KEY_ID", &seaweed.admin().access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &seaweed.admin().secret_access_key);
        run(command, &args)
    };
    life(&site, "s3-weed", &weed);
}

/// Kills a run somewhere on its way.
fn killed(mut run: Running, rng: &mut Rng) {
    let moment = seconds(0.02 + rng.below(800) as f64 / 1000.0);
    run.leave_alone(moment);
    run.kill();
}

#[test]
fn killed_anywhere_and_gone_on_with() {
    let (site, bucket) = (site(), Bucket::new());
    fill(&site, "s3-killed", 48);
    let mut rng = Rng::new("s3 kills", 5);
    let backup = || {
        let flags = ["--topic", "s3-killed", "--commit-interval", "1s", "--limit-read", "60M"];
        bucket.start_with(&site, "backup", "killed", &flags)
    };
    for _ in 0..6 {
        killed(backup(), &mut rng);
    }
    backup().wait().exits(0);
    bucket.verified("killed");
    let restore = || {
        let flags = ["--topic", "s3-killed", "--rename", "s3-killed=s3-killed-back", "--limit-write", "60M"];
        bucket.start_with(&site, "restore", "killed", &flags)
    };
    for _ in 0..6 {
        killed(restore(), &mut rng);
    }
    restore().wait().exits(0);
    same_digests(&site.bench, "s3-killed", "s3-killed-back");
}

/// The run is killed while its nth request is under way; the request has its effect, or has none.
#[test]
fn killed_at_every_request() {
    let (site, bucket) = (site(), Bucket::new());
    fill(&site, "s3-steps", 12);
    bucket.with(&site, "backup", "whole", &["--topic", "s3-steps"]).exits(0);
    let requests = bucket.s3.log().records().len() as u64;
    assert!((8..80).contains(&requests), "{requests} requests");
    for n in 1..=requests {
        let prefix = format!("step-{n}");
        let action = if n % 2 == 0 { Action::Stall(seconds(60.0)) } else { Action::Late(seconds(60.0)) };
        let rule = bucket.s3.faults().add(Rule::always(action).nth(n));
        let mut run = bucket.start_with(&site, "backup", &prefix, &["--topic", "s3-steps"]);
        while run.is_running() && bucket.s3.faults().fired(rule) == 0 {
            std::thread::sleep(seconds(0.002));
        }
        run.leave_alone(seconds(0.01));
        run.kill();
        bucket.s3.faults().clear();
        bucket.with(&site, "backup", &prefix, &["--topic", "s3-steps"]).exits(0);
        let verified = bucket.verified(&prefix);
        assert_eq!(verified["records"], json!(12 * 256), "killed at request {n}");
    }
}

#[test]
fn faults_on_five_percent_of_all_requests() {
    let (site, bucket) = (site(), Bucket::new());
    // A GiB where there is time for it.
    fill(&site, "s3-faults", if soak() { 1024 } else { 96 });
    let seed = Rng::new("s3 faults", 0).below(u32::MAX.into());
    bucket.s3.faults().seed(seed);
    for action in [
        Action::Answer(error(503, "SlowDown")),
        Action::Answer(error(500, "InternalError")),
        Action::DoThenAnswer(error(500, "InternalError")),
        Action::DoThenCut,
        Action::CutBody(100_000),
    ] {
        bucket.s3.faults().add(Rule::always(action).chance(0.01));
    }
    let flags = ["--topic", "s3-faults", "--commit-interval", "1s", "--limit-read", "24M"];
    let options = ["--vault-option", "part-size=5M"];
    bucket.with(&site, "backup", "faults", &[&flags[..], &options].concat()).exits(0);
    let fired = bucket.s3.faults().all_fired();
    bucket.verified("faults");
    let rename = ["--topic", "s3-faults", "--rename", "s3-faults=s3-faults-back"];
    bucket.with(&site, "restore", "faults", &rename).exits(0);
    same_digests(&site.bench, "s3-faults", "s3-faults-back");
    // Which requests they hit is chance.
    let mut all = bucket.s3.faults().all_fired();
    for _ in 0..20 {
        if all >= 3 {
            break;
        }
        bucket.verified("faults");
        all = bucket.s3.faults().all_fired();
    }
    eprintln!("seed {seed}: {fired} faults in the backup, {all} in all");
    assert!(all >= 3, "seed {seed}: {all} faults");
    let log: Vec<String> = bucket.s3.keys(BUCKET).into_iter().filter(|key| key.contains("/log/")).collect();
    let commits = bucket.bodley("show", "faults", &["--commits"]).exits(0).json();
    assert_eq!(list(&commits, "commits").len(), log.len(), "no commit twice");
}

#[test]
fn two_backups_at_once() {
    let (site, bucket) = (site(), Bucket::new());
    fill(&site, "s3-race", 24);
    bucket.s3.faults().add(Rule::on("PutObject", Action::DoThenCut).chance(0.2));
    for round in 0..4 {
        let prefix = format!("race-{round}");
        let flags = ["--topic", "s3-race", "--limit-read", "40M"];
        let start = || bucket.start_with(&site, "backup", &prefix, &flags);
        let (first, second) = (start(), start());
        let (first, second) = (first.wait(), second.wait());
        // Whoever comes late stops, or finds nothing left to do.
        let codes = [first.code, second.code];
        assert!(codes.contains(&Some(0)), "{first}\n{second}");
        assert!(codes.iter().all(|code| matches!(code, Some(0 | 1))), "{first}\n{second}");
        let verified = bucket.verified(&prefix);
        assert_eq!(verified["records"], json!(24 * 256));
    }
}

#[test]
fn damage_is_found() {
    let (site, bucket) = (site(), Bucket::new());
    fill(&site, "s3-damage", 8);
    bucket.with(&site, "backup", "damage", &["--topic", "s3-damage"]).exits(0);
    let key = bucket.s3.keys(BUCKET).into_iter().find(|key| key.contains("/data/")).unwrap();
    let whole = bucket.s3.object(BUCKET, &key).unwrap().bytes().to_vec();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    bucket.s3.plant(BUCKET, &key, flipped);
    bucket.bodley("verify", "damage", &[]).exits(3).says("damaged");
    bucket.s3.plant(BUCKET, &key, whole[..whole.len() - 1].to_vec());
    bucket.bodley("verify", "damage", &["--quick"]).exits(3).says("bytes");
    bucket.s3.remove(BUCKET, &key);
    bucket.bodley("verify", "damage", &["--quick"]).exits(3).says("missing");
    bucket.s3.plant(BUCKET, &key, whole);
    bucket.verified("damage");
}

/// Each with one clear error, in seconds; the vault is as it was.
#[test]
fn what_cannot_work_is_said_in_seconds() {
    let (site, bucket) = (site(), Bucket::new());
    site.topic("s3-wrong", 1);
    site.write("s3-wrong", 0, "record", 50);
    bucket.with(&site, "backup", "wrong", &["--topic", "s3-wrong"]).exits(0);
    let before = bucket.s3.keys(BUCKET);
    let free = format!("http://127.0.0.1:{}", bodley_testbed::ports::free_port().unwrap());
    let stranger = AwsCredentials::random();
    let reader = bucket.s3.key(Allowed::only(["s3:GetObject", "s3:ListBucket"]));
    let bootstrap = site.cluster.bootstrap();
    let attempt = |url: &str, variables: &[(&str, &str)], code: i32, words: &[&str]| {
        let args = ["backup", "-b", &bootstrap, "--topic", "s3-wrong", "--vault", url, "--output", "json"];
        let mut command = bucket.command(&args);
        command.envs(variables.iter().copied());
        let ran = run(command, &args).exits(code);
        for word in words {
            assert!(ran.out.contains(word), "no word of {word}: {ran}");
        }
        let ran = ran.within(60);
        assert!(!ran.out.contains(&bucket.s3.admin().secret_access_key), "{ran}");
        assert!(!ran.err.contains(&bucket.s3.admin().secret_access_key), "{ran}");
    };
    let url = Bucket::url("wrong");
    site.write("s3-wrong", 0, "more", 5);
    attempt(&url, &[("AWS_ENDPOINT_URL_S3", &free)], 1, &["cannot be reached"]);
    attempt("s3://nowhere/x", &[], 1, &["NoSuchBucket", "nowhere"]);
    attempt(&url, &[("AWS_SECRET_ACCESS_KEY", "wrong")], 1, &["SignatureDoesNotMatch"]);
    attempt(&url, &[("AWS_ACCESS_KEY_ID", &stranger.access_key_id)], 1, &["InvalidAccessKeyId"]);
    attempt(&url, &[("AWS_ACCESS_KEY_ID", "")], 1, &["no AWS credentials", "AWS_ACCESS_KEY_ID"]);
    let keys = [
        ("AWS_ACCESS_KEY_ID", reader.access_key_id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", &reader.secret_access_key),
    ];
    attempt(&url, &keys, 1, &["s3:PutObject"]);
    attempt("s3://", &[], 2, &["s3://bucket/prefix"]);
    attempt(&url, &[("AWS_ENDPOINT_URL_S3", "http://minio.example:9000")], 2, &["allow-http"]);
    let tls = S3::start_tls(Leaf::Server).unwrap();
    let secure = tls.endpoint();
    attempt(&url, &[("AWS_ENDPOINT_URL_S3", &secure)], 1, &["ca-file"]);
    let after: Vec<String> = bucket.s3.keys(BUCKET);
    let new: Vec<&String> =
        after.iter().filter(|key| !before.contains(key) && key.contains("/log/")).collect();
    assert!(new.is_empty(), "{new:?}");
    // A wrong region and a wrong clock are put right.
    bucket.s3.clock().set_wrong_by(-7200);
    attempt(&url, &[("AWS_REGION", "ap-south-1")], 0, &[]);
    bucket.verified("wrong");
}

#[test]
fn least_rights() {
    let (site, mut bucket) = (site(), Bucket::new());
    site.topic("s3-rights", 1);
    site.write("s3-rights", 0, "record", 50);
    let writer = Allowed::only(["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]);
    let writer = bucket.s3.key(writer);
    bucket.come_as(writer);
    bucket.with(&site, "backup", "rights", &["--topic", "s3-rights"]).exits(0);
    site.write("s3-rights", 0, "more", 50);
    bucket.with(&site, "backup", "rights", &["--topic", "s3-rights"]).exits(0);
    let reader = bucket.s3.key(Allowed::only(["s3:ListBucket", "s3:GetObject"]));
    bucket.come_as(reader);
    bucket.verified("rights");
    let rename = ["--topic", "s3-rights", "--rename", "s3-rights=s3-rights-back"];
    bucket.with(&site, "restore", "rights", &rename).exits(0);
    same(&site.dump("s3-rights"), &site.dump("s3-rights-back"));
    bucket.with(&site, "backup", "rights", &["--topic", "s3-rights-back"]).exits(1).says("s3:PutObject");
}

#[test]
fn stores_that_do_not_keep_names_apart() {
    let (site, bucket) = (site(), Bucket::new());
    site.topic("s3-names", 1);
    site.write("s3-names", 0, "record", 50);
    let backup = |prefix: &str, more: &[&str]| {
        bucket.with(&site, "backup", prefix, &[&["--topic", "s3-names"], more].concat())
    };
    for kind in [PutIfAbsent::Ignored, PutIfAbsent::NotImplemented] {
        bucket.s3.set(|settings| (settings.put_if_absent, settings.complete_if_absent) = (kind, kind));
        let prefix = format!("{kind:?}");
        backup(&prefix, &[]).says("--single-writer");
        assert!(bucket.s3.keys(BUCKET).iter().all(|key| !key.contains(&format!("{prefix}/data/"))));
        backup(&prefix, &["--single-writer"]).exits(0);
        site.write("s3-names", 0, "more", 10);
        backup(&prefix, &[]).exits(2).says("--single-writer");
        backup(&prefix, &["--single-writer"]).exits(0);
        bucket.verified(&prefix);
    }
}

#[test]
fn a_slow_store_takes_no_more_memory() {
    let (site, bucket) = (site(), Bucket::new());
    fill(&site, "s3-slow", 160);
    bucket.s3.faults().add(Rule::on("UploadPart", Action::Stall(seconds(0.7))));
    let options = ["--topic", "s3-slow", "--vault-option", "concurrency=2"];
    let ran = bucket.with(&site, "backup", "slow", &options).exits(0);
    assert!(ran.peak < 256 << 20, "{} MiB: {ran}", ran.peak >> 20);
    bucket.verified("slow");
}

#[test]
fn locks_and_options() {
    let (site, bucket) = (site(), Bucket::new());
    bucket.s3.make_bucket(BUCKET, BucketOptions { object_lock: true, ..BucketOptions::default() });
    site.topic("s3-lock", 1);
    site.write("s3-lock", 0, "record", 50);
    let options = [
        "object-lock-mode=COMPLIANCE",
        "object-lock-days=3",
        "storage-class=STANDARD_IA",
        "sse=AES256",
        "tags=team=a",
    ];
    let flags: Vec<&str> = options.iter().flat_map(|option| ["--vault-option", option]).collect();
    bucket.with(&site, "backup", "lock", &[&["--topic", "s3-lock"], &flags[..]].concat()).exits(0);
    for (key, object) in bucket.s3.objects(BUCKET) {
        assert!(object.attributes.retention.is_some(), "{key}");
        assert_eq!(object.attributes.header("x-amz-server-side-encryption"), Some("AES256"), "{key}");
        let class = key.contains("/data/").then_some("STANDARD_IA");
        assert_eq!(object.attributes.header("x-amz-storage-class"), class, "{key}");
    }
    let verified = bucket.bodley("verify", "lock", &["--quick"]).exits(0);
    assert!(verified.out.contains("COMPLIANCE"), "{verified}");
    let args = ["--vault-option", "stroage-class=X"];
    bucket.bodley("verify", "lock", &args).exits(2).says("did you mean storage-class");
}

/// What a store of a moment's trouble costs: nothing is lost, and it goes on by itself.
#[test]
fn an_outage_in_the_middle() {
    let (site, bucket) = (site(), Bucket::new());
    fill(&site, "s3-outage", 32);
    let mut run =
        bucket.start_with(&site, "backup", "outage", &["--topic", "s3-outage", "--limit-read", "16M"]);
    run.leave_alone(seconds(0.7));
    let rule = bucket.s3.faults().add(Rule::always(Action::Cut));
    run.leave_alone(seconds(3.0));
    bucket.s3.faults().remove(rule);
    let begun = Instant::now();
    run.wait().exits(0);
    eprintln!("done {:?} after the outage", begun.elapsed());
    bucket.verified("outage");
}

/// What is lost at the source is found once: a run that fails later says it all the same.
#[test]
fn a_gap_is_told_by_a_run_that_fails() {
    let (site, bucket) = (site(), Bucket::new());
    fill(&site, "s3-gap", 4);
    bucket.with(&site, "backup", "gap", &["--topic", "s3-gap"]).exits(0);
    let more = Generate { count: 24 * 256, partitions: 4, value_bytes: 4096, seed: 2, ..Generate::default() };
    site.bench.generate("s3-gap", &more, &ProduceOptions::default()).unwrap();
    let end = site.ends("s3-gap")[0];
    site.bench.delete_records("s3-gap", 0, end - 100).unwrap();
    let flags = ["--topic", "s3-gap", "--limit-read", "1M", "--commit-interval", "1s"];
    let mut run = bucket.start_with(&site, "backup", "gap", &flags);
    let commits = || bucket.s3.keys(BUCKET).into_iter().filter(|key| key.contains("/log/")).count();
    let before = commits();
    run.wait_until("a commit with the gap", || commits() > before);
    bucket.s3.faults().add(Rule::always(Action::Answer(error(403, "AccessDenied"))));
    let report = run.wait().exits(3).json();
    let gap = &list(&report, "gaps")[0];
    assert_eq!(
        (&gap["topic"], &gap["partition"], &gap["next"]),
        (&json!("s3-gap"), &json!(0), &json!(end - 100))
    );
    let codes: Vec<_> = list(&report, "errors").iter().map(|error| error["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"gap") && codes.contains(&"denied"), "{report:#}");
    assert_eq!(list(&report, "topics").len(), 1, "{report:#}");
    bucket.s3.faults().clear();
    bucket.with(&site, "backup", "gap", &["--topic", "s3-gap"]).exits(0);
    bucket.verified("gap");
}
