//! The records of a vault, as a consumer with isolation read_committed saw them: for people, and for commands that look for single records.
//!
//! Of a vault's segments only chunks are read, by range, and each is checked. What can't hold anything that is asked for is passed over by its row, then
//! by its batches' headers.

mod chunk;
mod reader;
mod times;
mod topic;
mod window;

pub use bodley_protocol::records::Body;
pub use reader::{Batch, Reader, Record, Seen, Source};
pub use times::times_at;
pub use topic::{find_topic, partitions_of};
pub use window::Window;
