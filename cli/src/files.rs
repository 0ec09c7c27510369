//! Files that a user names: read whole, within bounds.

use std::fs::File;
use std::io::Read;
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
        assert_eq!(without_last_newline("a\n\r\n".into()), "a\n");
        assert_eq!(without_last_newline("a".into()), "a");
    }
}
