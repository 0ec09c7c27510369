//! What a process costs.

use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wait4::Wait4;

/// Clock ticks per second in /proc: fixed on Linux (USER_HZ).
const TICKS: f64 = 100.0;
/// Places of utime and stime behind the name in /proc/<pid>/stat, see proc(5).
const CPU: [usize; 2] = [11, 12];

/// Of one run.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Wall clock, from the start of the process to its end.
    pub took: Duration,
    /// User and system, of the process and of children that it waited for; seconds.
    pub cpu: f64,
    /// Most memory that was resident, bytes. A child begins as a copy of this process, so never below what this one has had.
    pub rss: u64,
}

/// Runs a command to its end: its cost, and what it wrote to standard output.
pub fn of(command: &mut Command) -> Result<(Cost, String)> {
    // Files, as a pipe that nobody empties could stop the child.
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let ended = child.wait4()?;
    let took = began.elapsed();
    let read = |file: &mut std::fs::File| -> Result<String> {
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read(&mut out)?;
    if !ended.status.success() {
        bail!("{command:?} failed ({}):\n{text}\n{}", ended.status, read(&mut err)?);
    }
    let cpu = (ended.rusage.utime + ended.rusage.stime).as_secs_f64();
    Ok((Cost { took, cpu, rss: ended.rusage.maxrss }, text))
}

/// CPU seconds, user and system, that a running process has taken.
pub fn so_far(pid: i32) -> Result<f64> {
    let file = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let (_, fields) = stat.rsplit_once(')').with_context(|| format!("{file} has no name"))?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let mut ticks = 0.0;
    for at in CPU {
        ticks += fields.get(at).with_context(|| format!("{file} is short"))?.parse::<f64>()?;
    }
    Ok(ticks / TICKS)
}

/// The median, and the smallest and greatest; NaN of nothing.
pub fn spread(values: impl IntoIterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    let median = (at(values.len() / 2) + at(values.len().saturating_sub(1) / 2)) / 2.0;
    (median, at(0), at(values.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_measured() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done";
        let (cost, out) = of(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(out, "done\n");
        assert!(cost.cpu > 0.0 && cost.cpu < cost.took.as_secs_f64() * 1.5, "{cost:?}");
        assert!(cost.rss > 100 << 10, "{cost:?}");
        let failed = of(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(failed.to_string().contains("why"), "{failed}");
        assert!(so_far(std::process::id() as i32).unwrap() >= 0.0);
    }

    #[test]
    fn medians() {
        assert_eq!(spread([4.0, 1.0]), (2.5, 1.0, 4.0));
        assert_eq!(spread([3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert!(spread([]).0.is_nan());
    }
}
