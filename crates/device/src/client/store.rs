//! Messages that wait, in files: one each, named by number. A file is whole or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use drawbridge_mqtt::codec::Qos;

use crate::DeviceError;

/// A folder of messages.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    next: u64,
    /// Locked as long as it is open.
    _lock: File,
}

/// One message as it was kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
}

/// First byte of a file: its form.
const FORM: u8 = 1;

impl Store {
    /// Opens the folder, made if missing, and reads what is in it, oldest first.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Vec<(u64, Kept)>), DeviceError> {
        let fault = |path: &Path, why: String| DeviceError::File { path: path.to_owned(), why };
        fs::create_dir_all(folder).map_err(|e| fault(folder, e.to_string()))?;
        // Two clients would give the same numbers, and one would write over what the other has kept.
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(|e| fault(&path, e.to_string()))?;
        lock.try_lock().map_err(|e| {
            fault(folder, format!("{e}; another client has this queue: give each a folder of its own"))
        })?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(folder).map_err(|e| fault(folder, e.to_string()))? {
            let path = entry.map_err(|e| fault(folder, e.to_string()))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(".new") {
                let _ = fs::remove_file(&path); // the process ended while it was written; nobody was told it is kept
                continue;
            }
            let Some(number) = name.strip_suffix(".msg").and_then(|number| number.parse().ok()) else {
                continue;
            };
            let bytes = fs::read(&path).map_err(|e| fault(&path, e.to_string()))?;
            let message = decode(&bytes)
                .ok_or_else(|| fault(&path, "no message of this library; remove it".to_owned()))?;
            kept.push((number, message));
        }
        kept.sort_by_key(|(number, _)| *number);
        let next = kept.last().map_or(0, |(number, _)| number + 1);
        Ok((Self { folder: folder.to_owned(), next, _lock: lock }, kept))
    }

    /// Writes one, synced; answers its number.
    pub(crate) fn keep(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        retain: bool,
    ) -> Result<u64, DeviceError> {
        let number = self.next;
        let path = self.path(number);
        let new = path.with_extension("new");
        let mut bytes = vec![FORM, qos.bits() | u8::from(retain) << 4];
        bytes.extend_from_slice(&u32::try_from(topic.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(topic.as_bytes());
        bytes.extend_from_slice(payload);
        let written = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        written().map_err(|e| DeviceError::File { path: path.clone(), why: e.to_string() })?;
        self.next += 1;
        Ok(number)
    }

    /// Removes one that was acknowledged. If that fails it is sent once more after the next start.
    pub(crate) fn forget(&mut self, number: u64) {
        let _ = fs::remove_file(self.path(number)); // at least once is kept either way
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}.msg"))
    }
}

fn decode(bytes: &[u8]) -> Option<Kept> {
    let ([FORM, flags], rest) = bytes.split_first_chunk::<2>()? else { return None };
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (topic, payload) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some(Kept {
        topic: String::from_utf8(topic.to_vec()).ok()?,
        payload: payload.to_vec(),
        qos: Qos::from_bits(flags & 3)?,
        retain: flags & 0x10 != 0,
    })
}
