//! `bodley status`

use bodley_engine::status::{Limits, Status, status};

use super::{Outcome, open_store};
use crate::args::{Common, OutputFormat, StatusArgs};
use crate::output::{self, plain, time};

pub async fn run(flags: StatusArgs, common: &Common) -> Outcome {
    let store = open_store(&flags.vault.vault, common)?;
    let limits =
        Limits { max_age: flags.max_age.map(|limit| limit.0), max_lag: flags.max_lag.map(|limit| limit.0) };
    let report = status(store, limits).await?;
    let code = report.exit_code();
    match common.output {
        OutputFormat::Json => output::print_json("status", code, &report),
        OutputFormat::Text => {
            output::print_issues(&report.errors);
            report.notes.iter().for_each(|note| output::print_note(note));
            if let Some(status) = &report.status {
                output::print(&text(status));
            }
            if let Some(receipt) = &report.receipt {
                output::print(&format!("receipt {receipt}"));
            }
        }
    }
    Ok(code)
}

fn text(status: &Status) -> String {
    let Status { seq, committed, age_ms, .. } = status;
    let ago = |ms: i64| bodley_engine::moment::span(ms);
    let complete = match (status.complete, status.lag_ms) {
        (Some(complete), Some(lag)) => format!("complete to {}, {} ago", time(Some(complete)), ago(lag)),
        _ => "up to when it is complete is not known".to_owned(),
    };
    format!(
        "last commit {seq} at {}, {} ago, by {}\n{complete}",
        time(Some(*committed)),
        ago(*age_ms),
        plain(&status.tool)
    )
}
