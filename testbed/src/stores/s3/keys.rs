//! Who may do what.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::iam::{AwsCredentials, Iam};

/// What a key is allowed, in the names of IAM: `s3:PutObject` (which includes multipart uploads), `s3:GetObject`, `s3:ListBucket`,
/// `s3:DeleteObject`, `s3:AbortMultipartUpload`, `s3:ListBucketMultipartUploads`, `s3:ListMultipartUploadParts`, `s3:PutObjectTagging`,
/// `s3:PutObjectRetention`, `s3:PutObjectLegalHold`, `s3:GetObjectRetention`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Everything.
    All,
    /// These actions.
    Only(BTreeSet<&'static str>),
}

impl Allowed {
    /// These actions.
    pub fn only(actions: impl IntoIterator<Item = &'static str>) -> Self {
        Self::Only(actions.into_iter().collect())
    }

    /// Whether this action is among them.
    pub fn has(&self, action: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(actions) => actions.contains(action),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Keys {
    own: Vec<(AwsCredentials, Allowed)>,
    lenders: Vec<Iam>,
}

impl Keys {
    /// A key that was there already gets other rights, another secret, another token.
    pub(super) fn add(&mut self, credentials: AwsCredentials, allowed: Allowed) {
        self.own.retain(|(known, _)| known.access_key_id != credentials.access_key_id);
        self.own.push((credentials, allowed));
    }

    pub(super) fn trust(&mut self, iam: &Iam) {
        self.lenders.push(iam.clone());
    }

    /// Makes a key expire at this time.
    pub(super) fn expire(&mut self, id: &str, at: Timestamp) {
        for (credentials, _) in self.own.iter_mut().filter(|(known, _)| known.access_key_id == id) {
            credentials.expires = Some(at.into());
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<(AwsCredentials, Allowed)> {
        let own = self.own.iter().find(|(known, _)| known.access_key_id == id).cloned();
        own.or_else(|| self.lenders.iter().find_map(|iam| Some((iam.find(id)?, Allowed::All))))
    }
}
