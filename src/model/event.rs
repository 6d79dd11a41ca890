//! What happened, as the ledger logs it: append-only, each event names its subject.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::{Lane, TodoKey};
use super::time::Timestamp;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EventKind {
    /// A todo's stage or marks changed.
    #[serde(rename = "todo.updated")]
    TodoUpdated,
    /// A claim was granted.
    #[serde(rename = "claim.granted")]
    ClaimGranted,
    /// The lease of a claim ran out.
    #[serde(rename = "claim.expired")]
    ClaimExpired,
    /// A claim ended through its holder: it was completed or given back.
    #[serde(rename = "claim.released")]
    ClaimReleased,
    /// A lane was paused, by a person or by itself.
    #[serde(rename = "lane.paused")]
    LanePaused,
    /// A lane opens again, or is open again.
    #[serde(rename = "lane.resumed")]
    LaneResumed,
    /// An operation changed its state.
    #[serde(rename = "operation.updated")]
    OperationUpdated,
    /// A phase was carried out.
    #[serde(rename = "phase.finished")]
    PhaseFinished,
}

impl EventKind {
    /// The name used in the API and the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TodoUpdated => "todo.updated",
            Self::ClaimGranted => "claim.granted",
            Self::ClaimExpired => "claim.expired",
            Self::ClaimReleased => "claim.released",
            Self::LanePaused => "lane.paused",
            Self::LaneResumed => "lane.resumed",
            Self::OperationUpdated => "operation.updated",
            Self::PhaseFinished => "phase.finished",
        }
    }
}

/// Whom an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Subject {
    /// A todo.
    Todo(TodoKey),
    /// A lane.
    Lane {
        /// Its name.
        lane: Lane,
    },
}

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the ledger, strictly rising.
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// What kind.
    pub kind: EventKind,
    /// Whom it is about.
    #[serde(flatten)]
    pub subject: Subject,
    /// What it says.
    pub data: Value,
}
