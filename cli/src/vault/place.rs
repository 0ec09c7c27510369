//! The URL of a vault.

/// Where a vault is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine.
    Folder(String),
    /// A store across a network.
    Remote(Remote),
}

/// A store across a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A bucket of S3, and what the names in it begin with.
    S3 {
        /// Its name.
        bucket: String,
        /// Without `/` at its ends.
        prefix: String,
    },
    /// A container of Azure Blob Storage.
    Azure {
        /// The storage account.
        account: String,
        /// Its name.
        container: String,
        /// Without `/` at its ends.
        prefix: String,
    },
    /// A bucket of Google Cloud Storage.
    Gcs {
        /// Its name.
        bucket: String,
        /// Without `/` at its ends.
        prefix: String,
    },
}

impl Place {
    /// Reads a URL, or a path.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(url: &str) -> Result<Self, String> {
        if url.is_empty() {
            return Err("--vault is empty: name a folder or a URL such as s3://bucket/prefix".to_owned());
        }
        let Some((scheme, rest)) = url.split_once("://") else { return folder(url) };
        if rest.contains(['?', '#']) {
            // It may be a signature: it is not repeated.
            return Err(format!(
                "--vault {scheme}://…: a vault's URL has no `?` and no `#`; keys and tokens belong in the environment (docs/stores/)"
            ));
        }
        if rest.split('/').next().is_some_and(|authority| authority.contains(['@', ':'])) {
            return Err(format!(
                "--vault {scheme}://…: no user, password or port belongs in a vault's URL: keys go in the environment, another store's \
                 address in --vault-option endpoint=URL (docs/stores/)"
            ));
        }
        match scheme {
            "file" if rest.starts_with('/') => Ok(Self::Folder(rest.to_owned())),
            "file" => Err(format!("`{url}`: write file:///absolute/path")),
            "s3" => match split(rest) {
                (bucket, _) if bucket.is_empty() => Err(format!("`{url}`: write s3://bucket/prefix")),
                (bucket, prefix) => Ok(Self::Remote(Remote::S3 { bucket, prefix })),
            },
            "gs" => match split(rest) {
                (bucket, _) if bucket.is_empty() => Err(format!("`{url}`: write gs://bucket/prefix")),
                (bucket, prefix) => Ok(Self::Remote(Remote::Gcs { bucket, prefix })),
            },
            "az" => {
                let (account, rest) = rest.split_once('/').unwrap_or((rest, ""));
                let (container, prefix) = split(rest);
                match account.is_empty() || container.is_empty() {
                    true => Err(format!("`{url}`: write az://account/container/prefix")),
                    false => {
                        Ok(Self::Remote(Remote::Azure { account: account.to_owned(), container, prefix }))
                    }
                }
            }
            _ => Err(format!(
                "`{url}`: vaults are in folders, or at s3://bucket/prefix, az://account/container/prefix or gs://bucket/prefix"
            )),
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&str> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Remote(_) => None,
        }
    }
}

/// A path, unless it looks like a URL that was not finished: a backup that was meant for a store must not land on this disk.
fn folder(path: &str) -> Result<Place, String> {
    let Some((scheme, rest)) = path.split_once(':') else { return Ok(Place::Folder(path.to_owned())) };
    if scheme == "file" && rest.starts_with('/') {
        return Ok(Place::Folder(rest.to_owned()));
    }
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
    match is_scheme && rest.starts_with('/') {
        true => Err(format!("`{path}`: write {scheme}://…, or ./{path} for a folder of that name")),
        false => Ok(Place::Folder(path.to_owned())),
    }
}

/// The first part, and the rest without slashes at its ends.
fn split(rest: &str) -> (String, String) {
    let (first, rest) = rest.split_once('/').unwrap_or((rest, ""));
    (first.to_owned(), rest.trim_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls() {
        let folder = |path: &str| Place::Folder(path.to_owned());
        let s3 = |bucket: &str, prefix: &str| {
            Place::Remote(Remote::S3 { bucket: bucket.into(), prefix: prefix.into() })
        };
        let azure = |prefix: &str| {
            Place::Remote(Remote::Azure { account: "a".into(), container: "c".into(), prefix: prefix.into() })
        };
        for (url, place) in [
            ("a/b", folder("a/b")),
            ("file:///a", folder("/a")),
            ("file:/a", folder("/a")),
            ("./s3:/x", folder("./s3:/x")),
            ("a:b", folder("a:b")),
            ("s3://b", s3("b", "")),
            ("s3://b/", s3("b", "")),
            ("s3://b/p/q/", s3("b", "p/q")),
            ("s3://b/a b/ü", s3("b", "a b/ü")),
            ("gs://b/p/", Place::Remote(Remote::Gcs { bucket: "b".into(), prefix: "p".into() })),
            ("az://a/c", azure("")),
            ("az://a/c/p/q", azure("p/q")),
        ] {
            assert_eq!(Place::parse(url), Ok(place), "{url}");
        }
        for url in [
            "",
            "file://a",
            "s3://",
            "s3:///p",
            "gs://",
            "az://a",
            "az:///c",
            "ftp://x/y",
            "s3:/x",
            "gs:/b/c",
        ] {
            assert!(Place::parse(url).is_err(), "{url}");
        }
        for url in ["s3://key:hunter2@b/x", "az://a/c/p?sig=hunter2", "gs://b/x#hunter2"] {
            assert!(!Place::parse(url).unwrap_err().contains("hunter2"), "{url}");
        }
    }
}
