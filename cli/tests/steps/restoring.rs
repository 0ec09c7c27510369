//! A restore of two topics, one of which is there already with settings of its own, and what must be true of it in the end.

use std::time::{Duration, Instant};

use bodley_testbed::Dump;
use bodley_testbed::dump::Data;
use bodley_testbed::proxy::{Delivery, Proxy, Steps};

use crate::common::judge::same;
use crate::common::stage::Stage;
use crate::common::vault::Vault;
use crate::common::{Running, seconds};
use crate::{GROUP, PARTITIONS, POSITIONS, TOPICS, is_stopped};

/// The settings of the topic that is there already.
const OWN: [(&str, &str); 3] =
    [("min.insync.replicas", "1"), ("retention.ms", "86400000"), ("segment.ms", "3600000")];
/// The dead run's requests are answered within this time.
const LATE_WITHIN: Duration = Duration::from_secs(30);

/// What becomes of requests that were on their way when a run was killed.
#[derive(Debug, Clone, Copy)]
pub enum Late {
    /// They are lost.
    Lost,
    /// They arrive when the next run has sent so many.
    Meets(usize),
}

/// Runs that are killed, until one is done.
#[derive(Debug)]
pub struct Case {
    /// Names the target topics.
    pub name: String,
    /// At which request each run is killed.
    pub cuts: Vec<(usize, Delivery)>,
    /// What was on its way.
    pub late: Late,
}

/// A cluster with the source topics, which is the target as well.
pub struct Scene {
    stage: Stage,
    vault: Vault,
    expected: [Dump; 2],
}

impl Scene {
    pub fn new(stage: Stage) -> Self {
        let vault = Vault::new();
        stage.backup(&vault, &["--topic", TOPICS[0], "--topic", TOPICS[1]]).exits(0);
        let expected = TOPICS.map(|topic| stage.dump(topic));
        Self { stage, vault, expected }
    }

    fn proxy(&self) -> &Proxy {
        self.stage.cluster.proxy(0).unwrap()
    }

    fn targets(name: &str) -> [String; 2] {
        TOPICS.map(|topic| format!("{topic}-{name}"))
    }

    /// `merge`: small batches are merged, so that there are few requests.
    fn start(&self, name: &str, merge: bool) -> Running {
        let [a, b] = [0, 1].map(|n| format!("{}={}", TOPICS[n], Self::targets(name)[n]));
        let flags = ["--topic", TOPICS[0], "--topic", TOPICS[1], "--rename", &a, "--rename", &b];
        let more = if merge { &[][..] } else { &["--no-merge"][..] };
        self.stage.start("restore", &self.vault, &[&flags, more].concat())
    }

    /// A restore that nobody kills; the APIs that it asks.
    pub fn whole(&self, name: &str) -> Vec<i16> {
        self.stage.bench.create_topic(&Self::targets(name)[1], PARTITIONS, &OWN).unwrap();
        let steps = self.proxy().count_requests();
        self.start(name, false).wait().exits(0);
        let apis = steps.apis();
        self.judge(name);
        apis
    }

    /// Plays a case; how many runs were killed.
    pub fn play(&self, case: &Case) -> usize {
        eprintln!("{case:?}");
        self.stage.bench.create_topic(&Self::targets(&case.name)[1], PARTITIONS, &OWN).unwrap();
        let (mut dead, mut kills): (Vec<Steps>, usize) = (Vec::new(), 0);
        for (at, delivery) in &case.cuts {
            let steps = self.proxy().stop_at_request(*at, *delivery);
            let mut run = self.start(&case.name, false);
            let stopped = self.meet(&mut run, &steps, &dead, case) && is_stopped(&mut run, &steps);
            if !stopped {
                run.wait().exits(0);
                break;
            }
            run.kill();
            kills += 1;
            match case.late {
                Late::Lost => drop(steps),
                Late::Meets(_) => dead.push(steps),
            }
        }
        // The others went batch by batch, of which this one may merge what they have left.
        let merge = case.name.len().is_multiple_of(2);
        let steps = self.proxy().count_requests();
        let mut run = self.start(&case.name, merge);
        self.meet(&mut run, &steps, &dead, case);
        let ran = run.wait();
        dead.iter().for_each(arrived);
        match case.late {
            // A late request makes a topic in the moment in which this run finds it missing: the next run finds it.
            Late::Meets(_) if ran.code == Some(1) => {
                ran.says("has appeared at the target meanwhile");
                self.start(&case.name, merge).wait().exits(0);
            }
            _ => _ = ran.exits(0),
        }
        self.judge(&case.name);
        kills
    }

    /// Lets what the dead have sent arrive when `run` has come so far. False: `run` has ended.
    fn meet(&self, run: &mut Running, steps: &Steps, dead: &[Steps], case: &Case) -> bool {
        let Late::Meets(requests) = case.late else { return true };
        while steps.requests() < requests && !steps.stopped() && run.is_running() {
            std::thread::sleep(seconds(0.002));
        }
        dead.iter().for_each(Steps::release);
        run.is_running()
    }

    /// The same records, the topics' settings, each position at the same record; and nothing is left to do.
    #[track_caller]
    fn judge(&self, name: &str) {
        let targets = Self::targets(name);
        let dumps = targets.each_ref().map(|target| self.stage.dump(target));
        let committed = self.stage.bench.group_offsets(GROUP).unwrap();
        for (n, target) in targets.iter().enumerate() {
            same(&self.expected[n], &dumps[n]);
            let own = self.stage.bench.describe(target).unwrap().own_configs();
            let own: Vec<(&str, &str)> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let expected: &[(&str, &str)] = if n == 0 { &[("retention.ms", "-1")] } else { &OWN };
            assert_eq!(own, expected, "settings of {target}");
            let of_it: Vec<_> = committed.iter().filter(|group| group.topic == *target).collect();
            assert_eq!(of_it.len(), POSITIONS.len(), "positions in {target}");
            for group in of_it {
                let source = POSITIONS[group.partition as usize];
                assert_eq!(
                    next(&dumps[n], group.partition, group.offset),
                    next(&self.expected[n], group.partition, source),
                    "position in {target}-{}",
                    group.partition
                );
            }
        }
        self.start(name, true).wait().exits(0).says("nothing to do");
        targets.iter().for_each(|target| self.stage.bench.delete_topic(target).unwrap());
    }
}

/// The value that a group at this offset reads next. A fence takes an offset: a position is told by its record.
fn next(dump: &Dump, partition: i32, offset: i64) -> Option<Option<Data>> {
    let mut records = dump.iter().unwrap().map(Result::unwrap);
    records.find(|record| record.partition == partition && record.offset >= offset).map(|record| record.value)
}

/// Waits until all that a dead run has sent is answered.
fn arrived(steps: &Steps) {
    steps.release();
    let deadline = Instant::now() + LATE_WITHIN;
    while steps.connections() > 0 {
        assert!(Instant::now() < deadline, "requests of a dead run are not answered");
        std::thread::sleep(seconds(0.002));
    }
}
