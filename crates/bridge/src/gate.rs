//! How many connections may be open, and how many of them unauthenticated: asked at accept, before
//! a byte is read (invariant I1).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// A number of places that threads share.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: AtomicUsize,
}

impl Places {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, taken: AtomicUsize::new(0) }
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }

    pub(crate) fn take(&self) -> bool {
        self.taken.fetch_update(SeqCst, SeqCst, |taken| (taken < self.max).then_some(taken + 1)).is_ok()
    }

    pub(crate) fn give_back(&self) {
        self.taken.fetch_sub(1, SeqCst);
    }
}

/// The unauthenticated connections of one listener, over all shards.
///
/// A place is reserved before `accept`, so that the excess waits in the kernel. An address is known
/// only after it, so the excess of one address is closed.
#[derive(Debug)]
pub(crate) struct Gate {
    places: Places,
    /// Some shard found no place and stopped accepting: whoever gives one back goes on for it.
    stopped: AtomicBool,
    per_address_max: usize,
    /// Locked at accept and when a connection is admitted or leaves; never for a message.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Gate {
    pub(crate) fn new(unauthenticated_max: usize, per_address_max: usize) -> Self {
        Self {
            places: Places::new(unauthenticated_max),
            stopped: AtomicBool::new(false),
            per_address_max,
            by_address: Mutex::default(),
        }
    }

    pub(crate) fn max(&self) -> usize {
        self.places.max()
    }

    pub(crate) fn unauthenticated(&self) -> usize {
        self.places.taken()
    }

    pub(crate) fn per_address_max(&self) -> usize {
        self.per_address_max
    }

    /// Reserves a place for the next connection. `false`: stop accepting; the call of
    /// [`give_back`](Self::give_back) that frees a place says so to its caller.
    pub(crate) fn reserve(&self) -> bool {
        if self.places.take() {
            return true;
        }
        self.stopped.store(true, SeqCst);
        // A place given back before `stopped` was seen must not be lost. The flag stays up: another
        // shard may have raised it too, and to go on for nothing costs one call.
        self.places.take()
    }

    /// As [`reserve`](Self::reserve), for a door without a queue: who finds no place is sent away, and nobody
    /// has stopped.
    pub(crate) fn reserve_if_free(&self) -> bool {
        self.places.take()
    }

    /// Gives back a place that was not used: at a door without a queue.
    pub(crate) fn give_back_unasked(&self) {
        self.places.give_back();
    }

    /// Gives a reserved place back. `true`: accepting had stopped, and the caller must go on with
    /// it (any shard can accept from any listener).
    #[must_use]
    pub(crate) fn give_back(&self) -> bool {
        self.places.give_back();
        self.stopped.swap(false, SeqCst)
    }

    /// Counts a connection of this address, unless it has its fill.
    pub(crate) fn enter(&self, peer: IpAddr) -> bool {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(origin(peer)).or_default();
        let fits = *count < self.per_address_max;
        if fits {
            *count += 1;
        }
        fits
    }

    /// Undoes [`enter`](Self::enter).
    pub(crate) fn leave(&self, peer: IpAddr) {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let std::collections::hash_map::Entry::Occupied(mut count) = by_address.entry(origin(peer)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What counts as one address: an IPv4 address (also mapped into IPv6), or an IPv6 /64, which is
/// the least a subscriber line gets.
pub(crate) fn origin(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn i1_a_place_given_back_tells_its_giver_to_go_on_accepting() {
        let gate = Gate::new(2, 10);
        assert!(gate.reserve() && gate.reserve());
        assert!(!gate.reserve(), "only two places");
        assert_eq!(gate.unauthenticated(), 2);
        assert!(gate.give_back(), "accepting had stopped");
        assert!(gate.reserve());
        assert!(!gate.give_back(), "nobody had stopped this time");
    }

    #[test]
    fn i1_one_address_cannot_take_more_than_its_share() {
        let gate = Gate::new(10, 2);
        assert!(gate.enter(ip("192.0.2.1")) && gate.enter(ip("::ffff:192.0.2.1")));
        assert!(!gate.enter(ip("192.0.2.1")), "the mapped form is the same address");
        assert!(gate.enter(ip("192.0.2.2")));
        assert!(gate.enter(ip("2001:db8::1")) && gate.enter(ip("2001:db8::ffff:2")));
        assert!(!gate.enter(ip("2001:db8::3")), "one /64 is one address");
        assert!(gate.enter(ip("2001:db8:0:1::3")));
        gate.leave(ip("192.0.2.1"));
        assert!(gate.enter(ip("192.0.2.1")));
    }

    #[test]
    fn counting_addresses_leaves_nothing_behind() {
        let gate = Gate::new(10, 2);
        assert!(gate.enter(ip("192.0.2.1")));
        gate.leave(ip("192.0.2.1"));
        assert!(gate.by_address.lock().expect("unpoisoned").is_empty());
    }
}
