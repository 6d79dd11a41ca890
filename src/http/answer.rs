//! From a request's head to what it asks for, and from an answer to its bytes. An answer is shaped the same way whenever
//! it is given, so a request that is sent again under its key gets the same bytes.

use sha2::{Digest as _, Sha256};
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::hyper::body::Bytes;
use warp::reply::Response;

use super::markdown;
use super::problem::{json, raw, render, with_problem};
use super::server::trace;
use crate::model::ids::IdempotencyKey;
use crate::model::kept::{Answer, Answered, Keyed};
use crate::model::operation::Operation;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::view::Work;
use crate::model::work_order::{Product, WAIT_MS_DEFAULT, WAIT_MS_MAX};

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

/// What `Prefer` (RFC 7240) says of waiting, in milliseconds: nothing with `respond-async`, else `wait` in seconds.
pub(super) fn wait_ms(headers: &HeaderMap) -> Option<u64> {
    let all = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']));
    let preferences: Vec<&str> = all.map(str::trim).collect();
    if preferences.iter().any(|preference| preference.eq_ignore_ascii_case("respond-async")) {
        return Some(0);
    }
    let seconds = preferences
        .iter()
        .find_map(|preference| preference.to_ascii_lowercase().strip_prefix("wait=")?.parse::<u64>().ok());
    seconds.map(|seconds| seconds.saturating_mul(1_000).min(WAIT_MS_MAX))
}

/// The same with the default.
pub(super) fn wait_ms_or_default(headers: &HeaderMap) -> u64 {
    wait_ms(headers).unwrap_or(WAIT_MS_DEFAULT)
}

/// The key of a request, and the digest of all that makes it this request and no other.
pub(super) fn keyed(headers: &HeaderMap, what: &str, form: Form, body: &Bytes) -> Result<Option<Keyed>, Problem> {
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(value) = given.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or("\u{fffd}");
    // The draft has the key as a quoted string (RFC 8941); both ways are common.
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let key =
        IdempotencyKey::parse(text).map_err(|error| Problem::new(ProblemCode::InvalidRequest, error.to_string()))?;
    if given.next().is_some() {
        return Err(Problem::new(ProblemCode::InvalidRequest, "send one Idempotency-Key"));
    }
    let mut hasher = Sha256::new();
    for part in [what.as_bytes(), format!("{form:?} {:?}", wait_ms(headers)).as_bytes(), body] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Keyed { key, digest, trace_id: trace().trace_id() }))
}

/// What a request for work or a complete came to, before it is given its form.
pub(super) fn of_work(work: Work) -> Answer {
    match work {
        Work::Done(product) => Answered::of(StatusCode::OK.as_u16(), &product),
        Work::Running(operation) => Answered::of(StatusCode::ACCEPTED.as_u16(), &operation),
    }
}

/// An answer in the form that was asked for.
pub(super) fn shaped(answer: Answer, form: Form) -> Response {
    match answer {
        Ok(answered) => good(answered, form),
        Err(problem) => render(&problem),
    }
}

fn good(answered: Answered, form: Form) -> Response {
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::OK);
    if status == StatusCode::ACCEPTED
        && let Ok(operation) = serde_json::from_str::<Operation>(&answered.body)
    {
        let mut response = operation_shown(status, &operation, form);
        let headers = response.headers_mut();
        let at = HeaderValue::from_str(&format!("/operations/{}", operation.id));
        headers.extend(at.ok().map(|at| (header::LOCATION, at)));
        let seconds = operation.poll_after_ms.unwrap_or(1_000).div_ceil(1_000);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return response;
    }
    if form == Form::Markdown
        && let Ok(product) = serde_json::from_str::<Product>(&answered.body)
    {
        return raw(status, markdown::TYPE, markdown::product(&product));
    }
    raw(status, "application/json", answered.body)
}

/// An operation in the form that was asked for; a problem in it looks like every other problem.
pub(super) fn operation_shown(status: StatusCode, operation: &Operation, form: Form) -> Response {
    match form {
        Form::Markdown => raw(status, markdown::TYPE, markdown::operation(operation)),
        Form::Json => json(status, &with_problem(operation, operation.problem.as_ref())),
    }
}
