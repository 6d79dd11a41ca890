//! Which problems a route can answer with, by what it takes and what it does. What is not here is a fault of the daemon,
//! or of this file: clients that try everything find out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::super::Route;
use super::{body, parameters};
use crate::model::door::Open;
use crate::model::problem::ProblemCode;
use crate::model::problem::ProblemCode as Code;

/// Every problem of a route as responses, by status.
pub(super) fn responses(route: &Route) -> Map<String, Value> {
    let mut by_status: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for code in of(route) {
        by_status.entry(code.status()).or_default().insert(code.as_str());
    }
    by_status.into_iter().map(|(status, codes)| (status.to_string(), response(status, &codes))).collect()
}

fn response(status: u16, codes: &BTreeSet<&str>) -> Value {
    let titles: Vec<&str> =
        ProblemCode::ALL.iter().filter(|code| codes.contains(code.as_str())).map(|code| code.title()).collect();
    let schema = json!({ "allOf": [
        { "$ref": "#/components/schemas/Problem" },
        { "properties": { "status": { "const": status }, "code": { "enum": codes } } },
    ]});
    let mut response =
        json!({ "description": titles.join("; "), "content": { "application/problem+json": { "schema": schema } } });
    let told = match status {
        401 => Some(("WWW-Authenticate", true)),
        429 => Some(("Retry-After", false)),
        _ => None,
    };
    if let Some((name, required)) = told {
        response["headers"] = json!({ name: { "required": required, "schema": { "type": "string" } } });
    }
    response
}

fn of(route: &Route) -> Vec<Code> {
    let mut all = vec![Code::InvalidRequest, Code::ForbiddenOrigin, Code::UriTooLong, Code::HeadersTooLarge];
    // Some part of the daemon may be stuck or fail, whatever is asked for.
    all.extend([Code::Internal, Code::DeadlineExceeded]);
    if route.open != Open::Everybody {
        all.push(Code::Unauthorized);
    }
    // Whoever asks whether the daemon lives is not counted.
    if route.path != "/livez" {
        all.push(Code::Busy);
    }
    if route.path.contains('{') {
        all.push(Code::InvalidName);
    }
    if route.path.contains("{repo}") || BY_REPOSITORY.contains(&route.path) {
        all.push(Code::UnknownRepository);
    }
    if body(route).is_some() {
        all.extend([Code::InvalidName, Code::RequestTimeout, Code::BodyTooLarge, Code::UnsupportedMediaType]);
    }
    if parameters::takes_key(route) {
        all.extend([Code::KeyInFlight, Code::KeyReused]);
    }
    if asks_actors(route) {
        all.extend([Code::Restarting, Code::StoreUnavailable]);
    }
    if changes(route) {
        all.push(Code::Draining);
    }
    all.extend(own(route));
    all
}

/// Where a query can name a repository.
const BY_REPOSITORY: [&str; 4] = ["/todos", "/worktrees", "/events", "/operations"];

/// Whether an answer is made of more than what is in memory.
fn asks_actors(route: &Route) -> bool {
    let root = route.path.split('/').nth(1).unwrap_or("");
    ["todos", "lanes", "failures", "worktrees", "sessions", "events", "operations", "repositories", "actors"]
        .contains(&root)
        || ["/status", "/incidents", "/hangs", "/hangs/{id}", "/debug/hang-dump"].contains(&route.path)
}

fn changes(route: &Route) -> bool {
    asks_actors(route) && route.method != "GET"
}

/// What stands between a worker and a todo.
const CLAIMING: [Code; 10] = [
    Code::AlreadyClaimed,
    Code::DependenciesUnmet,
    Code::LanePaused,
    Code::WipLimit,
    Code::Backoff,
    Code::TodoBlocked,
    Code::OwnWork,
    Code::StaleToken,
    Code::TodoInvalid,
    Code::UnknownSlug,
];

/// What can be wrong with a repository.
const REPOSITORY: [Code; 2] = [Code::RepositoryUnusable, Code::RepositoryConfigInvalid];

/// What a run can come to.
const RUNNING: [Code; 9] = [
    Code::LocalChanges,
    Code::MergeConflict,
    Code::Cancelled,
    Code::Interrupted,
    Code::PrepareFailed,
    Code::GateFailed,
    Code::WorktreeForeign,
    Code::WorktreeUnreadable,
    Code::LockTimeout,
];

/// Problems of this route and few others.
fn own(route: &Route) -> Vec<Code> {
    let holder = |more: &[Code]| [&[Code::StaleToken, Code::UnknownSlug], &REPOSITORY[..], more].concat();
    match (route.method, route.path) {
        ("POST", "/todos/work") => {
            [&CLAIMING[..], &REPOSITORY, &RUNNING, &[Code::NoWork, Code::NotAcceptable, Code::UnknownRepository]]
                .concat()
        }
        ("POST", "/todos/{repo}/{slug}/complete") => {
            [&CLAIMING[..], &REPOSITORY, &RUNNING, &[Code::NotIntegrated, Code::NotAcceptable, Code::UnknownSlug]]
                .concat()
        }
        ("POST", "/todos/{repo}/{slug}/heartbeat" | "/todos/{repo}/{slug}/release") => holder(&[]),
        ("POST", "/todos/{repo}/{slug}/hold") => holder(&[Code::HoldLimit]),
        ("POST", "/todos/{repo}") => {
            [&REPOSITORY[..], &[Code::TodoExists, Code::TooManyTodos, Code::DependencyCycle, Code::UnknownSlug]]
                .concat()
        }
        ("PUT", "/todos/{repo}/{slug}/after") => {
            [&REPOSITORY[..], &[Code::DependencyCycle, Code::UnknownSlug, Code::TodoInvalid]].concat()
        }
        ("POST", "/todos/{repo}/{slug}/redrive") | ("GET", "/todos/{repo}/{slug}") => {
            [&REPOSITORY[..], &[Code::UnknownSlug, Code::TodoInvalid]].concat()
        }
        ("GET", "/todos") => REPOSITORY.to_vec(),
        ("GET" | "DELETE" | "POST", path) if path.starts_with("/worktrees") => [
            &REPOSITORY[..],
            &[Code::UnknownWorktree, Code::WorktreeInUse, Code::WorktreeUnreadable, Code::Cancelled, Code::LockTimeout],
        ]
        .concat(),
        ("GET", "/operations/{id}") | ("DELETE", "/operations/{id}") => {
            vec![Code::UnknownOperation, Code::NotAcceptable]
        }
        ("GET", "/operations/{id}/log") => vec![Code::UnknownOperation],
        (_, path) if path.starts_with("/sessions/") => vec![Code::UnknownSession],
        ("GET", "/hangs/{id}") => vec![Code::UnknownHang],
        ("GET", "/console/{file}") => vec![Code::NotFound],
        ("POST", "/console/sign-in") => vec![Code::Unauthorized],
        ("GET", "/readyz" | "/healthz") => vec![Code::Draining],
        _ => Vec::new(),
    }
}
