//! `gates`: the committed tree has been judged.
//!
//! Entry condition: the work tree is clean and at least one gate of the base commit has no passing verdict for this
//! tree, definition and environment.
//! Effect: those gates run in the worktree, one after the other, up to the first that does not pass.
//! Ends with: a verdict per gate that ran, in the ledger. A passing one holds for the same key; a failing one is
//! never used again. If somebody changed the work tree meanwhile, nothing is recorded.
//! Undone by: nothing; gates without a verdict are due again.

use std::time::Duration;

use crate::actors::answer::ms;
use crate::actors::exec::RunExec;
use crate::actors::probe::Look;
use crate::actors::run::{PhaseFault, Run};
use crate::git::ChangeKind;
use crate::model::ids::Oid;
use crate::model::phase::{Outcome, Phase, Reason};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::{Verdict, VerdictKey};
use crate::model::repo_config::GateConfig;
use crate::process::{Exit, ExitOutcome};
use crate::store::Write;

/// Runs the gates that are due.
pub async fn carry_out(run: &mut Run, found: &Look) -> Result<Reason, PhaseFault> {
    let Some(head) = found.head.clone() else { return Ok(Reason::NotDue) };
    if !run.local_changes().await?.is_empty() {
        return Ok(Reason::NotDue);
    }
    for (gate, key) in found.base.config.gates.iter().zip(&found.gate_keys) {
        let passed = run.memory.verdicts.get(key).copied().unwrap_or(false);
        if !(passed && found.base.config.reuse_passed_gates) {
            judge(run, &head, gate, key).await?;
        }
    }
    Ok(Reason::Passed)
}

async fn judge(run: &mut Run, head: &Oid, gate: &GateConfig, key: &VerdictKey) -> Result<(), PhaseFault> {
    let exec = RunExec::command(run, Phase::Gates);
    let exit = exec.shell(&gate.command, Duration::from_millis(gate.timeout_ms)).await?;
    if exit.outcome == ExitOutcome::Cancelled {
        return exec.judge(&gate.command, &gate.name, ProblemCode::GateFailed, &exit);
    }
    let passed = exit.outcome == ExitOutcome::Code(0);
    if passed && still(run, head).await.is_err() {
        let detail = format!(
            "gate {} passed, but the work tree was changed while it ran, so the verdict does not count; commit and ask again",
            gate.name
        );
        return Err(PhaseFault {
            problem: Problem::new(ProblemCode::GateFailed, detail).with("gate", gate.name.as_str()),
            outcome: Outcome::Failure,
        });
    }
    record(run, head, gate, key, &exit, passed).await?;
    exec.judge(&gate.command, &gate.name, ProblemCode::GateFailed, &exit)
}

/// Whether the commit that was judged is still the branch's, with its tracked files as committed.
async fn still(run: &Run, head: &Oid) -> Result<(), ()> {
    let git = run.args.repo.git_if_open().ok_or(())?;
    let slug = run.args.todo.slug.clone();
    let now = tokio::task::spawn_blocking(move || git.branch_oid(&slug)).await.map_err(|_| ())?;
    if now.as_ref() != Some(head) {
        return Err(());
    }
    // Files a gate leaves behind are its own affair; what it was run on has to be what is committed.
    let changes = run.local_changes().await.map_err(|_| ())?;
    if changes.iter().any(|change| change.kind == ChangeKind::Tracked) { Err(()) } else { Ok(()) }
}

async fn record(
    run: &mut Run,
    head: &Oid,
    gate: &GateConfig,
    key: &VerdictKey,
    exit: &Exit,
    passed: bool,
) -> Result<(), PhaseFault> {
    let verdict = Verdict {
        key: key.clone(),
        todo: run.args.todo.clone(),
        gate: gate.name.clone(),
        passed,
        exit_code: match exit.outcome {
            ExitOutcome::Code(code) => Some(code),
            _ => None,
        },
        duration_ms: ms(exit.duration),
        commit: head.clone(),
        operation: run.handle.id.clone(),
        at: run.args.context.clock.now(),
    };
    run.memory.verdicts.insert(key.clone(), passed);
    run.commit(vec![Write::VerdictRecorded(verdict)]).await.map_err(PhaseFault::from)
}
