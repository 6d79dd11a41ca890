//! git operations and the locks around them.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::Histogram;

use super::table::{self, labels};
use super::{Kind, Metric, WAIT_BUCKETS};

const OPERATIONS: Metric = Metric {
    name: "slugline_git_operation_seconds",
    kind: Kind::Histogram,
    labels: "op,backend,outcome",
    help: "Time a git command line took.",
    buckets: WAIT_BUCKETS,
};
const LOCK_WAIT: Metric = Metric {
    name: "slugline_git_lock_wait_seconds",
    kind: Kind::Histogram,
    labels: "lock",
    help: "Time a run waited for its worktree, or for being the one writer of its repository's registry.",
    buckets: WAIT_BUCKETS,
};

pub(super) const ALL: &[Metric] = &[OPERATIONS, LOCK_WAIT];

/// The operations there are; any other is counted as `other`.
const OPS: [&str; 13] = [
    "worktree_add",
    "branch_delete",
    "reset_index",
    "checkout_index",
    "read_tree",
    "index_refresh",
    "merge",
    "rebase",
    "merge_abort",
    "rebase_abort",
    "fetch",
    "status",
    "other",
];

labels! {
    /// What is waited for.
    LockKind {
        /// Being the one writer of a repository's registry.
        Repo = "repo",
        /// Being the one run in a worktree.
        Worktree = "worktree",
    }
}

struct Tables {
    operations: Vec<[Histogram; 2]>,
    lock_wait: Vec<Histogram>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    operations: OPS
        .map(|op| ["ok", "error"].map(|outcome| table::histogram(&OPERATIONS, &[op, "cli", outcome])))
        .into(),
    lock_wait: LockKind::ALL.iter().map(|lock| table::histogram(&LOCK_WAIT, &[lock.as_str()])).collect(),
});

pub(super) fn create() {
    LazyLock::force(&TABLES);
}

/// A git command line ended.
pub fn operation_finished(op: &str, ended_well: bool, took: Duration) {
    let index = OPS.iter().position(|known| *known == op).unwrap_or(OPS.len() - 1);
    TABLES.operations[index][usize::from(!ended_well)].record(took.as_secs_f64());
}

/// A lock was got, or given up.
pub fn lock_waited(lock: LockKind, waited: Duration) {
    TABLES.lock_wait[lock as usize].record(waited.as_secs_f64());
}
