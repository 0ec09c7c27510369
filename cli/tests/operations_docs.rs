//! docs/operations.md and the files beside it: every command of ours in them is taken by the program, cron, systemd and Kubernetes take the files, and
//! every error code has its row.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use bodley_testbed::{manifests, paths};
use serde_json::Value;
use tempfile::TempDir;

use common::bodley;

/// Where the files say that the program is.
const INSTALLED: &str = "/usr/local/bin/bodley";

fn docs(name: &str) -> PathBuf {
    paths::workspace_dir().join("docs").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(docs(name)).unwrap()
}

/// The files beside the page, by the ends of their names.
fn files(ends: &[&str]) -> Vec<String> {
    let all = fs::read_dir(docs("operations")).unwrap();
    let mut names: Vec<String> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| ends.iter().any(|end| name.ends_with(end)));
    names.sort();
    assert!(!names.is_empty(), "no file ends with {ends:?}");
    names
}

/// Words as a shell takes them, as far as it is needed here; a comment ends them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            _ => word.get_or_insert_default().push(c),
        }
    }
    assert_eq!(quote, None, "a quote is open: {line}");
    words.extend(word);
    words
}

/// The arguments of each call of ours in a line of a shell, also within `sh -c`.
fn calls(line: &str) -> Vec<Vec<String>> {
    let words = words(line);
    let ends = |word: &&String| {
        !matches!(word.as_str(), "|" | "||" | "&&" | ";") && !word.starts_with('>') && !word.starts_with("2>")
    };
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if word == "bodley" || word == INSTALLED {
            found.push(words[at + 1..].iter().take_while(ends).cloned().collect());
        } else if word.contains(' ') {
            found.extend(calls(word));
        }
    }
    found
}

/// All flags are known, and their values are taken.
#[track_caller]
fn is_known(place: &str, args: &[String]) {
    let asked = [args, &["--help".to_owned()]].concat();
    let ran = bodley(&asked);
    assert!(ran.code == Some(0) && ran.out.contains("Usage: bodley"), "{place}: {ran}");
}

/// It is a whole command: run where there is neither a cluster nor a vault, it says so, and not that it is wrong.
#[track_caller]
fn is_whole(place: &str, args: &[String]) {
    is_known(place, args);
    let folder = TempDir::new().unwrap();
    let nowhere = folder.path().join("none").display().to_string();
    let mut elsewhere = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (flag, value) = match arg.split_once('=').filter(|_| arg.starts_with("--")) {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let mut value = || value.clone().or_else(|| args.next().cloned()).unwrap();
        match flag {
            "-b" | "--command-config" => {
                value();
                elsewhere.extend(["-b".to_owned(), "127.0.0.1:1".to_owned()]);
            }
            "--vault" => {
                value();
                elsewhere.extend([flag.to_owned(), nowhere.clone()]);
            }
            "--vault-option" => _ = value(),
            _ => elsewhere.push(arg.clone()),
        }
    }
    let ran = bodley(&elsewhere);
    let said = format!("{}{}", ran.out, ran.err);
    let wanted = if elsewhere.iter().any(|arg| arg == "-b") { "cannot connect to" } else { "holds no vault" };
    assert!(matches!(ran.code, Some(1 | 2)) && said.contains(wanted), "{place}: {ran}");
    assert!(!ran.err.starts_with("error:"), "{place}: {ran}");
}

#[test]
fn commands_of_the_page() {
    let (mut whole, mut spans) = (0, 0);
    for (at, block) in text("operations.md").split("```").enumerate() {
        if at % 2 == 1 {
            for line in block.lines().map(str::trim).filter(|line| line.starts_with("bodley ")) {
                calls(line).iter().for_each(|args| is_whole(line, args));
                whole += 1;
            }
        } else {
            let odd = block.split('`').skip(1).step_by(2);
            for span in odd.filter(|span| span.starts_with("bodley ") && !span.contains('…')) {
                calls(span).iter().for_each(|args| is_known(span, args));
                spans += 1;
            }
        }
    }
    assert!(whole >= 8 && spans >= 8, "{whole} lines, {spans} spans");
}

#[test]
fn the_crontab() {
    let mut jobs = 0;
    for line in text("operations/cron").lines().map(str::trim) {
        let is_variable = line.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        });
        if line.is_empty() || line.starts_with('#') || is_variable {
            continue;
        }
        assert!(!line.contains('%'), "cron takes % for the end of the line: {line}");
        let mut rest = line;
        for (least, most) in [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)] {
            let (field, behind) = rest.split_once(char::is_whitespace).unwrap();
            assert!(is_field(field, least..=most), "`{field}` in: {line}");
            rest = behind.trim_start();
        }
        let (user, command) = rest.split_once(char::is_whitespace).unwrap();
        assert!(user.chars().all(|c| c.is_ascii_lowercase()), "no user: {line}");
        let calls = calls(command);
        assert_eq!(calls.len(), 1, "{line}");
        is_whole(line, &calls[0]);
        jobs += 1;
    }
    assert_eq!(jobs, 3);
}

/// `*`, numbers and ranges with commas between, each with a step or not.
fn is_field(field: &str, range: std::ops::RangeInclusive<u32>) -> bool {
    let number = |text: &str| text.parse().ok().filter(|number| range.contains(number));
    field.split(',').all(|part| {
        let (span, step) = part.split_once('/').unwrap_or((part, "1"));
        let is_span = match span.split_once('-') {
            Some((from, to)) => number(from).is_some() && number(from) <= number(to),
            None => span == "*" || number(span).is_some(),
        };
        is_span && step.parse::<u32>().is_ok_and(|step| step > 0)
    })
}

#[test]
fn units_of_systemd() {
    let folder = TempDir::new().unwrap();
    let mut units = Vec::new();
    for name in files(&[".service", ".timer"]) {
        let unit = text(&format!("operations/{name}"));
        let begun = unit.lines().filter_map(|line| line.strip_prefix("ExecStart="));
        let all: Vec<_> = begun.flat_map(calls).collect();
        all.iter().for_each(|args| is_whole(&name, args));
        assert_eq!(all.len(), usize::from(name.ends_with(".service")), "{name}");
        let timed =
            name.strip_suffix(".timer").map(|service| docs("operations").join(format!("{service}.service")));
        assert!(timed.is_none_or(|service| service.exists()), "{name} starts nothing");
        // The program must be there to be found.
        let path = folder.path().join(&name);
        fs::write(&path, unit.replace(INSTALLED, env!("CARGO_BIN_EXE_bodley"))).unwrap();
        units.push(path);
    }
    let out = match Command::new("systemd-analyze").arg("verify").args(&units).output() {
        Ok(out) => out,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return eprintln!("systemd-analyze is not installed: the units were not verified");
        }
        Err(error) => panic!("systemd-analyze: {error}"),
    };
    let said = String::from_utf8_lossy(&out.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("bodley")).collect();
    assert!(out.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn manifests_of_kubernetes() {
    for name in files(&[".yaml"]) {
        let documents = manifests::check(&docs("operations").join(&name)).unwrap();
        let mut commands = Vec::new();
        documents.iter().for_each(|document| find_commands(document, &mut commands));
        assert!(!commands.is_empty(), "{name} runs nothing");
        for command in commands {
            let (program, args) = command.split_first().unwrap();
            assert_eq!(program, INSTALLED, "{name}");
            is_whole(&name, args);
        }
    }
}

/// Everything that a manifest runs: containers and probes.
fn find_commands(value: &Value, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("command") {
                let lists = [&fields["command"], fields.get("args").unwrap_or(&Value::Null)];
                let all = lists.into_iter().filter_map(Value::as_array).flatten();
                found.push(all.map(|word| word.as_str().unwrap().to_owned()).collect());
            }
            fields.values().for_each(|value| find_commands(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| find_commands(value, found)),
        _ => {}
    }
}

/// What docs/json.md lists, and what else the program can say, has a row that says what to do.
#[test]
fn every_error_code_has_a_row() {
    let page = text("operations.md");
    let rows: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|line| line.split(" | ").next().unwrap_or_default().split('`').step_by(2))
        .collect();
    let json = text("json.md");
    let listed = json.split("\n\n").find(|paragraph| paragraph.starts_with("Error codes:")).unwrap();
    let is_other = |word: &str| matches!(word, "topic" | "verify" | "status" | "copy" | "restore" | "backup");
    let is_code = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !is_other(word);
    let mut codes: BTreeSet<&str> = listed.split('`').skip(1).step_by(2).filter(is_code).collect();
    codes.extend(["stale", "lagging", "topic_replaced", "report"]);
    assert!(codes.len() > 40, "{codes:?}");
    let missing: Vec<_> = codes.difference(&rows).collect();
    assert!(missing.is_empty(), "docs/operations.md has no row for {missing:?}");
}
