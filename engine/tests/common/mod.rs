//! What the tests of the vault share. Each test file uses a part of it.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

pub mod bulk;
pub mod chaos;
pub mod cloud;
pub mod distant;
pub mod files;
pub mod frozen;
pub mod history;
pub mod machine;
pub mod memory;
pub mod model;
pub mod odd_log;
#[path = "../../../protocol/tests/old/mod.rs"]
pub mod old;
pub mod sample;
