//! The binary as a user runs it: real sockets, real TLS, and clients that no one here wrote. One file
//! a promise.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "these tests live in real time and tell what they saw"
)]

mod ace;
mod attacks;
mod audit;
mod bad_input;
mod bench;
#[path = "../conformance/bytes.rs"]
#[allow(dead_code, reason = "the tests of conformance need more of it")]
mod bytes;
mod clients;
#[path = "../../../registry-postgres/tests/postgres/cluster.rs"]
#[allow(dead_code, reason = "the store's own tests need more of it")]
mod cluster;
mod command_line;
mod credentials;
mod demo;
mod device_library;
mod disk;
mod documents;
mod durability;
mod enrolment;
mod faults;
mod fleet;
mod harness;
mod interop;
mod invariants;
mod keys;
mod messages;
mod oauth;
mod openapi;
mod operator;
mod plain;
mod postgres;
mod stock_clients;
mod wire;
