//! The ledger.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::Histogram;

use super::table::{self, labels};
use super::{Kind, Metric, STORE_BUCKETS};

const OPERATIONS: Metric = Metric {
    name: "slugline_store_operation_seconds",
    kind: Kind::Histogram,
    labels: "backend,op,outcome",
    help: "Time an operation of the ledger took, as its caller saw it.",
    buckets: STORE_BUCKETS,
};

pub(super) const ALL: &[Metric] = &[OPERATIONS];

labels! {
    /// What the ledger was asked to do.
    StoreOp {
        /// Commit a batch.
        Commit = "commit",
    }
}

static TABLE: LazyLock<Vec<[Histogram; 2]>> = LazyLock::new(|| {
    StoreOp::ALL
        .iter()
        .map(|op| ["ok", "error"].map(|outcome| table::histogram(&OPERATIONS, &["sqlite", op.as_str(), outcome])))
        .collect()
});

pub(super) fn create() {
    LazyLock::force(&TABLE);
}

/// An operation of the ledger ended.
pub fn operation_finished(op: StoreOp, ended_well: bool, took: Duration) {
    TABLE[op as usize][usize::from(!ended_well)].record(took.as_secs_f64());
}
