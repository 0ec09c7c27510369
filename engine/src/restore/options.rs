//! What a restore is asked to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bodley_io::throttle::Throttle;

use super::window::WindowFlags;
use crate::error::EngineError;
use crate::moment::At;
use crate::select::{Pick, Selection};

/// What happens to the positions of consumer groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupStrategy {
    /// Each becomes that of the record which it would have read next.
    #[default]
    Map,
    /// Each becomes that of the first record at the target which is not older than the record that it would have read next.
    Timestamp,
    /// Each becomes the log's start.
    Earliest,
    /// Each becomes the log's end.
    Latest,
    /// They are left alone.
    None,
}

/// Which records, of which topics, and where they go.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Which of the vault's topics.
    pub selection: Selection,
    /// The commit as of which the vault is restored; the newest by default.
    pub at: Option<At>,
    /// `[TOPIC=]N`: which life of a topic that was deleted and created again; the newest by default.
    pub incarnation: Vec<String>,
    /// Which partitions, such as `0,3-5`; all by default.
    pub partitions: Option<String>,
    /// Which records.
    pub window: WindowFlags,
    /// `FROM=TO`, whole names or with a `*` on both sides.
    pub rename: Vec<String>,
    /// Headers are added to each record that tell where it comes from.
    pub stamp_headers: bool,
}

impl Choice {
    /// What is restored depends on when it is asked.
    pub fn is_relative(&self) -> Result<bool, EngineError> {
        let at = matches!(self.at, Some(At::Time(moment)) if moment.is_relative());
        Ok(at || self.window.is_relative()?)
    }
}

/// What a restore is to do and with what means.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// What goes where.
    pub choice: Choice,
    /// Replicas of created topics; the source's by default.
    pub replication_factor: Option<i16>,
    /// `[TOPIC:]KEY=VALUE`.
    pub topic_config: Vec<String>,
    /// Positions of consumer groups.
    pub groups: GroupStrategy,
    /// Of which groups.
    pub pick_groups: Pick,
    /// Names the restore; made of what it does by default.
    pub restore_id: Option<String>,
    /// Keeps the restore's state, in place of a group at the target.
    pub state: Option<PathBuf>,
    /// What speaks against the restore is gathered in the report, and nothing is written.
    pub dry_run: bool,
    /// The offset map is to be exact also for what earlier runs have done, though much may have to be read for it.
    pub map_again: bool,
    /// Topics that hold data are added to.
    pub append: bool,
    /// Restored records are kept at least so long.
    pub hold_retention: Option<Duration>,
    /// Damaged chunks are left out.
    pub skip_damaged: bool,
    /// Runs of small batches are merged into large ones.
    pub merge: bool,
    /// Bytes of buffers.
    pub budget: usize,
    /// Connections to each broker.
    pub connections: usize,
    /// Bound on bytes written to the target.
    pub limit_write: Option<Arc<Throttle>>,
    /// Bound on bytes read from the vault, which its store keeps to.
    pub limit_read: Option<u64>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            choice: Choice::default(),
            replication_factor: None,
            topic_config: Vec::new(),
            groups: GroupStrategy::Map,
            pick_groups: Pick::default(),
            restore_id: None,
            state: None,
            dry_run: false,
            map_again: false,
            append: false,
            hold_retention: None,
            skip_damaged: false,
            merge: true,
            budget: 160 << 20,
            connections: 4,
            limit_write: None,
            limit_read: None,
        }
    }
}
