//! What can be wrong with a log.

use std::io;

/// The log cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("the message log: {file} cannot be {action}: {source}; mend that and start again")]
    Unreadable {
        /// The file.
        file: String,
        /// What was to be done with it.
        action: &'static str,
        /// What the operating system says.
        source: io::Error,
    },
    /// Bytes that were stored are other bytes now.
    #[error(
        "the message log is damaged: {file} at byte {offset}: wanted {wanted}; restore the folder from a backup, \
         or move it away to begin with an empty one (sessions, their messages and retained messages are lost)"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where the bad piece begins, in bytes from the beginning of the file.
        offset: u64,
        /// What should have been there.
        wanted: &'static str,
    },
    /// A file that was there is not.
    #[error(
        "the message log is incomplete: there is no {file}; put it back, restore the folder from a backup, or move \
         the folder away to begin with an empty one (sessions, their messages and retained messages are lost)"
    )]
    Missing {
        /// The file.
        file: String,
    },
    /// Another version wrote it.
    #[error(
        "the message log: {file} has format {found}, this version reads {known}; start the version that wrote it, \
         or move the folder away and begin without its messages"
    )]
    Format {
        /// The file.
        file: String,
        /// The format found.
        found: u8,
        /// The format known here.
        known: u8,
    },
    /// A setting of [`crate::LogConfig`] is out of its range.
    #[error("the message log: `{key}` is {found}, wanted {wanted}")]
    Config {
        /// The setting.
        key: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        wanted: &'static str,
    },
}

impl LogError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "DB-5010",
            Self::Damaged { .. } => DAMAGED,
            Self::Missing { .. } => "DB-5012",
            Self::Format { .. } => "DB-5013",
            Self::Config { .. } => "DB-5014",
        }
    }

    /// The stable word of `docs/errors.md`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "log-unreadable",
            Self::Damaged { .. } => "log-damaged",
            Self::Missing { .. } => "log-incomplete",
            Self::Format { .. } => "log-format",
            Self::Config { .. } => "log-config",
        }
    }
}

/// A message read back is damaged; also the code of [`LogError::Damaged`].
pub(crate) const DAMAGED: &str = "DB-5011";

/// Nothing can be stored for now.
pub(crate) const STALLED: &str = "DB-5015";

/// A thread of the log has panicked.
pub(crate) const BROKEN: &str = "DB-5016";
