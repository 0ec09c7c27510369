//! Object stores for tests: strict ones in this process, whose every answer a test can change, and real servers.

pub mod http;
