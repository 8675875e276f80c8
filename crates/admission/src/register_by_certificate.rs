//! Devices that register themselves by connecting with a certificate of a CA of the registry, where the registry
//! allows it: just-in-time registration.
//!
//! Its common name becomes the device's name. The device gets no key: the CA speaks for its name from then on, so a new
//! certificate of the same name is the same device. For each CA an enrolment is made when the first device comes, so what
//! came by it is counted, listed, ended and approved as every enrolment is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_identity::{LeafCertificate, NotProven, Refusal, judge_pattern, pattern_fits};
use drawbridge_jose::{base64url_encode, sha256};
use drawbridge_names::{PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddPrincipal, CertificateRegistration, Enrol, Enrolment, EnrolmentNames, Principal,
};
use serde_json::json;

use crate::cas::fingerprint_hex;
use crate::connect::Proof;
use crate::enrol::{device_policy, over};
use crate::handshake::{VouchingCa, by_ca, is_named};
use crate::registries::Realm;
use crate::{Actor, Admission, unavailable};

/// How many devices may come by one CA in all.
const CLAIMS_MAX: u32 = 10_000_000;
/// Most devices that may wait at a time: they are counted when one more comes.
const PENDING_MAX: u32 = 10_000;
/// Most devices in an hour.
const HOURLY_MAX: u32 = 1_000_000;
/// 9999-12-31T23:59:59Z.
const NO_END_S: u64 = 253_402_300_799;
const HOUR: Duration = Duration::from_secs(3_600);

/// How many devices have come in the hour that runs, in each registry.
#[derive(Default)]
pub(crate) struct HourlyCounts(Mutex<HashMap<RegistryName, (Instant, u32)>>);

impl HourlyCounts {
    /// Whether one more may come.
    fn take(&self, registry: &RegistryName, now: Instant, max: u32) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count) = counts.entry(registry.clone()).or_insert((now, 0));
        if now.saturating_duration_since(*began) >= HOUR {
            (*began, *count) = (now, 0);
        }
        let room = *count < max;
        *count += u32::from(room);
        room
    }
}

impl Admission {
    /// A device of which nothing is known but that a CA of the registry vouches for it.
    pub(crate) async fn register_by_certificate(
        &self,
        realm: &Realm,
        leaf: &LeafCertificate,
        ca: &VouchingCa,
    ) -> Result<Proof, Refusal> {
        let registry = &realm.record.name;
        let rule = realm.record.settings.certificate_registration.as_ref();
        let rule = rule.ok_or(Refusal::NotProven(NotProven::Certificate))?;
        let refuse = |why: &str| Err(Refusal::CertificateRegistration(why.to_owned()));
        if !rule.cas.is_empty() && !rule.cas.contains(&fingerprint_hex(&ca.fingerprint)) {
            return refuse("its CA registers none");
        }
        let Some(name) = leaf.common_name().and_then(|name| PrincipalName::parse(name).ok()) else {
            return refuse("its subject has no common name that a device could have, or several");
        };
        if !pattern_fits(&rule.names, name.as_str()) {
            return refuse("its common name is not one of those that may register themselves");
        }
        if self.candidate(registry, Some(&name)).await?.is_some() {
            return refuse("a principal of its common name is there, whose record names another certificate");
        }
        if !rule.auto && self.waiting(registry, rule.pending_max).await? >= rule.pending_max as usize {
            return refuse("as many devices wait for an operator as may");
        }
        if !self.inner.certificates_hourly.take(registry, self.inner.clock.instant(), rule.hourly_max) {
            return refuse("as many devices have registered in this hour as may");
        }
        let enrolment = self.enrolment_of_ca(realm, rule, ca).await?;
        let mut uid = [0; 8];
        self.inner.random.fill(&mut uid);
        let uid = Uid(u64::from_be_bytes(uid));
        let principal = Principal {
            policy: enrolment.policy.clone(),
            pending: !enrolment.auto,
            enrolment: Some(enrolment.id.clone()),
            ..Principal::new(registry.clone(), uid, name.clone(), PrincipalKind::Device, self.now_s())
        };
        let detail = json!({
            "uid": uid.to_string(),
            "certificate": leaf.digest,
            "ca": fingerprint_hex(&ca.fingerprint),
            "policy": principal.policy.as_ref().map(PolicyName::as_str),
            "pending": principal.pending,
            "enrolment": enrolment.id,
        });
        let audit = self.audit(&Actor::Device(name.clone()), "device.certificate", name.as_str(), &detail);
        let stored =
            self.inner.store.enrol(registry, &enrolment.id, principal, Vec::new(), self.now_s(), audit).await;
        match stored.map_err(|error| unavailable(&error))? {
            Enrol::Enrolled => {
                self.inner.cache.principal_changed(registry, &name);
                tracing::info!(%registry, %name, pending = !enrolment.auto, "a device registered itself by its certificate");
            }
            // Of two connections at once the other was first.
            Enrol::Refused(AddPrincipal::NameTaken(_)) => {}
            Enrol::Ended => return refuse("an operator has ended the enrolment of its CA"),
            Enrol::Spent => return refuse("as many devices came by its CA as may"),
            Enrol::Refused(_) => {
                return Err(Refusal::Unavailable("the random number drawn is in use already".to_owned()));
            }
        }
        let loaded = self.candidate(registry, Some(&name)).await?.filter(|loaded| is_named(leaf, loaded));
        let loaded = loaded.ok_or(Refusal::NotProven(NotProven::Certificate))?;
        Ok(by_ca(loaded, leaf, ca.clone()))
    }

    /// How many devices wait for an operator, as far as `max`.
    async fn waiting(&self, registry: &RegistryName, max: u32) -> Result<usize, Refusal> {
        let waiting = self.inner.store.enrolled(registry, None, true, None, max as usize).await;
        Ok(waiting.map_err(|error| unavailable(&error))?.len())
    }

    /// The enrolment that stands for a CA and the rule; made when it is first used. Another rule makes another one.
    async fn enrolment_of_ca(
        &self,
        realm: &Realm,
        rule: &CertificateRegistration,
        ca: &VouchingCa,
    ) -> Result<Enrolment, Refusal> {
        let (registry, store) = (&realm.record.name, &self.inner.store);
        let rule_text = serde_json::to_string(rule).expect("a rule is texts, flags and numbers");
        let hex = fingerprint_hex(&ca.fingerprint);
        // No token of an enrolment begins like this, so none has this digest.
        let digest = sha256(format!("certificate registration\0{registry}\0{hex}\0{rule_text}").as_bytes());
        let find = || async { store.enrolment_by_token(registry, &digest).await };
        if let Some(enrolment) = find().await.map_err(|error| unavailable(&error))? {
            return match over(&enrolment, self.now_s()) {
                Some(why) => Err(Refusal::CertificateRegistration(format!("its enrolment {why}"))),
                None => Ok(enrolment),
            };
        }
        let policy = match &rule.policy {
            Some(policy) => PolicyName::parse(policy).map_err(|_| {
                Refusal::CertificateRegistration("the policy of its devices is no name".to_owned())
            })?,
            None => device_policy(),
        };
        let enrolment = Enrolment {
            // The same for whoever comes first of two at once.
            id: base64url_encode(&digest[..16]),
            token_digest: digest,
            label: Some(format!("certificates of CA {}", &hex[..16])),
            names: EnrolmentNames::Pattern(rule.names.clone()),
            claims_max: CLAIMS_MAX,
            claims: 0,
            policy: Some(policy),
            auto: rule.auto,
            expires_s: NO_END_S,
            ended: false,
            created_s: self.now_s(),
        };
        let detail = json!({ "ca": hex, "rule": rule });
        let audit = self.audit(&Actor::Server, "enrolment.certificates", &enrolment.id, &detail);
        match store.add_enrolment(registry, enrolment.clone(), audit).await {
            Ok(()) => Ok(enrolment),
            // Two devices were first at once: the other's enrolment is this one.
            Err(error) => match find().await {
                Ok(Some(enrolment)) => Ok(enrolment),
                _ => Err(unavailable(&error)),
            },
        }
    }
}

/// What is wrong with a rule, if something is.
pub(crate) fn judge_rule(rule: &CertificateRegistration) -> Result<(), String> {
    judge_pattern(&rule.names).map_err(|found| format!("`certificate_registration.names` {found}"))?;
    if let Some(ca) = rule
        .cas
        .iter()
        .find(|ca| ca.len() != 64 || !ca.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    {
        let ca: String = ca.chars().take(64).flat_map(char::escape_debug).collect();
        return Err(format!(
            "`certificate_registration.cas` has `{ca}`; wanted the fingerprint of a CA, 64 hex digits in lower case"
        ));
    }
    for (member, found, max) in
        [("pending_max", rule.pending_max, PENDING_MAX), ("hourly_max", rule.hourly_max, HOURLY_MAX)]
    {
        if !(1..=max).contains(&found) {
            return Err(format!("`certificate_registration.{member}` is {found}; wanted 1 to {max}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all others are sums")]
    use super::*;

    #[test]
    fn so_many_come_in_an_hour_and_in_the_next_one_again() {
        let (counts, began) = (HourlyCounts::default(), Instant::now());
        let (one, other) = (RegistryName::default_registry(), RegistryName::parse("plant").expect("a name"));
        let take = |registry, s| counts.take(registry, began + Duration::from_secs(s), 2);
        assert!(take(&one, 0) && take(&one, 1) && !take(&one, 3_599));
        assert!(take(&other, 3), "each registry has its own");
        assert!(take(&one, 3_600) && take(&one, 3_601) && !take(&one, 3_602));
    }

    #[test]
    fn a_rule_is_judged_before_it_counts() {
        let rule = CertificateRegistration::default;
        let fingerprint = "0123456789abcdef".repeat(4);
        for (case, rule, is_good) in [
            ("as it is", rule(), true),
            ("a CA", CertificateRegistration { cas: [fingerprint.clone()].into(), ..rule() }, true),
            (
                "upper case",
                CertificateRegistration { cas: [fingerprint.to_uppercase()].into(), ..rule() },
                false,
            ),
            ("short", CertificateRegistration { cas: ["01".to_owned()].into(), ..rule() }, false),
            ("no pattern", CertificateRegistration { names: String::new(), ..rule() }, false),
            ("nobody may wait", CertificateRegistration { pending_max: 0, ..rule() }, false),
            ("all may wait", CertificateRegistration { pending_max: PENDING_MAX + 1, ..rule() }, false),
            ("none in an hour", CertificateRegistration { hourly_max: 0, ..rule() }, false),
        ] {
            assert_eq!(judge_rule(&rule).is_ok(), is_good, "{case}");
        }
    }
}
