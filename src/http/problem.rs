//! Every error as `application/problem+json` (RFC 9457), and the one place where results become replies.

use serde::Serialize;
use serde_json::{Map, Value, json};
use warp::http::{HeaderValue, StatusCode, header};
use warp::hyper::body::Bytes;
use warp::reply::Response;

use super::server::trace;
use super::{ROUTES, template};
use crate::actors::clock::operation_id;
use crate::model::problem::{Problem, ProblemCode};

/// What a handler comes to.
pub(super) type Answer = Result<Response, Problem>;

/// A handler's result as a reply.
pub(super) fn reply(answer: Answer) -> Response {
    answer.unwrap_or_else(|problem| render(&problem))
}

/// JSON with a status.
pub(super) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => raw(status, "application/json", bytes),
        Err(error) => render(&Problem::new(ProblemCode::Internal, format!("the answer could not be written: {error}"))),
    }
}

/// Text of a type with a status.
pub(super) fn raw(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A problem as clients see it.
pub(super) fn render(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = raw(status, "application/problem+json", body(problem).to_string());
    if let Some(seconds) = problem.retry_after_ms.map(|ms| ms.div_ceil(1_000).max(1)) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.code == ProblemCode::MethodNotAllowed {
        let allow =
            problem.extra.get("allow").and_then(Value::as_str).and_then(|allow| HeaderValue::from_str(allow).ok());
        response.headers_mut().extend(allow.map(|allow| (header::ALLOW, allow)));
    }
    if problem.code == ProblemCode::Unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The members of a problem; those of its code never take the place of the common ones. The instance is the operation
/// it happened in, or a name of its own.
pub(super) fn body(problem: &Problem) -> Value {
    let operation = problem.extra.get("operation").and_then(Value::as_str).map(|id| format!("/operations/{id}"));
    let named = problem.extra.get("instance").and_then(Value::as_str).map(str::to_owned);
    let instance = named.or(operation).unwrap_or_else(|| format!("urn:slugline:problem:{}", operation_id()));
    let mut members: Map<String, Value> = problem.extra.clone();
    members.entry("trace_id").or_insert_with(|| trace().trace_id().into());
    let common = json!({
        "type": format!("/problems/{}", problem.code.as_str().replace('_', "-")),
        "title": problem.code.title(),
        "status": problem.code.status(),
        "detail": problem.detail,
        "instance": instance,
        "code": problem.code,
        "retryable": problem.code.retryable(),
    });
    if let Value::Object(common) = common {
        members.extend(common);
    }
    if let Some(ms) = problem.retry_after_ms {
        members.insert("retry_after_ms".to_owned(), ms.into());
    }
    Value::Object(members)
}

/// Something that has a `problem` as JSON; the problem looks like every other one.
pub(super) fn with_problem<T: Serialize>(what: &T, problem: Option<&Problem>) -> Value {
    let mut value = serde_json::to_value(what).unwrap_or_default();
    if let (Some(problem), Some(members)) = (problem, value.as_object_mut()) {
        members.insert("problem".to_owned(), body(problem));
    }
    value
}

/// The problem behind an error status that did not come from a handler of ours.
pub(super) fn from_status(status: StatusCode, method: &str, path: &str) -> Problem {
    let shown: String = path.chars().take(200).collect();
    match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => match template(path) {
            Some(known) => {
                let methods: Vec<&str> =
                    ROUTES.iter().filter(|route| route.path == known).map(|route| route.method).collect();
                let detail = format!("{method} is not answered at {known}; {} is", methods.join(", "));
                Problem::new(ProblemCode::MethodNotAllowed, detail).with("allow", methods.join(", "))
            }
            None => Problem::new(
                ProblemCode::NotFound,
                format!("nothing is at {shown}; GET /openapi.json lists what there is"),
            ),
        },
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(ProblemCode::BodyTooLarge, "the body is too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(ProblemCode::UnsupportedMediaType, "send application/json"),
        status if status.is_client_error() => {
            Problem::new(ProblemCode::InvalidRequest, format!("{method} {shown} could not be understood ({status})"))
        }
        status => Problem::new(ProblemCode::Internal, format!("{method} {shown} failed ({status})")),
    }
}

/// A query that should have had these parts, as people would list them.
pub(super) fn query<T: serde::de::DeserializeOwned>(query: &str, parts: &str) -> Result<T, Problem> {
    serde_urlencoded::from_str(query)
        .map_err(|error| Problem::new(ProblemCode::InvalidRequest, format!("the query is not {parts}: {error}")))
}

/// A body that should have been a request.
pub(super) fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would read a list as the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::new(
            ProblemCode::InvalidRequest,
            "the body is not such a request: it is a list, expected an object",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        let code =
            if text.contains(" is not valid: ") { ProblemCode::InvalidName } else { ProblemCode::InvalidRequest };
        let text: String = text.chars().take(600).collect();
        Problem::new(code, format!("the body is not such a request: {text}"))
    })
}
