//! A machine that can stop: the disk store's system calls go through it to a real folder, and it keeps a model of what the disk would hold if the
//! power went. In that model a byte is durable when its file was synced, a name when its folder was; of everything else any part may have survived.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bodley_io::store::files::{Files, SystemFiles};

/// What happens at one of the calls, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The process dies at it: half of a write, nothing of another call, nothing after it.
    Kill,
    /// It fails with this errno and has no effect.
    Fail(rustix::io::Errno),
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// A file's bytes: as synced, and what came since.
#[derive(Debug, Clone, Default)]
struct Inode {
    synced: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Folder,
}

/// A folder's names: as synced, and what came since (`None`: removed).
#[derive(Debug, Clone, Default)]
struct Folder {
    synced: BTreeMap<PathBuf, Entry>,
    since: Vec<(PathBuf, Option<Entry>)>,
    now: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    numbers: BTreeMap<u64, usize>,
    folders: BTreeMap<PathBuf, Folder>,
}

#[derive(Debug, Default)]
struct State {
    disk: Disk,
    calls: usize,
    event: Option<(usize, Event)>,
    dead: bool,
    /// The name of the call that the event was at.
    hit: Option<&'static str>,
    /// Inodes whose sync failed.
    failed: Vec<usize>,
    /// What was done to such a file all the same.
    broken: Vec<&'static str>,
}

/// See the head of the file. Real folders below `base`.
#[derive(Debug)]
pub struct Machine {
    base: PathBuf,
    links: bool,
    state: Mutex<State>,
}

impl Machine {
    /// What is below `base` is durable. Its file system has links, or it has not.
    pub fn new(base: &Path, links: bool) -> Self {
        let mut state = State::default();
        state.disk.adopt(base);
        Self { base: base.to_owned(), links, state: Mutex::new(state) }
    }

    /// A process starts: counts anew, and lets `event` happen at its call `at`.
    pub fn start(&self, event: Option<(usize, Event)>) {
        let mut state = self.state.lock().unwrap();
        (state.calls, state.event, state.dead, state.hit) = (0, event, false, None);
    }

    /// Calls since the start.
    pub fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    /// The name of the call that the event was at, if it happened.
    pub fn hit(&self) -> Option<&'static str> {
        self.state.lock().unwrap().hit
    }

    /// The power goes: writes what the disk holds then to `target`. Of what was not synced that is nothing, any part, or all of it, in turn by seed.
    pub fn power_loss(&self, target: &Path, seed: u64) {
        let state = self.state.lock().unwrap();
        let luck = [0, 128, 256][(seed % 3) as usize];
        let random = &mut fastrand::Rng::with_seed(seed);
        let disk = &state.disk;
        let contents: Vec<Vec<u8>> = disk.inodes.iter().map(|inode| inode.survives(luck, random)).collect();
        disk.materialize((&self.base, target), &contents, luck, random);
    }

    /// Rules that were broken; none is right.
    pub fn broken(&self) -> Vec<&'static str> {
        self.state.lock().unwrap().broken.clone()
    }

    fn to_be_named(&self, path: &Path) -> Entry {
        let mut state = self.state.lock().unwrap();
        let entry = state.disk.find(path);
        if state.failed.iter().any(|inode| Entry::File(*inode) == entry) {
            state.broken.push("a file whose sync failed was given its name");
        }
        entry
    }

    /// One call: `Err` when it has no effect; `Ok(true)`: the process dies in it.
    fn call(&self, state: &mut State, name: &'static str) -> io::Result<bool> {
        state.calls += 1;
        if state.dead {
            return Err(io::Error::other("the process is dead"));
        }
        match state.event {
            Some((at, event)) if at == state.calls => {
                state.hit = Some(name);
                match event {
                    Event::Kill => {
                        state.dead = true;
                        Ok(true)
                    }
                    Event::Fail(errno) => Err(errno.into()),
                }
            }
            _ => Ok(false),
        }
    }

    /// A call that has its whole effect or none.
    fn whole<T>(&self, name: &'static str, effect: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock().unwrap();
        if self.call(&mut state, name)? {
            return Err(io::Error::other("killed"));
        }
        effect(&mut state.disk)
    }
}

fn number(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

impl Inode {
    fn survives(&self, luck: u16, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for change in &self.since {
            if random.u16(0..256) >= luck {
                continue;
            }
            match change {
                Change::Length(len) => bytes.resize(*len as usize, 0),
                Change::Write(at, new) => {
                    let at = *at as usize;
                    // A write may be torn between sectors.
                    let kept =
                        if random.bool() { new.len() } else { random.usize(0..=new.len()) / 512 * 512 };
                    bytes.resize(bytes.len().max(at + new.len()), 0);
                    bytes[at..at + kept].copy_from_slice(&new[..kept]);
                }
            }
        }
        bytes
    }

    fn now(&self) -> Self {
        let mut bytes = self.synced.clone();
        for change in &self.since {
            match change {
                Change::Length(len) => bytes.resize(*len as usize, 0),
                Change::Write(at, new) => {
                    let at = *at as usize;
                    bytes.resize(bytes.len().max(at + new.len()), 0);
                    bytes[at..at + new.len()].copy_from_slice(new);
                }
            }
        }
        Self { synced: bytes, since: Vec::new() }
    }
}

impl Disk {
    fn adopt(&mut self, path: &Path) {
        let mut folder = Folder::default();
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            let name = PathBuf::from(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.adopt(&entry.path());
                folder.synced.insert(name, Entry::Folder);
            } else {
                let synced = std::fs::read(entry.path()).unwrap();
                self.numbers.insert(entry.metadata().unwrap().ino(), self.inodes.len());
                folder.synced.insert(name, Entry::File(self.inodes.len()));
                self.inodes.push(Inode { synced, since: Vec::new() });
            }
        }
        folder.now.clone_from(&folder.synced);
        self.folders.insert(path.to_owned(), folder);
    }

    fn inode(&mut self, file: &File) -> usize {
        self.numbers[&number(file)]
    }

    fn name(&mut self, path: &Path, entry: Option<Entry>) {
        let folder = self.folders.get_mut(path.parent().unwrap()).unwrap();
        let name = PathBuf::from(path.file_name().unwrap());
        folder.since.push((name.clone(), entry));
        match entry {
            Some(entry) => folder.now.insert(name, entry),
            None => folder.now.remove(&name),
        };
    }

    fn find(&self, path: &Path) -> Entry {
        self.folders[path.parent().unwrap()].now[Path::new(path.file_name().unwrap())]
    }

    fn materialize(
        &self,
        (folder, target): (&Path, &Path),
        contents: &[Vec<u8>],
        luck: u16,
        random: &mut fastrand::Rng,
    ) {
        std::fs::create_dir_all(target).unwrap();
        let names = &self.folders[folder];
        let mut left = names.synced.clone();
        for (name, entry) in &names.since {
            if random.u16(0..256) < luck {
                match entry {
                    Some(entry) => left.insert(name.clone(), *entry),
                    None => left.remove(name),
                };
            }
        }
        for (name, entry) in left {
            match entry {
                Entry::File(inode) => std::fs::write(target.join(name), &contents[inode]).unwrap(),
                Entry::Folder => {
                    self.materialize((&folder.join(&name), &target.join(&name)), contents, luck, random);
                }
            }
        }
    }
}

impl Files for Machine {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.whole("make_folder", |disk| {
            SystemFiles.make_folder(folder)?;
            disk.folders.insert(folder.to_owned(), Folder::default());
            disk.name(folder, Some(Entry::Folder));
            Ok(())
        })
    }

    fn create(&self, path: &Path, direct: bool) -> io::Result<(File, bool)> {
        self.whole("create", |disk| {
            let (file, direct) = SystemFiles.create(path, direct)?;
            disk.inodes.push(Inode::default());
            disk.numbers.insert(number(&file), disk.inodes.len() - 1);
            disk.name(path, Some(Entry::File(disk.inodes.len() - 1)));
            Ok((file, direct))
        })
    }

    fn reopen(&self, path: &Path) -> io::Result<File> {
        self.whole("reopen", |_| SystemFiles.reopen(path))
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let dies = self.call(&mut state, "write")?;
        let bytes = if dies { &bytes[..bytes.len() / 2 / 4096 * 4096] } else { bytes };
        SystemFiles.write(file, bytes, at)?;
        let inode = state.disk.inode(file);
        state.disk.inodes[inode].since.push(Change::Write(at, bytes.to_vec()));
        if dies { Err(io::Error::other("killed")) } else { Ok(()) }
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.whole("set_len", |disk| {
            SystemFiles.set_len(file, len)?;
            let inode = disk.inode(file);
            disk.inodes[inode].since.push(Change::Length(len));
            Ok(())
        })
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let inode = state.disk.inode(file);
        if state.failed.contains(&inode) {
            state.broken.push("a failed sync was tried again on the same file");
        }
        match self.call(&mut state, "sync") {
            Ok(false) => {}
            Ok(true) => return Err(io::Error::other("killed")),
            Err(error) => {
                state.failed.push(inode);
                return Err(error);
            }
        }
        // The real one is left out: no power goes.
        state.disk.inodes[inode] = state.disk.inodes[inode].now();
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.whole("sync_folder", |disk| {
            // What is above the base was there before.
            if let Some(folder) = disk.folders.get_mut(folder) {
                folder.synced.clone_from(&folder.now);
                folder.since.clear();
            }
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = self.to_be_named(from);
        self.whole("link", |disk| {
            if !self.links {
                return Err(rustix::io::Errno::OPNOTSUPP.into());
            }
            SystemFiles.link(from, to)?;
            disk.name(to, Some(entry));
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = self.to_be_named(from);
        self.whole("rename", |disk| {
            SystemFiles.rename(from, to)?;
            disk.name(from, None);
            disk.name(to, Some(entry));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.whole("remove", |disk| {
            SystemFiles.remove(path)?;
            disk.name(path, None);
            Ok(())
        })
    }
}
