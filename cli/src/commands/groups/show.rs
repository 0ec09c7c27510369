//! `bodley groups show`

use bodley_engine::Issue;
use bodley_engine::groups::{self, History, Snapshot, csv};
use serde::Serialize;

use super::{check_csv, difference, offset, wanted};
use crate::args::{Common, GroupsShow, OutputFormat};
use crate::commands::{Outcome, open_store, usage};
use crate::output::{self, time};

#[derive(Serialize)]
struct Document<'a, T> {
    #[serde(flatten)]
    shown: &'a T,
    errors: Vec<Issue>,
}

pub async fn run(flags: GroupsShow, common: &Common) -> Outcome {
    let format = common.output;
    check_csv(flags.csv, format)?;
    if flags.csv && flags.history {
        return Err(usage("--csv prints one position of each group: leave --history out".into()));
    }
    let store = open_store(&flags.vault.vault, common)?;
    let wanted = wanted(flags.wanted);
    if flags.history {
        let history = groups::history(store, flags.at, &wanted).await?;
        print(format, &history, history.rebuilt_from.as_deref(), history_rows);
        return Ok(0);
    }
    let snapshot = groups::snapshot(store, flags.at, &wanted).await?;
    if flags.csv {
        let rows = snapshot.groups.iter();
        let rows = rows.map(|row| (row.group.as_str(), row.topic.as_str(), row.partition, row.offset));
        output::print(csv(rows).trim_end_matches('\n'));
    } else {
        print(format, &snapshot, snapshot.rebuilt_from.as_deref(), snapshot_rows);
    }
    Ok(0)
}

fn print<T: Serialize>(format: OutputFormat, shown: &T, rebuilt: Option<&str>, rows: impl Fn(&T) -> String) {
    match format {
        OutputFormat::Json => {
            output::print_json("groups show", 0, &Document { shown, errors: Vec::new() });
        }
        OutputFormat::Text => {
            output::print_rebuilt(rebuilt);
            output::print(&rows(shown));
        }
    }
}

fn snapshot_rows(snapshot: &Snapshot) -> String {
    let header = ["group", "topic", "partition", "offset", "metadata", "taken"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for row in &snapshot.groups {
        rows.push(vec![
            row.group.clone(),
            row.topic.clone(),
            row.partition.to_string(),
            row.offset.to_string(),
            row.metadata.clone().unwrap_or_default(),
            time(Some(row.taken)),
        ]);
    }
    let commit = format!("commit {} of {}", snapshot.seq, time(Some(snapshot.committed)));
    format!("{}\n{commit}", output::table(&rows))
}

fn history_rows(history: &History) -> String {
    let header = ["group", "topic", "partition", "commit", "taken", "old", "new", "difference"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for change in &history.changes {
        let further = change.old.zip(change.new).map(|(old, new)| new.saturating_sub(old));
        rows.push(vec![
            change.group.clone(),
            change.topic.clone(),
            change.partition.to_string(),
            change.seq.to_string(),
            time(Some(change.taken)),
            offset(change.old),
            offset(change.new),
            difference(further),
        ]);
    }
    output::table(&rows)
}
