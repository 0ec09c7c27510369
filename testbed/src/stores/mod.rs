//! Object stores for tests: strict ones in this process, whose every answer a test can change, and real servers.

pub mod azurite;
pub mod boto3;
pub mod client;
pub mod fake_gcs;
pub mod gcs;
pub mod http;
pub mod relay;
pub mod s3;
pub mod seaweed;

pub use s3::S3;
pub use seaweed::SeaweedFs;
