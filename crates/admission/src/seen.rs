//! What a policy is told of a connection.

use std::net::IpAddr;

use drawbridge_identity::AccessClaims;
use drawbridge_names::MqttClientId;
use drawbridge_policy::{ConnectionFacts, IssuerClaims, Method, Protocol, Tls};

use crate::Peer;
use crate::connect::ConnectRequest;
use crate::ways::{TlsVersion, Way};

/// A connection of MQTT that is being judged.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// As it stands in CONNECT.
    pub(crate) client_id: &'a MqttClientId,
    /// How it proves who it is; `None`: by the token or JWT of a renewal.
    way: Option<Way>,
    peer: Peer,
    version: u8,
    tls: Option<Tls>,
}

impl<'a> Seen<'a> {
    pub(crate) fn of(request: &ConnectRequest<'a>, way: Option<Way>) -> Self {
        let tls = match request.tls.map(|tls| tls.version) {
            Some(TlsVersion::V12) => Some(Tls::V12),
            Some(TlsVersion::V13) => Some(Tls::V13),
            // Where something else ends TLS in front of us, it is not known which it was.
            None => (!request.confidential).then_some(Tls::None),
        };
        Self { client_id: request.client_id, way, peer: request.peer, version: request.version, tls }
    }

    /// An open session that is renewed over HTTPS: its shard knows its connection, and judges the rights over that.
    pub(crate) fn elsewhere(client_id: &'a MqttClientId) -> Self {
        Self { client_id, way: None, peer: Peer::default(), version: 4, tls: None }
    }

    /// Whether an open session is renewed.
    pub(crate) fn renews(&self) -> bool {
        self.way.is_none()
    }

    /// `client_id`: that of the session; `by_token`: the credential was a token, not a JWT of the device.
    pub(crate) fn facts<'b>(&self, client_id: &'b MqttClientId, by_token: bool) -> ConnectionFacts<'b> {
        let of_text = if by_token { Method::Token } else { Method::Jwt };
        let method = match self.way {
            None | Some(Way::DeviceJwt | Way::AccessToken | Way::TokenMethod) => of_text,
            Some(Way::Password) => Method::Password,
            Some(Way::Certificate) => Method::Certificate,
            Some(Way::RawKey) => Method::RawKey,
            Some(Way::Ace | Way::AceUserName | Way::AuthzInfo) => Method::Ace,
            Some(Way::Anonymous) => Method::Anonymous,
        };
        ConnectionFacts {
            protocol: Some(if self.version >= 5 { Protocol::Mqtt5 } else { Protocol::Mqtt3 }),
            websocket: self.peer.websocket,
            port: self.peer.port,
            address: self.peer.address,
            tls: self.tls,
            method: Some(method),
            client_id: Some(client_id.as_str()),
        }
    }
}

/// A request over HTTPS with a token, from `address`. TLS always protects it; its version is not looked at.
pub(crate) fn over_http(address: Option<IpAddr>) -> ConnectionFacts<'static> {
    ConnectionFacts {
        protocol: Some(Protocol::Http),
        websocket: Some(false),
        address,
        method: Some(Method::Token),
        ..ConnectionFacts::default()
    }
}

/// What a token of ours says that a policy may put into its patterns: `${token.client_id}`, and of a gateway's
/// token `${token.act}`.
pub(crate) fn claims_of(claims: &AccessClaims) -> IssuerClaims {
    let act = claims.actor.as_ref().map(|actor| ("act".to_owned(), actor.name.to_string()));
    IssuerClaims::of_access_token([("client_id".to_owned(), claims.client_id.clone())].into_iter().chain(act))
}
