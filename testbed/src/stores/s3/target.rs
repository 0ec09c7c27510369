//! What a request is about: the operation, the bucket, the key.

use crate::stores::http::Head;

/// A request's place and operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) bucket: String,
    /// Empty for the bucket itself.
    pub(super) key: String,
    pub(super) operation: &'static str,
}

/// What S3 knows of queries that choose another operation than method and path do, and that are not done here.
const SUBRESOURCES: [&str; 17] = [
    "acl",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "legal-hold",
    "lifecycle",
    "location",
    "object-lock",
    "policy",
    "replication",
    "restore",
    "retention",
    "select",
    "tagging",
    "versionId",
    "versioning",
];

impl Target {
    /// `domains`: hosts below which buckets have names of their own.
    pub(super) fn of(head: &Head, domains: &[String]) -> Self {
        let host = head.host.rsplit_once(':').map_or(head.host.as_str(), |(host, _)| host);
        let own_host =
            domains.iter().find_map(|domain| host.strip_suffix(domain.as_str())?.strip_suffix('.'));
        let path = head.path.strip_prefix('/').unwrap_or(&head.path);
        let (bucket, key) = match own_host {
            Some(bucket) => (bucket, path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        Self { bucket: bucket.to_owned(), key: key.to_owned(), operation: operation(head, key.is_empty()) }
    }

    /// What IAM calls the right to do it.
    pub(super) fn action(&self) -> &'static str {
        match self.operation {
            "GetObject" | "HeadObject" => "s3:GetObject",
            "DeleteObject" => "s3:DeleteObject",
            "ListObjectsV2" | "HeadBucket" => "s3:ListBucket",
            "ListMultipartUploads" => "s3:ListBucketMultipartUploads",
            "ListParts" => "s3:ListMultipartUploadParts",
            "AbortMultipartUpload" => "s3:AbortMultipartUpload",
            _ => "s3:PutObject",
        }
    }
}

fn operation(head: &Head, of_bucket: bool) -> &'static str {
    let asks = |name: &str| head.param(name).is_some();
    if SUBRESOURCES.iter().any(|name| asks(name)) || head.headers.contains_key("x-amz-copy-source") {
        return "Other";
    }
    match (head.method.as_str(), of_bucket) {
        ("HEAD", true) => "HeadBucket",
        ("GET", true) if asks("uploads") => "ListMultipartUploads",
        ("GET", true) if head.param("list-type") == Some("2") => "ListObjectsV2",
        ("PUT", false) if asks("uploadId") && asks("partNumber") => "UploadPart",
        ("PUT", false) if !asks("uploadId") && !asks("partNumber") => "PutObject",
        ("POST", false) if asks("uploads") => "CreateMultipartUpload",
        ("POST", false) if asks("uploadId") => "CompleteMultipartUpload",
        ("DELETE", false) if asks("uploadId") => "AbortMultipartUpload",
        ("DELETE", false) => "DeleteObject",
        ("GET", false) if asks("uploadId") => "ListParts",
        ("GET", false) => "GetObject",
        ("HEAD", false) => "HeadObject",
        _ => "Other",
    }
}
