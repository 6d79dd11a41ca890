//! `GET /operations/{id}` as it is now · `DELETE /operations/{id}` cancel · `GET /operations/{id}/log` its output,
//! followed while it runs.

use futures_util::Stream;
use warp::Filter;
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::reply::{Reply, Response};

use super::Routes;
use super::answer::{Form, operation_shown};
use super::problem::{Answer, reply};
use crate::actors::Handle;
use crate::model::ids::OperationId;
use crate::model::problem::{Problem, ProblemCode};

pub(super) fn routes(handle: Handle) -> Routes {
    let with = move || {
        let handle = handle.clone();
        warp::any().map(move || handle.clone())
    };
    let show =
        warp::path!("operations" / String).and(warp::get()).and(with()).and(warp::header::headers_cloned()).then(
            |id: String, handle: Handle, headers: HeaderMap| async move { reply(show(&handle, &id, &headers).await) },
        );
    let cancel =
        warp::path!("operations" / String).and(warp::delete()).and(with()).and(warp::header::headers_cloned()).then(
            |id: String, handle: Handle, headers: HeaderMap| async move { reply(cancel(&handle, &id, &headers).await) },
        );
    let log = warp::path!("operations" / String / "log")
        .and(warp::get())
        .and(with())
        .then(|id: String, handle: Handle| async move { reply(log(&handle, &id).await) });
    show.or(cancel).unify().or(log).unify().boxed()
}

fn id(text: &str) -> Result<OperationId, Problem> {
    OperationId::parse(text).map_err(|error| Problem::new(ProblemCode::UnknownOperation, error.to_string()))
}

async fn show(handle: &Handle, text: &str, headers: &HeaderMap) -> Answer {
    let form = Form::wanted(headers)?;
    Ok(operation_shown(StatusCode::OK, &handle.operation(&id(text)?).await?, form))
}

async fn cancel(handle: &Handle, text: &str, headers: &HeaderMap) -> Answer {
    let form = Form::wanted(headers)?;
    Ok(operation_shown(StatusCode::OK, &handle.cancel(&id(text)?).await?, form))
}

async fn log(handle: &Handle, text: &str) -> Answer {
    Ok(stream(handle.log(&id(text)?).await?))
}

fn stream(log: impl Stream<Item = std::io::Result<bytes::Bytes>> + Send + Sync + 'static) -> Response {
    let mut response = warp::reply::stream(log).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
