//! What a device without a trusted clock asks first: a nonce, and what the time is.

use drawbridge_identity::{DeviceClock, NONCE_LIFE_S, NoncePurpose, Refusal, ServerTime};
use drawbridge_names::RegistryName;
use drawbridge_registry::ClockTrust;

use crate::{Admission, Peer};

/// A nonce of the server, and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// To be sent back within a JWT.
    pub nonce: String,
    /// Seconds since 1970-01-01 UTC.
    pub server_time_s: u64,
    /// How long the nonce is good, in seconds.
    pub expires_in_s: u64,
}

impl Admission {
    /// Makes a nonce. Nothing is kept: any node of the registry knows it again.
    ///
    /// # Errors
    /// [`Refusal::NoRegistry`].
    pub fn challenge(&self, registry: &RegistryName, purpose: NoncePurpose) -> Result<Challenge, Refusal> {
        let realm = self.known_realm(registry)?;
        let random = self.inner.proofs.nonce_random(&*self.inner.random);
        let server_time_s = self.now_s();
        let nonce = realm.nonces.mint(purpose, server_time_s, random);
        Ok(Challenge { nonce, server_time_s, expires_in_s: NONCE_LIFE_S })
    }

    /// Says what the time is, signed by the issuer for whoever sent `nonce`, which must be one by
    /// [`drawbridge_identity::is_time_nonce`]. Answers the JWT and the time in ms since 1970-01-01 UTC.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such registry, the address has asked too often, or the key cannot sign.
    pub fn signed_time(
        &self,
        registry: &RegistryName,
        nonce: &str,
        peer: Peer,
    ) -> Result<(String, u64), Refusal> {
        let decision = self.charge_signature(peer).and_then(|()| self.sign_time(registry, nonce));
        self.note("time", Some(registry), peer, decision)
    }

    fn sign_time(&self, registry: &RegistryName, nonce: &str) -> Result<(String, u64), Refusal> {
        let realm = self.known_realm(registry)?;
        let now_ms = self.inner.clock.now_ms();
        let time = ServerTime {
            issuer: realm.record.issuer.clone(),
            nonce: nonce.to_owned(),
            now_ms,
            uncertainty_ms: self.inner.config.clock_uncertainty_ms.into(),
        };
        let signed = realm.keys.current().sign(ServerTime::TYP, &time.to_json());
        signed.map(|jwt| (jwt, now_ms)).map_err(|error| Refusal::Unavailable(error.to_string()))
    }
}

/// The trust that a record states, in the words of `identity`.
pub(crate) fn device_clock(trust: ClockTrust) -> DeviceClock {
    match trust {
        ClockTrust::None => DeviceClock::None,
        ClockTrust::Coarse => DeviceClock::Coarse,
        ClockTrust::Good => DeviceClock::Good,
    }
}
