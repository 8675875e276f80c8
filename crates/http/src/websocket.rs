//! `GET /mqtt`: MQTT over WebSocket. The opening handshake is judged here; the connection behind it is the
//! bridge's, as if it had come by MQTT's own port.
//!
//! Source: RFC 6455 section 4.2; MQTT 5.0 section 6.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drawbridge_names::RegistryName;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::HttpState;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::serve::{PeerAddress, Served};

/// [MQTT-6.0.0-3]
const SUBPROTOCOL: &str = "mqtt";
/// RFC 6455 section 4.2.2.
const KEY_TAIL: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How long the answer may take to leave.
const UPGRADE_TIME: Duration = Duration::from_secs(10);

/// Where clients go that speak MQTT over WebSocket.
pub trait WebSocketDoor: Send + Sync {
    /// A place for one more, whose connection comes from `peer` by a listener ([`Served::listener`]).
    ///
    /// # Errors
    /// Code and word of the limit that is reached.
    fn reserve(
        &self,
        peer: SocketAddr,
        listener: usize,
    ) -> Result<Box<dyn WebSocketSeat>, (&'static str, &'static str)>;
}

/// A place that is kept until it is used or dropped.
pub trait WebSocketSeat: Send {
    /// The connection, right behind the answer that switched protocols.
    fn enter(self: Box<Self>, connection: WebSocketConnection);
}

/// A connection that HTTP is done with.
#[derive(Debug)]
pub struct WebSocketConnection {
    /// Non-blocking, and in no poll.
    pub socket: std::net::TcpStream,
    /// Its TLS, past the handshake.
    pub session: ServerConnection,
    /// Decrypted, and not read by HTTP.
    pub received: Vec<u8>,
    /// The registry that the path named; `None` at `/mqtt` itself.
    pub registry: Option<RegistryName>,
}

/// Switches to MQTT.
pub(crate) async fn open(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    mut request: Request,
) -> Result<Response, Failure> {
    let key = judge_handshake(request.version(), request.headers())?;
    judge_origin(request.headers(), &state.issuer(&registry)?, &state.config.websocket_origins)?;
    let door = state.web_socket.as_ref().ok_or_else(Failure::no_such_path)?;
    let peer = request.extensions().get::<PeerAddress>().copied();
    let peer = peer.ok_or_else(|| Failure::internal("a request without the address of its peer"))?.0;
    let served = request.extensions().get::<Served>().copied().unwrap_or(Served::ALL);
    if !served.web_socket {
        return Err(Failure::no_such_path());
    }
    let seat =
        door.reserve(peer, served.listener).map_err(|(code, word)| Failure::websocket_full(code, word))?;
    let registry = (registry != RegistryName::default_registry()).then_some(registry);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match tokio::time::timeout(UPGRADE_TIME, upgrade).await {
            Ok(Ok(upgraded)) => hand_over(upgraded, seat, registry),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "websocket: no upgrade"),
            Err(_) => tracing::debug!(%peer, "websocket: the upgrade took too long"),
        }
    });
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), KEY_TAIL].concat()));
    let headers = [
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL)),
        (SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(|e| Failure::internal(e.to_string()))?),
    ];
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(headers);
    Ok(response)
}

/// Takes the connection apart: from here on it is in no task.
fn hand_over(upgraded: Upgraded, seat: Box<dyn WebSocketSeat>, registry: Option<RegistryName>) {
    let Ok(parts) = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() else {
        return tracing::error!("websocket: the connection is not one that `serve` made");
    };
    let (stream, session) = parts.io.into_inner().into_inner();
    match stream.into_std() {
        Ok(socket) => {
            let received = parts.read_buf.to_vec();
            seat.enter(WebSocketConnection { socket, session, received, registry });
        }
        Err(error) => tracing::warn!(%error, "websocket: the socket could not be taken out of its task"),
    }
}

/// The key of a handshake in order.
fn judge_handshake(version: Version, headers: &HeaderMap) -> Result<String, Failure> {
    if !names(headers, &UPGRADE, |word| word.eq_ignore_ascii_case("websocket")) {
        return Err(Failure::upgrade_required("speak WebSocket here, with the header `Upgrade: websocket`"));
    }
    if one(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Failure::upgrade_required("`Sec-WebSocket-Version` must be 13"));
    }
    let wrong = |what: &str| Err(Failure::websocket_handshake(what));
    if version != Version::HTTP_11 {
        return wrong("WebSocket needs HTTP/1.1");
    }
    if !names(headers, &CONNECTION, |word| word.eq_ignore_ascii_case("upgrade")) {
        return wrong("`Connection` does not name `Upgrade`");
    }
    let key = one(headers, &SEC_WEBSOCKET_KEY).unwrap_or_default();
    if STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(16) {
        return wrong("`Sec-WebSocket-Key` is not 16 bytes in base64, said once");
    }
    if !names(headers, &SEC_WEBSOCKET_PROTOCOL, |word| word == SUBPROTOCOL) {
        return wrong("`Sec-WebSocket-Protocol` does not offer `mqtt`");
    }
    Ok(key.to_owned())
}

/// A device sends no `Origin`, or (some libraries) that of the address it connects to. A browser always sends
/// that of its page, and a page of another origin is not let in unless the operator has named it. There is
/// nothing that a browser would add by itself (no cookie, and a TLS certificate logs nobody in here), so this
/// is the second line, not the first; a name that leads here by a trick of DNS is not in our certificate.
fn judge_origin(headers: &HeaderMap, issuer: &str, named: &[String]) -> Result<(), Failure> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return Ok(()),
        (Some(origin), None) => origin.to_str().unwrap_or_default(),
        _ => return Err(Failure::websocket_origin()),
    };
    let same = format!("https://{}", one(headers, &HOST).unwrap_or_default());
    let mut known = [issuer, &same].into_iter().chain(named.iter().map(String::as_str));
    let is_known = known.any(|known| known == "*" || origin_of(known) == origin_of(origin));
    if is_known { Ok(()) } else { Err(Failure::websocket_origin()) }
}

/// Scheme, host and port of a URL, small, without the port that the scheme has anyway.
///
/// Source: RFC 6454 section 6.2.
fn origin_of(url: &str) -> String {
    let url = url.to_ascii_lowercase();
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let authority = rest.split('/').next().unwrap_or_default();
    let port = if scheme == "https" { ":443" } else { ":80" };
    format!("{scheme}://{}", authority.strip_suffix(port).unwrap_or(authority))
}

/// Whether a header that is a list has such a word.
fn names(headers: &HeaderMap, name: &HeaderName, is: impl Fn(&str) -> bool) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|word| is(word.trim()))
}

/// A header that stands there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let name = |name: &str| HeaderName::try_from(name).expect("a name");
        lines.iter().map(|(n, value)| (name(n), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    const GOOD: [(&str, &str); 5] = [
        ("upgrade", "WebSocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "mqttv3.1, mqtt"),
    ];

    #[test]
    fn an_opening_handshake_is_whole_or_refused() {
        assert_eq!(judge_handshake(Version::HTTP_11, &headers(&GOOD)).expect("good"), GOOD[3].1);
        let table = [
            ("upgrade", "h2c", 426),
            ("upgrade", "", 426),
            ("sec-websocket-version", "8", 426),
            ("connection", "keep-alive", 400),
            ("sec-websocket-key", "c2hvcnQ=", 400),
            ("sec-websocket-key", "", 400),
            ("sec-websocket-protocol", "MQTT", 400),
            ("sec-websocket-protocol", "amqp", 400),
        ];
        for (name, value, status) in table {
            let lines = GOOD.map(|(n, good)| if n == name { (n, value) } else { (n, good) });
            let refused = judge_handshake(Version::HTTP_11, &headers(&lines)).expect_err(value);
            assert_eq!(refused.status.as_u16(), status, "{name}: {value}");
        }
        for name in GOOD.map(|(name, _)| name) {
            let rest: Vec<_> = GOOD.into_iter().filter(|(n, _)| *n != name).collect();
            assert!(judge_handshake(Version::HTTP_11, &headers(&rest)).is_err(), "without {name}");
        }
        assert!(judge_handshake(Version::HTTP_10, &headers(&GOOD)).is_err());
        let mut twice = headers(&GOOD);
        twice.append(SEC_WEBSOCKET_KEY, HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="));
        assert!(judge_handshake(Version::HTTP_11, &twice).is_err());
    }

    #[test]
    fn a_page_of_another_origin_is_not_let_in_and_a_device_without_one_is() {
        let named = vec!["https://panel.example".to_owned()];
        let table = [
            (None, true),
            (Some("https://core.example:8443"), true),
            (Some("https://CORE.example:8443"), true),
            (Some("https://panel.example"), true),
            (Some("https://panel.example:443"), true),
            (Some("https://192.0.2.1:8443"), true),
            (Some("https://192.0.2.1"), false),
            (Some("http://192.0.2.1:8443"), false),
            (Some("https://core.example"), false),
            (Some("http://core.example:8443"), false),
            (Some("https://core.example:8443.evil.example"), false),
            (Some("https://evil.example"), false),
            (Some("null"), false),
            (Some(""), false),
        ];
        for (origin, is_let_in) in table {
            let origin_line = origin.into_iter().map(|origin| ("origin", origin));
            let lines: Vec<_> = [("host", "192.0.2.1:8443")].into_iter().chain(origin_line).collect();
            let judged = judge_origin(&headers(&lines), "https://core.example:8443/r/plant", &named);
            assert_eq!(judged.is_ok(), is_let_in, "{origin:?}");
        }
        let any =
            judge_origin(&headers(&[("origin", "https://evil.example")]), "https://x", &["*".to_owned()]);
        assert!(any.is_ok(), "the operator has said so");
    }
}
