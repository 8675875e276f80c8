//! MQTT 3.1.1 and 5.0, statement by statement, over real sockets: `docs/mqtt-conformance.md` names for each
//! statement of both standards the functions here that fail when it is broken, and `cargo xtask rules` holds
//! that table and these functions together.
//!
//! The client is our own, down to the bytes: it says what no honest client would, and reads without the codec
//! under test (which must then accept what was read as well). Each test runs in both versions over every
//! [`Via`](world::Via).
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "these tests live in real time and tell what they saw"
)]

mod bytes;
mod client;
#[path = "../e2e/harness.rs"]
#[allow(dead_code, reason = "the tests of the whole binary need more of it")]
mod harness;
mod world;

mod auth;
mod classes;
mod connect;
mod exactly_once;
mod faults;
mod frames;
mod matrix;
mod publish;
mod retained;
mod sessions;
mod shared;
mod subscribe;
mod websocket;
mod wills;
mod wire;
