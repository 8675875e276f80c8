//! Sockets that come from elsewhere: another shard, or HTTPS after its upgrade to WebSocket. And those that go.
//!
//! A socket that is under way belongs to nobody's poll and is counted all the same, at the gate and in all: whoever
//! drops it on the way, because a side has ended, gives its places back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use drawbridge_admission::Connected;
use drawbridge_broker::{ConnId, Moving};
use drawbridge_names::RegistryName;
use mio::net::TcpStream;
use mio::{Interest, Token};
use rustls::server::Accepted;
use rustls::{ServerConfig, ServerConnection};

use super::accept::keep_alive;
use super::{Driver, RightsOf, Socket};
use crate::HttpsArrival;
use crate::bridge::Shared;
use crate::channel::{Channel, ReadEnd};
use crate::error::Turned;
use crate::inbox::ToShard;
use crate::tls::Tls;

/// A connection between two shards.
pub(crate) struct Travelling {
    /// What the broker knows of it.
    moving: Box<Moving>,
    channel: Channel,
    /// The peer has ended it already.
    leaving: bool,
    rights_of: Option<Box<RightsOf>>,
    registry: Option<Box<RegistryName>>,
    /// How admission has judged it: asked anew where it arrives, because news of a block may have passed it.
    judged: Option<Box<Connected>>,
    counted: Counted,
}

/// A client that came by HTTPS and speaks MQTT over WebSocket from now on.
pub(crate) struct Arrival {
    pub(crate) socket: std::net::TcpStream,
    pub(crate) session: ServerConnection,
    /// Decrypted, and not read by HTTP.
    pub(crate) received: Vec<u8>,
    pub(crate) registry: Option<RegistryName>,
    pub(crate) counted: Counted,
}

/// Where a connection is counted, until this is dropped: in all, as unauthenticated or as a session.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    door: usize,
    peer: SocketAddr,
    at_gate: bool,
    in_session: bool,
    /// Somebody else counts it from now on.
    handed_on: bool,
}

impl std::fmt::Debug for Travelling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Travelling").field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival").field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counted").field("door", &self.door).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Counted {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Counts a new connection that nobody has let in yet, if there is room for it.
    pub(crate) fn stranger(shared: &Arc<Shared>, door: usize, peer: SocketAddr) -> Result<Self, Turned> {
        let gate = &shared.doors[door].gate;
        if !gate.reserve_if_free() {
            return Err(Turned::ListenerFull { max: gate.max() });
        }
        if !shared.connections.take() {
            gate.give_back_unasked();
            return Err(Turned::ConnectionsFull { max: shared.connections.max() });
        }
        if !gate.enter(peer.ip()) {
            gate.give_back_unasked();
            shared.connections.give_back();
            return Err(Turned::AddressFull { max: gate.per_address_max() });
        }
        let shared = Arc::clone(shared);
        Ok(Self { shared, door, peer, at_gate: true, in_session: false, handed_on: false })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.handed_on {
            return;
        }
        self.shared.connections.give_back();
        if self.in_session {
            self.shared.sessions.fetch_sub(1, Relaxed);
        }
        if self.at_gate
            && let Some(door) = self.shared.doors.get(self.door)
        {
            door.gate.leave(self.peer.ip());
            if door.gate.give_back()
                && let Some(inbox) = self.shared.inboxes.first()
            {
                // Some shard had stopped accepting, and no shard has seen this.
                inbox.push(ToShard::PlaceFreed { door: self.door });
            }
        }
    }
}

impl Driver {
    /// The session of a connection lives on another shard: the socket goes there.
    pub(super) fn send_away(&mut self, conn: ConnId, shard: usize, moving: Box<Moving>) {
        let slot = self.sockets.get_mut(conn.slot() as usize);
        let Some(mut socket) = slot.and_then(|slot| slot.take_if(|socket| socket.conn == conn)) else {
            return;
        };
        // The next poll tells of all that is ready; one that does not know the socket is no loss.
        let _ = self.poll.registry().deregister(socket.channel.socket_mut());
        self.open -= 1;
        let counted = Counted {
            shared: Arc::clone(&self.shared),
            door: socket.door,
            peer: socket.peer,
            at_gate: socket.at_gate,
            in_session: socket.in_session,
            handed_on: false,
        };
        let judged = self.judged.take_if(|(judged, _)| *judged == conn).map(|(_, connected)| connected);
        let travelling = Travelling {
            moving,
            channel: socket.channel,
            leaving: socket.leaving,
            rights_of: socket.rights_of,
            registry: socket.registry,
            judged,
            counted,
        };
        match self.shared.inboxes.get(shard) {
            Some(inbox) => inbox.push(ToShard::Adopt(Box::new(travelling))),
            None => tracing::error!(shard, "a connection was sent to a shard that does not exist"),
        }
    }

    /// Goes on with a connection from another shard.
    pub(super) fn adopt(&mut self, now: Instant, travelling: Travelling) {
        let Travelling { moving, channel, leaving, rights_of, registry, judged, counted } = travelling;
        // Between the two shards it was on neither, so an end of sessions may have missed it. Asked before the
        // broker hears of it, which would take the admission for news of its owner and listen to what it said since.
        let stands = judged.as_ref().is_none_or(|connected| self.shared.admission.still_good(connected));
        if !stands {
            let turned = Turned::AdmissionOutdated;
            self.journal.counted(turned.word());
        }
        if !stands || leaving || self.stop.is_some() {
            return; // dropped, it closes, and its places are given back
        }
        // What is still to be done here may free the place that the broker gives away now.
        self.carry_out_all(now);
        let conn = self.shard.adopt(now, *moving, &mut self.effects);
        let mut socket = Socket::new(conn, channel, counted);
        socket.rights_of = rights_of;
        socket.registry = registry;
        let kept = self.settle_in(now, socket);
        if !kept {
            self.leave(conn);
            return;
        }
        // It may have been readable and writable all the while, of which a new poll tells; TLS may have
        // something to say, of which it does not.
        self.mark_dirty(conn);
        self.mark_unread(conn);
        // Its session may have gone to yet another shard.
        self.judged = judged.map(|connected| (conn, connected));
        self.carry_out_all(now);
        self.judged = None;
    }

    /// Begins with a client over WebSocket.
    pub(super) fn arrive(&mut self, now: Instant, arrival: Arrival) {
        let Arrival { socket, session, received, registry, counted } = arrival;
        if self.stop.is_some() {
            return;
        }
        self.carry_out_all(now);
        let peer = counted.peer;
        let mut socket = TcpStream::from_std(socket);
        if let Err(source) = keep_alive(&mut socket) {
            let turned = Turned::Accept { source };
            return self.journal.refused(now, turned.code(), turned.word(), peer, &turned);
        }
        let early_bytes_max = self.shared.early_bytes_max;
        let channel =
            Channel::web_socket(socket, Tls::begun(session, self.shared.clock.now_ms()), early_bytes_max);
        let conn = self.shard.open(now, now + self.shared.connect_timeout);
        let mut socket = Socket::new(conn, channel, counted);
        socket.registry = registry.map(Box::new);
        self.shared.accepted.fetch_add(1, Relaxed);
        if !self.settle_in(now, socket) {
            return self.leave(conn);
        }
        let end = self.take_in(now, conn, |channel, buffers| channel.read_before(&received, buffers));
        self.mark_dirty(conn);
        match end {
            ReadEnd::Closed => self.leave(conn),
            ReadEnd::Turned(turned) => self.turn_away(now, conn, &turned),
            _ => self.mark_unread(conn),
        }
    }

    /// The client of a shared listener speaks HTTPS: the socket goes there, and is counted here until HTTPS counts it.
    pub(super) fn send_to_https(
        &mut self,
        now: Instant,
        conn: ConnId,
        hello: Accepted,
        tls: Arc<ServerConfig>,
    ) {
        let slot = self.sockets.get_mut(conn.slot() as usize);
        let Some(mut socket) = slot.and_then(|slot| slot.take_if(|socket| socket.conn == conn)) else {
            return;
        };
        let _ = self.poll.registry().deregister(socket.channel.socket_mut());
        self.open -= 1;
        // It has not said a word of MQTT, so the broker has nothing to say of it either.
        self.shard.hung_up(now, conn, &mut self.effects);
        let counted = Counted {
            shared: Arc::clone(&self.shared),
            door: socket.door,
            peer: socket.peer,
            at_gate: socket.at_gate,
            in_session: socket.in_session,
            handed_on: false,
        };
        let shared = Arc::clone(&self.shared);
        let Some(https) = shared.doors.get(socket.door).and_then(|door| door.https.as_ref()) else { return };
        let peer = socket.peer;
        let socket = std::net::TcpStream::from(socket.channel.into_socket());
        https.enter(HttpsArrival { socket, peer, hello, tls, place: Box::new(counted) });
    }

    /// Takes a socket into this shard's poll and into its place. `false`: the system refused the poll.
    fn settle_in(&mut self, now: Instant, mut socket: Socket) -> bool {
        let (slot, peer) = (socket.conn.slot() as usize, socket.peer);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(socket.channel.socket_mut(), Token(slot), interest);
        self.take_place(socket);
        if let Err(source) = registered {
            let turned = Turned::Accept { source };
            self.journal.refused(now, turned.code(), turned.word(), peer, &turned);
            return false;
        }
        true
    }

    /// Puts a socket where its connection is.
    pub(super) fn take_place(&mut self, socket: Socket) {
        let slot = socket.conn.slot() as usize;
        if self.sockets.len() <= slot {
            self.sockets.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.sockets.get_mut(slot) {
            debug_assert!(place.is_none(), "the broker gives a place away when it is free");
            *place = Some(socket);
            self.open += 1;
        }
    }
}

impl Socket {
    /// `counted`: its places, which the socket keeps from now on.
    fn new(conn: ConnId, channel: Channel, mut counted: Counted) -> Self {
        counted.handed_on = true;
        let mut socket = Self::stranger(conn, channel, counted.peer, counted.door);
        socket.at_gate = counted.at_gate;
        socket.in_session = counted.in_session;
        socket
    }
}
