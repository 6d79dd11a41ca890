//! `POST /todos/work`: ask for work. Answers 200 with a WorkOrder, 202 with an Operation, or a problem.

use warp::Filter;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::hyper::body::Bytes;
use warp::reply::Response;

use super::problem::{Answer, json, parse, raw, reply};
use super::server::Call;
use super::{Routes, markdown};
use crate::actors::Handle;
use crate::model::operation::Operation;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::view::Work;
use crate::model::work_order::{WAIT_MS_MAX, WorkRequest};

pub(super) fn routes(handle: Handle) -> Routes {
    warp::path!("todos" / "work")
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Call>())
        .and(warp::body::bytes())
        .then(move |headers, call, body| {
            let handle = handle.clone();
            async move { reply(work(&handle, &headers, call, &body).await) }
        })
        .boxed()
}

async fn work(handle: &Handle, headers: &HeaderMap, call: Call, body: &Bytes) -> Answer {
    let form = Form::wanted(headers)?;
    require_json(headers)?;
    let mut request: WorkRequest = parse(body)?;
    if request.wait_ms.is_some_and(|wait| wait > WAIT_MS_MAX) {
        return Err(Problem::new(
            ProblemCode::InvalidRequest,
            format!("wait_ms is at most {WAIT_MS_MAX}; ask with less and follow the operation"),
        ));
    }
    if prefers_async(headers) {
        request.wait_ms = Some(0);
    }
    match handle.work(request, call.traceparent).await? {
        Work::Done(order) => Ok(match form {
            Form::Json => json(StatusCode::OK, &order),
            Form::Markdown => raw(StatusCode::OK, markdown::TYPE, markdown::work_order(&order)),
        }),
        Work::Running(operation) => Ok(accepted(&operation, form)),
    }
}

fn accepted(operation: &Operation, form: Form) -> Response {
    let mut response = show_operation(StatusCode::ACCEPTED, operation, form);
    let headers = response.headers_mut();
    headers
        .extend(HeaderValue::from_str(&format!("/operations/{}", operation.id)).ok().map(|at| (header::LOCATION, at)));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(operation.poll_after_ms.unwrap_or(1_000).div_ceil(1_000)));
    response
}

/// An operation in the form that was asked for; a problem in it looks like every other problem.
pub(super) fn show_operation(status: StatusCode, operation: &Operation, form: Form) -> Response {
    match form {
        Form::Markdown => raw(status, markdown::TYPE, markdown::operation(operation)),
        Form::Json => {
            let mut value = serde_json::to_value(operation).unwrap_or_default();
            if let (Some(problem), Some(object)) = (&operation.problem, value.as_object_mut()) {
                object.insert("problem".to_owned(), super::problem::body(problem));
            }
            json(status, &value)
        }
    }
}

/// In what form an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Markdown,
}

impl Form {
    /// The first of ours that Accept names; JSON when it names none.
    pub(super) fn wanted(headers: &HeaderMap) -> Result<Self, Problem> {
        let accept: Vec<&str> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        let kinds = accept.iter().map(|kind| kind.split(';').next().unwrap_or("").trim());
        for kind in kinds {
            match kind {
                "text/markdown" => return Ok(Self::Markdown),
                "application/json" | "application/*" | "*/*" | "application/problem+json" => return Ok(Self::Json),
                _ => {}
            }
        }
        if accept.is_empty() {
            Ok(Self::Json)
        } else {
            Err(Problem::new(ProblemCode::NotAcceptable, "answers come as application/json or text/markdown"))
        }
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::UnsupportedMediaType, "send Content-Type: application/json"))
}

/// `Prefer: respond-async` (RFC 7240).
fn prefers_async(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}
