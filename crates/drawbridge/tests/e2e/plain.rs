//! A client over TCP alone that says the bytes it is told to; the server lets it in as `guest`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::bytes::{Connect, Message, PINGREQ, Publish, Said, Version, ack, frame, read, subscribe};
use crate::harness::Core;

/// Arguments of `serve` for these clients.
pub(crate) const ARGS: [&str; 4] = ["--insecure-mqtt-port", "0", "--insecure-anonymous", "guest"];

/// Registers whom the server takes them for; it may everything.
pub(crate) fn guest(core: &Core) {
    core.application("guest", "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\"]\n");
}

/// A connection of MQTT 5.0.
pub(crate) struct Plain {
    pub(crate) socket: TcpStream,
    input: Vec<u8>,
    next_id: u16,
}

impl Plain {
    /// Connects and is let in; answers whether a session was present.
    pub(crate) fn join(core: &Core, connect: &Connect) -> (Self, bool) {
        let address = core.endpoints.mqtt.as_ref().expect("a plain listener");
        let socket = TcpStream::connect(address).expect("the server accepts");
        socket.set_nodelay(true).expect("no delay");
        socket.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut client = Self { socket, input: Vec::new(), next_id: 0 };
        client.send(&connect.encode(Version::V5, None));
        match client.next() {
            Said::ConnAck { code: 0, flags, .. } => (client, flags & 1 != 0),
            other => panic!("{other:?} for CONNACK"),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the connection takes the bytes");
    }

    /// The next packet.
    pub(crate) fn next(&mut self) -> Said {
        self.within(Duration::from_secs(20)).expect("no word for 20 s")
    }

    /// The next packet, if one comes in time.
    pub(crate) fn within(&mut self, limit: Duration) -> Option<Said> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((head, body)) = frame(&self.input)
                && self.input.len() >= head + body
            {
                let bytes: Vec<u8> = self.input.drain(..head + body).collect();
                return Some(read(Version::V5, bytes[0], &bytes[head..]));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            let mut buffer = [0; 16 << 10];
            match self.socket.read(&mut buffer) {
                Ok(0) => panic!("the server has closed"),
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) {
        self.next_id += 1;
        self.send(&subscribe(Version::V5, self.next_id, &[], &[(filter, qos)]));
        match self.next() {
            Said::SubAck { codes, .. } => assert_eq!(codes, [qos], "{filter}"),
            other => panic!("{other:?} for SUBACK"),
        }
    }

    /// Says a message and waits for nothing; answers its identifier.
    pub(crate) fn say(&mut self, topic: &str, text: &str, qos: u8) -> u16 {
        self.next_id += u16::from(qos > 0);
        self.send(&Publish::new(topic, text).qos(qos, self.next_id).encode(Version::V5));
        self.next_id
    }

    /// PUBACK (0x40), PUBREC (0x50) or PUBCOMP (0x70) of success must be next.
    pub(crate) fn acked(&mut self, first: u8, wanted: u16) {
        match self.next() {
            Said::Ack { first_byte, id, code: 0 | 0x10, .. } if (first_byte, id) == (first, wanted) => {}
            other => panic!("{other:?} for {first:#04x} {wanted}"),
        }
    }

    /// The next message, acknowledged by the rules of its QoS.
    pub(crate) fn message(&mut self) -> Message {
        let message = match self.next() {
            Said::Publish(message) => message,
            other => panic!("{other:?} for PUBLISH"),
        };
        match message.qos {
            1 => self.send(&ack(0x40, message.id)),
            2 => {
                self.send(&ack(0x50, message.id));
                // PUBREL, whatever else comes before it, is for the caller of the next message to meet.
                match self.next() {
                    Said::Ack { first_byte: 0x62, id, .. } if id == message.id => {}
                    other => panic!("{other:?} for PUBREL"),
                }
                self.send(&ack(0x70, message.id));
            }
            _ => {}
        }
        message
    }

    /// PINGREQ; PINGRESP must be next.
    pub(crate) fn ping(&mut self) {
        self.send(&PINGREQ);
        assert_eq!(self.next(), Said::PingResp);
    }
}
