//! The end of every login: state, audience, scope; then the `jti`; then the token.

use std::sync::Arc;

use drawbridge_identity::ace::SymmetricKey;
use drawbridge_identity::{AccessClaims, ActedBy, AliasLogin, Asserted, Confirmation, Refusal};
use drawbridge_jose::{base64url_encode, sha256};
use drawbridge_names::{KeyId, PrincipalKind, PrincipalName};
use drawbridge_policy::{Rights, TokenForm};
use drawbridge_registry::{AddToken, KeptToken, TokenFormat};

use crate::Admission;
use crate::binding::unbound;
use crate::cache::Loaded;
use crate::client::Client;
use crate::clock::random_id;
use crate::registries::Realm;
use crate::scope::{judge_grant, judge_words};
use crate::tokens::ReadToken;
use crate::unavailable;

/// No token lives longer, in seconds, whatever registry and policy say.
pub(crate) const TOKEN_LIFE_S_MAX: u64 = 86_400;
/// How long a renewed token is good, in seconds: its successor may be lost on the way.
const RENEWED_GRACE_S: u64 = 30;

/// An access token, issued.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// The token: a JWT in compact form, or opaque. A secret.
    pub access_token: String,
    /// How long it is good, in seconds.
    pub expires_in_s: u64,
    /// Its `scope`; `None`: all that the policy allows.
    pub scope: Option<String>,
    /// Its `aud`.
    pub audience: String,
    /// Whose it is.
    pub name: PrincipalName,
    /// What that is.
    pub kind: PrincipalKind,
    /// The key that logged in, if one did.
    pub kid: Option<KeyId>,
    /// What it is bound to; decides `token_type` (RFC 9449 section 5).
    pub confirmation: Option<Confirmation>,
    /// The scope words of a token of an IoT IdP path.
    pub alias_words: Option<String>,
}

impl std::fmt::Debug for TokenGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenGrant")
            .field("expires_in_s", &self.expires_in_s)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .field("name", &self.name)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// What is to be issued, to whom, on which proof.
pub(crate) struct Issuance<'a> {
    /// The subject.
    pub(crate) loaded: &'a Arc<Loaded>,
    pub(crate) client_id: &'a str,
    pub(crate) scope: Option<&'a str>,
    pub(crate) resource: Option<&'a str>,
    /// The registered key that logged in.
    pub(crate) akid: Option<&'a KeyId>,
    /// The assertion whose `jti` is to be used up, and who has signed it.
    pub(crate) asserted: Option<(&'a Arc<Loaded>, &'a Asserted)>,
    pub(crate) confirmation: Option<Confirmation>,
    pub(crate) actor: Option<ActedBy>,
    /// It ends then at the latest.
    pub(crate) expires_s_max: Option<u64>,
    /// Its scope lies within these rights; `None`: within those of the subject.
    pub(crate) within: Option<&'a Rights>,
    /// It was asked for on an IoT IdP path, so it is opaque.
    pub(crate) alias: Option<AliasLogin>,
    /// The token that it succeeds.
    pub(crate) renews: Option<&'a ReadToken>,
}

/// What a token by RFC 9431 is to be.
pub(crate) struct PopIssuance<'a> {
    pub(crate) key: PopKeyWanted,
    pub(crate) cnonce: Option<&'a str>,
    /// In CBOR, if it is signed.
    pub(crate) cwt: bool,
}

/// What it is to be bound to.
pub(crate) enum PopKeyWanted {
    /// A key that its holder has proven, or registered.
    Proven(Confirmation),
    /// One that is made here.
    Symmetric,
}

/// A token, and what was made for it.
pub(crate) struct Issued {
    pub(crate) grant: TokenGrant,
    pub(crate) symmetric: Option<SymmetricKey>,
    /// The token if it is a CWT; [`TokenGrant::access_token`] is base64url of it.
    pub(crate) cwt: Option<Vec<u8>>,
}

impl<'a> Issuance<'a> {
    /// All that the policy allows, to a client for itself.
    pub(crate) fn of(client: &'a Client, client_id: &'a str) -> Self {
        Self {
            loaded: &client.loaded,
            client_id,
            scope: None,
            resource: None,
            akid: client.akid.as_ref(),
            asserted: client.asserted.as_ref().map(|asserted| (&client.loaded, asserted)),
            confirmation: None,
            actor: None,
            expires_s_max: client.until_s,
            within: None,
            alias: None,
            renews: None,
        }
    }
}

impl Admission {
    /// Issues a token, or says why not.
    pub(crate) async fn issue(&self, realm: &Realm, issuance: Issuance<'_>) -> Result<TokenGrant, Refusal> {
        self.issue_bound(realm, issuance, None).await.map(|issued| issued.grant)
    }

    /// As [`Self::issue`]; `pop`: the token is one by RFC 9431, for the bridge.
    pub(crate) async fn issue_bound(
        &self,
        realm: &Realm,
        issuance: Issuance<'_>,
        pop: Option<PopIssuance<'_>>,
    ) -> Result<Issued, Refusal> {
        let Issuance { loaded, client_id, scope, resource, akid, asserted, .. } = issuance;
        let (record, principal) = (&realm.record, &loaded.principal);
        judge_state(loaded)?;
        // Whatever way it came: the aliases know no binding, and a gateway binds to its own key or to none.
        if principal.settings.bound_tokens && issuance.confirmation.is_none() && pop.is_none() {
            return Err(unbound());
        }
        let api_audience = realm.api_audience();
        let for_bridge = match resource.filter(|resource| !resource.is_empty()) {
            None => true,
            Some(resource) if resource == record.bridge_audience => true,
            Some(resource) if resource == api_audience => false,
            Some(_) => {
                let wanted = format!("`{}` or `{api_audience}`", record.bridge_audience);
                return Err(Refusal::Target { wanted });
            }
        };
        let scope = if for_bridge {
            judge_grant(scope, issuance.within.unwrap_or(&loaded.anywhere))?
        } else {
            judge_words(scope, &loaded.rights, &principal.settings.roles)?
        };

        if let Some((whose, asserted)) = asserted {
            // Use up the `jti` before issuing: a crash here costs a retry, the other order a replay.
            self.use_up(&record.name, whose.principal.uid, asserted).await?;
            self.end_grace(whose, &asserted.kid).await;
        }

        let now_s = self.now_s();
        let key_end_s = akid.and_then(|kid| loaded.ring.usable(kid, now_s)).and_then(|key| key.expires_s);
        let rules = loaded.rights.token_rules();
        let life_s = u64::from(rules.life_s.unwrap_or(record.token_life_s)).min(TOKEN_LIFE_S_MAX);
        let expires_s = (now_s + life_s)
            .min(key_end_s.unwrap_or(u64::MAX))
            .min(issuance.expires_s_max.unwrap_or(u64::MAX));
        let rules_want_opaque = match (&issuance.alias, rules.form) {
            (Some(_), _) | (None, Some(TokenForm::Opaque)) => true,
            (None, Some(TokenForm::Jwt)) => false,
            (None, None) => record.settings.token_format == TokenFormat::Opaque,
        };
        let jti = random_id(&*self.inner.random);
        let cwt = pop.as_ref().is_some_and(|pop| pop.cwt) && !rules_want_opaque;
        let (confirmation, symmetric) = match &pop {
            None => (issuance.confirmation, None),
            Some(PopIssuance { key: PopKeyWanted::Proven(confirmation), .. }) => {
                (Some(confirmation.clone()), None)
            }
            Some(PopIssuance { key: PopKeyWanted::Symmetric, .. }) => {
                let (key, sealed) = self.symmetric_key(realm, &jti, cwt);
                (Some(Confirmation::Sealed(sealed)), Some(key))
            }
        };
        let claims = AccessClaims {
            issuer: record.issuer.clone(),
            subject: principal.name.clone(),
            client_id: client_id.to_owned(),
            audience: if for_bridge { record.bridge_audience.clone() } else { api_audience },
            issued_s: now_s,
            expires_s,
            jti,
            scope,
            uid: principal.uid,
            epoch: principal.epoch,
            akid: akid.cloned(),
            confirmation,
            actor: issuance.actor,
            alias: issuance.alias,
            cnonce: pop.as_ref().and_then(|pop| pop.cnonce).map(str::to_owned),
        };
        let (access_token, cwt) = if rules_want_opaque {
            (self.keep_token(realm, &claims, issuance.renews).await?, None)
        } else if cwt {
            let signed = realm.keys.current().issue_cwt(&claims)?;
            (base64url_encode(&signed), Some(signed))
        } else {
            let signed = realm.keys.current().issue(&claims);
            (signed.map_err(|error| Refusal::Unavailable(error.to_string()))?, None)
        };
        let grant = TokenGrant {
            access_token,
            expires_in_s: expires_s.saturating_sub(now_s),
            scope: claims.scope,
            audience: claims.audience,
            name: principal.name.clone(),
            kind: principal.kind,
            kid: claims.akid,
            confirmation: claims.confirmation,
            alias_words: claims.alias.map(|alias| alias.words),
        };
        Ok(Issued { grant, symmetric, cwt })
    }

    /// Draws an opaque token and keeps what it says.
    async fn keep_token(
        &self,
        realm: &Realm,
        claims: &AccessClaims,
        renews: Option<&ReadToken>,
    ) -> Result<String, Refusal> {
        let (registry, now_s) = (&realm.record.name, self.now_s());
        let token = self.draw_opaque();
        let mut kept = KeptToken {
            digest: sha256(token.as_bytes()),
            uid: claims.uid,
            family: [0; 16],
            generation: 0,
            claims: claims.to_json().to_string(),
            expires_s: claims.expires_s,
            used: false,
            renewed: false,
        };
        if let Some((read, old)) = renews.and_then(|read| Some((read, read.kept.as_ref()?))) {
            (kept.family, kept.generation) = (old.family, old.generation + 1);
            let (old_expires_s, new) = (now_s + RENEWED_GRACE_S, kept.digest);
            let renewed =
                self.inner.store.renew_token(registry, &old.digest, kept, old_expires_s, now_s).await;
            self.judge_use(read, renewed.map_err(|error| unavailable(&error))?)?;
            realm.renewed.insert(old.digest, new, now_s + TOKEN_LIFE_S_MAX, now_s);
            return Ok(token.to_string());
        }
        self.inner.random.fill(&mut kept.family);
        let live_max = self.inner.config.opaque_tokens_max;
        match self.inner.store.add_token(registry, kept, live_max, now_s).await {
            Ok(AddToken::Added) => Ok(token.to_string()),
            Ok(AddToken::Full) => Err(Refusal::TokensFull { live_max }),
            Ok(AddToken::Gone) => Err(Refusal::KeyGone),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

/// Whether a principal that has proven itself is admitted at all.
pub(crate) fn judge_state(loaded: &Loaded) -> Result<(), Refusal> {
    if loaded.principal.blocked {
        return Err(Refusal::Blocked);
    }
    if loaded.principal.pending {
        return Err(Refusal::Pending);
    }
    Ok(())
}
