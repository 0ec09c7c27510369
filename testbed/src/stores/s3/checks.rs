//! Sums and hashes that come with bodies.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use md5::Digest as _;

use super::refusal::Refusal;
use crate::stores::http::Head;

const PREFIX: &str = "x-amz-checksum-";
/// Headers with that prefix that carry no sum.
const NO_SUMS: [&str; 3] = ["x-amz-checksum-mode", "x-amz-checksum-algorithm", "x-amz-checksum-type"];

/// A kind of sum that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// CRC-64/NVME.
    Crc64Nvme,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-32 as zip has it.
    Crc32,
}

impl Sum {
    const ALL: [Self; 3] = [Self::Crc64Nvme, Self::Crc32c, Self::Crc32];

    /// As `x-amz-checksum-algorithm` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "CRC64NVME",
            Self::Crc32c => "CRC32C",
            Self::Crc32 => "CRC32",
        }
    }

    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc32 => "x-amz-checksum-crc32",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sum| sum.name() == name)
    }

    pub(super) fn algorithm(self) -> CrcAlgorithm {
        match self {
            Self::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
            Self::Crc32c => CrcAlgorithm::Crc32Iscsi,
            Self::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
        }
    }

    /// As headers and XML carry it: big-endian bytes in base64.
    pub(super) fn text(self, value: u64) -> String {
        match self {
            Self::Crc64Nvme => STANDARD.encode(value.to_be_bytes()),
            Self::Crc32c | Self::Crc32 => STANDARD.encode((value as u32).to_be_bytes()),
        }
    }
}

/// What the head of an upload says of its body, true as far as it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// The sum that the client sent, and its text.
    pub(super) sum: Option<(Sum, String)>,
    /// There was a `Content-MD5`.
    pub(super) md5: bool,
}

impl Checked {
    /// A sum or an MD5 was sent.
    pub(super) fn any(&self) -> bool {
        self.sum.is_some() || self.md5
    }
}

/// Compares the body with all that the head says of it.
pub(super) fn check(head: &Head, body: &Bytes) -> Result<Checked, Refusal> {
    let told = told(head)?;
    if let Some((sum, text)) = &told
        && *text != sum.text(checksum(sum.algorithm(), body))
    {
        let message = format!("The {} you specified did not match the calculated checksum.", sum.name());
        return Err(Refusal::new(400, "BadDigest", message));
    }
    let md5 = head.header("content-md5");
    if md5.is_some_and(|told| told != STANDARD.encode(md5::Md5::digest(body))) {
        return Err(Refusal::new(
            400,
            "BadDigest",
            "The Content-MD5 you specified did not match what we received.",
        ));
    }
    Ok(Checked { sum: told, md5: md5.is_some() })
}

/// The sum that a head carries, which is not compared with anything here.
pub(super) fn told(head: &Head) -> Result<Option<(Sum, String)>, Refusal> {
    let mut found = None;
    for (name, value) in &head.headers {
        let name = name.as_str();
        if !name.starts_with(PREFIX) || NO_SUMS.contains(&name) {
            continue;
        }
        let sum = Sum::ALL.into_iter().find(|sum| sum.header() == name);
        // S3 knows more of them; here nobody may think that they are checked.
        let sum = sum.ok_or_else(|| Refusal::not_implemented(name))?;
        if found.is_some() {
            return Err(Refusal::invalid(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
        found = Some((sum, value.to_str().unwrap_or_default().to_owned()));
    }
    let algorithm = head.header("x-amz-sdk-checksum-algorithm");
    if found.is_none() && algorithm.is_some() && !head.headers.contains_key("content-md5") {
        return Err(Refusal::invalid(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.",
        ));
    }
    Ok(found)
}

pub(super) fn crc64(body: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, body)
}

pub(super) fn sha256_hex(body: &[u8]) -> String {
    sha2::Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}
