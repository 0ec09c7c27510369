//! Flags from the file: what is not typed is put among the words that were, so that all that holds for flags holds for the file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, Parser};
use toml::{Table, Value};

use super::{Clusters, Config, meant};
use crate::args::Args;

/// Flags of every command stand in this section.
const COMMON: &str = "common";
const CLUSTERS: &str = "clusters";
/// Flags that say where the file is, and what is no flag.
const NOT_HERE: [&str; 3] = ["config", "help", "version"];

/// A command line that is of no use.
pub struct Refused {
    /// What was typed, and what the file adds.
    pub words: Vec<OsString>,
    /// Why.
    pub why: Why,
}

/// What is of no use.
pub enum Why {
    /// The command line, or it asks for help.
    Clap(clap::Error),
    /// The file. The message is for people.
    File(String),
}

/// Parses a command line, with the flags of the file that it or `variable` (BODLEY_CONFIG) names.
pub fn parse(words: Vec<OsString>, variable: Option<OsString>) -> Result<Args, Box<Refused>> {
    let refused = |words, why| Box::new(Refused { words, why });
    let strict =
        |words: Vec<OsString>| Args::try_parse_from(&words).map_err(|error| refused(words, Why::Clap(error)));
    let command = relaxed();
    let Ok(matches) = command.clone().try_get_matches_from(&words) else { return strict(words) };
    let typed = matches.get_one::<PathBuf>("config").cloned();
    let Some(path) = typed.or(variable.filter(|path| !path.is_empty()).map(PathBuf::from)) else {
        return strict(words);
    };
    let added = Config::read(path)
        .and_then(|config| Ok((added(&config, &command, &matches)?, Clusters::of(config)?)));
    let (added, clusters) = match added {
        Ok(added) => added,
        Err(message) => return Err(refused(words, Why::File(message))),
    };
    let mut words = words;
    let behind = words.len().min(behind_subcommand(&command, &matches, &words));
    words.splice(behind..behind, added);
    let mut args = strict(words)?;
    args.common.clusters = clusters;
    Ok(args)
}

/// The command line with nothing required: what is not typed may be in the file.
fn relaxed() -> Command {
    let command = Args::command();
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_duties))
}

fn without_duties(command: Command) -> Command {
    let groups: Vec<clap::Id> = command.get_groups().map(|group| group.get_id().clone()).collect();
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| arg.required(false));
    let command =
        groups.into_iter().fold(command, |sub, id| sub.mut_group(id, |group| group.required(false)));
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_duties))
}

/// The subcommand, and below it its own, with what was typed for the last of them.
fn innermost(matches: &ArgMatches) -> (Vec<&str>, &ArgMatches) {
    let (mut path, mut inner) = (Vec::new(), matches);
    while let Some((name, below)) = inner.subcommand() {
        path.push(name);
        inner = below;
    }
    (path, inner)
}

/// How many words lead up to the subcommand, with it.
fn behind_subcommand(command: &Command, matches: &ArgMatches, words: &[OsString]) -> usize {
    let reaches = |count: &usize| {
        let upto = command.clone().try_get_matches_from(words.iter().take(*count));
        upto.is_ok_and(|upto| innermost(&upto).0 == innermost(matches).0)
    };
    (2..=words.len()).find(reaches).unwrap_or(words.len())
}

/// Commands that take flags, by the names that lead to them: `[backup]`, `[groups.reset]`.
fn sections<'a>(command: &'a Command, path: &[&'a str]) -> Vec<(Vec<&'a str>, &'a Command)> {
    let mut found = Vec::new();
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "completions") {
        let path = [path, &[sub.get_name()]].concat();
        match sub.has_subcommands() {
            true => found.extend(sections(sub, &path)),
            false if sub.get_arguments().any(is_flag) => found.push((path, sub)),
            false => {}
        }
    }
    found
}

/// Every section has a name that is known.
fn check_names(config: &Config, sections: &[(Vec<&str>, &Command)]) -> Result<(), String> {
    let unknown = |path: &[&str], names: &[&str]| {
        let meant = meant(path.last().unwrap_or(&""), names);
        config.error(&format!("[{}]", path.join(".")), &format!("unknown section ({meant})"))
    };
    let mut names: Vec<&str> = sections.iter().filter_map(|(path, _)| path.first().copied()).collect();
    names.dedup();
    names.extend([COMMON, CLUSTERS]);
    if let Some(name) = config.table.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(unknown(&[name], &names));
    }
    for first in names {
        let below: Vec<&str> = sections
            .iter()
            .filter_map(|(path, _)| match path.as_slice() {
                [group, name] if *group == first => Some(*name),
                _ => None,
            })
            .collect();
        let table = config.section(&[first])?;
        if let Some(name) = table.keys().find(|name| !below.is_empty() && !below.contains(&name.as_str())) {
            return Err(unknown(&[first, name], &below));
        }
    }
    Ok(())
}

/// The words that the file adds to those typed. All of its sections are checked.
fn added(config: &Config, command: &Command, matches: &ArgMatches) -> Result<Vec<OsString>, String> {
    let (current, typed) = innermost(matches);
    let sections = sections(command, &[]);
    check_names(config, &sections)?;
    let mut words = Vec::new();
    for (path, section) in sections {
        let name = path.join(".");
        let flags = section_words(config, &name, section, &config.section(&path)?)?;
        if path == current {
            check(config, command, &current, (&name, &flags))?;
            words.extend(not_typed(section, typed, flags));
        }
    }
    let flags = section_words(config, COMMON, command, &config.section(&[COMMON])?)?;
    check(config, command, &current, (COMMON, &flags))?;
    words.extend(not_typed(command, typed, flags));
    Ok(words)
}

/// A flag with the words that say it.
type Flag<'a> = (&'a Arg, Vec<String>);

fn is_flag(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|long| !NOT_HERE.contains(&long))
}

fn section_words<'a>(
    config: &Config,
    name: &str,
    command: &'a Command,
    section: &Table,
) -> Result<Vec<Flag<'a>>, String> {
    let part = format!("[{name}]");
    let flags: Vec<&Arg> = command.get_arguments().filter(|arg| is_flag(arg)).collect();
    let words = section.iter().map(|(key, value)| {
        let Some(arg) = flags.iter().find(|arg| arg.get_long() == Some(key.as_str())) else {
            let meant = meant(key, &flags.iter().filter_map(|arg| arg.get_long()).collect::<Vec<_>>());
            return Err(config.error(&part, &format!("`{key}` is no flag ({meant})")));
        };
        let words = flag_words(key, arg, value).map_err(|what| config.error(&part, &what))?;
        Ok((*arg, words))
    });
    words.collect()
}

/// `--key=value`, or `--key` as often as is said.
fn flag_words(key: &str, arg: &Arg, value: &Value) -> Result<Vec<String>, String> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(format!("--{key}={text}")),
        Value::Integer(number) => Ok(format!("--{key}={number}")),
        _ => Err(format!("{key}: write a text in quotes")),
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(yes)) => {
            Ok(yes.then(|| format!("--{key}")).into_iter().collect())
        }
        (ArgAction::SetTrue, _) => Err(format!("{key}: write true or false")),
        (ArgAction::Count, Value::Integer(times @ 0..=9)) => {
            Ok((0..*times).map(|_| format!("--{key}")).collect())
        }
        (ArgAction::Count, _) => Err(format!("{key}: write a number from 0 to 9")),
        (ArgAction::Append, Value::Array(list)) => list.iter().map(scalar).collect(),
        (_, Value::Array(_)) => Err(format!("{key}: write one value, not a list")),
        (_, value) => scalar(value).map(|word| vec![word]),
    }
}

/// Values are checked apart from what was typed, so that the message can name the file.
fn check(
    config: &Config,
    command: &Command,
    current: &[&str],
    (name, flags): (&str, &[Flag<'_>]),
) -> Result<(), String> {
    let words = flags.iter().flat_map(|(_, words)| words.iter().cloned());
    let current = current.iter().map(|name| (*name).to_owned());
    let words = ["bodley".to_owned()].into_iter().chain(current).chain(words);
    command.clone().try_get_matches_from(words).map(drop).map_err(|error| {
        let message = error.to_string();
        let first: Vec<&str> = message.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        config.error(&format!("[{name}]"), first.join(" ").trim_start_matches("error: "))
    })
}

/// The words of those flags that were not typed, and of which no rival was.
fn not_typed(command: &Command, typed: &ArgMatches, flags: Vec<Flag<'_>>) -> Vec<OsString> {
    let was_typed = |id: &clap::Id| {
        typed.try_contains_id(id.as_str()).is_ok()
            && typed.value_source(id.as_str()) == Some(ValueSource::CommandLine)
    };
    // Only a finished command knows what its groups hold.
    let mut finished = command.clone();
    finished.build();
    let rival_typed = |id: &clap::Id| {
        let exclusive = finished.get_groups().filter(|group| !(*group).clone().is_multiple());
        let mut members = exclusive.map(|group| group.get_args().collect::<Vec<_>>());
        members.any(|members| members.contains(&id) && members.into_iter().any(was_typed))
    };
    let mut words = Vec::new();
    for (arg, flag) in flags {
        if !was_typed(arg.get_id()) && !rival_typed(arg.get_id()) {
            words.extend(flag.into_iter().map(OsString::from));
        }
    }
    words
}

#[cfg(test)]
mod tests;
