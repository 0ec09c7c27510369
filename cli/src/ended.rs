//! How a command ended, when it ended with an error.

use bodley_engine::error::Severity;
use bodley_engine::{EngineError, Issue};

/// An error on its way to the user.
#[derive(Debug)]
pub struct Ended {
    /// In full.
    pub issue: Issue,
    /// The exit code of a signal that ended it.
    pub signal: Option<u8>,
}

impl Ended {
    /// Bad usage or configuration: exit 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::from(Issue::new("usage", Severity::Refused, message))
    }

    /// By a signal with this exit code, before there was anything to end in order.
    pub fn by_signal(code: u8) -> Self {
        let issue = Issue::new("interrupted", Severity::Failed, "ended by a signal before it began");
        Self { signal: Some(code), ..Self::from(issue) }
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        self.signal.unwrap_or_else(|| self.issue.severity.exit_code())
    }
}

impl From<Issue> for Ended {
    fn from(issue: Issue) -> Self {
        Self { issue, signal: None }
    }
}

impl From<EngineError> for Ended {
    fn from(error: EngineError) -> Self {
        Self::from(Issue::from(&error))
    }
}

impl<E: Into<EngineError>> From<E> for Box<Ended> {
    fn from(error: E) -> Self {
        Box::new(Ended::from(error.into()))
    }
}
