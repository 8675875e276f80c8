//! What `strace` saw of the work, and folders as a power cut would leave them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// What is known of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    Ordered,
    Posix,
}

/// The calls, with the lines at which each began and ended.
pub struct Trace {
    calls: Vec<Call>,
    /// The folder of the work.
    root: String,
    lines: usize,
}

struct Call {
    began: usize,
    ended: usize,
    what: What,
}

enum What {
    /// `made`: O_CREAT; `cut`: O_TRUNC.
    Open {
        path: String,
        fd: i64,
        made: bool,
        cut: bool,
        append: bool,
    },
    Close {
        fd: i64,
    },
    Copy {
        fd: i64,
        to: i64,
    },
    Write {
        fd: i64,
        bytes: Rc<[u8]>,
        offset: Option<u64>,
    },
    Seek {
        fd: i64,
        to: u64,
    },
    Truncate {
        fd: i64,
        length: u64,
    },
    Sync {
        fd: i64,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        path: String,
    },
    Folder {
        path: String,
    },
}

impl Trace {
    /// Reads the output of `strace -f -xx -s BIG`.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a trace");
        let mut open: HashMap<&str, (usize, String)> = HashMap::new();
        let mut calls = Vec::new();
        let mut root = String::new();
        let mut lines = 0;
        for (at, line) in text.lines().enumerate() {
            lines = at + 1;
            let Some((pid, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
                open.insert(pid, (at, begun.to_owned()));
                continue;
            }
            let (began, whole) = match rest.strip_prefix("<... ") {
                Some(resumed) => {
                    let (began, begun) = open.remove(pid).expect("it was begun");
                    let end = resumed.split_once(" resumed>").map_or("", |(_, end)| end);
                    (began, begun + end)
                }
                None => (at, rest.to_owned()),
            };
            if let Some(what) = parse(&whole) {
                if let (What::Folder { path }, true) = (&what, root.is_empty()) {
                    root.clone_from(path);
                }
                calls.push(Call { began, ended: at, what });
            }
        }
        calls.sort_by_key(|call| call.began);
        Self { calls, root, lines }
    }

    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    pub fn syncs(&self) -> usize {
        self.calls.iter().filter(|call| matches!(call.what, What::Sync { .. })).count()
    }

    /// Makes the folders of `points` power cuts, one after the other, in `folder`, and hands each to `judge` with the
    /// place of the cut and the number of acknowledged groups.
    pub fn cut(
        &self,
        model: Model,
        points: u64,
        seed: u64,
        folder: &Path,
        mut judge: impl FnMut(&Path, usize, u64),
    ) {
        let mut random = Random(seed);
        let first = self.calls.first().map_or(0, |call| call.began);
        let mut at: Vec<usize> =
            (0..points).map(|_| first + random.below((self.lines - first) as u64) as usize).collect();
        at.sort_unstable();
        let mut world = World { model, ..World::default() };
        let mut pending: BTreeMap<(usize, usize), &Call> = BTreeMap::new();
        let mut next = 0;
        for line in at {
            // What began up to here happened in part at least; what ended up to here is over.
            loop {
                let begins = self.calls.get(next).map(|call| call.began).filter(|began| *began <= line);
                let ends = pending.keys().next().map(|(ended, _)| *ended).filter(|ended| *ended <= line);
                match (begins, ends) {
                    (Some(began), ends) if ends.is_none_or(|ended| began <= ended) => {
                        let call = &self.calls[next];
                        world.begin(call);
                        pending.insert((call.ended, next), call);
                        next += 1;
                    }
                    (_, Some(_)) => {
                        let (_, call) = pending.pop_first().expect("it was looked at");
                        world.end(call);
                    }
                    (_, None) => break,
                }
            }
            let _ = fs::remove_dir_all(folder);
            world.leave(&mut random, &self.root, folder);
            judge(folder, line, world.acked);
        }
        let _ = fs::remove_dir_all(folder);
    }
}

#[derive(Default)]
struct World {
    model: Model,
    inodes: Vec<Inode>,
    names: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
    changes: Vec<Change>,
    fds: HashMap<i64, Fd>,
    acked: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self::Ordered
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Entry {
    File(usize),
    Folder,
}

#[derive(Clone)]
struct Fd {
    path: String,
    inode: Option<usize>,
    offset: u64,
    append: bool,
}

#[derive(Default)]
struct Inode {
    /// As a reader sees it.
    length: u64,
    writes: Vec<Written>,
    durable: usize,
}

/// One change of a file's content.
struct Written {
    what: Content,
    ended: usize,
}

enum Content {
    Bytes(u64, Rc<[u8]>),
    Length(u64),
}

struct Change {
    what: NameChange,
    ended: usize,
}

enum NameChange {
    Made(String, Entry),
    Renamed(String, String),
    Removed(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Entry>) {
        match self {
            Self::Made(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            Self::Renamed(from, to) => {
                if let Some(entry) = names.remove(from) {
                    names.insert(to.clone(), entry);
                }
            }
            Self::Removed(path) => {
                names.remove(path);
            }
        }
    }

    fn folders(&self) -> Vec<&str> {
        let above = |path: &'_ str| path.rfind('/').unwrap_or(0);
        match self {
            Self::Made(path, _) | Self::Removed(path) => vec![&path[..above(path)]],
            Self::Renamed(from, to) => vec![&from[..above(from)], &to[..above(to)]],
        }
    }
}

impl World {
    fn change(&mut self, what: NameChange, ended: usize) {
        what.apply(&mut self.names);
        self.changes.push(Change { what, ended });
    }

    fn begin(&mut self, call: &Call) {
        match &call.what {
            What::Write { fd: 1, bytes, .. } => {
                let said = String::from_utf8_lossy(bytes);
                for line in said.lines() {
                    if let Some(number) = line.strip_prefix("acked ").and_then(|n| n.parse().ok()) {
                        self.acked = number;
                    }
                }
            }
            What::Write { fd, bytes, offset } => {
                let Some(file) = self.fds.get_mut(fd) else { return };
                let Some(inode) = file.inode.map(|inode| &mut self.inodes[inode]) else { return };
                let at = offset.unwrap_or(if file.append { inode.length } else { file.offset });
                if offset.is_none() {
                    file.offset = at + bytes.len() as u64;
                }
                inode.length = inode.length.max(at + bytes.len() as u64);
                inode.writes.push(Written { what: Content::Bytes(at, bytes.clone()), ended: call.ended });
            }
            What::Truncate { fd, length } => {
                let Some(inode) = self.fds.get(fd).and_then(|file| file.inode) else { return };
                let inode = &mut self.inodes[inode];
                inode.length = *length;
                inode.writes.push(Written { what: Content::Length(*length), ended: call.ended });
            }
            What::Rename { from, to } => {
                self.change(NameChange::Renamed(from.clone(), to.clone()), call.ended);
            }
            What::Remove { path } => self.change(NameChange::Removed(path.clone()), call.ended),
            What::Folder { path } => self.change(NameChange::Made(path.clone(), Entry::Folder), call.ended),
            _ => {}
        }
    }

    fn end(&mut self, call: &Call) {
        match &call.what {
            What::Open { path, fd, made, cut, append } => {
                let inode = match self.names.get(path) {
                    Some(Entry::File(inode)) => Some(*inode),
                    Some(Entry::Folder) => None,
                    None if *made => {
                        self.inodes.push(Inode::default());
                        let inode = self.inodes.len() - 1;
                        self.change(NameChange::Made(path.clone(), Entry::File(inode)), call.ended);
                        Some(inode)
                    }
                    None => return,
                };
                if let (Some(inode), true) = (inode, *cut) {
                    self.inodes[inode].length = 0;
                    self.inodes[inode].writes.push(Written { what: Content::Length(0), ended: call.ended });
                }
                let file = Fd { path: path.clone(), inode, offset: 0, append: *append };
                self.fds.insert(*fd, file);
            }
            What::Close { fd } => drop(self.fds.remove(fd)),
            What::Copy { fd, to } => {
                if let Some(file) = self.fds.get(fd).cloned() {
                    self.fds.insert(*to, file);
                }
            }
            What::Seek { fd, to } => {
                if let Some(file) = self.fds.get_mut(fd) {
                    file.offset = *to;
                }
            }
            What::Sync { fd } => {
                let Some(file) = self.fds.get(fd) else { return };
                if let Some(inode) = file.inode {
                    let inode = &mut self.inodes[inode];
                    while inode.writes.get(inode.durable).is_some_and(|write| write.ended < call.began) {
                        inode.durable += 1;
                    }
                }
                let (model, folder, is_file) = (self.model, file.path.clone(), file.inode.is_some());
                let durable = &mut self.durable;
                self.changes.retain(|change| {
                    let covered = match model {
                        Model::Ordered => true,
                        Model::Posix => !is_file && change.what.folders().contains(&folder.as_str()),
                    };
                    let kept = !covered || change.ended >= call.began;
                    if !kept {
                        change.what.apply(durable);
                    }
                    kept
                });
            }
            _ => {}
        }
    }

    /// Makes the folder as it is after a power cut now.
    fn leave(&self, random: &mut Random, root: &str, folder: &Path) {
        let mut names = self.durable.clone();
        let all = self.model == Model::Posix && random.below(2) == 0;
        for change in &self.changes {
            if random.below(3) == 0 {
                if all {
                    continue;
                }
                break;
            }
            change.what.apply(&mut names);
        }
        fs::create_dir_all(folder).expect("there is room");
        for (path, entry) in &names {
            // A file whose folder was lost is lost.
            let Some(below) = path.strip_prefix(root) else { continue };
            let path = folder.join(below.trim_start_matches('/'));
            match entry {
                Entry::Folder => drop(fs::create_dir(&path)),
                Entry::File(inode) => {
                    if let Ok(file) = fs::File::create(&path) {
                        self.inodes[*inode].leave(random, file);
                    }
                }
            }
        }
    }
}

impl Inode {
    fn leave(&self, random: &mut Random, mut file: fs::File) {
        let fate = random.below(4);
        let mut length = 0;
        let mut put = |from: u64, bytes: &[u8]| {
            file.seek(SeekFrom::Start(from)).and_then(|_| file.write_all(bytes)).expect("there is room");
        };
        for (number, write) in self.writes.iter().enumerate() {
            let durable = number < self.durable;
            match &write.what {
                Content::Length(to) if durable || fate == 1 || random.below(2) == 0 => {
                    length = *to;
                }
                Content::Length(_) => {}
                Content::Bytes(at, bytes) => {
                    let kept: Vec<Range<usize>> = match fate {
                        _ if durable => vec![0..bytes.len()],
                        0 => vec![],
                        1 => vec![0..bytes.len()],
                        2 => vec![0..random.below(bytes.len() as u64 + 1) as usize],
                        _ => sectors(*at, bytes.len()).filter(|_| random.below(2) == 0).collect(),
                    };
                    for range in kept.into_iter().filter(|range| !range.is_empty()) {
                        length = length.max(at + range.end as u64);
                        put(at + range.start as u64, &bytes[range]);
                    }
                }
            }
        }
        // No file of the two is cut and written again behind the cut, so the last length is what counts.
        file.set_len(length).expect("there is room");
    }
}

fn sectors(offset: u64, length: usize) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let to = length.min(from + 512 - (offset as usize + from) % 512);
        let range = from..to;
        from = to;
        (!range.is_empty()).then_some(range)
    })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// One line `name(arguments) = result`; `None` for calls that failed or change nothing.
fn parse(line: &str) -> Option<What> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let result: i64 = result.split_whitespace().next()?.parse().ok().filter(|result| *result >= 0)?;
    let arguments = split(arguments.trim_end().strip_suffix(')')?);
    let text = |at: usize| -> Option<&Argument> { arguments.get(at) };
    let number = |at: usize| -> Option<i64> { text(at)?.word.parse().ok() };
    let path = |at: usize| -> Option<String> { String::from_utf8(text(at)?.bytes.to_vec()).ok() };
    Some(match name {
        "openat" => {
            let flags = &text(2)?.word;
            What::Open {
                path: path(1)?,
                fd: result,
                made: flags.contains("O_CREAT"),
                cut: flags.contains("O_TRUNC"),
                append: flags.contains("O_APPEND"),
            }
        }
        "close" => What::Close { fd: number(0)? },
        "dup" => What::Copy { fd: number(0)?, to: result },
        "fcntl" if text(1)?.word.starts_with("F_DUPFD") => What::Copy { fd: number(0)?, to: result },
        "write" => What::Write { fd: number(0)?, bytes: written(text(1)?, result), offset: None },
        "pwrite64" => {
            What::Write { fd: number(0)?, bytes: written(text(1)?, result), offset: Some(number(3)? as u64) }
        }
        "lseek" => What::Seek { fd: number(0)?, to: result as u64 },
        "ftruncate" => What::Truncate { fd: number(0)?, length: number(1)? as u64 },
        "fsync" | "fdatasync" => What::Sync { fd: number(0)? },
        "rename" => What::Rename { from: path(0)?, to: path(1)? },
        "renameat" | "renameat2" => What::Rename { from: path(1)?, to: path(3)? },
        "unlink" | "rmdir" => What::Remove { path: path(0)? },
        "unlinkat" => What::Remove { path: path(1)? },
        "mkdir" => What::Folder { path: path(0)? },
        "mkdirat" => What::Folder { path: path(1)? },
        "writev" | "pwritev" | "pwritev2" | "fallocate" | "truncate" | "copy_file_range"
        | "sync_file_range" => {
            panic!("`{name}` is traced and not understood: teach it to this file")
        }
        _ => return None,
    })
}

fn written(argument: &Argument, result: i64) -> Rc<[u8]> {
    argument.bytes.get(..result as usize).expect("strace shows whole texts: -s").into()
}

struct Argument {
    word: String,
    bytes: Vec<u8>,
}

/// Splits `1, "\x61\x62", X|Y`.
fn split(arguments: &str) -> Vec<Argument> {
    let mut out = Vec::new();
    let mut rest = arguments;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (hex, after) = quoted.split_once('"').expect("a text ends");
            let bytes =
                hex.split("\\x").skip(1).map(|hex| u8::from_str_radix(hex, 16).expect("-xx")).collect();
            out.push(Argument { word: String::new(), bytes });
            rest = after.strip_prefix("...").unwrap_or(after).trim_start_matches([',', ' ']);
        } else {
            let (word, after) = rest.split_once(", ").unwrap_or((rest, ""));
            out.push(Argument { word: word.to_owned(), bytes: Vec::new() });
            rest = after;
        }
    }
    out
}
