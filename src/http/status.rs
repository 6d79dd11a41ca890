//! `GET /status` the daemon at a glance · `GET /readiness` whether automation may rely on it · `GET /jobs` its own duties ·
//! `GET /incidents` · `GET /hangs`, `GET /hangs/{id}` · `GET /lag` · `POST /debug/hang-dump` makes one now · `GET /debug/log` and `PUT`
//! which lines are logged.

use warp::Filter;
use warp::http::{HeaderMap, StatusCode};
use warp::hyper::body::Bytes;

use super::Routes;
use super::answer::{Form, keyed, shaped};
use super::problem::{Answer, json, parse, reply};
use crate::actors::Handle;
use crate::metrics::logs;
use crate::model::hang::HangReason;
use crate::model::kept::Answered;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::view::{LogView, NoContent};

pub(super) fn routes(handle: Handle) -> Routes {
    let with = warp::any().map(move || handle.clone());
    let status = warp::path!("status")
        .and(warp::get())
        .and(with.clone())
        .then(|handle: Handle| async move { reply(status(&handle).await) });
    let readiness = warp::path!("readiness")
        .and(warp::get())
        .and(with.clone())
        .map(|handle: Handle| json(StatusCode::OK, &handle.verdict()));
    let jobs = warp::path!("jobs")
        .and(warp::get())
        .and(with.clone())
        .map(|handle: Handle| json(StatusCode::OK, &handle.jobs()));
    let incidents = warp::path!("incidents")
        .and(warp::get())
        .and(with.clone())
        .then(|handle: Handle| async move { reply(incidents(&handle).await) });
    let hangs = warp::path!("hangs")
        .and(warp::get())
        .and(with.clone())
        .then(|handle: Handle| async move { reply(hangs(&handle).await) });
    let hang = warp::path!("hangs" / String)
        .and(warp::get())
        .and(with.clone())
        .then(|id: String, handle: Handle| async move { reply(hang(&handle, &id).await) });
    let lag =
        warp::path!("lag").and(warp::get()).and(with.clone()).map(|handle: Handle| json(StatusCode::OK, &handle.lag()));
    let dump =
        warp::path!("debug" / "hang-dump")
            .and(warp::post())
            .and(warp::header::headers_cloned())
            .and(warp::body::bytes())
            .and(with)
            .then(|headers: HeaderMap, body: Bytes, handle: Handle| async move {
                reply(dump(&handle, &headers, &body).await)
            });
    let logged = warp::path!("debug" / "log").and(warp::get()).map(|| reply(logged()));
    let log =
        warp::path!("debug" / "log").and(warp::put()).and(warp::body::bytes()).map(|body: Bytes| reply(log(&body)));
    let seen = status.or(readiness).unify().or(jobs).unify().or(incidents).unify();
    seen.or(hangs).unify().or(lag).unify().or(hang).unify().or(dump).unify().or(logged).unify().or(log).unify().boxed()
}

async fn status(handle: &Handle) -> Answer {
    Ok(json(StatusCode::OK, &handle.status().await?))
}

async fn incidents(handle: &Handle) -> Answer {
    Ok(json(StatusCode::OK, &handle.incidents().await?))
}

async fn hangs(handle: &Handle) -> Answer {
    Ok(json(StatusCode::OK, &handle.hangs().await?))
}

async fn hang(handle: &Handle, id: &str) -> Answer {
    Ok(json(StatusCode::OK, &handle.hang(id).await?))
}

fn logged() -> Answer {
    Ok(json(StatusCode::OK, &LogView { level: filter()?.current() }))
}

fn log(body: &Bytes) -> Answer {
    let LogView { level } = parse(body)?;
    let filter = filter()?;
    let before = filter.current();
    filter.change(&level).map_err(|error| Problem::new(ProblemCode::InvalidRequest, format!("level: {error}")))?;
    tracing::warn!(before, now = filter.current(), "other lines are logged from now on");
    logged()
}

fn filter() -> Result<&'static dyn logs::Filter, Problem> {
    logs::filter().ok_or_else(|| Problem::new(ProblemCode::Internal, "this process does not log"))
}

async fn dump(handle: &Handle, headers: &HeaderMap, body: &Bytes) -> Answer {
    let NoContent {} = parse(body)?;
    let keyed = keyed(headers, "POST /debug/hang-dump", Form::Json, body)?;
    let dumped = async { Answered::of(200, &handle.dump(HangReason::ByHand, None).await?) };
    Ok(shaped(handle.under(keyed, dumped).await, Form::Json))
}
