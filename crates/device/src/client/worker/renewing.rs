//! A new credential for the open connection.

use std::sync::Arc;
use std::time::Duration;

use drawbridge_mqtt::codec::{
    Auth, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode, UserProperties,
};
use drawbridge_names::TopicName;

use super::super::Event;
use super::super::renewal::{ANSWER_MAX, AUTH_TOPIC, Renewed, again_after, renew_after};
use super::{End, Open, Worker};
use crate::login::channel_binding;
use crate::{
    ACE_METHOD, ACE_NONCE_BYTES, DeviceError, KeyLogin, REFRESH_EXPORTER_LABEL, Sign, Token, ace_answer,
    ace_token, refresh_context, renewal,
};

/// A way in which a credential can be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// AUTH 0x19. Source: MQTT 5.0 section 4.12.1.
    Auth,
    /// A publish to [`AUTH_TOPIC`].
    Topic,
    /// A new connection, shortly before the end.
    Reconnect,
}

pub(super) enum Renewal {
    /// Nothing to renew.
    Off,
    At(Duration),
    /// The token is being fetched, since then.
    Fetching,
    /// It was sent; the PUBACK of its publish is awaited, or has come.
    Sent {
        token: Token,
        deadline: Duration,
        publish: Option<PacketId>,
    },
}

impl Worker {
    pub(super) fn answer_challenge(
        &self,
        challenge: &[u8],
        login: Option<&KeyLogin>,
    ) -> Result<Vec<u8>, DeviceError> {
        let challenge: &[u8; ACE_NONCE_BYTES] = challenge.try_into().map_err(|_| {
            DeviceError::Protocol(format!(
                "a challenge of {} bytes came, wanted {ACE_NONCE_BYTES}",
                challenge.len()
            ))
        })?;
        if self.options.way.method(self.options.version) != Some(ACE_METHOD) {
            return Err(DeviceError::Protocol("the server challenges a method of one round".to_owned()));
        }
        let login =
            login.ok_or_else(|| DeviceError::Key("a challenge came, and there is no key".to_owned()))?;
        let mut nonce = [0; ACE_NONCE_BYTES];
        self.options.environment.random(&mut nonce);
        Ok(ace_answer(challenge, &nonce, login.key.as_ref())?)
    }

    pub(super) fn auth(&self, open: &mut Open, reason: ReasonCode, data: &[u8]) -> Result<(), DeviceError> {
        let method = self.options.way.method(self.options.version);
        let user_properties = UserProperties::default();
        let packet = Auth { reason, method, data: Some(data), reason_string: None, user_properties };
        self.send(open, &Packet::Auth(packet))
    }

    /// Gets a new token: at once where the key alone makes it, else beside the connection.
    pub(super) fn fetch(&mut self, open: &mut Open) -> Result<(), End> {
        if open.doors.first() == Some(&Door::Reconnect) {
            return Err(End::Again);
        }
        let (source, login, now_s) = (self.source(), self.login(), self.now_s());
        if source.is_minted_here() {
            // What was opened by a proof for its connection is renewed by one.
            let token = source.token(login.as_ref(), now_s, channel_binding(&open.link)?)?;
            return Ok(self.renew_with(open, token)?);
        }
        let (shared, epoch) = (Arc::clone(&self.shared), self.epoch);
        open.renewal = Renewal::Fetching;
        let work = move || {
            let token = source.token(login.as_ref(), now_s, None);
            shared.lock().fetched = Some((epoch, token));
            shared.wake();
        };
        let thread = std::thread::Builder::new().name("drawbridge-device-token".to_owned()).spawn(work);
        if let Err(error) = thread {
            self.result(open, Err(error.to_string()));
        }
        Ok(())
    }

    pub(super) fn renew_with(&mut self, open: &mut Open, token: Token) -> Result<(), DeviceError> {
        let deadline = self.now() + ANSWER_MAX;
        let mut publish = None;
        match open.doors.first() {
            Some(Door::Auth) => {
                let is_ace = self.options.way.method(self.options.version) == Some(ACE_METHOD);
                // Always by challenge: what TLS exports is the same as at CONNECT (RFC 9431 section 4).
                let data = if is_ace {
                    ace_token(&token.bytes).map_err(|e| DeviceError::Key(e.to_string()))?
                } else {
                    token.bytes.clone()
                };
                self.auth(open, ReasonCode::ReAuthenticate, &data)?;
            }
            Some(Door::Topic) => {
                let exported = match token.bound {
                    true => open.link.export(REFRESH_EXPORTER_LABEL, &refresh_context(&token.bytes))?,
                    false => None,
                };
                let login = self.login();
                let proof = match (&exported, &login) {
                    (Some(exported), Some(login)) => Some((exported, login.key.as_ref() as &dyn Sign)),
                    _ => None,
                };
                let payload = renewal(&token.bytes, proof)?;
                let id = self.shared.lock().outbox.free_id();
                publish = Some(id);
                self.send(
                    open,
                    &Packet::Publish(Publish {
                        dup: false,
                        qos: Qos::AtLeastOnce,
                        retain: false,
                        topic: Some(TopicName::parse(AUTH_TOPIC).expect("a topic")),
                        packet_id: Some(id),
                        properties: Default::default(),
                        payload: &payload,
                    }),
                )?;
            }
            Some(Door::Reconnect) | None => {}
        }
        open.renewal = Renewal::Sent { token, deadline, publish };
        Ok(())
    }

    /// PUBACK of the publish that renews; answers whether it was that. In 3.1.1 it says nothing.
    pub(super) fn publish_of_renewal(&mut self, open: &mut Open, id: PacketId, code: u8, why: &str) -> bool {
        let Renewal::Sent { publish, .. } = &mut open.renewal else { return false };
        if *publish != Some(id) {
            return false;
        }
        *publish = None;
        self.shared.lock().outbox.give_back(id);
        if code >= 0x80 {
            self.result(open, Err(format!("{why} (0x{code:02x})")));
        } else if self.options.version == ProtocolVersion::V5 && open.result_asked.is_none() {
            self.result(open, Ok(Renewed { life_s: None, removed: Vec::new() }));
        }
        true
    }

    /// The server has spoken, or has not.
    pub(super) fn result(&mut self, open: &mut Open, result: Result<Renewed, String>) {
        let now = self.now();
        let token = match std::mem::replace(&mut open.renewal, Renewal::Off) {
            Renewal::Sent { token, .. } => Some(token),
            Renewal::Fetching => None,
            nothing_was_asked => {
                open.renewal = nothing_was_asked;
                return;
            }
        };
        match result {
            Ok(renewed) => {
                let said = renewed.life_s.map(Duration::from_secs);
                let life = said.or(token.and_then(|token| token.life));
                open.ends = life.map(|life| now + life);
                if let Some(life) = life {
                    open.renewal = Renewal::At(now + renew_after(life, self.random()));
                }
                self.shared.lock().inbox.cut(&renewed.removed);
                self.shared.tell(&Event::Renewed { life, removed: renewed.removed });
            }
            Err(why) => {
                let left = open.ends.map_or(Duration::from_secs(3600), |ends| ends.saturating_sub(now));
                open.renewal = Renewal::At(now + again_after(left, self.random()));
                self.shared.tell(&Event::RenewalFailed { why });
            }
        }
    }
}
