//! The DPoP proof: whoever sends a request holds the key that its token is bound to.
//!
//! It is the one JWT but the proofs of possession that is verified with the key in its own header: it
//! proves that somebody has this key, and nothing about who that is.

use drawbridge_jose::{base64url_encode, sha256};

use crate::keys::Checker;
use crate::nonce::{NONCE_LIFE_S, NoncePurpose, Nonces};
use crate::presented::{Presented, Wanted};
use crate::refusal::{NotProven, Refusal, shortened};
use crate::rules::{self, JtiDigest, Now};

const KIND: &str = "DPoP proof";
const WANTED: Wanted = Wanted { kind: KIND, types: &["dpop+jwt"], plain: false };
/// The least skew, in seconds, whatever the registry says: clients of the FAPI 2.0 tests are 10 s off.
pub const DPOP_SKEW_S_MIN: u64 = 10;

/// What a DPoP proof is judged by. `Debug` does not show the token.
#[derive(Clone, Copy)]
pub struct DpopRules<'a> {
    /// The request's method, such as `POST`: `htm`.
    pub method: &'a str,
    /// The request's URL without query and fragment: `htu`.
    pub url: &'a str,
    /// The access token that the proof came with; `None` at the token endpoint.
    pub access_token: Option<&'a str>,
    /// How far the client's clock may be off, in seconds.
    pub skew_s: u64,
    /// The nonces of the registry.
    pub nonces: &'a Nonces,
    /// A nonce of the server is wanted. Else a proof without any is accepted, and one with a nonce is still
    /// held to it.
    pub nonce_wanted: bool,
    /// Longest proof, in bytes.
    pub token_bytes_max: usize,
}

impl std::fmt::Debug for DpopRules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DpopRules")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("has_access_token", &self.access_token.is_some())
            .field("nonce_wanted", &self.nonce_wanted)
            .finish_non_exhaustive()
    }
}

/// A good proof whose `jti` is still to be used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DpopProven {
    /// The RFC 7638 thumbprint of the key: `jkt`.
    pub thumbprint: String,
    /// Its `jti`.
    pub jti: JtiDigest,
    /// The proof is refused from this second on, so its `jti` need not be remembered longer.
    pub until_s: u64,
    /// The nonce that it carries, which is good.
    pub nonce: Option<String>,
}

/// Judges a DPoP proof, in the order of RFC 9449 section 4.3; that there is only one header, and that its
/// key is the one of the token, is for the caller to ask.
///
/// # Errors
/// [`Refusal::Dpop`]; [`Refusal::DpopNonce`] when it needs a nonce and has none, or an old one.
///
/// Source: RFC 9449 sections 4.3 and 8.
pub fn verify_dpop(
    proof: &str,
    rules: &DpopRules<'_>,
    now_s: u64,
    checker: &Checker,
) -> Result<DpopProven, Refusal> {
    let proof = Presented::parse_with_jwk(proof.as_bytes(), rules.token_bytes_max, &WANTED).map_err(told)?;
    let Some(key) = proof.jwk().cloned() else {
        return Err(Refusal::Dpop("its header has no `jwk`; put the public key there".into()));
    };
    if proof.kid().is_some_and(|kid| kid != key.thumbprint()) {
        return Err(Refusal::Dpop("`kid` of its header is not the thumbprint of `jwk`; leave it out".into()));
    }
    let claims = proof.prove_by(&key, checker).map_err(told)?;
    rules::has_none_of(&claims, &["sub", "aud", "cnf", "scope"], KIND).map_err(told)?;
    let text = |name| rules::text(&claims, name, KIND).map_err(told);
    match text("htm")? {
        Some(method) if method == rules.method => {}
        found => return Err(Refusal::Dpop(differs("htm", found, rules.method))),
    }
    match text("htu")? {
        Some(url) if same_url(url, rules.url) => {}
        found => return Err(Refusal::Dpop(differs("htu", found, rules.url))),
    }
    let jti = rules::jti(&claims).map_err(told)?;
    judge_ath(text("ath")?, rules.access_token)?;

    let now = Now { now_s, skew_s: rules.skew_s.max(DPOP_SKEW_S_MIN) };
    let iat_s = now.date(&claims, "iat").map_err(told)?;
    let iat_s = iat_s.ok_or_else(|| Refusal::Dpop("`iat` is missing".into()))?;
    let nonce = text("nonce")?;
    let until_s = match nonce {
        None if rules.nonce_wanted => return Err(Refusal::DpopNonce),
        None => {
            judge_dates(now, &claims, iat_s)?;
            // `judge_dates` accepts it up to and with this second.
            iat_s.saturating_add(now.skew_s).saturating_add(1)
        }
        // Made by us and fresh, which says more than a clock of the client could.
        Some(nonce) => {
            let age_s = rules.nonces.check(NoncePurpose::Dpop, nonce, now_s);
            let made_s = now_s.saturating_sub(age_s.map_err(|_| Refusal::DpopNonce)?);
            made_s.saturating_add(NONCE_LIFE_S).saturating_add(1)
        }
    };
    let (thumbprint, nonce) = (key.thumbprint().to_owned(), nonce.map(str::to_owned));
    Ok(DpopProven { thumbprint, jti, until_s, nonce })
}

fn judge_dates(now: Now, claims: &drawbridge_jose::Claims, iat_s: u64) -> Result<(), Refusal> {
    now.not_future(claims, "iat").map_err(told)?;
    now.not_future(claims, "nbf").map_err(told)?;
    if now.now_s > iat_s.saturating_add(now.skew_s) {
        let age_s = now.now_s - iat_s;
        return Err(told(
            now.refuse(format!("`iat` is {age_s} s in the past; sign a proof for each request")),
        ));
    }
    match now.date(claims, "exp").map_err(told)? {
        Some(exp_s) => now.not_past(exp_s).map_err(told),
        None => Ok(()),
    }
}

/// `ath`: with an access token its hash; without one there is nothing that it could be of.
///
/// Source: RFC 9449 sections 4.2 and 4.3 item 12.
fn judge_ath(found: Option<&str>, access_token: Option<&str>) -> Result<(), Refusal> {
    let wanted = access_token.map(|token| base64url_encode(&sha256(token.as_bytes())));
    match (found, wanted) {
        (None, None) => Ok(()),
        (Some(found), Some(wanted)) if found == wanted => Ok(()),
        (None, Some(_)) => {
            Err(Refusal::Dpop("`ath` is missing; put the hash of the access token there".into()))
        }
        (Some(_), Some(_)) => Err(Refusal::Dpop("`ath` is not the hash of this access token".into())),
        (Some(_), None) => Err(Refusal::Dpop("it has `ath`, and no access token came with it".into())),
    }
}

fn differs(name: &str, found: Option<&str>, wanted: &str) -> String {
    match found {
        None => format!("`{name}` is missing; wanted `{wanted}`"),
        Some(found) => format!("`{name}` is `{}`; wanted `{wanted}`", shortened(found)),
    }
}

/// All faults of a proof are one kind of refusal: who holds the token is not judged by them.
fn told(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::NotProven(NotProven::Signature) => {
            Refusal::Dpop("it is not signed by the key in its header".into())
        }
        other => Refusal::Dpop(other.to_string()),
    }
}

/// Whether two URLs are one, after the normalisations that a client may have left out: case of scheme, host
/// and escapes, the port of the scheme, escapes of what needs none, an empty path.
///
/// Source: RFC 9449 section 4.3 item 9; RFC 3986 sections 6.2.2 and 6.2.3.
fn same_url(found: &str, wanted: &str) -> bool {
    matches!((normal(found), normal(wanted)), (Some(found), Some(wanted)) if found == wanted)
}

/// `None` for what is no URL of a request: another scheme, a query, a fragment, user information.
fn normal(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") || !url.is_ascii() || url.contains(['?', '#', '\\', ' ']) {
        return None;
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(":443").or(authority.strip_suffix(':')).unwrap_or(&authority);
    Some(format!("https://{authority}{}", unescaped(path)?))
}

/// A path with its escapes in one form. Dot segments are left as they are: no path of ours has one.
fn unescaped(path: &str) -> Option<String> {
    let mut normal = String::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            normal.push(char::from(byte));
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let byte = u8::try_from(digit()? * 16 + digit()?).ok()?;
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                normal.push(char::from(byte));
            }
            _ => normal.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use drawbridge_jose::{Algorithm, Header, Sign as _, SigningKey, sign_compact};
    use serde_json::{Value, json};

    use super::*;

    const NOW_S: u64 = 1_795_301_000;
    const URL: &str = "https://id.example/r/plant/v1/devices/a%25b";
    const TOKEN: &str = "an access token";

    fn key(algorithm: Algorithm) -> SigningKey {
        SigningKey::generate(algorithm).expect("the library makes keys")
    }

    fn claims() -> Value {
        json!({ "htm": "GET", "htu": URL, "iat": NOW_S, "jti": "0123456789abcdef",
                "ath": base64url_encode(&sha256(TOKEN.as_bytes())) })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().expect("an object").remove(name);
        claims
    }

    fn signed(key: &SigningKey, claims: &Value) -> String {
        let header = Header { typ: Some("dpop+jwt"), jwk: Some(key.public_key()), ..Header::default() };
        sign_compact(&header, claims.to_string().as_bytes(), key).expect("signed")
    }

    /// With this header, byte for byte.
    fn raw(key: &SigningKey, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| base64url_encode(value.to_string().as_bytes());
        let input = format!("{}.{}", part(header), part(claims));
        let signature = key.sign(input.as_bytes()).expect("signed");
        format!("{input}.{}", base64url_encode(&signature))
    }

    fn jwk(key: &SigningKey) -> Value {
        serde_json::from_str(&key.public_key().to_jwk_json()).expect("a JWK")
    }

    fn nonces() -> Nonces {
        Nonces::new(&[7; 32])
    }

    fn judge(proof: &str, nonce_wanted: bool, token: Option<&str>) -> Result<DpopProven, Refusal> {
        let nonces = nonces();
        let rules = DpopRules {
            method: "GET",
            url: URL,
            access_token: token,
            skew_s: 0,
            nonces: &nonces,
            nonce_wanted,
            token_bytes_max: 4096,
        };
        verify_dpop(proof, &rules, NOW_S, &Checker::new())
    }

    #[test]
    fn a_proof_of_each_algorithm_names_the_thumbprint_of_its_key() {
        for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
            let key = key(algorithm);
            let proven = judge(&signed(&key, &claims()), false, Some(TOKEN)).expect("good");
            assert_eq!(proven.thumbprint, key.public_key().thumbprint());
            assert_eq!(proven.until_s, NOW_S + DPOP_SKEW_S_MIN + 1, "accepted no longer than remembered");
        }
    }

    /// One row for each check of RFC 9449 section 4.3 (the first, one header alone, is http's).
    #[test]
    fn each_check_of_rfc_9449_refuses_what_breaks_it() {
        let key = key(Algorithm::Es256);
        let other = self::key(Algorithm::Es256);
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": jwk(&key) });
        let headed = |name: &str, value: Value| {
            let mut header = header.clone();
            header[name] = value;
            raw(&key, &header, &claims())
        };
        let headless = |name: &str| {
            let mut header = header.clone();
            header.as_object_mut().expect("an object").remove(name);
            raw(&key, &header, &claims())
        };
        let mut private = jwk(&key);
        private["d"] = json!("AAAA");
        let good = signed(&key, &claims());
        let table = [
            ("2 no JWT", "x.y".to_owned(), "segments"),
            ("2 five segments", format!("{good}.x.y"), "segments"),
            ("3 no htm", signed(&key, &without("htm")), "`htm`"),
            ("3 no htu", signed(&key, &without("htu")), "`htu`"),
            ("3 no iat", signed(&key, &without("iat")), "`iat`"),
            ("3 no jti", signed(&key, &without("jti")), "`jti`"),
            ("4 another typ", headed("typ", json!("at+jwt")), "`typ`"),
            ("4 no typ", headless("typ"), "`typ`"),
            ("4 typ JWT", headed("typ", json!("JWT")), "`typ`"),
            ("5 alg none", headed("alg", json!("none")), "`alg`"),
            ("5 symmetric", headed("alg", json!("HS256")), "`alg`"),
            ("5 not of the key", headed("alg", json!("ES384")), ""),
            ("6 another key", headed("jwk", jwk(&other)), "signed by the key"),
            ("6 a changed signature", format!("{}AAAA", &good[..good.len() - 4]), "signed by the key"),
            ("6 no key", headless("jwk"), "`jwk`"),
            ("7 a private key", headed("jwk", private), "header"),
            ("7 a secret", headed("jwk", json!({ "kty": "oct", "k": "AAAA" })), "header"),
            ("8 another method", signed(&key, &with("htm", json!("POST"))), "`htm`"),
            ("8 the method in lower case", signed(&key, &with("htm", json!("get"))), "`htm`"),
            (
                "9 another registry",
                signed(&key, &with("htu", json!("https://id.example/v1/devices/a%25b"))),
                "`htu`",
            ),
            (
                "9 another host",
                signed(&key, &with("htu", json!("https://evil.example/r/plant/v1/devices/a%25b"))),
                "`htu`",
            ),
            ("9 with a query", signed(&key, &with("htu", json!(format!("{URL}?x=1")))), "`htu`"),
            ("10 a nonce that is not ours", signed(&key, &with("nonce", json!("x"))), "DPoP-Nonce"),
            ("11 too old", signed(&key, &with("iat", json!(NOW_S - 11))), "in the past"),
            ("11 too young", signed(&key, &with("iat", json!(NOW_S + 11))), "in the future"),
            ("11 iat is text", signed(&key, &with("iat", json!("now"))), "`iat`"),
            ("11 exp is past", signed(&key, &with("exp", json!(NOW_S - 300))), "`exp`"),
            ("11 nbf is far ahead", signed(&key, &with("nbf", json!(NOW_S + 300))), "`nbf`"),
            ("12 no ath", signed(&key, &without("ath")), "`ath`"),
            (
                "12 of another token",
                signed(&key, &with("ath", json!(base64url_encode(&sha256(b"x"))))),
                "`ath`",
            ),
            ("another kind: sub", signed(&key, &with("sub", json!("lamp"))), "`sub`"),
            ("another kind: aud", signed(&key, &with("aud", json!("https://id.example"))), "`aud`"),
            ("a kid of another key", headed("kid", json!(other.public_key().thumbprint())), "`kid`"),
            ("crit", headed("crit", json!([])), "header"),
            ("too long", signed(&key, &with("x", json!("x".repeat(4096)))), ""),
        ];
        for (case, proof, text) in table {
            let refusal = judge(&proof, false, Some(TOKEN)).expect_err(case);
            let expected = if text == "DPoP-Nonce" { "dpop-nonce" } else { "invalid-dpop-proof" };
            assert_eq!(refusal.word(), expected, "{case}: {refusal}");
            let told = refusal.for_owner().expect("told");
            assert!(told.contains(&text.replace('"', "'")), "{case}: {told}");
        }
        let refusal = judge(&good, false, None).expect_err("`ath` where no token is");
        assert!(refusal.to_string().contains("`ath`"), "{refusal}");
        judge(&signed(&key, &without("ath")), false, None).expect("at the token endpoint");
    }

    #[test]
    fn a_clock_up_to_10_s_off_passes_whatever_the_skew() {
        let key = key(Algorithm::Es256);
        for iat_s in [NOW_S - 10, NOW_S, NOW_S + 10] {
            judge(&signed(&key, &with("iat", json!(iat_s))), false, Some(TOKEN)).expect("good");
        }
    }

    #[test]
    fn a_nonce_stands_for_the_clock_where_one_is_wanted() {
        let key = key(Algorithm::Es256);
        let nonce = |at_s| json!(nonces().mint(NoncePurpose::Dpop, at_s, [1; 8]));
        let proof = |nonce: Value, iat_s: u64| {
            let mut claims = with("nonce", nonce);
            claims["iat"] = json!(iat_s);
            signed(&key, &claims)
        };
        let proven = judge(&proof(nonce(NOW_S), 7), true, Some(TOKEN)).expect("a clock of 1970");
        assert_eq!(proven.until_s, NOW_S + NONCE_LIFE_S + 1);
        assert!(
            judge(&proof(nonce(NOW_S), 7), false, Some(TOKEN)).is_ok(),
            "accepted where it is not wanted"
        );
        let assertion = nonces().mint(NoncePurpose::Assertion, NOW_S, [1; 8]);
        for (case, proof) in [
            ("none", signed(&key, &claims())),
            ("stale", proof(nonce(NOW_S - 61), NOW_S)),
            ("for another purpose", proof(json!(assertion), NOW_S)),
        ] {
            assert_eq!(judge(&proof, true, Some(TOKEN)), Err(Refusal::DpopNonce), "{case}");
        }
    }

    #[test]
    fn urls_are_compared_after_the_normalisation_of_rfc_3986_and_no_other() {
        let wanted = "https://id.example/v1/devices/a%25b";
        for (found, same) in [
            ("https://id.example/v1/devices/a%25b", true),
            ("HTTPS://ID.Example:443/v1/devices/a%25b", true),
            ("https://id.example/v1/devices/%61%25b", true),
            ("https://id.example:8443/v1/devices/a%25b", false),
            ("https://id.example/v1/devices/a%25b/", false),
            ("https://id.example/v1/Devices/a%25b", false),
            ("https://id.example//v1/devices/a%25b", false),
            ("https://id.example/v1/devices/a%b", false),
            ("https://id.example/v1/x/../devices/a%25b", false),
            ("https://id.example/v1/devices/a%25b?", false),
            ("https://id.example/v1/devices/a%25b#x", false),
            ("https://x@id.example/v1/devices/a%25b", false),
            ("http://id.example/v1/devices/a%25b", false),
            ("id.example/v1/devices/a%25b", false),
            ("", false),
        ] {
            assert_eq!(same_url(found, wanted), same, "{found}");
        }
        assert!(same_url("https://id.example", "https://id.example/"));
        assert!(same_url("https://id.example/a%2fb", "https://id.example/a%2Fb"));
        assert!(!same_url("https://id.example/a/b", "https://id.example/a%2Fb"));
    }
}
