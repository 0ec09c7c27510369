//! A bearer token that somebody else puts in a file: Kubernetes' projected service account tokens, a sidecar, an agent.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use bodley_io::{Secret, Token, TokenError, TokenProvider};

use crate::jwt;

/// The token in a file, read anew at every call: whoever rotates it need not tell us.
#[derive(Debug, Clone)]
pub struct FileTokens {
    path: PathBuf,
}

impl FileTokens {
    /// Of the file at this path, which is not read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl TokenProvider for FileTokens {
    async fn token(&self, _host: &str) -> Result<Token, TokenError> {
        let path = self.path.clone();
        let shown = path.display().to_string();
        let read = tokio::task::spawn_blocking(move || read_token(&path)).await;
        let text = read.map_err(|_| passing(format!("reading the token file {shown} was cut off")))??;
        let expires = jwt::expiry(&text);
        if let Some(ended) = expires.filter(|expires| *expires <= SystemTime::now()) {
            let ended = jwt::rfc3339(ended);
            // Whoever rotates the file may be about to.
            return Err(passing(format!("the token in {shown} ended at {ended}; has its rotation stopped?")));
        }
        Ok(Token { text: Secret::new(text), expires })
    }
}

fn passing(what: String) -> TokenError {
    TokenError { what, passing: true }
}

fn read_token(path: &Path) -> Result<String, TokenError> {
    // Whoever rotates it may be in the middle of that.
    let text = read_bounded(path, jwt::LONGEST)
        .map_err(|why| passing(format!("the token file {} {why}", path.display())))?;
    let text = text.trim();
    if jwt::is_bearer(text) {
        Ok(text.to_owned())
    } else {
        let what = format!(
            "the token file {} holds no bearer token (letters, digits and -._~+/ only, on one line)",
            path.display()
        );
        Err(passing(what))
    }
}

/// The text of a regular file of at most so many bytes. The error continues a sentence that names the file.
pub(crate) fn read_bounded(path: &Path, most: usize) -> Result<String, String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A pipe or a device could block for ever.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err("is not a regular file".to_owned());
    }
    let bytes = read().map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > most {
        return Err(format!("has more than {most} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::tests::jwt;
    use std::time::Duration;

    async fn of(content: &[u8]) -> Result<Token, TokenError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        FileTokens::new(path).token("b").await
    }

    #[tokio::test]
    async fn reads_what_is_there_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let tokens = FileTokens::new(&path);
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(tokens.token("b").await.unwrap().text.expose(), "one");
        let end = SystemTime::now() + Duration::from_secs(100);
        std::fs::write(&path, jwt(end)).unwrap();
        let token = tokens.token("b").await.unwrap();
        let off = end.duration_since(token.expires.unwrap()).unwrap();
        assert!(off < Duration::from_secs(1), "{off:?}");
    }

    #[tokio::test]
    async fn says_which_file_and_what_is_wrong() {
        let ended = of(jwt(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).as_bytes())
            .await
            .unwrap_err();
        assert!(ended.what.contains("/token ended at 2001-09-09T01:46:40Z") && ended.passing, "{ended}");
        for (content, why) in [
            (&b"hunter2 hunter2"[..], "holds no bearer token"),
            (b"", "holds no bearer token"),
            (b"\xff", "is not UTF-8"),
            (&[b'x'; 70_000], "has more than 65536 bytes"),
        ] {
            let error = of(content).await.unwrap_err();
            assert!(error.what.contains(why) && error.passing && !error.what.contains("hunter2"), "{error}");
        }
        let missing = FileTokens::new("/nowhere/token").token("b").await.unwrap_err();
        assert!(missing.what.contains("/nowhere/token cannot be read: No such file"), "{missing}");
        let folder = FileTokens::new("/tmp").token("b").await.unwrap_err();
        assert!(folder.what.contains("/tmp is not a regular file"), "{folder}");
    }
}
