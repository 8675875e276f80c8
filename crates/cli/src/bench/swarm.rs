//! All clients of a run, on one poll and one thread.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use drawbridge_device::{ProtocolVersion, Qos};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::args::Load;
use super::client::{Client, Heard, State};
use super::clock::{self, Clock};
use super::credentials::{Credentials, Role};
use super::packet::{self, Stamp, Template};
use crate::Failure;

/// Bytes read at once; also twice the largest packet that can be taken.
const BUFFER_BYTES: usize = 512 << 10;
/// How long a broker may take to admit a client or to grant a filter.
const ANSWER: Duration = Duration::from_secs(30);
/// Connects under way at once, where the scenario does not say.
const AT_ONCE: usize = 64;

/// The clients.
pub(super) struct Swarm {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    /// Clients with something to send.
    dirty: Vec<usize>,
    /// Clients that may have more to read though the poll will not say so again.
    again: Vec<usize>,
    buffer: Vec<u8>,
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    target: String,
    pub(super) version: ProtocolVersion,
    topic: String,
    credentials: Arc<Credentials>,
    pub(super) clock: Clock,
}

impl Swarm {
    pub(super) fn new(load: &Load, credentials: Credentials, ca_pem: Option<&str>) -> Result<Self, Failure> {
        let fault = |e: std::io::Error| Failure::Unavailable(format!("the poll cannot be made: {e}"));
        let target = load.target.clone();
        let address = target.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(|| {
            Failure::Usage(format!("--target `{target}` has no address; wanted `host:port`"))
        })?;
        let tls = ca_pem.map(|pem| tls_of(&target, pem, load.x25519)).transpose()?;
        Ok(Self {
            poll: Poll::new().map_err(fault)?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            dirty: Vec::new(),
            again: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            address,
            tls,
            target,
            version: load.version.protocol(),
            topic: load.topic().to_owned(),
            credentials: Arc::new(credentials),
            clock: Clock::start(),
        })
    }

    /// A second one for another thread: same target, same identities, same clock, no clients yet.
    pub(super) fn another(&self) -> Result<Self, Failure> {
        Ok(Self {
            poll: Poll::new().map_err(|e| Failure::Unavailable(format!("the poll cannot be made: {e}")))?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            dirty: Vec::new(),
            again: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            address: self.address,
            tls: self.tls.clone(),
            target: self.target.clone(),
            version: self.version,
            topic: self.topic.clone(),
            credentials: Arc::clone(&self.credentials),
            clock: self.clock,
        })
    }

    /// The topic of client `number`; its JWT is not needed for that.
    pub(super) fn topic(&self, number: usize, role: Role) -> Result<String, Failure> {
        if !self.topic.contains("{id}") {
            return Ok(self.topic.replace("{client}", &number.to_string()));
        }
        let id = self.credentials.login(number, role)?.id;
        Ok(self.topic.replace("{client}", &number.to_string()).replace("{id}", &id))
    }

    /// The filter that covers the topics of all clients.
    pub(super) fn filter(&self) -> String {
        let levels = self
            .topic
            .split('/')
            .map(|level| if level.contains("{client}") || level.contains("{id}") { "+" } else { level });
        levels.collect::<Vec<_>>().join("/")
    }

    /// The bytes of CONNECT of client `number`. Made before anything is measured: a JWT has to be signed.
    pub(super) fn hello(&self, number: usize, role: Role, keep_s: u32) -> Result<Vec<u8>, Failure> {
        packet::connect(self.version, &self.credentials.login(number, role)?, keep_s)
    }

    fn client(&self, hello: Vec<u8>) -> Result<Client, Failure> {
        let lost = |why: String| {
            let target = &self.target;
            Failure::Unavailable(format!(
                "the connection to {target} failed: {why}; check the address, and that the broker runs"
            ))
        };
        let socket = TcpStream::connect(self.address).map_err(|e| lost(e.to_string()))?;
        socket.set_nodelay(true).map_err(|e| lost(e.to_string()))?;
        let tls =
            self.tls.as_ref().map(|(config, name)| ClientConnection::new(Arc::clone(config), name.clone()));
        let tls = tls.transpose().map_err(|e| lost(e.to_string()))?;
        Ok(Client::new(socket, tls, self.version, hello, self.clock.ns()))
    }

    fn register(&mut self, at: usize) -> Result<(), Failure> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut self.clients[at].socket, Token(at), both)
            .map_err(|e| Failure::Unavailable(format!("the poll takes no more sockets: {e}")))
    }

    /// Begins to connect one more client; answers its place.
    pub(super) fn begin(&mut self, hello: Vec<u8>) -> Result<usize, Failure> {
        let client = self.client(hello)?;
        let at = self.clients.len();
        self.clients.push(client);
        self.register(at)?;
        Ok(at)
    }

    /// Begins to connect anew in the place of a client that has ended.
    pub(super) fn begin_again(&mut self, at: usize, hello: Vec<u8>) -> Result<(), Failure> {
        self.clients[at] = self.client(hello)?;
        self.register(at)
    }

    /// Connects clients, some at a time, and waits until all are admitted. Answers the place of the first.
    pub(super) fn connect_all(&mut self, hellos: Vec<Vec<u8>>) -> Result<usize, Failure> {
        let first = self.clients.len();
        let (total, mut opened, mut waiting) = (hellos.len(), 0, 0);
        let mut hellos = hellos.into_iter();
        let mut quiet_since = self.clock.ns();
        while opened < total {
            while waiting < AT_ONCE
                && let Some(hello) = hellos.next()
            {
                self.begin(hello)?;
                waiting += 1;
            }
            let mut now_open = 0;
            self.turn(Some(Duration::from_millis(100)), |_, heard| match heard {
                Heard::Opened => {
                    now_open += 1;
                    Ok(())
                }
                other => faults(other),
            })?;
            opened += now_open;
            waiting -= now_open;
            self.patience(&mut quiet_since, now_open, "CONNECT")?;
        }
        Ok(first)
    }

    /// Subscribes client `at` to each list of filters, in one packet a list, and waits for the grants.
    pub(super) fn subscribe_all(
        &mut self,
        wanted: impl Iterator<Item = (usize, Vec<String>)>,
        qos: Qos,
    ) -> Result<(), Failure> {
        let mut wanted = wanted.peekable();
        let (mut asked, mut granted) = (0, 0);
        let mut quiet_since = self.clock.ns();
        while granted < asked || wanted.peek().is_some() {
            while asked - granted < AT_ONCE
                && let Some((at, filters)) = wanted.next()
            {
                let version = self.version;
                let client = self.reach(at);
                let id = client.id();
                packet::subscribe(version, id, &filters, qos, &mut client.out)?;
                asked += 1;
            }
            let mut now = 0;
            self.turn(Some(Duration::from_millis(100)), |_, heard| match heard {
                Heard::Subscribed => {
                    now += 1;
                    Ok(())
                }
                other => faults(other),
            })?;
            granted += now;
            self.patience(&mut quiet_since, now, "SUBSCRIBE")?;
        }
        Ok(())
    }

    fn patience(&self, quiet_since: &mut u64, progress: usize, what: &str) -> Result<(), Failure> {
        let now = self.clock.ns();
        if progress > 0 {
            *quiet_since = now;
        } else if now - *quiet_since > clock::ns(ANSWER) {
            let (target, seconds) = (&self.target, ANSWER.as_secs());
            return Err(Failure::Unavailable(format!(
                "{target} left {what} without an answer for {seconds} s"
            )));
        }
        Ok(())
    }

    /// A client that something is about to be sent through.
    pub(super) fn reach(&mut self, at: usize) -> &mut Client {
        let client = &mut self.clients[at];
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(at);
        }
        client
    }

    /// A client, to ask it.
    pub(super) fn peek(&self, at: usize) -> &Client {
        &self.clients[at]
    }

    /// Publishes; answers the packet identifier.
    pub(super) fn publish(&mut self, at: usize, template: &Template, stamp: Stamp) -> u16 {
        self.reach(at).publish(template, stamp)
    }

    /// Ends a client without a word.
    pub(super) fn cut(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.cut();
        let _ = self.poll.registry().deregister(&mut client.socket); // it may have ended by itself
    }

    /// Sends what waits, waits for the poll, reads all that is ready, and sends what follows from it. `heard` gets
    /// the place of the client; an error of it ends the run.
    pub(super) fn turn(
        &mut self,
        wait: Option<Duration>,
        mut heard: impl FnMut(usize, Heard<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut fault = Ok(());
        self.flush(&mut heard)?;
        let wait = if self.again.is_empty() { wait } else { Some(Duration::ZERO) };
        match self.poll.poll(&mut self.events, wait) {
            Err(e) if e.kind() != std::io::ErrorKind::Interrupted => {
                return Err(Failure::Unavailable(format!("the poll failed: {e}")));
            }
            _ => {}
        }
        let mut ready = std::mem::take(&mut self.again);
        for event in &self.events {
            let at = event.token().0;
            let client = &mut self.clients[at];
            if event.is_writable() && client.stuck {
                client.stuck = false;
                if !client.dirty {
                    client.dirty = true;
                    self.dirty.push(at);
                }
            }
            if event.is_readable() || event.is_error() || event.is_read_closed() {
                ready.push(at);
            }
        }
        for at in ready.drain(..) {
            let client = &mut self.clients[at];
            if client.state == State::Closed {
                continue;
            }
            let told = client.read(&mut self.buffer, &mut |said| {
                if fault.is_ok() {
                    fault = heard(at, said);
                }
            });
            match told {
                Ok(true) => self.again.push(at),
                Ok(false) => {}
                Err(why) => {
                    self.clients[at].state = State::Closed;
                    heard(at, Heard::Closed(why))?;
                    continue;
                }
            }
            let client = &mut self.clients[at];
            if client.wants_flush() && !client.dirty {
                client.dirty = true;
                self.dirty.push(at);
            }
        }
        fault
    }

    fn flush(
        &mut self,
        heard: &mut impl FnMut(usize, Heard<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for at in std::mem::take(&mut self.dirty) {
            let client = &mut self.clients[at];
            client.dirty = false;
            if client.state == State::Closed {
                continue;
            }
            if let Err(e) = client.flush() {
                client.state = State::Closed;
                heard(at, Heard::Closed(e.to_string()))?;
            }
        }
        Ok(())
    }

    /// Turns until a time of the clock has come, with nothing to do but to hear.
    pub(super) fn rest(&mut self, time: Duration) -> Result<(), Failure> {
        let end = self.clock.ns() + clock::ns(time);
        while self.clock.ns() < end {
            self.turn(Some(Duration::from_millis(50)), |_, heard| faults(heard))?;
        }
        Ok(())
    }
}

/// A refusal or an end where neither is part of the scenario.
pub(super) fn faults(heard: Heard<'_>) -> Result<(), Failure> {
    match heard {
        Heard::Refused(why) => Err(Failure::Denied(format!("the broker refused a client: {why}"))),
        Heard::Closed(why) => Err(Failure::Unavailable(format!("a client lost its connection: {why}"))),
        _ => Ok(()),
    }
}

fn tls_of(
    target: &str,
    pem: &str,
    x25519: bool,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
    let bad = |why: String| Failure::Usage(format!("TLS with {target}: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| bad(format!("the CA file is no PEM: {e}")))?;
        roots.add(certificate).map_err(|e| bad(format!("the CA file is no certificate: {e}")))?;
    }
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if x25519 {
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Every connect is a whole one.
    config.resumption = rustls::client::Resumption::disabled();
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|e| bad(e.to_string()))?;
    Ok((Arc::new(config), name))
}
