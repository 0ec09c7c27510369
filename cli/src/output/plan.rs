//! A restore's plan, for people.

use std::collections::BTreeMap;

use bodley_engine::Moment;
use bodley_engine::restore::{PlanReport, PlannedTopic};

use super::{bytes, plain, plural, table, time};

/// Topics and groups shown.
const MANY: usize = 40;

/// A table of topics, and what they sum up to.
pub fn text(plan: &PlanReport) -> String {
    let mut lines = vec![format!(
        "plan: commit {} of {} into cluster {}",
        plan.seq,
        time(Some(plan.committed)),
        plain(&plan.target_cluster)
    )];
    let header = ["topic", "target", "life", "to do", "partitions", "replicas", "records", "bytes"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(plan.topics.iter().take(MANY).map(row));
    lines.push(table(&rows));
    if plan.topics.len() > MANY {
        lines.push(format!("… and {} topics more (all are in --output json)", plan.topics.len() - MANY));
    }
    lines.extend(windows(plan));
    lines.push(format!(
        "{}: {}, {} in {} ({}), about {} at {}/s",
        plural(plan.topics.len(), "topic"),
        records(plan.records, plan.records_are_exact, plan.records_in_cut_chunks),
        bytes(plan.bytes),
        plural(plan.objects as usize, "object"),
        plural(plan.reads as usize, "read"),
        seconds(plan.estimated_seconds),
        bytes(plan.bytes_per_second),
    ));
    lines.push(groups(plan));
    lines.join("\n")
}

/// A line for each window, and how many partitions have it.
fn windows(plan: &PlanReport) -> Vec<String> {
    let mut partitions: BTreeMap<String, usize> = BTreeMap::new();
    for window in plan.topics.iter().flat_map(|topic| &topic.windows) {
        let bounds = |name: &str, from: Option<String>, to: Option<String>| {
            let from = from.map(|from| format!(" from {from}"));
            let to = to.map(|to| format!(" to {to} (exclusive)"));
            let both: String = from.into_iter().chain(to).collect();
            (!both.is_empty()).then(|| format!("{name}{both}"))
        };
        let moment = |ms: i64| Moment::At(ms).to_string();
        let times = bounds("times", window.from.map(moment), window.to.map(moment));
        let number = |offset: i64| offset.to_string();
        let offsets = bounds("offsets", window.from_offset.map(number), window.to_offset.map(number));
        let both: Vec<String> = times.into_iter().chain(offsets).collect();
        *partitions.entry(both.join(", ")).or_default() += 1;
    }
    let line = |(window, count): (&String, &usize)| format!("only {window}: {}", plural(*count, "partition"));
    partitions.iter().take(MANY).map(line).collect()
}

fn row(topic: &PlannedTopic) -> Vec<String> {
    vec![
        topic.topic.clone(),
        topic.target.clone(),
        format!("{}{}", topic.incarnation, if topic.present { "" } else { ", gone" }),
        topic.action.to_owned(),
        format!("{} of {}", topic.partitions_with_data, topic.partitions),
        topic.replication_factor.map_or("-".to_owned(), |replicas| replicas.to_string()),
        format!("{}{}", topic.records, if topic.records_are_exact { "" } else { "+" }),
        bytes(topic.bytes),
    ]
}

fn records(known: u64, exact: bool, in_cut: u64) -> String {
    match exact {
        true => plural(known as usize, "record"),
        false => format!("{known} to {} records", known + in_cut),
    }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        short if short < 1.0 => "1 s".to_owned(),
        some if some < 120.0 => format!("{some:.0} s"),
        long if long < 7200.0 => format!("{:.0} min", long / 60.0),
        long => format!("{:.1} h", long / 3600.0),
    }
}

fn groups(plan: &PlanReport) -> String {
    let how = plan.group_strategy;
    if how == "none" {
        return "groups: left alone".to_owned();
    }
    let shown: Vec<String> = plan
        .groups
        .iter()
        .take(MANY)
        .map(|group| {
            let live = if group.live { ", LIVE" } else { "" };
            format!("{} ({}{live})", plain(&group.group), plural(group.partitions as usize, "partition"))
        })
        .collect();
    let more = plan.groups.len().saturating_sub(MANY);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match shown.is_empty() {
        true => "groups: none".to_owned(),
        false => format!("groups, by {how}: {}{more}", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodley_engine::restore::PlannedWindow;

    #[test]
    fn a_plan() {
        let topic = PlannedTopic {
            topic: "orders".into(),
            target: "dr-orders".into(),
            action: "create",
            present: true,
            partitions: 3,
            partitions_with_data: 2,
            windows: vec![PlannedWindow {
                from: Some(1_767_323_045_123),
                to_offset: Some(9),
                ..PlannedWindow::default()
            }],
            replication_factor: Some(1),
            records: 7,
            bytes: 2048,
            ..PlannedTopic::default()
        };
        let plan = PlanReport {
            seq: 12,
            committed: 1_767_323_045_123,
            target_cluster: "c".into(),
            topics: vec![topic],
            records: 7,
            records_in_cut_chunks: 5,
            bytes: 2048,
            objects: 1,
            reads: 2,
            estimated_seconds: 300.0,
            bytes_per_second: 1 << 20,
            group_strategy: "map",
            ..PlanReport::default()
        };
        let expected = "\
plan: commit 12 of 2026-01-02T03:04:05Z into cluster c
topic      target  life   to do  partitions  replicas  records     bytes
orders  dr-orders     0  create      2 of 3         1       7+  2.00 KiB
only times from 2026-01-02T03:04:05.123Z, offsets to 9 (exclusive): 1 partition
1 topic: 7 to 12 records, 2.00 KiB in 1 object (2 reads), about 5 min at 1.00 MiB/s
groups: none";
        assert_eq!(text(&plan), expected);
    }
}
