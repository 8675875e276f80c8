//! Whoever has proven a key in the TLS handshake: by a certificate, or by a raw public key.

use std::sync::Arc;

use drawbridge_identity::{NotProven, Refusal};
use drawbridge_names::PrincipalName;

use crate::Admission;
use crate::client_id::named_device;
use crate::connect::{ConnectRequest, Proof};
use crate::registries::Realm;
use crate::ways::PeerProof;

impl Admission {
    /// The user name says whose it is, or else the client id.
    ///
    /// Source: RFC 8705 section 2 for what makes a certificate a principal's.
    pub(crate) async fn prove_by_handshake(
        &self,
        request: &ConnectRequest<'_>,
    ) -> Result<(Arc<Realm>, Proof), Refusal> {
        let realm = self.realm_of_request(request)?;
        let peer = request.tls.and_then(|tls| tls.peer.as_ref());
        let Some(PeerProof::Certificate(certificate)) = peer else {
            return Err(Refusal::NotProven(NotProven::Certificate));
        };
        let claimed = claimed_by(request).ok_or(Refusal::NotProven(NotProven::Certificate))?;
        let client = self.client_by_certificate(&realm, claimed.as_str(), certificate).await?;
        let proof =
            Proof { kid: client.akid, ends_s: client.until_s, proven: true, ..Proof::of(client.loaded) };
        Ok((realm, proof))
    }
}

fn claimed_by(request: &ConnectRequest<'_>) -> Option<PrincipalName> {
    match request.username {
        Some(name) => PrincipalName::parse(name).ok(),
        None => named_device(request.client_id),
    }
}
