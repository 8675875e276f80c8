//! From what PostgreSQL says to what a store says.

use drawbridge_registry::StoreError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// Why a piece of work could not be done.
#[derive(Debug)]
pub(crate) enum Fault {
    Postgres(Error),
    Store(StoreError),
    /// What was read is out of date by now; the whole step must begin again.
    Again,
}

impl Fault {
    /// Whether the same step may go well if it is begun again: it was taken back because of another one.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Postgres(error) => error.code().is_some_and(|code| {
                [
                    SqlState::T_R_SERIALIZATION_FAILURE,
                    SqlState::T_R_DEADLOCK_DETECTED,
                    // Two looked, neither found it, both wrote it: whoever was second looks again.
                    SqlState::UNIQUE_VIOLATION,
                    // The principal was deleted between two statements.
                    SqlState::FOREIGN_KEY_VIOLATION,
                ]
                .contains(code)
            }),
            Self::Store(_) => false,
            Self::Again => true,
        }
    }

    /// Whether the connection was gone, rather than that the database refused.
    pub(crate) fn is_connection_lost(&self) -> bool {
        match self {
            Self::Postgres(error) => match error.code() {
                // The server was told to stop; it says so on each connection.
                Some(code) => {
                    [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::IDLE_SESSION_TIMEOUT]
                        .contains(code)
                }
                None => true,
            },
            Self::Store(_) | Self::Again => false,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
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
            Fault::Postgres(error) => store_error(&error),
            Fault::Store(error) => error,
            Fault::Again => {
                Self::Unavailable("others changed the same records again and again meanwhile".into())
            }
        }
    }
}

/// A stored value that this version would never have written.
pub(crate) fn damaged(what: &str) -> Fault {
    Fault::Store(StoreError::Corrupt(format!("{what} is not a valid value")))
}

/// A message names tables and constraints. Its DETAIL, which has values of rows, is left out.
pub(crate) fn store_error(error: &Error) -> StoreError {
    let Some(answer) = error.as_db_error() else {
        let mut text = format!("PostgreSQL: {error}");
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        return StoreError::Unavailable(text);
    };
    let code = answer.code().code();
    let text = format!("PostgreSQL: {} (SQLSTATE {code})", answer.message());
    if is_corruption(code) { StoreError::Corrupt(text) } else { StoreError::Unavailable(text) }
}

/// Values or tables that are not as this version left them; all else passes, or is for the operator.
fn is_corruption(code: &str) -> bool {
    match code {
        "42501" => false,          // no right to do so
        "22021" => false,          // a text with a NUL was to be written
        "XX001" | "XX002" => true, // a damaged page or index
        _ => ["22", "23", "42"].iter().any(|class| code.starts_with(class)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_passes_and_a_missing_table_is_corruption() {
        for (code, corrupt) in [
            ("53100", false), // disk full
            ("53300", false), // too many connections
            ("55P03", false), // lock not available
            ("57014", false), // statement timeout
            ("57P01", false), // shutdown
            ("57P03", false), // starting up
            ("58030", false), // i/o error
            ("25006", false), // read only: a standby
            ("28P01", false), // wrong password
            ("42501", false), // no right
            ("22021", false), // a NUL
            ("40001", false),
            ("40P01", false),
            ("XX000", false),
            ("XX001", true),
            ("42P01", true), // no such table
            ("42703", true), // no such column
            ("23505", true),
            ("23514", true),
            ("22P02", true),
        ] {
            assert_eq!(is_corruption(code), corrupt, "{code}");
        }
    }
}
