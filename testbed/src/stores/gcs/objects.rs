//! Objects, conditions, listings.

use std::ops::Bound;

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::http::{Answer, Head, REPEATED_LISTING, Request, SHORT_LISTING};
use super::wire::{Refusal, Reply, crc32c_text, hash_header, json_answer, related};
use super::{State, Stored};

/// Entries of a page at most.
const PAGE: usize = 1000;

impl State {
    /// An object in one request.
    pub(super) fn put(&mut self, request: &Request, bucket: &str) -> Reply {
        known(
            &request.head,
            &["uploadType", "ifGenerationMatch", "name", "userProject", "kmsKeyName", "fields"],
        )?;
        let (metadata, media) = related(request)?;
        let name = name_of(&request.head, &metadata)?;
        self.condition(&request.head, bucket, &name)?;
        self.store(bucket, &name, (metadata, hash_header(&request.head)), vec![media])
    }

    pub(super) fn condition(&self, head: &Head, bucket: &str, name: &str) -> Result<(), Refusal> {
        let now = self.find(bucket, name).map_or(0, |stored| stored.generation);
        match head.param("ifGenerationMatch").map(str::parse::<u64>) {
            None => Ok(()),
            Some(Ok(wanted)) if wanted == now => Ok(()),
            Some(Ok(_)) => Err(Refusal::condition()),
            Some(Err(_)) => Err(Refusal::invalid("Invalid value for ifGenerationMatch")),
        }
    }

    pub(super) fn store(
        &mut self,
        bucket: &str,
        name: &str,
        (mut metadata, hash): (Value, Option<String>),
        pieces: Vec<Bytes>,
    ) -> Reply {
        let crc32c = crc32c_text(&pieces);
        let given = metadata.get("crc32c").and_then(Value::as_str).map(str::to_owned);
        for given in [given, hash].into_iter().flatten() {
            if given != crc32c {
                let message =
                    format!("Provided CRC32C \"{given}\" doesn't match calculated CRC32C \"{crc32c}\".");
                return Err(Refusal::invalid(message));
            }
        }
        self.generations += 1;
        let size: usize = pieces.iter().map(Bytes::len).sum();
        if let Some(fields) = metadata.as_object_mut() {
            fields.insert("name".to_owned(), json!(name));
            fields.insert("bucket".to_owned(), json!(bucket));
            fields.insert("size".to_owned(), json!(size.to_string()));
            fields.insert("crc32c".to_owned(), json!(crc32c));
            fields.insert("generation".to_owned(), json!(self.generations.to_string()));
        }
        let answer = json_answer(200, &metadata);
        let stored = Stored { pieces, metadata, generation: self.generations };
        let objects = self.buckets.get_mut(bucket).ok_or(Refusal::no_bucket())?;
        objects.insert(name.to_owned(), stored);
        Ok(answer)
    }

    pub(super) fn find(&self, bucket: &str, name: &str) -> Result<&Stored, Refusal> {
        let objects = self.buckets.get(bucket).ok_or(Refusal::no_bucket())?;
        objects.get(name).ok_or_else(|| Refusal::no_object(bucket, name))
    }

    pub(super) fn stat(&self, head: &Head, bucket: &str, name: &str) -> Reply {
        known(head, &["fields", "userProject", "ifGenerationMatch", "generation", "projection"])?;
        let stored = self.find(bucket, name)?;
        self.condition(head, bucket, name)?;
        Ok(json_answer(200, &stored.metadata))
    }

    pub(super) fn read(&self, head: &Head, bucket: &str, name: &str) -> Reply {
        known(head, &["alt", "userProject", "ifGenerationMatch", "generation"])?;
        let stored = self.find(bucket, name)?;
        self.condition(head, bucket, name)?;
        let bytes = stored.bytes();
        let crc32c = stored.metadata.get("crc32c").and_then(Value::as_str).unwrap_or_default();
        let answer = |status| {
            Answer::new(status)
                .header("x-goog-generation", stored.generation.to_string())
                .header("x-goog-hash", format!("crc32c={crc32c}"))
                .header("x-goog-stored-content-length", bytes.len().to_string())
        };
        let Some(range) = head.header("range") else { return Ok(answer(200).body(bytes)) };
        let (from, to) =
            range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or(Refusal::range())?;
        let from: usize = from.parse().map_err(|_| Refusal::range())?;
        let to =
            if to.is_empty() { bytes.len() } else { to.parse().map_or(0, |to: usize| to.saturating_add(1)) };
        let to = to.min(bytes.len());
        let part = bytes.get(from..to).filter(|part| !part.is_empty());
        let part = part.ok_or(Refusal::range())?.to_vec();
        let told = format!("bytes {from}-{}/{}", to - 1, bytes.len());
        Ok(answer(206).header("content-range", told).body(part))
    }

    pub(super) fn delete(&mut self, head: &Head, bucket: &str, name: &str) -> Reply {
        known(head, &["userProject", "ifGenerationMatch", "generation"])?;
        let stored = self.find(bucket, name)?;
        self.condition(head, bucket, name)?;
        let until = stored.metadata.pointer("/retention/retainUntilTime").and_then(Value::as_str);
        let until = until.and_then(|until| until.parse::<jiff::Timestamp>().ok());
        if until.is_some_and(|until| until > jiff::Timestamp::now()) {
            return Err(Refusal::retained());
        }
        if let Some(objects) = self.buckets.get_mut(bucket) {
            objects.remove(name);
        }
        Ok(Answer::new(204))
    }

    pub(super) fn list(&self, request: &Request, bucket: &str) -> Reply {
        let head = &request.head;
        known(
            head,
            &["prefix", "startOffset", "maxResults", "pageToken", "fields", "userProject", "projection"],
        )?;
        let objects = self.buckets.get(bucket).ok_or(Refusal::no_bucket())?;
        let prefix = head.param("prefix").unwrap_or_default();
        let most = head.param("maxResults").and_then(|most| most.parse().ok()).unwrap_or(PAGE).min(PAGE);
        let start = head.param("startOffset").unwrap_or_default();
        let from = match head.param("pageToken") {
            Some(token) => Bound::Excluded(
                token.strip_prefix("after:").ok_or_else(|| Refusal::invalid("Invalid page token"))?,
            ),
            None => Bound::Included(start),
        };
        let within =
            objects.range::<str, _>((from, Bound::Unbounded)).filter(|(name, _)| name.starts_with(prefix));
        let mut names: Vec<(&String, &Stored)> = within.take(most + 1).collect();
        let token = (names.len() > most).then(|| names.pop()).flatten();
        let token = token.and_then(|_| names.last()).map(|(name, _)| format!("after:{name}"));
        if request.is_twisted(SHORT_LISTING) {
            names.truncate(names.len() / 2);
        }
        if request.is_twisted(REPEATED_LISTING) {
            names.extend(names.last().copied());
        }
        let items: Vec<Value> = names
            .iter()
            .map(|(name, stored)| json!({ "name": name, "size": stored.metadata.get("size") }))
            .collect();
        let mut body = json!({ "kind": "storage#objects" });
        if let Some(fields) = body.as_object_mut() {
            // Google leaves out what is empty.
            if !items.is_empty() {
                fields.insert("items".to_owned(), items.into());
            }
            if let Some(token) = token {
                fields.insert("nextPageToken".to_owned(), token.into());
            }
        }
        Ok(json_answer(200, &body))
    }
}

/// The name of a new object, which may stand in two places.
pub(super) fn name_of(head: &Head, metadata: &Value) -> Result<String, Refusal> {
    let name = head.param("name").or_else(|| metadata.get("name").and_then(Value::as_str));
    name.filter(|name| !name.is_empty()).map(str::to_owned).ok_or_else(|| Refusal::invalid("Required"))
}

/// A parameter that is misspelt would be ignored by Google; here it is an error.
pub(super) fn known(head: &Head, names: &[&str]) -> Result<(), Refusal> {
    match head.query.iter().find(|(name, _)| !names.contains(&name.as_str())) {
        Some((name, _)) => Err(Refusal::invalid(format!("Unknown parameter {name}"))),
        None => Ok(()),
    }
}
