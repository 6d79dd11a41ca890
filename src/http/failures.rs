//! `GET /failures?lane=&since=` what failed, by lane, fingerprint and generation · `POST /failures/explain` how a text
//! becomes its fingerprint.

use schemars::JsonSchema;
use serde::Deserialize;
use warp::Filter;
use warp::http::StatusCode;
use warp::hyper::body::Bytes;

use super::Routes;
use super::problem::{self, Answer, json, parse, reply};
use crate::actors::Handle;
use crate::model::fingerprint;
use crate::model::ids::Lane;
use crate::model::time::Timestamp;
use crate::model::view::ExplainRequest;

/// The query of the list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    lane: Option<Lane>,
    since: Option<Timestamp>,
}

pub(super) fn routes(handle: Handle) -> Routes {
    let with = move || {
        let handle = handle.clone();
        warp::any().map(move || handle.clone())
    };
    let raw_query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let list = warp::path!("failures")
        .and(warp::get())
        .and(with())
        .and(raw_query)
        .then(|handle: Handle, query: String| async move { reply(list(&handle, &query).await) });
    let explain = warp::path!("failures" / "explain")
        .and(warp::post())
        .and(with())
        .and(warp::body::bytes())
        .map(|handle: Handle, body: Bytes| reply(explain(&handle, &body)));
    list.or(explain).unify().boxed()
}

async fn list(handle: &Handle, query: &str) -> Answer {
    let query: Query = problem::query(query, "lane and since (RFC 3339)")?;
    let since = query.since.unwrap_or(Timestamp::from_ms(i64::MIN));
    Ok(json(StatusCode::OK, &handle.failures(query.lane.as_ref(), since).await?))
}

fn explain(handle: &Handle, body: &Bytes) -> Answer {
    let ExplainRequest { text } = parse(body)?;
    Ok(json(StatusCode::OK, &fingerprint::explain(&text, handle.context().clock.now())))
}
