//! Where a value comes from: `"text"`, `{ env = "VAR" }`, `{ file = "path" }`, `{ command = "…" }`.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use toml::{Table, Value};

use crate::client::Env;
use crate::files;

/// A command that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// What a value is written as.
pub enum Source<'a> {
    /// It stands there.
    Literal(String),
    /// Elsewhere.
    Elsewhere(Kind, &'a str),
}

/// Where elsewhere.
#[derive(Clone, Copy)]
pub enum Kind {
    /// In an environment variable.
    Env,
    /// In a file.
    File,
    /// A command prints it.
    Command,
}

const KINDS: [(&str, Kind); 3] = [("env", Kind::Env), ("file", Kind::File), ("command", Kind::Command)];

impl<'a> Source<'a> {
    /// Reads how a value is written; `None` for a table that is none and for lists and dates.
    pub fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Literal(text.clone())),
            Value::Integer(number) => Some(Self::Literal(number.to_string())),
            Value::Float(number) => Some(Self::Literal(number.to_string())),
            Value::Boolean(yes) => Some(Self::Literal(yes.to_string())),
            Value::Table(table) => Self::elsewhere(table),
            Value::Array(_) | Value::Datetime(_) => None,
        }
    }

    fn elsewhere(table: &'a Table) -> Option<Self> {
        let mut entries = table.iter();
        let (Some((name, Value::String(what))), None) = (entries.next(), entries.next()) else { return None };
        let (_, kind) = KINDS.iter().find(|(word, _)| word == name)?;
        Some(Self::Elsewhere(*kind, what))
    }
}

/// Gets it. `folder`: what relative paths are relative to. The error says all but the value.
pub fn get(kind: Kind, what: &str, folder: &Path, env: Env<'_>) -> Result<String, String> {
    match kind {
        Kind::Env => env(what).ok_or_else(|| format!("{what} is not set in the environment")),
        Kind::File => {
            let path = folder.join(what);
            let text = files::text(&path).map_err(|e| format!("{} {e}", path.display()))?;
            Ok(files::without_last_newline(text))
        }
        Kind::Command => printed_by(what, PATIENCE),
    }
}

/// What a shell command prints. Its stderr is ours.
fn printed_by(command: &str, patience: Duration) -> Result<String, String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = shell.spawn().map_err(|e| format!("sh can't be started: {e}"))?;
    let (sender, printed) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = pipe.take(files::TEXT_LIMIT).read_to_end(&mut bytes);
            let _ = sender.send(read.map(|_| bytes));
        });
    }
    let end = Instant::now() + patience;
    let slow = || format!("its command did not end within {} s", patience.as_secs());
    let status = wait(&mut child, end).map_err(|e| format!("its command failed: {e}"))?.ok_or_else(slow)?;
    if !status.success() {
        return Err(format!("its command failed ({status})"));
    }
    let left = end.saturating_duration_since(Instant::now());
    let bytes = printed.recv_timeout(left).map_err(|_| slow())?;
    let bytes = bytes.map_err(|e| format!("its command's output can't be read: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "its command's output is not UTF-8".to_owned())?;
    Ok(files::without_last_newline(text))
}

/// `None`: it was killed, since it took too long.
fn wait(child: &mut Child, end: Instant) -> std::io::Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let run = |command| printed_by(command, Duration::from_secs(5));
        assert_eq!(run("printf 'a b\\n\\n'").unwrap(), "a b\n");
        assert!(run("echo hunter2; exit 3").unwrap_err().contains("exit status: 3"));
        assert!(run("printf '\\377'").unwrap_err().contains("UTF-8"));
        let slow = printed_by("sleep 20", Duration::from_millis(100)).unwrap_err();
        assert!(slow.contains("did not end"), "{slow}");
        // The shell ends, what it started keeps the pipe.
        let slow = printed_by("sleep 20 & echo x", Duration::from_millis(300)).unwrap_err();
        assert!(slow.contains("did not end"), "{slow}");
    }

    #[test]
    fn files_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "word\n").unwrap();
        let env = |name: &str| (name == "V").then(|| "v".to_owned());
        assert_eq!(get(Kind::File, "f", folder.path(), &env).unwrap(), "word");
        assert_eq!(get(Kind::Env, "V", folder.path(), &env).unwrap(), "v");
        assert!(get(Kind::Env, "W", folder.path(), &env).unwrap_err().contains("W is not set"));
        assert!(get(Kind::File, "g", folder.path(), &env).unwrap_err().contains("/g can't be read"));
    }
}
