//! How a command ended, when it ended with an error.

use bodley_engine::error::Severity;
use bodley_engine::{EngineError, Issue};

/// An error on its way to the user.
#[derive(Debug)]
pub struct Ended {
    /// In full.
    pub issue: Issue,
}

impl Ended {
    /// Bad usage or configuration: exit 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { issue: Issue::new("usage", Severity::Refused, message) }
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        self.issue.severity.exit_code()
    }
}

impl From<EngineError> for Ended {
    fn from(error: EngineError) -> Self {
        Self { issue: Issue::from(&error) }
    }
}

impl<E: Into<EngineError>> From<E> for Box<Ended> {
    fn from(error: E) -> Self {
        Box::new(Ended::from(error.into()))
    }
}
