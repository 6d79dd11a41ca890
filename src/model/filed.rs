//! What people and the daemon add to a repository's todos beside its base branch: todos that were filed, and
//! dependencies that were set.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Lane, Slug};
use super::time::Timestamp;

/// Bytes of a filed todo's brief.
pub const BRIEF_BYTES_MAX: usize = 32 * 1024;
/// Todos that may be filed per repository, done ones included.
pub const FILED_MAX: usize = 10_000;
/// Todos another one may come after.
pub const AFTER_MAX: usize = 1_000;

/// The body of `POST /todos/{repo}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTodo {
    /// Its name, which no other todo of the repository has.
    pub slug: Slug,
    /// What to do, for the worker.
    #[serde(default)]
    #[schemars(length(max = BRIEF_BYTES_MAX))]
    pub brief: String,
    /// The only lane it is offered to; any when left out.
    #[serde(default)]
    pub lane: Option<Lane>,
    /// Todos that have to be done first.
    #[serde(default)]
    #[schemars(length(max = AFTER_MAX))]
    pub after: Vec<Slug>,
    /// Higher is offered first.
    #[serde(default)]
    pub priority: i64,
}

/// What a remediation todo is to mend: there is one per lane, fingerprint and generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remedy {
    /// The lane that paused. It is not offered the todo: a lane does not mend itself.
    pub lane: Lane,
    /// What repeated there.
    pub fingerprint: String,
    /// In which of its generations.
    pub generation: u64,
}

/// A todo that is in the ledger and not on the base branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filed {
    /// What was asked for.
    pub todo: NewTodo,
    /// What it mends, when the daemon filed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// When it was filed.
    pub at: Timestamp,
}

/// All that was added to one repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Additions {
    /// Filed todos.
    pub filed: BTreeMap<Slug, Filed>,
    /// Dependencies that take the place of those on the base.
    pub after: BTreeMap<Slug, Vec<Slug>>,
}
