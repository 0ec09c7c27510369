//! `bodley groups diff`

use bodley_engine::Issue;
use bodley_engine::groups::{self, Differences, With};
use serde::Serialize;

use super::{difference, offset, wanted};
use crate::args::{ClusterArg, Common, GroupsDiff, OutputFormat};
use crate::commands::cluster::open_cluster;
use crate::commands::{Outcome, open_store, usage};
use crate::output::{self, plural};

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    found: &'a Differences,
    notes: Vec<String>,
}

pub async fn run(flags: GroupsDiff, common: &Common) -> Outcome {
    let store = open_store(&flags.vault.vault, common)?;
    let wanted = wanted(flags.wanted);
    let (found, notes) = match flags.with {
        Some(_) if is_named(&flags.cluster) => {
            return Err(usage(
                "--with compares with another commit, -b with a cluster: leave one of them out".into(),
            ));
        }
        Some(with) => {
            let found = groups::diff(store, flags.at, With::At(with), &wanted).await?;
            (found, Vec::new())
        }
        None => {
            let (cluster, notes) = open_cluster(&flags.cluster, common).await?;
            (groups::diff(store, flags.at, With::Cluster(&cluster), &wanted).await?, notes)
        }
    };
    let code = groups::exit_code(&found.errors);
    match common.output {
        OutputFormat::Json => output::print_json("groups diff", code, &Document { found: &found, notes }),
        OutputFormat::Text => print(&found),
    }
    Ok(code)
}

fn is_named(cluster: &ClusterArg) -> bool {
    cluster.bootstrap_server.is_some() || cluster.command_config.is_some() || cluster.cluster.is_some()
}

fn print(found: &Differences) {
    output::print_issues(&found.errors as &[Issue]);
    if !found.groups.is_empty() {
        let header = ["group", "topic", "partition", "old", "new", "difference"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for row in &found.groups {
            rows.push(vec![
                row.group.clone(),
                row.topic.clone(),
                row.partition.to_string(),
                offset(row.old),
                offset(row.new),
                difference(row.difference),
            ]);
        }
        output::print(&output::table(&rows));
    }
    let with = found.with_seq.map_or("the cluster".into(), |seq| format!("commit {seq}"));
    let differ = plural(found.groups.len(), "difference");
    output::print(&format!("commit {} and {with}: {differ}, {} the same", found.seq, found.same));
}
