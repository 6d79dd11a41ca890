//! `GET /sessions` what agents are doing · `GET /sessions/{id}` one of them · `GET …/events` what happened ·
//! `POST …/events` an agent reports.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use warp::Filter;
use warp::http::{HeaderMap, StatusCode};
use warp::hyper::body::Bytes;

use super::Routes;
use super::answer::{Form, keyed, shaped};
use super::page::{self, LIMIT_MAX, Page, page, unchanged, with_etag, words};
use super::problem::{self, Answer, json, parse, reply};
use crate::actors::Handle;
use crate::model::ids::{Lane, RepoName, SessionId};
use crate::model::kept::Answered;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::session::{EVENTS_PER_REQUEST_MAX, SessionGroup, SessionQuery, SessionSort, SessionStatus};
use crate::model::view::ReportRequest;

/// Events of a session given at once.
const EVENTS_MAX: usize = 1_000;
/// The same when nothing is said.
const EVENTS_DEFAULT: usize = 200;

/// The query of the list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// A comma separated list.
    #[schemars(transform = statuses_only)]
    status: Option<String>,
    lane: Option<Lane>,
    repo: Option<RepoName>,
    q: Option<String>,
    #[serde(default)]
    sort: SessionSort,
    group: Option<SessionGroup>,
    /// Where the page before ended.
    after: Option<SessionId>,
    /// Entries at most.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<usize>,
}

fn statuses_only(schema: &mut Schema) {
    page::list_of(schema, &SessionStatus::ALL.map(SessionStatus::as_str));
}

/// The query of events.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Those behind this one.
    after: Option<u64>,
    /// Events at most.
    #[schemars(range(min = 1, max = EVENTS_MAX))]
    limit: Option<usize>,
}

/// What a report comes to.
#[derive(Debug, Serialize)]
struct Reported {
    session: SessionId,
    /// Events that came with it.
    accepted: usize,
    /// Events there are now.
    events: u64,
}

pub(super) fn routes(handle: Handle) -> Routes {
    let with = move || {
        let handle = handle.clone();
        warp::any().map(move || handle.clone())
    };
    let query = || warp::query::raw().or(warp::any().map(String::new)).unify();
    let list = warp::path!("sessions")
        .and(warp::get())
        .and(with())
        .and(query())
        .and(warp::header::headers_cloned())
        .map(|handle: Handle, query: String, headers: HeaderMap| reply(list(&handle, &query, &headers)));
    let one = warp::path!("sessions" / String)
        .and(warp::get())
        .and(with())
        .then(|id: String, handle: Handle| async move { reply(one(&handle, &id).await) });
    let events = warp::path!("sessions" / String / "events")
        .and(warp::get())
        .and(with())
        .and(query())
        .then(|id: String, handle: Handle, query: String| async move { reply(events(&handle, &id, &query).await) });
    let report = warp::path!("sessions" / String / "events")
        .and(warp::post())
        .and(with())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .then(|id: String, handle: Handle, headers: HeaderMap, body: Bytes| async move {
            reply(report(&handle, &id, &headers, &body).await)
        });
    list.or(one).unify().or(events).unify().or(report).unify().boxed()
}

fn id(text: &str) -> Result<SessionId, Problem> {
    SessionId::parse(text).map_err(|error| Problem::new(ProblemCode::UnknownSession, error.to_string()))
}

fn list(handle: &Handle, query: &str, headers: &HeaderMap) -> Answer {
    let asked: Query = problem::query(query, "status, lane, repo, q, sort, group, after and limit")?;
    let statuses = asked.status.map(|status| words("status", &status, SessionStatus::ALL, SessionStatus::as_str));
    let statuses = statuses.transpose()?.unwrap_or_default();
    let wanted = SessionQuery { statuses, lane: asked.lane, repo: asked.repo, text: asked.q.clone(), sort: asked.sort };
    let views = handle.sessions(&wanted);
    // Time alone changes what is shown of a session, so what is shown is what the tag is of.
    let version = serde_json::to_string(&views).unwrap_or_default();
    if let Some(response) = unchanged(headers, &version, query) {
        return Ok(response);
    }
    let paged = Page { after: asked.after.map(|after| after.to_string()), limit: asked.limit };
    let (views, total, next) = page(views, &paged, |view| view.id.to_string())?;
    let response = match asked.group {
        None => json(StatusCode::OK, &views),
        Some(by) => json(StatusCode::OK, &Handle::grouped(views, by)),
    };
    Ok(with_etag(response, &version, query, total, next.as_deref()))
}

async fn one(handle: &Handle, text: &str) -> Answer {
    Ok(json(StatusCode::OK, &handle.session(&id(text)?).await?))
}

async fn events(handle: &Handle, text: &str, query: &str) -> Answer {
    let id = id(text)?;
    let asked: EventsQuery = problem::query(query, "after and limit")?;
    let limit = asked.limit.unwrap_or(EVENTS_DEFAULT);
    if limit == 0 || limit > EVENTS_MAX {
        return Err(Problem::new(ProblemCode::InvalidRequest, format!("limit is {limit}; it is 1 to {EVENTS_MAX}")));
    }
    Ok(json(StatusCode::OK, &handle.session_events(&id, asked.after.unwrap_or(0), limit).await?))
}

async fn report(handle: &Handle, text: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
    let id = id(text)?;
    let ReportRequest { events } = parse(body)?;
    if events.is_empty() || events.len() > EVENTS_PER_REQUEST_MAX {
        let detail = format!("events has {} entries; a report has 1 to {EVENTS_PER_REQUEST_MAX}", events.len());
        return Err(Problem::new(ProblemCode::InvalidRequest, detail));
    }
    for (index, event) in events.iter().enumerate() {
        event.check().map_err(|what| Problem::new(ProblemCode::InvalidRequest, format!("events[{index}]: {what}")))?;
    }
    let keyed = keyed(headers, &format!("POST /sessions/{id}/events"), Form::Json, body)?;
    let accepted = events.len();
    let reported = async {
        let events = handle.report(&id, events).await?;
        Answered::of(200, &Reported { session: id.clone(), accepted, events })
    };
    Ok(shaped(handle.under(keyed, reported).await, Form::Json))
}
