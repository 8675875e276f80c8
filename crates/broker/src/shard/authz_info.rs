//! A client that has not logged in, and may do one thing: publish a token to [`AUTHZ_INFO_TOPIC`].
//!
//! It has no session, and keeps its place among those who are not authenticated: their deadline, their bytes and
//! their number are its bounds, too. What it publishes is taken out before anything else is done with it: nobody
//! ever sees it, and it is neither stored nor counted.
//!
//! Source: RFC 9431 section 2.2.2 and appendix A.

use std::time::Instant;

use drawbridge_mqtt::codec::{PacketId, ProtocolVersion, Qos, ReasonCode};
use drawbridge_mqtt::connection::{Event, Inbound, Welcome};
use drawbridge_names::MqttClientId;
use zeroize::Zeroizing;

use super::Shard;
use crate::effect::{Close, ConnId, Effect, RefusedReason};
use crate::report::What;

/// Where a token is published before its client comes with the key in TLS.
pub const AUTHZ_INFO_TOPIC: &str = "authz-info";

/// A connection without a session that may publish tokens.
#[derive(Debug, Default)]
pub(super) struct Uploading {
    /// While a token is judged: how it came. Nothing further is read until then.
    judged: Option<(Qos, Option<PacketId>)>,
    /// Tokens at QoS 2 that were taken and not released yet.
    received: Vec<PacketId>,
}

impl Uploading {
    pub(super) fn is_judged(&self) -> bool {
        self.judged.is_some()
    }
}

impl Shard {
    /// The answer to [`Effect::Authenticate`] for a client that brings no credential, where tokens may be published
    /// before: it is let in without a session. `assigned`: its client id, if it left the choice to the server.
    ///
    /// Source: RFC 9431 section 2.2.2.
    pub fn answer_for_token(
        &mut self,
        now: Instant,
        conn: ConnId,
        assigned: Option<&MqttClientId>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(state) = self.conn(conn).filter(|state| !state.closed) else { return };
        let Some(pending) = state.pending.take() else { return };
        // [MQTT-3.1.3-8] (3.1.1), as for every session; and who may publish nothing may not in its will either.
        let nameless = pending.version == ProtocolVersion::V311 && assigned.is_some() && !pending.clean_start;
        let refusal = match &pending.will {
            _ if nameless => {
                let reason = RefusedReason::ClientIdRefused;
                Some((ReasonCode::from(reason), What::Refused { reason, for_owner: None }))
            }
            Some(will) => {
                let rule = "the client has not logged in".to_owned();
                let what = What::WillDenied { topic: will.topic.to_string(), rule };
                Some((ReasonCode::NotAuthorized, what))
            }
            None => None,
        };
        if let Some((reason, what)) = refusal {
            self.write(conn, fx, |protocol, out| protocol.refuse(reason, None, &[], out));
            self.report(conn, what, fx);
            self.close(conn, Close::AfterFlush { linger: true }, fx);
        } else {
            if let Some(state) = self.conn(conn) {
                state.uploading = Some(Box::default());
            }
            let welcome = Welcome {
                session_expiry_s: (pending.expiry_s > 0).then_some(0),
                assigned_client_id: assigned.map(MqttClientId::as_str),
                ..Welcome::default()
            };
            self.write(conn, fx, |protocol, out| protocol.admit(now, &welcome, out));
            self.replay(now, conn, fx);
        }
        self.settle(now, fx);
    }

    /// The answer to [`Effect::AuthzInfo`]. What is wrong is told in PUBACK or PUBREC, at QoS 0 by DISCONNECT; in
    /// 3.1.1 by nothing.
    ///
    /// Source: RFC 9431 appendix A.
    pub fn token_judged(
        &mut self,
        now: Instant,
        conn: ConnId,
        outcome: Result<(), ReasonCode>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(state) = self.conn(conn).filter(|state| !state.closed) else { return };
        let version = state.protocol.version();
        let Some(uploading) = &mut state.uploading else { return };
        let Some((qos, packet_id)) = uploading.judged.take() else { return };
        // 3.1.1 has no code for it: it hears that the packet has come.
        let heard = match version {
            ProtocolVersion::V5 => outcome,
            ProtocolVersion::V311 => Ok(()),
        };
        let code = heard.err().unwrap_or(ReasonCode::Success);
        match (qos, packet_id) {
            (Qos::ExactlyOnce, Some(packet_id)) => {
                if heard.is_ok() && !uploading.received.contains(&packet_id) {
                    uploading.received.push(packet_id);
                }
                self.write(conn, fx, |protocol, out| protocol.received_answer(packet_id, code, None, out));
            }
            (_, Some(packet_id)) => {
                self.write(conn, fx, |protocol, out| protocol.publish_answer(packet_id, code, None, out));
            }
            (_, None) => {
                if let Err(reason) = heard {
                    self.end_upload(conn, reason, What::TokenNotKept { reason }, fx);
                }
            }
        }
        self.replay(now, conn, fx);
        self.settle(now, fx);
    }

    /// What a client says that may only publish a token.
    pub(super) fn on_event_of_upload(
        &mut self,
        now: Instant,
        conn: ConnId,
        event: Event<'_>,
        fx: &mut Vec<Effect>,
    ) {
        match event {
            Event::Publish(publish) if publish.topic.as_str() == AUTHZ_INFO_TOPIC => {
                self.on_token(conn, &publish, fx);
            }
            Event::Released { packet_id } => {
                let Some(uploading) = self.conn(conn).and_then(|state| state.uploading.as_mut()) else {
                    return;
                };
                let known = uploading.received.iter().position(|received| *received == packet_id);
                let reason = match known {
                    Some(at) => {
                        uploading.received.swap_remove(at);
                        ReasonCode::Success
                    }
                    None => ReasonCode::PacketIdentifierNotFound,
                };
                self.write(conn, fx, |protocol, out| protocol.complete_answer(packet_id, reason, out));
            }
            Event::Ping => self.write(conn, fx, |protocol, out| protocol.ping_answer(out)),
            Event::Disconnect { with_will, session_expiry_s } => {
                self.on_disconnect(now, conn, with_will, session_expiry_s, fx);
            }
            Event::Publish(_)
            | Event::Connect(_)
            | Event::Auth { .. }
            | Event::Acknowledged { .. }
            | Event::Received { .. }
            | Event::Completed { .. }
            | Event::Subscribe(_)
            | Event::Unsubscribe(_) => {
                self.end_upload(conn, ReasonCode::NotAuthorized, What::NotLoggedIn, fx);
            }
        }
    }

    fn on_token(&mut self, conn: ConnId, inbound: &Inbound<'_>, fx: &mut Vec<Effect>) {
        let Some(uploading) = self.conn(conn).and_then(|state| state.uploading.as_mut()) else { return };
        uploading.judged = Some((inbound.qos, inbound.packet_id));
        fx.push(Effect::AuthzInfo { conn, token: Zeroizing::new(inbound.payload.to_vec()) });
    }

    fn end_upload(&mut self, conn: ConnId, reason: ReasonCode, what: What, fx: &mut Vec<Effect>) {
        self.write(conn, fx, |protocol, out| {
            protocol.disconnect(reason, None, out);
        });
        self.report(conn, what, fx);
        self.close(conn, Close::AfterFlush { linger: true }, fx);
    }
}
