//! Who a device is: assertions, key updates, replay rules, and the tokens issued for it.
//!
//! Pure: the time comes in as `now_s` (seconds since 1970-01-01 UTC), keys come in as a
//! [`Candidate`], and what must be remembered (a `jti`) goes out as a value. Each kind of JWT has one
//! file and one type, and no JWT passes as two kinds.
//!
//! A JWT is read ([`ClientAssertion::parse`]), asked whom it claims to be from, and verified with the
//! keys of that principal; before the signature is good every refusal looks alike to the peer.

mod access_token;
pub mod ace;
mod assertion;
mod certificate;
mod clock;
mod connect_jwt;
mod dpop;
mod enrolment;
mod key_remove;
mod key_update;
mod keys;
mod legacy;
mod new_key;
mod nonce;
mod password;
mod presented;
mod refusal;
mod rules;
mod server_time;
mod statement;

pub use access_token::{AccessClaims, AccessToken, ActedBy, AliasLogin, Confirmation, IssuerKey};
pub use assertion::{Asserted, AssertionRules, ClientAssertion};
pub use certificate::{
    CLIENT_CHAIN_BYTES_MAX, CLIENT_CHAIN_MAX, LeafCertificate, SubjectField, verify_client_chain,
};
pub use clock::{Dates, DeviceClock};
pub use connect_jwt::{ConnectJwt, ConnectProof, ConnectRules, OneTime};
pub use dpop::{DPOP_SKEW_S_MIN, DpopProven, DpopRules, verify_dpop};
pub use enrolment::{ENROLMENT_KEYS_MAX, EnrolmentRules, pattern_fits, verify_enrolment_proof};
pub use key_remove::{KeyRemoval, KeyRemove};
pub use key_update::{KeyUpdate, KeyUpdated, LegacyPopForm, verify_legacy_pop, verify_pop};
pub use keys::{Candidate, Checker, KeyRing, RingKey};
pub use legacy::{LegacyLogin, LegacyUpdate, LegacyUpdated};
pub use new_key::NEW_KEY_BYTES_MAX;
pub use nonce::{NONCE_LIFE_S, NoncePurpose, Nonces};
pub use password::{
    PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, PasswordCost, PasswordUnfit, PasswordVerifier, SECRET_PREFIX,
    Verifier, judge_password,
};
pub use refusal::{NotProven, Refusal};
pub use rules::{JtiDigest, TokenDigest};
pub use server_time::{ServerTime, is_time_nonce};
pub use statement::{SoftwareStatement, Stated, StatedDevices, judge_pattern, thumbprint};
