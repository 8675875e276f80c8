//! What a client shows for a cell of the table: each has devices of its own, so that no case meets another's doing.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_jose::{Algorithm, Header, SigningKey, sign_compact};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::World;
use super::table::{By, Case, Cell};
use crate::harness::{jwt, now_s};
use crate::pop::{Held, KIND, Owner, Pop};

/// How long a registered key lives that is to be over when its cells are run: time enough to register it.
const BRIEF_S: u64 = 20;
/// The same for tokens, as the policy `brief` has it.
pub(crate) const BRIEF_TOKEN_S: u64 = 10;

/// What the client shows in TLS.
#[derive(Clone)]
pub(crate) enum Shows {
    Nothing,
    /// The chain and its key, DER.
    Certificate(Vec<Vec<u8>>, Vec<u8>),
    /// SubjectPublicKeyInfo and the private key, DER.
    RawKey(Vec<u8>, Vec<u8>),
}

/// What it says in CONNECT.
#[derive(Clone)]
pub(crate) enum Says {
    Nothing,
    Password(String, Vec<u8>),
    /// RFC 9431: a token and a proof over the exporter value.
    Exporter(Held),
    /// RFC 9431: a token, and a proof over both nonces.
    Challenge(Held),
    /// RFC 9431: the method alone.
    Stored,
    /// RFC 9431 section 6.
    UserName(Held),
    /// A method and its data.
    Method(&'static str, Vec<u8>),
}

/// Where it connects, if TLS is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// As it is without a word in the settings.
    Standard,
    /// Every way but raw keys, and certificates in TLS 1.2 too.
    Every,
    /// Raw public keys.
    Raw,
    /// Keys whose tokens have been published to `authz-info`, in certificates.
    Kept,
    /// The same, as they are.
    KeptRaw,
    /// Passwords alone.
    Passwords,
}

/// A client, ready to connect.
#[derive(Clone)]
pub(crate) struct Ready {
    pub(crate) client_id: String,
    pub(crate) shows: Shows,
    pub(crate) says: Says,
    pub(crate) door: Door,
    /// From when on what it shows is over; 0: from the beginning, or never.
    pub(crate) over_s: u64,
}

impl Ready {
    pub(crate) fn new(name: &str, shows: Shows, says: Says, door: Door) -> Self {
        Self { client_id: name.to_owned(), shows, says, door, over_s: 0 }
    }
}

/// The client of a cell. Versions do not matter to it: the four cells of a case are one client.
pub(crate) fn ready(world: &World, cell: &Cell) -> Ready {
    named(world, cell, &format!("{}.{}", cell.by.word(), cell.case.word()))
}

/// The same as a device of this name.
pub(crate) fn named(world: &World, cell: &Cell, name: &str) -> Ready {
    let Cell { by, case, .. } = *cell;
    let mut ready = match by {
        By::Password => by_password(world, name, case, Door::Every),
        By::PasswordUnasked => by_password(world, name, case, Door::Standard),
        By::DeviceJwt => by_jwt(world, name, case),
        By::OauthJwt => as_method("OAUTH2-JWT", by_jwt(world, name, case)),
        By::AccessTokenJwt => by_token(world, name, case, false),
        By::AccessTokenOpaque => by_token(world, name, case, true),
        By::CustomJwt => as_method("CUSTOM-JWT", by_token(world, name, case, false)),
        By::CertificateRegistered => by_registered_certificate(world, name, case),
        By::CertificateOfCa => by_ca(world, name, case),
        By::CertificateSelfSigned => by_key(world, name, case, Door::Every),
        By::CertificateUnasked => by_key(world, name, case, Door::Standard),
        By::RawKey => by_key(world, name, case, Door::Raw),
        By::CertificateAndOwnJwt => by_both(world, name, case, true),
        By::CertificateAndOtherJwt => by_both(world, name, case, false),
        By::AceExporter => by_ace(world, name, case, Door::Standard, Says::Exporter),
        By::AceChallenge => by_ace(world, name, case, Door::Standard, Says::Challenge),
        By::AceUserName => by_ace(world, name, case, Door::Standard, Says::UserName),
        By::AceUnasked => by_ace(world, name, case, Door::Passwords, Says::Challenge),
        By::AceStored => {
            let owner = world.device(name, "device");
            let shows = self_signed(&owner.name, &owner.key);
            Ready::new(name, shows, Says::Stored, Door::Standard)
        }
        By::AceStoredAsked => by_kept(world, name, case, Door::Kept, Says::Stored),
        By::AuthzInfoCertificate => by_kept(world, name, case, Door::Kept, Says::Nothing),
        By::AuthzInfoRawKey => by_kept(world, name, case, Door::KeptRaw, Says::Nothing),
        By::OtherMethod => {
            let data = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO".to_vec();
            Ready::new(name, Shows::Nothing, Says::Method("SCRAM-SHA-256", data), Door::Standard)
        }
        By::AuthzInfo | By::Anonymous | By::AnonymousAsked => {
            Ready::new(name, Shows::Nothing, Says::Nothing, Door::Standard)
        }
    };
    if case == Case::OtherClientId {
        ready.client_id = world.neighbour.clone();
    }
    ready
}

fn by_password(world: &World, name: &str, case: Case, door: Door) -> Ready {
    const PASSWORD: &str = "correct horse battery";
    let path = format!("/v1/devices/{name}");
    world.device(name, "device");
    world.ask("PUT", &format!("{path}/password"), Some(&json!({ "password": PASSWORD })));
    match case {
        Case::Revoked => world.ask("DELETE", &format!("{path}/password"), None),
        Case::Blocked => world.ask("POST", &format!("{path}/block"), None),
        _ => Value::Null,
    };
    let password = if case == Case::WrongKey { "correct horse batterie" } else { PASSWORD };
    let says = Says::Password(name.to_owned(), password.into());
    Ready::new(name, Shows::Nothing, says, door)
}

/// A JWT that a device has signed, in the place of a password.
fn by_jwt(world: &World, name: &str, case: Case) -> Ready {
    let owner = world.device(name, "device");
    let jwt = jwt_of(world, &owner, case);
    match case {
        Case::Revoked => world.ask("POST", &format!("/v1/devices/{name}/revoke"), None),
        Case::Blocked => world.ask("POST", &format!("/v1/devices/{name}/block"), None),
        _ => Value::Null,
    };
    Ready::new(name, Shows::Nothing, Says::Password("unused".to_owned(), jwt.into()), Door::Standard)
}

fn jwt_of(world: &World, owner: &Owner, case: Case) -> String {
    let (iat, exp) = match case {
        Case::Expired => (now_s() - 3_600, now_s() - 1_800),
        _ => (now_s() - 5, now_s() + 3_600),
    };
    let audience = match case {
        Case::WrongAudience => format!("{}/v1", world.issuer),
        _ => format!("{}/mqtt", world.issuer),
    };
    let claims = json!({ "sub": owner.name, "aud": audience, "iat": iat, "exp": exp });
    let stranger = SigningKey::generate(Algorithm::Es256).expect("a key");
    jwt(Some("JWT"), &claims, if case == Case::WrongKey { &stranger } else { &*owner.key })
}

/// The password of a client as data of a method.
fn as_method(method: &'static str, mut ready: Ready) -> Ready {
    if let Says::Password(_, password) = ready.says {
        ready.says = Says::Method(method, password);
    }
    ready
}

fn by_token(world: &World, name: &str, case: Case, opaque: bool) -> Ready {
    let policy = match (opaque, case == Case::Expired) {
        (false, false) => "device",
        (false, true) => "brief",
        (true, false) => "opaque",
        (true, true) => "brief-opaque",
    };
    let owner = world.device(name, policy);
    let service = if case == Case::WrongAudience { "v1" } else { "mqtt" };
    let mut token = token_for(world, &owner, service);
    assert_eq!(token.starts_with("dbo_"), opaque, "{name}");
    let mut over_s = 0;
    match case {
        Case::Expired => over_s = now_s() + BRIEF_TOKEN_S,
        Case::WrongKey if opaque => token = world.unknown_token.clone(),
        Case::WrongKey => token = signed_anew(&token),
        Case::Revoked => drop(by_form(world, &owner, "/oauth/revoke", &[("token", &token)])),
        Case::Blocked => drop(world.ask("POST", &format!("/v1/devices/{name}/block"), None)),
        _ => {}
    }
    let says = Says::Password("unused".to_owned(), token.into());
    Ready { over_s, ..Ready::new(name, Shows::Nothing, says, Door::Standard) }
}

/// An access token for `mqtt` or `v1`.
pub(super) fn token_for(world: &World, owner: &Owner, service: &str) -> String {
    let resource = format!("{}/{service}", world.issuer);
    let form = [("grant_type", "client_credentials"), ("resource", resource.as_str())];
    by_form(world, owner, "/oauth/token", &form)
}

/// What the owner asks for with an assertion; the access token in the answer, if there is one.
fn by_form(world: &World, owner: &Owner, path: &str, more: &[(&str, &str)]) -> String {
    let body = owner.body(json!({}));
    let assertion = body["client_assertion"].as_str().expect("a text");
    let credential = [("client_assertion_type", KIND), ("client_assertion", assertion)];
    let answer = world.wire.form(path, &[], &[&credential[..], more].concat());
    assert_eq!(answer.status, 200, "{}: {answer:?}", owner.name);
    answer.text_of("access_token")
}

/// A token as it is, with its header, signed by a key of the same kind that is not the issuer's.
fn signed_anew(token: &str) -> String {
    let part = |at: usize| {
        let text = token.split('.').nth(at).expect("three parts");
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    };
    let header: Value = serde_json::from_slice(&part(0)).expect("JSON");
    let algorithm = Algorithm::from_header(header["alg"].as_str().expect("a text")).expect("an algorithm");
    let stranger = SigningKey::generate(algorithm).expect("a key");
    let header = Header { typ: header["typ"].as_str(), kid: header["kid"].as_str(), jwk: None };
    sign_compact(&header, &part(1), &stranger).expect("signs")
}

// --- the TLS handshake ---------------------------------------------------------------------------

/// A key that the registry has, shown in a self-signed certificate or as it is.
fn by_key(world: &World, name: &str, case: Case, door: Door) -> Ready {
    let key = Arc::new(SigningKey::generate(Algorithm::Es256).expect("a key"));
    let mut over_s = 0;
    let mut of = json!({ "jwk": jwk(&key) });
    if case == Case::Expired {
        over_s = now_s() + BRIEF_S;
        of["expires"] = json!(moment(over_s));
    }
    world.device_with(name, &of, "device");
    let shown = match case {
        Case::WrongKey => Arc::new(SigningKey::generate(Algorithm::Es256).expect("a key")),
        _ => Arc::clone(&key),
    };
    take_back(world, name, &key, case);
    let shows = match door {
        Door::Raw => raw(&shown),
        _ => self_signed(name, &shown),
    };
    Ready { over_s, ..Ready::new(name, shows, Says::Nothing, door) }
}

/// A certificate of a CA that nobody has registered, and the certificate itself is.
fn by_registered_certificate(world: &World, name: &str, case: Case) -> Ready {
    let over_s = if case == Case::Expired { now_s() + BRIEF_S } else { 0 };
    let key = SigningKey::generate(Algorithm::Es256).expect("a key");
    let elsewhere = Authority::new("elsewhere");
    let end_s = if case == Case::Expired { over_s } else { now_s() + 86_400 };
    let leaf = elsewhere.leaf(name, &key, end_s);
    world.device_with(name, &json!({ "certificate": leaf.0 }), "device");
    take_back(world, name, &key, case);
    let shows = match case {
        // The same names, by the same CA.
        Case::WrongKey => {
            let stranger = SigningKey::generate(Algorithm::Es256).expect("a key");
            elsewhere.shown(name, &stranger, end_s)
        }
        _ => Shows::Certificate(vec![leaf.1, elsewhere.der.clone()], key.to_pkcs8_der().to_vec()),
    };
    Ready { over_s, ..Ready::new(name, shows, Says::Nothing, Door::Every) }
}

/// A certificate of a CA of the registry, whose key nobody has registered.
fn by_ca(world: &World, name: &str, case: Case) -> Ready {
    let authority = Authority::new("plant");
    let ca = world.ask("POST", "/v1/cas", Some(&json!({ "certificate": authority.pem })));
    world.device(name, "device");
    let key = SigningKey::generate(Algorithm::Es256).expect("a key");
    let over_s = if case == Case::Expired { now_s() + BRIEF_S } else { 0 };
    let end_s = if case == Case::Expired { over_s } else { now_s() + 86_400 };
    let shows = match case {
        // Of the same name as the CA that is registered.
        Case::WrongKey => Authority::new("plant").shown(name, &key, end_s),
        _ => authority.shown(name, &key, end_s),
    };
    match case {
        Case::Revoked => {
            let fingerprint = ca["fingerprint"].as_str().expect("a text");
            world.ask("DELETE", &format!("/v1/cas/{fingerprint}"), None)
        }
        Case::Blocked => world.ask("POST", &format!("/v1/devices/{name}/block"), None),
        _ => Value::Null,
    };
    Ready { over_s, ..Ready::new(name, shows, Says::Nothing, Door::Every) }
}

/// A certificate of a registered key in TLS, and a JWT of the same device or of another in CONNECT.
fn by_both(world: &World, name: &str, case: Case, same: bool) -> Ready {
    let speaks = world.device(name, "device");
    let shown = SigningKey::generate(Algorithm::Es256).expect("a key");
    let holder = if same {
        world.ask("POST", &format!("/v1/devices/{name}/keys"), Some(&json!({ "jwk": jwk(&shown) })));
        name.to_owned()
    } else {
        let other = format!("{name}.other");
        world.device_with(&other, &json!({ "jwk": jwk(&shown) }), "device");
        other
    };
    let jwt = jwt_of(world, &speaks, case);
    match case {
        // The key of the certificate: `keys/KID/revoke` would end the JWT too.
        Case::Revoked if same => {
            let kid = shown.public_key().thumbprint();
            world.ask("DELETE", &format!("/v1/devices/{name}/keys/{kid}"), None)
        }
        Case::Revoked => take_back(world, &holder, &shown, case),
        _ => take_back(world, name, &shown, case),
    };
    let says = Says::Password("unused".to_owned(), jwt.into());
    Ready::new(name, self_signed(&holder, &shown), says, Door::Every)
}

/// What ends a key before its time, or all that its owner may.
fn take_back(world: &World, name: &str, key: &SigningKey, case: Case) -> Value {
    match case {
        Case::Blocked => world.ask("POST", &format!("/v1/devices/{name}/block"), None),
        Case::Revoked => {
            let kid = key.public_key().thumbprint();
            world.ask("POST", &format!("/v1/devices/{name}/keys/{kid}/revoke"), None)
        }
        _ => Value::Null,
    }
}

pub(crate) fn raw(key: &SigningKey) -> Shows {
    Shows::RawKey(key.public_key().spki_der().to_vec(), key.to_pkcs8_der().to_vec())
}

pub(crate) fn self_signed(common_name: &str, key: &SigningKey) -> Shows {
    let pair = pair(key);
    let leaf = params(common_name).self_signed(&pair).expect("signed");
    Shows::Certificate(vec![leaf.der().to_vec()], pair.serialize_der())
}

fn pair(key: &SigningKey) -> KeyPair {
    KeyPair::try_from(key.to_pkcs8_der().as_slice()).expect("a key")
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// A CA of these tests.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    pem: String,
}

impl Authority {
    fn new(common_name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut ca = params(common_name);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signed = ca.self_signed(&key).expect("signed");
        let (der, pem) = (signed.der().to_vec(), signed.pem());
        Self { issuer: Issuer::new(ca, key), der, pem }
    }

    /// A certificate until `end_s`, as PEM and DER.
    fn leaf(&self, common_name: &str, key: &SigningKey, end_s: u64) -> (String, Vec<u8>) {
        let mut params = params(common_name);
        let moment = |s: u64| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(s);
        (params.not_before, params.not_after) = (moment(now_s() - 86_400), moment(end_s));
        let leaf = params.signed_by(&pair(key), &self.issuer).expect("signed");
        (leaf.pem(), leaf.der().to_vec())
    }

    fn shown(&self, common_name: &str, key: &SigningKey, end_s: u64) -> Shows {
        let leaf = self.leaf(common_name, key, end_s).1;
        Shows::Certificate(vec![leaf, self.der.clone()], key.to_pkcs8_der().to_vec())
    }
}

// --- RFC 9431 ------------------------------------------------------------------------------------

fn by_ace(world: &World, name: &str, case: Case, door: Door, says: fn(Held) -> Says) -> Ready {
    let (mut held, over_s, owner) = ace_token(world, name, case);
    end_token(world, &owner, &held, case);
    if case == Case::WrongKey {
        held.pop = Pop::Key(Arc::new(SigningKey::generate(Algorithm::Es256).expect("a key")));
    }
    Ready { over_s, ..Ready::new(name, Shows::Nothing, says(held), door) }
}

/// A token bound to the key of a new device, when it is over, and the device.
fn ace_token(world: &World, name: &str, case: Case) -> (Held, u64, Owner) {
    let owner = world.device(name, if case == Case::Expired { "brief" } else { "device" });
    let held = match case {
        // With its key none is issued for another service, so it is one without.
        Case::WrongAudience => {
            Held { token: token_for(world, &owner, "v1").into(), pop: Pop::Key(Arc::clone(&owner.key)) }
        }
        _ => owner.token(&world.core, false, false, json!({})),
    };
    (held, if case == Case::Expired { now_s() + BRIEF_TOKEN_S } else { 0 }, owner)
}

fn end_token(world: &World, owner: &Owner, held: &Held, case: Case) {
    let token = std::str::from_utf8(&held.token).expect("a JWT");
    match case {
        Case::Revoked => drop(by_form(world, owner, "/oauth/revoke", &[("token", token)])),
        Case::Blocked => drop(world.ask("POST", &format!("/v1/devices/{}/block", owner.name), None)),
        _ => {}
    }
}

/// A token that is published before its client comes with the key of it in TLS.
fn by_kept(world: &World, name: &str, case: Case, door: Door, says: Says) -> Ready {
    let (held, over_s, owner) = ace_token(world, name, case);
    let taken = world.publish_token(&held.token);
    assert_eq!(taken, case != Case::WrongAudience, "{name}");
    end_token(world, &owner, &held, case);
    let stranger = SigningKey::generate(Algorithm::Es256).expect("a key");
    let shown = if case == Case::WrongKey { &stranger } else { &*owner.key };
    let shows = match door {
        Door::KeptRaw => raw(shown),
        _ => self_signed(name, shown),
    };
    Ready { over_s, ..Ready::new(name, shows, says, door) }
}

pub(crate) fn jwk(key: &SigningKey) -> Value {
    serde_json::from_str(&key.public_key().to_jwk_json()).expect("JSON")
}

/// RFC 3339.
fn moment(s: u64) -> String {
    let at = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(s);
    let (date, [h, m, s]) = (at.date(), [at.hour(), at.minute(), at.second()]);
    format!("{date}T{h:02}:{m:02}:{s:02}Z")
}
