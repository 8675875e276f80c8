//! From what SQLite says to what a store says.

use drawbridge_registry::StoreError;
use rusqlite::{Error, ErrorCode};

/// Why a piece of work could not be done.
#[derive(Debug)]
pub(crate) enum Fault {
    Sqlite(Error),
    Store(StoreError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sqlite(error) => store_error(&error),
            Fault::Store(error) => error,
        }
    }
}

/// A stored value that this version would never have written.
pub(crate) fn damaged(what: &str) -> Fault {
    Fault::Store(StoreError::Corrupt(format!("{what} is not a valid value")))
}

/// The store was closed, or one of its threads ended.
pub(crate) fn stopped() -> StoreError {
    StoreError::Unavailable("it is shutting down".into())
}

/// SQLite's messages name tables and files, never values.
pub(crate) fn store_error(error: &Error) -> StoreError {
    match error {
        Error::SqliteFailure(cause, _) => match cause.code {
            // A constraint that fails although the code has looked first: table and index differ.
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation => {
                StoreError::Corrupt(error.to_string())
            }
            _ => StoreError::Unavailable(error.to_string()),
        },
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => StoreError::Corrupt(error.to_string()),
        // The schema is not the one of its version: a table or column is missing.
        Error::SqlInputError { msg, .. } => StoreError::Corrupt(msg.clone()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn a_full_disk_is_unavailable_and_a_damaged_page_is_corrupt() {
        for (code, expected) in [
            (ffi::SQLITE_FULL, "DB-5001"),
            (ffi::SQLITE_IOERR_WRITE, "DB-5001"),
            (ffi::SQLITE_IOERR_FSYNC, "DB-5001"),
            (ffi::SQLITE_BUSY, "DB-5001"),
            (ffi::SQLITE_READONLY, "DB-5001"),
            (ffi::SQLITE_CANTOPEN, "DB-5001"),
            (ffi::SQLITE_NOMEM, "DB-5001"),
            (ffi::SQLITE_CORRUPT, "DB-5002"),
            (ffi::SQLITE_CORRUPT_INDEX, "DB-5002"),
            (ffi::SQLITE_NOTADB, "DB-5002"),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, "DB-5002"),
        ] {
            let error = store_error(&Error::SqliteFailure(ffi::Error::new(code), None));
            assert_eq!(error.code(), expected, "{code}: {error}");
        }
    }
}
