//! `bodley show`

use bodley_engine::inventory;

use super::{Outcome, offset_map, open_store, usage};
use crate::args::{Common, OutputFormat, Show};
use crate::output::{self, bytes, time};

pub async fn run(flags: Show, common: &Common) -> Outcome {
    let format = common.output;
    if let Some(report) = flags.report.as_deref().filter(|_| flags.offset_map) {
        let question = offset_map::Question::new(report, flags.of.as_deref(), flags.offset)?;
        return offset_map::run(&question, format);
    }
    let vault = flags.vault.as_deref();
    let vault = vault.ok_or_else(|| usage("no vault is named: say --vault URL".to_owned()))?;
    let store = open_store(vault, common)?;
    if let Some(topic) = &flags.topic {
        let shown = inventory::show_topic(store, topic, flags.at).await?;
        print(format, &shown, shown.rebuilt_from.as_deref(), topic_rows);
    } else if flags.commits {
        let shown = inventory::show_commits(store).await?;
        print(format, &shown, shown.rebuilt_from.as_deref(), commit_rows);
    } else {
        let shown = inventory::show_groups(store, flags.at).await?;
        print(format, &shown, shown.rebuilt_from.as_deref(), group_rows);
    }
    Ok(0)
}

fn print<T: serde::Serialize>(
    format: OutputFormat,
    shown: &T,
    rebuilt_from: Option<&str>,
    rows: impl Fn(&T) -> String,
) {
    match format {
        OutputFormat::Json => output::print_json("show", 0, shown),
        OutputFormat::Text => {
            output::print_rebuilt(rebuilt_from);
            output::print(&rows(shown));
        }
    }
}

fn topic_rows(shown: &inventory::TopicDetail) -> String {
    let mut lines = Vec::new();
    for life in &shown.incarnations {
        let state = if life.topic.present { "present at the source" } else { "gone from the source" };
        lines.push(format!(
            "{}, id {}, incarnation {}, {state}",
            life.topic.topic, life.topic.topic_id, life.topic.incarnation
        ));
        lines.extend(
            life.configs
                .iter()
                .map(|(name, value)| format!("  {name}={}", value.as_deref().unwrap_or("(hidden)"))),
        );
        let header = ["partition", "first", "next", "records", "bytes", "oldest", "newest", "gaps"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for p in &life.partitions {
            rows.push(vec![
                p.partition.to_string(),
                p.first.to_string(),
                p.next.to_string(),
                p.records.map_or("?".into(), |records| records.to_string()),
                bytes(p.bytes),
                time(p.min_timestamp),
                time(p.max_timestamp),
                p.gaps.to_string(),
            ]);
        }
        lines.push(output::table(&rows));
        for gap in &life.gaps {
            lines.push(format!(
                "gap: partition {} offsets {}..{} ({})",
                gap.partition, gap.first, gap.next, gap.reason
            ));
        }
        lines.push(String::new());
    }
    lines.join("\n").trim_end().to_owned()
}

fn commit_rows(shown: &inventory::Commits) -> String {
    let header = ["commit", "time", "operation", "segments", "bytes", "rows", "digest"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for commit in &shown.commits {
        rows.push(vec![
            commit.seq.to_string(),
            time(Some(commit.time)),
            commit.operation.to_owned(),
            commit.segments.to_string(),
            bytes(commit.bytes),
            commit.rows.to_string(),
            commit.digest.clone(),
        ]);
    }
    output::table(&rows)
}

fn group_rows(shown: &inventory::Groups) -> String {
    let header = ["group", "topic", "partition", "offset", "metadata", "taken"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for offset in &shown.groups {
        rows.push(vec![
            offset.group.clone(),
            offset.topic.clone(),
            offset.partition.to_string(),
            offset.offset.to_string(),
            offset.metadata.clone().unwrap_or_default(),
            time(Some(offset.taken)),
        ]);
    }
    output::table(&rows)
}
