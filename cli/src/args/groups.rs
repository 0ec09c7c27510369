//! `bodley groups`

use std::path::PathBuf;
use std::str::FromStr;

use bodley_engine::{At, Moment};
use clap::{ArgGroup, Args as ClapArgs, Subcommand, ValueEnum};

use super::{ClusterArg, VaultArg};

/// Examples of all of them.
pub const EXAMPLES: &str = "\
Examples:
  bodley groups show --vault /backups/prod --group 'billing*'
  bodley groups diff --vault /backups/prod -b broker:9092
  bodley groups reset -b broker:9092 --vault /backups/prod --by timestamp --execute
  bodley groups rollback -b broker:9092 bodley-groups-20260102T030405.123Z.json --execute";

const SHOW_EXAMPLES: &str = "\
Examples:
  bodley groups show --vault /backups/prod
  bodley groups show --vault /backups/prod --group billing --history
  bodley groups show --vault /backups/prod --at -1d --csv > offsets.csv";

const DIFF_EXAMPLES: &str = "\
Differences are no error: exit 0.

Examples:
  bodley groups diff --vault /backups/prod --at 12 --with 15
  bodley groups diff --vault /backups/prod -b broker:9092 --group 'billing*'";

const RESET_EXAMPLES: &str = "\
Nothing is changed without --execute; with it the positions that are replaced are saved to a file first, which
`bodley groups rollback` takes. Groups with live members are left alone and named: exit 3.

Examples:
  bodley groups reset -b broker:9092 --group billing --to 2026-01-02T03:04:05Z
  bodley groups reset -b broker:9092 --from-file offsets.csv --execute
  bodley groups reset -b broker:9092 --vault /backups/prod --by timestamp --rename 'orders=dr-orders' --execute
  bodley groups reset -b broker:9092 --vault /backups/prod --by headers --execute
  bodley groups reset -b broker:9092 --vault /backups/prod --by map --report report.json --execute";

const ROLLBACK_EXAMPLES: &str = "\
Examples:
  bodley groups rollback -b broker:9092 bodley-groups-20260102T030405.123Z.json
  bodley groups rollback -b broker:9092 bodley-groups-20260102T030405.123Z.json --execute";

/// `bodley groups`
#[derive(Debug, ClapArgs)]
pub struct GroupsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GroupsCommand,
}

/// The commands about consumer groups.
#[derive(Debug, Subcommand)]
pub enum GroupsCommand {
    /// The positions that a vault holds, or how they came to be
    #[command(after_help = SHOW_EXAMPLES)]
    Show(GroupsShow),
    /// What differs between two snapshots, or between a snapshot and a cluster
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(GroupsDiff),
    /// Set positions at a cluster, with a way back
    #[command(after_help = RESET_EXAMPLES)]
    Reset(GroupsReset),
    /// Put back the positions that a reset replaced
    #[command(after_help = ROLLBACK_EXAMPLES)]
    Rollback(GroupsRollback),
}

impl GroupsCommand {
    /// As typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Show(_) => "groups show",
            Self::Diff(_) => "groups diff",
            Self::Reset(_) => "groups reset",
            Self::Rollback(_) => "groups rollback",
        }
    }
}

/// Which groups and topics.
#[derive(Debug, Clone, ClapArgs)]
pub struct WantedArgs {
    /// A group, or a glob of * and ?; may be repeated. None: all
    #[arg(long, value_name = "GLOB")]
    pub group: Vec<String>,
    /// Leave these groups alone; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude_group: Vec<String>,
    /// Only positions in this topic, or a glob of * and ?; may be repeated. None: all
    #[arg(long, value_name = "GLOB")]
    pub topic: Vec<String>,
}

/// `bodley groups show`
#[derive(Debug, ClapArgs)]
pub struct GroupsShow {
    #[command(flatten)]
    pub vault: VaultArg,
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// The vault as it was at this commit, or at this time
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true)]
    pub at: Option<At>,
    /// Every change of a position, and the commit that brought it
    #[arg(long)]
    pub history: bool,
    /// Lines for kafka-consumer-groups.sh --reset-offsets --from-file: group,topic,partition,offset
    #[arg(long)]
    pub csv: bool,
}

/// `bodley groups diff`
#[derive(Debug, ClapArgs)]
pub struct GroupsDiff {
    #[command(flatten)]
    pub vault: VaultArg,
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// The vault as it was at this commit, or at this time; the newest commit by default
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true)]
    pub at: Option<At>,
    /// Compare with the vault as it was at this commit, or at this time, in place of a cluster
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true)]
    pub with: Option<At>,
    #[command(flatten)]
    pub cluster: ClusterArg,
}

/// `bodley groups reset`
#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("whence").required(true))]
pub struct GroupsReset {
    #[command(flatten)]
    pub cluster: ClusterArg,
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// A topic of the vault or file has another name at the cluster; a * on both sides renames many (*=dr-*). May be repeated
    #[arg(long, value_name = "FROM=TO")]
    pub rename: Vec<String>,
    /// Move chosen groups to the start or end of their topics, or to the first records that are not older than a time
    #[arg(long, group = "whence", value_name = "earliest|latest|TIME", allow_hyphen_values = true)]
    pub to: Option<To>,
    /// Positions from a file: group,topic,partition,offset
    #[arg(long, group = "whence", value_name = "CSV")]
    pub from_file: Option<PathBuf>,
    /// Positions from a vault, which are looked up as --by says
    #[arg(long, group = "whence", value_name = "URL")]
    pub vault: Option<String>,
    /// The vault as it was at this commit, or at this time
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true)]
    pub at: Option<At>,
    /// How positions at the source become positions here: by the time of the record that was next (with --vault), by the headers
    /// of restored records, or by the offset map of a restore (with --report)
    #[arg(long, value_enum, value_name = "HOW")]
    pub by: Option<By>,
    /// The JSON report of the restore whose offset map is meant (`bodley restore --report FILE`)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Do it; only shown otherwise
    #[arg(long)]
    pub execute: bool,
    /// With --execute: save the positions that are replaced to this new file; bodley-groups-<time>.json by default
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Print the new positions as lines for kafka-consumer-groups.sh --reset-offsets --from-file
    #[arg(long)]
    pub csv: bool,
}

/// `bodley groups rollback`
#[derive(Debug, ClapArgs)]
pub struct GroupsRollback {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// The file that a reset saved
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Do it; only shown otherwise
    #[arg(long)]
    pub execute: bool,
}

/// How positions are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// By time.
    Timestamp,
    /// By headers.
    Headers,
    /// By a restore's offset map.
    Map,
}

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The start of the log.
    Earliest,
    /// The end of the log.
    Latest,
    /// The first record that is not older.
    Time(Moment),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            time => time.parse().map(Self::Time).map_err(|e: String| format!("{e}; or earliest, or latest")),
        }
    }
}
