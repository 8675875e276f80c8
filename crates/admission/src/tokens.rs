//! Access tokens as they are presented: signed or opaque, read in one place. And their end before their time.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use drawbridge_identity::{AccessClaims, AccessToken, NotProven, Refusal};
use drawbridge_jose::{Claims, base64url_encode, sha256};
use drawbridge_names::{KeyId, RegistryName, Uid};
use drawbridge_registry::{KeptToken, TokenUse};
use zeroize::Zeroizing;

use crate::admin_token::{OPAQUE_TOKEN_PREFIX, with_checksum};
use crate::issue::TOKEN_LIFE_S_MAX;
use crate::registries::Realm;
use crate::{Admission, SessionsEnd, unavailable};

/// An access token without the token: what a session remembers of the one that opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMark {
    /// Tells the token: of a signed one the first 16 bytes of SHA-256 of its `jti`, of an opaque one its
    /// family, which is the same after each renewal.
    pub token: [u8; 16],
    /// The issuer's key that signed it; `None`: it is opaque.
    pub issuer_kid: Option<KeyId>,
    /// The gateway that acts for the principal.
    pub gateway: Option<Uid>,
}

/// An access token that was read: it is this issuer's, and neither ended nor revoked.
pub(crate) struct ReadToken {
    pub(crate) realm: Arc<Realm>,
    pub(crate) claims: AccessClaims,
    pub(crate) mark: TokenMark,
    /// Of an opaque one, its record.
    pub(crate) kept: Option<KeptToken>,
}

/// Tokens that were revoked before their end, each with it: the signed ones that the store knows, and the
/// opaque families that ended since the start, for whoever is just being let in by one.
#[derive(Debug, Default)]
pub(crate) struct RevokedJtis(RwLock<HashMap<[u8; 16], u64>>);

impl RevokedJtis {
    pub(crate) fn of(revoked: Vec<([u8; 16], u64)>) -> Self {
        Self(RwLock::new(revoked.into_iter().collect()))
    }

    pub(crate) fn contains(&self, token: &[u8; 16]) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(token)
    }

    /// Takes over what another server of the same store has revoked, and forgets what has ended by itself: once
    /// a minute, not with every revocation, for it passes by all of them.
    pub(crate) fn refresh(&self, stored: Vec<([u8; 16], u64)>, now_s: u64) {
        let mut revoked = self.0.write().unwrap_or_else(PoisonError::into_inner);
        revoked.retain(|_, until_s| *until_s > now_s);
        revoked.extend(stored);
    }

    fn insert(&self, token: [u8; 16], until_s: u64) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(token, until_s);
    }
}

/// By which token an opaque one was renewed, for as long as its chain may last. The store forgets a renewed token
/// after its 30 s; that it comes back later says all the same that two have it. In memory, so not across a
/// restart.
#[derive(Debug, Default)]
pub(crate) struct RenewedTokens(RwLock<HashMap<TokenDigest, (TokenDigest, u64)>>);

type TokenDigest = [u8; 32];

/// How many renewals of a registry are remembered; of more, only those that the store still knows.
const RENEWED_MAX: usize = 65_536;

impl RenewedTokens {
    /// `old` was renewed by `new`; remembered until `until_s`.
    pub(crate) fn insert(&self, old: [u8; 32], new: [u8; 32], until_s: u64, now_s: u64) {
        let mut renewed = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if renewed.len() >= RENEWED_MAX {
            renewed.retain(|_, (_, until_s)| *until_s > now_s);
        }
        if renewed.len() < RENEWED_MAX {
            renewed.insert(old, (new, until_s));
        }
    }

    /// The newest token of the chain, and whether it is the direct successor; `None`: this one was not renewed,
    /// as far as is known.
    fn newest(&self, old: &[u8; 32]) -> Option<([u8; 32], bool)> {
        let renewed = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (mut newest, mut direct) = (renewed.get(old)?.0, true);
        while let Some((newer, _)) = renewed.get(&newest) {
            (newest, direct) = (*newer, false);
        }
        Some((newest, direct))
    }
}

/// The first 16 bytes of SHA-256.
pub(crate) fn short_digest(text: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&sha256(text.as_bytes())[..16]);
    short
}

/// Whether a text has the form of an opaque token, its checksum included: what has not is nobody's, and the
/// store need not be asked.
fn is_opaque_token(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(OPAQUE_TOKEN_PREFIX) else { return false };
    rest.len() == 49 && rest.is_char_boundary(43) && with_checksum(OPAQUE_TOKEN_PREFIX, &rest[..43]) == text
}

impl Admission {
    /// A new opaque token.
    pub(crate) fn draw_opaque(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.inner.random.fill(&mut *bytes);
        Zeroizing::new(with_checksum(OPAQUE_TOKEN_PREFIX, &base64url_encode(&*bytes)))
    }

    /// Reads an access token of either form. `registry`: the one meant, where the path or the listener says
    /// so; an opaque token says nothing of it and is looked for there, or in `default`.
    ///
    /// # Errors
    /// [`Refusal::NotProven`] for what this issuer did not issue, and for an opaque token that has ended;
    /// [`Refusal::TokenGone`] for one that was revoked.
    pub(crate) async fn read_token(
        &self,
        registry: Option<&RegistryName>,
        text: &str,
        bytes_max: usize,
    ) -> Result<ReadToken, Refusal> {
        if text.starts_with(OPAQUE_TOKEN_PREFIX) {
            let default = RegistryName::default_registry();
            let realm = self.known_realm(registry.unwrap_or(&default))?;
            let read = self.presented_opaque(realm, text).await?;
            self.note_use(&read).await?;
            return Ok(read);
        }
        let token = AccessToken::parse(text.as_bytes(), bytes_max)?;
        self.read_signed(registry, &token)
    }

    /// As [`Self::read_token`], for a JWT that was parsed.
    pub(crate) fn read_signed(
        &self,
        registry: Option<&RegistryName>,
        token: &AccessToken<'_>,
    ) -> Result<ReadToken, Refusal> {
        let unknown = || Refusal::NotProven(NotProven::UnknownIssuer);
        let realm = token.issuer().and_then(|issuer| self.realm_of_issuer(issuer)).ok_or_else(unknown)?;
        if registry.is_some_and(|wanted| *wanted != realm.record.name) {
            return Err(unknown());
        }
        let now_s = self.now_s();
        let keys = realm.keys.accepted(now_s);
        let claims = token.verify(&realm.record.issuer, &keys, now_s, &self.inner.checker)?;
        let mark = TokenMark {
            token: short_digest(&claims.jti),
            issuer_kid: token.kid().and_then(|kid| KeyId::parse(kid).ok()),
            gateway: claims.actor.as_ref().map(|actor| actor.uid),
        };
        if realm.revoked.contains(&mark.token) {
            return Err(Refusal::TokenGone);
        }
        Ok(ReadToken { realm, claims, mark, kept: None })
    }

    /// Finds an opaque token that its holder presents. One that was renewed and is forgotten since ends its
    /// chain when its successor was used: whoever comes with it, or whoever has renewed it, has stolen it.
    pub(crate) async fn presented_opaque(&self, realm: Arc<Realm>, text: &str) -> Result<ReadToken, Refusal> {
        let found = self.read_opaque(Arc::clone(&realm), text).await;
        if !matches!(found, Err(Refusal::NotProven(_))) {
            return found;
        }
        let Some((newest, direct)) = realm.renewed.newest(&sha256(text.as_bytes())) else { return found };
        let kept = self.inner.store.token(&realm.record.name, &newest, self.now_s()).await;
        let Some(kept) = kept.map_err(|error| unavailable(&error))? else { return found };
        // Its answer was lost, and the device comes too late.
        if direct && !kept.used {
            return found;
        }
        let read = Self::kept_opaque(realm, kept)?;
        tracing::warn!(
            name = %read.claims.subject,
            "a token that was renewed long ago was presented: it or its successor was stolen, all are ended"
        );
        self.end_token(&read).await?;
        Err(Refusal::TokenGone)
    }

    /// Finds an opaque token, without noting that it was presented.
    pub(crate) async fn read_opaque(&self, realm: Arc<Realm>, text: &str) -> Result<ReadToken, Refusal> {
        let unknown = || Refusal::NotProven(NotProven::UnknownToken);
        if !is_opaque_token(text) {
            return Err(unknown());
        }
        let found = self.inner.store.token(&realm.record.name, &sha256(text.as_bytes()), self.now_s()).await;
        Self::kept_opaque(realm, found.map_err(|error| unavailable(&error))?.ok_or_else(unknown)?)
    }

    fn kept_opaque(realm: Arc<Realm>, kept: KeptToken) -> Result<ReadToken, Refusal> {
        let claims = Claims::from_json(kept.claims.as_bytes())
            .map_err(|_| Refusal::Unavailable("the record of a token cannot be read".to_owned()))?;
        let claims = AccessClaims::from_claims(&claims, &realm.record.issuer)?;
        let gateway = claims.actor.as_ref().map(|actor| actor.uid);
        let mark = TokenMark { token: kept.family, issuer_kid: None, gateway };
        Ok(ReadToken { realm, claims, mark, kept: Some(kept) })
    }

    /// Notes that an opaque token was presented. A use after the use of its successor ends both.
    pub(crate) async fn note_use(&self, read: &ReadToken) -> Result<(), Refusal> {
        let Some(kept) = read.kept.as_ref().filter(|kept| !kept.used || kept.renewed) else { return Ok(()) };
        let registry = &read.realm.record.name;
        let used = self.inner.store.use_token(registry, &kept.digest, self.now_s()).await;
        self.judge_use(read, used.map_err(|error| unavailable(&error))?).map(drop)
    }

    pub(crate) fn judge_use(&self, read: &ReadToken, used: TokenUse) -> Result<KeptToken, Refusal> {
        match used {
            TokenUse::Good(kept) => Ok(kept),
            TokenUse::Gone => Err(Refusal::NotProven(NotProven::UnknownToken)),
            TokenUse::Stolen => {
                tracing::warn!(
                    name = %read.claims.subject,
                    "a renewed token was presented after its successor: one of them was stolen, both are ended"
                );
                self.token_ended(read);
                Err(Refusal::TokenGone)
            }
        }
    }

    /// Ends a token before its time, and the sessions that it has opened.
    pub(crate) async fn end_token(&self, read: &ReadToken) -> Result<(), Refusal> {
        let (registry, now_s) = (&read.realm.record.name, self.now_s());
        let done = match &read.kept {
            Some(kept) => self.inner.store.end_token(registry, &kept.digest, now_s).await.map(drop),
            None => self.inner.store.revoke_jti(registry, read.mark.token, read.claims.expires_s).await,
        };
        done.map_err(|error| unavailable(&error))?;
        self.token_ended(read);
        Ok(())
    }

    /// The token is dead in the store: whoever is being let in by it comes again, whoever was let in goes.
    fn token_ended(&self, read: &ReadToken) {
        let (registry, claims) = (&read.realm.record.name, &read.claims);
        // A family may live on for a day after its login.
        let until_s = claims.expires_s.max(claims.issued_s + TOKEN_LIFE_S_MAX);
        read.realm.revoked.insert(read.mark.token, until_s);
        self.tell(&SessionsEnd::Token {
            registry: registry.clone(),
            uid: claims.uid,
            token: read.mark.token,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opaque_token_has_its_prefix_43_characters_and_their_checksum() {
        let good = with_checksum(OPAQUE_TOKEN_PREFIX, &base64url_encode(&[7; 32]));
        assert!(is_opaque_token(&good));
        for bad in ["", "dbo_", "dbo_x", &good[1..], &good[..52], &format!("{good}x")] {
            assert!(!is_opaque_token(bad), "{bad}");
        }
        for at in 4..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(!is_opaque_token(&String::from_utf8(changed).expect("ASCII")), "{at}");
        }
        assert!(!is_opaque_token(&format!("dbo_{}", "ä".repeat(24))), "no boundary at 43");
    }

    #[test]
    fn revoked_tokens_are_forgotten_after_their_end() {
        let revoked = RevokedJtis::of(vec![([1; 16], 10)]);
        assert!(revoked.contains(&[1; 16]));
        revoked.insert([2; 16], 20);
        revoked.refresh(vec![([3; 16], 30)], 10);
        assert!(!revoked.contains(&[1; 16]) && revoked.contains(&[2; 16]) && revoked.contains(&[3; 16]));
    }
}
