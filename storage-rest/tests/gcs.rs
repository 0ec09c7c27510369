//! Google Cloud Storage vaults on a strict store in this process, with scripted faults, and on fake-gcs-server.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bodley_io::store::{Put, Store, StoreError, conformance};
use bodley_storage_rest::Environment;
use bodley_storage_rest::gcs::{GcsOptions, GcsStore, Retention};
use bodley_testbed::pki::Leaf;
use bodley_testbed::stores::fake_gcs::FakeGcs;
use bodley_testbed::stores::gcs::{ALL, KEEP_LITTLE, KEEP_NOTHING, LOSE_SESSION, Right, StrictGcs};
use bodley_testbed::stores::http::{
    Action, Answer, Clock, Handler, Head, REPEATED_LISTING, Request, Rule, SHORT_LISTING, Server,
};
use bodley_testbed::stores::relay::Relay;
use bytes::Bytes;
use common::MARKER;
use common::stores::{misfortune, patience, pattern, race, upload, whole};
use common::tls;

const BUCKET: &str = "vaults";
const MIB: usize = 1 << 20;

/// A strict store with a bucket, and a token for it in a file.
struct World {
    gcs: StrictGcs,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::of(StrictGcs::start().unwrap())
    }

    fn of(gcs: StrictGcs) -> Self {
        let world = Self { gcs, dir: tempfile::tempdir().unwrap() };
        world.gcs.bucket(BUCKET);
        world.token("usual", &ALL);
        world
    }

    /// From now on this token is in the file.
    fn token(&self, name: &str, rights: &[Right]) {
        let token = format!("{MARKER}-{name}");
        self.gcs.token(&token, rights);
        std::fs::write(self.dir.path().join("token"), token).unwrap();
    }

    fn with(&self, change: impl FnOnce(&mut GcsOptions)) -> GcsStore {
        let mut options = GcsOptions::new(BUCKET, "some/vault");
        options.access.endpoint = Some(self.gcs.endpoint());
        options.access.token_file = Some(self.dir.path().join("token"));
        options.patience = patience();
        change(&mut options);
        GcsStore::new(options, &Environment::default(), &tls()).unwrap()
    }

    fn store(&self) -> GcsStore {
        self.with(|_| ())
    }

    /// The next of these requests meets with this.
    fn next(&self, operation: &'static str, action: Action) {
        self.gcs.server().faults().add(Rule::on(operation, action).nth(1));
    }

    fn count(&self, operation: &str) -> u64 {
        self.gcs.server().log().count(operation)
    }
}

/// What a commit meets with. No secret is in it.
async fn error(store: &GcsStore) -> StoreError {
    let error = store.put_if_absent("log/1", Bytes::from_static(b"x")).await.unwrap_err();
    let shown = format!("{error} {error:?} {store:?}");
    assert!(!shown.contains(MARKER), "{shown}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_what_the_port_promises() {
    let world = World::new();
    conformance(&world.store()).await.unwrap();
    assert_eq!(world.store().url(), "gs://vaults/some/vault");
    let odd = world.with(|options| options.prefix = "an odd näme+&%20/x".to_owned());
    odd.put_if_absent("log/0001/1", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(odd.list("log/", "").await.unwrap()[0].path, "log/0001/1");
    assert_eq!(whole(&odd, "log/0001/1").await, b"1");
    assert_eq!(world.gcs.object(BUCKET, "an odd näme+&%20/x/log/0001/1").unwrap().bytes(), b"1");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.gcs.pending(), 0, "an upload that is dropped is given up");
}

/// fake-gcs-server, which passes over ifGenerationMatch at the end of a resumable upload: here it is kept.
struct Conditional {
    relay: Relay,
    endpoint: String,
    /// What each session is to make.
    names: Mutex<BTreeMap<String, String>>,
}

impl Handler for Conditional {
    fn operation(&self, head: &Head) -> &'static str {
        self.relay.operation(head)
    }

    fn answer(&self, request: &Request) -> Answer {
        let head = &request.head;
        if let Some(id) = head.param("upload_id") {
            let ends = head.header("content-range").is_some_and(|range| !range.ends_with('*'));
            let name = self.names.lock().unwrap().get(id).cloned().unwrap();
            let name: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
            let url = format!("{}/storage/v1/b/{BUCKET}/o/{}", self.endpoint, name.replace('+', "%20"));
            if ends && ureq::get(url).call().is_ok() {
                return Answer::new(412);
            }
        }
        let mut answer = self.relay.answer(request);
        if let Some((_, location)) = answer.headers.iter_mut().find(|(name, _)| name == "location") {
            let json: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            let id = location.split("upload_id=").last().unwrap().to_owned();
            self.names.lock().unwrap().insert(id, json["name"].as_str().unwrap().to_owned());
            *location = location.replace(&self.endpoint, &format!("http://{}", head.host));
        }
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emulator_of_others_is_content_too() {
    let fake = FakeGcs::start().unwrap();
    fake.bucket(BUCKET).unwrap();
    let endpoint = fake.endpoint();
    let relay = Relay::new(endpoint.clone(), |_| "Any");
    let before = Arc::new(Conditional { relay, endpoint, names: Mutex::default() });
    let server = Server::start(before, &Clock::default()).unwrap();
    let host = ("STORAGE_EMULATOR_HOST".to_owned(), server.url());
    let environment = Environment::new([host], None);
    let store = GcsStore::new(GcsOptions::new(BUCKET, "v"), &environment, &tls()).unwrap();
    conformance(&store).await.unwrap();
    race(Arc::new(store.clone()), "log/race").await;
    let bytes = pattern(9 * MIB + 5);
    upload(&store, "data/large", &bytes, 4 * MIB).await.unwrap();
    assert!(whole(&store, "data/large").await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_twelve_wins() {
    let world = World::new();
    for round in 0..20 {
        race(Arc::new(world.store()), &format!("log/{round}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accidents_do_no_harm() {
    let world = World::new();
    let faults = world.gcs.server().faults();
    misfortune(faults, fastrand::u64(..));
    faults.add(Rule::on("Upload", Action::Twist(KEEP_LITTLE)).chance(0.1));
    faults.add(Rule::on("Upload", Action::Twist(KEEP_NOTHING)).chance(0.1));
    conformance(&world.store()).await.unwrap();
    race(Arc::new(world.store()), "log/race").await;
    let bytes = pattern(40 * MIB + 77);
    upload(&world.store(), "data/large", &bytes, 2 * MIB).await.unwrap();
    assert!(whole(&world.store(), "data/large").await == bytes);
    assert!(faults.all_fired() > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_as_the_options_say() {
    let world = World::new();
    let store = world.with(|options| {
        options.storage_class = Some("NEARLINE".to_owned());
        options.tags = vec![("team".to_owned(), "ä b".to_owned())];
        options.retention = Some(Retention { locked: false, days: 3 });
        options.kms_key = Some("projects/p/locations/l/keyRings/r/cryptoKeys/k".to_owned());
    });
    upload(&store, "data/large", &pattern(3 * MIB), 2 * MIB).await.unwrap();
    upload(&store, "data/small", b"small", MIB).await.unwrap();
    store.put_if_absent("log/1", Bytes::from_static(b"1")).await.unwrap();
    for (path, class) in [("data/large", Some("NEARLINE")), ("data/small", Some("NEARLINE")), ("log/1", None)]
    {
        let found = world.gcs.object(BUCKET, &format!("some/vault/{path}")).unwrap().metadata;
        assert_eq!(found.get("storageClass").and_then(|class| class.as_str()), class, "{found}");
        assert_eq!(found["metadata"]["team"], "ä b");
        assert_eq!(found["retention"]["mode"], "Unlocked");
        let lock = store.stat(path).await.unwrap().unwrap().lock.unwrap();
        let days = (lock.until - jiff::Timestamp::now().as_millisecond()) / 86_400_000;
        assert_eq!((lock.mode.as_str(), days), ("Unlocked", 2));
    }
    let error = store.delete("log/1").await.unwrap_err();
    assert!(
        matches!(error, StoreError::Denied { .. }) && error.to_string().contains("has not ended"),
        "{error}"
    );
    let asked = world.gcs.server().log().of("BeginUpload").remove(0).query;
    assert!(asked.contains("kmsKeyName=projects%2Fp%2Flocations"), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_attempt_did_is_known_again() {
    let world = World::new();
    let store = world.store();
    for (round, action) in [Action::DoThenCut, Action::DoThenAnswer(Answer::new(500))].into_iter().enumerate()
    {
        let (log, data) = (format!("log/{round}"), format!("data/{round}"));
        world.next("Put", action.clone());
        assert_eq!(store.put_if_absent(&log, Bytes::from_static(b"ours")).await.unwrap(), Put::Created);
        assert_eq!(store.put_if_absent(&log, Bytes::from_static(b"ours")).await.unwrap(), Put::Exists);
        for operation in ["Upload", "UploadStatus"] {
            let data = format!("{data}/{operation}");
            world.next(operation, action.clone());
            upload(&store, &data, &pattern(4 * MIB), MIB).await.unwrap();
            assert!(whole(&store, &data).await == pattern(4 * MIB));
        }
    }
    // The session is forgotten as soon as its object is there.
    let end = |head: &bodley_testbed::stores::http::Head| {
        !head.header("content-range").unwrap_or_default().ends_with('*')
    };
    let faults = world.gcs.server().faults();
    faults.add(Rule::on("Upload", Action::DoThenCut).when(end).times(1));
    faults.add(Rule::on("Upload", Action::Answer(Answer::new(410))).when(end));
    upload(&store, "data/gone", &pattern(MIB + 5), MIB).await.unwrap();
    assert!(whole(&store, "data/gone").await == pattern(MIB + 5));
    faults.clear();
    // Another one's object comes first.
    store.put_if_absent("log/theirs", Bytes::from_static(b"theirs")).await.unwrap();
    world.next("Put", Action::Cut);
    assert_eq!(store.put_if_absent("log/theirs", Bytes::from_static(b"ours")).await.unwrap(), Put::Exists);
    let again = upload(&store, "data/gone", &pattern(2 * MIB), MIB).await.unwrap_err();
    assert!(matches!(again, StoreError::Exists { .. }), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_keep_little_or_get_lost() {
    let world = World::new();
    let store = world.store();
    let faults = world.gcs.server().faults();
    let bytes = pattern(5 * MIB + 100_001);
    faults.add(Rule::on("Upload", Action::Twist(KEEP_LITTLE)).times(7));
    faults.add(Rule::on("Upload", Action::Twist(KEEP_NOTHING)).times(3));
    upload(&store, "data/little", &bytes, 2 * MIB).await.unwrap();
    assert!(whole(&store, "data/little").await == bytes);
    faults.clear();
    // Lost with the first part: begun anew. Lost later: what was kept is gone with it.
    world.next("Upload", Action::Twist(LOSE_SESSION));
    upload(&store, "data/lost", &bytes, 2 * MIB).await.unwrap();
    assert!(whole(&store, "data/lost").await == bytes);
    faults.clear();
    faults.add(Rule::on("Upload", Action::Twist(LOSE_SESSION)).nth(2));
    let error = upload(&store, "data/later", &bytes, 2 * MIB).await.unwrap_err();
    assert!(error.to_string().contains("has lost the upload; run again") && error.is_transient(), "{error}");
    assert!(store.stat("data/later").await.unwrap().is_none());
    faults.clear();
    faults.add(Rule::on("Upload", Action::Twist(KEEP_NOTHING)));
    let error = upload(&store, "data/never", &bytes, 2 * MIB).await.unwrap_err();
    assert!(error.to_string().contains("keeps nothing of what it is sent"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_changed_on_their_way_are_not_kept() {
    let world = World::new();
    let store = world.store();
    // The store sees another sum than was sent: as if the bytes had changed.
    let wrong = r#"{"error":{"code":400,"message":"Provided CRC32C \"AAAAAA==\" doesn't match calculated CRC32C \"AAAAAQ==\".","errors":[{"reason":"invalid"}]}}"#;
    world.next("Put", Action::Answer(Answer::new(400).body(wrong)));
    store.put_if_absent("log/1", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(world.count("Put"), 2, "an accident of the line is not the end");
    let faults = world.gcs.server().faults();
    faults.add(Rule::on("Put", Action::Answer(Answer::new(400).body(wrong))));
    let error = store.put_if_absent("log/2", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.to_string().contains("doesn't match calculated CRC32C"), "{error}");
    assert_eq!(world.count("Put"), 5, "the third is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_where_they_were_cut_of_the_same_object() {
    let world = World::new();
    let store = world.store();
    let bytes = pattern(3 * MIB);
    upload(&store, "data/1", &bytes, MIB).await.unwrap();
    world.next("Read", Action::CutBody(MIB + 17));
    assert!(whole(&store, "data/1").await == bytes);
    let reads = world.gcs.server().log().of("Read");
    assert!(reads[1].query.contains("ifGenerationMatch="), "{}", reads[1].query);
    assert!(reads[1].header("range").is_some() && reads[1].header("if-match").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_what_they_are() {
    let world = World::new();
    let store = world.store();
    for i in 0..10 {
        store.put_if_absent(&format!("log/{i}"), Bytes::new()).await.unwrap();
    }
    world.next("List", Action::Twist(SHORT_LISTING));
    assert_eq!(store.list("log/", "").await.unwrap().len(), 5);
    world.gcs.server().faults().clear();
    world.next("List", Action::Twist(REPEATED_LISTING));
    assert_eq!(store.list("log/", "").await.unwrap().len(), 11);
    world.gcs.server().faults().clear();
    world.next("List", Action::Answer(Answer::new(200).body("<html>")));
    assert_eq!(store.list("log/", "log/3").await.unwrap().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_is_looked_for_anew() {
    let world = World::new();
    let store = world.store();
    store.put_if_absent("log/1", Bytes::new()).await.unwrap();
    world.gcs.revoke(&format!("{MARKER}-usual"));
    world.token("fresh", &ALL);
    store.put_if_absent("log/2", Bytes::new()).await.unwrap();
    world.gcs.revoke(&format!("{MARKER}-fresh"));
    let error = error(&store).await.to_string();
    assert!(error.contains("401") && error.contains("get new credentials (token file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_says_what_to_do() {
    let world = World::new();
    let nowhere = world.with(|options| options.bucket = "nowhere".to_owned());
    for error in [
        error(&nowhere).await,
        nowhere.list("log/", "").await.unwrap_err(),
        nowhere.stat("log/1").await.unwrap_err(),
        nowhere.get("log/1", 9).await.unwrap_err(),
        nowhere.delete("log/1").await.unwrap_err(),
        upload(&nowhere, "data/1", &pattern(3 * MIB), MIB).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("make bucket nowhere first"), "{error}");
    }
    let begun = SystemTime::now();
    let nobody = world.with(|options| options.access.endpoint = Some("http://127.0.0.1:9".to_owned()));
    let text = error(&nobody).await.to_string();
    assert!(text.contains("http://127.0.0.1:9 cannot be reached"), "{text}");
    assert!(begun.elapsed().unwrap() < Duration::from_secs(12));

    world.gcs.requester_pays(BUCKET, "payer");
    let text = error(&world.store()).await.to_string();
    assert!(text.contains("set user-project"), "{text}");
    let paying = world.with(|options| options.user_project = Some("payer".to_owned()));
    conformance(&paying).await.unwrap();

    let tls = World::of(StrictGcs::start_tls(Leaf::Server).unwrap());
    let text = error(&tls.store()).await.to_string();
    assert!(text.contains("could not be trusted") && text.contains("ca-file"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_enough_or_named() {
    let world = World::new();
    world.token("writer", &[Right::Create, Right::Get, Right::List]);
    let writer = world.store();
    upload(&writer, "data/1", &pattern(3 * MIB), MIB).await.unwrap();
    writer.put_if_absent("log/1", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(writer.put_if_absent("log/1", Bytes::from_static(b"2")).await.unwrap(), Put::Exists);
    let denied = |error: StoreError, needs: &str| {
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("needs {needs}")) && text.contains("on bucket vaults"), "{text}");
    };
    denied(writer.delete("log/1").await.unwrap_err(), "storage.objects.delete");
    let keeping = world.with(|options| options.retention = Some(Retention { locked: true, days: 1 }));
    denied(error(&keeping).await, "storage.objects.create and storage.objects.setRetention");

    world.token("reader", &[Right::Get, Right::List]);
    let reader = world.store();
    assert!(whole(&reader, "data/1").await == pattern(3 * MIB));
    assert_eq!(reader.list("log/", "").await.unwrap().len(), 1);
    assert!(reader.stat("log/2").await.unwrap().is_none());
    denied(error(&reader).await, "storage.objects.create");
    denied(upload(&reader, "data/2", &pattern(3 * MIB), MIB).await.unwrap_err(), "storage.objects.create");

    world.token("blind", &[Right::Get]);
    let blind = world.store();
    assert_eq!(whole(&blind, "log/1").await, b"1");
    denied(blind.list("log/", "").await.unwrap_err(), "storage.objects.list");
    denied(blind.stat("log/2").await.unwrap_err(), "storage.objects.get and storage.objects.list");
}
