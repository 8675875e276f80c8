//! Devices that register themselves by the word of their manufacturer: software statements.
//!
//! A statement that names one device and its key admits that device at once. Any other admits nobody:
//! what registers by it waits for an operator. For such a statement an enrolment is made when it is first
//! used, so it is counted, listed, ended and approved as every enrolment is.

use drawbridge_identity::{Candidate, Refusal, SoftwareStatement, Stated, StatedDevices};
use drawbridge_jose::{base64url_encode, sha256};
use drawbridge_names::{PolicyName, PrincipalKind, PrincipalName};
use drawbridge_registry::{AddPrincipal, Enrolment, EnrolmentNames, Principal, Role};
use serde_json::json;

use crate::cache::Loaded;
use crate::enrol::{Applicant, RegisterRequest, Registered, device_policy, over};
use crate::registries::Realm;
use crate::{Actor, Admission, Peer, unavailable};

/// How long the enrolment of a statement may be good, in seconds, whatever the statement says: a year. Then
/// the next device makes a new one.
const STATEMENT_ENROLMENT_LIFE_S: u64 = 366 * 86_400;
/// How many enrolments may stand that statements of one manufacturer have made.
const STATEMENT_ENROLMENTS_MAX: usize = 1_000;

impl Admission {
    pub(crate) async fn register_by_statement(
        &self,
        registry: &drawbridge_names::RegistryName,
        text: &str,
        request: &RegisterRequest<'_>,
    ) -> Result<Registered, Refusal> {
        let realm = self.known_realm(registry)?;
        let (maker, stated) = self.stated(&realm, text).await?;
        let name = match (&stated.devices, request.name) {
            // What the statement says wins over what the device asks for (RFC 7591 section 2.3).
            (StatedDevices::One { name, .. } | StatedDevices::Named(name), _) => name.clone(),
            (StatedDevices::Pattern(_), Some(name)) => PrincipalName::parse(name)
                .map_err(|error| Refusal::Enrolment(format!("`client_id_hint`: {error}")))?,
            (StatedDevices::Pattern(_), None) => {
                return Err(Refusal::Enrolment("`client_id_hint` is missing".to_owned()));
            }
        };
        let authority = sha256(text.as_bytes());
        let keys = self.proven_keys(&realm, &name, &authority, request)?;
        let names = match stated.devices {
            StatedDevices::One { ref kid, .. } => {
                if keys.len() != 1 || keys[0].thumbprint() != kid.as_str() {
                    return Err(Refusal::Statement("it is for another key (`cnf.jkt`)".to_owned()));
                }
                return self.admit_stated(&realm, &maker, &stated, &name, &keys, request.peer).await;
            }
            StatedDevices::Named(ref name) => EnrolmentNames::Ids(vec![name.to_string()]),
            StatedDevices::Pattern(ref pattern) => EnrolmentNames::Pattern(pattern.clone()),
        };
        let enrolment = self.enrolment_of(&realm, &maker, &stated, names, authority).await?;
        let claimed = self.claim(&realm, &enrolment, name, keys, request.peer).await;
        claimed.map_err(|refusal| match refusal {
            Refusal::EnrolmentOver(why) => {
                Refusal::Statement(format!("its enrolment {} {why}", enrolment.id))
            }
            refusal => refusal,
        })
    }

    /// Judges a statement and whether its signer may make any.
    async fn stated(&self, realm: &Realm, text: &str) -> Result<(std::sync::Arc<Loaded>, Stated), Refusal> {
        let statement = SoftwareStatement::parse(text, self.inner.config.http_token_bytes_max)?;
        let (issuer, skew_s, now_s) = (&realm.record.issuer, realm.record.clock_skew_s.into(), self.now_s());
        let verify = |candidate: Option<&Candidate<'_>>| {
            let stated = statement.verify(candidate, issuer, skew_s, now_s, &self.inner.checker);
            stated.map_err(|refusal| match refusal.for_owner() {
                Some(text) => Refusal::StatementInvalid(text),
                None => refusal,
            })
        };
        let (loaded, stated) = self.proven(&realm.record.name, statement.claimed().as_ref(), verify).await?;
        let principal = &loaded.principal;
        let is_maker = principal.kind == PrincipalKind::Application
            && principal.settings.roles.contains(&Role::Manufacturer)
            && !principal.blocked
            && !principal.pending;
        if !is_maker {
            let found = format!("`{}` may not sign statements here (role `manufacturer`)", principal.name);
            return Err(Refusal::Statement(found));
        }
        Ok((loaded, stated))
    }

    /// The one device that a statement names with its key: admitted at once.
    async fn admit_stated(
        &self,
        realm: &Realm,
        maker: &Loaded,
        stated: &Stated,
        name: &PrincipalName,
        public: &[drawbridge_jose::PublicKey],
        peer: Peer,
    ) -> Result<Registered, Refusal> {
        let registry = &realm.record.name;
        let policy = self.policy_of_maker(realm, &maker.principal).await?;
        let Applicant { principal, keys, mut detail, registration_token } =
            self.applicant(registry, name, public, Some(policy), false);
        detail["manufacturer"] = json!(maker.principal.name.as_str());
        detail["software_id"] = json!(stated.software_id);
        let audit = self.audit(&Actor::Device(name.clone()), "device.enrol", name.as_str(), &detail);
        let stored = self.inner.store.add_principal(principal, keys, audit).await;
        match stored.map_err(|error| unavailable(&error))? {
            AddPrincipal::Added => self.registered(registry, name, registration_token).await,
            why => {
                // Registered by its own statement before, or by its operator: with this key it is the same.
                self.registered_before(registry, name, public, why, peer, |there| {
                    there.registration.is_some()
                })
                .await
            }
        }
    }

    /// The enrolment that stands for a statement; made when it is first used.
    async fn enrolment_of(
        &self,
        realm: &Realm,
        maker: &Loaded,
        stated: &Stated,
        names: EnrolmentNames,
        digest: [u8; 32],
    ) -> Result<Enrolment, Refusal> {
        let (registry, store, now_s) = (&realm.record.name, &self.inner.store, self.now_s());
        let find = || async { store.enrolment_by_token(registry, &digest).await };
        if let Some(enrolment) = find().await.map_err(|error| unavailable(&error))? {
            return match over(&enrolment, now_s) {
                Some(why) => Err(Refusal::Statement(format!("its enrolment {} {why}", enrolment.id))),
                None => Ok(enrolment),
            };
        }
        let label = format!("statement of {}: {}", maker.principal.name, stated.software_id);
        let of_maker = format!("statement of {}: ", maker.principal.name);
        let standing = store.enrolments(registry).await.map_err(|error| unavailable(&error))?;
        let standing = standing.iter().filter(|enrolment| {
            over(enrolment, now_s).is_none()
                && enrolment.label.as_deref().is_some_and(|label| label.starts_with(&of_maker))
        });
        if standing.count() >= STATEMENT_ENROLMENTS_MAX {
            let found = format!(
                "{STATEMENT_ENROLMENTS_MAX} statements of `{}` are in use, end some (`drawbridge enrol revoke`)",
                maker.principal.name
            );
            return Err(Refusal::Statement(found));
        }
        let enrolment = Enrolment {
            // The same for whoever comes first of two at once.
            id: base64url_encode(&digest[..16]),
            token_digest: digest,
            label: Some(label),
            names,
            claims_max: self.inner.config.statement_devices_max,
            claims: 0,
            policy: Some(self.policy_of_maker(realm, &maker.principal).await?),
            auto: false,
            expires_s: stated.exp_s.min(now_s + STATEMENT_ENROLMENT_LIFE_S),
            ended: false,
            created_s: now_s,
        };
        let detail = json!({
            "manufacturer": maker.principal.name.as_str(),
            "software_id": stated.software_id,
            "count": enrolment.claims_max,
            "expires_s": enrolment.expires_s,
        });
        let actor = Actor::Application(maker.principal.name.clone());
        let audit = self.audit(&actor, "enrolment.statement", &enrolment.id, &detail);
        match store.add_enrolment(registry, enrolment.clone(), audit).await {
            Ok(()) => Ok(enrolment),
            // Two devices were first at once: the other's enrolment is this one.
            Err(error) => match find().await {
                Ok(Some(enrolment)) => Ok(enrolment),
                _ => Err(unavailable(&error)),
            },
        }
    }

    /// The policy of devices that a manufacturer vouches for: `NAME.devices` if there is one, else `device`.
    async fn policy_of_maker(&self, realm: &Realm, maker: &Principal) -> Result<PolicyName, Refusal> {
        let Ok(own) = PolicyName::parse(&format!("{}.devices", maker.name)) else {
            return Ok(device_policy());
        };
        let found = self.inner.store.policy(&realm.record.name, &own).await;
        Ok(if found.map_err(|error| unavailable(&error))?.is_some() { own } else { device_policy() })
    }
}
