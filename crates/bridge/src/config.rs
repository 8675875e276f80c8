//! Settings of the bridge.

use std::any::Any;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_admission::Ways;
use drawbridge_names::{PrincipalName, RegistryName};
use rustls::server::Accepted;

use crate::{BridgeError, Durable, ServerTls};

/// What the bridge listens on, and how much it takes from strangers.
#[derive(Debug)]
pub struct BridgeConfig {
    /// Broker shards, one thread each. Default: one per core, at least 1.
    pub shards: usize,
    /// Where clients come in. At least one.
    pub listeners: Vec<Listener>,
    /// Unauthenticated connections of one listener; the excess waits unaccepted. Default 4,096.
    pub unauthenticated_max: usize,
    /// Unauthenticated connections of one address on one listener; the excess waits, accepted and unread. An
    /// IPv6 address counts by its /64. Default 1,024.
    pub unauthenticated_per_address_max: usize,
    /// Connections that wait so, of all addresses and listeners; the excess is closed. Never more than half of
    /// `connections_max`. Default 16,384: fleets sit behind one NAT.
    pub address_queue_max: usize,
    /// From accept to an admitted CONNECT, TLS included. Default 10 s.
    pub connect_timeout: Duration,
    /// TLS bytes a client may send until its handshake is done. Default 64 KiB.
    pub handshake_bytes_max: usize,
    /// TLS handshakes are worked on for so long at a time, then those who are in are served again. At least
    /// one is, however long it takes. Default 2 ms.
    pub handshake_time_per_turn: Duration,
    /// So many handshakes of a shard may wait to be worked on; beyond it nobody is accepted. Default 512.
    pub handshakes_waiting_max: usize,
    /// Logins that are judged at once, over all shards. Beyond it CONNECT is refused unread (0x89, 3.1.1: 3);
    /// from three quarters of it on no handshake is worked on and nobody is accepted. Default 1,024.
    pub logins_max: usize,
    /// Connections in all. Default: the soft limit of open files at start, less a reserve.
    pub connections_max: Option<usize>,
    /// So long after the last whole TLS handshake of its client a session goes on that is renewed. `None`: as long as it
    /// is renewed. Default 24 h.
    pub renewed_session_max: Option<Duration>,
    /// The ways in that are open over WebSocket, at each place where HTTPS is served
    /// ([`crate::BridgeHandle::reserve_web_socket_at`]). Default: one place with
    /// [`Ways::default_of_web_socket`].
    pub web_socket_ways: Vec<Ways>,
    /// How often the numbers below `$SYS` are published to those who may listen and do; zero: never. Default 10 s.
    pub statistics_interval: Duration,
    /// Where sessions and messages outlive the process. Default none: no session outlives its connection.
    pub storage: Option<Durable>,
    /// Settings of each shard. Its number, the number of shards, the connect timeout, the wall clock and
    /// whether it is durable are filled in by [`crate::Bridge::start`].
    pub shard: drawbridge_broker::ShardConfig,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            shards: std::thread::available_parallelism().map_or(1, NonZero::get),
            listeners: Vec::new(),
            unauthenticated_max: 4096,
            unauthenticated_per_address_max: 1024,
            address_queue_max: 16_384,
            connect_timeout: Duration::from_secs(10),
            handshake_bytes_max: 64 * 1024,
            handshake_time_per_turn: Duration::from_millis(2),
            handshakes_waiting_max: 512,
            logins_max: 1024,
            connections_max: None,
            renewed_session_max: Some(Duration::from_secs(86_400)),
            web_socket_ways: vec![Ways::default_of_web_socket()],
            statistics_interval: Duration::from_secs(10),
            storage: None,
            shard: drawbridge_broker::ShardConfig::default(),
        }
    }
}

/// One address on which clients come in.
#[derive(Debug)]
pub struct Listener {
    /// Bound by the caller; port 0 is fine.
    pub socket: TcpListener,
    /// With TLS or without.
    pub kind: ListenerKind,
    /// The registry of clients that name none by client id or token; `None` for the default one.
    pub registry: Option<RegistryName>,
    /// The ways in that are open here.
    pub ways: Ways,
}

/// Where the connections of a shared listener go whose clients speak HTTPS.
pub trait HttpsEntrance: fmt::Debug + Send + Sync {
    /// Takes one over, behind its ClientHello. Never waits.
    fn enter(&self, arrival: HttpsArrival);
}

/// A connection whose client speaks HTTPS.
#[derive(Debug)]
pub struct HttpsArrival {
    /// Non-blocking, and in no poll.
    pub socket: std::net::TcpStream,
    /// Its other end.
    pub peer: SocketAddr,
    /// The ClientHello, read and not answered yet.
    pub hello: Accepted,
    /// The settings that its TLS goes on with.
    pub tls: Arc<rustls::ServerConfig>,
    /// Its place among those who are not admitted yet: to be dropped when it is counted elsewhere.
    pub place: Box<dyn Any + Send>,
}

/// How a listener protects what crosses it.
#[derive(Debug, Clone)]
pub enum ListenerKind {
    /// TLS; see [`crate::server_tls`].
    Tls(Arc<rustls::ServerConfig>),
    /// TLS as the ClientHello wants it.
    ByHello {
        /// What is shown to whom.
        tls: Arc<ServerTls>,
        /// Where clients go that speak HTTPS, if it is spoken here too.
        https: Option<Arc<dyn HttpsEntrance>>,
    },
    /// No TLS: for development, on a loopback address only.
    Plain {
        /// Clients without any credential get the rights of this application.
        anonymous_as: Option<PrincipalName>,
    },
}

impl BridgeConfig {
    /// Refuses what cannot work or must not be.
    pub(crate) fn check(&self) -> Result<(), BridgeError> {
        if self.listeners.is_empty() {
            return Err(BridgeError::NoListener);
        }
        let counts = [
            ("shards", self.shards as u128, 1),
            ("unauthenticated_max", self.unauthenticated_max as u128, 1),
            ("unauthenticated_per_address_max", self.unauthenticated_per_address_max as u128, 1),
            ("connect_timeout", self.connect_timeout.as_millis(), 1),
            // A ClientHello with X25519MLKEM768 alone has 1.5 kB.
            ("handshake_bytes_max", self.handshake_bytes_max as u128, 4096),
            ("handshakes_waiting_max", self.handshakes_waiting_max as u128, 1),
            ("logins_max", self.logins_max as u128, 1),
            ("connections_max", self.connections_max.unwrap_or(1) as u128, 1),
        ];
        for (setting, found, wanted_min) in counts {
            if found < wanted_min {
                return Err(BridgeError::Setting { setting, found, wanted_min });
            }
        }
        self.listeners.iter().try_for_each(Listener::check)
    }
}

impl Listener {
    pub(crate) fn address(&self) -> Result<SocketAddr, BridgeError> {
        let what = "the address of a listener";
        self.socket.local_addr().map_err(|source| BridgeError::System { what, source })
    }

    fn check(&self) -> Result<(), BridgeError> {
        let address = self.address()?;
        match self.kind {
            ListenerKind::Plain { .. } if !address.ip().to_canonical().is_loopback() => {
                Err(BridgeError::PlainBeyondLoopback { address })
            }
            _ => Ok(()),
        }
    }
}
