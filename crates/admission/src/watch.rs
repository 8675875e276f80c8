//! Who is told that sessions must end.

use drawbridge_names::{KeyId, PolicyName, RegistryName, Uid};

/// Is told, after the store has committed, that sessions must end. Called on whatever thread made the
/// change: hand the event on and return.
pub trait Watcher: Send + Sync {
    /// Close the sessions that the event names, at once.
    fn ended(&self, event: &SessionsEnd);

    /// How many live sessions a principal has here; a watcher without sessions says 0.
    fn sessions(&self, _registry: &RegistryName, _uid: Uid) -> usize {
        0
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
    /// Another policy, or other attributes, give it other rights; it may connect again at once.
    PolicyChanged,
}
