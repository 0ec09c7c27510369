//! `bodley groups`

mod diff;
mod reset;
mod show;

use bodley_engine::Pick;
use bodley_engine::groups::Wanted;

use super::{Outcome, usage};
use crate::args::{Common, GroupsArgs, GroupsCommand, OutputFormat, WantedArgs};
use crate::ended::Ended;

pub async fn run(flags: GroupsArgs, common: &Common) -> Outcome {
    match flags.command {
        GroupsCommand::Show(flags) => show::run(flags, common).await,
        GroupsCommand::Diff(flags) => diff::run(flags, common).await,
        GroupsCommand::Reset(flags) => reset::run(flags, common).await,
        GroupsCommand::Rollback(flags) => reset::roll_back(flags, common).await,
    }
}

fn wanted(arg: WantedArgs) -> Wanted {
    let topics = Pick { include: arg.topic, exclude: Vec::new() };
    Wanted { groups: Pick { include: arg.group, exclude: arg.exclude_group }, topics }
}

/// Lines of CSV are no JSON document.
fn check_csv(csv: bool, format: OutputFormat) -> Result<(), Box<Ended>> {
    match csv && format == OutputFormat::Json {
        true => {
            Err(usage("--csv prints lines, not the document of --output json: leave one of them out".into()))
        }
        false => Ok(()),
    }
}

/// An offset, or that there is none.
fn offset(offset: Option<i64>) -> String {
    offset.map_or("-".into(), |offset| offset.to_string())
}

/// `+5`, `-3`, `0`.
fn difference(difference: Option<i64>) -> String {
    difference.map_or("-".into(), |difference| match difference {
        more @ 1.. => format!("+{more}"),
        less => less.to_string(),
    })
}
