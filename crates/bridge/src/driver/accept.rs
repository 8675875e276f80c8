//! Letting sockets in, as long as there is room (invariant I1).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use drawbridge_broker::ConnId;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Poll, Token};
use socket2::{SockRef, TcpKeepalive};

use super::{Driver, Socket};
use crate::bridge::system;
use crate::channel::Channel;
use crate::error::Turned;
use crate::tls::Tls;
use crate::{BridgeError, Listener};

/// Sockets accepted in one turn, so that those who are in are served between.
const ACCEPTS_PER_TURN: usize = 16;
/// Connections that may wait in the kernel; the system may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// How long accepting rests after the system refused (no file descriptor, no memory).
const REST: Duration = Duration::from_millis(250);

/// Silence after which the kernel asks whether the peer is still there, and how often; Linux gives up
/// after nine questions.
const KEEP_ALIVE: Duration = Duration::from_secs(300);
const KEEP_ALIVE_PROBE: Duration = Duration::from_secs(30);

/// This shard's own descriptor of a listener. The queue behind it is shared with the other shards.
pub(super) struct Doorway {
    socket: TcpListener,
    /// Connections may be waiting.
    pub(super) ready: bool,
    pub(super) resting_until: Option<Instant>,
}

impl Doorway {
    pub(super) fn open(poll: &Poll, token: Token, listener: &Listener) -> Result<Self, BridgeError> {
        let socket = listener.socket.try_clone().map_err(system("a shard's own descriptor of a listener"))?;
        socket.set_nonblocking(true).map_err(system("a non-blocking listener"))?;
        // Whoever has no place in the kernel's queue tries again only after a second. The standard library asks
        // for 128 of them, and a second call changes that.
        let longer = SockRef::from(&socket).listen(BACKLOG);
        longer.map_err(system("a longer queue of a listener"))?;
        let mut socket = TcpListener::from_std(socket);
        let registered = poll.registry().register(&mut socket, token, Interest::READABLE);
        registered.map_err(system("polling a listener"))?;
        // Connections may have come before the registration, which reports edges only.
        Ok(Self { socket, ready: true, resting_until: None })
    }

    /// Connections may be waiting, and accepting does not rest.
    pub(super) fn is_waited_at(&self) -> bool {
        self.ready && self.resting_until.is_none()
    }

    pub(super) fn close(&mut self, poll: &Poll) {
        // The descriptor is dropped right after; a poll that does not know it is no loss.
        let _ = poll.registry().deregister(&mut self.socket);
    }
}

impl Driver {
    pub(super) fn accept_all(&mut self, now: Instant) {
        if !self.doorways.iter().any(|doorway| doorway.ready) {
            return;
        }
        // What is still to be done may free places, which the broker gives away from here on.
        self.carry_out_all(now);
        for door in 0..self.doorways.len() {
            if let Some(doorway) = self.doorways.get_mut(door) {
                if doorway.resting_until.is_some_and(|until| until <= now) {
                    doorway.resting_until = None;
                }
                if doorway.ready && doorway.resting_until.is_none() {
                    self.accept(now, door);
                }
            }
        }
    }

    fn accept(&mut self, now: Instant, door: usize) {
        let shared = Arc::clone(&self.shared);
        let Some(gate) = shared.doors.get(door).map(|door| &door.gate) else { return };
        for _ in 0..ACCEPTS_PER_TURN {
            if !self.may_accept() {
                // Nothing is lost: the doorway stays ready.
                return;
            }
            let Some(doorway) = self.doorways.get_mut(door) else { return };
            if !gate.reserve() {
                // Who gives a place back goes on for us.
                doorway.ready = false;
                let turned = Turned::ListenerFull { max: gate.max() };
                self.journal.condition(now, turned.code(), turned.word(), &turned);
                return;
            }
            match doorway.socket.accept() {
                Ok((socket, peer)) => {
                    shared.accepted.fetch_add(1, Relaxed);
                    self.enter(now, door, socket, peer);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => doorway.ready = false,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(source) => {
                    doorway.resting_until = Some(now + REST);
                    let turned = Turned::OutOfFiles { source };
                    self.journal.condition(now, turned.code(), turned.word(), &turned);
                }
            }
            let others_stopped = gate.give_back();
            let Some(doorway) = self.doorways.get_mut(door) else { return };
            doorway.ready |= others_stopped;
            if !doorway.ready || doorway.resting_until.is_some() {
                return;
            }
        }
    }

    /// Takes a new socket in, puts it aside, or closes it. It holds a place at the gate already.
    fn enter(&mut self, now: Instant, door: usize, socket: TcpStream, peer: SocketAddr) {
        let shared = Arc::clone(&self.shared);
        let Some(gate) = shared.doors.get(door).map(|door| &door.gate) else { return };
        if !shared.connections.take() {
            let turned = Turned::ConnectionsFull { max: shared.connections.max() };
            self.journal.condition(now, turned.code(), turned.word(), &turned);
            self.gate_freed(door, gate.give_back());
            return;
        }
        if self.has_waiting(door, peer) || !gate.enter(peer.ip()) {
            self.gate_freed(door, gate.give_back());
            return self.put_aside(now, door, socket, peer);
        }
        self.let_in(now, door, socket, peer);
    }

    /// Begins with a socket that is counted: in all, at the gate and with its address.
    pub(super) fn let_in(&mut self, now: Instant, door: usize, mut socket: TcpStream, peer: SocketAddr) {
        let shared = Arc::clone(&self.shared);
        let Some(gate) = shared.doors.get(door).map(|door| &door.gate) else { return };
        let conn = self.shard.open(now, now + shared.connect_timeout);
        let slot = conn.slot() as usize;
        let (bytes_max, now_ms) = (shared.handshake_bytes_max, shared.clock.now_ms());
        let set_up = prepare(&shared.doors, door, bytes_max, now_ms, &mut socket).and_then(|tls| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(slot), interest)?;
            Ok(tls)
        });
        let tls = match set_up {
            Ok(tls) => tls,
            Err(source) => {
                let turned = Turned::Accept { source };
                self.journal.refused(now, turned.code(), turned.word(), peer, &turned);
                self.shard.hung_up(now, conn, &mut self.effects);
                gate.leave(peer.ip());
                shared.connections.give_back();
                self.gate_freed(door, gate.give_back());
                return;
            }
        };
        let channel = match tls {
            Some(tls) => Channel::Tls(socket, Box::new(tls)),
            None => Channel::Plain(socket),
        };
        self.take_place(Socket::stranger(conn, channel, peer, door));
    }

    /// A connection is admitted or gone: it is no longer counted as unauthenticated.
    pub(super) fn leave_gate(&mut self, door: usize, peer: SocketAddr) {
        let shared = Arc::clone(&self.shared);
        let Some(gate) = shared.doors.get(door).map(|door| &door.gate) else { return };
        gate.leave(peer.ip());
        self.gate_freed(door, gate.give_back());
    }

    /// Goes on accepting where some shard had stopped: any can, the queue is one.
    pub(super) fn gate_freed(&mut self, door: usize, somebody_stopped: bool) {
        if let Some(doorway) = self.doorways.get_mut(door) {
            doorway.ready |= somebody_stopped;
        }
    }
}

impl Socket {
    /// One that has a place at the gate and in all, and has not said anything yet.
    pub(super) fn stranger(conn: ConnId, channel: Channel, peer: SocketAddr, door: usize) -> Self {
        Self {
            conn,
            channel,
            peer,
            door,
            at_gate: true,
            in_session: false,
            registry: None,
            rights_of: None,
            handshake_queued: false,
            handshake_closed: false,
            closing: None,
            dirty: false,
            unread: false,
            leaving: false,
            blocked: false,
            writing: false,
            held_back: false,
        }
    }
}

fn prepare(
    doors: &[crate::bridge::Door],
    door: usize,
    handshake_bytes_max: usize,
    now_ms: u64,
    socket: &mut TcpStream,
) -> std::io::Result<Option<Tls>> {
    // Without it CONNACK waits for the client's delayed ACK: 40 ms at each connect.
    socket.set_nodelay(true)?;
    keep_alive(socket)?;
    match doors.get(door).and_then(|door| door.tls.as_ref()) {
        Some(config) => {
            Tls::new(config, handshake_bytes_max, now_ms).map(Some).map_err(std::io::Error::other)
        }
        None => Ok(None),
    }
}

/// Finds a peer that vanished without a word: MQTT does not find out where its keep-alive is 0.
pub(super) fn keep_alive(socket: &mut TcpStream) -> std::io::Result<()> {
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_PROBE);
    SockRef::from(&*socket).set_tcp_keepalive(&keep_alive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_socket_notices_a_peer_that_vanished() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        let mut socket = TcpStream::from_std(accepted);
        prepare(&[], 0, 0, 0, &mut socket).expect("prepared");
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().expect("asked") && socket.tcp_nodelay().expect("asked"));
        assert_eq!(socket.tcp_keepalive_time().expect("asked"), KEEP_ALIVE);
    }
}
