//! ListObjectsV2, ListMultipartUploads, ListParts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::core::{Call, Core};
use super::objects::bucket_of;
use super::refusal::Refusal;
use super::world::Stored;
use super::xml;
use crate::stores::http::{Answer, Head, REPEATED_LISTING, SHORT_LISTING};

/// Entries before the page that [`REPEATED_LISTING`] says again.
const REPEATED: usize = 2;

/// How names are written.
struct Names {
    encoded: bool,
}

impl Names {
    fn of(head: &Head, obeyed: bool) -> Result<Self, Refusal> {
        match head.param("encoding-type") {
            None => Ok(Self { encoded: false }),
            Some("url") => Ok(Self { encoded: obeyed }),
            Some(_) => Err(Refusal::argument("Invalid Encoding Method specified in Request")),
        }
    }

    /// As S3 does it: a blank becomes `+`, and `/` stays.
    fn write(&self, name: &str) -> String {
        if !self.encoded {
            return name.to_owned();
        }
        form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace("%2F", "/")
    }
}

impl Core {
    pub(super) fn list_objects(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let head = &call.request.head;
        if head.param("delimiter").is_some_and(|delimiter| !delimiter.is_empty()) {
            return Err(Refusal::not_implemented("a delimiter"));
        }
        let mut world = self.world();
        let (settings, prefix) = (world.settings.clone(), head.param("prefix").unwrap_or_default());
        let names = Names::of(head, settings.url_encoding)?;
        let most = count(head, "max-keys", settings.page)?;
        let token = head.param("continuation-token");
        let after = match token {
            Some(token) => read_token(token, prefix)?,
            None => head.param("start-after").unwrap_or_default().to_owned(),
        };
        let objects = &bucket_of(&mut world, call)?.objects;
        let fitting: Vec<(&String, &Stored)> =
            objects.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        let begin = fitting.partition_point(|(key, _)| **key <= after);
        let end = (begin + most).min(fitting.len());
        let next = (end < fitting.len() && most > 0).then(|| fitting.get(end.wrapping_sub(1))).flatten();
        let mut page = fitting.get(begin..end).unwrap_or_default().to_vec();
        if call.request.is_twisted(SHORT_LISTING) {
            page.truncate(page.len() / 2);
        } else if call.request.is_twisted(REPEATED_LISTING) {
            let mut again = fitting.get(begin.saturating_sub(REPEATED)..begin).unwrap_or_default().to_vec();
            again.extend(page.iter().take(REPEATED));
            page.splice(0..0, again);
        }

        let mut body = xml::Writer::document();
        body.root("ListBucketResult")
            .text("Name", &call.target.bucket)
            .text("Prefix", names.write(prefix))
            .text("MaxKeys", most)
            .text("KeyCount", page.len())
            .text("IsTruncated", next.is_some());
        if names.encoded {
            body.text("EncodingType", "url");
        }
        if let Some(token) = token {
            body.text("ContinuationToken", token);
        } else if !after.is_empty() {
            body.text("StartAfter", names.write(&after));
        }
        if let Some((key, _)) = next {
            body.text("NextContinuationToken", write_token(key, prefix));
        }
        for (key, object) in page {
            let class = object.attributes.header(super::lock::STORAGE_CLASS).unwrap_or("STANDARD");
            body.open("Contents")
                .text("Key", names.write(key))
                .text("LastModified", object.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
                .text("ETag", &object.etag)
                .text("Size", object.size())
                .text("StorageClass", class)
                .close("Contents");
        }
        body.close("ListBucketResult");
        Ok(document(body))
    }

    pub(super) fn list_uploads(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let head = &call.request.head;
        let mut world = self.world();
        let settings = world.settings.clone();
        let names = Names::of(head, settings.url_encoding)?;
        let (prefix, most) =
            (head.param("prefix").unwrap_or_default(), count(head, "max-uploads", settings.page)?);
        let after_key = head.param("key-marker").unwrap_or_default();
        let after_id = head.param("upload-id-marker").unwrap_or_default();
        let mut uploads: Vec<_> = bucket_of(&mut world, call)?.uploads.values().collect();
        uploads.sort_by(|a, b| (&a.key, a.begun, &a.id).cmp(&(&b.key, b.begun, &b.id)));
        uploads.retain(|upload| upload.key.starts_with(prefix));
        // The markers name an upload; without the second one all of that key are behind.
        let marker = uploads.iter().position(|upload| upload.key == after_key && upload.id == after_id);
        let begin = match marker {
            Some(marker) => marker + 1,
            None => uploads.partition_point(|upload| upload.key.as_str() <= after_key),
        };
        let (page, rest) = {
            let tail = uploads.get(begin..).unwrap_or_default();
            tail.split_at(most.min(tail.len()))
        };
        let mut body = xml::Writer::document();
        body.root("ListMultipartUploadsResult")
            .text("Bucket", &call.target.bucket)
            .text("KeyMarker", names.write(after_key))
            .text("UploadIdMarker", after_id)
            .text("Prefix", names.write(prefix))
            .text("MaxUploads", most)
            .text("IsTruncated", !rest.is_empty());
        if names.encoded {
            body.text("EncodingType", "url");
        }
        if let (Some(last), false) = (page.last(), rest.is_empty()) {
            body.text("NextKeyMarker", names.write(&last.key)).text("NextUploadIdMarker", &last.id);
        }
        for upload in page {
            body.open("Upload")
                .text("Key", names.write(&upload.key))
                .text("UploadId", &upload.id)
                .text(
                    "StorageClass",
                    upload.attributes.header(super::lock::STORAGE_CLASS).unwrap_or("STANDARD"),
                )
                .text("Initiated", upload.begun.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
                .close("Upload");
        }
        body.close("ListMultipartUploadsResult");
        Ok(document(body))
    }

    pub(super) fn list_parts(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let head = &call.request.head;
        let (pending, page) = (self.pending(call)?, self.world().settings.page);
        let most = count(head, "max-parts", page)?;
        let after = head.param("part-number-marker").and_then(|n| n.parse().ok()).unwrap_or(0);
        let parts: Vec<_> = pending.parts.iter().filter(|(number, _)| **number > after).collect();
        let shown = parts.get(..most.min(parts.len())).unwrap_or_default();
        let mut body = xml::Writer::document();
        body.root("ListPartsResult")
            .text("Bucket", &call.target.bucket)
            .text("Key", call.key())
            .text("UploadId", &pending.id)
            .text("PartNumberMarker", after)
            .text("MaxParts", most)
            .text("IsTruncated", shown.len() < parts.len());
        if let (Some((number, _)), true) = (shown.last(), shown.len() < parts.len()) {
            body.text("NextPartNumberMarker", number);
        }
        for (number, part) in shown {
            body.open("Part")
                .text("PartNumber", number)
                .text("ETag", &part.etag)
                .text("Size", part.body.len());
            if let Some((sum, text)) = &part.sum {
                body.text(&format!("Checksum{}", sum.name()), text);
            }
            body.close("Part");
        }
        body.close("ListPartsResult");
        Ok(document(body))
    }
}

fn document(body: xml::Writer) -> Answer {
    Answer::new(200).header("content-type", "application/xml").body(body.finish())
}

/// A number in the query, at most `most`, which it is when there is none.
fn count(head: &Head, name: &'static str, most: usize) -> Result<usize, Refusal> {
    match head.param(name) {
        None | Some("") => Ok(most),
        Some(text) => {
            let number = text.parse::<usize>().ok();
            let number = number
                .ok_or_else(|| Refusal::argument("Provided count not an integer or within integer range"));
            Ok(number?.min(most))
        }
    }
}

/// Opaque, needs encoding in a query, and good for one prefix only.
fn write_token(key: &str, prefix: &str) -> String {
    format!("1+{}/={}", URL_SAFE_NO_PAD.encode(key), URL_SAFE_NO_PAD.encode(prefix))
}

fn read_token(token: &str, prefix: &str) -> Result<String, Refusal> {
    let read = || {
        let (key, of) = token.strip_prefix("1+")?.split_once("/=")?;
        let text = |encoded: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok();
        (text(of)? == prefix).then(|| text(key)).flatten()
    };
    read().ok_or_else(|| Refusal::argument("The continuation token provided is incorrect"))
}
