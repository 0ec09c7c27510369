//! Errors of a whole run, with what they mean for its exit code.

use bodley_io::kafka::KafkaError;
use bodley_io::store::StoreError;

use crate::vault::VaultError;

/// How bad it is, as design and `--help` number it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// 1: it did not work, nothing is lost, run it again.
    Failed,
    /// 2: refused before anything was written.
    Refused,
    /// 3: data that was asked for is missing or damaged.
    Missing,
}

impl Severity {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Refused => 2,
            Self::Missing => 3,
        }
    }
}

/// What ended a run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The cluster.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Stored data that is not what it was.
    #[error("{object} is damaged: {what}: {topic}-{partition} offsets {}..{}", offsets.start, offsets.end)]
    Damaged {
        /// Path of the object.
        object: String,
        /// How.
        what: String,
        /// Topic.
        topic: String,
        /// Partition.
        partition: u32,
        /// The chunk's offsets.
        offsets: std::ops::Range<i64>,
    },
    /// The target refused a batch for good.
    #[error("{0}")]
    Produce(KafkaError),
    /// The target is not as our own writes must have left it.
    #[error("{0}")]
    Diverged(String),
    /// What was read may be another topic's.
    #[error(
        "topic {topic} was deleted and created again during the run: nothing is kept of the earlier one that was not committed"
    )]
    Replaced {
        /// Its name.
        topic: String,
    },
    /// Another run of the same restore has taken over.
    #[error("{0}: another run of this restore has taken over; this one has stopped")]
    Fenced(String),
    /// The restore's state can't be kept.
    #[error("{0}")]
    State(String),
    /// What was asked for cannot be done; nothing was written.
    #[error("{0}")]
    Refused(String),
    /// The cluster does not allow it; nothing was written.
    #[error("{0}")]
    Denied(String),
}

impl EngineError {
    /// Damage is told by the topic's name, where only its id was known.
    pub fn in_topic(self, name: &str) -> Self {
        match self {
            Self::Damaged { object, what, partition, offsets, .. } => {
                Self::Damaged { object, what, topic: name.to_owned(), partition, offsets }
            }
            other => other,
        }
    }

    /// What it means for the exit code.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Store(StoreError::NoPutIfAbsent(_))
            | Self::Vault(VaultError::Store(StoreError::NoPutIfAbsent(_))) => Severity::Refused,
            Self::Kafka(_)
            | Self::Store(_)
            | Self::Produce(_)
            | Self::Diverged(_)
            | Self::Replaced { .. }
            | Self::Fenced(_)
            | Self::Denied(_)
            | Self::State(_) => Severity::Failed,
            Self::Refused(_) => Severity::Refused,
            Self::Damaged { .. } => Severity::Missing,
            Self::Vault(error) => match error {
                VaultError::Store(_) | VaultError::LostRace { .. } | VaultError::Internal(_) => {
                    Severity::Failed
                }
                VaultError::Absent { .. }
                | VaultError::Foreign { .. }
                | VaultError::Unsupported(_)
                | VaultError::Overwrites { .. }
                | VaultError::SingleWriter { .. } => Severity::Refused,
                VaultError::Damaged { .. } => Severity::Missing,
            },
        }
    }

    /// A stable word for it in reports.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Kafka(KafkaError::Refused { .. }) => "kafka_refused",
            Self::Kafka(KafkaError::Mismatch { .. }) => "not_kafka",
            Self::Kafka(KafkaError::Tls { .. }) => "tls",
            Self::Kafka(KafkaError::Auth { .. } | KafkaError::Token { .. }) => "authentication",
            Self::Kafka(KafkaError::OtherCluster { .. }) => "other_cluster",
            Self::Kafka(_) => "kafka_unreachable",
            Self::Store(StoreError::NoPutIfAbsent(_))
            | Self::Vault(VaultError::Store(StoreError::NoPutIfAbsent(_))) => "store_overwrites",
            Self::Store(StoreError::Denied { .. })
            | Self::Vault(VaultError::Store(StoreError::Denied { .. })) => "denied",
            Self::Store(_) | Self::Vault(VaultError::Store(_)) => "store",
            Self::Produce(_) => "produce_refused",
            Self::Diverged(_) => "target_diverged",
            Self::Replaced { .. } => "topic_replaced",
            Self::Fenced(_) => "fenced",
            Self::State(_) => "restore_state",
            Self::Refused(_) => "refused",
            Self::Denied(_) => "denied",
            Self::Damaged { .. } => "vault_damaged",
            Self::Vault(VaultError::Absent { .. }) => "vault_absent",
            Self::Vault(VaultError::Foreign { .. }) => "vault_foreign",
            Self::Vault(VaultError::Unsupported(_)) => "vault_unsupported",
            Self::Vault(VaultError::Damaged { .. }) => "vault_damaged",
            Self::Vault(VaultError::Overwrites { .. }) => "store_overwrites",
            Self::Vault(VaultError::SingleWriter { .. }) => "single_writer",
            Self::Vault(VaultError::LostRace { .. }) => "lost_race",
            Self::Vault(VaultError::Internal(_)) => "internal",
        }
    }
}
