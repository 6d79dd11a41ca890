//! git operations and the locks around them.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram};

use super::table::{self, OUTCOMES, labels};
use super::{Kind, Metric, WAIT_BUCKETS};

const OPERATIONS: Metric = Metric {
    name: "slugline_git_operation_seconds",
    kind: Kind::Histogram,
    labels: "op,backend,outcome",
    help: "Time an operation on a repository took: a git command line, or a look by libgit2 that goes through objects.",
    buckets: WAIT_BUCKETS,
};
const LOCK_WAIT: Metric = Metric {
    name: "slugline_git_lock_wait_seconds",
    kind: Kind::Histogram,
    labels: "lock",
    help: "Time a run waited for its worktree, or for being the one writer of its repository's registry.",
    buckets: WAIT_BUCKETS,
};

const CACHE: Metric = Metric {
    name: "slugline_git_cache_requests_total",
    kind: Kind::Counter,
    labels: "cache,result",
    help: "Questions that objects answer for ever, by whether the answer was remembered.",
    buckets: &[],
};
const STALE: Metric = Metric {
    name: "slugline_git_stale_locks_total",
    kind: Kind::Counter,
    labels: "action",
    help: "Lock files git complained about, by whether one was provably nobody's and removed.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[OPERATIONS, LOCK_WAIT, CACHE, STALE];

/// The command lines there are; any other is counted as `other`.
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
    /// What is done by libgit2, in this process.
    LibraryOp {
        /// Reading what a base commit says: settings, todos, hints.
        ReadBase = "read_base",
        /// Walking two histories until they meet.
        WalkHistory = "walk_history",
        /// Merging in memory, to see whether it would conflict.
        MergeTrial = "merge_trial",
        /// Going through the files of a worktree.
        LocalChanges = "local_changes",
    }
}
labels! {
    /// What is remembered.
    Cache {
        /// What the base commit says.
        Base = "base",
        /// Commits as they are shown.
        Commits = "commits",
        /// How far commits are apart.
        Distances = "distances",
        /// Whether one commit has all of another.
        Contained = "contained",
    }
}
labels! {
    /// What was done about a lock.
    StaleLock {
        /// It was provably nobody's.
        Removed = "removed",
        /// It was not.
        Left = "left",
    }
}
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
    library: Vec<[Histogram; 2]>,
    lock_wait: Vec<Histogram>,
    caches: Vec<[Counter; 2]>,
    stale: Vec<Counter>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    operations: OPS.map(|op| OUTCOMES.map(|outcome| table::histogram(&OPERATIONS, &[op, "cli", outcome]))).into(),
    library: LibraryOp::ALL
        .iter()
        .map(|op| OUTCOMES.map(|outcome| table::histogram(&OPERATIONS, &[op.as_str(), "libgit2", outcome])))
        .collect(),
    caches: Cache::ALL
        .iter()
        .map(|cache| ["hit", "miss"].map(|result| table::counter(&CACHE, &[cache.as_str(), result])))
        .collect(),
    stale: StaleLock::ALL.iter().map(|action| table::counter(&STALE, &[action.as_str()])).collect(),
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

/// Carries out an operation of libgit2, timed.
pub fn timed<T, E>(op: LibraryOp, operation: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let begun = Instant::now();
    let result = operation();
    TABLES.library[op as usize][usize::from(result.is_err())].record(begun.elapsed().as_secs_f64());
    result
}

/// An answer was remembered, or had to be found out.
pub fn cache_asked(cache: Cache, remembered: bool) {
    TABLES.caches[cache as usize][usize::from(!remembered)].increment(1);
}

/// Something was done about a lock that git complained about.
pub fn stale_lock(action: StaleLock) {
    TABLES.stale[action as usize].increment(1);
}

/// A lock was got, or given up.
pub fn lock_waited(lock: LockKind, waited: Duration) {
    TABLES.lock_wait[lock as usize].record(waited.as_secs_f64());
}
