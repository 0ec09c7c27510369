//! The domain: what a backup is, how it is written, proven and put back. Knows Kafka's operations and a store's port, no HTTP, no flags.

// Helpers that unit tests share with the tests beside the crate call it by this name.
#[cfg(test)]
extern crate self as bodley_engine;

pub mod backup;
pub mod copy;
pub mod doctor;
pub mod error;
pub mod groups;
pub mod inventory;
pub mod look;
pub mod moment;
pub mod progress;
pub mod rebuild;
pub mod report;
pub mod restore;
pub mod rights;
pub mod select;
pub mod status;
pub mod strays;
pub mod vault;
pub mod verify;

pub use error::EngineError;
pub use moment::{At, Moment};
pub use progress::Progress;
pub use report::{Gap, Issue, Merged, Report, TopicReport};
pub use select::{Pick, Selection};
