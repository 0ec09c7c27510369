//! What a child process costs.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Clock ticks per second in /proc: fixed on Linux (USER_HZ).
const TICKS: f64 = 100.0;
/// Places of cutime and cstime behind the name in /proc/self/stat, see proc(5).
const CHILDREN: [usize; 2] = [13, 14];

/// Of one run.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Wall clock.
    pub took: Duration,
    /// User and system, seconds.
    pub cpu: f64,
}

/// Runs a command to its end.
pub fn of(command: &mut Command) -> Result<Cost> {
    let (before, began) = (children()?, Instant::now());
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let took = began.elapsed();
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(Cost { took, cpu: children()? - before })
}

/// CPU seconds of all children that have ended.
fn children() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let mut ticks = 0.0;
    for at in CHILDREN {
        ticks += fields.get(at).context("/proc/self/stat is short")?.parse::<f64>()?;
    }
    Ok(ticks / TICKS)
}

/// The middle one, and the smallest and greatest.
pub fn spread(values: impl IntoIterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}
