//! What the log asks of a disk: few calls, so that a test can stand in for it.

mod faulty;
mod real;

use std::io;

pub use faulty::{Fault, FaultyDisk};
pub use real::RealDisk;

/// One folder of files, without folders in it.
pub trait Disk: Send + Sync {
    /// The names of all files.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new, empty file for writing; what had the name before is gone. It survives a power cut after
    /// [`DiskFile::sync`] and [`Disk::sync_folder`].
    ///
    /// # Errors
    /// As the operating system says.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// A file for reading.
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name; a file that had it is gone.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Who has it open can still read it.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Names made, changed and removed so far survive a power cut.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_folder(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Makes the file so long; there are zeros where nothing was appended, and what is appended goes in their place.
    /// A sync has no new length to write down then, which on most file systems halves what it takes.
    ///
    /// # Errors
    /// As the operating system says.
    fn reserve(&mut self, length: u64) -> io::Result<()>;

    /// Writes behind what was written. After an error any part of the bytes may be there.
    ///
    /// # Errors
    /// As the operating system says.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// What was appended survives a power cut. After an error nothing is known of what was appended since the
    /// last success, and a later success says nothing about it.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `length` bytes; what is appended goes there.
    ///
    /// # Errors
    /// As the operating system says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn length(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else as the operating system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}
