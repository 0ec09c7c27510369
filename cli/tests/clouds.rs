//! Vaults at Azure's and Google's stores, and vaults that move from one store to another, on a real Kafka.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use bodley_testbed::shared_cluster;
use bodley_testbed::stores::azurite::{ACCOUNT, Azurite, Front, KEY};
use bodley_testbed::stores::fake_gcs::FakeGcs;
use bodley_testbed::stores::gcs::{ALL, Right, StrictGcs};
use bodley_testbed::stores::http::{Action, Answer, Rule};

use common::bucket::{BUCKET, Bucket, clean};
use common::judge::same;
use common::life::life;
use common::site::Site;
use common::vault::Vault;
use common::{Ran, command, run};

fn site() -> Site {
    Site::at(shared_cluster().unwrap())
}

/// Bodley with a vault at `url`, and these variables.
fn at(url: &str, variables: &[(&str, &str)], args: &[&str]) -> Ran {
    let args = [&args[..1], &["--vault", url, "--output", "json"], &args[1..]].concat();
    let mut command = command(&args);
    clean(&mut command).envs(variables.iter().copied());
    run(command, &args)
}

#[test]
fn a_whole_life_in_azure() {
    let (site, azurite) = (site(), Azurite::start(Front::Plain).unwrap());
    azurite.container(BUCKET).unwrap();
    let url = format!("az://{ACCOUNT}/{BUCKET}/prod");
    let endpoint = azurite.endpoint();
    let key = [("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint.as_str()), ("AZURE_STORAGE_KEY", KEY)];
    life(&site, "az-life", &|args| at(&url, &key, args));
    // Rights: a reader restores and can't write.
    let reader = Azurite::sas(BUCKET, "rl", 3600).unwrap();
    let reader =
        [("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint.as_str()), ("AZURE_STORAGE_SAS_TOKEN", &reader)];
    at(&url, &reader, &["verify"]).exits(0);
    site.write("az-life", 0, "more", 10);
    let bootstrap = site.cluster.bootstrap();
    let denied = at(&url, &reader, &["backup", "-b", &bootstrap, "--topic", "az-life"]).exits(1);
    assert!(denied.out.contains("right to write"), "{denied}");
    let wrong = [("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint.as_str()), ("AZURE_STORAGE_KEY", "d3Jvbmc=")];
    at(&url, &wrong, &["verify"]).exits(1);
    at(&format!("az://{ACCOUNT}/nowhere/x"), &key, &["backup", "-b", &bootstrap]).exits(1).says("nowhere");
}

#[test]
fn a_whole_life_in_fake_gcs_server() {
    let (site, server) = (site(), FakeGcs::start().unwrap());
    server.bucket(BUCKET).unwrap();
    let endpoint = server.endpoint();
    let url = format!("gs://{BUCKET}/prod");
    life(&site, "gs-fake", &|args| at(&url, &[("STORAGE_EMULATOR_HOST", &endpoint)], args));
}

#[test]
fn a_whole_life_in_a_strict_gcs_with_faults() {
    let (site, gcs) = (site(), StrictGcs::start().unwrap());
    gcs.bucket(BUCKET);
    gcs.token("all", &ALL);
    gcs.token("writer", &[Right::Create, Right::Get, Right::List]);
    gcs.token("reader", &[Right::Get, Right::List]);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "writer").unwrap();
    let (file, endpoint) =
        (format!("token-file={}", token.display()), format!("endpoint={}", gcs.endpoint()));
    let options = ["--vault-option", &file, "--vault-option", &endpoint];
    let url = format!("gs://{BUCKET}/a b/prod");
    for action in
        [Action::Answer(Answer::new(503)), Action::DoThenAnswer(Answer::new(500)), Action::DoThenCut]
    {
        gcs.server().faults().add(Rule::always(action).chance(0.02));
    }
    let bodley = |args: &[&str]| at(&url, &[], &[args, &options[..]].concat());
    life(&site, "gs-strict", &bodley);
    std::fs::write(&token, "reader").unwrap();
    bodley(&["verify"]).exits(0);
    site.write("gs-strict", 0, "more", 10);
    let bootstrap = site.cluster.bootstrap();
    bodley(&["backup", "-b", &bootstrap, "--topic", "gs-strict"]).exits(1).says("storage.objects.create");
}

/// A vault goes from a folder to S3, from there to a folder that never saw Kafka, and is restored from there.
#[test]
fn a_vault_moves_from_store_to_store() {
    let (site, bucket) = (site(), Bucket::new());
    site.topic("moving", 2);
    site.write("moving", 0, "first", 300);
    let (home, away) = (Vault::new(), Vault::new());
    site.backup(&home, &["--topic", "moving"]).exits(0);
    let copy = |from: &str, to: &str| {
        let args = ["copy", "--vault", from, "--to-vault", to, "--output", "json"];
        run(bucket.command(&args), &args)
    };
    let url = Bucket::url("moved");
    copy(home.url(), &url).exits(0);
    assert_eq!(bucket.verified("moved")["receipt"], home.verified()["receipt"]);
    site.write("moving", 1, "second", 300);
    site.backup(&home, &["--topic", "moving"]).exits(0);
    let puts = bucket.s3.log().count("PutObject");
    let report = copy(home.url(), &url).exits(0).json();
    assert_eq!(report["copied"]["commits"], 1);
    let segment = 1 + 1 + 1;
    assert!(bucket.s3.log().count("PutObject") - puts <= segment + 2, "only what is new");
    copy(&url, away.url()).exits(0);
    assert_eq!(away.verified()["receipt"], home.verified()["receipt"]);
    assert_eq!(away.objects(), home.objects());
    site.restore(&away, &["--topic", "moving", "--rename", "moving=moved"]).exits(0);
    same(&site.dump("moving"), &site.dump("moved"));
    // Between two stores with options of their own.
    let other = Bucket::new();
    let (endpoint, target) = (format!("endpoint={}", other.s3.endpoint()), Bucket::url("third"));
    other.s3.add_key(bucket.s3.admin().clone(), bodley_testbed::stores::s3::Allowed::All);
    let args = ["copy", "--vault", &url, "--to-vault", &target, "--to-vault-option", &endpoint];
    run(bucket.command(&args), &args).exits(0);
    other.verified("third");
}
