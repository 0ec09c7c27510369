//! `bodley cat`, as typed.

use bodley_engine::{At, Moment};
use clap::Args as ClapArgs;

use super::{Rate, VaultArg};
use crate::records::Format;

/// Shown behind the help.
pub const EXAMPLES: &str = "\
Prints what a consumer with isolation read_committed saw, partition by partition in the order of offsets, as JSON lines (docs/cat.md).
TIME is RFC 3339, milliseconds since 1970, or a time ago such as -2h. Damaged records are left out and named on stderr: exit 3.

FORMAT has kcat's tokens: %t topic, %p partition, %o offset, %k key, %s value, %K and %S their lengths (-1: null), %R the value's
length in 4 bytes, %T time in ms, %h headers, %% a percent sign; \\n, \\t, \\r, \\\\ and \\xHH. No line end is added.

Examples:
  bodley cat --vault /backups/prod --topic orders --limit 10
  bodley cat --vault /backups/prod --topic orders --partition 3 --last 10
  bodley cat --vault /backups/prod --topic orders --from 2026-01-02T03:00:00Z --to 2026-01-02T04:00:00Z
  bodley cat --vault /backups/prod --topic orders --at -1d --format '%p %o %T %k: %s\\n'";

/// `bodley cat`
#[derive(Debug, ClapArgs)]
pub struct Cat {
    #[command(flatten)]
    pub vault: VaultArg,
    /// The topic
    #[arg(long, value_name = "NAME")]
    pub topic: String,
    /// Only this partition; may be repeated
    #[arg(long = "partition", value_name = "N")]
    pub partitions: Vec<u32>,
    /// Only records of this time or later
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<Moment>,
    /// Only records before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<Moment>,
    /// Only offsets from here on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub from_offset: Option<i64>,
    /// Only offsets below
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
    /// At most so many records in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Of each partition only so many of those asked for, the last ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub last: Option<u64>,
    /// As the vault was at this commit, or at the newest one that is not younger than this time
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true)]
    pub at: Option<At>,
    /// Of a topic that was deleted and created again the one with this number (`bodley list`); the newest by default
    #[arg(long, value_name = "N")]
    pub incarnation: Option<u32>,
    /// How to print a record, in place of JSON
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Read at most so many bytes per second from the vault (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES/S")]
    pub limit_read: Option<Rate>,
}
