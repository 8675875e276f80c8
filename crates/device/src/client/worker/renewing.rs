//! A new credential for the open connection.

use std::sync::Arc;
use std::time::Duration;

use drawbridge_mqtt::codec::{
    Auth, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode, UserProperties,
};
use drawbridge_names::TopicName;

use super::super::Event;
use super::super::renewal::{
    AGAIN_AFTER_TIME, ANSWER_MAX, AUTH_TOPIC, NONCE_ANSWER_MAX, NONCE_LIFE, NONCE_TOPIC, NotRenewed,
    RESULT_BESIDE_MAX, Renewed, again_after, renew_after,
};
use super::{End, Open, Worker};
use crate::login::{ProofKey, channel_binding};
use crate::{
    ACE_METHOD, ACE_NONCE_BYTES, DeviceError, KeyLogin, REFRESH_EXPORTER_LABEL, Token, TokenSource,
    ace_answer, ace_token, refresh_context, renewal,
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
    /// A nonce is awaited, for a JWT of ours.
    Nonce {
        deadline: Duration,
    },
    /// The token is being fetched, since then.
    Fetching,
    /// It was sent, and the server has not said yet what became of it.
    Sent {
        token: Token,
        deadline: Duration,
    },
}

impl Worker {
    pub(super) fn answer_challenge(
        &self,
        challenge: &[u8],
        token: Option<&Token>,
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
        let key = ProofKey::of(token, login)?;
        let mut nonce = [0; ACE_NONCE_BYTES];
        self.options.environment.random(&mut nonce);
        Ok(ace_answer(challenge, &nonce, &key)?)
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
        let (source, login, now_s) = (self.source_of_renewal(open), self.login(), self.now_s());
        if source.is_minted_here() {
            let now = self.now();
            let nonce = open.nonce.take_if(|(_, came)| now < *came + NONCE_LIFE);
            if nonce.is_none() && !open.without_nonce {
                return Ok(self.ask_for_nonce(open)?);
            }
            let nonce = nonce.as_ref().map(|(nonce, _)| nonce.as_str());
            // What was opened by a proof for its connection is renewed by one.
            let token = source.token(login.as_ref(), now_s, channel_binding(&open.link)?, nonce)?;
            return self.renew_with(open, token);
        }
        let (shared, epoch) = (Arc::clone(&self.shared), self.epoch);
        open.renewal = Renewal::Fetching;
        let work = move || {
            let token = source.token(login.as_ref(), now_s, None, None);
            shared.lock().fetched = Some((epoch, token));
            shared.wake();
        };
        let thread = std::thread::Builder::new().name("drawbridge-device-token".to_owned()).spawn(work);
        if let Err(error) = thread {
            self.result(open, Err(error.to_string().into()));
        }
        Ok(())
    }

    /// Where the token of a renewal comes from. A JWT of ours with a nonce of the connection says nothing of our clock, so
    /// it is tried also where it did not open the session; not by AUTH, where a refusal ends the session.
    fn source_of_renewal(&self, open: &Open) -> TokenSource {
        let TokenSource::DeviceJwt { life_s, bound } = &self.options.tokens else { return self.source() };
        let shows_key = self.options.endpoint.tls.as_ref().is_some_and(|tls| tls.certificate.is_some());
        let bound = *bound || shows_key;
        let by_nonce = open.doors.first() == Some(&Door::Topic) && !open.without_nonce;
        if !open.own_refused && (!self.over_https || by_nonce) {
            return TokenSource::DeviceJwt { life_s: *life_s, bound };
        }
        TokenSource::AccessToken { scope: None, bound }
    }

    /// Subscribes to nonces, once more: each subscription brings one.
    fn ask_for_nonce(&mut self, open: &mut Open) -> Result<(), DeviceError> {
        let now = self.now();
        let left = open.ends.map_or(NONCE_ANSWER_MAX, |ends| ends.saturating_sub(now) / 2);
        open.renewal = Renewal::Nonce { deadline: now + left.min(NONCE_ANSWER_MAX) };
        let id = self.shared.lock().outbox.free_id();
        open.nonce_asked = Some(id);
        self.subscribe(open, id, NONCE_TOPIC, Qos::AtMostOnce)
    }

    /// A nonce came: the renewal that waits for it goes on.
    pub(super) fn nonce(&mut self, open: &mut Open, payload: &[u8]) -> Result<(), End> {
        // It goes into JSON as text; what is no text is no nonce.
        let Ok(nonce) = std::str::from_utf8(payload) else { return Ok(()) };
        open.nonce = Some((nonce.to_owned(), self.now()));
        match open.renewal {
            Renewal::Nonce { .. } => self.fetch(open),
            _ => Ok(()),
        }
    }

    pub(super) fn renew_with(&mut self, open: &mut Open, token: Token) -> Result<(), End> {
        // A server that has another key by now is told nothing; a new connection finds it.
        if let Some(server) = &token.server_key
            && open.link.judge_server(server).is_err()
        {
            return Err(End::Again);
        }
        let deadline = self.now() + ANSWER_MAX;
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
                let key = ProofKey::of(Some(&token), login.as_ref()).ok();
                let payload =
                    renewal(&token.bytes, exported.as_ref().zip(key.as_ref())).map_err(DeviceError::from)?;
                let id = self.shared.lock().outbox.free_id();
                open.renewal_ids.push(id);
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
            // The other door was closed while the token was fetched.
            Some(Door::Reconnect) | None => return Err(End::Again),
        }
        open.renewal = Renewal::Sent { token, deadline };
        Ok(())
    }

    /// PUBACK of the publish that renews; answers whether it was that. In 3.1.1 it says nothing.
    pub(super) fn publish_of_renewal(&mut self, open: &mut Open, id: PacketId, code: u8, why: &str) -> bool {
        let Some(at) = open.renewal_ids.iter().position(|own| *own == id) else { return false };
        open.renewal_ids.swap_remove(at);
        self.shared.lock().outbox.give_back(id);
        if code >= 0x80 {
            // Where we listen, what was wrong comes beside it.
            let soon = self.now() + RESULT_BESIDE_MAX;
            match &mut open.renewal {
                Renewal::Sent { deadline, .. } if open.result_asked.is_some() => {
                    *deadline = soon.min(*deadline);
                }
                _ => self.result(open, Err(format!("{why} (0x{code:02x})").into())),
            }
        } else if self.options.version == ProtocolVersion::V5 && open.result_asked.is_none() {
            self.result(open, Ok(Renewed { life_s: None, removed: Vec::new() }));
        }
        true
    }

    /// The session was renewed from outside of its connection, or its policy is another: the server says what is left.
    fn changed_from_outside(&mut self, open: &mut Open, renewed: Renewed) {
        let now = self.now();
        let life = renewed.life_s.map(Duration::from_secs);
        if let Some(life) = life {
            open.ends = Some(now + life);
            if self.options.way.takes_token() && matches!(open.renewal, Renewal::At(_) | Renewal::Off) {
                open.renewal = Renewal::At(now + renew_after(life, self.random()));
            }
        }
        self.shared.lock().inbox.cut(&renewed.removed);
        self.shared.tell(&Event::Renewed { life, removed: renewed.removed });
    }

    /// The server has spoken, or has not.
    pub(super) fn result(&mut self, open: &mut Open, result: Result<Renewed, NotRenewed>) {
        let now = self.now();
        let token = match std::mem::replace(&mut open.renewal, Renewal::Off) {
            Renewal::Sent { token, .. } => Some(token),
            Renewal::Fetching => None,
            nothing_was_asked => {
                open.renewal = nothing_was_asked;
                if let Ok(renewed) = result {
                    self.changed_from_outside(open, renewed);
                }
                return;
            }
        };
        match result {
            Ok(renewed) => {
                let said = renewed.life_s.map(Duration::from_secs);
                let life = said.or(token.and_then(|token| token.life));
                open.ends = life.map(|life| now + life);
                open.told_time = false;
                if let Some(life) = life {
                    open.renewal = Renewal::At(now + renew_after(life, self.random()));
                }
                self.shared.lock().inbox.cut(&renewed.removed);
                self.shared.tell(&Event::Renewed { life, removed: renewed.removed });
            }
            Err(NotRenewed { why, server_time_s }) => {
                if let Some(server_s) = server_time_s {
                    self.learn_time(server_s);
                }
                // By the server's own time at once, and once; then otherwise.
                if server_time_s.is_some() && !std::mem::replace(&mut open.told_time, true) {
                    open.renewal = Renewal::At(now + AGAIN_AFTER_TIME);
                    self.shared.tell(&Event::RenewalFailed { why });
                    return;
                }
                // One after the other, so that neither a token endpoint that is out nor a clock ends the session.
                open.own_refused = !open.own_refused && self.login().is_some_and(|login| login.api.is_some());
                let left = open.ends.map_or(Duration::from_secs(3600), |ends| ends.saturating_sub(now));
                open.renewal = Renewal::At(now + again_after(left, self.random()));
                self.shared.tell(&Event::RenewalFailed { why });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::super::super::{ClientOptions, Shared};
    use super::*;
    use crate::Endpoint;

    #[test]
    fn each_renewal_gives_its_identifier_back_whether_puback_or_result_comes_first() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = listener.local_addr().expect("bound").to_string();
        let peer = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            let read = socket.read(&mut [0; 1024]).expect("CONNECT");
            socket.write_all(&[0x20, 3, 0, 0, 0]).expect("CONNACK");
            (socket, read)
        });
        let endpoint = Endpoint { server, tls: None, websocket: None };
        let mut options = ClientOptions::new(endpoint, "lamp");
        options.tokens = TokenSource::From(Arc::new(|| Ok(Token::new("token"))));
        let shared = Shared::new(&options).expect("made");
        let mut worker = Worker::new(Arc::clone(&shared), options);
        let mut open = worker.connect().expect("connected");
        let asked = shared.lock().outbox.ids_in_use();
        for renewal in 0..10 {
            assert!(worker.renew_with(&mut open, Token::new("token")).is_ok());
            let [id] = open.renewal_ids[..] else { panic!("one publish: {:?}", open.renewal_ids) };
            let renewed = Ok(Renewed { life_s: None, removed: Vec::new() });
            if renewal % 2 == 0 {
                worker.result(&mut open, renewed);
                assert!(worker.publish_of_renewal(&mut open, id, 0, ""));
            } else {
                assert!(worker.publish_of_renewal(&mut open, id, 0, ""));
                worker.result(&mut open, renewed);
            }
        }
        assert_eq!(shared.lock().outbox.ids_in_use(), asked);
        drop(peer.join());
    }
}
