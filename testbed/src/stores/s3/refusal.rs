//! Errors in S3's own form. <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>

use crate::stores::http::Answer;

use super::xml;

/// A request that is not done.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: u16,
    code: &'static str,
    message: String,
    elements: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), elements: Vec::new(), headers: Vec::new() }
    }

    /// 400 InvalidRequest.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidRequest", message)
    }

    /// 400 InvalidArgument.
    pub(super) fn argument(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidArgument", message)
    }

    /// 403 AccessDenied.
    pub(super) fn denied(message: impl Into<String>) -> Self {
        Self::new(403, "AccessDenied", message)
    }

    /// 501 NotImplemented.
    pub(super) fn not_implemented(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("{what} is not implemented"))
    }

    /// With one more element in the body.
    pub(super) fn element(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.elements.push((name, value.into()));
        self
    }

    /// With one more header.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn answer(&self) -> Answer {
        let mut body = xml::Writer::document();
        body.open("Error").text("Code", self.code).text("Message", &self.message);
        for (name, value) in &self.elements {
            body.text(name, value);
        }
        body.text("RequestId", "TESTBED").text("HostId", "testbed").close("Error");
        let answer = Answer::new(self.status).header("content-type", "application/xml").body(body.finish());
        self.headers.iter().fold(answer, |answer, (name, value)| answer.header(name, value.clone()))
    }
}

/// An error as S3 answers it, for scripts: `error(503, "SlowDown")`, `error(409, "ConditionalRequestConflict")`,
/// `error(400, "RequestTimeout")`, …
pub fn error(status: u16, code: &'static str) -> Answer {
    Refusal::new(status, code, "a test wants it so").answer()
}

/// An error behind a status of 200, as CompleteMultipartUpload may answer it: `error_in_200("InternalError")`.
pub fn error_in_200(code: &'static str) -> Answer {
    Answer { status: 200, ..error(200, code) }
}
