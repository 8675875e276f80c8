//! How often somebody may ask: token buckets of addresses, of principals, and one for all strangers.
//!
//! An address is charged for what fails before somebody has proven who he is here and now, and for nothing else:
//! what it is charged on entry it gets back then. A JWT that has ended, was used or was revoked proves nothing of
//! the kind, however well it is signed: it may be in anybody's hands. A principal is charged after a good
//! signature only, so nobody can spend what is another's. All strangers together have one budget of signature
//! checks; an address from which somebody has lately proven himself is no stranger, so a flood from elsewhere
//! does not shut it out.
//!
//! The maps are bounded: one that is full forgets the addresses that have been silent longest. Those that are no
//! strangers stand in a map of their own, so no number of strangers makes it forget one of them; and a stranger
//! is remembered only once the common budget had room for him.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_identity::Refusal;
use drawbridge_names::{RegistryName, Uid};
use serde::Deserialize;
use serde::de::Error as _;

use crate::{Admission, Peer};

/// Each map is cut into so many parts with a lock of its own.
const PARTS: usize = 16;
/// So long an address is no stranger after somebody there has proven who he is.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// A request without a signature to check, such as one for a nonce, costs this part of one with.
const LIGHT: u32 = 10;
/// A wrong password, or a certificate of nobody, costs as much as so many wrong signatures. Its check takes as
/// long as many of them, and few passwords are checked at once: without this one address would keep their queue
/// full for everybody.
const DEAR: u64 = 20;

/// Section `[limits]` of the settings file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Failed attempts that an address (an IPv6 /64 is one) may make at once. Default 1,000.
    pub address_burst: u32,
    /// How many of them come back in a second. Default 100.
    pub address_per_s: u32,
    /// Logins and key updates that a principal may make at once. Default 200.
    pub principal_burst: u32,
    /// How many of them come back in a second. Default 5.
    pub principal_per_s: u32,
    /// Failed attempts of all addresses together, from which nobody has lately logged in, at once. Default
    /// 4,000.
    pub strangers_burst: u32,
    /// How many of them come back in a second. Default 2,000: a signature check takes about 0.1 ms.
    pub strangers_per_s: u32,
    /// How many addresses, and how many principals, are remembered at most. Default 65,536; each takes about
    /// 100 bytes.
    pub remembered_max: usize,
    /// Addresses that are never limited, such as `10.0.0.0/8`. Default: loopback. A proxy in front belongs
    /// here only if it limits by itself.
    pub exempt: Vec<Network>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            address_burst: 1_000,
            address_per_s: 100,
            principal_burst: 200,
            principal_per_s: 5,
            strangers_burst: 4_000,
            strangers_per_s: 2_000,
            remembered_max: 65_536,
            exempt: vec![
                Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 },
                Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
            ],
        }
    }
}

/// A range of addresses: `192.0.2.0/24`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let host = 32 - u32::from(self.prefix);
                network.to_bits().checked_shr(host) == address.to_bits().checked_shr(host)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let host = 128 - u32::from(self.prefix);
                network.to_bits().checked_shr(host) == address.to_bits().checked_shr(host)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} is no range of addresses; wanted such as `10.0.0.0/8`");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wanted())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(text) => text.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(wanted)?,
            None => longest,
        };
        Ok(Self { address, prefix })
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// How much, and how fast it comes back.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// What one of it takes, in ns.
    each_ns: u64,
    burst_ns: u64,
}

impl Rate {
    fn new(burst: u32, per_s: u32) -> Self {
        let each_ns = 1_000_000_000 / u64::from(per_s.max(1));
        Self { each_ns, burst_ns: each_ns * u64::from(burst.max(1)) }
    }

    /// Takes a cost out of a bucket; or answers in how many seconds it can be taken.
    fn take(&self, full_ns: &mut u64, now_ns: u64, cost_ns: u64) -> Result<(), u32> {
        let taken = (*full_ns).max(now_ns) + cost_ns;
        let over_ns = taken.saturating_sub(now_ns + self.burst_ns);
        if over_ns > 0 {
            return Err(u32::try_from(over_ns.div_ceil(1_000_000_000)).unwrap_or(u32::MAX));
        }
        *full_ns = taken;
        Ok(())
    }
}

/// A bucket, kept as the moment at which it is full again (the "theoretical arrival time" of GCRA).
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// In ns after the beginning.
    full_ns: u64,
    /// Until then its address is no stranger.
    known_until_ns: u64,
}

/// Buckets by key, the latest used ones. Two halves: when the young one is full it becomes the old one, and
/// what was old is forgotten.
struct Buckets<K> {
    hasher: RandomState,
    half_max: usize,
    parts: [Mutex<Halves<K>>; PARTS],
}

struct Halves<K> {
    young: HashMap<K, Bucket>,
    old: HashMap<K, Bucket>,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    fn new(remembered_max: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            half_max: (remembered_max / PARTS / 2).max(1),
            parts: std::array::from_fn(|_| Mutex::new(Halves { young: HashMap::new(), old: HashMap::new() })),
        }
    }

    fn with<T>(&self, key: &K, work: impl FnOnce(&mut Bucket) -> T) -> T {
        let at = usize::try_from(self.hasher.hash_one(key) % PARTS as u64).expect("it is below 16");
        let mut part = self.parts[at].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = part.young.get_mut(key) {
            return work(bucket);
        }
        if part.young.len() >= self.half_max {
            part.old = std::mem::take(&mut part.young);
        }
        let mut bucket = part.old.remove(key).unwrap_or_default();
        let answer = work(&mut bucket);
        part.young.insert(key.clone(), bucket);
        answer
    }

    /// As [`Self::with`] for a key that is there; `None`: it is not, and is not put there.
    fn with_known<T>(&self, key: &K, work: impl FnOnce(&mut Bucket) -> T) -> Option<T> {
        let at = usize::try_from(self.hasher.hash_one(key) % PARTS as u64).expect("it is below 16");
        let mut part = self.parts[at].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = part.young.get_mut(key) {
            return Some(work(bucket));
        }
        let mut bucket = part.old.remove(key)?;
        let answer = work(&mut bucket);
        if part.young.len() >= self.half_max {
            part.old = std::mem::take(&mut part.young);
        }
        part.young.insert(key.clone(), bucket);
        Some(answer)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let parts = self.parts.iter().map(|part| part.lock().expect("not poisoned"));
        parts.map(|part| part.young.len() + part.old.len()).sum()
    }
}

/// The limits of a server.
pub(crate) struct Limits {
    began: Instant,
    exempt: Vec<Network>,
    address: Rate,
    principal: Rate,
    strangers: Rate,
    /// Of strangers.
    addresses: Buckets<IpAddr>,
    /// From which somebody has lately proven who he is.
    known: Buckets<IpAddr>,
    principals: Buckets<(RegistryName, Uid)>,
    all_strangers: Mutex<Bucket>,
}

/// What an address was charged on entry.
pub(crate) struct Charge {
    origin: IpAddr,
    as_stranger: bool,
}

impl Limits {
    pub(crate) fn new(config: &LimitsConfig, began: Instant) -> Self {
        Self {
            began,
            exempt: config.exempt.clone(),
            address: Rate::new(config.address_burst, config.address_per_s),
            principal: Rate::new(config.principal_burst, config.principal_per_s),
            strangers: Rate::new(config.strangers_burst, config.strangers_per_s),
            addresses: Buckets::new(config.remembered_max),
            known: Buckets::new(config.remembered_max),
            principals: Buckets::new(config.remembered_max),
            all_strangers: Mutex::default(),
        }
    }

    fn ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX / 2)
    }

    /// Charges an address for one attempt, or for a part of one. `None`: it is not limited.
    fn enter(&self, peer: Peer, now: Instant, part: u32) -> Result<Option<Charge>, Refusal> {
        let Some(origin) = peer.address.map(origin) else { return Ok(None) };
        if self.exempt.iter().any(|network| network.contains(origin)) {
            return Ok(None);
        }
        let now_ns = self.ns(now);
        let limited = |retry_after_s| Refusal::RateLimited { retry_after_s };
        let take = |bucket: &mut Bucket| {
            self.address.take(&mut bucket.full_ns, now_ns, self.address.each_ns / u64::from(part))
        };
        let of_known =
            self.known.with_known(&origin, |bucket| (bucket.known_until_ns > now_ns).then(|| take(bucket)));
        if let Some(taken) = of_known.flatten() {
            return taken.map(|()| Some(Charge { origin, as_stranger: false })).map_err(limited);
        }
        // One that is over its own limit does not spend what is all strangers'; one that is new is remembered
        // only if there is room for it in that.
        let of_stranger = self.addresses.with_known(&origin, take);
        let is_new = of_stranger.is_none();
        of_stranger.unwrap_or(Ok(())).map_err(limited)?;
        {
            let mut all = self.all_strangers.lock().unwrap_or_else(PoisonError::into_inner);
            let cost_ns = self.strangers.each_ns / u64::from(part);
            self.strangers.take(&mut all.full_ns, now_ns, cost_ns).map_err(limited)?;
        }
        if is_new {
            self.addresses.with(&origin, take).map_err(limited)?;
        }
        Ok(Some(Charge { origin, as_stranger: true }))
    }

    /// Gives back what was charged: `known`: somebody there has proven who he is.
    fn give_back(&self, charge: &Charge, now: Instant, known: bool) {
        let back = |bucket: &mut Bucket| {
            bucket.full_ns = bucket.full_ns.saturating_sub(self.address.each_ns);
            bucket.full_ns
        };
        let of_stranger = match charge.as_stranger {
            true => self.addresses.with_known(&charge.origin, back),
            false => self.known.with_known(&charge.origin, back).and(None),
        };
        if known {
            let until = KNOWN_FOR.as_nanos().try_into().unwrap_or(u64::MAX);
            self.known.with(&charge.origin, |bucket| {
                bucket.full_ns = bucket.full_ns.max(of_stranger.unwrap_or(0));
                bucket.known_until_ns = self.ns(now).saturating_add(until);
            });
        }
        if charge.as_stranger {
            let mut all = self.all_strangers.lock().unwrap_or_else(PoisonError::into_inner);
            all.full_ns = all.full_ns.saturating_sub(self.strangers.each_ns);
        }
    }

    /// Charges so many attempts more, which were made already: the bucket may be empty by them, no more.
    fn fine(&self, charge: &Charge, now: Instant, more: u64) {
        let now_ns = self.ns(now);
        let fined = |rate: &Rate, bucket: &mut Bucket| {
            let full_ns = bucket.full_ns.max(now_ns) + rate.each_ns.saturating_mul(more);
            bucket.full_ns = full_ns.min(now_ns + rate.burst_ns).max(bucket.full_ns);
        };
        let addresses = if charge.as_stranger { &self.addresses } else { &self.known };
        addresses.with_known(&charge.origin, |bucket| fined(&self.address, bucket));
        if charge.as_stranger {
            fined(&self.strangers, &mut self.all_strangers.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Charges a principal that has just proven who it is.
    fn charge_principal(&self, registry: &RegistryName, uid: Uid, now: Instant) -> Result<(), Refusal> {
        let now_ns = self.ns(now);
        let key = (registry.clone(), uid);
        let taken = self
            .principals
            .with(&key, |bucket| self.principal.take(&mut bucket.full_ns, now_ns, self.principal.each_ns));
        taken.map_err(|retry_after_s| Refusal::TooOften { retry_after_s })
    }

    fn is_exempt(&self, peer: Peer) -> bool {
        let origin = peer.address.map(origin);
        origin.is_none_or(|origin| self.exempt.iter().any(|network| network.contains(origin)))
    }
}

/// What counts as one address: an IPv4 address (also mapped into IPv6), or an IPv6 /64, which is the
/// least a subscriber line gets. Loopback stays itself, so that it can be exempt.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
        }
        other => other,
    }
}

/// Whether who is refused so has proven that he holds a credential which is good now. One that has ended, was
/// used or was revoked is in anybody's hands: a logged request, a returned device, a leaked enrolment token. And
/// who goes on beyond his own limit is a nuisance of his address.
fn proves_who_is_there(refusal: &Refusal) -> bool {
    let is_dead = matches!(
        refusal,
        Refusal::Time { .. }
            | Refusal::Replay
            | Refusal::Revoked
            | Refusal::KeyGone
            | Refusal::TokenGone
            | Refusal::EnrolmentOver(_)
            | Refusal::NonceStale
            | Refusal::TooOften { .. }
    );
    refusal.is_proven() && !is_dead
}

impl Admission {
    /// Judges an attempt within the limits of its address.
    pub(crate) async fn within_limits<T>(
        &self,
        peer: Peer,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let limits = &self.inner.limits;
        let charge = limits.enter(peer, self.inner.clock.instant(), 1)?;
        let decision = work.await;
        if let Some(charge) = charge {
            let refusal = decision.as_ref().err();
            let proven = refusal.is_none_or(proves_who_is_there);
            // What fails by our fault is nobody's.
            let our_fault = matches!(refusal, Some(Refusal::Unavailable(_) | Refusal::Busy));
            let now = self.inner.clock.instant();
            if proven || our_fault {
                limits.give_back(&charge, now, proven);
            } else if matches!(refusal, Some(Refusal::NotProven(why)) if why.is_dear()) {
                limits.fine(&charge, now, DEAR - 1);
            }
        }
        decision
    }

    /// Charges an address for a question that takes no signature check, such as one for a nonce: a tenth.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`].
    pub fn charge_question(&self, peer: Peer) -> Result<(), Refusal> {
        self.inner.limits.enter(peer, self.inner.clock.instant(), LIGHT).map(drop)
    }

    /// Charges an address for a question that makes the server sign, such as one for the time.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`].
    pub(crate) fn charge_signature(&self, peer: Peer) -> Result<(), Refusal> {
        self.inner.limits.enter(peer, self.inner.clock.instant(), 1).map(drop)
    }

    /// Charges a principal for a login or key update, after its signature was found good.
    pub(crate) fn charge_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        peer: Peer,
    ) -> Result<(), Refusal> {
        let limits = &self.inner.limits;
        if limits.is_exempt(peer) {
            return Ok(());
        }
        limits.charge_principal(registry, uid, self.inner.clock.instant())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all others are sums")]
    use super::*;

    fn limits(change: impl FnOnce(&mut LimitsConfig)) -> (Limits, Instant) {
        let mut config = LimitsConfig::default();
        change(&mut config);
        let began = Instant::now();
        (Limits::new(&config, began), began)
    }

    fn peer(text: &str) -> Peer {
        Peer::from(text.parse::<IpAddr>().expect(text))
    }

    #[test]
    fn an_address_has_its_burst_then_its_rate_and_is_told_when_to_come_again() {
        let (limits, began) = limits(|_| {});
        let enter = |ms: u64| limits.enter(peer("192.0.2.1"), began + Duration::from_millis(ms), 1).map(drop);
        for _ in 0..1_000 {
            assert_eq!(enter(0), Ok(()));
        }
        assert_eq!(enter(0), Err(Refusal::RateLimited { retry_after_s: 1 }));
        assert_eq!(enter(9), Err(Refusal::RateLimited { retry_after_s: 1 }));
        assert_eq!(enter(10), Ok(()), "100 in a second come back");
        assert!(enter(10).is_err());
        for _ in 0..1_000 {
            assert_eq!(enter(60_000), Ok(()), "never more than the burst");
        }
        assert!(enter(60_000).is_err());
    }

    #[test]
    fn one_subscriber_line_is_one_address_and_loopback_is_none() {
        let (limits, now) = limits(|config| config.address_burst = 1);
        let enter = |text: &str| limits.enter(peer(text), now, 1).is_ok();
        assert!(enter("2001:db8::1") && !enter("2001:db8::ffff:2") && enter("2001:db8:0:1::1"));
        assert!(enter("192.0.2.1") && !enter("::ffff:192.0.2.1") && enter("192.0.2.2"));
        assert!((0..10).all(|_| enter("127.0.0.9") && enter("::1") && enter("::ffff:127.0.0.1")));
    }

    #[test]
    fn all_strangers_share_a_budget_and_who_has_logged_in_lately_does_not_need_it() {
        let (limits, now) = limits(|config| config.strangers_burst = 10);
        let known = limits.enter(peer("198.51.100.1"), now, 1).expect("room").expect("limited");
        limits.give_back(&known, now, true);
        for host in 0..10 {
            assert!(limits.enter(peer(&format!("192.0.2.{host}")), now, 1).is_ok(), "{host}");
        }
        assert!(limits.enter(peer("192.0.2.99"), now, 1).is_err(), "the budget of strangers is spent");
        assert!(limits.enter(peer("198.51.100.1"), now, 1).is_ok(), "it has logged in a moment ago");
        let later = now + KNOWN_FOR;
        for host in 0..10 {
            assert!(limits.enter(peer(&format!("192.0.2.{host}")), later, 1).is_ok(), "{host}");
        }
        assert!(limits.enter(peer("198.51.100.1"), later, 1).is_err(), "it is a stranger again");
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory() {
        let (limits, now) = limits(|config| {
            config.remembered_max = 1_024;
            config.strangers_burst = 1_000_000;
        });
        for number in 0..50_000_u32 {
            let address = Peer::from(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)));
            assert!(limits.enter(address, now, 1).is_ok());
            assert!(
                limits.charge_principal(&RegistryName::default_registry(), Uid(number.into()), now).is_ok()
            );
        }
        assert!(limits.addresses.len() <= 1_024, "{}", limits.addresses.len());
        assert!(limits.principals.len() <= 1_024, "{}", limits.principals.len());
    }

    #[test]
    fn no_number_of_strangers_makes_an_address_a_stranger_that_has_logged_in_lately() {
        let (limits, now) = limits(|config| {
            config.remembered_max = 1_024;
            config.strangers_burst = 10_000;
        });
        let home = peer("198.51.100.1");
        let known = limits.enter(home, now, 1).expect("room").expect("limited");
        limits.give_back(&known, now, true);
        for number in 0..50_000_u32 {
            let _ = limits.enter(Peer::from(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))), now, 1);
        }
        assert!(limits.enter(peer("192.0.2.1"), now, 1).is_err(), "the budget of strangers is spent");
        assert!(limits.enter(home, now, 1).is_ok(), "it has logged in a moment ago");
    }

    #[test]
    fn who_is_refused_for_want_of_common_budget_is_not_remembered() {
        let (limits, now) = limits(|config| config.strangers_burst = 10);
        for host in 0..100 {
            let _ = limits.enter(peer(&format!("192.0.2.{host}")), now, 1);
        }
        assert_eq!(limits.addresses.len(), 10);
    }

    #[test]
    fn a_principal_has_its_own_bucket() {
        let (limits, now) = limits(|config| config.principal_burst = 2);
        let home = RegistryName::default_registry();
        let charge = |uid: u64, at: Instant| limits.charge_principal(&home, Uid(uid), at);
        assert!(charge(1, now).is_ok() && charge(1, now).is_ok());
        assert_eq!(charge(1, now), Err(Refusal::TooOften { retry_after_s: 1 }));
        assert!(charge(2, now).is_ok());
        assert!(charge(1, now + Duration::from_millis(200)).is_ok(), "5 in a second come back");
    }

    #[test]
    fn a_light_question_costs_a_tenth() {
        let (limits, now) = limits(|config| config.address_burst = 1);
        let asked = (0..20).filter(|_| limits.enter(peer("192.0.2.1"), now, LIGHT).is_ok()).count();
        assert_eq!(asked, 10);
    }

    #[test]
    fn a_range_of_addresses_is_read_strictly() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::", false),
            ("2001:db8::/32", "2001:db8:9::", true),
            ("::/0", "2001:db8:9::", true),
        ];
        for (network, address, inside) in table {
            let network: Network = network.parse().expect(network);
            assert_eq!(network.contains(address.parse().expect(address)), inside, "{network:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "10.0.0.0/", "localhost"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
