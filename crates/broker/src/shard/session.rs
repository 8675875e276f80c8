//! A session: whose it is, what it asked for, where it stands in the log; and its end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PacketId, Qos, Will, WillProperties};
use drawbridge_names::{KeyId, MqttClientId, PrincipalName, RegistryName, TopicFilter, TopicName, Uid};
use drawbridge_policy::Rights;

use super::outgoing::{Publication, unstored};
use super::{ConnId, Later, Shard, Timer};
use crate::effect::{Close, Effect, Ended, OrderOutcome};
use crate::log::Log;
use crate::message::{Message, Publisher};
use crate::report::{Report, What, Who};
use crate::routes::Subscriber;

pub(super) struct Session {
    /// Index into the shard's registries.
    pub(super) registry: usize,
    pub(super) publisher: Publisher,
    pub(super) name: PrincipalName,
    pub(super) client_id: MqttClientId,
    pub(super) rights: Arc<Rights>,
    pub(super) ends: Option<Instant>,
    pub(super) kid: Option<KeyId>,
    /// The fence of the cluster to come: grows with each session of the principal.
    pub(super) owner_epoch: u64,
    /// `/devices/...` on the wire is `devices/...` within.
    pub(super) leading_slash: bool,
    pub(super) filters: HashMap<TopicFilter, Subscription>,
    /// The greatest [`Subscription::since`]: later messages are meant by every filter that matches.
    pub(super) newest_since: u64,
    /// The next message of the log to be read, while the session is behind.
    pub(super) cursor: Option<u64>,
    /// Retained messages that wait for room, one walk per subscription.
    pub(super) walks: VecDeque<RetainedWalk>,
    pub(super) orders: Vec<WaitingOrder>,
    pub(super) will: Option<Box<LastWill>>,
}

/// A subscription as the session knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    pub(super) route: Subscriber,
    /// Messages of the log before this one came before the subscription.
    pub(super) since: u64,
}

/// A subscription that is still being told the retained messages.
pub(super) struct RetainedWalk {
    pub(super) filter: TopicFilter,
    pub(super) route: Subscriber,
    /// The last topic told.
    pub(super) after: Option<Box<str>>,
}

/// An order that waits for the PUBACK of this session.
#[derive(Debug)]
pub(super) struct WaitingOrder {
    pub(super) id: u64,
    pub(super) deadline: Instant,
    pub(super) stage: OrderStage,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum OrderStage {
    /// In the log, behind the cursor.
    Logged(u64),
    /// Sent.
    Sent(PacketId),
}

/// A will as CONNECT brought it.
pub(super) struct LastWill {
    /// Without leading slash where the session maps it.
    pub(super) topic: Box<str>,
    pub(super) payload: Arc<[u8]>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) expiry_s: Option<u32>,
    pub(super) properties: Box<[u8]>,
    /// Will Delay Interval, at most the Session Expiry Interval asked for.
    pub(super) delay: Duration,
}

/// A will whose session has ended.
pub(super) struct DelayedWill {
    pub(super) at: Instant,
    pub(super) conn: ConnId,
    pub(super) registry: usize,
    pub(super) registry_name: RegistryName,
    pub(super) publisher: Publisher,
    pub(super) name: PrincipalName,
    pub(super) client_id: MqttClientId,
    pub(super) rights: Arc<Rights>,
    pub(super) will: Box<LastWill>,
}

impl LastWill {
    pub(super) fn of(will: &Will<'_>, session_expiry_s: u32) -> Self {
        let WillProperties { delay_s, message_expiry_s, .. } = will.properties;
        Self {
            topic: will.topic.as_str().into(),
            payload: will.payload.into(),
            // 3.1.1 cannot be told that QoS 2 is not served; 5.0 was refused.
            qos: will.qos.min(Qos::AtLeastOnce),
            retain: will.retain,
            expiry_s: message_expiry_s,
            properties: super::outgoing::will_properties(&will.properties),
            delay: Duration::from_secs(u64::from(delay_s.unwrap_or(0).min(session_expiry_s))),
        }
    }
}

impl DelayedWill {
    pub(super) fn is_of(&self, registry: &RegistryName, uid: Uid, client_id: &MqttClientId) -> bool {
        (&self.registry_name, self.publisher.uid, &self.client_id) == (registry, uid, client_id)
    }
}

impl Session {
    /// Whether the right of the session has ended (I5).
    pub(super) fn has_ended(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// Whether messages must queue: some wait already, and order must hold.
    pub(super) fn is_behind(&self) -> bool {
        self.cursor.is_some() || !self.walks.is_empty()
    }

    /// Whether `which` means this session, and what its end is then called.
    pub(super) fn ended_by(&self, which: &Ended, of: &RegistryName) -> Option<What> {
        let mine = |registry: &RegistryName, uid: Uid| registry == of && uid == self.publisher.uid;
        match which {
            Ended::Principal { registry, uid, why } if mine(registry, *uid) => Some(What::Ended(*why)),
            Ended::Key { registry, uid, kid } if mine(registry, *uid) && self.kid.as_ref() == Some(kid) => {
                Some(What::KeyRemoved)
            }
            Ended::Policy { registry, uid, .. } if mine(registry, *uid) => Some(What::PolicyChanged),
            Ended::All => Some(What::ShuttingDown),
            _ => None,
        }
    }
}

impl Shard {
    /// Remembers whose word counts no more, for what is stored and for wills.
    pub(super) fn note_standing(&mut self, which: &Ended) {
        match which {
            Ended::Principal { registry, uid, why } if why.silences() => {
                let registry = self.registry(registry);
                self.registries[registry].voices.silence(*uid);
            }
            Ended::Policy { registry, uid, rights } => {
                let registry = self.registry(registry);
                let rights = rights.clone().unwrap_or_else(|| Arc::new(Rights::none()));
                self.registries[registry].voices.judge_by(*uid, rights);
            }
            Ended::Principal { .. } | Ended::Key { .. } | Ended::All => {}
        }
    }

    /// DISCONNECT came: with reason 0x00 the will is forgotten [MQTT-3.14.4-3] (both versions).
    pub(super) fn on_disconnect(
        &mut self,
        now: Instant,
        conn: ConnId,
        with_will: bool,
        fx: &mut Vec<Effect>,
    ) {
        let Some(session) = self.take_session(conn) else { return };
        if let Some(state) = self.conn(conn) {
            state.protocol.close();
        }
        self.close(conn, Close::AfterFlush { linger: false }, fx);
        self.report_of(conn, &session, What::Disconnected { by_client: true }, fx);
        self.leave(now, conn, session, with_will, fx);
    }

    pub(super) fn take_session(&mut self, conn: ConnId) -> Option<Box<Session>> {
        self.conn(conn)?.session.take()
    }

    /// Undoes all that a session had: filters, place in the directory, cursor, orders; and sees to its
    /// will. The session is already taken out of its connection.
    pub(super) fn leave(
        &mut self,
        now: Instant,
        conn: ConnId,
        mut session: Box<Session>,
        with_will: bool,
        fx: &mut Vec<Effect>,
    ) {
        let registry = &mut self.registries[session.registry];
        for filter in session.filters.keys() {
            registry.routes.remove(filter, conn.slot());
        }
        self.interest.sub(self.config.index, session.filters.len());
        let place = (self.config.index, conn);
        self.directory.release(now, &registry.name, session.publisher.uid, place);
        if let Some(cursor) = session.cursor.take() {
            registry.behind.remove(&(cursor, conn.slot()));
        }
        for order in session.orders.drain(..) {
            fx.push(Effect::OrderDone { order: order.id, outcome: OrderOutcome::NotConnected });
        }
        let will = session.will.take().filter(|_| with_will);
        self.trim_log(session.registry);
        if let Some(will) = will {
            self.see_to_will(now, conn, *session, will);
        }
    }

    fn see_to_will(&mut self, now: Instant, conn: ConnId, session: Session, will: Box<LastWill>) {
        let delay = will.delay;
        let will = DelayedWill {
            at: now + delay,
            conn,
            registry: session.registry,
            registry_name: self.registries[session.registry].name.clone(),
            publisher: session.publisher,
            name: session.name,
            client_id: session.client_id,
            rights: session.rights,
            will,
        };
        if delay.is_zero() {
            self.later.push_back(Later::Will { conn, will });
            return;
        }
        let uid = will.publisher.uid;
        self.directory.delay_will(&will.registry_name, uid, &will.client_id, self.config.index);
        let at = will.at;
        let key = self.delayed_wills.insert(will);
        self.wheel.insert(now, at, Timer::Will(key));
    }

    /// A will speaks when its owner cannot any more; it asks `may_publish` as any message does, with
    /// the rights that the session had. An expired token does not silence it (it was accepted in
    /// time), a blocked or deleted owner does.
    pub(super) fn publish_will(
        &mut self,
        now: Instant,
        conn: ConnId,
        will: &DelayedWill,
        fx: &mut Vec<Effect>,
    ) {
        let last = &will.will;
        let Ok(topic) = TopicName::parse(&last.topic) else { return }; // judged at CONNECT
        let mut publication = Publication {
            registry: will.registry,
            topic,
            payload: &last.payload,
            qos: last.qos,
            retain: last.retain,
            expires: last.expiry_s.map(|s| now + Duration::from_secs(u64::from(s))),
            properties: unstored(&last.properties),
            publisher: will.publisher,
            from: None,
            stored: None,
            payload_shared: Some(&last.payload),
        };
        let spoken = self.speak_without_answer(now, conn, &mut publication, &will.name, &will.rights, fx);
        if let Err(rule) = spoken {
            let registry = will.registry_name.clone();
            let who = Some(Who { registry, uid: will.publisher.uid, name: will.name.clone() });
            let what = What::WillDenied { topic: last.topic.to_string(), rule };
            fx.push(Effect::Report(Report { conn, who, what }));
        }
    }

    /// Forgets what no session of the registry will read any more.
    pub(super) fn trim_log(&mut self, registry: usize) {
        let registry = &mut self.registries[registry];
        let needed = registry.behind.first().map_or(registry.log.tail(), |(cursor, _)| *cursor);
        registry.log.trim(needed);
    }

    /// Moves the cursor of a session, `None` when it has caught up.
    pub(super) fn set_cursor(&mut self, conn: ConnId, cursor: Option<u64>) {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) else { return };
        let (old, registry) = (session.cursor, session.registry);
        if old == cursor {
            return;
        }
        session.cursor = cursor;
        let behind = &mut self.registries[registry].behind;
        if let Some(old) = old {
            behind.remove(&(old, conn.slot()));
        }
        if let Some(new) = cursor {
            behind.insert((new, conn.slot()));
        }
        if old.is_some() {
            self.trim_log(registry);
        }
    }

    /// Stores a message for sessions that are behind; whoever thereby fell off the log is closed
    /// before the call that led here returns.
    pub(super) fn log(&mut self, registry: usize, message: Arc<Message>) -> u64 {
        let state = &mut self.registries[registry];
        let seq = state.log.append_batch(&[message]);
        let first = state.log.first();
        let fallen: Vec<u32> =
            state.behind.iter().take_while(|(cursor, _)| *cursor < first).map(|(_, slot)| *slot).collect();
        for slot in fallen {
            let conn = self.id_of(slot);
            self.later.push_back(Later::FellBehind(conn));
        }
        seq
    }
}
