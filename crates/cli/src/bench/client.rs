//! One connection of the load: its socket, its TLS, the bytes that wait for it, and the steps that the protocol
//! itself asks for (acknowledgements). What is sent, and when, is the scenario's.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use drawbridge_device::ProtocolVersion;
use mio::net::TcpStream;
use rustls::ClientConnection;

use super::packet::{self, Incoming, PUBACK, PUBCOMP, PUBREC, PUBREL, Stamp, Template};

/// Reads of one socket in a row, so that a fast one does not starve the others.
const READS_MAX: usize = 8;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// From the socket's opening to CONNACK.
    Opening,
    /// Admitted.
    Open,
    /// It ended.
    Closed,
}

/// What a client tells the scenario.
#[derive(Debug)]
pub(super) enum Heard<'a> {
    /// CONNACK admitted it.
    Opened,
    /// SUBACK granted its filters.
    Subscribed,
    /// A message came.
    Message(&'a [u8]),
    /// A publish of this packet identifier is done: PUBACK, or PUBCOMP.
    Done(u16),
    /// The server refused something.
    Refused(String),
    /// The connection ended, and why.
    Closed(String),
}

/// One connection.
pub(super) struct Client {
    pub(super) socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    version: ProtocolVersion,
    pub(super) state: State,
    /// Bytes not yet given to the socket or to TLS.
    pub(super) out: Vec<u8>,
    /// The beginning of a packet that is not whole yet.
    rest: Vec<u8>,
    last_id: u16,
    /// How many publishes of QoS 1 and 2 the broker takes before it has acknowledged: its Receive Maximum.
    pub(super) unacknowledged_max: u16,
    /// It waits in the list of those that have something to send.
    pub(super) dirty: bool,
    /// The socket takes nothing more until the system says so.
    pub(super) stuck: bool,
    /// When it began, nanoseconds of the generator's clock.
    pub(super) began_ns: u64,
}

impl Client {
    pub(super) fn new(
        socket: TcpStream,
        tls: Option<ClientConnection>,
        version: ProtocolVersion,
        hello: Vec<u8>,
        began_ns: u64,
    ) -> Self {
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(None); // a batch is taken whole
            Box::new(tls)
        });
        Self {
            socket,
            tls,
            version,
            state: State::Opening,
            out: hello,
            rest: Vec::new(),
            last_id: 0,
            unacknowledged_max: u16::MAX,
            dirty: false,
            // Before the connection stands, nothing can be written.
            stuck: true,
            began_ns,
        }
    }

    /// The next packet identifier.
    pub(super) fn id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// Puts a publish among what is to be sent; answers its packet identifier, 0 at QoS 0.
    pub(super) fn publish(&mut self, template: &Template, stamp: Stamp) -> u16 {
        let id = if template.qos() == drawbridge_device::Qos::AtMostOnce { 0 } else { self.id() };
        template.write(id, stamp, &mut self.out);
        id
    }

    /// Ends it without a word, as a device does that loses its network.
    pub(super) fn cut(&mut self) {
        self.state = State::Closed;
        let _ = self.socket.shutdown(Shutdown::Both); // it may have ended by itself
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.stuck {
            return Ok(());
        }
        let Some(tls) = &mut self.tls else {
            let mut sent = 0;
            let end = loop {
                if sent == self.out.len() {
                    break Ok(());
                }
                match self.socket.write(&self.out[sent..]) {
                    Ok(n) => sent += n,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        self.stuck = true;
                        break Ok(());
                    }
                    Err(e) => break Err(e),
                }
            };
            self.out.drain(..sent);
            return end;
        };
        if !self.out.is_empty() && !tls.is_handshaking() {
            tls.writer().write_all(&self.out)?;
            self.out.clear();
        }
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.stuck = true;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what is there, tells it, and puts the protocol's answers among what is to be sent. Answers whether more
    /// may be there.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        heard: &mut impl FnMut(Heard<'_>),
    ) -> Result<bool, String> {
        for _ in 0..READS_MAX {
            let kept = self.rest.len();
            if kept * 2 > buffer.len() {
                return Err(format!("a packet of more than {kept} bytes"));
            }
            buffer[..kept].copy_from_slice(&self.rest);
            let (got, full) = match self.receive(&mut buffer[kept..]) {
                Ok((0, _)) => return Err("the broker closed the connection".to_owned()),
                Ok(got) => got,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e.to_string()),
            };
            self.rest.clear();
            let end = kept + got;
            let mut at = 0;
            while let Some((incoming, bytes)) = packet::take(&buffer[at..end], self.version)? {
                at += bytes;
                self.hear(incoming, heard);
            }
            self.rest.extend_from_slice(&buffer[at..end]);
            if !full {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes of the application, and whether more may be there: a short read says that the socket is empty.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<(usize, bool)> {
        let Some(tls) = &mut self.tls else {
            loop {
                match self.socket.read(into) {
                    Ok(got) => return Ok((got, got == into.len())),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        };
        let mut got = 0;
        let mut ended = false;
        loop {
            match tls.reader().read(&mut into[got..]) {
                Ok(0) if got == into.len() => return Ok((got, true)),
                Ok(0) => return Ok((got, !ended)),
                Ok(n) => {
                    got += n;
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => ended = true,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && got > 0 => return Ok((got, false)),
                Err(e) => return Err(e),
            }
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            if (state.peer_has_closed() || ended) && state.plaintext_bytes_to_read() == 0 {
                return Ok((got, got > 0));
            }
        }
    }

    fn hear(&mut self, incoming: Incoming<'_>, heard: &mut impl FnMut(Heard<'_>)) {
        match incoming {
            Incoming::Publish { qos, id, payload } => {
                match qos {
                    1 => packet::acknowledge(PUBACK, id, &mut self.out),
                    2 => packet::acknowledge(PUBREC, id, &mut self.out),
                    _ => {}
                }
                heard(Heard::Message(payload));
            }
            Incoming::Ack { kind: PUBREC, id } => packet::acknowledge(PUBREL, id, &mut self.out),
            Incoming::Ack { kind: PUBREL, id } => packet::acknowledge(PUBCOMP, id, &mut self.out),
            Incoming::Ack { id, .. } => heard(Heard::Done(id)),
            Incoming::Accepted { unacknowledged_max } => {
                self.state = State::Open;
                self.unacknowledged_max = unacknowledged_max;
                heard(Heard::Opened);
            }
            Incoming::Subscribed => heard(Heard::Subscribed),
            Incoming::Refused(why) => heard(Heard::Refused(why)),
            Incoming::Other => {}
        }
    }

    /// Whether TLS has something to say though the scenario has not.
    pub(super) fn wants_flush(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }
}
