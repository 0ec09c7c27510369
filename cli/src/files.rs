//! Files that a user names: read whole, within bounds.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

/// Of a file with settings.
pub const TEXT_LIMIT: u64 = 1 << 20;

/// A file of settings. The error says what is wrong but not with which file.
pub fn text(path: &Path) -> Result<String, String> {
    let bytes = bytes(path, TEXT_LIMIT)?;
    String::from_utf8(bytes).map_err(|_| "is not UTF-8: convert it".to_owned())
}

/// A file of at most `limit` bytes. The error says what is wrong but not with which file.
pub fn bytes(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    file.map_err(|e| format!("can't be read: {e}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("is larger than {} KiB: this is some other file", limit >> 10));
    }
    Ok(bytes)
}

/// Whether a file can be made or replaced here; makes none.
pub fn check_writable(path: &Path) -> Result<(), String> {
    let name = path.file_name().ok_or("names no file")?;
    if path.is_dir() {
        return Err("is a folder".to_owned());
    }
    let trial = beside(path, name);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&trial)
        .and_then(|_| std::fs::remove_file(&trial))
        .map_err(|e| format!("can't be written: {e}"))
}

/// Replaces a file in one step, durably.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let temporary = beside(path, name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| std::fs::rename(&temporary, path));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    replaced
}

fn beside(path: &Path, name: &std::ffi::OsStr) -> std::path::PathBuf {
    let mut name = name.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

/// Users other than its owner may read it.
pub fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.mode() & 0o044 != 0)
}

/// Without the line break that editors put at a file's end.
pub fn without_last_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, vec![b' '; (TEXT_LIMIT + 1) as usize]).unwrap();
        assert!(text(&path).unwrap_err().contains("larger than 1024 KiB"));
        std::fs::write(&path, b"\xff").unwrap();
        assert!(text(&path).unwrap_err().contains("UTF-8"));
        assert!(text(folder.path()).unwrap_err().contains("can't be read"));
        assert!(text(Path::new("/no/such")).unwrap_err().contains("No such file"));
        check_writable(&path).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(bytes(&path, 10), Ok(b"new".to_vec()));
        assert!(
            check_writable(folder.path()).is_err() && check_writable(&folder.path().join("no/f")).is_err()
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(without_last_newline("a\n\r\n".into()), "a\n");
        assert_eq!(without_last_newline("a".into()), "a");
    }
}
