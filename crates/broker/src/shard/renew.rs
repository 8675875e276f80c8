//! A session gets a new credential, or new rights, while it is open: nothing else of it changes.
//!
//! Source: MQTT 5.0 section 4.12.1, RFC 9431 section 4 (re-authentication). What a client of any version does
//! instead of AUTH, a publish to [`AUTH_TOPIC`], is our own.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_mqtt::codec::{PacketId, ProtocolVersion, PublishProperties, Qos, ReasonCode};
use drawbridge_mqtt::connection::Inbound;
use drawbridge_names::{MqttClientId, TopicFilter, TopicName, Uid};
use drawbridge_policy::Rights;
use zeroize::Zeroizing;

use super::Shard;
use super::outgoing::{Offered, Outgoing};
use super::pace::{Pace, will_facts};
use super::publish::Origin;
use super::session::Session;
use super::speech::{Speech, Waits};
use crate::effect::{Admitted, Challenged, ConnId, Effect, Refused, RefusedReason, RenewBy, RenewRequest};
use crate::report::What;
use crate::storage::StoredWill;

/// A client publishes a new token here, at QoS 1. It is taken out before anything else is done with it: nobody
/// else ever sees it, and it is neither stored nor counted.
pub const AUTH_TOPIC: &str = "$drawbridge/auth";
/// What became of it, for the client alone: `{"ok":true,...}`, see `docs/mqtt.md`.
pub const AUTH_RESULT_TOPIC: &str = "$drawbridge/auth/result";
/// The nonce that the next token may carry, for the client alone.
pub const AUTH_NONCE_TOPIC: &str = "$drawbridge/auth/nonce";

/// What there is to a session that is renewed.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    underway: Option<Way>,
    /// While the client is to answer a challenge.
    challenged: Option<Box<RenewRequest>>,
    /// When the last one began.
    began: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Auth,
    Publish(PacketId),
    /// From outside: whoever brought the token is told there.
    Outside,
}

/// What a session has lost with its rights.
#[derive(Debug, Default)]
struct Lost {
    filters: Vec<TopicFilter>,
    will: bool,
}

/// Why a session was not renewed, for its client: code of PUBACK, word, and the server's time (seconds since
/// 1970-01-01 UTC) where that may mend it.
#[derive(Debug, Clone, Copy)]
struct NotRenewed {
    reason: ReasonCode,
    word: &'static str,
    time_s: Option<u64>,
}

/// What a session has lost that was given a new right from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Its subscriptions that were cut.
    pub removed: Vec<TopicFilter>,
    /// Whether its will was dropped.
    pub will_dropped: bool,
}

/// A new token does not make a connection younger.
const HANDSHAKE_TOO_OLD: &str =
    "the last whole TLS handshake is too long ago for the session to go on; connect anew";

impl Lost {
    fn nothing(&self) -> bool {
        self.filters.is_empty() && !self.will
    }
}

/// Whether a filter is one of the two topics that a client alone hears, whatever its policy says.
pub(super) fn is_private(filter: &str) -> bool {
    matches!(filter, AUTH_RESULT_TOPIC | AUTH_NONCE_TOPIC)
}

impl Shard {
    /// AUTH on an open session. The protocol has judged whose turn it is.
    pub(super) fn on_auth_again(
        &mut self,
        now: Instant,
        conn: ConnId,
        begins: bool,
        data: Zeroizing<Vec<u8>>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.session_of(conn) else { return };
        if begins {
            let Some(method) = self.conn(conn).and_then(|state| state.protocol.method().map(str::to_owned))
            else {
                return;
            };
            let by = RenewBy::Method { method, data, challenged: None };
            if self.begin_renewal(now, conn, slot, Way::Auth, by, fx).is_err() {
                self.end(now, conn, What::RenewedTooOften, fx);
            }
            return;
        }
        let renewal = self.sessions[slot as usize].renewal.as_mut();
        let Some(mut request) = renewal.and_then(|renewal| renewal.challenged.take()) else { return };
        if let RenewBy::Method { challenged: Some(challenged), .. } = &mut request.by {
            challenged.answer = data;
        }
        fx.push(Effect::Renew { conn, request });
    }

    /// A publish to [`AUTH_TOPIC`].
    pub(super) fn on_auth_publish(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        inbound: &Inbound<'_>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(packet_id) =
            inbound.packet_id.filter(|_| inbound.qos == Qos::AtLeastOnce && !inbound.retain)
        else {
            let rule = "a token is published at QoS 1, and not retained".to_owned();
            let what = What::PublishDenied { topic: AUTH_TOPIC.to_owned(), rule };
            let exactly_once = inbound.qos == Qos::ExactlyOnce;
            let origin = match inbound.packet_id {
                Some(packet_id) => Origin::Client { slot, packet_id, exactly_once },
                None => Origin::Unanswered,
            };
            self.refuse_publish(now, conn, origin, ReasonCode::NotAuthorized, what, fx);
            return;
        };
        // The PUBACK goes out when it is known what became of it.
        let speech = Speech::to_publish(packet_id, false, ReasonCode::Success);
        self.say(now, conn, speech, Waits { after: 0, others: 1 }, fx);
        let by = RenewBy::Publish(Zeroizing::new(inbound.payload.to_vec()));
        let way = Way::Publish(packet_id);
        if self.begin_renewal(now, conn, slot, way, by, fx).is_err() {
            self.report(conn, What::RenewedTooOften, fx);
            let told = NotRenewed { reason: ReasonCode::QuotaExceeded, word: "too-often", time_s: None };
            self.say_not_renewed(now, conn, slot, packet_id, told, fx);
        }
    }

    /// # Errors
    /// One is under way, or has been a moment ago.
    fn begin_renewal(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        way: Way,
        by: RenewBy,
        fx: &mut Vec<Effect>,
    ) -> Result<(), ()> {
        let version = self.conn(conn).map_or(ProtocolVersion::V311, |state| state.protocol.version());
        let interval = self.config.renewal_interval;
        let session = &mut self.sessions[slot as usize];
        let renewal = session.renewal.get_or_insert_default();
        let too_soon = renewal.began.is_some_and(|began| now < began + interval);
        if renewal.underway.is_some() || too_soon {
            return Err(());
        }
        (renewal.underway, renewal.began) = (Some(way), Some(now));
        let request = Box::new(RenewRequest {
            version,
            registry: self.registries[session.registry].name.clone(),
            uid: session.publisher.uid,
            name: session.name.clone(),
            client_id: session.client_id.clone(),
            leading_slash: session.leading_slash,
            proven: session.proven,
            token: session.ticket.as_ref().map(|ticket| ticket.token),
            by,
        });
        fx.push(Effect::Renew { conn, request });
        Ok(())
    }

    pub(super) fn challenge_renewal(
        &mut self,
        conn: ConnId,
        mut request: Box<RenewRequest>,
        challenge: Vec<u8>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(renewal) = self.session(conn).and_then(|session| session.renewal.as_mut()) else { return };
        let RenewBy::Method { challenged, .. } = &mut request.by else { return };
        *challenged = Some(Challenged { challenge: challenge.clone(), answer: Zeroizing::default() });
        renewal.challenged = Some(request);
        self.write(conn, fx, |protocol, out| protocol.challenge(&challenge, out));
    }

    /// A new right for an open session that came over another way than its connection. Answers what the session has
    /// lost, for whoever brought the right to tell its client.
    ///
    /// # Errors
    /// What its owner may read: the session has ended, was opened by a gateway, has this token already, was opened
    /// with a proof of possession and `admitted` is without one, or was renewed a moment ago.
    pub fn refresh(
        &mut self,
        now: Instant,
        conn: ConnId,
        admitted: Admitted,
        fx: &mut Vec<Effect>,
    ) -> Result<Refreshed, &'static str> {
        let outcome = self.refresh_now(now, conn, admitted, fx);
        self.settle(now, fx);
        outcome
    }

    fn refresh_now(
        &mut self,
        now: Instant,
        conn: ConnId,
        admitted: Admitted,
        fx: &mut Vec<Effect>,
    ) -> Result<Refreshed, &'static str> {
        const ENDED: &str = "the session has ended";
        let interval = self.config.renewal_interval;
        let slot = self.session_of(conn).ok_or(ENDED)?;
        let session = &mut self.sessions[slot as usize];
        if !session.is_of(&admitted) {
            return Err(ENDED);
        }
        let ticket = session.ticket.as_ref();
        if ticket.is_some_and(|ticket| ticket.gateway.is_some()) {
            return Err("a gateway has opened the session; it renews it");
        }
        if ticket.map(|ticket| ticket.token) == admitted.ticket.as_ref().map(|ticket| ticket.token) {
            return Err("this token is in force already; get a new one first");
        }
        if session.proven && !admitted.proven {
            return Err("the session was opened with a proof of possession; renew it with a bound token");
        }
        if admitted.ends.is_some_and(|ends| ends <= now) {
            return Err("the token has expired");
        }
        if admitted.closes.is_some_and(|closes| closes <= now) {
            return Err(HANDSHAKE_TOO_OLD);
        }
        let renewal = session.renewal.get_or_insert_default();
        if renewal.underway.is_some() || renewal.began.is_some_and(|began| now < began + interval) {
            self.report(conn, What::RenewedTooOften, fx);
            return Err("the session was renewed a moment ago");
        }
        renewal.began = Some(now);
        // Who judged them has not seen the connection.
        let rights = Arc::new(admitted.rights.over_connection_of(&session.rights));
        let admitted = Admitted { rights, ..admitted };
        let lost = self.renew(now, conn, slot, Way::Outside, admitted, fx).ok_or(ENDED)?;
        Ok(Refreshed { removed: lost.filters, will_dropped: lost.will })
    }

    /// The answer to [`Effect::Renew`]. With a new right the session goes on, between two packets: its end, its
    /// rights, its key and its token are those of `outcome`.
    ///
    /// A refusal ends a session that was renewed by AUTH (RFC 9431 section 4); after a publish the session keeps
    /// what it has until that ends.
    pub fn renewed(
        &mut self,
        now: Instant,
        conn: ConnId,
        outcome: Result<Admitted, Refused>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.session_of(conn) else { return };
        let session = &mut self.sessions[slot as usize];
        let renewal = session.renewal.as_mut();
        let Some(way) = renewal.and_then(|renewal| renewal.underway.take()) else { return };
        let outcome = outcome.and_then(|admitted| {
            let why = if admitted.closes.is_some_and(|closes| closes <= now) {
                HANDSHAKE_TOO_OLD
            } else if session.is_of(&admitted) && admitted.ends.is_none_or(|ends| ends > now) {
                return Ok(admitted);
            } else {
                "the new token is another's, or has expired"
            };
            let for_owner = Some(why.to_owned());
            Err(Refused { reason: RefusedReason::NotAuthorized, for_owner, server_time_s: None, hint: None })
        });
        match outcome {
            Ok(admitted) => {
                self.renew(now, conn, slot, way, admitted, fx);
            }
            Err(refused) => {
                let Refused { reason, for_owner, server_time_s, .. } = refused;
                let time_s = server_time_s.filter(|_| for_owner.is_some());
                let what = What::RenewalRefused { reason, for_owner };
                match way {
                    Way::Auth => self.end(now, conn, what, fx),
                    Way::Publish(packet_id) => {
                        self.report(conn, what, fx);
                        let word = reason.word();
                        let told = NotRenewed { reason: reason.into(), word, time_s };
                        self.say_not_renewed(now, conn, slot, packet_id, told, fx);
                    }
                    Way::Outside => {}
                }
            }
        }
        self.settle(now, fx);
    }

    /// `None`: the session has ended, since its client cannot be told what it has lost.
    fn renew(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        way: Way,
        admitted: Admitted,
        fx: &mut Vec<Effect>,
    ) -> Option<Lost> {
        let registry = self.sessions[slot as usize].registry;
        if let Some(rights) = self.registries[registry].voices.admitted(admitted.uid, &admitted.rights) {
            self.spread_standing(registry, admitted.uid, Some(&rights), fx);
        }
        let session = &mut self.sessions[slot as usize];
        session.publisher.policy_epoch = admitted.policy_epoch;
        session.ends = [admitted.ends, admitted.closes].into_iter().flatten().min();
        session.closes = admitted.closes;
        session.kid = admitted.kid;
        session.ticket = admitted.ticket;
        session.proven |= admitted.proven;
        let is_told_besides = match way {
            Way::Auth => self.conn(conn).is_some_and(|state| state.protocol.takes_words()),
            Way::Publish(_) => false,
            Way::Outside => true,
        };
        let lost = self.switch_rights(now, conn, slot, admitted.rights, is_told_besides, fx)?;
        self.arm(now, conn);
        self.record_session(now, slot);
        self.report(conn, What::Renewed { removed: lost.filters.len() }, fx);
        let mut is_told = self.tell_result(now, conn, slot, &lost, fx);
        match way {
            Way::Auth => {
                let ends = self.sessions[slot as usize].ends;
                let left = ends.map(|ends| ends.saturating_duration_since(now).as_secs().to_string());
                let mut told: Vec<(&str, &str)> = Vec::new();
                told.extend(left.as_deref().map(|left| ("db-expires-in", left)));
                told.extend(lost.filters.iter().map(|filter| ("db-unsub", filter.as_str())));
                told.extend(lost.will.then_some(("db-will", "dropped")));
                self.write(conn, fx, |protocol, out| is_told |= protocol.renewed(&told, out));
            }
            Way::Publish(packet_id) => {
                self.other_is_done(now, slot, packet_id, 0, None, fx);
            }
            Way::Outside => is_told = true,
        }
        self.insist(now, conn, &lost, is_told, fx);
        Some(lost)
    }

    /// What is cut is told, or the session is no more: its client must never believe in what it has not.
    fn insist(&mut self, now: Instant, conn: ConnId, lost: &Lost, is_told: bool, fx: &mut Vec<Effect>) {
        if !is_told && !lost.nothing() {
            self.end_as(now, conn, What::PolicyChanged, true, fx);
        }
    }

    /// The policy of a session's principal changed: `rights` are those of the session from now on.
    pub(super) fn change_policy(
        &mut self,
        now: Instant,
        slot: u32,
        rights: Arc<Rights>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(conn) = self.sessions[slot as usize].conn else {
            self.give_rights(slot, rights);
            return;
        };
        if let Some(lost) = self.switch_rights(now, conn, slot, rights, false, fx)
            && !lost.nothing()
        {
            let is_told = self.tell_result(now, conn, slot, &lost, fx);
            self.insist(now, conn, &lost, is_told, fx);
        }
    }

    /// From now on every publish of the session, and every delivery to it, is judged by these.
    fn give_rights(&mut self, slot: u32, rights: Arc<Rights>) {
        let session = &mut self.sessions[slot as usize];
        session.pace = Pace::of(&rights, session.pace.take());
        session.rights = rights;
        session.known = None;
        self.registries[session.registry].voices.note_change();
    }

    /// The one place where the rights of an open session change. Subscriptions that are covered go on without a
    /// gap; the others, and what waits for them, go; a will that may not speak any more is dropped. What is on its
    /// way is answered to its end.
    ///
    /// `None`: something would have to go, and the client cannot be told. Its connection is ended instead, and its
    /// session keeps its subscriptions, as one that is away does; what they do not cover is withheld. `is_told_besides`:
    /// it is told by AUTH, or outside.
    fn switch_rights(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        rights: Arc<Rights>,
        is_told_besides: bool,
        fx: &mut Vec<Effect>,
    ) -> Option<Lost> {
        self.give_rights(slot, Arc::clone(&rights));
        let session = &mut self.sessions[slot as usize];
        let cut = session.filters.iter().map(|(filter, _)| filter);
        let cut = cut.filter(|filter| !is_private(filter.as_str()) && !rights.may_subscribe(filter).allowed);
        let may_speak = |will: &StoredWill| {
            TopicName::parse(&will.topic)
                .is_ok_and(|topic| rights.may_publish_with(topic, &will_facts(will)).allowed)
        };
        let will = session.will.as_ref().is_some_and(|will| !may_speak(will));
        let lost = Lost { filters: cut.cloned().collect(), will };
        if lost.nothing() {
            return Some(lost);
        }
        if !is_told_besides && !session.listens_to(AUTH_RESULT_TOPIC) {
            self.end(now, conn, What::PolicyChanged, fx);
            return None;
        }
        if let Some(will) = session.will.take_if(|_| will) {
            let rule = "the rights of its session are fewer than when it was taken".to_owned();
            let what = What::WillDenied { topic: will.topic.to_string(), rule };
            self.report_of(conn, slot, what, fx);
        }
        for filter in &lost.filters {
            self.unsubscribe_from(slot, filter);
        }
        self.purge(slot, &rights);
        self.record_session(now, slot);
        // What waited behind what is gone.
        self.catch_up(now, conn, fx);
        Some(lost)
    }

    /// Takes from the queue of a session what it may not have any more, as far as that is in memory; the rest is
    /// judged when it has been read.
    fn purge(&mut self, slot: u32, rights: &Rights) {
        let session = &mut self.sessions[slot as usize];
        let may_have =
            |topic: &str| TopicName::parse(topic).is_ok_and(|topic| rights.may_receive(topic).allowed);
        let queue = mem::take(&mut session.flow.queue);
        let (stay, go): (_, Vec<_>) = queue
            .into_iter()
            .partition(|owed| owed.message.as_ref().is_none_or(|kept| may_have(&kept.message.topic)));
        session.flow.queue = stay.into();
        for owed in go {
            let session = &mut self.sessions[slot as usize];
            session.flow.queue_bytes -= owed.bytes;
            self.counters.withheld += 1;
            if let Some(id) = owed.id {
                self.is_done(slot, id);
            }
        }
        self.note_behind(slot);
    }

    /// A nonce for the next renewal: the answer to [`Effect::Nonce`].
    pub fn tell_nonce(&mut self, now: Instant, conn: ConnId, nonce: &str, fx: &mut Vec<Effect>) {
        if let Some(slot) = self.session_of(conn) {
            self.tell_privately(conn, slot, AUTH_NONCE_TOPIC, nonce.as_bytes(), fx);
        }
        self.settle(now, fx);
    }

    /// Tells the client what has become of its rights; `false` when it does not listen, or cannot be told now.
    fn tell_result(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        lost: &Lost,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let session = &self.sessions[slot as usize];
        if !session.listens_to(AUTH_RESULT_TOPIC) {
            return false;
        }
        let mut result = serde_json::Map::new();
        result.insert("ok".into(), true.into());
        if let Some(ends) = session.ends {
            let left_s = ends.saturating_duration_since(now).as_secs();
            result.insert("exp".into(), (self.time(now).to_ms(ends) / 1_000).into());
            result.insert("expires_in".into(), left_s.into());
        }
        let removed = lost.filters.iter().map(|filter| filter.as_str().to_owned());
        result.insert("removed".into(), removed.collect::<Vec<String>>().into());
        if lost.will {
            result.insert("will".into(), "dropped".into());
        }
        let result = serde_json::Value::Object(result).to_string();
        let is_told = self.tell_privately(conn, slot, AUTH_RESULT_TOPIC, result.as_bytes(), fx);
        self.ask_for_nonce(conn, slot, fx);
        is_told
    }

    fn say_not_renewed(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        packet_id: PacketId,
        told: NotRenewed,
        fx: &mut Vec<Effect>,
    ) {
        let NotRenewed { reason, word, time_s } = told;
        let mut result = serde_json::json!({ "ok": false, "error": word });
        if let Some(time_s) = time_s {
            result["time"] = time_s.into();
        }
        self.tell_privately(conn, slot, AUTH_RESULT_TOPIC, result.to_string().as_bytes(), fx);
        self.ask_for_nonce(conn, slot, fx);
        // In 3.1.1 PUBACK says that it was received, and no more: the session goes on with the right it has.
        let is_old = self.conn(conn).is_some_and(|state| state.protocol.version() == ProtocolVersion::V311);
        self.other_is_done(now, slot, packet_id, 0, Some(reason).filter(|_| !is_old), fx);
    }

    /// A nonce is used up with each renewal.
    pub(super) fn ask_for_nonce(&mut self, conn: ConnId, slot: u32, fx: &mut Vec<Effect>) {
        let session = &self.sessions[slot as usize];
        if session.listens_to(AUTH_NONCE_TOPIC) {
            let registry = self.registries[session.registry].name.clone();
            fx.push(Effect::Nonce { conn, registry });
        }
    }

    /// Writes to this one client; `false` when it does not listen, or has no room. Never queued.
    fn tell_privately(
        &mut self,
        conn: ConnId,
        slot: u32,
        topic: &str,
        payload: &[u8],
        fx: &mut Vec<Effect>,
    ) -> bool {
        if !self.sessions[slot as usize].listens_to(topic) {
            return false;
        }
        let message = Outgoing {
            topic,
            payload,
            properties: PublishProperties::default(),
            qos: Qos::AtMostOnce,
            retain: false,
            identifiers: (0, &[]),
        };
        self.offer(conn, &message, None, false, fx) == Offered::Written
    }
}

impl Session {
    fn is_of(&self, admitted: &Admitted) -> bool {
        let whose: (Uid, &MqttClientId) = (admitted.uid, &admitted.client_id);
        whose == (self.publisher.uid, &self.client_id)
    }

    fn listens_to(&self, topic: &str) -> bool {
        TopicFilter::parse(topic).is_ok_and(|filter| self.filters.get(&filter).is_some())
    }
}
