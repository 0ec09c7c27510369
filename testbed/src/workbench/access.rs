//! Who is let in and what they may do.

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Workbench;
use crate::security::User;

/// A right that an ACL gives, for all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Right<'a> {
    /// Whose it is: `User:alice`, or `User:*`.
    pub principal: &'a str,
    /// What kind of thing it is about: `TOPIC`, `GROUP`, `CLUSTER`, `TRANSACTIONAL_ID`, …
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The thing's name, or how names begin. The cluster's is `kafka-cluster`.
    pub name: &'a str,
    /// `LITERAL` or `PREFIXED`.
    pub pattern: &'a str,
    /// `READ`, `WRITE`, `DESCRIBE`, `ALL`, …
    pub operation: &'a str,
}

impl Workbench {
    /// Adds an ACL and waits until a broker knows it. The cluster has to be
    /// [`authorized`](crate::ClusterOptions::authorized).
    pub fn allow(&self, right: Right<'_>) -> Result<()> {
        self.order("allow", &right)
    }

    /// Takes an ACL away again; one that is not there is an error.
    pub fn revoke(&self, right: Right<'_>) -> Result<()> {
        self.order("revoke", &right)
    }

    /// The topics that a client with these settings gets to see. The error has the exception of the client that was not let in.
    pub fn look(&self, settings: &[(String, String)]) -> Result<Vec<String>> {
        let settings: Map<String, Value> =
            settings.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect();
        self.call("look", &json!({ "settings": settings }))
    }

    /// Gives users passwords for SCRAM-SHA-256 and SCRAM-SHA-512, and waits until a broker knows them.
    pub fn set_scram_users(&self, users: &[User]) -> Result<()> {
        let users: Vec<Value> =
            users.iter().map(|u| json!({ "name": u.name, "password": u.password })).collect();
        self.order("set_scram_users", &json!({ "users": users }))
    }
}
