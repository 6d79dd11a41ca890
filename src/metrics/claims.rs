//! Claims.

use std::sync::LazyLock;

use metrics::Counter;

use super::table::{self, labels};
use super::{Kind, Metric};

const CLAIMS: Metric = Metric {
    name: "slugline_claims_total",
    kind: Kind::Counter,
    labels: "result",
    help: "Requests for a claim, by what came of them.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[CLAIMS];

labels! {
    /// What came of a request for a claim.
    ClaimResult {
        /// It was granted, or held already.
        Granted = "granted",
        /// Nothing could be offered.
        Empty = "empty",
        /// Another worker holds it.
        Conflict = "conflict",
        /// The todo cannot be given to anybody.
        Invalid = "invalid",
    }
}

static COUNTERS: LazyLock<Vec<Counter>> =
    LazyLock::new(|| ClaimResult::ALL.iter().map(|result| table::counter(&CLAIMS, &[result.as_str()])).collect());

pub(super) fn create() {
    LazyLock::force(&COUNTERS);
}

/// A request for a claim was decided.
pub fn claimed(result: ClaimResult) {
    COUNTERS[result as usize].increment(1);
}
