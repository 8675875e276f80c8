//! Who came from an address that has its fill of strangers, and waits (decision 0026).
//!
//! A fleet behind one NAT comes back as one address. Its excess is accepted, since only then the address is known,
//! and put aside unread: it has no TLS and no place at the gate, only a socket and a place in all. When one of its
//! address is through, the next goes on, first come first served.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::Driver;
use crate::error::Turned;
use crate::gate::origin;

/// How long somebody waits at most; few clients wait so long for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sockets that go on in one turn, so that those who are in are served between.
const RELEASED_PER_TURN: usize = 16;

/// The sockets of a shard that wait, by listener and address, each queue in the order in which they came and
/// never empty.
pub(super) type Waiting = HashMap<(usize, IpAddr), VecDeque<Patient>>;

pub(super) struct Patient {
    socket: TcpStream,
    peer: SocketAddr,
    until: Instant,
}

impl Driver {
    /// Whether somebody of this address waits: then who comes now is not the next.
    pub(super) fn has_waiting(&self, door: usize, peer: SocketAddr) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(&(door, origin(peer.ip())))
    }

    /// Puts a socket aside, if there is room. It is counted in all, and not at the gate.
    pub(super) fn put_aside(&mut self, now: Instant, door: usize, socket: TcpStream, peer: SocketAddr) {
        let shared = Arc::clone(&self.shared);
        if shared.patients.take() {
            let queue = self.waiting.entry((door, origin(peer.ip()))).or_default();
            queue.push_back(Patient { socket, peer, until: now + PATIENCE });
            return;
        }
        shared.connections.give_back();
        if let Some(door) = shared.doors.get(door) {
            let turned = Turned::AddressFull { max: door.gate.per_address_max() };
            self.journal.refused(now, turned.code(), turned.word(), peer, &turned);
        }
    }

    /// Goes on with those whose address has room now, and closes those who waited too long.
    pub(super) fn release(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        self.carry_out_all(now);
        let shared = Arc::clone(&self.shared);
        let mut left = RELEASED_PER_TURN;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|(door, address), queue| {
            while queue.pop_front_if(|patient| patient.until <= now).is_some() {
                shared.patients.give_back();
                shared.connections.give_back();
                let max = shared.doors.get(*door).map_or(0, |door| door.gate.per_address_max());
                self.journal.counted(Turned::AddressFull { max }.word());
            }
            let Some(gate) = shared.doors.get(*door).map(|door| &door.gate) else { return false };
            while left > 0 && !queue.is_empty() && self.may_accept() && gate.reserve_if_free() {
                if !gate.enter(*address) {
                    gate.give_back_unasked();
                    break;
                }
                if let Some(Patient { socket, peer, .. }) = queue.pop_front() {
                    shared.patients.give_back();
                    left -= 1;
                    self.let_in(now, *door, socket, peer);
                }
            }
            !queue.is_empty()
        });
        self.waiting = waiting;
    }

    /// Nobody is let in any more.
    pub(super) fn send_patients_away(&mut self) {
        for _ in self.waiting.drain().flat_map(|(_, queue)| queue) {
            self.shared.patients.give_back();
            self.shared.connections.give_back();
        }
    }
}
