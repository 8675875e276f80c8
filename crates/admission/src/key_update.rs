//! A device replaces its own key.

use std::sync::Arc;

use drawbridge_identity::{
    Asserted, Candidate, KeyUpdate, LegacyUpdate, Refusal, verify_legacy_pop, verify_pop,
};
use drawbridge_jose::PublicKey;
use drawbridge_names::{KeyId, RegistryName};
use drawbridge_registry::{JtiOutcome, Key, KeyRotation, KeyState, RotateKey};

use crate::cache::Loaded;
use crate::issue::judge_state;
use crate::{Actor, Admission, Peer, kid_of, unavailable};

/// The answer to a key update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUpdated {
    /// The new key, which is active now.
    pub kid: KeyId,
    /// The replaced key and the second at which it ends; `None` when nothing was replaced.
    pub previous: Option<(KeyId, u64)>,
    /// `false`: the key was registered by this device before, and nothing has changed.
    pub changed: bool,
}

impl Admission {
    /// A device registers a new key: `update` is a `key-update+jwt` by an active key, `pop` a
    /// `key-pop+jwt` by the new one. `retire_old`: the old key goes into grace, else it stays active.
    ///
    /// Repeating an update whose answer was lost succeeds and changes nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn update_key(
        &self,
        registry: &RegistryName,
        update: &str,
        pop: &str,
        retire_old: bool,
        peer: Peer,
    ) -> Result<KeyUpdated, Refusal> {
        let judged = self.judge_update(registry, update, pop, retire_old, peer);
        self.decide("key-update", Some(registry), peer, judged).await
    }

    async fn judge_update(
        &self,
        registry: &RegistryName,
        update: &str,
        pop: &str,
        retire_old: bool,
        peer: Peer,
    ) -> Result<KeyUpdated, Refusal> {
        if update.is_empty() {
            return Err(Refusal::NoCredential);
        }
        let realm = self.known_realm(registry)?;
        let presented = KeyUpdate::parse(update, self.inner.config.http_token_bytes_max)?;
        let (rules, now_s) = (self.assertion_rules(&realm), self.now_s());
        let verify = |candidate: Option<&Candidate<'_>>| {
            presented.verify(candidate, &rules, now_s, &self.inner.checker)
        };
        let (loaded, updated) = self.proven(registry, presented.claimed().as_ref(), verify).await?;
        self.charge_principal(registry, loaded.principal.uid, peer)?;
        judge_state(&loaded)?;
        verify_pop(pop, update, &updated.new_key, &rules, updated.dates, now_s, &self.inner.checker)?;
        self.rotate(registry, &loaded, &updated.asserted, &updated.new_key, retire_old).await
    }

    /// A device replaces its key by an IoT IdP update JWT, on the alias path.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::LegacyNotAllowed`] for a device that is not marked for it.
    pub async fn legacy_update_key(
        &self,
        registry: &RegistryName,
        update: &str,
        pop: &str,
        peer: Peer,
    ) -> Result<KeyUpdated, Refusal> {
        let judged = self.judge_legacy_update(registry, update, pop, peer);
        self.decide("legacy-key-update", Some(registry), peer, judged).await
    }

    async fn judge_legacy_update(
        &self,
        registry: &RegistryName,
        update: &str,
        pop: &str,
        peer: Peer,
    ) -> Result<KeyUpdated, Refusal> {
        if update.is_empty() {
            return Err(Refusal::NoCredential);
        }
        let realm = self.known_realm(registry)?;
        let presented = LegacyUpdate::parse(update, self.inner.config.http_token_bytes_max)?;
        let (rules, now_s) = (self.assertion_rules(&realm), self.now_s());
        let verify = |candidate: Option<&Candidate<'_>>| {
            presented.verify(candidate, &rules, now_s, &self.inner.checker)
        };
        let (loaded, updated) = self.proven(registry, presented.claimed().as_ref(), verify).await?;
        self.charge_principal(registry, loaded.principal.uid, peer)?;
        judge_state(&loaded)?;
        let form = verify_legacy_pop(pop, update, &updated.new_key, &self.inner.checker)?;
        tracing::debug!(device = %loaded.principal.name, ?form, "legacy proof of possession");
        self.rotate(registry, &loaded, &updated.asserted, &updated.new_key, true).await
    }

    /// Both JWTs are good: replace the key, or find that it was replaced before.
    async fn rotate(
        &self,
        registry: &RegistryName,
        loaded: &Arc<Loaded>,
        asserted: &Asserted,
        new_key: &PublicKey,
        retire_old: bool,
    ) -> Result<KeyUpdated, Refusal> {
        let (principal, now_s, config) = (&loaded.principal, self.now_s(), &self.inner.config);
        let new_kid = kid_of(new_key);
        let signer = loaded.keys.iter().find(|key| key.kid == asserted.kid).ok_or(Refusal::KeyGone)?;
        if signer.state != KeyState::Active || signer.kid == new_kid {
            return self.repeat(registry, loaded, asserted, signer, &new_kid).await;
        }
        let is_new = loaded.keys.iter().all(|key| key.kid != new_kid);
        if is_new && loaded.keys.len() >= config.keys_kept_max {
            return Err(Refusal::KeysSpent { kept_max: config.keys_kept_max });
        }
        // Those that were replaced and are still good count as well: each is one more key that may log in.
        let in_grace = loaded.ring.keys().iter().filter(|key| key.in_grace && key.is_usable(now_s)).count();
        if is_new && retire_old && in_grace >= config.keys_active_max {
            return Err(Refusal::TooManyKeys { active_max: config.keys_active_max });
        }
        let grace_end_s = now_s + u64::from(config.key_grace_s);
        let rotation = KeyRotation {
            old: asserted.kid.clone(),
            new: Key {
                kid: new_kid.clone(),
                spki_der: new_key.spki_der().to_vec(),
                algorithm: new_key.algorithm().name().to_owned(),
                label: None,
                state: KeyState::Active,
                not_before_s: None,
                expires_s: None,
                added_s: now_s,
                last_used_s: None,
                certificate_der: None,
            },
            old_expires_s: retire_old.then_some(grace_end_s),
            mark: self.mark_of(asserted),
            active_max: config.keys_active_max,
        };
        let detail = serde_json::json!({ "old": asserted.kid.as_str(), "new": new_kid.as_str(), "retire": retire_old });
        let actor = Actor::of(principal.kind, &principal.name);
        let audit = self.audit(&actor, "key.update", principal.name.as_str(), &detail);
        let answer = self.inner.store.rotate_key(registry, principal.uid, rotation, now_s, audit).await;
        match answer.map_err(|error| unavailable(&error))? {
            RotateKey::Rotated => {
                self.inner.cache.principal_changed(registry, &principal.name);
                let end_s = signer.expires_s.map_or(grace_end_s, |end_s| end_s.min(grace_end_s));
                if retire_old {
                    self.await_end(registry, principal.uid, &asserted.kid, end_s);
                }
                let previous = retire_old.then(|| (asserted.kid.clone(), end_s));
                Ok(KeyUpdated { kid: new_kid, previous, changed: true })
            }
            RotateKey::Seen { token_digest } => {
                // What was loaded may be older than the first arrival of this very update: look again.
                self.inner.cache.principal_changed(registry, &principal.name);
                let now = self.candidate(registry, Some(&principal.name)).await?.ok_or(Refusal::KeyGone)?;
                if token_digest != asserted.token.0 {
                    return Err(Refusal::Replay);
                }
                unchanged(&now, &asserted.kid, &new_kid).ok_or(Refusal::Replay)
            }
            RotateKey::AlreadyThere(key) if key.state == KeyState::Active => {
                // The same key asked for once more, by a new JWT: use that up, and change nothing.
                self.use_up(registry, principal.uid, asserted).await?;
                Ok(KeyUpdated { kid: new_kid, previous: None, changed: false })
            }
            RotateKey::AlreadyThere(_) | RotateKey::InUse => Err(Refusal::KeyInUse),
            RotateKey::JtiFull => Err(Refusal::JtiFull { for_life: asserted.until_s.is_none() }),
            RotateKey::TooMany { .. } => Err(Refusal::TooManyKeys { active_max: config.keys_active_max }),
            RotateKey::OldNotActive => Err(Refusal::KeyGone),
        }
    }

    /// An update whose answer was lost: repeated by the key in grace, or asked for by the new key itself.
    async fn repeat(
        &self,
        registry: &RegistryName,
        loaded: &Loaded,
        asserted: &Asserted,
        signer: &Key,
        new_kid: &KeyId,
    ) -> Result<KeyUpdated, Refusal> {
        let answer = unchanged(loaded, &signer.kid, new_kid).filter(|_| {
            let replaced_by = |key: &Key| {
                let grace_s = u64::from(self.inner.config.key_grace_s);
                signer.expires_s.is_some_and(|end_s| key.added_s + grace_s >= end_s)
            };
            signer.kid == *new_kid || loaded.keys.iter().any(|key| key.kid == *new_kid && replaced_by(key))
        });
        let answer = answer.ok_or(Refusal::KeyInGrace)?;
        let outcome = self.inner.store.remember_jti(
            registry,
            loaded.principal.uid,
            self.mark_of(asserted),
            self.now_s(),
        );
        match outcome.await.map_err(|error| unavailable(&error))? {
            JtiOutcome::Fresh => Ok(answer),
            JtiOutcome::Seen { token_digest } if token_digest == asserted.token.0 => Ok(answer),
            JtiOutcome::Seen { .. } => Err(Refusal::Replay),
            JtiOutcome::Full => Err(Refusal::JtiFull { for_life: asserted.until_s.is_none() }),
            JtiOutcome::KeyGone => Err(Refusal::KeyGone),
        }
    }
}

/// The answer of an update that is done already, if the new key is registered and active.
fn unchanged(loaded: &Loaded, old: &KeyId, new: &KeyId) -> Option<KeyUpdated> {
    loaded.keys.iter().find(|key| key.kid == *new && key.state == KeyState::Active)?;
    let old = loaded.keys.iter().find(|key| key.kid == *old && key.state == KeyState::Grace);
    let previous = old.and_then(|key| key.expires_s.map(|end_s| (key.kid.clone(), end_s)));
    Some(KeyUpdated { kid: new.clone(), previous, changed: false })
}
