//! A device removes one of its own keys: a JWT by an active key that names the key to be removed.

use drawbridge_names::{KeyId, PrincipalName};

use crate::assertion::{Asserted, AssertionRules, judge};
use crate::keys::{Candidate, Checker};
use crate::presented::{Presented, Wanted};
use crate::refusal::Refusal;
use crate::rules;

const KIND: &str = "key removal";
const WANTED: Wanted = Wanted { kind: KIND, types: &["key-remove+jwt"], plain: false };

/// A key removal that was read but not yet proven.
pub struct KeyRemove<'a>(Presented<'a>);

/// A good key removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRemoval {
    /// Who signed, and the `jti` to use up.
    pub asserted: Asserted,
    /// The key to be removed.
    pub kid: KeyId,
}

impl<'a> KeyRemove<'a> {
    /// Reads a key removal; nothing is believed yet.
    ///
    /// # Errors
    /// [`Refusal`] when it is no strict JWS of `typ` `key-remove+jwt`.
    pub fn parse(jwt: &'a str, token_bytes_max: usize) -> Result<Self, Refusal> {
        Presented::parse(jwt.as_bytes(), token_bytes_max, &WANTED).map(Self)
    }

    /// Whose it claims to be.
    #[must_use]
    pub fn claimed(&self) -> Option<PrincipalName> {
        self.0.claimed()
    }

    /// Judges signature and claims: those of a client assertion, and `kid`.
    ///
    /// # Errors
    /// [`Refusal`]; whatever is found before the signature is good is [`Refusal::NotProven`].
    pub fn verify(
        &self,
        candidate: Option<&Candidate<'_>>,
        rules: &AssertionRules<'_>,
        now_s: u64,
        checker: &Checker,
    ) -> Result<KeyRemoval, Refusal> {
        let proven = self.0.prove(candidate, now_s, checker)?;
        rules::has_none_of(&proven.claims, &["cnf", "public_key", "scope", "htm", "upd"], KIND)?;
        let (asserted, _) = judge(&proven, rules, now_s, KIND, self.0.bytes())?;
        let wrong = |found: &str| Refusal::Kind { found: found.to_owned(), wanted: KIND };
        let kid = rules::text(&proven.claims, "kid", KIND)?.ok_or_else(|| wrong("`kid` is missing"))?;
        let kid = crate::statement::thumbprint(kid).ok_or_else(|| wrong("`kid` is no thumbprint"))?;
        Ok(KeyRemoval { asserted, kid })
    }
}
