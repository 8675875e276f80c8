//! Many MQTT sessions without I/O: routing, queues, retained messages, wills, and what is stored of them.
//!
//! ```text
//! bytes, answers, orders, time --> Shard --> Effects, output bytes
//! ```
//!
//! A [`Shard`] owns its connections, sessions and filters and is single-threaded; shards hand each
//! other [`Crossing`]s through their drivers. It has no clock, no randomness and no socket: the
//! driver passes bytes and the time in and carries the [`Effect`]s out.
//!
//! What every driver keeps to:
//! - after [`Shard::open`], each [`Effect::Close`] is answered by [`Shard::hung_up`] when the socket
//!   is closed, and a socket that goes away by itself is told by the same call: it frees the place;
//! - [`Effect::Write`] is answered by [`Shard::drained`] once [`Shard::output`] is empty;
//! - [`Shard::end_sessions`] is called on every shard;
//! - at the end of a turn [`Shard::take_batch`] is taken and stored, and [`Shard::committed`] told.
//!
//! | room | what is in it |
//! |---|---|
//! | `deliver` | the two questions that every path asks: may it be published, may it be delivered |
//! | `routes` | who subscribed to what |
//! | `retained` | the last word on each topic |
//! | `storage` | what outlives the process, as records |
//! | `wheel` | all timers of a shard |
//! | `directory` | where a principal is connected; which shards listen |
//! | `shard` | the connections, and what happens to them |

mod deliver;
mod directory;
mod effect;
mod message;
mod report;
mod retained;
mod routes;
mod shard;
pub mod storage;
mod wheel;

pub use directory::{Directory, Interest};
pub use effect::{
    Admitted, Asked, Challenged, Close, ConnId, ConnectRequest, ControlAck, ControlKind, ControlPublish,
    Crossing, Effect, Ended, EndedWhy, Order, OrderOutcome, Refused, RefusedReason, RenewBy, RenewRequest,
    Ticket, TicketEnd,
};
pub use message::{Message, Publisher};
pub use report::{Report, What, Who};
pub use shard::{
    AUTH_NONCE_TOPIC, AUTH_RESULT_TOPIC, AUTH_TOPIC, AUTHZ_INFO_TOPIC, Figures, Given, Member, Moving,
    PING_TOPIC, Refreshed, RegistryStats, Restored, Shard, ShardConfig, Sharing, Stats,
};
