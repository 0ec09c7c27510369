//! The rights that docs/permissions.md lists are enough, and each of them is needed: without it a run says which one is missing, before
//! anything is written. The rights are taken from the page itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failure ends the test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use bodley_testbed::jars::{DEFAULT_VERSION, Kafka};
use bodley_testbed::security::{ALICE, BOB, User};
use bodley_testbed::workbench::{GroupOffset, Right};
use bodley_testbed::{Cluster, ClusterOptions, Door, Login, paths, properties};
use common::judge::same;
use common::site::Site;
use common::vault::Vault;
use common::{Ran, Running, list, topics};
use serde_json::Value;

fn site() -> Site {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| {
        let cluster = Cluster::start(ClusterOptions::new().authorized()).unwrap();
        for (user, door, mechanism) in
            [(ALICE, Door::SaslSsl, "SCRAM-SHA-512"), (BOB, Door::SaslPlaintext, "PLAIN")]
        {
            let settings = cluster.client_properties(door, &Login::password(mechanism, user)).unwrap();
            let file = properties_of(&cluster, user);
            fs::write(&file, properties::text(&settings)).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        }
        cluster
    });
    Site::at(cluster)
}

fn properties_of(cluster: &Cluster, user: User) -> PathBuf {
    cluster.dir().join(format!("{}.properties", user.name))
}

/// Runs bodley as a user.
fn run(site: &Site, user: User, verb: &str, vault: &Vault, args: &[&str]) -> Ran {
    start(site, user, verb, vault, args).wait()
}

fn start(site: &Site, user: User, verb: &str, vault: &Vault, args: &[&str]) -> Running {
    let file = properties_of(site.cluster, user).display().to_string();
    let fixed = [verb, "--command-config", &file, "--vault", vault.url(), "--output", "json", "--quiet"];
    common::start(&[&fixed, args].concat())
}

/// A right as the page gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Acl {
    principal: String,
    kind: &'static str,
    name: String,
    operation: String,
}

impl Acl {
    fn right(&self) -> Right<'_> {
        let (principal, name) = (&*self.principal, &*self.name);
        Right { principal, kind: self.kind, name, pattern: "PREFIXED", operation: &self.operation }
    }

    fn with(&self, operation: &str) -> Self {
        Self { operation: operation.to_owned(), ..self.clone() }
    }

    fn allow(&self, site: &Site) {
        site.bench.allow(self.right()).unwrap();
    }

    fn revoke(&self, site: &Site) {
        site.bench.revoke(self.right()).unwrap();
    }

    /// Whether this is told: an operation as Kafka's tools write it, and on what.
    fn is_named(&self, text: &str) -> bool {
        let operation = self.operation.replace('_', "");
        text.to_lowercase().contains(&operation.to_lowercase()) && text.contains(&self.name)
    }
}

/// The rights under a heading of the page, with other names in place of its own.
fn acls(heading: &str, names: &[(&str, &str)]) -> Vec<Acl> {
    let page = fs::read_to_string(paths::workspace_dir().join("docs/permissions.md")).unwrap();
    let (_, section) = page.split_once(&format!("### {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let commands = block.replace("\\\n", " ");
    let mut found = Vec::new();
    for command in commands.lines() {
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[..3], ["kafka-acls.sh", "$ADMIN", "--add"], "{command}");
        let after = |flag: &str| words.iter().position(|word| *word == flag).map(|at| words[at + 1]);
        assert_eq!(after("--resource-pattern-type"), Some("prefixed"), "{command}");
        let kinds = [("--topic", "TOPIC"), ("--group", "GROUP"), ("--transactional-id", "TRANSACTIONAL_ID")];
        let (kind, name) = kinds.iter().find_map(|(flag, kind)| Some((*kind, after(flag)?))).unwrap();
        let name = names.iter().find(|(from, _)| *from == name).unwrap_or_else(|| panic!("{name}?")).1;
        for pair in words.windows(2).filter(|pair| pair[0] == "--operation") {
            let operation = match pair[1] {
                "DescribeConfigs" => "DESCRIBE_CONFIGS".to_owned(),
                "AlterConfigs" => "ALTER_CONFIGS".to_owned(),
                other => other.to_uppercase(),
            };
            let principal = after("--allow-principal").unwrap().to_owned();
            found.push(Acl { principal, kind, name: name.to_owned(), operation });
        }
    }
    assert!(!found.is_empty(), "{heading}");
    found
}

/// The page's commands are such as Kafka's own tool takes, and its policies are JSON.
#[test]
fn the_page_is_well_formed() {
    let page =
        fs::read_to_string(paths::workspace_dir().join("docs/permissions.md")).unwrap().replace("\\\n", " ");
    let classpath = Kafka::ensure(DEFAULT_VERSION).unwrap().classpath();
    let bootstrap = site().cluster.bootstrap();
    let mut commands = 0;
    for command in page.lines().filter_map(|line| line.strip_prefix("kafka-acls.sh $ADMIN ")) {
        let mut java = Command::new("java");
        java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &classpath]);
        java.args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server", &bootstrap]);
        let out = java.args(command.split_whitespace()).output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        commands += 1;
    }
    assert_eq!(commands, 11);
    for policy in page.split("```json\n").skip(1) {
        let policy: Value = serde_json::from_str(policy.split_once("```").unwrap().0).unwrap();
        assert!(policy["Statement"].is_array());
    }
}

fn error<'a>(document: &'a Value, code: &str) -> &'a Value {
    let found = list(document, "errors").iter().find(|error| error["code"] == code);
    found.unwrap_or_else(|| panic!("no error `{code}`: {document:#}"))
}

fn told(error: &Value) -> String {
    format!("{} {}", error["message"].as_str().unwrap(), error["hint"].as_str().unwrap_or_default())
}

fn position(topic: &str, offset: i64) -> [GroupOffset; 1] {
    [GroupOffset::new(topic, 0, offset)]
}

// Backup.

/// Two topics with a group each, which alice may back up.
struct Two {
    site: Site,
    vault: Vault,
    prefix: &'static str,
    open: Vec<Acl>,
    shut: Vec<Acl>,
}

impl Two {
    fn new(prefix: &'static str) -> Self {
        let site = site();
        let rights = |which: &str| {
            let (topic, group) = (format!("{prefix}-{which}"), format!("{prefix}-group-{which}"));
            site.topic(&topic, 1);
            site.write(&topic, 0, "old", 10);
            site.bench.commit_offsets(&group, &position(&topic, 4)).unwrap();
            let all = acls("Backup", &[("orders-", &topic), ("billing-", &group)]);
            all.iter().for_each(|acl| acl.allow(&site));
            all
        };
        let (open, shut) = (rights("open"), rights("shut"));
        let two = Self { vault: Vault::new(), open, shut, prefix, site: site.clone() };
        let report = two.backup().exits(0).json();
        assert_eq!((&report["records"], &report["groups"]), (&20.into(), &2.into()), "{report:#}");
        two
    }

    fn backup(&self) -> Ran {
        run(&self.site, ALICE, "backup", &self.vault, &["--topic", &format!("{}-*", self.prefix)])
    }

    fn write(&self) {
        for which in ["open", "shut"] {
            self.site.write(&format!("{}-{which}", self.prefix), 0, "new", 10);
        }
    }

    /// Records that this run took of a topic.
    fn took(&self, report: &Value, which: &str) -> u64 {
        let found = topics(report, &format!("{}-{which}", self.prefix));
        found.first().map_or(0, |topic| topic["records"].as_u64().unwrap())
    }

    /// The vault has both topics and both groups, as things that are there.
    fn keeps_all(&self) {
        let listed = self.vault.listed();
        for which in ["open", "shut"] {
            let found = topics(&listed, &format!("{}-{which}", self.prefix));
            assert!(found.len() == 1 && found[0]["present"] == true, "{which}: {listed:#}");
        }
        let shown = self.vault.bodley("show", &["--groups"]).exits(0).json();
        assert_eq!(list(&shown, "groups").len(), 2, "{shown:#}");
    }
}

#[test]
fn a_topic_that_may_not_be_read() {
    let two = Two::new("read");
    let (site, read) = (&two.site, two.shut.iter().find(|acl| acl.operation == "READ").unwrap());
    let shut = read.name.clone();

    // Describe is left: it is seen.
    read.with("DESCRIBE").allow(site);
    read.revoke(site);
    two.write();
    let report = two.backup().exits(1).json();
    let denied = error(&report, "denied");
    assert!(denied["topic"] == *shut && told(denied).contains("the right Read on it is missing"), "{denied}");
    assert_eq!((list(&report, "errors").len(), two.took(&report, "open")), (1, 10), "{report:#}");
    two.keeps_all();

    // Not even that: it is not taken for deleted.
    read.with("DESCRIBE").revoke(site);
    two.write();
    let report = two.backup().exits(1).json();
    let denied = error(&report, "denied");
    assert!(denied["topic"] == *shut && told(denied).contains("the right Describe on it"), "{denied}");
    assert_eq!((list(&report, "errors").len(), two.took(&report, "open")), (1, 10), "{report:#}");
    assert!(!list(&report, "notes").iter().any(|note| note.as_str().unwrap().contains("gone")), "{report:#}");
    two.keeps_all();

    // A name is missed also by a vault that does not know it, which is not made for that.
    let vault = Vault::new();
    let report = run(site, ALICE, "backup", &vault, &["--topic", &shut]).exits(1).json();
    assert!(told(error(&report, "denied")).contains(&format!("Describe on topic {shut}")), "{report:#}");
    assert!(vault.objects().is_empty());

    // It goes on where it was.
    read.allow(site);
    let report = two.backup().exits(0).json();
    assert_eq!((two.took(&report, "open"), two.took(&report, "shut")), (0, 20), "{report:#}");
    two.keeps_all();
    two.vault.verified();
}

#[test]
fn settings_that_may_not_be_read() {
    let two = Two::new("settings");
    let (site, acl) = (&two.site, two.shut.iter().find(|acl| acl.operation == "DESCRIBE_CONFIGS").unwrap());
    acl.revoke(site);
    site.bench.alter_config(&acl.name, &[("retention.ms", "86400000")], &[]).unwrap();
    two.write();
    let report = two.backup().exits(1).json();
    let denied = error(&report, "denied");
    assert!(denied["topic"] == *acl.name && told(denied).contains("DescribeConfigs on it"), "{denied}");
    assert_eq!((two.took(&report, "open"), two.took(&report, "shut")), (10, 10), "{report:#}");
    two.keeps_all();
    acl.allow(site);
    two.backup().exits(0);
    let shown = two.vault.bodley("show", &[&acl.name]).exits(0).json();
    assert!(shown.to_string().contains("86400000"), "{shown:#}");
}

#[test]
fn a_group_that_may_not_be_seen() {
    let two = Two::new("groups");
    let (site, acl) = (&two.site, two.shut.iter().find(|acl| acl.kind == "GROUP").unwrap());
    acl.revoke(site);
    two.write();
    let report = two.backup().exits(1).json();
    let said = told(error(&report, "group_unreadable"));
    assert!(acl.is_named(&said), "{said}");
    assert_eq!((two.took(&report, "open"), two.took(&report, "shut")), (10, 10), "{report:#}");
    two.keeps_all();
    acl.allow(site);
    assert_eq!(two.backup().exits(0).json()["groups"], 2);
    two.keeps_all();
    assert_eq!(two.open.len(), 3);
}

// Restore.

/// A topic and a group in a vault, and what bob may do with their copies.
struct Copy {
    site: Site,
    vault: Vault,
    source: String,
    target: String,
    group: String,
    id: String,
}

impl Copy {
    fn new(id: &str) -> Self {
        let site = site();
        let (source, target, group) = (format!("{id}-source"), format!("{id}-copy"), format!("{id}-group"));
        site.topic(&source, 2);
        site.write(&source, 0, "first", 40);
        site.write(&source, 1, "second", 20);
        site.bench.commit_offsets(&group, &position(&source, 15)).unwrap();
        let names = [("orders-", source.as_str()), ("billing-", group.as_str())];
        acls("Backup", &names).iter().for_each(|acl| acl.allow(&site));
        let vault = Vault::new();
        let report = run(&site, ALICE, "backup", &vault, &["--topic", &source]).exits(0).json();
        assert_eq!((&report["records"], &report["groups"]), (&60.into(), &1.into()), "{report:#}");
        Self { site, vault, source, target, group, id: id.to_owned() }
    }

    fn state_group(&self) -> String {
        format!("bodley-restore-{}", self.id)
    }

    /// Gives bob what the page has under these headings.
    fn allow(&self, headings: &[&str]) -> Vec<Acl> {
        let state = self.state_group();
        let names = [("orders-", &*self.target), ("billing-", &*self.group), ("bodley-restore-", &*state)];
        let all: Vec<Acl> = headings.iter().flat_map(|heading| acls(heading, &names)).collect();
        all.iter().for_each(|acl| acl.allow(&self.site));
        all
    }

    fn restore(&self, args: &[&str]) -> Ran {
        self.start(args).wait()
    }

    fn start(&self, args: &[&str]) -> Running {
        let rename = format!("{}={}", self.source, self.target);
        let fixed = ["--topic", &self.source, "--rename", &rename, "--restore-id", &self.id];
        start(&self.site, BOB, "restore", &self.vault, &[&fixed, args].concat())
    }

    /// Without any one of these it is refused, and `untouched` looks whether anything was written.
    fn needs(&self, all: &[Acl], args: &[&str], untouched: impl Fn()) {
        for acl in all {
            acl.revoke(&self.site);
            let ran = self.restore(args);
            assert_eq!(ran.code, Some(1), "without {acl:?}: {ran}");
            let report = ran.json();
            let said = told(error(&report, "denied"));
            assert!(acl.is_named(&said), "without {acl:?}: {said}");
            assert_eq!(list(&report, "errors").len(), 1, "without {acl:?}: {report:#}");
            untouched();
            for group in [&self.group, &self.state_group()] {
                let positions = self.site.bench.group_offsets(group).unwrap();
                let of_copy = positions.iter().filter(|position| position.topic == self.target);
                assert_eq!(of_copy.count(), 0, "without {acl:?}: positions of {group}");
            }
            acl.allow(&self.site);
        }
    }

    /// It works, and all is there.
    fn succeeds(&self, args: &[&str]) -> Value {
        let report = self.restore(args).exits(0).json();
        same(&self.site.dump(&self.source), &self.site.dump(&self.target));
        report
    }

    /// The group stands before the same record in the copy, and no refused run has left anything before it.
    fn has_position(&self) -> bool {
        let positions = self.site.bench.group_offsets(&self.group).unwrap();
        let position = positions.iter().find(|position| position.topic == self.target);
        position.is_some_and(|position| {
            assert_eq!(position.offset, 15);
            let copied = self.site.dump(&self.target).records().unwrap();
            let next = copied.iter().find(|r| (r.partition, r.offset) == (0, position.offset)).unwrap();
            next.value_text().unwrap() == "first 15"
        })
    }
}

const NEW: &str = "Restore into new topics";
const EMPTY: &str = "Restore into existing topics that are empty";
const APPEND: &str = "Restore with --append into topics that hold data";
const GROUPS: &str = "Positions of groups";
const STATE: &str = "State of a restore at the target";
const STRONG: &str = "The strong way";

fn is_weak(report: &Value) -> bool {
    list(report, "notes").iter().any(|note| note.as_str().unwrap().contains("no transactional id"))
}

#[test]
fn into_a_new_topic() {
    let copy = Copy::new("new");
    let needed = copy.allow(&[NEW, GROUPS, STATE]);
    assert_eq!(needed.len(), 6);
    copy.allow(&[STRONG]);
    copy.needs(&needed, &[], || assert!(!copy.site.has(&copy.target)));
    // All at once, where more than one is missing; but without the state's group there is no restore to look at.
    let (state, others) = needed.split_last().unwrap();
    assert_eq!(state.name, copy.state_group());
    others.iter().for_each(|acl| acl.revoke(&copy.site));
    others[0].with("DESCRIBE").allow(&copy.site);
    let report = copy.restore(&[]).exits(1).json();
    let said = told(error(&report, "denied"));
    assert!(others.iter().all(|acl| acl.is_named(&said)), "{said}");
    others[0].with("DESCRIBE").revoke(&copy.site);
    others.iter().for_each(|acl| acl.allow(&copy.site));
    assert!(!is_weak(&copy.succeeds(&[])));
    assert!(copy.has_position());
}

/// Killed, it goes on at once: the fence needs no more than the page has.
#[test]
fn cut_and_gone_on_with() {
    let copy = Copy::new("cut");
    copy.allow(&[NEW, GROUPS, STATE, STRONG]);
    let mut run = copy.start(&["--limit-write", "200", "--no-merge"]);
    copy.site.until(&mut run, &copy.target, 10);
    run.kill();
    let ran = copy.restore(&[]).exits(0).within(60);
    let notes = ran.json()["notes"].to_string();
    assert!(notes.contains("were there already, from an earlier run"), "{ran}");
    assert!(!is_weak(&copy.succeeds(&[])));
}

#[test]
fn into_a_new_topic_the_weaker_way() {
    let copy = Copy::new("weak");
    copy.allow(&[NEW, GROUPS, STATE]);
    assert!(is_weak(&copy.succeeds(&[])));
    assert!(copy.has_position());
}

/// Groups that are left alone and a state in a file need no right on groups.
#[test]
fn into_a_new_topic_without_groups() {
    let copy = Copy::new("file");
    let needed = copy.allow(&[NEW]);
    let state = copy.vault.root().with_extension("state").display().to_string();
    let args = ["--groups", "none", "--state", &state];
    copy.needs(&needed, &args, || assert!(!copy.site.has(&copy.target)));
    copy.succeeds(&args);
    assert!(!copy.has_position());
    // Done: it is found so.
    copy.succeeds(&args);
}

#[test]
fn into_an_empty_topic() {
    let copy = Copy::new("empty");
    copy.site.bench.create_topic(&copy.target, 2, &[("retention.ms", "-1")]).unwrap();
    let needed = copy.allow(&[EMPTY, GROUPS, STATE]);
    assert_eq!(needed.len(), 5);
    let untouched = || {
        assert_eq!(copy.site.ends(&copy.target), [0, 0]);
        let settings = copy.site.bench.describe(&copy.target).unwrap().own_configs();
        assert_eq!(settings, [("retention.ms".to_owned(), "-1".to_owned())]);
    };
    copy.needs(&needed, &[], untouched);
    // The flag does not change that, as it is empty: AlterConfigs is missed, too, where DescribeConfigs is there.
    let describe = needed[0].with("DESCRIBE_CONFIGS");
    describe.allow(&copy.site);
    copy.needs(&needed, &["--append"], untouched);
    describe.revoke(&copy.site);
    copy.succeeds(&[]);
    assert!(copy.has_position());
}

#[test]
fn behind_what_is_there() {
    let copy = Copy::new("append");
    copy.site.topic(&copy.target, 2);
    copy.site.write(&copy.target, 0, "before", 5);
    let needed = copy.allow(&[APPEND, GROUPS, STATE]);
    assert_eq!(needed.len(), 5);
    copy.needs(&needed, &["--append"], || assert_eq!(copy.site.ends(&copy.target), [5, 0]));
    copy.restore(&["--append"]).exits(0);
    assert_eq!(copy.site.ends(&copy.target), [45, 20]);
}

// Groups.

#[test]
fn each_right_that_a_reset_needs_is_named() {
    let (site, folder) = (site(), tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    let (topic, group) = ("reset-topic", "reset-group");
    site.topic(topic, 1);
    site.write(topic, 0, "some", 10);
    let all = acls("Groups: reset and rollback", &[("orders-", topic), ("billing-", group)]);
    all.iter().for_each(|acl| acl.allow(&site));
    let csv = folder.path().join("offsets.csv").display().to_string();
    fs::write(&csv, format!("{group},{topic},0,5\n")).unwrap();
    let properties = properties_of(site.cluster, BOB).display().to_string();
    let groups = |verb: &str, args: &[&str]| {
        let fixed =
            ["groups", verb, "--command-config", &properties, "--output", "json", "--quiet", "--execute"];
        common::bodley(&[&fixed, args].concat())
    };
    let file = |name: &str| folder.path().join(name).display().to_string();
    for acl in all.iter().filter(|acl| acl.operation == "READ") {
        acl.revoke(&site);
        let saved = file(acl.kind);
        let report = groups("reset", &["--from-file", &csv, "--save", &saved]).exits(1).json();
        let said = told(error(&report, "denied"));
        // Delete includes Describe, not Read.
        assert!(acl.is_named(&said), "{acl:?}: {said}");
        acl.allow(&site);
    }
    let saved = file("saved.json");
    groups("reset", &["--from-file", &csv, "--save", &saved]).exits(0);
    assert_eq!(site.bench.group_offsets(group).unwrap(), position(topic, 5));
    let delete = all.iter().find(|acl| acl.operation == "DELETE").unwrap();
    delete.revoke(&site);
    let report = groups("rollback", &[&saved]).exits(1).json();
    assert!(delete.is_named(&told(error(&report, "denied"))), "{report:#}");
    delete.allow(&site);
    groups("rollback", &[&saved]).exits(0);
    assert_eq!(site.bench.group_offsets(group).unwrap(), []);
}
