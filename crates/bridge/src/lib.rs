//! Sockets and TLS: drives the MQTT cores, one poll loop a shard.
//!
//! ```text
//! listener --accept--> socket --TLS--> broker::Shard --effects--> sockets, other shards, admission, storage
//!     HTTPS --upgrade--> socket --TLS, WebSocket--^
//! ```
//!
//! Each shard has one thread, and in it one poll for all its sockets: each turn reads all that is
//! ready, lets the broker work on the bytes where they lie, then flushes each changed connection and
//! hands each other shard its batch, once. Slow questions (who is this? record this command) go to a
//! tokio runtime and come back through the shard's inbox. Why so: `docs/decisions/0005`.

mod bridge;
mod changes;
mod channel;
mod client_certificate;
mod config;
mod driver;
mod durable;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod handle;
mod hello;
mod inbox;
mod journal;
mod open_files;
mod server_tls;
mod statistics;
mod tickets;
mod tls;
mod websocket;

pub use bridge::Bridge;
pub use config::{BridgeConfig, HttpsArrival, HttpsEntrance, Listener, ListenerKind};
pub use durable::{Durable, StorageNews};
pub use error::BridgeError;
pub use handle::{BridgeHandle, BridgeStats, WebSocketPlace};
pub use hello::{Hello, HelloFault, HelloReader};
pub use open_files::{OpenFiles, raise_open_files};
pub use server_tls::{
    Choice, Protocol, ServerIdentity, ServerName, ServerTls, TlsSettings, server_tls, server_tls_asking,
};
pub use tickets::{TICKET_LIFE_S_MAX, TicketSecrets};
