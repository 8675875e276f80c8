//! The keys of a principal, as its operator registers, changes, replaces, removes and revokes them; when they
//! were last used; and the end of what they have opened.
//!
//! A retired key is kept for ever: it may never be registered again. How many a device may bring by itself is
//! bounded (`keys_kept_max`): all of them are read when it logs in, so their number is a load on the server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drawbridge_jose::{CertificateKey, PublicKey};
use drawbridge_names::{KeyId, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddKey, ChangeKey, Key, KeyChange, KeyState, Known, Principal, PrincipalChange, RemoveKey, RotateKey,
    StoreError,
};
use serde_json::{Value, json};

use crate::{Actor, Admission, AdmissionError, EndReason, SessionsEnd, kid_of};

/// Most keys whose last use is kept in memory until it is stored. Beyond, uses go unnoted.
const USED_MAX: usize = 262_144;
/// Most keys whose end is awaited. Beyond, what a key has opened ends at once instead of in its time.
const ENDING_MAX: usize = 1_048_576;
/// Most keys that are remembered as warned of.
const WARNED_MAX: usize = 65_536;
/// So many uses go to the store in one step.
const TOUCHED_AT_ONCE: usize = 1_024;
/// A key that ends within so many days is warned of.
const SOON_DAYS: u64 = 30;
const DAY_S: u64 = 86_400;
/// 9999-12-31T23:59:59Z: the `notAfter` of a certificate without an end (RFC 5280 section 4.1.2.5).
const NO_END_S: u64 = 253_402_300_799;

/// A key to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The key.
    pub public: PublicKey,
    /// A word of the operator: 1 to 64 printable ASCII characters. May stand as `kid` in a JWT.
    pub label: Option<String>,
    /// Not accepted before this second.
    pub not_before_s: Option<u64>,
    /// Not accepted from this second on.
    pub expires_s: Option<u64>,
    /// The certificate it came in, DER.
    pub certificate_der: Option<Vec<u8>>,
}

impl From<PublicKey> for NewKey {
    fn from(public: PublicKey) -> Self {
        (public, None).into()
    }
}

impl From<(PublicKey, Option<String>)> for NewKey {
    fn from((public, label): (PublicKey, Option<String>)) -> Self {
        Self { public, label, not_before_s: None, expires_s: None, certificate_der: None }
    }
}

impl From<CertificateKey> for NewKey {
    /// The key of a certificate is good as long as that is; neither of them is asked for its signature.
    fn from(certificate: CertificateKey) -> Self {
        let CertificateKey { key, der, not_before_s, not_after_s } = certificate;
        Self {
            not_before_s: (not_before_s > 0).then_some(not_before_s),
            expires_s: (not_after_s < NO_END_S).then_some(not_after_s),
            certificate_der: Some(der),
            ..key.into()
        }
    }
}

/// A key that was registered in the place of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReplaced {
    /// The new key.
    pub key: Key,
    /// The second at which the old one ends.
    pub old_expires_s: u64,
    /// `false`: it had been done before, nothing has changed.
    pub changed: bool,
}

/// Something about a key that its owner should see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyWarning {
    /// A stable word.
    pub word: &'static str,
    /// The key; `None`: all of them.
    pub kid: Option<KeyId>,
    /// What is the matter, and the mend.
    pub detail: String,
}

/// What is known of keys in this process only.
#[derive(Default)]
pub(crate) struct KeyNotes {
    /// When a key was last used, to the minute; not stored yet.
    used: Mutex<HashMap<(RegistryName, KeyId), u64>>,
    /// Keys that were given an end after they may have opened sessions, by that end.
    ending: Mutex<BTreeMap<(u64, RegistryName, KeyId), Uid>>,
    /// Keys that were warned of in the log.
    warned: Mutex<HashSet<(RegistryName, KeyId)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    /// Registers a further key of a principal; answers it and whether it is new.
    ///
    /// # Errors
    /// [`AdmissionError`] when the key belongs to another, was retired, or too many are active.
    pub async fn add_key(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        key: &PublicKey,
        label: Option<String>,
        actor: &Actor,
    ) -> Result<(Key, bool), AdmissionError> {
        self.register_key(registry, name, (key.clone(), label).into(), actor).await
    }

    /// As [`Self::add_key`], with all that can be said of a key.
    ///
    /// # Errors
    /// As [`Self::add_key`]; [`AdmissionError::KeyDates`] when it could never be used.
    pub async fn register_key(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        key: NewKey,
        actor: &Actor,
    ) -> Result<(Key, bool), AdmissionError> {
        let principal = self.known(registry, name).await?.principal;
        let key = self.key_of(key)?;
        let active_max = self.inner.config.keys_active_max;
        let audit = self.audit(actor, "key.add", name.as_str(), &key_detail(&key));
        match self.inner.store.add_key(registry, principal.uid, key.clone(), active_max, audit).await? {
            AddKey::Added => {
                self.inner.cache.principal_changed(registry, name);
                Ok((key, true))
            }
            AddKey::AlreadyThere(there) if there.state == KeyState::Active => Ok((there, false)),
            AddKey::AlreadyThere(_) | AddKey::InUse => Err(AdmissionError::KeyInUse(key.kid)),
            AddKey::TooMany { active } => Err(AdmissionError::TooManyKeys { active, active_max }),
            AddKey::NotFound => Err(AdmissionError::NoPrincipal(name.clone())),
        }
    }

    /// Registers a key in the place of another, which may still be used for `grace_s`, or until the first
    /// login with the new one; `None`: as long as the settings say; 0: it is retired at once.
    ///
    /// # Errors
    /// As [`Self::register_key`]; [`AdmissionError::KeyDates`] for a grace longer than
    /// `admission.key_grace_s`; [`AdmissionError::NoKey`] when `old` is not an active key.
    pub async fn replace_key(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        old: &KeyId,
        new: NewKey,
        grace_s: Option<u32>,
        actor: &Actor,
    ) -> Result<KeyReplaced, AdmissionError> {
        let config = &self.inner.config;
        let grace_s = grace_s.unwrap_or(config.key_grace_s);
        if grace_s > config.key_grace_s {
            // Which key replaced which is known by the grace; and a long one is a key that nobody replaced.
            let found = format!(
                "a grace of {grace_s} s is longer than `admission.key_grace_s` ({} s)",
                config.key_grace_s
            );
            return Err(AdmissionError::KeyDates(found));
        }
        let known = self.known(registry, name).await?;
        let new = self.key_of(new)?;
        let old_expires_s = self.now_s() + u64::from(grace_s);
        let mut detail = key_detail(&new);
        detail["replaces"] = json!(old.as_str());
        detail["grace_s"] = json!(grace_s);
        let audit = self.audit(actor, "key.replace", name.as_str(), &detail);
        let (uid, active_max) = (known.principal.uid, config.keys_active_max);
        let answer =
            self.inner.store.replace_key(registry, uid, old, new.clone(), old_expires_s, active_max, audit);
        match answer.await? {
            RotateKey::Rotated => {}
            RotateKey::AlreadyThere(there) if there.state == KeyState::Active => {
                let old = known.keys.iter().find(|key| key.kid == *old && key.state != KeyState::Active);
                let old = old.ok_or_else(|| AdmissionError::KeyInUse(new.kid.clone()))?;
                let old_expires_s = old.expires_s.unwrap_or(old_expires_s);
                return Ok(KeyReplaced { key: there, old_expires_s, changed: false });
            }
            RotateKey::AlreadyThere(_) | RotateKey::InUse => return Err(AdmissionError::KeyInUse(new.kid)),
            RotateKey::TooMany { active } => {
                return Err(AdmissionError::TooManyKeys { active, active_max });
            }
            RotateKey::OldNotActive => return Err(AdmissionError::NoKey(old.clone())),
            RotateKey::Seen { .. } | RotateKey::JtiFull => {
                let found = "the store judged a `jti` where there is none".to_owned();
                return Err(AdmissionError::Store(StoreError::Corrupt(found)));
            }
        }
        self.inner.cache.principal_changed(registry, name);
        let before_s = known.keys.iter().find(|key| key.kid == *old).and_then(|key| key.expires_s);
        let old_expires_s = before_s.map_or(old_expires_s, |before_s| before_s.min(old_expires_s));
        if grace_s == 0 {
            match self.retire(&known.principal, old, true, actor, "key.grace-end", json!({})).await {
                // Somebody else was quicker; it is retired all the same.
                Ok(()) | Err(AdmissionError::NoKey(_)) => {}
                Err(error) => return Err(error),
            }
        } else {
            self.await_end(registry, uid, old, old_expires_s);
        }
        Ok(KeyReplaced { key: new, old_expires_s, changed: true })
    }

    /// Changes label or validity of a key. What it has opened ends with it.
    ///
    /// # Errors
    /// [`AdmissionError::KeyDates`] for an end in the past (remove the key), and for a later end of a key
    /// in grace; [`AdmissionError::NoKey`] when there is none that is not retired.
    pub async fn change_key(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        kid: &KeyId,
        change: KeyChange,
        actor: &Actor,
    ) -> Result<Key, AdmissionError> {
        let no_key = || AdmissionError::NoKey(kid.clone());
        let known = self.known(registry, name).await?;
        let there = known.keys.iter().find(|key| key.kid == *kid && key.state != KeyState::Retired);
        let there = there.ok_or_else(no_key)?;
        let mut wanted = there.clone();
        change.clone().apply_to(&mut wanted);
        judge_label(wanted.label.as_deref())?;
        if change.not_before_s.is_some() || change.expires_s.is_some() {
            self.judge_dates(wanted.not_before_s, wanted.expires_s)?;
        }
        let end_s = |key: &Key| key.expires_s.unwrap_or(u64::MAX);
        if there.state == KeyState::Grace && end_s(&wanted) > end_s(there) {
            let found = "a key in grace was replaced; its end may come nearer, not later".to_owned();
            return Err(AdmissionError::KeyDates(found));
        }
        let detail = json!({
            "kid": kid.as_str(),
            "label": wanted.label,
            "not_before_s": wanted.not_before_s,
            "expires_s": wanted.expires_s,
        });
        let audit = self.audit(actor, "key.change", name.as_str(), &detail);
        let uid = known.principal.uid;
        let key = match self.inner.store.change_key(registry, uid, kid, change, audit).await? {
            ChangeKey::Done(key) => key,
            ChangeKey::NotFound => return Err(no_key()),
        };
        self.inner.cache.principal_changed(registry, name);
        if key.state == KeyState::Grace && there.state != KeyState::Grace {
            // It was replaced in this very moment, and the end of its grace may be the one that was overwritten.
            self.retire(&known.principal, kid, true, actor, "key.grace-end", json!({})).await?;
        } else if key.not_before_s.is_some_and(|from_s| from_s > self.now_s()) {
            self.tell_key(registry, uid, kid);
        } else if let Some(expires_s) = key.expires_s {
            self.await_end(registry, uid, kid, expires_s);
        }
        Ok(key)
    }

    /// Retires a key at once, without grace, and ends the sessions and tokens it has opened.
    ///
    /// # Errors
    /// [`AdmissionError::LastKey`] for the last active key unless `also_last`.
    pub async fn remove_key(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        kid: &KeyId,
        also_last: bool,
        actor: &Actor,
    ) -> Result<(), AdmissionError> {
        let principal = self.known(registry, name).await?.principal;
        self.retire(&principal, kid, also_last, actor, "key.remove", json!({})).await
    }

    /// The answer to a key in wrong hands: it is retired at once, also the last one, and every token and
    /// session that the principal has is dead, since whoever had the key may have opened some of them by other
    /// means. Done again after a fault it completes what was left. Answers the principal.
    ///
    /// # Errors
    /// [`AdmissionError::NoKey`] when the principal never had this key.
    pub async fn revoke_key(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        kid: &KeyId,
        reason: &str,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let known = self.known(registry, name).await?;
        let key = known.keys.iter().find(|key| key.kid == *kid);
        let key = key.ok_or_else(|| AdmissionError::NoKey(kid.clone()))?;
        let reason: String = reason.chars().take(256).collect();
        if key.state != KeyState::Retired {
            let detail = json!({ "reason": reason });
            match self.retire(&known.principal, kid, true, actor, "key.revoke", detail).await {
                Ok(()) | Err(AdmissionError::NoKey(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let change = PrincipalChange::Revoke { not_before_s: self.now_s() };
        let detail = json!({ "reason": reason, "kid": kid.as_str() });
        let changed = self.change(registry, name, change, None, actor, "principal.revoke", &detail).await?;
        self.tell_principal(&changed, EndReason::Revoked);
        Ok(changed)
    }

    /// Retires a key at once and ends what it opened; the audit calls it `action`, and says `detail` of it.
    pub(crate) async fn retire(
        &self,
        principal: &Principal,
        kid: &KeyId,
        also_last: bool,
        actor: &Actor,
        action: &str,
        mut detail: Value,
    ) -> Result<(), AdmissionError> {
        let Principal { registry, uid, name, .. } = principal;
        detail["kid"] = json!(kid.as_str());
        let audit = self.audit(actor, action, name.as_str(), &detail);
        match self.inner.store.remove_key(registry, *uid, kid, also_last, audit).await? {
            RemoveKey::Removed => {}
            RemoveKey::NotFound => return Err(AdmissionError::NoKey(kid.clone())),
            RemoveKey::LastKey => return Err(AdmissionError::LastKey),
        }
        self.inner.cache.principal_changed(registry, name);
        self.tell_key(registry, *uid, kid);
        Ok(())
    }

    fn tell_key(&self, registry: &RegistryName, uid: Uid, kid: &KeyId) {
        self.tell_gateway(registry, uid);
        self.tell(&SessionsEnd::Key { registry: registry.clone(), uid, kid: kid.clone() });
    }

    /// The record of a key that is to be registered.
    pub(crate) fn key_of(&self, key: NewKey) -> Result<Key, AdmissionError> {
        judge_label(key.label.as_deref())?;
        self.judge_dates(key.not_before_s, key.expires_s)?;
        Ok(Key {
            kid: kid_of(&key.public),
            spki_der: key.public.spki_der().to_vec(),
            algorithm: key.public.algorithm().name().to_owned(),
            label: key.label,
            state: KeyState::Active,
            not_before_s: key.not_before_s,
            expires_s: key.expires_s,
            added_s: self.now_s(),
            last_used_s: None,
            certificate_der: key.certificate_der,
        })
    }

    fn judge_dates(&self, not_before_s: Option<u64>, expires_s: Option<u64>) -> Result<(), AdmissionError> {
        let Some(expires_s) = expires_s else { return Ok(()) };
        if expires_s <= self.now_s() {
            return Err(AdmissionError::KeyDates("it would have ended already".to_owned()));
        }
        if not_before_s.is_some_and(|from_s| expires_s <= from_s) {
            return Err(AdmissionError::KeyDates("it would end before it begins".to_owned()));
        }
        Ok(())
    }

    /// Notes that a key has logged somebody in just now.
    pub fn used(&self, registry: &RegistryName, kid: &KeyId) {
        let now_s = self.now_s() / 60 * 60;
        let mut used = locked(&self.inner.key_notes.used);
        if used.len() < USED_MAX {
            used.insert((registry.clone(), kid.clone()), now_s);
        } else if let Some(last_s) = used.get_mut(&(registry.clone(), kid.clone())) {
            *last_s = now_s;
        }
    }

    /// With the last use of each key as it is known here, or stored, whichever is later.
    #[must_use]
    pub fn with_last_used(&self, mut known: Known) -> Known {
        let used = locked(&self.inner.key_notes.used);
        if !used.is_empty() {
            for key in &mut known.keys {
                let noted_s = used.get(&(known.principal.registry.clone(), key.kid.clone())).copied();
                key.last_used_s = key.last_used_s.max(noted_s);
            }
        }
        known
    }

    /// Stores when keys were last used. What cannot be stored now is stored the next time.
    pub async fn maintain_last_used(&self) {
        let noted = std::mem::take(&mut *locked(&self.inner.key_notes.used));
        let mut by_registry: BTreeMap<RegistryName, Vec<(KeyId, u64)>> = BTreeMap::new();
        for ((registry, kid), used_s) in noted {
            by_registry.entry(registry).or_default().push((kid, used_s));
        }
        for (registry, used) in by_registry {
            for some in used.chunks(TOUCHED_AT_ONCE) {
                if let Err(error) = self.inner.store.touch_keys(&registry, some.to_vec()).await {
                    tracing::warn!(%registry, keys = some.len(), "the last use of keys was not stored: {error}");
                    let mut later = locked(&self.inner.key_notes.used);
                    for (kid, used_s) in some {
                        later.entry((registry.clone(), kid.clone())).or_insert(*used_s);
                    }
                }
            }
        }
    }

    /// A key that may have opened sessions was given an end: they end with it.
    pub(crate) fn await_end(&self, registry: &RegistryName, uid: Uid, kid: &KeyId, end_s: u64) {
        let mut ending = locked(&self.inner.key_notes.ending);
        if ending.len() < ENDING_MAX {
            ending.insert((end_s, registry.clone(), kid.clone()), uid);
            return;
        }
        drop(ending);
        self.tell_key(registry, uid, kid);
    }

    /// Ends the sessions of keys whose end has come since the last time.
    pub async fn maintain_keys(&self) {
        loop {
            let now_s = self.now_s();
            let due = {
                let mut ending = locked(&self.inner.key_notes.ending);
                match ending.first_entry() {
                    Some(first) if first.key().0 <= now_s => Some(first.remove_entry()),
                    _ => None,
                }
            };
            let Some(((_, registry, kid), uid)) = due else { return };
            // It may have been given a later end meanwhile. Who cannot be asked is taken for ended.
            let known = self.inner.store.known_by_uid(&registry, uid).await.ok().flatten();
            let key = known.and_then(|known| known.keys.into_iter().find(|key| key.kid == kid));
            match key.filter(|key| key.state != KeyState::Retired).map(|key| key.expires_s) {
                Some(None) => {}
                Some(Some(end_s)) if end_s > now_s => self.await_end(&registry, uid, &kid, end_s),
                _ => self.tell_key(&registry, uid, &kid),
            }
        }
    }

    /// What the owner of a principal should see to.
    ///
    /// # Errors
    /// [`AdmissionError::Store`].
    pub async fn key_warnings(&self, known: &Known) -> Result<Vec<KeyWarning>, AdmissionError> {
        let (principal, now_s) = (&known.principal, self.now_s());
        let mut warnings = Vec::new();
        if principal.legacy_assertions {
            let detail = "IoT IdP JWTs without `aud` and `exp` are accepted of this device; switch that off \
                          when its firmware can do without";
            warnings.push(KeyWarning { word: "legacy-assertions", kid: None, detail: detail.to_owned() });
        }
        let usable = |key: &Key| {
            key.state != KeyState::Retired
                && key.not_before_s.is_none_or(|from_s| from_s <= now_s)
                && key.expires_s.is_none_or(|end_s| now_s < end_s)
        };
        if !known.keys.is_empty() && !known.keys.iter().any(usable) {
            let detail = "no key of this principal can be used now; register one".to_owned();
            warnings.push(KeyWarning { word: "no-usable-key", kid: None, detail });
        }
        for key in known.keys.iter().filter(|key| usable(key)) {
            let kid = Some(key.kid.clone());
            let left_days = key.expires_s.map(|end_s| (end_s - now_s) / DAY_S);
            if let Some(days) = left_days.filter(|days| key.state == KeyState::Active && *days < SOON_DAYS) {
                let detail = format!("this key ends in {days} days; replace it before");
                warnings.push(KeyWarning { word: "key-expires-soon", kid: kid.clone(), detail });
            }
            if principal.legacy_assertions {
                let used = self.inner.store.lasting_jti(&principal.registry, &key.kid).await?;
                if let Some(word) = self.jti_word(used) {
                    let most = self.inner.config.legacy_jti_max;
                    let detail = format!(
                        "{used} of {most} `jti` without an end are used up; the device has to replace this key"
                    );
                    warnings.push(KeyWarning { word, kid, detail });
                }
            }
        }
        Ok(warnings)
    }

    fn jti_word(&self, used: u64) -> Option<&'static str> {
        let most = self.inner.config.legacy_jti_max as u64;
        if used >= most {
            return Some("jti-exhausted");
        }
        (used.saturating_mul(2) >= most).then_some("jti-half-used")
    }

    /// Warns in the log, once a key, when half of the `jti` without an end that it may have are used up.
    pub(crate) async fn warn_of_lasting_jti(&self, registry: &RegistryName, uid: Uid, kid: &KeyId) {
        let noted = (registry.clone(), kid.clone());
        if locked(&self.inner.key_notes.warned).contains(&noted) {
            return;
        }
        // A login that is good otherwise does not fail for want of a warning.
        let used = self.inner.store.lasting_jti(registry, kid).await.unwrap_or(0);
        let Some(word) = self.jti_word(used) else { return };
        let most = self.inner.config.legacy_jti_max;
        tracing::warn!(%registry, %uid, %kid, word, used, most, "`jti` without an end: the device has to replace its key");
        let mut warned = locked(&self.inner.key_notes.warned);
        if warned.len() >= WARNED_MAX {
            warned.clear();
        }
        warned.insert(noted);
    }
}

fn key_detail(key: &Key) -> Value {
    json!({
        "kid": key.kid.as_str(),
        "label": key.label,
        "not_before_s": key.not_before_s,
        "expires_s": key.expires_s,
        "certificate": key.certificate_der.is_some(),
    })
}

fn judge_label(label: Option<&str>) -> Result<(), AdmissionError> {
    let is_label = |text: &str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
    };
    if label.is_none_or(is_label) { Ok(()) } else { Err(AdmissionError::Label) }
}
