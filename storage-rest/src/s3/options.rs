//! What an S3 vault can be told, and what is found where nothing is said: in the environment and the shared files, as with AWS's own
//! tools (<https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html>).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Url;

use crate::aws::profile::Profiles;
use crate::aws::{AwsOptions, AwsProvider, region};
use crate::client::{Patience, Payload};
use crate::web::{PlainHttp, checked_url};
use crate::{Environment, SettingError};

/// Bytes of a part where nothing is said.
pub(super) const PART_LEN: usize = 16 << 20;
/// S3's bounds of a part, bytes; what is held in memory ends the upper one.
const PART_BOUNDS: std::ops::RangeInclusive<usize> = 5 << 20..=64 << 20;

/// A bucket, and how to deal with it. What is `None` is found when the store is made.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Its name.
    pub bucket: String,
    /// What the vault's objects begin with, without `/` at its ends; may be empty.
    pub prefix: String,
    /// `https://host[:port]` of a store that is not AWS.
    pub endpoint: Option<String>,
    /// Where the bucket is; AWS tells when this is wrong.
    pub region: Option<String>,
    /// The bucket in the path (`true`) or in the host's name; the path where nothing is said and the endpoint is not AWS, or the bucket
    /// has dots.
    pub path_style: Option<bool>,
    /// http to other machines: everybody on the way reads the data.
    pub allow_http: bool,
    /// Objects below data/ only; log/ and index/ are read at every run.
    pub storage_class: Option<String>,
    /// Encryption at rest.
    pub encryption: Option<Encryption>,
    /// Until when objects cannot be deleted.
    pub lock: Option<ObjectLock>,
    /// The requester pays.
    pub requester_pays: bool,
    /// Tags of every object.
    pub tags: Vec<(String, String)>,
    /// What the store is to check bytes with.
    pub checksum: Checksum,
    /// Bytes of a part.
    pub part_len: Option<usize>,
    /// All parts but the last have exactly the same length, as Cloudflare R2 demands.
    pub equal_parts: bool,
    /// Whose credentials.
    pub aws: AwsOptions,
    /// No credentials at all: a bucket that everybody may read.
    pub anonymous: bool,
    /// Names are looked at before they are given: the user says that there is one writer only.
    pub single_writer: bool,
    /// Time-outs.
    pub patience: Patience,
}

/// Encryption at rest, by the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// With the store's key.
    S3,
    /// With a key of KMS, or the account's own.
    Kms(Option<String>),
    /// Twice.
    KmsTwice(Option<String>),
}

/// Object Lock (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectLock {
    /// `true`: nobody can lift it.
    pub compliance: bool,
    /// From when each object is written.
    pub days: u32,
}

/// Which checksum goes with each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// CRC-64/NVME, of the whole object as well; the store keeps it and `verify --quick` compares it.
    #[default]
    Crc64Nvme,
    /// CRC-32C of each request, for stores that don't know the other.
    Crc32c,
    /// None: for stores that refuse both.
    None,
}

/// What S3 calls a checksum.
pub(super) struct Names {
    /// Of an object's or a part's bytes.
    pub header: &'static str,
    /// In the list of parts.
    pub element: &'static str,
    /// When an upload begins.
    pub algorithm: &'static str,
}

impl Checksum {
    /// `None`: it is not sent.
    pub(super) fn names(self) -> Option<Names> {
        let (header, element, algorithm) = match self {
            Self::Crc64Nvme => ("x-amz-checksum-crc64nvme", "ChecksumCRC64NVME", "CRC64NVME"),
            Self::Crc32c => ("x-amz-checksum-crc32c", "ChecksumCRC32C", "CRC32C"),
            Self::None => return None,
        };
        Some(Names { header, element, algorithm })
    }

    /// Of these bytes, as S3 writes it: Base64, the greatest byte first.
    pub(super) fn of(self, payload: &Payload) -> String {
        match self {
            Self::Crc64Nvme => BASE64.encode(payload.crc64().to_be_bytes()),
            Self::Crc32c => BASE64.encode(payload.crc32c().to_be_bytes()),
            Self::None => String::new(),
        }
    }
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// AWS: the host follows from the region.
    Aws { dual_stack: bool, fips: bool },
    /// Another store.
    Other(Url),
}

/// Options with nothing left open.
#[derive(Debug)]
pub(super) struct Settled {
    pub endpoint: Endpoint,
    pub region: String,
    pub path_style: bool,
}

impl Settled {
    /// The region, if it is one of AWS.
    pub fn aws_region(&self) -> Option<String> {
        endpoint_is_aws(&self.endpoint).then(|| self.region.clone())
    }
}

impl S3Options {
    /// For a bucket and prefix, everything else as usual.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            path_style: None,
            allow_http: false,
            storage_class: None,
            encryption: None,
            lock: None,
            requester_pays: false,
            tags: Vec::new(),
            checksum: Checksum::default(),
            part_len: None,
            equal_parts: false,
            aws: AwsOptions::default(),
            anonymous: false,
            single_writer: false,
            patience: Patience::default(),
        }
    }

    /// Reads the environment and the shared files for what is left open, and checks everything.
    pub(super) fn settle(&self, environment: &Environment) -> Result<Settled, SettingError> {
        self.check()?;
        let profile = Profile::read(self, environment)?;
        let region = self.region.as_deref().or_else(|| region::of_environment(environment));
        let region = region.map(str::to_owned).or_else(|| profile.get("region"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        // Other stores call their regions as they like.
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if region.is_empty() || region.len() > 64 || !region.chars().all(is_name) {
            return Err(SettingError::new("region", format!("{region:?} is no region")));
        }
        let endpoint = self.endpoint(environment, &profile)?;
        if endpoint_is_aws(&endpoint) && !region::is_region(&region) {
            return Err(SettingError::new("region", format!("{region:?} is not an AWS region")));
        }
        // A name with capitals, dots or underscores is no label of a host.
        let is_label = self.bucket.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let path_style = self.path_style.unwrap_or(!endpoint_is_aws(&endpoint) || !is_label);
        Ok(Settled { endpoint, region, path_style })
    }

    fn endpoint(&self, environment: &Environment, profile: &Profile) -> Result<Endpoint, SettingError> {
        let yes = |name: &str| environment.var(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let ignored = yes("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
        let found = self.endpoint.clone().map(|url| ("endpoint", url)).or_else(|| {
            let named = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
            let of_environment =
                named.into_iter().find_map(|name| Some((name, environment.var(name)?.to_owned())));
            let found = of_environment
                .or_else(|| Some(("endpoint_url of the profile", profile.get("endpoint_url")?)));
            found.filter(|_| !ignored)
        });
        let Some((name, url)) = found else {
            let (dual_stack, fips) = (yes("AWS_USE_DUALSTACK_ENDPOINT"), yes("AWS_USE_FIPS_ENDPOINT"));
            return Ok(Endpoint::Aws { dual_stack, fips });
        };
        let bad = |why: String| SettingError::new("endpoint", format!("{name}: {why}"));
        let plain = if self.allow_http { PlainHttp::Anywhere } else { PlainHttp::Loopback };
        let hint = if url.starts_with("http://") { " (or say allow-http=true)" } else { "" };
        let url = checked_url(&url, plain).map_err(|why| bad(format!("{why}{hint}")))?;
        if url.query().is_some() || url.fragment().is_some() || !matches!(url.path(), "" | "/") {
            return Err(bad(
                "give scheme, host and port only; the bucket stands in the vault's URL".to_owned()
            ));
        }
        Ok(Endpoint::Other(url))
    }

    fn check(&self) -> Result<(), SettingError> {
        let bad = |setting, what: &str| Err(SettingError::new(setting, what));
        let is_bucket = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if self.bucket.is_empty() || self.bucket.len() > 255 || !self.bucket.chars().all(is_bucket) {
            return bad("bucket", "is no bucket's name; write s3://bucket/prefix");
        }
        check_prefix(&self.prefix)?;
        if self.part_len.is_some_and(|len| !PART_BOUNDS.contains(&len)) {
            return bad("part-size", "is out of bounds: 5M to 64M");
        }
        if self.lock.is_some() && self.checksum == Checksum::None {
            return bad("checksum", "none goes not with object lock: S3 demands a checksum there");
        }
        if self.lock.as_ref().is_some_and(|lock| lock.days == 0) {
            return bad("object-lock-days", "must be at least 1");
        }
        if self.tags.len() > 10 {
            return bad("tags", "are too many: S3 keeps 10 per object");
        }
        let is_class = |text: &String| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if self.storage_class.as_ref().is_some_and(|class| !is_class(class)) {
            return bad("storage-class", "has odd characters");
        }
        if let Some(Encryption::Kms(Some(key)) | Encryption::KmsTwice(Some(key))) = &self.encryption
            && !key.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return bad("kms-key", "has odd characters");
        }
        let other = |provider: AwsProvider| provider != AwsProvider::Profile;
        if self.aws.profile.is_some() && (self.anonymous || self.aws.provider.is_some_and(other)) {
            return bad("profile", "is not looked at with these credentials: leave one of the two out");
        }
        if self.anonymous && self.aws.role_arn.is_some() {
            return bad("credentials", "anonymous goes not with a role");
        }
        self.patience.check()
    }
}

/// A prefix that URLs carry unchanged.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), SettingError> {
    let bad = |what: String| Err(SettingError::new("prefix", what));
    if prefix.len() > 700 {
        return bad("is too long: an object's name has 1,024 bytes at most".to_owned());
    }
    if prefix.chars().any(char::is_control) {
        return bad("has control characters".to_owned());
    }
    match prefix.split('/').find(|part| matches!(*part, "" | "." | "..")) {
        Some(part) if !prefix.is_empty() => bad(format!("{prefix:?} has a part {part:?}")),
        _ => Ok(()),
    }
}

fn endpoint_is_aws(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Aws { .. } => true,
        Endpoint::Other(url) => url
            .host_str()
            .is_some_and(|host| host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")),
    }
}

/// The settings of the profile in use.
struct Profile(Option<crate::aws::profile::Profile>);

impl Profile {
    fn read(options: &S3Options, environment: &Environment) -> Result<Self, SettingError> {
        let named = options.aws.profile.as_deref().or_else(|| environment.var("AWS_PROFILE"));
        let profiles = Profiles::read(environment).map_err(|why| SettingError::new("profile", why))?;
        match (profiles.get(named.unwrap_or("default")), named) {
            // Credentials may come from elsewhere, but a name that is nowhere is a slip.
            (None, Some(name)) => {
                let what = format!("{name} is not in {}", profiles.files());
                Err(SettingError::new("profile", what))
            }
            (profile, _) => {
                let mut profile = profile.cloned();
                // The service's own goes before the one for all.
                if let Some(profile) = &mut profile
                    && let Some(url) = profiles.s3_endpoint(profile)
                {
                    profile.insert("endpoint_url".to_owned(), url.to_owned());
                }
                Ok(Self(profile))
            }
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.as_ref()?.get(name).filter(|value| !value.is_empty()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())), None)
    }

    #[test]
    fn the_vendors_habits() {
        let options = S3Options::new("b", "p");
        let settled = options.settle(&environment(&[])).unwrap();
        assert_eq!(settled.region, "us-east-1");
        assert_eq!(settled.endpoint, Endpoint::Aws { dual_stack: false, fips: false });
        assert!(!settled.path_style);
        assert!(S3Options::new("b.c", "").settle(&environment(&[])).unwrap().path_style);
        let both = [
            ("AWS_ENDPOINT_URL", "http://localhost:1"),
            ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2/"),
            ("AWS_REGION", "garage"),
        ];
        let settled = options.settle(&environment(&both)).unwrap();
        assert_eq!(settled.endpoint, Endpoint::Other(Url::parse("http://127.0.0.1:2").unwrap()));
        assert!(settled.path_style && settled.region == "garage");
        let ignored = [both[0], ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        assert!(matches!(options.settle(&environment(&ignored)).unwrap().endpoint, Endpoint::Aws { .. }));
        let virtual_host = S3Options { path_style: Some(false), ..options.clone() };
        assert!(!virtual_host.settle(&environment(&both)).unwrap().path_style);
    }

    #[test]
    fn what_cannot_work_is_said_before() {
        let error = |change: &dyn Fn(&mut S3Options), pairs: &[(&str, &str)]| {
            let mut options = S3Options::new("b", "p");
            change(&mut options);
            options.settle(&environment(pairs)).unwrap_err().to_string()
        };
        let set = |url: &str| [("AWS_ENDPOINT_URL", url.to_owned())];
        let endpoint = |url: &str| {
            let pairs = set(url);
            error(&|_| (), &pairs.each_ref().map(|(n, v)| (*n, v.as_str())))
        };
        assert!(endpoint("http://minio:9000").contains("allow-http"));
        assert!(endpoint("https://minio:9000/bucket").contains("vault's URL"));
        assert!(endpoint("minio:9000").contains("AWS_ENDPOINT_URL"));
        assert!(error(&|o| o.bucket = "a/b".into(), &[]).contains("s3://bucket/prefix"));
        assert!(error(&|o| o.prefix = "a/../b".into(), &[]).contains(".."));
        assert!(error(&|o| o.prefix = "a//b".into(), &[]).contains("part"));
        assert!(error(&|o| o.part_len = Some(1 << 20), &[]).contains("5M"));
        assert!(error(&|o| o.region = Some("eu west".into()), &[]).contains("region"));
        assert!(error(&|o| o.aws.profile = Some("nobody".into()), &[]).contains("nobody"));
        let lock = Some(ObjectLock { compliance: true, days: 3 });
        let without = |o: &mut S3Options| (o.lock, o.checksum) = (lock.clone(), Checksum::None);
        assert!(error(&without, &[]).contains("lock"));
    }
}
