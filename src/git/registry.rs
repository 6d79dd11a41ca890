//! Every worktree of a repository, by reading git's own files: the main one, and each directory below `worktrees`.
//! Some microseconds per worktree, no process, no open repository.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::place::{IN_PROGRESS, INITIALIZING};
use super::refs::read_small;
use super::worktree::MAKING;
use super::{GitError, Repository};
use crate::model::ids::Oid;

/// Worktrees of one repository that are looked at; somebody with more has another problem.
const WORKTREES_MAX: usize = 20_000;
/// What the main worktree is called in paths.
pub const MAIN: &str = "@main";

/// A worktree, as git has it registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// git's name of it: that of its directory below `worktrees`, or [`MAIN`].
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its own git directory.
    pub git_dir: PathBuf,
    /// The repository's main one.
    pub main: bool,
    /// A bare repository, without files.
    pub bare: bool,
    /// The branch it is on; during a rebase the branch that is rebased.
    pub branch: Option<String>,
    /// HEAD is on no branch.
    pub detached: bool,
    /// Its commit; none before the first.
    pub head: Option<Oid>,
    /// Why it is locked.
    pub locked: Option<String>,
    /// Why git would forget it: its directory is gone or is not linked back.
    pub prunable: Option<String>,
    /// Its directory is not there.
    pub missing: bool,
    /// git is just making it.
    pub initializing: bool,
    /// A merge, rebase or the like.
    pub in_progress: Option<&'static str>,
    /// What could not be read of it.
    pub error: Option<String>,
}

impl Repository {
    /// Every worktree, the main one first, the others by name. Blocks.
    pub fn worktrees(&self) -> Result<Vec<Found>, GitError> {
        let mut admins = self.admin_dirs()?;
        admins.truncate(WORKTREES_MAX);
        admins.sort();
        let mut found = vec![self.main_worktree()];
        // A name that is no text, or that of the main one, has nothing to be called by.
        found
            .extend(admins.iter().filter_map(|admin| self.linked_worktree(admin)).filter(|linked| linked.name != MAIN));
        Ok(found)
    }

    /// One worktree by name. Blocks.
    pub fn worktree(&self, name: &str) -> Result<Option<Found>, GitError> {
        Ok(self.worktrees()?.into_iter().find(|found| found.name == name))
    }

    fn main_worktree(&self) -> Found {
        let git_dir = self.common_dir().to_owned();
        let bare = self.is_bare();
        let missing = fs::symlink_metadata(self.main_path()).is_err();
        let mut found = Found {
            name: MAIN.to_owned(),
            path: self.main_path().to_owned(),
            main: true,
            bare,
            branch: None,
            detached: false,
            head: None,
            locked: None,
            prunable: None,
            missing,
            initializing: false,
            in_progress: in_progress(&git_dir),
            error: None,
            git_dir,
        };
        self.fill_head(&mut found);
        found
    }

    /// `None` when the directory is not that of a worktree, or is just being made.
    fn linked_worktree(&self, admin: &Path) -> Option<Found> {
        let name = admin.file_name()?.to_str()?.to_owned();
        // Listed once: most of what could be there is not.
        let names: Vec<OsString> = match fs::read_dir(admin) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return None;
            }
            // What cannot be read says so below.
            Err(_) => Vec::new(),
        };
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        let locked = if has("locked") { read_small(&admin.join("locked")).ok().flatten() } else { None };
        let locked = locked.map(|reason| reason.trim_end().to_owned());
        let link = match read_small(&admin.join("gitdir")) {
            Ok(Some(back)) => Ok(admin.join(back.trim_end())),
            Ok(None) if locked.as_deref() == Some(INITIALIZING) => return None,
            Ok(None) => Err("its registration does not say where it is".to_owned()),
            Err(error) => Err(format!("its registration cannot be read: {error}")),
        };
        let path = link.as_ref().ok().and_then(|link| link.parent()).unwrap_or(admin).to_owned();
        // One of ours that is not in its place yet.
        if path.strip_prefix(self.workshop()).is_ok_and(|below| below.to_string_lossy().starts_with(MAKING)) {
            return None;
        }
        let missing = link.as_ref().is_ok_and(|link| {
            fs::symlink_metadata(link)
                .is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
        });
        let prunable = missing.then(|| "its directory is gone, or is no worktree any more".to_owned());
        let mut found = Found {
            name,
            path,
            git_dir: admin.to_owned(),
            main: false,
            bare: false,
            branch: None,
            detached: false,
            head: None,
            // git takes this lock while it makes a worktree.
            initializing: locked.as_deref() == Some(INITIALIZING),
            prunable: prunable.filter(|_| locked.is_none()),
            locked: locked.filter(|reason| reason != INITIALIZING),
            missing,
            in_progress: IN_PROGRESS.into_iter().find(|(file, _)| has(file)).map(|(_, what)| what),
            error: link.err(),
        };
        self.fill_head(&mut found);
        Some(found)
    }

    fn fill_head(&self, found: &mut Found) {
        let file = found.git_dir.join("HEAD");
        let head = match read_small(&file) {
            Ok(Some(head)) => head.trim_end().to_owned(),
            Ok(None) => return blame(found, "its HEAD is gone".to_owned()),
            Err(error) => return blame(found, format!("its HEAD cannot be read: {error}")),
        };
        if let Ok(oid) = Oid::parse(&head) {
            found.detached = true;
            found.head = Some(oid);
            found.branch = rebased(&found.git_dir);
            return;
        }
        let Some(name) = head.strip_prefix("ref: ").filter(|name| name.starts_with("refs/")) else {
            return blame(found, "its HEAD is damaged".to_owned());
        };
        found.branch = Some(name.strip_prefix("refs/heads/").unwrap_or(name).to_owned());
        match self.resolve(name) {
            Ok(oid) => found.head = oid,
            Err(error) => blame(found, error.to_string()),
        }
    }

    /// What a worktree's own commit is now. Blocks.
    pub fn head_of(&self, git_dir: &Path) -> Option<Oid> {
        let head = read_small(&git_dir.join("HEAD")).ok().flatten()?;
        match head.trim_end().strip_prefix("ref: ") {
            Some(name) => self.resolve(name).ok().flatten(),
            None => Oid::parse(head.trim_end()).ok(),
        }
    }
}

fn blame(found: &mut Found, error: String) {
    found.error.get_or_insert(error);
}

/// The branch of a rebase that is under way: it detaches HEAD and remembers the branch.
pub(super) fn rebased(git_dir: &Path) -> Option<String> {
    ["rebase-merge", "rebase-apply"].iter().find_map(|dir| {
        let name = read_small(&git_dir.join(dir).join("head-name")).ok().flatten()?;
        name.trim_end().strip_prefix("refs/heads/").map(str::to_owned)
    })
}

/// What is under way in a worktree.
pub(super) fn in_progress(git_dir: &Path) -> Option<&'static str> {
    IN_PROGRESS.into_iter().find(|(file, _)| fs::symlink_metadata(git_dir.join(file)).is_ok()).map(|(_, name)| name)
}
