//! A client that says exactly the bytes it is told to, and takes apart all that comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{Frame, ProtocolVersion, Side, decode};
use rustls::{ClientConnection, StreamOwned};

use crate::bytes::{
    Connect, DISCONNECT, Message, PINGREQ, Properties, Publish, Said, Version, ack, frame, read, subscribe,
};
use crate::frames::WebSocket;
use crate::world::{Case, Via, World};

/// How long a server may think before a test calls it silence.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bytes below MQTT.
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Within TLS, after its opening handshake.
    WebSocket(Box<WebSocket>),
}

impl Transport {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
            Self::WebSocket(web) => &web.stream.sock,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::WebSocket(web) => web.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::WebSocket(web) => web.write_frame(0x82, bytes),
        }
    }
}

/// One connection.
pub(crate) struct Client {
    transport: Transport,
    pub(crate) version: Version,
    input: Vec<u8>,
    closed: bool,
    next_id: u16,
    /// Length of the packet that came last.
    last_bytes: usize,
    /// Publishes that came while something else was waited for.
    waiting: Vec<Message>,
}

impl Client {
    /// A connection on which nothing has been said.
    pub(crate) fn silent(world: &World, case: Case) -> Self {
        Self::over(world.transport(case.via), case.version)
    }

    /// The same over a transport that is there already.
    pub(crate) fn over(transport: Transport, version: Version) -> Self {
        Self {
            transport,
            version,
            input: Vec::new(),
            closed: false,
            next_id: 0,
            last_bytes: 0,
            waiting: Vec::new(),
        }
    }

    /// Says CONNECT and answers what the server said to it: flags, code, properties.
    pub(crate) fn ask(world: &World, case: Case, connect: &Connect) -> (Self, u8, u8, Properties) {
        let mut client = Self::silent(world, case);
        client.send(&connect.encode(case.version, world.credential(case.via)));
        match client.next() {
            Some(Said::ConnAck { flags, code, properties }) => (client, flags, code, properties),
            other => panic!("{other:?} for CONNACK"),
        }
    }

    /// Connects and is let in; answers whether a session was present.
    pub(crate) fn join(world: &World, case: Case, connect: &Connect) -> (Self, bool) {
        let (client, flags, code, properties) = Self::ask(world, case, connect);
        assert_eq!(code, 0, "CONNACK {code:#04x} {properties:?} for {connect:?}");
        (client, flags & 1 != 0)
    }

    /// The same as another application than the guest; over TLS.
    pub(crate) fn join_as(world: &World, case: Case, jwt: &str, connect: &Connect) -> (Self, bool) {
        let mut client = Self::silent(world, Case { via: Via::Tls, ..case });
        client.send(&connect.encode(case.version, Some(("unused", jwt.as_bytes()))));
        match client.next() {
            Some(Said::ConnAck { flags, code: 0, .. }) => (client, flags & 1 != 0),
            other => panic!("{other:?} for CONNACK"),
        }
    }

    /// A client with a clean session and a name of its own.
    pub(crate) fn new(world: &World, case: Case) -> Self {
        Self::join(world, case, &Connect::clean(&crate::world::name("c"))).0
    }

    /// A client of the other version, or of 5.0 whatever the case: to look on with.
    pub(crate) fn observer(world: &World) -> Self {
        Self::new(world, Case { version: Version::V5, via: Via::Plain })
    }

    /// The frames below, to say what no honest client would.
    pub(crate) fn web_socket(&mut self) -> &mut WebSocket {
        match &mut self.transport {
            Transport::WebSocket(web) => web,
            _ => panic!("no WebSocket"),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.transport.write(bytes).expect("the connection takes the bytes");
    }

    /// Sends what may find the connection closed already.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.transport.write(bytes);
    }

    /// The next packet; `None` when the server has closed. Panics when nothing comes.
    pub(crate) fn next(&mut self) -> Option<Said> {
        self.next_within(PATIENCE).unwrap_or_else(|()| panic!("silence for {PATIENCE:?}"))
    }

    /// The same; `Err` when nothing comes within `limit`.
    pub(crate) fn next_within(&mut self, limit: Duration) -> Result<Option<Said>, ()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((head, body)) = frame(&self.input)
                && self.input.len() >= head + body
            {
                let bytes: Vec<u8> = self.input.drain(..head + body).collect();
                self.last_bytes = bytes.len();
                return Ok(Some(self.judge(&bytes, head)));
            }
            if self.closed {
                assert!(self.input.is_empty(), "closed within a packet: {:02x?}", self.input);
                return Ok(None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(());
            }
            self.transport.socket().set_read_timeout(Some(left)).expect("a timeout");
            let mut buffer = [0; 16 << 10];
            match self.transport.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.closed = true,
            }
        }
    }

    /// The next packet and its length in bytes.
    pub(crate) fn next_sized(&mut self) -> Option<(Said, usize)> {
        let said = self.next()?;
        Some((said, self.last_bytes))
    }

    /// Takes a packet apart by the standard; the codec of the project must agree that it is one.
    fn judge(&self, bytes: &[u8], head: usize) -> Said {
        let version = match self.version {
            Version::V311 => ProtocolVersion::V311,
            Version::V5 => ProtocolVersion::V5,
        };
        let judged = decode(bytes, Some(version), usize::MAX, Side::FromServer);
        assert!(
            matches!(judged, Ok(Frame::Complete { bytes: all, .. }) if all == bytes.len()),
            "{bytes:02x?}: {judged:?}"
        );
        read(self.version, bytes[0], &bytes[head..])
    }

    /// The next publish. What is no publish must not come before it.
    pub(crate) fn message(&mut self) -> Message {
        if !self.waiting.is_empty() {
            return self.waiting.remove(0);
        }
        match self.next() {
            Some(Said::Publish(message)) => message,
            other => panic!("{other:?} for PUBLISH"),
        }
    }

    /// The next publish; it is acknowledged by the rules of its QoS, to the end.
    pub(crate) fn taken(&mut self) -> Message {
        let message = self.message();
        match message.qos {
            1 => self.send(&ack(0x40, message.id)),
            2 => {
                self.send(&ack(0x50, message.id));
                self.acked(0x62, message.id, 0);
                self.send(&ack(0x70, message.id));
            }
            _ => {}
        }
        message
    }

    /// Takes publishes until one on `topic` comes, which is not answered as one of them.
    pub(crate) fn until(&mut self, topic: &str) -> Vec<Message> {
        let mut found = Vec::new();
        loop {
            let message = self.taken();
            if message.topic == topic {
                return found;
            }
            found.push(message);
        }
    }

    /// The next packet that is no publish; publishes are kept for [`Self::message`].
    pub(crate) fn answer(&mut self) -> Option<Said> {
        loop {
            match self.next() {
                Some(Said::Publish(message)) => self.waiting.push(message),
                other => return other,
            }
        }
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP with this identifier and code must be next.
    pub(crate) fn acked(&mut self, first_byte: u8, id: u16, code: u8) {
        match self.answer() {
            Some(Said::Ack { first_byte: f, id: i, code: c, .. }) => {
                assert_eq!((f, i, c), (first_byte, id, code), "first byte, identifier, code");
            }
            other => panic!("{other:?} for {first_byte:#04x} {id}"),
        }
    }

    /// Subscribes to one filter; answers the code.
    pub(crate) fn try_subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.try_subscribe_with(filter, options, &[])
    }

    pub(crate) fn try_subscribe_with(&mut self, filter: &str, options: u8, properties: &[u8]) -> u8 {
        let id = self.fresh_id();
        self.send(&subscribe(self.version, id, properties, &[(filter, options)]));
        match self.answer() {
            Some(Said::SubAck { id: found, codes, .. }) => {
                assert_eq!((found, codes.len()), (id, 1));
                codes[0]
            }
            other => panic!("{other:?} for SUBACK"),
        }
    }

    /// Subscribes; the QoS asked for must be granted.
    pub(crate) fn subscribe(&mut self, filter: &str, options: u8) {
        let code = self.try_subscribe(filter, options);
        assert_eq!(code, options & 3, "{filter}");
    }

    /// Publishes, by all the rules of its QoS; it must be taken.
    pub(crate) fn publish(&mut self, publish: &Publish) {
        let id = self.fresh_id();
        let publish = publish.clone().qos(publish.qos, id);
        self.send(&publish.encode(self.version));
        match publish.qos {
            1 => self.puback(id),
            2 => {
                self.pubrec(id);
                self.send(&ack(0x62, id));
                self.acked(0x70, id, 0);
            }
            _ => {}
        }
    }

    /// Success, or "no subscriber" (5.0), which is one too.
    fn puback(&mut self, id: u16) {
        match self.answer() {
            Some(Said::Ack { first_byte: 0x40, id: found, code: 0 | 0x10, .. }) if found == id => {}
            other => panic!("{other:?} for PUBACK {id}"),
        }
    }

    /// The same for PUBREC.
    pub(crate) fn pubrec(&mut self, id: u16) {
        match self.answer() {
            Some(Said::Ack { first_byte: 0x50, id: found, code: 0 | 0x10, .. }) if found == id => {}
            other => panic!("{other:?} for PUBREC {id}"),
        }
    }

    /// Says PINGREQ; answers the publishes that came before PINGRESP.
    pub(crate) fn ping(&mut self) -> Vec<Message> {
        self.send(&PINGREQ);
        match self.answer() {
            Some(Said::PingResp) => std::mem::take(&mut self.waiting),
            other => panic!("{other:?} for PINGRESP"),
        }
    }

    /// Waits until all that this client has published has reached every shard: readers wherever they were
    /// accepted have a message that it publishes last. A new client then meets a server that has settled.
    pub(crate) fn settle(&mut self, world: &World, case: Case) {
        let end = crate::world::name("settled");
        let mut readers: Vec<Self> = (0..6).map(|_| Self::new(world, case)).collect();
        for reader in &mut readers {
            reader.subscribe(&end, 1);
        }
        self.publish(&Publish::new(&end, "").qos(1, 0));
        for reader in &mut readers {
            assert_eq!(reader.taken().topic, end);
        }
    }

    /// What has come here of all that `sender` has published so far.
    pub(crate) fn all_of(&mut self, sender: &mut Self) -> Vec<Message> {
        let end = crate::world::name("end");
        self.subscribe(&end, 1);
        sender.publish(&Publish::new(&end, "").qos(1, 0));
        self.until(&end)
    }

    /// A packet identifier that was not used here before.
    pub(crate) fn fresh_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// The server must end the connection, in 5.0 with DISCONNECT before and a code of an error; answers that.
    pub(crate) fn ended(&mut self) -> Option<u8> {
        let code = (self.version == Version::V5).then(|| match self.answer() {
            Some(Said::Disconnect { code, properties }) => {
                assert!(code >= 0x80, "DISCONNECT {code:#04x}, {properties:?}");
                code
            }
            other => panic!("{other:?} for DISCONNECT"),
        });
        self.is_closed();
        code
    }

    /// The same with this code (not said in 3.1.1).
    pub(crate) fn ended_with(&mut self, code: u8) {
        if let Some(found) = self.ended() {
            assert_eq!(found, code, "{found:#04x} for {code:#04x}");
        }
    }

    /// The server must close the connection and say nothing before.
    pub(crate) fn is_closed(&mut self) {
        let said = self.answer();
        assert_eq!(said, None, "the connection is closed without another word");
    }

    /// DISCONNECT, and wait until the server has closed.
    pub(crate) fn leave(mut self) {
        self.send(&DISCONNECT);
        while self.next().is_some() {}
    }

    /// Ends one direction of the socket (of TLS: without a close_notify).
    pub(crate) fn shut(&mut self, how: std::net::Shutdown) {
        self.transport.socket().shutdown(how).expect("a socket that is open");
    }

    /// Goes without a word, and waits until the server has seen that.
    pub(crate) fn vanish(mut self) {
        self.shut(std::net::Shutdown::Write);
        while self.next().is_some() {}
    }
}
