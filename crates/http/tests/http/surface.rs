//! Paths, methods, sizes, headers, discovery: what a stranger can touch.

use std::time::Duration;

use drawbridge_admission::{Actor, NewRegistry};
use drawbridge_http::HttpConfig;
use drawbridge_names::RegistryName;
use drawbridge_testkit::TestDevice;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{Answer, Ask, ISSUER, World, login_form};

#[tokio::test]
async fn unknown_paths_are_404_and_unknown_methods_405_with_allow_in_the_dialect_of_the_path() {
    let world = World::new().await;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v1/devices/",
        "/oauth",
        "/oauth/authorize",
        "/as",
        "/as/renew/tokens",
        "/r/ghost/v1/devices",
        "/r/default/v1/devices",
        "/r/",
        "/r/x",
        "//",
        "/v1/devices/a/b/c",
        "/../etc/passwd",
        "/.well-known/oauth-authorization-server/r/ghost",
        "/.well-known/oauth-authorization-server/x",
        "/.well-known/",
        "/v1/self/keys/x/y",
    ] {
        let answer = world.send(Ask::get(path)).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert!(
            answer.json()["code"] == "DB-4201" || answer.json()["error"].is_object(),
            "{path}: {answer:?}"
        );
    }
    let table = [
        ("GET", "/oauth/token", "POST"),
        ("POST", "/oauth/jwks", "GET,HEAD"),
        ("DELETE", "/v1/devices", "GET,HEAD,POST"),
        ("POST", "/v1/devices/lamp", "GET,HEAD,PUT,PATCH,DELETE"),
        ("GET", "/v1/devices/lamp/commands", "POST"),
        ("GET", "/as/token", "POST"),
        ("OPTIONS", "/v1/self", "GET,HEAD"),
        ("BREW", "/health", "GET,HEAD"),
        ("PUT", "/r/plant/oauth/token", "POST"),
    ];
    let plant = NewRegistry::named(RegistryName::parse("plant").expect("plant"), None);
    world.admission.create_registry(plant, &Actor::Admin).await.expect("plant");
    for (method, path, allow) in table {
        let answer = world.send(Ask::new(method, path)).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
        assert!(answer.header("request-id").is_some());
        // CORS is off: no answer invites another origin.
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    let oauth = world.send(Ask::get("/oauth/token")).await;
    assert_eq!(
        (oauth.word().as_str(), oauth.header("content-type")),
        ("invalid_request", Some("application/json"))
    );
    let v1 = world.send(Ask::new("DELETE", "/v1/self")).await;
    assert_eq!(v1.word(), "method-not-allowed");
    assert_eq!(v1.header("content-type"), Some("application/problem+json"));
    assert_eq!(world.send(Ask::get("/as/token")).await.word(), "Method Not Allowed");
}

#[tokio::test]
async fn the_metadata_documents_are_one_and_know_only_the_stored_issuer() {
    let world = World::new().await;
    let answer = world.send(Ask::get("/.well-known/oauth-authorization-server")).await;
    let methods = json!([
        "private_key_jwt",
        "client_secret_basic",
        "client_secret_post",
        "tls_client_auth",
        "self_signed_tls_client_auth",
    ]);
    let algorithms = json!(["ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256"]);
    let expected = json!({
        "issuer": "https://id.example",
        "token_endpoint": "https://id.example/oauth/token",
        "introspection_endpoint": "https://id.example/oauth/introspect",
        "revocation_endpoint": "https://id.example/oauth/revoke",
        "registration_endpoint": "https://id.example/oauth/register",
        "jwks_uri": "https://id.example/oauth/jwks",
        "response_types_supported": [],
        "grant_types_supported":
            ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"],
        "token_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_signing_alg_values_supported": ["ES256"],
        "dpop_signing_alg_values_supported": algorithms,
        "tls_client_certificate_bound_access_tokens": true,
        "scopes_supported": [
            "self:read", "commands:send", "config:read", "config:write", "state:read", "registry:read",
            "registry:operate", "registry:admin",
        ],
        "subject_types_supported": ["public"],
        "bridge_audience": "https://id.example/mqtt",
        "api_audience": "https://id.example/v1",
        "challenge_endpoint": "https://id.example/oauth/challenge",
        "time_endpoint": "https://id.example/v1/time",
        "api_description": "https://id.example/openapi.json",
    });
    assert_eq!((answer.status, answer.json()), (200, expected.clone()));
    let openid = world.send(Ask::get("/.well-known/openid-configuration")).await;
    assert_eq!(openid.json(), expected);
    // The client sends `Host: evil.example`.
    assert!(!answer.text.contains("evil"));

    let jwks = world.send(Ask::get("/oauth/jwks")).await;
    assert_eq!(jwks.header("content-type"), Some("application/jwk-set+json"));
    // No longer than the next key is published before it signs.
    assert_eq!(jwks.header("cache-control"), Some("public, max-age=3600"));
    let key = &jwks.json()["keys"][0];
    assert_eq!(
        (key["kty"].as_str(), key["crv"].as_str(), key["d"].as_str()),
        (Some("EC"), Some("P-256"), None)
    );
    assert!(key["kid"].is_string() && key["alg"] == "ES256", "{key}");
}

#[tokio::test]
async fn every_endpoint_that_the_metadata_names_is_there() {
    let world = World::new().await;
    let plant = NewRegistry::named(RegistryName::parse("plant").expect("plant"), None);
    world.admission.create_registry(plant, &Actor::Admin).await.expect("plant");
    for (document, prefix) in [
        ("/.well-known/openid-configuration", ""),
        ("/.well-known/oauth-authorization-server/r/plant", "/r/plant"),
    ] {
        let metadata = world.send(Ask::get(document)).await.json();
        let mut named = 0;
        for (member, url) in metadata.as_object().expect("an object") {
            let method = match member.as_str() {
                "jwks_uri" => "GET",
                member if member.ends_with("_endpoint") => "POST",
                _ => continue,
            };
            let path = url.as_str().and_then(|url| url.strip_prefix(ISSUER)).expect("below the issuer");
            assert!(path.starts_with(prefix), "{path}");
            let answer = world.send(Ask::new(method, path)).await;
            assert!(![404, 405, 501].contains(&answer.status) && answer.status < 500, "{path}: {answer:?}");
            named += 1;
        }
        assert!(named >= 6, "{metadata}");
    }
}

#[tokio::test]
async fn every_registry_has_its_own_paths_issuer_and_devices() {
    let world = World::new().await;
    let made = world.admin(Ask::post("/v1/registries").json(&json!({ "name": "plant" }))).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.json()["issuer"], "https://id.example/r/plant");
    let names = world.admin(Ask::get("/v1/registries")).await.json();
    let names: Vec<_> = names["items"].as_array().expect("items").iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["default", "plant"]);

    for path in [
        "/.well-known/oauth-authorization-server/r/plant",
        "/r/plant/.well-known/oauth-authorization-server",
        "/r/plant/.well-known/openid-configuration",
    ] {
        let metadata = world.send(Ask::get(path)).await.json();
        assert_eq!(metadata["token_endpoint"], "https://id.example/r/plant/oauth/token", "{path}");
    }
    let ours = world.send(Ask::get("/oauth/jwks")).await.json();
    let theirs = world.send(Ask::get("/r/plant/oauth/jwks")).await.json();
    assert_ne!(ours["keys"][0]["kid"], theirs["keys"][0]["kid"], "each registry has an issuer key");

    let lamp = TestDevice::new("lamp");
    let jwk: serde_json::Value = serde_json::from_str(&lamp.public_key().to_jwk_json()).expect("a JWK");
    let body = json!({ "name": "lamp", "keys": [{ "jwk": jwk }] });
    let added = world.admin(Ask::post("/r/plant/v1/devices").json(&body)).await;
    assert_eq!(
        (added.status, added.header("location")),
        (201, Some("https://id.example/r/plant/v1/devices/lamp"))
    );
    assert_eq!(world.admin(Ask::get("/v1/devices/lamp")).await.status, 404, "not in `default`");

    let issuer = format!("{ISSUER}/r/plant");
    let login = |path: &str| {
        let jwt = lamp.assertion(&issuer, world.clock.now_s()).sign();
        Ask::post(path).form(&login_form(&jwt))
    };
    let token = world.send(login("/r/plant/oauth/token")).await;
    assert_eq!(token.status, 200, "{}", token.text);
    assert_eq!(world.send(login("/oauth/token")).await.status, 401, "a stranger to `default`");
    let token = token.json()["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(world.send(Ask::get("/r/plant/v1/self").bearer(&token)).await.json()["registry"], "plant");
    assert_eq!(world.send(Ask::get("/v1/self").bearer(&token)).await.status, 401, "no registry is crossed");
}

#[tokio::test]
async fn every_answer_has_a_date_a_request_id_of_its_own_and_tokens_are_never_stored() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let mut seen = std::collections::BTreeSet::new();
    for ask in [
        Ask::get("/health"),
        Ask::get("/healthz"),
        Ask::get("/oauth/jwks"),
        Ask::get("/nothing"),
        Ask::get("/v1/self"),
    ] {
        let answer = world.send(ask).await;
        assert!(answer.header("date").is_some());
        let id = answer.header("request-id").expect("an id").to_owned();
        assert_eq!(id.len(), 22);
        assert!(seen.insert(id), "a request id came twice");
    }
    let jwt = lamp.assertion(ISSUER, world.clock.now_s()).sign();
    let granted = world.send(Ask::post("/oauth/token").form(&login_form(&jwt))).await;
    assert_eq!((granted.status, granted.header("cache-control")), (200, Some("no-store")));
    let json = granted.json();
    assert_eq!((json["token_type"].as_str(), json["expires_in"].as_u64()), (Some("Bearer"), Some(3600)));
    let health = world.send(Ask::get("/health")).await;
    assert_eq!(health.json(), json!({ "status": "ok" }), "no details");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_answered_413_although_the_client_sends_it_all_first() {
    let world = World::new().await;
    for (path, length) in [
        ("/oauth/token", 16_385),
        ("/oauth/token", 900_000),
        ("/v1/self/keys", 65_537),
        ("/as/token", 500_000),
    ] {
        let answer = world.send(Ask::post(path).body("application/json", vec![b'x'; length])).await;
        assert_eq!(answer.status, 413, "{path} {length}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    // In chunks nothing is declared: the count decides.
    let mut chunked = b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..40 {
        chunked.extend_from_slice(b"400\r\n");
        chunked.extend_from_slice(&[b'x'; 0x400]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(world.send_raw(&chunked).await.status, 413);
    // Also who is refused before its body is read gets to read why.
    let body = Ask::post("/v1/devices").body("application/json", vec![b'x'; 300_000]);
    assert_eq!(world.send(body.clone()).await.status, 401);
    assert_eq!(world.admin(body).await.status, 413);
    let nowhere = Ask::post("/nothing").body("application/json", vec![b'x'; 300_000]);
    assert_eq!(world.send(nowhere).await.status, 404);
}

#[tokio::test]
async fn a_body_without_end_is_cut_off_after_the_linger() {
    let world = World::new().await;
    let mut stream = world.connect().await;
    let head = b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head).await.expect("written");
    let (mut reader, mut writer) = tokio::io::split(stream);
    let flood = tokio::spawn(async move {
        let mut sent = 0_usize;
        while writer.write_all(&[b'x'; 65_536]).await.is_ok() {
            sent += 65_536;
            assert!(sent < 200_000_000, "the server reads without end");
        }
    });
    let mut read = Vec::new();
    let _ =
        tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut read)).await.expect("closed");
    assert!(String::from_utf8_lossy(&read).starts_with("HTTP/1.1 413 "));
    tokio::time::timeout(Duration::from_secs(20), flood)
        .await
        .expect("the socket is closed")
        .expect("no flood");
}

#[tokio::test]
async fn a_header_section_beyond_16_kib_is_refused_and_one_below_is_not() {
    let world = World::new().await;
    let with = |length: usize| Ask::get("/health").header("X-Filler", &"x".repeat(length));
    assert_eq!(world.send(with(8_000)).await.status, 200);
    let answer = world.send(with(17_000)).await;
    assert_eq!(answer.status, 431, "{answer:?}");
    let answer = world.send(Ask::get(&format!("/{}", "x".repeat(17_000)))).await;
    assert!([414, 431].contains(&answer.status), "{answer:?}");
    let many =
        |count: usize| (0..count).fold(Ask::get("/health"), |ask, n| ask.header(&format!("X-{n}"), "1"));
    assert_eq!((world.send(many(80)).await.status, world.send(many(101)).await.status), (200, 431));
    let deep = format!("{{\"name\":\"x\",\"attributes\":{}", "[".repeat(5_000));
    let answer = world.admin(Ask::post("/v1/devices").body("application/json", deep)).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let token = "x".repeat(4097);
    assert_eq!(world.send(Ask::get("/v1/self").bearer(&token)).await.status, 400);
}

#[tokio::test]
async fn garbage_ends_a_connection_and_nothing_else() {
    let world = World::new().await;
    // The preface of HTTP/2 is closed without an answer (0): whoever sent it would not read one.
    let table = [
        (&b"\0\0\0\0\r\n\r\n"[..], 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
    ];
    for (garbage, status) in table {
        let answer: Answer = world.send_raw(garbage).await;
        assert_eq!(answer.status, status, "{garbage:?}: {answer:?}");
    }
    let mut plain = tokio::net::TcpStream::connect(world.address()).await.expect("connected");
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    let mut read = Vec::new();
    let _ = plain.read_to_end(&mut read).await;
    assert!(!read.starts_with(b"HTTP"), "nothing is served without TLS");
    assert_eq!(world.send(Ask::get("/health")).await.status, 200);
}

#[tokio::test]
async fn silent_connections_hold_nobody_up_and_are_closed_in_time() {
    let config = HttpConfig { handshake_s_max: 1, header_s_max: 1, body_s_max: 1, ..HttpConfig::default() };
    let world = World::with_config(config).await;
    let closed = |mut stream: tokio::net::TcpStream| async move {
        let mut byte = [0; 1];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte))
            .await
            .expect("closed in time");
        assert!(matches!(read, Ok(0) | Err(_)));
    };
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(world.address()).await.expect("connected"));
    }
    assert_eq!(world.send(Ask::get("/health")).await.status, 200, "handshakes run side by side");
    for stream in silent {
        closed(stream).await;
    }
    let mut half = world.connect().await;
    half.write_all(b"GET /health HTT").await.expect("written");
    let mut read = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), half.read_to_end(&mut read)).await.expect("closed");
    assert!(!read.starts_with(b"HTTP/1.1 200"));
    let mut slow = world.connect().await;
    slow.write_all(b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx")
        .await
        .expect("written");
    let mut read = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut read)).await.expect("closed");
    assert!(
        String::from_utf8_lossy(&read).starts_with("HTTP/1.1 408 "),
        "{}",
        String::from_utf8_lossy(&read)
    );
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_speaks_http_1_1_only() {
    let world = World::new().await;
    let mut stream = world.connect().await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    for path in ["/health", "/nothing", "/oauth/jwks"] {
        let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.expect("the connection stays open");
        let mut read = Vec::new();
        while !complete(&read) {
            let mut chunk = [0; 4096];
            let length = stream.read(&mut chunk).await.expect("an answer");
            assert_ne!(length, 0, "closed too early");
            read.extend_from_slice(&chunk[..length]);
        }
    }
}

fn complete(read: &[u8]) -> bool {
    let text = String::from_utf8_lossy(read);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|l| l.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

#[tokio::test]
async fn a_request_that_two_readers_would_cut_differently_is_not_followed_by_another() {
    let world =
        World::with_config(HttpConfig { header_s_max: 1, body_s_max: 1, ..HttpConfig::default() }).await;
    let inner = "GET /v1/devices HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunked = format!("0\r\n\r\n{inner}");
    let cases = [
        (
            "length and chunked",
            format!("Content-Length: {}\r\nTransfer-Encoding: chunked", chunked.len()),
            chunked.as_str(),
        ),
        (
            "chunked and length",
            format!("Transfer-Encoding: chunked\r\nContent-Length: {}", chunked.len()),
            &chunked,
        ),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 41".to_owned(), inner),
        ("a list of lengths", "Content-Length: 0, 41".to_owned(), inner),
        ("a signed length", "Content-Length: +0".to_owned(), inner),
        ("chunked twice", "Transfer-Encoding: chunked, chunked".to_owned(), &chunked),
        ("chunked, then something else", "Transfer-Encoding: chunked, identity".to_owned(), &chunked),
        ("two hosts", "Host: other\r\nContent-Length: 0".to_owned(), inner),
        ("a folded header", "X: a\r\n Content-Length: 9".to_owned(), inner),
        ("a space before the colon", "Content-Length : 0".to_owned(), inner),
    ];
    for (case, headers, body) in cases {
        let request = format!("POST /oauth/token HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}");
        let answer = world.send_raw(request.as_bytes()).await;
        let whole = format!("{}{}", answer.status, answer.text);
        assert!(!whole.contains("HTTP/1.1"), "{case}: two answers: {whole}");
        assert_eq!(answer.status / 100, 4, "{case}: {answer:?}");
    }
}

#[tokio::test]
async fn every_form_of_request_target_is_answered() {
    let world = World::new().await;
    for (line, status) in [
        ("GET https://evil.example/health HTTP/1.1", 200),
        ("GET https://evil.example/v1/devices HTTP/1.1", 401),
        ("CONNECT evil.example:443 HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 404),
        ("GET // HTTP/1.1", 404),
        ("GET /r/default/health HTTP/1.1", 404),
        ("GET /r/%64efault/health HTTP/1.1", 404),
        ("GET /v1//devices HTTP/1.1", 404),
        ("GET /v1/../v1/devices HTTP/1.1", 404),
        ("GET /v1/devices/%2e%2e HTTP/1.1", 401),
        ("GET /v1/devices/a%00b HTTP/1.1", 401),
        ("GET /oauth/token;x HTTP/1.1", 404),
        ("TRACE /health HTTP/1.1", 405),
    ] {
        let request = format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = world.send_raw(request.as_bytes()).await;
        assert_eq!(answer.status, status, "{line}: {answer:?}");
        assert!(!answer.text.contains("evil.example"), "{line}: {answer:?}");
    }
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let config = HttpConfig { connections_per_address_max: 3, ..HttpConfig::default() };
    let world = World::with_config(config).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(world.connect().await);
    }
    let mut more = tokio::net::TcpStream::connect(world.address()).await.expect("the kernel takes it");
    let mut byte = [0; 1];
    let read = tokio::time::timeout(Duration::from_secs(5), more.read(&mut byte)).await.expect("closed");
    assert!(matches!(read, Ok(0) | Err(_)), "closed before the handshake");
    // Another address, and the same one when it has given a connection back.
    let other = tokio::net::TcpSocket::new_v4().expect("a socket");
    other.bind("127.0.0.2:0".parse().expect("an address")).expect("bound");
    let mut other = other.connect(world.address()).await.expect("connected");
    other.write_all(b"no TLS").await.expect("written");
    let read = tokio::time::timeout(Duration::from_secs(5), other.read(&mut byte)).await.expect("answered");
    assert_eq!(read.expect("an alert"), 1, "TLS answers it");
    taken.pop();
    for _ in 0..100 {
        if world.send(Ask::get("/health")).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a place given back is not given again");
}
