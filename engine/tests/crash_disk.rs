//! A run on local disk is killed at each system call, loses its power there, or gets an error from it. Every time the vault opens and verifies as it is,
//! has all that was told to be in it, and the next run goes on. `BODLEY_SOAK` set: many more seeds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bodley_engine::vault::{Receipt, VaultError};
use bodley_io::store::disk::{DirectIo, DiskStore};
use bodley_io::store::{SharedStore, StoreError};
use common::files::objects;
use common::machine::{Event, Machine};
use common::sample;
use rustix::io::Errno;

const COMMITS: u32 = 2;
const VAULT: &str = "deep/er/vault";

/// A folder below the build's own (a temporary one may be a tmpfs, which has no direct I/O).
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn soak() -> bool {
    std::env::var_os("BODLEY_SOAK").is_some()
}

/// What a file system can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// O_DIRECT.
    Direct,
    /// Only the page cache.
    Buffered,
    /// Nor links.
    Renames,
}

impl Way {
    fn io(self) -> DirectIo {
        if self == Self::Direct { DirectIo::Auto } else { DirectIo::Off }
    }
}

/// A machine, the vault on its disk, and what the runs on it said.
struct Case {
    name: String,
    base: PathBuf,
    machine: Arc<Machine>,
    told: Vec<Receipt>,
    way: Way,
}

impl Case {
    fn new(name: String, base: PathBuf, way: Way) -> Self {
        std::fs::create_dir_all(&base).unwrap();
        let machine = Arc::new(Machine::new(&base, way != Way::Renames));
        Self { name, machine, base, told: Vec::new(), way }
    }

    fn root(&self) -> PathBuf {
        self.base.join(VAULT)
    }

    /// A process of its own, that may meet an event at one of its calls.
    async fn run(&mut self, event: Option<(usize, Event)>) -> Result<(), VaultError> {
        self.machine.start(event);
        let files = Arc::clone(&self.machine);
        let store: SharedStore = Arc::new(DiskStore::with_files(self.root(), self.way.io(), files));
        sample::run(&store, COMMITS, &mut self.told).await
    }

    /// The vault as it lies there; its number of commits.
    async fn is_sound(&self) -> u64 {
        assert_eq!(self.machine.broken(), [""; 0], "{}", self.name);
        let root = self.root();
        let store: SharedStore = Arc::new(DiskStore::new(&root, self.way.io()));
        sample::sound(&store, &objects(&root), &self.told, &self.name).await
    }

    /// A run that meets nothing, on a vault of so many commits.
    async fn goes_on(&mut self, commits: u64) {
        let run = self.run(None).await;
        run.unwrap_or_else(|error| panic!("{}: the next run: {error}", self.name));
        assert_eq!(self.is_sound().await, commits.max(1) + u64::from(COMMITS), "{}", self.name);
    }

    /// What the disk may hold after a loss of power is sound, has all that was told, and a run goes on with it.
    async fn survives_power_loss(&self, folder: &Path, seed: u64) {
        let base = folder.join(format!("lost-{seed}"));
        self.machine.power_loss(&base, seed);
        let mut after = Self::new(format!("{}, power loss {seed}", self.name), base, self.way);
        after.told.clone_from(&self.told);
        let commits = after.is_sound().await;
        after.goes_on(commits).await;
        std::fs::remove_dir_all(after.base).unwrap();
    }
}

/// Calls of a run that meets nothing.
async fn calls(way: Way) -> usize {
    let folder = folder();
    let mut case = Case::new("whole".into(), folder.path().join("live"), way);
    case.goes_on(0).await;
    case.machine.calls()
}

#[tokio::test]
async fn killed_or_without_power_at_each_system_call() {
    let mut cases = 0;
    for way in [Way::Direct, Way::Buffered, Way::Renames] {
        for at in 1..=calls(way).await {
            let folder = folder();
            let name = format!("{way:?}, killed at call {at}");
            let mut case = Case::new(name, folder.path().join("live"), way);
            assert!(case.run(Some((at, Event::Kill))).await.is_err() || case.machine.hit() == Some("remove"));
            let seeds = if soak() { 60 } else { 3 };
            for seed in 0..seeds {
                case.survives_power_loss(folder.path(), at as u64 * 3000 + seed).await;
                cases += 1;
            }
            let commits = case.is_sound().await;
            case.goes_on(commits).await;
        }
    }
    println!("{cases} cases");
    assert!(cases > 300);
}

/// A killed run leaves names that are visible and not durable; the next one must not build on them, whether it ends or is killed as well.
#[tokio::test]
async fn killed_and_the_next_run_loses_power() {
    let calls = calls(Way::Buffered).await;
    let mut cases = 0;
    for at in 1..=calls {
        let second = fastrand::Rng::with_seed(at as u64).usize(1..calls);
        let ends = if soak() { 60 } else { 3 };
        let hit = killed_twice(at, second, ends).await;
        cases += 1 + ends;
        if hit == Some("sync_folder") {
            // The name is there: how long until the next run relies on it?
            for second in 1..15 {
                killed_twice(at, second, 0).await;
                cases += 1;
            }
        }
    }
    println!("{cases} cases");
    assert!(cases > 400);
}

/// The power goes after the second kill, and in `ends` ways after a third run that was not killed. Tells what the first kill was at.
async fn killed_twice(at: usize, second: usize, ends: u64) -> Option<&'static str> {
    let folder = folder();
    let name = format!("killed at call {at}, the next run at {second}");
    let mut case = Case::new(name, folder.path().join("live"), Way::Buffered);
    let _ = case.run(Some((at, Event::Kill))).await;
    let hit = case.machine.hit();
    let _ = case.run(Some((second, Event::Kill))).await;
    case.survives_power_loss(folder.path(), 0).await;
    if ends > 0 {
        case.run(None).await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
    for seed in 0..ends {
        case.survives_power_loss(folder.path(), at as u64 * 3000 + seed).await;
    }
    hit
}

#[tokio::test]
async fn an_error_at_each_system_call() {
    let mut hits = BTreeMap::new();
    for errno in [Errno::NOSPC, Errno::IO, Errno::ROFS, Errno::MFILE, Errno::DQUOT, Errno::ACCESS] {
        for at in 1..=calls(Way::Buffered).await {
            let folder = folder();
            let name = format!("{errno:?} at call {at}");
            let mut case = Case::new(name.clone(), folder.path().join("live"), Way::Buffered);
            let result = case.run(Some((at, Event::Fail(errno)))).await;
            let hit = case.machine.hit().unwrap();
            *hits.entry(hit).or_insert(0) += 1;
            match result {
                // An unfinished file stays; a folder above the vault is another's; rights may forbid a link and not a rename.
                Ok(()) if hit == "remove" => {}
                Ok(()) if errno == Errno::ACCESS && ["link", "sync_folder"].contains(&hit) => {}
                Err(VaultError::Store(error)) => is_clear(&error, errno, &name),
                other => panic!("{name}, {hit}: {other:?}"),
            }
            let commits = case.is_sound().await;
            case.goes_on(commits).await;
            case.survives_power_loss(folder.path(), at as u64).await;
        }
    }
    println!("{hits:?}");
    for call in ["make_folder", "create", "write", "set_len", "sync", "sync_folder", "link", "remove"] {
        assert!(hits.contains_key(call), "{call} never failed");
    }
}

/// The error is of the kind that its cause is, and says what was done to what.
fn is_clear(error: &StoreError, errno: Errno, name: &str) {
    let right = match error {
        StoreError::NoSpace { .. } => errno == Errno::NOSPC || errno == Errno::DQUOT,
        StoreError::Denied { .. } => errno == Errno::ROFS || errno == Errno::ACCESS,
        StoreError::Io { .. } => errno == Errno::IO || errno == Errno::MFILE,
        _ => false,
    };
    let text = error.to_string();
    let object = ["vault.json", "log/", "index/", "data/"].iter().any(|object| text.contains(object));
    assert!(right && object && !error.is_transient(), "{name}: {error:?}");
}
