//! Claims, leases, lanes and failures.

use std::sync::LazyLock;

use metrics::{Counter, Gauge};

use super::table::{self, labels};
use super::{Kind, Metric};
use crate::model::desk::Change;
use crate::model::event::EventKind;
use crate::model::failure::FailureSource;
use crate::model::lane::Gate;
use crate::model::todo::How;

const CLAIMS: Metric = Metric {
    name: "slugline_claims_total",
    kind: Kind::Counter,
    labels: "result",
    help: "Requests for a claim, by what came of them.",
    buckets: &[],
};
const ACTIVE: Metric = Metric {
    name: "slugline_claims_active",
    kind: Kind::Gauge,
    labels: "",
    help: "Claims that have not ended.",
    buckets: &[],
};
const ENDED: Metric = Metric {
    name: "slugline_claims_ended_total",
    kind: Kind::Counter,
    labels: "outcome",
    help: "Claims that ended, by how.",
    buckets: &[],
};
const RENEWALS: Metric = Metric {
    name: "slugline_lease_renewals_total",
    kind: Kind::Counter,
    labels: "result",
    help: "Heartbeats, by whether the claim still lived.",
    buckets: &[],
};
const EXPIRATIONS: Metric = Metric {
    name: "slugline_lease_expirations_total",
    kind: Kind::Counter,
    labels: "",
    help: "Leases that ran out.",
    buckets: &[],
};
const FENCED: Metric = Metric {
    name: "slugline_fenced_writes_total",
    kind: Kind::Counter,
    labels: "op",
    help: "Changes that were refused because their token was not the live claim's.",
    buckets: &[],
};
const PARKED: Metric = Metric {
    name: "slugline_parked_results_total",
    kind: Kind::Counter,
    labels: "",
    help: "Results that came too late to count and were kept.",
    buckets: &[],
};
const FAILURES: Metric = Metric {
    name: "slugline_failures_total",
    kind: Kind::Counter,
    labels: "source",
    help: "Failures noted, by where they were seen.",
    buckets: &[],
};
const TRANSITIONS: Metric = Metric {
    name: "slugline_breaker_transitions_total",
    kind: Kind::Counter,
    labels: "scope,to",
    help: "Lanes that were paused, began to open or were open again.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] =
    &[CLAIMS, ACTIVE, ENDED, RENEWALS, EXPIRATIONS, FENCED, PARKED, FAILURES, TRANSITIONS];

labels! {
    /// What came of a request for a claim.
    ClaimResult {
        /// It was granted, or held already.
        Granted = "granted",
        /// Nothing could be offered.
        Empty = "empty",
        /// Another worker holds it.
        Conflict = "conflict",
        /// The lane is paused or opening again.
        BreakerOpen = "breaker_open",
        /// The lane has as many claims as it may have.
        LaneFull = "lane_full",
        /// The todo cannot be given to this worker now.
        Invalid = "invalid",
    }
}

labels! {
    /// What came of a heartbeat.
    RenewalResult {
        /// The lease was carried on.
        Ok = "ok",
        /// The token was not the live claim's.
        Fenced = "fenced",
    }
}

labels! {
    /// What was refused for its token.
    FencedOp {
        /// A complete.
        Complete = "complete",
        /// A hold.
        Hold = "hold",
        /// A release.
        Release = "release",
    }
}

struct Held {
    claims: Vec<Counter>,
    active: Gauge,
    ended: Vec<Counter>,
    renewals: Vec<Counter>,
    expirations: Counter,
    fenced: Vec<Counter>,
    parked: Counter,
    failures: Vec<Counter>,
    /// closed, half_open, open: the words of breakers for open, probing and paused lanes.
    transitions: [Counter; 3],
}

static HELD: LazyLock<Held> = LazyLock::new(|| Held {
    claims: ClaimResult::ALL.iter().map(|result| table::counter(&CLAIMS, &[result.as_str()])).collect(),
    active: table::gauge(&ACTIVE, &[]),
    ended: How::ALL.iter().map(|how| table::counter(&ENDED, &[how.as_str()])).collect(),
    renewals: RenewalResult::ALL.iter().map(|result| table::counter(&RENEWALS, &[result.as_str()])).collect(),
    expirations: table::counter(&EXPIRATIONS, &[]),
    fenced: FencedOp::ALL.iter().map(|op| table::counter(&FENCED, &[op.as_str()])).collect(),
    parked: table::counter(&PARKED, &[]),
    failures: FailureSource::ALL.iter().map(|source| table::counter(&FAILURES, &[source.as_str()])).collect(),
    transitions: ["closed", "half_open", "open"].map(|to| table::counter(&TRANSITIONS, &["lane", to])),
});

pub(super) fn create() {
    LazyLock::force(&HELD);
}

/// A request for a claim was decided.
pub fn claimed(result: ClaimResult) {
    HELD.claims[result as usize].increment(1);
}

/// A heartbeat was decided.
pub fn lease_renewed(result: RenewalResult) {
    HELD.renewals[result as usize].increment(1);
}

/// So many leases ran out.
pub fn leases_expired(count: usize) {
    HELD.expirations.increment(count as u64);
}

/// A change was refused for its token.
pub fn write_fenced(op: FencedOp) {
    HELD.fenced[op as usize].increment(1);
}

/// So many claims have not ended.
#[expect(clippy::cast_precision_loss, reason = "a number of claims")]
pub fn claims_are(count: usize) {
    HELD.active.set(count as f64);
}

/// What was decided, told from what is written of it.
pub fn observe(changes: &[Change]) {
    for change in changes {
        match change {
            Change::Todo { state, events, .. } => {
                for (kind, _) in events {
                    match kind {
                        EventKind::ClaimGranted => HELD.active.increment(1.0),
                        EventKind::ClaimExpired | EventKind::ClaimReleased => {
                            HELD.active.decrement(1.0);
                            if let Some(ending) = state.endings.last() {
                                HELD.ended[ending.how as usize].increment(1);
                            }
                        }
                        _ => {}
                    }
                }
            }
            Change::Lane { state, event: Some(_) } => {
                let to = match state.gate {
                    Gate::Open => 0,
                    Gate::Probing { .. } => 1,
                    Gate::Paused(_) => 2,
                };
                HELD.transitions[to].increment(1);
            }
            Change::Failed(failure) => HELD.failures[failure.source as usize].increment(1),
            Change::Parked { .. } => HELD.parked.increment(1),
            Change::Lane { event: None, .. } | Change::Filed { .. } | Change::AfterSet { .. } | Change::Awake(_) => {}
        }
    }
}
