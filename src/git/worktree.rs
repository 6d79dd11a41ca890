//! Making, attaching, linking, restoring and setting aside worktrees. The caller holds the worktree's exclusion and is
//! the only writer of the repository's registry.
//!
//! Nothing here deletes what somebody could want: directories and registrations are moved aside, other worktrees'
//! registrations are never touched (no `git worktree prune`).

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::command::{Exec, GitError, run};
use super::refs::read_small;
use super::repository::Repository;
use crate::model::ids::{Oid, Slug};

/// Makes branch and worktree from the base. `--no-track`, because tracking is written to the shared configuration,
/// whose lock concurrent makers fight over.
pub async fn create(repo: &Repository, exec: &impl Exec, path: &Path, slug: &Slug, base: &Oid) -> Result<(), GitError> {
    let target = path.to_string_lossy();
    let args = ["worktree", "add", "--quiet", "--no-track", "-b", slug.as_str(), &target, base.as_str()];
    let made = run(repo, exec, repo.main_path(), "worktree_add", &args).await;
    if made.is_err() && repo.branch_oid(slug).as_ref() == Some(base) && !path.exists() {
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
pub async fn attach(repo: &Repository, exec: &impl Exec, path: &Path, slug: &Slug) -> Result<(), GitError> {
    let target = path.to_string_lossy();
    run(repo, exec, repo.main_path(), "worktree_add", &["worktree", "add", "--quiet", &target, slug.as_str()]).await
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
        let file = admin.join(name);
        fs::write(&file, content).map_err(GitError::file(&file))?;
    }
    // Builds the index from the branch; what differs in the directory shows as local changes, nothing is lost.
    run(repo, exec, path, "reset_index", &["reset", "--quiet", "--mixed", "--no-refresh"]).await
}

/// Makes the directory of a registered worktree again. Files come from its index, so what was staged is there again.
pub async fn recreate(repo: &Repository, exec: &impl Exec, path: &Path, slug: &Slug) -> Result<(), GitError> {
    let admin =
        repo.registration_of(path)?.ok_or_else(|| GitError::State(format!("{} is not registered", path.display())))?;
    fs::create_dir_all(path).map_err(GitError::file(path))?;
    let link = path.join(".git");
    fs::write(&link, format!("gitdir: {}\n", admin.display())).map_err(GitError::file(&link))?;
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
pub fn set_aside(repo: &Repository, path: &Path, trash: &Path) -> Result<(), GitError> {
    fs::create_dir_all(trash).map_err(GitError::file(trash))?;
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
