//! Resumable uploads (<https://cloud.google.com/storage/docs/performing-resumable-uploads>).

use bytes::Bytes;
use serde_json::Value;

use super::super::http::{Answer, Head, Request};
use super::objects::{known, name_of};
use super::wire::{Refusal, Reply, hash_header, json_answer};
use super::{KEEP_LITTLE, KEEP_NOTHING, LOSE_SESSION, QUANTUM, State};

/// An upload that was begun.
#[derive(Debug)]
pub(super) struct Session {
    bucket: String,
    name: String,
    metadata: Value,
    condition: Option<u64>,
    pieces: Vec<Bytes>,
    len: usize,
    /// What was answered at the end.
    done: Option<Value>,
}

impl Session {
    pub(super) fn is_done(&self) -> bool {
        self.done.is_some()
    }

    fn incomplete(&self) -> Answer {
        let answer = Answer::new(308);
        match self.len {
            0 => answer,
            len => answer.header("range", format!("bytes=0-{}", len - 1)),
        }
    }
}

/// A Content-Range, taken apart: first byte and length of what is sent, and the total.
struct Sent {
    bytes: Option<(usize, usize)>,
    total: Option<usize>,
}

/// Whether a request sends no bytes.
pub(super) fn is_question(head: &Head) -> bool {
    head.header("content-range").is_some_and(|range| range.starts_with("bytes */"))
}

fn sent(head: &Head) -> Option<Sent> {
    let (range, total) = head.header("content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    if range == "*" {
        return Some(Sent { bytes: None, total });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    Some(Sent { bytes: Some((first, (last + 1).checked_sub(first)?)), total })
}

impl State {
    pub(super) fn begin(&mut self, request: &Request, bucket: &str) -> Reply {
        let head = &request.head;
        known(head, &["uploadType", "ifGenerationMatch", "name", "userProject", "kmsKeyName", "fields"])?;
        let metadata: Value =
            serde_json::from_slice(&request.body).map_err(|_| Refusal::invalid("Parse Error"))?;
        let name = name_of(head, &metadata)?;
        self.condition(head, bucket, &name)?;
        let id = format!("session-{}", fastrand::u64(..));
        let condition = head.param("ifGenerationMatch").and_then(|wanted| wanted.parse().ok());
        let scheme = if head.tls { "https" } else { "http" };
        let location = format!(
            "{scheme}://{}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}",
            head.host
        );
        let session = Session {
            bucket: bucket.to_owned(),
            name,
            metadata,
            condition,
            pieces: Vec::new(),
            len: 0,
            done: None,
        };
        self.sessions.insert(id.clone(), session);
        Ok(Answer::new(200).header("location", location).header("x-guploader-uploadid", id))
    }

    pub(super) fn upload(&mut self, request: &Request) -> Reply {
        let head = &request.head;
        let id = head.param("upload_id").unwrap_or_default();
        if request.is_twisted(LOSE_SESSION) {
            self.sessions.remove(id);
            return Err(Refusal::gone());
        }
        let sent = sent(head).ok_or_else(|| Refusal::invalid("Failed to parse Content-Range header."))?;
        let now = self
            .sessions
            .get(id)
            .and_then(|session| Some((&session.bucket, &session.name, session.condition?)));
        let met = now.is_none_or(|(bucket, name, wanted)| {
            wanted == self.find(bucket, name).map_or(0, |stored| stored.generation)
        });
        let session = self.sessions.get_mut(id).ok_or(Refusal::no_page())?;
        if let Some(done) = &session.done {
            return Ok(json_answer(200, done));
        }
        if let Some((first, len)) = sent.bytes {
            session.take(request, (first, len), sent.total)?;
        }
        if sent.total != Some(session.len) {
            return Ok(session.incomplete());
        }
        if !met {
            return Err(Refusal::condition());
        }
        let (bucket, name, pieces) = (session.bucket.clone(), session.name.clone(), session.pieces.clone());
        let metadata = session.metadata.clone();
        let answer = self.store(&bucket, &name, (metadata, hash_header(head)), pieces)?;
        if let Some(session) = self.sessions.get_mut(id) {
            session.done = serde_json::from_str(&answer.text()).ok();
            session.pieces.clear();
        }
        Ok(answer)
    }

    pub(super) fn cancel(&mut self, request: &Request) -> Reply {
        let id = request.head.param("upload_id").unwrap_or_default();
        self.sessions.remove(id).ok_or(Refusal::no_page())?;
        Ok(Answer::new(499))
    }
}

impl Session {
    fn take(
        &mut self,
        request: &Request,
        (first, len): (usize, usize),
        total: Option<usize>,
    ) -> Result<(), Refusal> {
        let end = first + len;
        if len != request.body.len() || len == 0 {
            return Err(Refusal::invalid("Content-Range does not fit the body."));
        }
        let last = match total {
            Some(total) if total < end => return Err(Refusal::invalid("Content-Range is beyond its total.")),
            Some(total) => total == end,
            None => false,
        };
        if !last && !len.is_multiple_of(QUANTUM) {
            return Err(Refusal::invalid(
                "Invalid request. The number of bytes uploaded is required to be equal or greater than 262144, except for the final request.",
            ));
        }
        if first > self.len {
            return Err(Refusal::invalid("Invalid request. There were bytes missing before these."));
        }
        // Bytes that are there already are passed over.
        let body = request.body.slice((self.len - first).min(len)..);
        let kept = if request.is_twisted(KEEP_NOTHING) {
            0
        } else if request.is_twisted(KEEP_LITTLE) {
            body.len().min(QUANTUM)
        } else {
            body.len()
        };
        self.len += kept;
        self.pieces.push(body.slice(..kept));
        Ok(())
    }
}
