//! What callers see of actors, todos and requests for work.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::{Lane, RepoName, Slug, Worker};
use super::operation::Operation;
use super::record::Stage;
use super::roadmap::FileFault;
use super::time::Timestamp;
use super::work_order::WorkOrder;

/// One actor's own view of itself; the console, `/actors` and the tests read this same view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActorView {
    /// `root`, `ledger`, `dispatcher`, `repository` or `slug`.
    pub kind: String,
    /// Unique among living actors of its kind, such as `app/fix-login`.
    pub name: String,
    /// The name of its supervisor's kind and name, `kind:name`; empty for the root.
    pub parent: String,
    /// `running`, `restarting` or `given_up`.
    pub state: String,
    /// Restarts since the daemon started.
    pub restarts: u32,
    /// Why it was last restarted.
    pub last_failure: Option<String>,
    /// Messages waiting now.
    pub mailbox: usize,
    /// The most that ever waited.
    pub mailbox_high_water: usize,
    /// What it is doing, in its own words.
    pub work: Value,
}

/// What a request for work leads to.
#[derive(Debug, Clone)]
pub enum Work {
    /// The answer.
    Done(WorkOrder),
    /// It still runs.
    Running(Operation),
}

/// Which todos to list.
#[derive(Debug, Clone, Default)]
pub struct TodoFilter {
    /// Of this repository.
    pub repo: Option<RepoName>,
    /// At this stage.
    pub stage: Option<Stage>,
    /// For this lane, or for any.
    pub lane: Option<Lane>,
}

/// A todo, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TodoView {
    /// The repository.
    pub repo: RepoName,
    /// Its name.
    pub slug: Slug,
    /// Where it is.
    pub stage: Stage,
    /// The only lane it is offered to; any when `null`.
    pub lane: Option<Lane>,
    /// Todos that have to be done first.
    pub after: Vec<Slug>,
    /// Higher is offered first.
    pub priority: i64,
    /// Whether the roadmap lists it; one that is not is given when named, never offered.
    pub listed: bool,
    /// Worktree-relative paths of the files that say what to do.
    pub brief: Vec<String>,
    /// Who holds it now.
    pub claim: Option<ClaimHolder>,
    /// What is wrong with it, with file and line; then it is given to nobody.
    pub fault: Option<FileFault>,
    /// Where its worktree is, once somebody has worked on it.
    pub worktree: Option<String>,
}

/// Who holds a todo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimHolder {
    /// The lane.
    pub lane: Lane,
    /// The process.
    pub worker: Worker,
    /// The fencing token.
    pub token: u64,
    /// From this instant on it is over.
    pub expires_at: Timestamp,
}

/// Whether work is accepted, and what speaks for and against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Whether it is.
    pub ok: bool,
    /// Every check: its name, whether it passes, and in words.
    pub checks: Vec<(String, bool, String)>,
}
