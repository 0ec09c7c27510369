//! `bodley restore`, as typed.

use clap::{Args as ClapArgs, ValueEnum};

use super::{ClusterArg, Interval, Rate, TopicArgs, VaultArg};

/// Shown behind the help.
pub const EXAMPLES: &str = "\
Topics that are missing at the target are created with the source's partitions and settings; topics that are there must be
empty, or --append adds to them. Records keep key, value, headers, timestamp and order; offsets are new. While it runs, topics have safe
temporary settings (no retention); the real ones come back at the end. A restore that was cut, however it was, goes on
with the same command, without duplicates; one that is done finds nothing to do.

Examples:
  bodley restore -b other:9092 --vault /backups/prod
  bodley restore -b broker:9092 --vault /backups/prod --topic orders --rename orders=orders-restored
  bodley restore -b dev:9092 --vault /backups/prod --replication-factor 1 --topic-config retention.ms=86400000
  bodley restore -b broker:9093 --command-config client.properties --vault /backups/prod";

/// `bodley restore`
#[derive(Debug, ClapArgs)]
pub struct Restore {
    #[command(flatten)]
    pub cluster: ClusterArg,
    #[command(flatten)]
    pub vault: VaultArg,
    #[command(flatten)]
    pub topics: TopicArgs,
    /// Restore a topic under another name; may be repeated
    #[arg(long, value_name = "FROM=TO")]
    pub rename: Vec<String>,
    /// Replicas of created topics; the source's by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    pub replication_factor: Option<i16>,
    /// A setting of created topics in place of the source's; may be repeated
    #[arg(long, value_name = "[TOPIC:]KEY=VALUE")]
    pub topic_config: Vec<String>,
    /// Consumer groups: map sets each to the record that it would have read next, none leaves them alone
    #[arg(long, value_enum, default_value = "map")]
    pub groups: Groups,
    /// Add to topics that hold data already; their settings stay as they are
    #[arg(long)]
    pub append: bool,
    /// Let no restored record expire for so long (s, m, h, d): created topics get a retention.ms of at least the age of the oldest
    /// record plus this, and no retention.bytes
    #[arg(long, value_name = "DURATION")]
    pub hold_retention: Option<Interval>,
    /// Leave damaged chunks out and restore the rest (exit 3, with the list)
    #[arg(long)]
    pub skip_damaged: bool,
    /// Send every batch by itself. Runs of small ones are merged otherwise: the same records, in fewer requests
    #[arg(long)]
    pub no_merge: bool,
    /// Name of this restore; made of vault, target and flags by default, so that the same command goes on where it was cut
    #[arg(long, value_name = "ID")]
    pub restore_id: Option<String>,
    /// Keep the restore's state in this file, not in a consumer group bodley-restore-<id> at the target
    #[arg(long, value_name = "FILE")]
    pub state: Option<std::path::PathBuf>,
    /// Read at most so many bytes per second from the vault (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES/S")]
    pub limit_read: Option<Rate>,
    /// Write at most so many bytes per second to the brokers
    #[arg(long, value_name = "BYTES/S")]
    pub limit_write: Option<Rate>,
}

/// What happens to consumer groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Groups {
    /// Translated.
    Map,
    /// Left alone.
    None,
}
