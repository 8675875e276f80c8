//! Keys as COSE has them, to and from ours.

use coset::cbor::Value;
use drawbridge_jose::{PublicKey, base64url_decode, base64url_encode};
use serde_json::json;

use super::cbor::{Members, byte_string, number};
use super::fault::AceFault;

const KTY: i64 = 1;
const KID: i64 = 2;
const ALG: i64 = 3;
const KEY_OPS: i64 = 4;
const CRV: i64 = -1;
const X: i64 = -2;
const Y: i64 = -3;
/// Of kty 4.
const K: i64 = -1;
/// Of kty 3.
const N: i64 = -1;
const E: i64 = -2;

const OKP: i64 = 1;
const EC2: i64 = 2;
const RSA: i64 = 3;
const SYMMETRIC: i64 = 4;

/// HMAC with SHA-256, all 32 bytes of it.
const HMAC_256: i64 = 5;
const VERIFY: i64 = 2;

/// The numbers of algorithms in COSE.
///
/// Source: RFC 9053 sections 2.1 and 2.2, RFC 8812 section 2.
pub(super) fn cose_algorithm(algorithm: drawbridge_jose::Algorithm) -> i64 {
    use drawbridge_jose::Algorithm as A;
    match algorithm {
        A::Es256 => -7,
        A::EdDsa => -8,
        A::Es384 => -35,
        A::Ps256 => -37,
        A::Rs256 => -257,
    }
}

/// Takes a COSE_Key of a public EC2 or OKP key. `alg` and `key_ops` are obeyed, a `kid` is only a name.
///
/// # Errors
/// [`AceFault::Key`] for another kind of key, a compressed point, a private part, or a member that is not known.
///
/// Source: RFC 9052 section 7, RFC 9053 section 7.
pub fn public_key_from_cose(key: &[u8]) -> Result<PublicKey, AceFault> {
    public_key(super::cbor::read(key)?)
}

pub(super) fn public_key(value: Value) -> Result<PublicKey, AceFault> {
    const WHAT: &str = "the COSE_Key";
    let refuse = |found: &str| AceFault::Key(found.to_owned());
    let mut members = Members::of(value, WHAT)?;
    let mut integer = |label| members.take(label).and_then(|value| value.as_integer());
    let (kty, crv) = (integer(KTY), integer(CRV));
    let (kty, crv) =
        (kty.and_then(|kty| i64::try_from(kty).ok()), crv.and_then(|crv| i64::try_from(crv).ok()));
    let alg = members.take(ALG);
    if let Some(kid) = members.take(KID) {
        byte_string(kid, "`kid`")?;
    }
    if let Some(operations) = members.take(KEY_OPS) {
        let verifies = operations.as_array().is_some_and(|all| all.contains(&Value::from(VERIFY)));
        if !verifies {
            return Err(refuse("`key_ops` do not allow to verify"));
        }
    }
    let mut coordinate = |label| -> Result<String, AceFault> {
        let value = members.take(label).ok_or_else(|| refuse("a coordinate is missing"))?;
        let bytes = value
            .into_bytes()
            .map_err(|_| refuse("a coordinate is no byte string, or the point is compressed"))?;
        Ok(base64url_encode(&bytes))
    };
    let jwk = match (kty, crv) {
        (Some(OKP), Some(6)) => json!({ "kty": "OKP", "crv": "Ed25519", "x": coordinate(X)? }),
        (Some(EC2), Some(1)) => {
            json!({ "kty": "EC", "crv": "P-256", "x": coordinate(X)?, "y": coordinate(Y)? })
        }
        (Some(EC2), Some(2)) => {
            json!({ "kty": "EC", "crv": "P-384", "x": coordinate(X)?, "y": coordinate(Y)? })
        }
        (Some(SYMMETRIC), _) => return Err(refuse("it is a symmetric one that the client has chosen")),
        _ => return Err(refuse("its kind or curve is not known here")),
    };
    members.finish(WHAT)?;
    let key =
        PublicKey::from_jwk(jwk.to_string().as_bytes()).map_err(|error| AceFault::Key(error.to_string()))?;
    if alg.is_some_and(|alg| alg != Value::from(cose_algorithm(key.algorithm()))) {
        return Err(refuse("`alg` is not the one of the key"));
    }
    Ok(key)
}

/// The COSE_Key of a public key, its labels in ascending order of their encoding.
#[must_use]
pub fn public_key_to_cose(key: &PublicKey) -> Vec<u8> {
    super::cbor::write(&public_key_value(key))
}

pub(super) fn public_key_value(key: &PublicKey) -> Value {
    const OWN: &str = "a key writes its own JWK";
    let jwk: serde_json::Value = serde_json::from_str(&key.to_jwk_json()).expect(OWN);
    let member = |name: &str| {
        let text = jwk[name].as_str().expect(OWN);
        Value::Bytes(base64url_decode(text).expect(OWN))
    };
    let pair = |label: i64, value: Value| (Value::from(label), value);
    Value::Map(match (jwk["kty"].as_str(), jwk["crv"].as_str()) {
        (Some("OKP"), _) => vec![pair(KTY, OKP.into()), pair(CRV, 6.into()), pair(X, member("x"))],
        (Some("EC"), curve) => {
            let curve = if curve == Some("P-256") { 1 } else { 2 };
            vec![pair(KTY, EC2.into()), pair(CRV, curve.into()), pair(X, member("x")), pair(Y, member("y"))]
        }
        _ => vec![pair(KTY, RSA.into()), pair(N, member("n")), pair(E, member("e"))],
    })
}

/// The COSE_Key of a symmetric key for HMAC with SHA-256: what the token endpoint gives a client.
#[must_use]
pub fn symmetric_key_to_cose(key: &[u8; 32]) -> Vec<u8> {
    super::cbor::write(&symmetric_key_value(key))
}

pub(super) fn symmetric_key_value(key: &[u8; 32]) -> Value {
    Value::Map(vec![
        (KTY.into(), SYMMETRIC.into()),
        (ALG.into(), HMAC_256.into()),
        (K.into(), Value::Bytes(key.to_vec())),
    ])
}

/// Takes what [`symmetric_key_to_cose`] wrote.
pub(super) fn symmetric_key_from_cose(bytes: &[u8]) -> Option<[u8; 32]> {
    let mut members = Members::of(super::cbor::read(bytes).ok()?, "").ok()?;
    let is_hmac = number(&members.take(KTY)?, "").ok()? == 4 && number(&members.take(ALG)?, "").ok()? == 5;
    let key = members.take(K)?.into_bytes().ok()?;
    members.finish("").ok()?;
    <[u8; 32]>::try_from(key).ok().filter(|_| is_hmac)
}
