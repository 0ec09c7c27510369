//! `bodley groups reset` and `bodley groups rollback`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bodley_engine::Issue;
use bodley_engine::groups::{
    self, Aim, FileRow, Plan, ResetOptions, Saved, Source, csv, parse_csv, plan_reset, plan_rollback,
};
use bodley_io::kafka::Cluster;
use serde::Serialize;

use super::{check_csv, difference, offset, wanted};
use crate::args::{By, Common, GroupsReset, GroupsRollback, OutputFormat, To};
use crate::commands::cluster::open_cluster;
use crate::commands::{Outcome, offset_map, open_store, usage};
use crate::ended::Ended;
use crate::files;
use crate::output::{self, plural};

/// Largest file of positions, bytes.
const CSV_LIMIT: u64 = 256 << 20;

#[derive(Serialize)]
struct Document<'a> {
    /// The positions were set.
    executed: bool,
    /// The file of what was replaced.
    saved: Option<String>,
    /// Groups whose positions were set.
    groups: usize,
    changes: Vec<Change<'a>>,
    errors: &'a [Issue],
    notes: &'a [String],
}

#[derive(Serialize)]
struct Change<'a> {
    group: &'a str,
    topic: &'a str,
    partition: i32,
    now: Option<i64>,
    new: Option<i64>,
    difference: Option<i64>,
}

/// How it went on.
struct Done {
    executed: bool,
    saved: Option<PathBuf>,
    groups: usize,
}

pub async fn run(flags: GroupsReset, common: &Common) -> Outcome {
    check_csv(flags.csv, common.output)?;
    if flags.save.is_some() && !flags.execute {
        return Err(usage("--save goes with --execute: nothing is replaced without it".into()));
    }
    let aim = aim(&flags, common)?;
    let (cluster, notes) = open_cluster(&flags.cluster, common).await?;
    let options = ResetOptions { wanted: wanted(flags.wanted), rename: flags.rename, aim };
    let mut plan = plan_reset(&cluster, options).await?;
    plan.notes.splice(..0, notes);
    let mut done = Done { executed: flags.execute, saved: None, groups: 0 };
    if flags.execute && !plan.changes.is_empty() {
        let path = flags.save.unwrap_or_else(default_file);
        plan.save(&path)?;
        if !common.quiet {
            let way_back = format!("bodley groups rollback -b … {} --execute", path.display());
            output::print_note(&format!("what is replaced is saved; to put it back: {way_back}"));
        }
        done = carry_out(&mut plan, &cluster).await;
        done.saved = Some(path);
    }
    if flags.csv {
        output::print_issues(&plan.errors);
        output::print(lines(&plan).trim_end_matches('\n'));
        return Ok(groups::exit_code(&plan.errors));
    }
    Ok(finish("groups reset", common.output, &plan, &done))
}

pub async fn roll_back(flags: GroupsRollback, common: &Common) -> Outcome {
    let saved = Saved::read(&flags.file)?;
    let (cluster, notes) = open_cluster(&flags.cluster, common).await?;
    let mut plan = plan_rollback(&cluster, &saved).await?;
    plan.notes.splice(..0, notes);
    let done = match flags.execute {
        true => carry_out(&mut plan, &cluster).await,
        false => Done { executed: false, saved: None, groups: 0 },
    };
    Ok(finish("groups rollback", common.output, &plan, &done))
}

async fn carry_out(plan: &mut Plan, cluster: &Arc<Cluster>) -> Done {
    Done { executed: true, saved: None, groups: plan.carry_out(cluster).await }
}

/// What goes with what can't be said to the parser of flags: some may come from the file of --config.
fn aim(flags: &GroupsReset, common: &Common) -> Result<Aim, Box<Ended>> {
    let refused = |what: &str| Err(usage(what.to_owned()));
    if flags.at.is_some() && flags.vault.is_none() {
        return refused("--at goes with --vault");
    }
    if flags.report.is_some() != (flags.by == Some(By::Map)) {
        return refused("--by map and --report FILE go together");
    }
    if flags.by == Some(By::Map) && !flags.rename.is_empty() {
        return refused("--rename does not go with --by map: the report tells how topics are called");
    }
    if let Some(to) = flags.to {
        if flags.by.is_some() || !flags.rename.is_empty() {
            return refused("--by and --rename go with --vault or --from-file, not with --to");
        }
        if flags.wanted.group.is_empty() {
            return refused("--to moves the groups that --group names: name them, or say --group '*'");
        }
        return Ok(match to {
            To::Earliest => Aim::Earliest,
            To::Latest => Aim::Latest,
            To::Time(moment) => Aim::Time(moment),
        });
    }
    match (&flags.from_file, &flags.vault, flags.by) {
        (Some(_), _, Some(By::Timestamp)) => {
            refused("--by timestamp needs the records of a --vault: a file has no times")
        }
        (Some(path), _, by) => {
            let rows = positions(path, flags)?;
            Ok(match by {
                None => Aim::Offsets(rows),
                Some(By::Map) => by_map(Source::File(rows), flags)?,
                Some(_) => Aim::Headers(Source::File(rows)),
            })
        }
        (None, Some(_), None) => refused(
            "say how the vault's positions become positions at the cluster: --by timestamp, --by headers, or --by map with --report",
        ),
        (None, Some(url), Some(by)) => {
            let store = open_store(url, common)?;
            Ok(match by {
                By::Timestamp => Aim::Timestamps(store, flags.at),
                By::Headers => Aim::Headers(Source::Vault(store, flags.at)),
                By::Map => by_map(Source::Vault(store, flags.at), flags)?,
            })
        }
        (None, None, _) => refused("say where to: --to, --from-file, or --vault with --by"),
    }
}

fn by_map(source: Source, flags: &GroupsReset) -> Result<Aim, Box<Ended>> {
    let Some(report) = flags.report.as_deref() else {
        return Err(usage("--by map needs --report FILE".to_owned()));
    };
    let offset_map::Read { target_cluster, maps } = offset_map::read(report)?;
    Ok(Aim::Map(source, target_cluster, maps))
}

fn positions(path: &Path, flags: &GroupsReset) -> Result<Vec<FileRow>, Box<Ended>> {
    let bad = |what: String| usage(format!("{}: {what}", path.display()));
    let bytes = files::bytes(path, CSV_LIMIT).map_err(bad)?;
    let text = String::from_utf8(bytes).map_err(|_| bad("is not UTF-8: convert it".into()))?;
    // Files about a single group do without its name.
    let only = match flags.wanted.group.as_slice() {
        [group] if !group.contains(['*', '?']) => Some(group.as_str()),
        _ => None,
    };
    parse_csv(&text, only).map_err(|e| bad(e.to_string()))
}

fn default_file() -> PathBuf {
    let now = jiff::Timestamp::now();
    PathBuf::from(format!("bodley-groups-{}.json", now.strftime("%Y%m%dT%H%M%S.%3fZ")))
}

fn lines(plan: &Plan) -> String {
    csv(plan.changes.iter().filter_map(|change| {
        Some((change.group.as_str(), &*change.tp.topic, change.tp.partition, change.new.as_ref()?.offset))
    }))
}

fn finish(command: &str, format: OutputFormat, plan: &Plan, done: &Done) -> u8 {
    let code = groups::exit_code(&plan.errors);
    let changes: Vec<Change<'_>> = plan
        .changes
        .iter()
        .map(|change| {
            let (now, new) =
                (change.now.as_ref().map(|of| of.offset), change.new.as_ref().map(|of| of.offset));
            let difference = now.zip(new).map(|(now, new)| new.saturating_sub(now));
            let partition = change.tp.partition;
            Change { group: &change.group, topic: &change.tp.topic, partition, now, new, difference }
        })
        .collect();
    match format {
        OutputFormat::Json => {
            let document = Document {
                executed: done.executed,
                saved: done.saved.as_ref().map(|path| path.display().to_string()),
                groups: done.groups,
                changes,
                errors: &plan.errors,
                notes: &plan.notes,
            };
            output::print_json(command, code, &document);
        }
        OutputFormat::Text => print(plan, &changes, done),
    }
    code
}

fn print(plan: &Plan, changes: &[Change<'_>], done: &Done) {
    plan.notes.iter().for_each(|note| output::print_note(note));
    output::print_issues(&plan.errors);
    let positions = plural(changes.len(), "position");
    if done.executed {
        output::print(&format!("{} done, {positions}", plural(done.groups, "group")));
        return;
    }
    let header = ["group", "topic", "partition", "now", "new", "difference"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for change in changes {
        rows.push(vec![
            change.group.to_owned(),
            change.topic.to_owned(),
            change.partition.to_string(),
            offset(change.now),
            offset(change.new),
            difference(change.difference),
        ]);
    }
    output::print(&output::table(&rows));
    output::print(&format!(
        "{}, {positions}: nothing was changed; --execute does it",
        plural(plan.groups(), "group")
    ));
}
