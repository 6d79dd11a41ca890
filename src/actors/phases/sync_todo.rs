//! `sync_todo`: the brief in the worktree is the one on the base branch.
//!
//! Entry condition: the tree of the todo's directory on the base is not the one last brought in.
//! Effect: file by file, by blob id: what the worker has not touched is updated, what it has is kept.
//! Ends with: the blobs that were brought in, marked in the ledger, and the files that were kept.
//! Undone by: nothing; a file written twice is the same file.

use super::{blocking, git_fault, git_of};
use crate::actors::probe::Look;
use crate::actors::run::{PhaseFault, Run};
use crate::git::todo_sync::{self, TodoSyncOutcome};
use crate::model::phase::Reason;
use crate::store::Write;

/// Brings the brief in.
pub async fn carry_out(run: &mut Run, found: &Look) -> Result<Reason, PhaseFault> {
    let git = git_of(run)?;
    let path = run.args.repo.worktree_path(&run.args.todo.slug);
    let (mark, brief) = (run.memory.record().todo, found.base.briefs.get(&run.args.todo.slug).cloned());
    let (slug, dir) = (run.args.todo.slug.clone(), found.base.config.todos_dir.clone());
    let synced =
        blocking(move || todo_sync::sync_todo(&git, &path, &dir, &slug, mark.as_ref(), brief.as_ref())).await?;
    let (mark, outcome) =
        synced.map_err(|error| git_fault(&format!("bringing the brief of {} in", run.args.todo), &error))?;
    run.memory.record_mut().todo = Some(mark.clone());
    let (todo, at) = (run.args.todo.clone(), run.args.context.clock.now());
    run.commit(vec![Write::TodoMarked { todo, mark: Some(mark), at }]).await?;
    Ok(match outcome {
        TodoSyncOutcome::Changed(_) => Reason::Changed,
        TodoSyncOutcome::Unchanged => Reason::Unchanged,
        TodoSyncOutcome::KeptLocal(_) => Reason::KeptLocal,
        TodoSyncOutcome::Absent => Reason::Absent,
    })
}
