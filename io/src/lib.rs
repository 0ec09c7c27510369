//! Moving bytes: connections to brokers, cluster metadata and routing, part buffers, and the Store port with local disk
//! and memory behind it. Knows Kafka's operations, not what a backup is.

pub mod backoff;
pub mod buffers;
pub mod kafka;
pub mod store;
pub mod throttle;

pub use buffers::{BufferPool, Filled, PartBuf};
