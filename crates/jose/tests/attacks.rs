//! What has been tried against verifiers of JWS, each as one named case. A case holds the attack, the reason
//! for which it must be refused, and a sibling without the attack that must pass, so that nothing is refused
//! for the wrong reason. Where it can be, the attack is rightly signed by the registered key: only the gate
//! stands in its way.
//!
//! Sources: RFC 8725 (best practices for JWT) sections 2 and 3; the rules of form of RFC 7515 (JWS) sections 4,
//! 5.2 and 10.12, RFC 7519 (JWT) section 7.2, RFC 7797 (unencoded payload), RFC 7518 section 3 (algorithms),
//! RFC 4648 section 3.5 (one base64url text for the same bytes); and published faults of other
//! implementations, whose CVE stands at the case.
//!
//! What concerns other things (a token used twice, audiences, scopes) is tested by the crates that judge it.
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use std::collections::BTreeSet;

use aws_lc_rs::hmac;
use drawbridge_jose::{
    Algorithm, BadSignature, ClaimError, Claims, JsonError, Jws, JwsError, KeyError, Padding, ParseOptions,
    PublicKey, Segment, Sign as _, SigningKey, base64url_decode, base64url_encode,
};
use tokens::{craft, der, integer, p256_order};

#[derive(PartialEq, Debug)]
enum Refusal {
    Jws(JwsError),
    Claim(&'static str),
    Key(KeyError),
}

struct Attack {
    name: String,
    found: Result<(), Refusal>,
    sibling: Result<(), Refusal>,
    wanted: Refusal,
}

#[test]
fn every_attack_is_refused_for_its_own_reason_and_its_sibling_passes() {
    let keys = Keys::new();
    let attacks: Vec<Attack> = [
        algorithm(&keys),
        header_members(&keys),
        header_json(&keys),
        kid(&keys),
        segments(&keys),
        base64(&keys),
        signatures(&keys),
        claims(&keys),
        embedded_keys(&keys),
        key_forms(&keys),
    ]
    .into_iter()
    .flatten()
    .collect();
    for attack in &attacks {
        assert_eq!(attack.sibling, Ok(()), "sibling of: {}", attack.name);
        assert_eq!(attack.found.as_ref().err(), Some(&attack.wanted), "{}", attack.name);
    }
    let names: BTreeSet<&str> = attacks.iter().map(|attack| attack.name.as_str()).collect();
    assert_eq!(names.len(), attacks.len(), "each case has its own name");
    for (fault, cases) in PUBLISHED_FAULTS {
        assert!(!cases.is_empty(), "{fault}");
        for case in *cases {
            assert!(names.contains(case), "{fault}: no case `{case}`");
        }
    }
    println!("{} attacks refused", attacks.len());
}

#[test]
fn what_only_looks_like_an_attack_is_accepted() {
    let keys = Keys::new();
    // A high s is right in JWS; half of all signatures have one.
    let mut high = false;
    for _ in 0..64 {
        let token = craft(&keys.es256, HEADER, PAYLOAD);
        high |= base64url_decode(token.rsplit('.').next().unwrap()).unwrap()[32] >= 0x80;
        assert_eq!(judge(&token, &STRICT, keys.es256.public_key()), Ok(()));
    }
    assert!(high);
    // Both names of Ed25519, unknown plain members, any `typ` (which the caller must compare).
    for header in [
        r#"{"alg":"EdDSA"}"#,
        r#"{"alg":"Ed25519"}"#,
        r#"{"alg":"EdDSA","x":1,"cty":"JWT","y":null,"typ":"foo"}"#,
    ] {
        assert_eq!(
            judge(&craft(&keys.eddsa, header.as_bytes(), PAYLOAD), &STRICT, keys.eddsa.public_key()),
            Ok(())
        );
    }
}

#[test]
fn padding_is_tolerated_only_by_option_and_only_the_right_number_of_it() {
    let keys = Keys::new();
    let tolerant = ParseOptions { padding: Padding::Tolerated, ..STRICT };
    let key = keys.es256.public_key();
    let input = format!("{}.{}", padded(&base64url_encode(HEADER)), padded(&base64url_encode(PAYLOAD)));
    assert!(input.contains('='));
    let signature = base64url_encode(&keys.es256.sign(input.as_bytes()).unwrap());
    for signature in [padded(&signature), signature.clone()] {
        let token = format!("{input}.{signature}");
        assert_eq!(judge(&token, &tolerant, key), Ok(()));
        assert!(matches!(judge(&token, &STRICT, key), Err(Refusal::Jws(JwsError::Padding { .. }))));
    }
    // The bytes received are the bytes verified: the same token without the padding is another one.
    let stripped = format!("{}.{signature}", input.replace('=', ""));
    assert_eq!(judge(&stripped, &tolerant, key), Err(Refusal::Jws(JwsError::Signature(BadSignature))));
    for wrong in ["=", "===", "===="] {
        let token = format!("{input}.{signature}{wrong}");
        let refusal = JwsError::Base64 { segment: Segment::Signature };
        assert_eq!(judge(&token, &tolerant, key), Err(Refusal::Jws(refusal)), "{wrong}");
    }
}

/// Published faults of other implementations, and the cases above that would show each of them here. Those that
/// concern issuers, kinds of tokens and the look-up of keys have their cases where these are judged
/// (`crates/fuzz-targets/src/tokens.rs`).
const PUBLISHED_FAULTS: &[(&str, &[&str])] = &[
    (
        "CVE-2026-25537: a claim of the wrong type counts as absent",
        &[
            r#"exp is "1795301000""#,
            "exp is -1",
            "exp is null",
            "exp 1e400",
            r#"nbf is "1795301000""#,
            "nbf is {}",
        ],
    ),
    (
        "CVE-2015-9235, CVE-2016-10555, CVE-2016-5431: public key taken as HMAC secret",
        &["RS256 to HS256 with the PEM as secret", "ES256 to HS256 with the PEM as secret"],
    ),
    (
        "CVE-2017-11424, CVE-2022-29217: some forms of the key escape the list of forms",
        &["RS256 to HS256 with the DER as secret", "RS256 to HS256 with the JWK as secret"],
    ),
    (
        "CVE-2023-48223, CVE-2026-34950: white space before the PEM",
        &[
            "RS256 to HS256 with the PEM after a line break as secret",
            "RS256 to HS256 with the PEM after a space as secret",
        ],
    ),
    (
        "CVE-2023-48238, CVE-2024-54150: the header chooses among algorithms",
        &["PS256 for a key of RS256", "ES256 for a key of RS256", "RS256 for a key of ES256"],
    ),
    (
        "CVE-2024-33663, CVE-2024-37568: OpenSSH text of an EC key as HMAC secret",
        &["ES256 to HS256 with the OpenSSH text as secret", "OpenSSH text offered as a key"],
    ),
    (
        "CVE-2015-2964, CVE-2015-2951, CVE-2018-1000531: `none`",
        &["alg none, no signature", "alg nOnE, no signature", "alg NONE, signed", "alg \"\""],
    ),
    (
        "CVE-2026-22817: a JWK without `alg` takes the one of the header",
        &[
            "RSA key without alg, header PS256",
            "EC key without alg, header ES384",
            "RSA key without alg, header HS256",
        ],
    ),
    (
        "CVE-2018-0114: the key in the header is trusted",
        &["jwk of the attacker (CVE-2018-0114)", "jwk of the attacker, signed with it", "jku", "x5u", "x5c"],
    ),
    (
        "CVE-2022-21449: r = s = 0",
        &["psychic signature, r = s = 0 (CVE-2022-21449)", "r = 0", "s = 0", "r = s = n", "s = n + 1"],
    ),
    (
        "CVE-2020-28042: an empty signature is good",
        &["signature empty", "RS256 signature empty", "EdDSA signature empty", "ES384 signature empty"],
    ),
    (
        "CVE-2022-39227: compact for the checker, JSON for the reader",
        &["compact and JSON at once", "JSON serialisation", "JSON serialisation inside the header"],
    ),
    (
        "CVE-2022-23540, CVE-2022-23539, CVE-2022-23541: defaults, and keys of the wrong type",
        &["alg in {}", "ES256 for a key of EdDSA", "EdDSA for a key of ES256", "ES384 for a key of ES256"],
    ),
    ("CVE-2025-65945: the token chooses the secret", &["alg \"HS256\"", "kid ../../../../dev/null"]),
    (
        "CVE-2020-26160: `aud` of the wrong type skips its check",
        &["aud is 7", r#"aud is {"a":"b"}"#, r#"aud is ["a",7]"#],
    ),
    (
        "CVE-2025-30204, CVE-2025-27144: many dots",
        &[
            "a thousand dots (CVE-2025-27144)",
            "a thousand dots after a token (CVE-2025-30204)",
            "four million dots",
        ],
    ),
    ("CVE-2024-28180, CVE-2024-28176, CVE-2024-33664: decompression", &["zip bomb", "five segments, a JWE"]),
    (
        "CVE-2023-52428, CVE-2022-36083: iterations of PBES2",
        &["p2c flood", "p2s", "alg \"PBES2-HS256+A128KW\""],
    ),
    (
        "CVE-2016-9121: a point off its curve",
        &["point off the curve in the header", "epk of an invalid curve", "JWK with a point off the curve"],
    ),
    (
        "CVE-2023-51774: a JWE passes as JWS",
        &["JWE header on three segments (CVE-2023-51774)", "enc", "typ of the wrong type"],
    ),
    (
        "CVE-2025-59420, CVE-2026-32597, CVE-2026-35042: `crit` is not obeyed",
        &[
            "crit unknown",
            "crit empty",
            "b64 false alone",
            "b64 false declared, payload encoded (CVE-2025-59420)",
        ],
    ),
    (
        "`kid` as a path or as SQL",
        &[
            "kid x' UNION SELECT 'key'--",
            "kid ../../../../dev/null",
            "kid with NUL",
            "kid of 64 KiB",
            "kid is [\"lamp\"]",
        ],
    ),
    ("CVE-2017-15361: keys that can be factored", &["RSA key with the ROCA fingerprint"]),
    (
        "what some of seven other libraries take: extensions that are not understood",
        &["crit empty", "crit unknown", "crit naming a header that is absent", "b64 false, payload raw"],
    ),
    (
        "what some of seven other libraries take: one token with two readings",
        &["alg twice, none first", "alg twice, none last", "sub twice", "BOM before the header"],
    ),
    (
        "what some of seven other libraries take: one token with two spellings",
        &[
            "signature with double padding",
            "signature with stray bits",
            "signature with a trailing newline",
            "header with a leading space",
        ],
    ),
    (
        "what all of seven other libraries refuse too",
        &[
            "alg \"es256\"",
            "psychic signature, r = s = 0 (CVE-2022-21449)",
            "r = s = n",
            "DER signature",
            "four segments",
            "header is an array",
        ],
    ),
];

const HEADER: &[u8] = br#"{"alg":"ES256","typ":"JWT"}"#;
const PAYLOAD: &[u8] = br#"{"sub":"lamp","aud":"https://id.example","exp":1795301000}"#;
const STRICT: ParseOptions = ParseOptions {
    token_bytes_max: 4096,
    header_bytes_max: 1024,
    padding: Padding::Refused,
    embedded_jwk: false,
};

struct Keys {
    es256: SigningKey,
    es384: SigningKey,
    eddsa: SigningKey,
    rs256: SigningKey,
    attacker: SigningKey,
}

impl Keys {
    fn new() -> Self {
        let make = |alg| SigningKey::generate(alg).unwrap();
        Self {
            es256: make(Algorithm::Es256),
            es384: make(Algorithm::Es384),
            eddsa: make(Algorithm::EdDsa),
            rs256: make(Algorithm::Rs256),
            attacker: make(Algorithm::Es256),
        }
    }
}

/// What a caller does with a token: parse, verify, ask the claims by type.
fn judge(token: &str, options: &ParseOptions, key: &PublicKey) -> Result<(), Refusal> {
    let jws = Jws::parse(token.as_bytes(), options).map_err(Refusal::Jws)?;
    let claims = jws.verify(key).and_then(|verified| verified.claims()).map_err(Refusal::Jws)?;
    ask(&claims).map_err(|error| {
        let known = ["iss", "sub", "jti", "exp", "nbf", "iat", "aud"];
        Refusal::Claim(known.into_iter().find(|name| *name == error.name).unwrap())
    })
}

fn ask(claims: &Claims) -> Result<(), ClaimError> {
    for name in ["iss", "sub", "jti"] {
        claims.text(name)?;
    }
    for name in ["exp", "nbf", "iat"] {
        claims.numeric_date_s(name)?;
    }
    claims.audience().map(|_| ())
}

/// Attack and sibling as tokens for one key.
fn case(name: impl Into<String>, key: &SigningKey, attack: &str, sibling: &str, wanted: JwsError) -> Attack {
    let key = key.public_key();
    Attack {
        name: name.into(),
        found: judge(attack, &STRICT, key),
        sibling: judge(sibling, &STRICT, key),
        wanted: Refusal::Jws(wanted),
    }
}

/// The attack is in the header, which is rightly signed; the sibling has the usual header.
fn header_case(name: impl Into<String>, keys: &Keys, header: &[u8], wanted: JwsError) -> Attack {
    let attack = craft(&keys.es256, header, PAYLOAD);
    case(name, &keys.es256, &attack, &craft(&keys.es256, HEADER, PAYLOAD), wanted)
}

fn algorithm(keys: &Keys) -> Vec<Attack> {
    let mut table = Vec::new();
    let sibling = craft(&keys.es256, HEADER, PAYLOAD);
    for alg in ["none", "None", "NONE", "nOnE", "noNE"] {
        let unsigned = format!(r#"{{"alg":"{alg}"}}"#);
        let attack = format!("{}.{}.", base64url_encode(unsigned.as_bytes()), base64url_encode(PAYLOAD));
        table.push(case(
            format!("alg {alg}, no signature"),
            &keys.es256,
            &attack,
            &sibling,
            JwsError::AlgorithmRefused,
        ));
        table.push(header_case(
            format!("alg {alg}, signed"),
            keys,
            unsigned.as_bytes(),
            JwsError::AlgorithmRefused,
        ));
    }
    for alg in [
        "es256",
        "Es256",
        "ES256 ",
        "",
        "ES512",
        "ES256K",
        "RS384",
        "RS1",
        "PS512",
        "EDDSA",
        "Ed448",
        "HS256",
        "dir",
        "PBES2-HS256+A128KW",
    ] {
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        table.push(header_case(
            format!("alg \"{alg}\""),
            keys,
            header.as_bytes(),
            JwsError::AlgorithmRefused,
        ));
    }
    let member = JwsError::HeaderMemberType { name: "alg" };
    for header in ["{}", r#"{"alg":null}"#, r#"{"alg":["ES256"]}"#, r#"{"alg":256}"#, r#"{"ALG":"ES256"}"#] {
        // An array is nested, but it is the type of `alg` that is named.
        table.push(header_case(format!("alg in {header}"), keys, header.as_bytes(), member.clone()));
    }
    // CVE-2015-9235, CVE-2024-33663, CVE-2024-37568: the public key as an HMAC secret.
    for key in [&keys.es256, &keys.rs256] {
        let alg = key.algorithm();
        let sibling = craft(key, format!(r#"{{"alg":"{alg}"}}"#).as_bytes(), PAYLOAD);
        for (form, secret) in [
            ("PEM", key.public_key().to_pem().into_bytes()),
            ("DER", key.public_key().spki_der().to_vec()),
            ("JWK", key.public_key().to_jwk_json().into_bytes()),
            ("PEM after a line break", format!("\n{}", key.public_key().to_pem()).into_bytes()),
            ("PEM after a space", format!(" {}", key.public_key().to_pem()).into_bytes()),
            ("OpenSSH text", openssh(key.public_key()).into_bytes()),
        ] {
            let input = format!("{}.{}", base64url_encode(br#"{"alg":"HS256"}"#), base64url_encode(PAYLOAD));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), input.as_bytes());
            let attack = format!("{input}.{}", base64url_encode(tag.as_ref()));
            let name = format!("{alg} to HS256 with the {form} as secret");
            table.push(case(name, key, &attack, &sibling, JwsError::AlgorithmRefused));
        }
    }
    let mismatch = |header, key| JwsError::AlgorithmMismatch { header, key };
    for (header, signer, registered) in [
        ("PS256", &keys.rs256, &keys.rs256),
        ("ES256", &keys.es256, &keys.rs256),
        ("ES256", &keys.es256, &keys.eddsa),
        ("EdDSA", &keys.eddsa, &keys.es256),
        ("ES384", &keys.es384, &keys.es256),
        ("RS256", &keys.rs256, &keys.es256),
    ] {
        let right = registered.algorithm();
        let attack = craft(signer, format!(r#"{{"alg":"{header}"}}"#).as_bytes(), PAYLOAD);
        let sibling = craft(registered, format!(r#"{{"alg":"{right}"}}"#).as_bytes(), PAYLOAD);
        let wanted = mismatch(Algorithm::from_header(header).unwrap(), right);
        table.push(case(format!("{header} for a key of {right}"), registered, &attack, &sibling, wanted));
    }
    table
}

fn header_members(keys: &Keys) -> Vec<Attack> {
    let jwk = keys.attacker.public_key().to_jwk_json();
    let jwk = jwk.as_str();
    [
        ("crit empty", "crit", "[]"),
        ("crit unknown", "crit", r#"["exp"]"#),
        ("crit naming a header that is absent", "crit", r#"["cty"]"#),
        ("crit naming alg", "crit", r#"["alg"]"#),
        ("crit twice the same", "crit", r#"["b64","b64"]"#),
        ("crit as text", "crit", r#""b64""#),
        ("b64 false alone", "b64", "false"),
        ("b64 true", "b64", "true"),
        ("jku", "jku", r#""https://attacker.example/jwks.json""#),
        ("jku to loopback", "jku", r#""http://127.0.0.1:8080/jwks.json""#),
        ("jku whose name resolves to loopback", "jku", r#""https://localtest.me/jwks.json""#),
        ("jwks_uri", "jwks_uri", r#""https://attacker.example/jwks.json""#),
        ("x5u", "x5u", r#""https://attacker.example/cert.pem""#),
        ("x5c", "x5c", r#"["MIIB"]"#),
        ("p2c flood", "p2c", "2147483647"),
        ("p2s", "p2s", r#""AAAA""#),
        ("zip bomb", "zip", r#""DEF""#),
        ("enc", "enc", r#""A256GCM""#),
        ("epk of an invalid curve", "epk", r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#),
        ("jwk of the attacker (CVE-2018-0114)", "jwk", jwk),
        ("jwk null", "jwk", "null"),
    ]
    .into_iter()
    .map(|(name, member, value)| {
        let header = format!(r#"{{"alg":"ES256","{member}":{value}}}"#);
        header_case(name, keys, header.as_bytes(), JwsError::HeaderMemberRefused { name: member })
    })
    .chain([
        header_case(
            "b64 false declared, payload encoded (CVE-2025-59420)",
            keys,
            br#"{"alg":"ES256","b64":false,"crit":["b64"]}"#,
            JwsError::HeaderMemberRefused { name: "b64" },
        ),
        {
            // RFC 7797: the payload as it is. Without dots it still has three segments.
            let input =
                format!("{}.lamp", base64url_encode(br#"{"alg":"ES256","crit":["b64"],"b64":false}"#));
            let attack = format!("{input}.{}", base64url_encode(&keys.es256.sign(input.as_bytes()).unwrap()));
            let sibling = craft(&keys.es256, HEADER, PAYLOAD);
            let wanted = JwsError::HeaderMemberRefused { name: "crit" };
            case("b64 false, payload raw", &keys.es256, &attack, &sibling, wanted)
        },
        {
            // The attacker signs with the key in the header.
            let header = format!(r#"{{"alg":"ES256","jwk":{jwk}}}"#);
            let attack = craft(&keys.attacker, header.as_bytes(), PAYLOAD);
            let sibling = craft(&keys.es256, HEADER, PAYLOAD);
            let wanted = JwsError::HeaderMemberRefused { name: "jwk" };
            case("jwk of the attacker, signed with it", &keys.es256, &attack, &sibling, wanted)
        },
        header_case(
            "JWE header on three segments (CVE-2023-51774)",
            keys,
            br#"{"alg":"RSA-OAEP","typ":"JWT"}"#,
            JwsError::AlgorithmRefused,
        ),
    ])
    .collect()
}

fn header_json(keys: &Keys) -> Vec<Attack> {
    let json = |why| JwsError::Json { segment: Segment::Header, why };
    let utf16: Vec<u8> = r#"{"alg":"ES256"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let deep = format!(r#"{{"alg":"ES256","x":{}{}}}"#, "[".repeat(400), "]".repeat(400));
    let polyglot = format!(r#"{{"alg":"ES256","payload":"{}","signatures":[]}}"#, base64url_encode(PAYLOAD));
    let long = format!(r#"{{"alg":"ES256","x":"{}"}}"#, "a".repeat(1024));
    let rows: &[(&str, &[u8], JwsError)] = &[
        ("BOM before the header", b"\xef\xbb\xbf{\"alg\":\"ES256\"}", json(JsonError::ByteOrderMark)),
        ("header in UTF-16", &utf16, json(JsonError::Syntax)),
        ("header not UTF-8", b"{\"alg\":\"ES256\",\"kid\":\"\xff\"}", json(JsonError::NotUtf8)),
        ("header is an array", br#"["ES256"]"#, json(JsonError::NotAnObject)),
        ("header is a string", br#""ES256""#, json(JsonError::NotAnObject)),
        ("header empty", b"", json(JsonError::Syntax)),
        ("bytes after the header", br#"{"alg":"ES256"}{}"#, json(JsonError::Syntax)),
        ("alg twice, none first", br#"{"alg":"none","alg":"ES256"}"#, json(JsonError::DuplicateMember)),
        ("alg twice, none last", br#"{"alg":"ES256","alg":"none"}"#, json(JsonError::DuplicateMember)),
        (
            "alg twice, once escaped",
            br#"{"alg":"ES256","\u0061lg":"none"}"#,
            json(JsonError::DuplicateMember),
        ),
        ("unknown member twice", br#"{"alg":"ES256","x":1,"x":1}"#, json(JsonError::DuplicateMember)),
        (
            "member twice inside a member",
            br#"{"alg":"ES256","x":{"y":1,"y":1}}"#,
            json(JsonError::DuplicateMember),
        ),
        ("header 400 deep", deep.as_bytes(), json(JsonError::TooDeep)),
        ("header with an object", br#"{"alg":"ES256","x":{}}"#, JwsError::HeaderNested),
        ("header with an array", br#"{"alg":"ES256","x":[]}"#, JwsError::HeaderNested),
        ("JSON serialisation inside the header", polyglot.as_bytes(), JwsError::HeaderNested),
        ("typ of the wrong type", br#"{"alg":"ES256","typ":7}"#, JwsError::HeaderMemberType { name: "typ" }),
        ("header longer than its limit", long.as_bytes(), JwsError::HeaderTooLarge { bytes_max: 1024 }),
    ];
    rows.iter().map(|(name, header, wanted)| header_case(*name, keys, header, wanted.clone())).collect()
}

/// A hostile `kid` chooses nothing: with the attacker's signature it fails, with the right one it is text.
fn kid(keys: &Keys) -> Vec<Attack> {
    let mut table: Vec<Attack> = [
        "x' UNION SELECT 'key'--",
        "../../../../dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "|id",
        "https://attacker.example",
    ]
    .into_iter()
    .map(|kid| {
        let header = format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#);
        let attack = craft(&keys.attacker, header.as_bytes(), PAYLOAD);
        let sibling = craft(&keys.es256, header.as_bytes(), PAYLOAD);
        let read = Jws::parse(sibling.as_bytes(), &STRICT).unwrap();
        assert_eq!(read.kid(), Some(kid), "byte-exact");
        case(format!("kid {kid}"), &keys.es256, &attack, &sibling, JwsError::Signature(BadSignature))
    })
    .collect();
    let member = JwsError::HeaderMemberType { name: "kid" };
    for value in ["[\"lamp\"]", "7", "null", "{}"] {
        let header = format!(r#"{{"alg":"ES256","kid":{value}}}"#);
        table.push(header_case(format!("kid is {value}"), keys, header.as_bytes(), member.clone()));
    }
    let nul = JwsError::Json { segment: Segment::Header, why: JsonError::Nul };
    table.push(header_case("kid with NUL", keys, br#"{"alg":"ES256","kid":"lamp\u0000.pem"}"#, nul));
    let long = craft(
        &keys.es256,
        format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(65_536)).as_bytes(),
        PAYLOAD,
    );
    let sibling = craft(&keys.es256, HEADER, PAYLOAD);
    let wanted = JwsError::TokenTooLarge { found_bytes: long.len(), bytes_max: 4096 };
    table.push(case("kid of 64 KiB", &keys.es256, &long, &sibling, wanted));
    let roomy = ParseOptions { token_bytes_max: 1 << 20, ..STRICT };
    table.push(Attack {
        name: "kid of 64 KiB where tokens may be large".into(),
        found: judge(&long, &roomy, keys.es256.public_key()),
        sibling: judge(&sibling, &roomy, keys.es256.public_key()),
        wanted: Refusal::Jws(JwsError::HeaderTooLarge { bytes_max: 1024 }),
    });
    table
}

fn segments(keys: &Keys) -> Vec<Attack> {
    let good = craft(&keys.es256, HEADER, PAYLOAD);
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    let json = format!(
        r#"{{"payload":"{payload}","signatures":[{{"protected":"{header}","signature":"{signature}"}}]}}"#
    );
    // CVE-2022-39227: read as JSON by one parser, as compact by another.
    let polyglot =
        format!(r#"{{"{header}.{payload}.{signature}":1,"payload":"{payload}","protected":"{header}"}}"#);
    let wanted = |found| JwsError::Segments { found };
    let rows = [
        ("empty token".to_owned(), String::new(), wanted(1)),
        ("one segment".into(), header.into(), wanted(1)),
        ("no signature, no dot".into(), format!("{header}.{payload}"), wanted(2)),
        ("four segments".into(), format!("{good}.{signature}"), wanted(4)),
        ("trailing dot".into(), format!("{good}."), wanted(4)),
        ("leading dot".into(), format!(".{good}"), wanted(4)),
        ("five segments, a JWE".into(), format!("{good}..AA"), wanted(5)),
        ("a thousand dots (CVE-2025-27144)".into(), ".".repeat(1000), wanted(1001)),
        (
            "a thousand dots after a token (CVE-2025-30204)".into(),
            good.clone() + &".".repeat(1000),
            wanted(1003),
        ),
        ("JSON serialisation".into(), json, wanted(1)),
        ("compact and JSON at once".into(), polyglot, JwsError::Base64 { segment: Segment::Header }),
        (
            "signature empty".into(),
            format!("{header}.{payload}."),
            JwsError::SignatureLength { found: 0, wanted: 64 },
        ),
        ("payload left out".into(), format!("{header}..{signature}"), JwsError::Signature(BadSignature)),
        (
            "header left out".into(),
            format!(".{payload}.{signature}"),
            JwsError::Json { segment: Segment::Header, why: JsonError::Syntax },
        ),
        (
            "longer than the limit".into(),
            "a".repeat(4097),
            JwsError::TokenTooLarge { found_bytes: 4097, bytes_max: 4096 },
        ),
    ];
    let mut table: Vec<Attack> = rows
        .into_iter()
        .map(|(name, attack, wanted)| case(name, &keys.es256, &attack, &good, wanted))
        .collect();
    // With a limit of 4 MiB quadratic work would not end within the life of this test.
    let roomy = ParseOptions { token_bytes_max: 4 << 20, ..STRICT };
    table.push(Attack {
        name: "four million dots".into(),
        found: judge(&".".repeat(4_000_000), &roomy, keys.es256.public_key()),
        sibling: judge(&good, &roomy, keys.es256.public_key()),
        wanted: Refusal::Jws(wanted(4_000_001)),
    });
    table
}

/// One token, one text: no other spelling of the same bytes passes.
fn base64(keys: &Keys) -> Vec<Attack> {
    let good = craft(&keys.es256, HEADER, PAYLOAD);
    let parts: Vec<&str> = good.split('.').collect();
    let mut table = Vec::new();
    for (position, segment) in [Segment::Header, Segment::Payload, Segment::Signature].into_iter().enumerate()
    {
        let with = |changed: String| {
            let mut parts: Vec<&str> = parts.clone();
            parts[position] = &changed;
            parts.join(".")
        };
        let text = parts[position];
        let broken = JwsError::Base64 { segment };
        let rows = [
            ("padding", format!("{text}=")),
            ("double padding", format!("{text}==")),
            ("a space inside", format!("{} {}", &text[..4], &text[4..])),
            ("a leading space", format!(" {text}")),
            ("a trailing newline", format!("{text}\n")),
            ("a line break inside", format!("{}\r\n{}", &text[..4], &text[4..])),
            ("a plus", format!("+{}", &text[1..])),
            ("a slash", format!("/{}", &text[1..])),
            ("a question mark", format!("?{text}")),
            ("a NUL", format!("\0{text}")),
            ("an impossible length", format!("{text}{}", &"AAAA"[..(5 - text.len() % 4) % 4])),
        ];
        for (name, changed) in rows {
            let wanted = if changed.ends_with('=') { JwsError::Padding { segment } } else { broken.clone() };
            table.push(case(format!("{segment} with {name}"), &keys.es256, &with(changed), &good, wanted));
        }
    }
    // Unused bits of the last character: the bytes stay the same, the text changes.
    for (payload, bits) in [(&b"{}"[..], 2), (b"{ }", 0), (b"{  }", 4)] {
        let token = craft(&keys.es256, HEADER, payload);
        let (input, signature) = token.rsplit_once('.').unwrap();
        if bits > 0 {
            let (header, payload) = input.split_once('.').unwrap();
            let attack = format!("{header}.{}.{signature}", next_character_last(payload));
            let wanted = JwsError::Base64 { segment: Segment::Payload };
            table.push(case(format!("payload with {bits} stray bits"), &keys.es256, &attack, &token, wanted));
        }
    }
    let (input, signature) = good.rsplit_once('.').unwrap();
    let attack = format!("{input}.{}", next_character_last(signature));
    let wanted = JwsError::Base64 { segment: Segment::Signature };
    table.push(case("signature with stray bits", &keys.es256, &attack, &good, wanted));
    table
}

fn signatures(keys: &Keys) -> Vec<Attack> {
    let good = craft(&keys.es256, HEADER, PAYLOAD);
    let (input, signature) = good.rsplit_once('.').unwrap();
    let raw = base64url_decode(signature).unwrap();
    let (zero, one, order) = (
        [0; 32],
        {
            let mut one = [0; 32];
            one[31] = 1;
            one
        },
        p256_order(),
    );
    let mut above = order.clone();
    above[31] += 1;
    let (r, s) = raw.split_at(32);
    let signed = |bytes: &[u8]| format!("{input}.{}", base64url_encode(bytes));
    let range = JwsError::SignatureRange;
    let length = |found| JwsError::SignatureLength { found, wanted: 64 };
    let der_signature = der(0x30, &[&integer(r), &integer(s)]);
    let rows: Vec<(&str, Vec<u8>, JwsError)> = vec![
        ("psychic signature, r = s = 0 (CVE-2022-21449)", [zero, zero].concat(), range.clone()),
        ("r = 0", [&zero, s].concat(), range.clone()),
        ("s = 0", [r, &zero].concat(), range.clone()),
        ("r = s = n", [&order[..], &order].concat(), range.clone()),
        ("r = n", [&order[..], s].concat(), range.clone()),
        ("s = n", [r, &order[..]].concat(), range.clone()),
        ("s = n + 1", [r, &above[..]].concat(), range.clone()),
        ("r = s = 2^256 - 1", vec![0xff; 64], range),
        ("r = s = 1", [one, one].concat(), JwsError::Signature(BadSignature)),
        ("DER signature", der_signature.clone(), length(der_signature.len())),
        ("signature with a zero before it", [&[0], &raw[..]].concat(), length(65)),
        ("signature with a zero after it", [&raw[..], &[0]].concat(), length(65)),
        ("signature cut short", raw[..63].to_vec(), length(63)),
        ("halves widened with zeros", [&[0][..], r, &[0], s].concat(), length(66)),
        ("r and s exchanged", [s, r].concat(), JwsError::Signature(BadSignature)),
        (
            "one bit of the signature",
            raw.iter().enumerate().map(|(i, b)| b ^ u8::from(i == 40)).collect(),
            JwsError::Signature(BadSignature),
        ),
    ];
    let mut table: Vec<Attack> = rows
        .into_iter()
        .map(|(name, bytes, wanted)| case(name, &keys.es256, &signed(&bytes), &good, wanted))
        .collect();
    let bad = JwsError::Signature(BadSignature);
    let foreign = craft(&keys.attacker, HEADER, PAYLOAD);
    table.push(case("signed by another key", &keys.es256, &foreign, &good, bad.clone()));
    let other_claims =
        format!("{}.{}.{signature}", base64url_encode(HEADER), base64url_encode(br#"{"sub":"door"}"#));
    table.push(case("payload exchanged", &keys.es256, &other_claims, &good, bad.clone()));
    let other_header = format!(
        "{}.{}.{signature}",
        base64url_encode(br#"{"alg":"ES256","typ":"at+jwt"}"#),
        base64url_encode(PAYLOAD)
    );
    table.push(case("header exchanged", &keys.es256, &other_header, &good, bad.clone()));
    for (key, wanted) in [(&keys.es384, 96), (&keys.eddsa, 64)] {
        let header = format!(r#"{{"alg":"{}"}}"#, key.algorithm());
        let good = craft(key, header.as_bytes(), PAYLOAD);
        let (input, signature) = good.rsplit_once('.').unwrap();
        let mut raw = base64url_decode(signature).unwrap();
        raw.pop();
        let attack = format!("{input}.{}", base64url_encode(&raw));
        let refusal = JwsError::SignatureLength { found: wanted - 1, wanted };
        table.push(case(format!("{} signature cut short", key.algorithm()), key, &attack, &good, refusal));
        let refusal = JwsError::SignatureLength { found: 0, wanted };
        let attack = format!("{input}.");
        table.push(case(format!("{} signature empty", key.algorithm()), key, &attack, &good, refusal));
    }
    let good = craft(&keys.rs256, br#"{"alg":"RS256"}"#, PAYLOAD);
    let (input, signature) = good.rsplit_once('.').unwrap();
    let widened = [&[0], &base64url_decode(signature).unwrap()[..]].concat();
    for (name, bytes) in [
        ("RS256 signature widened", &widened[..]),
        ("RS256 signature empty", &[]),
        ("RS256 signature zero", &[0; 256]),
    ] {
        let attack = format!("{input}.{}", base64url_encode(bytes));
        table.push(case(name, &keys.rs256, &attack, &good, bad.clone()));
    }
    table
}

fn claims(keys: &Keys) -> Vec<Attack> {
    let good = craft(&keys.es256, HEADER, PAYLOAD);
    let signed = |payload: &[u8]| craft(&keys.es256, HEADER, payload);
    let json = |why| JwsError::Json { segment: Segment::Payload, why };
    let utf16: Vec<u8> = r#"{"sub":"lamp"}"#.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let deep = format!("{}{}", r#"{"a":"#.repeat(400), "1}".to_owned() + &"}".repeat(399));
    let rows: &[(&str, &[u8], JsonError)] = &[
        ("sub twice", br#"{"sub":"lamp","sub":"door"}"#, JsonError::DuplicateMember),
        ("sub twice, once escaped", br#"{"sub":"lamp","su\u0062":"door"}"#, JsonError::DuplicateMember),
        ("member twice inside cnf", br#"{"cnf":{"jkt":"a","jkt":"b"}}"#, JsonError::DuplicateMember),
        ("member twice inside an array", br#"{"x":[{"y":1,"y":1}]}"#, JsonError::DuplicateMember),
        ("claims 400 deep", deep.as_bytes(), JsonError::TooDeep),
        ("BOM before the claims", b"\xef\xbb\xbf{\"sub\":\"lamp\"}", JsonError::ByteOrderMark),
        ("claims in UTF-16", &utf16, JsonError::Syntax),
        ("claims not UTF-8", b"{\"sub\":\"lam\xf0\"}", JsonError::NotUtf8),
        ("overlong UTF-8", b"{\"sub\":\"\xc0\xafetc\"}", JsonError::NotUtf8),
        ("first half of a surrogate pair in sub", br#"{"sub":"\ud83d"}"#, JsonError::Syntax),
        ("second half of a surrogate pair in sub", br#"{"sub":"\ude00"}"#, JsonError::Syntax),
        ("NUL in sub", br#"{"sub":"lamp\u0000door"}"#, JsonError::Nul),
        ("exp 1e400", br#"{"exp":1e400}"#, JsonError::Syntax),
        ("exp NaN", br#"{"exp":NaN}"#, JsonError::Syntax),
        ("exp Infinity", br#"{"exp":Infinity}"#, JsonError::Syntax),
        ("exp hexadecimal", br#"{"exp":0x6b02}"#, JsonError::Syntax),
        ("claims are an array", br#"["lamp"]"#, JsonError::NotAnObject),
        ("claims are null", b"null", JsonError::NotAnObject),
        ("claims empty", b"", JsonError::Syntax),
        ("two objects", br#"{"sub":"lamp"}{"sub":"door"}"#, JsonError::Syntax),
        ("a comment", br#"{"sub":"lamp"/**/}"#, JsonError::Syntax),
    ];
    let mut table: Vec<Attack> = rows
        .iter()
        .map(|(name, payload, why)| case(*name, &keys.es256, &signed(payload), &good, json(*why)))
        .collect();
    // CVE-2026-25537: a claim of the wrong type is wrong, never absent.
    for (name, value) in [
        ("exp", r#""1795301000""#),
        ("exp", "null"),
        ("exp", "-1"),
        ("exp", "1e300"),
        ("exp", "9007199254740992"),
        ("exp", "[1795301000]"),
        ("exp", "true"),
        ("nbf", r#""1795301000""#),
        ("nbf", "{}"),
        ("iat", r#""now""#),
        ("sub", "7"),
        ("sub", r#"["lamp"]"#),
        ("iss", "null"),
        ("jti", "12345678901234567890"),
        ("aud", "7"),
        ("aud", r#"{"a":"b"}"#),
        ("aud", r#"["a",7]"#),
    ] {
        table.push(Attack {
            name: format!("{name} is {value}"),
            found: judge(
                &signed(format!("{{\"{name}\":{value}}}").as_bytes()),
                &STRICT,
                keys.es256.public_key(),
            ),
            sibling: judge(&good, &STRICT, keys.es256.public_key()),
            wanted: Refusal::Claim(name),
        });
    }
    table
}

/// Keys that an attacker sends: in the header of a proof, and as the new key of an update.
fn embedded_keys(keys: &Keys) -> Vec<Attack> {
    let options = ParseOptions { embedded_jwk: true, ..STRICT };
    let good_jwk = keys.es256.public_key().to_jwk_json();
    let proof = |jwk: &str| {
        let token = craft(&keys.es256, format!(r#"{{"alg":"ES256","jwk":{jwk}}}"#).as_bytes(), PAYLOAD);
        judge(&token, &options, keys.es256.public_key())
    };
    let x = good_jwk.split(r#""x":""#).nth(1).unwrap().split('"').next().unwrap();
    let off_curve = good_jwk.replace(x, &base64url_encode(&[7; 32]));
    let private = good_jwk.replace('{', r#"{"d":"AAAA","#);
    let encryption = good_jwk.replace('{', r#"{"use":"enc","#);
    let embedded = [
        ("private key in the header", private.as_str(), KeyError::PrivateKey),
        ("symmetric key in the header", r#"{"kty":"oct","k":"AAAA"}"#, KeyError::PrivateKey),
        ("point off the curve in the header", &off_curve, KeyError::PointOffCurve),
        ("encryption key in the header", &encryption, KeyError::Purpose),
        (
            "curve outside the set in the header",
            r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#,
            KeyError::Curve,
        ),
        ("empty key in the header", "{}", KeyError::KeyType),
    ];
    let mut table: Vec<Attack> = embedded
        .into_iter()
        .map(|(name, jwk, wanted)| Attack {
            name: name.into(),
            found: proof(jwk),
            sibling: proof(&good_jwk),
            wanted: Refusal::Jws(JwsError::EmbeddedKey(wanted)),
        })
        .collect();
    let private = keys.es256.to_pkcs8_pem();
    let sec1 = private.replace("PRIVATE KEY", "EC PRIVATE KEY");
    let public = keys.es256.public_key().to_pem();
    for (name, text, wanted) in [
        ("private key in public_key", private.as_str(), KeyError::PrivateKey),
        ("EC private key in public_key", &sec1, KeyError::PrivateKey),
        ("two keys in public_key", &public.repeat(2), KeyError::PemSeveral),
    ] {
        table.push(Attack {
            name: name.into(),
            found: PublicKey::from_spki_pem(text).map(|_| ()).map_err(Refusal::Key),
            sibling: PublicKey::from_spki_pem(&public).map(|_| ()).map_err(Refusal::Key),
            wanted: Refusal::Key(wanted),
        });
    }
    table
}

/// What a key without `alg`, and a key in a form that is not one of ours, let pass elsewhere.
fn key_forms(keys: &Keys) -> Vec<Attack> {
    let mut table = Vec::new();
    // The members of a JWK that are required hold no `alg`: the key alone says which one it is.
    for (kind, key, header, wanted) in [
        (
            "RSA",
            &keys.rs256,
            "PS256",
            JwsError::AlgorithmMismatch { header: Algorithm::Ps256, key: Algorithm::Rs256 },
        ),
        ("RSA", &keys.rs256, "HS256", JwsError::AlgorithmRefused),
        ("EC", &keys.es256, "ES384", JwsError::SignatureLength { found: 64, wanted: 96 }),
    ] {
        let jwk = key.public_key().to_jwk_json();
        assert!(!jwk.contains("alg"));
        let read = PublicKey::from_jwk(jwk.as_bytes()).unwrap();
        let attack = craft(key, format!(r#"{{"alg":"{header}"}}"#).as_bytes(), PAYLOAD);
        let sibling = craft(key, format!(r#"{{"alg":"{}"}}"#, key.algorithm()).as_bytes(), PAYLOAD);
        table.push(Attack {
            name: format!("{kind} key without alg, header {header}"),
            found: judge(&attack, &STRICT, &read),
            sibling: judge(&sibling, &STRICT, &read),
            wanted: Refusal::Jws(wanted),
        });
    }
    let good = keys.es256.public_key();
    let jwk = good.to_jwk_json();
    let y = jwk.split(r#""y":""#).nth(1).unwrap().split('"').next().unwrap();
    let off_curve = jwk.replace(y, &base64url_encode(&[9; 32]));
    let roca = tokens::vectors("wycheproof/json_web_crypto_test.json")["testGroups"]
        .as_array()
        .unwrap()
        .iter()
        .find(|group| group["comment"] == "jws_rsa_roca_key")
        .unwrap()["public"]
        .to_string();
    let ssh = openssh(good);
    let leading = format!("\u{feff}{}", good.to_pem());
    for (name, form, wanted) in [
        ("OpenSSH text offered as a key", ssh.as_str(), KeyError::Unrecognised),
        ("PEM after a byte order mark", &leading, KeyError::Unrecognised),
        ("JWK with a point off the curve", &off_curve, KeyError::PointOffCurve),
        ("RSA key with the ROCA fingerprint", &roca, KeyError::RsaRoca),
    ] {
        table.push(Attack {
            name: name.into(),
            found: PublicKey::recognise(form.as_bytes()).map(|_| ()).map_err(Refusal::Key),
            sibling: PublicKey::recognise(good.to_pem().as_bytes()).map(|_| ()).map_err(Refusal::Key),
            wanted: Refusal::Key(wanted),
        });
    }
    table
}

/// A key as OpenSSH writes it on one line; only its form matters here.
fn openssh(key: &PublicKey) -> String {
    format!("ecdsa-sha2-nistp256 {} lamp", base64url_encode(key.spki_der()))
}

fn padded(text: &str) -> String {
    format!("{text}{}", &"=="[..(4 - text.len() % 4) % 4])
}

/// Exchanges the last character by the next of the alphabet: one unused bit set.
fn next_character_last(text: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = text.split_at(text.len() - 1);
    let position = ALPHABET.find(last).unwrap();
    format!("{rest}{}", &ALPHABET[position + 1..position + 2])
}
