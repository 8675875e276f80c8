//! The issuer's keys of a registry: the one that signs, the next one, and those whose tokens are still good.
//!
//! A key is published at least `issuer_key_lead_s` before it signs, so a verifier that keeps the JWK set for
//! less than that never meets a key it does not know. A key that signs no more stays published, without its
//! private half, until the last token it may have signed has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use drawbridge_identity::IssuerKey;
use drawbridge_jose::{Algorithm, PublicKey, SigningKey};
use drawbridge_names::{KeyId, RegistryName};
use drawbridge_registry::{IssuerAlgorithm, RegistryRecord};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::issue::TOKEN_LIFE_S_MAX;
use crate::{Actor, Admission, AdmissionError, SessionsEnd, background, kid_of};

/// The secret that holds them all: see [`IssuerKeys::to_bytes`].
pub(crate) const ISSUER_KEYS: &str = "issuer-keys";
const VERSION: u8 = 1;
/// A signature in flight while its key is replaced is good for so much longer, in seconds.
const MARGIN_S: u64 = 60;
/// So often the store is asked whether another server has changed them, in seconds.
const READ_AGAIN_S: u64 = 60;

/// How an operator changes the key that signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The next key is published now and signs after `issuer_key_lead_s`.
    Planned,
    /// A new key signs at once.
    Now {
        /// The earlier keys are not believed any more: their tokens are dead and the sessions that those
        /// opened end. For a key that was stolen.
        drop_old: bool,
    },
}

/// What an issuer's key is for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssuerKeyState {
    /// It signs.
    Current,
    /// It is published and will sign.
    Next,
    /// It signs no more; its tokens are good until they end.
    Old,
}

impl IssuerKeyState {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Next => "next",
            Self::Old => "old",
        }
    }
}

/// A published key of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerKeyInfo {
    /// RFC 7638 thumbprint.
    pub kid: KeyId,
    /// What it is for.
    pub state: IssuerKeyState,
    /// It signs from this second on; of an old one: 0.
    pub from_s: u64,
    /// It is accepted until this second; `None`: no end is set.
    pub until_s: Option<u64>,
    /// The public key as a JWK, JSON text.
    pub jwk: String,
}

/// When keys change of themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How long before it signs a key is published.
    pub(crate) lead_s: u64,
    /// How long a key signs; 0: until an operator changes it.
    pub(crate) life_s: u64,
    /// The algorithm that the registry wants.
    pub(crate) algorithm: Algorithm,
}

/// A key pair that signs, or will.
#[derive(Clone)]
struct LiveKey {
    key: Arc<IssuerKey>,
    published_s: u64,
    from_s: u64,
}

/// A key that has signed.
#[derive(Clone)]
struct OldKey {
    key: PublicKey,
    until_s: u64,
}

/// All keys of one issuer.
#[derive(Clone)]
pub(crate) struct IssuerKeys {
    current: LiveKey,
    next: Option<LiveKey>,
    old: Vec<OldKey>,
    /// The audit knows the current key.
    announced: bool,
}

/// What the clock wants to be done to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The audit does not know the current key yet.
    Announce,
    /// The tokens of an old key have ended.
    End,
    /// The next key signs from now on.
    Promote,
    /// A next key is to be published, to sign from this second on.
    Prepare(u64),
}

impl IssuerKeys {
    /// A first key, which signs at once: nobody keeps an older set.
    fn first(key: SigningKey, now_s: u64) -> Self {
        let current = LiveKey { key: Arc::new(IssuerKey::new(key)), published_s: now_s, from_s: now_s };
        Self { current, next: None, old: Vec::new(), announced: false }
    }

    /// The key that signs.
    pub(crate) fn current(&self) -> &IssuerKey {
        &self.current.key
    }

    /// The keys whose signatures are believed. The next one is ours as well: another server of the same
    /// store may be ahead.
    pub(crate) fn accepted(&self, now_s: u64) -> Vec<&PublicKey> {
        let live = std::iter::once(&self.current).chain(&self.next).map(|live| live.key.public_key());
        live.chain(self.old.iter().filter(|old| now_s < old.until_s).map(|old| &old.key)).collect()
    }

    /// Whether tokens of this key are believed at all.
    pub(crate) fn knows(&self, kid: &KeyId) -> bool {
        let mut all = self.accepted(0).into_iter();
        all.any(|key| key.thumbprint() == kid.as_str())
    }

    fn infos(&self) -> Vec<IssuerKeyInfo> {
        let info = |key: &PublicKey, state, from_s, until_s| IssuerKeyInfo {
            kid: kid_of(key),
            state,
            from_s,
            until_s,
            jwk: key.to_published_jwk_json(),
        };
        let (current, next) = (&self.current, self.next.as_ref());
        let until_s = next.map(|next| next.from_s);
        let mut all = vec![info(current.key.public_key(), IssuerKeyState::Current, current.from_s, until_s)];
        all.extend(next.map(|next| info(next.key.public_key(), IssuerKeyState::Next, next.from_s, None)));
        all.extend(self.old.iter().map(|old| info(&old.key, IssuerKeyState::Old, 0, Some(old.until_s))));
        all
    }

    fn step(&self, now_s: u64, plan: Plan) -> Option<Step> {
        if !self.announced {
            return Some(Step::Announce);
        }
        if self.old.iter().any(|old| old.until_s <= now_s) {
            return Some(Step::End);
        }
        let algorithm_of = |live: &LiveKey| live.key.public_key().algorithm();
        let soon_s = now_s.saturating_add(plan.lead_s);
        match &self.next {
            Some(next) if algorithm_of(next) != plan.algorithm => Some(Step::Prepare(soon_s)),
            Some(next) if next.from_s <= now_s => Some(Step::Promote),
            Some(_) => None,
            None if algorithm_of(&self.current) != plan.algorithm => Some(Step::Prepare(soon_s)),
            None if plan.life_s > 0 => {
                let end_s = self.current.from_s.saturating_add(plan.life_s);
                (end_s <= soon_s).then(|| Step::Prepare(soon_s.max(end_s)))
            }
            None => None,
        }
    }

    /// The next key takes over; the current one is believed until its tokens have ended.
    fn promoted(&self, now_s: u64) -> Self {
        let Some(next) = &self.next else { return self.clone() };
        Self { current: next.clone(), next: None, old: self.with_current_old(now_s), announced: true }
    }

    fn with_current_old(&self, now_s: u64) -> Vec<OldKey> {
        let until_s = now_s.saturating_add(TOKEN_LIFE_S_MAX + MARGIN_S);
        let current = OldKey { key: self.current.key.public_key().clone(), until_s };
        self.old.iter().cloned().chain([current]).collect()
    }

    /// Version, whether the audit knows the current key, then for each key its part (0 signs, 1 will, 2 has
    /// signed), two times of 8 bytes (published and from; or until and 0), the length of the key in 4 bytes,
    /// and the key: PKCS#8 in DER, of an old one SubjectPublicKeyInfo. Integers are big-endian.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Room for all, so that no copy is left behind where it grows.
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
        bytes.extend_from_slice(&[VERSION, self.announced.into()]);
        let mut put = |part: u8, times: [u64; 2], der: &[u8]| {
            bytes.push(part);
            bytes.extend_from_slice(&times[0].to_be_bytes());
            bytes.extend_from_slice(&times[1].to_be_bytes());
            let length = u32::try_from(der.len()).expect("a key is shorter than 4 GiB");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(der);
        };
        put(0, [self.current.published_s, self.current.from_s], &self.current.key.to_pkcs8_der());
        if let Some(next) = &self.next {
            put(1, [next.published_s, next.from_s], &next.key.to_pkcs8_der());
        }
        for old in &self.old {
            put(2, [old.until_s, 0], old.key.spki_der());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, AdmissionError> {
        let fault = |what: &str| AdmissionError::Secret(format!("{ISSUER_KEYS}: {what}"));
        let cut = || fault("it is cut short");
        let (&[version, announced], mut rest) = bytes.split_first_chunk::<2>().ok_or_else(cut)?;
        if version != VERSION {
            return Err(fault("it has an unknown version"));
        }
        let (mut current, mut next, mut old) = (None, None, Vec::new());
        while let Some((part, after)) = rest.split_first() {
            let (first, after) = after.split_first_chunk::<8>().ok_or_else(cut)?;
            let (second, after) = after.split_first_chunk::<8>().ok_or_else(cut)?;
            let (length, after) = after.split_first_chunk::<4>().ok_or_else(cut)?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut())?;
            let (der, after) = after.split_at_checked(length).ok_or_else(cut)?;
            let times = [u64::from_be_bytes(*first), u64::from_be_bytes(*second)];
            let live = || {
                let key = SigningKey::from_pkcs8_der(der).map_err(|e| fault(&e.to_string()))?;
                let key = Arc::new(IssuerKey::new(key));
                Ok::<_, AdmissionError>(LiveKey { key, published_s: times[0], from_s: times[1] })
            };
            match part {
                0 => current = Some(live()?),
                1 => next = Some(live()?),
                2 => {
                    let key = PublicKey::from_spki_der(der).map_err(|e| fault(&e.to_string()))?;
                    old.push(OldKey { key, until_s: times[0] });
                }
                _ => return Err(fault("it has a part of an unknown kind")),
            }
            rest = after;
        }
        let current = current.ok_or_else(|| fault("no key signs"))?;
        Ok(Self { current, next, old, announced: announced != 0 })
    }
}

impl Admission {
    /// The published keys of a registry's issuer: the current one first, then the next, then the old ones.
    ///
    /// # Errors
    /// [`AdmissionError::NoRegistry`].
    pub fn issuer_keys(&self, registry: &RegistryName) -> Result<Vec<IssuerKeyInfo>, AdmissionError> {
        let realm = self.realm(registry).ok_or_else(|| AdmissionError::NoRegistry(registry.clone()))?;
        let now_s = self.now_s();
        Ok(realm
            .keys
            .infos()
            .into_iter()
            .filter(|key| key.until_s.is_none_or(|end| now_s < end) || key.state != IssuerKeyState::Old)
            .collect())
    }

    /// The public keys of a registry's issuer, as a JWK set.
    ///
    /// Source: RFC 7517 section 5.
    #[must_use]
    pub fn jwks_json(&self, registry: &RegistryName) -> Option<String> {
        let keys: Vec<String> = self.issuer_keys(registry).ok()?.into_iter().map(|key| key.jwk).collect();
        Some(format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
    }

    /// How long a JWK set of this server may be kept, in seconds: no longer than a key is published before it
    /// signs, and not so long that a stolen key stays believed for a day.
    #[must_use]
    pub fn jwks_age_s_max(&self) -> u64 {
        (u64::from(self.inner.config.issuer_key_lead_s) / 2).min(3_600)
    }

    /// Changes the key that signs; answers the keys as they are published now.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such registry, or the store does not answer.
    pub async fn rotate_issuer_key(
        &self,
        registry: &RegistryName,
        actor: &Actor,
        rotation: Rotation,
    ) -> Result<Vec<IssuerKeyInfo>, AdmissionError> {
        // Making an RSA key takes a while; against a stolen key nobody shall have to ask twice.
        let _turn = self.inner.issuer_keys_turn.wait().await;
        let realm = self.realm(registry).ok_or_else(|| AdmissionError::NoRegistry(registry.clone()))?;
        let (keys, now_s) = (self.kept_issuer_keys(&realm.record).await?, self.now_s());
        let plan = self.plan(&realm.record);
        let (changed, detail) = match (rotation, &keys.next) {
            (Rotation::Planned, Some(next)) => {
                let from_s = next.from_s.min(now_s.max(next.published_s.saturating_add(plan.lead_s)));
                let detail = json!({ "kid": next.key.kid(), "from_s": from_s, "when": "planned" });
                let next = Some(LiveKey { from_s, ..next.clone() });
                (IssuerKeys { next, ..keys.clone() }, ("issuer-key.rotate", detail))
            }
            (Rotation::Planned, None) => {
                let made = generate(plan.algorithm).await?;
                prepared(&keys, made, now_s, now_s.saturating_add(plan.lead_s))
            }
            (Rotation::Now { drop_old }, _) => {
                let made = generate(plan.algorithm).await?;
                let old = if drop_old { Vec::new() } else { keys.with_current_old(now_s) };
                let changed = IssuerKeys { old, announced: true, ..IssuerKeys::first(made, now_s) };
                let kept: Vec<KeyId> = changed.infos().into_iter().map(|info| info.kid).collect();
                let dropped = keys.infos().into_iter().map(|info| info.kid);
                let dropped: Vec<String> =
                    dropped.filter(|kid| !kept.contains(kid)).map(|kid| kid.to_string()).collect();
                let mut detail = added(&changed.current);
                detail["when"] = json!("now");
                detail["dropped"] = json!(dropped);
                (changed, ("issuer-key.add", detail))
            }
        };
        self.keep_issuer_keys(registry, changed, actor, detail.0, &detail.1).await?;
        self.issuer_keys(registry)
    }

    /// Moves the keys of all issuers by the clock: to be called now and then, once a minute is enough. Takes
    /// over what another server of the same store has changed, and which tokens it has revoked.
    ///
    /// # Errors
    /// [`AdmissionError`] when the store does not answer: the keys stay as they are, and the next call tries
    /// again.
    pub async fn maintain_issuer_keys(&self) -> Result<(), AdmissionError> {
        // Whoever has the turn looks after them.
        let Some(_turn) = self.inner.issuer_keys_turn.take() else { return Ok(()) };
        let now_s = self.now_s();
        let read_s = self.inner.issuer_keys_read_s.load(Ordering::Relaxed);
        let read_again = now_s.abs_diff(read_s) >= READ_AGAIN_S;
        for realm in self.realms().values() {
            let plan = self.plan(&realm.record);
            if !read_again && realm.keys.step(now_s, plan).is_none() {
                continue;
            }
            if read_again {
                realm.revoked.refresh(self.inner.store.revoked_jtis(&realm.record.name, now_s).await?, now_s);
            }
            let mut keys = self.kept_issuer_keys(&realm.record).await?;
            self.install_issuer_keys(&realm.record.name, &keys);
            // Each step brings the next one nearer; there are four kinds.
            for _ in 0..8 {
                let Some(step) = keys.step(now_s, plan) else { break };
                let (changed, (action, detail)) = match step {
                    Step::Announce => {
                        let detail = added(&keys.current);
                        (IssuerKeys { announced: true, ..keys.clone() }, ("issuer-key.add", detail))
                    }
                    Step::End => {
                        let (ended, old): (Vec<_>, Vec<_>) =
                            keys.old.iter().cloned().partition(|old| old.until_s <= now_s);
                        let kids: Vec<&str> = ended.iter().map(|old| old.key.thumbprint()).collect();
                        let detail = json!({ "kids": kids });
                        (IssuerKeys { old, ..keys.clone() }, ("issuer-key.end", detail))
                    }
                    Step::Promote => {
                        let changed = keys.promoted(now_s);
                        let detail = json!({ "kid": changed.current().kid() });
                        (changed, ("issuer-key.use", detail))
                    }
                    Step::Prepare(from_s) => prepared(&keys, generate(plan.algorithm).await?, now_s, from_s),
                };
                keys = changed.clone();
                self.keep_issuer_keys(&realm.record.name, changed, &Actor::Server, action, &detail).await?;
            }
        }
        if read_again {
            self.inner.issuer_keys_read_s.store(now_s, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The keys of a registry's issuer as the store has them; made if there are none.
    pub(crate) async fn kept_issuer_keys(
        &self,
        record: &RegistryRecord,
    ) -> Result<IssuerKeys, AdmissionError> {
        if let Some(kept) = self.sealed(&record.name, ISSUER_KEYS).await? {
            return IssuerKeys::from_bytes(&kept);
        }
        let made = IssuerKeys::first(generate(self.plan(record).algorithm).await?, self.now_s());
        let kept = self.sealed_or_insert(&record.name, ISSUER_KEYS, || made.to_bytes()).await?;
        IssuerKeys::from_bytes(&kept)
    }

    async fn keep_issuer_keys(
        &self,
        registry: &RegistryName,
        keys: IssuerKeys,
        actor: &Actor,
        action: &str,
        detail: &Value,
    ) -> Result<(), AdmissionError> {
        let audit = self.audit(actor, action, registry.as_str(), detail);
        self.replace_sealed(registry, ISSUER_KEYS, &keys.to_bytes(), audit).await?;
        self.install_issuer_keys(registry, &keys);
        Ok(())
    }

    /// Works with these keys from now on. Sessions that were opened by tokens of a key which is believed no
    /// more end.
    fn install_issuer_keys(&self, registry: &RegistryName, keys: &IssuerKeys) {
        let before = self.realm(registry).map(|realm| realm.keys.clone());
        self.change_realm(registry, |realm| realm.keys = keys.clone());
        for key in before.iter().flat_map(IssuerKeys::infos) {
            if !keys.knows(&key.kid) {
                self.tell(&SessionsEnd::IssuerKey { registry: registry.clone(), kid: key.kid });
            }
        }
    }

    fn plan(&self, record: &RegistryRecord) -> Plan {
        Plan {
            lead_s: self.inner.config.issuer_key_lead_s.into(),
            life_s: self.inner.config.issuer_key_life_s.into(),
            algorithm: match record.settings.issuer_algorithm {
                IssuerAlgorithm::Es256 => Algorithm::Es256,
                IssuerAlgorithm::Rs256 => Algorithm::Rs256,
                IssuerAlgorithm::EdDsa => Algorithm::EdDsa,
            },
        }
    }
}

/// Publishes a next key, in place of one that was to come.
fn prepared(
    keys: &IssuerKeys,
    made: SigningKey,
    now_s: u64,
    from_s: u64,
) -> (IssuerKeys, (&'static str, Value)) {
    let next = LiveKey { key: Arc::new(IssuerKey::new(made)), published_s: now_s, from_s };
    let detail = added(&next);
    (IssuerKeys { next: Some(next), ..keys.clone() }, ("issuer-key.add", detail))
}

/// What the audit says of a new key: all that somebody needs to check its signatures for ever.
fn added(key: &LiveKey) -> Value {
    let jwk: Value =
        serde_json::from_str(&key.key.public_key().to_published_jwk_json()).expect("a published JWK is JSON");
    json!({ "kid": key.key.kid(), "jwk": jwk, "from_s": key.from_s })
}

/// Makes a key pair; of RSA on a thread where nobody waits, since it takes up to seconds.
async fn generate(algorithm: Algorithm) -> Result<SigningKey, AdmissionError> {
    let made = match algorithm {
        Algorithm::Rs256 | Algorithm::Ps256 => {
            let making = background::run(move || SigningKey::generate(algorithm)).await;
            making.ok_or_else(|| AdmissionError::Secret("a key could not be made".to_owned()))?
        }
        _ => SigningKey::generate(algorithm),
    };
    made.map_err(|e| AdmissionError::Secret(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: u64 = 86_400;

    fn plan(life_s: u64) -> Plan {
        Plan { lead_s: DAY_S, life_s, algorithm: Algorithm::Es256 }
    }

    fn key() -> SigningKey {
        SigningKey::generate(Algorithm::Es256).expect("made")
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        let mut keys = IssuerKeys { announced: true, ..IssuerKeys::first(key(), 100) };
        keys = prepared(&keys, key(), 200, 300).0.promoted(300);
        keys = prepared(&keys, key(), 400, 500).0;
        let bytes = keys.to_bytes();
        let again = IssuerKeys::from_bytes(&bytes).expect("read");
        assert_eq!(again.infos(), keys.infos());
        assert_eq!(again.to_bytes(), bytes);
        let states: Vec<_> = keys.infos().into_iter().map(|info| info.state).collect();
        assert_eq!(states, [IssuerKeyState::Current, IssuerKeyState::Next, IssuerKeyState::Old]);
        for end in 0..bytes.len() {
            // A whole part may be missing at its border, never half of one.
            if let Ok(cut) = IssuerKeys::from_bytes(&bytes[..end]) {
                assert!(cut.infos().len() < 3);
            }
        }
        assert!(IssuerKeys::from_bytes(&[9, 0]).is_err());
    }

    #[test]
    fn an_old_key_is_kept_without_its_private_half() {
        let first = key();
        let private = first.to_pkcs8_der().to_vec();
        let keys = IssuerKeys { announced: true, ..IssuerKeys::first(first, 0) };
        let bytes = prepared(&keys, key(), 1, 2).0.promoted(2).to_bytes();
        // The secret scalar stands in the last third of a PKCS#8 file of P-256.
        let scalar = &private[36..68];
        assert!(private.windows(32).any(|part| part == scalar));
        assert!(!bytes.windows(32).any(|part| part == scalar));
    }

    #[test]
    fn the_clock_announces_prepares_promotes_and_ends_in_this_order() {
        let keys = IssuerKeys::first(key(), 0);
        assert_eq!(keys.step(0, plan(0)), Some(Step::Announce));
        let keys = IssuerKeys { announced: true, ..keys };
        assert_eq!(keys.step(1_000 * DAY_S, plan(0)), None, "0 is: never of itself");
        assert_eq!(keys.step(9 * DAY_S - 1, plan(10 * DAY_S)), None);
        assert_eq!(keys.step(9 * DAY_S, plan(10 * DAY_S)), Some(Step::Prepare(10 * DAY_S)));
        // After a long stop the key is late, but never early.
        assert_eq!(keys.step(30 * DAY_S, plan(10 * DAY_S)), Some(Step::Prepare(31 * DAY_S)));
        let keys = prepared(&keys, key(), 9 * DAY_S, 10 * DAY_S).0;
        assert_eq!(keys.step(10 * DAY_S - 1, plan(10 * DAY_S)), None);
        assert_eq!(keys.step(10 * DAY_S, plan(10 * DAY_S)), Some(Step::Promote));
        let rs = Plan { algorithm: Algorithm::Rs256, ..plan(10 * DAY_S) };
        assert_eq!(keys.step(10 * DAY_S, rs), Some(Step::Prepare(11 * DAY_S)), "of another algorithm");
        let keys = keys.promoted(10 * DAY_S);
        let end_s = 10 * DAY_S + TOKEN_LIFE_S_MAX + MARGIN_S;
        assert_eq!(keys.step(end_s - 1, plan(0)), None);
        assert_eq!(keys.step(end_s, plan(0)), Some(Step::End));
        assert_eq!(keys.accepted(end_s - 1).len(), 2);
        assert_eq!(keys.accepted(end_s).len(), 1);
    }
}
