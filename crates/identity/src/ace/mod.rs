//! The MQTT-TLS profile of ACE: what a client puts into CONNECT and AUTH, tokens as JWT and CWT, the keys that
//! they are bound to, and proofs by those keys.
//!
//! Everything here reads bytes of strangers and believes nothing: one meaning has one encoding, and what could
//! be read in two ways is refused.
//!
//! Source: RFC 9431, RFC 9200, RFC 9201, RFC 8392 (CWT), RFC 8747 and RFC 7800 (`cnf`), RFC 9237 (AIF).

mod aif;
mod auth_data;
mod cbor;
mod cose_key;
mod cwt;
mod fault;
mod hint;
mod pop;
mod sealed;
mod token_request;

pub use aif::{scope_from_cbor, scope_to_cbor};
pub use auth_data::{Answer, ConnectData, POP_BYTES, TokenForm, token_of_user_name, user_name_of_token};
pub use cose_key::{public_key_from_cose, public_key_to_cose, symmetric_key_to_cose};
pub use cwt::{Cwt, issue_cwt};
pub use fault::AceFault;
pub use hint::AsHint;
pub use pop::{PopInput, PopKey, judge_pop_algorithm};
pub use sealed::{SealedKey, SymmetricKey, seal_as_cose, seal_as_jwe};
pub use token_request::{AceAnswer, AceError, AceRequest, RequestedKey, RequestedProfile};

/// The authentication method of MQTT 5, and the letters before the token in a 3.1.1 user name.
///
/// Source: RFC 9431 sections 2.2.4 and 6.1.
pub const METHOD: &str = "ace";

/// The exporter label of a proof over the TLS connection. Its context is empty, which in TLS 1.2 is not the
/// same as none; its length is 32 bytes.
///
/// Source: RFC 9431 section 2.2.4.2.1.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-ACE-MQTT-Sign-Challenge";

/// `ace_profile` of this profile in JSON.
///
/// Source: RFC 9431 section 7.3.
pub const PROFILE: &str = "mqtt_tls";

/// `ace_profile` of this profile in CBOR.
///
/// Source: RFC 9431 section 7.3.
pub const PROFILE_CBOR: i64 = 3;
