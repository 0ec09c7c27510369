//! The workbench: Apache Kafka's own Java client, as a process that does what it is told. Nothing of Bodley takes
//! part, so what it writes and reads can judge Bodley.

mod access;
mod admin;
mod process;
mod produce;
mod read;
mod record;

pub use access::Right;
pub use admin::{Broker, ConfigEntry, GroupOffset, Partition, Quota, Topic};
pub use process::Workbench;
pub use produce::{Acked, Codec, Generate, ProduceOptions};
pub use read::{Digest, Isolation, PartitionDigest, PartitionSummary};
pub use record::{BatchInfo, Record};
