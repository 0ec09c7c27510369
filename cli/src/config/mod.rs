//! The file of `--config`, in TOML: clusters by name, and what the flags of each command are when they are not typed.

mod clusters;
mod flags;
mod source;

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::client::nearest_of;
use crate::files;

pub use clusters::Clusters;
pub use flags::{Refused, Why, parse};

/// A file that was read. No `Debug`: it may hold secrets.
struct Config {
    path: PathBuf,
    table: Table,
}

impl Config {
    /// Reads it. The error names it, and repeats nothing that stands in it.
    fn read(path: PathBuf) -> Result<Self, String> {
        let text = files::text(&path).map_err(|e| format!("{} {e}", path.display()))?;
        let table = text.parse::<Table>().map_err(|error| {
            let line =
                error.span().map(|span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
            let line = line.map_or(String::new(), |line| format!(":{line}"));
            format!("{}{line}: this is no TOML: look at quotes, brackets and repeated names", path.display())
        })?;
        Ok(Self { path, table })
    }

    /// An error about a part of it.
    fn error(&self, part: &str, what: &str) -> String {
        format!("{}: {part}: {what}", self.path.display())
    }

    /// A section, empty where there is none: `&["backup"]`, `&["groups", "reset"]`.
    fn section(&self, path: &[&str]) -> Result<Table, String> {
        let mut table = &self.table;
        for name in path {
            table = match table.get(*name) {
                None => return Ok(Table::new()),
                Some(Value::Table(table)) => table,
                Some(_) => {
                    let name = path.join(".");
                    return Err(self.error(&name, &format!("this is a section: write [{name}]")));
                }
            };
        }
        Ok(table.clone())
    }
}

/// `did you mean …?`, or what there is.
fn meant(word: &str, known: &[&str]) -> String {
    match nearest_of(word, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known: {}", known.join(", ")),
    }
}

/// A path as the file says it, which may be relative to the file's folder.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}
