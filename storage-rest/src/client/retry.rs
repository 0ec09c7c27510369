//! Whether to try again, as one table for all stores. Sources: S3's error list
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>), Azure's
//! (<https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>), Google's
//! (<https://cloud.google.com/storage/docs/retry-strategy>).

/// What to do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The same again after a pause.
    Retry,
    /// The same after a pause, and fewer at a time.
    SlowDown,
    /// With a new credential, once.
    Renew,
    /// With the store's clock, once.
    Clock,
    /// No use.
    Final,
}

/// The table: HTTP status and the code in the answer's body, where there is one.
pub(crate) fn class(status: u16, code: &str) -> Class {
    match (status, code) {
        (
            _,
            "SlowDown"
            | "ServiceUnavailable"
            | "ServerBusy"
            | "TooManyRequests"
            | "RequestLimitExceeded"
            | "rateLimitExceeded",
        ) => Class::SlowDown,
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => Class::Renew,
        (_, "RequestTimeTooSkewed" | "DateSkewed") => Class::Clock,
        (
            _,
            "RequestTimeout"
            | "InternalError"
            | "OperationTimedOut"
            | "ConditionalRequestConflict"
            | "OperationAborted"
            | "XAmzContentChecksumMismatch"
            | "XAmzContentSHA256Mismatch"
            | "BadDigest"
            | "IncompleteBody"
            | "Crc64Mismatch"
            | "Md5Mismatch",
        ) => Class::Retry,
        // To HEAD there is no word of what was bad about it; an expired token is.
        (401, _) | (400, "") => Class::Renew,
        (429 | 503, _) => Class::SlowDown,
        (408 | 500 | 502 | 504, _) => Class::Retry,
        _ => Class::Final,
    }
}

/// How often a digest that does not match is sent again: a third mismatch is no accident of the line.
pub(crate) fn is_digest(code: &str) -> bool {
    matches!(
        code,
        "BadDigest"
            | "XAmzContentChecksumMismatch"
            | "XAmzContentSHA256Mismatch"
            | "Crc64Mismatch"
            | "Md5Mismatch"
    )
}

/// Whether the request may have had its effect all the same.
pub(crate) fn is_unclear(status: u16, code: &str) -> bool {
    // A success with an error inside may be half of one.
    matches!(status, 200..=299 | 408 | 500 | 502 | 503 | 504)
        || matches!(code, "InternalError" | "OperationTimedOut" | "ConditionalRequestConflict")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_before_statuses() {
        for (status, code, want) in [
            (503, "SlowDown", Class::SlowDown),
            (503, "", Class::SlowDown),
            (429, "", Class::SlowDown),
            (200, "InternalError", Class::Retry),
            (200, "SlowDown", Class::SlowDown),
            (400, "RequestTimeout", Class::Retry),
            (400, "ExpiredToken", Class::Renew),
            (401, "", Class::Renew),
            (400, "", Class::Renew),
            (503, "ServiceUnavailable", Class::SlowDown),
            (403, "RequestTimeTooSkewed", Class::Clock),
            (403, "AccessDenied", Class::Final),
            (409, "ConditionalRequestConflict", Class::Retry),
            (409, "BlobAlreadyExists", Class::Final),
            (412, "PreconditionFailed", Class::Final),
            (400, "EntityTooSmall", Class::Final),
            (501, "NotImplemented", Class::Final),
            (505, "", Class::Final),
            (500, "", Class::Retry),
        ] {
            assert_eq!(class(status, code), want, "{status} {code}");
        }
    }
}
