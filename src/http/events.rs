//! `GET /events`: everything that happens, as it happens (server-sent events). `Last-Event-ID` goes on where a listener
//! was.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use schemars::JsonSchema;
use serde::Deserialize;
use warp::Filter;
use warp::http::{HeaderMap, HeaderValue, header};
use warp::hyper::body::Bytes;
use warp::reply::{Reply as _, Response};

use super::guard::{Access, Visitor};
use super::problem::{self, Answer, reply};
use super::{Routes, page};
use crate::actors::Handle;
use crate::model::event::{EventFilter, EventKind, place};
use crate::model::ids::{RepoName, SessionId};
use crate::model::problem::{Problem, ProblemCode};

/// What a place in the log looks like.
pub(super) const ID_PATTERN: &str = "^[0-9]{0,20}$";

/// The query of a listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// A comma separated list of types of events, or of families such as `claim.*`; all when left out.
    #[schemars(with = "Option<String>", transform = kinds_only)]
    types: Option<String>,
    repo: Option<RepoName>,
    session: Option<SessionId>,
    /// The same as the header, for whoever cannot set one.
    #[schemars(regex(pattern = ID_PATTERN))]
    last_event_id: Option<String>,
}

fn kinds_only(schema: &mut schemars::Schema) {
    let names: Vec<String> = EventKind::ALL.iter().map(|kind| kind.as_str().replace('.', "\\.")).collect();
    page::list_of(schema, &names);
}

pub(super) fn routes(handle: Handle, access: Access) -> Routes {
    warp::path!("events")
        .and(warp::get())
        .and(warp::any().map(move || (handle.clone(), access.clone())))
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Visitor>())
        .map(|(handle, access): (Handle, Access), query: String, headers: HeaderMap, visitor: Visitor| {
            reply(listen(&handle, &query, &headers, &access, &visitor))
        })
        .boxed()
}

fn listen(handle: &Handle, query: &str, headers: &HeaderMap, access: &Access, visitor: &Visitor) -> Answer {
    let invalid = |detail: String| Problem::new(ProblemCode::InvalidRequest, detail);
    let asked: Query = problem::query(query, "types, repo, session and last_event_id")?;
    if let Some(repo) = &asked.repo {
        handle.context().repo(Some(repo))?;
    }
    let kinds = asked.types.as_deref().map(EventFilter::parse_kinds).transpose().map_err(invalid)?;
    let sent = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("\u{fffd}"));
    // The header is the newer one: a browser sends it when it comes back to an address that has the other in it.
    let sent = sent.map(place).transpose().map_err(invalid)?;
    let written = asked.last_event_id.as_deref().map(place).transpose().map_err(invalid)?;
    let filter = EventFilter { kinds, repo: asked.repo, session: asked.session };
    let place = access.listener(visitor)?;
    let events = handle.listen(filter, sent.or(written).flatten())?.map(move |events| {
        // The place is given back with the stream.
        let _place = &place;
        events
    });
    Ok(stream(events.take_until(visitor.over())))
}

fn stream(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = warp::reply::stream(Shared(Mutex::new(events.boxed()))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A stream warp may hold: it wants to be able to share it, and never does.
struct Shared(Mutex<BoxStream<'static, Bytes>>);

impl Stream for Shared {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        stream.as_mut().poll_next(cx).map(|next| next.map(Ok))
    }
}
