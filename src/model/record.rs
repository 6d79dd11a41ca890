//! What the ledger remembers of a slug, beyond its claim: the marks that let a later probe skip work. Every mark is
//! invalidated before the effect it stands for starts, so a crash in between reads as "not done".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{Oid, OperationId, TodoKey};
use super::time::Timestamp;

/// Whether an effect was begun or is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkState {
    /// Begun; if nothing is running, it was cut short.
    Started,
    /// Whole.
    Done,
    /// Ended badly.
    Failed,
}

/// The worktree was made by us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorktreeMark {
    /// Begun or whole. A worktree that was only begun was never handed out.
    pub state: MarkState,
    /// When the mark was set.
    pub at: Timestamp,
}

/// The worktree was prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareMark {
    /// Begun, whole or failed.
    pub state: MarkState,
    /// Digest of the command and its declarations.
    pub definition: String,
    /// Digest of the names and contents of all inputs, taken after the run.
    pub inputs: String,
    /// Worktree-relative paths that were there after the run and must stay there.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// When the mark was set.
    pub at: Timestamp,
}

/// The brief was brought into the worktree: for every file the blob that was last brought in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TodoMark {
    /// The tree of `todos/<slug>` on the base that was last looked at; `None` when it was absent.
    pub tree: Option<Oid>,
    /// Worktree-relative path → blob last brought in.
    pub files: BTreeMap<String, Oid>,
    /// Files the base changed and the worker has edited; the worker's were kept.
    pub kept_local: Vec<String>,
}

/// This head and this base do not merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictMark {
    /// The branch's commit.
    pub head: Oid,
    /// The base's commit.
    pub base: Oid,
    /// The files in conflict.
    pub files: Vec<String>,
}

/// A merge or rebase of the base was begun by us in a clean work tree; cleared when it is whole or undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncMark {
    /// The branch's commit before it began.
    pub head: Oid,
    /// The base's commit being brought in.
    pub base: Oid,
}

/// Identity of what a gate judged. Anything that could change the verdict is part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VerdictKey {
    /// The tree of the commit that was judged.
    pub tree: Oid,
    /// Digest of the gate's name, command and time limit, as the base commit defines them.
    pub definition: String,
    /// Digest of the environment: variables passed, platform, and the prepare it ran on.
    pub environment: String,
}

/// What a gate said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What was judged.
    pub key: VerdictKey,
    /// For which todo it ran.
    pub todo: TodoKey,
    /// The gate's name.
    pub gate: String,
    /// Whether it passed.
    pub passed: bool,
    /// Its exit code; `None` when it was ended by a signal or the time limit.
    pub exit_code: Option<i32>,
    /// How long it ran, in milliseconds.
    pub duration_ms: f64,
    /// The commit it ran on.
    pub commit: Oid,
    /// Which operation ran it; its log holds the whole output.
    pub operation: OperationId,
    /// When it ended.
    pub at: Timestamp,
}

/// Everything remembered of one slug.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlugRecord {
    /// The newest operation that ended well.
    pub last_operation: Option<OperationId>,
    /// Mark of the worktree phase.
    pub worktree: Option<WorktreeMark>,
    /// Mark of the prepare phase.
    pub prepare: Option<PrepareMark>,
    /// Mark of the sync_todo phase.
    pub todo: Option<TodoMark>,
    /// Known conflict of the sync_main phase.
    pub conflict: Option<ConflictMark>,
    /// A sync_main that was begun.
    pub sync: Option<SyncMark>,
}
