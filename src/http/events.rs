//! `GET /events`: everything that happens, as it happens (server-sent events). `Last-Event-ID` goes on where a listener
//! was.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use warp::Filter;
use warp::http::{HeaderMap, HeaderValue, header};
use warp::hyper::body::Bytes;
use warp::reply::{Reply as _, Response};

use super::Routes;
use super::guard::{Access, Visitor};
use super::problem::{self, Answer, reply};
use crate::actors::Handle;
use crate::model::event::EventFilter;
use crate::model::ids::{RepoName, SessionId};
use crate::model::problem::{Problem, ProblemCode};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    /// A comma separated list.
    types: Option<String>,
    repo: Option<RepoName>,
    session: Option<SessionId>,
    /// The same as the header, for whoever cannot set one.
    last_event_id: Option<String>,
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
    let last = headers
        .get("last-event-id")
        .map(|value| value.to_str().unwrap_or("\u{fffd}").to_owned())
        .or(asked.last_event_id);
    let last = match last.as_deref().map(str::trim).filter(|last| !last.is_empty()) {
        None => None,
        Some(text) if text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            // Beyond what a ledger can have: it is told to begin anew.
            Some(text.parse().unwrap_or(u64::MAX))
        }
        Some(text) => {
            let shown: String = text.escape_default().take(64).collect();
            return Err(invalid(format!(
                "Last-Event-ID {shown} is none of ours: they are whole numbers; connect without it"
            )));
        }
    };
    let filter = EventFilter { kinds, repo: asked.repo, session: asked.session };
    let place = access.listener(visitor)?;
    let events = handle.listen(filter, last)?.map(move |events| {
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
