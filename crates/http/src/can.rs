//! `GET /v1/can`: whether a principal may do something, and which rule says so.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use drawbridge_admission::Question;
use drawbridge_names::PrincipalName;
use drawbridge_policy::{Action, ConnectionFacts, Method, PAYLOAD_BYTES_MAX, Protocol, PublishFacts, Tls};

use crate::HttpState;
use crate::body::{Params, Query};
use crate::caller::Viewer;
use crate::edge::InRegistry;
use crate::failure::Failure;

/// 200 whatever the answer is: the question was answered.
pub(crate) async fn can(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
    Query(query): Query,
) -> Result<Response, Failure> {
    let principal = PrincipalName::parse(query.required("principal")?).map_err(Failure::bad_name)?;
    let action = match query.required("action")? {
        "publish" => Action::Publish,
        "subscribe" => Action::Subscribe,
        "receive" => Action::Receive,
        _ => return Err(Failure::bad_request("`action` is not known; wanted publish, subscribe or receive")),
    };
    let topic = query.required("topic")?;
    let question = Question { action, topic, message: message(&query)?, connection: connection(&query)? };
    let answer = state.admission.can_with(&registry, &principal, &question).await?;
    Ok(([(CONTENT_TYPE, "application/json")], answer.json).into_response())
}

/// The message, if anything is said of it.
fn message(query: &Params) -> Result<Option<PublishFacts>, Failure> {
    let number = |name, max: u64, wanted: &str| match query.number(name)? {
        Some(number) if number > max => {
            Err(Failure::bad_request(format!("`{name}` is {number}; wanted {wanted}")))
        }
        number => Ok(number),
    };
    let qos = number("qos", 2, "0, 1 or 2")?;
    let payload_bytes = number("payload_bytes", u64::from(PAYLOAD_BYTES_MAX), "268435455 at most")?;
    let (retain, will) = (flag(query, "retain")?, flag(query, "will")?);
    if qos.is_none() && payload_bytes.is_none() && retain.is_none() && will.is_none() {
        return Ok(None);
    }
    Ok(Some(PublishFacts {
        qos: u8::try_from(qos.unwrap_or(0)).unwrap_or(2),
        retain: retain.unwrap_or(false),
        will: will.unwrap_or(false),
        payload_bytes: usize::try_from(payload_bytes.unwrap_or(0)).unwrap_or(usize::MAX),
    }))
}

/// The connection, if anything is said of it.
fn connection(query: &Params) -> Result<Option<ConnectionFacts<'_>>, Failure> {
    fn word<T>(
        query: &Params,
        name: &str,
        of_word: fn(&str) -> Option<T>,
        wanted: &str,
    ) -> Result<Option<T>, Failure> {
        let Some(found) = query.get(name) else { return Ok(None) };
        let taken = of_word(found);
        taken.map(Some).ok_or_else(|| Failure::bad_request(format!("`{name}` is not known; wanted {wanted}")))
    }
    let methods = "password, jwt, token, certificate, raw-key, ace or anonymous";
    let facts = ConnectionFacts {
        protocol: word(query, "protocol", Protocol::of_word, "mqtt3, mqtt5 or http")?,
        websocket: flag(query, "websocket")?,
        port: word(
            query,
            "port",
            |text| text.parse().ok().filter(|port| *port > 0),
            "a port from 1 to 65535",
        )?,
        address: word(query, "address", |text| text.parse().ok(), "an address like 10.0.0.1 or fd00::1")?,
        tls: word(query, "tls", Tls::of_word, "1.3, 1.2 or none")?,
        method: word(query, "method", Method::of_word, methods)?,
        client_id: query.get("client_id"),
    };
    Ok((facts != ConnectionFacts::default()).then_some(facts))
}

fn flag(query: &Params, name: &str) -> Result<Option<bool>, Failure> {
    match query.get(name) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Failure::bad_request(format!("`{name}` is neither; wanted true or false"))),
    }
}
