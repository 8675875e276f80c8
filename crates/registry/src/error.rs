//! What can go wrong in a store.

use drawbridge_names::RegistryName;

/// A store could not do its work. Whoever asked must fail closed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, is full, or is shutting down. Nothing was changed.
    #[error("the store is unavailable: {0}; nothing was changed, try again when it is back")]
    Unavailable(String),
    /// A record cannot be read: it was damaged or written by something else.
    #[error("a record of the store cannot be read: {0}; restore it from a backup")]
    Corrupt(String),
    /// The folder or file was written by a version this one does not know.
    #[error(
        "the store has format {found}, this version reads {known}; use the version that wrote it, or a newer one"
    )]
    UnknownFormat {
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// Something was to be written into a registry that does not exist.
    #[error("there is no registry `{0}`; add it first, or use one of `drawbridge registry list`")]
    UnknownRegistry(RegistryName),
    /// Another server works on the store.
    #[error("{0}; stop it, wait until it is gone, or give this server a store of its own")]
    InUse(String),
    /// The address of the store is not one.
    #[error("the address of the store is refused: {0}")]
    Address(String),
}

impl StoreError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "DB-5001",
            Self::Corrupt(_) => "DB-5002",
            Self::UnknownFormat { .. } => "DB-5003",
            Self::UnknownRegistry(_) => "DB-5004",
            Self::InUse(_) => "DB-5005",
            Self::Address(_) => "DB-5006",
        }
    }

    /// The stable word of `docs/errors.md`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "store-unavailable",
            Self::Corrupt(_) => "store-corrupt",
            Self::UnknownFormat { .. } => "store-format",
            Self::UnknownRegistry(_) => "registry-unknown",
            Self::InUse(_) => "store-in-use",
            Self::Address(_) => "store-address",
        }
    }
}
