//! Object stores for tests: strict ones in this process, whose every answer a test can change, and real servers.

pub mod azurite;
pub mod fake_gcs;
pub mod gcs;
pub mod http;
pub mod relay;
