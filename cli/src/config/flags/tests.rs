use super::*;
use crate::args;

fn parsed(text: &str, words: &[&str]) -> Result<Args, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.toml");
    std::fs::write(&path, text).unwrap();
    let words = ["bodley"].iter().chain(words).map(OsString::from).collect();
    parse(words, Some(path.into())).map_err(|refused| match refused.why {
        Why::Clap(error) => error.to_string(),
        Why::File(message) => message,
    })
}

fn backup(text: &str, words: &[&str]) -> (args::Backup, args::Common) {
    let args = parsed(text, words).unwrap();
    match args.command {
        args::Command::Backup(backup) => (backup, args.common),
        other => panic!("{other:?}"),
    }
}

const TEXT: &str = r#"
    [common]
    output = "json"
    verbose = 2
    quiet = true
    [backup]
    cluster = "prod"
    vault = "/v"
    topic = ["a*", "-b"]
    limit-read = "50M"
    limit-write = 1000
    include-internal = true
    [restore]
    groups = "none"
    [clusters.prod]
    "#;

#[test]
fn flags_come_from_the_file_unless_typed() {
    let (flags, common) = backup(TEXT, &["backup"]);
    assert_eq!((flags.vault.vault.as_str(), flags.cluster.cluster.as_deref()), ("/v", Some("prod")));
    assert_eq!(flags.topics.topics, ["a*", "-b"]);
    assert_eq!((flags.limit_read, flags.limit_write), (Some(args::Rate(50 << 20)), Some(args::Rate(1000))));
    assert!(flags.topics.include_internal && common.quiet);
    assert_eq!((common.output, common.verbose), (args::OutputFormat::Json, 2));
    let words = ["--output", "text", "-v", "backup", "--vault=/w", "--topic", "c"];
    let (flags, common) = backup(TEXT, &words);
    assert_eq!(
        (flags.vault.vault.as_str(), common.output, common.verbose),
        ("/w", args::OutputFormat::Text, 1)
    );
    assert_eq!(flags.topics.topics, ["c"]);
    // Words that look like the command, and what stands behind it.
    let (flags, _) = backup(TEXT, &["backup", "--vault", "backup", "--output", "text"]);
    assert_eq!(flags.vault.vault, "backup");
    let Ok(Args { command: args::Command::Restore(restore), .. }) =
        parsed(TEXT, &["restore", "--vault", "x"])
    else {
        panic!("no restore");
    };
    assert_eq!(restore.groups, args::Groups::None);
}

#[test]
fn a_typed_rival_wins() {
    let text = "[show]\nvault = \"/v\"\ncommits = true";
    let shown = |words: &[&str]| match parsed(text, words).unwrap().command {
        args::Command::Show(show) => (show.topic, show.commits, show.groups),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown(&["show"]), (None, true, false));
    assert_eq!(shown(&["show", "orders"]), (Some("orders".into()), false, false));
    assert_eq!(shown(&["show", "--groups"]), (None, false, true));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, says) in [
        ("[bakcup]", "b.toml: [bakcup]: unknown section (did you mean backup?)"),
        ("x = 1", "[x]: unknown section (known: backup, verify"),
        ("backup = 1", "backup: this is a section"),
        ("[backup]\nvalt = \"x\"", "[backup]: `valt` is no flag (did you mean vault?)"),
        ("[restore]\nvalt = \"x\"", "[restore]: `valt` is no flag"),
        ("[backup]\nquiet = true", "`quiet` is no flag"),
        ("[common]\nconfig = \"x\"", "`config` is no flag"),
        ("[show]\ntopic = \"x\"", "`topic` is no flag"),
        ("[backup]\nlimit-read = \"fast\"", "b.toml: [backup]: invalid value 'fast' for '--limit-read"),
        ("[common]\noutput = \"yaml\"", "b.toml: [common]: invalid value 'yaml'"),
        ("[backup]\nvault = [\"x\"]", "vault: write one value"),
        ("[backup]\nvault = true", "vault: write a text in quotes"),
        ("[backup]\ninclude-internal = \"yes\"", "include-internal: write true or false"),
        ("[common]\nverbose = true", "verbose: write a number from 0 to 9"),
        ("[backup\n", "b.toml:1: this is no TOML"),
    ] {
        let message = parsed(text, &["backup", "--vault", "x"]).unwrap_err();
        assert!(message.contains(says), "{text}: {message}");
    }
    let message = parsed("", &["backup", "--config", "/no/such", "--vault", "x"]).unwrap_err();
    assert!(message.starts_with("/no/such can't be read"), "{message}");
    // What is required and in neither is clap's to say.
    assert!(parsed("", &["backup"]).unwrap_err().contains("--vault"));
    assert!(parsed("[backup]\nvault = \"x\"", &["backup", "--valt", "y"]).unwrap_err().contains("--valt"));
}

#[test]
fn commands_below_commands_have_sections_of_their_own() {
    let text =
        "[groups.reset]\nvault = \"/v\"\nby = \"timestamp\"\ngroup = [\"a*\"]\n[groups.show]\nvault = \"/w\"";
    let reset = |words: &[&str]| match parsed(text, words).unwrap().command {
        args::Command::Groups(args::GroupsArgs { command: args::GroupsCommand::Reset(reset) }) => reset,
        other => panic!("{other:?}"),
    };
    let flags = reset(&["--quiet", "groups", "reset", "--group", "b", "-b", "x:1"]);
    assert_eq!((flags.vault.as_deref(), flags.by), (Some("/v"), Some(args::By::Timestamp)));
    assert_eq!(flags.wanted.group, ["b"]);
    // A rival that is typed wins.
    let flags = reset(&["groups", "reset", "--to", "earliest"]);
    assert_eq!((flags.vault, flags.to), (None, Some(args::To::Earliest)));
    match parsed(text, &["groups", "show"]).unwrap().command {
        args::Command::Groups(args::GroupsArgs { command: args::GroupsCommand::Show(show) }) => {
            assert_eq!(show.vault.vault, "/w");
        }
        other => panic!("{other:?}"),
    }
    for (text, says) in [
        ("[groups.rest]", "[groups.rest]: unknown section (did you mean reset?)"),
        ("[groups]\nvault = \"/v\"", "[groups.vault]: unknown section"),
        ("[groups.reset]\nvaul = \"/v\"", "[groups.reset]: `vaul` is no flag (did you mean vault?)"),
        ("groups = 1", "groups: this is a section"),
        ("[groups]\nreset = 1", "groups.reset: this is a section: write [groups.reset]"),
    ] {
        let error = parsed(text, &["groups", "reset"]).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
