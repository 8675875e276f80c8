//! Packets as bytes, written and read by the letter of the standard and not by the codec under test.

/// Which version a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Version {
    /// 3.1.1, protocol level 4.
    V311,
    /// 5.0, protocol level 5.
    V5,
}

/// A packet from its first byte and what stands behind the remaining length.
pub(crate) fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    out.extend(variable(body.len()));
    out.extend_from_slice(body);
    out
}

/// A variable byte integer.
pub(crate) fn variable(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let digit = u8::try_from(value % 128).expect("below 128");
        value /= 128;
        out.push(if value > 0 { digit | 0x80 } else { digit });
        if value == 0 {
            return out;
        }
    }
}

/// Bytes with their length in two bytes before them: a string, or binary data.
pub(crate) fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a field has at most 65,535 bytes");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A section of properties: nothing in 3.1.1.
pub(crate) fn section(version: Version, properties: &[u8]) -> Vec<u8> {
    match version {
        Version::V311 => Vec::new(),
        Version::V5 => [&variable(properties.len())[..], properties].concat(),
    }
}

/// A property of four bytes.
pub(crate) fn p32(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property of two bytes.
pub(crate) fn p16(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property that is a string or binary data.
pub(crate) fn pstr(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id][..], &field(value)].concat()
}

/// A user property.
pub(crate) fn user(name: &str, value: &str) -> Vec<u8> {
    [&[USER_PROPERTY][..], &field(name), &field(value)].concat()
}

pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0b;
pub(crate) const SESSION_EXPIRY: u8 = 0x11;
pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
pub(crate) const PROBLEM_INFORMATION: u8 = 0x17;
pub(crate) const WILL_DELAY: u8 = 0x18;
pub(crate) const RESPONSE_INFORMATION_ASKED: u8 = 0x19;
pub(crate) const RESPONSE_INFORMATION: u8 = 0x1a;
pub(crate) const REASON_STRING: u8 = 0x1f;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
pub(crate) const MAXIMUM_QOS: u8 = 0x24;
pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
pub(crate) const USER_PROPERTY: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(crate) const WILDCARD_AVAILABLE: u8 = 0x28;
pub(crate) const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
pub(crate) const SHARED_AVAILABLE: u8 = 0x2a;

/// A CONNECT; the credential is put in by whoever knows the way it goes.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    pub(crate) id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) properties: Vec<u8>,
    pub(crate) will: Option<Will>,
}

/// A will.
#[derive(Clone, Debug, Default)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: Vec<u8>,
}

impl Connect {
    /// A clean session.
    pub(crate) fn clean(id: &str) -> Self {
        Self { id: id.to_owned(), clean: true, keep_alive_s: 60, properties: Vec::new(), will: None }
    }

    /// A session that is kept for `expiry_s`, or taken up again.
    pub(crate) fn kept(id: &str, version: Version, expiry_s: u32) -> Self {
        let properties = match version {
            Version::V311 => Vec::new(),
            Version::V5 => p32(SESSION_EXPIRY, expiry_s),
        };
        Self { clean: false, properties, ..Self::clean(id) }
    }

    /// Adds a property; 3.1.1 leaves them all out.
    pub(crate) fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.extend(property);
        self
    }

    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    pub(crate) fn encode(&self, version: Version, credential: Option<(&str, &[u8])>) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        let mut payload = field(&self.id);
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
            payload.extend(section(version, &will.properties));
            payload.extend(field(&will.topic));
            payload.extend(field(&will.payload));
        }
        if let Some((name, password)) = credential {
            flags |= 0xc0;
            payload.extend(field(name));
            payload.extend(field(password));
        }
        packet(0x10, &[connect_head(version, flags, self.keep_alive_s, &self.properties), payload].concat())
    }
}

/// The variable header of a CONNECT.
pub(crate) fn connect_head(version: Version, flags: u8, keep_alive_s: u16, properties: &[u8]) -> Vec<u8> {
    let level = if version == Version::V5 { 5 } else { 4 };
    let head = [&field("MQTT")[..], &[level, flags], &keep_alive_s.to_be_bytes()].concat();
    [head, section(version, properties)].concat()
}

/// A PUBLISH.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) properties: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Publish {
    pub(crate) fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Self { topic: topic.to_owned(), payload: payload.as_ref().to_vec(), ..Self::default() }
    }

    pub(crate) fn qos(mut self, qos: u8, id: u16) -> Self {
        (self.qos, self.id) = (qos, id);
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    pub(crate) fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.extend(property);
        self
    }

    pub(crate) fn encode(&self, version: Version) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = field(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.extend(section(version, &self.properties));
        body.extend_from_slice(&self.payload);
        packet(first, &body)
    }
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70), in the short form.
pub(crate) fn ack(first_byte: u8, id: u16) -> Vec<u8> {
    packet(first_byte, &id.to_be_bytes())
}

/// The same with a reason code (5.0).
pub(crate) fn ack_with(first_byte: u8, id: u16, code: u8) -> Vec<u8> {
    packet(first_byte, &[&id.to_be_bytes()[..], &[code]].concat())
}

/// SUBSCRIBE: each entry is a filter and its options.
pub(crate) fn subscribe(version: Version, id: u16, properties: &[u8], entries: &[(&str, u8)]) -> Vec<u8> {
    let mut body = [&id.to_be_bytes()[..], &section(version, properties)].concat();
    for (filter, options) in entries {
        body.extend(field(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

pub(crate) fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = [&id.to_be_bytes()[..], &section(version, &[])].concat();
    body.extend(filters.iter().flat_map(field));
    packet(0xa2, &body)
}

pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// A packet of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    ConnAck {
        flags: u8,
        code: u8,
        properties: Properties,
    },
    Publish(Message),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP, by its first byte.
    Ack {
        first_byte: u8,
        id: u16,
        code: u8,
        properties: Properties,
    },
    SubAck {
        id: u16,
        codes: Vec<u8>,
        properties: Properties,
    },
    /// Without codes in 3.1.1.
    UnsubAck {
        id: u16,
        codes: Vec<u8>,
        properties: Properties,
    },
    PingResp,
    Disconnect {
        code: u8,
        properties: Properties,
    },
    Auth {
        code: u8,
        properties: Properties,
    },
}

/// A PUBLISH of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    /// 0 for none.
    pub(crate) id: u16,
    pub(crate) properties: Properties,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("these tests send text")
    }
}

/// Properties in their order: identifier and the bytes of the value, without the length of a field.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Properties(pub(crate) Vec<(u8, Vec<u8>)>);

impl Properties {
    pub(crate) fn all(&self, id: u8) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(found, _)| *found == id).map(|(_, value)| &value[..])
    }

    pub(crate) fn first(&self, id: u8) -> Option<&[u8]> {
        self.all(id).next()
    }

    pub(crate) fn has(&self, id: u8) -> bool {
        self.first(id).is_some()
    }

    /// A number of any width.
    pub(crate) fn number(&self, id: u8) -> Option<u32> {
        self.first(id).map(number)
    }

    /// All numbers of a property that may repeat, sorted.
    pub(crate) fn numbers(&self, id: u8) -> Vec<u32> {
        let mut found: Vec<u32> = self.all(id).map(number).collect();
        found.sort_unstable();
        found
    }

    pub(crate) fn text(&self, id: u8) -> Option<&str> {
        self.first(id).map(|bytes| std::str::from_utf8(bytes).expect("UTF-8"))
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

/// Takes apart what a server may send; panics where the standard is broken.
pub(crate) fn read(version: Version, first_byte: u8, body: &[u8]) -> Said {
    let mut rest = Cut(body);
    let said = match (first_byte >> 4, version) {
        (2, _) => {
            let (flags, code) = (rest.byte(), rest.byte());
            Said::ConnAck { flags, code, properties: rest.properties(version) }
        }
        (3, _) => {
            let qos = first_byte >> 1 & 3;
            Said::Publish(Message {
                dup: first_byte & 8 != 0,
                qos,
                retain: first_byte & 1 != 0,
                topic: String::from_utf8(rest.field().to_vec()).expect("a topic is UTF-8"),
                id: if qos > 0 { rest.id() } else { 0 },
                properties: rest.properties(version),
                payload: std::mem::take(&mut rest.0).to_vec(),
            })
        }
        (4..=7, _) => {
            let id = rest.id();
            let code = if rest.0.is_empty() || version == Version::V311 { 0 } else { rest.byte() };
            let properties = if rest.0.is_empty() { Properties::default() } else { rest.properties(version) };
            Said::Ack { first_byte, id, code, properties }
        }
        (9 | 11, _) => {
            let (id, properties) = (rest.id(), rest.properties(version));
            let codes = std::mem::take(&mut rest.0).to_vec();
            if first_byte == 0x90 {
                Said::SubAck { id, codes, properties }
            } else {
                Said::UnsubAck { id, codes, properties }
            }
        }
        (13, _) => Said::PingResp,
        (kind @ (14 | 15), Version::V5) => {
            let code = if rest.0.is_empty() { 0 } else { rest.byte() };
            let properties = if rest.0.is_empty() { Properties::default() } else { rest.properties(version) };
            if kind == 14 { Said::Disconnect { code, properties } } else { Said::Auth { code, properties } }
        }
        _ => panic!("a server does not send {first_byte:#04x} in {version:?}"),
    };
    assert!(rest.0.is_empty(), "bytes after the last field: {said:?} {:02x?}", rest.0);
    said
}

struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        assert!(bytes <= self.0.len(), "a field runs past the end of its packet: {:02x?}", self.0);
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    /// A packet identifier, which is never 0.
    fn id(&mut self) -> u16 {
        let id = u16::from_be_bytes(self.take(2).try_into().expect("two bytes"));
        assert_ne!(id, 0, "a packet identifier is not 0");
        id
    }

    fn field(&mut self) -> &'a [u8] {
        let length = u16::from_be_bytes(self.take(2).try_into().expect("two bytes"));
        self.take(usize::from(length))
    }

    /// A variable byte integer, in as few bytes as it needs.
    fn variable(&mut self) -> usize {
        let mut value = 0;
        for at in 0..4 {
            let digit = self.byte();
            value |= usize::from(digit & 0x7f) << (7 * at);
            if digit & 0x80 == 0 {
                assert!(at == 0 || digit != 0, "a length is not minimal");
                return value;
            }
        }
        panic!("a variable byte integer has at most four bytes");
    }

    fn properties(&mut self, version: Version) -> Properties {
        let mut found = Vec::new();
        if version == Version::V311 {
            return Properties(found);
        }
        let length = self.variable();
        let mut rest = Cut(self.take(length));
        while !rest.0.is_empty() {
            let id = rest.byte();
            let value = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => rest.take(1).to_vec(),
                0x13 | 0x21..=0x23 => rest.take(2).to_vec(),
                0x02 | 0x11 | 0x18 | 0x27 => rest.take(4).to_vec(),
                0x0b => u32::try_from(rest.variable()).expect("28 bits").to_be_bytes().to_vec(),
                USER_PROPERTY => [rest.field(), b"=", rest.field()].concat(),
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => rest.field().to_vec(),
                other => panic!("there is no property {other:#04x}"),
            };
            let repeats = matches!(id, USER_PROPERTY | SUBSCRIPTION_IDENTIFIER);
            assert!(repeats || found.iter().all(|(other, _)| *other != id), "property {id:#04x} twice");
            found.push((id, value));
        }
        Properties(found)
    }
}

/// The fixed header at the start of some bytes: length of the header and of the rest; `None` while more is
/// to come.
pub(crate) fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut rest = Cut(bytes.get(1..)?);
    let digits = rest.0.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    if digits > rest.0.len() {
        assert!(digits <= 4, "a remaining length has at most four bytes");
        return None;
    }
    let length = rest.variable();
    Some((1 + digits, length))
}
