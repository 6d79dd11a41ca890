//! From what was found and decided to what a caller is told.

use std::sync::Arc;
use std::time::Duration;

use super::probe::{Look, Memory};
use super::repo::Repo;
use super::slug::WorkCall;
use crate::git::ForeignReason;
use crate::model::claim::Claim;
use crate::model::ids::TodoKey;
use crate::model::phase::{Phase, PhaseReport};
use crate::model::plan::Plan;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::Stage;
use crate::model::work_order::{ClaimView, NextStep, WorkOrder, WorktreeView};

/// A slug that needs nothing.
pub struct Settled<'a> {
    /// What was found.
    pub found: &'a Look,
    /// What was decided.
    pub plan: &'a Plan,
    /// The caller's claim.
    pub claim: &'a Claim,
}

/// Milliseconds of a duration, as answers give them: whole microseconds.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The report of every phase of a plan that runs nothing.
#[must_use]
pub fn reports(plan: &Plan, found: &Look) -> Vec<PhaseReport> {
    plan.phases
        .iter()
        .map(|decided| PhaseReport {
            phase: decided.phase,
            decision: decided.decision,
            reason: decided.reason,
            duration_ms: ms(found.took[decided.phase as usize]),
        })
        .collect()
}

/// The answer to a call for which nothing had to run.
#[must_use]
pub fn settled(
    todo: &TodoKey,
    repo: &Arc<Repo>,
    settled: &Settled<'_>,
    memory: &Memory,
    stage: Stage,
    call: &WorkCall,
    waited: Duration,
) -> WorkOrder {
    let Settled { found, plan, claim } = settled;
    let mut order = order(todo, repo, found, memory, stage, claim);
    order.claim = ClaimView::of(claim, call.granted.unwrap_or(true));
    order.phases = reports(plan, found);
    order.queued_ms = ms(waited);
    order.total_ms = ms(call.accepted.elapsed());
    order
}

/// A WorkOrder without phases and times.
#[must_use]
pub fn order(
    todo: &TodoKey,
    repo: &Arc<Repo>,
    found: &Look,
    memory: &Memory,
    stage: Stage,
    claim: &Claim,
) -> WorkOrder {
    let (head, base_oid) = (found.head.clone().unwrap_or_else(|| found.base.oid.clone()), found.base.oid.clone());
    let scan = memory.scan.as_ref();
    WorkOrder {
        repo: todo.repo.clone(),
        slug: todo.slug.clone(),
        lane: claim.lane.clone(),
        stage,
        worktree: WorktreeView {
            path: repo.worktree_path(&todo.slug).display().to_string(),
            branch: todo.slug.to_string(),
            head,
            base: repo.git_if_open().map_or_else(String::new, |git| git.base_branch().to_owned()),
            base_oid,
            dirty: scan.is_some_and(|scan| scan.dirty),
            dirty_checked_at: scan.map_or(claim.granted_at, |scan| scan.at),
        },
        brief: found
            .base
            .briefs
            .get(&todo.slug)
            .map(|brief| brief.files.iter().map(|file| file.path.clone()).collect())
            .unwrap_or_default(),
        claim: ClaimView::of(claim, false),
        operation: memory.record.as_ref().and_then(|record| record.last_operation.clone()),
        phases: Vec::new(),
        queued_ms: 0.0,
        total_ms: 0.0,
        next: next_steps(todo),
    }
}

/// What a worker can do with the todo it holds.
fn next_steps(todo: &TodoKey) -> Vec<NextStep> {
    let step = |action: &str, method: &str, path: String| NextStep {
        action: action.to_owned(),
        method: method.to_owned(),
        path,
    };
    vec![
        step("work_again", "POST", "/todos/work".to_owned()),
        step("look", "GET", format!("/todos/{}/{}", todo.repo, todo.slug)),
    ]
}

/// The problem of a plan that cannot go on at this phase.
#[must_use]
pub fn cannot(phase: Phase, todo: &TodoKey, repo: &Arc<Repo>, found: &Look, memory: &Memory) -> Problem {
    let path = repo.worktree_path(&todo.slug);
    match phase {
        Phase::Worktree => foreign(todo, &path, found.foreign.as_ref()),
        Phase::SyncMain => {
            let files = memory.record().conflict.map(|known| known.files).unwrap_or_default();
            conflict(todo, &path.display().to_string(), found, &files)
        }
        Phase::Resolve | Phase::Prepare | Phase::SyncTodo | Phase::Gates | Phase::Dispatch => {
            Problem::new(ProblemCode::Internal, format!("{todo} stopped at {} without a reason", phase.as_str()))
        }
    }
}

fn foreign(todo: &TodoKey, path: &std::path::Path, reason: Option<&ForeignReason>) -> Problem {
    let shown = path.display();
    let what = reason.map_or_else(|| "something else stands there".to_owned(), ToString::to_string);
    let detail = format!(
        "the worktree of {todo} belongs at {shown}, but {what}; move it away and ask again, nothing was touched"
    );
    Problem::new(ProblemCode::WorktreeForeign, detail).with("path", shown.to_string())
}

/// The problem of a branch the base does not merge into.
#[must_use]
pub fn conflict(todo: &TodoKey, path: &str, found: &Look, files: &[String]) -> Problem {
    let detail = match files {
        [] => format!(
            "the branch of {todo} has commits of its own, so it cannot be moved forward to {}; merge or rebase it in {path}, then ask again",
            found.base.oid
        ),
        _ => format!(
            "base {} does not merge into the branch of {todo}: {}; nothing was changed: merge it in {path}, commit, then ask again",
            found.base.oid,
            files.join(", ")
        ),
    };
    Problem::new(ProblemCode::MergeConflict, detail)
        .with("files", files)
        .with("base_oid", found.base.oid.as_str())
        .with("worktree", path)
}
