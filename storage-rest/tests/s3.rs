//! The S3 store against a strict one in this process: what it sends, what it makes of refusals, what it does when things go wrong.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bodley_io::store::{Put, Store, StoreError, conformance};
use bodley_io::{BufferPool, Filled};
use bodley_storage_rest::Patience;
use bodley_storage_rest::s3::{Checksum, Encryption, ObjectLock, S3Options, S3Store};
use bodley_testbed::stores::http::{Action, Rule};
use bodley_testbed::stores::s3::{Allowed, BucketOptions, PutIfAbsent, WrongRegion, error, error_in_200};
use bodley_testbed::stores::{S3, SeaweedFs};
use bytes::Bytes;
use common::strict::{BUCKET, environment, options, part, plain_tls, store, strict};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite() {
    let s3 = strict();
    conformance(&store(&s3, |_| ())).await.unwrap();
    assert!(s3.uploads(BUCKET).is_empty(), "nothing unfinished stays behind");
}

/// A real server.
#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite_in_seaweedfs() {
    let seaweed = tokio::task::spawn_blocking(SeaweedFs::start).await.unwrap().unwrap();
    let made = tokio::task::block_in_place(|| seaweed.make_bucket(BUCKET));
    made.unwrap();
    for checksum in [Checksum::Crc64Nvme, Checksum::Crc32c] {
        let options = S3Options {
            endpoint: Some(seaweed.endpoint()),
            checksum,
            ..S3Options::new(BUCKET, format!("{checksum:?}"))
        };
        let store = S3Store::new(options, &environment(seaweed.admin()), &plain_tls()).unwrap();
        conformance(&store).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite_in_other_shapes() {
    let shapes: [fn(&mut S3Options); 6] = [
        |o| o.single_writer = true,
        |o| o.checksum = Checksum::Crc32c,
        |o| o.checksum = Checksum::None,
        |o| o.prefix = "a b/ü+%/c".into(),
        |o| o.prefix = String::new(),
        |o| o.part_len = Some(5 << 20),
    ];
    for shape in shapes {
        let s3 = strict();
        s3.set(|settings| settings.page = 37);
        conformance(&store(&s3, shape)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite_with_faults() {
    let seed = fastrand::u64(..);
    let s3 = strict();
    s3.faults().seed(seed);
    let cut = |chance, action| Rule::always(action).chance(chance);
    s3.faults().add(cut(0.01, Action::Answer(error(503, "SlowDown"))));
    s3.faults().add(cut(0.01, Action::Answer(error(500, "InternalError"))));
    s3.faults().add(cut(0.01, Action::DoThenAnswer(error(500, "InternalError"))));
    s3.faults().add(cut(0.01, Action::DoThenCut));
    s3.faults().add(cut(0.01, Action::Cut));
    s3.faults().add(cut(0.01, Action::CutBody(1000)));
    s3.faults()
        .add(Rule::on("CompleteMultipartUpload", Action::Answer(error_in_200("InternalError"))).nth(1));
    s3.faults().add(Rule::on("CompleteMultipartUpload", Action::DoThenCut).nth(2));
    let result = conformance(&store(&s3, |_| ())).await;
    assert_eq!(result, Ok(()), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_the_host_in_the_name() {
    let s3 = S3::start_tls(bodley_testbed::pki::Leaf::Server).unwrap();
    s3.make_bucket(BUCKET, BucketOptions::default());
    let tls = common::strict::trusting();
    let settings =
        S3Options { endpoint: Some(s3.endpoint().replace("127.0.0.1", "localhost")), ..options(&s3) };
    let over_tls = S3Store::new(settings.clone(), &environment(s3.admin()), &tls).unwrap();
    conformance(&over_tls).await.unwrap();
    // Nobody told it whom to trust.
    let begun = Instant::now();
    let distrustful = S3Store::new(settings, &environment(s3.admin()), &plain_tls()).unwrap();
    let error = distrustful.get("x", 1).await.unwrap_err();
    assert!(error.to_string().contains("ca-file"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_writers_wins_a_name() {
    let s3 = strict();
    s3.faults().add(Rule::on("PutObject", Action::DoThenCut).chance(0.3));
    let store = store(&s3, |_| ());
    for round in 0..10 {
        let name = format!("log/{round}");
        let writers: Vec<_> = (0..12u8)
            .map(|i| {
                let (store, name) = (store.clone(), name.clone());
                tokio::spawn(async move { store.put_if_absent(&name, Bytes::from(vec![i; 100])).await })
            })
            .collect();
        let mut winners = Vec::new();
        for (i, writer) in writers.into_iter().enumerate() {
            if writer.await.unwrap().unwrap() == Put::Created {
                winners.push(i as u8);
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert_eq!(store.get(&name, 100).await.unwrap(), vec![winners[0]; 100]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_object_is_to_be_like() {
    let s3 = strict();
    s3.make_bucket(BUCKET, BucketOptions { object_lock: true, ..BucketOptions::default() });
    let store = store(&s3, |o| {
        o.storage_class = Some("STANDARD_IA".into());
        o.encryption = Some(Encryption::Kms(Some("key-1".into())));
        o.lock = Some(ObjectLock { compliance: true, days: 7 });
        o.requester_pays = true;
        o.tags = vec![("team".into(), "a&b".into())];
    });
    store.put_if_absent("log/1", Bytes::from_static(b"x")).await.unwrap();
    let mut upload = store.create("data/1.seg").await.unwrap();
    upload.write(part(6 * MIB, 1).await).await.unwrap();
    upload.write(part(MIB, 2).await).await.unwrap();
    upload.finish().await.unwrap();
    for (key, class) in [("p/log/1", None), ("p/data/1.seg", Some("STANDARD_IA"))] {
        let object = s3.object(BUCKET, key).unwrap().attributes;
        assert_eq!(object.header("x-amz-storage-class"), class, "{key}");
        assert_eq!(object.header("x-amz-server-side-encryption"), Some("aws:kms"));
        assert_eq!(object.header("x-amz-server-side-encryption-aws-kms-key-id"), Some("key-1"));
        assert_eq!(object.header("x-amz-tagging"), Some("team=a%26b"));
        assert!(object.retention.is_some(), "{key} is locked");
    }
    let stat = store.stat("data/1.seg").await.unwrap().unwrap();
    assert_eq!(stat.crc64, Some(s3.object(BUCKET, "p/data/1.seg").unwrap().crc64));
    let lock = stat.lock.unwrap();
    let days = (lock.until - jiff::Timestamp::now().as_millisecond()) / 86_400_000;
    assert_eq!((lock.mode.as_str(), days), ("COMPLIANCE", 6));
    assert!(store.delete("data/1.seg").await.is_err(), "a locked object stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_learnt() {
    for kind in [WrongRegion::Malformed, WrongRegion::Redirect, WrongRegion::Temporary] {
        let s3 = strict();
        s3.set(|settings| settings.wrong_region = kind);
        let store = store(&s3, |o| o.region = Some("ap-south-1".into()));
        store.put_if_absent("log/1", Bytes::from_static(b"x")).await.unwrap();
        let before = s3.log().records().len();
        assert_eq!(store.get("log/1", 1).await.unwrap(), "x");
        assert_eq!(s3.log().records().len(), before + 1, "{kind:?}: learnt once");
    }
    let s3 = strict();
    s3.set(|settings| settings.wrong_region = WrongRegion::Silent);
    let store = store(&s3, |o| o.region = Some("ap-south-1".into()));
    assert!(store.get("log/1", 1).await.unwrap_err().to_string().contains("region"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_corrected_once() {
    let s3 = strict();
    s3.clock().set_wrong_by(-3 * 3600);
    let store = store(&s3, |_| ());
    store.put_if_absent("log/1", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(s3.log().count("PutObject"), 2);
    assert_eq!(store.get("log/1", 1).await.unwrap(), "x");
    assert_eq!(s3.log().count("GetObject"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_one_clear_error_in_seconds() {
    let s3 = strict();
    let fine = || environment(s3.admin());
    let mut strange = s3.admin().clone();
    strange.secret_access_key.push('x');
    let nobody = bodley_testbed::iam::AwsCredentials::random();
    let reader = s3.key(Allowed::only(["s3:GetObject", "s3:ListBucket"]));
    let free = bodley_testbed::ports::free_port().unwrap();
    type Change = Box<dyn Fn(&mut S3Options)>;
    let none: fn() -> Change = || Box::new(|_: &mut S3Options| ());
    let cases: [(&str, _, Change, &[&str]); 5] = [
        ("no such bucket", fine(), Box::new(|o| o.bucket = "nowhere".into()), &["NoSuchBucket", "nowhere"]),
        ("wrong secret", environment(&strange), none(), &["SignatureDoesNotMatch", "environment"]),
        ("unknown key", environment(&nobody), none(), &["InvalidAccessKeyId", "environment"]),
        ("may not write", environment(&reader), none(), &["AccessDenied", "s3:PutObject"]),
        (
            "nobody there",
            fine(),
            Box::new(move |o| o.endpoint = Some(format!("http://127.0.0.1:{free}"))),
            &["cannot be reached", "endpoint"],
        ),
    ];
    for (name, environment, change, words) in cases {
        let begun = Instant::now();
        let mut settings = options(&s3);
        change(&mut settings);
        let store = S3Store::new(settings, &environment, &plain_tls()).unwrap();
        let error = store.put_if_absent("log/1", Bytes::from_static(b"x")).await.unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
        assert!(!error.contains(&s3.admin().secret_access_key), "{name}: a secret is shown");
        assert!(begun.elapsed() < Duration::from_secs(10), "{name} took {:?}", begun.elapsed());
    }
    let unsigned =
        S3Store::new(S3Options { anonymous: true, ..options(&s3) }, &fine(), &plain_tls()).unwrap();
    assert!(matches!(unsigned.get("x", 1).await, Err(StoreError::Denied { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_is_named() {
    let s3 = strict();
    let all = ["s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject"];
    for missing in all {
        let key = s3.key(Allowed::only(all.into_iter().filter(|right| *right != missing)));
        let store = S3Store::new(options(&s3), &environment(&key), &plain_tls()).unwrap();
        let name = format!("log/{missing}");
        let put = store.put_if_absent(&name, Bytes::from_static(b"x")).await.map(drop);
        let get = store.get(&name, 1).await.map(drop);
        let list = store.list("log/", "").await.map(drop);
        let delete = store.delete(&name).await;
        let failed: Vec<String> =
            [put, get, list, delete].into_iter().filter_map(|r| Some(r.err()?.to_string())).collect();
        assert!(!failed.is_empty(), "{missing}");
        assert!(failed.iter().any(|error| error.contains(missing)), "{missing}: {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_without_put_if_absent() {
    let s3 = strict();
    s3.set(|settings| settings.put_if_absent = PutIfAbsent::NotImplemented);
    let careless = store(&s3, |_| ());
    let error = careless.put_if_absent("a", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.to_string().contains("--single-writer"), "{error}");
    let single = store(&s3, |o| o.single_writer = true);
    assert!(!single.decides_races());
    assert_eq!(single.put_if_absent("a", Bytes::from_static(b"1")).await.unwrap(), Put::Created);
    assert_eq!(single.put_if_absent("a", Bytes::from_static(b"2")).await.unwrap(), Put::Exists);
    assert_eq!(single.get("a", 1).await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_parts_where_they_are_demanded() {
    let s3 = strict();
    s3.set(|settings| settings.equal_parts = true);
    let store = store(&s3, |o| (o.equal_parts, o.part_len) = (true, Some(5 * MIB)));
    assert_eq!((store.alignment(), store.part_len()), (5 * MIB, 10 * MIB));
    for (name, lens) in
        [("a", vec![10 * MIB, 5 * MIB, 12_345]), ("b", vec![20 * MIB, 9 * MIB]), ("c", vec![7])]
    {
        let (path, mut bytes) = (format!("data/{name}.seg"), Vec::new());
        let mut upload = store.create(&path).await.unwrap();
        for (seed, len) in lens.into_iter().enumerate() {
            let part = part(len, seed as u64).await;
            bytes.extend_from_slice(&part);
            upload.write(part).await.unwrap();
        }
        upload.finish().await.unwrap();
        assert!(store.get(&path, 64 << 20).await.unwrap() == bytes, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_credential_is_replaced() {
    let s3 = strict();
    s3.faults().add(Rule::on("PutObject", Action::Answer(error(400, "ExpiredToken"))).nth(1));
    store(&s3, |_| ()).put_if_absent("a", Bytes::from_static(b"x")).await.unwrap();
    s3.faults().add(Rule::on("PutObject", Action::Answer(error(400, "ExpiredToken"))));
    let error = store(&s3, |_| ()).put_if_absent("b", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.to_string().contains("ExpiredToken") && !error.is_transient(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_where_they_were_cut() {
    let s3 = strict();
    let store = store(&s3, |o| o.patience.idle = Duration::from_secs(4));
    let mut upload = store.create("data/1.seg").await.unwrap();
    let (first, second) = (part(7 * MIB, 3).await, part(5 * MIB, 4).await);
    let bytes = [&first[..], &second[..]].concat();
    upload.write(first).await.unwrap();
    upload.write(second).await.unwrap();
    upload.finish().await.unwrap();
    s3.faults().add(Rule::on("GetObject", Action::CutBody(3 * MIB)).nth(1));
    s3.faults().add(Rule::on("GetObject", Action::StallBody(MIB, Duration::from_secs(60))).nth(2));
    s3.faults().add(Rule::on("GetObject", Action::Answer(error(503, "SlowDown"))).nth(3));
    s3.log().clear();
    let pool = BufferPool::new(16 * MIB, 32 * MIB);
    let (at, len) = (100, 11 * MIB);
    let read = store.read("data/1.seg", at, len, pool.get(len).await.unwrap()).await.unwrap();
    assert!(read[..] == bytes[100..100 + len]);
    let asked: Vec<_> =
        s3.log().of("GetObject").iter().map(|r| r.header("range").unwrap().to_owned()).collect();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[1] > format!("bytes={}", 3 * MIB), "{asked:?}");
    let same = s3.log().of("GetObject").iter().skip(1).all(|r| r.header("if-match").is_some());
    assert!(same, "of the same object only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_is_refused_and_sent_again() {
    let s3 = strict();
    let bad = || Action::Answer(error(400, "BadDigest"));
    s3.faults().add(Rule::on("PutObject", bad()).times(2));
    store(&s3, |_| ()).put_if_absent("a", Bytes::from_static(b"x")).await.unwrap();
    s3.faults().add(Rule::on("PutObject", bad()));
    let begun = Instant::now();
    let error = store(&s3, |_| ()).put_if_absent("b", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.to_string().contains("BadDigest"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "a third mismatch is final");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_finished_are_given_up() {
    let s3 = strict();
    let store = store(&s3, |_| ());
    let mut kept = store.create("data/01KT0000000000000000000001.seg").await.unwrap();
    kept.write(part(6 * MIB, 1).await).await.unwrap();
    let mut dropped = store.create("data/dropped.seg").await.unwrap();
    dropped.write(part(6 * MIB, 1).await).await.unwrap();
    while s3.uploads(BUCKET).len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(dropped);
    while s3.uploads(BUCKET).len() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.tidy().await.unwrap(), 0, "what is young may be under way");
    s3.age_uploads(BUCKET, 90_000);
    assert_eq!(store.tidy().await.unwrap(), 1);
    assert!(s3.uploads(BUCKET).is_empty());
    assert!(kept.finish().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_holds_up_who_fills_buffers() {
    let s3 = strict();
    s3.faults().add(Rule::on("UploadPart", Action::Stall(Duration::from_millis(300))));
    let store = store(&s3, |o| o.patience = Patience { concurrency: 3, ..o.patience });
    let pool = BufferPool::new(8 * MIB, 32 * MIB);
    let mut upload = store.create("data/1.seg").await.unwrap();
    for i in 0..12 {
        let mut buf = pool.get(6 * MIB).await.unwrap();
        buf[..6 * MIB].fill(i);
        upload.write(Filled::new(buf, 0, 6 * MIB)).await.unwrap();
    }
    upload.finish().await.unwrap();
    assert!(s3.log().most_at_once("UploadPart") <= 3);
    assert_eq!(s3.object(BUCKET, "p/data/1.seg").unwrap().size(), 72 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_down_means_fewer_at_a_time() {
    let s3 = strict();
    s3.faults().add(Rule::on("PutObject", Action::Stall(Duration::from_millis(30))));
    s3.faults().add(Rule::on("PutObject", Action::Answer(error(503, "SlowDown"))).nth(20));
    let store = Arc::new(store(&s3, |_| ()));
    let puts: Vec<_> = (0..60)
        .map(|i| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.put_if_absent(&format!("a/{i}"), Bytes::new()).await })
        })
        .collect();
    for put in puts {
        assert_eq!(put.await.unwrap().unwrap(), Put::Created);
    }
    assert!(s3.log().most_at_once("PutObject") <= 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_that_make_no_sense_are_no_empty_vault() {
    let s3 = strict();
    let store = store(&s3, |o| o.patience.give_up_after = Duration::from_secs(1));
    store.put_if_absent("log/1", Bytes::new()).await.unwrap();
    for body in ["", "<html></html>", "<ListBucketResult><Contents>"] {
        let answer = bodley_testbed::stores::http::Answer::new(200).body(body);
        let rule = s3.faults().add(Rule::on("ListObjectsV2", Action::Answer(answer)));
        assert!(store.list("log/", "").await.is_err(), "{body:?}");
        s3.faults().remove(rule);
    }
    assert_eq!(store.list("log/", "").await.unwrap().len(), 1);
}
