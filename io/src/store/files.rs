//! The system calls by which the disk store changes a file system, as a port: a test can stand behind it, end the process at any call, and lose
//! what was not synced.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Changes to a file system. Each is one system call, or as good as one.
pub trait Files: Send + Sync + std::fmt::Debug {
    /// Makes a folder in one that exists.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Makes a file for writing, past the page cache where that is wanted and allowed; tells whether.
    fn create(&self, path: &Path, direct: bool) -> io::Result<(File, bool)>;

    /// Opens a file of ours for writing through the page cache.
    fn reopen(&self, path: &Path) -> io::Result<File>;

    /// Writes all of `bytes` at `at`.
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts a file to `len` bytes.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()>;

    /// Makes a file's bytes and length durable, not its name.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Makes the names in a folder durable, not the folder's own.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Gives a file a second name, unless that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file another name, unless that is taken.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The system's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir(folder)
    }

    fn create(&self, path: &Path, direct: bool) -> io::Result<(File, bool)> {
        open(path, OpenOptions::new().write(true).create(true), direct)
    }

    fn reopen(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).open(path)
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    #[cfg(target_os = "linux")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

/// Opens with O_DIRECT where it is wanted and allowed; tells whether.
pub(super) fn open(path: &Path, options: &OpenOptions, direct: bool) -> io::Result<(File, bool)> {
    #[cfg(target_os = "linux")]
    if direct {
        use std::os::unix::fs::OpenOptionsExt;
        let mut with = options.clone();
        match with.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32).open(path) {
            // Refused by the file system, not by its rights or contents.
            Err(e) if e.kind() == ErrorKind::InvalidInput => {}
            result => return result.map(|file| (file, true)),
        }
    }
    let _ = direct;
    options.open(path).map(|file| (file, false))
}

/// The file system does not know the operation, as against failing at it. Some say EPERM.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let unknown = [Errno::PERM, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP];
    error.kind() == ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|code| unknown.iter().any(|known| known.raw_os_error() == code))
}
