//! One plain function for each parser that reads what strangers send.
//!
//! Each takes any bytes, and panics when a promise is broken: what is accepted is written again and means the
//! same, or keeps a rule that this crate works out in its own way; what is refused has a code and a short text
//! that repeats nothing. `tests/corpus.rs` runs them on stable over `fuzz/corpus` and over seeded mutations of it;
//! `fuzz/` has a libfuzzer binary for each.
//!
//! Kinds of JWT are fed in three modes, by the first byte: a token as it is, header and claims that are then
//! rightly signed, and a few edits of a good token that is then rightly signed. In the last mode it is known
//! beforehand whether the token is good, so wrong refusals are found too.

mod ace;
mod certificates;
mod edits;
mod forms;
mod jose;
mod kind;
mod mqtt;
mod mutate;
mod names;
mod policy;
mod rules;
mod session;
mod tokens;
mod websocket;
mod world;

use std::fmt::Display;

pub use mutate::Mutator;

/// What became of an input: `accepted`, or the kind of refusal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Outcome(pub String);

impl Outcome {
    /// The input was taken.
    #[must_use]
    pub fn accepted() -> Self {
        Self("accepted".to_owned())
    }

    /// The input was refused; `why` has few values.
    #[must_use]
    pub fn refused(why: impl Display) -> Self {
        Self(format!("refused {why}"))
    }
}

/// A function to fuzz, and what a mutator needs to find its way into it.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of the function, of its binary in `fuzz/fuzz_targets` and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]) -> Outcome,
    /// Good inputs to begin with, made anew; they are written into `fuzz/corpus` once.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces that inputs are made of.
    pub words: &'static [&'static str],
    /// Longest input that makes sense, in bytes.
    pub bytes_max: usize,
}

macro_rules! targets {
    ($($(#[doc = $doc:literal])* $name:ident: $module:ident, $words:expr, $bytes_max:literal;)*) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $module::$name::run,
            seeds: $module::$name::seeds,
            words: $words,
            bytes_max: $bytes_max,
        }),*];

        $(
            $(#[doc = $doc])*
            ///
            /// # Panics
            /// When a promise is broken.
            pub fn $name(data: &[u8]) {
                let _ = $module::$name::run(data);
            }
        )*
    };
}

targets! {
    /// A compact JWS, with padding refused and tolerated, with and without a key in the header.
    jws: jose, mutate::JSON_WORDS, 6000;
    /// A public JWK.
    jwk: jose, mutate::JSON_WORDS, 9000;
    /// A public key as PEM, DER, bare base64, certificate, or whichever it is.
    public_key: jose, mutate::KEY_WORDS, 4000;
    /// A private key as PKCS#8.
    private_key: jose, mutate::KEY_WORDS, 4000;
    /// An ECDSA signature in ASN.1 DER.
    ecdsa_der: jose, &[], 200;
    /// Claims: a strict JSON object, and what it says of each type.
    claims: jose, mutate::JSON_WORDS, 6000;
    /// A client assertion at the token endpoint.
    client_assertion: tokens, mutate::JSON_WORDS, 6000;
    /// A key update and its proof of possession.
    key_update: tokens, mutate::JSON_WORDS, 6000;
    /// The removal of a key by its device.
    key_remove: tokens, mutate::JSON_WORDS, 6000;
    /// The proof of a key that a device brings when it registers.
    enrolment_proof: tokens, mutate::JSON_WORDS, 6000;
    /// A DPoP proof for a fixed request.
    dpop_proof: tokens, mutate::JSON_WORDS, 6000;
    /// A manufacturer's statement about devices.
    software_statement: tokens, mutate::JSON_WORDS, 6000;
    /// A proof of possession for a fixed key update.
    key_pop: tokens, mutate::JSON_WORDS, 6000;
    /// An authentication JWT of the legacy profile.
    legacy_login: tokens, mutate::JSON_WORDS, 6000;
    /// An update JWT of the legacy profile.
    legacy_update: tokens, mutate::JSON_WORDS, 6000;
    /// A proof of possession of the legacy profile, in DER and base64.
    legacy_pop: tokens, &["=", "==", "+", "/", "-", "_"], 1200;
    /// A JWT in the password of a CONNECT.
    connect_jwt: tokens, mutate::JSON_WORDS, 6000;
    /// An access token of our own issuer.
    access_token: tokens, mutate::JSON_WORDS, 9000;
    /// Authentication data of RFC 9431, and user names with a token.
    ace_data: ace, &["ace", "eyJ", "."], 2000;
    /// An access token as CWT.
    ace_cwt: ace, &[], 900;
    /// `scope` of a CWT.
    ace_scope: ace, &["cpub", "csub"], 400;
    /// A request to the token endpoint in the words of RFC 9200.
    ace_request: ace, mutate::JSON_WORDS, 900;
    /// A COSE_Key, and symmetric keys that were sealed into tokens.
    ace_key: ace, &[], 400;
    /// The certificate of a TLS client, and the chain to a CA.
    client_certificate: certificates, mutate::KEY_WORDS, 2000;
    /// A form body.
    form_body: forms, mutate::FORM_WORDS, 2000;
    /// A policy document.
    policy_document: policy, mutate::POLICY_WORDS, 4000;
    /// A grant: `scope` in base64url, and its JSON.
    grant: policy, mutate::JSON_WORDS, 5000;
    /// Two topic filters and a topic name.
    topic_filter: names, mutate::TOPIC_WORDS, 300;
    /// A pattern of device names, and a name.
    id_pattern: names, &["*", "**", "-", "pump", "a"], 120;
    /// A nonce of the server.
    nonce: names, &["A", "_", "=", "AQ"], 200;
    /// The names of principals, registries, keys, policies and MQTT clients.
    name: names, mutate::TOPIC_WORDS, 400;
    /// An MQTT packet of either version, from either side.
    mqtt_packet: mqtt, &["MQTT", "\u{0}\u{4}MQTT\u{4}", "\u{0}\u{4}MQTT\u{5}"], 4000;
    /// Connections to shards with a storage: what several clients say, what is stored when, crashes, time.
    mqtt_session: session, &[], 641;
    /// A sequence of frames of a WebSocket client, however it is cut.
    websocket_frames: websocket, &["\u{2}\u{fe}", "\u{0}\u{0}\u{0}\u{0}"], 2000;
}

/// The promises that every text of a refusal keeps: it is there, it is short, it has no control characters,
/// and it repeats no longer piece of what was sent.
fn judge_text(text: &str, sent: &[u8]) {
    assert!(!text.is_empty(), "a refusal says something");
    assert!(text.len() <= 900, "a refusal is short: {} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "no control characters: {text:?}");
    const PIECE: usize = 80;
    assert!(
        !text.as_bytes().windows(PIECE).any(|piece| sent.windows(PIECE).any(|window| window == piece)),
        "a refusal repeats what was sent: {text:?}"
    );
}

/// A stable code.
fn judge_code(code: &str) {
    let digits = code.strip_prefix("DB-").unwrap_or_default();
    assert!(digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit()), "no code: {code:?}");
}
