//! `/v1/devices/{id}/keys` and the same of applications: the operator's view of keys.

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use drawbridge_admission::{AdmissionError, KeyWarning, NewKey};
use drawbridge_identity::Refusal;
use drawbridge_jose::{Algorithm, CertificateKey, KeyError, PublicKey, base64url_encode, sha256};
use drawbridge_names::KeyId;
use drawbridge_registry::{Key, KeyChange, KeyState};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::{AnyBody, JsonBody, json as json_of};
use crate::config::{BODY_BYTES_MAX, KEY_BODY_BYTES_MAX};
use crate::failure::Failure;
use crate::principals::{At, found, matching, path_part};
use crate::wire_time;

const DAY_S: u64 = 86_400;

/// A key to register: exactly one of `jwk`, `pem` and `certificate`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyBody {
    /// Kept as it was sent: `jose` refuses doubles and private members, which a parsed value would hide.
    jwk: Option<Box<RawValue>>,
    /// A `PUBLIC KEY`, also without line ends.
    pem: Option<String>,
    /// An X.509 certificate in PEM: its key, which ends with it unless `expires` says otherwise.
    certificate: Option<String>,
    /// `PS256` for an RSA key that is to sign with it.
    alg: Option<String>,
    label: Option<String>,
    #[serde(default, deserialize_with = "said")]
    not_before: Option<Option<String>>,
    /// `null`: never, also for a certificate.
    #[serde(default, deserialize_with = "said")]
    expires: Option<Option<String>>,
    /// Where a key is added: the key whose place it takes.
    replaces: Option<String>,
    /// How long that may still be used, in seconds.
    grace_s: Option<u32>,
}

/// A member that is there, also as `null`.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn moment(member: &'static str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    let fault = || {
        Failure::bad_request(format!("`{member}` is no time; wanted RFC 3339, such as 2030-01-31T12:00:00Z"))
    };
    text.map(|text| wire_time::to_s(text).ok_or_else(fault)).transpose()
}

impl KeyBody {
    /// The key of a principal that is to be made. No fault repeats any part of the key: it may be a private one.
    pub(crate) fn parse(&self) -> Result<NewKey, Failure> {
        if self.replaces.is_some() || self.grace_s.is_some() {
            let detail =
                "`replaces` and `grace_s` are for a key that is added to a principal; leave them out";
            return Err(Failure::bad_request(detail));
        }
        self.key()
    }

    fn key(&self) -> Result<NewKey, Failure> {
        let fault = |error: KeyError| Failure::from(Refusal::NewKey(error.to_string()));
        let mut key: NewKey = match (&self.jwk, &self.pem, &self.certificate) {
            (Some(jwk), None, None) => PublicKey::from_jwk(jwk.get().as_bytes()).map_err(fault)?.into(),
            (None, Some(pem), None) => PublicKey::from_spki_pem(pem).map_err(fault)?.into(),
            (None, None, Some(pem)) => CertificateKey::from_pem(pem).map_err(fault)?.into(),
            _ => return Err(Failure::bad_request("a key is exactly one of `jwk`, `pem` and `certificate`")),
        };
        if let Some(alg) = &self.alg {
            let algorithm = Algorithm::from_header(alg).ok_or_else(|| fault(KeyError::Algorithm))?;
            key.public = PublicKey::from_spki_der_with(key.public.spki_der(), algorithm).map_err(fault)?;
        }
        key.label.clone_from(&self.label);
        if let Some(not_before) = &self.not_before {
            key.not_before_s = moment("not_before", not_before.as_deref())?;
        }
        if let Some(expires) = &self.expires {
            key.expires_s = moment("expires", expires.as_deref())?;
        }
        Ok(key)
    }
}

/// The keys of a principal, retired ones included.
pub(crate) async fn list(
    State(state): State<HttpState>,
    At { registry, kind, name, .. }: At,
) -> Result<Json<Value>, Failure> {
    let known = found(&state, &registry, kind, &name).await?;
    let items: Vec<Value> = known.keys.iter().map(|key| key_json(key, state.now_s())).collect();
    Ok(Json(json!({ "items": items })))
}

/// Registers a further key, or one in the place of another: 201, or 200 when that was done already.
pub(crate) async fn add(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
    JsonBody(body): JsonBody<KEY_BODY_BYTES_MAX, KeyBody>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    matching(&state, &registry, kind, &name, &headers).await?;
    let key = body.key()?;
    let status = |new: bool| if new { StatusCode::CREATED } else { StatusCode::OK };
    let Some(old) = &body.replaces else {
        if body.grace_s.is_some() {
            return Err(Failure::bad_request("`grace_s` is for the key that `replaces` names; name it"));
        }
        let (key, new) = state.admission.register_key(&registry, &name, key, &actor).await?;
        return Ok((status(new), Json(key_json(&key, state.now_s()))));
    };
    let old = KeyId::parse(old).map_err(Failure::bad_name)?;
    let replaced = state.admission.replace_key(&registry, &name, &old, key, body.grace_s, &actor).await?;
    let mut answer = key_json(&replaced.key, state.now_s());
    answer["previous"] = json!({ "kid": old.as_str(), "expires": wire_time::from_s(replaced.old_expires_s) });
    Ok((status(replaced.changed), Json(answer)))
}

/// `{kid}` in the path.
pub(crate) struct KidInPath(pub(crate) KeyId);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for KidInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = path_part(parts, state, "kid").await?;
        KeyId::parse(&text).map(Self).map_err(Failure::bad_name)
    }
}

/// What is to change of a key; what is not named stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyChangeBody {
    #[serde(default, deserialize_with = "said")]
    label: Option<Option<String>>,
    #[serde(default, deserialize_with = "said")]
    not_before: Option<Option<String>>,
    #[serde(default, deserialize_with = "said")]
    expires: Option<Option<String>>,
}

/// Changes label or validity of a key.
pub(crate) async fn change(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    KidInPath(kid): KidInPath,
    headers: HeaderMap,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, KeyChangeBody>,
) -> Result<Json<Value>, Failure> {
    matching(&state, &registry, kind, &name, &headers).await?;
    let date =
        |member, said: Option<Option<String>>| said.map(|text| moment(member, text.as_deref())).transpose();
    let change = KeyChange {
        label: body.label,
        not_before_s: date("not_before", body.not_before)?,
        expires_s: date("expires", body.expires)?,
    };
    if change == KeyChange::default() {
        return Err(Failure::bad_request("nothing is to change; name `label`, `not_before` or `expires`"));
    }
    let key = state.admission.change_key(&registry, &name, &kid, change, &actor).await?;
    Ok(Json(key_json(&key, state.now_s())))
}

/// Retires a key and ends what it opened.
pub(crate) async fn remove(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    KidInPath(kid): KidInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    matching(&state, &registry, kind, &name, &headers).await?;
    state.admission.remove_key(&registry, &name, &kid, false, &actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Why, for the audit.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct KeyRevokeBody {
    #[serde(default)]
    reason: String,
}

/// A key is in wrong hands: retires it, also the last one, and ends all that its principal has opened.
pub(crate) async fn revoke(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    KidInPath(kid): KidInPath,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Json<Value>, Failure> {
    let KeyRevokeBody { reason } =
        if body.bytes.is_empty() { KeyRevokeBody::default() } else { json_of(&body.bytes)? };
    let known = matching(&state, &registry, kind, &name, &headers).await?;
    if !known.keys.iter().any(|key| key.kid == kid) {
        return Err(AdmissionError::NoKey(kid).into());
    }
    let principal = state.admission.revoke_key(&registry, &name, &kid, &reason, &actor).await?;
    Ok(Json(json!({ "kid": kid.as_str(), "state": KeyState::Retired.as_str(), "epoch": principal.epoch.0 })))
}

/// A key as `/v1` shows it at this second.
pub(crate) fn key_json(key: &Key, now_s: u64) -> Value {
    let left_s = key.expires_s.and_then(|end_s| end_s.checked_sub(now_s)).filter(|left_s| *left_s > 0);
    let state = match key.state {
        KeyState::Retired => "retired",
        _ if key.expires_s.is_some() && left_s.is_none() => "expired",
        _ if key.not_before_s.is_some_and(|from_s| from_s > now_s) => "not_yet",
        state => state.as_str(),
    };
    let certificate = key.certificate_der.as_deref().map(|der| {
        // As RFC 8705 section 3.1 names a certificate.
        json!({ "x5t#S256": base64url_encode(&sha256(der)) })
    });
    json!({
        "kid": key.kid.as_str(),
        "alg": key.algorithm,
        "label": key.label,
        "state": state,
        "not_before": key.not_before_s.map(wire_time::from_s),
        "expires": key.expires_s.map(wire_time::from_s),
        "expires_in_days": left_s.filter(|_| key.state != KeyState::Retired).map(|left_s| left_s / DAY_S),
        "added": wire_time::from_s(key.added_s),
        "last_used": key.last_used_s.map(wire_time::from_s),
        "certificate": certificate,
    })
}

/// A warning as `/v1` shows it.
pub(crate) fn warning_json(warning: &KeyWarning) -> Value {
    json!({ "word": warning.word, "kid": warning.kid.as_ref().map(KeyId::as_str), "detail": warning.detail })
}
