//! `GET /todos?repo=&stage=&lane=` the todos · `POST /todos/{repo}` a new one · `GET /todos/{repo}/{slug}` one of them ·
//! `PUT …/after` what it comes after · `POST …/redrive` let a blocked one go on.

use schemars::JsonSchema;
use serde::Deserialize;
use warp::Filter;
use warp::http::{HeaderMap, StatusCode};
use warp::hyper::body::Bytes;

use super::Routes;
use super::answer::{Form, keyed, shaped};
use super::problem::{self, Answer, json, parse, reply};
use crate::actors::Handle;
use crate::model::filed::{AFTER_MAX, BRIEF_BYTES_MAX, NewTodo};
use crate::model::ids::{Lane, RepoName, Slug, TodoKey};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::todo::Stage;
use crate::model::view::{AfterRequest, Mutation, NoContent, TodoFilter};

/// The query of the list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
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
    let file = warp::path!("todos" / String)
        .and(warp::post())
        .and(with())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .then(|repo: String, handle, headers, body| async move { reply(file(&handle, &repo, &headers, &body).await) });
    let after = warp::path!("todos" / String / String / "after")
        .and(warp::put())
        .and(with())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .then(|repo: String, slug: String, handle, headers, body| async move {
            reply(set_after(&handle, &repo, &slug, &headers, &body).await)
        });
    let redrive = warp::path!("todos" / String / String / "redrive")
        .and(warp::post())
        .and(with())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .then(|repo: String, slug: String, handle, headers, body| async move {
            reply(redrive(&handle, &repo, &slug, &headers, &body).await)
        });
    list.or(one).unify().or(file).unify().or(after).unify().or(redrive).unify().boxed()
}

/// `repo/slug` from a path.
pub(super) fn key(repo: &str, slug: &str) -> Result<TodoKey, Problem> {
    let name = |error: crate::model::ids::NameError| Problem::new(ProblemCode::InvalidName, error.to_string());
    Ok(TodoKey { repo: RepoName::parse(repo).map_err(name)?, slug: Slug::parse(slug).map_err(name)? })
}

async fn list(handle: &Handle, query: &str) -> Answer {
    let query: Query = problem::query(query, "repo, stage and lane")?;
    let filter = TodoFilter { repo: query.repo, stage: query.stage, lane: query.lane };
    Ok(json(StatusCode::OK, &handle.todos(&filter).await?))
}

async fn one(handle: &Handle, repo: &str, slug: &str) -> Answer {
    Ok(json(StatusCode::OK, &handle.todo(&key(repo, slug)?).await?))
}

async fn file(handle: &Handle, repo: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
    let repo_name = RepoName::parse(repo).map_err(|error| Problem::new(ProblemCode::InvalidName, error.to_string()))?;
    let new: NewTodo = parse(body)?;
    if new.brief.len() > BRIEF_BYTES_MAX {
        let detail = format!("a brief has at most {BRIEF_BYTES_MAX} bytes; put a longer one into the repository");
        return Err(Problem::new(ProblemCode::InvalidRequest, detail));
    }
    few(&new.after)?;
    let keyed = keyed(headers, &format!("POST /todos/{repo}"), Form::Json, body)?;
    Ok(shaped(handle.mutate(Mutation::File { repo: repo_name, body: new }, keyed).await, Form::Json))
}

async fn set_after(handle: &Handle, repo: &str, slug: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
    let todo = key(repo, slug)?;
    let AfterRequest { after } = parse(body)?;
    few(&after)?;
    let keyed = keyed(headers, &format!("PUT /todos/{repo}/{slug}/after"), Form::Json, body)?;
    Ok(shaped(handle.mutate(Mutation::SetAfter { todo, after }, keyed).await, Form::Json))
}

async fn redrive(handle: &Handle, repo: &str, slug: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
    let todo = key(repo, slug)?;
    let NoContent {} = parse(body)?;
    let keyed = keyed(headers, &format!("POST /todos/{repo}/{slug}/redrive"), Form::Json, body)?;
    Ok(shaped(handle.mutate(Mutation::Redrive { todo }, keyed).await, Form::Json))
}

fn few(after: &[Slug]) -> Result<(), Problem> {
    if after.len() <= AFTER_MAX {
        return Ok(());
    }
    let detail = format!("a todo comes after at most {AFTER_MAX} others, not {}", after.len());
    Err(Problem::new(ProblemCode::InvalidRequest, detail))
}
