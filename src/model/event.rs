//! What happened, as the ledger logs it: append-only, each event names its subject.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::TodoKey;
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
            Self::OperationUpdated => "operation.updated",
            Self::PhaseFinished => "phase.finished",
        }
    }
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
    pub todo: TodoKey,
    /// What it says.
    pub data: Value,
}
