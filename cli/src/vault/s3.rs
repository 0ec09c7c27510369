//! Options of `s3://`.

use bodley_storage_rest::s3::{Checksum, Encryption, ObjectLock, S3Options};
use bodley_storage_rest::{AwsOptions, AwsProvider};

use super::Options;

/// Algorithms of encryption at rest, as the AWS CLI names them.
#[derive(Clone, Copy, PartialEq)]
enum Sse {
    Store,
    Kms,
    KmsTwice,
}

/// Where credentials come from; `None`: there are none.
const CREDENTIALS: [(&str, Option<AwsProvider>); 6] = [
    ("environment", Some(AwsProvider::Environment)),
    ("web-identity", Some(AwsProvider::WebIdentity)),
    ("profile", Some(AwsProvider::Profile)),
    ("container", Some(AwsProvider::Container)),
    ("instance", Some(AwsProvider::Instance)),
    ("anonymous", None),
];

const LOCK_MODES: [(&str, bool); 2] = [("COMPLIANCE", true), ("GOVERNANCE", false)];

/// Reads them.
pub fn settings(
    bucket: String,
    prefix: String,
    options: &mut Options,
    single_writer: bool,
) -> Result<S3Options, String> {
    let credentials = options.choice("credentials", &CREDENTIALS)?;
    let checksums =
        [("crc64nvme", Checksum::Crc64Nvme), ("crc32c", Checksum::Crc32c), ("none", Checksum::None)];
    Ok(S3Options {
        endpoint: options.text("endpoint"),
        region: options.text("region"),
        path_style: options.flag("path-style")?,
        allow_http: options.flag("allow-http")?.unwrap_or(false),
        storage_class: options.text("storage-class"),
        encryption: encryption(options)?,
        lock: options
            .lock(("object-lock-mode", LOCK_MODES), "object-lock-days")?
            .map(|(compliance, days)| ObjectLock { compliance, days }),
        requester_pays: options.choice("request-payer", &[("requester", true)])?.unwrap_or(false),
        tags: options.pairs("tags")?,
        checksum: options.choice("checksum", &checksums)?.unwrap_or_default(),
        part_len: options.bytes("part-size")?,
        equal_parts: options.flag("equal-parts")?.unwrap_or(false),
        aws: AwsOptions {
            provider: credentials.flatten(),
            profile: options.text("profile"),
            role_arn: options.text("role-arn"),
            role_session_name: options.text("role-session-name"),
            external_id: options.text("external-id"),
            sts_region: options.text("sts-region"),
            region: None,
        },
        anonymous: credentials == Some(None),
        single_writer,
        patience: options.patience()?,
        ..S3Options::new(bucket, prefix)
    })
}

fn encryption(options: &mut Options) -> Result<Option<Encryption>, String> {
    let words = [("AES256", Sse::Store), ("aws:kms", Sse::Kms), ("aws:kms:dsse", Sse::KmsTwice)];
    let (sse, key) = (options.choice("sse", &words)?, options.text("kms-key"));
    match (sse, key) {
        (None, None) => Ok(None),
        (Some(Sse::Store), None) => Ok(Some(Encryption::S3)),
        (Some(Sse::Store), Some(_)) => Err(options.wrong("kms-key goes with sse=aws:kms or aws:kms:dsse")),
        (None | Some(Sse::Kms), key) => Ok(Some(Encryption::Kms(key))),
        (Some(Sse::KmsTwice), key) => Ok(Some(Encryption::KmsTwice(key))),
    }
}
