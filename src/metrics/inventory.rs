//! Worktrees: how they are looked at and watched.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::table::{self, labels};
use super::{Kind, Metric, PHASE_BUCKETS};

const WORKTREES: Metric = Metric {
    name: "slugline_worktrees",
    kind: Kind::Gauge,
    labels: "state",
    help: "Worktrees of the repositories somebody looks at, by what is known of them.",
    buckets: &[],
};
const SCANS: Metric = Metric {
    name: "slugline_worktree_scans_total",
    kind: Kind::Counter,
    labels: "outcome",
    help: "Looks at the files of a worktree, by how they ended.",
    buckets: &[],
};
const SCAN_TIME: Metric = Metric {
    name: "slugline_worktree_scan_seconds",
    kind: Kind::Histogram,
    labels: "",
    help: "Time a look at the files of a worktree took.",
    buckets: PHASE_BUCKETS,
};
const SURVEYS: Metric = Metric {
    name: "slugline_worktree_surveys_total",
    kind: Kind::Counter,
    labels: "",
    help: "Looks at the worktree registry, HEADs and refs of a repository.",
    buckets: &[],
};
const WATCHES: Metric = Metric {
    name: "slugline_watches",
    kind: Kind::Gauge,
    labels: "",
    help: "Directories the system tells changes of.",
    buckets: &[],
};
const OVERFLOWS: Metric = Metric {
    name: "slugline_watch_overflows_total",
    kind: Kind::Counter,
    labels: "",
    help: "Times the system had more changes to tell than it could, after which everything is looked at again.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[WORKTREES, SCANS, SCAN_TIME, SURVEYS, WATCHES, OVERFLOWS];

labels! {
    /// How a look at a worktree's files ended.
    ScanOutcome {
        /// Counted here.
        Counted = "counted",
        /// Counted by git.
        Git = "git",
        /// It failed.
        Error = "error",
        /// Nobody wanted it any more.
        Cancelled = "cancelled",
        /// It took too long.
        Timeout = "timeout",
    }
}
labels! {
    /// What is known of a worktree.
    RowLabel {
        /// All of it.
        Fresh = "fresh",
        /// Not all of it, or no longer.
        Stale = "stale",
        /// The last look failed.
        Error = "error",
        /// Its directory is not there.
        Missing = "missing",
    }
}

struct Tables {
    worktrees: Vec<Gauge>,
    scans: Vec<Counter>,
    scan_time: Histogram,
    surveys: Counter,
    watches: Gauge,
    overflows: Counter,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    worktrees: RowLabel::ALL.iter().map(|label| table::gauge(&WORKTREES, &[label.as_str()])).collect(),
    scans: ScanOutcome::ALL.iter().map(|outcome| table::counter(&SCANS, &[outcome.as_str()])).collect(),
    scan_time: table::histogram(&SCAN_TIME, &[]),
    surveys: table::counter(&SURVEYS, &[]),
    watches: table::gauge(&WATCHES, &[]),
    overflows: table::counter(&OVERFLOWS, &[]),
});

pub(super) fn create() {
    LazyLock::force(&TABLES);
}

/// A look at a worktree's files ended.
pub fn scanned(outcome: ScanOutcome, took: Duration) {
    TABLES.scans[outcome as usize].increment(1);
    TABLES.scan_time.record(took.as_secs_f64());
}

/// A look at a repository's registry and refs was made.
pub fn surveyed() {
    TABLES.surveys.increment(1);
}

/// So many more, or fewer, worktrees are in this state.
pub fn worktrees_changed(label: RowLabel, by: f64) {
    TABLES.worktrees[label as usize].increment(by);
}

/// So many directories are watched.
pub fn watches_are(count: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a count of directories")]
    TABLES.watches.set(count as f64);
}

/// The system had more changes to tell than it could.
pub fn overflowed() {
    TABLES.overflows.increment(1);
}
