//! Reading, writing and closing one connection.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use drawbridge_broker::{Close, ConnId};

use super::Driver;
use crate::channel::{Channel, ReadBuffers, ReadEnd, Received, WriteEnd};
use crate::error::Turned;

/// Full buffers read from one connection in one turn.
const READS_PER_TURN: usize = 4;
/// A connection that has this much unsent is not read on: its answers would only pile up.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// How long a refused connection may take to drain, both ways.
const LINGER: Duration = Duration::from_secs(2);
/// How long a session that has ended may take to hear of it: less than the second in which it must be
/// out (I5, I6).
const FAREWELL: Duration = Duration::from_millis(500);
/// How much a closing connection may still send, unread by anybody.
const DISCARD_BYTES_MAX: usize = 1024 * 1024;

/// A connection on its way out.
pub(super) struct Closing {
    linger: bool,
    stage: Stage,
    discard_left: usize,
}

#[derive(PartialEq, Eq)]
enum Stage {
    /// The output goes first.
    Flushing,
    /// Then close_notify.
    Notifying,
    /// Then FIN; what still comes is read and thrown away, so that no reset overtakes the answer.
    Discarding,
}

impl Driver {
    /// Reads what is ready and gives it to the broker. `closed`: the peer is said to have ended its
    /// half, so a short read is not the end of it.
    pub(super) fn read(&mut self, now: Instant, conn: ConnId, closed: bool) {
        for _ in 0..READS_PER_TURN {
            let Some(socket) = self.socket(conn) else { return };
            if let Some(closing) = &socket.closing {
                if closing.stage == Stage::Discarding {
                    self.discard(conn);
                }
                return;
            }
            if self.unsent(conn) > UNSENT_BYTES_MAX || self.shard.is_held(conn) {
                if let Some(socket) = self.socket(conn) {
                    socket.held_back = true;
                }
                return;
            }
            if self.others_are_behind() {
                return self.mark_unread(conn);
            }
            match self.read_once(now, conn) {
                ReadEnd::More => {}
                ReadEnd::Drained if closed => {}
                ReadEnd::Drained | ReadEnd::Empty => return,
                ReadEnd::Closed => return self.leave(conn),
                ReadEnd::Turned(turned) => return self.turn_away(now, conn, &turned),
                ReadEnd::Https(hello) => {
                    let (hello, tls) = *hello;
                    return self.send_to_https(now, conn, hello, tls);
                }
            }
        }
        self.mark_unread(conn);
    }

    fn read_once(&mut self, now: Instant, conn: ConnId) -> ReadEnd {
        self.take_in(now, conn, Channel::read)
    }

    /// Gives the broker what `read` brings.
    pub(super) fn take_in(
        &mut self,
        now: Instant,
        conn: ConnId,
        read: impl FnOnce(&mut Channel, &mut ReadBuffers) -> (Received, ReadEnd),
    ) -> ReadEnd {
        let Some(socket) = self.sockets.get_mut(conn.slot() as usize).and_then(Option::as_mut) else {
            return ReadEnd::Closed;
        };
        let (received, end) = read(&mut socket.channel, &mut self.buffers);
        let (at_gate, answers) = (socket.at_gate, socket.channel.wants_write());
        if at_gate && let Some(registry) = socket.channel.take_registry() {
            socket.registry = Some(registry);
        }
        let bytes = self.buffers.bytes(received);
        let has_bytes = !bytes.is_empty();
        if has_bytes {
            self.shard.receive(now, conn, bytes, &mut self.effects);
        }
        if at_gate {
            // A password may have been in it.
            self.buffers.wipe(received);
        }
        // Where CONNECT came with the end of the handshake, the ticket leaves with its answer.
        if answers && !(at_gate && has_bytes) {
            self.mark_dirty(conn);
        }
        end
    }

    /// The peer broke TLS or WebSocket. Its alert is sent; what it still says is thrown away.
    pub(super) fn turn_away(&mut self, now: Instant, conn: ConnId, turned: &Turned) {
        let Some(socket) = self.socket(conn) else { return };
        let peer = socket.peer;
        self.journal.refused(now, turned.code(), turned.word(), peer, turned);
        self.begin_closing(now, conn, true, Stage::Notifying);
    }

    /// Closes as the broker asks.
    pub(super) fn close(&mut self, now: Instant, conn: ConnId, how: Close) {
        match how {
            Close::Silent => self.leave(conn),
            Close::AfterFlush { linger } => self.begin_closing(now, conn, linger, Stage::Flushing),
        }
    }

    fn begin_closing(&mut self, now: Instant, conn: ConnId, linger: bool, stage: Stage) {
        let Some(socket) = self.socket(conn) else { return };
        if socket.closing.is_some() {
            return;
        }
        socket.closing = Some(Closing { linger, stage, discard_left: DISCARD_BYTES_MAX });
        self.closings.push(Reverse((now + if linger { LINGER } else { FAREWELL }, conn)));
        self.mark_dirty(conn);
    }

    /// Those that took too long.
    pub(super) fn close_overdue(&mut self, now: Instant) {
        while let Some(Reverse((due, conn))) = self.closings.peek().copied() {
            if due > now {
                return;
            }
            self.closings.pop();
            self.leave(conn);
        }
    }

    fn discard(&mut self, conn: ConnId) {
        for _ in 0..READS_PER_TURN {
            let Some(socket) = self.sockets.get_mut(conn.slot() as usize).and_then(Option::as_mut) else {
                return;
            };
            let (bytes, end) = socket.channel.discard(&mut self.buffers);
            let Some(closing) = socket.closing.as_mut() else { return };
            closing.discard_left = closing.discard_left.saturating_sub(bytes);
            if closing.discard_left == 0 || matches!(end, ReadEnd::Closed) {
                return self.leave(conn);
            }
            if matches!(end, ReadEnd::Empty) {
                return;
            }
        }
        self.mark_unread(conn);
    }

    fn unsent(&mut self, conn: ConnId) -> usize {
        self.shard.output(conn).map_or(0, |output| output.len())
    }

    /// Writes what a connection has to say.
    pub(super) fn flush(&mut self, now: Instant, conn: ConnId) {
        let Some(socket) = self.sockets.get_mut(conn.slot() as usize).and_then(Option::as_mut) else {
            return;
        };
        if socket.conn != conn || socket.leaving {
            return;
        }
        socket.dirty = false;
        let mut nothing = Vec::new();
        let flushing = socket.closing.as_ref().is_none_or(|closing| closing.stage == Stage::Flushing);
        let output = if flushing { self.shard.output(conn) } else { None };
        match socket.channel.write(output.unwrap_or(&mut nothing)) {
            WriteEnd::Broken => self.leave(conn),
            WriteEnd::Blocked => socket.blocked = true,
            WriteEnd::Flushed => {
                socket.blocked = false;
                self.flushed(now, conn);
            }
        }
    }

    fn flushed(&mut self, now: Instant, conn: ConnId) {
        let Some(socket) = self.socket(conn) else { return };
        if let Some(closing) = socket.closing.as_mut() {
            match closing.stage {
                Stage::Flushing => {
                    closing.stage = Stage::Notifying;
                    socket.channel.send_close_notify();
                    self.mark_dirty(conn);
                }
                Stage::Notifying if closing.linger => {
                    closing.stage = Stage::Discarding;
                    socket.channel.finish();
                    // The edge of what came meanwhile is used up.
                    self.mark_unread(conn);
                }
                Stage::Notifying => {
                    socket.channel.finish();
                    // Bytes left unread would turn the close into a reset, which may overtake the answer.
                    self.discard(conn);
                    self.leave(conn);
                }
                Stage::Discarding => {}
            }
            return;
        }
        let held_back = std::mem::take(&mut socket.held_back);
        if std::mem::take(&mut socket.writing) {
            self.shard.drained(now, conn, &mut self.effects);
        }
        if held_back {
            self.mark_unread(conn);
        }
    }
}
