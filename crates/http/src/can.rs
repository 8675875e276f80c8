//! `GET /v1/can`: whether a principal may do something, and which rule says so.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use drawbridge_names::PrincipalName;
use drawbridge_policy::Action;

use crate::HttpState;
use crate::body::Query;
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
    let answer = state.admission.can(&registry, &principal, action, query.required("topic")?).await?;
    Ok(([(CONTENT_TYPE, "application/json")], answer.json).into_response())
}
