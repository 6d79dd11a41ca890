//! Phases, runs and the single-flight.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram};

use super::table::{self, labels};
use super::{Kind, Metric, PHASE_BUCKETS};
use crate::model::phase::{Decision, Outcome, Phase, Reason};

const DURATION: Metric = Metric {
    name: "slugline_phase_duration_seconds",
    kind: Kind::Histogram,
    labels: "phase,outcome",
    help: "Time a phase took when it was carried out, waits for locks left out; skips are not observed.",
    buckets: PHASE_BUCKETS,
};
const DECISIONS: Metric = Metric {
    name: "slugline_phase_decisions_total",
    kind: Kind::Counter,
    labels: "phase,decision,reason",
    help: "Decisions about phases, by reason.",
    buckets: &[],
};
const ACTIVE: Metric = Metric {
    name: "slugline_phase_active",
    kind: Kind::Gauge,
    labels: "phase",
    help: "Phases being carried out now.",
    buckets: &[],
};
const LAST_SUCCESS: Metric = Metric {
    name: "slugline_phase_last_success_timestamp_seconds",
    kind: Kind::Gauge,
    labels: "phase",
    help: "When a phase last ended well, in seconds since 1970; 0 when it never has.",
    buckets: &[],
};
const RUN: Metric = Metric {
    name: "slugline_run_duration_seconds",
    kind: Kind::Histogram,
    labels: "outcome,temperature",
    help: "Time from accepting a work call to its answer being ready; cold when something had to run.",
    buckets: PHASE_BUCKETS,
};
const WAITERS: Metric = Metric {
    name: "slugline_singleflight_waiters",
    kind: Kind::Gauge,
    labels: "op",
    help: "Work calls that wait for a run now.",
    buckets: &[],
};
const FLIGHT: Metric = Metric {
    name: "slugline_singleflight_calls_total",
    kind: Kind::Counter,
    labels: "op,role",
    help: "Work calls that led a run or joined one.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[RUN, DURATION, DECISIONS, ACTIVE, LAST_SUCCESS, FLIGHT, WAITERS];

labels! {
    /// Whether a call found everything as it should be.
    Temperature {
        /// Something had to run.
        Cold = "cold",
        /// Nothing had to.
        Warm = "warm",
    }
}
labels! {
    /// How a call came to its run.
    FlightRole {
        /// It started the run.
        Leader = "leader",
        /// The run was on.
        Joined = "joined",
    }
}

struct Tables {
    durations: Vec<Vec<Histogram>>,
    decisions: Vec<Vec<Vec<Option<Counter>>>>,
    active: Vec<Gauge>,
    last_success: Vec<Gauge>,
    runs: Vec<Vec<Histogram>>,
    flights: Vec<Counter>,
    waiters: Gauge,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    durations: Phase::ALL
        .map(|phase| {
            Outcome::ALL.map(|outcome| table::histogram(&DURATION, &[phase.as_str(), outcome.as_str()])).into()
        })
        .into(),
    decisions: Phase::ALL.map(decisions_of).into(),
    active: Phase::ALL.map(|phase| table::gauge(&ACTIVE, &[phase.as_str()])).into(),
    last_success: Phase::ALL.map(|phase| table::gauge(&LAST_SUCCESS, &[phase.as_str()])).into(),
    runs: Outcome::ALL
        .map(|outcome| {
            Temperature::ALL
                .iter()
                .map(|temperature| table::histogram(&RUN, &[outcome.as_str(), temperature.as_str()]))
                .collect()
        })
        .into(),
    flights: FlightRole::ALL.iter().map(|role| table::counter(&FLIGHT, &["work", role.as_str()])).collect(),
    waiters: table::gauge(&WAITERS, &["work"]),
});

/// One counter for every reason the phase can have, by decision and reason.
fn decisions_of(phase: Phase) -> Vec<Vec<Option<Counter>>> {
    let counter = |decision: Decision, reason: Reason| {
        phase
            .reasons()
            .contains(&reason)
            .then(|| table::counter(&DECISIONS, &[phase.as_str(), decision.as_str(), reason.as_str()]))
    };
    Decision::ALL.map(|decision| Reason::ALL.iter().map(|&reason| counter(decision, reason)).collect()).into()
}

pub(super) fn create() {
    LazyLock::force(&TABLES);
}

/// A phase was decided about.
pub fn phase_decided(phase: Phase, decision: Decision, reason: Reason) {
    if let Some(counter) = &TABLES.decisions[phase as usize][decision as usize][reason as usize] {
        counter.increment(1);
    }
}

/// A phase was carried out.
pub fn phase_finished(phase: Phase, outcome: Outcome, took: Duration) {
    TABLES.durations[phase as usize][outcome as usize].record(took.as_secs_f64());
    if outcome == Outcome::Success {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        TABLES.last_success[phase as usize].set(now.as_secs_f64());
    }
}

/// A phase begins to be carried out.
pub fn phase_started(phase: Phase) {
    TABLES.active[phase as usize].increment(1.0);
}

/// A phase is over, however it ended.
pub fn phase_ended(phase: Phase) {
    TABLES.active[phase as usize].decrement(1.0);
}

/// A work call was answered, with or without a run.
pub fn run_finished(outcome: Outcome, temperature: Temperature, took: Duration) {
    TABLES.runs[outcome as usize][temperature as usize].record(took.as_secs_f64());
}

/// A work call led a run or joined one.
pub fn flight(role: FlightRole) {
    TABLES.flights[role as usize].increment(1);
}

/// A work call that waits for a run, until this is dropped.
pub struct Waiter(());

/// A work call begins to wait for a run.
#[must_use]
pub fn waits() -> Waiter {
    TABLES.waiters.increment(1.0);
    Waiter(())
}

impl Drop for Waiter {
    fn drop(&mut self) {
        TABLES.waiters.decrement(1.0);
    }
}
