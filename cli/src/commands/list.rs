//! `bodley list`

use std::collections::BTreeMap;

use bodley_engine::inventory;

use super::{Outcome, open_store};
use crate::args::{Common, List, OutputFormat};
use crate::output::{self, bytes, plural, time};

pub async fn run(flags: List, common: &Common) -> Outcome {
    let format = common.output;
    let store = open_store(&flags.vault.vault, common)?;
    let inventory = inventory::list(store, flags.at).await?;
    if format == OutputFormat::Json {
        output::print_json("list", 0, &inventory);
        return Ok(0);
    }
    output::print_rebuilt(inventory.rebuilt_from.as_deref());
    let header = ["topic", "partitions", "records", "bytes", "first", "last", "gaps", ""];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let mut lives: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &inventory.topics {
        *lives.entry(&topic.topic.topic).or_default() += 1;
    }
    for topic in &inventory.topics {
        let lives = lives.get(topic.topic.topic.as_str()).copied().unwrap_or_default();
        rows.push(vec![
            topic.topic.topic.clone(),
            topic.topic.partitions.to_string(),
            topic.topic.records.map_or("?".into(), |records| records.to_string()),
            bytes(topic.topic.bytes),
            time(topic.topic.min_timestamp),
            time(topic.topic.max_timestamp),
            topic.topic.gaps.to_string(),
            mark(topic, lives),
        ]);
    }
    output::print(&output::table(&rows));
    output::print(&format!(
        "\n{}, {}, {} of batches; cluster {}; last commit {} at {}",
        plural(inventory.topics.len(), "topic"),
        plural(inventory.groups as usize, "group"),
        bytes(inventory.bytes),
        inventory.cluster_id,
        inventory.seq,
        time(Some(inventory.committed)),
    ));
    if let Some(receipt) = &inventory.receipt {
        output::print(&format!("receipt {receipt}"));
    }
    Ok(0)
}

/// What is to be said of one of a name's `lives`.
fn mark(topic: &inventory::ListedTopic, lives: usize) -> String {
    let mut marks = Vec::new();
    if lives > 1 {
        let age = if topic.superseded { "older" } else { "the newest" };
        marks.push(format!("incarnation {}, {age}", topic.incarnation));
    }
    if !topic.present && !topic.superseded {
        marks.push("gone from the source".to_owned());
    }
    marks.join(", ")
}
