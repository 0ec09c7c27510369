//! credential_process: a command that prints credentials
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>).

use std::process::Stdio;
use std::time::Duration;

use bodley_io::Secret;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::Credentials;
use crate::web::LARGEST_ANSWER;

/// How long a command may take.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// Runs the command in a shell, as AWS's SDKs do, and reads what it prints. The error continues a sentence that names the profile;
/// what the command itself says is not shown, it may hold secrets.
pub(crate) async fn run(command: &Secret, source: String) -> Result<Credentials, String> {
    let (shell, flag) = if cfg!(windows) { ("cmd.exe", "/C") } else { ("/bin/sh", "-c") };
    let mut child = Command::new(shell)
        .args([flag, command.expose()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let mut printed = Vec::new();
    let exchange = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LARGEST_ANSWER as u64).read_to_end(&mut printed).await?;
        }
        child.wait().await
    };
    let status = tokio::time::timeout(LONGEST_RUN, exchange)
        .await
        .map_err(|_| format!("did not end within {} s", LONGEST_RUN.as_secs()))?
        .map_err(|error| format!("broke off: {error}"))?;
    if !status.success() {
        return Err(format!("failed ({status}); run it by hand to see why"));
    }
    parse(&printed, source)
}

fn parse(printed: &[u8], source: String) -> Result<Credentials, String> {
    let json: Value =
        serde_json::from_slice(printed).map_err(|_| "printed something that is not JSON".to_owned())?;
    if json.get("Version").and_then(Value::as_u64) != Some(1) {
        return Err("printed something that is not Version 1 of the format".to_owned());
    }
    let needed = |name| text(&json, name).ok_or_else(|| format!("printed no {name}"));
    let expires =
        text(&json, "Expiration").map(|end| end.parse::<jiff::Timestamp>().map(Into::into)).transpose();
    Ok(Credentials {
        access_key_id: needed("AccessKeyId")?.to_owned(),
        secret_access_key: Secret::new(needed("SecretAccessKey")?),
        session_token: text(&json, "SessionToken").map(Secret::new),
        expires: expires.map_err(|_| "printed an Expiration that is not a time".to_owned())?,
        source,
    })
}

fn text<'a>(json: &'a Value, name: &str) -> Option<&'a str> {
    json.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}
