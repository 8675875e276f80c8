//! Tokens by RFC 9431: issued with a key, read in each of their forms, their keys found, and kept when they come
//! before their client (`authz-info`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError, RwLock};

use drawbridge_identity::ace::{
    AceFault, AsHint, Cwt, PopKey, RequestedKey, SealedKey, SymmetricKey, TokenForm, judge_pop_algorithm,
    seal_as_cose, seal_as_jwe,
};
use drawbridge_identity::{AccessClaims, AccessToken, Confirmation, NoncePurpose, NotProven, Refusal};
use drawbridge_jose::PublicKey;
use drawbridge_names::{KeyId, RegistryName};

use crate::admin_token::OPAQUE_TOKEN_PREFIX;
use crate::cache::Loaded;
use crate::client::Client;
use crate::client_id;
use crate::connect::{ConnectRequest, Verdict};
use crate::issue::{Issuance, Issued, PopIssuance, PopKeyWanted};
use crate::login::LoginRequest;
use crate::registries::Realm;
use crate::tokens::{ReadToken, TokenMark, short_digest};
use crate::{Admission, Peer, TokenGrant};

/// So long a token of `authz-info` waits for its client, in seconds; once the client has come, it is kept to its
/// end.
const UNUSED_S_MAX: u64 = 600;
/// Bytes of memory for each token that may be kept, on average.
const KEPT_BYTES: usize = 1024;

/// What a request by RFC 9200 asks for beyond a login. Its token is always for the bridge.
#[derive(Clone, Copy, Default)]
pub struct AceLogin<'a> {
    /// `req_cnf`; `None`: the server makes a symmetric key.
    pub requested_key: Option<&'a RequestedKey>,
    /// `cnonce`, to be copied into the token.
    pub cnonce: Option<&'a str>,
    /// The token shall be a CWT, unless tokens of this registry or policy are opaque.
    pub cwt: bool,
}

/// A token by RFC 9431.
pub struct AceGrant {
    /// As for every login. [`TokenGrant::access_token`] of a CWT is base64url of its bytes.
    pub grant: TokenGrant,
    /// The bytes of a CWT. A secret.
    pub cwt: Option<Vec<u8>>,
    /// The key that was made for the client, to be told this once.
    pub symmetric: Option<SymmetricKey>,
    /// The public key that the broker authenticates with (`rs_cnf`), if it has one.
    pub broker_key: Option<PublicKey>,
}

impl std::fmt::Debug for AceGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AceGrant").field("grant", &self.grant).finish_non_exhaustive()
    }
}

/// What is known here beside the records.
#[derive(Debug, Default)]
pub(crate) struct Ace {
    kept: KeptTokens,
    broker_key: RwLock<Option<PublicKey>>,
}

impl Admission {
    /// The public key that the broker authenticates with in TLS, from now on; `None` when it has several, of which
    /// nobody knows which one a client will meet.
    ///
    /// Source: RFC 9201 section 3.2 (`rs_cnf`).
    pub fn set_broker_key(&self, key: Option<PublicKey>) {
        *self.inner.ace.broker_key.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// A principal logs in by one credential and gets a token that is bound to a key for proofs in MQTT. A key that
    /// is not registered for it must be proven by the DPoP proof of the request.
    ///
    /// # Errors
    /// [`Refusal`]; [`AceFault::Key`] for a key that cannot be one.
    ///
    /// Source: RFC 9200 section 5.8, RFC 9201 section 3, RFC 9431 section 2.1.
    pub async fn ace_login(
        &self,
        registry: &RegistryName,
        request: LoginRequest<'_>,
        ace: AceLogin<'_>,
    ) -> Result<AceGrant, Refusal> {
        let judged = self.judge_ace_login(registry, &request, &ace);
        let Issued { grant, symmetric, cwt } =
            self.decide("ace-login", Some(registry), request.peer, judged).await?;
        self.note_issued("ace-login", registry, request.peer, &grant);
        let broker_key = self.inner.ace.broker_key.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(AceGrant { grant, cwt, symmetric, broker_key })
    }

    async fn judge_ace_login(
        &self,
        registry: &RegistryName,
        request: &LoginRequest<'_>,
        ace: &AceLogin<'_>,
    ) -> Result<Issued, Refusal> {
        let realm = self.known_realm(registry)?;
        let client = self.client(&realm, &request.credential, request.client_id).await?;
        self.charge_principal(registry, client.loaded.principal.uid, request.peer)?;
        let bridge = &realm.record.bridge_audience;
        if request.resource.is_some_and(|found| !found.is_empty() && found != bridge) {
            return Err(Refusal::Target { wanted: format!("`{bridge}`") });
        }
        let key = self.judge_requested_key(&realm, request, ace, &client)?;
        let name = client.loaded.principal.name.clone();
        let issuance = Issuance { scope: request.scope, ..Issuance::of(&client, name.as_str()) };
        let pop = PopIssuance { key, cnonce: ace.cnonce, cwt: ace.cwt };
        self.issue_bound(&realm, issuance, Some(pop)).await
    }

    /// RFC 9201 section 3.1: the server must know that the client possesses the key.
    fn judge_requested_key(
        &self,
        realm: &Realm,
        request: &LoginRequest<'_>,
        ace: &AceLogin<'_>,
        client: &Client,
    ) -> Result<PopKeyWanted, Refusal> {
        let (loaded, now_s) = (&client.loaded, self.now_s());
        let unusable = |found: &str| Refusal::from(AceFault::Key(found.to_owned()));
        let registered = |kid: &KeyId| loaded.ring.usable(kid, now_s).map(|key| &key.public);
        let proven = match &request.binding.dpop {
            Some(_) => self.confirmation(realm, &request.binding, client)?,
            None => None,
        };
        let is_proven = |key: &PublicKey| matches!(&proven, Some(Confirmation::Key(thumbprint)) if thumbprint == key.thumbprint());
        let (confirmation, key) = match ace.requested_key {
            None if proven.is_some() => {
                return Err(unusable("a DPoP proof came, and no `req_cnf` with its key"));
            }
            None => return Ok(PopKeyWanted::Symmetric),
            Some(RequestedKey::KeyId(kid)) => {
                let key =
                    registered(kid).ok_or_else(|| unusable("no usable key of this `kid` is registered"))?;
                (Confirmation::PopKeyId(kid.clone()), key)
            }
            Some(RequestedKey::Key(key)) => {
                let kid = crate::kid_of(key);
                if registered(&kid).is_none() && !is_proven(key) {
                    return Err(unusable(
                        "it is not registered, and no DPoP proof by it came with the request",
                    ));
                }
                (Confirmation::PopKey(key.clone()), key)
            }
        };
        if proven.is_some() && !is_proven(key) {
            return Err(unusable("the DPoP proof is by another key than `req_cnf`"));
        }
        judge_pop_algorithm(key.algorithm())?;
        Ok(PopKeyWanted::Proven(confirmation))
    }

    /// A new symmetric key, and as it stands in the token with this `jti`.
    pub(crate) fn symmetric_key(&self, realm: &Realm, jti: &str, cwt: bool) -> (SymmetricKey, SealedKey) {
        let (mut bytes, mut nonce) = (zeroize::Zeroizing::new([0; 32]), [0; 12]);
        self.inner.random.fill(&mut *bytes);
        self.inner.random.fill(&mut nonce);
        let key = SymmetricKey::new(*bytes);
        let seal = if cwt { seal_as_cose } else { seal_as_jwe };
        let sealed = seal(&key, &realm.ace_key, jti, nonce);
        (key, sealed)
    }

    /// Reads a token in any of its forms: signed in JSON or CBOR, or opaque. `registry`: as for
    /// [`Self::read_token`].
    pub(crate) async fn read_ace_token(
        &self,
        registry: Option<&RegistryName>,
        token: &[u8],
    ) -> Result<ReadToken, Refusal> {
        let bytes_max = self.inner.config.bridge_token_bytes_max;
        match TokenForm::of(token) {
            TokenForm::Jwt(text) => {
                self.read_signed(registry, &AccessToken::parse(text.as_bytes(), bytes_max)?)
            }
            TokenForm::Cwt(bytes) => self.read_cwt(registry, &Cwt::parse(bytes, bytes_max)?),
            TokenForm::Reference(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if text.starts_with(OPAQUE_TOKEN_PREFIX) => {
                    self.read_token(registry, text, bytes_max).await
                }
                _ => {
                    Err(AceFault::Format("the token is neither JWT nor CWT nor of this issuer".into()).into())
                }
            },
        }
    }

    fn read_cwt(&self, registry: Option<&RegistryName>, token: &Cwt) -> Result<ReadToken, Refusal> {
        let unknown = || Refusal::NotProven(NotProven::UnknownIssuer);
        let realm = token.issuer().and_then(|issuer| self.realm_of_issuer(issuer)).ok_or_else(unknown)?;
        if registry.is_some_and(|wanted| *wanted != realm.record.name) {
            return Err(unknown());
        }
        let now_s = self.now_s();
        let claims =
            token.verify(&realm.record.issuer, &realm.keys.accepted(now_s), now_s, &self.inner.checker)?;
        let mark = TokenMark {
            token: short_digest(&claims.jti),
            issuer_kid: token.kid().and_then(|kid| KeyId::parse(kid).ok()),
            gateway: None,
        };
        if realm.revoked.contains(&mark.token) {
            return Err(Refusal::TokenGone);
        }
        Ok(ReadToken { realm, claims, mark, kept: None })
    }

    /// The key by which a token is proven in MQTT. A token bound by `jkt` (RFC 9449) counts as well, where that
    /// key is registered for its subject.
    ///
    /// Source: RFC 9431 section 2.2.5.
    pub(crate) fn pop_key(
        &self,
        realm: &Realm,
        loaded: &Loaded,
        claims: &AccessClaims,
    ) -> Result<PopKey, Refusal> {
        let unusable = |found: &str| Refusal::from(AceFault::Key(found.to_owned()));
        let registered = |kid: &str| {
            let kid = KeyId::parse(kid).ok();
            let key = kid.and_then(|kid| loaded.ring.usable(&kid, self.now_s()));
            key.map(|key| key.public.clone())
                .ok_or_else(|| unusable("the key that it names is not registered"))
        };
        let key = match &claims.confirmation {
            Some(Confirmation::PopKey(key)) => key.clone(),
            Some(Confirmation::PopKeyId(kid)) => registered(kid.as_str())?,
            Some(Confirmation::Key(thumbprint)) => registered(thumbprint)?,
            Some(Confirmation::Sealed(sealed)) => {
                return Ok(PopKey::Symmetric(sealed.open(&realm.ace_key, &claims.jti)?));
            }
            Some(Confirmation::Certificate(_)) => {
                return Err(unusable("the token is bound to a certificate"));
            }
            None => return Err(unusable("the token is bound to none")),
        };
        judge_pop_algorithm(key.algorithm())?;
        Ok(PopKey::Public(key))
    }

    /// Whether the token is as new as this broker wants tokens to be.
    ///
    /// Source: RFC 9200 section 5.3.1.
    pub(crate) fn judge_cnonce(&self, realm: &Realm, claims: &AccessClaims) -> Result<(), Refusal> {
        if !self.inner.config.ace_cnonce {
            return Ok(());
        }
        // Fresh when the token was issued, by the issuer's clock: the token is used for longer than a nonce is good.
        let checked = claims
            .cnonce
            .as_deref()
            .map(|nonce| realm.nonces.check(NoncePurpose::Ace, nonce, claims.issued_s));
        match checked {
            Some(Ok(_)) => Ok(()),
            _ => Err(AceFault::Cnonce.into()),
        }
    }

    /// The value of the user property `ace_as_hint` for a client that was refused, if such a hint is switched on.
    /// `registry`: that of the listener.
    ///
    /// Source: RFC 9431 section 2.4.1.
    #[must_use]
    pub fn as_hint(&self, registry: Option<&RegistryName>) -> Option<String> {
        let config = &self.inner.config;
        if config.ace_as.is_empty() {
            return None;
        }
        let realm = self.realm(registry.unwrap_or(&RegistryName::default_registry()))?;
        let own = format!("{}/oauth/token", realm.record.issuer);
        let random = self.inner.proofs.nonce_random(&*self.inner.random);
        let cnonce = config.ace_cnonce.then(|| realm.nonces.mint(NoncePurpose::Ace, self.now_s(), random));
        let hint = AsHint {
            token_endpoint: if config.ace_as == "issuer" { &own } else { &config.ace_as },
            audience: &realm.record.bridge_audience,
            cnonce: cnonce.as_deref(),
        };
        Some(hint.to_json())
    }

    /// A client that brings nothing comes to publish a token. It has proven nothing: its address pays, as for a
    /// question.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`].
    pub(crate) fn let_in_for_authz_info(&self, request: &ConnectRequest<'_>) -> Result<Verdict, Refusal> {
        if let Err(refusal) = self.charge_question(request.peer) {
            return self.note("connect", request.listener_registry, request.peer, Err(refusal));
        }
        let assigned = request.client_id.as_str().is_empty();
        let assigned = assigned.then(|| client_id::nameless(&*self.inner.random));
        Ok(Verdict::AuthzInfo { assigned })
    }

    /// Keeps a token that was published to `authz-info` for the client that comes with its key in TLS. A newer one
    /// of the same key takes its place.
    ///
    /// # Errors
    /// [`Refusal`]; what [`Refusal::is_unreadable`] is no token at all (MQTT reason 0x99), the rest is a bad one
    /// (0x87). None of these is kept. The address pays for each, good or bad: who publishes a token proves nothing.
    ///
    /// Source: RFC 9431 appendix A.
    pub async fn authz_info(
        &self,
        registry: Option<&RegistryName>,
        payload: &[u8],
        peer: Peer,
    ) -> Result<(), Refusal> {
        let judged = self.judge_authz_info(registry, payload, peer);
        self.decide_unproven("authz-info", registry, peer, judged).await
    }

    async fn judge_authz_info(
        &self,
        registry: Option<&RegistryName>,
        payload: &[u8],
        peer: Peer,
    ) -> Result<(), Refusal> {
        let ReadToken { realm, claims, .. } = self.read_ace_token(registry, payload).await?;
        if claims.audience != realm.record.bridge_audience {
            return Err(Refusal::OtherService);
        }
        let loaded = self.standing(&realm, &claims).await?;
        self.charge_principal(&realm.record.name, loaded.principal.uid, peer)?;
        self.judge_cnonce(&realm, &claims)?;
        let PopKey::Public(key) = self.pop_key(&realm, &loaded, &claims)? else {
            return Err(AceFault::Key("a symmetric one cannot be proven in TLS here".to_owned()).into());
        };
        let place = (realm.record.name.clone(), key.thumbprint().to_owned());
        let tokens_max = self.inner.config.ace_tokens_max;
        self.inner.ace.kept.keep(place, payload, claims.expires_s, self.now_s(), tokens_max)?;
        Ok(())
    }

    /// The token that was published for this key, if it is still kept. It is to be judged again as any other.
    pub(crate) fn kept_ace_token(&self, registry: &RegistryName, key: &PublicKey) -> Option<Vec<u8>> {
        self.inner.ace.kept.find(&(registry.clone(), key.thumbprint().to_owned()), self.now_s())
    }
}

/// Tokens that came before their clients: one for each key, in memory, within bounds.
#[derive(Debug, Default)]
struct KeptTokens(Mutex<Kept>);

/// A registry, and the thumbprint of a key.
type Place = (RegistryName, String);

#[derive(Debug, Default)]
struct Kept {
    tokens: HashMap<Place, KeptToken>,
    bytes: usize,
    /// What has ended was looked for in this second.
    swept_s: u64,
}

struct KeptToken {
    token: Vec<u8>,
    /// Kept so long, in seconds since 1970-01-01 UTC.
    until_s: u64,
    expires_s: u64,
}

impl std::fmt::Debug for KeptToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeptToken")
    }
}

impl KeptTokens {
    fn keep(
        &self,
        place: Place,
        token: &[u8],
        expires_s: u64,
        now_s: u64,
        tokens_max: usize,
    ) -> Result<(), AceFault> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        let is_full = |kept: &Kept| {
            kept.tokens.len() >= tokens_max || kept.bytes + token.len() > tokens_max * KEPT_BYTES
        };
        // Once a second, so that a flood does not look through all of them each time.
        if is_full(kept) && kept.swept_s < now_s {
            kept.tokens.retain(|_, kept| kept.until_s > now_s);
            kept.bytes = kept.tokens.values().map(|kept| kept.token.len()).sum();
            kept.swept_s = now_s;
        }
        let is_full = is_full(kept);
        let new = KeptToken {
            token: token.to_vec(),
            until_s: expires_s.min(now_s.saturating_add(UNUSED_S_MAX)),
            expires_s,
        };
        match kept.tokens.entry(place) {
            Entry::Occupied(mut there) => {
                kept.bytes = kept.bytes - there.get().token.len() + token.len();
                there.insert(new);
            }
            Entry::Vacant(_) if is_full => return Err(AceFault::StoreFull),
            Entry::Vacant(free) => {
                kept.bytes += token.len();
                free.insert(new);
            }
        }
        Ok(())
    }

    fn find(&self, place: &Place, now_s: u64) -> Option<Vec<u8>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.tokens.get_mut(place).filter(|kept| kept.until_s > now_s)?;
        found.until_s = found.expires_s;
        Some(found.token.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        (RegistryName::default_registry(), name.to_owned())
    }

    #[test]
    fn one_token_is_kept_for_each_key_and_the_newer_one_wins() {
        let kept = KeptTokens::default();
        kept.keep(place("a"), b"old", 5_000, 100, 2).expect("room");
        kept.keep(place("a"), b"new", 5_000, 100, 2).expect("its own place");
        assert_eq!(kept.find(&place("a"), 101).as_deref(), Some(&b"new"[..]));
        assert_eq!(kept.find(&place("b"), 101), None);
    }

    #[test]
    fn a_token_whose_client_does_not_come_is_forgotten_and_one_in_use_is_kept_to_its_end() {
        let kept = KeptTokens::default();
        kept.keep(place("a"), b"x", 5_000, 100, 2).expect("room");
        kept.keep(place("b"), b"y", 5_000, 100, 2).expect("room");
        assert!(kept.find(&place("a"), 100 + UNUSED_S_MAX - 1).is_some());
        assert!(kept.find(&place("b"), 100 + UNUSED_S_MAX).is_none(), "nobody came");
        assert!(kept.find(&place("a"), 4_999).is_some(), "its client has come");
        assert!(kept.find(&place("a"), 5_000).is_none(), "it has expired");
        kept.keep(place("c"), b"z", 150, 100, 2).expect_err("full: nothing was looked for in this second");
        kept.keep(place("c"), b"z", 900, 800, 2).expect("`b` has made room");
        kept.keep(place("d"), b"w", 900, 800, 2).expect_err("full");
        assert!(kept.find(&place("c"), 899).is_some() && kept.find(&place("c"), 900).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_too() {
        let kept = KeptTokens::default();
        kept.keep(place("a"), &[0; 2 * KEPT_BYTES], 5_000, 100, 2).expect("as much as two may have");
        assert_eq!(kept.keep(place("b"), b"x", 5_000, 100, 2), Err(AceFault::StoreFull));
    }
}
