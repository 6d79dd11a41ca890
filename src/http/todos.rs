//! `GET /todos?repo=&stage=&lane=` the todos · `GET /todos/{repo}/{slug}` one of them.

use serde::Deserialize;
use warp::Filter;
use warp::http::StatusCode;

use super::Routes;
use super::problem::{Answer, json, reply};
use crate::actors::Handle;
use crate::model::ids::{Lane, RepoName, Slug};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::Stage;
use crate::model::view::TodoFilter;

/// The query of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    repo: Option<RepoName>,
    stage: Option<Stage>,
    lane: Option<Lane>,
}

pub(super) fn routes(handle: Handle) -> Routes {
    let with = move || {
        let handle = handle.clone();
        warp::any().map(move || handle.clone())
    };
    let raw_query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let list = warp::path!("todos")
        .and(warp::get())
        .and(with())
        .and(raw_query)
        .then(|handle: Handle, query: String| async move { reply(list(&handle, &query).await) });
    let one = warp::path!("todos" / String / String)
        .and(warp::get())
        .and(with())
        .then(|repo: String, slug: String, handle: Handle| async move { reply(one(&handle, &repo, &slug).await) });
    list.or(one).unify().boxed()
}

async fn list(handle: &Handle, query: &str) -> Answer {
    let query: Query = serde_urlencoded::from_str(query).map_err(|error| {
        Problem::new(ProblemCode::InvalidRequest, format!("the query is not repo, stage and lane: {error}"))
    })?;
    let filter = TodoFilter { repo: query.repo, stage: query.stage, lane: query.lane };
    Ok(json(StatusCode::OK, &handle.todos(&filter).await?))
}

async fn one(handle: &Handle, repo: &str, slug: &str) -> Answer {
    let name = |error: crate::model::ids::NameError| Problem::new(ProblemCode::InvalidName, error.to_string());
    let (repo, slug) = (RepoName::parse(repo).map_err(name)?, Slug::parse(slug).map_err(name)?);
    Ok(json(StatusCode::OK, &handle.todo(&repo, &slug).await?))
}
