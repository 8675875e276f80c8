//! From CONNECT to an open session, or to a refusal.

use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{Connect, ProtocolVersion, ReasonCode};
use drawbridge_mqtt::connection::{Fault, Welcome};
use drawbridge_names::{MqttClientId, TopicName, Uid};
use zeroize::Zeroizing;

use super::outgoing::inner_topic;
use super::pace::will_facts;
use super::session::{AWAY_MAX, Session, Stored, last_will, slot_of};
use super::{Kept, Later, Shard, disconnect_reason};
use crate::deliver::may_publish;
use crate::directory::Claim;
use crate::effect::{
    Admitted, Asked, Challenged, Close, ConnId, ConnectRequest, Crossing, Effect, Refused, RefusedReason,
};
use crate::report::{Report, What, Who};
use crate::storage::StoredWill;

/// What CONNECT brought that is needed once the client is let in.
pub(super) struct Pending {
    pub(super) version: ProtocolVersion,
    pub(super) clean_start: bool,
    /// Session Expiry Interval, in seconds; one that 3.1.1 keeps has no end of its own.
    pub(super) expiry_s: u32,
    pub(super) will: Option<Box<StoredWill>>,
    /// Whether the client wants to know how long its right lasts.
    asks_end: bool,
    /// While the client is to answer a challenge: what it said in CONNECT.
    challenged: Option<Box<ConnectRequest>>,
}

/// A User Property of CONNECT asks for it, one of CONNACK says in how many seconds the right of the session ends.
const EXPIRES_IN: &str = "db-expires-in";

/// Why a CONNECT with a good credential is refused: what the client is told, what its owner may read,
/// what the log says.
type Refusal = (ReasonCode, Option<String>, What);

impl Shard {
    pub(super) fn on_connect(&mut self, conn: ConnId, connect: &Connect<'_>, fx: &mut Vec<Effect>) {
        let Some(state) = self.conn(conn) else { return };
        let expiry_s = match connect.version {
            ProtocolVersion::V5 => connect.properties.session_expiry_s.unwrap_or(0),
            // [MQTT-3.1.2-4], [MQTT-3.1.2-6] (3.1.1): Clean Session says both at once.
            ProtocolVersion::V311 if connect.clean_start => 0,
            ProtocolVersion::V311 => u32::MAX,
        };
        state.pending = Some(Box::new(Pending {
            version: connect.version,
            clean_start: connect.clean_start,
            expiry_s,
            will: connect.will.as_ref().map(|will| Box::new(last_will(will, expiry_s))),
            asks_end: connect.properties.authentication_method.is_some()
                || connect.properties.user_properties.iter().any(|(name, _)| name == EXPIRES_IN),
            challenged: None,
        }));
        let Ok(client_id) = MqttClientId::parse(connect.client_id) else {
            // The codec has judged the string already; a client id it lets pass exists.
            self.refuse(conn, RefusedReason::ClientIdRefused.into(), None, &[], fx);
            return;
        };
        let request = Box::new(ConnectRequest {
            version: connect.version,
            client_id,
            username: connect.username.map(str::to_owned),
            password: connect.password.map(|password| Zeroizing::new(password.to_vec())),
            clean_start: connect.clean_start,
            keep_alive_s: connect.keep_alive_s,
            will_topic: connect.will.as_ref().map(|will| will.topic.as_str().to_owned()),
            method: connect.properties.authentication_method.map(str::to_owned),
            data: connect.properties.authentication_data.map(|data| Zeroizing::new(data.to_vec())),
            challenged: None,
        });
        fx.push(Effect::Authenticate { conn, request });
    }

    /// The client is asked for more before it is let in, or while its session is renewed.
    ///
    /// Source: MQTT 5.0 section 4.12.
    pub fn challenge(
        &mut self,
        now: Instant,
        conn: ConnId,
        asked: Asked,
        challenge: Vec<u8>,
        fx: &mut Vec<Effect>,
    ) {
        match asked {
            Asked::Connect(mut request) => {
                let Some(state) = self.conn(conn).filter(|state| !state.closed) else { return };
                if state.pending.is_none() {
                    return;
                }
                self.write(conn, fx, |protocol, out| protocol.challenge(&challenge, out));
                request.challenged = Some(Challenged { challenge, answer: Zeroizing::default() });
                if let Some(pending) = self.conn(conn).and_then(|state| state.pending.as_mut()) {
                    pending.challenged = Some(request);
                }
                // It may have said more than it was to say yet.
                self.replay(now, conn, fx);
            }
            Asked::Renew(request) => self.challenge_renewal(conn, request, challenge, fx),
        }
        self.settle(now, fx);
    }

    /// AUTH came: before CONNACK it answers a challenge, later it is about a renewal.
    pub(super) fn on_auth(
        &mut self,
        now: Instant,
        conn: ConnId,
        begins: bool,
        data: Option<&[u8]>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(state) = self.conn(conn) else { return };
        let answer = Zeroizing::new(data.unwrap_or_default().to_vec());
        match &mut state.pending {
            None => self.on_auth_again(now, conn, begins, answer, fx),
            Some(pending) => {
                let Some(mut request) = pending.challenged.take() else { return };
                if let Some(challenged) = &mut request.challenged {
                    challenged.answer = answer;
                }
                fx.push(Effect::Authenticate { conn, request });
            }
        }
    }

    /// The answer to [`Effect::Authenticate`]; then what the client sent meanwhile is worked on.
    pub fn answer(
        &mut self,
        now: Instant,
        conn: ConnId,
        answer: Result<Admitted, Refused>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(state) = self.conn(conn).filter(|state| !state.closed) else { return };
        let Some(pending) = state.pending.take() else { return };
        match answer {
            Ok(admitted) => self.let_in(now, conn, pending, admitted, fx),
            Err(refused) => {
                let Refused { reason, for_owner, server_time_s, hint } = refused;
                let time = server_time_s.filter(|_| for_owner.is_some()).map(|time_s| time_s.to_string());
                let told = [("db-time", time.as_deref()), ("ace_as_hint", hint.as_deref())];
                let told = told.into_iter().filter_map(|(name, value)| Some((name, value?)));
                let told: Vec<(&str, &str)> = told.collect();
                self.refuse(conn, reason.into(), for_owner.as_deref(), &told, fx);
                self.report(conn, What::Refused { reason, for_owner }, fx);
            }
        }
        self.settle(now, fx);
    }

    fn refuse(
        &mut self,
        conn: ConnId,
        reason: ReasonCode,
        for_owner: Option<&str>,
        told: &[(&str, &str)],
        fx: &mut Vec<Effect>,
    ) {
        self.write(conn, fx, |protocol, out| protocol.refuse(reason, for_owner, told, out));
        self.close(conn, Close::AfterFlush { linger: true }, fx);
    }

    /// Opens the session here, or sends the connection to where the session lives.
    pub(super) fn let_in(
        &mut self,
        now: Instant,
        conn: ConnId,
        pending: Box<Pending>,
        admitted: Admitted,
        fx: &mut Vec<Effect>,
    ) {
        let keeps = self.keeps_for_s(&pending) > 0;
        let Admitted { registry, uid, client_id, .. } = &admitted;
        let home = if keeps {
            Some(self.directory.keep(registry, *uid, client_id, self.config.index))
        } else {
            self.directory.home(registry, *uid, client_id)
        };
        if let Some(home) = home.filter(|home| *home != self.config.index) {
            self.move_to(home, conn, pending, admitted, fx);
            return;
        }
        let registry = self.registry(registry);
        let key = (*uid, client_id.clone());
        if self.admit(now, conn, registry, *pending, admitted, fx) {
            self.arm(now, conn);
            self.replay(now, conn, fx);
        } else if keeps && !self.registries[registry].stored.contains_key(&key) {
            let name = &self.registries[registry].name;
            self.directory.forget(name, key.0, &key.1);
        }
    }

    /// How long the session is kept, in seconds; 0: not at all.
    fn keeps_for_s(&self, pending: &Pending) -> u32 {
        if self.config.durable { pending.expiry_s.min(self.config.session_expiry_s_max) } else { 0 }
    }

    /// `true` when the session is open.
    fn admit(
        &mut self,
        now: Instant,
        conn: ConnId,
        registry: usize,
        mut pending: Pending,
        admitted: Admitted,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let who = Who { registry: admitted.registry.clone(), uid: admitted.uid, name: admitted.name.clone() };
        let claimed = match self.judge(now, registry, &mut pending, &admitted, fx) {
            Ok(()) => self.claim(now, conn, &admitted),
            Err(refusal) => Err(refusal),
        };
        let claim = match claimed {
            Ok(claim) => claim,
            Err((reason, for_owner, what)) => {
                self.refuse(conn, reason, for_owner.as_deref(), &[], fx);
                fx.push(Effect::Report(Report { conn, who: Some(who), what }));
                return false;
            }
        };
        let key = (admitted.uid, admitted.client_id.clone());
        let had = self.registries[registry].stored.contains_key(&key);
        let (owner_epoch, sessions_max) = (claim.owner_epoch, admitted.sessions_max);
        self.supplant(now, registry, &admitted, claim, pending.clean_start, fx);
        let expiry_s = self.keeps_for_s(&pending);
        let mut kept = self.registries[registry].stored.get(&key).copied();
        if let Some(slot) = kept.filter(|_| pending.clean_start) {
            self.end_session(slot);
            kept = None;
        }
        if had && kept.is_none() {
            // The old session must not come back after this CONNACK, whatever happens to the server.
            self.hold_output(conn);
        }
        let left = admitted.ends.filter(|_| pending.asks_end).map(|ends| ends.saturating_duration_since(now));
        let left = left.map(|left| left.as_secs().to_string());
        let told = left.as_deref().map(|left| (EXPIRES_IN, left));
        let welcome = Welcome {
            told: told.as_slice(),
            session_present: kept.is_some(),
            session_expiry_s: (expiry_s != pending.expiry_s).then_some(expiry_s),
            assigned_client_id: admitted.assigned_client_id.then(|| key.1.as_str()),
        };
        self.write(conn, fx, |protocol, out| protocol.admit(now, &welcome, out));
        fx.push(Effect::Admitted { conn });
        let (version, kind) = (pending.version, admitted.kind);
        let what = What::Connected { version, client_id: key.1.clone(), kind };
        fx.push(Effect::Report(Report { conn, who: Some(who), what }));
        let slot = match kept {
            Some(slot) => {
                self.sessions[slot as usize].resume(admitted, conn, owner_epoch, pending.will);
                self.registries[registry].voices.note_change();
                self.tell_groups(slot);
                slot
            }
            None => {
                self.counter += 1;
                let session = Session {
                    conn: Some(conn),
                    will: pending.will,
                    ..Session::of(admitted, registry, owner_epoch, self.counter)
                };
                let slot = slot_of(self.sessions.insert(Box::new(session)));
                self.registries[registry].sessions.insert((key.0, slot));
                slot
            }
        };
        if let Some(state) = self.conn(conn) {
            state.session = Some(slot);
        }
        self.see_to_keeping(now, slot, key, expiry_s, sessions_max);
        if kept.is_some() {
            self.catch_up(now, conn, fx);
        }
        true
    }

    /// A session that is to outlive its connection is stored; one that is not any more, is not.
    fn see_to_keeping(
        &mut self,
        now: Instant,
        slot: u32,
        key: (Uid, MqttClientId),
        expiry_s: u32,
        sessions_max: usize,
    ) {
        let session = &mut self.sessions[slot as usize];
        let registry = session.registry;
        let mut is_late = false;
        match &mut session.stored {
            // It ends with this connection: its expiry is 0 now.
            Some(stored) => {
                // If the process ended before this is stored, its life would count from its absence before.
                let half = Duration::from_secs(u64::from(stored.expiry_s) / 2);
                is_late = stored.expires.is_some_and(|expires| expires < now + half);
                stored.expiry_s = expiry_s;
                (stored.ended_ms, stored.expires, stored.will) = (0, None, None);
            }
            None if expiry_s == 0 => return,
            None => {
                let id = self.interest.next_session();
                session.stored = Some(Box::new(Stored {
                    id,
                    expiry_s,
                    ended_ms: 0,
                    expires: None,
                    armed: None,
                    will: None,
                }));
                self.by_id.insert(id, slot);
                // Its home was forgotten if an older session had to end for it.
                self.directory.keep(&self.registries[registry].name, key.0, &key.1, self.config.index);
                self.registries[registry].stored.insert(key.clone(), slot);
                let one = Kept { sessions: 1, filter_bytes: 0 };
                self.registries[registry].keep_more(key.0, one);
                let few = sessions_max <= AWAY_MAX;
                let kept_max = if few { AWAY_MAX } else { self.config.kept_sessions_max };
                if self.registries[registry].kept(key.0).sessions > kept_max {
                    self.make_room(registry, key.0);
                }
            }
        }
        self.record_session(now, slot);
        if is_late {
            self.outbox.everything_so_far();
        }
    }

    /// One principal has as many stored sessions as it may: the one that is away longest goes.
    fn make_room(&mut self, registry: usize, uid: Uid) {
        let slots = self.registries[registry].sessions.range((uid, 0)..=(uid, u32::MAX));
        let away = slots.filter_map(|(_, slot)| {
            let session = &self.sessions[*slot as usize];
            let stored = session.stored.as_ref().filter(|_| session.conn.is_none())?;
            Some((stored.ended_ms, *slot))
        });
        let away: Vec<(u64, u32)> = away.collect();
        if let Some((_, oldest)) = away.into_iter().min() {
            self.end_session(oldest);
        }
    }

    /// What CONNECT itself may be refused for, now that it is known whose it is.
    ///
    /// The rights of the principal are news for whatever it left behind, even when it is refused.
    fn judge(
        &mut self,
        now: Instant,
        registry: usize,
        pending: &mut Pending,
        admitted: &Admitted,
        fx: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if admitted.ends.is_some_and(|ends| ends <= now) {
            let text = "the token has expired".to_owned();
            return Err((ReasonCode::NotAuthorized, Some(text), What::Expired));
        }
        let key = (admitted.uid, admitted.client_id.clone());
        let keeps = self.keeps_for_s(pending) > 0;
        if self.storage_is_full() && (keeps || self.registries[registry].stored.contains_key(&key)) {
            self.counters.storage_full += 1;
            let what = What::StorageFull;
            return Err((ReasonCode::QuotaExceeded, Some(what.to_string()), what));
        }
        if let Some(rights) = self.registries[registry].voices.admitted(admitted.uid, &admitted.rights) {
            self.spread_standing(registry, admitted.uid, Some(&rights), fx);
        }
        if let Some(will) = &mut pending.will {
            will.topic = inner_topic(&will.topic, admitted.leading_slash).into();
            will.policy_epoch = admitted.policy_epoch;
            self.judge_will(registry, admitted, will)
                .map_err(|(reason, what)| (reason, Some(what.to_string()), what))?;
        }
        if pending.version == ProtocolVersion::V311 && admitted.assigned_client_id && !pending.clean_start {
            // [MQTT-3.1.3-8] (3.1.1): a session to be kept needs a name to be found by.
            let what = What::Refused { reason: RefusedReason::ClientIdRefused, for_owner: None };
            return Err((ReasonCode::ClientIdentifierNotValid, None, what));
        }
        Ok(())
    }

    /// Enters the session into the directory.
    fn claim(&self, now: Instant, conn: ConnId, admitted: &Admitted) -> Result<Claim, Refusal> {
        let Admitted { registry, uid, client_id, sessions_max, .. } = admitted;
        let place = (self.config.index, conn);
        self.directory.claim(now, registry, *uid, place, client_id, *sessions_max).map_err(|_| {
            let what = What::TakeoverStorm { client_id: client_id.clone() };
            (RefusedReason::TooManyConnects.into(), Some(what.to_string()), what)
        })
    }

    /// Ends the connections, and takes the delayed wills, that the new session is in the place of, here and
    /// on other shards.
    ///
    /// A will that waited for its session to come back is not spoken [MQTT-3.1.3-9] (5.0), unless the client
    /// begins a new session: then the old one has ended, and the will speaks.
    fn supplant(
        &mut self,
        now: Instant,
        registry: usize,
        admitted: &Admitted,
        claim: Claim,
        clean_start: bool,
        fx: &mut Vec<Effect>,
    ) {
        let Admitted { uid, client_id, .. } = admitted;
        let discarded = clean_start.then(|| client_id.clone());
        for (shard, older) in claim.older {
            if shard == self.config.index {
                self.supplanted(now, older, discarded.as_ref(), fx);
            } else {
                let crossing = Crossing::Supplant { conn: older, discarded: discarded.clone() };
                fx.push(Effect::Cross { shard, crossing });
            }
        }
        // Also the will of a connection that has just been closed.
        let mut shards = claim.delayed_wills;
        shards.push(self.config.index);
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            if shard == self.config.index {
                self.session_is_back(registry, *uid, client_id, clean_start);
            } else {
                let (registry, client_id) = (admitted.registry.clone(), client_id.clone());
                let crossing = Crossing::SessionIsBack { registry, uid: *uid, client_id, clean_start };
                fx.push(Effect::Cross { shard, crossing });
            }
        }
    }

    /// A newer connection took the place of this one.
    pub(super) fn supplanted(
        &mut self,
        now: Instant,
        older: ConnId,
        discarded: Option<&MqttClientId>,
        fx: &mut Vec<Effect>,
    ) {
        let same = self.session(older).map(|session| Some(&session.client_id) == discarded);
        self.end_as(now, older, What::TakenOver, same.unwrap_or(false), fx);
    }

    /// The owner of wills that are held back has come back.
    pub(super) fn session_is_back(
        &mut self,
        registry: usize,
        uid: Uid,
        client_id: &MqttClientId,
        clean_start: bool,
    ) {
        let wills = self.take_wills(registry, uid, |will| will.client_id == *client_id);
        for will in wills {
            let name = &self.registries[registry].name;
            self.directory.will_gone(name, uid, client_id, self.config.index);
            if clean_start {
                self.later.push_back(Later::Will(Box::new(will)));
            }
        }
    }

    /// The server must refuse a will that could not be published; better now than when it is needed.
    fn judge_will(
        &self,
        registry: usize,
        admitted: &Admitted,
        will: &StoredWill,
    ) -> Result<(), (ReasonCode, What)> {
        let denied = |rule| What::WillDenied { topic: will.topic.to_string(), rule };
        let topic = TopicName::parse(&will.topic)
            .map_err(|error| (ReasonCode::TopicNameInvalid, denied(error.to_string())))?;
        let voices = &self.registries[registry].voices;
        may_publish(Some(&admitted.rights), voices, admitted.uid, topic, &will_facts(will))
            .map_err(|rule| (ReasonCode::NotAuthorized, denied(rule)))
    }

    /// The client broke the protocol, or asked for what is not served.
    pub(super) fn fail(&mut self, now: Instant, conn: ConnId, fault: Fault, fx: &mut Vec<Effect>) {
        let what = What::ProtocolFault(fault);
        if self.conn(conn).is_some_and(|state| state.session.is_some()) {
            debug_assert_eq!(disconnect_reason(&what), fault.reason_code());
            self.end(now, conn, what, fx);
            return;
        }
        let mut answered = false;
        self.write(conn, fx, |protocol, out| answered = protocol.fail(&fault, out));
        let how = if answered { Close::AfterFlush { linger: true } } else { Close::Silent };
        self.report(conn, what, fx);
        self.close(conn, how, fx);
    }
}
