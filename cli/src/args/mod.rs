//! The command line, as typed. Names follow Kafka's own tools.

mod cat;
mod copy;
mod groups;
mod restore;

use std::str::FromStr;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use bodley_engine::At;
pub use cat::Cat;
pub use copy::CopyVault;
pub use groups::{
    By, GroupsArgs, GroupsCommand, GroupsDiff, GroupsReset, GroupsRollback, GroupsShow, To, WantedArgs,
};
pub use restore::{Groups, Restore};

const EXAMPLES: &str = "\
Examples:
  bodley backup  -b broker:9092 --vault /backups/prod
  bodley verify  --vault /backups/prod
  bodley list    --vault /backups/prod
  bodley cat     --vault /backups/prod --topic orders --last 10
  bodley restore -b other:9092 --vault /backups/prod --topic 'orders*'
  bodley backup  -b broker:9092 --vault s3://backups/prod --vault-option region=eu-west-1
  bodley copy    --vault s3://backups/prod --to-vault az://account/container/prod
  bodley backup  --command-config client.properties --vault /backups/prod
  bodley --config bodley.toml backup --cluster prod

Exit codes: 0 done; 1 failed, nothing lost, run again; 2 usage, or refused before anything was written;
3 finished, but data that was asked for is missing or damaged; 130 and 143 ended by a signal.";

/// Back up, restore and verify Apache Kafka, and what speaks its protocol.
#[derive(Debug, Parser)]
#[command(name = "bodley", version, about, after_help = EXAMPLES, max_term_width = 120)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// For every command.
    #[command(flatten)]
    pub common: Common,
}

/// Flags of every command.
#[derive(Debug, Clone, ClapArgs)]
pub struct Common {
    /// What stdout gets: text for people, or exactly one JSON document (also on failure)
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub output: OutputFormat,
    /// Say more on stderr, and at a run's end how long its requests took; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// No progress and no notes about settings on stderr
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// A file of clusters and flags in TOML; flags that are typed win [also BODLEY_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
    /// What the store of --vault is to know (docs/stores/); may be repeated: region=eu-west-1, endpoint=https://minio:9000
    #[arg(long = "vault-option", global = true, value_name = "KEY=VALUE")]
    pub vault_options: Vec<crate::vault::VaultOption>,
    /// Of that file.
    #[arg(skip)]
    pub clusters: crate::config::Clusters,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// One document, see docs/json.md.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy what is new in a cluster into a vault
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(Backup),
    /// Prove that a vault is whole: every commit, object, checksum and offset
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(Verify),
    /// Put topics of a vault into a cluster, where they are missing or empty
    #[command(after_help = restore::EXAMPLES)]
    Restore(Box<Restore>),
    /// Make a new vault from what is left of one whose log is lost or damaged
    #[command(after_help = REBUILD_EXAMPLES)]
    Rebuild(Rebuild),
    /// Copy a vault to another store, or what is new in it since the last copy
    #[command(after_help = copy::EXAMPLES)]
    Copy(CopyVault),
    /// Look at everything that a backup or a restore needs, and say what is wrong and how to mend it
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Doctor),
    /// Print records of a vault, without any Kafka
    #[command(after_help = cat::EXAMPLES)]
    Cat(Cat),
    /// List a vault's topics with sizes, records, times and gaps
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
    /// Tell how old a vault is, with an exit code for cron and probes
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Show one topic's partitions, the commits, or the consumer groups of a vault
    #[command(after_help = SHOW_EXAMPLES)]
    Show(Show),
    /// Look at the positions of consumer groups in a vault, compare them, set them at a cluster, and put them back
    #[command(after_help = groups::EXAMPLES)]
    Groups(GroupsArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  bodley completions bash > /etc/bash_completion.d/bodley")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// As typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Backup(_) => "backup",
            Self::Verify(_) => "verify",
            Self::Restore(_) => "restore",
            Self::Rebuild(_) => "rebuild",
            Self::Copy(_) => "copy",
            Self::Doctor(_) => "doctor",
            Self::Cat(_) => "cat",
            Self::List(_) => "list",
            Self::Status(_) => "status",
            Self::Show(_) => "show",
            Self::Groups(groups) => groups.command.name(),
            Self::Completions { .. } => "completions",
        }
    }
}

const BACKUP_EXAMPLES: &str = "\
The first run makes the vault and copies everything; every later one copies what is new. A run that was killed is
simply run again. Offsets that a topic's retention removed before they were copied are recorded as gaps: exit 3.
With --follow the run goes on until SIGTERM or SIGINT (exit 0; 3 if it recorded a gap): new topics and partitions are taken
up within 10 s, and brokers that fail are waited for as long as it takes.

Examples:
  bodley backup -b broker:9092 --vault /backups/prod
  bodley backup -b b1:9092,b2:9092 --vault /backups/prod --topic 'orders*' --exclude '*.tmp'
  bodley backup -b broker:9092 --vault /backups/prod --limit-read 50M
  bodley backup -b broker:9092 --vault /backups/prod --follow --commit-interval 30s
  bodley backup -b broker:9093 --command-config client.properties --vault /backups/prod";

const VERIFY_EXAMPLES: &str = "\
Examples:
  bodley verify --vault /backups/prod              reads everything
  bodley verify --vault /backups/prod --quick      commits and tables; of segments presence and size
  bodley verify --vault /backups/prod --expect 12:5f…   also that the commit of this receipt is still there";

const REBUILD_EXAMPLES: &str = "\
Rows come from the index tables and, where those are lost, from the segments' footers; every chunk is checked on the way.
The damaged vault is only read. What is lost becomes a gap; what is lost or doubtful is listed: exit 3.

Examples:
  bodley rebuild --vault /backups/prod --to-vault /backups/prod-2
  bodley rebuild --vault /backups/prod --to-vault /backups/prod-2 --cluster-id 4L6g3nShT-eMCtK--X86sw";

const DOCTOR_EXAMPLES: &str = "\
Names, TCP, TLS, SASL, versions, rights, clocks; with --vault also the store, by a probe of a few bytes that is deleted again.
Exit 1 when something is wrong.

Examples:
  bodley doctor -b broker:9093 --command-config client.properties
  bodley doctor -b broker:9092 --vault /backups/prod";

const LIST_EXAMPLES: &str = "\
A topic that was deleted and created again has one row for each incarnation.

Examples:
  bodley list --vault /backups/prod
  bodley list --vault /backups/prod --at -1d";

const STATUS_EXAMPLES: &str = "\
Exit 0, or 1 when the vault is older than --max-age or --max-lag allow. A run that finds nothing new leaves a commit that says so
when the last one is five minutes old, with --follow every minute. \"Complete to\" is the time up to which the vault has everything that was written to
the topics of the run that says so.

Examples:
  bodley status --vault /backups/prod
  bodley status --vault /backups/prod --max-age 26h             for a backup every night
  bodley status --vault s3://backups/prod --max-age 15m --max-lag 5m    for one that follows";

const SHOW_EXAMPLES: &str = "\
Examples:
  bodley show --vault /backups/prod orders
  bodley show --vault /backups/prod orders --at 2026-01-02T03:04:05Z
  bodley show --vault /backups/prod --commits
  bodley show --vault /backups/prod --groups --at 12";

/// Where the vault is.
#[derive(Debug, Clone, ClapArgs)]
pub struct VaultArg {
    /// The vault: a folder, s3://bucket/prefix, az://account/container/prefix or gs://bucket/prefix
    #[arg(long, value_name = "URL")]
    pub vault: String,
}

/// What the user says of other writers.
#[derive(Debug, Clone, ClapArgs)]
pub struct WritersArg {
    /// Only ever one run writes to the vault at a time: goes on with a store that ignores put-if-absent and could not settle a race
    #[arg(long)]
    pub single_writer: bool,
}

/// From one vault to another.
#[derive(Debug, Clone, ClapArgs)]
pub struct VaultsArg {
    #[command(flatten)]
    pub vault: VaultArg,
    /// The vault to write: an empty place (`copy`: or an earlier copy)
    #[arg(long, value_name = "URL")]
    pub to_vault: String,
    /// What the store of --to-vault is to know (docs/stores/); may be repeated
    #[arg(long = "to-vault-option", value_name = "KEY=VALUE")]
    pub to_vault_options: Vec<crate::vault::VaultOption>,
    /// Read at most so many bytes per second from the vault (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES/S")]
    pub limit_read: Option<Rate>,
    /// Write at most so many bytes per second to the other one
    #[arg(long, value_name = "BYTES/S")]
    pub limit_write: Option<Rate>,
    #[command(flatten)]
    pub writers: WritersArg,
}

/// Where the cluster is.
#[derive(Debug, Clone, ClapArgs)]
pub struct ClusterArg {
    /// Brokers to ask first; may come from --command-config or --cluster
    #[arg(short, long, value_name = "HOST:PORT[,…]")]
    pub bootstrap_server: Option<String>,
    /// How to reach the cluster: a client.properties of Kafka's tools, or the same with librdkafka's keys. Passwords may come from
    /// BODLEY_SASL_PASSWORD and others
    #[arg(long, value_name = "FILE")]
    pub command_config: Option<std::path::PathBuf>,
    /// A cluster that the file of --config describes
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Give up when brokers have not let anything go on for so long (s, m, h). A backup gives up partition by partition, a restore as a whole
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub give_up_after: Interval,
}

/// Which topics.
#[derive(Debug, Clone, ClapArgs)]
pub struct TopicArgs {
    /// A topic, or a glob of * and ?; may be repeated. None: all but internal topics
    #[arg(long = "topic", value_name = "GLOB")]
    pub topics: Vec<String>,
    /// Leave these out; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Globs reach internal topics (__*), too
    #[arg(long)]
    pub include_internal: bool,
}

/// `bodley backup`
#[derive(Debug, ClapArgs)]
pub struct Backup {
    #[command(flatten)]
    pub cluster: ClusterArg,
    #[command(flatten)]
    pub vault: VaultArg,
    #[command(flatten)]
    pub topics: TopicArgs,
    /// Go on with what is written until the run is ended by a signal
    #[arg(long)]
    pub follow: bool,
    /// Commit what is durable at least so often (s, m, h) [default: 60s, with --follow 10s]; what is committed survives whatever comes
    #[arg(long, value_name = "DURATION")]
    pub commit_interval: Option<Interval>,
    /// With --follow: read the positions of consumer groups so often (s, m, h) [default: 60s]
    #[arg(long, value_name = "DURATION", requires = "follow")]
    pub groups_interval: Option<Interval>,
    /// Read at most so many bytes per second from the brokers (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES/S")]
    pub limit_read: Option<Rate>,
    /// Write at most so many bytes per second to the vault
    #[arg(long, value_name = "BYTES/S")]
    pub limit_write: Option<Rate>,
    /// Unpack compressed batches to note their oldest record, so that restores of a window of time read less; costs CPU
    #[arg(long)]
    pub exact_times: bool,
    #[command(flatten)]
    pub writers: WritersArg,
}

/// `bodley verify`
#[derive(Debug, ClapArgs)]
pub struct Verify {
    #[command(flatten)]
    pub vault: VaultArg,
    /// Don't read segments: only look whether they are there in full length
    #[arg(long)]
    pub quick: bool,
    /// A receipt that a backup printed: its commit must be in the vault
    #[arg(long, value_name = "SEQ:SHA256")]
    pub expect: Option<String>,
    /// Read at most so many bytes per second from the vault (K, M, G: powers of 1024)
    #[arg(long, value_name = "BYTES/S")]
    pub limit_read: Option<Rate>,
}

/// `bodley rebuild`
#[derive(Debug, ClapArgs)]
pub struct Rebuild {
    #[command(flatten)]
    pub vaults: VaultsArg,
    /// Id of the source cluster, when vault.json is lost
    #[arg(long, value_name = "ID")]
    pub cluster_id: Option<String>,
}

/// `bodley doctor`
#[derive(Debug, ClapArgs)]
pub struct Doctor {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// The vault: a folder, s3://bucket/prefix, az://account/container/prefix or gs://bucket/prefix; looked at as well
    #[arg(long, value_name = "URL")]
    pub vault: Option<String>,
}

/// `bodley list`
#[derive(Debug, ClapArgs)]
pub struct List {
    #[command(flatten)]
    pub vault: VaultArg,
    /// As the vault was at this commit, or at the newest one that is not younger than this time
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true)]
    pub at: Option<At>,
}

/// `bodley status`
#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    #[command(flatten)]
    pub vault: VaultArg,
    /// Exit 1 when the last commit is older (s, m, h, d)
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<Interval>,
    /// Exit 1 when the vault lacks something that was written so long ago, or does not say (s, m, h, d)
    #[arg(long, value_name = "DURATION")]
    pub max_lag: Option<Interval>,
}

/// `bodley show`
#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct Show {
    /// The vault: a folder, s3://bucket/prefix, az://account/container/prefix or gs://bucket/prefix
    #[arg(long, value_name = "URL")]
    pub vault: Option<String>,
    /// The topic whose partitions to show
    #[arg(group = "what")]
    pub topic: Option<String>,
    /// The log of commits
    #[arg(long, group = "what")]
    pub commits: bool,
    /// Consumer groups and their committed offsets
    #[arg(long, group = "what")]
    pub groups: bool,
    /// As the vault was at this commit, or at the newest one that is not younger than this time
    #[arg(long, value_name = "SEQ|TIME", allow_hyphen_values = true, conflicts_with = "commits")]
    pub at: Option<At>,
    /// Which offset at the source became which at the target, as the report of a restore has it
    #[arg(long, group = "what", requires = "report")]
    pub offset_map: bool,
    /// The JSON report of a restore (`bodley restore --report FILE`)
    #[arg(long, value_name = "FILE", requires = "offset_map")]
    pub report: Option<std::path::PathBuf>,
    /// Only this topic or partition of the map; the topic by its name at the source or at the target
    #[arg(long, value_name = "TOPIC[:PARTITION]", requires = "offset_map")]
    pub of: Option<String>,
    /// Where the record lies at the target that a reader at this source offset would have read next
    #[arg(long, value_name = "N", requires = "offset_map")]
    pub offset: Option<i64>,
}

/// Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no rate: write bytes per second such as 5000000, 500K, 50M or 1G");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match text.get(digits.len()..).map(str::to_ascii_uppercase).as_deref() {
            Some("") => 1,
            Some("K") => 1 << 10,
            Some("M") => 1 << 20,
            Some("G") => 1 << 30,
            _ => return Err(bad()),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(unit).filter(|rate| *rate > 0).map(Self).ok_or_else(bad)
    }
}

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub std::time::Duration);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is no duration: write seconds, minutes, hours or days such as 30s, 5m, 1h or 7d"
            )
        };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match text.get(digits.len()..) {
            Some("s" | "") => 1,
            Some("m") => 60,
            Some("h") => 3600,
            Some("d") => 86_400,
            _ => return Err(bad()),
        };
        let number: u32 = digits.parse().map_err(|_| bad())?;
        let seconds = u64::from(number) * unit;
        if seconds == 0 { Err(bad()) } else { Ok(Self(std::time::Duration::from_secs(seconds))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn intervals() {
        assert_eq!("90s".parse(), Ok(Interval(std::time::Duration::from_secs(90))));
        assert_eq!("2m".parse(), Ok(Interval(std::time::Duration::from_secs(120))));
        assert_eq!("1d".parse(), Ok(Interval(std::time::Duration::from_secs(86_400))));
        for bad in ["", "0s", "s", "1w", "-1s", "1.5m"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!("50M".parse(), Ok(Rate(50 << 20)));
        assert_eq!("7k".parse(), Ok(Rate(7 << 10)));
        assert_eq!("123".parse(), Ok(Rate(123)));
        for bad in ["", "M", "0", "1.5M", "10X", "-1", "99999999999G"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
