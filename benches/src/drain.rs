//! The plain loops that a backup is measured beside, each a process of its own: a reader that throws the bytes away, and readers that write
//! them to files without any check.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use memmap2::MmapMut;
use rustix::fs::OFlags;

use crate::reader::{Sink, Source};

/// Throws bytes away.
#[derive(Debug, Args)]
pub struct Drain {
    #[command(flatten)]
    source: Source,
}

impl Drain {
    /// Reads all of it.
    pub fn run(&self) -> Result<()> {
        self.source.read(|_| Ok(Nowhere::default()))
    }
}

/// How a copy is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// `write()` of what came, into the page cache; fsync at the end.
    Cached,
    /// O_DIRECT in pieces of 8 MiB from an ordinary buffer, by the thread that reads; fsync at the end.
    Direct,
}

/// Writes bytes to one file per connection.
#[derive(Debug, Args)]
pub struct Copy {
    #[command(flatten)]
    source: Source,
    /// How.
    #[arg(long)]
    how: How,
    /// A folder for the files.
    #[arg(long)]
    folder: PathBuf,
}

impl Copy {
    /// Copies all of it.
    pub fn run(&self) -> Result<()> {
        let path = |n: usize| self.folder.join(format!("copy-{n}"));
        match self.how {
            How::Cached => self.source.read(|n| Cached::create(path(n))),
            How::Direct => self.source.read(|n| Direct::create(path(n))),
        }
    }
}

/// Why no file can be opened with O_DIRECT in a folder; `None`: one can.
pub fn direct_refusal(folder: &Path) -> Option<anyhow::Error> {
    let path = folder.join("direct");
    let refusal = Direct::create(path.clone()).err();
    // There may be none.
    let _ = std::fs::remove_file(path);
    refusal
}

#[derive(Debug, Default)]
struct Nowhere {
    place: Vec<u8>,
}

impl Sink for Nowhere {
    fn room(&mut self, len: usize) -> Result<&mut [u8]> {
        Ok(reused(&mut self.place, len))
    }

    fn keep(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(())
    }
}

/// The first `len` bytes of a buffer that only grows.
fn reused(place: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if place.len() < len {
        place.resize(len, 0);
    }
    place.get_mut(..len).unwrap_or_default()
}

#[derive(Debug)]
struct Cached {
    file: File,
    place: Vec<u8>,
}

impl Cached {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { file, place: Vec::new() })
    }
}

impl Sink for Cached {
    fn room(&mut self, len: usize) -> Result<&mut [u8]> {
        Ok(reused(&mut self.place, len))
    }

    fn keep(&mut self, len: usize) -> Result<()> {
        use std::io::Write;
        Ok(self.file.write_all(self.place.get(..len).unwrap_or_default())?)
    }

    fn finish(self) -> Result<()> {
        Ok(self.file.sync_all()?)
    }
}

const DIRECT_LEN: usize = 8 << 20;
/// What O_DIRECT asks of addresses, lengths and offsets.
const ALIGNMENT: usize = 4096;

#[derive(Debug)]
struct Direct {
    file: File,
    /// Of ordinary pages: no advice is given about it.
    buffer: MmapMut,
    used: usize,
    written: u64,
}

impl Direct {
    fn create(path: PathBuf) -> Result<Self> {
        let direct = i32::try_from(OFlags::DIRECT.bits())?;
        let file = OpenOptions::new().write(true).create_new(true).custom_flags(direct).open(&path);
        let file = file.with_context(|| format!("create {} with O_DIRECT", path.display()))?;
        Ok(Self { file, buffer: MmapMut::map_anon(DIRECT_LEN)?, used: 0, written: 0 })
    }

    /// Writes what is there up to a multiple of the alignment; the rest moves to the front.
    fn write_aligned(&mut self) -> Result<()> {
        use std::io::Write;
        let aligned = self.used / ALIGNMENT * ALIGNMENT;
        self.file.write_all(self.buffer.get(..aligned).unwrap_or_default())?;
        self.buffer.copy_within(aligned..self.used, 0);
        self.written += aligned as u64;
        self.used -= aligned;
        Ok(())
    }
}

impl Sink for Direct {
    fn room(&mut self, len: usize) -> Result<&mut [u8]> {
        if self.used + len > DIRECT_LEN {
            self.write_aligned()?;
        }
        ensure!(self.used + len <= DIRECT_LEN, "{len} bytes of one partition at once");
        Ok(self.buffer.get_mut(self.used..self.used + len).unwrap_or_default())
    }

    fn keep(&mut self, len: usize) -> Result<()> {
        self.used += len;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let len = self.written + self.used as u64;
        self.used = self.used.next_multiple_of(ALIGNMENT);
        self.write_aligned()?;
        self.file.set_len(len)?;
        Ok(self.file.sync_all()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_copy_is_the_same_bytes() {
        // In the build's folder, as the system's temporary one may be in memory, where O_DIRECT is refused.
        let folder = tempfile::tempdir_in(bodley_testbed::paths::target_dir()).unwrap();
        let path = folder.path().join("copy");
        let mut direct = Direct::create(path.clone()).unwrap();
        let mut expected = Vec::new();
        for n in 0..40_u32 {
            let len = 700_001 + n as usize;
            let place = direct.room(len).unwrap();
            place.fill(n as u8);
            expected.extend_from_slice(&place[..len - 13]);
            direct.keep(len - 13).unwrap();
        }
        direct.finish().unwrap();
        assert!(std::fs::read(path).unwrap() == expected);
    }
}
