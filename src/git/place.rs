//! What stands at a slug's place, by reading a handful of small files. A worktree counts only when everything fits:
//! a real directory, linked to our repository, registered there for this path, on the slug's branch.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::refs::read_small;
use super::registry::{in_progress, rebased};
use super::stamp::Witness;
use super::worktree::MAKING;
use super::{GitError, Repository};
use crate::model::ids::{Oid, Slug};

/// What stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Absent {
        /// The slug's branch, when it exists.
        branch: Option<Oid>,
    },
    /// It is registered, its directory is gone; or so much of it that nothing which is left is anybody's own.
    Missing,
    /// It was being made, beside its place, when whoever made it was ended.
    Unfinished,
    /// The directory is linked to our repository, its registration is gone.
    Unlinked,
    /// The slug's worktree.
    Present {
        /// The branch's commit.
        head: Oid,
        /// A merge, rebase or the like that is under way.
        in_progress: Option<&'static str>,
    },
    /// Something that is not the slug's worktree.
    Foreign(ForeignReason),
}

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForeignReason {
    /// A directory without git in it.
    #[error("a plain directory stands there")]
    PlainDirectory,
    /// A file.
    #[error("a file stands there")]
    File,
    /// A symbolic link.
    #[error("a symbolic link stands there")]
    Symlink,
    /// A work tree of another repository, or a repository of its own.
    #[error("a work tree of another repository stands there")]
    OtherRepository,
    /// Our worktree's directory without its link to us, and with files in it that only are there.
    #[error(
        "a directory stands there that lost its link to the repository and has files of somebody's own, such as {0}; `git worktree repair` links it again"
    )]
    LostLink(String),
    /// Our worktree on another branch.
    #[error("the worktree there is on branch {0}")]
    OtherBranch(String),
    /// Our worktree without a branch.
    #[error("the worktree there is on no branch (detached HEAD)")]
    Detached,
    /// Registered for another path.
    #[error("the worktree there is registered for {0}")]
    OtherPath(String),
    /// Registered, locked, and its directory is gone.
    #[error("its directory is gone and git has it locked ({0}): mount it again, or `git worktree unlock` it")]
    Locked(String),
    /// The branch is checked out somewhere else.
    #[error("its branch is checked out at {0}")]
    BranchElsewhere(String),
    /// Another branch's name begins with it.
    #[error("there is a branch {0}, and beside it git can have none of the todo's name: rename that branch")]
    BranchBelow(String),
    /// The branch is gone while its worktree is there.
    #[error("its branch {0} is gone; make it again at the commit you want")]
    BranchGone(String),
}

/// Files in an admin directory that say an operation is under way.
pub(super) const IN_PROGRESS: [(&str, &str); 6] = [
    ("MERGE_HEAD", "merge"),
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("BISECT_LOG", "bisect"),
];

/// The reason git gives a lock it takes while it makes a worktree.
pub(super) const INITIALIZING: &str = "initializing";

/// A worktree that was seen whole, and the stamps that say it still is. Belongs to whoever asks again.
#[derive(Debug, Clone)]
pub struct Seen {
    place: Place,
    directory: (u64, u64),
    witness: Witness,
}

impl Seen {
    /// Whether the worktree is as it was: the same directory, and nothing changed of what was read.
    fn holds(&self, path: &Path) -> bool {
        let directory =
            fs::symlink_metadata(path).ok().filter(fs::Metadata::is_dir).map(|meta| (meta.dev(), meta.ino()));
        directory == Some(self.directory) && self.witness.holds()
    }
}

impl Repository {
    /// What stands at `path`, as the place of `slug`. `seen` saves reading when no stat has changed, and is renewed.
    pub fn glance_again(&self, path: &Path, slug: &Slug, seen: &mut Option<Seen>) -> Result<Place, GitError> {
        if let Some(known) = seen.as_ref().filter(|known| known.holds(path)) {
            return Ok(known.place.clone());
        }
        // The stamps are taken before anything is read, so that a change in between shows the next time.
        let witness = self.witness(path, slug);
        let place = self.glance(path, slug)?;
        let directory = fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        *seen = match (&place, witness.filter(Witness::settled), directory) {
            (Place::Present { .. }, Some(witness), Some(directory)) => {
                Some(Seen { place: place.clone(), directory, witness })
            }
            _ => None,
        };
        Ok(place)
    }

    /// Everything a worktree's standing is read from. Its admin directory stands for the files that come and go in it.
    fn witness(&self, path: &Path, slug: &Slug) -> Option<Witness> {
        let admin = self.admin_of(path)?;
        let files = ["gitdir", "commondir", "HEAD"].map(|name| admin.join(name));
        let refs = [self.common_dir().join(format!("refs/heads/{slug}")), self.common_dir().join("packed-refs")];
        Some(Witness::of([path.join(".git"), admin].into_iter().chain(files).chain(refs)))
    }

    /// What stands at `path`, as the place of `slug`.
    pub fn glance(&self, path: &Path, slug: &Slug) -> Result<Place, GitError> {
        let foreign = |reason| Ok(Place::Foreign(reason));
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => foreign(ForeignReason::Symlink),
            Ok(meta) if !meta.is_dir() => foreign(ForeignReason::File),
            Ok(_) => self.directory(path, slug),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.nothing_there(path, slug),
            Err(error) => Err(GitError::file(path)(error)),
        }
    }

    fn directory(&self, path: &Path, slug: &Slug) -> Result<Place, GitError> {
        let foreign = |reason| Ok(Place::Foreign(reason));
        let link = path.join(".git");
        let text = match read_small(&link) {
            Ok(Some(text)) => text,
            Ok(None) => return self.without_link(path, slug),
            // A directory: a repository of its own.
            Err(_) => return foreign(ForeignReason::OtherRepository),
        };
        let Some(admin) = self.our_admin(path, &text) else {
            return foreign(ForeignReason::OtherRepository);
        };
        let Some(back) = read_small(&admin.join("gitdir")).map_err(GitError::file(&admin))? else {
            return Ok(if admin.exists() { Place::Foreign(ForeignReason::OtherRepository) } else { Place::Unlinked });
        };
        if !same_place(&admin.join(back.trim_end()), &link) {
            return foreign(ForeignReason::OtherPath(back.trim_end().to_owned()));
        }
        let common = read_small(&admin.join("commondir")).map_err(GitError::file(&admin))?.unwrap_or_default();
        if common.trim_end() != "../.." && !same_place(&admin.join(common.trim_end()), self.common_dir()) {
            return foreign(ForeignReason::OtherRepository);
        }
        self.on_branch(&admin, slug)
    }

    /// A directory without a link to anywhere. When it is registered it was linked once: what is left of it may be what a
    /// removal left that was cut short.
    fn without_link(&self, path: &Path, slug: &Slug) -> Result<Place, GitError> {
        let foreign = |reason| Ok(Place::Foreign(reason));
        let Some(admin) = self.registration_of(path)? else { return foreign(ForeignReason::PlainDirectory) };
        if let Some(reason) = locked(&admin)? {
            return foreign(ForeignReason::Locked(reason));
        }
        match (self.on_branch(&admin, slug)?, self.own_file(path, &admin)) {
            (Place::Present { .. }, None) => Ok(Place::Missing),
            (Place::Present { .. }, Some(file)) => foreign(ForeignReason::LostLink(file)),
            (other, _) => Ok(other),
        }
    }

    fn on_branch(&self, admin: &Path, slug: &Slug) -> Result<Place, GitError> {
        let in_progress = in_progress(admin);
        let head = read_small(&admin.join("HEAD")).map_err(GitError::file(&admin.join("HEAD")))?.unwrap_or_default();
        let branch = match head.trim_end().strip_prefix("ref: refs/heads/") {
            Some(branch) => Some(branch.to_owned()),
            // A rebase detaches HEAD and remembers the branch.
            None => rebased(admin),
        };
        match branch {
            None => Ok(Place::Foreign(ForeignReason::Detached)),
            Some(branch) if branch != slug.as_str() => Ok(Place::Foreign(ForeignReason::OtherBranch(branch))),
            Some(branch) => match self.resolve(&format!("refs/heads/{branch}"))? {
                Some(head) => Ok(Place::Present { head, in_progress }),
                None => Ok(Place::Foreign(ForeignReason::BranchGone(branch))),
            },
        }
    }

    fn nothing_there(&self, path: &Path, slug: &Slug) -> Result<Place, GitError> {
        if let Some(admin) = self.registration_of(path)? {
            if let Some(reason) = locked(&admin)? {
                return Ok(Place::Foreign(ForeignReason::Locked(reason)));
            }
            return Ok(match self.on_branch(&admin, slug)? {
                Place::Present { .. } => Place::Missing,
                other => other,
            });
        }
        if !self.unfinished(slug)?.is_empty() {
            return Ok(Place::Unfinished);
        }
        let branch = self.resolve(&format!("refs/heads/{slug}"))?;
        match branch.as_ref().and_then(|_| self.checked_out_at(slug)) {
            Some(elsewhere) => Ok(Place::Foreign(ForeignReason::BranchElsewhere(elsewhere))),
            None => Ok(match self.branch_below(slug).filter(|_| branch.is_none()) {
                Some(below) => Place::Foreign(ForeignReason::BranchBelow(below)),
                None => Place::Absent { branch },
            }),
        }
    }

    /// The admin directory registered for a path, when there is one.
    pub(super) fn registration_of(&self, path: &Path) -> Result<Option<PathBuf>, GitError> {
        let link = path.join(".git");
        for admin in self.admin_dirs()? {
            let back = read_small(&admin.join("gitdir")).ok().flatten().unwrap_or_default();
            if same_place(&admin.join(back.trim_end()), &link) {
                return Ok(Some(admin));
            }
        }
        Ok(None)
    }

    /// Registrations of worktrees of a slug that were being made beside their place.
    pub(super) fn unfinished(&self, slug: &Slug) -> Result<Vec<PathBuf>, GitError> {
        let is_being_made = |admin: &PathBuf| {
            let back = read_small(&admin.join("gitdir")).ok().flatten().unwrap_or_default();
            let below = Path::new(back.trim_end()).strip_prefix(self.workshop()).map(Path::to_owned);
            below.is_ok_and(|below| {
                let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
                matches!(parts.as_slice(), [making, name, link] if making.starts_with(MAKING) && *name == slug.as_str() && link == ".git")
            })
        };
        Ok(self.admin_dirs()?.into_iter().filter(is_being_made).collect())
    }

    pub(super) fn admin_dirs(&self) -> Result<Vec<PathBuf>, GitError> {
        let dir = self.common_dir().join("worktrees");
        match fs::read_dir(&dir) {
            // A link there is none of git's making.
            Ok(entries) => Ok(entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(GitError::file(&dir)(error)),
        }
    }

    /// Where the slug's branch is checked out, the main work tree included.
    fn checked_out_at(&self, slug: &Slug) -> Option<String> {
        let wanted = format!("ref: refs/heads/{slug}");
        let is_on =
            |dir: &Path| read_small(&dir.join("HEAD")).ok().flatten().is_some_and(|head| head.trim_end() == wanted);
        if is_on(self.common_dir()) {
            return Some(self.main_path().display().to_string());
        }
        let admin = self.admin_dirs().ok()?.into_iter().find(|admin| is_on(admin))?;
        let back = read_small(&admin.join("gitdir")).ok().flatten()?;
        Some(back.trim_end().trim_end_matches("/.git").to_owned())
    }

    /// Where a worktree's `.git` leads, when that is directly below our own `worktrees` directory and not on from there.
    pub(super) fn our_admin(&self, path: &Path, link: &str) -> Option<PathBuf> {
        let to = path.join(link.trim_end().strip_prefix("gitdir: ")?);
        let (parent, name) = (to.parent()?, to.file_name()?);
        let dir = self.common_dir().join("worktrees");
        let is_ours = parent == dir || parent.canonicalize().is_ok_and(|parent| parent == dir);
        let admin = dir.join(name);
        let leads_on = fs::symlink_metadata(&admin).is_ok_and(|meta| !meta.is_dir());
        (is_ours && !leads_on).then_some(admin)
    }

    /// The admin directory of a worktree that is there.
    pub(super) fn admin_of(&self, path: &Path) -> Option<PathBuf> {
        self.our_admin(path, &read_small(&path.join(".git")).ok().flatten()?)
    }

    /// Whether somebody, or a git that died, holds the worktree's index.
    #[must_use]
    pub fn index_is_locked(&self, path: &Path) -> bool {
        self.admin_of(path).is_some_and(|admin| admin.join("index.lock").exists())
    }
}

/// Why a worktree is locked, when somebody locked it.
fn locked(admin: &Path) -> Result<Option<String>, GitError> {
    let reason = read_small(&admin.join("locked")).map_err(GitError::file(admin))?;
    Ok(reason.map(|reason| reason.trim_end().to_owned()).filter(|reason| reason != INITIALIZING))
}

/// Whether two paths lead to the same place; the last component need not exist.
fn same_place(a: &Path, b: &Path) -> bool {
    let settle = |path: &Path| {
        path.canonicalize().ok().or_else(|| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?)))
    };
    a == b || matches!((settle(a), settle(b)), (Some(a), Some(b)) if a == b)
}
