//! Whoever has proven a key in the TLS handshake: by a certificate, or by a raw public key.
//!
//! The key says whose it is: a key belongs to one principal of a registry for ever. Only for a certificate of a CA, whose key
//! nobody has registered, are names looked at, and then only those that a record or the CA itself has written.
//! Each CONNECT is judged anew, also over TLS that was resumed: a ticket carries the certificate, never a verdict.

use std::sync::Arc;

use drawbridge_identity::{LeafCertificate, NotProven, Refusal, verify_client_chain};
use drawbridge_jose::PublicKey;
use drawbridge_names::{KeyId, PrincipalKind, PrincipalName, RegistryName};
use drawbridge_policy::{SubjectField, VerifiedCertificate};

use crate::cache::{Loaded, Stamp};
use crate::cas::ca_id;
use crate::client::{ClientCertificate, field_of};
use crate::client_id::named_device;
use crate::connect::{ConnectRequest, Proof};
use crate::registries::Realm;
use crate::ways::{PeerProof, Way};
use crate::{Admission, unavailable};

/// The CA that vouched for a certificate.
#[derive(Debug, Clone)]
pub(crate) struct VouchingCa {
    /// See [`crate::Connected::ca`].
    pub(crate) ca: KeyId,
    /// SHA-256 of it.
    pub(crate) fingerprint: [u8; 32],
    /// When the CAs of the registry were read.
    pub(crate) stamp: Stamp,
}

/// Whose the key of a handshake is.
enum Holder {
    /// This principal's.
    Known(Box<Proof>),
    /// A CA of the registry vouches for it, and no record names it.
    Vouched(Box<LeafCertificate>, VouchingCa),
}

impl Admission {
    /// By the handshake alone.
    ///
    /// Source: RFC 8705 section 2 for what makes a certificate a principal's, RFC 7250 for raw keys.
    pub(crate) async fn prove_by_handshake(
        &self,
        request: &ConnectRequest<'_>,
    ) -> Result<(Arc<Realm>, Proof), Refusal> {
        let realm = self.realm_of_request(request)?;
        let peer = request.tls.and_then(|tls| tls.peer.as_ref());
        let peer = peer.ok_or(Refusal::NotProven(NotProven::Certificate))?;
        let proof = match self.holder(&realm, request, peer).await? {
            Holder::Known(proof) => *proof,
            Holder::Vouched(leaf, ca) => self.register_by_certificate(&realm, &leaf, &ca).await?,
        };
        Ok((realm, proof))
    }

    /// What the handshake proves beside another credential must be the same principal. A key that is nobody's is
    /// refused too: it would say that the device is one that it is not, and nobody would notice.
    pub(crate) async fn judge_beside(
        &self,
        realm: &Realm,
        request: &ConnectRequest<'_>,
        proof: &Proof,
    ) -> Result<(), Refusal> {
        let Some(peer) = request.tls.and_then(|tls| tls.peer.as_ref()) else { return Ok(()) };
        let way = match peer {
            PeerProof::Certificate(_) => Way::Certificate,
            PeerProof::RawKey(_) => Way::RawKey,
        };
        // Where nobody comes in by it, it says nothing; and a token that is bound to it has named it itself.
        if !request.ways.allows(way) || proof.names_handshake {
            return Ok(());
        }
        match self.holder(realm, request, peer).await? {
            Holder::Known(other) => {
                let uid = other.loaded.principal.uid;
                let gateway = proof.gateway.as_ref().map(|gateway| gateway.principal.uid);
                if uid == proof.loaded.principal.uid || Some(uid) == gateway {
                    Ok(())
                } else {
                    Err(Refusal::TwoPrincipals)
                }
            }
            Holder::Vouched(..) => Err(Refusal::NotProven(NotProven::Certificate)),
        }
    }

    async fn holder(
        &self,
        realm: &Realm,
        request: &ConnectRequest<'_>,
        peer: &PeerProof,
    ) -> Result<Holder, Refusal> {
        let registry = &realm.record.name;
        let unknown = Refusal::NotProven(NotProven::Certificate);
        let mut names = claimed_by(request);
        let certificate = match peer {
            PeerProof::Certificate(certificate) => certificate,
            PeerProof::RawKey(spki) => {
                let key =
                    PublicKey::from_spki_der(spki).ok().and_then(|key| KeyId::parse(key.thumbprint()).ok());
                let key = key.ok_or(unknown.clone())?;
                let proof = self.proven_key(registry, &key, &names).await?.ok_or(unknown)?;
                return Ok(Holder::Known(Box::new(proof)));
            }
        };
        let leaf =
            certificate.chain_der.first().and_then(|der| LeafCertificate::parse(der)).ok_or(unknown)?;
        if let Some(kid) = leaf.thumbprint.as_deref().and_then(|kid| KeyId::parse(kid).ok())
            && let Some(proof) = self.proven_key(registry, &kid, &names).await?
        {
            // Its own dates say nothing that its owner could not have written otherwise: those of the registered
            // key count, which a certificate that registered it has set.
            return Ok(Holder::Known(Box::new(proof)));
        }
        let vouching = self.vouched(registry, certificate).await?;
        if let Some(name) = leaf.common_name().and_then(|name| PrincipalName::parse(name).ok())
            && !names.contains(&name)
        {
            names.push(name);
        }
        for name in names {
            let Some(loaded) = self.candidate(registry, Some(&name)).await? else { continue };
            if is_named(&leaf, &loaded) {
                return Ok(Holder::Known(Box::new(by_ca(loaded, &leaf, vouching))));
            }
        }
        Ok(Holder::Vouched(Box::new(leaf), vouching))
    }

    /// Who has registered this key; those of these names are in memory most of the time. `None`: nobody has. One that was
    /// taken back, has ended or is not good yet is refused, whoever else vouches for it.
    async fn proven_key(
        &self,
        registry: &RegistryName,
        kid: &KeyId,
        names: &[PrincipalName],
    ) -> Result<Option<Proof>, Refusal> {
        let has_it = |loaded: &Arc<Loaded>| loaded.keys.iter().any(|key| key.kid == *kid);
        let mut found = None;
        for name in names {
            found = self.candidate(registry, Some(name)).await?.filter(has_it);
            if found.is_some() {
                break;
            }
        }
        if found.is_none() {
            let owner = self.inner.store.owner_of_key(registry, kid).await;
            let owner = owner.map_err(|error| unavailable(&error))?;
            let Some((_, owner)) = owner else { return Ok(None) };
            found = self.candidate(registry, Some(&owner)).await?.filter(has_it);
        }
        let no_key = Refusal::NotProven(NotProven::NoKey);
        let loaded = found.ok_or(no_key.clone())?;
        loaded.ring.usable(kid, self.now_s()).ok_or(no_key)?;
        self.used(registry, kid);
        Ok(Some(Proof { kid: Some(kid.clone()), proven: true, ..Proof::of(loaded) }))
    }

    /// The CA of the registry that vouches for a certificate.
    pub(crate) async fn vouched(
        &self,
        registry: &RegistryName,
        certificate: &ClientCertificate,
    ) -> Result<VouchingCa, Refusal> {
        let stamp = self.inner.cache.stamp_cas(registry);
        let cas = self.inner.store.cas(registry).await.map_err(|error| unavailable(&error))?;
        let cas: Vec<Vec<u8>> = cas.into_iter().map(|ca| ca.der).collect();
        let verified = verify_client_chain(&certificate.chain_der, &cas, self.now_s());
        let fingerprint = verified.map_err(|why| {
            tracing::debug!(%registry, "no CA vouches for a client certificate: {why}");
            Refusal::NotProven(NotProven::Certificate)
        })?;
        Ok(VouchingCa { ca: ca_id(&fingerprint), fingerprint, stamp })
    }
}

/// The proof of a principal that a CA of the registry has named. No session outlives the certificate.
pub(crate) fn by_ca(loaded: Arc<Loaded>, leaf: &LeafCertificate, ca: VouchingCa) -> Proof {
    let field = |(kind, value): (&str, &str)| {
        let field = match kind {
            "2.5.4.3" => SubjectField::CommonName,
            "2.5.4.5" => SubjectField::SerialNumber,
            "2.5.4.6" => SubjectField::Country,
            "2.5.4.7" => SubjectField::Locality,
            "2.5.4.8" => SubjectField::State,
            "2.5.4.10" => SubjectField::Organization,
            "2.5.4.11" => SubjectField::OrganizationalUnit,
            _ => return None,
        };
        Some((field, value.to_owned()))
    };
    Proof {
        ends_s: Some(leaf.not_after_s.saturating_add(1)),
        proven: true,
        certificate: Some(VerifiedCertificate::of_verified_chain(leaf.subject().filter_map(field))),
        ca: Some(ca),
        ..Proof::of(loaded)
    }
}

/// Whether a certificate, for which a CA vouches, is this principal's: by the field that its record names; or where
/// the record names none, for a device, by a common name that is the device's name. Applications, which can have
/// roles, are always named by their record.
pub(crate) fn is_named(leaf: &LeafCertificate, loaded: &Loaded) -> bool {
    let principal = &loaded.principal;
    match &principal.settings.certificate_subject {
        Some(subject) => leaf.names(field_of(subject)),
        None => {
            principal.kind == PrincipalKind::Device && leaf.common_name() == Some(principal.name.as_str())
        }
    }
}

/// Whom user name and client id name, to be looked at first; they prove nothing.
fn claimed_by(request: &ConnectRequest<'_>) -> Vec<PrincipalName> {
    let mut names: Vec<PrincipalName> =
        request.username.and_then(|name| PrincipalName::parse(name).ok()).into_iter().collect();
    if let Some(device) = named_device(request.client_id)
        && !names.contains(&device)
    {
        names.push(device);
    }
    names
}
