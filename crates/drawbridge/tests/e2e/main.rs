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
mod authz_info;
mod bad_input;
mod bench;
mod browsers;
#[path = "../conformance/bytes.rs"]
#[allow(dead_code, reason = "the tests of conformance need more of it")]
mod bytes;
#[path = "../conformance/client.rs"]
#[allow(dead_code, reason = "the tests of conformance need more of it")]
mod client;
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
mod ends;
mod enrolment;
mod faults;
mod fleet;
#[path = "../conformance/frames.rs"]
mod frames;
mod harness;
mod interop;
mod invariants;
mod keys;
mod messages;
mod oauth;
mod openapi;
mod operator;
mod plain;
mod policies;
mod pop;
mod postgres;
mod refresh;
mod renewal;
mod roads;
mod stock_clients;
mod traffic;
mod ways;
mod wire;
#[path = "../conformance/world.rs"]
#[allow(dead_code, reason = "the tests of conformance need more of it")]
mod world;
