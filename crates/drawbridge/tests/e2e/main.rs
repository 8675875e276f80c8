//! The binary as a user runs it: real sockets, real TLS, and clients that no one here wrote. One file
//! a promise.
#![expect(clippy::disallowed_methods, reason = "these tests live in real time")]

mod bad_input;
mod clients;
mod command_line;
mod demo;
mod harness;
mod invariants;
mod oauth;
mod readme;
