//! Server processes that cannot outlive the process that started them.
//!
//! Each runs under a small shell that holds a pipe from us. When the pipe closes, for whatever reason (a drop, a
//! panic, a signal, SIGKILL, an exit that runs no destructors), the shell kills the process that it started.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const SUPERVISOR: &str = r#"
exec 3<&0 </dev/null
log=$1
shift
"$@" >>"$log" 2>&1 3<&- &
child=$!
echo "$child"
exec >/dev/null 2>&1
(read -r _ <&3; kill -KILL "$child") &
watcher=$!
wait "$child"
status=$?
kill "$watcher"
exit "$status"
"#;

/// Removes a folder once the pipe closes; tries again while dying servers still write to it.
const SWEEPER: &str = r#"
exec >/dev/null 2>&1
read -r _
for _ in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf "$1" && exit 0
  sleep 0.3
done
"#;

const POLL: Duration = Duration::from_millis(10);

/// A process that dies with us.
#[derive(Debug)]
pub(crate) struct Supervised {
    shell: Child,
    pid: Pid,
}

impl Supervised {
    /// Starts `program`, its output appended to `log`.
    pub(crate) fn spawn<S: AsRef<OsStr>>(program: &str, args: &[S], log: &Path) -> Result<Self> {
        let mut shell = script(SUPERVISOR)
            .arg(log)
            .arg(program)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .context("start a shell (sh)")?;
        let stdout = shell.stdout.take().context("the shell has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{program} did not start, see {}", log.display()))?;
        Ok(Self { shell, pid })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.shell.try_wait()?)
    }

    /// Sends a signal, unless the process has ended: its number may be another's by then.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited()?.is_some() {
            bail!("process {} has ended already", self.pid());
        }
        kill_process(self.pid, signal).with_context(|| format!("signal process {}", self.pid()))
    }

    /// Waits for the end; false when the time is over.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while self.exited()?.is_none() {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(POLL);
        }
        Ok(true)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.shell.stdin.take()); // the shell sees the end of its input and kills the process
        let _ = self.shell.wait();
    }
}

/// A folder that is removed on drop, or when this process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Swept(Child);

impl Swept {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        Ok(Self(script(SWEEPER).arg(dir).spawn().context("start a shell (sh)")?))
    }
}

impl Drop for Swept {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// In a process group of its own, so that Ctrl-C at a terminal reaches us only and the order of things is kept.
fn script(text: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", text, "testbed"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.process_group(0);
    shell
}
