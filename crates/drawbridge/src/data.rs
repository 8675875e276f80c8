//! The data folder: one server each, readable by its owner only.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use drawbridge_cli::Endpoints;

/// The version of the folder's layout, in `DIR/format`.
const FORMAT: u32 = 1;

/// What is wrong with a data folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// A file or folder cannot be used.
    #[error("[DB-6010] {}: {why}; wanted a folder that this user owns and can write", path.display())]
    Unusable {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another server has it.
    #[error("[DB-6011] {} is in use by another server; stop that one or name another folder with --data", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// It was written by a version that this one does not know.
    #[error("[DB-6012] {} has format {found:?}, this version reads {FORMAT}; nothing in it was read", path.display())]
    UnknownFormat {
        /// The folder.
        path: PathBuf,
        /// What `DIR/format` says.
        found: String,
    },
    /// `--demo` was pointed at a folder with other content.
    #[error("[DB-6013] {} is not empty and was not made by --demo; name an empty folder, or none", path.display())]
    NotADemo {
        /// The folder.
        path: PathBuf,
    },
}

/// An open data folder; it stays locked as long as this lives.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Opens the folder, making it (0700) if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        make_private(path).map_err(|e| unusable(path, &e))?;
        let lock_path = path.join("lock");
        let lock = private_options()
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|e| unusable(&lock_path, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(DataError::Locked { path: path.to_owned() }),
            Err(fs::TryLockError::Error(e)) => return Err(unusable(&lock_path, &e)),
        }
        let folder = Self { path: path.to_owned(), _lock: lock };
        // Of a server that was killed: nobody shall look for this one at its addresses.
        folder.remove_endpoints();
        match folder.read("format")? {
            None => folder.replace("format", format!("{FORMAT}\n").as_bytes(), Mode::Private)?,
            Some(found) if found.trim() == FORMAT.to_string() => {}
            Some(found) => {
                return Err(DataError::UnknownFormat {
                    path: path.to_owned(),
                    found: found.chars().take(20).collect(),
                });
            }
        }
        Ok(folder)
    }

    /// Opens a folder for `--demo`: a missing, empty or earlier demo folder, nothing else.
    pub(crate) fn open_demo(path: &Path) -> Result<Self, DataError> {
        let has_content = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if has_content && !path.join("demo").exists() {
            return Err(DataError::NotADemo { path: path.to_owned() });
        }
        let folder = Self::open(path)?;
        folder.replace("demo", b"this folder was made by `drawbridge serve --demo`\n", Mode::Private)?;
        Ok(folder)
    }

    /// The path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.path
    }

    /// A file's text, or `None` when it is not there.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, DataError> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unusable(&path, &e)),
        }
    }

    /// Writes a file by rename: a reader sees the old one or the new one, whole.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8], mode: Mode) -> Result<(), DataError> {
        let path = self.path(name);
        let draft = self.path(&format!("{name}.new"));
        let written = (|| {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode as u32);
            let mut file = options.open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.path)?.sync_all()
        })();
        written.map_err(|e: std::io::Error| unusable(&path, &e))
    }

    /// Tells the other commands where the server is.
    pub(crate) fn write_endpoints(&self, endpoints: &Endpoints) -> Result<(), DataError> {
        let mut text = serde_json::to_string_pretty(endpoints).expect("addresses are JSON");
        text.push('\n');
        self.replace("endpoints.json", text.as_bytes(), Mode::Private)
    }

    /// The server is gone: nobody shall look for it at the old addresses.
    pub(crate) fn remove_endpoints(&self) {
        let _ = fs::remove_file(self.path("endpoints.json")); // gone already is as good
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// The owner.
    Private = 0o600,
    /// Everyone who can enter the folder.
    Public = 0o644,
}

fn unusable(path: &Path, error: &std::io::Error) -> DataError {
    DataError::Unusable { path: path.to_owned(), why: error.to_string() }
}

fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn make_private(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(path)?.permissions().mode() & 0o777;
            if fs::read_dir(path)?.next().is_none() {
                fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
            } else if mode & 0o077 != 0 {
                // Perhaps on purpose (a group that reads backups): not ours to change.
                let mode = format!("{mode:o}");
                tracing::warn!(folder = %path.display(), mode, "others can enter the data folder; wanted 700");
            }
        }
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_server_at_a_time() {
        let place = tempfile::tempdir().expect("temporary folder");
        let path = place.path().join("data");
        let first = DataFolder::open(&path).expect("a new folder opens");
        assert!(matches!(DataFolder::open(&path), Err(DataError::Locked { .. })));
        drop(first);
        assert!(DataFolder::open(&path).is_ok());
    }

    #[test]
    fn the_addresses_of_a_killed_server_are_gone_once_the_next_one_has_the_folder() {
        let place = tempfile::tempdir().expect("temporary folder");
        let folder = DataFolder::open(place.path()).expect("opens");
        let endpoints = Endpoints {
            mqtts: "127.0.0.1:1".into(),
            https: "127.0.0.1:2".into(),
            wss: "127.0.0.1:2".into(),
            mqtt: None,
        };
        folder.write_endpoints(&endpoints).expect("writes");
        drop(folder); // as a kill does: nothing is tidied up
        assert!(place.path().join("endpoints.json").exists());
        let _folder = DataFolder::open(place.path()).expect("opens again");
        assert!(!place.path().join("endpoints.json").exists());
    }

    #[test]
    fn a_folder_of_an_unknown_format_is_refused_unread() {
        let place = tempfile::tempdir().expect("temporary folder");
        drop(DataFolder::open(place.path()).expect("opens"));
        fs::write(place.path().join("format"), "99\n").expect("write");
        let error = DataFolder::open(place.path()).expect_err("99 is unknown").to_string();
        assert!(error.contains("99") && error.contains("DB-6012"), "{error}");
    }

    #[test]
    fn a_demo_never_touches_a_folder_with_other_content() {
        let place = tempfile::tempdir().expect("temporary folder");
        fs::write(place.path().join("precious"), "x").expect("write");
        assert!(matches!(DataFolder::open_demo(place.path()), Err(DataError::NotADemo { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_enter_the_folder() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().expect("temporary folder");
        let path = place.path().join("data");
        let folder = DataFolder::open(&path).expect("opens");
        folder.replace("secret", b"x", Mode::Private).expect("writes");
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        let empty = place.path().join("empty");
        fs::create_dir(&empty).expect("mkdir");
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).expect("chmod");
        drop(DataFolder::open(&empty).expect("opens"));
        assert_eq!(mode(&empty), 0o700, "an empty folder is taken into possession");
        assert_eq!(mode(&path.join("secret")), 0o600);
    }
}
