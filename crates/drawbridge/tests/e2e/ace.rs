//! The MQTT-TLS profile of ACE (RFC 9431) over real sockets. Packets and proofs are made here, byte by byte, with
//! rustls for TLS and nothing of our own client.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_jose::{Algorithm, SigningKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::{Value, json};

use crate::harness::Core;
use crate::pop::{Held, KIND, Owner, Pop, random};
use crate::wire::Wire;

const EXPORTER: &[u8] = b"EXPORTER-ACE-MQTT-Sign-Challenge";
pub(crate) const NOT_AUTHORIZED: u8 = 0x87;

/// Packet types, as the first 4 bits have them.
pub(crate) const CONNACK: u8 = 2;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const SUBACK: u8 = 9;
pub(crate) const DISCONNECT: u8 = 14;
pub(crate) const AUTH: u8 = 15;

pub(crate) static VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

// --- packets -------------------------------------------------------------------------------------

pub(crate) fn variable(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number % 128) as u8;
        number /= 128;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

pub(crate) fn field(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("it is short");
    [&length.to_be_bytes(), bytes].concat()
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &variable(body.len()), body].concat()
}

/// Property 21, and 22 where there is data.
pub(crate) fn method(name: &[u8], data: Option<&[u8]>) -> Vec<u8> {
    let data = data.map(|data| [&[0x16][..], &field(data)].concat()).unwrap_or_default();
    [&[0x15][..], &field(name), &data].concat()
}

/// A CONNECT of MQTT 5 by a method.
pub(crate) fn connect_5(client_id: &str, properties: &[u8], will: Option<&str>) -> Vec<u8> {
    let flags = if will.is_some() { 0x06 } else { 0x02 };
    let will = will.map(|topic| [&[0][..], &field(topic.as_bytes()), &field(b"gone")].concat());
    let body = [
        &field(b"MQTT")[..],
        &[5, flags, 0, 60],
        &variable(properties.len()),
        properties,
        &field(client_id.as_bytes()),
        &will.unwrap_or_default(),
    ];
    packet(0x10, &body.concat())
}

/// A CONNECT of 3.1.1 with user name and password.
pub(crate) fn connect_4(client_id: &str, user_name: &str, password: &[u8], will: Option<&str>) -> Vec<u8> {
    let flags = if will.is_some() { 0xc6 } else { 0xc2 };
    let will = will.map(|topic| [field(topic.as_bytes()), field(b"gone")].concat());
    let body = [
        &field(b"MQTT")[..],
        &[4, flags, 0, 60],
        &field(client_id.as_bytes()),
        &will.unwrap_or_default(),
        &field(user_name.as_bytes()),
        &field(password),
    ];
    packet(0x10, &body.concat())
}

pub(crate) fn auth(reason: u8, data: &[u8]) -> Vec<u8> {
    let properties = method(b"ace", Some(data));
    packet(0xf0, &[&[reason][..], &variable(properties.len()), &properties].concat())
}

pub(crate) fn publish(version: u8, topic: &str, qos: u8) -> Vec<u8> {
    let id: &[u8] = if qos == 0 { &[] } else { &[0, 9] };
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    packet(0x30 | qos << 1, &[&field(topic.as_bytes())[..], id, properties, b"x"].concat())
}

pub(crate) fn subscribe(version: u8, filters: &[&str]) -> Vec<u8> {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let filters: Vec<u8> =
        filters.iter().flat_map(|filter| [field(filter.as_bytes()), vec![1]].concat()).collect();
    packet(0x82, &[&[0, 7][..], properties, &filters].concat())
}

/// Forms 1 and 2.
pub(crate) fn form(token: &[u8], pop: &[u8]) -> Vec<u8> {
    [field(token), pop.to_vec()].concat()
}

/// What came: its type and what stands behind its length, or the end of the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Packet(u8, Vec<u8>),
    End,
}

impl Came {
    /// The reason of a CONNACK, DISCONNECT, AUTH.
    pub(crate) fn reason(&self) -> (u8, u8) {
        match self {
            Self::Packet(CONNACK, body) => (CONNACK, body[1]),
            Self::Packet(kind @ (DISCONNECT | AUTH), body) => (*kind, body.first().copied().unwrap_or(0)),
            Self::Packet(kind @ (PUBACK | PUBREC), body) => (*kind, body.get(2).copied().unwrap_or(0)),
            other => panic!("{other:?} has no reason"),
        }
    }

    /// Property 22 of an AUTH.
    pub(crate) fn nonce(&self) -> [u8; 8] {
        let Self::Packet(AUTH, body) = self else { panic!("{self:?} for AUTH") };
        assert_eq!(body[0], 0x18, "continue");
        let at = body.windows(3).position(|three| three == [0x16, 0, 8]).expect("8 bytes of data");
        assert!(body.windows(6).any(|six| six == [0x15, 0, 3, b'a', b'c', b'e']), "it names its method");
        body[at + 3..at + 11].try_into().expect("8 bytes")
    }
}

/// One TLS connection.
pub(crate) struct Link {
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
    input: Vec<u8>,
}

pub(crate) fn config(core: &Core, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let ca = CertificateDer::from_pem_file(core.data().join("ca.pem")).expect("the root");
    let mut roots = RootCertStore::empty();
    roots.add(ca).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("a version");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Link {
    pub(crate) fn open(core: &Core, config: &Arc<ClientConfig>) -> Self {
        Self::open_at(&core.endpoints.mqtts, config)
    }

    pub(crate) fn open_at(address: &str, config: &Arc<ClientConfig>) -> Self {
        let socket = TcpStream::connect(address).expect("the server accepts");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
        let mut socket = socket;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).expect("a handshake");
        }
        Self { stream: StreamOwned::new(connection, socket), input: Vec::new() }
    }

    /// RFC 9431 section 2.2.4.2.1: an empty context, which in TLS 1.2 is another than none.
    pub(crate) fn exporter(&self) -> [u8; 32] {
        self.stream.conn.export_keying_material([0; 32], EXPORTER, Some(b"")).expect("an exporter")
    }

    pub(crate) fn resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the connection takes the bytes");
        self.stream.flush().expect("flushed");
    }

    pub(crate) fn next(&mut self) -> Came {
        let bytes = self.take(|input| {
            let (head, body) = crate::bytes::frame(input)?;
            (input.len() >= head + body).then_some(head + body)
        });
        let Some(bytes) = bytes else { return Came::End };
        let (head, _) = crate::bytes::frame(&bytes).expect("just seen");
        Came::Packet(bytes[0] >> 4, bytes[head..].to_vec())
    }

    /// What comes up to these bytes, and them.
    pub(crate) fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let find = |input: &[u8]| input.windows(end.len()).position(|part| part == end);
        self.take(|input| find(input).map(|at| at + end.len())).expect("it comes before the end")
    }

    pub(crate) fn read_exactly(&mut self, bytes: usize) -> Vec<u8> {
        self.take(|input| (input.len() >= bytes).then_some(bytes)).expect("they come before the end")
    }

    /// Reads until `whole` says how many bytes are to be taken; `None` at the end of the connection.
    fn take(&mut self, whole: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(bytes) = whole(&self.input) {
                return Some(self.input.drain(..bytes).collect());
            }
            assert!(Instant::now() < deadline, "no word for 20 s");
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
                    ) =>
                {
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn ask(&mut self, bytes: &[u8]) -> Came {
        self.send(bytes);
        self.next()
    }

    /// By form 1.
    pub(crate) fn by_exporter(&mut self, client_id: &str, held: &Held) -> Came {
        let pop = held.pop.prove(&self.exporter());
        self.ask(&connect_5(client_id, &method(b"ace", Some(&form(&held.token, &pop))), None))
    }

    /// By forms 2, 4 and 5.
    pub(crate) fn by_challenge(&mut self, client_id: &str, held: &Held) -> Came {
        let asked = self.ask(&connect_5(client_id, &method(b"ace", Some(&form(&held.token, &[]))), None));
        if !matches!(asked, Came::Packet(AUTH, _)) {
            return asked;
        }
        self.answer(&asked, held)
    }

    pub(crate) fn answer(&mut self, asked: &Came, held: &Held) -> Came {
        let (theirs, ours) = (asked.nonce(), random::<8>());
        let pop = held.pop.prove(&[theirs, ours].concat());
        self.ask(&auth(0x18, &[&ours[..], &pop].concat()))
    }

    /// By user name and password of 3.1.1.
    pub(crate) fn by_user_name(&mut self, client_id: &str, held: &Held, raw: bool) -> Came {
        let pop = held.pop.prove(&self.exporter());
        let token = match raw {
            true => String::from_utf8(held.token.clone()).expect("a JWT is text"),
            false => URL_SAFE_NO_PAD.encode(&held.token),
        };
        self.ask(&connect_4(client_id, &format!("ace{token}"), &pop, None))
    }
}

pub(crate) fn admitted(came: &Came, case: &str) {
    let Came::Packet(CONNACK, body) = came else { panic!("{case}: {came:?}") };
    assert_eq!(body[1], 0, "{case}: {body:02x?}");
}

pub(crate) fn scope(json: &str) -> String {
    URL_SAFE_NO_PAD.encode(json)
}

// --- tests ---------------------------------------------------------------------------------------

#[test]
fn every_proof_connects_in_both_versions_of_tls_and_of_mqtt_with_every_form_of_token() {
    let core = Core::start();
    let mut cases = 0;
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let owner = Owner::register(&core, &format!("lamp-{algorithm}"), algorithm);
        for symmetric in [false, true] {
            for cwt in [false, true] {
                let held = owner.token(&core, symmetric, cwt, json!({}));
                for version in VERSIONS {
                    let config = config(&core, version);
                    // Each connection is a new TLS session: what a resumed one may, another test asks.
                    let fresh = || {
                        let mut config = ClientConfig::clone(&config);
                        config.resumption = rustls::client::Resumption::disabled();
                        Link::open(&core, &Arc::new(config))
                    };
                    let case = format!("{algorithm} symmetric {symmetric} CWT {cwt} {version:?}");
                    let came = fresh().by_exporter(&owner.name, &held);
                    admitted(&came, &format!("exporter {case}"));
                    let Came::Packet(_, body) = &came else { unreachable!() };
                    let named = body.windows(6).any(|six| six == [0x15, 0, 3, b'a', b'c', b'e']);
                    assert!(named, "CONNACK names the method (MQTT 5.0 section 4.12): {body:02x?}");
                    admitted(&fresh().by_challenge(&owner.name, &held), &format!("challenge {case}"));
                    admitted(&fresh().by_user_name(&owner.name, &held, false), &format!("3.1.1 {case}"));
                    if !cwt {
                        admitted(
                            &fresh().by_user_name(&owner.name, &held, true),
                            &format!("3.1.1 raw {case}"),
                        );
                    }
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 16);
}

#[test]
fn a_bad_proof_token_or_client_id_is_refused_by_its_code() {
    let core = Core::start();
    let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
    let other = Owner::register(&core, "door", Algorithm::EdDsa);
    let config = config(&core, &rustls::version::TLS13);
    let held = owner.token(&core, false, false, json!({}));
    let wrong = Held { token: held.token.clone(), pop: Pop::Key(Arc::clone(&other.key)) };
    let mac = Held { token: held.token.clone(), pop: Pop::Hmac(vec![7; 32]) };
    let open = || Link::open(&core, &config);
    for (case, held, client_id, code) in [
        ("another key", &wrong, "lamp", NOT_AUTHORIZED),
        ("a MAC where a signature is wanted", &mac, "lamp", NOT_AUTHORIZED),
        ("another device's client id", &held, "door", 0x85),
        ("a longer client id", &held, "lamp2", 0x85),
    ] {
        assert_eq!(open().by_challenge(client_id, held).reason(), (CONNACK, code), "{case}, challenge");
        let v4 = if code == 0x85 { 2 } else { 5 };
        let mut fresh = Link::open(&core, &fresh(&config));
        assert_eq!(fresh.by_exporter(client_id, held).reason(), (CONNACK, code), "{case}, exporter");
        let mut fresh = Link::open(&core, &self::fresh(&config));
        assert_eq!(fresh.by_user_name(client_id, held, false).reason(), (CONNACK, v4), "{case}, 3.1.1");
    }

    // Bytes that are no form, no token, no method.
    let short = [&[0, 200][..], b"short"].concat();
    let of_other_method = method(b"SCRAM-SHA-256", Some(b"x"));
    for (case, properties, code) in [
        ("no data and nothing kept", method(b"ace", None), NOT_AUTHORIZED),
        ("empty data and nothing kept", method(b"ace", Some(b"")), NOT_AUTHORIZED),
        ("a length beyond the end", method(b"ace", Some(&short)), NOT_AUTHORIZED),
        ("no token", method(b"ace", Some(&form(b"nonsense", &[]))), NOT_AUTHORIZED),
        ("a proof of 33 bytes", method(b"ace", Some(&form(&held.token, &[1; 33]))), NOT_AUTHORIZED),
        ("another method", of_other_method, 0x8c),
    ] {
        let came = open().ask(&connect_5("lamp", &properties, None));
        assert_eq!(came.reason(), (CONNACK, code), "{case}: {came:?}");
    }

    // A plain token has no key; one with a key is none to be borne.
    let bearer = Wire::of(&core).form(
        "/oauth/token",
        &[],
        &[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", KIND),
            ("client_assertion", owner.body(json!({}))["client_assertion"].as_str().expect("a text")),
        ],
    );
    let bearer = Held { token: bearer.text_of("access_token").into_bytes(), pop: Pop::Hmac(vec![7; 32]) };
    assert_eq!(
        open().by_challenge("lamp", &bearer).reason(),
        (CONNACK, NOT_AUTHORIZED),
        "no key in the token"
    );
    let came = open().ask(&connect_4("lamp", "lamp", &held.token, None));
    assert_eq!(came.reason(), (CONNACK, 5), "a token with a key as password");

    // An answer that is not for this nonce, twice, too short.
    let mut link = open();
    let asked = link.ask(&connect_5("lamp", &method(b"ace", Some(&form(&held.token, &[]))), None));
    let ours = random::<8>();
    let stale = held.pop.prove(&[[0; 8], ours].concat());
    assert_ne!(asked.nonce(), [0; 8]);
    let came = link.ask(&auth(0x18, &[&ours[..], &stale].concat()));
    assert_eq!(came.reason(), (CONNACK, NOT_AUTHORIZED), "an old nonce");
    assert_eq!(link.next(), Came::End, "one try");
    let mut link = open();
    link.ask(&connect_5("lamp", &method(b"ace", Some(&form(&held.token, &[]))), None));
    assert_eq!(link.ask(&auth(0x18, &[1; 9])).reason(), (CONNACK, NOT_AUTHORIZED), "no proof");

    // Revoked: the token is dead for every proof.
    core.cli_ok(&["device", "revoke", "lamp"]);
    assert_eq!(open().by_challenge("lamp", &held).reason(), (CONNACK, NOT_AUTHORIZED), "revoked");
    assert!(
        !core.log().contains(std::str::from_utf8(&held.token).expect("text")),
        "a token stands in the log"
    );
}

pub(crate) fn fresh(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// RFC 9431 section 4. TLS 1.2 has no tickets here (decision 0034), so each of its connections is a new session, in which
/// the proof is good.
#[test]
fn a_proof_over_the_connection_is_refused_on_resumed_tls_and_the_challenge_is_not() {
    let core = Core::start();
    let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
    let held = owner.token(&core, false, false, json!({}));
    for version in VERSIONS {
        let has_tickets = version.version == rustls::ProtocolVersion::TLSv1_3;
        let (code_5, code_4) = if has_tickets { (NOT_AUTHORIZED, 5) } else { (0, 0) };
        let config = config(&core, version);
        let open = |resumed: bool| {
            let link = Link::open(&core, &config);
            assert_eq!(link.resumed(), resumed, "{version:?}");
            link
        };
        // TLS 1.3 sends its ticket behind the handshake: it is read with the CONNACK.
        admitted(&open(false).by_exporter("lamp", &held), "first");
        let came = open(has_tickets).by_exporter("lamp", &held);
        assert_eq!(came.reason(), (CONNACK, code_5), "{version:?}");
        admitted(&open(has_tickets).by_challenge("lamp", &held), "the challenge does in any case");
        let came = open(has_tickets).by_user_name("lamp", &held, false);
        assert_eq!(came.reason(), (CONNACK, code_4), "{version:?}, 3.1.1");
        // The session that was resumed is renewed by challenge, too.
        let mut link = open(has_tickets);
        admitted(&link.by_challenge("lamp", &held), "to be renewed");
        let next = owner.token(&core, false, false, json!({}));
        let asked = link.ask(&auth(0x19, &form(&next.token, &[])));
        assert_eq!(link.answer(&asked, &next).reason(), (AUTH, 0), "{version:?}");
    }
    core.wait_for_log(&["the TLS session was resumed"]);
}

#[test]
fn rights_of_the_token_hold_in_every_row_of_the_table() {
    let core = Core::start();
    let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
    let grant = scope(r#"[["devices/lamp/events/#",["pub"]],["devices/lamp/commands/#",["sub"]]]"#);
    let held = owner.token(&core, false, false, json!({ "scope": grant }));
    let config = fresh(&config(&core, &rustls::version::TLS13));
    let open = || Link::open(&core, &config);
    let (inside, outside) = ("devices/lamp/events/a", "devices/lamp/state");

    // MQTT 5: a publish outside at QoS 1 and 2 is answered, the session stays.
    let mut link = open();
    admitted(&link.by_exporter("lamp", &held), "MQTT 5");
    assert_eq!(link.ask(&publish(5, inside, 1)).reason().0, PUBACK);
    assert_eq!(link.ask(&publish(5, outside, 1)).reason(), (PUBACK, NOT_AUTHORIZED));
    assert_eq!(link.ask(&publish(5, outside, 2)).reason(), (PUBREC, NOT_AUTHORIZED));
    // One filter may be refused and the other be good.
    let Came::Packet(SUBACK, body) =
        link.ask(&subscribe(5, &["devices/lamp/commands/#", "devices/lamp/config"]))
    else {
        panic!("no SUBACK");
    };
    assert_eq!(body[3..], [1, NOT_AUTHORIZED]);
    // At QoS 0 there is nothing to answer: the session ends.
    assert_eq!(link.ask(&publish(5, outside, 0)).reason(), (DISCONNECT, NOT_AUTHORIZED));
    assert_eq!(link.next(), Came::End);

    // 3.1.1: the connection is closed.
    for qos in [0, 1, 2] {
        let mut link = open();
        admitted(&link.by_user_name("lamp", &held, false), "3.1.1");
        assert_eq!(link.ask(&publish(4, inside, 1)).reason().0, PUBACK);
        let Came::Packet(SUBACK, body) =
            link.ask(&subscribe(4, &["devices/lamp/commands/#", "devices/lamp/config"]))
        else {
            panic!("no SUBACK");
        };
        assert_eq!(body[2..], [1, 0x80]);
        assert_eq!(link.ask(&publish(4, outside, qos)), Came::End, "QoS {qos}");
    }

    // A will outside of the scope.
    let mut link = open();
    let pop = held.pop.prove(&link.exporter());
    let will = connect_5("lamp", &method(b"ace", Some(&form(&held.token, &pop))), Some(outside));
    assert_eq!(link.ask(&will).reason(), (CONNACK, NOT_AUTHORIZED));
    let mut link = open();
    let pop = held.pop.prove(&link.exporter());
    let user_name = format!("ace{}", URL_SAFE_NO_PAD.encode(&held.token));
    assert_eq!(link.ask(&connect_4("lamp", &user_name, &pop, Some(outside))).reason(), (CONNACK, 5));
    let mut link = open();
    let pop = held.pop.prove(&link.exporter());
    let will = connect_5("lamp", &method(b"ace", Some(&form(&held.token, &pop))), Some(inside));
    admitted(&link.ask(&will), "a will within the scope");
}

#[test]
fn a_new_token_without_a_break_takes_a_challenge_and_a_failure_ends_the_session() {
    let core = Core::start();
    let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
    let other = Owner::register(&core, "door", Algorithm::EdDsa);
    let narrow = scope(r#"[["devices/lamp/events/#",["pub"]]]"#);
    let wide = scope(r#"[["devices/lamp/events/#",["pub"]],["devices/lamp/state",["pub"]]]"#);
    for version in VERSIONS {
        let config = fresh(&config(&core, version));
        let first = owner.token(&core, false, false, json!({ "scope": narrow }));
        let mut link = Link::open(&core, &config);
        admitted(&link.by_exporter("lamp", &first), "first");
        assert_eq!(link.ask(&publish(5, "devices/lamp/state", 1)).reason(), (PUBACK, NOT_AUTHORIZED));

        // A CWT with a symmetric key in place of a JWT with the device's own.
        let second = owner.token(&core, true, true, json!({ "scope": wide }));
        let asked = link.ask(&auth(0x19, &form(&second.token, &[])));
        // Until the answer the old rights hold.
        assert_eq!(link.ask(&publish(5, "devices/lamp/state", 1)).reason(), (PUBACK, NOT_AUTHORIZED));
        assert_eq!(link.answer(&asked, &second).reason(), (AUTH, 0));
        assert_eq!(link.ask(&publish(5, "devices/lamp/state", 1)).reason().0, PUBACK);
        assert_ne!(link.ask(&publish(5, "devices/lamp/state", 1)).reason().1, NOT_AUTHORIZED);

        let third = owner.token(&core, false, false, json!({}));
        let of_other = other.token(&core, false, false, json!({}));
        type Break<'a> = &'a dyn Fn(&mut Link) -> Came;
        let by_exporter: Break<'_> = &|link| {
            let pop = third.pop.prove(&link.exporter());
            link.ask(&auth(0x19, &form(&third.token, &pop)))
        };
        let by_wrong_key: Break<'_> = &|link| {
            let asked = link.ask(&auth(0x19, &form(&third.token, &[])));
            link.answer(&asked, &of_other)
        };
        let by_other: Break<'_> = &|link| {
            let asked = link.ask(&auth(0x19, &form(&of_other.token, &[])));
            if matches!(asked, Came::Packet(AUTH, _)) { link.answer(&asked, &of_other) } else { asked }
        };
        let by_nothing: Break<'_> = &|link| link.ask(&auth(0x19, b""));
        for (case, renew) in [
            ("over the connection", by_exporter),
            ("by another key", by_wrong_key),
            ("by another device's token", by_other),
            ("without a token", by_nothing),
        ] {
            let mut link = Link::open(&core, &config);
            admitted(&link.by_challenge("lamp", &second), case);
            assert_eq!(renew(&mut link).reason(), (DISCONNECT, NOT_AUTHORIZED), "{case}, {version:?}");
            assert_eq!(link.next(), Came::End, "{case}");
        }
    }
}

#[test]
fn a_session_ends_with_its_token_unless_a_new_one_comes() {
    let core = Core::start();
    core.cli_ok(&["registry", "set", "default", "--token-life-s", "5"]);
    let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
    let config = fresh(&config(&core, &rustls::version::TLS13));
    let held = owner.token(&core, true, false, json!({}));
    let (mut silent, mut renewing, mut old) =
        (Link::open(&core, &config), Link::open(&core, &config), Link::open(&core, &config));
    drop(silent);
    admitted(&renewing.by_exporter("lamp", &held), "renewed below");
    std::thread::sleep(Duration::from_secs(2));
    let next = owner.token(&core, true, false, json!({}));
    let asked = renewing.ask(&auth(0x19, &form(&next.token, &[])));
    assert_eq!(renewing.answer(&asked, &next).reason(), (AUTH, 0));
    std::thread::sleep(Duration::from_millis(3_200));
    assert_eq!(
        renewing.ask(&publish(5, "devices/lamp/events/a", 1)).reason().0,
        PUBACK,
        "past the first end"
    );
    assert_eq!(renewing.next().reason(), (DISCONNECT, NOT_AUTHORIZED), "the end of the second");
    assert_eq!(renewing.next(), Came::End);
    // What has ended opens nothing.
    assert_eq!(old.by_exporter("lamp", &held).reason(), (CONNACK, NOT_AUTHORIZED), "expired");
    silent = Link::open(&core, &config);
    let held = owner.token(&core, true, true, json!({}));
    admitted(&silent.by_user_name("lamp", &held, false), "3.1.1");
    assert_eq!(silent.next(), Came::End, "3.1.1 is closed");
}

#[test]
fn however_often_it_is_renewed_a_session_ends_once_its_last_whole_handshake_is_too_old() {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("settings.toml");
    std::fs::write(&file, "[bridge]\nrenewed_session_s_max = 8\n").expect("written");
    let core = Core::start_with(&["--config", &file.to_string_lossy()]);
    let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
    let (door, gate) = (core.device("door"), core.device("gate"));
    let resuming = config(&core, &rustls::version::TLS13);
    let connect = |device: &drawbridge_device::DeviceIdentity| {
        let mut link = Link::open(&core, &fresh(&resuming));
        let jwt = crate::harness::connect_jwt(device, crate::harness::now_s() - 1, 600);
        admitted(&link.ask(&connect_4(&device.device, "unused", jwt.as_bytes(), None)), "by a JWT");
        link
    };
    let mut untouched = connect(&gate);
    // 3.1.1, by a publish: the new JWT is good for 10 minutes.
    let mut old = connect(&door);
    let jwt = crate::harness::connect_jwt(&door, crate::harness::now_s(), 600);
    let renewal = [&field(b"$drawbridge/auth")[..], &[0, 9], jwt.as_bytes()].concat();
    assert_eq!(old.ask(&packet(0x32, &renewal)).reason(), (PUBACK, 0));
    // MQTT 5, by AUTH: the new token is good for an hour.
    let mut link = Link::open(&core, &resuming);
    let held = owner.token(&core, false, true, json!({}));
    admitted(&link.by_challenge("lamp", &held), "by a challenge");
    let renew = |link: &mut Link| {
        let next = owner.token(&core, false, true, json!({}));
        let asked = link.ask(&auth(0x19, &form(&next.token, &[])));
        link.answer(&asked, &next)
    };
    let came = renew(&mut link);
    assert_eq!(came.reason(), (AUTH, 0));
    let Came::Packet(_, body) = &came else { unreachable!() };
    let told = [&field(b"db-expires-in")[..], &[0, 1]].concat();
    assert!(body.windows(told.len()).any(|window| window == told), "one digit of seconds: {body:02x?}");
    assert_eq!(link.next().reason(), (DISCONNECT, NOT_AUTHORIZED), "the end of its connection");
    assert_eq!(link.next(), Came::End);
    assert_eq!(old.next(), Came::End, "3.1.1");
    core.wait_for_log(&["DB-2049"]);
    // Who was not renewed has what it was given.
    assert_eq!(untouched.ask(&[0xc0, 0]), Came::Packet(13, Vec::new()));
    // A ticket tells when the whole handshake was.
    let mut link = Link::open(&core, &resuming);
    assert!(link.resumed());
    admitted(&link.by_challenge("lamp", &held), "over a resumed handshake");
    assert_eq!(renew(&mut link).reason(), (DISCONNECT, NOT_AUTHORIZED), "no renewal");
    core.wait_for_log(&["too long ago"]);
    let mut link = Link::open(&core, &fresh(&resuming));
    admitted(&link.by_challenge("lamp", &held), "over a whole handshake");
    assert_eq!(renew(&mut link).reason(), (AUTH, 0), "a renewal");
}

/// Makes a certificate and its key, and answers the key's thumbprint.
fn certificate(folder: &std::path::Path) -> String {
    let key = SigningKey::generate(Algorithm::Es256).expect("a key");
    let pair = rcgen::KeyPair::from_pem(&key.to_pkcs8_pem()).expect("the same");
    let leaf = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).expect("a name");
    std::fs::write(folder.join("key.pem"), &*key.to_pkcs8_pem()).expect("written");
    std::fs::write(folder.join("chain.pem"), leaf.self_signed(&pair).expect("signed").pem())
        .expect("written");
    key.public_key().thumbprint().to_owned()
}

#[test]
fn rs_cnf_follows_the_certificate_that_mqtt_clients_meet_and_is_left_out_where_they_may_meet_two() {
    let place = tempfile::tempdir().expect("a folder");
    let (file, folder) = (place.path().join("settings.toml"), place.path().display());
    for (mqtts, https, meets) in [
        ("own", "websocket", Some("own")),
        ("shop", "https", Some("shop")),
        ("shop", "websocket", None),
        ("shop\", \"own", "https", None),
    ] {
        let case = format!("{mqtts}, {https}");
        let mut shop = certificate(place.path());
        let settings = format!(
            "[certificate.shop]\nchain_file = \"{folder}/chain.pem\"\nkey_file = \"{folder}/key.pem\"\n\
             [listener.mqtts]\ncertificates = [\"{mqtts}\"]\n\
             [listener.https]\nprotocols = [\"https\", \"{https}\"]\n\
             [listener.raw]\naddress = \"127.0.0.1:0\"\nraw_keys = true\n"
        );
        std::fs::write(&file, settings).expect("written");
        let core = Core::start_with(&["--config", &file.to_string_lossy()]);
        let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
        let told = || {
            let kid = owner.key.public_key().thumbprint();
            let body = owner.body(json!({ "req_cnf": { "kid": kid } })).to_string();
            let ace = ("content-type", "application/ace+json");
            let answer = Wire::of(&core).send("POST", "/oauth/token", &[ace], body.as_bytes());
            assert_eq!(answer.status, 200, "{answer:?}");
            let key = answer.json()["rs_cnf"]["jwk"].clone();
            (!key.is_null()).then(|| {
                let key = drawbridge_jose::PublicKey::from_jwk(key.to_string().as_bytes()).expect("a key");
                key.thumbprint().to_owned()
            })
        };
        let own = std::fs::read_to_string(core.data().join("server.pem")).expect("there");
        let own = CertificateDer::from_pem_slice(own.as_bytes()).expect("PEM");
        let own = drawbridge_jose::PublicKey::from_certificate_der(&own).expect("a key");
        let wanted = |shop: &str| {
            meets.map(|meets| if meets == "own" { own.thumbprint().to_owned() } else { shop.to_owned() })
        };
        assert_eq!(told(), wanted(&shop), "{case}");
        shop = certificate(place.path());
        crate::harness::signal(core.pid(), "HUP");
        core.wait_for_log(&["read anew"]);
        assert_eq!(told(), wanted(&shop), "{case}, after a new certificate");
    }
}

#[test]
fn who_is_refused_is_told_where_tokens_are_and_only_where_that_is_switched_on() {
    for (hint, cnonce) in [("", false), ("issuer", false), ("issuer", true)] {
        let place = tempfile::tempdir().expect("a folder");
        let file = place.path().join("settings.toml");
        let settings = format!("[admission]\nace_as = {hint:?}\nace_cnonce = {cnonce}\n");
        std::fs::write(&file, settings).expect("written");
        let core = Core::start_with(&["--config", &file.to_string_lossy()]);
        let config = fresh(&config(&core, &rustls::version::TLS13));
        let came = Link::open(&core, &config).ask(&connect_5("lamp", &method(b"ace", None), None));
        assert_eq!(came.reason(), (CONNACK, NOT_AUTHORIZED));
        let Came::Packet(_, body) = &came else { unreachable!() };
        let name = [&[0x26][..], &field(b"ace_as_hint")].concat();
        let at = body.windows(name.len()).position(|window| window == name);
        assert_eq!(at.is_some(), !hint.is_empty(), "{hint:?}: {body:02x?}");
        let Some(at) = at else { continue };
        let value = &body[at + name.len()..];
        let length = usize::from(u16::from_be_bytes([value[0], value[1]]));
        let told: Value = serde_json::from_slice(&value[2..2 + length]).expect("JSON");
        let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
        assert_eq!(told["AS"], json!(format!("{}/oauth/token", owner.issuer)), "{told}");
        assert_eq!(told["audience"], json!(format!("{}/mqtt", owner.issuer)));
        assert_eq!(told.get("cnonce").is_some(), cnonce);
        let Some(nonce) = told.get("cnonce") else { continue };
        // The token must carry it, and no other.
        let without = owner.token(&core, false, false, json!({}));
        let came = Link::open(&core, &config).by_exporter("lamp", &without);
        assert_eq!(came.reason(), (CONNACK, NOT_AUTHORIZED), "without cnonce");
        let made_up = owner.token(&core, false, false, json!({ "cnonce": "AAAA" }));
        let came = Link::open(&core, &config).by_exporter("lamp", &made_up);
        assert_eq!(came.reason(), (CONNACK, NOT_AUTHORIZED), "a made-up cnonce");
        for cwt in [false, true] {
            let held = owner.token(&core, false, cwt, json!({ "cnonce": nonce }));
            admitted(&Link::open(&core, &config).by_exporter("lamp", &held), "with the cnonce of the hint");
        }
    }
}
