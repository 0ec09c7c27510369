//! PutObject, GetObject, HeadObject, DeleteObject.

use bytes::Bytes;

use super::checks::{self, Sum};
use super::core::{Call, Core};
use super::lock::{self, ENCRYPTION, KMS_KEY, MODE, STORAGE_CLASS, TAGGING, UNTIL};
use super::refusal::Refusal;
use super::world::{Attributes, PutIfAbsent, Stored, World};
use crate::stores::http::{Answer, Head, http_date};

const LONGEST_KEY: usize = 1024;

impl Core {
    pub(super) fn put_object(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let head = &call.request.head;
        demand_length(head)?;
        if call.key().len() > LONGEST_KEY {
            return Err(Refusal::new(400, "KeyTooLongError", "Your key is too long"));
        }
        let attributes = self.attributes(call)?;
        let checked = checks::check(head, &call.request.body)?;
        lock::demand_sum(&attributes, checked.any())?;
        let crc64 = checks::crc64(&call.request.body);
        let pieces = vec![call.request.body.clone()];
        let etag = self.world().new_etag(None);
        let object = Stored { pieces, etag, crc64, sum: checked.sum, modified: self.now(), attributes };
        let answer = said_of(Answer::new(200).header("etag", object.etag.clone()), &object.attributes);
        let answer = self.with_sum(answer, &object);
        let how = self.world().settings.put_if_absent;
        self.place(call, object, how)?;
        Ok(answer)
    }

    /// What a head says of an object in this bucket.
    pub(super) fn attributes(&self, call: &Call<'_>) -> Result<Attributes, Refusal> {
        let bucket = self.options_of(call)?;
        let (head, now) = (&call.request.head, self.now());
        lock::Context { head, allowed: &call.allowed, bucket: &bucket, now }.attributes()
    }

    /// Puts the object in its place, unless there is one that may not be replaced.
    pub(super) fn place(&self, call: &Call<'_>, object: Stored, how: PutIfAbsent) -> Result<(), Refusal> {
        let absent = demands_absence(&call.request.head, how)?;
        let (mut world, now) = (self.world(), self.now());
        let bucket = bucket_of(&mut world, call)?;
        if absent && bucket.objects.contains_key(call.key()) {
            let message = "At least one of the pre-conditions you specified did not hold";
            return Err(
                Refusal::new(412, "PreconditionFailed", message).element("Condition", "If-None-Match")
            );
        }
        lock::demand_unlocked(bucket, call.key(), now)?;
        bucket.objects.insert(call.key().to_owned(), object);
        Ok(())
    }

    fn with_sum(&self, answer: Answer, object: &Stored) -> Answer {
        if !self.world().settings.keeps_sums {
            return answer;
        }
        let (sum, text) =
            object.sum.clone().unwrap_or_else(|| (Sum::Crc64Nvme, Sum::Crc64Nvme.text(object.crc64)));
        answer.header(sum.header(), text).header("x-amz-checksum-type", "FULL_OBJECT")
    }

    /// GetObject and HeadObject.
    pub(super) fn get_object(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let (head, of_head) = (&call.request.head, call.target.operation == "HeadObject");
        let object = {
            let mut world = self.world();
            bucket_of(&mut world, call)?.objects.get(call.key()).cloned()
        };
        let Some(object) = object else { return Err(missing(call)) };
        if head.header("if-match").is_some_and(|etag| etag != object.etag && etag != "*") {
            let message = "At least one of the pre-conditions you specified did not hold";
            return Err(Refusal::new(412, "PreconditionFailed", message).element("Condition", "If-Match"));
        }
        let class = object.attributes.header(STORAGE_CLASS);
        if !of_head && class.is_some_and(|class| ["GLACIER", "DEEP_ARCHIVE"].contains(&class)) {
            let message = "The operation is not valid for the object's storage class";
            return Err(Refusal::new(403, "InvalidObjectState", message));
        }
        let size = object.size();
        let range = head.header("range").and_then(|range| parse_range(range, size)).transpose()?;
        let status = if range.is_some() { 206 } else { 200 };
        let (first, end) = range.unwrap_or((0, size));
        let mut answer = Answer::new(status)
            .header("etag", object.etag.clone())
            .header("last-modified", http_date(object.modified))
            .header("accept-ranges", "bytes")
            .header("content-length", (end - first).to_string());
        if range.is_some() {
            answer = answer.header("content-range", format!("bytes {first}-{}/{size}", end - 1));
        } else if head.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled"))
        {
            answer = self.with_sum(answer, &object);
        }
        answer = with_retention(said_of(answer, &object.attributes), &object.attributes, call);
        Ok(if of_head { answer } else { answer.pieces(cut(&object.pieces, first, end)) })
    }

    pub(super) fn delete_object(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let (mut world, now) = (self.world(), self.now());
        let bucket = bucket_of(&mut world, call)?;
        lock::demand_unlocked(bucket, call.key(), now)?;
        bucket.objects.remove(call.key());
        Ok(Answer::new(204))
    }
}

/// The call's bucket.
pub(super) fn bucket_of<'a>(
    world: &'a mut World,
    call: &Call<'_>,
) -> Result<&'a mut super::world::Bucket, Refusal> {
    let name = &call.target.bucket;
    world.buckets.get_mut(name).ok_or_else(|| {
        Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist").element("BucketName", name)
    })
}

/// Who may not list does not learn that something is missing.
fn missing(call: &Call<'_>) -> Refusal {
    if call.allowed.has("s3:ListBucket") {
        Refusal::new(404, "NoSuchKey", "The specified key does not exist.").element("Key", call.key())
    } else {
        Refusal::denied("not authorized to perform: s3:ListBucket")
    }
}

/// Bodies need a length; chunked ones are not taken.
pub(super) fn demand_length(head: &Head) -> Result<(), Refusal> {
    if head.headers.contains_key("transfer-encoding") {
        return Err(Refusal::not_implemented("Transfer-Encoding"));
    }
    if head.headers.contains_key("content-length") {
        return Ok(());
    }
    Err(Refusal::new(411, "MissingContentLength", "You must provide the Content-Length HTTP header."))
}

/// Whether the name has to be free.
fn demands_absence(head: &Head, how: PutIfAbsent) -> Result<bool, Refusal> {
    if head.headers.contains_key("if-match") {
        return Err(Refusal::not_implemented("If-Match on a PUT"));
    }
    match (head.header("if-none-match"), how) {
        (None, _) | (Some(_), PutIfAbsent::Ignored) => Ok(false),
        (Some("*"), PutIfAbsent::Honoured) => Ok(true),
        _ => Err(Refusal::not_implemented("If-None-Match").element("Header", "If-None-Match")),
    }
}

/// First byte and the byte behind the last; `None`: the header means nothing, and the whole object is given.
fn parse_range(header: &str, size: u64) -> Option<Result<(u64, u64), Refusal>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let (first, end) = match (first, last) {
        ("", last) => (size.saturating_sub(number(last)?), size),
        (first, "") => (number(first)?, size),
        (first, last) => (number(first)?, number(last).filter(|last| number(first) <= Some(*last))? + 1),
    };
    if first >= size {
        let refusal = Refusal::new(416, "InvalidRange", "The requested range is not satisfiable");
        let refusal = refusal.element("RangeRequested", header).element("ActualObjectSize", size.to_string());
        return Some(Err(refusal.header("content-range", format!("bytes */{size}"))));
    }
    Some(Ok((first, end.min(size))))
}

/// Bytes `first..end` without a copy.
fn cut(pieces: &[Bytes], first: u64, end: u64) -> Vec<Bytes> {
    let (mut at, mut out) = (0u64, Vec::new());
    for piece in pieces {
        let len = piece.len() as u64;
        let within = |place: u64| place.saturating_sub(at).min(len) as usize;
        let (from, to) = (within(first), within(end));
        if from < to {
            out.push(piece.slice(from..to));
        }
        at += len;
    }
    out
}

/// Repeats what was said of an object when it was made, as S3 does.
pub(super) fn said_of(mut answer: Answer, attributes: &Attributes) -> Answer {
    let shown = |name: &str| name == "content-type" || name == KMS_KEY || name.starts_with("x-amz-meta-");
    for (name, value) in &attributes.headers {
        let class = name == STORAGE_CLASS && value != "STANDARD";
        if shown(name) || class {
            answer = answer.header(name, value.clone());
        }
    }
    if let Some(tags) = attributes.header(TAGGING) {
        answer =
            answer.header("x-amz-tagging-count", form_urlencoded::parse(tags.as_bytes()).count().to_string());
    }
    // S3 encrypts with its own keys where nobody asks for anything else.
    answer.header(ENCRYPTION, attributes.header(ENCRYPTION).unwrap_or("AES256"))
}

fn with_retention(answer: Answer, attributes: &Attributes, call: &Call<'_>) -> Answer {
    match &attributes.retention {
        Some(retention) if call.allowed.has("s3:GetObjectRetention") => {
            let until = retention.until.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
            answer.header(MODE, retention.mode.clone()).header(UNTIL, until)
        }
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mean_what_http_says() {
        let range = |header| parse_range(header, 10).map(|r| r.map_err(|e| e.answer().status));
        assert_eq!(range("bytes=0-0"), Some(Ok((0, 1))));
        assert_eq!(range("bytes=3-99"), Some(Ok((3, 10))));
        assert_eq!(range("bytes=3-"), Some(Ok((3, 10))));
        assert_eq!(range("bytes=-3"), Some(Ok((7, 10))));
        assert_eq!(range("bytes=10-11"), Some(Err(416)));
        assert!(["bytes=4-3", "lines=1-2", "bytes=a-b"].iter().all(|bad| range(bad).is_none()));
        assert_eq!(parse_range("bytes=0-1", 0).map(|r| r.is_err()), Some(true));
    }

    #[test]
    fn pieces_are_cut_over_their_borders() {
        let pieces = ["abc", "", "defg", "h"].map(Bytes::from);
        for first in 0..8 {
            for end in first..=8 {
                let cut = cut(&pieces, first, end).concat();
                assert_eq!(cut, b"abcdefgh"[first as usize..end as usize]);
            }
        }
    }
}
