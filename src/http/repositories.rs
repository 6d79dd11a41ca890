//! `GET /repositories`: every registered repository, and what is wrong with those that cannot be used.

use serde_json::Value;
use warp::Filter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Routes;
use super::problem::{self, json};
use crate::actors::Handle;
use crate::model::view::RepositoryView;

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
    json(StatusCode::OK, &handle.repositories().await.iter().map(shown).collect::<Vec<_>>())
}

/// A problem in it looks like every other problem.
fn shown(view: &RepositoryView) -> Value {
    let mut value = serde_json::to_value(view).unwrap_or_default();
    if let (Some(problem), Some(members)) = (&view.problem, value.as_object_mut()) {
        members.insert("problem".to_owned(), problem::body(problem));
    }
    value
}
