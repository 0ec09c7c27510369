//! Kafka's bytes, without I/O, files or a clock.
//!
//! The way of a byte: `io` reads a Fetch response from a socket, [`fetch::ResponseParser`] says where its record
//! bytes begin, [`batch`] walks them (header view, CRC-32C) and patches a header on the way back, and
//! [`produce`] frames them for a Produce request. Nothing here looks inside a batch but [`times`], which reads no body, and [`records`], which is
//! for the few batches that a broker would refuse as they are or of which not every record is wanted ([`rewrite`], [`sieve`], [`stamp`]),
//! and for runs of tiny ones ([`merge`]).

pub mod batch;
pub mod checksum;
pub mod codecs;
pub mod error_code;
pub mod fetch;
pub mod frame;
pub mod merge;
mod old;
pub mod produce;
pub mod records;
pub mod rewrite;
pub mod sasl;
pub mod shape;
pub mod sieve;
pub mod stamp;
pub mod times;
pub mod versions;
pub mod wire;

pub use error_code::{ErrorCode, RetryClass};
pub use kafka_protocol::messages;
pub use kafka_protocol::protocol::StrBytes;

/// A topic id (KIP-516): the UUID's 16 bytes, most significant first. All zeros where the broker has none.
pub type TopicId = [u8; 16];
/// The topic has no id.
pub const NO_TOPIC_ID: TopicId = [0; 16];
