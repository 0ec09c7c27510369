//! Which version of each API a connection speaks: the highest that both sides know.
//!
//! A broker is asked with ApiVersions v3, and with v0 when it answers UNSUPPORTED_VERSION (35); never v4, which makes one
//! managed cloud reset the connection.

use std::collections::BTreeMap;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Message, Request, VersionRange};

use crate::ErrorCode;
use crate::wire::{Length, Reader, WireError};

/// Fetch versions that [`crate::fetch`] speaks.
pub const FETCH: VersionRange = VersionRange { min: 4, max: 18 };
/// Produce versions that [`crate::produce`] speaks.
pub const PRODUCE: VersionRange = VersionRange { min: 3, max: 13 };
/// First Metadata version that tells the ids of topics.
pub const METADATA_TOPIC_ID: i16 = 10;
/// First Fetch version that addresses topics by id.
pub const FETCH_TOPIC_ID: i16 = 13;
/// First Produce version that addresses topics by id.
pub const PRODUCE_TOPIC_ID: i16 = 13;

/// No version in common.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCommonVersion {
    /// The broker lacks it.
    #[error("the broker does not speak {api}")]
    Absent {
        /// API name.
        api: String,
    },
    /// It is too old or too new for us.
    #[error("the broker speaks {api} {theirs}, this program {ours}")]
    Apart {
        /// API name.
        api: String,
        /// The broker's range.
        theirs: String,
        /// Our range.
        ours: String,
    },
}

/// The broker's version ranges by API key.
#[derive(Debug, Clone, Default)]
pub struct BrokerVersions(BTreeMap<i16, VersionRange>);

impl BrokerVersions {
    /// Reads an answer to ApiVersions, from behind its correlation id on: the error code, and the ranges. By hand, as it comes before we know
    /// whom we talk to: lengths from there allocate nothing.
    pub fn parse(version: i16, body: &[u8]) -> Result<(ErrorCode, Self), WireError> {
        let flexible = version >= 3;
        let mut reader = Reader::new(body);
        let error = ErrorCode(reader.i16()?);
        let count = reader.length(Length::of(flexible))?.unwrap_or(0);
        let mut ranges = BTreeMap::new();
        for _ in 0..count {
            let key = reader.i16()?;
            ranges.insert(key, VersionRange { min: reader.i16()?, max: reader.i16()? });
            if flexible && reader.uvarint()? != 0 {
                return Err(WireError::Malformed("tagged field of an API"));
            }
        }
        Ok((error, Self(ranges)))
    }

    /// Whether the broker speaks an API at all.
    pub fn has(&self, api_key: i16) -> bool {
        self.0.contains_key(&api_key)
    }

    /// The version to use for requests of type `R` through the kafka-protocol crate, at most `cap`.
    pub fn of<R: Request + Message>(&self, cap: i16) -> Result<i16, NoCommonVersion> {
        let ours = VersionRange { min: R::VERSIONS.min, max: R::VERSIONS.max.min(cap) };
        self.common(R::KEY, ours)
    }

    /// The version to use for an API whose messages are written by hand in the range `ours`.
    pub fn common(&self, api_key: i16, ours: VersionRange) -> Result<i16, NoCommonVersion> {
        let api =
            || ApiKey::try_from(api_key).map_or_else(|()| api_key.to_string(), |key| format!("{key:?}"));
        let theirs = self.0.get(&api_key).ok_or_else(|| NoCommonVersion::Absent { api: api() })?;
        let common = ours.intersect(theirs);
        if common.is_empty() {
            let (theirs, ours) = (theirs.to_string(), ours.to_string());
            return Err(NoCommonVersion::Apart { api: api(), theirs, ours });
        }
        Ok(common.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::{ApiVersionsResponse, FetchRequest, MetadataRequest};
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn highest_common_version() {
        let api = |key: ApiKey, min, max| {
            ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max)
        };
        let apis = vec![api(ApiKey::Fetch, 0, 11), api(ApiKey::Metadata, 14, 20)];
        let response = ApiVersionsResponse::default().with_api_keys(apis).with_throttle_time_ms(7);
        let parse = |version| {
            let mut body = bytes::BytesMut::new();
            response.encode(&mut body, version).unwrap();
            let (error, versions) = BrokerVersions::parse(version, &body).unwrap();
            assert_eq!(error, ErrorCode::NONE);
            for cut in 0..body.len().min(12) {
                assert!(BrokerVersions::parse(version, &body[..cut]).is_err());
            }
            versions
        };
        let versions = parse(3);
        assert_eq!(parse(0).0, versions.0);
        // A count of two thousand millions allocates nothing.
        assert!(BrokerVersions::parse(3, &[0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
        assert_eq!(versions.common(FetchRequest::KEY, FETCH), Ok(11));
        assert_eq!(versions.of::<FetchRequest>(7), Ok(7));
        let error = versions.of::<MetadataRequest>(i16::MAX).unwrap_err();
        assert_eq!(error.to_string(), "the broker speaks Metadata 14..20, this program 0..13");
        let error = versions.common(0, PRODUCE).unwrap_err();
        assert_eq!(error.to_string(), "the broker does not speak Produce");
    }
}
