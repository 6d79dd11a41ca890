//! Claims, leases, lanes and failures.

use std::sync::LazyLock;

use metrics::{Counter, Gauge, Histogram};

use super::table::{self, labels};
use super::{Kind, Metric};
use crate::model::desk::Change;
use crate::model::event::EventKind;
use crate::model::failure::FailureSource;
use crate::model::lane::Gate;
use crate::model::todo::{Ending, How, Stage};

const WORK_ITEMS: Metric = Metric {
    name: "slugline_work_items",
    kind: Kind::Gauge,
    labels: "state",
    help: "Todos of the repositories whose base was read, by stage.",
    buckets: &[],
};
const OLDEST_READY: Metric = Metric {
    name: "slugline_work_oldest_ready_timestamp_seconds",
    kind: Kind::Gauge,
    labels: "",
    help: "Since when the oldest todo that could be claimed has been seen to wait, in seconds since 1970; 0 when none waits.",
    buckets: &[],
};
const ACTIVE: Metric = Metric {
    name: "slugline_claims_active",
    kind: Kind::Gauge,
    labels: "",
    help: "Claims that have not ended.",
    buckets: &[],
};
const HOLD: Metric = Metric {
    name: "slugline_claim_hold_seconds",
    kind: Kind::Histogram,
    labels: "outcome",
    help: "Time from the grant of a claim to its end, by how it ended.",
    buckets: HOLD_BUCKETS,
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
const BREAKERS: Metric = Metric {
    name: "slugline_breakers",
    kind: Kind::Gauge,
    labels: "scope,state",
    help: "Lanes that are open (closed), opening again (half_open) or paused (open), in the words of circuit breakers.",
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
    &[WORK_ITEMS, OLDEST_READY, ACTIVE, HOLD, RENEWALS, EXPIRATIONS, FENCED, PARKED, FAILURES, BREAKERS, TRANSITIONS];

/// Buckets of claims, in seconds: from a minute to a day.
const HOLD_BUCKETS: &[f64] = &[
    60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 2_700.0, 3_600.0, 5_400.0, 7_200.0, 14_400.0, 28_800.0, 43_200.0,
    86_400.0,
];
/// The words of breakers for lanes that are open, open again step by step, and are paused.
const GATES: [&str; 3] = ["closed", "half_open", "open"];

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
    work_items: Vec<Gauge>,
    oldest_ready: Gauge,
    active: Gauge,
    hold: Vec<Histogram>,
    renewals: Vec<Counter>,
    expirations: Counter,
    fenced: Vec<Counter>,
    parked: Counter,
    failures: Vec<Counter>,
    breakers: [Gauge; 3],
    transitions: [Counter; 3],
}

static HELD: LazyLock<Held> = LazyLock::new(|| Held {
    work_items: Stage::ALL.iter().map(|stage| table::gauge(&WORK_ITEMS, &[stage.as_str()])).collect(),
    oldest_ready: table::gauge(&OLDEST_READY, &[]),
    active: table::gauge(&ACTIVE, &[]),
    hold: How::ALL.iter().map(|how| table::histogram(&HOLD, &[how.as_str()])).collect(),
    renewals: RenewalResult::ALL.iter().map(|result| table::counter(&RENEWALS, &[result.as_str()])).collect(),
    expirations: table::counter(&EXPIRATIONS, &[]),
    fenced: FencedOp::ALL.iter().map(|op| table::counter(&FENCED, &[op.as_str()])).collect(),
    parked: table::counter(&PARKED, &[]),
    failures: FailureSource::ALL.iter().map(|source| table::counter(&FAILURES, &[source.as_str()])).collect(),
    breakers: GATES.map(|state| table::gauge(&BREAKERS, &["lane", state])),
    transitions: GATES.map(|to| table::counter(&TRANSITIONS, &["lane", to])),
});

pub(super) fn create() {
    LazyLock::force(&HELD);
}

/// Todos by stage, and since when the oldest that could be claimed waits, in seconds since 1970.
#[expect(clippy::cast_precision_loss, reason = "a number of todos")]
pub fn work_is(stages: &[usize; Stage::ALL.len()], oldest_ready_seconds: Option<f64>) {
    for (gauge, count) in HELD.work_items.iter().zip(stages) {
        gauge.set(*count as f64);
    }
    HELD.oldest_ready.set(oldest_ready_seconds.unwrap_or(0.0));
}

/// The gates of all lanes.
pub fn breakers_are<'a>(gates: impl Iterator<Item = &'a Gate>) {
    let mut counts = [0.0; 3];
    gates.for_each(|gate| counts[position(gate)] += 1.0);
    HELD.breakers.iter().zip(counts).for_each(|(gauge, count)| gauge.set(count));
}

/// Where a gate stands in [`GATES`].
const fn position(gate: &Gate) -> usize {
    match gate {
        Gate::Open => 0,
        Gate::Probing { .. } => 1,
        Gate::Paused(_) => 2,
    }
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

fn held_seconds(ending: &Ending) -> f64 {
    let granted = ending.granted_at.unwrap_or(ending.at);
    (ending.at.as_seconds() - granted.as_seconds()).max(0.0)
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
                                HELD.hold[ending.how as usize].record(held_seconds(ending));
                            }
                        }
                        _ => {}
                    }
                }
            }
            Change::Lane { state, event: Some(_) } => {
                HELD.transitions[position(&state.gate)].increment(1);
            }
            Change::Failed(failure) => HELD.failures[failure.source as usize].increment(1),
            Change::Parked { .. } => HELD.parked.increment(1),
            Change::Lane { event: None, .. }
            | Change::Filed { .. }
            | Change::AfterSet { .. }
            | Change::Awake(_)
            | Change::TokensAbove(_) => {}
        }
    }
}
