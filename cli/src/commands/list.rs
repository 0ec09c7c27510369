//! `bodley list`

use bodley_engine::inventory;

use super::{Outcome, open_store};
use crate::args::{List, OutputFormat};
use crate::output::{self, bytes, plural, time};

pub async fn run(flags: List, format: OutputFormat) -> Outcome {
    let store = open_store(&flags.vault.vault, None, None)?;
    let inventory = inventory::list(store).await?;
    if format == OutputFormat::Json {
        output::print_json("list", 0, &inventory);
        return Ok(0);
    }
    output::print_rebuilt(inventory.rebuilt_from.as_deref());
    let header = ["topic", "partitions", "records", "bytes", "first", "last", "gaps", ""];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for topic in &inventory.topics {
        let mark = match (topic.present, topic.superseded) {
            (_, true) => "older incarnation",
            (false, _) => "gone from the source",
            _ => "",
        };
        rows.push(vec![
            topic.topic.topic.clone(),
            topic.topic.partitions.to_string(),
            topic.topic.records.map_or("?".into(), |records| records.to_string()),
            bytes(topic.topic.bytes),
            time(topic.topic.min_timestamp),
            time(topic.topic.max_timestamp),
            topic.topic.gaps.to_string(),
            mark.to_owned(),
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
