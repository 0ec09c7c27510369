//! Which identity is meant. The first thing that is configured counts, in the order that AWS documents
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>); if it fails, that is the error, and no other
//! identity takes its place.

use std::path::PathBuf;

use bodley_io::Secret;

use super::profile::{Profile, Profiles};
use super::{AwsOptions, AwsProvider, Credentials, region};
use crate::Environment;
use crate::web::{PlainHttp, checked_url};

/// Profiles that refer to one another, at most.
const LONGEST_CHAIN: usize = 8;

const DEFAULT_SESSION: &str = "bodley";

/// How credentials are had.
#[derive(Debug)]
pub(crate) enum Source {
    /// They are written down.
    Keys(Credentials),
    /// A command of a profile prints them.
    Process { command: Secret, profile: String },
    /// STS gives them for a token in a file.
    WebIdentity { role: Role, token_file: PathBuf },
    /// ECS or EKS pod identity gives them.
    Container { url: String, token: ContainerToken },
    /// EC2 gives them.
    InstanceMetadata { endpoint: String },
    /// STS gives them for other ones.
    AssumeRole { role: Role, base: Box<Source> },
}

impl Source {
    /// Whether AWS's token service is needed for it.
    pub fn asks_sts(&self) -> bool {
        matches!(self, Self::WebIdentity { .. } | Self::AssumeRole { .. })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Role {
    pub arn: String,
    pub session: String,
    pub external_id: Option<String>,
    /// In seconds.
    pub duration: Option<u32>,
}

#[derive(Debug)]
pub(crate) enum ContainerToken {
    None,
    Text(Secret),
    File(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Keys(keys) => f.write_str(&keys.source),
            Self::Process { profile, .. } => write!(f, "credential_process of profile {profile}"),
            Self::WebIdentity { role, .. } => write!(f, "web identity {}", role.arn),
            Self::Container { .. } => f.write_str("container credentials"),
            Self::InstanceMetadata { .. } => f.write_str("instance metadata"),
            Self::AssumeRole { role, base } => write!(f, "role {} by {base}", role.arn),
        }
    }
}

/// Decides. Reads the shared files; blocks.
///
/// # Errors
/// What is configured and cannot work, or that nothing is.
pub(crate) fn choose(options: &AwsOptions, environment: &Environment) -> Result<Source, String> {
    let source = base(options, environment)?;
    let Some(arn) = &options.role_arn else {
        return Ok(source);
    };
    let session = options.role_session_name.clone().unwrap_or_else(|| DEFAULT_SESSION.to_owned());
    let role = Role { arn: arn.clone(), session, external_id: options.external_id.clone(), duration: None };
    Ok(Source::AssumeRole { role, base: Box::new(source) })
}

fn base(options: &AwsOptions, environment: &Environment) -> Result<Source, String> {
    if let Some(provider) = options.provider {
        return chosen(provider, options, environment);
    }
    if let Some(name) = &options.profile {
        return named_profile(name, environment);
    }
    if let Some(source) = keys(environment)? {
        return Ok(source);
    }
    if let Some(source) = web_identity(environment)? {
        return Ok(source);
    }
    if let Some(name) = environment.var("AWS_PROFILE") {
        return named_profile(name, environment);
    }
    let profiles = Profiles::read(environment)?;
    if let Some(source) = of_profile("default", &profiles, environment, LONGEST_CHAIN)? {
        return Ok(source);
    }
    if let Some(source) = container(environment)? {
        return Ok(source);
    }
    instance_metadata(environment)?.ok_or_else(|| {
        format!(
            "no AWS credentials: the environment has no AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_PROFILE or \
             AWS_CONTAINER_CREDENTIALS_*, no default profile is in {}, and AWS_EC2_METADATA_DISABLED is set",
            profiles.files()
        )
    })
}

/// What was chosen by name, or why it is not there.
fn chosen(provider: AwsProvider, options: &AwsOptions, environment: &Environment) -> Result<Source, String> {
    let (found, missing) = match provider {
        AwsProvider::Environment => (keys(environment)?, "AWS_ACCESS_KEY_ID is not set"),
        AwsProvider::WebIdentity => (web_identity(environment)?, "AWS_WEB_IDENTITY_TOKEN_FILE is not set"),
        AwsProvider::Container => (container(environment)?, "AWS_CONTAINER_CREDENTIALS_* is not set"),
        AwsProvider::Instance => (instance_metadata(environment)?, "AWS_EC2_METADATA_DISABLED is set"),
        AwsProvider::Profile => {
            let name = options.profile.as_deref().or_else(|| environment.var("AWS_PROFILE"));
            return named_profile(name.unwrap_or("default"), environment);
        }
    };
    found.ok_or_else(|| format!("these credentials were asked for, but {missing}"))
}

/// For messages when the last resort, instance metadata, fails.
pub(crate) const NOTHING_ELSE: &str =
    "(asked because neither the environment nor a profile has AWS credentials)";

fn keys(environment: &Environment) -> Result<Option<Source>, String> {
    let Some(key) = environment.var("AWS_ACCESS_KEY_ID") else {
        return Ok(None);
    };
    let secret = environment
        .var("AWS_SECRET_ACCESS_KEY")
        .ok_or("AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not")?;
    Ok(Some(Source::Keys(Credentials {
        access_key_id: key.to_owned(),
        secret_access_key: Secret::new(secret),
        session_token: environment.var("AWS_SESSION_TOKEN").map(Secret::new),
        expires: None,
        source: "the environment".to_owned(),
    })))
}

fn web_identity(environment: &Environment) -> Result<Option<Source>, String> {
    let Some(token_file) = environment.var("AWS_WEB_IDENTITY_TOKEN_FILE") else {
        return Ok(None);
    };
    let arn = environment
        .var("AWS_ROLE_ARN")
        .ok_or("AWS_WEB_IDENTITY_TOKEN_FILE is set, but AWS_ROLE_ARN is not")?;
    let session = environment.var("AWS_ROLE_SESSION_NAME").unwrap_or(DEFAULT_SESSION).to_owned();
    let role = Role { arn: arn.to_owned(), session, external_id: None, duration: None };
    Ok(Some(Source::WebIdentity { role, token_file: token_file.into() }))
}

fn container(environment: &Environment) -> Result<Option<Source>, String> {
    let relative = environment.var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let full = environment.var("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let (name, url) = match (relative, full) {
        (Some(path), _) if path.starts_with('/') => ("RELATIVE", format!("http://169.254.170.2{path}")),
        (Some(_), _) => return Err("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with /".to_owned()),
        (None, Some(url)) => ("FULL", url.to_owned()),
        (None, None) => return Ok(None),
    };
    let url = checked_url(&url, PlainHttp::LinkLocal)
        .map_err(|why| format!("AWS_CONTAINER_CREDENTIALS_{name}_URI: {why}"))?
        .to_string();
    let token = match environment.var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => ContainerToken::File(file.into()),
        None => environment
            .var("AWS_CONTAINER_AUTHORIZATION_TOKEN")
            .map_or(ContainerToken::None, |token| ContainerToken::Text(Secret::new(token))),
    };
    Ok(Some(Source::Container { url, token }))
}

fn instance_metadata(environment: &Environment) -> Result<Option<Source>, String> {
    if environment.var("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let ipv6 = environment
        .var("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
        .is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
    let usual = if ipv6 { "http://[fd00:ec2::254]" } else { "http://169.254.169.254" };
    let endpoint =
        environment.var("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(usual).trim_end_matches('/');
    checked_url(endpoint, PlainHttp::LinkLocal)
        .map_err(|why| format!("AWS_EC2_METADATA_SERVICE_ENDPOINT: {why}"))?;
    Ok(Some(Source::InstanceMetadata { endpoint: endpoint.to_owned() }))
}

fn named_profile(name: &str, environment: &Environment) -> Result<Source, String> {
    let profiles = Profiles::read(environment)?;
    match of_profile(name, &profiles, environment, LONGEST_CHAIN)? {
        Some(source) => Ok(source),
        None if profiles.get(name).is_some() => {
            Err(format!("profile {name} has no credentials in {}", profiles.files()))
        }
        None => Err(format!("profile {name} is not in {}", profiles.files())),
    }
}

/// What a profile says; `None` if it says nothing about credentials.
fn of_profile(
    name: &str,
    profiles: &Profiles,
    environment: &Environment,
    depth: usize,
) -> Result<Option<Source>, String> {
    let Some(profile) = profiles.get(name) else {
        return Ok(None);
    };
    if setting(profile, "role_arn").is_some() {
        return role(name, profile, profiles, environment, depth).map(Some);
    }
    if let Some(keys) = written_keys(name, profile)? {
        return Ok(Some(keys));
    }
    if let Some(command) = setting(profile, "credential_process") {
        return Ok(Some(Source::Process { command: Secret::new(command), profile: name.to_owned() }));
    }
    if profile.keys().any(|key| key.starts_with("sso_")) {
        return Err(format!(
            "profile {name} logs in by SSO, which is not supported; make a profile with credential_process = \
             aws configure export-credentials --profile {name}"
        ));
    }
    Ok(None)
}

fn written_keys(name: &str, profile: &Profile) -> Result<Option<Source>, String> {
    let Some(key) = setting(profile, "aws_access_key_id") else {
        return Ok(None);
    };
    let secret = setting(profile, "aws_secret_access_key")
        .ok_or_else(|| format!("profile {name} has an aws_access_key_id, but no aws_secret_access_key"))?;
    Ok(Some(Source::Keys(Credentials {
        access_key_id: key.to_owned(),
        secret_access_key: Secret::new(secret),
        session_token: setting(profile, "aws_session_token").map(Secret::new),
        expires: None,
        source: format!("profile {name}"),
    })))
}

/// A profile with role_arn, by whatever it names as the way to the role.
fn role(
    name: &str,
    profile: &Profile,
    profiles: &Profiles,
    environment: &Environment,
    depth: usize,
) -> Result<Source, String> {
    if setting(profile, "mfa_serial").is_some() {
        return Err(format!(
            "profile {name} wants a second factor (mfa_serial), which nobody is there to type"
        ));
    }
    let duration = setting(profile, "duration_seconds").map(str::parse).transpose();
    let role = Role {
        arn: setting(profile, "role_arn").unwrap_or_default().to_owned(),
        session: setting(profile, "role_session_name").unwrap_or(DEFAULT_SESSION).to_owned(),
        external_id: setting(profile, "external_id").map(str::to_owned),
        duration: duration
            .map_err(|_| format!("duration_seconds of profile {name} is not a number of seconds"))?,
    };
    if let Some(token_file) = setting(profile, "web_identity_token_file") {
        return Ok(Source::WebIdentity { role, token_file: token_file.into() });
    }
    let base = match (setting(profile, "source_profile"), setting(profile, "credential_source")) {
        // Its own keys, when it names itself.
        (Some(source), _) if source == name => written_keys(name, profile)?,
        (Some(_), _) if depth == 0 => {
            return Err(format!("the source_profiles before {name} go round in a circle"));
        }
        (Some(source), _) => of_profile(source, profiles, environment, depth - 1)
            .map_err(|why| format!("source_profile of {name}: {why}"))?,
        (None, Some("Environment")) => keys(environment)?,
        (None, Some("EcsContainer")) => container(environment)?,
        (None, Some("Ec2InstanceMetadata")) => instance_metadata(environment)?,
        (None, _) => {
            return Err(format!(
                "profile {name} has a role_arn, but no source_profile or known credential_source"
            ));
        }
    };
    let base =
        base.ok_or_else(|| format!("profile {name} has a role_arn, but its source has no credentials"))?;
    Ok(Source::AssumeRole { role, base: Box::new(base) })
}

fn setting<'a>(profile: &'a Profile, name: &str) -> Option<&'a str> {
    profile.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Which STS to ask.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sts {
    /// `None`: the global one.
    pub region: Option<String>,
    /// Another server in its place.
    pub endpoint: Option<reqwest::Url>,
}

impl Sts {
    /// From the options, else from the environment.
    pub fn find(options: &AwsOptions, environment: &Environment) -> Result<Self, String> {
        let from = options
            .sts_region
            .as_deref()
            .or_else(|| region::of_environment(environment))
            .or(options.region.as_deref());
        if let Some(text) = from.filter(|text| !region::is_region(text)) {
            return Err(format!("{text:?} is not an AWS region"));
        }
        let endpoint = environment
            .var("AWS_ENDPOINT_URL_STS")
            .map(|url| checked_url(url, PlainHttp::Loopback))
            .transpose();
        let endpoint = endpoint.map_err(|why| format!("AWS_ENDPOINT_URL_STS: {why}"))?;
        Ok(Self { region: from.map(str::to_owned), endpoint })
    }
}
