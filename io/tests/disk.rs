//! The disk store over file systems that refuse, fail, or answer twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bodley_io::store::disk::{DirectIo, DiskStore};
use bodley_io::store::files::{Files, SystemFiles};
use bodley_io::store::{Put, Store, StoreError, conformance};
use bytes::Bytes;
use rustix::io::Errno;

/// How link and rename go.
#[derive(Debug, Default)]
struct Odd {
    link: Option<Errno>,
    /// The link is made although an error is told.
    linked_all_the_same: bool,
    rename: Option<Errno>,
    folders: Option<Errno>,
    /// O_DIRECT can be opened, not written.
    refuses_direct: bool,
    /// Folders from here on down are without trouble.
    ours: Option<PathBuf>,
    calls: Mutex<Vec<&'static str>>,
}

impl Odd {
    fn call(&self, name: &'static str, error: Option<Errno>) -> io::Result<()> {
        self.calls.lock().unwrap().push(name);
        error.map_or(Ok(()), |errno| Err(errno.into()))
    }
}

impl Files for Odd {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        SystemFiles.make_folder(folder)
    }
    fn create(&self, path: &Path, direct: bool) -> io::Result<(File, bool)> {
        SystemFiles.create(path, direct)
    }
    fn reopen(&self, path: &Path) -> io::Result<File> {
        self.call("reopen", None)?;
        SystemFiles.reopen(path)
    }
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let direct = rustix::fs::fcntl_getfl(file)?.contains(rustix::fs::OFlags::DIRECT);
        if direct && self.refuses_direct {
            self.call("refused", Some(Errno::INVAL))?;
        }
        SystemFiles.write(file, bytes, at)
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        SystemFiles.set_len(file, len)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        SystemFiles.sync(file)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let ours = self.ours.as_ref().is_some_and(|ours| folder.starts_with(ours));
        self.call("sync_folder", self.folders.filter(|_| !ours))?;
        SystemFiles.sync_folder(folder)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.linked_all_the_same {
            SystemFiles.link(from, to)?;
        }
        self.call("link", self.link)?;
        SystemFiles.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename", self.rename)?;
        SystemFiles.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemFiles.remove(path)
    }
}

async fn put(odd: Odd) -> (Result<Put, StoreError>, Vec<&'static str>) {
    let folder = tempfile::tempdir().unwrap();
    let odd = Arc::new(odd);
    let store = DiskStore::with_files(folder.path(), DirectIo::Off, Arc::clone(&odd) as Arc<dyn Files>);
    let put = store.put_if_absent("log/1", Bytes::from_static(b"one")).await;
    if put.is_ok() {
        assert_eq!(store.get("log/1", 10).await.unwrap(), Bytes::from_static(b"one"));
        let other = store.put_if_absent("log/1", Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(other, Put::Exists);
    }
    for entry in std::fs::read_dir(folder.path().join("log")).unwrap() {
        assert_eq!(entry.unwrap().file_name(), "1", "nothing unfinished is left");
    }
    let calls = odd.calls.lock().unwrap().clone();
    (put, calls)
}

#[tokio::test]
async fn without_links_it_is_a_rename() {
    for link in [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::MLINK, Errno::XDEV, Errno::ACCESS] {
        let (put, calls) = put(Odd { link: Some(link), ..Odd::default() }).await;
        assert_eq!(put.unwrap(), Put::Created, "{link:?}");
        assert!(calls.contains(&"rename"), "{link:?}: {calls:?}");
        assert_eq!(calls.last(), Some(&"sync_folder"), "{link:?}: {calls:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let odd = Odd { link: Some(Errno::OPNOTSUPP), ..Odd::default() };
    conformance(&DiskStore::with_files(folder.path(), DirectIo::Off, Arc::new(odd))).await.unwrap();
}

#[tokio::test]
async fn only_a_refusal_means_another_file_system() {
    for rename in [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM] {
        let (put, _) = put(Odd { link: Some(Errno::PERM), rename: Some(rename), ..Odd::default() }).await;
        assert!(matches!(put, Err(StoreError::NoPutIfAbsent(_))), "{rename:?}: {put:?}");
    }
    type Is = fn(&StoreError) -> bool;
    let cases: [(Errno, Is); 6] = [
        (Errno::NOSPC, |error| matches!(error, StoreError::NoSpace { .. })),
        (Errno::DQUOT, |error| matches!(error, StoreError::NoSpace { .. })),
        (Errno::ROFS, |error| matches!(error, StoreError::Denied { .. })),
        (Errno::ACCESS, |error| matches!(error, StoreError::Denied { .. })),
        (Errno::IO, |error| matches!(error, StoreError::Io { .. }) && !error.is_transient()),
        (Errno::TIMEDOUT, |error| error.is_transient()),
    ];
    for (errno, is) in cases {
        let (put, _) = put(Odd { link: Some(Errno::PERM), rename: Some(errno), ..Odd::default() }).await;
        assert!(is(put.as_ref().unwrap_err()), "rename {errno:?}: {put:?}");
    }
    for (errno, is) in cases.into_iter().filter(|(errno, _)| *errno != Errno::ACCESS) {
        let (put, calls) = self::put(Odd { link: Some(errno), ..Odd::default() }).await;
        assert!(is(put.as_ref().unwrap_err()), "link {errno:?}: {put:?}");
        assert!(!calls.contains(&"rename"), "link {errno:?}: {calls:?}");
    }
}

/// Over NFS the first of two requests may do the work and the second one answer.
#[tokio::test]
async fn a_link_that_finds_itself_is_ours() {
    let odd = Odd { link: Some(Errno::EXIST), linked_all_the_same: true, ..Odd::default() };
    let (put, calls) = put(odd).await;
    assert_eq!(put.unwrap(), Put::Created);
    assert!(calls.windows(2).any(|pair| pair == ["link", "sync_folder"]), "{calls:?}");
    // Another's object of that name is not.
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::new(folder.path(), DirectIo::Off);
    let (one, two) = (store.create("data/x").await.unwrap(), store.create("data/x").await.unwrap());
    one.finish().await.unwrap();
    assert!(matches!(two.finish().await, Err(StoreError::Exists { .. })));
}

/// Who is told that a name is taken builds on it: it must be durable by then.
#[tokio::test]
async fn a_name_that_cannot_be_synced_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let sound = DiskStore::new(folder.path(), DirectIo::Off);
    sound.put_if_absent("log/1", Bytes::from_static(b"one")).await.unwrap();
    let odd = Odd { folders: Some(Errno::IO), ..Odd::default() };
    let broken = DiskStore::with_files(folder.path(), DirectIo::Off, Arc::new(odd));
    let put = broken.put_if_absent("log/1", Bytes::from_static(b"one")).await;
    assert!(matches!(put, Err(StoreError::Io { .. })), "{put:?}");
}

/// A folder above the vault may belong to somebody else; one below it may not.
#[tokio::test]
async fn folders_above_the_vault_need_not_be_ours() {
    let folder = tempfile::tempdir().unwrap();
    let vault = folder.path().join("a/vault");
    std::fs::create_dir_all(vault.join("log")).unwrap();
    for (ours, works) in [(vault.clone(), true), (vault.join("log"), false)] {
        let odd = Odd { folders: Some(Errno::ACCESS), ours: Some(ours), ..Odd::default() };
        let store = DiskStore::with_files(&vault, DirectIo::Off, Arc::new(odd));
        let put = store.put_if_absent(&format!("log/{works}"), Bytes::new()).await;
        assert_eq!(put.is_ok(), works, "{put:?}");
    }
}

#[tokio::test]
async fn direct_writes_that_are_refused_go_through_the_page_cache() {
    // Below the build's folder: a temporary folder may be a tmpfs, where direct I/O is refused earlier.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let odd = Arc::new(Odd { refuses_direct: true, ..Odd::default() });
    let store = DiskStore::with_files(folder.path(), DirectIo::Auto, Arc::clone(&odd) as Arc<dyn Files>);
    conformance(&store).await.unwrap();
    let calls = odd.calls.lock().unwrap();
    let count = |name| calls.iter().filter(|call| **call == name).count();
    assert_eq!(count("reopen"), count("refused"), "{calls:?}");
}

/// What the store asks of its files reaches the system: neither a null device nor /proc can be synced.
#[cfg(target_os = "linux")]
#[test]
fn the_system_is_asked() {
    let invalid = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(Errno::INVAL.raw_os_error()));
    };
    invalid(SystemFiles.sync(&File::open("/dev/null").unwrap()));
    invalid(SystemFiles.sync_folder(Path::new("/proc")));
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("1"), folder.path().join("2"));
    std::fs::write(&one, b"one").unwrap();
    std::fs::write(&two, b"two").unwrap();
    for result in [SystemFiles.link(&one, &two), SystemFiles.rename(&one, &two)] {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
    assert_eq!(std::fs::read(&two).unwrap(), b"two");
}
