//! `GET /worktrees` every worktree of every repository · `GET /worktrees/{repo}/{name}` one, with files and commits ·
//! `POST …/refresh` look at it now · `DELETE …` remove it, when nothing would be lost.

use std::time::Duration;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::{Map, Value};
use warp::Filter;
use warp::http::{HeaderMap, StatusCode};
use warp::hyper::body::Bytes;

use super::Routes;
use super::answer::{Form, keyed, shaped};
use super::page::{self, LIMIT_MAX, Page, page, unchanged, with_etag, words};
use super::problem::{self, Answer, json, parse, reply};
use crate::actors::Handle;
use crate::model::ids::RepoName;
use crate::model::kept::Answered;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::view::NoContent;
use crate::model::work_order::WAIT_MS_MAX;
use crate::model::worktree::{RowState, WorktreeRow};

/// The query of the list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    repo: Option<RepoName>,
    /// A comma separated list.
    #[schemars(transform = states_only)]
    state: Option<String>,
    /// Words in name, branch, path or subject.
    q: Option<String>,
    /// A comma separated list.
    #[schemars(transform = fields_only)]
    fields: Option<String>,
    /// Where the page before ended.
    after: Option<String>,
    /// Entries at most.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<usize>,
    /// How long to wait for rows that are not known yet, in milliseconds.
    wait_ms: Option<u64>,
}

fn states_only(schema: &mut Schema) {
    page::list_of(schema, &RowState::ALL.map(RowState::as_str));
}

fn fields_only(schema: &mut Schema) {
    page::list_of(schema, &known_fields());
}

/// The query of one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OneQuery {
    /// Whether to measure what it takes on disk.
    #[serde(default)]
    disk: bool,
}

/// The query of a removal.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    /// Only say what stands in the way.
    #[serde(default)]
    dry_run: bool,
}

pub(super) fn routes(handle: Handle) -> Routes {
    let with = move || {
        let handle = handle.clone();
        warp::any().map(move || handle.clone())
    };
    let query = || warp::query::raw().or(warp::any().map(String::new)).unify();
    let list = warp::path!("worktrees")
        .and(warp::get())
        .and(with())
        .and(query())
        .and(warp::header::headers_cloned())
        .then(|handle: Handle, query: String, headers: HeaderMap| async move {
            reply(list(&handle, &query, &headers).await)
        });
    let one = warp::path!("worktrees" / String / String).and(warp::get()).and(with()).and(query()).then(
        |repo: String, name: String, handle: Handle, query: String| async move {
            reply(one(&handle, &repo, &name, &query).await)
        },
    );
    let refresh = warp::path!("worktrees" / String / String / "refresh")
        .and(warp::post())
        .and(with())
        .and(warp::body::bytes())
        .then(|repo: String, name: String, handle: Handle, body: Bytes| async move {
            reply(refresh(&handle, &repo, &name, &body).await)
        });
    let remove = warp::path!("worktrees" / String / String)
        .and(warp::delete())
        .and(with())
        .and(query())
        .and(warp::header::headers_cloned())
        .then(|repo: String, name: String, handle: Handle, query: String, headers: HeaderMap| async move {
            reply(remove(&handle, &repo, &name, &query, &headers).await)
        });
    list.or(one).unify().or(refresh).unify().or(remove).unify().boxed()
}

/// A name in a path; git's names of worktrees can have anything in them.
fn unescaped(name: &str) -> Result<String, Problem> {
    let bytes = percent_encoding::percent_decode_str(name).collect::<Vec<u8>>();
    String::from_utf8(bytes).map_err(|_| Problem::new(ProblemCode::InvalidName, "the worktree's name is not UTF-8"))
}

fn repo_named(repo: &str) -> Result<RepoName, Problem> {
    RepoName::parse(repo).map_err(|error| Problem::new(ProblemCode::InvalidName, error.to_string()))
}

async fn list(handle: &Handle, query: &str, headers: &HeaderMap) -> Answer {
    let asked: Query = problem::query(query, "repo, state, q, fields, after, limit and wait_ms")?;
    let states = asked.state.map(|state| words("state", &state, RowState::ALL, RowState::as_str)).transpose()?;
    let fields = asked.fields.as_deref().map(fields).transpose()?;
    let wait = Duration::from_millis(asked.wait_ms.unwrap_or(0).min(WAIT_MS_MAX));
    handle.want_worktrees(asked.repo.as_ref(), wait).await?;
    let version = handle.worktrees_version(asked.repo.as_ref())?;
    if let Some(response) = unchanged(headers, &version, query) {
        return Ok(response);
    }
    let mut rows = handle.worktrees(asked.repo.as_ref())?;
    rows.retain(|row| states.as_ref().is_none_or(|states| states.contains(&row.state)));
    rows.retain(|row| asked.q.as_deref().is_none_or(|text| says(row, text)));
    let paged = Page { after: asked.after, limit: asked.limit };
    let (rows, total, next) = page(rows, &paged, |row| format!("{}/{}", row.repo, row.name))?;
    let response = match fields {
        None => json(StatusCode::OK, &rows),
        Some(fields) => json(StatusCode::OK, &rows.iter().map(|row| only(row, &fields)).collect::<Vec<_>>()),
    };
    Ok(with_etag(response, &version, query, total, next.as_deref()))
}

/// Names of fields there are; `repo` and `name` are always among them.
fn fields(text: &str) -> Result<Vec<String>, Problem> {
    let known = known_fields();
    let wanted: Vec<String> = text.split(',').map(str::trim).map(str::to_owned).collect();
    match wanted.iter().find(|field| !known.contains(field)) {
        Some(odd) => {
            let detail = format!("a worktree has no field {odd:?}; it has {}", known.join(", "));
            Err(Problem::new(ProblemCode::InvalidRequest, detail))
        }
        None => Ok(wanted.into_iter().chain(["repo".to_owned(), "name".to_owned()]).collect()),
    }
}

fn known_fields() -> Vec<String> {
    let schema = schemars::schema_for!(WorktreeRow);
    let fields = schema.get("properties").and_then(Value::as_object);
    fields.map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
}

fn only(row: &WorktreeRow, fields: &[String]) -> Map<String, Value> {
    let Ok(Value::Object(mut all)) = serde_json::to_value(row) else { return Map::new() };
    all.retain(|key, _| fields.contains(key));
    all
}

fn says(row: &WorktreeRow, text: &str) -> bool {
    let subject = row.head.as_ref().map_or("", |head| head.subject.as_str());
    let all = format!("{} {} {} {subject}", row.name, row.branch.as_deref().unwrap_or(""), row.path).to_lowercase();
    text.to_lowercase().split_whitespace().all(|word| all.contains(word))
}

async fn one(handle: &Handle, repo: &str, name: &str, query: &str) -> Answer {
    let OneQuery { disk } = problem::query(query, "disk")?;
    Ok(json(StatusCode::OK, &handle.worktree(&repo_named(repo)?, &unescaped(name)?, disk).await?))
}

async fn refresh(handle: &Handle, repo: &str, name: &str, body: &Bytes) -> Answer {
    let (repo, name) = (repo_named(repo)?, unescaped(name)?);
    let NoContent {} = parse(body)?;
    Ok(json(StatusCode::OK, &handle.refresh(&repo, &name).await?))
}

async fn remove(handle: &Handle, repo: &str, name: &str, query: &str, headers: &HeaderMap) -> Answer {
    let RemoveQuery { dry_run } = problem::query(query, "dry_run")?;
    let (repo_name, worktree) = (repo_named(repo)?, unescaped(name)?);
    let what = format!("DELETE /worktrees/{repo}/{name}?dry_run={dry_run}");
    let keyed = keyed(headers, &what, Form::Json, &Bytes::new())?;
    let removed = async { Answered::of(200, &handle.remove_worktree(&repo_name, &worktree, dry_run).await?) };
    Ok(shaped(handle.under(keyed, removed).await, Form::Json))
}
