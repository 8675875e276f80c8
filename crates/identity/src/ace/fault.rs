//! Why something of the profile is refused.

use std::fmt;

/// What was wrong with data, token, key or proof. No text repeats what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AceFault {
    /// The authentication data, or the user name, has none of the forms. Holds what was found.
    Data(&'static str),
    /// The token or body is no strict CBOR, COSE, AIF or JSON of this profile. Holds what was found.
    Format(String),
    /// The proof does not fit the key of the token.
    Proof,
    /// The token has no key, or none that proofs are taken by. Holds what was found.
    Key(String),
    /// A proof over the TLS connection is not taken here. Holds why.
    Exporter(&'static str),
    /// The client brings no token, and none is kept for it.
    NoToken,
    /// The token carries no `cnonce`, or none of this broker's that was fresh when it was issued.
    Cnonce,
    /// Another profile was asked for.
    Profile,
    /// There is no room for the token of `authz-info`, or the address has sent too many.
    StoreFull,
}

impl AceFault {
    /// Code, word and reason, as [`crate::Refusal`] has them.
    pub(crate) fn row(&self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Data(_) => ("DB-1066", "ace-data", "ace_data"),
            Self::Format(_) => ("DB-1067", "ace-format", "ace_format"),
            Self::Proof => ("DB-1068", "ace-proof", "pop"),
            Self::Key(_) => ("DB-1069", "ace-key", "pop_key"),
            Self::Exporter(_) => ("DB-1070", "ace-exporter", "exporter"),
            Self::NoToken => ("DB-1071", "ace-no-token", "no_token"),
            Self::Cnonce => ("DB-1072", "ace-cnonce", "cnonce"),
            Self::Profile => ("DB-1073", "ace-profile", "profile"),
            Self::StoreFull => ("DB-1074", "ace-store-full", "limit"),
        }
    }

    /// Whether it may be told to whoever sent it, since it says nothing of any principal: what is wrong with the
    /// form of a request, and what this broker does not serve. That a proof does not fit is not among these.
    pub(crate) fn is_harmless(&self) -> bool {
        !matches!(self, Self::Proof)
    }
}

impl fmt::Display for AceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(found) => write!(
                f,
                "the authentication data is none of RFC 9431: {found}; wanted 2 bytes of length, the token, and the proof or nothing"
            ),
            Self::Format(found) => write!(f, "not in the form that this profile has: {found}"),
            Self::Proof => f.write_str("the proof of possession does not fit the key of the token"),
            Self::Key(found) => write!(
                f,
                "the proof-of-possession key cannot be used: {found}; wanted Ed25519, P-256, or a key of the token endpoint (HS256)"
            ),
            Self::Exporter(why) => {
                write!(f, "a proof over the TLS connection is not taken here: {why}; let the broker ask instead")
            }
            Self::NoToken => f.write_str("no token came, and none is kept for this client; ask the authorization server for one"),
            Self::Cnonce => f.write_str(
                "the token has no `cnonce` of this broker, or an old one; take the one of `ace_as_hint` and ask for a new token with it",
            ),
            Self::Profile => f.write_str("this `ace_profile` is not served; wanted `mqtt_tls` (3 in CBOR), or none"),
            Self::StoreFull => f.write_str("no more tokens are kept now; come again later"),
        }
    }
}

impl std::error::Error for AceFault {}
