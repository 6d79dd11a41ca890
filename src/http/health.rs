//! `GET /livez` the process turns · `GET /readyz` work is accepted, `?verbose` says why · `GET /healthz` the same ·
//! `GET /metrics` for Prometheus. All without a token.

use std::fmt::Write as _;

use schemars::JsonSchema;
use warp::Filter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Routes;
use super::problem::{raw, render};
use crate::actors::Handle;
use crate::metrics;
use crate::model::problem::{Problem, ProblemCode};

/// The query of readiness.
#[derive(JsonSchema)]
#[expect(
    dead_code,
    reason = "any query is taken, so that no probe fails for what it adds; this describes what has an effect"
)]
pub(super) struct Query {
    /// Every check by itself; any value, or none, does.
    verbose: Option<String>,
}

pub(super) fn routes(handle: Handle) -> Routes {
    let shown = handle.clone();
    let live = warp::path!("livez").and(warp::get()).map(|| raw(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"));
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let ready = warp::path!("readyz")
        .or(warp::path!("healthz"))
        .unify()
        .and(warp::get())
        .and(query)
        .map(move |query: String| ready(&handle, &query));
    let metrics = warp::path!("metrics").and(warp::get()).then(move || metrics_page(shown.clone()));
    live.or(ready).unify().or(metrics).unify().boxed()
}

fn ready(handle: &Handle, query: &str) -> Response {
    let ready = handle.readiness();
    let status = if ready.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    if query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")) {
        for (name, ok, detail) in &ready.checks {
            let _ = writeln!(text, "[{}] {name}: {detail}", if *ok { "ok" } else { "failed" });
        }
    }
    text.push_str(if ready.ok { "ready\n" } else { "not ready\n" });
    if ready.ok || !text.is_empty() && query.contains("verbose") {
        return raw(status, "text/plain; charset=utf-8", text);
    }
    let failed: Vec<String> =
        ready.checks.iter().filter(|(_, ok, _)| !ok).map(|(name, _, detail)| format!("{name}: {detail}")).collect();
    render(&Problem::new(ProblemCode::Draining, format!("not ready: {}", failed.join("; "))))
}

async fn metrics_page(handle: Handle) -> Response {
    let made = tokio::task::spawn_blocking(move || {
        handle.take_levels();
        metrics::render()
    });
    match made.await {
        Ok(text) => raw(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => render(&Problem::new(ProblemCode::Internal, format!("metrics could not be rendered: {error}"))),
    }
}
