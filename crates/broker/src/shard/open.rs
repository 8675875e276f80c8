//! From CONNECT to an open session, or to a refusal.

use std::time::Instant;

use drawbridge_mqtt::codec::{Connect, ProtocolVersion, Qos, ReasonCode};
use drawbridge_mqtt::connection::Fault;
use drawbridge_names::{MqttClientId, TopicName};
use zeroize::Zeroizing;

use super::outgoing::inner_topic;
use super::session::{LastWill, Session};
use super::{Shard, disconnect_reason};
use crate::deliver::may_publish;
use crate::directory::Claim;
use crate::effect::{Admitted, Close, ConnId, ConnectRequest, Crossing, Effect, Refused, RefusedReason};
use crate::report::{Report, What, Who};

/// What CONNECT brought that is needed once the client is let in.
pub(super) struct Pending {
    pub(super) version: ProtocolVersion,
    pub(super) clean_start: bool,
    pub(super) will: Option<LastWill>,
    pub(super) will_qos: Qos,
}

/// Why a CONNECT with a good credential is refused: what the client is told, what its owner may read,
/// what the log says.
type Refusal = (ReasonCode, Option<String>, What);

impl Shard {
    pub(super) fn on_connect(&mut self, conn: ConnId, connect: &Connect<'_>, fx: &mut Vec<Effect>) {
        let Some(state) = self.conn(conn) else { return };
        let session_expiry_s = connect.properties.session_expiry_s.unwrap_or(0);
        state.pending = Some(Box::new(Pending {
            version: connect.version,
            clean_start: connect.clean_start,
            will: connect.will.as_ref().map(|will| LastWill::of(will, session_expiry_s)),
            will_qos: connect.will.as_ref().map_or(Qos::AtMostOnce, |will| will.qos),
        }));
        let Ok(client_id) = MqttClientId::parse(connect.client_id) else {
            // The codec has judged the string already; a client id it lets pass exists.
            self.refuse(conn, RefusedReason::ClientIdRefused.into(), None, None, fx);
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
        });
        fx.push(Effect::Authenticate { conn, request });
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
            Ok(admitted) => {
                if self.admit(now, conn, *pending, admitted, fx) {
                    self.arm(now, conn);
                    self.replay(now, conn, fx);
                }
            }
            Err(refused) => {
                let Refused { reason, for_owner, server_time_s } = refused;
                self.refuse(conn, reason.into(), for_owner.as_deref(), server_time_s, fx);
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
        server_time_s: Option<u64>,
        fx: &mut Vec<Effect>,
    ) {
        self.write(conn, fx, |protocol, out| protocol.refuse(reason, for_owner, server_time_s, out));
        self.close(conn, Close::AfterFlush { linger: true }, fx);
    }

    /// `true` when the session is open.
    fn admit(
        &mut self,
        now: Instant,
        conn: ConnId,
        mut pending: Pending,
        admitted: Admitted,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let registry = self.registry(&admitted.registry);
        let who = Who { registry: admitted.registry.clone(), uid: admitted.uid, name: admitted.name.clone() };
        let claimed = match self.judge(now, registry, &mut pending, &admitted, fx) {
            Ok(()) => self.claim(now, conn, &admitted),
            Err(refusal) => Err(refusal),
        };
        let claim = match claimed {
            Ok(claim) => claim,
            Err((reason, for_owner, what)) => {
                self.refuse(conn, reason, for_owner.as_deref(), None, fx);
                fx.push(Effect::Report(Report { conn, who: Some(who), what }));
                return false;
            }
        };
        let owner_epoch = claim.owner_epoch;
        self.supplant(now, registry, &admitted, claim, fx);
        let assigned = admitted.assigned_client_id.then(|| admitted.client_id.clone());
        self.write(conn, fx, |protocol, out| {
            protocol.admit(now, assigned.as_ref().map(MqttClientId::as_str), out);
        });
        fx.push(Effect::Admitted { conn });
        let what = What::Connected {
            version: pending.version,
            client_id: admitted.client_id.clone(),
            kind: admitted.kind,
        };
        fx.push(Effect::Report(Report { conn, who: Some(who), what }));
        self.registries[registry].sessions.insert((admitted.uid, conn.slot()));
        let Some(state) = self.conn(conn) else { return false };
        state.session = Some(Box::new(Session::of(admitted, registry, owner_epoch, pending.will)));
        true
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
        if let Some(rights) = self.registries[registry].voices.admitted(admitted.uid, &admitted.rights) {
            self.spread_standing(registry, admitted.uid, Some(&rights), fx);
        }
        if let Some(will) = &mut pending.will {
            will.topic = inner_topic(&will.topic, admitted.leading_slash).into();
            self.judge_will(registry, admitted, will, pending.version, pending.will_qos)
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

    /// Ends the sessions, and takes the delayed wills, that the new session is in the place of, here and
    /// on other shards.
    fn supplant(
        &mut self,
        now: Instant,
        registry: usize,
        admitted: &Admitted,
        claim: Claim,
        fx: &mut Vec<Effect>,
    ) {
        let Admitted { uid, client_id, .. } = admitted;
        for (shard, older) in claim.older {
            if shard == self.config.index {
                self.end(now, older, What::TakenOver, fx);
            } else {
                fx.push(Effect::Cross { shard, crossing: Crossing::Supplant { conn: older } });
            }
        }
        for shard in claim.delayed_wills {
            if shard == self.config.index {
                self.take_wills(registry, *uid, |will| will.client_id == *client_id);
            } else {
                let (registry, client_id) = (admitted.registry.clone(), client_id.clone());
                let crossing = Crossing::DropWill { registry, uid: *uid, client_id };
                fx.push(Effect::Cross { shard, crossing });
            }
        }
    }

    /// The server must refuse a will that could not be published; better now than when it is needed.
    fn judge_will(
        &self,
        registry: usize,
        admitted: &Admitted,
        will: &LastWill,
        version: ProtocolVersion,
        asked: Qos,
    ) -> Result<(), (ReasonCode, What)> {
        if version == ProtocolVersion::V5 && asked == Qos::ExactlyOnce {
            // [MQTT-3.2.2-12] (5.0)
            return Err((ReasonCode::QosNotSupported, What::ProtocolFault(Fault::QosNotSupported)));
        }
        let denied = |rule| What::WillDenied { topic: will.topic.to_string(), rule };
        let topic = TopicName::parse(&will.topic)
            .map_err(|error| (ReasonCode::TopicNameInvalid, denied(error.to_string())))?;
        let voices = &self.registries[registry].voices;
        may_publish(Some(&admitted.rights), voices, admitted.uid, topic)
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
