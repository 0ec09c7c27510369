//! `bodley doctor`

use std::path::Path;

use bodley_engine::Issue;
use bodley_engine::doctor::{Check, Findings, Verdict, examine};
use bodley_engine::error::Severity;
use bodley_storage_rest::OAuthTokens;
use serde::Serialize;

use super::cluster::{Way, way};
use super::{Outcome, open_store, usage};
use crate::args::{Common, Doctor, OutputFormat};
use crate::output;
use crate::vault::Place;

/// Clocks further apart make trouble with tokens.
const MAX_SKEW_S: u64 = 60;

#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    findings: Findings,
    errors: Vec<Issue>,
    notes: Vec<String>,
}

pub async fn run(flags: Doctor, common: &Common) -> Outcome {
    // A folder that the probe makes goes with it.
    let place = flags.vault.as_deref().map(Place::parse).transpose().map_err(usage)?;
    let made = place.as_ref().and_then(Place::folder).filter(|path| !Path::new(path).exists());
    let store = flags.vault.as_deref().map(|url| open_store(url, common)).transpose()?;
    let Way { bootstrap, ready, notes } = way(&flags.cluster, common)?;
    let mut findings = examine(&bootstrap, ready.options, store).await;
    if let Some(path) = made {
        let _ = std::fs::remove_dir(path);
    }
    findings.checks.extend(ready.provider.and_then(|provider| clock(&provider)));
    let code = if findings.worst() == Verdict::Wrong { Severity::Failed.exit_code() } else { 0 };
    match common.output {
        OutputFormat::Json => {
            let errors = findings.checks.iter().filter_map(issue).collect();
            output::print_json("doctor", code, &Document { findings, errors, notes });
        }
        OutputFormat::Text => print(&findings),
    }
    Ok(code)
}

/// What the identity provider's answers say of our clock.
fn clock(provider: &OAuthTokens) -> Option<Check> {
    let ahead = provider.clock_skew()?.seconds_ahead;
    let what = format!(
        "{} s {} the identity provider's clock",
        ahead.unsigned_abs(),
        if ahead > 0 { "ahead of" } else { "behind" }
    );
    Some(match ahead.unsigned_abs() > MAX_SKEW_S {
        true => Check::wrong("clock", "this machine", what).hint("set the clocks by NTP: tokens go by them"),
        false => Check::ok("clock", "this machine", what),
    })
}

fn issue(check: &Check) -> Option<Issue> {
    if check.verdict != Verdict::Wrong {
        return None;
    }
    let message = format!("{} {}: {}", check.area, check.subject, check.what);
    let issue = Issue::new(check.area, Severity::Failed, message);
    Some(match &check.hint {
        Some(hint) => issue.hint(hint.clone()),
        None => issue,
    })
}

fn print(findings: &Findings) {
    let width = findings.checks.iter().map(|check| check.subject.chars().count()).max().unwrap_or(0).min(48);
    for check in &findings.checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Wrong => "WRONG",
        };
        let (subject, what) = (output::plain(&check.subject), output::plain(&check.what));
        output::print(&format!("{verdict:<6} {:<9} {subject:<width$}  {what}", check.area));
        if let Some(hint) = check.hint.as_ref().filter(|_| check.verdict != Verdict::Ok) {
            output::print(&format!("       {:<9} → {}", "", output::plain(hint)));
        }
    }
    let wrong = findings.checks.iter().filter(|check| check.verdict == Verdict::Wrong).count();
    output::print(&match wrong {
        0 => "\nnothing is wrong".to_owned(),
        1 => "\n1 thing is wrong".to_owned(),
        more => format!("\n{more} things are wrong"),
    });
}
