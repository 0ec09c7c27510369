//! One request as a store's dialect describes it, and what comes back.

use std::borrow::Cow;
use std::time::Duration;

use bodley_io::Secret;
use bodley_io::store::{Put, StoreError};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::payload::Payload;

/// A request without what each attempt adds: host, date, credentials.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    /// For messages, as in "cannot {verb} {object}".
    pub verb: &'static str,
    /// The object's path in the vault, or what else it is about.
    pub object: &'a str,
    pub method: Method,
    /// The object's name in the store, not encoded; empty for the bucket or container itself.
    pub key: String,
    /// An address that the store gave, whole, in place of one that is made from key and query. Who knows it may use it.
    pub at: Option<Secret>,
    /// Not encoded.
    pub query: Vec<(&'static str, String)>,
    pub headers: HeaderMap,
    pub payload: Payload,
    /// Statuses beside 2xx that are answers, not failures.
    pub accepts: &'static [u16],
    /// How long nothing may move, where it is longer than usual.
    pub patience: Option<Duration>,
    /// The permission that it takes, by the vendor's name.
    pub needs: Cow<'static, str>,
}

impl<'a> Call<'a> {
    pub fn new(verb: &'static str, object: &'a str, method: Method, key: String) -> Self {
        Self {
            verb,
            object,
            method,
            key,
            at: None,
            query: Vec::new(),
            headers: HeaderMap::new(),
            payload: Payload::default(),
            accepts: &[],
            patience: None,
            needs: Cow::Borrowed(""),
        }
    }

    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// A header whose value is ours; one that no header can hold is left out, options are checked when they are given.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    #[must_use]
    pub fn at(mut self, address: &Secret) -> Self {
        self.at = Some(address.clone());
        self
    }

    #[must_use]
    pub fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    #[must_use]
    pub fn accepts(mut self, statuses: &'static [u16]) -> Self {
        self.accepts = statuses;
        self
    }

    #[must_use]
    pub fn needs(mut self, permission: impl Into<Cow<'static, str>>) -> Self {
        self.needs = permission.into();
        self
    }

    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    pub fn is_answer(&self, status: StatusCode) -> bool {
        status.is_success() || self.accepts.contains(&status.as_u16())
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// An attempt before this one may have had its effect.
    pub unclear: bool,
}

impl Reply {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }
}

/// A header's text, if it is one.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// What a store said when it did not do as asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: u16,
    /// The store's word for it, `NoSuchKey`; empty if it gave none.
    pub code: String,
    /// Its sentence, quoted and short.
    pub message: String,
    /// Where it says to go instead, if it does.
    pub hint: Option<String>,
}

impl Refusal {
    /// What is no answer of the store, whatever its status says: cut on its way, or an error in the shape of a success. Worth another try.
    #[must_use]
    pub fn or_nonsense(self, what: &str) -> Self {
        if !self.code.is_empty() {
            return self;
        }
        Self { code: "InternalError".to_owned(), message: what.to_owned(), ..self }
    }
}

impl Reply {
    /// An answer that is none, in which the store says nothing of why.
    pub fn nonsense(&self, what: &str) -> Refusal {
        Refusal { status: self.status.as_u16(), ..Refusal::default() }.or_nonsense(what)
    }

    /// The length of the object that an answer to HEAD is about.
    pub fn length(&self, path: &str) -> Result<u64, StoreError> {
        let length = self.header("content-length").and_then(|text| text.parse().ok());
        length.ok_or_else(|| StoreError::Remote {
            operation: "look at",
            object: path.to_owned(),
            what: "the store does not say its length".to_owned(),
            passing: false,
        })
    }

    /// What became of a request to make an object unless there is one: a refusal that may be the answer to an earlier attempt of ours is settled by
    /// `is_ours`.
    pub async fn put(
        &self,
        is_ours: impl Future<Output = Result<bool, StoreError>>,
    ) -> Result<Put, StoreError> {
        let ours = self.status.is_success() || self.unclear && is_ours.await?;
        Ok(if ours { Put::Created } else { Put::Exists })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the store answers {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        Ok(())
    }
}
