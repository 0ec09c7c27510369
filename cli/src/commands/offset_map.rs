//! `bodley show --offset-map`: where source offsets lie at the target of a restore.

use std::path::Path;

use bodley_engine::restore::OffsetMap;
use serde::{Deserialize, Serialize};

use super::{Outcome, usage};
use crate::args::OutputFormat;
use crate::ended::Ended;
use crate::output;

/// A report with as many runs as a restore keeps is far smaller.
const MAX_REPORT: u64 = 256 << 20;

/// What is asked.
pub struct Question<'a> {
    /// A restore's JSON report.
    pub report: &'a Path,
    /// Topic, by its name at the source or at the target.
    pub topic: Option<&'a str>,
    /// Partition.
    pub partition: Option<i32>,
    /// Source offset.
    pub offset: Option<i64>,
}

impl<'a> Question<'a> {
    /// `of`: `TOPIC[:PARTITION]`.
    pub fn new(report: &'a Path, of: Option<&'a str>, offset: Option<i64>) -> Result<Self, Box<Ended>> {
        let Some(of) = of else { return Ok(Self { report, topic: None, partition: None, offset }) };
        let (topic, partition) = match of.split_once(':') {
            None => (of, None),
            Some((topic, partition)) => match partition.parse() {
                Ok(partition) => (topic, Some(partition)),
                Err(_) => return Err(usage(format!("--of `{of}`: write TOPIC or TOPIC:PARTITION"))),
            },
        };
        Ok(Self { report, topic: Some(topic), partition, offset })
    }
}

/// The part of a report that is read.
#[derive(Deserialize)]
struct Report {
    schema: String,
    command: String,
    plan: Option<Plan>,
    #[serde(default)]
    offset_map: Vec<OffsetMap>,
}

#[derive(Deserialize)]
struct Plan {
    target_cluster: String,
}

/// The offset map of a restore.
pub struct Read {
    /// Id of the cluster into which it went.
    pub target_cluster: String,
    /// By partition.
    pub maps: Vec<OffsetMap>,
}

/// An offset at both.
#[derive(Serialize)]
struct Place<'a> {
    topic: &'a str,
    target: &'a str,
    partition: i32,
    source_offset: i64,
    target_offset: i64,
    /// `false`: it may lie some records too early.
    exact: bool,
}

impl<'a> Place<'a> {
    fn of(map: &'a OffsetMap, source_offset: i64) -> Self {
        let (target_offset, exact) = map.find(source_offset);
        let OffsetMap { topic, target, partition, .. } = map;
        Self { topic, target, partition: *partition, source_offset, target_offset, exact }
    }
}

#[derive(Serialize)]
struct Maps<'a> {
    offset_map: Vec<&'a OffsetMap>,
}

#[derive(Serialize)]
struct Places<'a> {
    places: Vec<Place<'a>>,
}

pub fn run(question: &Question<'_>, format: OutputFormat) -> Outcome {
    let Read { maps, .. } = read(question.report)?;
    let is_meant = |map: &&OffsetMap| {
        question.topic.is_none_or(|topic| topic == map.topic || topic == map.target)
            && question.partition.is_none_or(|partition| partition == map.partition)
    };
    let maps: Vec<&OffsetMap> = maps.iter().filter(is_meant).collect();
    if maps.is_empty() && question.topic.is_none() {
        return Err(usage(format!(
            "--report {}: it has no offset map: the run was cut, or there was nothing to do (the same command with --report, run to its end, makes one)",
            question.report.display()
        )));
    }
    if maps.is_empty() {
        return Err(usage(format!(
            "--report {}: it has no offset map of such a topic and partition",
            question.report.display()
        )));
    }
    match question.offset {
        Some(offset) => print_places(&maps, offset, format),
        None => print_maps(maps, format),
    }
    Ok(0)
}

/// The offset map in a restore's report.
pub fn read(path: &Path) -> Result<Read, Box<Ended>> {
    let bad = |what: String| usage(format!("--report {}: {what}", path.display()));
    let bytes = crate::files::bytes(path, MAX_REPORT).map_err(bad)?;
    let report: Report =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("it is no report of a restore ({e})")))?;
    if report.command != "restore" || report.schema != output::SCHEMA {
        return Err(bad(
            "it is no report of a restore (make one with `bodley restore --report FILE`)".to_owned()
        ));
    }
    let (maps, plan) = (report.offset_map, report.plan);
    if let Some((map, flaw)) = maps.iter().find_map(|map| Some((map, map.flaw()?))) {
        return Err(bad(format!("its offset map of {}-{} is damaged: {flaw}", map.topic, map.partition)));
    }
    let mut names = std::collections::BTreeSet::new();
    if let Some(map) = maps.iter().find(|map| !names.insert((&map.topic, map.partition))) {
        return Err(bad(format!("its offset map has {}-{} twice", map.topic, map.partition)));
    }
    Ok(Read { target_cluster: plan.map(|plan| plan.target_cluster).unwrap_or_default(), maps })
}

fn print_places(maps: &[&OffsetMap], source_offset: i64, format: OutputFormat) {
    let places: Vec<Place<'_>> = maps.iter().map(|map| Place::of(map, source_offset)).collect();
    if format == OutputFormat::Json {
        return output::print_json("show", 0, &Places { places });
    }
    let header = ["topic", "target", "partition", "source offset", "target offset", "exact"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for place in places {
        rows.push(vec![
            place.topic.to_owned(),
            place.target.to_owned(),
            place.partition.to_string(),
            place.source_offset.to_string(),
            place.target_offset.to_string(),
            if place.exact { "yes".to_owned() } else { "not later".to_owned() },
        ]);
    }
    output::print(&output::table(&rows));
}

fn print_maps(maps: Vec<&OffsetMap>, format: OutputFormat) {
    if format == OutputFormat::Json {
        return output::print_json("show", 0, &Maps { offset_map: maps });
    }
    let header = ["topic", "target", "partition", "source from", "to", "target from", "records"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for map in maps {
        rows.extend(map.runs.iter().map(|run| {
            vec![
                map.topic.clone(),
                map.target.clone(),
                map.partition.to_string(),
                run.source.to_string(),
                run.next.to_string(),
                run.target.to_string(),
                run.records.to_string(),
            ]
        }));
    }
    output::print(&output::table(&rows));
}
