//! What can go wrong, as clients see it: stable codes, their HTTP status, and whether trying again can help.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $retryable:literal, $title:literal;)*) => {
        /// The stable code of a problem. Codes are never renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ProblemCode { $($(#[$doc])* $name,)* }
        impl ProblemCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The code as clients read it.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// The HTTP status it travels under.
            #[must_use]
            pub const fn status(self) -> u16 { match self { $(Self::$name => $status,)* } }
            /// Whether the same request can succeed later without anybody changing it.
            #[must_use]
            pub const fn retryable(self) -> bool { match self { $(Self::$name => $retryable,)* } }
            /// A short sentence that is the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
        }
    };
}

codes! {
    /// The request could not be understood; the detail names the field.
    InvalidRequest = "invalid_request", 400, false, "The request is not valid";
    /// A name breaks its rule.
    InvalidName = "invalid_name", 400, false, "A name in the request is not valid";
    /// No or a wrong bearer token; nobody is signed in, or with what is not right.
    Unauthorized = "unauthorized", 401, false, "A bearer token is needed";
    /// The Host, Origin or Sec-Fetch-Site header is not one of ours.
    ForbiddenOrigin = "forbidden_origin", 403, false, "The request comes from a place that is not allowed";
    /// No such path.
    NotFound = "not_found", 404, false, "There is nothing at this path";
    /// The repository is not registered.
    UnknownRepository = "unknown_repository", 404, false, "The repository is not registered";
    /// The base branch has no such todo.
    UnknownSlug = "unknown_slug", 404, false, "The repository has no such todo";
    /// No such operation, or it was pruned.
    UnknownOperation = "unknown_operation", 404, false, "There is no such operation";
    /// The repository has no such worktree.
    UnknownWorktree = "unknown_worktree", 404, false, "The repository has no such worktree";
    /// No such session.
    UnknownSession = "unknown_session", 404, false, "There is no such session";
    /// No dump of that id is kept.
    UnknownHang = "unknown_hang", 404, false, "There is no such hang dump";
    /// No todo can be handed out now; `reasons` says why, per todo.
    NoWork = "no_work", 404, true, "There is no work to hand out";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, false, "The method is not allowed here";
    /// The client asked for a representation this resource does not have.
    NotAcceptable = "not_acceptable", 406, false, "No acceptable representation";
    /// The request took too long to arrive.
    RequestTimeout = "request_timeout", 408, true, "The request did not arrive in time";
    /// Another worker holds the claim.
    AlreadyClaimed = "already_claimed", 409, true, "Another worker holds this todo";
    /// A worktree is not removed, because something would be lost or somebody works in it; `reasons` says what.
    WorktreeInUse = "worktree_in_use", 409, false, "The worktree cannot be removed";
    /// Todos this one comes after are not done.
    DependenciesUnmet = "dependencies_unmet", 409, true, "Todos this one depends on are not done";
    /// The lane is paused, or opening again with a few claims at a time; `resume` says how to open it.
    LanePaused = "lane_paused", 409, true, "The lane is paused";
    /// The lane has as many claims as it may have.
    WipLimit = "wip_limit", 409, true, "The lane has as many claims as it may have";
    /// The todo failed and waits before it is given out again.
    Backoff = "backoff", 409, true, "The todo failed and waits";
    /// The todo is blocked until a person looks at it; `redrive` says how to let it go on.
    TodoBlocked = "todo_blocked", 409, false, "The todo is blocked";
    /// A review is not done by who built the todo.
    OwnWork = "own_work", 409, false, "A review is not by who built it";
    /// The token is not the live claim's; `holder` says who holds the todo now. A result that came with it is parked.
    StaleToken = "stale_token", 409, false, "The claim is over";
    /// The claim's allowance for waiting for people is used up.
    HoldLimit = "hold_limit", 409, false, "The claim has waited for people long enough";
    /// The base does not contain the todo's branch yet.
    NotIntegrated = "not_integrated", 409, true, "The branch is not on the base";
    /// Another todo has that name.
    TodoExists = "todo_exists", 409, false, "The repository has a todo of that name";
    /// The todo would come after itself; `path` is the way round.
    DependencyCycle = "dependency_cycle", 409, false, "The todo would depend on itself";
    /// The repository has as many filed todos as it may have.
    TooManyTodos = "too_many_todos", 409, false, "Too many todos were filed";
    /// A request under the same key is being answered.
    KeyInFlight = "key_in_flight", 409, true, "A request under this key is being answered";
    /// Files in the work tree stand in the way of the base.
    LocalChanges = "local_changes", 409, false, "Local files stand in the way of the base branch";
    /// Base and branch do not merge.
    MergeConflict = "merge_conflict", 409, false, "The base branch does not merge into the todo's branch";
    /// The operation was cancelled.
    Cancelled = "cancelled", 409, true, "The operation was cancelled";
    /// A restart of the daemon ended the operation.
    Interrupted = "interrupted", 409, true, "A restart of the daemon ended the operation";
    /// The body is larger than allowed.
    BodyTooLarge = "body_too_large", 413, false, "The request body is too large";
    /// The URL is longer than allowed.
    UriTooLong = "uri_too_long", 414, false, "The request target is too long";
    /// The body is not JSON by its Content-Type.
    UnsupportedMediaType = "unsupported_media_type", 415, false, "The body must be application/json";
    /// The repository's prepare command failed.
    PrepareFailed = "prepare_failed", 422, true, "Preparing the worktree failed";
    /// A gate of the repository did not pass.
    GateFailed = "gate_failed", 422, true, "A gate did not pass";
    /// Another request was made under the same Idempotency-Key.
    KeyReused = "key_reused", 422, false, "The Idempotency-Key belongs to another request";
    /// A file of the todo or the roadmap is broken; the detail names file and line.
    TodoInvalid = "todo_invalid", 422, false, "A file of the todo is broken";
    /// `.slugline.toml` on the base branch is broken; the detail names the line.
    RepositoryConfigInvalid = "repository_config_invalid", 422, false, "The repository's .slugline.toml is broken";
    /// The registered path cannot be served: not a repository, bare, empty, no base branch, unknown format.
    RepositoryUnusable = "repository_unusable", 422, false, "The registered repository cannot be used";
    /// A worktree's files cannot be looked at or moved.
    WorktreeUnreadable = "worktree_unreadable", 422, true, "The worktree cannot be read";
    /// Something that is not this slug's worktree stands at its place.
    WorktreeForeign = "worktree_foreign", 423, false, "Something else stands at the worktree's place";
    /// A queue is full.
    Busy = "busy", 429, true, "Too many requests are waiting";
    /// The request head is larger than allowed.
    HeadersTooLarge = "headers_too_large", 431, false, "The request head is too large";
    /// A fault of the daemon; nothing accepted is lost.
    Internal = "internal", 500, true, "The daemon failed while answering";
    /// The daemon is shutting down.
    Draining = "draining", 503, true, "The daemon is shutting down";
    /// What the daemon keeps on disk cannot be written or read: the ledger, a log, a worktree.
    StoreUnavailable = "store_unavailable", 503, true, "The daemon's disk is not available";
    /// An actor is being restarted.
    Restarting = "restarting", 503, true, "The part that answers this is being restarted";
    /// Another process holds the worktree or a git lock for too long.
    LockTimeout = "lock_timeout", 503, true, "A lock was not released in time";
    /// A limit on time was reached; the process tree is dead.
    DeadlineExceeded = "deadline_exceeded", 504, true, "The time limit was reached";
}

/// One problem: what happened to whom, and the way out. Becomes RFC 9457 `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Problem {
    /// The stable code.
    pub code: ProblemCode,
    /// This occurrence in words: names the input and the way out.
    pub detail: String,
    /// When to try again, where known, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Members of this code beside the common ones, such as `files` or `holder`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

impl Problem {
    /// A problem with its words.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after_ms: None, extra: Map::new() }
    }

    /// The same problem with one more member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// The same problem with the time after which to try again.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_own_json_and_an_error_status() {
        for code in ProblemCode::ALL {
            assert_eq!(serde_json::to_value(code).expect("json"), code.as_str());
            assert!((400..600).contains(&code.status()));
        }
    }
}
