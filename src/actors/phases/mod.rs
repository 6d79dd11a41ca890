//! The phases of a run, one file each in four sections: when it runs, what it does, what ends it, how it is undone.
//! Every effect is idempotent: cut short anywhere, the next look finds what is still missing.
//!
//! `resolve` has no file: reading the base is part of every look.

pub mod dispatch;
pub mod gates;
pub mod prepare;
pub mod sync_main;
pub mod sync_todo;
pub mod worktree;

use std::sync::Arc;

use super::probe::Look;
use super::run::{PhaseFault, Run};
use crate::git::{GitError, Repository};
use crate::model::phase::{Outcome, Phase, Reason};
use crate::model::problem::{Problem, ProblemCode};

/// Carries out one phase; the reason it comes back with is the one the answer gives.
pub async fn carry_out(run: &mut Run, phase: Phase, reason: Reason, found: &Look) -> Result<Reason, PhaseFault> {
    match phase {
        Phase::Resolve => Ok(reason),
        Phase::Dispatch => dispatch::carry_out(run, reason, found).await,
        Phase::Worktree => worktree::carry_out(run, reason, found).await,
        Phase::SyncMain => sync_main::carry_out(run, reason, found).await,
        Phase::SyncTodo => sync_todo::carry_out(run, found).await,
        Phase::Prepare => prepare::carry_out(run, reason, found).await,
        Phase::Gates => gates::carry_out(run, found).await,
    }
}

/// The reason a failed phase is reported with: the one it ran for, unless the failure has a name of its own.
#[must_use]
pub fn failure_reason(phase: Phase, ran_for: Reason, problem: &Problem) -> Reason {
    match (phase, problem.code) {
        (Phase::SyncMain, ProblemCode::MergeConflict) => Reason::Conflict,
        (Phase::SyncMain, ProblemCode::LocalChanges) => Reason::LocalChanges,
        (Phase::Dispatch, _) => Reason::Held,
        (Phase::Gates, ProblemCode::GateFailed | ProblemCode::DeadlineExceeded) => Reason::Failed,
        _ => ran_for,
    }
}

/// The repository's handle; a look has opened it before any phase.
fn git_of(run: &Run) -> Result<Arc<Repository>, PhaseFault> {
    run.args.repo.git_if_open().ok_or_else(|| Problem::new(ProblemCode::Internal, "the repository is not open").into())
}

/// A git failure as clients see it.
fn git_fault(what: &str, error: &GitError) -> PhaseFault {
    error.problem(what).into()
}

/// Runs something on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PhaseFault> {
    let failed = |error| PhaseFault {
        problem: Problem::new(ProblemCode::Internal, format!("blocking work failed: {error}")),
        outcome: Outcome::Error,
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)
}
