//! Moving bytes: connections to brokers, cluster metadata and routing, part buffers, and the Store port with local disk
//! and memory behind it. Knows Kafka's operations, not what a backup is.

pub mod backoff;
pub mod buffers;
pub mod kafka;
pub mod latency;
pub mod secret;
pub mod store;
pub mod throttle;
pub mod token;

pub use buffers::{BufferPool, Filled, PartBuf};
pub use secret::Secret;
pub use token::{Token, TokenError, TokenProvider};
