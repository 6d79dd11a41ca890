//! Removing a worktree: never when anything would be lost, and then by moving it aside, from where it goes for good after
//! a while. Its branch stays.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::context::{Context, RepoEntry};
use super::exclusion;
use super::inventory::{InventoryMsg, unknown};
use super::look::ask_git;
use super::repo::Repo;
use super::watching::Watched;
use crate::git::worktree::MAKING;
use crate::git::{self, Found};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::worktree::{Obstacle, Removal, RemovalFacts, obstacles};

/// How long a removal waits for whoever works in the worktree.
const EXCLUSION_LIMIT: Duration = Duration::from_secs(5);
/// What a removed worktree's place in the trash begins with; what was set aside for other reasons is never deleted.
const REMOVED: &str = "removed-";
/// What is still being made after so long is not.
const MADE_WITHIN: Duration = Duration::from_secs(24 * 3_600);
/// Ignored paths that are named.
const IGNORED_SHOWN_MAX: usize = 100;

/// A worktree by its name, as git has it now.
pub async fn find(entry: &RepoEntry, name: &str) -> Result<Found, Problem> {
    let (repo, wanted) = (entry.repo.clone(), name.to_owned());
    let found = tokio::task::spawn_blocking(move || {
        let git = repo.git()?;
        git.worktree(&wanted).map_err(|error| {
            Problem::new(ProblemCode::RepositoryUnusable, format!("repository {}: {error}", repo.name()))
        })
    });
    let found = found.await.map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))??;
    found.ok_or_else(|| unknown(entry.repo.name(), name))
}

/// Why a worktree is not removed, seen now; and what is ignored in it.
pub async fn judge(context: &Arc<Context>, repo: &Arc<Repo>, found: &Found) -> (Vec<Obstacle>, Vec<String>) {
    let todo = repo.todo_at(&found.path);
    let claimed_by = todo.as_ref().and_then(|todo| {
        let state = context.board.of(todo);
        state.live(context.clock.moment().awake).map(|claim| format!("{}/{}", claim.lane, claim.worker))
    });
    let run = todo.as_ref().and_then(|todo| context.runs.of(todo)).map(|run| run.id.to_string());
    let status = match (found.missing, &found.error) {
        (true, _) => Err("its directory is not there".to_owned()),
        (false, Some(error)) => Err(error.clone()),
        (false, None) => ask_git(context, repo, found, true, context.settings.scan_timeout).await,
    };
    let status = match (status, submodule(repo, found).await) {
        (Ok(_), Some(inside)) => Err(format!("{inside} is a submodule with files of its own")),
        (status, _) => status,
    };
    // What a branch has stays with the branch.
    let unreachable = match found.head.clone().filter(|_| found.detached) {
        None => Ok(0),
        Some(head) => {
            let repo = repo.clone();
            let counted = tokio::task::spawn_blocking(move || {
                let git = repo.git().map_err(|problem| problem.detail)?;
                git.unreachable(&head).map_err(|error| error.to_string())
            });
            counted.await.unwrap_or_else(|error| Err(error.to_string()))
        }
    };
    let lock = found.git_dir.join("index.lock");
    let held = tokio::task::spawn_blocking(move || lock.exists()).await.unwrap_or(true);
    let git = held.then(|| "git command that holds index.lock (remove that file if no git runs there)".to_owned());
    let facts = RemovalFacts {
        main: found.main,
        locked: found.locked.clone(),
        claimed_by,
        run,
        missing: found.missing,
        changes: status.as_ref().map(|status| status.changes).map_err(Clone::clone),
        in_progress: found.in_progress.map(str::to_owned).or(git),
        unreachable,
    };
    let mut ignored = status.map(|status| status.ignored).unwrap_or_default();
    ignored.truncate(IGNORED_SHOWN_MAX);
    (obstacles(&facts), ignored)
}

/// A submodule with files in it, if there is one.
async fn submodule(repo: &Arc<Repo>, found: &Found) -> Option<String> {
    let (path, git_dir, git) = (found.path.clone(), found.git_dir.clone(), repo.git_if_open()?);
    tokio::task::spawn_blocking(move || git.submodule(&path, &git_dir)).await.ok().flatten()
}

/// Removes a worktree, or says why not.
pub async fn remove(context: &Arc<Context>, entry: &RepoEntry, name: &str, dry_run: bool) -> Result<Removal, Problem> {
    let found = find(entry, name).await?;
    let (repo, locks) = (&entry.repo, &context.on.locks);
    // From here on no run of ours begins in it; and one writer at a time in the registry.
    let todo = repo.todo_at(&found.path);
    let _exclusion = match &todo {
        Some(todo) if !dry_run && context.runs.of(todo).is_none() => Some(
            exclusion::acquire(repo, &todo.slug, EXCLUSION_LIMIT, &CancellationToken::new(), locks, "removal").await?,
        ),
        _ => None,
    };
    let _registry = locks.take(&format!("registry {}", repo.name()), "removal", repo.registry.lock()).await;
    let (reasons, ignored) = judge(context, repo, &found).await;
    let mut removal = Removal {
        repo: repo.name().clone(),
        name: name.to_owned(),
        path: found.path.display().to_string(),
        safe: reasons.is_empty(),
        reasons,
        ignored,
        dry_run,
        removed: false,
        trash: None,
        branch: found.branch.clone(),
    };
    if dry_run {
        return Ok(removal);
    }
    if !removal.safe {
        let said: Vec<&str> = removal.reasons.iter().map(|reason| reason.detail.as_str()).collect();
        let detail = format!("worktree {name} of {} is not removed: {}", repo.name(), said.join("; "));
        let reasons = serde_json::to_value(&removal.reasons).unwrap_or_default();
        return Err(Problem::new(ProblemCode::WorktreeInUse, detail).with("reasons", reasons));
    }
    let (of, path, admin) = (repo.clone(), found.path.clone(), found.git_dir.clone());
    let trash = repo.trash.join(format!("{REMOVED}{}", context.clock.operation_id()));
    let to = trash.clone();
    let moved = tokio::task::spawn_blocking(move || {
        let git = of.git()?;
        git::worktree::remove(&git, &path, &admin, &to).map_err(|error| {
            let detail = format!(
                "{} could not be moved to {}: {error}; `git worktree remove` removes it in place",
                path.display(),
                to.display()
            );
            Problem::new(ProblemCode::WorktreeUnreadable, detail)
        })
    });
    moved.await.map_err(|error| Problem::new(ProblemCode::Internal, error.to_string()))??;
    tracing::info!(repo = repo.name().as_str(), worktree = name, trash = %trash.display(), "a worktree was removed");
    (removal.removed, removal.trash) = (true, Some(trash.display().to_string()));
    if entry.signals.add(Watched::Registry(repo.name().clone()), repo.trash.clone()) {
        let _ = entry.inventory.tell(InventoryMsg::Noticed);
    }
    Ok(removal)
}

/// Deletes what was removed long ago; says how much. Blocks, for as long as deleting takes.
pub(super) fn purge(trash: &Path, keep: Duration) -> usize {
    let Ok(entries) = std::fs::read_dir(trash) else { return 0 };
    let mut count = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let (removed, made) = (|name| str::strip_prefix(name, REMOVED), |name| str::strip_prefix(name, MAKING));
        // What was being made was never given to anybody.
        let Some(id) = name.to_str().and_then(|name| removed(name).or_else(|| made(name))) else { continue };
        let keep = if name.to_string_lossy().starts_with(MAKING) { keep.max(MADE_WITHIN) } else { keep };
        let Ok(since) = ulid::Ulid::from_string(id).map(|id| id.datetime()) else { continue };
        if SystemTime::now().duration_since(since).is_ok_and(|age| age > keep) {
            let deleted = std::fs::remove_dir_all(entry.path());
            count += usize::from(deleted.is_ok());
            tracing::info!(path = %entry.path().display(), ok = deleted.is_ok(), "a worktree that was removed long ago is deleted");
        }
    }
    count
}

/// What the files of a worktree take on disk, in bytes; what is in several places of it counts once. Blocks.
pub(super) fn disk_use(path: &Path, stop: &dyn Fn() -> bool) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut total, mut seen, mut left) = (0, std::collections::HashSet::new(), vec![path.to_owned()]);
    while let Some(dir) = left.pop() {
        if stop() {
            return None;
        }
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                left.push(entry.path());
            }
            if meta.nlink() < 2 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
                total += meta.blocks() * 512;
            }
        }
    }
    Some(total)
}
