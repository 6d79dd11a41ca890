//! `GET /operations` newest first · `GET /operations/{id}` one as it is now · `DELETE /operations/{id}` cancel · `GET /operations/{id}/log` its output,
//! followed while it runs.

use futures_util::{Stream, StreamExt as _};
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::Value;
use warp::Filter;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::reply::{Reply, Response};

use super::Routes;
use super::answer::{Form, operation_shown};
use super::guard::Visitor;
use super::page::{self, words};
use super::problem::{self, Answer, json, reply, with_problem};
use crate::actors::Handle;
use crate::model::ids::{OperationId, RepoName, Slug};
use crate::model::operation::{Operation, OperationState};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::view::OperationFilter;

/// Operations that are listed when nothing is said, and at most.
const LIMIT: usize = 50;
const LIMIT_MAX: usize = 500;

/// The query of the list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    repo: Option<RepoName>,
    slug: Option<Slug>,
    /// A comma separated list.
    #[schemars(transform = states_only)]
    state: Option<String>,
    /// Only the newest of each todo.
    #[serde(default)]
    latest: bool,
    /// Operations at most.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<usize>,
}

fn states_only(schema: &mut Schema) {
    page::list_of(schema, &OperationState::ALL.map(OperationState::as_str));
}

pub(super) fn routes(handle: Handle) -> Routes {
    let with = move || {
        let handle = handle.clone();
        warp::any().map(move || handle.clone())
    };
    let list = warp::path!("operations")
        .and(warp::get())
        .and(with())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .then(|handle: Handle, query: String| async move { reply(list(&handle, &query).await) });
    let show =
        warp::path!("operations" / String).and(warp::get()).and(with()).and(warp::header::headers_cloned()).then(
            |id: String, handle: Handle, headers: HeaderMap| async move { reply(show(&handle, &id, &headers).await) },
        );
    let cancel =
        warp::path!("operations" / String).and(warp::delete()).and(with()).and(warp::header::headers_cloned()).then(
            |id: String, handle: Handle, headers: HeaderMap| async move { reply(cancel(&handle, &id, &headers).await) },
        );
    let log =
        warp::path!("operations" / String / "log").and(warp::get()).and(with()).and(warp::ext::get::<Visitor>()).then(
            |id: String, handle: Handle, visitor: Visitor| async move { reply(log(&handle, &id, &visitor).await) },
        );
    list.or(show).unify().or(cancel).unify().or(log).unify().boxed()
}

fn id(text: &str) -> Result<OperationId, Problem> {
    OperationId::parse(text).map_err(|error| Problem::new(ProblemCode::UnknownOperation, error.to_string()))
}

async fn list(handle: &Handle, query: &str) -> Answer {
    let operations = handle.operations(&filter(query)?).await?;
    Ok(json(StatusCode::OK, &operations.iter().map(entry).collect::<Vec<_>>()))
}

fn filter(query: &str) -> Result<OperationFilter, Problem> {
    let invalid = |detail: String| Problem::new(ProblemCode::InvalidRequest, detail);
    let Query { repo, slug, state, latest, limit } = problem::query(query, "repo, slug, state, latest and limit")?;
    if slug.is_some() && repo.is_none() {
        return Err(invalid("slug needs repo: a todo is named by both".to_owned()));
    }
    let limit = limit.unwrap_or(LIMIT);
    if limit == 0 || limit > LIMIT_MAX {
        return Err(invalid(format!("limit is {limit}; it is 1 to {LIMIT_MAX}")));
    }
    let states = state.map(|state| words("state", &state, OperationState::ALL, OperationState::as_str));
    let states = states.transpose()?.unwrap_or_default();
    Ok(OperationFilter { repo, slug, states, latest, limit })
}

/// An operation in a list: what it came to can be long, and is asked for by itself.
fn entry(operation: &Operation) -> Value {
    let mut value = with_problem(operation, operation.problem.as_ref());
    value.as_object_mut().and_then(|members| members.remove("result"));
    value
}

async fn show(handle: &Handle, text: &str, headers: &HeaderMap) -> Answer {
    let form = Form::wanted(headers)?;
    Ok(operation_shown(StatusCode::OK, &handle.operation(&id(text)?).await?, form))
}

async fn cancel(handle: &Handle, text: &str, headers: &HeaderMap) -> Answer {
    let form = Form::wanted(headers)?;
    Ok(operation_shown(StatusCode::OK, &handle.cancel(&id(text)?).await?, form))
}

async fn log(handle: &Handle, text: &str, visitor: &Visitor) -> Answer {
    Ok(stream(handle.log(&id(text)?).await?.take_until(visitor.over())))
}

fn stream(log: impl Stream<Item = std::io::Result<bytes::Bytes>> + Send + Sync + 'static) -> Response {
    let mut response = warp::reply::stream(log).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
