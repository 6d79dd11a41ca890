//! `GET /repositories`: every registered repository, and what is wrong with those that cannot be used.

use warp::Filter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Routes;
use super::problem::{json, with_problem};
use crate::actors::Handle;

pub(super) fn routes(handle: Handle) -> Routes {
    warp::path!("repositories")
        .and(warp::get())
        .then(move || {
            let handle = handle.clone();
            async move { list(&handle).await }
        })
        .boxed()
}

async fn list(handle: &Handle) -> Response {
    let views = handle.repositories().await;
    json(StatusCode::OK, &views.iter().map(|view| with_problem(view, view.problem.as_ref())).collect::<Vec<_>>())
}
