//! Stores that ignore put-if-absent: no vault is made in one, and none is written to, unless the user says that its writers come one after another.
//! And stores that keep what a run that was cut had begun to upload.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use bodley_engine::backup::{BackupOptions, backup};
use bodley_engine::copy::{CopyOptions, copy};
use bodley_engine::doctor;
use bodley_engine::error::Severity;
use bodley_engine::vault::VaultError;
use bodley_engine::vault::log::Vault;
use bodley_engine::{EngineError, Issue, Report};
use bodley_io::kafka::{Address, ClientOptions, Cluster};
use bodley_io::store::memory::MemoryStore;
use bodley_io::store::{SharedStore, conformance};
use bodley_testbed::Brokers;
use common::cloud::Cloud;
use common::memory::{paths, shared};
use common::sample;
use tokio::sync::watch;

fn store(cloud: Cloud) -> SharedStore {
    Arc::new(cloud)
}

#[tokio::test]
async fn clouds_are_stores() {
    conformance(&Cloud::new(&MemoryStore::new())).await.unwrap();
    conformance(&Cloud::single_writer(&MemoryStore::new())).await.unwrap();
    assert!(conformance(&Cloud::overwriting(&MemoryStore::new())).await.is_err());
}

#[tokio::test]
async fn no_vault_is_made_where_names_are_given_twice() {
    let memory = MemoryStore::new();
    let error = Vault::create(store(Cloud::overwriting(&memory)), "cluster").await.unwrap_err();
    assert!(matches!(error, VaultError::Overwrites { .. }), "{error}");
    assert!(memory.objects().is_empty(), "what was made for the proof is gone");
    let error = EngineError::from(error);
    assert_eq!((error.severity(), error.code()), (Severity::Refused, "store_overwrites"));
    let issue = Issue::from(&error);
    assert!(issue.message.starts_with("cloud: ignores put-if-absent (If-None-Match)"), "{}", issue.message);
    assert!(issue.hint.unwrap().contains("--single-writer"));
    let error = Vault::create_rebuilt(store(Cloud::overwriting(&memory)), "cluster", "x").await.unwrap_err();
    assert!(matches!(error, VaultError::Overwrites { .. }), "{error}");
}

/// A first run may have died between vault.json and the proof; or the vault came from elsewhere.
#[tokio::test]
async fn no_vault_is_written_to_where_names_are_given_twice() {
    let memory = MemoryStore::new();
    Vault::create(shared(&memory), "cluster").await.unwrap();
    let whole = memory.objects().clone();
    for path in ["log/0000000000000000/0001.json", "nothing"] {
        memory.objects().remove(path);
        let before = memory.objects().clone();
        let error = Vault::open_for_writing(store(Cloud::overwriting(&memory))).await.unwrap_err();
        assert!(matches!(error, VaultError::Overwrites { .. }), "{error}");
        assert_eq!(*memory.objects(), before, "{path}");
        memory.objects().clone_from(&whole);
    }
}

#[tokio::test]
async fn who_says_that_writers_come_one_by_one_is_let_in() {
    let memory = MemoryStore::new();
    let alone = || store(Cloud::single_writer(&memory));
    let mut told = Vec::new();
    sample::run(&alone(), 2, &mut told).await.unwrap();
    sample::run(&alone(), 1, &mut told).await.unwrap();
    assert_eq!(told.last().unwrap().seq, 4);
    let objects = memory.objects().clone();
    let init = String::from_utf8(objects["log/0000000000000000/0001.json"].to_vec()).unwrap();
    assert!(init.contains(r#""write_features":["single-writer"]"#), "{init}");
    sample::sound(&alone(), &objects, &told, "a single writer").await;

    // In a store that settles races (or says so) it takes the user's word.
    let mut vault = Vault::open_for_writing(shared(&memory)).await.unwrap();
    vault.fold(false).await.unwrap();
    let error = vault.check_writing().unwrap_err();
    assert!(matches!(error, VaultError::SingleWriter { .. }), "{error}");
    let refused = sample::append(&mut vault, &[(3, 0, -1)], 0).await.unwrap_err();
    assert!(matches!(refused, VaultError::SingleWriter { .. }), "{refused}");
    let issue = Issue::from(&EngineError::from(error));
    assert_eq!((issue.severity, &*issue.code), (Severity::Refused, "single_writer"));
    assert!(issue.hint.unwrap().contains("--single-writer"));
    vault.write_alone();
    vault.check_writing().unwrap();
    sample::append(&mut vault, &[(3, 0, -1)], 0).await.unwrap();
    vault.checkpoint_every(1);
    vault.checkpoint().await.unwrap().unwrap();
    // The checkpoint says it as well.
    let mut again = Vault::open(shared(&memory)).await.unwrap();
    again.fold(false).await.unwrap();
    assert!(again.single_writer() && again.check_writing().is_err());
}

/// A feature that is not known is never overruled.
#[tokio::test]
async fn other_features_stay_closed() {
    let memory = MemoryStore::new();
    let alone = store(Cloud::single_writer(&memory));
    Vault::create(Arc::clone(&alone), "cluster").await.unwrap();
    let path = paths(&memory, "log/").remove(0);
    let text = String::from_utf8(memory.objects()[&path].to_vec()).unwrap();
    let line = text.lines().next().unwrap().replace(r#"["single-writer"]"#, r#"["single-writer","later"]"#);
    let forged = format!("{line}\n{}\n", common::memory::sha256(line.as_bytes()));
    memory.objects().insert(path, forged.into());
    let mut vault = Vault::open_for_writing(alone).await.unwrap();
    vault.fold(false).await.unwrap();
    assert!(matches!(vault.check_writing(), Err(VaultError::Unsupported(_))));
}

#[tokio::test]
async fn copies_ask_for_it_as_well() {
    let memory = MemoryStore::new();
    sample::run(&shared(&memory), 3, &mut Vec::new()).await.unwrap();
    let carry = async |from: &MemoryStore, to: Cloud| {
        let (_keep, stop) = watch::channel(false);
        copy(shared(from), store(to), CopyOptions::default(), Arc::default(), stop).await
    };
    let target = MemoryStore::new();
    let error = carry(&memory, Cloud::overwriting(&target)).await.unwrap_err();
    assert_eq!(error.code(), "store_overwrites");
    assert!(target.objects().is_empty());
    let report = carry(&memory, Cloud::single_writer(&target)).await.unwrap();
    assert_eq!(report.exit_code(), 0);
    assert_eq!(*target.objects(), *memory.objects());
    // The copied log cannot say it.
    assert!(report.notes[0].contains("give --single-writer to every backup"), "{:?}", report.notes);
    let error = carry(&memory, Cloud::overwriting(&target)).await.unwrap_err();
    assert_eq!(error.code(), "store_overwrites");

    // The other way round the log says it wherever it goes.
    let memory = MemoryStore::new();
    sample::run(&store(Cloud::single_writer(&memory)), 1, &mut Vec::new()).await.unwrap();
    let target = MemoryStore::new();
    let report = carry(&memory, Cloud::single_writer(&target)).await.unwrap();
    assert_eq!((report.exit_code(), report.notes.len()), (0, 0));
    let disk = MemoryStore::new();
    assert_eq!(carry(&memory, Cloud::new(&disk)).await.unwrap().exit_code(), 0);
    let mut vault = Vault::open_for_writing(shared(&disk)).await.unwrap();
    vault.fold(false).await.unwrap();
    assert!(matches!(vault.check_writing(), Err(VaultError::SingleWriter { .. })));
}

#[tokio::test]
async fn the_doctor_knows() {
    let look = async |cloud: Cloud| {
        let findings = doctor::examine(&[], ClientOptions::default(), Some(store(cloud))).await;
        findings.checks.into_iter().rfind(|check| check.area == "store").unwrap()
    };
    let memory = MemoryStore::new();
    let check = look(Cloud::overwriting(&memory)).await;
    assert_eq!(check.verdict, doctor::Verdict::Wrong);
    assert!(check.hint.unwrap().contains("--single-writer"));
    assert_eq!(look(Cloud::new(&memory)).await.verdict, doctor::Verdict::Ok);
    Vault::create(store(Cloud::single_writer(&memory)), "cluster").await.unwrap();
    let check = look(Cloud::overwriting(&memory)).await;
    assert_eq!(check.verdict, doctor::Verdict::Note, "{}", check.what);
    assert!(memory.objects().keys().all(|path| !path.starts_with("doctor-")));
}

/// A backup of one record into a store.
async fn backed_up(to: Cloud, single_writer: bool) -> Result<Report, EngineError> {
    let brokers = Brokers::start(1).unwrap();
    brokers.topic("orders", 1);
    brokers.write("orders", 0, 1).unwrap();
    let bootstrap = Address::parse_list(&brokers.bootstrap()).unwrap();
    let cluster = Cluster::open(bootstrap, ClientOptions::default()).await.unwrap();
    let (_keep, stop) = watch::channel(false);
    let options = BackupOptions { single_writer, ..BackupOptions::default() };
    backup(cluster, store(to), options, Arc::default(), stop).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_needs_the_word_of_its_user() {
    let memory = MemoryStore::new();
    let error = backed_up(Cloud::overwriting(&memory), true).await.unwrap_err();
    assert_eq!((error.code(), memory.objects().len()), ("store_overwrites", 0));
    assert_eq!(backed_up(Cloud::single_writer(&memory), true).await.unwrap().exit_code(), 0);
    let before = memory.objects().clone();
    let error = backed_up(Cloud::new(&memory), false).await.unwrap_err();
    assert_eq!((error.severity(), error.code()), (Severity::Refused, "single_writer"));
    assert_eq!(*memory.objects(), before);
    assert_eq!(backed_up(Cloud::new(&memory), true).await.unwrap().exit_code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_gives_up_what_others_left() {
    for (uploads, words) in
        [(Some(0), None), (Some(1), Some("gave up 1 upload that earlier runs left")), (None, None)]
    {
        let cloud = Cloud { uploads, ..Cloud::new(&MemoryStore::new()) };
        let report = backed_up(cloud, false).await.unwrap();
        assert_eq!((report.exit_code(), report.bytes > 0), (0, true));
        let said = report.notes.iter().find(|note| note.contains("earlier runs left"));
        assert_eq!(said.is_some(), words.is_some(), "{:?}", report.notes);
        assert!(said.is_none_or(|said| said.starts_with(words.unwrap())), "{said:?}");
    }
}
