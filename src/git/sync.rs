//! Bringing the base into a branch. What would go wrong is found before anything is touched: conflicts by merging in
//! memory, files in the way by looking. What goes wrong all the same is undone.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use git2::{Delta, DiffOptions, ObjectType};

use super::command::{Exec, GitError, Tries, once, run};
use super::files;
use super::place::Place;
use super::refs::read_small;
use super::repository::Repository;
use super::{id_of, oid_of};
use crate::metrics::git::{self as metric, LibraryOp};
use crate::model::git_fault::{Branch, Left, Settlement, settlement};
use crate::model::ids::{Oid, Slug};
use crate::model::repo_config::SyncMode;

/// Files named in an answer.
const FILES_MAX: usize = 100;
/// A worker's file beyond this is not read to be compared: it is the worker's.
const WORKER_FILE_BYTES_MAX: u64 = 64 << 20;

/// What came of it.
#[derive(Debug, Clone)]
pub enum SyncOutcome {
    /// The branch contains the base.
    Merged {
        /// Its commit now.
        head: Oid,
    },
    /// The two do not go together; nothing was changed. Without files: the branch has commits of its own.
    Conflict {
        /// The files in conflict.
        files: Vec<String>,
    },
    /// The base brings files that stand there untracked; nothing was changed.
    InTheWay {
        /// Those files.
        files: Vec<String>,
    },
    /// It failed, and nothing of it is left.
    Failed {
        /// Why.
        error: GitError,
    },
}

/// Brings `base` into the branch at `head` that is checked out at `path`. The caller holds the exclusion and has seen
/// the work tree clean.
pub async fn merge_base_in(
    repo: &Arc<Repository>,
    exec: &impl Exec,
    path: &Path,
    slug: &Slug,
    head: &Oid,
    base: &Oid,
    mode: SyncMode,
) -> Result<SyncOutcome, GitError> {
    let (git, at, from, to) = (repo.clone(), path.to_owned(), head.clone(), base.clone());
    if let Some(outcome) = blocking(move || foresee(&git, &at, &from, &to, mode)).await? {
        return Ok(outcome);
    }
    let message = format!("Merge {} into {slug}", repo.base_branch());
    let (what, args): (_, Vec<&str>) = match mode {
        SyncMode::Rebase => (
            "rebase",
            vec![
                "rebase",
                "--quiet",
                "--no-autostash",
                "--no-autosquash",
                "--no-fork-point",
                "--no-update-refs",
                base.as_str(),
            ],
        ),
        SyncMode::FfOnly => ("merge", vec!["merge", "--quiet", "--no-stat", "--ff-only", base.as_str()]),
        SyncMode::Merge | SyncMode::Off => (
            "merge",
            vec!["merge", "--quiet", "--no-stat", "--no-edit", "--no-verify-signatures", "-m", &message, base.as_str()],
        ),
    };
    let mut tries = Tries::default();
    loop {
        let Err(error) = once(repo, exec, path, what, &args).await else { return merged(repo, slug) };
        // What is tried again begins where it began: git does not go on with what it left half done.
        let (came_to, files) = settle(repo, exec, path, slug, head, base).await?;
        match came_to {
            Settlement::Synced => return merged(repo, slug),
            Settlement::Conflict => return Ok(SyncOutcome::Conflict { files }),
            Settlement::Undone if tries.again(repo, path, &error).await => {}
            Settlement::Undone => return Ok(SyncOutcome::Failed { error }),
            Settlement::Overtaken => {
                let said = format!("somebody else worked on branch {slug} while the base was brought in");
                return Ok(SyncOutcome::Failed { error: GitError::Overtaken(said) });
            }
            Settlement::Unfinished => return Err(unfinished(path)),
        }
    }
}

fn merged(repo: &Repository, slug: &Slug) -> Result<SyncOutcome, GitError> {
    let gone = || GitError::Overtaken(format!("branch {slug} was taken away after the base was brought in"));
    Ok(SyncOutcome::Merged { head: repo.branch_oid(slug).ok_or_else(gone)? })
}

fn unfinished(path: &Path) -> GitError {
    GitError::Overtaken(format!("somebody else goes on with what was called off in {}", path.display()))
}

/// Calls off what a sync that failed or was cut short left half done, and says what has come of it. Of a branch that is
/// where it was, files are put back as they were at `head`. The files are those that were in conflict.
async fn settle(
    repo: &Arc<Repository>,
    exec: &impl Exec,
    path: &Path,
    slug: &Slug,
    head: &Oid,
    base: &Oid,
) -> Result<(Settlement, Vec<String>), GitError> {
    let (git, at, of, to) = (repo.clone(), path.to_owned(), slug.clone(), base.clone());
    let (files, begun) = blocking(move || Ok((unmerged(&git, &at), under_way(&git, &at, &of, &to)?))).await?;
    let abort = match begun {
        UnderWay::Merge => run(repo, exec, path, "merge_abort", &["merge", "--abort"]).await,
        UnderWay::Rebase => run(repo, exec, path, "rebase_abort", &["rebase", "--abort"]).await,
        UnderWay::Nothing | UnderWay::AnothersOwn => Ok(()),
    };
    let (git, at, of, from, to) = (repo.clone(), path.to_owned(), slug.clone(), head.clone(), base.clone());
    let conflicts = !files.is_empty();
    let left = blocking(move || {
        let under_way = under_way(&git, &at, &of, &to)?;
        let branch = match git.branch_oid(&of) {
            _ if under_way == UnderWay::AnothersOwn => Branch::Elsewhere,
            Some(now) if now == from => Branch::WhereItWas,
            Some(now) if git.contains(&now, &to)? => Branch::WithTheBase,
            _ => Branch::Elsewhere,
        };
        let left = Left { under_way: matches!(under_way, UnderWay::Merge | UnderWay::Rebase), branch, conflicts };
        if !left.under_way && branch == Branch::WhereItWas {
            put_back(&git, &at, &from, &to)?;
        }
        Ok(left)
    });
    match settlement(left.await?) {
        // It failed, and what it was to call off is still there.
        Settlement::Unfinished => abort.map(|()| (Settlement::Unfinished, files)),
        came_to => Ok((came_to, files)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| GitError::State(format!("looking at what a sync does failed: {error}")))?
}

/// What git says is under way in a worktree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnderWay {
    Nothing,
    /// A merge of the base.
    Merge,
    /// A rebase onto the base.
    Rebase,
    /// Anything else: that is for whoever began it to end.
    AnothersOwn,
}

fn under_way(repo: &Repository, path: &Path, slug: &Slug, base: &Oid) -> Result<UnderWay, GitError> {
    let Place::Present { in_progress: Some(what), .. } = repo.glance(path, slug)? else { return Ok(UnderWay::Nothing) };
    let Some(admin) = repo.git_dir_of(path) else { return Ok(UnderWay::Nothing) };
    let names_base =
        |file: &str| read_small(&admin.join(file)).ok().flatten().is_some_and(|said| said.trim_end() == base.as_str());
    Ok(match what {
        "merge" if names_base("MERGE_HEAD") => UnderWay::Merge,
        "rebase" if names_base("rebase-merge/onto") || names_base("rebase-apply/onto") => UnderWay::Rebase,
        _ => UnderWay::AnothersOwn,
    })
}

fn unmerged(repo: &Repository, path: &Path) -> Vec<String> {
    let Ok(index) = repo.open_worktree(path).and_then(|repo| repo.index()) else { return Vec::new() };
    conflicts(&index)
}

fn conflicts(index: &git2::Index) -> Vec<String> {
    let name = |conflict: git2::IndexConflict| {
        let side = conflict.our.or(conflict.their).or(conflict.ancestor)?;
        Some(String::from_utf8_lossy(&side.path).into_owned())
    };
    let mut files: Vec<String> =
        index.conflicts().into_iter().flatten().filter_map(|conflict| name(conflict.ok()?)).collect();
    files.sort();
    files.dedup();
    files.truncate(FILES_MAX);
    files
}

/// What can be known without touching anything. Blocks.
fn foresee(
    repo: &Repository,
    path: &Path,
    head: &Oid,
    base: &Oid,
    mode: SyncMode,
) -> Result<Option<SyncOutcome>, GitError> {
    let fault = || GitError::library(format!("comparing {head} with {base}"));
    let library = repo.library().map_err(fault())?;
    let (ours, theirs) = (id_of(head).map_err(fault())?, id_of(base).map_err(fault())?);
    let ancestor = match library.merge_base(ours, theirs) {
        Ok(ancestor) => ancestor,
        Err(_) => return Ok(Some(SyncOutcome::Conflict { files: Vec::new() })),
    };
    let forward = ancestor == ours;
    if mode == SyncMode::FfOnly && !forward {
        return Ok(Some(SyncOutcome::Conflict { files: Vec::new() }));
    }
    if !forward && mode == SyncMode::Merge {
        let (ours, theirs) =
            (library.find_commit(ours).map_err(fault())?, library.find_commit(theirs).map_err(fault())?);
        let merge = || library.merge_commits(&ours, &theirs, None);
        let merged = metric::timed(LibraryOp::MergeTrial, merge).map_err(fault())?;
        if merged.has_conflicts() {
            return Ok(Some(SyncOutcome::Conflict { files: conflicts(&merged) }));
        }
    }
    let files = in_the_way(repo, &library, path, ours, ancestor, theirs).map_err(fault())?;
    Ok((!files.is_empty()).then_some(SyncOutcome::InTheWay { files }))
}

/// Files the base adds that stand in the work tree without being tracked. git refuses to overwrite untracked ones and
/// silently overwrites ignored ones; both are somebody's.
fn in_the_way(
    repo: &Repository,
    library: &git2::Repository,
    path: &Path,
    head: git2::Oid,
    ancestor: git2::Oid,
    base: git2::Oid,
) -> Result<Vec<String>, git2::Error> {
    let tree = |id| library.find_commit(id).and_then(|commit| commit.tree());
    let (head, ancestor, base) = (tree(head)?, tree(ancestor)?, tree(base)?);
    let mut options = DiffOptions::new();
    options.ignore_submodules(true);
    let diff = library.diff_tree_to_tree(Some(&ancestor), Some(&base), Some(&mut options))?;
    let added = diff.deltas().filter(|delta| delta.status() == Delta::Added);
    let blocked = added.filter_map(|delta| {
        let file = delta.new_file();
        let name = file.path()?;
        let blocker = blocker(&head, path, name)?;
        let here = || repo.worker_file(path, &name.to_string_lossy());
        let is_it =
            |content: Vec<u8>| git2::Oid::hash_object(ObjectType::Blob, &content).is_ok_and(|id| id == file.id());
        let same = blocker == name && here().is_some_and(is_it);
        (!same).then(|| blocker.to_string_lossy().into_owned())
    });
    Ok(blocked.take(FILES_MAX).collect())
}

/// The part of a path that stands there as something untracked: the file itself, or a file where a directory has to be.
fn blocker<'a>(head: &git2::Tree<'_>, path: &Path, name: &'a Path) -> Option<&'a Path> {
    if head.get_path(name).is_ok() {
        return None;
    }
    if fs::symlink_metadata(path.join(name)).is_ok() {
        return Some(name);
    }
    name.ancestors().skip(1).filter(|part| !part.as_os_str().is_empty()).find(|part| {
        let there = fs::symlink_metadata(path.join(part)).is_ok_and(|meta| !meta.is_dir());
        there && head.get_path(part).is_err()
    })
}

/// Undoes a sync of ours that was cut short, unless it was whole and only its mark was not cleared.
pub async fn undo_interrupted(
    repo: &Arc<Repository>,
    exec: &impl Exec,
    path: &Path,
    slug: &Slug,
    head: &Oid,
    base: &Oid,
) -> Result<(), GitError> {
    match settle(repo, exec, path, slug, head, base).await? {
        (Settlement::Unfinished, _) => Err(unfinished(path)),
        _ => Ok(()),
    }
}

/// The durable mark proves that the work tree was clean at `head` when the sync began, so a file that is not as committed
/// at `head` but as (or the beginning of) what `base` brings is ours and is put back; anything else is somebody's edit and
/// stays.
fn put_back(repo: &Repository, path: &Path, head: &Oid, base: &Oid) -> Result<(), GitError> {
    for change in repo.local_changes(path)? {
        let content = repo.worker_file(path, &change.path).unwrap_or_default();
        let brought = repo.blob_at(base, &change.path)?.map(|blob| repo.blob(&blob)).transpose()?;
        let ours = match &brought {
            Some(brought) => brought.starts_with(&content),
            None => !path.join(&change.path).exists(),
        };
        if ours {
            repo.restore(path, head, &change.path)?;
        }
    }
    Ok(())
}

impl Repository {
    /// Makes one file of a worktree what it is at `head`, in the directory and in the index; removes it when it is not
    /// there. Blocks.
    pub(super) fn restore(&self, worktree: &Path, head: &Oid, file: &str) -> Result<(), GitError> {
        let fault = || GitError::library(format!("putting {file} back"));
        let library = self.open_worktree(worktree).map_err(fault())?;
        let tree = id_of(head).and_then(|id| library.find_commit(id)).and_then(|commit| commit.tree());
        let tree = tree.map_err(fault())?;
        if tree.get_path(file.as_ref()).is_ok() {
            let mut checkout = git2::build::CheckoutBuilder::new();
            checkout.force().path(file).disable_pathspec_match(true);
            return library.checkout_tree(tree.as_object(), Some(&mut checkout)).map_err(fault());
        }
        files::remove_below(worktree, file).map_err(GitError::file(&worktree.join(file)))?;
        let mut index = library.index().map_err(fault())?;
        let _ = index.remove_path(file.as_ref());
        index.write().map_err(fault())
    }

    /// The content of a worker's file, when it is a regular one, no link is on the way to it and it is not too large.
    pub(super) fn worker_file(&self, worktree: &Path, file: &str) -> Option<Vec<u8>> {
        files::read_below(worktree, file, WORKER_FILE_BYTES_MAX).ok().flatten()
    }
}

/// The blob a content would have.
pub(super) fn blob_of(content: &[u8]) -> Result<Oid, GitError> {
    git2::Oid::hash_object(ObjectType::Blob, content).map(oid_of).map_err(GitError::library("hashing a file"))
}
