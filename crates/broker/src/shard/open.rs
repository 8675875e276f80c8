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
use crate::effect::{Admitted, Close, ConnId, ConnectRequest, Crossing, Effect, Refused, RefusedReason};
use crate::message::Publisher;
use crate::report::{Report, What, Who};

/// What CONNECT brought that is needed once the client is let in.
pub(super) struct Pending {
    pub(super) version: ProtocolVersion,
    pub(super) clean_start: bool,
    pub(super) will: Option<LastWill>,
    pub(super) will_qos: Qos,
}

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
            self.refuse(conn, RefusedReason::ClientIdRefused.into(), None, fx);
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
                self.refuse(conn, refused.reason.into(), refused.for_owner.as_deref(), fx);
                let Refused { reason, for_owner } = refused;
                self.report(conn, What::Refused { reason, for_owner }, fx);
            }
        }
        self.settle(now, fx);
    }

    fn refuse(&mut self, conn: ConnId, reason: ReasonCode, for_owner: Option<&str>, fx: &mut Vec<Effect>) {
        self.write(conn, fx, |protocol, out| protocol.refuse(reason, for_owner, out));
        self.close(conn, Close::AfterFlush { linger: true }, fx);
    }

    /// `true` when the session is open.
    fn admit(
        &mut self,
        now: Instant,
        conn: ConnId,
        pending: Pending,
        admitted: Admitted,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let registry = self.registry(&admitted.registry);
        let who = || {
            Some(Who { registry: admitted.registry.clone(), uid: admitted.uid, name: admitted.name.clone() })
        };
        if admitted.ends.is_some_and(|ends| ends <= now) {
            self.refuse(conn, ReasonCode::NotAuthorized, Some("the token has expired"), fx);
            fx.push(Effect::Report(Report { conn, who: who(), what: What::Expired }));
            return false;
        }
        if let Some(rights) = self.registries[registry].voices.admitted(admitted.uid, &admitted.rights) {
            self.spread_standing(registry, admitted.uid, Some(&rights), fx);
        }
        let mut will = pending.will;
        if let Some(will) = &mut will {
            will.topic = inner_topic(&will.topic, admitted.leading_slash).into();
            if let Err((reason, what)) =
                self.judge_will(registry, &admitted, will, pending.version, pending.will_qos)
            {
                self.refuse(conn, reason, Some(&what.to_string()), fx);
                fx.push(Effect::Report(Report { conn, who: who(), what }));
                return false;
            }
        }
        if pending.version == ProtocolVersion::V311 && admitted.assigned_client_id && !pending.clean_start {
            // [MQTT-3.1.3-8] (3.1.1): a session to be kept needs a name to be found by.
            self.refuse(conn, ReasonCode::ClientIdentifierNotValid, None, fx);
            let what = What::Refused { reason: RefusedReason::ClientIdRefused, for_owner: None };
            fx.push(Effect::Report(Report { conn, who: who(), what }));
            return false;
        }
        let client_id = &admitted.client_id;
        let place = (self.config.index, conn);
        let claim = self.directory.claim(
            now,
            &admitted.registry,
            admitted.uid,
            place,
            client_id,
            admitted.sessions_max,
        );
        let Ok(claim) = claim else {
            let what = What::TakeoverStorm { client_id: client_id.clone() };
            self.refuse(conn, RefusedReason::TooManyConnects.into(), Some(&what.to_string()), fx);
            fx.push(Effect::Report(Report { conn, who: who(), what }));
            return false;
        };
        for (shard, older) in claim.older {
            if shard == self.config.index {
                self.end(now, older, What::TakenOver, fx);
            } else {
                fx.push(Effect::Cross { shard, crossing: Crossing::Supplant { conn: older } });
            }
        }
        for shard in claim.delayed_wills {
            if shard == self.config.index {
                self.take_wills(registry, admitted.uid, |will| will.client_id == *client_id);
            } else {
                let registry = admitted.registry.clone();
                let crossing =
                    Crossing::DropWill { registry, uid: admitted.uid, client_id: client_id.clone() };
                fx.push(Effect::Cross { shard, crossing });
            }
        }
        let assigned = admitted.assigned_client_id.then(|| client_id.clone());
        self.write(conn, fx, |protocol, out| {
            protocol.admit(now, assigned.as_ref().map(MqttClientId::as_str), out);
        });
        fx.push(Effect::Admitted { conn });
        let what =
            What::Connected { version: pending.version, client_id: client_id.clone(), kind: admitted.kind };
        fx.push(Effect::Report(Report { conn, who: who(), what }));
        self.registries[registry].sessions.insert((admitted.uid, conn.slot()));
        let Some(state) = self.conn(conn) else { return false };
        state.session = Some(Box::new(Session {
            registry,
            publisher: Publisher { uid: admitted.uid, policy_epoch: admitted.policy_epoch },
            name: admitted.name,
            kind: admitted.kind,
            client_id: admitted.client_id,
            rights: admitted.rights,
            ends: admitted.ends,
            kid: admitted.kid,
            owner_epoch: claim.owner_epoch,
            leading_slash: admitted.leading_slash,
            filters: Default::default(),
            filter_bytes: 0,
            cursor: None,
            walks: Default::default(),
            resumes: None,
            orders: Vec::new(),
            controls: 0,
            will: will.map(Box::new),
        }));
        true
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
