//! What the tests here share: bodley as a user runs it, vaults on disk, and the judgement of Apache's own client.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure ends the test"
)]

pub mod bucket;
pub mod in_flight;
pub mod judge;
pub mod life;
pub mod site;
pub mod stage;
pub mod vault;

use std::fmt;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A run that takes longer hangs: more than the two minutes for which bodley follows a cluster that makes no progress.
const LIMIT: Duration = Duration::from_secs(600);
/// The same after a signal: it may wait for its last requests, and for its commit.
const SIGNAL_LIMIT: Duration = Duration::from_secs(60);
/// What is to be seen of a run must be seen by then.
pub const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);
const SIGTERM: u32 = 15;
/// What a backup says with `-v` when it begins to read.
const READS: &str = "the ends are known";

/// Bodley with these arguments, not started yet.
pub fn command<S: AsRef<str>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bodley"));
    command.args(args.iter().map(AsRef::as_ref)).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("BODLEY_LOG").env_remove("BODLEY_CONFIG").env_remove("RUST_BACKTRACE");
    command
}

/// Runs bodley to its end.
pub fn bodley<S: AsRef<str>>(args: &[S]) -> Ran {
    start(args).wait()
}

/// Runs a bodley that was prepared as `command` with these arguments to its end.
pub fn run<S: AsRef<str>>(command: Command, args: &[S]) -> Ran {
    spawn(command, args).wait()
}

/// Starts bodley.
pub fn start<S: AsRef<str>>(args: &[S]) -> Running {
    spawn(command(args), args)
}

/// Starts bodley with a disk on which no file can become larger than some MiB: writing beyond fails as on a full one.
pub fn start_on_a_small_disk<S: AsRef<str>>(args: &[S]) -> Running {
    start_in_shell(r#"trap '' XFSZ; ulimit -f 4096; exec "$0" "$@""#, args)
}

/// Starts a shell script in which `"$0"` is bodley and `"$@"` are these arguments.
pub fn start_in_shell<S: AsRef<str>>(script: &str, args: &[S]) -> Running {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_bodley")]).args(args.iter().map(AsRef::as_ref));
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(shell, args)
}

/// Starts a bodley that was prepared as `command` with these arguments.
pub fn spawn<S: AsRef<str>>(mut command: Command, args: &[S]) -> Running {
    let shown = args.iter().map(|arg| format!(" {}", arg.as_ref())).collect::<String>();
    let mut child = command.spawn().expect("start bodley");
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let (shown, started, limit) = (format!("bodley{shown}"), Instant::now(), LIMIT);
    Running { child, shown, started, peak: 0, limit, out, err }
}

/// What comes out of a pipe.
struct Drain {
    seen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> Drain {
    let mut pipe = pipe.expect("a pipe");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let bytes = Arc::clone(&seen);
    let reader = thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut chunk) {
            bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..n]);
        }
    });
    Drain { seen, reader }
}

impl Drain {
    /// What came up to now.
    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// All that came.
    fn end(self) -> String {
        self.reader.join().expect("the reader of a pipe");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(std::mem::take(&mut seen)).expect("output is UTF-8")
    }
}

/// A run under way.
pub struct Running {
    child: Child,
    shown: String,
    started: Instant,
    peak: u64,
    limit: Duration,
    out: Drain,
    err: Drain,
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs; notes its memory on the way.
    pub fn is_running(&mut self) -> bool {
        self.peak = self.peak.max(peak_memory(self.child.id()));
        self.child.try_wait().expect("wait for bodley").is_none()
    }

    /// Gives it so much time, or less if it ends.
    pub fn leave_alone(&mut self, time: Duration) -> &mut Self {
        let until = Instant::now() + time;
        while Instant::now() < until && self.is_running() {
            thread::sleep(POLL);
        }
        self
    }

    /// Waits until this is so, while it runs.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut is_so: impl FnMut() -> bool) -> &mut Self {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: never: {}", self.err.so_far());
            self.leave_alone(POLL * 4);
            assert!(self.is_running(), "it ended before this: {what}: {}", self.err.so_far());
        }
        self
    }

    /// Waits until a backup that was started with `-v` reads up to ends that are fixed.
    #[track_caller]
    pub fn reads(&mut self) -> &mut Self {
        let seen = Arc::clone(&self.err.seen);
        let said = move || seen.lock().unwrap().windows(READS.len()).any(|text| text == READS.as_bytes());
        self.wait_until(READS, said)
    }

    /// Waits until it listens for SIGTERM: before, that ends it as it does any process.
    fn listens(&mut self) {
        let file = format!("/proc/{}/status", self.child.id());
        let deadline = Instant::now() + PATIENCE;
        let catches = || {
            let status = fs::read_to_string(&file).unwrap_or_default();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim();
            u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & (1 << (SIGTERM - 1)) != 0)
        };
        while self.is_running() && !catches() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }

    /// It may take so long.
    pub fn may_take(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends a signal by name, unless it has ended; one that it listens for as soon as it does.
    pub fn signal(&mut self, name: &str) {
        if ["TERM", "INT"].contains(&name) {
            self.listens();
            self.limit = SIGNAL_LIMIT;
        }
        if self.is_running() {
            let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
            assert!(kill.expect("start sh").success(), "signal {name} could not be sent");
        }
    }

    /// Kills it (SIGKILL).
    pub fn kill(mut self) -> Ran {
        let _ = self.child.kill();
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ran {
        let limit = self.limit;
        self.leave_alone(limit);
        let hangs = self.is_running();
        if hangs {
            let _ = self.child.kill();
        }
        let status = self.child.wait().expect("wait for bodley");
        let (took, peak) = (self.started.elapsed(), self.peak);
        let (out, err) = (self.out.end(), self.err.end());
        let ran = Ran { shown: self.shown, code: status.code(), out, err, took, peak };
        assert!(!hangs, "still running after {limit:?}: {ran}");
        for trace in ["panicked at", "RUST_BACKTRACE"] {
            assert!(!ran.err.contains(trace), "a panic: {ran}");
        }
        ran
    }
}

/// The most memory that a process has had, bytes; 0 when it has ended.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// A run that is over.
pub struct Ran {
    /// As typed.
    shown: String,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it said.
    pub err: String,
    /// How long it took.
    pub took: Duration,
    /// The most memory it had, bytes.
    pub peak: u64,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shown, code, out, err, took, .. } = self;
        write!(f, "{shown}\nended with {code:?} after {took:?}\n--- stdout\n{out}\n--- stderr\n{err}\n---")
    }
}

impl Ran {
    /// Insists on an exit code. With `--output json` also on the one document and what it says of it.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        if self.shown.contains("--output json") {
            self.json();
        }
        self
    }

    /// The same for a run that was ended before it could print its document.
    #[track_caller]
    pub fn exits_without_a_document(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        assert_eq!(self.out, "", "{self}");
        self
    }

    /// Insists that stderr or the JSON document says this.
    #[track_caller]
    pub fn says(self, what: &str) -> Self {
        assert!(self.err.contains(what) || self.out.contains(what), "`{what}` is not said: {self}");
        self
    }

    /// Insists on an end within so many seconds.
    #[track_caller]
    pub fn within(self, seconds: u64) -> Self {
        assert!(self.took < Duration::from_secs(seconds), "not within {seconds} s: {self}");
        self
    }

    /// The one JSON document on stdout, which must agree with the process.
    #[track_caller]
    pub fn json(&self) -> Value {
        let document: Value =
            serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not one JSON document ({e}): {self}"));
        assert!(document["schema"].is_string() && document["version"].is_string(), "{self}");
        assert_eq!(document["exit_code"].as_i64(), self.code.map(i64::from), "{self}");
        let failed = ![Some(0), Some(130), Some(143)].contains(&self.code);
        let errors = document["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(!failed || !errors.is_empty(), "exit without a reason: {self}");
        for error in errors {
            let told = |field: &str| error[field].as_str().is_some_and(|text| !text.is_empty());
            assert!(told("code") && told("message"), "{self}");
        }
        document
    }
}

/// With BODLEY_SOAK set some tests take longer.
pub fn soak() -> bool {
    std::env::var_os("BODLEY_SOAK").is_some()
}

/// A time.
pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// The array in a field of a document.
#[track_caller]
pub fn list<'a>(document: &'a Value, field: &str) -> &'a [Value] {
    document[field]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_else(|| panic!("no list `{field}` in {document:#}"))
}

/// The topics of a document with this name, the newest first in a listing.
pub fn topics<'a>(document: &'a Value, name: &str) -> Vec<&'a Value> {
    list(document, "topics").iter().filter(|topic| topic["topic"] == name).collect()
}

/// Seeded randomness (SplitMix64); it prints its seed, so that a failure can be played again.
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(what: &str, seed: u64) -> Self {
        eprintln!("{what}: seed {seed}");
        Self(seed)
    }

    /// A number below `below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    /// A time below so many milliseconds.
    pub fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}
