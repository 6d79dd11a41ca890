//! HTTP: parse → ask an actor → shape the answer. `warp` stops at this door.
//!
//! May know `actors` (the handle), `model` and `metrics`. Reading order: `routes` below (the whole table on one
//! screen), one file per resource (`work`, `claims`, `operations`, `todos`, `lanes`, `failures`, `worktrees`, `sessions`, `events`, `actors`,
//! `repositories`, `status`, `health`, `console`, `openapi`), `answer`, `page`, `problem` and `markdown` (shaping), `guard` (who is
//! let in), `token`, `signing` and `sign_in` (by what), `server` (the accept loop with its limits).

mod actors;
mod answer;
mod claims;
mod console;
mod events;
mod failures;
pub mod guard;
mod health;
mod lanes;
mod markdown;
mod openapi;
mod operations;
mod page;
mod problem;
mod repositories;
pub mod server;
mod sessions;
mod sign_in;
pub mod signing;
mod status;
mod todos;
pub mod token;
mod work;
mod worktrees;

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, HeaderValue};
use warp::reply::Response;

use self::guard::Access;
use self::token::TokenFile;
use crate::actors::Handle;
use crate::model::door::Open;

/// Everything the server answers with.
pub type Routes = BoxedFilter<(Response,)>;

/// One route: what the document, the metrics and the "method not allowed" answers are made from.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// HTTP method.
    pub method: &'static str,
    /// Path with its parameters in braces.
    pub path: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// To whom it is answered without a token.
    pub open: Open,
    /// Statuses of its good answers.
    pub statuses: &'static [u16],
}

const fn route(method: &'static str, path: &'static str, statuses: &'static [u16], summary: &'static str) -> Route {
    Route { method, path, summary, open: Open::No, statuses }
}

const fn open(method: &'static str, path: &'static str, statuses: &'static [u16], summary: &'static str) -> Route {
    Route { method, path, summary, open: Open::Everybody, statuses }
}

const fn here(method: &'static str, path: &'static str, statuses: &'static [u16], summary: &'static str) -> Route {
    Route { method, path, summary, open: Open::Here, statuses }
}

/// Every route there is.
pub const ROUTES: [Route; 53] = [
    route("POST", "/todos/work", &[200, 202], "Ask for work: a worktree that exists, is prepared, in sync and judged."),
    route("GET", "/todos", &[200], "The todos, filtered by repo, stage and lane."),
    route("GET", "/todos/{repo}/{slug}", &[200], "One todo: stage, claim, gates, parked results, history."),
    route("POST", "/todos/{repo}", &[200, 201], "File a todo beside those of the base branch."),
    route("PUT", "/todos/{repo}/{slug}/after", &[200], "Set what a todo comes after."),
    route("POST", "/todos/{repo}/{slug}/heartbeat", &[200], "A sign of life: the lease is carried on."),
    route("POST", "/todos/{repo}/{slug}/hold", &[200], "The holder waits for a person; the lease covers it."),
    route("POST", "/todos/{repo}/{slug}/release", &[200], "The holder gives the todo back."),
    route("POST", "/todos/{repo}/{slug}/complete", &[200, 202], "The holder says how it went; done work is judged."),
    route("POST", "/todos/{repo}/{slug}/redrive", &[200], "A person lets a blocked or waiting todo go on."),
    route("GET", "/lanes", &[200], "Every lane: open, paused or opening again."),
    route("POST", "/lanes/{lane}/pause", &[200], "Nobody gets work in the lane from now on."),
    route("POST", "/lanes/{lane}/resume", &[200], "A paused lane opens again: one probe, then 1, 2, 4, everybody."),
    route("GET", "/failures", &[200], "What failed, by lane, fingerprint and generation; newest first."),
    route("POST", "/failures/explain", &[200], "How a text becomes its fingerprint, rule by rule."),
    route("GET", "/worktrees", &[200, 304], "Every worktree of every repository, as it is."),
    route("GET", "/worktrees/{repo}/{name}", &[200], "One worktree, with its files and commits."),
    route("DELETE", "/worktrees/{repo}/{name}", &[200], "Remove a worktree, when nothing would be lost."),
    route("POST", "/worktrees/{repo}/{name}/refresh", &[200], "Look at a worktree now."),
    route("GET", "/sessions", &[200, 304], "What agents are doing and did."),
    route("GET", "/sessions/{id}", &[200], "One session."),
    route("GET", "/sessions/{id}/events", &[200], "What happened in a session."),
    route("POST", "/sessions/{id}/events", &[200], "An agent reports what happened."),
    route("GET", "/events", &[200], "Everything that happens, as it happens (server-sent events)."),
    route("GET", "/operations", &[200], "Operations, newest first, filtered by todo and state."),
    route("GET", "/operations/{id}", &[200], "An operation as it is now."),
    route("DELETE", "/operations/{id}", &[200], "Cancel an operation; its process tree dies first."),
    route("GET", "/operations/{id}/log", &[200], "What an operation's commands printed, followed while it runs."),
    route(
        "GET",
        "/repositories",
        &[200],
        "Every registered repository, and what is wrong with those that cannot be used.",
    ),
    route("GET", "/actors", &[200], "Every actor's own view of itself."),
    route("GET", "/status", &[200], "The daemon at a glance."),
    route("GET", "/readiness", &[200], "Whether automation may rely on the daemon, and why."),
    route("GET", "/jobs", &[200], "The daemon's own periodic duties."),
    route("GET", "/incidents", &[200], "Operational problems: those that are not over, then the newest that are."),
    route("GET", "/hangs", &[200], "Dumps of hangs, newest first."),
    route("GET", "/hangs/{id}", &[200], "One dump: stacks, runs, locks, mailboxes, lateness."),
    route("GET", "/lag", &[200], "How late timers were within the last hour."),
    route("POST", "/debug/hang-dump", &[200], "Make a dump now."),
    route("GET", "/debug/log", &[200], "Which lines the log has."),
    route("PUT", "/debug/log", &[200], "Have other lines in the log, until the daemon ends."),
    open("GET", "/", &[302], "The way to the console."),
    open("GET", "/console", &[302], "The same."),
    open("GET", "/console/", &[200, 304], "The console: a page that shows what goes on."),
    open("GET", "/console/{file}", &[200, 304], "What the page is made of; a file may be in a directory."),
    open("POST", "/console/sign-in", &[200], "Sign a browser in, by token or by a link's code."),
    open("POST", "/console/sign-out", &[200], "Sign a browser out."),
    route("POST", "/console/links", &[200], "A link that signs in whoever opens it, once."),
    route("POST", "/token/rotate", &[200], "A new token; the old one is good for a while yet, or no longer."),
    here("GET", "/livez", &[200], "The process turns."),
    here("GET", "/readyz", &[200, 503], "Whether work is accepted; ?verbose says why."),
    here("GET", "/healthz", &[200, 503], "The same as /readyz."),
    here("GET", "/metrics", &[200], "Prometheus' text format."),
    route("GET", "/openapi.json", &[200], "This interface, described."),
];

/// The whole table. Health comes first: it is asked most and has to cost least.
#[must_use]
pub fn routes(handle: Handle, access: Access, token: Option<TokenFile>) -> Routes {
    health::routes(handle.clone())
        .or(work::routes(handle.clone()))
        .unify()
        .or(operations::routes(handle.clone()))
        .unify()
        .or(todos::routes(handle.clone()))
        .unify()
        .or(claims::routes(handle.clone()))
        .unify()
        .or(lanes::routes(handle.clone()))
        .unify()
        .or(failures::routes(handle.clone()))
        .unify()
        .or(worktrees::routes(handle.clone()))
        .unify()
        .or(sessions::routes(handle.clone()))
        .unify()
        .or(events::routes(handle.clone(), access.clone()))
        .unify()
        .or(actors::routes(handle.clone()))
        .unify()
        .or(repositories::routes(handle.clone()))
        .unify()
        .or(status::routes(handle.clone()))
        .unify()
        .or(token::routes(handle.clone(), access.clone(), token))
        .unify()
        .or(sign_in::routes(handle, access))
        .unify()
        .or(console::routes())
        .unify()
        .or(openapi::routes())
        .unify()
        .boxed()
}

/// Those at a path of the table that need no token.
fn open_at(path: &str) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| route.open != Open::No && route.path == path)
}

/// The value of a header, when it is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut given = headers.get_all(name).iter();
    given.next().filter(|_| given.next().is_none())
}

/// The route a path belongs to, whatever the method.
fn template(path: &str) -> Option<&'static str> {
    let fits = |template: &str| {
        let mut parts = path.split('/');
        let fits = template.split('/').all(|wanted| {
            parts.next().is_some_and(|part| part == wanted || (wanted.starts_with('{') && !part.is_empty()))
        });
        // Files may be in a directory.
        fits && parts
            .next()
            .is_none_or(|name| template.ends_with("{file}") && !name.is_empty() && parts.next().is_none())
    };
    // A fixed path wins over one with parameters.
    ROUTES
        .iter()
        .map(|route| route.path)
        .filter(|path| !path.contains('{'))
        .chain(ROUTES.iter().map(|route| route.path))
        .find(|path| fits(path))
}
