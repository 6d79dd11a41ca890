//! Local changes of a worktree: exact, and without taking any lock, so that no worker's git ever fails because of it.
//!
//! libgit2 runs no filter programs. In a repository whose files go through one (LFS), it sees filtered files as
//! changed; that keeps the base from being merged over them, which is the safe side.

use std::path::Path;

use git2::{Status, StatusOptions};

use super::repository::refuse_pipe;
use super::{GitError, Repository};
use crate::metrics::git::{self as metric, LibraryOp};

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Tracked, and not as committed, in the index or in the work tree.
    Tracked,
    /// Not tracked and not ignored.
    Untracked,
}

/// One path with local changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Worktree-relative.
    pub path: String,
    /// How it differs.
    pub kind: ChangeKind,
}

impl Repository {
    /// The paths of a worktree that are not as committed; ignored ones are left out. Blocks.
    pub fn local_changes(&self, worktree: &Path) -> Result<Vec<Change>, GitError> {
        let fault = || GitError::library(format!("status of {}", worktree.display()));
        let repo = self.open_worktree(worktree).map_err(fault())?;
        let mut options = StatusOptions::new();
        options
            .include_untracked(true)
            .recurse_untracked_dirs(true)
            .include_ignored(false)
            .update_index(false)
            .no_refresh(false);
        let look = || repo.statuses(Some(&mut options));
        let statuses = metric::timed(LibraryOp::LocalChanges, look).map_err(fault())?;
        // What was read of one is nothing, and nothing can be said.
        refuse_pipe(worktree)?;
        let change = |entry: git2::StatusEntry<'_>| {
            let kind = if entry.status() == Status::WT_NEW { ChangeKind::Untracked } else { ChangeKind::Tracked };
            Change { path: String::from_utf8_lossy(entry.path_bytes()).into_owned(), kind }
        };
        Ok(statuses
            .iter()
            .filter(|entry| !entry.status().is_empty() && !entry.status().is_ignored())
            .map(change)
            .collect())
    }
}
