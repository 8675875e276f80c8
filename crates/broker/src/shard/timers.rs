//! What happens by itself as time passes: deadlines of CONNECT, keep-alive, ends of rights, delayed
//! wills, orders nobody acknowledged.

use std::time::{Duration, Instant};

use super::session::{DelayedWill, Session};
use super::{Conn, Later, Shard, Timer};
use crate::effect::{Close, ConnId, Effect};
use crate::report::What;
use crate::storage::SessionId;

/// Nothing in the wheel is ever cancelled, so nothing is put in further ahead than one round of it: a
/// client that comes and goes leaves no entry that waits for the end of its token, hours from now.
pub(super) const AHEAD_MAX: Duration = Duration::from_secs(100);

impl Shard {
    /// The time has come that [`Self::next_timeout`] named; harmless at any other time.
    pub fn tick(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        let mut due = Vec::new();
        self.wheel.expire(now, &mut due);
        for timer in due {
            match timer {
                Timer::Conn(conn) => self.on_timer(now, conn, fx),
                Timer::Will(key) => self.on_will_timer(now, key),
                Timer::Session(id) => self.on_session_timer(now, id),
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
        let session = self.session_of(conn).and_then(|slot| self.sessions.get(slot as usize));
        let session = session.map(|session| session.next_deadline());
        let Some(state) = self.conn(conn) else { return };
        let Some(at) = state.next_deadline(session) else { return };
        if state.armed.is_none_or(|armed| at < armed) {
            let at = at.min(now + AHEAD_MAX);
            state.armed = Some(at);
            self.wheel.insert(now, at, Timer::Conn(conn));
        }
    }

    /// Holds a will back until its time.
    pub(super) fn delay_will(&mut self, now: Instant, will: DelayedWill) {
        let uid = will.publisher.uid;
        let registry = &mut self.registries[will.registry];
        self.directory.delay_will(&registry.name, uid, &will.client_id, self.config.index);
        let key = self.delayed_wills.insert(will);
        registry.wills.insert((uid, key));
        self.arm_will(now, key);
    }

    fn arm_will(&mut self, now: Instant, key: usize) {
        if let Some(will) = self.delayed_wills.get_mut(key) {
            will.armed = will.at.min(now + AHEAD_MAX);
            self.wheel.insert(now, will.armed, Timer::Will(key));
        }
    }

    fn on_will_timer(&mut self, now: Instant, key: usize) {
        // An entry of an earlier will in the same place ends here.
        let Some(will) = self.delayed_wills.get(key).filter(|will| will.armed <= now) else { return };
        if will.at > now {
            return self.arm_will(now, key);
        }
        let will = self.remove_will(key);
        let registry = &self.registries[will.registry].name;
        self.directory.will_gone(registry, will.publisher.uid, &will.client_id, self.config.index);
        self.later.push_back(Later::Will(Box::new(will)));
    }

    /// A session that is away has had its time.
    fn on_session_timer(&mut self, now: Instant, id: SessionId) {
        let Some(&slot) = self.by_id.get(&id) else { return };
        let session = &mut self.sessions[slot as usize];
        let armed = session.stored.as_mut().map(|stored| &mut stored.armed);
        if armed.and_then(|armed| armed.take_if(|at| *at <= now)).is_none() {
            return; // one that was overtaken by an earlier one
        }
        let away = session.stored.as_ref().filter(|_| session.conn.is_none());
        let Some(expires) = away.and_then(|stored| stored.expires) else { return };
        if expires > now {
            // An entry of an earlier absence, or one round of the wheel.
            self.arm_session(now, slot, expires);
            return;
        }
        // Its will, if one waits, speaks now: the session has ended. Source: MQTT 5.0 section 3.1.3.2.2.
        let (registry, uid, client_id) = (session.registry, session.publisher.uid, session.client_id.clone());
        self.session_is_back(registry, uid, &client_id, true);
        self.counters.sessions_expired += 1;
        self.end_session(slot);
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
        let (deadline, slot) = (state.deadline, state.session);
        let session = slot.and_then(|slot| self.sessions.get(slot as usize));
        match session {
            None if deadline <= now => {
                self.report(conn, What::ConnectTimeout, fx);
                self.close(conn, Close::Silent, fx);
            }
            Some(session) if session.has_ended(now) => {
                let what = session.why_ended(now);
                self.end(now, conn, what, fx);
            }
            // It is not listened to for a reason of ours.
            Some(session)
                if (session.is_held() || self.held_back.contains(&conn))
                    && timeout.is_some_and(|timeout| timeout <= now) =>
            {
                if let Some(state) = self.conn(conn) {
                    state.protocol.excuse(now);
                }
            }
            Some(_) if timeout.is_some_and(|timeout| timeout <= now) => {
                let keep_alive_s = self.conn(conn).map_or(0, |state| state.protocol.keep_alive_s());
                self.end(now, conn, What::KeepAliveTimeout { keep_alive_s }, fx);
            }
            Some(session) => {
                let resumes = session.resumes.is_some_and(|resumes| resumes <= now);
                let rested = session.pace.as_ref().is_some_and(|pace| pace.has_rested(now));
                self.time_out_orders(now, conn, fx);
                if resumes {
                    self.catch_up(now, conn, fx);
                }
                if rested {
                    self.listen_after_rest(conn, fx);
                }
            }
            None => {}
        }
        self.arm(now, conn);
    }
}

impl Conn {
    /// When the wheel must look at this connection, whatever happens.
    /// `session`: that of its session, if it has one.
    fn next_deadline(&self, session: Option<Option<Instant>>) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let Some(session) = session else { return Some(self.deadline) };
        session.into_iter().chain(self.protocol.timeout()).min()
    }
}

impl Session {
    fn next_deadline(&self) -> Option<Instant> {
        let orders = self.orders.iter().map(|order| order.deadline);
        let rests = self.pace.as_ref().and_then(|pace| pace.rests);
        orders.chain(self.ends).chain(self.resumes).chain(rests).min()
    }
}
