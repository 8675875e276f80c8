//! The certificate authorities of a registry: whose certificates its principals may log in with.

use drawbridge_jose::{PublicKey, base64url_encode, sha256};
use drawbridge_names::{KeyId, RegistryName};
use drawbridge_registry::Ca;
use serde_json::json;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::enrol::is_label;
use crate::{Actor, Admission, AdmissionError, SessionsEnd};

/// Longest certificate of a CA, in bytes of DER.
const CA_BYTES_MAX: usize = 16 * 1024;
/// How many CAs a registry may have: each is read at every login by a certificate of theirs.
const CAS_MAX: usize = 100;

/// What the certificate of a CA says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFacts {
    /// Its subject, as text.
    pub subject: String,
    /// Good from this second on.
    pub not_before_s: u64,
    /// Good until this second, inclusive.
    pub not_after_s: u64,
}

impl Admission {
    /// Registers a CA from its certificate, DER; answers it, what it says of itself, and whether it is new.
    ///
    /// # Errors
    /// [`AdmissionError::Ca`] when it is no certificate of a CA, or its time is over.
    pub async fn add_ca(
        &self,
        registry: &RegistryName,
        der: Vec<u8>,
        label: Option<String>,
        actor: &Actor,
    ) -> Result<(Ca, CaFacts, bool), AdmissionError> {
        let facts = ca_facts(&der)?;
        let now_s = self.now_s();
        if facts.not_after_s < now_s {
            return Err(AdmissionError::Ca("its time is over".to_owned()));
        }
        if label.as_deref().is_some_and(|label| !is_label(label)) {
            return Err(AdmissionError::Ca("`label` has 1 to 128 printable ASCII characters".to_owned()));
        }
        self.must_exist(registry)?;
        let there = self.inner.store.cas(registry).await?;
        let fingerprint = sha256(&der);
        if let Some(ca) = there.iter().find(|ca| ca.fingerprint == fingerprint) {
            return Ok((ca.clone(), facts, false));
        }
        if there.len() >= CAS_MAX {
            return Err(AdmissionError::Ca(format!("{CAS_MAX} are registered, remove one first")));
        }
        let ca = Ca { fingerprint, der, label, added_s: now_s };
        let detail = json!({ "subject": facts.subject, "not_after_s": facts.not_after_s, "label": ca.label });
        let audit = self.audit(actor, "ca.add", &fingerprint_hex(&fingerprint), &detail);
        let new = self.inner.store.add_ca(registry, ca.clone(), audit).await?;
        Ok((ca, facts, new))
    }

    /// The CAs of a registry with what their certificates say, in byte order of fingerprint.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such registry, or the store does not answer.
    pub async fn cas(&self, registry: &RegistryName) -> Result<Vec<(Ca, CaFacts)>, AdmissionError> {
        self.must_exist(registry)?;
        let cas = self.inner.store.cas(registry).await?;
        cas.into_iter().map(|ca| ca_facts(&ca.der).map(|facts| (ca, facts))).collect()
    }

    /// Removes a CA: no certificate of it logs in any more, and the sessions that it has let in end. Answers
    /// whether it was there.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such registry, or the store does not answer.
    pub async fn remove_ca(
        &self,
        registry: &RegistryName,
        fingerprint: &[u8; 32],
        actor: &Actor,
    ) -> Result<bool, AdmissionError> {
        self.must_exist(registry)?;
        let audit = self.audit(actor, "ca.remove", &fingerprint_hex(fingerprint), &json!({}));
        let removed = self.inner.store.remove_ca(registry, fingerprint, audit).await?;
        self.inner.cache.cas_changed(registry);
        // Also where it was gone before: whoever removed it may not have come this far.
        self.tell(&SessionsEnd::Ca { registry: registry.clone(), ca: ca_id(fingerprint) });
        Ok(removed)
    }
}

/// A fingerprint as 64 hex digits.
#[must_use]
pub fn fingerprint_hex(fingerprint: &[u8; 32]) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A CA as what a session remembers of it.
pub(crate) fn ca_id(fingerprint: &[u8; 32]) -> KeyId {
    KeyId::parse(&base64url_encode(fingerprint)).expect("a digest is as long as a thumbprint")
}

/// Judges a certificate as that of a CA.
///
/// Source: RFC 5280 sections 4.2.1.3 and 4.2.1.9.
fn ca_facts(der: &[u8]) -> Result<CaFacts, AdmissionError> {
    let refuse = |found: &str| AdmissionError::Ca(found.to_owned());
    if der.len() > CA_BYTES_MAX {
        return Err(refuse("it is longer than 16 KiB"));
    }
    let (rest, certificate) = X509Certificate::from_der(der)
        .map_err(|_| refuse("it is no X.509 certificate; send one in PEM or DER"))?;
    if !rest.is_empty() {
        return Err(refuse("bytes follow its end; send exactly one certificate"));
    }
    let constraints =
        certificate.basic_constraints().map_err(|_| refuse("its extensions contradict each other"))?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(refuse("it is none of a CA (basic constraints `CA:TRUE` are missing)"));
    }
    let usage = certificate.key_usage().map_err(|_| refuse("its extensions contradict each other"))?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(refuse("its key usage does not allow to sign certificates"));
    }
    PublicKey::from_certificate_der(der)
        .map_err(|error| refuse(&format!("its key is not accepted: {error}")))?;
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let validity = certificate.validity();
    Ok(CaFacts {
        subject: certificate.subject().to_string(),
        not_before_s: seconds(validity.not_before.timestamp()),
        not_after_s: seconds(validity.not_after.timestamp()),
    })
}
