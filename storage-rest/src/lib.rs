//! Everything that Bodley asks for over HTTP: object stores that implement io's `Store` ([`s3`], [`azure`], [`gcs`], on one client with one
//! retry table), and the tokens with which a connection logs in to Kafka: from an OAuth server ([`OAuthTokens`]), from a file
//! ([`FileTokens`]), or signed with AWS credentials ([`MskTokens`]), which implement io's `TokenProvider`.
//!
//! What holds for all: no secret is in a message or a `Debug`; answers are bounded; redirects are not followed; plain http is for
//! this machine only, unless a store's options say otherwise; a value is fetched once for all who wait for it, renewed before its end, and
//! the old one serves for as long as it is valid when a renewal fails. Proxies of the environment are heeded for stores, not for
//! credentials.

mod aws;
pub mod azure;
mod client;
mod encode;
mod environment;
mod exchange;
pub mod gcs;
mod jwt;
mod oauth;
mod refresh;
pub mod s3;
mod token_file;
mod web;
mod xml;

pub use aws::{AwsCredentials, AwsOptions, AwsProvider, Credentials, MskForm, MskTokens};
pub use client::Patience;
pub use environment::Environment;
pub use oauth::{ClockSkew, OAuthOptions, OAuthTokens};
pub use token_file::FileTokens;

/// A setting that cannot work, found before anything was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {what}")]
pub struct SettingError {
    /// Which field of the options.
    pub setting: &'static str,
    /// What is wrong with it, and what would be right. Holds no secret.
    pub what: String,
}

impl SettingError {
    fn new(setting: &'static str, what: impl Into<String>) -> Self {
        Self { setting, what: what.into() }
    }
}
