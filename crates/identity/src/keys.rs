//! The keys of a principal, parsed once, and the one place where a device's signature is checked.

use std::sync::atomic::{AtomicU64, Ordering};

use drawbridge_jose::{Algorithm, Claims, PublicKey};
use drawbridge_names::{KeyId, PrincipalName};

use crate::clock::DeviceClock;

/// Most keys that one JWT is tried with. Source: the limit of active keys per principal.
const TRIED_MAX: usize = 5;

/// A key of a principal that is not retired.
#[derive(Debug, Clone)]
pub struct RingKey {
    /// RFC 7638 thumbprint.
    pub kid: KeyId,
    /// The key, which has one algorithm.
    pub public: PublicKey,
    /// May stand as `kid` in a JWT.
    pub label: Option<String>,
    /// Replaced by its device: it may log in, and repeat the update that replaced it.
    pub in_grace: bool,
    /// Not accepted before this second.
    pub not_before_s: Option<u64>,
    /// Not accepted from this second on.
    pub expires_s: Option<u64>,
}

impl RingKey {
    /// Whether the key may be used at this second.
    #[must_use]
    pub fn is_usable(&self, now_s: u64) -> bool {
        self.not_before_s.is_none_or(|from_s| from_s <= now_s)
            && self.expires_s.is_none_or(|end_s| now_s < end_s)
    }
}

/// The keys of one principal that are not retired, active ones first.
#[derive(Debug, Clone, Default)]
pub struct KeyRing(Vec<RingKey>);

impl KeyRing {
    /// Takes the keys of a principal; retired ones must have been left out.
    #[must_use]
    pub fn new(mut keys: Vec<RingKey>) -> Self {
        keys.sort_by_key(|key| key.in_grace);
        // It is kept for every principal: most have one key, and a vector begins with room for four.
        keys.shrink_to_fit();
        Self(keys)
    }

    /// All keys.
    #[must_use]
    pub fn keys(&self) -> &[RingKey] {
        &self.0
    }

    /// The key of this thumbprint if it may be used at this second.
    #[must_use]
    pub fn usable(&self, kid: &KeyId, now_s: u64) -> Option<&RingKey> {
        self.0.iter().find(|key| key.kid == *kid && key.is_usable(now_s))
    }

    /// The keys a JWT is to be tried with: the one that `kid` names (by thumbprint or label), else
    /// all of the algorithm, at most five. `kid` is hostile text: it only ever selects.
    pub(crate) fn candidates(&self, kid: Option<&str>, algorithm: Algorithm, now_s: u64) -> Named<'_> {
        let usable = || self.0.iter().filter(|key| key.is_usable(now_s));
        if let Some(kid) = kid {
            let named: Vec<_> =
                usable().filter(|key| key.kid.as_str() == kid || key.label.as_deref() == Some(kid)).collect();
            if !named.is_empty() {
                let fitting: Vec<_> = named
                    .into_iter()
                    .filter(|key| key.public.algorithm() == algorithm)
                    .take(TRIED_MAX)
                    .collect();
                return if fitting.is_empty() { Named::OtherAlgorithm } else { Named::Keys(fitting) };
            }
        }
        Named::Keys(usable().filter(|key| key.public.algorithm() == algorithm).take(TRIED_MAX).collect())
    }
}

/// Answer of [`KeyRing::candidates`].
pub(crate) enum Named<'k> {
    Keys(Vec<&'k RingKey>),
    OtherAlgorithm,
}

/// The principal that a JWT claims to be from, as far as judging the JWT needs it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a PrincipalName,
    /// Its keys.
    pub ring: &'a KeyRing,
    /// JWTs with `iat` up to this second are dead. 0: none.
    pub not_before_s: u64,
    /// Whether legacy assertions are switched on for it.
    pub legacy_assertions: bool,
    /// How far its clock is to be trusted; `None`: as the rules say.
    pub clock: Option<DeviceClock>,
}

/// A JWT whose signature is by a key of the candidate.
pub(crate) struct Proven<'p> {
    pub(crate) claims: Claims,
    pub(crate) key: &'p RingKey,
    pub(crate) candidate: &'p Candidate<'p>,
}

/// Checks signatures, counts the checks, and spends one on nobody when there is no key to check
/// with, so that an unknown device costs what a wrong key costs (invariant I11).
#[derive(Debug)]
pub struct Checker {
    checks: AtomicU64,
    nobody: [PublicKey; 5],
}

impl Default for Checker {
    fn default() -> Self {
        Self::new()
    }
}

impl Checker {
    /// A checker that has counted nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let nobody = |algorithm| {
            let body = match algorithm {
                Algorithm::Es256 => NOBODY_P256,
                Algorithm::Es384 => NOBODY_P384,
                Algorithm::EdDsa => NOBODY_ED25519,
                Algorithm::Rs256 | Algorithm::Ps256 => NOBODY_RSA,
            };
            let key = PublicKey::from_bare_base64(body).expect("the constants below are public keys");
            PublicKey::from_spki_der_with(key.spki_der(), algorithm).expect("the algorithm fits the key")
        };
        Self { checks: AtomicU64::new(0), nobody: Algorithm::ALL.map(nobody) }
    }

    /// How many signatures were checked so far.
    #[must_use]
    pub fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) {
        self.checks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn nobody(&self, algorithm: Algorithm) -> &PublicKey {
        let at = Algorithm::ALL.iter().position(|known| *known == algorithm);
        &self.nobody[at.expect("`ALL` holds every algorithm")]
    }

    /// Costs what one check of a device's signature costs, and finds nothing good.
    pub fn spend(&self) {
        use drawbridge_jose::Verify as _;
        self.count();
        // The answer does not matter: nothing was claimed that could be true.
        let _ = self.nobody(Algorithm::Es256).verify(b"nobody", &[1; 64]);
    }
}

// Public keys of nobody: their private halves were never kept. Should one be known all the same,
// nothing is gained by it: what is checked with them is refused whatever the check says.
const NOBODY_P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEM2B6OnNpLvc1Ri+iGUNVoIHuaLKpE7Bb4iZxgbZx8WmGdxXcccwwcZ4d981ZzpC9UX3k0t0G6AJqAfVIfFQqrQ==";
const NOBODY_P384: &str = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE7ZQfTejPVZ9cv8dTHfG7LfsvjRHTxL+PfI/fOqlAY2vgjZ0riUp39Q4Um3Hs9MugzdIZtVNRB/STGpa3P/Er7NHHnR8oN7aZGizWiKvNQWdGxGUsZyRXBCgLHqd9s9Ng";
const NOBODY_ED25519: &str = "MCowBQYDK2VwAyEAsgDY6eQVw23U+XyuTHibyRgBL5ee0GrEIAJSrydtUyE=";
const NOBODY_RSA: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAxhrqVNBBSg7CwTK0sIIl3lMbOdfi9eQNUl700neip7dNNLlqOfPClMqWQpC4rvFDxYS5GZ6jJuO6rb9uk0ob07engWAnaq8nNECCJdychu+/nWePcUtudLlBsX8mfcCbf+LoIv7iHomdislGylPk8CLz47yecqnKkrWb9UPQqymhsRr0Y8ZK9U1neNXRtQmq5jkNHc78SdIvUWi/7UOsc0ilw1Q42FYTxxrxV88LMc34cSTZqrVozlyPwujs4qpxXoW1glfghgNbfwwYkrZGzzq8IIfEEgahJS1EhKm493kOw0xmRvMQxftsjYkJIXK9c36lPWWIwRF0J3Uy21Pk5wIDAQAB";
