//! Making, attaching, linking, restoring and setting aside worktrees. The caller holds the worktree's exclusion and is
//! the only writer of the repository's registry.
//!
//! Nothing here deletes what somebody could want: directories and registrations are moved aside, other worktrees'
//! registrations are never touched (no `git worktree prune`).

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::command::{Exec, GitError, run};
use super::files;
use super::refs::read_small;
use super::repository::Repository;
use crate::model::ids::{Oid, Slug};

/// What a directory begins with in which a worktree is made before it is moved to its place.
pub const MAKING: &str = "making-";

/// Makes branch and worktree from the base. `--no-track`, because tracking is written to the shared configuration,
/// whose lock concurrent makers fight over. `making` is a name nobody knows before.
pub async fn create(
    repo: &Repository,
    exec: &impl Exec,
    path: &Path,
    slug: &Slug,
    base: &Oid,
    making: &str,
) -> Result<(), GitError> {
    let made = make(repo, exec, path, slug, &["--no-track", "-b", slug.as_str()], base.as_str(), making).await;
    if made.is_err() && repo.branch_oid(slug).as_ref() == Some(base) && fs::symlink_metadata(path).is_err() {
        // The branch was made a moment ago by the command that failed: it did not exist when the caller looked.
        let _ = run(
            repo,
            exec,
            repo.main_path(),
            "branch_delete",
            &["update-ref", "-d", &format!("refs/heads/{slug}"), base.as_str()],
        )
        .await;
    }
    made
}

/// Makes a worktree for a branch that exists.
pub async fn attach(
    repo: &Repository,
    exec: &impl Exec,
    path: &Path,
    slug: &Slug,
    making: &str,
) -> Result<(), GitError> {
    make(repo, exec, path, slug, &[], slug.as_str(), making).await
}

/// Makes it where nobody expects it, and moves it to its place when it is whole: what git writes to, and clears away when
/// it fails, is a directory whose name nobody can have taken.
async fn make(
    repo: &Repository,
    exec: &impl Exec,
    path: &Path,
    slug: &Slug,
    how: &[&str],
    commit: &str,
    making: &str,
) -> Result<(), GitError> {
    let beside = private(&repo.workshop().join(format!("{MAKING}{making}")))?;
    let made = beside.join(slug.as_str());
    let target = made.to_string_lossy();
    let args = [&["worktree", "add", "--quiet"], how, &[&target, commit]].concat();
    let added = run(repo, exec, repo.main_path(), "worktree_add", &args).await;
    let placed = added.and_then(|()| settle(repo, &made, path, &beside));
    // What is left in it was never anybody's; it goes with what was removed long ago.
    let _ = fs::remove_dir(&beside);
    placed
}

/// Says in the registration where the worktree is going to be, then moves it there. In this order: a registration whose
/// directory is not there yet is one to be finished.
fn settle(repo: &Repository, made: &Path, path: &Path, beside: &Path) -> Result<(), GitError> {
    let admin = repo
        .registration_of(made)?
        .ok_or_else(|| GitError::State(format!("git made {} without registering it", made.display())))?;
    let link = format!("{}\n", path.join(".git").display());
    files::write_below(&admin, "gitdir", link.as_bytes(), false).map_err(GitError::file(&admin))?;
    let moved = rename_into(made, path);
    if moved.is_err() {
        unregister(repo, &admin, beside)?;
    }
    moved
}

/// Moves a directory to a place where nothing stands.
fn rename_into(from: &Path, to: &Path) -> Result<(), GitError> {
    let moved = rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    moved.map_err(|error| GitError::State(format!("{} could not be put in its place: {error}", to.display())))
}

/// A directory for this user alone that was not there before.
fn private(dir: &Path) -> Result<PathBuf, GitError> {
    let mut maker = DirBuilder::new();
    maker.mode(0o700);
    if let Some(parent) = dir.parent() {
        maker.recursive(true).create(parent).map_err(GitError::file(parent))?;
    }
    maker.recursive(false).create(dir).map_err(GitError::file(dir))?;
    Ok(dir.to_owned())
}

/// Registers a directory again whose registration is gone; no file in it is touched.
pub async fn relink(repo: &Repository, exec: &impl Exec, path: &Path, slug: &Slug) -> Result<(), GitError> {
    if repo.branch_oid(slug).is_none() {
        return Err(GitError::State(format!(
            "branch {slug} is gone and so is the registration of {}; make the branch again at the commit you want",
            path.display()
        )));
    }
    let admin = repo
        .admin_of(path)
        .ok_or_else(|| GitError::State(format!("{} is not linked to this repository", path.display())))?;
    fs::create_dir_all(&admin).map_err(GitError::file(&admin))?;
    for (name, content) in [
        ("commondir", "../..\n".to_owned()),
        ("gitdir", format!("{}\n", path.join(".git").display())),
        ("HEAD", format!("ref: refs/heads/{slug}\n")),
    ] {
        files::write_below(&admin, name, content.as_bytes(), false).map_err(GitError::file(&admin.join(name)))?;
    }
    // Builds the index from the branch; what differs in the directory shows as local changes, nothing is lost.
    run(repo, exec, path, "reset_index", &["reset", "--quiet", "--mixed", "--no-refresh"]).await
}

/// Makes the directory of a registered worktree again. Files come from its index, so what was staged is there again. What is
/// left of the directory is moved aside.
pub async fn recreate(
    repo: &Repository,
    exec: &impl Exec,
    path: &Path,
    slug: &Slug,
    making: &str,
) -> Result<(), GitError> {
    let admin =
        repo.registration_of(path)?.ok_or_else(|| GitError::State(format!("{} is not registered", path.display())))?;
    let beside = private(&repo.workshop().join(format!("{MAKING}{making}")))?;
    let made = beside.join(slug.as_str());
    fs::create_dir(&made).map_err(GitError::file(&made))?;
    let link = format!("gitdir: {}\n", admin.display());
    files::write_below(&made, ".git", link.as_bytes(), false).map_err(GitError::file(&made))?;
    restore_files(repo, exec, &made, &admin, slug).await?;
    if fs::symlink_metadata(path).is_ok() {
        let remains = private(&repo.workshop().join(format!("remains-{making}")))?;
        fs::rename(path, remains.join("worktree")).map_err(GitError::file(path))?;
        tracing::warn!(slug = slug.as_str(), aside = %remains.display(), "what is left of a worktree is moved aside");
    }
    rename_into(&made, path)?;
    let _ = fs::remove_dir(&beside);
    Ok(())
}

async fn restore_files(
    repo: &Repository,
    exec: &impl Exec,
    path: &Path,
    admin: &Path,
    slug: &Slug,
) -> Result<(), GitError> {
    let restored = run(repo, exec, path, "checkout_index", &["checkout-index", "--all", "--quiet", "--index"]).await;
    let whole = admin.join("index").exists() && restored.is_ok();
    if whole {
        return Ok(());
    }
    tracing::warn!(slug = slug.as_str(), "the index of a lost worktree cannot be read; its files come from its branch");
    let _ = fs::rename(admin.join("index"), admin.join("index.damaged"));
    run(repo, exec, path, "read_tree", &["read-tree", "HEAD"]).await?;
    run(repo, exec, path, "checkout_index", &["checkout-index", "--all", "--quiet", "--index"]).await
}

/// Moves a half-made worktree and its registration into `trash`. The branch stays. Blocks.
pub fn set_aside(repo: &Repository, path: &Path, slug: &Slug, trash: &Path) -> Result<(), GitError> {
    fs::create_dir_all(trash).map_err(GitError::file(trash))?;
    for (number, admin) in repo.unfinished(slug)?.into_iter().enumerate() {
        let begun = private(&trash.join(format!("unfinished-{number}")))?;
        unregister(repo, &admin, &begun)?;
    }
    let admin = match repo.registration_of(path)? {
        Some(admin) => Some(admin),
        None => repo.admin_of(path).filter(|admin| admin.exists()),
    };
    if fs::symlink_metadata(path).is_ok() {
        fs::rename(path, trash.join("worktree")).map_err(GitError::file(path))?;
    }
    admin.map_or(Ok(()), |admin| unregister(repo, &admin, trash))
}

/// Moves a worktree with this registration into `trash`, its branch stays. What stands at its path and is not linked to that
/// registration is somebody's and stays where it is, and so does the registration. Blocks.
pub fn remove(repo: &Repository, path: &Path, admin: &Path, trash: &Path) -> Result<(), GitError> {
    fs::create_dir_all(trash).map_err(GitError::file(trash))?;
    let moved = trash.join("worktree");
    match fs::rename(path, &moved) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return unregister(repo, admin, trash),
        Err(error) => return Err(GitError::file(path)(error)),
    }
    // What was moved is looked at where nobody expects it: before, something else could have taken its place meanwhile.
    let link = read_small(&moved.join(".git")).ok().flatten().and_then(|link| repo.our_admin(path, &link));
    let is_it = fs::symlink_metadata(&moved).is_ok_and(|meta| meta.is_dir()) && link.as_deref() == Some(admin);
    if is_it {
        return unregister(repo, admin, trash);
    }
    let back = rustix::fs::renameat_with(CWD, &moved, CWD, path, RenameFlags::NOREPLACE);
    let where_it_is = if back.is_ok() { path } else { &moved };
    Err(GitError::State(format!(
        "what stands there is not linked to {}; it is at {}",
        admin.display(),
        where_it_is.display()
    )))
}

fn unregister(repo: &Repository, admin: &Path, trash: &Path) -> Result<(), GitError> {
    if fs::rename(admin, trash.join("registration")).is_ok() {
        return Ok(());
    }
    // On another disk: kept beside the registry instead, where git does not look for worktrees.
    let name = trash.file_name().map_or_else(|| "aside".into(), |name| name.to_string_lossy().into_owned());
    let beside: PathBuf = repo.common_dir().join("slugline-aside");
    fs::create_dir_all(&beside).map_err(GitError::file(&beside))?;
    fs::rename(admin, beside.join(name)).map_err(GitError::file(admin))
}

/// Brings the index up to date with the files' times, once they are old enough to be told from a later edit.
pub async fn repair_racy_index(repo: &Repository, exec: &impl Exec, path: &Path) -> Result<(), GitError> {
    run(repo, exec, path, "index_refresh", &["update-index", "-q", "--refresh"]).await
}
