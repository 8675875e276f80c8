//! The registry in one SQLite file: WAL, synchronous=FULL, grouped commits, migrations.
//!
//! One thread owns the connection that writes. It takes all changes that wait, runs each under a
//! savepoint of its own in one transaction, commits once, and then answers all: a hundred logins
//! cost one flush of the disk. A login's lookups run at once on the caller's thread; lists (pages,
//! the audit) have a thread of their own, so that a long one never stands before a login. The reasons
//! are in `docs/decisions/0004-registry-store.md`.

mod audit;
mod control;
mod enrolments;
mod fault;
mod file;
mod jti;
mod keys;
mod links;
mod policies;
mod principals;
mod queue;
mod readers;
mod registries;
mod rows;
mod store;
mod tokens;
mod writer;

pub use file::FORMAT;
pub use store::SqliteStore;
pub use writer::Counters;
