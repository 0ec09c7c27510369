//! A store in a folder of a local (or network) file system.
//!
//! Last station of a byte on its way into a vault: parts are written past the page cache (O_DIRECT) by blocking threads, off the
//! task that reads the socket. Every object is written under a temporary name, synced, and then linked to its own name, which fails if that is taken;
//! then the folder is synced. Where O_DIRECT is refused, pieces of 256 KiB go through the page cache.
//!
//! A process that is killed may leave names that are visible and not yet durable. So nothing is built on a name that was only seen: the
//! folders above an object are synced once per process, and a name that turns out to be taken is synced before that is said.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::files::{Files, SystemFiles, is_refusal, open};
use super::{LIST_PAGE, Object, Put, Stat, Store, StoreError, Upload};
use crate::buffers::{Filled, PartBuf};

const TEMP_PREFIX: &str = ".tmp-";
/// What direct I/O wants lengths, positions and addresses to be multiples of.
const BLOCK: usize = 4096;
/// Larger writes through the page cache cost several times the CPU.
const BUFFERED_PIECE: usize = 256 << 10;
/// Parts of one upload that are being written at a time.
const IN_FLIGHT: usize = 3;

/// Whether parts bypass the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the file system allows it.
    Auto,
    /// Never: the portable path.
    Off,
}

/// Objects as files below a folder.
#[derive(Debug, Clone)]
pub struct DiskStore {
    root: Arc<Path>,
    direct: DirectIo,
    files: Arc<dyn Files>,
    /// Folders whose names, and those above them, are durable.
    settled: Arc<Mutex<HashSet<PathBuf>>>,
}

impl DiskStore {
    /// The folder need not exist before the first object is written.
    pub fn new(root: impl Into<PathBuf>, direct: DirectIo) -> Self {
        Self::with_files(root, direct, Arc::new(SystemFiles))
    }

    /// As [`DiskStore::new`], with other system calls.
    pub fn with_files(root: impl Into<PathBuf>, direct: DirectIo, files: Arc<dyn Files>) -> Self {
        Self { root: root.into().into(), direct, files, settled: Arc::default() }
    }

    fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// Bytes of a regular file. Anything else could go on for ever, or keep us waiting.
fn regular_size(file: &Path) -> io::Result<u64> {
    let found = std::fs::metadata(file)?;
    if found.is_file() { Ok(found.len()) } else { Err(io::Error::other("it is no regular file")) }
}

/// Runs blocking file work on a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::io("run a task for", "a file", io::Error::other(error))),
    }
}

#[async_trait]
impl Store for DiskStore {
    fn url(&self) -> String {
        self.root.display().to_string()
    }

    fn alignment(&self) -> usize {
        BLOCK
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Upload>, StoreError> {
        let (store, path) = (self.clone(), path.to_owned());
        let temp = blocking(move || Temp::create(&store, &path)).await?;
        let upload = DiskUpload { temp: Arc::new(temp), position: 0, writes: JoinSet::new() };
        Ok(Box::new(upload))
    }

    async fn put_if_absent(&self, path: &str, body: Bytes) -> Result<Put, StoreError> {
        let (store, path) = (DiskStore { direct: DirectIo::Off, ..self.clone() }, path.to_owned());
        blocking(move || {
            if store.file(&path).exists() {
                return store.taken(&path);
            }
            let temp = Temp::create(&store, &path)?;
            store.files.write(&temp.file, &body, 0).map_err(|e| temp.error("write", e))?;
            temp.publish(body.len() as u64)
        })
        .await
    }

    async fn get(&self, path: &str, limit: u64) -> Result<Bytes, StoreError> {
        let (file, path) = (self.file(path), path.to_owned());
        blocking(move || {
            let error = |e| StoreError::io("read", &path, e);
            let size = regular_size(&file).map_err(error)?;
            let mut bytes = Vec::new();
            if size <= limit {
                let file = File::open(&file).map_err(error)?;
                file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(error)?;
            }
            let size = size.max(bytes.len() as u64);
            if size > limit {
                Err(StoreError::TooLarge { object: path, size, limit })
            } else {
                Ok(bytes.into())
            }
        })
        .await
    }

    async fn read(&self, path: &str, at: u64, len: usize, buf: PartBuf) -> Result<Filled, StoreError> {
        let (store, path) = (self.clone(), path.to_owned());
        blocking(move || store.read_range(&path, at, len, buf)).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let (file, path) = (self.file(path), path.to_owned());
        blocking(move || match std::fs::metadata(file) {
            Ok(metadata) => Ok(Some(Stat::of_size(metadata.len()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look at", &path, error)),
        })
        .await
    }

    async fn confirm(&self, path: &str) -> Result<(), StoreError> {
        let (store, path) = (self.clone(), path.to_owned());
        blocking(move || store.taken(&path).map(drop)).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Object>, StoreError> {
        let (store, prefix, after) = (self.clone(), prefix.to_owned(), after.to_owned());
        blocking(move || {
            let mut found = Vec::new();
            store.walk(prefix.trim_end_matches('/'), &after, &mut found)?;
            Ok(found)
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let (files, file, path) = (Arc::clone(&self.files), self.file(path), path.to_owned());
        blocking(move || match files.remove(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("delete", &path, error)),
            _ => Ok(()),
        })
        .await
    }
}

impl DiskStore {
    fn read_range(&self, path: &str, at: u64, len: usize, mut buf: PartBuf) -> Result<Filled, StoreError> {
        let error = |e| StoreError::io("read", path, e);
        let wanted = at.saturating_add(len as u64);
        let wish = self.direct == DirectIo::Auto;
        regular_size(&self.file(path)).map_err(error)?;
        let (mut file, mut direct) =
            open(&self.file(path), OpenOptions::new().read(true), wish).map_err(error)?;
        let lead = (at % BLOCK as u64) as usize;
        let span = (lead + len).next_multiple_of(BLOCK);
        let room = buf.get_mut(..span).ok_or_else(|| error(ErrorKind::InvalidInput.into()))?;
        let mut done = 0;
        while done < lead + len {
            let rest = room.get_mut(done..).unwrap_or_default();
            match file.read_at(rest, at - lead as u64 + done as u64) {
                Ok(0) => {
                    return Err(StoreError::Short {
                        object: path.to_owned(),
                        size: file.metadata().map_err(error)?.len(),
                        wanted,
                    });
                }
                // A direct read goes on at block boundaries only; it is short at the end of the file.
                Ok(n) if direct && n % BLOCK != 0 && done + n < lead + len => {
                    return Err(StoreError::Short {
                        object: path.to_owned(),
                        size: at - lead as u64 + (done + n) as u64,
                        wanted,
                    });
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if direct && e.kind() == ErrorKind::InvalidInput => {
                    (file, direct) =
                        open(&self.file(path), OpenOptions::new().read(true), false).map_err(error)?;
                }
                Err(e) => return Err(error(e)),
            }
        }
        Ok(Filled::new(buf, lead, len))
    }

    /// Depth-first in order of names; adds up to a page.
    fn walk(&self, folder: &str, after: &str, found: &mut Vec<Object>) -> Result<(), StoreError> {
        let error = |e| StoreError::io("list", folder, e);
        let entries = match std::fs::read_dir(self.file(folder)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(error)?,
        };
        let mut names: Vec<(String, bool)> = Vec::new();
        for entry in entries {
            let entry = entry.map_err(error)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.starts_with(TEMP_PREFIX) {
                names.push((format!("{folder}/{name}"), entry.file_type().map_err(error)?.is_dir()));
            }
        }
        // As paths: a folder sorts as its name with a slash behind it.
        names.sort_by_cached_key(|(path, is_dir)| if *is_dir { format!("{path}/") } else { path.clone() });
        for (path, is_dir) in names {
            if found.len() >= LIST_PAGE {
                break;
            }
            if is_dir {
                let below = format!("{path}/");
                // Nothing in a folder that sorts wholly before `after` can follow it.
                if after.starts_with(&below) || below.as_str() > after {
                    self.walk(&path, after, found)?;
                }
            } else if path.as_str() > after {
                let size = std::fs::metadata(self.file(&path)).map_err(error)?.len();
                found.push(Object { path, size });
            }
        }
        Ok(())
    }
}

/// Changes below the root.
impl DiskStore {
    /// Makes `folder` and what is missing above it, and all of their names durable.
    fn settle(&self, folder: &Path) -> io::Result<()> {
        let is_settled = |folder: &Path| self.settled().contains(folder);
        if is_settled(folder) && folder.exists() {
            return Ok(());
        }
        let mut down: Vec<&Path> = folder.ancestors().filter(|f| !f.as_os_str().is_empty()).collect();
        down.reverse();
        for folder in down {
            let made = !folder.exists()
                && match self.files.make_folder(folder) {
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
                    result => result.map(|()| true)?,
                };
            if !made && is_settled(folder) {
                continue;
            }
            match folder.parent().map(|parent| self.sync_folder(parent)) {
                // Above the vault a folder that we did not make need not be ours to sync.
                Some(Err(e)) if made || folder.ancestors().skip(1).any(|f| f == &*self.root) => {
                    return Err(e);
                }
                Some(Err(e)) if e.kind() != ErrorKind::PermissionDenied && !is_refusal(&e) => return Err(e),
                _ => {}
            }
            self.settled().insert(folder.to_owned());
        }
        Ok(())
    }

    fn settled(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.files.sync_folder(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
    }

    /// The name is there; who is told so builds on it.
    fn taken(&self, object: &str) -> Result<Put, StoreError> {
        let target = self.file(object);
        let parent = target.parent().unwrap_or(&self.root);
        let synced = self.settle(parent).and_then(|()| self.sync_folder(parent));
        synced.map_err(|e| StoreError::io("sync the folder of", object, e))?;
        Ok(Put::Exists)
    }
}

/// A file under its temporary name; removed when dropped.
struct Temp {
    store: DiskStore,
    object: String,
    path: PathBuf,
    target: PathBuf,
    file: File,
    direct: bool,
}

impl Temp {
    fn create(store: &DiskStore, object: &str) -> Result<Self, StoreError> {
        let target = store.file(object);
        let parent = target.parent().unwrap_or(&store.root);
        store.settle(parent).map_err(|e| StoreError::io("make the folder of", object, e))?;
        let path = parent.join(format!("{TEMP_PREFIX}{}", ulid::Ulid::generate()));
        let direct = store.direct == DirectIo::Auto;
        let (file, direct) =
            store.files.create(&path, direct).map_err(|e| StoreError::io("create", object, e))?;
        Ok(Self { store: store.clone(), object: object.to_owned(), path, target, file, direct })
    }

    fn error(&self, operation: &'static str, source: io::Error) -> StoreError {
        StoreError::io(operation, &self.object, source)
    }

    /// Writes a part at `position`; a part that is no multiple of a block is padded, and the padding cut off at the end.
    fn write(&self, part: &mut Filled, position: u64) -> Result<(), StoreError> {
        if !self.direct {
            return self.write_pieces(&self.file, part, position);
        }
        match self.store.files.write(&self.file, part.padded(BLOCK), position) {
            Err(e) if e.kind() == ErrorKind::InvalidInput => {
                let file = self.store.files.reopen(&self.path).map_err(|e| self.error("write", e))?;
                self.write_pieces(&file, part, position)
            }
            result => result.map_err(|e| self.error("write", e)),
        }
    }

    fn write_pieces(&self, file: &File, bytes: &[u8], position: u64) -> Result<(), StoreError> {
        for (i, piece) in bytes.chunks(BUFFERED_PIECE).enumerate() {
            let at = position + (i * BUFFERED_PIECE) as u64;
            self.store.files.write(file, piece, at).map_err(|e| self.error("write", e))?;
        }
        Ok(())
    }

    /// Makes the file durable and gives it its name, unless that is taken.
    fn publish(&self, len: u64) -> Result<Put, StoreError> {
        let files = &self.store.files;
        files.set_len(&self.file, len).map_err(|e| self.error("set the length of", e))?;
        // A failed sync is never repeated: the kernel may have dropped the pages and would say yes.
        files.sync(&self.file).map_err(|e| self.error("sync", e))?;
        match self.name() {
            Ok(()) => {}
            // Over a network a repeated request finds what it did itself.
            Err(e) if e.kind() == ErrorKind::AlreadyExists && self.is_named() => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return self.store.taken(&self.object),
            Err(e) if is_refusal(&e) => {
                return Err(StoreError::NoPutIfAbsent(format!(
                    "{} can't create a file without replacing another (neither link nor renameat2): use another file system",
                    self.target.display()
                )));
            }
            Err(e) => return Err(self.error("link", e)),
        }
        if let Some(folder) = self.target.parent() {
            self.store.sync_folder(folder).map_err(|e| self.error("sync the folder of", e))?;
        }
        Ok(Put::Created)
    }

    /// By link, or where there are no links (EACCES, EMLINK and EXDEV are said by some file systems of other makes) by rename.
    fn name(&self) -> io::Result<()> {
        use ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks};
        match self.store.files.link(&self.path, &self.target) {
            Err(e)
                if is_refusal(&e) || matches!(e.kind(), PermissionDenied | TooManyLinks | CrossesDevices) =>
            {
                self.store.files.rename(&self.path, &self.target)
            }
            result => result,
        }
    }

    /// The target is this very file.
    fn is_named(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), std::fs::metadata(&self.target)) {
            (Ok(ours), Ok(theirs)) => identity(ours) == identity(theirs),
            _ => false,
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Err(error) = self.store.files.remove(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

struct DiskUpload {
    temp: Arc<Temp>,
    position: u64,
    writes: JoinSet<Result<(), StoreError>>,
}

impl DiskUpload {
    async fn settle(&mut self, left: usize) -> Result<(), StoreError> {
        while self.writes.len() > left {
            match self.writes.join_next().await {
                Some(Ok(result)) => result?,
                Some(Err(error)) => return Err(self.temp.error("write", io::Error::other(error))),
                None => break,
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Upload for DiskUpload {
    async fn write(&mut self, mut part: Filled) -> Result<(), StoreError> {
        self.settle(IN_FLIGHT - 1).await?;
        let (temp, position) = (Arc::clone(&self.temp), self.position);
        self.position += part.len() as u64;
        self.writes.spawn_blocking(move || temp.write(&mut part, position));
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.settle(0).await?;
        let (temp, len) = (Arc::clone(&self.temp), self.position);
        blocking(move || match temp.publish(len)? {
            Put::Created => Ok(()),
            Put::Exists => Err(StoreError::Exists { object: temp.object.clone() }),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn conformance_direct_and_buffered() {
        for direct in [DirectIo::Auto, DirectIo::Off] {
            // Below the build's folder: a temporary folder may be a tmpfs, where direct I/O is refused.
            let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let store = DiskStore::new(folder.path().join("deep/vault"), direct);
            conformance(&store).await.unwrap();
            let mut left = Vec::new();
            for entry in std::fs::read_dir(folder.path().join("deep/vault/data")).unwrap() {
                left.push(entry.unwrap().file_name().into_string().unwrap());
            }
            assert!(!left.iter().any(|name| name.starts_with(TEMP_PREFIX)), "{left:?}");
        }
    }

    #[tokio::test]
    async fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("zeros")).unwrap();
        let store = DiskStore::new(folder.path(), DirectIo::Auto);
        let pool = crate::BufferPool::new(1 << 20, 1 << 20);
        let errors = [
            store.get("zeros", 1 << 20).await.unwrap_err(),
            store.read("zeros", 0, 100, pool.get(1).await.unwrap()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.to_string(), "cannot read zeros: it is no regular file");
        }
    }

    #[tokio::test]
    async fn errors_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let store = DiskStore::new(folder.path().join("file/vault"), DirectIo::Auto);
        let error = store.put_if_absent("vault.json", Bytes::new()).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot make the folder of vault.json: "), "{error}");
        assert!(!error.is_transient());
        let full = StoreError::io("write", "data/x", ErrorKind::StorageFull.into());
        assert!(matches!(full, StoreError::NoSpace { .. }));
    }
}
