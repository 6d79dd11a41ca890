//! The ledger.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::table::{self, OUTCOMES, labels};
use super::{Kind, Metric, STORE_BUCKETS};

const OPERATIONS: Metric = Metric {
    name: "slugline_store_operation_seconds",
    kind: Kind::Histogram,
    labels: "backend,op,outcome",
    help: "Time an operation of the ledger took, as its caller saw it.",
    buckets: STORE_BUCKETS,
};

const ERRORS: Metric = Metric {
    name: "slugline_store_errors_total",
    kind: Kind::Counter,
    labels: "kind",
    help: "Operations of the ledger that failed, by why.",
    buckets: &[],
};
const BYTES: Metric = Metric {
    name: "slugline_store_bytes",
    kind: Kind::Gauge,
    labels: "file",
    help: "Size of the ledger: the database and its write-ahead log.",
    buckets: &[],
};
const FREE: Metric = Metric {
    name: "slugline_disk_free_bytes",
    kind: Kind::Gauge,
    labels: "dir",
    help: "Room the daemon may use where its data and its worktrees are.",
    buckets: &[],
};
const SIZE: Metric = Metric {
    name: "slugline_disk_size_bytes",
    kind: Kind::Gauge,
    labels: "dir",
    help: "Size of the file systems those are on.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[OPERATIONS, ERRORS, BYTES, FREE, SIZE];

labels! {
    /// What the ledger was asked to do.
    StoreOp {
        /// Commit a batch.
        Commit = "commit",
        /// Read a view.
        Read = "read",
    }
}
labels! {
    /// Why an operation failed.
    StoreFault {
        /// Too many waited.
        Busy = "busy",
        /// The disk is full.
        Full = "full",
        /// The disk failed.
        Io = "io",
        /// The file is not what was written.
        Corrupt = "corrupt",
        /// It went against what was there.
        Conflict = "conflict",
        /// The ledger is not open.
        Closed = "closed",
    }
}
labels! {
    /// A file of the ledger.
    StoreFile {
        /// The database.
        Db = "db",
        /// What was committed and is not in it yet.
        Wal = "wal",
    }
}
labels! {
    /// A directory of the daemon.
    Dir {
        /// The ledger, logs, dumps.
        Data = "data",
        /// The worktrees.
        Worktrees = "worktrees",
    }
}

struct Tables {
    operations: Vec<[Histogram; 2]>,
    errors: Vec<Counter>,
    bytes: Vec<Gauge>,
    free: Vec<Gauge>,
    size: Vec<Gauge>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let by_dir = |metric: &Metric| Dir::ALL.iter().map(|dir| table::gauge(metric, &[dir.as_str()])).collect();
    let operations =
        |op: &StoreOp| OUTCOMES.map(|outcome| table::histogram(&OPERATIONS, &["sqlite", op.as_str(), outcome]));
    Tables {
        operations: StoreOp::ALL.iter().map(operations).collect(),
        errors: StoreFault::ALL.iter().map(|kind| table::counter(&ERRORS, &[kind.as_str()])).collect(),
        bytes: StoreFile::ALL.iter().map(|file| table::gauge(&BYTES, &[file.as_str()])).collect(),
        free: by_dir(&FREE),
        size: by_dir(&SIZE),
    }
});

pub(super) fn create() {
    LazyLock::force(&TABLES);
}

/// An operation of the ledger ended, for this reason when not well.
pub fn operation_finished(op: StoreOp, fault: Option<StoreFault>, took: Duration) {
    TABLES.operations[op as usize][usize::from(fault.is_some())].record(took.as_secs_f64());
    if let Some(fault) = fault {
        TABLES.errors[fault as usize].increment(1);
    }
}

/// A file of the ledger has so many bytes.
#[expect(clippy::cast_precision_loss, reason = "sizes of files")]
pub fn file_has(file: StoreFile, bytes: u64) {
    TABLES.bytes[file as usize].set(bytes as f64);
}

/// There is so much room where a directory is.
#[expect(clippy::cast_precision_loss, reason = "sizes of disks")]
pub fn disk_has(dir: Dir, free: u64, size: u64) {
    TABLES.free[dir as usize].set(free as f64);
    TABLES.size[dir as usize].set(size as f64);
}
