//! Repositories, refs, worktrees and syncing. `git2` types and knowledge of git's files stop at this door.
//!
//! May know `model` and `metrics`. Starts no process itself: git command lines go out through [`Exec`]. Reading order: `repository`
//! (opening), `files`, `configuration` and `pipes` (what is read of it, without trust), `stamp`, `refs` and `place` (the cheap look, by
//! stats and small reads), `base` (what a base commit says), `status`, `registry`, `history`, `index`, `scan` and
//! `porcelain` (what is shown of worktrees), `watch` (being told what changes),
//! `planted`, `hardening` and `command` (how git is run so that nothing planted runs with it), `worktree`, `sync`, `todo_sync`
//! (effects), `locks` (stale ones).
//!
//! Which means for which operation was measured: refs by file (microseconds), objects on one libgit2 handle per
//! repository, everything that writes refs or work trees by the git command line.

pub mod base;
pub mod command;
mod configuration;
mod fetch;
mod files;
mod hardening;
mod history;
mod index;
mod locks;
mod pipes;
mod place;
mod planted;
pub mod porcelain;
mod refs;
mod registry;
pub mod repository;
mod scan;
mod stamp;
mod status;
pub mod sync;
pub mod todo_sync;
mod watch;
pub mod worktree;

pub use command::{Exec, GitCommand, GitEnd, GitError, GitExit};
pub use configuration::settings_in;
pub use index::listed;
pub use place::{ForeignReason, Place, Seen};
pub use registry::{Found, MAIN};
pub use repository::{OpenError, Repository};
pub use scan::{Looked, ScanError, ScanMemory};
pub use stamp::Stamp;
pub use status::{Change, ChangeKind};
pub use watch::{Noticed, WatchError, Watched, Watcher};

use crate::model::ids::Oid;

/// libgit2's id as ours.
fn oid_of(id: git2::Oid) -> Oid {
    Oid::parse(&id.to_string()).expect("libgit2 prints ids as lowercase hex")
}

/// Our id as libgit2's.
fn id_of(oid: &Oid) -> Result<git2::Oid, git2::Error> {
    git2::Oid::from_str(oid.as_str())
}
