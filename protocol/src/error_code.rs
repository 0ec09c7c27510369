//! Kafka's error codes with what to do about them.
//!
//! Source: the protocol guide, "Error Codes"; names and retriability come from the kafka-protocol crate's table.

use kafka_protocol::ResponseError;

/// An error code as it stands in a response; 0 is success.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i16);

/// What helps after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClass {
    /// The same request again, after a pause.
    Pause,
    /// Look up leaders (or the coordinator) again, then the same request there.
    Route,
    /// Nothing: the caller has to change something.
    Never,
}

#[allow(missing_docs)] // the names are Kafka's own
impl ErrorCode {
    pub const NONE: Self = Self(0);
    pub const OFFSET_OUT_OF_RANGE: Self = Self(1);
    pub const CORRUPT_MESSAGE: Self = Self(2);
    pub const UNKNOWN_TOPIC_OR_PARTITION: Self = Self(3);
    pub const LEADER_NOT_AVAILABLE: Self = Self(5);
    pub const NOT_LEADER_OR_FOLLOWER: Self = Self(6);
    pub const REQUEST_TIMED_OUT: Self = Self(7);
    pub const REPLICA_NOT_AVAILABLE: Self = Self(9);
    pub const MESSAGE_TOO_LARGE: Self = Self(10);
    pub const COORDINATOR_LOAD_IN_PROGRESS: Self = Self(14);
    pub const COORDINATOR_NOT_AVAILABLE: Self = Self(15);
    pub const NOT_COORDINATOR: Self = Self(16);
    pub const NOT_ENOUGH_REPLICAS: Self = Self(19);
    pub const NOT_ENOUGH_REPLICAS_AFTER_APPEND: Self = Self(20);
    pub const UNKNOWN_MEMBER_ID: Self = Self(25);
    pub const TOPIC_AUTHORIZATION_FAILED: Self = Self(29);
    pub const GROUP_AUTHORIZATION_FAILED: Self = Self(30);
    pub const CLUSTER_AUTHORIZATION_FAILED: Self = Self(31);
    pub const INVALID_TIMESTAMP: Self = Self(32);
    pub const UNSUPPORTED_SASL_MECHANISM: Self = Self(33);
    pub const ILLEGAL_SASL_STATE: Self = Self(34);
    pub const UNSUPPORTED_VERSION: Self = Self(35);
    pub const TOPIC_ALREADY_EXISTS: Self = Self(36);
    pub const NOT_CONTROLLER: Self = Self(41);
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: Self = Self(45);
    pub const DUPLICATE_SEQUENCE_NUMBER: Self = Self(46);
    pub const INVALID_PRODUCER_EPOCH: Self = Self(47);
    pub const CONCURRENT_TRANSACTIONS: Self = Self(51);
    pub const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Self = Self(53);
    pub const OPERATION_NOT_ATTEMPTED: Self = Self(55);
    pub const KAFKA_STORAGE_ERROR: Self = Self(56);
    pub const UNKNOWN_PRODUCER_ID: Self = Self(59);
    pub const NON_EMPTY_GROUP: Self = Self(68);
    pub const GROUP_ID_NOT_FOUND: Self = Self(69);
    pub const FETCH_SESSION_ID_NOT_FOUND: Self = Self(70);
    pub const INVALID_FETCH_SESSION_EPOCH: Self = Self(71);
    pub const FENCED_LEADER_EPOCH: Self = Self(74);
    pub const UNKNOWN_LEADER_EPOCH: Self = Self(75);
    pub const OFFSET_NOT_AVAILABLE: Self = Self(78);
    pub const UNSTABLE_OFFSET_COMMIT: Self = Self(88);
    pub const GROUP_SUBSCRIBED_TO_TOPIC: Self = Self(86);
    pub const INVALID_RECORD: Self = Self(87);
    pub const THROTTLING_QUOTA_EXCEEDED: Self = Self(89);
    pub const PRODUCER_FENCED: Self = Self(90);
    pub const UNKNOWN_TOPIC_ID: Self = Self(100);
    pub const INCONSISTENT_TOPIC_ID: Self = Self(103);
    pub const FETCH_SESSION_TOPIC_ID_ERROR: Self = Self(106);

    /// `Err(self)` unless it is 0.
    pub fn check(self) -> Result<(), Self> {
        if self == Self::NONE { Ok(()) } else { Err(self) }
    }

    /// A newer epoch of the producer has been seen: another process goes on in its name.
    pub fn is_fenced(self) -> bool {
        matches!(self, Self::INVALID_PRODUCER_EPOCH | Self::PRODUCER_FENCED)
    }

    /// The broker does not know the fetch session, or not as we do: a request that says everything helps.
    pub fn is_of_session(self) -> bool {
        matches!(
            self,
            Self::FETCH_SESSION_ID_NOT_FOUND
                | Self::INVALID_FETCH_SESSION_EPOCH
                | Self::FETCH_SESSION_TOPIC_ID_ERROR
        )
    }

    /// What helps.
    pub fn retry_class(self) -> RetryClass {
        match self {
            Self::NOT_LEADER_OR_FOLLOWER
            | Self::LEADER_NOT_AVAILABLE
            | Self::FENCED_LEADER_EPOCH
            | Self::UNKNOWN_LEADER_EPOCH
            | Self::REPLICA_NOT_AVAILABLE
            | Self::UNKNOWN_TOPIC_OR_PARTITION
            | Self::UNKNOWN_TOPIC_ID
            | Self::INCONSISTENT_TOPIC_ID
            | Self::NOT_COORDINATOR
            | Self::NOT_CONTROLLER
            | Self::KAFKA_STORAGE_ERROR
            | Self::COORDINATOR_NOT_AVAILABLE => RetryClass::Route,
            Self::UNSTABLE_OFFSET_COMMIT
            | Self::THROTTLING_QUOTA_EXCEEDED
            | Self::CONCURRENT_TRANSACTIONS => RetryClass::Pause,
            other => match ResponseError::try_from_code(other.0) {
                Some(error) if error.is_retriable() => RetryClass::Pause,
                _ => RetryClass::Never,
            },
        }
    }

    /// Kafka's name of it, `UNKNOWN_SERVER_ERROR` style.
    pub fn name(self) -> String {
        if self == Self::NONE {
            return "NONE".into();
        }
        let camel =
            ResponseError::try_from_code(self.0).map_or("Unknown".into(), |error| format!("{error:?}"));
        let camel = camel.split(['(', ' ']).next().unwrap_or_default();
        let mut name = String::with_capacity(camel.len() + 8);
        for c in camel.chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl std::fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ErrorCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_classes() {
        assert_eq!(ErrorCode(6).to_string(), "NOT_LEADER_OR_FOLLOWER (6)");
        assert_eq!(ErrorCode(1).to_string(), "OFFSET_OUT_OF_RANGE (1)");
        assert_eq!(ErrorCode::NONE.to_string(), "NONE (0)");
        assert_eq!(ErrorCode(6).retry_class(), RetryClass::Route);
        assert_eq!(ErrorCode(7).retry_class(), RetryClass::Pause);
        assert_eq!(ErrorCode(87).retry_class(), RetryClass::Never);
        assert_eq!(ErrorCode(29).retry_class(), RetryClass::Never);
        assert_eq!(ErrorCode(31999).retry_class(), RetryClass::Never);
    }
}
