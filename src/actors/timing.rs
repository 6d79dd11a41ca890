//! One log line per phase of every call, one that closes the call, and the same into the metrics.

use std::path::Path;
use std::sync::LazyLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::metrics::phases as metric;
use crate::metrics::phases::Temperature;
use crate::metrics::spans;
use crate::model::ids::{OperationId, TodoKey};
use crate::model::phase::{Decision, Outcome, Phase, PhaseReport};
use crate::model::trace::Trace;
use crate::model::work_order::WorkOrder;

/// A phase was decided about and, unless skipped, carried out.
pub fn phase_finished(
    todo: &TodoKey,
    worktree: &Path,
    report: &PhaseReport,
    operation: Option<&OperationId>,
    trace: &Trace,
) {
    tracing::info!(
        repo = todo.repo.as_str(),
        slug = todo.slug.as_str(),
        worktree = %worktree.display(),
        phase = report.phase.as_str(),
        decision = report.decision.as_str(),
        reason = report.reason.as_str(),
        duration_ms = report.duration_ms,
        operation = operation.map(OperationId::as_str),
        trace_id = trace.trace_id(),
        "phase finished"
    );
    spans::phase_ended(trace, report);
    metric::phase_decided(report.phase, report.decision, report.reason);
}

/// A phase was carried out: its duration goes to the histogram. Waiting for locks is measured apart.
pub fn phase_carried_out(phase: Phase, outcome: Outcome, took: Duration) {
    metric::phase_finished(phase, outcome, took);
}

/// Answers that may wait to be told of. Telling one takes some twenty microseconds, so this many is a burst of a
/// quarter of a second; beyond it whoever answers tells it himself.
const WAITING_MAX: usize = 8_192;

type Told = (TodoKey, WorkOrder, Trace);

/// The thread that tells of warm answers, so that eight lines of log are on nobody's way.
static TELLER: LazyLock<Option<SyncSender<Told>>> = LazyLock::new(|| {
    let (sender, waiting) = sync_channel::<Told>(WAITING_MAX);
    let tell = move || waiting.iter().for_each(|(todo, order, trace)| tell(&todo, &order, &trace));
    std::thread::Builder::new().name("timing".to_owned()).spawn(tell).ok().map(|_| sender)
});

/// A call for which nothing had to run was answered.
pub fn call_finished(todo: &TodoKey, order: WorkOrder, trace: &Trace) {
    let told = (todo.clone(), order, trace.clone());
    let refused = match &*TELLER {
        Some(teller) => teller.try_send(told).err().map(|error| match error {
            TrySendError::Full(told) | TrySendError::Disconnected(told) => told,
        }),
        None => Some(told),
    };
    if let Some((todo, order, trace)) = refused {
        tell(&todo, &order, &trace);
    }
}

fn tell(todo: &TodoKey, order: &WorkOrder, trace: &Trace) {
    let trace = spans::below(trace);
    let operation = order.operation.as_ref();
    for report in &order.phases {
        phase_finished(todo, Path::new(&order.worktree.path), report, operation, &spans::below(&trace));
    }
    call_closed(todo, operation, Outcome::Success, &order.phases, [order.queued_ms, order.total_ms], &trace);
}

/// A call was answered, with or without a run.
pub fn call_closed(
    todo: &TodoKey,
    operation: Option<&OperationId>,
    outcome: Outcome,
    phases: &[PhaseReport],
    [queued_ms, total_ms]: [f64; 2],
    trace: &Trace,
) {
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
        trace_id = trace.trace_id(),
        "work finished"
    );
    let took = Duration::from_secs_f64(total_ms / 1_000.0);
    metric::run_finished(outcome, temperature, took);
    spans::run_ended(trace, todo, operation, outcome, took);
}
