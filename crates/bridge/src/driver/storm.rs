//! Many who come at once, and those who are in already (decision 0026).
//!
//! A handshake costs as much as hundreds of messages. Its pieces are queued as they come, first come first
//! served, and worked on for a bounded time when everybody else has had their turn; who is in is looked after again
//! before the next. When too many wait, nobody is accepted, and the rest waits in the kernel.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use drawbridge_broker::ConnId;

use super::Driver;
use crate::bridge::Shared;

/// How soon it is looked again whether admission is through with enough logins, or an address has room, where that
/// may be known to other shards only.
pub(super) const STRANGERS_LOOK: Duration = Duration::from_millis(5);

impl Driver {
    /// The connection has something to read, and it is for its handshake.
    pub(super) fn queue_handshake(&mut self, conn: ConnId, closed: bool) {
        let Some(socket) = self.socket(conn) else { return };
        socket.handshake_closed |= closed;
        if !std::mem::replace(&mut socket.handshake_queued, true) {
            self.handshakes.push_back(conn);
        }
    }

    /// Works on handshakes, for as long as a turn has for them; on one at least.
    pub(super) fn work_on_handshakes(&mut self, now: Instant) {
        if self.handshakes.is_empty() || self.shared.has_many_logins() {
            return;
        }
        let began = self.shared.clock.instant();
        let mut pieces = 0;
        while let Some(conn) = self.handshakes.pop_front() {
            let Some(socket) = self.socket(conn) else { continue };
            socket.handshake_queued = false;
            let closed = std::mem::take(&mut socket.handshake_closed);
            self.read(now, conn, closed);
            pieces += 1;
            let is_done = self.socket(conn).is_some_and(|socket| !socket.channel.is_handshaking());
            if let Some(meter) = self.shared.meters.get(self.index).filter(|_| is_done) {
                meter.handshakes.fetch_add(1, Relaxed);
            }
            let worked = self.shared.clock.instant().saturating_duration_since(began);
            if worked >= self.shared.handshake_time_per_turn {
                break;
            }
        }
        if let Some(meter) = self.shared.meters.get(self.index) {
            meter.handshakes_per_turn_max.fetch_max(pieces, Relaxed);
        }
    }

    /// Whether another stranger could be served at all.
    pub(super) fn may_accept(&self) -> bool {
        self.handshakes.len() < self.shared.handshakes_waiting_max && !self.shared.has_many_logins()
    }
}

impl Shared {
    /// Whether admission is so far behind that nobody else should be brought to it.
    pub(crate) fn has_many_logins(&self) -> bool {
        let max = self.logins.max();
        self.logins.taken() >= max - max / 4
    }
}
