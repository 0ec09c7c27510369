//! The files with credentials that Google's tools write and read (<https://google.aip.dev/auth/4110>, `4117` for external accounts).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use bodley_io::Secret;
use reqwest::Url;
use serde_json::Value;

use crate::web::{PlainHttp, checked_url};

const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";

/// An identity in a file.
#[derive(Debug)]
pub(crate) enum Adc {
    /// A service account signs for itself.
    ServiceAccount { email: String, key_id: Option<String>, key: Secret, token_url: Url },
    /// `gcloud auth application-default login`.
    AuthorizedUser { client_id: String, client_secret: Secret, refresh_token: Secret, token_url: Url },
    /// Workload identity federation: another party's token is changed for one of Google's.
    ExternalAccount(External),
    /// Another identity may act as a service account.
    Impersonated { base: Box<Adc>, url: Url, delegates: Vec<String> },
}

/// What is told to Google's token exchange.
#[derive(Debug)]
pub(crate) struct External {
    pub audience: String,
    pub subject_type: String,
    pub token_url: Url,
    pub subject: Subject,
    /// Of workforce pools.
    pub user_project: Option<String>,
}

/// Where the other party's token is.
#[derive(Debug)]
pub(crate) enum Subject {
    File { path: PathBuf, field: Option<String> },
    Url { url: Url, headers: BTreeMap<String, Secret>, field: Option<String> },
}

impl fmt::Display for Adc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccount { email, .. } => write!(f, "service account {email}"),
            Self::AuthorizedUser { .. } => f.write_str("user credentials"),
            Self::ExternalAccount(_) => f.write_str("external account"),
            Self::Impersonated { base, url, .. } => {
                let name = url.path().rsplit('/').next().unwrap_or_default();
                write!(f, "{} by {base}", name.trim_end_matches(":generateAccessToken"))
            }
        }
    }
}

/// Reads a file's text. The error continues a sentence that names the file and holds nothing of it but names.
pub(crate) fn parse(text: &str) -> Result<Adc, String> {
    let json: Value = serde_json::from_str(text).map_err(|_| "is not JSON".to_owned())?;
    identity(&json, true)
}

fn identity(json: &Value, outer: bool) -> Result<Adc, String> {
    let kind = text(json, "type").ok_or("has no \"type\": it is no file with Google credentials")?;
    match kind {
        "service_account" => Ok(Adc::ServiceAccount {
            email: needed(json, "client_email")?.to_owned(),
            key_id: text(json, "private_key_id").map(str::to_owned),
            key: Secret::new(needed(json, "private_key")?),
            token_url: url(json, "token_uri", Some(TOKEN_URL))?,
        }),
        "authorized_user" => Ok(Adc::AuthorizedUser {
            client_id: needed(json, "client_id")?.to_owned(),
            client_secret: Secret::new(needed(json, "client_secret")?),
            refresh_token: Secret::new(needed(json, "refresh_token")?),
            token_url: url(json, "token_uri", Some(TOKEN_URL))?,
        }),
        "external_account" => {
            let base = Adc::ExternalAccount(external(json)?);
            match text(json, "service_account_impersonation_url") {
                Some(_) => Ok(Adc::Impersonated {
                    base: Box::new(base),
                    url: url(json, "service_account_impersonation_url", None)?,
                    delegates: Vec::new(),
                }),
                None => Ok(base),
            }
        }
        "impersonated_service_account" if outer => {
            let source = json.get("source_credentials").ok_or("has no \"source_credentials\"")?;
            let delegates = json.get("delegates").and_then(Value::as_array).into_iter().flatten();
            Ok(Adc::Impersonated {
                base: Box::new(identity(source, false).map_err(|why| format!("(source_credentials) {why}"))?),
                url: url(json, "service_account_impersonation_url", None)?,
                delegates: delegates.filter_map(Value::as_str).map(str::to_owned).collect(),
            })
        }
        other => Err(format!(
            "is of the type {}, which is not supported: service_account, authorized_user, external_account and \
             impersonated_service_account are",
            crate::encode::quote(other, &[])
        )),
    }
}

fn external(json: &Value) -> Result<External, String> {
    Ok(External {
        audience: needed(json, "audience")?.to_owned(),
        subject_type: needed(json, "subject_token_type")?.to_owned(),
        token_url: url(json, "token_url", Some("https://sts.googleapis.com/v1/token"))?,
        subject: subject(json.get("credential_source").unwrap_or(&Value::Null))?,
        user_project: text(json, "workforce_pool_user_project").map(str::to_owned),
    })
}

fn subject(source: &Value) -> Result<Subject, String> {
    let format = source.get("format").unwrap_or(&Value::Null);
    let field = match text(format, "type") {
        Some("json") => Some(needed(format, "subject_token_field_name")?.to_owned()),
        _ => None,
    };
    if let Some(path) = text(source, "file") {
        return Ok(Subject::File { path: path.into(), field });
    }
    if text(source, "environment_id").is_some() || source.get("executable").is_some() {
        return Err(
            "takes its token from AWS or from a program, which is not supported: let something write it to \
                    a file and name that in credential_source"
                .to_owned(),
        );
    }
    let address = text(source, "url").ok_or("has a credential_source without \"file\" and \"url\"")?;
    let url = checked_url(address, PlainHttp::LinkLocal)
        .map_err(|why| format!("has a credential_source.url: {why}"))?;
    let headers = source.get("headers").and_then(Value::as_object).into_iter().flatten();
    let headers = headers.filter_map(|(name, value)| Some((name.clone(), Secret::new(value.as_str()?))));
    Ok(Subject::Url { url, headers: headers.collect(), field })
}

fn url(json: &Value, name: &str, usual: Option<&str>) -> Result<Url, String> {
    let address = text(json, name).or(usual).ok_or_else(|| format!("has no {name:?}"))?;
    checked_url(address, PlainHttp::Loopback).map_err(|why| format!("has a {name}: {why}"))
}

fn needed<'a>(json: &'a Value, name: &str) -> Result<&'a str, String> {
    text(json, name).ok_or_else(|| format!("has no {name:?}"))
}

fn text<'a>(json: &'a Value, name: &str) -> Option<&'a str> {
    json.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}
