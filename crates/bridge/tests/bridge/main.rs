//! The bridge over real sockets on 127.0.0.1, with clients that write their packets by hand.
#![expect(clippy::disallowed_methods, reason = "real sockets need the real clocks")]

mod certificates;
mod client;
mod connect;
mod control;
mod durable;
mod fleet;
mod framed;
mod invariants;
mod limits;
mod rig;
mod statistics;
mod storm;
mod tokens;
mod websocket;
