//! Bulk import: many devices in one step of the store, each judged by itself.

use std::collections::{BTreeMap, BTreeSet};

use drawbridge_identity::{NotProven, Refusal};
use drawbridge_names::{PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddPrincipal, ClockTrust, Key, KeyState, Known, Principal, PrincipalSettings, Role,
};
use serde_json::json;

use crate::admin_token::ADMIN_TOKEN_PREFIX;
use crate::enrol::device_policy;
use crate::roles::level;
use crate::{Actor, Admission, AdmissionError, NewKey};

/// A device to be imported.
#[derive(Debug, Clone)]
pub struct ImportDevice {
    /// Its name.
    pub name: PrincipalName,
    /// Its keys.
    pub keys: Vec<NewKey>,
    /// Its policy; `None`: `device`.
    pub policy: Option<PolicyName>,
    /// Values for `${attr.x}`.
    pub attributes: BTreeMap<String, String>,
    /// Accept IoT IdP JWTs on the alias paths: a weakness.
    pub legacy_assertions: bool,
    /// The trust in its clock; `None`: as the registry says.
    pub clock: Option<ClockTrust>,
    /// May act for the devices that are linked to it.
    pub gateway: bool,
}

/// Where a batch comes from, for its one row of audit.
#[derive(Debug, Clone, Copy)]
pub struct ImportSource {
    /// The line on which the batch begins, from 1.
    pub first_line: u64,
    /// SHA-256 over the lines of the batch, each with its line end.
    pub lines_digest: [u8; 32],
}

/// What became of one device of a batch.
#[derive(Debug, Clone)]
pub enum Imported {
    /// It is registered now.
    Added,
    /// It was registered before, with the same keys; nothing was changed.
    Exists,
    /// It is not registered.
    Refused(AdmissionError),
}

impl Admission {
    /// Registers many devices in one step with one row of audit; answers in the order given. What cannot be
    /// registered leaves the others alone.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such registry, or the store does not answer: then nothing was
    /// changed, or (only of a device whose random number was taken, once in centuries) all others were.
    pub async fn import(
        &self,
        registry: &RegistryName,
        batch: Vec<ImportDevice>,
        source: ImportSource,
        actor: &Actor,
    ) -> Result<Vec<Imported>, AdmissionError> {
        self.must_exist(registry)?;
        let mut outcomes: Vec<Option<Imported>> = Vec::with_capacity(batch.len());
        let mut policies: BTreeSet<PolicyName> = BTreeSet::new();
        let mut records = Vec::with_capacity(batch.len());
        let mut places = Vec::with_capacity(batch.len());
        for (at, device) in batch.into_iter().enumerate() {
            match self.record_of(registry, device, &mut policies).await {
                Ok(record) => {
                    records.push(record);
                    places.push(at);
                    outcomes.push(None);
                }
                Err(AdmissionError::Store(error)) => return Err(error.into()),
                Err(error) => outcomes.push(Some(Imported::Refused(error))),
            }
        }
        let mut pending: Vec<usize> = (0..records.len()).collect();
        while !pending.is_empty() {
            let offered: Vec<(Principal, Vec<Key>)> = pending.iter().map(|at| records[*at].clone()).collect();
            let answers = self.import_records(registry, offered, &source, actor).await?;
            let mut again = Vec::new();
            for (at, answer) in pending.iter().zip(answers) {
                let (principal, keys) = &mut records[*at];
                let outcome = match answer {
                    AddPrincipal::Added => {
                        self.inner.cache.principal_changed(registry, &principal.name);
                        Imported::Added
                    }
                    AddPrincipal::UidTaken => {
                        principal.uid = self.draw_uid();
                        again.push(*at);
                        continue;
                    }
                    AddPrincipal::KeyInUse(kid) => Imported::Refused(AdmissionError::KeyInUse(kid)),
                    AddPrincipal::NameTaken(kind) => {
                        let there = self.inner.store.known(registry, &principal.name).await?;
                        match there {
                            Some(there) if is_the_same(&there, keys) => Imported::Exists,
                            _ => Imported::Refused(AdmissionError::NameTaken {
                                name: principal.name.clone(),
                                kind,
                            }),
                        }
                    }
                };
                outcomes[places[*at]] = Some(outcome);
            }
            pending = again;
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.expect("each device was answered above")).collect())
    }

    /// Whether the token that a long import began with still stands, and with it the role: what it is bound
    /// to was proven at its beginning.
    ///
    /// # Errors
    /// [`Refusal`] when it stands no more.
    pub async fn still_operates(&self, registry: &RegistryName, token: &str) -> Result<(), Refusal> {
        if token.starts_with(ADMIN_TOKEN_PREFIX) {
            let stands = self.is_admin_token(token).await?;
            return if stands { Ok(()) } else { Err(Refusal::NotProven(NotProven::UnknownToken)) };
        }
        let bytes_max = self.inner.config.http_token_bytes_max;
        let read = self.read_token(Some(registry), token, bytes_max).await?;
        let loaded = self.standing(&read.realm, &read.claims).await?;
        if loaded.principal.settings.roles.iter().any(|role| level(*role) >= level(Role::Operator)) {
            return Ok(());
        }
        Err(Refusal::Role(format!("{} is no operator any more", loaded.principal.name)))
    }

    async fn import_records(
        &self,
        registry: &RegistryName,
        offered: Vec<(Principal, Vec<Key>)>,
        source: &ImportSource,
        actor: &Actor,
    ) -> Result<Vec<AddPrincipal>, AdmissionError> {
        let name =
            |record: Option<&(Principal, Vec<Key>)>| record.map(|(principal, _)| principal.name.to_string());
        let (first, last) = (name(offered.first()), name(offered.last()));
        let digest: String = source.lines_digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let detail = json!({
            "count": offered.len(), "first": first, "last": last,
            "first_line": source.first_line, "sha256": digest,
        });
        let audit = self.audit(actor, "device.import", first.as_deref().unwrap_or_default(), &detail);
        Ok(self.inner.store.import_principals(registry, offered, audit).await?)
    }

    async fn record_of(
        &self,
        registry: &RegistryName,
        device: ImportDevice,
        policies: &mut BTreeSet<PolicyName>,
    ) -> Result<(Principal, Vec<Key>), AdmissionError> {
        let ImportDevice { name, keys, policy, attributes, legacy_assertions, clock, gateway } = device;
        let policy = policy.unwrap_or_else(device_policy);
        if !policies.contains(&policy) {
            self.policy_must_exist(registry, Some(&policy)).await?;
            policies.insert(policy.clone());
        }
        let active_max = self.inner.config.keys_active_max;
        if keys.len() > active_max {
            return Err(AdmissionError::TooManyKeys { active: keys.len(), active_max });
        }
        let keys = keys.into_iter().map(|key| self.key_of(key)).collect::<Result<Vec<_>, _>>()?;
        let now_s = self.now_s();
        let principal = Principal {
            policy: Some(policy),
            attributes,
            legacy_assertions,
            settings: PrincipalSettings { clock, gateway, ..PrincipalSettings::default() },
            ..Principal::new(registry.clone(), self.draw_uid(), name, PrincipalKind::Device, now_s)
        };
        Ok((principal, keys))
    }

    fn draw_uid(&self) -> Uid {
        let mut uid = [0; 8];
        self.inner.random.fill(&mut uid);
        Uid(u64::from_be_bytes(uid))
    }
}

/// Whether a device is there with exactly these keys: then the line was imported before.
fn is_the_same(there: &Known, keys: &[Key]) -> bool {
    let kids = |keys: &mut dyn Iterator<Item = &Key>| -> BTreeSet<String> {
        keys.map(|key| key.kid.as_str().to_owned()).collect()
    };
    let active = kids(&mut there.keys.iter().filter(|key| key.state == KeyState::Active));
    there.principal.kind == PrincipalKind::Device && active == kids(&mut keys.iter())
}
