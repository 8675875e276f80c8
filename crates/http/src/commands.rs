//! `POST /v1/devices/{id}/commands`, `GET` and `PUT /v1/devices/{id}/config`,
//! `GET /v1/devices/{id}/state`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ETAG, IF_MATCH};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drawbridge_admission::ApiWord;
use drawbridge_control::{CommandDelivery, ConfigDelivery, Sender, command_topic, config_topic};
use drawbridge_names::TopicName;
use drawbridge_registry::ConfigVersion;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::JsonBody;
use crate::caller::ApiCaller;
use crate::config::PAYLOAD_BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::etag;
use crate::failure::Failure;
use crate::principals::IdInPath;
use crate::wire_time;

/// A command to send.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandBody {
    /// Standard base64 with padding.
    payload: Option<String>,
    /// UTF-8 text, instead of `payload`.
    text: Option<String>,
    /// Topic levels below `commands/`.
    subfolder: Option<String>,
    /// How long to wait for the PUBACK.
    wait_s: Option<u64>,
}

/// Sends a command and answers after the device's PUBACK.
pub(crate) async fn send(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: ApiCaller,
    IdInPath(device): IdInPath,
    JsonBody(body): JsonBody<PAYLOAD_BODY_BYTES_MAX, CommandBody>,
) -> Result<Json<Value>, Failure> {
    let payload = payload(body.payload.as_deref(), body.text)?;
    let wait_s_max = state.config.command_wait_s_max;
    let wait_s = body.wait_s.unwrap_or(state.config.command_wait_s.min(wait_s_max));
    // Of 0 nobody would learn anything, not even that the device is not there.
    if wait_s == 0 || wait_s > wait_s_max {
        return Err(Failure::bad_request(format!("`wait_s` is {wait_s}; wanted 1 to {wait_s_max}")));
    }
    let wait = Duration::from_secs(wait_s);
    let subfolder = body.subfolder.as_deref();
    let sender = caller.sender(ApiWord::CommandsSend)?;
    let delivery = state.control.send_command(&registry, sender, &device, subfolder, payload, wait).await?;
    match delivery {
        CommandDelivery::Acknowledged => Ok(Json(json!({
            "delivered": "acknowledged",
            "topic": command_topic(&device, subfolder)?,
        }))),
        CommandDelivery::NotConnected => Err(Failure::not_connected(device.as_str())),
        CommandDelivery::NotSubscribed => Err(Failure::not_subscribed(device.as_str())),
        CommandDelivery::Withheld => Err(Failure::withheld(device.as_str())),
        CommandDelivery::Rejected { reason } => Err(Failure::rejected_by_device(device.as_str(), reason)),
        CommandDelivery::TimedOut => Err(Failure::timed_out(device.as_str(), wait_s)),
    }
}

/// A config to set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigBody {
    /// Standard base64 with padding.
    payload: Option<String>,
    /// UTF-8 text, instead of `payload`.
    text: Option<String>,
    /// Only if this is the current version (0: none yet); `If-Match` says the same.
    version: Option<u64>,
}

/// Stores a config under a new version and publishes it.
pub(crate) async fn set_config(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: ApiCaller,
    IdInPath(device): IdInPath,
    headers: HeaderMap,
    JsonBody(body): JsonBody<PAYLOAD_BODY_BYTES_MAX, ConfigBody>,
) -> Result<Response, Failure> {
    let payload = payload(body.payload.as_deref(), body.text)?;
    let expected = match (etag::expected(&headers, IF_MATCH)?, body.version) {
        (Some(tag), Some(version)) if tag != version => {
            return Err(Failure::bad_request("`If-Match` and `version` contradict each other; send one"));
        }
        (tag, version) => tag.or(version),
    };
    let wait = Duration::from_secs(state.config.config_wait_s);
    let sender = caller.sender(ApiWord::ConfigWrite)?;
    let set = state.control.set_config(&registry, sender, &device, payload, expected, wait).await?;
    let delivered = match set.delivered {
        ConfigDelivery::Acknowledged => "acknowledged",
        ConfigDelivery::Stored => "stored",
    };
    let answer = json!({ "version": set.version, "delivered": delivered });
    Ok(([(ETAG, etag::write(set.version))], Json(answer)).into_response())
}

/// The newest config.
pub(crate) async fn config(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: ApiCaller,
    IdInPath(device): IdInPath,
) -> Result<Response, Failure> {
    may_read(&caller, ApiWord::ConfigRead, &config_topic(&device))?;
    let found = state.control.config(&registry, &device).await?;
    let config = found.ok_or_else(|| Failure::not_found("config of", device.as_str()))?;
    Ok(([(ETAG, etag::write(config.version))], Json(config_json(&config))).into_response())
}

/// The states that the device reported, newest first.
pub(crate) async fn states(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: ApiCaller,
    IdInPath(device): IdInPath,
) -> Result<Json<Value>, Failure> {
    may_read(&caller, ApiWord::StateRead, &format!("devices/{device}/state"))?;
    let states = state.control.states(&registry, &device).await?;
    let items: Vec<Value> = states
        .iter()
        .map(|report| {
            json!({
                "received": wire_time::from_ms(report.received_ms),
                "payload": STANDARD.encode(&report.payload),
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })))
}

/// Who may be handed the messages of a topic may read what was last said there.
fn may_read(caller: &ApiCaller, word: ApiWord, topic: &str) -> Result<(), Failure> {
    let Sender::Principal { name, rights, .. } = caller.sender(word)? else { return Ok(()) };
    let topic_name = TopicName::parse(topic).map_err(|error| Failure::internal(error.to_string()))?;
    let decision = rights.may_receive(topic_name);
    if decision.allowed { Ok(()) } else { Err(Failure::denied(name, topic, &decision)) }
}

fn config_json(config: &ConfigVersion) -> Value {
    json!({
        "version": config.version,
        "payload": STANDARD.encode(&config.payload),
        "set": wire_time::from_ms(config.set_ms),
        "acknowledged": config.acked_ms.map(wire_time::from_ms),
    })
}

fn payload(base64: Option<&str>, text: Option<String>) -> Result<Vec<u8>, Failure> {
    match (base64, text) {
        (Some(_), Some(_)) => Err(Failure::bad_request("`payload` and `text` both stand there; send one")),
        (None, None) => {
            Err(Failure::bad_request("neither `payload` (base64) nor `text` stands there; send one"))
        }
        (None, Some(text)) => Ok(text.into_bytes()),
        (Some(base64), None) => STANDARD
            .decode(base64)
            .map_err(|_| Failure::bad_request("`payload` is no standard base64 with padding")),
    }
}
