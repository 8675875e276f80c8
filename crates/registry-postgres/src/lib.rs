//! The registry in PostgreSQL: for several machines, or beside other data of the house.
//!
//! Whoever changes a principal holds its row (`SELECT ... FOR UPDATE`), whoever appends to the audit
//! holds the end of its chain, always in this order; so several connections and several processes
//! follow each other where they meet, and nowhere else. Statements go out in groups without waiting
//! for each answer (pipelining): a key update is three round trips, a `jti` two, a lookup one. `jti`
//! that wait at the same time share one transaction. The reasons are in
//! `docs/decisions/0018-registry-postgres.md`.

mod audit;
mod connection;
mod control;
mod enrolments;
mod fault;
mod format;
mod jti;
mod keys;
mod links;
mod marks;
mod policies;
mod pool;
mod principals;
mod registries;
mod rows;
mod sole;
mod store;
mod sweep;
mod tls;
mod tokens;
mod transaction;
mod url;

pub use format::FORMAT;
pub use sole::SoleServer;
pub use store::PostgresStore;
