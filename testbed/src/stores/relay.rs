//! Scripted faults before a real server: a store that passes each request on.

use std::time::Duration;

use bytes::Bytes;

use super::http::{Answer, Handler, Head, Request};

/// An answer's body is read up to this, bytes.
const LARGEST: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(60);

/// Gives a request its name.
pub type Name = fn(&Head) -> &'static str;

/// Passes requests on to a server, as they are but for the host.
pub struct Relay {
    target: String,
    name: Name,
    agent: ureq::Agent,
}

impl Relay {
    /// To the server with this scheme, host and port.
    pub fn new(target: impl Into<String>, name: Name) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0);
        let config = config.timeout_global(Some(LIMIT)).allow_non_standard_methods(true);
        Self { target: target.into(), name, agent: config.build().into() }
    }

    fn pass(&self, request: &Request) -> Result<Answer, ureq::Error> {
        let head = &request.head;
        let question = if head.raw_query.is_empty() { "" } else { "?" };
        let url = format!("{}{}{question}{}", self.target, head.raw_path, head.raw_query);
        let mut passed = ureq::http::Request::builder().method(head.method.as_str()).uri(url);
        let own = ["host", "connection", "transfer-encoding"];
        for (name, value) in head.headers.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
            passed = passed.header(name, value);
        }
        let mut found =
            match request.body.is_empty() && matches!(head.method.as_str(), "GET" | "HEAD" | "DELETE") {
                true => self.agent.run(passed.body(())?)?,
                false => self.agent.run(passed.body(&request.body[..])?)?,
            };
        let mut answer = Answer::new(found.status().as_u16());
        for (name, value) in found.headers() {
            let value = value.to_str().unwrap_or_default();
            if !["connection", "keep-alive", "transfer-encoding"].contains(&name.as_str()) {
                answer = answer.header(name.as_str(), value);
            }
        }
        let body = found.body_mut().with_config().limit(LARGEST).read_to_vec()?;
        Ok(answer.body(Bytes::from(body)))
    }
}

impl Handler for Relay {
    fn operation(&self, head: &Head) -> &'static str {
        (self.name)(head)
    }

    fn answer(&self, request: &Request) -> Answer {
        self.pass(request).unwrap_or_else(|error| Answer::new(502).body(format!("not passed on: {error}")))
    }
}

/// What Azure calls its operations.
pub fn azure_operation(head: &Head) -> &'static str {
    match (head.method.as_str(), head.param("comp"), head.param("restype")) {
        ("PUT", None, None) => "Put Blob",
        ("PUT", Some("block"), _) => "Put Block",
        ("PUT", Some("blocklist"), _) => "Put Block List",
        ("GET", Some("list"), _) => "List Blobs",
        ("GET", ..) => "Get Blob",
        ("HEAD", ..) => "Get Blob Properties",
        ("DELETE", ..) => "Delete Blob",
        _ => "Other",
    }
}
