//! `bodley restore`, as typed.

use bodley_engine::{At, Moment};
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
  bodley restore -b broker:9092 --vault /backups/prod --topic orders --rename '*=check-*' --from 2026-01-02T00:00:00Z --to 2026-01-03T00:00:00Z --dry-run
  bodley restore -b broker:9092 --vault /backups/prod --window 'orders=-2h..' --window 'audit:3=..2026-01-02T00:00:00Z' --rename '*=*-late'
  bodley restore -b broker:9092 --vault /backups/prod --at 12 --group 'billing*' --report report.json
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
    /// Leave out records that are older (2026-01-02T03:04:05Z, ms since 1970, or a time ago: -2h)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<Moment>,
    /// Leave out records of this time and newer ones
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<Moment>,
    /// The same for one topic or partition, in place of --from and --to; either side of the dots may be empty. May be repeated
    #[arg(long, value_name = "TOPIC[:PARTITION]=FROM..TO")]
    pub window: Vec<String>,
    /// The first offset of a partition that is wanted; may be repeated
    #[arg(long, value_name = "TOPIC:PARTITION=N")]
    pub from_offset: Vec<String>,
    /// The first offset of a partition that is not wanted any more; may be repeated
    #[arg(long, value_name = "TOPIC:PARTITION=N")]
    pub to_offset: Vec<String>,
    /// Restore the vault as it was at this commit, or at this time
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true)]
    pub at: Option<At>,
    /// Only these partitions, such as 0,3-5
    #[arg(long, value_name = "LIST")]
    pub partitions: Option<String>,
    /// Of topics that were deleted and created again, this life (`bodley list` numbers them); the newest by default. May be repeated
    #[arg(long, value_name = "[TOPIC=]N")]
    pub incarnation: Vec<String>,
    /// Restore a topic under another name; a * on both sides renames many (*=dr-*). May be repeated
    #[arg(long, value_name = "FROM=TO")]
    pub rename: Vec<String>,
    /// Add headers to each record that tell its topic, partition, offset and time at the source. Every batch is unpacked for it
    #[arg(long)]
    pub stamp_headers: bool,
    /// Replicas of created topics; the source's by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    pub replication_factor: Option<i16>,
    /// A setting of created topics in place of the source's; may be repeated
    #[arg(long, value_name = "[TOPIC:]KEY=VALUE")]
    pub topic_config: Vec<String>,
    /// Where consumer groups go on: at the record that each would have read next (map), at the first one not older than it (timestamp),
    /// at the log's start or end; or leave them alone (none)
    #[arg(long, value_enum, default_value = "map", value_name = "HOW")]
    pub groups: Groups,
    /// A group whose position is set, or a glob of * and ?; may be repeated. None: all
    #[arg(long, value_name = "GLOB")]
    pub group: Vec<String>,
    /// Leave these groups alone; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude_group: Vec<String>,
    /// Write nothing: look at vault and target, and print what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Also write the result as JSON, with the map of offsets, to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<std::path::PathBuf>,
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
    /// By time.
    Timestamp,
    /// To the log's start.
    Earliest,
    /// To the log's end.
    Latest,
    /// Left alone.
    None,
}
