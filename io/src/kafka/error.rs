//! What can go wrong between us and a broker, and what helps.

use std::io;
use std::time::Duration;

use bodley_protocol::fetch::FetchError;
use bodley_protocol::frame::FrameError;
use bodley_protocol::versions::NoCommonVersion;
use bodley_protocol::{ErrorCode, RetryClass};

use super::security::tls_complaint;
use crate::token::TokenError;

/// An error of a broker, or on the way to it. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// No TCP connection.
    #[error("cannot connect to {broker}: {source}")]
    Connect {
        /// Address.
        broker: String,
        /// As the system says.
        source: io::Error,
    },
    /// None of the bootstrap servers answers.
    #[error("no bootstrap server answers: {0}")]
    NoBootstrap(String),
    /// No answer in time.
    #[error("{broker} did not {what} within {} s", after.as_secs())]
    Timeout {
        /// Address.
        broker: String,
        /// What was awaited.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The connection ended.
    #[error("{broker} closed the connection{}", source.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Closed {
        /// Address.
        broker: String,
        /// As the system says; `None`: an orderly end.
        source: Option<io::Error>,
    },
    /// Whatever listens there does not speak Kafka's protocol, at least not in the way that was tried.
    #[error("{broker} is no Kafka broker, or no {protocol} listener of one: {hint}")]
    Mismatch {
        /// Address.
        broker: String,
        /// As security.protocol names it.
        protocol: &'static str,
        /// What it looks like.
        hint: String,
    },
    /// No TLS connection that could be trusted, or the broker does not accept our certificate.
    #[error("TLS with {broker}: {what}")]
    Tls {
        /// Address.
        broker: String,
        /// What is wrong, and what to do.
        what: String,
        /// Not the fault of certificates or settings: another connection may work.
        passing: bool,
    },
    /// Who we say we are does not convince the broker, or it does not convince us.
    #[error("{broker} does not let us in by {mechanism}: {what}")]
    Auth {
        /// Address.
        broker: String,
        /// SASL mechanism.
        mechanism: &'static str,
        /// The broker's words or ours; never the secret.
        what: String,
        /// The broker only asks for patience.
        passing: bool,
    },
    /// No token to show to the broker.
    #[error("no token for {mechanism} at {broker}: {source}")]
    Token {
        /// Address.
        broker: String,
        /// SASL mechanism.
        mechanism: &'static str,
        /// From whoever gives tokens.
        source: TokenError,
    },
    /// Bytes that make no sense.
    #[error("{broker} sent a malformed answer: {what}")]
    Malformed {
        /// Address.
        broker: String,
        /// What is wrong.
        what: String,
    },
    /// An API in no common version.
    #[error("{broker}: {source}")]
    Version {
        /// Address.
        broker: String,
        /// Which.
        source: NoCommonVersion,
    },
    /// The broker said no.
    #[error("{api} for {subject}: {code}{}", message.as_ref().map(|m| format!(": {m}")).unwrap_or_default())]
    Refused {
        /// API name.
        api: &'static str,
        /// Topic, partition, group or broker.
        subject: String,
        /// Its code.
        code: ErrorCode,
        /// Its words.
        message: Option<String>,
    },
    /// No leader (or coordinator, or broker of that id) is known.
    #[error("{0}")]
    NoRoute(String),
    /// Where the cluster was there is another one now.
    #[error(
        "the brokers say that they are cluster {now} now, and were cluster {before} when the run began: nothing more is done with them"
    )]
    OtherCluster {
        /// Id of the one that the run began with.
        before: String,
        /// Id of what answers now.
        now: String,
    },
    /// The caller asked to end.
    #[error("ended by a signal")]
    Stopped,
    /// Tried again until the time was up.
    #[error("gave up after {} s without progress: {last}", after.as_secs())]
    GaveUp {
        /// How long.
        after: Duration,
        /// The last error.
        last: Box<KafkaError>,
    },
}

impl KafkaError {
    /// What helps.
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Closed { .. } | Self::NoRoute(_) => {
                RetryClass::Route
            }
            // A broker that starts, or has too many connections, ends the first exchange, too.
            Self::Malformed { .. } | Self::NoBootstrap(_) | Self::Mismatch { .. } => RetryClass::Route,
            Self::Auth { passing: true, .. } | Self::Tls { passing: true, .. } => RetryClass::Pause,
            Self::Token { source, .. } if source.passing => RetryClass::Pause,
            Self::Tls { .. } | Self::Auth { .. } | Self::Token { .. } => RetryClass::Never,
            Self::Refused { code, .. } => code.retry_class(),
            Self::Version { .. } | Self::GaveUp { .. } | Self::OtherCluster { .. } | Self::Stopped => {
                RetryClass::Never
            }
        }
    }

    /// The broker's code, when it is its answer.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::GaveUp { last, .. } => last.code(),
            _ => None,
        }
    }

    /// `Err` of [`KafkaError::Refused`] unless `code` is 0.
    pub fn check(api: &'static str, subject: impl FnOnce() -> String, code: i16) -> Result<(), Self> {
        let code = ErrorCode(code);
        code.check().map_err(|code| Self::Refused { api, subject: subject(), code, message: None })
    }

    /// The same for another thing that it kept from being done, as far as its retry class goes.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Tls { broker, what, passing } => {
                Self::Tls { broker: broker.clone(), what: what.clone(), passing: *passing }
            }
            Self::Auth { broker, mechanism, what, passing } => {
                let (broker, what) = (broker.clone(), what.clone());
                Self::Auth { broker, mechanism, what, passing: *passing }
            }
            Self::Token { broker, mechanism, source } => {
                let (broker, what) = (broker.clone(), format!("no token: {source}"));
                Self::Auth { broker, mechanism, what, passing: source.passing }
            }
            Self::Version { broker, source } => {
                Self::Version { broker: broker.clone(), source: source.clone() }
            }
            Self::Refused { api, subject, code, message } => {
                let (subject, message) = (subject.clone(), message.clone());
                Self::Refused { api, subject, code: *code, message }
            }
            Self::GaveUp { after, last } => Self::GaveUp { after: *after, last: Box::new(last.again()) },
            Self::OtherCluster { before, now } => {
                Self::OtherCluster { before: before.clone(), now: now.clone() }
            }
            Self::Stopped => Self::Stopped,
            other => Self::NoRoute(other.to_string()),
        }
    }

    /// An answer that says nothing of something that was asked for.
    pub(crate) fn left_out(api: &str, what: impl std::fmt::Display) -> Self {
        Self::NoRoute(format!("the answer to {api} says nothing of {what}"))
    }

    pub(crate) fn io(broker: &str, source: io::Error) -> Self {
        if let Some((what, passing)) = tls_complaint(&source) {
            return Self::Tls { broker: broker.to_owned(), what, passing };
        }
        let source = (source.kind() != io::ErrorKind::UnexpectedEof).then_some(source);
        Self::Closed { broker: broker.to_owned(), source }
    }

    /// An error of a TLS handshake.
    pub(crate) fn handshake(broker: &str, source: io::Error) -> Self {
        let broker = broker.to_owned();
        match tls_complaint(&source) {
            Some((what, passing)) => Self::Tls { broker, what, passing },
            None => {
                let hint = format!(
                    "it ends the connection in the TLS handshake ({source}), as plaintext listeners do: is security.protocol right?"
                );
                Self::Mismatch { broker, protocol: "TLS", hint }
            }
        }
    }

    pub(crate) fn frame(broker: &str, error: FrameError) -> Self {
        Self::Malformed { broker: broker.to_owned(), what: error.to_string() }
    }

    pub(crate) fn fetch(broker: &str, error: FetchError) -> Self {
        Self::Malformed { broker: broker.to_owned(), what: error.to_string() }
    }
}

/// Longest piece of a broker's own text that is repeated.
const LONGEST_QUOTE: usize = 200;

/// A broker's text, in quotes and escaped, and not more of it than a message bears.
pub(super) fn quoted(text: &str) -> String {
    let start: String = text.chars().take(LONGEST_QUOTE).collect();
    let cut = if start.len() < text.len() { format!("… ({} bytes)", text.len()) } else { String::new() };
    format!("{start:?}{cut}")
}

/// A broker's words as part of a message: a bounded line without control characters.
pub(super) fn words(text: &str) -> Option<String> {
    let plain = text.chars().take(LONGEST_QUOTE).map(|c| if c.is_control() { ' ' } else { c });
    Some(plain.collect::<String>()).filter(|text| !text.trim().is_empty())
}
