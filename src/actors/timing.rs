//! One log line per phase of every call, one that closes the call, and the same into the metrics.

use std::path::Path;
use std::time::Duration;

use crate::metrics::phases as metric;
use crate::metrics::phases::Temperature;
use crate::model::ids::{OperationId, TodoKey};
use crate::model::phase::{Decision, Outcome, Phase, PhaseReport};
use crate::model::work_order::WorkOrder;

/// A phase was decided about and, unless skipped, carried out.
pub fn phase_finished(todo: &TodoKey, worktree: &Path, report: &PhaseReport, operation: Option<&OperationId>) {
    tracing::info!(
        repo = todo.repo.as_str(),
        slug = todo.slug.as_str(),
        worktree = %worktree.display(),
        phase = report.phase.as_str(),
        decision = report.decision.as_str(),
        reason = report.reason.as_str(),
        duration_ms = report.duration_ms,
        operation = operation.map(OperationId::as_str),
        "phase finished"
    );
    metric::phase_decided(report.phase, report.decision, report.reason);
}

/// A phase was carried out: its duration goes to the histogram. Waiting for locks is measured apart.
pub fn phase_carried_out(phase: Phase, outcome: Outcome, took: Duration) {
    metric::phase_finished(phase, outcome, took);
}

/// A call for which nothing had to run was answered.
pub fn call_finished(todo: &TodoKey, order: &WorkOrder) {
    for report in &order.phases {
        phase_finished(todo, Path::new(&order.worktree.path), report, order.operation.as_ref());
    }
    call_closed(todo, order.operation.as_ref(), Outcome::Success, &order.phases, order.queued_ms, order.total_ms);
}

/// A call was answered, with or without a run.
pub fn call_closed(todo: &TodoKey, operation: Option<&OperationId>, outcome: Outcome, phases: &[PhaseReport], queued_ms: f64, total_ms: f64) {
    let cold = phases.iter().any(|report| report.decision == Decision::Run);
    let temperature = if cold { Temperature::Cold } else { Temperature::Warm };
    tracing::info!(
        repo = todo.repo.as_str(),
        slug = todo.slug.as_str(),
        operation = operation.map(OperationId::as_str),
        outcome = outcome.as_str(),
        temperature = temperature.as_str(),
        queued_ms,
        total_ms,
        "work finished"
    );
    metric::run_finished(outcome, temperature, Duration::from_secs_f64(total_ms / 1_000.0));
}
