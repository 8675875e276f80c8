//! Who is told that sessions must end.

use std::future::Future;
use std::pin::Pin;

use drawbridge_identity::Refusal;
use drawbridge_names::{KeyId, MqttClientId, PolicyName, RegistryName, Uid};

use crate::connect::Connected;
use crate::renew_session::Refreshed;

/// What will have become of a session that is given a new right.
pub type Refreshing = Pin<Box<dyn Future<Output = Result<Refreshed, Refusal>> + Send>>;

/// Is told, after the store has committed, that sessions must end. Called on whatever thread made the
/// change: hand the event on and return.
pub trait Watcher: Send + Sync {
    /// Close the sessions that the event names, at once.
    fn ended(&self, event: &SessionsEnd);

    /// How many live sessions a principal has here; a watcher without sessions says 0.
    fn sessions(&self, _registry: &RegistryName, _uid: Uid) -> usize {
        0
    }

    /// The client ids of those sessions.
    fn client_ids(&self, _registry: &RegistryName, _uid: Uid) -> Vec<MqttClientId> {
        Vec::new()
    }

    /// Gives the live session of this principal and client id the right that `connected` says. Not if it wants a
    /// proof of possession and there was none, if this token is in force already, if a gateway opened it, or if it
    /// was renewed a moment ago.
    fn refresh(&self, _connected: Box<Connected>) -> Refreshing {
        Box::pin(async { Err(Refusal::Renewal("the session has ended".to_owned())) })
    }
}

/// Which sessions must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionsEnd {
    /// All of a principal.
    Principal {
        /// Its registry.
        registry: RegistryName,
        /// Its number.
        uid: Uid,
        /// Why.
        why: EndReason,
    },
    /// Those of a principal that one key has opened.
    Key {
        /// The registry of the principal.
        registry: RegistryName,
        /// Its number.
        uid: Uid,
        /// The key, which is retired now.
        kid: KeyId,
    },
    /// Those of all principals that a policy gives their rights (`Connected::policy`).
    Policy {
        /// The registry of the policy.
        registry: RegistryName,
        /// The policy, which has changed.
        policy: PolicyName,
    },
    /// Those of a principal that an access token has opened.
    Token {
        /// The registry of the principal.
        registry: RegistryName,
        /// Its number.
        uid: Uid,
        /// The token, which was revoked: see [`crate::TokenMark`].
        token: [u8; 16],
    },
    /// Those that were opened by access tokens which an issuer's key has signed.
    IssuerKey {
        /// The registry.
        registry: RegistryName,
        /// The key, which is believed no more.
        kid: KeyId,
    },
    /// Those that were opened by a certificate for which a CA vouched.
    Ca {
        /// The registry.
        registry: RegistryName,
        /// The CA, which is believed no more ([`crate::Connected::ca`]).
        ca: KeyId,
    },
    /// Those that a gateway has opened for other devices.
    Gateway {
        /// The registry.
        registry: RegistryName,
        /// The gateway, which may act no more as it did.
        gateway: Uid,
    },
    /// Those of a device that a gateway has opened for it.
    Link {
        /// The registry of both.
        registry: RegistryName,
        /// The gateway, which may act for the device no more.
        gateway: Uid,
        /// The device.
        device: Uid,
    },
}

/// Why all sessions of a principal end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// It was blocked.
    Blocked,
    /// Its tokens were revoked.
    Revoked,
    /// It was deleted.
    Deleted,
    /// Another policy, or other attributes, give it other rights, which its sessions have from now on.
    PolicyChanged,
    /// What its operator wants of a credential is more than it was, or something else; it may connect again at once.
    SettingsChanged,
}
