//! Why somebody is not let in: one enum, from which the wire answers, the logs and the texts for
//! the owner are made. Nothing in it repeats a token, a secret or more than a short piece of input.

use std::fmt;

use crate::ace::AceFault;

/// A token, login, connection or key update that is refused.
///
/// `Display` is the full text for the log. What the peer may be told is [`Refusal::for_owner`]: it
/// is `Some` only for what was found after a good signature, so that it informs the owner of the
/// key and not a prober (invariant I11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing was presented.
    NoCredential,
    /// The request around the token is not well formed. Holds what is wrong.
    Malformed(String),
    /// Not a strict compact JWS: segments, alphabet, padding, canonical base64url, JSON, duplicates.
    JwsFormat(String),
    /// `alg` is not one of those a device may use.
    Algorithm(String),
    /// A header member that no token may carry: `crit`, `b64`, `jwk`, `jku`, `x5u`, `x5c`.
    Header(String),
    /// `typ` belongs to another kind of JWT.
    Type {
        /// The `typ` found, shortened; empty when absent.
        found: String,
        /// The kind wanted here.
        wanted: &'static str,
    },
    /// The peer did not prove to be anybody: one answer for all that lies behind it.
    NotProven(NotProven),
    /// The claims, well signed, belong to another kind of JWT.
    Kind {
        /// What is there and should not be, or is missing and should be there.
        found: String,
        /// The kind wanted here.
        wanted: &'static str,
    },
    /// `iss`, `sub`, `kid` or the client id do not name one and the same principal.
    Subject(String),
    /// `aud` is not the one wanted.
    Audience {
        /// What was found, shortened.
        found: String,
        /// The one value wanted.
        wanted: String,
    },
    /// `exp`, `iat` or `nbf` is missing, of the wrong type, or out of bounds.
    Time {
        /// What is wrong.
        found: String,
        /// The server's time, in seconds since 1970-01-01 UTC.
        server_time_s: u64,
    },
    /// `jti` is missing, too short, too long, or not printable ASCII.
    Jti(String),
    /// The `jti` was used before.
    Replay,
    /// As many `jti` are remembered as allowed.
    JtiFull {
        /// Whether they are kept for the life of the key, so that only a new key helps.
        for_life: bool,
    },
    /// The principal is blocked.
    Blocked,
    /// The token is older than the last revocation.
    Revoked,
    /// The key that logged in, or its owner, is there no more.
    KeyGone,
    /// Legacy assertions are not switched on for this device.
    LegacyNotAllowed,
    /// A scope that the policy does not allow, or no scope at all in the form wanted.
    Scope(String),
    /// `resource` names no service of this issuer.
    Target {
        /// The values that are known.
        wanted: String,
    },
    /// `client_id` is not the one of the assertion, or no registered application.
    OAuthClient(String),
    /// The new key cannot be used as one. Never holds key material.
    NewKey(String),
    /// The proof of possession of the new key is missing, wrong, or for something else.
    Pop(String),
    /// The new key is registered already, for another principal or as one that was retired.
    KeyInUse,
    /// As many keys as allowed are active.
    TooManyKeys {
        /// How many may be.
        active_max: usize,
    },
    /// As many keys as a principal may ever bring were registered for this one, retired ones included.
    KeysSpent {
        /// How many may be.
        kept_max: usize,
    },
    /// A key in grace asked for more than to repeat its own update.
    KeyInGrace,
    /// This MQTT client id is not one of this principal's.
    MqttClientId(String),
    /// A credential came over a channel without confidentiality.
    NotConfidential,
    /// There is no such registry.
    NoRegistry,
    /// A token for one service was presented to another.
    OtherService,
    /// The store could not answer: fail closed, try again.
    Unavailable(String),
    /// A server nonce is wanted: this device has no trusted clock, or proofs need one here.
    NonceWanted,
    /// The nonce is not ours, for another purpose, or too old.
    NonceStale,
    /// The clock of the device is not trusted, and this JWT has nothing else to show that it is new.
    ClockNotTrusted,
    /// The last active key is not removed.
    LastKey,
    /// The principal has no such key.
    NoSuchKey,
    /// A DPoP proof needs a server nonce here, and has none or an old one (RFC 9449 section 8).
    DpopNonce,
    /// The DPoP proof does not hold (RFC 9449 section 4.3).
    Dpop(String),
    /// The token is bound to a key or certificate that was not proven, or must be and is not.
    Binding(String),
    /// The client certificate is not accepted.
    Certificate(String),
    /// The enrolment does not allow this device.
    Enrolment(String),
    /// The software statement does not allow this device.
    Statement(String),
    /// It has enrolled itself and waits for an operator.
    Pending,
    /// Too many requests of this address or principal, or of all.
    RateLimited {
        /// When to come again, in seconds.
        retry_after_s: u32,
    },
    /// The caller lacks the role for this.
    Role(String),
    /// The token was revoked, or renewed and used up.
    TokenGone,
    /// The token cannot be renewed.
    Renewal(String),
    /// The gateway may not act for this device.
    Gateway(String),
    /// The queue of password checks is full.
    Busy,
    /// The tokens or parameters of a token exchange do not fit each other. Holds what is wrong.
    Exchange(String),
    /// The principal has as many live opaque tokens as allowed.
    TokensFull {
        /// How many may be.
        live_max: usize,
    },
    /// The principal logs in, or changes its keys, more often than it may.
    TooOften {
        /// Seconds until it may again.
        retry_after_s: u32,
    },
    /// The enrolment token is good no more: why.
    EnrolmentOver(&'static str),
    /// The software statement, well signed, is none that could be accepted. Holds what is wrong.
    StatementInvalid(String),
    /// The name that a device asks for is another's, or its own with another key.
    NameInUse,
    /// The authentication method of MQTT 5 is none that is served here.
    AuthMethod,
    /// This way in is closed.
    WayClosed {
        /// Its word.
        way: &'static str,
        /// Who has closed it: `listener`, `registry` or `principal`.
        by: &'static str,
    },
    /// A CA of the registry vouches for a certificate, and no device can be registered by it. Holds why.
    CertificateRegistration(String),
    /// The TLS handshake proves to be one principal, and the credential beside it another.
    TwoPrincipals,
    /// What the MQTT-TLS profile of ACE (RFC 9431) refuses.
    Ace(AceFault),
}

impl From<AceFault> for Refusal {
    fn from(fault: AceFault) -> Self {
        Self::Ace(fault)
    }
}

/// What stands behind [`Refusal::NotProven`]; for the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotProven {
    /// There is no principal of the name claimed, or none is claimed.
    UnknownPrincipal,
    /// The principal has no usable key for it (of this `kid` and `alg`, in its time).
    NoKey,
    /// `kid` names a key of another algorithm.
    AlgorithmOfKey,
    /// The signature is not by any key that was tried.
    Signature,
    /// A token whose issuer, or issuer key, is not known here.
    UnknownIssuer,
    /// An opaque token or credential that is not known here.
    UnknownToken,
    /// A password or secret that is not the principal's.
    Password,
    /// A password or secret, and no principal of the name it came with.
    PasswordOfNobody,
    /// A client certificate that is not the principal's.
    Certificate,
}

impl NotProven {
    /// Whether it took much more than a signature check to find it: argon2, or every CA of a registry read and
    /// a chain built.
    #[must_use]
    pub fn is_dear(self) -> bool {
        matches!(self, Self::Password | Self::PasswordOfNobody | Self::Certificate)
    }
}

impl Refusal {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// The stable word of `docs/errors.md`, also the tail of `urn:drawbridge:error:<word>`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.row().1
    }

    /// The short reason that stands in logs and metrics; finer than the code where the peer must not
    /// see the difference.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotProven(NotProven::Signature | NotProven::Password | NotProven::Certificate) => "sig",
            Self::NotProven(NotProven::AlgorithmOfKey) => "alg",
            _ => self.row().2,
        }
    }

    /// Code, word, reason: the table from which `docs/errors.md` is checked.
    fn row(&self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::NoCredential => ("DB-1001", "no-credential", "no_assertion"),
            Self::Malformed(_) => ("DB-1002", "malformed", "malformed"),
            Self::JwsFormat(_) => ("DB-1003", "jws-format", "jws_format"),
            Self::Algorithm(_) => ("DB-1004", "algorithm", "alg"),
            Self::Header(_) => ("DB-1005", "header", "header"),
            Self::Type { .. } => ("DB-1006", "token-type", "kind"),
            Self::NotProven(_) => ("DB-1007", "not-proven", "key"),
            Self::Kind { .. } => ("DB-1008", "token-kind", "kind"),
            Self::Subject(_) => ("DB-1009", "subject", "aud"),
            Self::Audience { .. } => ("DB-1010", "audience", "aud"),
            Self::Time { .. } => ("DB-1011", "time", "time"),
            Self::Jti(_) => ("DB-1012", "jti", "jti"),
            Self::Replay => ("DB-1013", "jti-reused", "replay"),
            Self::JtiFull { .. } => ("DB-1014", "key-exhausted", "jti_full"),
            Self::Blocked => ("DB-1015", "blocked", "state"),
            Self::Revoked => ("DB-1016", "revoked", "state"),
            Self::KeyGone => ("DB-1017", "key-gone", "state"),
            Self::LegacyNotAllowed => ("DB-1018", "legacy-not-allowed", "state"),
            Self::Scope(_) => ("DB-1019", "scope", "scope"),
            Self::Target { .. } => ("DB-1020", "target", "target"),
            Self::OAuthClient(_) => ("DB-1021", "client", "client"),
            Self::NewKey(_) => ("DB-1022", "invalid-key", "newkey"),
            Self::Pop(_) => ("DB-1023", "invalid-pop", "pop"),
            Self::KeyInUse => ("DB-1024", "key-in-use", "dup"),
            Self::TooManyKeys { .. } => ("DB-1025", "too-many-keys", "too_many_keys"),
            Self::KeysSpent { .. } => ("DB-1047", "keys-spent", "too_many_keys"),
            Self::KeyInGrace => ("DB-1026", "key-in-grace", "state"),
            Self::MqttClientId(_) => ("DB-1027", "client-id", "client_id"),
            Self::NotConfidential => ("DB-1028", "not-confidential", "channel"),
            Self::NoRegistry => ("DB-1029", "no-registry", "registry"),
            Self::OtherService => ("DB-1030", "other-service", "aud"),
            Self::Unavailable(_) => ("DB-1031", "temporarily-unavailable", "store"),
            Self::NonceWanted => ("DB-1032", "nonce-required", "nonce"),
            Self::NonceStale => ("DB-1033", "nonce-stale", "nonce"),
            Self::ClockNotTrusted => ("DB-1050", "clock-not-trusted", "time"),
            Self::LastKey => ("DB-4006", "last-key", "last_key"),
            Self::NoSuchKey => ("DB-4007", "key-not-found", "key"),
            Self::DpopNonce => ("DB-1046", "dpop-nonce", "nonce"),
            Self::Dpop(_) => ("DB-1034", "invalid-dpop-proof", "dpop"),
            Self::Binding(_) => ("DB-1035", "token-binding", "binding"),
            Self::Certificate(_) => ("DB-1036", "certificate", "certificate"),
            Self::Enrolment(_) => ("DB-1037", "enrolment", "enrolment"),
            Self::Statement(_) => ("DB-1038", "software-statement", "statement"),
            Self::Pending => ("DB-1039", "pending", "state"),
            Self::RateLimited { .. } => ("DB-1040", "rate-limited", "limit"),
            Self::Role(_) => ("DB-1041", "role", "role"),
            Self::TokenGone => ("DB-1042", "token-gone", "state"),
            Self::Renewal(_) => ("DB-1043", "renewal", "renew"),
            Self::Gateway(_) => ("DB-1044", "not-linked", "target"),
            Self::Busy => ("DB-1045", "busy", "busy"),
            Self::Exchange(_) => ("DB-1055", "exchange", "exchange"),
            Self::TokensFull { .. } => ("DB-1056", "tokens-full", "tokens"),
            Self::TooOften { .. } => ("DB-1065", "too-often", "limit"),
            Self::EnrolmentOver(_) => ("DB-1060", "enrolment-over", "enrolment"),
            Self::StatementInvalid(_) => ("DB-1061", "invalid-statement", "statement"),
            Self::NameInUse => ("DB-1062", "name-in-use", "dup"),
            Self::AuthMethod => ("DB-1090", "authentication-method", "method"),
            Self::WayClosed { .. } => ("DB-1091", "way-closed", "way"),
            Self::CertificateRegistration(_) => ("DB-1092", "certificate-registration", "certificate"),
            Self::TwoPrincipals => ("DB-1093", "two-principals", "certificate"),
            Self::Ace(fault) => fault.row(),
        }
    }

    /// What the peer may be told beyond the code: `Some` only after a good signature. Printable
    /// ASCII without `"` and `\`, as RFC 6749 section 5.2 wants it of an `error_description`.
    #[must_use]
    pub fn for_owner(&self) -> Option<String> {
        // A fault of a DPoP proof, or of what RFC 9431 wants around a token, says nothing of a principal that its
        // sender does not know.
        let harmless = matches!(self, Self::Dpop(_) | Self::DpopNonce | Self::Binding(_))
            || matches!(self, Self::Ace(fault) if fault.is_harmless());
        (self.is_proven() || harmless).then(|| {
            self.to_string()
                .chars()
                .map(|c| if matches!(c, ' '..='~') && c != '"' && c != '\\' { c } else { '\'' })
                .collect()
        })
    }

    /// Whether the peer had proven to hold a good key (or token) when this was found.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        match self {
            Self::NoCredential
            | Self::AuthMethod
            | Self::WayClosed { .. }
            | Self::CertificateRegistration(_)
            | Self::TwoPrincipals
            | Self::Malformed(_)
            | Self::JwsFormat(_)
            | Self::Algorithm(_)
            | Self::Header(_)
            | Self::Type { .. }
            | Self::NotProven(_)
            | Self::NotConfidential
            | Self::NoRegistry
            | Self::Unavailable(_)
            | Self::DpopNonce
            | Self::Dpop(_)
            | Self::Binding(_)
            | Self::RateLimited { .. }
            | Self::Ace(_)
            | Self::Busy => false,
            Self::Kind { .. }
            | Self::Exchange(_)
            | Self::TokensFull { .. }
            | Self::Subject(_)
            | Self::Audience { .. }
            | Self::Time { .. }
            | Self::Jti(_)
            | Self::Replay
            | Self::JtiFull { .. }
            | Self::Blocked
            | Self::Revoked
            | Self::KeyGone
            | Self::LegacyNotAllowed
            | Self::Scope(_)
            | Self::Target { .. }
            | Self::OAuthClient(_)
            | Self::NewKey(_)
            | Self::Pop(_)
            | Self::KeyInUse
            | Self::TooManyKeys { .. }
            | Self::KeysSpent { .. }
            | Self::KeyInGrace
            | Self::MqttClientId(_)
            | Self::OtherService
            | Self::Certificate(_)
            | Self::NonceWanted
            | Self::NonceStale
            | Self::ClockNotTrusted
            | Self::LastKey
            | Self::NoSuchKey
            | Self::Enrolment(_)
            | Self::EnrolmentOver(_)
            | Self::Statement(_)
            | Self::StatementInvalid(_)
            | Self::NameInUse
            | Self::Pending
            | Self::Role(_)
            | Self::TooOften { .. }
            | Self::TokenGone
            | Self::Renewal(_)
            | Self::Gateway(_) => true,
        }
    }

    /// Whether what was presented is no token at all, rather than a bad one.
    ///
    /// Source: RFC 9431 appendix A (payload format invalid).
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(
            self,
            Self::JwsFormat(_)
                | Self::Algorithm(_)
                | Self::Header(_)
                | Self::Type { .. }
                | Self::Ace(AceFault::Format(_) | AceFault::Data(_))
        )
    }

    /// Whether trying the same again later may succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::RateLimited { .. } | Self::TooOften { .. } | Self::Busy)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCredential => f.write_str("no credential was presented; send a signed JWT or a token"),
            Self::Malformed(found) => write!(f, "the request is malformed: {found}"),
            Self::JwsFormat(found) => {
                write!(f, "not a strict compact JWS: {found}; three canonical base64url segments are wanted")
            }
            Self::Algorithm(found) => write!(
                f,
                "`alg` {found} is not accepted; wanted ES256, ES384, EdDSA, RS256 or PS256, as the key was registered"
            ),
            Self::Header(found) => write!(f, "the header is not accepted: {found}; leave that member out"),
            Self::Type { found, wanted } if found.is_empty() => {
                write!(f, "`typ` is missing; here a {wanted} is wanted")
            }
            Self::Type { found, wanted } => write!(f, "`typ` is {found:?}; here a {wanted} is wanted"),
            Self::NotProven(why) => write!(f, "not proven: {why}"),
            Self::Kind { found, wanted } => write!(f, "this is no {wanted}: {found}"),
            Self::Subject(found) => write!(f, "the token does not name its owner: {found}"),
            Self::Audience { found, wanted } => write!(f, "`aud` is {found}; wanted {wanted} and nothing else"),
            Self::Time { found, server_time_s } => write!(f, "{found} (server time {server_time_s})"),
            Self::Jti(found) => {
                write!(f, "`jti` {found}; wanted 16 to 128 printable ASCII characters, new for each JWT")
            }
            Self::Replay => f.write_str("assertion already used; sign a new one with a new `jti`"),
            Self::JtiFull { for_life: true } => {
                f.write_str("this key has no `jti` left: too many JWTs without `exp` were signed with it; update the key")
            }
            Self::JtiFull { for_life: false } => {
                f.write_str("too many assertions are alive; wait until some have expired, or give them a nearer `exp`")
            }
            Self::Blocked => f.write_str("the principal is blocked; its operator can unblock it"),
            Self::Revoked => {
                f.write_str("signed or issued before the last revocation; sign a new JWT, or log in again")
            }
            Self::KeyGone => {
                f.write_str("the key that logged in, or its owner, is registered no more; log in with a current key")
            }
            Self::LegacyNotAllowed => f.write_str(
                "assertions without `aud` and `exp` are not switched on for this device; its operator can allow them",
            ),
            Self::Scope(found) => write!(f, "scope not granted: {found}"),
            Self::Target { wanted } => write!(f, "`resource` names no service of this issuer; wanted {wanted}"),
            Self::OAuthClient(found) => write!(f, "`client_id` {found}"),
            Self::NewKey(found) => write!(f, "the new key cannot be registered: {found}"),
            Self::Pop(found) => write!(f, "the proof of possession of the new key is not accepted: {found}"),
            Self::KeyInUse => {
                f.write_str("the new key is, or was, registered in this registry; make a new key pair")
            }
            Self::TooManyKeys { active_max } => {
                write!(f, "{active_max} keys are active, no more are allowed; retire one, or remove one")
            }
            Self::KeysSpent { kept_max } => write!(
                f,
                "{kept_max} keys were registered for it, and retired ones are kept for ever; its operator can delete it and register it anew"
            ),
            Self::KeyInGrace => f.write_str(
                "this key was replaced: until its end it may log in and repeat that update, nothing else; use the new key",
            ),
            Self::MqttClientId(found) => write!(
                f,
                "the MQTT client id {found}; wanted none, the device's name, or NAME:anything"
            ),
            Self::NotConfidential => {
                f.write_str("a credential came over a channel without encryption; connect by TLS, and replace the credential")
            }
            Self::NoRegistry => f.write_str("there is no such registry"),
            Self::OtherService => {
                f.write_str("the token is for another service of this issuer; ask for one with the right `resource`")
            }
            Self::Unavailable(found) => write!(f, "cannot be decided now: {found}"),
            Self::NonceWanted => f.write_str("the proof carries no server nonce; ask for one (`/oauth/challenge`, or the answer brings it) and sign a new JWT with it"),
            Self::NonceStale => f.write_str("the nonce is too old, or not of this server; take a new one and sign a new JWT with it"),
            Self::ClockNotTrusted => f.write_str("this device's clock is not trusted (`clock` of its record), so its dates show nothing; put the exporter of the TLS connection (RFC 9266) into `cb`, or a nonce of `/oauth/challenge` into `nonce`; to renew a session, a nonce of `$drawbridge/auth/nonce`"),
            Self::LastKey => f.write_str("this is the last active key; register its successor first"),
            Self::NoSuchKey => f.write_str("there is no such key among those of this principal"),
            Self::DpopNonce => f.write_str("the DPoP proof carries no fresh server nonce; the header `DPoP-Nonce` of this answer brings one, sign a new proof with it"),
            Self::Dpop(found) => write!(f, "the DPoP proof is not accepted: {found}"),
            Self::Binding(found) => write!(f, "the token and its proof do not belong together: {found}"),
            Self::Certificate(found) => write!(f, "the client certificate is not accepted: {found}"),
            Self::Enrolment(found) => write!(f, "the enrolment does not allow this: {found}"),
            Self::Statement(found) => write!(f, "the software statement is not accepted: {found}"),
            Self::Pending => f.write_str("registered, but not admitted yet: an operator has to approve it"),
            Self::RateLimited { retry_after_s } => write!(f, "too many requests; come again in {retry_after_s} s"),
            Self::Role(found) => write!(f, "not permitted: {found}"),
            Self::TokenGone => f.write_str("the token was revoked or replaced; log in again"),
            Self::Renewal(found) => write!(f, "the token cannot be renewed: {found}; log in again"),
            Self::Gateway(found) => write!(f, "the gateway may not act here: {found}"),
            Self::TooOften { retry_after_s } => write!(
                f,
                "logged in too often; keep the token or the connection, and come again in {retry_after_s} s"
            ),
            Self::Exchange(found) => write!(f, "the tokens cannot be exchanged: {found}"),
            Self::TokensFull { live_max } => write!(
                f,
                "{live_max} opaque tokens are good at a time; use one until it ends, or revoke those not needed"
            ),
            Self::Busy => f.write_str("too many password checks at once; try again in a moment"),
            Self::EnrolmentOver(why) => write!(f, "the enrolment token {why}; ask the operator for another"),
            Self::StatementInvalid(found) => write!(f, "the software statement is not valid: {found}"),
            Self::AuthMethod => f.write_str(
                "this authentication method is not served; use `ace`, `OAUTH2-JWT` or `CUSTOM-JWT` where they are \
                 open, or send the token as password",
            ),
            Self::WayClosed { way, by } => {
                write!(f, "the way in `{way}` is closed by the `ways` of this {by}; open it there, or use another")
            }
            Self::CertificateRegistration(found) => {
                write!(f, "the certificate is good, and registers no device: {found}")
            }
            Self::TwoPrincipals => f.write_str(
                "the key of the TLS handshake is another principal's than the credential; send one of them, or both \
                 of the same principal",
            ),
            Self::Ace(fault) => fault.fmt(f),
            Self::NameInUse => f.write_str(
                "a device or application of this name is registered with another key; choose another name, or ask the operator",
            ),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for NotProven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownPrincipal => "there is no principal of the name claimed",
            Self::NoKey => "the principal has no usable key of this algorithm",
            Self::AlgorithmOfKey => "`kid` names a key of another algorithm",
            Self::Signature => "the signature is by none of the principal's keys",
            Self::UnknownIssuer => "the token's issuer or its key is not known here",
            Self::UnknownToken => "the token is not known here",
            Self::Password => "name and password or secret do not belong together",
            Self::PasswordOfNobody => {
                "there is no principal of the name that the password or secret came with"
            }
            Self::Certificate => "the client certificate is not one of the principal's",
        })
    }
}

/// A short, harmless piece of hostile text for a message: at most 64 characters, escaped.
pub(crate) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_before_a_good_signature_is_not_told_to_the_peer() {
        let unproven = [
            NotProven::UnknownPrincipal,
            NotProven::NoKey,
            NotProven::AlgorithmOfKey,
            NotProven::Signature,
            NotProven::UnknownIssuer,
            NotProven::UnknownToken,
            NotProven::Password,
            NotProven::PasswordOfNobody,
            NotProven::Certificate,
        ];
        for inner in unproven {
            let refusal = Refusal::NotProven(inner);
            assert_eq!(refusal.for_owner(), None);
            assert_eq!((refusal.code(), refusal.word()), ("DB-1007", "not-proven"));
        }
        assert_eq!(Refusal::JwsFormat("x".into()).for_owner(), None);
    }

    #[test]
    fn texts_for_owners_fit_into_an_oauth_error_description() {
        let time = Refusal::Time { found: "`exp` is 5 s in the past".into(), server_time_s: 1_795_301_000 };
        assert!(time.for_owner().expect("told").contains("server time 1795301000"));
        let odd = Refusal::Scope("\"config\\\u{7}é".into()).for_owner().expect("told");
        assert!(odd.chars().all(|c| matches!(c, ' '..='~') && c != '"' && c != '\\'), "{odd}");
    }
}
