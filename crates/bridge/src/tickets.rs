//! Session tickets whose keys are the same on every node that has the same secret (decision 0034).
//!
//! A ticket is sealed for one listener, protocol, certificate and registry, and for an epoch of its life: no other opens
//! it. What is in it (the client's certificate, most of all) is what TLS knew; whoever resumes is judged anew by
//! admission at CONNECT, so nothing that was revoked comes back with a ticket.
//!
//! Source: RFC 8446 section 4.6.1; RFC 5077 section 4 for the form; RFC 5869 for the keys.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use drawbridge_admission::Clock;
use rustls::server::ProducesTickets;

/// The longest life that RFC 8446 section 4.6.1 allows, in seconds.
pub const TICKET_LIFE_S_MAX: u32 = 604_800;

/// What TLS may want to remember: beyond it (a client with a long chain) no ticket is sent.
const PLAIN_BYTES_MAX: usize = 4096;
/// How far the clocks of two nodes may be apart.
const SKEW_S: u64 = 300;
const EPOCH_BYTES: usize = 4;
const ISSUED_BYTES: usize = 8;
const KEY_BYTES: usize = 32;

/// What all keys of tickets are made from. Nodes with the same secrets, life and names of listeners resume each
/// other's sessions.
pub struct TicketSecrets {
    clock: Arc<dyn Clock>,
    life_s: u32,
    current: RwLock<Arc<Secrets>>,
}

struct Secrets {
    /// Counts the replacements.
    generation: u64,
    /// The first seals; all of them open.
    roots: Vec<Prk>,
}

impl fmt::Debug for TicketSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketSecrets").field("life_s", &self.life_s).finish_non_exhaustive()
    }
}

impl TicketSecrets {
    /// `secrets`: the first makes the keys that seal; those behind it still open, while a secret is exchanged on all
    /// nodes. `life_s`: how long a ticket is good, in seconds, at most [`TICKET_LIFE_S_MAX`].
    #[must_use]
    pub fn new(secrets: &[[u8; 32]], life_s: u32, clock: Arc<dyn Clock>) -> Arc<Self> {
        let life_s = life_s.clamp(1, TICKET_LIFE_S_MAX);
        Arc::new(Self { clock, life_s, current: RwLock::new(Secrets::new(0, secrets)) })
    }

    /// Takes other secrets from now on. Tickets of those that are not among them are worth nothing.
    pub fn replace(&self, secrets: &[[u8; 32]]) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Secrets::new(current.generation + 1, secrets);
    }

    /// Seals for one purpose: see [`Binding`].
    pub(crate) fn ticketer(self: &Arc<Self>, binding: Binding<'_>) -> Arc<dyn ProducesTickets> {
        let keys = RwLock::new(Arc::new(Keys { generation: 0, epoch: None, keys: Vec::new() }));
        Arc::new(Ticketer { secrets: Arc::clone(self), bound_to: binding.bytes(), keys })
    }

    fn now_s(&self) -> u64 {
        self.clock.now_ms() / 1000
    }

    /// Epochs are as long as a ticket lives, so that it is opened in its own and the next one.
    fn epoch(&self, now_s: u64) -> u32 {
        u32::try_from(now_s / u64::from(self.life_s)).unwrap_or(u32::MAX)
    }
}

impl Secrets {
    fn new(generation: u64, secrets: &[[u8; 32]]) -> Arc<Self> {
        let salt = Salt::new(HKDF_SHA256, b"drawbridge session tickets 1");
        Arc::new(Self { generation, roots: secrets.iter().map(|secret| salt.extract(secret)).collect() })
    }
}

/// What a ticket is good for. Each of them is part of the key and of the associated data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binding<'a> {
    /// Name of the listener, in the settings.
    pub(crate) listener: &'a str,
    /// What is spoken inside of it.
    pub(crate) protocol: &'a str,
    /// The name of the certificate that was shown.
    pub(crate) certificate: &'a str,
    /// The registry that the server's name leads to, or none.
    pub(crate) registry: &'a str,
}

impl Binding<'_> {
    /// No two of them are the same bytes: each text stands behind its length.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in [self.listener, self.protocol, self.certificate, self.registry] {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }
}

struct Ticketer {
    secrets: Arc<TicketSecrets>,
    bound_to: Vec<u8>,
    /// Those of one generation of secrets and one epoch; older ones are dropped with it.
    keys: RwLock<Arc<Keys>>,
}

struct Keys {
    generation: u64,
    epoch: Option<u32>,
    /// The first seals.
    keys: Vec<(u32, RandomizedNonceKey)>,
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

/// The length of a key, as `hkdf` wants to hear it.
struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

impl Ticketer {
    /// The keys of now: of this epoch, of the one before, and of the one after for nodes whose clock is ahead.
    fn keys(&self, now_s: u64) -> Option<Arc<Keys>> {
        let epoch = self.secrets.epoch(now_s);
        let secrets = Arc::clone(&self.secrets.current.read().unwrap_or_else(PoisonError::into_inner));
        {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            if keys.epoch == Some(epoch) && keys.generation == secrets.generation {
                return Some(Arc::clone(&keys));
            }
        }
        let mut made = Vec::with_capacity(3 * secrets.roots.len());
        for root in &secrets.roots {
            for epoch in [Some(epoch), epoch.checked_sub(1), epoch.checked_add(1)].into_iter().flatten() {
                made.push((epoch, self.derive(root, epoch)?));
            }
        }
        let made = Arc::new(Keys { generation: secrets.generation, epoch: Some(epoch), keys: made });
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&made);
        Some(made)
    }

    fn derive(&self, root: &Prk, epoch: u32) -> Option<RandomizedNonceKey> {
        let (life, epoch) = (self.secrets.life_s.to_be_bytes(), epoch.to_be_bytes());
        let mut key = [0; KEY_BYTES];
        root.expand(&[&life, &epoch, &self.bound_to], KeyLength).ok()?.fill(&mut key).ok()?;
        let made = RandomizedNonceKey::new(&AES_256_GCM, &key).ok();
        key.fill(0);
        made
    }

    fn associated(&self, epoch: u32) -> Aad<Vec<u8>> {
        let mut bytes = epoch.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.bound_to);
        Aad::from(bytes)
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.secrets.life_s
    }

    /// Epoch, nonce, sealed (time of issue, what TLS wants to remember), tag.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() > PLAIN_BYTES_MAX {
            return None;
        }
        let now_s = self.secrets.now_s();
        let keys = self.keys(now_s)?;
        let (epoch, key) = keys.keys.first()?;
        let mut sealed = Vec::with_capacity(ISSUED_BYTES + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&now_s.to_be_bytes());
        sealed.extend_from_slice(plain);
        let nonce = key.seal_in_place_append_tag(self.associated(*epoch), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(EPOCH_BYTES + NONCE_LEN + sealed.len());
        ticket.extend_from_slice(&epoch.to_be_bytes());
        ticket.extend_from_slice(nonce.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > EPOCH_BYTES + NONCE_LEN + ISSUED_BYTES + PLAIN_BYTES_MAX + AES_256_GCM.tag_len() {
            return None;
        }
        let (epoch, rest) = ticket.split_first_chunk::<EPOCH_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let epoch = u32::from_be_bytes(*epoch);
        let now_s = self.secrets.now_s();
        let keys = self.keys(now_s)?;
        keys.keys.iter().filter(|(of, _)| *of == epoch).find_map(|(_, key)| {
            let mut sealed = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key.open_in_place(nonce, self.associated(epoch), &mut sealed).ok()?;
            let (issued_s, plain) = opened.split_first_chunk::<ISSUED_BYTES>()?;
            let issued_s = u64::from_be_bytes(*issued_s);
            // Keys outlive a ticket by up to an epoch; the ticket itself says when it ends.
            let lives = issued_s <= now_s + SKEW_S && now_s.saturating_sub(issued_s) < self.lifetime().into();
            lives.then(|| plain.to_vec())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Instant;

    use super::*;

    const DAY_S: u32 = 86_400;
    const HERE: Binding<'static> =
        Binding { listener: "mqtts", protocol: "mqtt", certificate: "own", registry: "plant" };

    #[derive(Debug)]
    struct SetClock(AtomicU64);

    impl Clock for SetClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Relaxed)
        }
        #[expect(clippy::disallowed_methods, reason = "nobody asks for it here")]
        fn instant(&self) -> Instant {
            Instant::now()
        }
    }

    /// A node and its clock, which stands at `now_s`.
    fn node(secrets: &[[u8; 32]], now_s: u64) -> (Arc<TicketSecrets>, Arc<SetClock>) {
        let clock = Arc::new(SetClock(AtomicU64::new(now_s * 1000)));
        (TicketSecrets::new(secrets, DAY_S, clock.clone()), clock)
    }

    const NOW_S: u64 = 1_795_000_000;

    #[test]
    fn a_ticket_of_one_node_is_opened_by_another_with_the_same_secret_and_by_no_other() {
        let ticket = node(&[[1; 32]], NOW_S).0.ticketer(HERE).encrypt(b"what TLS knew").expect("sealed");
        let there = |secrets: &[[u8; 32]]| node(secrets, NOW_S + 60).0.ticketer(HERE).decrypt(&ticket);
        assert_eq!(there(&[[1; 32]]).as_deref(), Some(&b"what TLS knew"[..]));
        assert_eq!(there(&[[2; 32], [1; 32]]).as_deref(), Some(&b"what TLS knew"[..]), "the secret before");
        assert_eq!(there(&[[2; 32]]), None);
        assert_eq!(there(&[]), None);
        assert!(node(&[], NOW_S).0.ticketer(HERE).encrypt(b"x").is_none());
    }

    #[test]
    fn a_ticket_is_good_for_its_listener_protocol_certificate_and_registry_alone() {
        let (secrets, _) = node(&[[1; 32]], NOW_S);
        let ticket = secrets.ticketer(HERE).encrypt(b"plain").expect("sealed");
        assert!(secrets.ticketer(HERE).decrypt(&ticket).is_some());
        for other in [
            Binding { listener: "fleet", ..HERE },
            Binding { protocol: "https", ..HERE },
            Binding { certificate: "plant", ..HERE },
            Binding { registry: "", ..HERE },
            // The same letters, cut elsewhere.
            Binding { listener: "mqttsm", protocol: "qtt", ..HERE },
        ] {
            assert_eq!(secrets.ticketer(other).decrypt(&ticket), None, "{other:?}");
        }
    }

    #[test]
    fn a_ticket_lives_a_day_to_the_second_and_its_key_until_the_epoch_after() {
        let (secrets, clock) = node(&[[1; 32]], NOW_S);
        let ticketer = secrets.ticketer(HERE);
        let ticket = ticketer.encrypt(b"plain").expect("sealed");
        for (later_s, is_good) in [(0, true), (86_399, true), (86_400, false), (2 * 86_400, false)] {
            clock.0.store((NOW_S + later_s) * 1000, Relaxed);
            assert_eq!(ticketer.decrypt(&ticket).is_some(), is_good, "after {later_s} s");
        }
        // A node whose clock is behind, by less and by more than clocks may be apart.
        for (behind_s, is_good) in [(0, true), (SKEW_S, true), (SKEW_S + 1, false), (2 * 86_400, false)] {
            clock.0.store((NOW_S - behind_s) * 1000, Relaxed);
            assert_eq!(ticketer.decrypt(&ticket).is_some(), is_good, "{behind_s} s behind");
        }
    }

    #[test]
    fn secrets_are_exchanged_while_tickets_are_out() {
        let (secrets, _) = node(&[[1; 32]], NOW_S);
        let ticketer = secrets.ticketer(HERE);
        let ticket = ticketer.encrypt(b"plain").expect("sealed");
        secrets.replace(&[[2; 32], [1; 32]]);
        assert!(ticketer.decrypt(&ticket).is_some());
        let newer = ticketer.encrypt(b"plain").expect("sealed");
        secrets.replace(&[[2; 32]]);
        assert!(ticketer.decrypt(&ticket).is_none(), "its secret is gone");
        assert!(ticketer.decrypt(&newer).is_some(), "it was sealed by the new one");
    }

    #[test]
    fn no_changed_ticket_is_opened_and_no_length_breaks_it() {
        let (secrets, _) = node(&[[1; 32]], NOW_S);
        let ticketer = secrets.ticketer(HERE);
        let ticket = ticketer.encrypt(b"plain").expect("sealed");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(ticketer.decrypt(&changed).is_none(), "byte {at}");
            assert!(ticketer.decrypt(&ticket[..at]).is_none(), "cut at {at}");
        }
        assert!(ticketer.decrypt(&vec![0; 100_000]).is_none());
        assert_ne!(ticketer.encrypt(b"plain"), ticketer.encrypt(b"plain"), "no nonce comes twice");
    }

    #[test]
    fn what_is_too_large_to_be_carried_about_gets_no_ticket() {
        let (secrets, _) = node(&[[1; 32]], NOW_S);
        let ticketer = secrets.ticketer(HERE);
        let overhead = ticketer.encrypt(&[0; 100]).expect("sealed").len() - 100;
        assert_eq!(overhead, 40, "of a ticket, in bytes");
        assert!(ticketer.encrypt(&[0; PLAIN_BYTES_MAX]).is_some_and(|t| ticketer.decrypt(&t).is_some()));
        assert!(ticketer.encrypt(&[0; PLAIN_BYTES_MAX + 1]).is_none());
    }
}
