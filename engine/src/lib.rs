//! The domain: what a backup is, how it is written, proven and put back. Knows Kafka's operations and a store's port, no HTTP, no flags.

pub mod vault;
