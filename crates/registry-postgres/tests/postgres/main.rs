//! The PostgreSQL store against a real server, made for this program in a temporary folder.

mod cluster;
mod connection;
mod durability;
mod format;
mod processes;
mod promises;
mod records;
mod sole;
mod waiting;
