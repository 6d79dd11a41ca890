//! `sync_main`: the branch contains the base commit.
//!
//! Entry condition: the base has commits the branch lacks, the work tree is clean, the caller holds the claim, and the
//! pair is not known to conflict. Or: a sync of ours was cut short.
//! Effect: what was cut short is undone; brief files that only we wrote are put back; then the base is merged, or the
//! branch rebased or moved forward, as the base commit says.
//! Ends with: the branch containing the base; or, with nothing changed, the conflict (remembered for this pair of
//! commits) or the local files in the way.
//! Undone by: `git merge --abort` or `git rebase --abort`, on the mark "sync begun" that is set before and cleared after.

use tokio::time::Instant;

use super::{blocking, git_fault, git_of};
use crate::actors::answer;
use crate::actors::exec::RunExec;
use crate::actors::probe::Look;
use crate::actors::run::{PhaseFault, Run};
use crate::git::sync::{self, SyncOutcome};
use crate::model::ids::Oid;
use crate::model::phase::{Outcome, Reason};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::{ConflictMark, SyncMark};
use crate::store::Write;

/// Brings the base in.
pub async fn carry_out(run: &mut Run, reason: Reason, found: &Look) -> Result<Reason, PhaseFault> {
    let Some(head) = found.head.clone() else { return Ok(reason) };
    if let Some(begun) = run.memory.record().sync {
        undo(run, &begun).await?;
    }
    // The look may be seconds old; what is merged into has to be clean now.
    if !run.local_changes().await?.is_empty() {
        return Ok(Reason::LocalChanges);
    }
    put_back_brief(run, &head).await?;
    mark_begun(run, Some(SyncMark { head: head.clone(), base: found.base.oid.clone() })).await?;
    let outcome = merge(run, found, &head).await;
    if outcome.is_ok() {
        mark_begun(run, None).await?;
    }
    match outcome? {
        SyncOutcome::Merged { .. } => {
            run.checked_out = Some(Instant::now());
            run.memory.scan = None;
            Ok(reason)
        }
        SyncOutcome::Conflict { files } => Err(conflict(run, found, head, files).await?),
        SyncOutcome::InTheWay { files } => Err(in_the_way(run, &files)),
        SyncOutcome::Failed { error } => Err(git_fault(&format!("bringing the base into {}", run.args.todo), &error)),
    }
}

async fn merge(run: &Run, found: &Look, head: &Oid) -> Result<SyncOutcome, PhaseFault> {
    let git = git_of(run)?;
    let path = run.args.repo.worktree_path(&run.args.todo.slug);
    let exec = RunExec::git(run);
    let (slug, base) = (&run.args.todo.slug, &found.base);
    sync::merge_base_in(&git, &exec, &path, slug, head, &base.oid, base.config.sync_main)
        .await
        .map_err(|error| git_fault(&format!("bringing the base into {}", run.args.todo), &error))
}

async fn undo(run: &mut Run, begun: &SyncMark) -> Result<(), PhaseFault> {
    let git = git_of(run)?;
    let path = run.args.repo.worktree_path(&run.args.todo.slug);
    let exec = RunExec::git(run);
    tracing::warn!(todo = %run.args.todo, head = begun.head.as_str(), "a sync that was cut short is undone");
    sync::undo_interrupted(&git, &exec, &path, &run.args.todo.slug, &begun.head, &begun.base)
        .await
        .map_err(|error| git_fault(&format!("undoing a sync of {} that was cut short", run.args.todo), &error))?;
    mark_begun(run, None).await
}

/// Brief files that we wrote and nobody touched would block a merge that brings the same content.
async fn put_back_brief(run: &mut Run, head: &Oid) -> Result<(), PhaseFault> {
    let Some(mark) = run.memory.record().todo else { return Ok(()) };
    let (git, head) = (git_of(run)?, head.clone());
    let path = run.args.repo.worktree_path(&run.args.todo.slug);
    let before = mark.clone();
    let restored = blocking(move || git.restore_before_merge(&path, &head, &mark)).await?;
    let mark = restored.map_err(|error| git_fault("putting brief files back", &error))?;
    if mark == before {
        return Ok(());
    }
    run.memory.record_mut().todo = Some(mark.clone());
    let (todo, at) = (run.args.todo.clone(), run.args.context.clock.now());
    run.commit(vec![Write::TodoMarked { todo, mark: Some(mark), at }]).await.map_err(PhaseFault::from)
}

async fn mark_begun(run: &mut Run, mark: Option<SyncMark>) -> Result<(), PhaseFault> {
    run.memory.record_mut().sync.clone_from(&mark);
    let (todo, at) = (run.args.todo.clone(), run.args.context.clock.now());
    run.commit(vec![Write::SyncMarked { todo, mark, at }]).await.map_err(PhaseFault::from)
}

async fn conflict(run: &mut Run, found: &Look, head: Oid, files: Vec<String>) -> Result<PhaseFault, PhaseFault> {
    let mark = ConflictMark { head, base: found.base.oid.clone(), files: files.clone() };
    run.memory.record_mut().conflict = Some(mark.clone());
    let (todo, at) = (run.args.todo.clone(), run.args.context.clock.now());
    run.commit(vec![Write::ConflictMarked { todo, mark: Some(mark), at }]).await?;
    let path = run.args.repo.worktree_path(&run.args.todo.slug).display().to_string();
    Ok(PhaseFault { problem: answer::conflict(&run.args.todo, &path, found, &files), outcome: Outcome::Failure })
}

fn in_the_way(run: &Run, files: &[String]) -> PhaseFault {
    let path = run.args.repo.worktree_path(&run.args.todo.slug);
    let detail = format!(
        "the base brings files that exist in {} without being tracked: {}; nothing was changed: move or commit them, then ask again",
        path.display(),
        files.join(", ")
    );
    PhaseFault {
        problem: Problem::new(ProblemCode::LocalChanges, detail).with("files", files),
        outcome: Outcome::Failure,
    }
}
