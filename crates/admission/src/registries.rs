//! Registries: their records, their issuer keys, and the audiences that keep them apart.

use std::collections::BTreeSet;
use std::sync::Arc;

use drawbridge_identity::{Nonces, Refusal};
use drawbridge_names::{PolicyName, RegistryName};
use drawbridge_policy::Policy;
use drawbridge_registry::{
    AddRegistry, CertificateRegistration, GoogleNames, RegistryRecord, RegistrySettings,
};

use zeroize::Zeroizing;

use crate::issue::TOKEN_LIFE_S_MAX;
use crate::issuer_keys::{ISSUER_KEYS, IssuerKeys};
use crate::register_by_certificate::judge_rule;
use crate::tokens::{RenewedTokens, RevokedJtis};
use crate::{Actor, Admission, AdmissionError, Way};

/// The name of the policy that `device add` attaches.
pub(crate) const DEVICE_POLICY: &str = "device";
/// The secrets that are kept sealed.
pub(crate) const SEALED_SECRETS: [&str; 3] = [ISSUER_KEYS, NONCE_KEY, ACE_KEY];
/// The secret of the nonces: a version byte, then 32 random bytes.
const NONCE_KEY: &str = "nonce-key";
/// The secret that seals symmetric keys in tokens by RFC 9431; of the same form.
const ACE_KEY: &str = "ace-key";
/// The version of both.
const RANDOM_KEY_VERSION: u8 = 1;

/// A registry to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRegistry {
    /// Its name.
    pub name: RegistryName,
    /// Its issuer; `None`: `<issuer of default>/r/NAME`.
    pub issuer: Option<String>,
    /// The `aud` for the bridge; `None`: `<issuer>/mqtt`.
    pub bridge_audience: Option<String>,
    /// How far a device's clock may be off, in seconds; `None`: 60.
    pub clock_skew_s: Option<u32>,
    /// Life of an access token, in seconds; `None`: 3,600.
    pub token_life_s: Option<u32>,
    /// The Google Cloud IoT Core project and location that it stands for.
    pub google: Option<GoogleNames>,
    /// What else may be chosen.
    pub settings: RegistrySettings,
}

impl NewRegistry {
    /// One with the usual settings.
    #[must_use]
    pub fn named(name: RegistryName, issuer: Option<String>) -> Self {
        Self {
            name,
            issuer,
            bridge_audience: None,
            clock_skew_s: None,
            token_life_s: None,
            google: None,
            settings: RegistrySettings::default(),
        }
    }
}

/// Changes of a registry. `None`: as it is. Its name, issuer and audiences never change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryChange {
    /// How far a device's clock may be off, in seconds.
    pub clock_skew_s: Option<u32>,
    /// Life of an access token, in seconds.
    pub token_life_s: Option<u32>,
    /// The settings, all of them.
    pub settings: Option<RegistrySettings>,
}

/// A registry with what it needs to work.
#[derive(Clone)]
pub(crate) struct Realm {
    pub(crate) record: Arc<RegistryRecord>,
    pub(crate) keys: IssuerKeys,
    pub(crate) nonces: Arc<Nonces>,
    /// The signed tokens that were revoked before their end.
    pub(crate) revoked: Arc<RevokedJtis>,
    /// What opaque tokens were renewed by.
    pub(crate) renewed: Arc<RenewedTokens>,
    /// Seals the symmetric keys in tokens by RFC 9431.
    pub(crate) ace_key: Arc<Zeroizing<[u8; 32]>>,
}

impl Realm {
    /// `<issuer>/v1`: the `aud` of tokens for the API.
    pub(crate) fn api_audience(&self) -> String {
        format!("{}/v1", self.record.issuer)
    }
}

impl Admission {
    /// Makes a registry with its issuer key and the policy `device`, unless it exists; answers its
    /// record and whether it is new. An existing one keeps its issuer and settings.
    ///
    /// # Errors
    /// [`AdmissionError`] when the issuer cannot be one, or an audience stands for something else.
    pub async fn create_registry(
        &self,
        new: NewRegistry,
        actor: &Actor,
    ) -> Result<(Arc<RegistryRecord>, bool), AdmissionError> {
        let issuer = match (&new.issuer, self.registry(&RegistryName::default_registry())) {
            (Some(issuer), _) => issuer.clone(),
            (None, Some(default)) => format!("{}/r/{}", default.issuer, new.name),
            (None, None) => return Err(AdmissionError::NoRegistry(RegistryName::default_registry())),
        };
        let record = RegistryRecord {
            bridge_audience: new.bridge_audience.unwrap_or_else(|| format!("{issuer}/mqtt")),
            clock_skew_s: new.clock_skew_s.unwrap_or(60),
            token_life_s: new.token_life_s.unwrap_or(3_600),
            google: new.google,
            settings: new.settings,
            created_s: self.now_s(),
            name: new.name,
            issuer,
        };
        if let Some(there) = self.registry(&record.name) {
            return Ok((there, false));
        }
        judge_issuer(&record.issuer)?;
        judge_times(&record)?;
        judge_settings(&record.settings)?;
        judge_audiences(&record, &self.registries())?;
        let detail =
            serde_json::json!({ "issuer": record.issuer, "bridge_audience": record.bridge_audience });
        let audit = self.audit(actor, "registry.add", record.name.as_str(), &detail);
        let (record, new) = match self.inner.store.add_registry(record.clone(), audit).await? {
            AddRegistry::Added => (record, true),
            AddRegistry::Exists(there) => (there, false),
        };
        let realm = self.furnish(record).await?;
        Ok((realm, new))
    }

    /// The record of a registry.
    #[must_use]
    pub fn registry(&self, name: &RegistryName) -> Option<Arc<RegistryRecord>> {
        self.realm(name).map(|realm| Arc::clone(&realm.record))
    }

    /// All registries, in byte order of name.
    #[must_use]
    pub fn registries(&self) -> Vec<Arc<RegistryRecord>> {
        self.realms().values().map(|realm| Arc::clone(&realm.record)).collect()
    }

    /// Changes a registry.
    ///
    /// # Errors
    /// [`AdmissionError::Setting`] when a value cannot be one.
    pub async fn change_registry(
        &self,
        registry: &RegistryName,
        change: RegistryChange,
        actor: &Actor,
    ) -> Result<Arc<RegistryRecord>, AdmissionError> {
        let gone = || AdmissionError::NoRegistry(registry.clone());
        let mut record = RegistryRecord::clone(&*self.registry(registry).ok_or_else(gone)?);
        record.clock_skew_s = change.clock_skew_s.unwrap_or(record.clock_skew_s);
        record.token_life_s = change.token_life_s.unwrap_or(record.token_life_s);
        record.settings = change.settings.unwrap_or(record.settings);
        judge_times(&record)?;
        judge_settings(&record.settings)?;
        if let Some(CertificateRegistration { policy: Some(policy), .. }) =
            &record.settings.certificate_registration
        {
            let policy = PolicyName::parse(policy).map_err(|error| {
                AdmissionError::Setting(format!("`certificate_registration.policy`: {error}"))
            })?;
            self.policy_must_exist(registry, Some(&policy)).await?;
        }
        let detail = serde_json::json!({
            "clock_skew_s": record.clock_skew_s,
            "token_life_s": record.token_life_s,
            "settings": record.settings.to_json(),
        });
        let audit = self.audit(actor, "registry.change", registry.as_str(), &detail);
        let record = self.inner.store.change_registry(record, audit).await?.ok_or_else(gone)?;
        let record = Arc::new(record);
        self.change_realm(registry, |realm| realm.record = Arc::clone(&record));
        Ok(record)
    }

    /// Loads what a registry needs to work, and makes it where a creation was cut short.
    pub(crate) async fn furnish(
        &self,
        record: RegistryRecord,
    ) -> Result<Arc<RegistryRecord>, AdmissionError> {
        let store = &self.inner.store;
        let keys = self.kept_issuer_keys(&record).await?;
        let revoked = store.revoked_jtis(&record.name, self.now_s()).await?;
        let nonces = Nonces::new(&*self.random_key(&record.name, NONCE_KEY).await?);
        let ace_key = Arc::new(self.random_key(&record.name, ACE_KEY).await?);
        let template = PolicyName::parse(DEVICE_POLICY).expect("`device` is a policy name");
        if store.policy(&record.name, &template).await?.is_none() {
            let detail = serde_json::json!({ "template": true });
            let audit = self.audit(&Actor::Server, "policy.set", DEVICE_POLICY, &detail);
            let policy = Policy::device_template();
            store.set_policy(&record.name, &template, policy.source(), self.now_s(), audit).await?;
            self.inner.cache.policy_changed(&record.name, &template);
        }
        let record = Arc::new(record);
        let (nonces, revoked) = (Arc::new(nonces), Arc::new(RevokedJtis::of(revoked)));
        let renewed = Arc::default();
        let realm = Realm { record: Arc::clone(&record), keys, nonces, revoked, renewed, ace_key };
        let mut realms = self.inner.realms.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut changed = (**realms).clone();
        changed.insert(record.name.clone(), Arc::new(realm));
        *realms = Arc::new(changed);
        Ok(record)
    }

    /// A secret of a registry, made at the first start.
    async fn random_key(
        &self,
        registry: &RegistryName,
        name: &str,
    ) -> Result<Zeroizing<[u8; 32]>, AdmissionError> {
        let make = || {
            let mut value = Zeroizing::new(vec![0; 33]);
            self.inner.random.fill(&mut value[1..]);
            value[0] = RANDOM_KEY_VERSION;
            value
        };
        let kept = self.sealed_or_insert(registry, name, make).await?;
        let secret = match kept.split_first() {
            Some((&RANDOM_KEY_VERSION, secret)) => <[u8; 32]>::try_from(secret).ok(),
            _ => None,
        };
        let secret =
            secret.ok_or_else(|| AdmissionError::Secret(format!("{name} has an unknown version")))?;
        Ok(Zeroizing::new(secret))
    }

    /// Changes what a registry works with, for every request from now on.
    pub(crate) fn change_realm(&self, name: &RegistryName, change: impl FnOnce(&mut Realm)) {
        let mut realms = self.inner.realms.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut changed = (**realms).clone();
        let Some(realm) = changed.get_mut(name) else { return };
        change(Arc::make_mut(realm));
        *realms = Arc::new(changed);
    }

    pub(crate) fn realm(&self, name: &RegistryName) -> Option<Arc<Realm>> {
        self.realms().get(name).cloned()
    }

    pub(crate) fn known_realm(&self, name: &RegistryName) -> Result<Arc<Realm>, Refusal> {
        self.realm(name).ok_or(Refusal::NoRegistry)
    }

    pub(crate) fn realm_of_issuer(&self, issuer: &str) -> Option<Arc<Realm>> {
        self.realms().values().find(|realm| realm.record.issuer == issuer).cloned()
    }

    pub(crate) fn realm_of_bridge_audience(&self, audience: &str) -> Option<Arc<Realm>> {
        self.realms().values().find(|realm| realm.record.bridge_audience == audience).cloned()
    }
}

/// A skew of more than an hour would make dead JWTs of a stolen device good again.
const CLOCK_SKEW_S_MAX: u32 = 3_600;

fn judge_times(record: &RegistryRecord) -> Result<(), AdmissionError> {
    let life_s = u64::from(record.token_life_s);
    if !(1..=TOKEN_LIFE_S_MAX).contains(&life_s) {
        return Err(AdmissionError::Setting(format!(
            "`token_life_s` is {life_s}; wanted 1 to {TOKEN_LIFE_S_MAX}"
        )));
    }
    if record.clock_skew_s > CLOCK_SKEW_S_MAX {
        return Err(AdmissionError::Setting(format!(
            "`clock_skew_s` is {}; wanted 0 to {CLOCK_SKEW_S_MAX}",
            record.clock_skew_s
        )));
    }
    Ok(())
}

fn judge_settings(settings: &RegistrySettings) -> Result<(), AdmissionError> {
    judge_ways(settings.ways.as_ref())?;
    settings.certificate_registration.as_ref().map_or(Ok(()), judge_rule).map_err(AdmissionError::Setting)
}

/// Whether these are ways into MQTT.
pub(crate) fn judge_ways(ways: Option<&BTreeSet<String>>) -> Result<(), AdmissionError> {
    let Some(unknown) = ways.into_iter().flatten().find(|way| Way::parse(way).is_none()) else {
        return Ok(());
    };
    let unknown: String = unknown.chars().take(32).flat_map(char::escape_debug).collect();
    let known: Vec<&str> = Way::ALL.iter().map(|way| way.as_str()).collect();
    Err(AdmissionError::Setting(format!("`ways` has `{unknown}`; wanted some of {}", known.join(", "))))
}

/// Source: RFC 8414 section 2 (`issuer`).
fn judge_issuer(issuer: &str) -> Result<(), AdmissionError> {
    let refuse = |why| Err(AdmissionError::Issuer { found: issuer.chars().take(128).collect(), why });
    let Some(rest) = issuer.strip_prefix("https://") else {
        return refuse("it does not begin with https://");
    };
    if rest.is_empty() || rest.starts_with('/') {
        return refuse("it has no host");
    }
    if issuer.ends_with('/') {
        return refuse("it ends in `/`");
    }
    if rest.contains(['?', '#', '@']) {
        return refuse("it has a query, a fragment or user information");
    }
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("it has a character outside ASCII, or white space");
    }
    Ok(())
}

/// No audience of a registry may stand for an issuer or for another registry: a token would be good
/// for two things.
fn judge_audiences(new: &RegistryRecord, others: &[Arc<RegistryRecord>]) -> Result<(), AdmissionError> {
    let refuse = |found: &str, taken_by: String| {
        Err(AdmissionError::AudienceTaken { found: found.to_owned(), taken_by })
    };
    let api = |record: &RegistryRecord| format!("{}/v1", record.issuer);
    let own = [Some(new.bridge_audience.as_str()), new.google.as_ref().map(|google| google.project.as_str())];
    for value in own.into_iter().flatten() {
        if value.is_empty() || value == new.issuer || value == api(new) {
            return refuse(value, format!("the issuer of `{}`, or nothing", new.name));
        }
        for other in others {
            if value == other.issuer || value == api(other) {
                return refuse(value, format!("the issuer of `{}`", other.name));
            }
            if value == other.bridge_audience {
                return refuse(value, format!("the bridge of `{}`", other.name));
            }
        }
    }
    if new.google.as_ref().is_some_and(|google| google.project == new.bridge_audience) {
        return refuse(&new.bridge_audience, "both project and bridge of this registry".into());
    }
    for other in others {
        if new.issuer == other.issuer || new.issuer == api(other) || api(new) == other.issuer {
            return refuse(&new.issuer, format!("the issuer of `{}`", other.name));
        }
        let theirs = [Some(&other.bridge_audience), other.google.as_ref().map(|google| &google.project)];
        if theirs.into_iter().flatten().any(|value| *value == new.issuer || *value == api(new)) {
            return refuse(&new.issuer, format!("an audience of `{}`", other.name));
        }
        if other.google.as_ref().is_some_and(|google| google.project == new.bridge_audience) {
            return refuse(&new.bridge_audience, format!("the project of `{}`", other.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_an_https_url_without_query_fragment_and_final_slash() {
        for good in ["https://localhost:8443", "https://id.example", "https://id.example/r/plant"] {
            assert!(judge_issuer(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "http://id.example",
            "https://",
            "https:///x",
            "https://id.example/",
            "https://a?b",
            "https://a#b",
            "https://u@a",
            "https://a b",
            "https://ä",
        ] {
            assert!(judge_issuer(bad).is_err(), "{bad}");
        }
    }
}
