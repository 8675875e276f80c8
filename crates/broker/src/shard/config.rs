//! What a shard is told, and what it can be asked.

use std::time::{Duration, Instant};

#[cfg(doc)]
use super::Shard;

/// Settings of a shard. Sizes in bytes, and per connection unless it says otherwise.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// The number of this shard, from 0.
    pub index: usize,
    /// How many shards there are.
    pub shards: usize,
    /// All bytes before authentication, those held while it is judged included (I1). Default 16 KiB.
    pub packet_bytes_before_auth_max: usize,
    /// One packet after authentication. Default 256 KiB and 1 KiB for its header.
    pub packet_bytes_max: usize,
    /// Output waiting for the socket; a single larger packet still passes when nothing waits. Beyond
    /// it QoS 0 is dropped and QoS 1 and 2 wait in the queue of the session. Default 256 KiB.
    pub write_buffer_bytes_max: usize,
    /// What may wait in memory for the sessions of one registry in this shard; a message counts once. Beyond
    /// it the session that is behind longest makes room: what is stored for it is read back later, and one
    /// that is not stored is ended. Default 64 MiB.
    pub waiting_bytes_max: usize,
    /// The retained messages of one registry. Default 64 MiB.
    pub retained_bytes_max: usize,
    /// From the opening of the socket to an admitted CONNECT, by invariant I1; the driver passes the
    /// deadline to [`Shard::open`]. Default 10 s.
    pub connect_timeout: Duration,
    /// Longest keep-alive, in seconds; MQTT 5 clients that ask for more or none are given this one.
    /// Default 65,535, which leaves every client its own.
    pub keep_alive_s_max: u16,
    /// QoS 1 and 2 messages on the way to a client at once; a client's Receive Maximum may lower it.
    /// Default 8,192.
    pub inflight_max: u16,
    /// QoS 1 and 2 messages on the way from a client of MQTT 5 at once. Default 1,024.
    pub receive_maximum: u16,
    /// Topic aliases a client of MQTT 5 may define. Default 32.
    pub topic_alias_maximum: u16,
    /// Topic aliases that a client of MQTT 5 is given, at most, if it takes any. Default 32.
    pub topic_aliases_given_max: u16,
    /// Subscriptions of one session. Default 131,072.
    pub subscriptions_max: usize,
    /// What the filters of one session may cost: their bytes, and 96 for each level. Default 64 MiB.
    pub subscription_bytes_max: usize,
    /// An instant and the ms since 1970-01-01 UTC at that instant, to write `received_ms` into
    /// messages. Default none.
    pub wall_clock: Option<(Instant, u64)>,
    /// Whether there is a storage: sessions may outlive their connections, and batches are given out.
    /// Default no.
    pub durable: bool,
    /// The longest Session Expiry Interval given, in seconds; also that of a 3.1.1 session that is kept.
    /// Default 604,800 (7 days).
    pub session_expiry_s_max: u32,
    /// Sessions that one principal may have stored in this shard, if it may have many live ones; for a new one
    /// that which is away longest goes. A device may have 16. Default 10,000.
    pub kept_sessions_max: usize,
    /// What the filters of all stored sessions of one principal in this shard may cost, as
    /// `subscription_bytes_max`. Default 256 MiB.
    pub kept_subscription_bytes_max: usize,
    /// QoS 1 and 2 messages that may wait for a session that is away or does not keep up. Beyond it a stored
    /// session keeps what it has and misses the newest; another one is ended. Default 100,000.
    pub queue_messages_max: usize,
    /// Their bytes. Default 16 MiB.
    pub queue_bytes_max: usize,
    /// From one renewal of a session to the next, at least. Default 1 s.
    pub renewal_interval: Duration,
    /// Whether clients that have not logged in publish tokens to [`crate::AUTHZ_INFO_TOPIC`] somewhere: then nobody
    /// else publishes there. Default no.
    pub takes_authz_info: bool,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            index: 0,
            shards: 1,
            packet_bytes_before_auth_max: 16 << 10,
            packet_bytes_max: 257 << 10,
            write_buffer_bytes_max: 256 << 10,
            waiting_bytes_max: 64 << 20,
            retained_bytes_max: 64 << 20,
            connect_timeout: Duration::from_secs(10),
            keep_alive_s_max: u16::MAX,
            inflight_max: 8_192,
            receive_maximum: 1_024,
            topic_alias_maximum: 32,
            topic_aliases_given_max: 32,
            subscriptions_max: 1 << 17,
            subscription_bytes_max: 64 << 20,
            wall_clock: None,
            durable: false,
            session_expiry_s_max: 604_800,
            kept_sessions_max: 10_000,
            kept_subscription_bytes_max: 256 << 20,
            queue_messages_max: 100_000,
            queue_bytes_max: 16 << 20,
            renewal_interval: Duration::from_secs(1),
            takes_authz_info: false,
        }
    }
}

/// What a shard holds and has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open connections, authenticated or not.
    pub connections: usize,
    /// Live sessions.
    pub sessions: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Retained messages.
    pub retained: usize,
    /// Their bytes.
    pub retained_bytes: usize,
    /// Sessions that outlive their connections.
    pub sessions_stored: usize,
    /// Those of them that are away.
    pub sessions_away: usize,
    /// Messages in memory that wait for sessions; each counts once.
    pub waiting: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Messages that wait for sessions, in memory or not, once for each session.
    pub queued: usize,
    /// Their bytes, once for each session.
    pub queued_bytes: usize,
    /// Sessions that are behind.
    pub sessions_behind: usize,
    /// Messages that other shards were asked about: to whom there they are owed.
    pub gathering: usize,
    /// Messages of other shards that are owed here and not known to be stored.
    pub foreign: usize,
    /// Timers that have not fired.
    pub timers: usize,
    /// Wills that are held back.
    pub delayed_wills: usize,
    /// Bytes of input and output buffers.
    pub buffer_bytes: usize,
    /// Publishes accepted from clients, since the start.
    pub received: u64,
    /// The same by QoS.
    pub received_by_qos: [u64; 3],
    /// Messages written to clients, since the start.
    pub delivered: u64,
    /// The same by QoS.
    pub delivered_by_qos: [u64; 3],
    /// QoS 0 messages dropped because the client was too slow, since the start.
    pub dropped_qos0: u64,
    /// Messages not handed over because `may_deliver` said no, since the start.
    pub withheld: u64,
    /// Messages dropped because they expired before they could be handed over, since the start.
    pub expired: u64,
    /// Messages too large for the client's Maximum Packet Size, since the start.
    pub too_large_for_client: u64,
    /// Messages dropped, or sessions ended, because a queue was full, since the start.
    pub queue_full: u64,
    /// Publishes refused because the storage could not take them, since the start.
    pub storage_full: u64,
    /// Messages that were older than the storage keeps when their turn came, since the start.
    pub forgotten: u64,
    /// Sessions that did not come back in time, since the start.
    pub sessions_expired: u64,
    /// Messages that waited for a session when it ended, since the start; those of a shared subscription that
    /// go to another member do not count.
    pub discarded: u64,
}
