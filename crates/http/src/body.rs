//! Bodies: read within bounds, then taken as JSON or as a form.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use serde::de::DeserializeOwned;

use crate::HttpState;
use crate::config::{LINGER_BYTES_MAX, LINGER_S_MAX};
use crate::failure::Failure;

/// A JSON body of at most `LIMIT` bytes.
pub(crate) struct JsonBody<const LIMIT: usize, T>(pub(crate) T);

impl<const LIMIT: usize, T: DeserializeOwned> FromRequest<HttpState> for JsonBody<LIMIT, T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &HttpState) -> Result<Self, Failure> {
        let kind = media_type(request.headers());
        let bytes = read(request, LIMIT, state).await?;
        if kind.as_deref() != Some("application/json") {
            return Err(Failure::media_type("application/json"));
        }
        json(&bytes).map(Self)
    }
}

/// A body of any media type, at most `LIMIT` bytes.
pub(crate) struct AnyBody<const LIMIT: usize> {
    /// In lower case, without parameters.
    pub(crate) media_type: Option<String>,
    pub(crate) bytes: Bytes,
}

impl<const LIMIT: usize> FromRequest<HttpState> for AnyBody<LIMIT> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &HttpState) -> Result<Self, Failure> {
        let media_type = media_type(request.headers());
        let bytes = read(request, LIMIT, state).await?;
        Ok(Self { media_type, bytes })
    }
}

/// Takes bytes as JSON.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    // The position, never the text: a body may hold a secret. Serde's message names members and
    // types, and of unexpected values only the type when they are cut off here.
    serde_json::from_slice(bytes).map(|Object(value)| value).map_err(|error| {
        let at = format!("line {} column {}", error.line(), error.column());
        let fault = match error.classify() {
            serde_json::error::Category::Data => data_fault(&error.to_string()),
            _ => "it is no JSON".to_owned(),
        };
        Failure::bad_request(format!("the body was not understood at {at}: {fault}"))
    })
}

/// A JSON object. Serde takes a struct from an array of its members' values as well, which no document of
/// ours describes.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for Object<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: serde::Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData)).map(Self)
    }
}

/// `missing field` and `duplicate field` name members of ours; nothing of the sender's is repeated.
fn data_fault(text: &str) -> String {
    let text = text.rsplit_once(" at line ").map_or(text, |(fault, _)| fault);
    let harmless = ["missing field", "duplicate field"];
    if harmless.iter().any(|begin| text.starts_with(begin)) {
        return text.to_owned();
    }
    if text.starts_with("unknown field") || text.starts_with("unknown variant") {
        let wanted = text.split_once(", expected ").map_or("", |(_, wanted)| wanted);
        return format!("a member or its value is unknown; wanted {wanted}");
    }
    match text.rsplit_once(", expected ") {
        Some((_, wanted)) => format!("a member has the wrong type; wanted {wanted}"),
        None => "a member has the wrong type".to_owned(),
    }
}

/// `None` also when there are two: they could be read differently elsewhere.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let text = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Reads a body of at most `bytes_max`, within the time that the settings give.
pub(crate) async fn read(request: Request, bytes_max: usize, state: &HttpState) -> Result<Bytes, Failure> {
    let declared = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bytes_max as u64) {
        return Err(Failure::body_too_long(bytes_max));
    }
    let mut body = request.into_body();
    let reading = async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| Failure::body_incomplete("the body broke off; send the request again"))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > bytes_max {
                return Err(Failure::body_too_long(bytes_max));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Bytes::from(bytes))
    };
    let patience = Duration::from_secs(state.config.body_s_max);
    match tokio::time::timeout(patience, reading).await {
        Ok(read) => read,
        Err(_) => Err(Failure::body_incomplete("the body did not come in time; send it at once")),
    }
}

/// A request body that is read on for a while when a handler drops it before its end, and thrown away:
/// a socket closed with unread data would reset the connection, and the peer would never see why it
/// was refused.
struct Lingering {
    /// Taken when it is dropped.
    body: Body,
    /// A client that waits for `100 Continue` has not sent its body, and will not.
    waits_for_100: bool,
}

/// Makes the body of a request a lingering one.
pub(crate) fn lingering(request: Request) -> Request {
    let waits_for_100 = request.headers().contains_key(EXPECT);
    request.map(|body| Body::new(Lingering { body, waits_for_100 }))
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.body.is_end_stream() || self.waits_for_100 {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut body = std::mem::take(&mut self.body);
        runtime.spawn(async move {
            let discard = async {
                let mut left = LINGER_BYTES_MAX;
                while let Some(Ok(frame)) = body.frame().await {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    match left.checked_sub(length) {
                        Some(less) => left = less,
                        None => break,
                    }
                }
            };
            // Too slow is the same as too much: the body is dropped and the connection closed.
            let _ = tokio::time::timeout(Duration::from_secs(LINGER_S_MAX), discard).await;
        });
    }
}

/// Most parameters of a form or a query; no path knows as many.
const PARAMETERS_MAX: usize = 64;

/// The parameters of a form or a query. An empty one of a form counts as absent (RFC 6749 section 3.1).
#[derive(Debug, Default)]
pub(crate) struct Params(BTreeMap<String, String>);

impl Params {
    /// Takes `application/x-www-form-urlencoded`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let mut params = Self::parse_all(bytes)?;
        params.0.retain(|_, value| !value.is_empty());
        Ok(params)
    }

    /// The same, empty ones too: outside of OAuth an empty value is a wrong one.
    fn parse_all(bytes: &[u8]) -> Result<Self, Failure> {
        let mut params = BTreeMap::new();
        for (number, (name, value)) in form_urlencoded::parse(bytes).enumerate() {
            if number == PARAMETERS_MAX {
                return Err(Failure::bad_request(format!("there are more than {PARAMETERS_MAX} parameters")));
            }
            if name.contains('\u{fffd}') || value.contains('\u{fffd}') || value.contains('\0') {
                return Err(Failure::bad_request("a parameter is not UTF-8 text; encode it as such"));
            }
            // Also an empty one counts here: two of a name are a contradiction, whatever they say.
            if params.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                // Only what looks like a name is repeated: a form gone wrong may have a secret in its place.
                let is_name = name.len() <= 24 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                let name = if is_name { format!(" `{name}`") } else { String::new() };
                return Err(Failure::bad_request(format!(
                    "the parameter{name} stands there twice; send it once"
                )));
            }
        }
        Ok(Self(params))
    }

    pub(crate) fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).ok_or_else(|| Failure::bad_request(format!("the parameter `{name}` is missing")))
    }

    /// A number within bounds.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let fault = || Failure::bad_request(format!("the parameter `{name}` is no number"));
        number.map(Some).ok_or_else(fault)
    }
}

impl From<Texts> for Params {
    fn from(Texts(mut texts): Texts) -> Self {
        texts.retain(|_, value| !value.is_empty());
        Self(texts)
    }
}

/// A JSON object of texts, without doubles (a map of serde's would keep the last of two in silence).
#[derive(Default)]
pub(crate) struct Texts(pub(crate) BTreeMap<String, String>);

impl<'de> serde::Deserialize<'de> for Texts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Texts;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if texts.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("duplicate field"));
                    }
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// The query of a request.
pub(crate) struct Query(pub(crate) Params);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Params::parse_all(parts.uri.query().unwrap_or_default().as_bytes()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_parameter_is_refused_and_an_empty_one_is_absent() {
        let params = Params::parse(b"a=1&b=&c=x%20y+z").expect("a form");
        assert_eq!((params.get("a"), params.get("b"), params.get("c")), (Some("1"), None, Some("x y z")));
        for bad in ["a=1&a=1", "a=&a=1", "a=1&%61=2"] {
            assert!(Params::parse(bad.as_bytes()).expect_err(bad).detail.contains("twice"), "{bad}");
        }
        assert!(Params::parse(b"a=%ff").is_err());
        let form = |count: usize| (0..count).map(|n| format!("p{n}=1&")).collect::<String>();
        assert!(Params::parse(form(64).as_bytes()).is_ok());
        assert!(Params::parse(form(65).as_bytes()).is_err());
        assert!(Params::parse(b"a=%00").is_err());
    }

    #[test]
    fn a_fault_in_json_never_repeats_a_value() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Sample {
            #[expect(dead_code, reason = "read by serde")]
            number: u32,
        }
        for (body, wanted) in [
            (r#"{"number":"secret"}"#, "u32"),
            (r#"{"secret":1}"#, "number"),
            (r#"{"number":1,"number":1}"#, "duplicate field `number`"),
            (r#"{}"#, "missing field `number`"),
            (r#"{"number":secret}"#, "no JSON"),
            (r#"["secret"]"#, "an object"),
            ("[1]", "an object"),
        ] {
            let failure = json::<Sample>(body.as_bytes()).expect_err(body);
            assert!(failure.detail.contains(wanted), "{body}: {}", failure.detail);
            assert!(!failure.detail.contains("secret"), "{body}: {}", failure.detail);
        }
    }
}
