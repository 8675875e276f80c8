//! A disk in memory that keeps what survives a power cut apart from what was only written.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Disk, DiskFile};

/// A disk for tests: it can be full, fail at a call chosen before, and be cut off.
///
/// It is harder than real ones: without [`DiskFile::sync`] any sectors of any write may be missing, also those
/// of an earlier write while a later one is there; without [`Disk::sync_folder`] any of the names made, changed
/// or removed; and what a failed `sync` was to make durable stays readable, and is never made durable by a later
/// one.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

/// What a disk does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with EIO; a write may have happened in part.
    Error,
    /// The call fails with ENOSPC, if it needs space; a write happens in part.
    Full,
    /// From this call on nothing happens any more, and every call fails. A write may have happened in part.
    PowerCut,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    name_changes: Vec<NameChange>,
    /// How many calls were made that change or sync something.
    calls: u64,
    faults: BTreeMap<u64, Fault>,
    full: bool,
    cut: bool,
    random: u64,
    bytes_read: u64,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Written { offset: usize, bytes: Vec<u8> },
    Truncated { length: usize },
    Reserved { length: usize },
}

#[derive(Debug, Clone)]
enum NameChange {
    Made { name: String, inode: usize },
    Renamed { from: String, to: String },
    Removed { name: String },
}

const SECTOR: usize = 512;

impl FaultyDisk {
    /// An empty disk. The seed decides how much of a failed write happens.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.with(|state| state.random = seed);
        disk
    }

    /// Lets the `call`-th call from now on that changes or syncs something go wrong; 0 is the next.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.with(|state| {
            let at = state.calls + call;
            state.faults.insert(at, fault);
        });
    }

    /// From now on there is no space (`true`), or there is again.
    pub fn set_full(&self, full: bool) {
        self.with(|state| state.full = full);
    }

    /// How many calls were made that change or sync something.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.with(|state| state.calls)
    }

    /// How many bytes were read of it since it was made, or left behind by a kill or a power cut.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.with(|state| state.bytes_read)
    }

    /// Whether the power was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.with(|state| state.cut)
    }

    /// A disk with what is left after a power cut at this moment. The seed decides what of the unsynced is.
    #[must_use]
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let mut random = seed;
        let left = self.with(|state| {
            let mut names = state.durable_names.clone();
            // Journals keep the order of changes, but nobody promises it: half of the time any of them is lost.
            let in_order = chance(&mut random, 2);
            for change in &state.name_changes {
                if !chance(&mut random, 2) {
                    if in_order {
                        break;
                    }
                    continue;
                }
                change.apply(&mut names);
            }
            let mut files = Vec::new();
            for inode in names.values_mut() {
                let content = state.files[*inode].left(&mut random);
                *inode = files.len();
                files.push(Inode { durable: content.clone(), content, changes: Vec::new() });
            }
            State { files, durable_names: names.clone(), names, random, ..State::default() }
        });
        Self { state: Arc::new(Mutex::new(left)) }
    }

    /// The disk as the next process finds it when this one was killed and the power stayed on: all that was written
    /// is there to be read, and what of it is durable has not changed.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let left = self.with(|state| State {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            name_changes: state.name_changes.clone(),
            random: state.random,
            ..State::default()
        });
        Self { state: Arc::new(Mutex::new(left)) }
    }

    /// Name and content of every file, as a reader sees them.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.with(|state| {
            let files = state.names.iter().map(|(name, at)| (name.clone(), state.files[*at].content.clone()));
            files.collect()
        })
    }

    /// Puts a file there, durable.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        self.with(|state| {
            let inode = state.files.len();
            state.files.push(Inode { durable: content.clone(), content, changes: Vec::new() });
            state.names.insert(name.to_owned(), inode);
            state.durable_names.insert(name.to_owned(), inode);
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Counts a call. `Err` with the fault that it is to have.
    fn call(&mut self, needs_space: bool) -> Result<(), io::Error> {
        if self.cut {
            return Err(Fault::PowerCut.into());
        }
        let fault = self.faults.remove(&self.calls);
        self.calls += 1;
        match fault {
            Some(Fault::PowerCut) => {
                self.cut = true;
                Err(Fault::PowerCut.into())
            }
            Some(Fault::Error) => Err(Fault::Error.into()),
            Some(Fault::Full) if needs_space => Err(Fault::Full.into()),
            _ if self.full && needs_space => Err(Fault::Full.into()),
            _ => Ok(()),
        }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full => io::ErrorKind::StorageFull.into(),
            Fault::Error => io::Error::other("injected EIO"),
            Fault::PowerCut => io::Error::other("the power is cut"),
        }
    }
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.content, offset, bytes);
        self.changes.push(Change::Written { offset, bytes: bytes.to_vec() });
    }

    /// The content after a power cut: all that is durable, and any sectors of the changes since.
    fn left(&self, random: &mut u64) -> Vec<u8> {
        let mut content = self.durable.clone();
        let fate = next(random) % 4;
        for change in &self.changes {
            match change {
                Change::Truncated { length } if chance(random, 2) => content.truncate(*length),
                Change::Reserved { length } if chance(random, 2) => extend(&mut content, *length),
                Change::Truncated { .. } | Change::Reserved { .. } => {}
                Change::Written { offset, bytes } => {
                    let kept: Vec<std::ops::Range<usize>> = match fate {
                        0 => continue,
                        1 => std::iter::once(0..bytes.len()).collect(),
                        2 => std::iter::once(0..next(random) as usize % (bytes.len() + 1)).collect(),
                        _ => sectors(*offset, bytes.len()).filter(|_| chance(random, 2)).collect(),
                    };
                    for range in kept {
                        put(&mut content, offset + range.start, &bytes[range]);
                    }
                }
            }
        }
        content
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    extend(content, offset + bytes.len());
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn extend(content: &mut Vec<u8>, length: usize) {
    if content.len() < length {
        content.resize(length, 0);
    }
}

/// The parts of a write at `offset` that lie in one sector each.
fn sectors(offset: usize, length: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let to = length.min(from + SECTOR - (offset + from) % SECTOR);
        let range = from..to;
        from = to;
        (!range.is_empty()).then_some(range)
    })
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            Self::Renamed { from, to } => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Removed { name } => {
                names.remove(name);
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|state| {
            if state.cut { Err(Fault::PowerCut.into()) } else { Ok(state.names.keys().cloned().collect()) }
        })
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.with(|state| {
            state.call(true)?;
            let inode = state.files.len();
            state.files.push(Inode::default());
            state.change_names(NameChange::Made { name: name.to_owned(), inode });
            Ok(Box::new(FaultyFile { disk: self.clone(), inode, end: 0 }) as Box<dyn DiskFile>)
        })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.with(|state| {
            if state.cut {
                return Err(Fault::PowerCut.into());
            }
            let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            let end = state.files[inode].content.len();
            Ok(Box::new(FaultyFile { disk: self.clone(), inode, end }) as Box<dyn DiskFile>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|state| {
            state.call(false)?;
            if !state.names.contains_key(from) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.change_names(NameChange::Renamed { from: from.to_owned(), to: to.to_owned() });
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|state| {
            state.call(false)?;
            if !state.names.contains_key(name) {
                return Err(io::ErrorKind::NotFound.into());
            }
            state.change_names(NameChange::Removed { name: name.to_owned() });
            Ok(())
        })
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.with(|state| {
            state.call(false)?;
            state.name_changes.clear();
            state.durable_names = state.names.clone();
            Ok(())
        })
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    inode: usize,
    /// Where the next bytes go.
    end: usize,
}

impl DiskFile for FaultyFile {
    fn reserve(&mut self, length: u64) -> io::Result<()> {
        self.disk.with(|state| {
            state.call(true)?;
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let inode = &mut state.files[self.inode];
            extend(&mut inode.content, length);
            inode.changes.push(Change::Reserved { length });
            Ok(())
        })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.with(|state| {
            let was_cut = state.cut;
            let answer = state.call(true);
            let written = match &answer {
                Ok(()) => bytes.len(),
                Err(_) if was_cut => 0,
                Err(_) => next(&mut state.random) as usize % (bytes.len() + 1),
            };
            state.files[self.inode].write(self.end, &bytes[..written]);
            self.end += written;
            answer
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.with(|state| {
            let was_cut = state.cut;
            let answer = state.call(false);
            let cut = state.cut;
            let inode = &mut state.files[self.inode];
            match &answer {
                Ok(()) => {
                    for change in std::mem::take(&mut inode.changes) {
                        match change {
                            Change::Truncated { length } => inode.durable.truncate(length),
                            Change::Reserved { length } => extend(&mut inode.durable, length),
                            Change::Written { offset, bytes } => put(&mut inode.durable, offset, &bytes),
                        }
                    }
                }
                // The pages count as clean from now on, and are readable; whether they ever reached the disk ...
                Err(_) if !cut && !was_cut => {
                    let mut random = state.random;
                    let left = inode.left(&mut random);
                    inode.changes.clear();
                    inode.durable = left;
                    state.random = random;
                }
                Err(_) => {}
            }
            answer
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.disk.with(|state| {
            state.call(false)?;
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let inode = &mut state.files[self.inode];
            inode.content.truncate(length);
            inode.changes.push(Change::Truncated { length });
            self.end = length;
            Ok(())
        })
    }

    fn length(&self) -> io::Result<u64> {
        self.disk.with(|state| {
            if state.cut {
                return Err(Fault::PowerCut.into());
            }
            Ok(state.files[self.inode].content.len() as u64)
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.with(|state| {
            if state.cut {
                return Err(Fault::PowerCut.into());
            }
            let content = &state.files[self.inode].content;
            let from = usize::try_from(offset).map_err(io::Error::other)?;
            let bytes = from.checked_add(buffer.len()).and_then(|to| content.get(from..to));
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            state.bytes_read += buffer.len() as u64;
            Ok(())
        })
    }
}

/// SplitMix64: a test's randomness, given by its seed.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn chance(state: &mut u64, one_in: u64) -> bool {
    next(state).is_multiple_of(one_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_every_power_cut_and_what_was_not_is_lost_in_some() {
        let disk = FaultyDisk::new(1);
        let mut file = disk.create("a").unwrap();
        file.append(&[1; 1000]).unwrap();
        file.sync().unwrap();
        disk.sync_folder().unwrap();
        file.append(&[2; 3000]).unwrap();
        disk.create("b").unwrap();
        let mut lengths = std::collections::BTreeSet::new();
        let mut with_b = 0;
        for seed in 0..200 {
            let left = disk.after_power_cut(seed).contents();
            assert_eq!(left["a"][..1000], [1; 1000]);
            lengths.insert(left["a"].len());
            with_b += usize::from(left.contains_key("b"));
        }
        assert!(lengths.contains(&1000) && lengths.contains(&4000) && lengths.len() > 10, "{lengths:?}");
        assert!((20..180).contains(&with_b), "{with_b}");
    }

    #[test]
    fn a_sync_after_a_failed_one_does_not_bring_back_what_that_one_lost() {
        let lost = (0..50).filter(|seed| {
            let disk = FaultyDisk::new(*seed);
            let mut file = disk.create("a").unwrap();
            disk.sync_folder().unwrap();
            file.append(&[1; 100]).unwrap();
            disk.fail_at(0, Fault::Error);
            assert!(file.sync().is_err());
            file.sync().unwrap();
            assert_eq!(disk.contents()["a"].len(), 100, "still in the cache");
            disk.after_power_cut(*seed).contents()["a"].len() < 100
        });
        assert!(lost.count() > 5);
    }
}
