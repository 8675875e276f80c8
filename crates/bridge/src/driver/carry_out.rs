//! What the broker asks for, done.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use drawbridge_admission::{
    ACE_METHOD, AceFault, Challenged, ConnectRequest, Connected, NewCredential, Peer, Refusal,
    SessionRenewal, Verdict, Way, Ways,
};
use drawbridge_broker::{
    self as broker, Admitted, Asked, ConnId, ControlAck, ControlKind, ControlPublish, Crossing, Effect,
    Refreshed, Refused, RefusedReason, RenewBy, RenewRequest, Report, What,
};
use drawbridge_control::{ClientControlPublish, ControlError};
use drawbridge_mqtt::codec::{ProtocolVersion, ReasonCode};
use zeroize::Zeroizing;

use super::{Driver, RightsOf, Socket};
use crate::bridge::Shared;
use crate::channel::Channel;
use crate::error::Turned;
use crate::inbox::{ControlRefused, ToShard, TokenRefused, TurnedAway, admitted};

/// Where a connection comes from, and where to.
fn seen(socket: &mut Socket) -> Peer {
    let websocket = matches!(socket.channel, Channel::WebSocket(..));
    let port = socket.channel.socket_mut().local_addr().ok().map(|local| local.port());
    Peer { address: Some(socket.peer.ip()), port, websocket: Some(websocket) }
}

impl Driver {
    /// Carries out all effects, and buries who leaves, until nothing is left of either.
    pub(super) fn carry_out_all(&mut self, now: Instant) {
        loop {
            while !self.effects.is_empty() {
                let mut batch = std::mem::take(&mut self.effects);
                for effect in batch.drain(..) {
                    self.carry_out(now, effect);
                }
                if self.effects.is_empty() {
                    // Keep the capacity.
                    self.effects = batch;
                }
            }
            let Some(conn) = self.leaving.pop() else { return };
            self.bury(now, conn);
        }
    }

    fn carry_out(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::Authenticate { conn, request } => self.authenticate(now, conn, request),
            Effect::Renew { conn, request } => self.renew(now, conn, request),
            Effect::AuthzInfo { conn, token } => self.authz_info(now, conn, token),
            Effect::Nonce { conn, registry } => {
                if let Some(nonce) = self.shared.admission.renewal_nonce(&registry) {
                    self.shard.tell_nonce(now, conn, &nonce, &mut self.effects);
                }
            }
            Effect::Write { conn } => {
                if let Some(socket) = self.socket(conn) {
                    socket.writing = true;
                    if !socket.blocked {
                        self.mark_dirty(conn);
                    }
                }
            }
            Effect::Admitted { conn } => self.pass_gate(conn),
            Effect::Close { conn, how } => self.close(now, conn, how),
            Effect::Cross { shard, crossing } => {
                let is_answer = matches!(crossing, Crossing::Gathered { .. });
                let outbox = if is_answer { &mut self.answers } else { &mut self.outbox };
                if let Some(batch) = outbox.get_mut(shard) {
                    batch.push(crossing);
                }
            }
            Effect::Control { conn, ack, publish } => self.control(conn, ack, publish),
            Effect::OrderDone { order, outcome } => {
                if let Some(reply) = self.orders.remove(&order) {
                    // Who asked may have gone.
                    let _ = reply.send(outcome);
                }
            }
            Effect::Resume { conn } => self.listen_again(conn),
            Effect::Report(report) => self.report(now, &report),
            Effect::Fetch { session, messages } => {
                if let Some(storage) = &self.shared.storage {
                    storage.fetch(self.index, session, messages);
                }
            }
            Effect::Move { conn, shard, moving } => self.send_away(conn, shard, moving),
        }
    }

    /// Closes the socket and frees everything that belongs to it. The broker's last words about the
    /// connection are carried out while its address is still known.
    fn bury(&mut self, now: Instant, conn: ConnId) {
        self.shard.hung_up(now, conn, &mut self.effects);
        for effect in std::mem::take(&mut self.effects) {
            self.carry_out(now, effect);
        }
        let slot = self.sockets.get_mut(conn.slot() as usize);
        // By now its place may be another's: it may have moved to another shard.
        let Some(mut socket) = slot.and_then(|slot| slot.take_if(|socket| socket.conn == conn)) else {
            return;
        };
        if socket.in_session && socket.closing.is_none() {
            socket.channel.part();
        }
        // Dropping it closes it; a poll that does not know it is no loss.
        let _ = self.poll.registry().deregister(socket.channel.socket_mut());
        self.open -= 1;
        self.shared.connections.give_back();
        if socket.in_session {
            self.shared.sessions.fetch_sub(1, Relaxed);
        }
        if socket.at_gate {
            self.leave_gate(socket.door, socket.peer);
        }
    }

    fn pass_gate(&mut self, conn: ConnId) {
        if let Some(socket) = self.socket(conn)
            && std::mem::take(&mut socket.at_gate)
        {
            socket.in_session = true;
            socket.channel.admitted();
            let (door, peer) = (socket.door, socket.peer);
            self.shared.sessions.fetch_add(1, Relaxed);
            self.leave_gate(door, peer);
        }
    }

    /// Asks who this is. The answer comes through the inbox; by then the connection may be another.
    fn authenticate(&mut self, now: Instant, conn: ConnId, request: Box<broker::ConnectRequest>) {
        let shared = Arc::clone(&self.shared);
        let index = self.index;
        let Some(place) = Judged::begin(&shared) else {
            // Before anything of it is looked at: a refusal must be cheaper than what it spares.
            let turned = Turned::LoginsFull { max: shared.logins.max() };
            self.journal.condition(now, turned.code(), turned.word(), &turned);
            self.shard.answer(now, conn, Err(told(RefusedReason::ServerBusy)), &mut self.effects);
            return;
        };
        let Some(socket) = self.socket(conn) else { return };
        let (door, peer) = (socket.door, seen(socket));
        let named = socket.registry.clone();
        let tls = socket.channel.tls_facts(None);
        let by_certificate = socket.channel.is_by_certificate();
        shared.clone().runtime.spawn(async move {
            let (Some(door), Some(inbox)) = (shared.doors.get(door), shared.inboxes.get(index)) else {
                return;
            };
            let challenged = request.challenged.as_ref();
            let ways = match by_certificate {
                true => door.ways.and(Ways::NONE.with(Way::Certificate)),
                false => door.ways,
            };
            let asked = ConnectRequest {
                listener_registry: named.as_deref().or(door.registry.as_ref()),
                client_id: &request.client_id,
                username: request.username.as_deref(),
                password: request.password.as_ref().map(|password| password.as_slice()),
                confidential: door.confidential,
                anonymous_as: door.anonymous_as.as_ref(),
                peer,
                version: level(request.version),
                method: request.method.as_deref(),
                data: request.data.as_ref().map(|data| data.as_slice()),
                challenged: challenged.map(|challenged| Challenged {
                    challenge: &challenged.challenge,
                    answer: &challenged.answer,
                }),
                tls: tls.as_ref(),
                ways,
                renews: false,
            };
            let answer = shared.admission.connect(asked).await;
            drop(place);
            let answer = match answer {
                Ok(Verdict::Challenge(challenge)) => {
                    inbox.push(ToShard::Challenge { conn, asked: Asked::Connect(request), challenge });
                    return;
                }
                Ok(Verdict::AuthzInfo { assigned }) => {
                    inbox.push(ToShard::AnswerForToken { conn, assigned });
                    return;
                }
                Ok(Verdict::Connected(connected)) => Ok(connected),
                Err(refusal) => {
                    let mut turned = turned_away(&refusal, shared.admission.clock().now_ms() / 1000);
                    if asked.method == Some(ACE_METHOD) {
                        turned.told.hint = shared.admission.as_hint(asked.listener_registry);
                    }
                    Err(turned)
                }
            };
            // The password is overwritten here, whatever the answer is.
            drop(request);
            inbox.push(ToShard::Answer { conn, answer });
        });
    }

    /// Asks whether a session may go on with what its client has sent. The answer comes through the inbox.
    fn renew(&mut self, now: Instant, conn: ConnId, request: Box<RenewRequest>) {
        let shared = Arc::clone(&self.shared);
        let index = self.index;
        let Some(place) = Judged::begin(&shared) else {
            let turned = Turned::LoginsFull { max: shared.logins.max() };
            self.journal.condition(now, turned.code(), turned.word(), &turned);
            self.shard.renewed(now, conn, Err(told(RefusedReason::ServerBusy)), &mut self.effects);
            return;
        };
        let Some(socket) = self.socket(conn) else { return };
        let (door, peer) = (socket.door, seen(socket));
        let token = match &request.by {
            RenewBy::Method { data, .. } => data,
            RenewBy::Publish(payload) => payload,
        };
        let token = token.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let tls = socket.channel.tls_facts(Some(token));
        shared.clone().runtime.spawn(async move {
            let (Some(door), Some(inbox)) = (shared.doors.get(door), shared.inboxes.get(index)) else {
                return;
            };
            let credential = match &request.by {
                RenewBy::Publish(payload) => NewCredential::Token(payload),
                RenewBy::Method { method, data, challenged } => NewCredential::Method {
                    method,
                    data,
                    challenged: challenged.as_ref().map(|challenged| Challenged {
                        challenge: &challenged.challenge,
                        answer: &challenged.answer,
                    }),
                },
            };
            let session = SessionRenewal {
                registry: &request.registry,
                uid: request.uid,
                client_id: &request.client_id,
                proven: request.proven,
                token: request.token,
                version: level(request.version),
                credential,
                confidential: door.confidential,
                tls: tls.as_ref(),
                ways: door.ways,
                peer,
            };
            let answer = shared.admission.renew_session(session).await;
            drop(place);
            let answer = match answer {
                Ok(Verdict::Challenge(challenge)) => {
                    inbox.push(ToShard::Challenge { conn, asked: Asked::Renew(request), challenge });
                    return;
                }
                Ok(Verdict::Connected(connected)) => Ok(connected),
                // A renewal always brings something.
                Ok(Verdict::AuthzInfo { .. }) => Err(turned_away(&Refusal::NoCredential, 0)),
                Err(refusal) => Err(turned_away(&refusal, shared.admission.clock().now_ms() / 1000)),
            };
            // The token is overwritten here, whatever the answer is.
            drop(request);
            inbox.push(ToShard::Renewed { conn, answer });
        });
    }

    /// Has a token judged, and kept if it is good, that a client without a session has published.
    fn authz_info(&mut self, now: Instant, conn: ConnId, token: Zeroizing<Vec<u8>>) {
        let shared = Arc::clone(&self.shared);
        let index = self.index;
        let Some(place) = Judged::begin(&shared) else {
            let turned = Turned::LoginsFull { max: shared.logins.max() };
            self.journal.condition(now, turned.code(), turned.word(), &turned);
            let busy = Err(ReasonCode::QuotaExceeded);
            self.shard.token_judged(now, conn, busy, &mut self.effects);
            return;
        };
        let Some(socket) = self.socket(conn) else { return };
        let (door, peer) = (socket.door, seen(socket));
        let named = socket.registry.clone();
        shared.clone().runtime.spawn(async move {
            let (Some(door), Some(inbox)) = (shared.doors.get(door), shared.inboxes.get(index)) else {
                return;
            };
            let registry = named.as_deref().or(door.registry.as_ref());
            let outcome = shared.admission.authz_info(registry, &token, peer).await;
            drop(place);
            let outcome = outcome
                .map_err(|refusal| TokenRefused { told: token_reason(&refusal), word: refusal.word() });
            inbox.push(ToShard::TokenJudged { conn, outcome });
        });
    }

    pub(super) fn token_judged(&mut self, now: Instant, conn: ConnId, outcome: Result<(), TokenRefused>) {
        let outcome = outcome.map_err(|refused| {
            // Admission has logged it, with the whole reason.
            self.journal.counted(refused.word);
            refused.told
        });
        self.shard.token_judged(now, conn, outcome, &mut self.effects);
    }

    /// Installs what admission said. Between its answer and now the principal may have been blocked.
    pub(super) fn install(&mut self, now: Instant, conn: ConnId, answer: Result<Box<Connected>, TurnedAway>) {
        let answer = self.last_look(conn, answer);
        self.shard.answer(now, conn, answer, &mut self.effects);
        if self.judged.is_some() {
            // Where it goes to another shard, the judgement goes with it.
            self.carry_out_all(now);
            self.judged = None;
        }
    }

    /// As [`Self::install`], for a session that is open.
    pub(super) fn install_renewal(
        &mut self,
        now: Instant,
        conn: ConnId,
        answer: Result<Box<Connected>, TurnedAway>,
    ) {
        let settles = answer.as_ref().ok().filter(|connected| connected.settles_key);
        let settles = settles
            .map(|connected| (connected.registry.clone(), connected.name.clone(), connected.kid.clone()));
        let answer = self.last_look(conn, answer);
        let answer = answer.map(|admitted| Admitted { closes: self.closes(now, conn), ..admitted });
        self.judged = None;
        self.shard.renewed(now, conn, answer, &mut self.effects);
        if let Some((registry, name, Some(kid))) = settles {
            let admission = self.shared.admission.clone();
            self.shared.runtime.spawn(async move { admission.settle_key(&registry, &name, &kid).await });
        }
    }

    /// The same, for a new right that came over another way than the connection of the session.
    pub(super) fn install_refresh(
        &mut self,
        now: Instant,
        conn: ConnId,
        connected: Box<Connected>,
    ) -> Result<Refreshed, &'static str> {
        const GONE: &str = "the session has ended, or what the token stands for has changed";
        let admitted = self.last_look(conn, Ok(connected)).map_err(|_| GONE)?;
        self.judged = None;
        let admitted = Admitted { closes: self.closes(now, conn), ..admitted };
        self.shard.refresh(now, conn, admitted, &mut self.effects)
    }

    /// When a session ends that is renewed on this connection: so long after the last whole TLS handshake.
    fn closes(&mut self, now: Instant, conn: ConnId) -> Option<Instant> {
        let max = self.shared.renewed_session_max?;
        let now_ms = self.shared.clock.now_ms();
        let since_ms = self.socket(conn)?.channel.handshake_ms()?;
        Some(now + max.saturating_sub(Duration::from_millis(now_ms.saturating_sub(since_ms))))
    }

    fn last_look(
        &mut self,
        conn: ConnId,
        answer: Result<Box<Connected>, TurnedAway>,
    ) -> Result<Admitted, Refused> {
        let shared = Arc::clone(&self.shared);
        let Some(socket) = self.socket(conn) else { return Err(told(RefusedReason::Unavailable)) };
        let peer = socket.peer;
        let answer = match answer {
            Ok(connected) if shared.admission.still_good(&connected) => {
                let registry = connected.registry.clone();
                socket.rights_of = connected.policy.clone().map(|policy| {
                    Box::new(RightsOf { registry, policy, uid: connected.uid, name: connected.name.clone() })
                });
                if shared.inboxes.len() > 1 {
                    self.judged = Some((conn, connected.clone()));
                }
                Ok(admitted(*connected))
            }
            Ok(_) => {
                let turned = Turned::AdmissionOutdated;
                tracing::info!(code = turned.code(), word = turned.word(), %peer, "refused: {turned}");
                let told = told(RefusedReason::NotAuthorized);
                Err(TurnedAway { told, code: turned.code(), word: turned.word() })
            }
            Err(turned) => Err(turned),
        };
        answer.map_err(|turned| {
            // Admission has logged it, with the whole reason.
            self.journal.counted(turned.word);
            tracing::debug!(code = turned.code, word = turned.word, %peer, "not admitted");
            turned.told
        })
    }

    /// Hands a client's command, config or state to control.
    fn control(&mut self, conn: ConnId, ack: Option<ControlAck>, publish: ControlPublish) {
        let publish = client_publish(publish);
        let (index, shared) = (self.index, Arc::clone(&self.shared));
        let control = shared.control.get().cloned();
        shared.clone().runtime.spawn(async move {
            let result = match control {
                Some(control) => control.client_publish(publish).await,
                None => Err(ControlError::BridgeUnavailable),
            };
            if let Some(inbox) = shared.inboxes.get(index) {
                let result = result.map_err(|error| ControlRefused {
                    told: control_reason(&error),
                    code: error.code(),
                    word: error.word(),
                    text: error.to_string(),
                });
                inbox.push(ToShard::ControlDone { conn, ack, result });
            }
        });
    }

    /// What control has said: the client goes on.
    pub(super) fn control_done(
        &mut self,
        now: Instant,
        conn: ConnId,
        ack: Option<ControlAck>,
        result: Result<(), ControlRefused>,
    ) {
        if let Err(refused) = &result {
            let ControlRefused { code, word, text, .. } = refused;
            match self.socket(conn).map(|socket| socket.peer) {
                Some(peer) => self.journal.refused(now, code, word, peer, text),
                None => self.journal.counted(word),
            }
        }
        let Some(ack) = ack else { return };
        self.shard.control_done(now, conn, ack, result.map_err(|refused| refused.told), &mut self.effects);
        self.listen_again(conn);
    }

    /// What the client said waited for something that is done: what it says next is read.
    fn listen_again(&mut self, conn: ConnId) {
        if !self.shard.is_held(conn)
            && let Some(socket) = self.socket(conn)
            && std::mem::take(&mut socket.held_back)
        {
            self.mark_unread(conn);
        }
    }

    fn report(&mut self, now: Instant, report: &Report) {
        let peer = self.sockets.get(report.conn.slot() as usize).and_then(Option::as_ref).map(|s| s.peer);
        let line = Line(report);
        match (&report.what, report.what.code(), report.what.word(), peer) {
            // Admission has logged it, with the whole reason.
            (What::Refused { .. }, ..) => {}
            (What::TakeoverStorm { .. }, Some(code), Some(word), _) => {
                self.journal.condition(now, code, word, &line);
            }
            (What::Connected { .. }, .., Some(peer)) => self.journal.noted(now, "connected", peer, &line),
            (What::Disconnected { .. }, .., Some(peer)) => {
                self.journal.noted(now, "disconnected", peer, &line)
            }
            (_, Some(code), Some(word), Some(peer)) => self.journal.refused(now, code, word, peer, &line),
            (_, code, word, _) => {
                tracing::debug!(code, word, peer = peer.map(tracing::field::display), "{line}")
            }
        }
    }
}

/// A login that admission judges, until this is dropped.
struct Judged(Arc<Shared>);

impl Judged {
    fn begin(shared: &Arc<Shared>) -> Option<Self> {
        shared.logins.take().then(|| Self(Arc::clone(shared)))
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        self.0.logins.give_back();
    }
}

/// A report as it stands in the log.
struct Line<'a>(&'a Report);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(who) = &self.0.who {
            write!(f, "{}/{}: ", who.registry, who.name)?;
        }
        self.0.what.fmt(f)
    }
}

fn client_publish(publish: ControlPublish) -> ClientControlPublish {
    let device = &publish.device;
    let topic = match &publish.kind {
        ControlKind::Command { subfolder: None } => format!("devices/{device}/commands"),
        ControlKind::Command { subfolder: Some(below) } => format!("devices/{device}/commands/{below}"),
        ControlKind::Config => format!("devices/{device}/config"),
        ControlKind::State => format!("devices/{device}/state"),
    };
    ClientControlPublish {
        registry: publish.registry,
        topic,
        payload: publish.payload.into(),
        publisher: publish.publisher.0,
        publisher_name: publish.publisher.1,
        publisher_kind: publish.publisher_kind,
    }
}

/// A refusal with nothing but its reason.
fn told(reason: RefusedReason) -> Refused {
    Refused { reason, for_owner: None, server_time_s: None, hint: None }
}

/// The number of a protocol version in CONNECT.
fn level(version: ProtocolVersion) -> u8 {
    match version {
        ProtocolVersion::V311 => 4,
        ProtocolVersion::V5 => 5,
    }
}

/// What a client is told when admission refuses it: the one place where refusals become words of MQTT.
///
/// Without a good signature there is one answer for all (I11), and no reason string.
fn turned_away(refusal: &Refusal, now_s: u64) -> TurnedAway {
    let server_time_s = match refusal {
        Refusal::Time { server_time_s, .. } => Some(*server_time_s),
        Refusal::Revoked | Refusal::ClockNotTrusted | Refusal::NonceWanted | Refusal::NonceStale => {
            Some(now_s)
        }
        _ => None,
    };
    let reason = match refusal {
        Refusal::MqttClientId(_) => RefusedReason::ClientIdRefused,
        Refusal::AuthMethod => RefusedReason::BadMethod,
        // Judged before anything is known of the client: at this listener the method is none that is served.
        Refusal::WayClosed { way, by: "listener" } if is_method(way) => RefusedReason::BadMethod,
        Refusal::JtiFull { .. } => RefusedReason::QuotaExceeded,
        Refusal::Unavailable(_) => RefusedReason::Unavailable,
        Refusal::RateLimited { .. } | Refusal::TooOften { .. } => RefusedReason::TooManyConnects,
        Refusal::Busy => RefusedReason::ServerBusy,
        _ => RefusedReason::NotAuthorized,
    };
    TurnedAway {
        told: Refused { reason, for_owner: refusal.for_owner(), server_time_s, hint: None },
        code: refusal.code(),
        word: refusal.word(),
    }
}

/// What a client of MQTT 5 is told of a token on `authz-info` that is not kept.
///
/// Source: RFC 9431 appendix A for a bad token and for what is none; the rest is our own.
fn token_reason(refusal: &Refusal) -> ReasonCode {
    match refusal {
        Refusal::RateLimited { .. }
        | Refusal::TooOften { .. }
        | Refusal::Busy
        | Refusal::Ace(AceFault::StoreFull) => ReasonCode::QuotaExceeded,
        Refusal::Unavailable(_) => ReasonCode::ImplementationSpecificError,
        refusal if refusal.is_unreadable() => ReasonCode::PayloadFormatInvalid,
        _ => ReasonCode::NotAuthorized,
    }
}

/// Whether it is a way in by an authentication method of MQTT 5.
fn is_method(way: &str) -> bool {
    [Way::Ace, Way::TokenMethod].iter().any(|method| method.as_str() == way)
}

/// What a client of MQTT 5 is told in PUBACK when control refuses its publish.
fn control_reason(error: &ControlError) -> ReasonCode {
    match error {
        ControlError::Denied { .. } => ReasonCode::NotAuthorized,
        ControlError::PayloadTooLong { .. } => ReasonCode::QuotaExceeded,
        ControlError::NoSuchDevice { .. }
        | ControlError::BadSubfolder { .. }
        | ControlError::NoControlTopic { .. } => ReasonCode::TopicNameInvalid,
        ControlError::StaleVersion { .. } | ControlError::BridgeUnavailable | ControlError::Store(_) => {
            ReasonCode::ImplementationSpecificError
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_and_a_full_queue_are_told_as_such_and_no_prober_learns_more() {
        let limited = turned_away(&Refusal::RateLimited { retry_after_s: 1 }, 5);
        assert_eq!((limited.told.reason, limited.told.for_owner), (RefusedReason::TooManyConnects, None));
        let often = turned_away(&Refusal::TooOften { retry_after_s: 1 }, 5);
        assert_eq!(often.told.reason, RefusedReason::TooManyConnects);
        assert!(often.told.for_owner.is_some(), "its owner has proven who he is");
        assert_eq!(turned_away(&Refusal::Busy, 5).told.reason, RefusedReason::ServerBusy);
    }

    #[test]
    fn a_method_that_a_listener_does_not_serve_is_a_bad_one_and_other_ways_are_refused_as_all_is() {
        let closed = |way: Way, by| turned_away(&Refusal::WayClosed { way: way.as_str(), by }, 5).told.reason;
        for (way, by, reason) in [
            (Way::Ace, "listener", RefusedReason::BadMethod),
            (Way::TokenMethod, "listener", RefusedReason::BadMethod),
            (Way::AceUserName, "listener", RefusedReason::NotAuthorized),
            (Way::Password, "listener", RefusedReason::NotAuthorized),
            // Whoever hears that is proven, and still not told how it is set up.
            (Way::Ace, "registry", RefusedReason::NotAuthorized),
            (Way::TokenMethod, "principal", RefusedReason::NotAuthorized),
        ] {
            assert_eq!(closed(way, by), reason, "{way} by {by}");
        }
    }

    #[test]
    fn every_refusal_for_the_time_tells_the_servers_time_and_no_other_does() {
        let time = Refusal::Time { found: "`exp` is 5 s in the past".into(), server_time_s: 7 };
        for (refusal, told) in [
            (time, Some(7)),
            (Refusal::Revoked, Some(9)),
            (Refusal::ClockNotTrusted, Some(9)),
            (Refusal::NonceStale, Some(9)),
            (Refusal::Blocked, None),
            (Refusal::NotProven(drawbridge_admission::NotProven::Signature), None),
        ] {
            assert_eq!(turned_away(&refusal, 9).told.server_time_s, told, "{refusal}");
        }
    }
}
