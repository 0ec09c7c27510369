//! Frames: a length, a header with a correlation id, a body. For every API but Fetch and Produce the body goes
//! through the kafka-protocol crate, answers only after the check of [`crate::shape`].

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use crate::shape;
use crate::wire::{Length, Writer};

/// A message that could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[error("{api} v{version}: {what}")]
pub struct FrameError {
    /// Name of the API or its number.
    pub api: String,
    /// Version in use.
    pub version: i16,
    /// What went wrong.
    pub what: String,
}

/// The parts of a request header that change.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// API version.
    pub version: i16,
    /// Echoed by the broker.
    pub correlation_id: i32,
    /// Shown in the broker's metrics and logs.
    pub client_id: &'a str,
}

/// A whole request frame, its length in front.
pub fn encode<R: Request>(head: Head<'_>, request: &R) -> Result<Bytes, FrameError> {
    let error = |what: String| FrameError { api: api_name::<R>(), version: head.version, what };
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(head.version)
        .with_correlation_id(head.correlation_id)
        .with_client_id(Some(StrBytes::from_string(head.client_id.to_owned())));
    let mut body = BytesMut::new();
    body.extend_from_slice(&[0; 4]);
    header.encode(&mut body, R::header_version(head.version)).map_err(|e| error(e.to_string()))?;
    request.encode(&mut body, head.version).map_err(|e| error(e.to_string()))?;
    let length = i32::try_from(body.len() - 4).map_err(|_| error("too long".into()))?;
    if let Some(prefix) = body.first_chunk_mut() {
        *prefix = length.to_be_bytes();
    }
    Ok(body.freeze())
}

/// The body of a response of `R`, from a frame without its length. The correlation id has been checked by the caller. What the bytes
/// do not bear out ends here, before the decoder believes it.
pub fn decode<R: Request>(version: i16, frame: Bytes) -> Result<R::Response, FrameError> {
    const { assert!(shape::is_known(R::KEY), "answers of this API have no shape yet: add one to shape.rs") };
    let error = |what: String| FrameError { api: api_name::<R>(), version, what };
    shape::check(R::KEY, version, &frame).map_err(|e| error(e.to_string()))?;
    let mut frame = frame;
    ResponseHeader::decode(&mut frame, R::Response::header_version(version))
        .map_err(|e| error(e.to_string()))?;
    R::Response::decode(&mut frame, version).map_err(|e| error(e.to_string()))
}

/// Name of an API for messages.
pub fn api_name<R: Request>() -> String {
    kafka_protocol::messages::ApiKey::try_from(R::KEY)
        .map_or_else(|()| R::KEY.to_string(), |key| format!("{key:?}"))
}

/// Starts a hand-written request: room for the length, then the header (v2 when `flexible`, else v1).
pub(crate) fn begin(api_key: i16, head: Head<'_>, flexible: bool) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.put_i16(api_key);
    out.put_i16(head.version);
    out.put_i32(head.correlation_id);
    // The client id stays an old-style string in header v2, too.
    out.put_string(Length::Classic16, head.client_id);
    put_no_tags(&mut out, flexible);
    out
}

/// Sets the length in front, for a frame that has `body_elsewhere` more bytes than `out`.
pub(crate) fn finish(out: &mut [u8], body_elsewhere: usize) {
    let length = (out.len() + body_elsewhere).saturating_sub(4) as i32;
    if let Some(prefix) = out.first_chunk_mut() {
        *prefix = length.to_be_bytes();
    }
}

/// An empty list of tagged fields, where the version has such.
pub(crate) fn put_no_tags(out: &mut Vec<u8>, flexible: bool) {
    if flexible {
        out.put_uvarint(0);
    }
}
