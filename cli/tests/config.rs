//! Files of settings as users have them: what is wrong with them is said in one line with exit code 2, before anything is written or
//! anybody is asked; what is right reaches the connection.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use bodley_testbed::shared_cluster;
use common::site::Site;
use common::vault::Vault;
use common::{Ran, bodley, command, list};
use tempfile::TempDir;

/// A folder with files of settings, in which bodley runs.
struct Desk {
    folder: TempDir,
    /// Where nobody listens.
    free: String,
}

impl Desk {
    fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        Self { folder: tempfile::tempdir().unwrap(), free }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file there, with `{free}` filled in.
    fn file(&self, name: &str, text: &str) -> &Self {
        use std::os::unix::fs::PermissionsExt;
        fs::write(self.path(name), text.replace("{free}", &self.free)).unwrap();
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o600)).unwrap();
        self
    }

    /// Runs bodley here with these variables.
    fn run(&self, args: &str, variables: &[(&str, &str)]) -> Ran {
        let args: Vec<&str> = args.split_whitespace().collect();
        let mut command = command(&args);
        command.current_dir(self.folder.path()).envs(variables.iter().copied());
        let ran = common::run(command, &args);
        assert!(!ran.err.contains("hunter2") && !ran.out.contains("hunter2"), "a secret: {ran}");
        assert!(!self.path("vault").exists(), "a vault was made: {ran}");
        ran
    }

    /// It is refused, in one line that says this; a program is told the same.
    #[track_caller]
    fn refuses(&self, args: &str, says: &[&str]) {
        let ran = self.run(args, &[]).exits(2);
        assert_eq!((ran.err.lines().count(), ran.out.as_str()), (1, ""), "{ran}");
        assert!(ran.err.starts_with("bodley: "), "{ran}");
        let document = self.run(&format!("{args} --output json"), &[]).exits(2).json();
        let told = document["errors"][0]["message"].as_str().unwrap();
        for word in says {
            assert!(ran.err.contains(word) && told.contains(word), "`{word}` is not said: {ran}");
        }
    }
}

const BACKUP: &str = "backup --vault vault --give-up-after 1s";

#[test]
fn no_brokers_are_named() {
    let desk = Desk::new();
    desk.file("empty", "");
    for args in [BACKUP, &format!("{BACKUP} --command-config empty"), "restore --vault vault"] {
        desk.refuses(args, &["no brokers are named", "-b HOST:PORT", "bootstrap.servers", "--cluster NAME"]);
    }
}

#[test]
fn properties_that_are_wrong() {
    let desk = Desk::new();
    for (text, says) in [
        (
            "security.protocol=TLS",
            ":1: security.protocol: write one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL",
        ),
        ("\nsecurity.protocol=SASL_SSL", "sasl.mechanism: not set"),
        ("security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=u", "BODLEY_SASL_PASSWORD"),
        ("sasl.password=${env:NO_SUCH_VARIABLE}", ":1: sasl.password: ${env:NO_SUCH_VARIABLE}"),
        (
            "security.protocol=SSL\nssl.ca.location=/no/such.pem",
            ":2: ssl.ca.location: /no/such.pem can't be read",
        ),
        ("request.timeout.ms=hunter2", "request.timeout.ms: write a whole number from 1 to 3600000"),
        ("ssl.engine.factory.class=x", "not supported"),
        ("a.b=\\u12", "line 1: a backslash-u"),
        ("MIIEhunter2+/=", ":1: this is no key"),
        ("bootstrap.servers=nowhere", "bootstrap.servers: `nowhere` is no bootstrap server"),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=AWS_MSK_IAM\nsasl.jaas.config=x.IAMLoginModule required a=b;",
            "awsProfileName",
        ),
    ] {
        desk.file("p", text);
        desk.refuses(&format!("{BACKUP} --command-config p"), &[says]);
        desk.refuses("restore --vault vault --command-config p", &[says]);
    }
    desk.refuses(&format!("{BACKUP} --command-config no-such"), &["no-such can't be read: No such file"]);
    desk.refuses(&format!("{BACKUP} --command-config ."), &["can't be read"]);
    fs::write(desk.path("p"), b"client.id=\xff").unwrap();
    desk.refuses(&format!("{BACKUP} --command-config p"), &["p is not UTF-8"]);
    fs::write(desk.path("p"), vec![b'#'; (1 << 20) + 1]).unwrap();
    desk.refuses(&format!("{BACKUP} --command-config p"), &["p is larger than 1024 KiB"]);
}

#[test]
fn toml_that_is_wrong() {
    let desk = Desk::new();
    for (text, says) in [
        ("[clusters.prod\nx = 'hunter2'", "c.toml:1: this is no TOML"),
        ("[bakcup]", "[bakcup]: unknown section (did you mean backup?)"),
        ("[backup]\nvalt = 'x'", "[backup]: `valt` is no flag (did you mean vault?)"),
        (
            "[clusters.prod]\npropertys = {}",
            "[clusters.prod]: `propertys` is unknown (did you mean properties?)",
        ),
        ("[clusters.prot]", "[clusters.prod]: there is no such cluster (did you mean prot?)"),
        ("[clusters.prod]\ncommand-config = 'no-such'", "no-such can't be read"),
        (
            "[clusters.prod]\nproperties = { 'sasl.password' = { env = 'NO_SUCH' } }",
            "sasl.password: NO_SUCH is not set",
        ),
        (
            "[clusters.prod]\nproperties = { 'sasl.password' = { command = 'echo hunter2; exit 7' } }",
            "exit status: 7",
        ),
        ("[clusters.prod]\nproperties = { 'sasl.password' = { file = 'no-such' } }", "no-such can't be read"),
        ("[clusters.prod]", "no brokers are named"),
    ] {
        desk.file("c.toml", text);
        desk.refuses(&format!("--config c.toml {BACKUP} --cluster prod"), &[says]);
    }
    desk.refuses(&format!("{BACKUP} --config no-such.toml"), &["no-such.toml can't be read"]);
    desk.refuses(
        &format!("{BACKUP} --cluster prod"),
        &["--cluster prod: there are no clusters", "BODLEY_CONFIG"],
    );
}

/// Settings reach the connection: nobody listens there (exit 1), and the address is named.
#[test]
fn brokers_from_everywhere() {
    let desk = Desk::new();
    desk.file("p", "bootstrap.servers=PLAINTEXT://{free}\nacks=all\nclientid=x\nsasl.password=hunter2\n");
    let said = |ran: Ran| ran.exits(1).says(&desk.free);
    let ran = said(desk.run(&format!("{BACKUP} --command-config p"), &[]));
    for note in [
        "bodley: note: settings without meaning for bodley: acks\n",
        "bodley: note: unknown settings, without effect: clientid (did you mean client.id?)\n",
        "bodley: note: not used with this security.protocol and sasl.mechanism: sasl.password\n",
    ] {
        assert_eq!(ran.err.matches(note).count(), 1, "{note}: {ran}");
    }
    let ran = said(desk.run(&format!("{BACKUP} --command-config p --quiet"), &[]));
    assert!(!ran.err.contains("note:"), "{ran}");
    desk.file("c.toml", "[common]\nquiet = true\n[clusters.prod]\ncommand-config = 'p'\n[backup]\ncluster = 'prod'\nvault = 'vault'\ngive-up-after = '1s'\n[restore]\ncluster = 'prod'\n");
    let ran = said(desk.run("backup --config c.toml", &[]));
    assert!(!ran.err.contains("note:"), "{ran}");
    said(desk.run("backup", &[("BODLEY_CONFIG", "c.toml")]));
    desk.file("d.toml", "[clusters.a]\nbootstrap-server = '{free}'\nproperties = { 'client.id' = 'x' }");
    said(desk.run(&format!("--config d.toml {BACKUP} --cluster a"), &[]));
    // What is typed wins.
    desk.file(
        "c.toml",
        "[clusters.prod]\nbootstrap-server = '127.0.0.1:1'\n[backup]\ncluster = 'prod'\nvault = '/no/such'\n",
    );
    said(desk.run(&format!("{BACKUP} --config c.toml -b {}", desk.free), &[]));
}

/// A secret for all to see is said, and a password in the environment completes a file.
#[test]
fn secrets() {
    let desk = Desk::new();
    let text = "bootstrap.servers={free}\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-256\nsasl.username=u\n";
    desk.file("p", text);
    let args = format!("{BACKUP} --command-config p");
    desk.refuses(&args, &["sasl.password: not set"]);
    let ran = desk.run(&args, &[("BODLEY_SASL_PASSWORD", "hunter2")]).exits(1).says(&desk.free);
    assert!(!ran.err.contains("note:"), "{ran}");
    desk.file("p", &format!("{text}sasl.password=hunter2\n"));
    let ran = desk.run(&args, &[]).exits(1);
    assert!(!ran.err.contains("note:"), "{ran}");
    fs::set_permissions(desk.path("p"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    desk.run(&args, &[])
        .exits(1)
        .says("p holds a secret and may be read by other users of this machine: chmod 600 p");
    desk.file("q", &format!("{text}sasl.mechanisms=OAUTHBEARER"));
    desk.refuses(
        &format!("{BACKUP} --command-config q"),
        &["sasl.mechanisms: sasl.mechanism says something else"],
    );
}

/// On a real Kafka: a file of flags and a file of its tools are all that is needed, there and back.
#[test]
fn there_and_back_by_files_alone() {
    let site = Site::at(shared_cluster().unwrap());
    site.topic("by-files", 1);
    site.write("by-files", 0, "record", 7);
    let (desk, vault) = (Desk::new(), Vault::new());
    let servers = site.cluster.bootstrap();
    desk.file(
        "p",
        &format!("bootstrap.servers={servers}\nclient.id=desk\nacks=all\nsend.buffer.bytes=131072\n"),
    );
    let sections = format!(
        "[clusters.one]\ncommand-config = 'p'\n[backup]\ncluster = 'one'\nvault = '{0}'\ntopic = ['by-files']\n[restore]\ncluster = 'one'\nvault = '{0}'\nrename = ['by-files=by-files-2']\ntopic = ['by-files']\n",
        vault.url()
    );
    desk.file("c.toml", &sections);
    let config = desk.path("c.toml").display().to_string();
    for verb in ["backup", "restore"] {
        let report = bodley(&["--config", &config, verb, "--output", "json"]).exits(0).json();
        assert_eq!(report["records"], 7, "{report}");
        let notes = list(&report, "notes");
        let note = "settings without meaning for bodley: acks";
        assert_eq!(notes.iter().filter(|told| *told == note).count(), 1, "{report}");
    }
    common::judge::same(&site.dump("by-files"), &site.dump("by-files-2"));
    let ran = bodley(&["--config", &config, "backup"]).exits(0);
    assert_eq!(ran.err.matches("without meaning").count(), 1, "{ran}");
}

/// Nothing that asks for help needs a good file.
#[test]
fn help_without_a_file() {
    let desk = Desk::new();
    let ran = desk.run("backup --help", &[("BODLEY_CONFIG", "no-such")]).exits(0);
    for flag in ["--command-config", "--cluster", "--config", "BODLEY_CONFIG", "BODLEY_SASL_PASSWORD"] {
        assert!(ran.out.contains(flag), "{flag}: {ran}");
    }
    for verb in ["backup", "restore"] {
        let help = desk.run(&format!("{verb} --help"), &[]).exits(0).out;
        assert!(!help.contains("--password") && !help.contains("--secret"), "a flag takes a secret");
    }
}
