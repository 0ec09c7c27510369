//! Vaults on disk, looked at from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, Ran, Running, bodley, seconds};

/// A folder for a vault, below the build's target folder: temporary folders of the system may have no direct I/O. It goes on drop.
pub struct Vault {
    _dir: TempDir,
    root: PathBuf,
    url: String,
}

impl Vault {
    /// Not made yet.
    pub fn new() -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// The same in a folder that someone else removes.
    pub fn below(folder: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("vault-").tempdir_in(folder).unwrap();
        let root = dir.path().join("vault");
        let url = root.to_str().unwrap().to_owned();
        Self { _dir: dir, root, url }
    }

    /// What `--vault` is given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A copy as it is now. No object is ever changed, so links to them will do.
    pub fn snapshot(&self) -> Self {
        let copy = Self::below(self._dir.path().parent().unwrap());
        for object in self.objects().keys() {
            let to = copy.root.join(object);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::hard_link(self.root.join(object), to).unwrap();
        }
        copy
    }

    /// Replaces an object by what `change` makes of its bytes; other copies keep theirs.
    pub fn change(&self, object: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.root.join(object);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }

    /// Flips one bit.
    pub fn flip(&self, object: &str, at: u64) {
        self.change(object, |bytes| {
            if let Some(byte) = bytes.get_mut(at as usize) {
                *byte ^= 1;
            }
        });
    }

    /// Removes an object.
    pub fn lose(&self, object: &str) {
        fs::remove_file(self.root.join(object)).unwrap();
    }

    /// All files with their sizes, by path in the vault.
    pub fn objects(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        self.walk(&self.root, &mut found);
        found
    }

    /// Those whose path starts so.
    pub fn objects_in(&self, folder: &str) -> Vec<String> {
        self.objects().into_keys().filter(|path| path.starts_with(folder)).collect()
    }

    fn walk(&self, dir: &Path, found: &mut BTreeMap<String, u64>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.map(Result::unwrap) {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if meta.is_dir() {
                self.walk(&path, found);
            } else {
                let name = path.strip_prefix(&self.root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, meta.len());
            }
        }
    }

    /// `bodley VERB --vault … --output json`
    pub fn bodley(&self, verb: &str, args: &[&str]) -> Ran {
        bodley(&[&[verb, "--vault", &self.url, "--output", "json"], args].concat())
    }

    /// Verifies it; it must be whole.
    #[track_caller]
    pub fn verified(&self) -> Value {
        self.bodley("verify", &[]).exits(0).json()
    }

    /// Its listing.
    #[track_caller]
    pub fn listed(&self) -> Value {
        self.bodley("list", &[]).exits(0).json()
    }

    /// Its commits.
    #[track_caller]
    pub fn commits(&self) -> usize {
        let shown = self.bodley("show", &["--commits"]).exits(0).json();
        super::list(&shown, "commits").len()
    }

    /// Lets a run go on until the vault's listing is as wanted.
    #[track_caller]
    pub fn until(&self, mut run: Running, what: &str, is_so: impl Fn(&Value) -> bool) -> Running {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.objects().keys().any(|path| path.starts_with("log/")) && is_so(&self.listed()) {
                return run;
            }
            let runs = run.leave_alone(seconds(0.2)).is_running();
            if !runs || Instant::now() > deadline {
                panic!("it never came to this: {what}: {:#}\n{}", self.listed(), run.kill());
            }
        }
    }
}
