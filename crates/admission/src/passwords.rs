//! Passwords and generated secrets: set, made, and checked.
//!
//! One check of a password costs 19 MiB and 25 ms, so it runs on a thread of its own, behind a queue: so
//! many at once, so many waiting, and who comes then is told to come again. What was found right is
//! remembered for some minutes by a MAC whose key dies with the process: a device that comes back often is
//! not the load of an attacker who guesses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use drawbridge_identity::{
    NotProven, PasswordCost, PasswordVerifier, Refusal, SECRET_PREFIX, Verifier, judge_password,
};
use drawbridge_jose::base64url_encode;
use drawbridge_names::{PrincipalName, RegistryName};
use drawbridge_registry::{Principal, PrincipalChange};
use serde_json::json;
use zeroize::Zeroizing;

use crate::admin_token::with_checksum;
use crate::cache::Loaded;
use crate::connect::Credential;
use crate::turns::{NotDone, Turns};
use crate::{Actor, Admission, AdmissionConfig, AdmissionError, EndReason, Random};

/// How many right passwords are remembered at once.
const REMEMBERED_MAX: usize = 10_000;

/// The checks that run, those that wait, and what was found right.
pub(crate) struct Passwords {
    cost: PasswordCost,
    turns: Turns,
    remembered: Mutex<HashMap<[u8; 32], Instant>>,
    remember: Duration,
    /// Of this process alone.
    mac: hmac::Key,
    checks: Arc<AtomicU64>,
}

impl Passwords {
    pub(crate) fn new(config: &AdmissionConfig, random: &dyn Random) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = if config.password_checks_max == 0 { cores() } else { config.password_checks_max };
        let mut key = Zeroizing::new([0; 32]);
        random.fill(&mut *key);
        let cost =
            PasswordCost { memory_kib: config.password_memory_kib, passes: config.password_passes }.bounded();
        Self {
            cost,
            turns: Turns::new(at_once, config.password_queue_max),
            remembered: Mutex::default(),
            remember: Duration::from_secs(config.password_cache_s.into()),
            mac: hmac::Key::new(hmac::HMAC_SHA256, &*key),
            checks: Arc::default(),
        }
    }

    /// How many passwords were checked by argon2id so far.
    pub(crate) fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    /// Does one computation of argon2id when its turn comes.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.turns.take(work).await.map_err(|not_done| match not_done {
            NotDone::Full => Refusal::Busy,
            NotDone::Broken => Refusal::Unavailable("a password check broke off".to_owned()),
        })
    }

    fn tag(&self, verifier: &[u8], presented: &[u8]) -> [u8; 32] {
        let mut message = Zeroizing::new(Vec::with_capacity(verifier.len() + presented.len()));
        // A verifier of this form has one length, so the two cannot be cut apart elsewhere.
        message.extend_from_slice(verifier);
        message.extend_from_slice(presented);
        hmac::sign(&self.mac, &message).as_ref().try_into().expect("a MAC of SHA-256 has 32 bytes")
    }

    fn remembers(&self, tag: &[u8; 32], now: Instant) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(tag).is_some_and(|until| now < *until)
    }

    fn remember(&self, tag: [u8; 32], now: Instant) {
        if self.remember.is_zero() {
            return;
        }
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, until| now < *until);
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(tag, now + self.remember);
    }
}

impl Admission {
    /// Judges a password or generated secret. `loaded`: the principal it is claimed to be of, if there is
    /// one. What it costs depends on what is presented alone: a text with the prefix of our secrets costs a
    /// SHA-256, any other one argon2id, also where there is nobody whose password it could be. Only a right
    /// one that was right before is cheaper.
    ///
    /// # Errors
    /// [`Refusal::NotProven`]; [`Refusal::Busy`] when too many wait already.
    ///
    /// Source: invariant I11.
    pub(crate) async fn verify_secret(
        &self,
        loaded: Option<&Loaded>,
        presented: &[u8],
    ) -> Result<(), Refusal> {
        let why = if loaded.is_none() { NotProven::PasswordOfNobody } else { NotProven::Password };
        let kept = loaded.and_then(|loaded| loaded.principal.password.as_deref());
        let verifier = kept.and_then(Verifier::from_bytes);
        if presented.starts_with(SECRET_PREFIX.as_bytes()) {
            let good = Verifier::fits_secret(verifier.as_ref(), presented);
            return if good { Ok(()) } else { Err(Refusal::NotProven(why)) };
        }
        let passwords = &self.inner.passwords;
        let (verifier, tag) = match verifier {
            Some(Verifier::Password(verifier)) => {
                let tag = passwords.tag(kept.unwrap_or_default(), presented);
                (verifier, Some(tag))
            }
            _ => (PasswordVerifier::of_nobody(passwords.cost), None),
        };
        let now = self.inner.clock.instant();
        if tag.as_ref().is_some_and(|tag| passwords.remembers(tag, now)) {
            return Ok(());
        }
        let presented = Zeroizing::new(presented.to_vec());
        let checks = Arc::clone(&passwords.checks);
        let good = passwords.in_turn(move || {
            checks.fetch_add(1, Ordering::Relaxed);
            verifier.fits(&presented)
        });
        match (good.await?, tag) {
            (true, Some(tag)) => {
                passwords.remember(tag, now);
                Ok(())
            }
            _ => Err(Refusal::NotProven(why)),
        }
    }

    /// Sets the password of a principal, or with `None` takes away its password or secret. Tokens and
    /// sessions that it has are dead: its epoch grows in the same change.
    ///
    /// # Errors
    /// [`AdmissionError::Password`] for one that nobody should have; [`AdmissionError::Stale`] when
    /// `revision` is given and not the current one.
    pub async fn set_password(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        password: Option<&str>,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let verifier = match password {
            None => None,
            Some(password) => {
                let form = Credential::of(password.as_bytes());
                judge_password(password, form != Credential::Password)
                    .map_err(|unfit| AdmissionError::Password(unfit.0))?;
                let (mut salt, cost) = ([0; 16], self.inner.passwords.cost);
                self.inner.random.fill(&mut salt);
                let password = Zeroizing::new(password.to_owned());
                let made = self.inner.passwords.in_turn(move || PasswordVerifier::of(&password, salt, cost));
                let made = made.await.map_err(|_| AdmissionError::Busy)?;
                Some(Verifier::Password(made).to_bytes())
            }
        };
        let action = if verifier.is_some() { "principal.password" } else { "principal.password-remove" };
        self.change_secret(registry, name, verifier, revision, actor, action).await
    }

    /// Makes a new secret for a principal, in place of the password or secret that it had. It is shown this
    /// once. Tokens and sessions that the principal has are dead: its epoch grows in the same change.
    ///
    /// # Errors
    /// [`AdmissionError::Stale`] when `revision` is given and not the current one.
    pub async fn make_secret(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<(Principal, Zeroizing<String>), AdmissionError> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.inner.random.fill(&mut *bytes);
        let secret = Zeroizing::new(with_checksum(SECRET_PREFIX, &base64url_encode(&*bytes)));
        let verifier = Some(Verifier::of_secret(&secret).to_bytes());
        let changed =
            self.change_secret(registry, name, verifier, revision, actor, "principal.secret").await?;
        Ok((changed, secret))
    }

    async fn change_secret(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        verifier: Option<Vec<u8>>,
        revision: Option<u64>,
        actor: &Actor,
        action: &str,
    ) -> Result<Principal, AdmissionError> {
        let change = PrincipalChange::Password(verifier);
        let changed = self.change(registry, name, change, revision, actor, action, &json!({})).await?;
        self.tell_principal(&changed, EndReason::Revoked);
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoRandom;

    impl Random for NoRandom {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(3);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "there is no other way to get some instant")]
    fn what_is_remembered_has_an_end_a_bound_and_one_verifier() {
        let passwords = Passwords::new(&AdmissionConfig::default(), &NoRandom);
        let now = Instant::now();
        let tag = passwords.tag(b"verifier", b"password");
        assert!(!passwords.remembers(&tag, now));
        passwords.remember(tag, now);
        assert!(passwords.remembers(&tag, now + Duration::from_secs(299)));
        assert!(!passwords.remembers(&tag, now + Duration::from_secs(300)));
        assert!(!passwords.remembers(&passwords.tag(b"Verifier", b"password"), now));
        for number in 0..u64::try_from(REMEMBERED_MAX).expect("small") * 2 {
            passwords.remember(passwords.tag(b"verifier", &number.to_be_bytes()), now);
        }
        assert!(passwords.remembered.lock().expect("not poisoned").len() <= REMEMBERED_MAX);
    }
}
