//! `cargo bench-e2e`: Bodley beside what else moves a topic, in turns, on the same topics of the same cluster.

mod contestant;
mod peer;
mod scenario;
mod site;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::cost;
use crate::payload;
use crate::reader::Tally;
use contestant::{Contestant, Ground, obstacle, ourselves};
use peer::Peer;
use scenario::{Choice, Scenario};
use site::Site;
use table::{Outcome, Run, Session};

/// What to measure, and how often.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    choice: Choice,
    /// Runs of each contestant that count; one round before them warms up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only these contestants
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Also measure another program for backups, built when first asked for
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    peer: Vec<Peer>,
    /// In which order contestants run in a round
    #[arg(long, value_enum, default_value_t = Order::Rotating)]
    order: Order,
    /// What shuffles; a random one is taken, and printed, when none is given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Another cluster; the numbers of its brokers' CPU are not to be had
    #[arg(short, long, value_name = "HOST:PORT")]
    bootstrap_server: Option<String>,
    /// A bodley of release quality
    #[arg(long, value_name = "FILE", default_value = "target/release/bodley")]
    bodley: PathBuf,
    /// Where vaults and copies are made and thrown away
    #[arg(long, value_name = "FOLDER", default_value = "target")]
    vaults: PathBuf,
    /// Also write all runs and medians to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Orders of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Each round begins with another contestant.
    Rotating,
    /// At random, anew for each round.
    Shuffled,
}

/// Measures, and prints one table.
pub fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let work = tempfile::Builder::new().prefix("bench-").tempdir_in(&options.vaults);
    let work = work.with_context(|| format!("make a folder in {}", options.vaults.display()))?;
    let (contestants, left_out) = options.contestants(work.path())?;
    let site = Site::open(options.bootstrap_server.as_deref())?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut session = Session {
        schema: "bodley.bench.v1",
        cluster: site.describe(),
        processors: thread::available_parallelism()?.get(),
        runs: options.runs as usize,
        order: options.order.to_possible_value().map_or_else(String::new, |o| o.get_name().to_owned()),
        seed,
        left_out,
        scenarios: Vec::new(),
    };
    for scenario in options.choice.scenarios() {
        eprintln!("{scenario}, {} MiB", scenario.mebibytes);
        let mut meeting = Meeting { options, site: &site, contestants: &contestants, random: &mut random };
        session.scenarios.push(meeting.hold(scenario, work.path())?);
    }
    println!("{}", session.text());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&session)?;
        fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

impl Options {
    /// Who takes part, and who does not though asked for.
    fn contestants(&self, folder: &Path) -> Result<(Vec<Contestant>, Vec<String>)> {
        let is_missing = |one: &&Contestant| one.peer().is_some_and(|peer| !self.peer.contains(&peer));
        if self.only.iter().any(|one| is_missing(&one)) {
            anyhow::bail!("--only names a peer that --peer does not: add --peer oso");
        }
        let all = Contestant::value_variants().iter().copied();
        let all = all.filter(|one| one.peer().is_none_or(|peer| self.peer.contains(&peer)));
        let wanted = all.filter(|one| self.only.is_empty() || self.only.contains(one));
        let (mut taking_part, mut left_out) = (Vec::new(), Vec::new());
        for contestant in wanted {
            match obstacle(contestant, folder) {
                None => taking_part.push(contestant),
                Some(why) => left_out.push(format!("{}: {why}", contestant.name())),
            }
        }
        ensure!(!taking_part.is_empty(), "nobody is left to measure: {}", left_out.join("; "));
        let bodleys =
            |c: &Contestant| matches!(c, Contestant::Backup | Contestant::Verify | Contestant::Restore);
        ensure!(
            self.bodley.exists() || !taking_part.iter().any(bodleys),
            "there is no {}: run `cargo build --release --package bodley-cli`",
            self.bodley.display()
        );
        if taking_part.iter().any(|one| one.peer().is_some()) {
            peer::build()?;
        }
        Ok((taking_part, left_out))
    }
}

/// All contestants at one topic.
struct Meeting<'a> {
    options: &'a Options,
    site: &'a Site,
    contestants: &'a [Contestant],
    random: &'a mut fastrand::Rng,
}

impl Meeting<'_> {
    fn hold(&mut self, scenario: Scenario, work: &Path) -> Result<Outcome> {
        let folder = tempfile::tempdir_in(work)?;
        let (codec, form) = (scenario.codec.name(), scenario.batches.name());
        let topic = self.site.name(&format!("{}-{codec}-{form}", scenario.partitions));
        self.site.create(&topic, scenario.partitions)?;
        let filled = fill(self.site, &topic, scenario)?;
        let (site, bodley) = (self.site, self.options.bodley.as_path());
        let ground = Ground { site, scenario, topic, filled, folder: folder.path(), bodley };
        self.lay_out(&ground)?;
        let mut runs = Vec::new();
        for round in 0..=self.options.runs as usize {
            for contestant in self.order(round) {
                let run = measure(&ground, contestant, round)
                    .with_context(|| format!("{} of {scenario}, round {round}", contestant.name()))?;
                if round > 0 {
                    runs.push(run);
                }
            }
        }
        self.site.delete(&ground.topic)?;
        Ok(Outcome::new(scenario, filled.bytes, filled.records, runs))
    }

    /// Files that contestants read.
    fn lay_out(&self, ground: &Ground<'_>) -> Result<()> {
        if self.contestants.iter().any(|contestant| contestant.needs_vault()) {
            cost::of(&mut ground.backup(&ground.standing_vault()))?;
        }
        if self.contestants.contains(&Contestant::OsoRestore) {
            cost::of(&mut ground.peer_backup(&ground.standing_peer())?)?;
        }
        if self.contestants.contains(&Contestant::ProducerPerf) {
            let mut lines = payload::values(ground.scenario.batches).join(&b'\n');
            lines.push(b'\n');
            fs::write(ground.lines(), lines)?;
        }
        Ok(())
    }

    fn order(&mut self, round: usize) -> Vec<Contestant> {
        let mut order = self.contestants.to_vec();
        match self.options.order {
            Order::Rotating => order.rotate_left(round % self.contestants.len()),
            Order::Shuffled => self.random.shuffle(&mut order),
        }
        order
    }
}

/// One run, with what comes before and after it.
fn measure(ground: &Ground<'_>, contestant: Contestant, round: usize) -> Result<Run> {
    let mut prepared = ground.prepare(contestant, round)?;
    ground.site.settle()?;
    let broker = ground.site.cpu()?;
    let (cost, output) = cost::of(&mut prepared.command)?;
    let broker = broker.zip(ground.site.cpu()?).map(|(before, after)| after - before);
    let told = ground.judge(contestant, &prepared, &output)?;
    if let Some(topic) = &prepared.topic {
        ground.site.delete(topic)?;
    }
    if let Some(folder) = &prepared.folder {
        fs::remove_dir_all(folder)?;
    }
    Ok(Run {
        contestant,
        round,
        seconds: cost.took.as_secs_f64(),
        cpu_seconds: cost.cpu,
        broker_cpu_seconds: broker,
        peak_rss_bytes: cost.rss,
        requests: told.requests,
        objects: told.objects,
    })
}

/// Fills a topic by a process of its own, so that this one stays small: a child's peak of memory begins at ours.
fn fill(site: &Site, topic: &str, scenario: Scenario) -> Result<Tally> {
    let mut command = ourselves()?;
    command.args(["fill", "--topic", topic, "--address", site.bootstrap()]);
    command.args(["--codec", scenario.codec.name(), "--batches", scenario.batches.name()]);
    command.args(["--bytes", &(scenario.mebibytes << 20).to_string()]);
    let (_, output) = cost::of(&mut command).context("fill the topic")?;
    Ok(serde_json::from_str(&output)?)
}
