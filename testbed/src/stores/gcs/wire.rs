//! Answers and refusals in Google's words (<https://cloud.google.com/storage/docs/json_api/v1/status-codes>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::super::http::{Answer, Head, Request};

pub(super) type Reply = Result<Answer, Refusal>;

/// What is answered instead.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }

    pub(super) fn no_page() -> Self {
        Self::new(404, "notFound", "Not Found")
    }

    pub(super) fn no_bucket() -> Self {
        Self::new(404, "notFound", "The specified bucket does not exist.")
    }

    pub(super) fn no_object(bucket: &str, name: &str) -> Self {
        Self::new(404, "notFound", format!("No such object: {bucket}/{name}"))
    }

    pub(super) fn no_token() -> Self {
        Self::new(401, "authError", "Invalid Credentials")
    }

    pub(super) fn denied(permission: &str) -> Self {
        let message = format!(
            "tester@testbed.example does not have {permission} access to the Google Cloud Storage object. Permission '{permission}' denied on \
             resource (or it may not exist)."
        );
        Self::new(403, "forbidden", message)
    }

    pub(super) fn nobody_pays() -> Self {
        Self::new(400, "required", "Bucket is a requester pays bucket but no user project provided.")
    }

    pub(super) fn condition() -> Self {
        Self::new(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
    }

    pub(super) fn retained() -> Self {
        Self::new(
            403,
            "retentionPolicyNotMet",
            "Object is subject to an object retention and cannot be deleted.",
        )
    }

    pub(super) fn range() -> Self {
        Self::new(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
    }

    pub(super) fn gone() -> Self {
        Self::new(410, "gone", "The upload session is gone.")
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid", message)
    }

    /// As JSON, or, where media was asked for, as text.
    pub(super) fn answer(self, media: bool) -> Answer {
        let Self { status, reason, message } = self;
        if media {
            return Answer::new(status).header("content-type", "text/html; charset=UTF-8").body(message);
        }
        let body = json!({ "error": {
            "code": status, "message": message,
            "errors": [{ "message": message, "domain": "global", "reason": reason }],
        } });
        json_answer(status, &body)
    }
}

pub(super) fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::new(status).header("content-type", "application/json; charset=UTF-8").body(body.to_string())
}

/// A CRC-32C as Google writes it.
pub(super) fn crc32c_text(pieces: &[Bytes]) -> String {
    let crc = pieces.iter().flat_map(|piece| piece.iter()).fold(!0u32, |crc, byte| {
        let index = (crc ^ u32::from(*byte)) & 0xff;
        (crc >> 8) ^ TABLE.get(index as usize).copied().unwrap_or_default()
    });
    STANDARD.encode((!crc).to_be_bytes())
}

/// Castagnoli, reflected. Written here so that the client's own sum has a second opinion.
static TABLE: std::sync::LazyLock<Vec<u32>> = std::sync::LazyLock::new(|| {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    (0..256u32).map(|byte| (0..8).fold(byte, |crc, _| step(crc))).collect()
});

/// `crc32c=…` of a header x-goog-hash.
pub(super) fn hash_header(head: &Head) -> Option<String> {
    let hashes = head.header("x-goog-hash")?;
    hashes.split(',').find_map(|hash| hash.trim().strip_prefix("crc32c=")).map(str::to_owned)
}

/// The two parts of multipart/related: metadata and media.
pub(super) fn related(request: &Request) -> Result<(Value, Bytes), Refusal> {
    let bad = || Refusal::invalid("Malformed multipart body.");
    let kind = request.head.header("content-type").ok_or_else(bad)?;
    let boundary = kind.strip_prefix("multipart/related; boundary=").ok_or_else(bad)?.trim_matches('"');
    let body = &request.body;
    let delimiter = format!("--{boundary}\r\n");
    let end = format!("\r\n--{boundary}--");
    let rest = body.strip_prefix(delimiter.as_bytes()).ok_or_else(bad)?;
    let between = format!("\r\n{delimiter}");
    let at = find(rest, between.as_bytes()).ok_or_else(bad)?;
    let (head, media) = rest.split_at_checked(at).ok_or_else(bad)?;
    let media = media.get(between.len()..).ok_or_else(bad)?;
    let split = |part: &[u8]| find(part, b"\r\n\r\n").map(|at| at + 4);
    let metadata = head.get(split(head).ok_or_else(bad)?..).ok_or_else(bad)?;
    let metadata = serde_json::from_slice(metadata).map_err(|_| Refusal::invalid("Parse Error"))?;
    let media = media.get(split(media).ok_or_else(bad)?..).ok_or_else(bad)?;
    let media = media.strip_suffix(b"\r\n").unwrap_or(media);
    let media = media.strip_suffix(end.as_bytes()).ok_or_else(bad)?;
    Ok((metadata, body.slice_ref(media)))
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Whether an object is to be kept from being deleted.
pub(super) fn wants_retention(request: &Request) -> bool {
    let metadata = match request.head.param("uploadType") {
        Some("multipart") => related(request).map(|(metadata, _)| metadata).unwrap_or_default(),
        _ => serde_json::from_slice(&request.body).unwrap_or_default(),
    };
    metadata.get("retention").is_some()
}
