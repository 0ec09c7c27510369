//! What needs no Kafka: wrong command lines, wrong servers, wrong vaults. Each ends soon, with the right exit code, one clear line and
//! one document.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use common::vault::Vault;
use common::{Ran, bodley, command, list, start};

/// Runs it for people and for programs; both must fail alike, with one line (and maybe one of advice) on stderr or one document on
/// stdout. Returns the message.
#[track_caller]
fn fails(args: &[&str], code: i32) -> String {
    let (for_people, for_programs) = (start(args), start(&[args, &["--output", "json"]].concat()));
    let for_people = for_people.wait().exits(code).within(60);
    assert_eq!(for_people.out, "", "{for_people}");
    let message = the_line(&for_people);
    let for_programs = for_programs.wait().exits(code).within(60);
    let document = for_programs.json();
    let verb = args.first().filter(|verb| **verb != "frobnicate").copied().unwrap_or_default();
    assert_eq!(document["command"], verb, "{for_programs}");
    let told = list(&document, "errors")[0]["message"].as_str().unwrap();
    let flat = message.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(told), "people are told `{message}`, programs `{told}`");
    message
}

/// What stderr says: a line for people, not what a program prints of its insides.
#[track_caller]
fn the_line(ran: &Ran) -> String {
    let lines: Vec<&str> = ran.err.lines().collect();
    let usage = ran.err.starts_with("error: ");
    assert!(usage || lines.len() <= 2 && ran.err.starts_with("bodley: "), "not one clear line: {ran}");
    for inside in ["Os {", "Err(", "kind:", "Some(", "None)", "anyhow"] {
        assert!(!ran.err.contains(inside), "{inside}: {ran}");
    }
    ran.err.clone()
}

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is not said: {message}");
    }
}

/// A server that does this to each connection.
fn server(serve: impl Fn(&mut TcpStream) + Send + Sync + Copy + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(&mut stream));
        }
    });
    address
}

fn read_some(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 1024]);
}

/// Backup and restore from or to this server.
#[track_caller]
fn no_broker(address: &str, words: &[&str]) {
    let vault = Vault::new();
    let backup = fails(&["backup", "-b", address, "--vault", vault.url()], 1);
    says(&backup, words);
    assert!(vault.objects().is_empty(), "a vault was made: {:?}", vault.objects());
}

#[test]
fn nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    no_broker(&free, &[&free, "refused"]);
    let two = format!("{free},{free}");
    no_broker(&two, &[&free]);
    no_broker("no-such-host.invalid:9092", &["no-such-host.invalid"]);
}

#[test]
fn a_web_server() {
    let address = server(|stream| {
        read_some(stream);
        let _ =
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    no_broker(&address, &[&address, "no Kafka broker"]);
}

#[test]
fn a_tls_listener() {
    let address = server(|stream| {
        read_some(stream);
        let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 0x28]);
    });
    no_broker(&address, &[&address, "TLS"]);
}

#[test]
fn a_server_that_closes_at_once() {
    let address = server(|_| {});
    no_broker(&address, &[&address]);
    let address = server(read_some);
    no_broker(&address, &[&address]);
}

#[test]
fn a_silent_server() {
    let address = server(|_| thread::sleep(Duration::from_secs(60)));
    no_broker(&address, &[&address]);
}

#[test]
fn a_server_of_nonsense() {
    // A frame of 2 GiB, and one of four bytes with an answer to another question.
    let address = server(|stream| {
        read_some(stream);
        let _ = stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        thread::sleep(Duration::from_secs(60));
    });
    no_broker(&address, &[&address]);
    let address = server(|stream| {
        read_some(stream);
        let _ = stream.write_all(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]);
    });
    no_broker(&address, &[&address]);
}

#[test]
fn wrong_flags() {
    let vault = Vault::new();
    let to = ["--vault", vault.url()];
    let broker = ["-b", "127.0.0.1:9"];
    let wrong: [&[&str]; 17] = [
        &["backup"],
        &["backup", "-b", "127.0.0.1:9"],
        &["restore", "--vault", "x"],
        &["verify"],
        &["list"],
        &["show"],
        &["show", "--vault", "x"],
        &["show", "--vault", "x", "topic", "--commits"],
        &["show", "--vault", "x", "--groups", "--commits"],
        &["verify", "--vault", "x", "--no-such-flag"],
        &["show", "--vault", "x", "--commits", "--at", "1"],
        &["list", "--vault", "x", "--at", "soon"],
        &["cat", "--vault", "x"],
        &["frobnicate"],
        &["completions"],
        &["completions", "tcsh"],
        &["verify", "--vault"],
    ];
    for args in wrong {
        fails(args, 2);
    }
    bodley(&["verify", "--vault", "x", "--output", "yaml"]).exits(2).says("yaml");
    bodley::<&str>(&[]).exits(2);
    for rate in ["", "0", "fast", "-1", "1.5M", "10X", "10MB", "99999999999999999999G"] {
        for flag in ["--limit-read", "--limit-write"] {
            let limit = format!("{flag}={rate}");
            fails(&[&["backup"], &broker[..], &to[..], &[&limit]].concat(), 2);
            fails(&[&["restore"], &broker[..], &to[..], &[&limit]].concat(), 2);
        }
        fails(&[&["verify"], &to[..], &[&format!("--limit-read={rate}")]].concat(), 2);
    }
    for address in
        ["localhost", "localhost:", ":9092", "localhost:x", "localhost:0", "localhost:70000", "", ","]
    {
        let message = fails(&["backup", &format!("--bootstrap-server={address}"), "--vault", vault.url()], 2);
        says(&message, &[address.trim_matches(',')]);
    }
    for interval in ["", "0", "0s", "-1s", "1.5m", "soon", "1w", "99999999999h"] {
        let commit = format!("--commit-interval={interval}");
        fails(&[&["backup"], &broker[..], &to[..], &[&commit]].concat(), 2);
        let give_up = format!("--give-up-after={interval}");
        fails(&[&["backup"], &broker[..], &to[..], &[&give_up]].concat(), 2);
        fails(&[&["restore"], &broker[..], &to[..], &[&give_up]].concat(), 2);
    }
    for factor in ["0", "-1", "two", "40000"] {
        let factor = format!("--replication-factor={factor}");
        fails(&[&["restore"], &broker[..], &to[..], &[&factor]].concat(), 2);
    }
    assert!(vault.objects().is_empty());
}

#[test]
fn documents_name_their_command_wherever_the_flags_stand() {
    for args in [
        &["--output", "json", "verify", "--vault", "/no/such/vault"][..],
        &["--output=json", "verify", "--vault", "/no/such/vault"],
        &["verify", "--output=json", "--vault", "/no/such/vault"],
        &["--output", "json", "verify"],
        &["--output=json", "verify", "--no-such-flag"],
        &["-v", "--output=json", "verify", "--no-such-flag"],
    ] {
        let document = bodley(args).exits(2).json();
        assert_eq!(document["command"], "verify", "{args:?}");
    }
}

/// Every command that reads a vault.
fn readers(url: &str) -> [Vec<&str>; 6] {
    let to = ["--vault", url];
    [
        [&["verify"], &to[..]].concat(),
        [&["list"], &to[..]].concat(),
        [&["cat", "--topic", "topic"], &to[..]].concat(),
        [&["show", "topic"], &to[..]].concat(),
        [&["show", "--commits"], &to[..]].concat(),
        [&["show", "--groups"], &to[..]].concat(),
    ]
}

#[test]
fn absent_vaults() {
    let vault = Vault::new();
    for args in readers(vault.url()) {
        says(&fails(&args, 2), &[vault.url(), "vault"]);
    }
    // An empty folder is none either, nor is one with other things in it.
    fs::create_dir_all(vault.root().join("data")).unwrap();
    fs::write(vault.root().join("notes.txt"), "x").unwrap();
    for args in readers(vault.url()) {
        says(&fails(&args, 2), &[vault.url()]);
    }
    let below_a_file = format!("{}/notes.txt/vault", vault.url());
    for args in readers(&below_a_file) {
        says(&fails(&args, 2), &[&below_a_file]);
    }
    assert_eq!(vault.objects().len(), 1, "a reader wrote: {:?}", vault.objects());
}

#[test]
fn foreign_vaults() {
    let identities: [&[u8]; 7] = [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe\x00",
        br#"{"magic":"other","format":1}"#,
        br#"{"magic":"bodley-vault","format":2,"vault_id":"00000000000000000000000000000000","cluster_id":"x","created":0,"evidence":"none"}"#,
        br#"{"magic":"bodley-vault","vault_id":"00000000000000000000000000000000"}"#,
    ];
    for identity in identities {
        let vault = Vault::new();
        fs::create_dir_all(vault.root()).unwrap();
        fs::write(vault.root().join("vault.json"), identity).unwrap();
        for args in readers(vault.url()) {
            fails(&args, 2);
        }
        assert_eq!(vault.objects().len(), 1);
    }
    let vault = Vault::new();
    fs::create_dir_all(vault.root().join("vault.json")).unwrap();
    for args in readers(vault.url()) {
        let ran = bodley(&args).within(60);
        assert!([Some(1), Some(2)].contains(&ran.code), "{ran}");
        the_line(&ran);
    }
}

#[test]
fn wrong_urls() {
    for url in ["s3://", "gs:///x", "az://account", "ftp://host/x", "file://relative/path", "file://", ""] {
        for args in readers(url) {
            says(&fails(&args, 2), &[url]);
        }
        fails(&["backup", "-b", "127.0.0.1:9", "--vault", url], 2);
        fails(&["restore", "-b", "127.0.0.1:9", "--vault", url], 2);
    }
}

#[test]
fn wrong_receipts() {
    let vault = Vault::new();
    let digest = "5f".repeat(32);
    let upper = digest.to_uppercase();
    for receipt in [
        "",
        "1",
        "x",
        ":",
        "1:",
        "1:xyz",
        &digest,
        &format!("-1:{digest}"),
        &format!("x:{digest}"),
        &format!("1:{upper}Z"),
    ] {
        fails(&["verify", "--vault", vault.url(), &format!("--expect={receipt}")], 2);
    }
}

#[test]
fn completions() {
    for (shell, mark) in [("bash", "_bodley()"), ("zsh", "#compdef bodley"), ("fish", "complete -c bodley")] {
        let script = bodley(&["completions", shell]).exits(0);
        assert_eq!(script.err, "", "{script}");
        for word in [mark, "backup", "restore", "verify", "limit-read", "replication-factor"] {
            assert!(script.out.contains(word), "{shell}: no `{word}`");
        }
    }
    // As the shell itself sees it, where there is one.
    let script = bodley(&["completions", "bash"]).out;
    let mut shell = std::process::Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

#[test]
fn help_and_version() {
    let version = bodley(&["--version"]).exits(0);
    assert_eq!(version.out.trim(), format!("bodley {}", env!("CARGO_PKG_VERSION")));
    for verb in ["backup", "restore", "verify", "cat", "list", "show", "completions"] {
        let help = bodley(&[verb, "--help"]).exits(0);
        assert!(help.err.is_empty() && help.out.contains("Usage: bodley"), "{help}");
        assert!(bodley(&["--help"]).exits(0).out.contains(verb));
    }
}

/// `bodley … | head -1`: a reader that goes away is no error, at least not one of ours.
#[test]
fn a_reader_that_goes_away() {
    for args in [
        &["completions", "bash"][..],
        &["--help"],
        &["backup", "--help"],
        &["list", "--vault", "/no/such", "--output", "json"],
    ] {
        let mut child = command(args).spawn().unwrap();
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let status = child.wait().unwrap();
        assert!(!err.contains("panicked"), "{args:?} ended with {status}: {err}");
        assert_ne!(status.code(), Some(101), "{args:?}");
    }
}
