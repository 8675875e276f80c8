//! How many connections each address has: one that takes all there are would shut everybody else out,
//! were it only by not reading its answers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections by address.
#[derive(Debug)]
pub(crate) struct Crowd {
    per_address_max: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    crowd: Arc<Crowd>,
    origin: IpAddr,
}

impl Crowd {
    pub(crate) fn new(per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { per_address_max, counts: Mutex::default() })
    }

    /// A place for one more connection from there, if there is one.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let origin = origin(peer);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(origin).or_default();
        if *count >= self.per_address_max.max(1) {
            return None;
        }
        *count += 1;
        Some(Seat { crowd: Arc::clone(self), origin })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.origin);
            }
        }
    }
}

/// What counts as one address: an IPv4 address (also mapped into IPv6), or an IPv6 /64, which is the
/// least a subscriber line gets.
fn origin(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_more_than_its_share_and_leaves_nothing_behind() {
        let crowd = Crowd::new(2);
        let enter = |text: &str| crowd.enter(text.parse().expect("an address"));
        let seats = [enter("192.0.2.1"), enter("::ffff:192.0.2.1"), enter("192.0.2.2")];
        assert!(seats.iter().all(Option::is_some));
        assert!(enter("192.0.2.1").is_none(), "the mapped form is the same address");
        let line = [enter("2001:db8::1"), enter("2001:db8::ffff:2")];
        assert!(line.iter().all(Option::is_some));
        assert!(enter("2001:db8::3").is_none(), "one /64 is one address");
        assert!(enter("2001:db8:0:1::3").is_some());
        drop((seats, line));
        assert!(crowd.counts.lock().expect("unpoisoned").is_empty());
    }
}
