//! The ways in over MQTT, and what TLS says of a connection.
//!
//! What is presented decides which way it is, never the user name alone; no way that fails falls back to
//! another.

use std::fmt;

use drawbridge_identity::Refusal;
use drawbridge_identity::ace::token_of_user_name;
use drawbridge_registry::Principal;

use crate::client::ClientCertificate;
use crate::connect::{ConnectRequest, Credential};
use crate::registries::Realm;

/// One way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// User name and password.
    Password,
    /// A JWT that the device has signed, as password.
    DeviceJwt,
    /// An access token (JWT or opaque), as password.
    AccessToken,
    /// A certificate in the TLS handshake.
    Certificate,
    /// A raw public key in the TLS handshake (RFC 7250).
    RawKey,
    /// The method `ace` of MQTT 5 (RFC 9431).
    Ace,
    /// A token in the user name and a proof in the password (RFC 9431 section 6).
    AceUserName,
    /// A token published to `authz-info` (RFC 9431 appendix A).
    AuthzInfo,
    /// The methods `OAUTH2-JWT` and `CUSTOM-JWT` of MQTT 5: a token as Authentication Data.
    TokenMethod,
    /// No credential at all.
    Anonymous,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Password,
        Self::DeviceJwt,
        Self::AccessToken,
        Self::Certificate,
        Self::RawKey,
        Self::Ace,
        Self::AceUserName,
        Self::AuthzInfo,
        Self::TokenMethod,
        Self::Anonymous,
    ];

    /// As in settings, logs and numbers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::DeviceJwt => "device-jwt",
            Self::AccessToken => "access-token",
            Self::Certificate => "certificate",
            Self::RawKey => "raw-key",
            Self::Ace => "ace",
            Self::AceUserName => "ace-user-name",
            Self::AuthzInfo => "authz-info",
            Self::TokenMethod => "token-method",
            Self::Anonymous => "anonymous",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.as_str() == text)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which ways in are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways(u16);

impl Ways {
    /// None.
    pub const NONE: Self = Self(0);
    /// Every way.
    pub const ALL: Self = Self((1 << Way::ALL.len()) - 1);

    /// With this one too.
    #[must_use]
    pub const fn with(self, way: Way) -> Self {
        Self(self.0 | 1 << way as u16)
    }

    /// Without this one.
    #[must_use]
    pub const fn without(self, way: Way) -> Self {
        Self(self.0 & !(1 << way as u16))
    }

    /// Those that both allow.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it is open.
    #[must_use]
    pub const fn allows(self, way: Way) -> bool {
        self.0 & 1 << way as u16 != 0
    }

    /// The default over WebSocket: browsers show whatever certificate they have, which is not to be judged unless
    /// that was asked for.
    #[must_use]
    pub fn default_of_web_socket() -> Self {
        Self::default().without(Way::Certificate).without(Way::RawKey)
    }

    /// Those that are open.
    pub fn iter(self) -> impl Iterator<Item = Way> {
        Way::ALL.into_iter().filter(move |way| self.allows(*way))
    }
}

/// All but passwords and `authz-info`, which must be asked for. (Anonymous clients need an application, too.)
impl Default for Ways {
    fn default() -> Self {
        Self::ALL.without(Way::Password).without(Way::AuthzInfo)
    }
}

impl FromIterator<Way> for Ways {
    fn from_iter<I: IntoIterator<Item = Way>>(ways: I) -> Self {
        ways.into_iter().fold(Self::NONE, Self::with)
    }
}

/// The version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// What TLS says of a connection. The exporters' values are as secret as the connection: never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// Its version.
    pub version: TlsVersion,
    /// Whether it was resumed by a ticket.
    pub resumed: bool,
    /// What the client has proven in the handshake, of this connection or of the one that it resumes.
    pub peer: Option<PeerProof>,
    /// The exporter of RFC 9431 section 2.2.4.2.1, label `EXPORTER-ACE-MQTT-Sign-Challenge`, 32 bytes.
    pub ace_exporter: Option<[u8; 32]>,
    /// The exporter of RFC 9266, label `EXPORTER-Channel-Binding`, 32 bytes.
    pub channel_binding: Option<[u8; 32]>,
    /// Our own for a renewal, label `EXPORTER-drawbridge-refresh`, context SHA-256 of the new token, 32 bytes.
    pub refresh_exporter: Option<[u8; 32]>,
}

impl fmt::Debug for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFacts")
            .field("version", &self.version)
            .field("resumed", &self.resumed)
            .field("has_peer", &self.peer.is_some())
            .finish_non_exhaustive()
    }
}

/// The context of [`TlsFacts::refresh_exporter`] for a new token.
#[must_use]
pub fn refresh_context(token: &[u8]) -> [u8; 32] {
    drawbridge_jose::sha256(token)
}

/// What a client has proven to hold in the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerProof {
    /// The private key of the first certificate of this chain.
    Certificate(ClientCertificate),
    /// The private key of this one: SubjectPublicKeyInfo, DER.
    RawKey(Vec<u8>),
}

/// The method of RFC 9431.
pub const ACE_METHOD: &str = drawbridge_identity::ace::METHOD;
/// Methods with a token as their only data; the names are those of Azure Event Grid.
pub const TOKEN_METHODS: [&str; 2] = ["OAUTH2-JWT", "CUSTOM-JWT"];

impl ConnectRequest<'_> {
    /// Which way this is.
    ///
    /// # Errors
    /// [`Refusal::NoCredential`], [`Refusal::AuthMethod`], or one that says what does not fit together.
    pub(crate) fn way(&self) -> Result<Way, Refusal> {
        if let Some(method) = self.method {
            let way = match method {
                ACE_METHOD => Way::Ace,
                method if TOKEN_METHODS.contains(&method) => Way::TokenMethod,
                _ => return Err(Refusal::AuthMethod),
            };
            if self.username.is_some() || self.password.is_some() {
                return Err(Refusal::Malformed(
                    "a user name or a password stands beside an authentication method; send one or the other"
                        .to_owned(),
                ));
            }
            return Ok(way);
        }
        if self.username.is_some_and(|name| token_of_user_name(name).is_some()) {
            return Ok(Way::AceUserName);
        }
        let Some(password) = self.password else {
            return match self.tls.and_then(|tls| tls.peer.as_ref()) {
                Some(PeerProof::Certificate(_)) => Ok(Way::Certificate),
                Some(PeerProof::RawKey(_)) => Ok(Way::RawKey),
                None if self.username.is_none() && self.anonymous_as.is_some() => Ok(Way::Anonymous),
                None => Err(Refusal::NoCredential),
            };
        };
        match Credential::of(password) {
            Credential::Jwt => Ok(Way::DeviceJwt),
            Credential::OpaqueToken => Ok(Way::AccessToken),
            Credential::Unknown => Err(Refusal::NotProven(drawbridge_identity::NotProven::UnknownToken)),
            Credential::Password => Ok(Way::Password),
        }
    }

    /// Whether it brings nothing at all, where tokens may be published by whoever comes over TLS.
    ///
    /// Source: RFC 9431 section 2.2.2.
    pub(crate) fn is_for_authz_info(&self) -> bool {
        self.confidential
            && self.ways.allows(Way::AuthzInfo)
            && self.anonymous_as.is_none()
            && !self.renews
            && (self.method, self.username, self.password) == (None, None, None)
            && self.tls.is_none_or(|tls| tls.peer.is_none())
    }

    /// # Errors
    /// [`Refusal::WayClosed`].
    pub(crate) fn allows(&self, way: Way) -> Result<(), Refusal> {
        if self.ways.allows(way) {
            Ok(())
        } else {
            Err(Refusal::WayClosed { way: way.as_str(), by: "listener" })
        }
    }
}

/// Whether registry and principal leave this way open; asked once it is proven who comes. Where one names no ways, all
/// are open.
///
/// # Errors
/// [`Refusal::WayClosed`].
pub(crate) fn judge_way(realm: &Realm, principal: &Principal, way: Way) -> Result<(), Refusal> {
    let of = [("registry", &realm.record.settings.ways), ("principal", &principal.settings.ways)];
    for (by, ways) in of {
        if ways.as_ref().is_some_and(|ways| !ways.contains(way.as_str())) {
            return Err(Refusal::WayClosed { way: way.as_str(), by });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_has_a_word_and_a_place_of_its_own() {
        for way in Way::ALL {
            assert_eq!(Way::parse(way.as_str()), Some(way));
            let only = Ways::NONE.with(way);
            assert_eq!(only.iter().collect::<Vec<_>>(), [way]);
            assert!(!Ways::ALL.without(way).allows(way));
        }
        assert_eq!(Way::parse("JWT"), None);
        assert!(!Ways::default().allows(Way::Password), "passwords must be asked for");
    }
}
