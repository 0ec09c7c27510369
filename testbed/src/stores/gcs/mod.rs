//! A strict Google Cloud Storage in this process, by the pages of its JSON API
//! (<https://cloud.google.com/storage/docs/json_api>), behind a server with scripted faults.
//!
//! ```text
//! mod.rs      the server and what a test sees of it      sessions.rs  resumable uploads
//! objects.rs  objects, conditions, listings              wire.rs      answers and refusals in Google's words
//! ```
//!
//! Strict: bearer tokens and what each may do; `ifGenerationMatch`; CRC-32C that was given; parts of resumable uploads in multiples of
//! 256 KiB, in order; unknown parameters.

mod objects;
mod sessions;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use serde_json::Value;

use super::http::{Answer, Clock, Handler, Head, Request, Server};
use crate::pki::Leaf;
use sessions::Session;
use wire::{Refusal, Reply};

/// A part of a resumable upload, but for the last, is a multiple of this, bytes.
pub const QUANTUM: usize = 256 * 1024;

/// Keeps only the first 256 KiB of what arrives at a session, as Google may.
pub const KEEP_LITTLE: &str = "keep little";
/// Keeps nothing of what arrives, and says so by leaving out `Range` if there was nothing before.
pub const KEEP_NOTHING: &str = "keep nothing";
/// The session is gone: 410.
pub const LOSE_SESSION: &str = "lose session";

/// What a token may be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// `storage.objects.create`.
    Create,
    /// `storage.objects.get`.
    Get,
    /// `storage.objects.list`.
    List,
    /// `storage.objects.delete`.
    Delete,
    /// `storage.objects.setRetention`.
    SetRetention,
}

impl Right {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "storage.objects.create",
            Self::Get => "storage.objects.get",
            Self::List => "storage.objects.list",
            Self::Delete => "storage.objects.delete",
            Self::SetRetention => "storage.objects.setRetention",
        }
    }
}

/// All of them.
pub const ALL: [Right; 5] = [Right::Create, Right::Get, Right::List, Right::Delete, Right::SetRetention];

/// An object as the store has it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its bytes, in the pieces in which they came.
    pub pieces: Vec<Bytes>,
    /// Its metadata: what the client gave, and `generation`, `size` and `crc32c`.
    pub metadata: Value,
    pub(crate) generation: u64,
}

impl Stored {
    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

#[derive(Debug, Default)]
struct State {
    /// By bucket and name.
    buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    sessions: BTreeMap<String, Session>,
    /// What each token may do.
    tokens: BTreeMap<String, BTreeSet<Right>>,
    /// The project that a bucket's requests are to be billed to.
    requester_pays: BTreeMap<String, String>,
    generations: u64,
}

/// A running store. It ends when dropped, and its objects with it.
pub struct StrictGcs {
    server: Server,
    gcs: Arc<Gcs>,
}

#[derive(Default)]
struct Gcs(Mutex<State>);

impl StrictGcs {
    /// Starts one over http without buckets, which takes no token.
    pub fn start() -> Result<Self> {
        let gcs = Arc::new(Gcs::default());
        let server = Server::start(gcs.clone(), &Clock::default())?;
        Ok(Self { server, gcs })
    }

    /// The same over https with this certificate.
    pub fn start_tls(leaf: Leaf) -> Result<Self> {
        let gcs = Arc::new(Gcs::default());
        let server = Server::start_tls(gcs.clone(), &Clock::default(), leaf)?;
        Ok(Self { server, gcs })
    }

    /// The server: faults, clock, log. Its operations are `Put`, `BeginUpload`, `Upload`, `UploadStatus`, `CancelUpload`, `Read`, `Stat`, `List`,
    /// `Delete`.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where the service is.
    pub fn endpoint(&self) -> String {
        self.server.url()
    }

    /// Makes a bucket.
    pub fn bucket(&self, name: &str) {
        self.gcs.state().buckets.entry(name.to_owned()).or_default();
    }

    /// From now on this token is good for that.
    pub fn token(&self, token: &str, rights: &[Right]) {
        self.gcs.state().tokens.insert(token.to_owned(), rights.iter().copied().collect());
    }

    /// From now on this token is good for nothing.
    pub fn revoke(&self, token: &str) {
        self.gcs.state().tokens.remove(token);
    }

    /// From now on requests about this bucket must name the project that pays.
    pub fn requester_pays(&self, bucket: &str, project: &str) {
        self.gcs.state().requester_pays.insert(bucket.to_owned(), project.to_owned());
    }

    /// An object.
    pub fn object(&self, bucket: &str, name: &str) -> Option<Stored> {
        self.gcs.state().buckets.get(bucket)?.get(name).cloned()
    }

    /// The names of all objects of a bucket.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        self.gcs
            .state()
            .buckets
            .get(bucket)
            .map(|objects| objects.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Resumable uploads that were begun and neither finished nor given up.
    pub fn pending(&self) -> usize {
        self.gcs.state().sessions.values().filter(|session| !session.is_done()).count()
    }
}

impl Gcs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which bucket and object a path is about.
fn place(head: &Head) -> Option<(&str, &str, Option<String>)> {
    let (kind, rest) = match head.raw_path.strip_prefix("/upload") {
        Some(rest) => ("upload", rest),
        None => ("plain", head.raw_path.as_str()),
    };
    let (bucket, rest) = rest.strip_prefix("/storage/v1/b/")?.split_once("/o")?;
    let object = match rest.strip_prefix('/') {
        // A slash that belongs to the name is encoded.
        Some(name) if !name.is_empty() && !name.contains('/') => Some(super::http::decode(name)),
        None if rest.is_empty() => None,
        _ => return None,
    };
    Some((kind, bucket, object))
}

impl Handler for Gcs {
    fn operation(&self, head: &Head) -> &'static str {
        let named = place(head).is_some_and(|(_, _, object)| object.is_some());
        match (head.method.as_str(), head.param("uploadType"), head.param("upload_id")) {
            ("POST", Some("multipart"), None) => "Put",
            ("POST", Some("resumable"), None) => "BeginUpload",
            ("PUT", _, Some(_)) if sessions::is_question(head) => "UploadStatus",
            ("PUT", _, Some(_)) => "Upload",
            ("DELETE", _, Some(_)) => "CancelUpload",
            ("GET", ..) if named && head.param("alt") == Some("media") => "Read",
            ("GET", ..) if named => "Stat",
            ("GET", ..) => "List",
            ("DELETE", ..) if named => "Delete",
            _ => "Unknown",
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let mut state = self.state();
        let outcome = state.serve(request, self.operation(&request.head));
        drop(state);
        outcome.unwrap_or_else(|refusal| refusal.answer(request.head.param("alt") == Some("media")))
    }
}

impl State {
    fn serve(&mut self, request: &Request, operation: &str) -> Reply {
        let head = &request.head;
        let (kind, bucket, object) = place(head).ok_or(Refusal::no_page())?;
        // Who knows a session's address may use it.
        match operation {
            "Upload" | "UploadStatus" => return self.upload(request),
            "CancelUpload" => return self.cancel(request),
            _ => {}
        }
        let rights = self.rights(head)?;
        let may = |right: Right| match rights.contains(&right) {
            true => Ok(()),
            false => Err(Refusal::denied(right.name())),
        };
        self.pays(head, bucket)?;
        if !self.buckets.contains_key(bucket) {
            return Err(Refusal::no_bucket());
        }
        match (operation, object) {
            ("Put" | "BeginUpload", None) if kind == "upload" => {
                may(Right::Create)?;
                if wire::wants_retention(request) {
                    may(Right::SetRetention)?;
                }
                if operation == "Put" { self.put(request, bucket) } else { self.begin(request, bucket) }
            }
            ("Read" | "Stat", Some(name)) if kind == "plain" => {
                may(Right::Get)?;
                // Who may not list is not told what is not there.
                if !rights.contains(&Right::List) && self.find(bucket, &name).is_err() {
                    return Err(Refusal::denied(Right::List.name()));
                }
                if operation == "Read" {
                    self.read(head, bucket, &name)
                } else {
                    self.stat(head, bucket, &name)
                }
            }
            ("List", None) if kind == "plain" => {
                may(Right::List)?;
                self.list(request, bucket)
            }
            ("Delete", Some(name)) if kind == "plain" => {
                may(Right::Delete)?;
                self.delete(head, bucket, &name)
            }
            _ => Err(Refusal::no_page()),
        }
    }

    fn rights(&self, head: &Head) -> Result<BTreeSet<Right>, Refusal> {
        let token = head.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        token.and_then(|token| self.tokens.get(token)).cloned().ok_or(Refusal::no_token())
    }

    fn pays(&self, head: &Head, bucket: &str) -> Result<(), Refusal> {
        match self.requester_pays.get(bucket) {
            Some(project) if head.param("userProject") != Some(project) => Err(Refusal::nobody_pays()),
            _ => Ok(()),
        }
    }
}
