//! A device removes one of its own keys.

use drawbridge_identity::{Candidate, KeyRemove, Refusal};
use drawbridge_names::{KeyId, RegistryName};
use drawbridge_registry::KeyState;
use serde_json::json;

use crate::issue::judge_state;
use crate::{Actor, Admission, AdmissionError, Peer, unavailable};

/// The answer to a key removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRemoved {
    /// The key, which is retired now.
    pub kid: KeyId,
    /// `false`: it had been before.
    pub changed: bool,
}

impl Admission {
    /// A device removes a key: `remove` is a `key-remove+jwt` by an active key. The key is retired at once,
    /// without grace, and what it has opened ends. `named`: the key that the request around it names.
    ///
    /// Repeating a removal whose answer was lost, by a new JWT, succeeds and changes nothing.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::LastKey`] when no other key could be used now.
    pub async fn remove_own_key(
        &self,
        registry: &RegistryName,
        remove: &str,
        named: Option<&KeyId>,
        peer: Peer,
    ) -> Result<KeyRemoved, Refusal> {
        let judged = self.judge_removal(registry, remove, named, peer);
        self.decide("key-remove", Some(registry), peer, judged).await
    }

    async fn judge_removal(
        &self,
        registry: &RegistryName,
        remove: &str,
        named: Option<&KeyId>,
        peer: Peer,
    ) -> Result<KeyRemoved, Refusal> {
        if remove.is_empty() {
            return Err(Refusal::NoCredential);
        }
        let realm = self.known_realm(registry)?;
        let presented = KeyRemove::parse(remove, self.inner.config.http_token_bytes_max)?;
        let (rules, now_s) = (self.assertion_rules(&realm), self.now_s());
        let verify = |candidate: Option<&Candidate<'_>>| {
            presented.verify(candidate, &rules, now_s, &self.inner.checker)
        };
        let (loaded, removal) = self.proven(registry, presented.claimed().as_ref(), verify).await?;
        self.charge_principal(registry, loaded.principal.uid, peer)?;
        judge_state(&loaded)?;
        let (principal, kid, signer) = (&loaded.principal, removal.kid, &removal.asserted.kid);
        if named.is_some_and(|named| *named != kid) {
            return Err(Refusal::Kind {
                found: "its `kid` is not the key that the path names".into(),
                wanted: "key removal of this key",
            });
        }
        if loaded.keys.iter().any(|key| key.kid == *signer && key.state != KeyState::Active) {
            return Err(Refusal::KeyInGrace);
        }
        let key = loaded.keys.iter().find(|key| key.kid == kid).ok_or(Refusal::NoSuchKey)?;
        if key.state == KeyState::Retired {
            self.use_up(registry, principal.uid, &removal.asserted).await?;
            return Ok(KeyRemoved { kid, changed: false });
        }
        let stays = |other: &drawbridge_identity::RingKey| {
            other.kid != kid && !other.in_grace && other.is_usable(now_s)
        };
        if !loaded.ring.keys().iter().any(stays) {
            return Err(Refusal::LastKey);
        }
        self.use_up(registry, principal.uid, &removal.asserted).await?;
        let actor = Actor::of(principal.kind, &principal.name);
        match self
            .retire(principal, &kid, false, &actor, "key.remove", json!({ "by": signer.as_str() }))
            .await
        {
            Ok(()) => Ok(KeyRemoved { kid, changed: true }),
            Err(AdmissionError::NoKey(_)) => Ok(KeyRemoved { kid, changed: false }),
            Err(AdmissionError::LastKey) => Err(Refusal::LastKey),
            Err(AdmissionError::Store(error)) => Err(unavailable(&error)),
            Err(other) => Err(Refusal::Unavailable(other.to_string())),
        }
    }
}
