//! A disk for the real server that fills up, or forgets what was never synced: `tests/clients/disk.c`, put between
//! the process and its files.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Core, repository};

/// The layer below one server.
pub(crate) struct Disk {
    full: PathBuf,
    journal: PathBuf,
}

impl Disk {
    /// Puts the layer below a server that does not run yet. It concerns the files whose path begins with `folder` in
    /// the data folder; empty for all of them.
    pub(crate) fn below(core: &mut Core, folder: &str) -> Self {
        let place = core.place().canonicalize().expect("a folder");
        let (library, source) =
            (place.join("disk.so"), repository().join("crates/drawbridge/tests/clients/disk.c"));
        let built = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status()
            .expect("cc is missing; run ./scripts/test, which installs it");
        assert!(built.success(), "cc: {built}");
        let disk = Self { full: place.join("disk-is-full"), journal: place.join("disk-journal") };
        core.environment = vec![
            ("LD_PRELOAD", library),
            ("DISK_FOLDER", place.join("data").join(folder)),
            ("DISK_FULL", disk.full.clone()),
            ("DISK_JOURNAL", disk.journal.clone()),
        ];
        disk
    }

    /// From now on there is no space, or there is again.
    pub(crate) fn set_full(&self, is_full: bool) {
        if is_full {
            fs::write(&self.full, "").expect("written");
        } else {
            fs::remove_file(&self.full).expect("it was full");
        }
    }

    /// The server was killed; now the power fails too: of what it wrote since it was started and never synced,
    /// nothing is left, or any part of it. Names of files too are lost that were not synced with their folder.
    pub(crate) fn power_cut(&self, keep: Keep, mut random: impl FnMut() -> u64) -> Lost {
        let journal = fs::read_to_string(&self.journal).expect("the journal");
        let mut lost = Lost::default();
        for (path, file) in read(&journal) {
            let is_kept = |random: &mut dyn FnMut() -> u64| keep == Keep::Any && random().is_multiple_of(2);
            if !file.name_is_synced && !is_kept(&mut random) {
                lost.names += 1;
                match file.name_before {
                    Some(before) => fs::rename(&path, before).expect("renamed back"),
                    None => fs::remove_file(&path).expect("removed"),
                }
                continue;
            }
            let open = OpenOptions::new().write(true).open(&path).expect("the file");
            if file.length > file.synced_length && !is_kept(&mut random) {
                open.set_len(file.synced_length).expect("cut");
            }
            let length = open.metadata().expect("its length").len();
            for (offset, bytes) in file.unsynced {
                // A sector is written as a whole or not at all.
                let mut at = offset;
                while at < (offset + bytes).min(length) {
                    let end = (at / 512 + 1) * 512;
                    let end = end.min(offset + bytes).min(length);
                    if !is_kept(&mut random) {
                        open.write_all_at(&vec![0; usize::try_from(end - at).expect("a sector")], at)
                            .expect("zeros");
                        lost.bytes += end - at;
                    }
                    at = end;
                }
            }
        }
        fs::remove_file(&self.journal).expect("the journal");
        lost
    }
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    /// Nothing.
    Nothing,
    /// Each sector and name, or not.
    Any,
}

/// What a power cut took.
#[derive(Default, Debug)]
pub(crate) struct Lost {
    pub(crate) bytes: u64,
    pub(crate) names: u32,
}

/// What is known of a file that was written to.
#[derive(Default)]
struct File {
    name_is_synced: bool,
    /// The name that it had when its name was synced last, if it had one.
    name_before: Option<PathBuf>,
    length: u64,
    synced_length: u64,
    /// Offset and bytes of each write that may be lost.
    unsynced: Vec<(u64, u64)>,
    /// How many of them stood before the sync that is under way, and the length then.
    under_way: (usize, u64),
}

/// What became of each file by the journal, by its last name.
fn read(journal: &str) -> BTreeMap<PathBuf, File> {
    let mut files: BTreeMap<PathBuf, File> = BTreeMap::new();
    let mut renamed = PathBuf::new();
    // The last line is whole, or was never written: each is one call.
    for line in journal.lines() {
        let mut words = line.split(' ');
        let (kind, path) = (words.next().expect("a kind"), PathBuf::from(words.next().expect("a path")));
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
        let known = |files: &mut BTreeMap<PathBuf, File>, path: &Path| {
            // What was there before the server was started is on the disk.
            files.entry(path.to_owned()).or_insert_with(|| {
                let length = fs::metadata(path).map_or(0, |meta| meta.len());
                File { name_is_synced: true, length, synced_length: length, ..File::default() }
            });
        };
        match kind {
            "N" => drop(files.insert(path, File::default())),
            "O" => renamed = path,
            "R" => {
                known(&mut files, &renamed);
                let mut file = files.remove(&renamed).expect("just made known");
                if file.name_is_synced {
                    file.name_before = Some(renamed.clone());
                }
                file.name_is_synced = false;
                files.insert(path, file);
            }
            "U" => drop(files.remove(&path)),
            "B" | "S" if path.is_dir() => {
                if kind == "S" {
                    for (name, file) in &mut files {
                        if name.parent() == Some(&path) {
                            (file.name_is_synced, file.name_before) = (true, None);
                        }
                    }
                }
            }
            _ => {
                known(&mut files, &path);
                let file = files.get_mut(&path).expect("just made known");
                match kind {
                    "W" => {
                        let (offset, bytes) = (number(), number());
                        file.unsynced.push((offset, bytes));
                        file.length = file.length.max(offset + bytes);
                    }
                    "T" => {
                        file.length = number();
                        file.synced_length = file.synced_length.min(file.length);
                    }
                    "B" => file.under_way = (file.unsynced.len(), file.length),
                    "S" => {
                        file.unsynced.drain(..file.under_way.0);
                        file.synced_length = file.under_way.1;
                    }
                    other => panic!("{other} in the journal"),
                }
            }
        }
    }
    files
}

#[test]
fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
    let place = tempfile::tempdir().expect("temporary folder");
    let at = |name: &str| place.path().join(name);
    for name in ["kept", "cut", "new", "renamed"] {
        fs::write(at(name), [1; 2_000]).expect("written");
    }
    let (root, disk) = (place.path().display(), Disk { full: at("full"), journal: at("journal") });
    let journal = format!(
        "N {root}/kept\nW {root}/kept 0 1000\nB {root}/kept\nW {root}/kept 1000 1000\nS {root}/kept\n\
         N {root}/cut\nT {root}/cut 2000\nB {root}/cut\nS {root}/cut\nW {root}/cut 100 50\nN {root}/tmp\nB {root}\nS {root}\n\
         O {root}/tmp\nR {root}/renamed\nN {root}/new\nW {root}/new 0 2000\nB {root}/new\nS {root}/new\n"
    );
    fs::write(at("journal"), journal).expect("written");
    let lost = disk.power_cut(Keep::Nothing, || panic!("nothing is left to chance"));
    assert_eq!((lost.bytes, lost.names), (50, 2));
    assert_eq!(fs::read(at("kept")).expect("there"), [1; 1_000], "the second write began within the sync");
    let cut = fs::read(at("cut")).expect("there");
    assert_eq!((&cut[..100], &cut[100..150], &cut[150..]), (&[1; 100][..], &[0; 50][..], &[1; 1_850][..]));
    assert!(!at("new").exists() && !at("renamed").exists() && at("tmp").exists());
}
