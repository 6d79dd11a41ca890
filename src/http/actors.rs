//! `GET /actors`: every actor's own view of itself.

use warp::Filter;
use warp::http::StatusCode;

use super::Routes;
use super::problem::json;
use crate::actors::Handle;

pub(super) fn routes(handle: Handle) -> Routes {
    warp::path!("actors")
        .and(warp::get())
        .then(move || {
            let handle = handle.clone();
            async move { json(StatusCode::OK, &handle.actors().await) }
        })
        .boxed()
}
