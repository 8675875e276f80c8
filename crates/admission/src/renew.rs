//! Renewal on the IoT IdP path: a token that is still good is given for the next one, without a key.
//!
//! A chain of renewals ends a day after its login at the latest, and each link asks again whether the device
//! stands and what its policy allows. A token is good for 30 s after it was renewed, since the answer may be
//! lost; when it comes again after its successor was used, one of the two was stolen, and both end.

use std::sync::Arc;

use drawbridge_identity::{AliasLogin, NotProven, Refusal};
use drawbridge_names::{PrincipalKind, PrincipalName, RegistryName};
use drawbridge_policy::{Grant, Rights};

use crate::admin_token::OPAQUE_TOKEN_PREFIX;
use crate::cache::Loaded;
use crate::issue::{Issuance, TOKEN_LIFE_S_MAX, TokenGrant};
use crate::scope::judge_grant;
use crate::{Admission, Peer};

/// The word that lets a token be renewed.
const REFRESH: &str = "refresh.token";
/// A chain lasts so long from its login, in seconds.
const CHAIN_S_MAX: u64 = TOKEN_LIFE_S_MAX;

impl Admission {
    /// Renews a token that was given on an IoT IdP path. `scope`: the words of the token, if they are said again.
    ///
    /// # Errors
    /// [`Refusal::Renewal`] when it was not given for renewal, its chain is over, or `scope` is another;
    /// [`Refusal::TokenGone`] when it was renewed before and its successor was used.
    pub async fn renew(
        &self,
        registry: &RegistryName,
        token: &str,
        client_id: Option<&str>,
        scope: Option<&str>,
        peer: Peer,
    ) -> Result<TokenGrant, Refusal> {
        let judged = self.judge_renew(registry, token, client_id, scope, peer);
        let grant = self.decide("renew", Some(registry), peer, judged).await?;
        self.note_issued("renew", registry, peer, &grant);
        Ok(grant)
    }

    async fn judge_renew(
        &self,
        registry: &RegistryName,
        token: &str,
        client_id: Option<&str>,
        scope: Option<&str>,
        peer: Peer,
    ) -> Result<TokenGrant, Refusal> {
        let refuse = |why: &str| Err(Refusal::Renewal(why.to_owned()));
        if token.is_empty() {
            return Err(Refusal::NoCredential);
        }
        if !token.starts_with(OPAQUE_TOKEN_PREFIX) {
            return Err(Refusal::NotProven(NotProven::UnknownToken));
        }
        let realm = self.known_realm(registry)?;
        let read = self.presented_opaque(Arc::clone(&realm), token).await?;
        let loaded = self.standing(&realm, &read.claims).await?;
        self.charge_principal(registry, loaded.principal.uid, peer)?;
        let Some(alias) = &read.claims.alias else { return refuse("it was not given on this path") };
        if !loaded.principal.legacy_assertions {
            return Err(Refusal::LegacyNotAllowed);
        }
        let application = self.alias_application(registry, client_id).await?;
        if application.principal.name.as_str() != read.claims.client_id {
            return Err(Refusal::OAuthClient("is not the one that the token was given to".to_owned()));
        }
        if !alias.words.split(' ').any(|word| word == REFRESH) {
            return refuse("its scope has no `refresh.token`");
        }
        if scope.is_some_and(|scope| !same_words(scope, &alias.words)) {
            return refuse("another scope was asked for; leave `scope` out, or log in for it");
        }
        let renewals_max = loaded.rights.token_rules().renewals_max;
        if read.kept.as_ref().is_some_and(|kept| kept.generation >= renewals_max) {
            return refuse("it was renewed as often as the policy allows");
        }
        let chain_end_s = alias.login_s.saturating_add(CHAIN_S_MAX);
        if chain_end_s <= self.now_s() {
            return refuse("its login is a day old");
        }
        // By the policy as it is now.
        let mut again = alias_scope(Some(&alias.words), &loaded.rights)?;
        again.login_s = alias.login_s;
        let issuance = Issuance {
            loaded: &loaded,
            client_id: &read.claims.client_id,
            scope: read.claims.scope.as_deref(),
            resource: None,
            akid: read.claims.akid.as_ref(),
            asserted: None,
            confirmation: None,
            actor: None,
            expires_s_max: Some(chain_end_s),
            within: None,
            alias: Some(again),
            renews: Some(&read),
        };
        self.issue(&realm, issuance).await
    }

    /// The application that `client_id` names on an IoT IdP path.
    pub(crate) async fn alias_application(
        &self,
        registry: &RegistryName,
        client_id: Option<&str>,
    ) -> Result<Arc<Loaded>, Refusal> {
        let application = match client_id.map(PrincipalName::parse) {
            Some(Ok(name)) => self.candidate(registry, Some(&name)).await?,
            _ => None,
        };
        application
            .filter(|loaded| loaded.principal.kind == PrincipalKind::Application && !loaded.principal.blocked)
            .ok_or_else(|| Refusal::OAuthClient("names no registered application of this registry".into()))
    }
}

/// Whether both lists have the same words, in whatever order.
fn same_words(one: &str, other: &str) -> bool {
    let words = |text: &str| {
        let words = text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        words.collect::<std::collections::BTreeSet<_>>()
    };
    words(one) == words(other)
}

/// What is asked for on an IoT IdP path: `refresh.token`, words that the policy lists, and one grant at most,
/// as elsewhere. Answers all of it as the words of the token; `login_s` is still to be set.
pub(crate) fn alias_scope(scope: Option<&str>, rights: &Rights) -> Result<AliasLogin, Refusal> {
    let rules = rights.token_rules();
    let mut words: Vec<&str> = Vec::new();
    let mut grants = 0;
    for word in scope.unwrap_or_default().split(' ').filter(|word| !word.is_empty()) {
        if words.contains(&word) {
            continue;
        }
        if word == REFRESH {
            if rules.renewals_max == 0 {
                return Err(Refusal::Scope("`refresh.token`: the policy allows no renewal".to_owned()));
            }
        } else if !rules.alias_scopes.iter().any(|allowed| allowed == word) {
            grants += 1;
            if grants > 1 || Grant::parse_scope(word).is_err() {
                let word: String = word.chars().take(64).flat_map(char::escape_debug).collect();
                return Err(Refusal::Scope(format!(
                    "`{word}` is outside the policy, whose `alias_scopes` do not name it"
                )));
            }
            judge_grant(Some(word), rights)?;
        }
        words.push(word);
    }
    Ok(AliasLogin { words: words.join(" "), login_s: 0 })
}

/// The grant among the words of [`alias_scope`].
pub(crate) fn grant_of<'a>(alias: &'a AliasLogin, rights: &Rights) -> Option<&'a str> {
    let rules = rights.token_rules();
    let is_word = |word: &&str| *word == REFRESH || rules.alias_scopes.iter().any(|allowed| allowed == word);
    alias.words.split(' ').find(|word| !word.is_empty() && !is_word(word))
}
