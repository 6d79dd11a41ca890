//! The answer to a request for work.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::claim::Claim;
use super::ids::{Lane, Oid, OperationId, RepoName, SessionId, Slug, Worker};
use super::phase::PhaseReport;
use super::time::{Moment, Timestamp};
use super::todo::{How, Stage};

/// How long a call may wait for its run when it does not say, in milliseconds.
pub const WAIT_MS_DEFAULT: u64 = 2_000;
/// How long a call may wait for its run at most, in milliseconds: below the minute most proxies allow.
pub const WAIT_MS_MAX: u64 = 45_000;

/// The body of `POST /todos/work`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkRequest {
    /// The repository; may be left out when one is registered.
    pub repo: Option<RepoName>,
    /// The todo; without it the next claimable one for the lane, in roadmap order.
    pub slug: Option<Slug>,
    /// The lane that asks.
    pub lane: Lane,
    /// The process that asks; without it the lane has one worker, `default`.
    pub worker: Option<Worker>,
    /// Prepare again even if nothing changed.
    #[serde(default)]
    pub refresh: bool,
    /// How long to wait for a run before answering 202, in milliseconds (default 2000, at most 45000).
    #[schemars(range(max = WAIT_MS_MAX))]
    pub wait_ms: Option<u64>,
}

/// A worktree that exists, is prepared, in sync and judged, and the claim on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkOrder {
    /// The repository.
    pub repo: RepoName,
    /// The todo.
    pub slug: Slug,
    /// The lane that holds the claim.
    pub lane: Lane,
    /// Where the todo is.
    pub stage: Stage,
    /// The worktree to work in.
    pub worktree: WorktreeView,
    /// Worktree-relative paths of the files that say what to do.
    pub brief: Vec<String>,
    /// What to do, of a todo that was filed and has no files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// What the last review asked for, at the stage `fix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<String>,
    /// The lease.
    pub claim: ClaimView,
    /// The operation that last changed something for this todo.
    pub operation: Option<OperationId>,
    /// What was decided about each phase.
    pub phases: Vec<PhaseReport>,
    /// Time the call waited before it was looked at, in milliseconds.
    pub queued_ms: f64,
    /// Time from accepting the call to this answer, in milliseconds.
    pub total_ms: f64,
    /// What the worker can do next.
    pub next: Vec<NextStep>,
}

/// The worktree part of a [`WorkOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorktreeView {
    /// Absolute path.
    pub path: String,
    /// Its branch.
    pub branch: String,
    /// The branch's commit.
    pub head: Oid,
    /// The base branch.
    pub base: String,
    /// The base's commit.
    pub base_oid: Oid,
    /// Whether the work tree had local changes when it was last looked through, at `dirty_checked_at`.
    pub dirty: bool,
    /// When the work tree was last looked through. A call never waits for that look; it is renewed behind the answer.
    pub dirty_checked_at: Timestamp,
}

/// The claim part of a [`WorkOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimView {
    /// Fencing token; every later mutation names it.
    pub token: u64,
    /// The session of this claim: `POST /sessions/{session}/events` takes in what happens.
    pub session: SessionId,
    /// The holder.
    pub worker: Worker,
    /// `duplicate_claim_guard` when the caller held it already.
    pub guard: Option<String>,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// From this instant on it is over.
    pub expires_at: Timestamp,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_every_ms: i64,
}

impl ClaimView {
    /// The view of a claim; `repeated` says that the caller held it before this call.
    #[must_use]
    pub fn of(claim: &Claim, repeated: bool, now: &Moment, heartbeat_every_ms: i64) -> Self {
        Self {
            token: claim.token,
            session: SessionId::of_claim(&claim.todo, claim.token),
            worker: claim.worker.clone(),
            guard: repeated.then(|| "duplicate_claim_guard".to_owned()),
            granted_at: claim.granted_at,
            expires_at: claim.expires_at(now),
            heartbeat_every_ms,
        }
    }
}

/// One thing a client can do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NextStep {
    /// What it does, in one word.
    #[serde(rename = "do")]
    pub action: String,
    /// HTTP method.
    pub method: String,
    /// Path on this server.
    pub path: String,
}

/// The answer to a complete that counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Completion {
    /// The repository.
    pub repo: RepoName,
    /// The todo.
    pub slug: Slug,
    /// The token it was completed under.
    pub token: u64,
    /// How it went: `done`, `failed` or `blocked`.
    pub outcome: How,
    /// `duplicate_complete_guard` when it was counted before.
    pub guard: Option<String>,
    /// The stage the todo came to.
    pub stage: Stage,
    /// Failed attempts since it last came a stage further.
    pub attempts: u32,
    /// When it was counted.
    pub completed_at: Timestamp,
    /// The operation that judged it, when one ran.
    pub operation: Option<OperationId>,
    /// What was decided about each phase, when one ran.
    #[serde(default)]
    pub phases: Vec<PhaseReport>,
    /// What the worker can do next.
    pub next: Vec<NextStep>,
}

/// The result of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Product {
    /// Of one that made a worktree ready.
    Order(Box<WorkOrder>),
    /// Of one that judged finished work.
    Completion(Box<Completion>),
}
