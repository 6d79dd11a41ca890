//! `worktree`: the linked worktree exists, registered, on its branch.
//!
//! Entry condition: it is absent, its directory or registration is gone, or it was only half made.
//! Effect: it is created from the base, attached to its branch, linked again or restored from its index. A half-made
//! one was never given to anybody: if it turns out whole it is kept, otherwise it is moved aside, never deleted. git makes
//! it in a directory of ours beside the worktrees; whole, it is moved to its place.
//! Ends with: the mark "made" in the ledger. The mark "begun" is there before the first effect.
//! Undone by: nothing; what was made is found by the next look.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::actors::exclusion::{not_kept, private_parent};
use crate::actors::exec::RunExec;
use crate::actors::phases::{blocking, git_fault, git_of};
use crate::actors::probe::Look;
use crate::actors::run::{PhaseFault, Run};
use crate::git::{self, Place};
use crate::metrics::git::{self as metric, LockKind};
use crate::model::phase::Reason;
use crate::model::plan::WorktreeState;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::{MarkState, WorktreeMark};
use crate::store::Write;

/// git compares file times in whole seconds, so an index written in the same second as its files makes every later
/// lock-free status read all of them again. A refresh helps once that second is over.
const RACY_FOR: Duration = Duration::from_millis(1_100);

/// Makes, attaches, links or restores the worktree.
pub async fn carry_out(run: &mut Run, reason: Reason, found: &Look) -> Result<Reason, PhaseFault> {
    let path = run.args.repo.worktree_path(&run.args.todo.slug);
    refuse_lost_disk(run, &path).await?;
    if found.probe.worktree == WorktreeState::HalfMade && turned_out_whole(run).await? {
        mark(run, MarkState::Done).await?;
        return Ok(reason);
    }
    mark(run, MarkState::Started).await?;
    make(run, found, &path).await?;
    run.args.context.faults.hit("worktree.made");
    run.checked_out = Some(Instant::now());
    run.wish.worktree_made = found.probe.worktree.is_to_be_made();
    mark(run, MarkState::Done).await?;
    Ok(reason)
}

/// One writer at a time in the repository's registry; the wait for it is measured apart from the phase.
async fn make(run: &mut Run, found: &Look, path: &std::path::Path) -> Result<(), PhaseFault> {
    let (git, slug, repo) = (git_of(run)?, run.args.todo.slug.clone(), run.args.repo.clone());
    let exec = RunExec::git(run);
    let waiting = Instant::now();
    let (locks, who) = (&run.args.context.on.locks, run.handle.words());
    let _writer = locks.take(&format!("registry {}", repo.name()), &who, repo.registry.lock()).await;
    metric::lock_waited(LockKind::Repo, waiting.elapsed());
    let target = path.to_owned();
    let made = blocking(move || private_parent(target)).await?;
    made.map_err(|error| not_kept("the directory of worktree", path, &error))?;
    let mut place = found.probe.worktree;
    if place == WorktreeState::HalfMade {
        place = set_half_made_aside(run, &git, path).await?;
    }
    let (base, making) = (&found.base.oid, run.args.context.clock.operation_id());
    let making = making.as_str();
    // Somebody waits for it: looks at other worktrees make way.
    let _permit = run.args.context.permits.take_now();
    let made = match place {
        WorktreeState::Absent => git::worktree::create(&git, &exec, path, &slug, base, making).await,
        WorktreeState::BranchOnly => git::worktree::attach(&git, &exec, path, &slug, making).await,
        WorktreeState::Unlinked => git::worktree::relink(&git, &exec, path, &slug).await,
        WorktreeState::Missing => git::worktree::recreate(&git, &exec, path, &slug, making).await,
        WorktreeState::HalfMade | WorktreeState::Present | WorktreeState::Foreign => Ok(()),
    };
    made.map_err(|error| git_fault(&format!("making the worktree of {}", run.args.todo), &error))
}

/// Moves what was half made into the trash and says what is left to build on.
async fn set_half_made_aside(
    run: &Run,
    git: &std::sync::Arc<git::Repository>,
    path: &std::path::Path,
) -> Result<WorktreeState, PhaseFault> {
    let (git, slug, path) = (git.clone(), run.args.todo.slug.clone(), path.to_owned());
    let trash: PathBuf = run.args.repo.trash.join(run.args.context.clock.operation_id().as_str());
    tracing::warn!(todo = %run.args.todo, aside = %trash.display(), "a half-made worktree is moved aside");
    let aside = blocking(move || {
        git::worktree::set_aside(&git, &path, &slug, &trash)?;
        git.glance(&path, &slug)
    });
    match aside.await?.map_err(|error| git_fault("moving a half-made worktree aside", &error))? {
        Place::Absent { branch: Some(_) } => Ok(WorktreeState::BranchOnly),
        Place::Absent { branch: None } => Ok(WorktreeState::Absent),
        _ => Err(Problem::new(ProblemCode::Internal, "a half-made worktree could not be moved aside").into()),
    }
}

/// Whether a worktree that was only begun is complete after all: git may have finished after the daemon died.
async fn turned_out_whole(run: &Run) -> Result<bool, PhaseFault> {
    let (git, slug) = (git_of(run)?, run.args.todo.slug.clone());
    let path = run.args.repo.worktree_path(&slug);
    blocking(move || match git.glance(&path, &slug) {
        Ok(Place::Present { in_progress: None, .. }) => {
            git.local_changes(&path).is_ok_and(|changes| changes.is_empty()) && !git.index_is_locked(&path)
        }
        _ => false,
    })
    .await
}

/// A directory of worktrees that vanished whole is a disk that is not mounted, not a hundred worktrees to make again.
async fn refuse_lost_disk(run: &Run, path: &std::path::Path) -> Result<(), PhaseFault> {
    let known = run.memory.record().worktree.is_some_and(|mark| mark.state == MarkState::Done);
    let all = run.args.repo.worktrees.clone();
    if !known || blocking(move || all.is_dir()).await? {
        return Ok(());
    }
    let all = run.args.repo.worktrees.display();
    let detail = format!(
        "{all} is gone with everything under it; mount it again, or make the directory if it was removed on purpose"
    );
    Err(Problem::new(ProblemCode::WorktreeForeign, detail).with("path", path.display().to_string()).into())
}

/// Sets the mark. What a prepare had left goes with the files, so its mark goes before they are touched.
async fn mark(run: &mut Run, state: MarkState) -> Result<(), PhaseFault> {
    let at = run.args.context.clock.now();
    let mark = WorktreeMark { state, at };
    run.memory.record_mut().worktree = Some(mark.clone());
    let todo = run.args.todo.clone();
    let mut writes = vec![Write::WorktreeMarked { todo: todo.clone(), mark: Some(mark), at }];
    if state == MarkState::Started && run.memory.record_mut().prepare.take().is_some() {
        writes.push(Write::PrepareMarked { todo, mark: None, at });
    }
    run.commit(writes).await.map_err(PhaseFault::from)
}

/// Refreshes the index once, under our exclusion and before anybody works there, if the files are old enough by now.
/// A failure costs only speed of later looks.
pub async fn repair_racy_index(run: &mut Run) {
    if run.checked_out.is_none_or(|at| at.elapsed() < RACY_FOR) {
        return;
    }
    let Ok(git) = git_of(run) else { return };
    let path = run.args.repo.worktree_path(&run.args.todo.slug);
    let exec = RunExec::git(run);
    if let Err(error) = git::worktree::repair_racy_index(&git, &exec, &path).await {
        tracing::debug!(todo = %run.args.todo, %error, "the index could not be refreshed");
    }
}
