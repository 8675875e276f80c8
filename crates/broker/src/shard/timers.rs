//! What happens by itself as time passes: deadlines of CONNECT, keep-alive, ends of rights, delayed
//! wills, orders nobody acknowledged.

use std::time::Instant;

use super::{Conn, Later, Shard, Timer};
use crate::effect::{Close, ConnId, Effect};
use crate::report::What;

impl Shard {
    /// The time has come that [`Self::next_timeout`] named; harmless at any other time.
    pub fn tick(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        let mut due = Vec::new();
        self.wheel.expire(now, &mut due);
        for timer in due {
            match timer {
                Timer::Conn(conn) => self.on_timer(now, conn, fx),
                Timer::Will(key) => {
                    if self.delayed_wills.get(key).is_some_and(|will| will.at <= now) {
                        let will = self.delayed_wills.remove(key);
                        let registry = &self.registries[will.registry].name;
                        self.directory.will_gone(
                            registry,
                            will.publisher.uid,
                            &will.client_id,
                            self.config.index,
                        );
                        self.later.push_back(Later::Will { conn: will.conn, will });
                    }
                }
            }
        }
        self.settle(now, fx);
    }

    /// When [`Self::tick`] wants to be called; may be early, is never late by more than 50 ms.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// Sets the timer of a connection if its next deadline is earlier than the one set.
    pub(super) fn arm(&mut self, now: Instant, conn: ConnId) {
        let Some(state) = self.conn(conn) else { return };
        let Some(at) = state.next_deadline() else { return };
        if state.armed.is_none_or(|armed| at < armed) {
            state.armed = Some(at);
            self.wheel.insert(now, at, Timer::Conn(conn));
        }
    }

    fn on_timer(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        // Entries that were overtaken by an earlier one, or outlived their connection, end here.
        let Some(state) = self.conn(conn).filter(|state| state.armed.is_some_and(|armed| armed <= now))
        else {
            return;
        };
        state.armed = None;
        if state.closed {
            return;
        }
        let timeout = state.protocol.timeout();
        match &state.session {
            None if state.deadline <= now => {
                self.report(conn, What::ConnectTimeout, fx);
                self.close(conn, Close::Silent, fx);
            }
            Some(session) if session.has_ended(now) => self.end(now, conn, What::Expired, fx),
            Some(_) if timeout.is_some_and(|timeout| timeout <= now) => {
                let keep_alive_s = state.protocol.keep_alive_s();
                self.end(now, conn, What::KeepAliveTimeout { keep_alive_s }, fx);
            }
            Some(_) => self.time_out_orders(now, conn, fx),
            None => {}
        }
        self.arm(now, conn);
    }
}

impl Conn {
    /// When the wheel must look at this connection, whatever happens.
    fn next_deadline(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let Some(session) = &self.session else { return Some(self.deadline) };
        let orders = session.orders.iter().map(|order| order.deadline);
        orders.chain(session.ends).chain(self.protocol.timeout()).min()
    }
}
