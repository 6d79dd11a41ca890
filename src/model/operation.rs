//! The durable receipt of a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::{Lane, OperationId, TodoKey, Worker};
use super::phase::{Phase, PhaseReport};
use super::problem::Problem;
use super::time::Timestamp;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Make a worktree ready for a worker.
    Work,
    /// Judge what a worker says is done.
    Complete,
}

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Accepted, waiting for its worktree.
    Queued,
    /// A phase is being carried out.
    Running,
    /// Ended with a result.
    Succeeded,
    /// Ended with a problem.
    Failed,
    /// Ended by a cancel; its processes are dead.
    Cancelled,
    /// Ended by a restart of the daemon; the next work call does what is missing.
    Interrupted,
}

impl OperationState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Interrupted];

    /// The name used in the API and the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// An operation as the ledger keeps it and clients see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// For which todo.
    #[serde(flatten)]
    pub todo: TodoKey,
    /// The lane that asked.
    pub lane: Lane,
    /// The worker that asked.
    pub worker: Worker,
    /// The trace it is in; none for those of before traces were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Where it is.
    pub state: OperationState,
    /// The phase being carried out, while one is.
    pub phase: Option<Phase>,
    /// The phases decided so far, in the order answers list them.
    pub phases: Vec<PhaseReport>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it got its worktree.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When it will be ended by force.
    pub deadline_at: Timestamp,
    /// When to ask again, in milliseconds; absent once it has ended.
    pub poll_after_ms: Option<u64>,
    /// The WorkOrder or completion, once succeeded.
    pub result: Option<Value>,
    /// What went wrong, once failed, cancelled or interrupted.
    pub problem: Option<Problem>,
}
