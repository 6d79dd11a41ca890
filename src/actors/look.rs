//! One look at the files of one worktree: a permit, a scan, git's own word where only git has one, and an end in any
//! case. A scan is asked to stop at its limit and does so at the next directory; when the disk itself does not answer,
//! its thread is left behind, alone with that worktree, and its permit goes to others.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::context::Context;
use super::repo::Repo;
use super::survey::Merged;
use super::watching::Watched;
use crate::git::{Found, GitError, Looked, Repository, ScanError, ScanMemory, porcelain};
use crate::metrics::git as git_metric;
use crate::metrics::inventory as metric;
use crate::metrics::inventory::ScanOutcome;
use crate::model::ids::Oid;
use crate::model::worktree::{Changes, Urgency, WatchMode};
use crate::process::{CaptureSpec, capture};

/// How long a scan that was asked to stop may take to do so.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// How much `git status` may say: a hundred thousand paths.
const STATUS_BYTES_MAX: u64 = 16 << 20;
/// How often a look asks whether anybody still wants it while it waits.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What a look is made of.
pub struct LookTask {
    /// What all actors share.
    pub context: Arc<Context>,
    /// The repository.
    pub repo: Arc<Repo>,
    /// The worktree.
    pub found: Found,
    /// The base's commit.
    pub base: Option<Oid>,
    /// What is known of whether it is merged.
    pub merged: Option<Merged>,
    /// What the last look left.
    pub memory: Box<ScanMemory>,
    /// Whether its directories are to be watched from now on.
    pub watch: bool,
    /// Who wants it.
    pub urgency: Urgency,
    /// Raised when nobody wants it any more.
    pub stop: Arc<AtomicBool>,
}

/// What a look tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What is not committed.
    pub changes: Changes,
    /// Whether the base has what is.
    pub merged: Option<Merged>,
    /// How further changes are noticed.
    pub watch: WatchMode,
    /// What is to be watched is not what was watched during the look.
    pub watched_anew: bool,
}

/// Why a look tells nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookError {
    /// Nobody wanted it any more.
    GivenUp,
    /// It failed.
    Failed {
        /// Why, in words.
        what: String,
        /// Its thread has not come back.
        stuck: bool,
    },
}

fn failed(what: impl std::fmt::Display) -> LookError {
    LookError::Failed { what: what.to_string(), stuck: false }
}

/// Looks. `unstuck` is called if the scan's thread comes back after it was left behind.
pub async fn look(
    mut task: LookTask,
    unstuck: impl FnOnce() + Send + 'static,
) -> (Result<Told, LookError>, Box<ScanMemory>, Duration) {
    let memory = std::mem::take(&mut task.memory);
    let permits = task.context.permits.clone();
    let permit = tokio::select! {
        permit = permits.take(task.urgency) => permit,
        () = given_up(&task.stop) => return (Err(LookError::GivenUp), memory, Duration::ZERO),
    };
    let begun = Instant::now();
    let limit = task.context.settings.scan_timeout;
    let (result, memory) = within(&task, memory, begun + limit, unstuck).await;
    let took = begun.elapsed();
    drop(permit);
    let (outcome, result) = match result {
        Ok((told, by_git)) => (if by_git { ScanOutcome::Git } else { ScanOutcome::Counted }, Ok(told)),
        Err(error @ LookError::GivenUp) => (ScanOutcome::Cancelled, Err(error)),
        Err(error) if took >= limit => (ScanOutcome::Timeout, Err(error)),
        Err(error) => (ScanOutcome::Error, Err(error)),
    };
    metric::scanned(outcome, took);
    (result, memory, took)
}

async fn given_up(stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What a scan brings back: what it saw, whether the base has what is committed, and how it is watched.
struct Seen {
    looked: Looked,
    merged: Option<Merged>,
    watch: WatchMode,
    watched_anew: bool,
}

async fn within(
    task: &LookTask,
    memory: Box<ScanMemory>,
    until: Instant,
    unstuck: impl FnOnce() + Send + 'static,
) -> (Result<(Told, bool), LookError>, Box<ScanMemory>) {
    let late = Arc::new(AtomicBool::new(false));
    let mut scan = tokio::task::spawn_blocking({
        let (context, repo, found) = (task.context.clone(), task.repo.clone(), task.found.clone());
        let (base, merged, watch, stop, late) =
            (task.base.clone(), task.merged.clone(), task.watch, task.stop.clone(), late.clone());
        move || {
            let mut memory = memory;
            let stop = || stop.load(Ordering::Acquire) || late.load(Ordering::Acquire);
            context.faults.hit("inventory.scan");
            let seen = scan(&context, &repo, &found, base, merged, watch, &mut memory, &stop);
            (seen, memory)
        }
    });
    let limit_ms = task.context.settings.scan_timeout.as_millis();
    let done = match tokio::time::timeout_at(until.into(), &mut scan).await {
        Ok(done) => done,
        Err(_) => {
            late.store(true, Ordering::Release);
            match tokio::time::timeout(STOP_GRACE, &mut scan).await {
                Ok(done) => done,
                Err(_) => {
                    tokio::spawn(async move {
                        let _ = scan.await;
                        unstuck();
                    });
                    let what = format!("its disk did not answer within {limit_ms} ms");
                    return (Err(LookError::Failed { what, stuck: true }), Box::default());
                }
            }
        }
    };
    let (seen, mut memory) = match done {
        Ok(done) => done,
        Err(error) => return (Err(failed(format!("looking at it failed: {error}"))), Box::default()),
    };
    let seen = match seen {
        Ok(seen) => seen,
        Err(ScanError::Stopped) if late.load(Ordering::Acquire) => {
            return (Err(failed(format!("looking at it took longer than {limit_ms} ms"))), memory);
        }
        Err(ScanError::Stopped) => return (Err(LookError::GivenUp), memory),
        Err(error) => return (Err(failed(error)), memory),
    };
    let told = |changes| Told { changes, merged: seen.merged, watch: seen.watch, watched_anew: seen.watched_anew };
    match seen.looked {
        Looked::Counted(changes) => (Ok((told(changes), false)), memory),
        Looked::AskGit(_) => {
            let left = until.saturating_duration_since(Instant::now());
            let asked = tokio::select! {
                asked = ask_git(&task.context, &task.repo, &task.found, false, left) => asked,
                () = given_up(&task.stop) => return (Err(LookError::GivenUp), memory),
            };
            if let Ok(status) = &asked {
                memory.settle(status);
            }
            (asked.map(|status| (told(status.changes), true)).map_err(failed), memory)
        }
    }
}

fn scan(
    context: &Context,
    repo: &Repo,
    found: &Found,
    base: Option<Oid>,
    merged: Option<Merged>,
    watch: bool,
    memory: &mut ScanMemory,
    stop: &dyn Fn() -> bool,
) -> Result<Seen, ScanError> {
    let fault = |error: &dyn std::fmt::Display| ScanError::Unreadable {
        path: found.path.display().to_string(),
        reason: error.to_string(),
    };
    let git = repo.git().map_err(|problem| fault(&problem.detail))?;
    // Watched before it is looked at, so that no change falls in between. The first look finds out what to watch.
    let owner = Watched::Tree(repo.name().clone(), found.name.clone());
    let known: BTreeSet<PathBuf> = memory.dirs.iter().cloned().collect();
    let watches = watch && !known.is_empty();
    let is_watched = watches && context.watching.watch(&owner, &memory.dirs).is_ok();
    // The commit as it is now: what the last survey read may have moved since.
    let head = git.head_of(&found.git_dir);
    let tree = head.as_ref().map(|head| git.tree_of_commit(head)).transpose().map_err(|error| fault(&error))?;
    let looked = git.scan(&found.path, &found.git_dir, tree.as_ref(), memory, stop)?;
    let merged = merged_now(&git, found, base, merged).map_err(|error| fault(&error))?;
    let (watch, watched_anew) = match () {
        () if !watch => (WatchMode::Idle, false),
        // Of an index only git can read it is not known what to watch.
        () if memory.dirs.is_empty() || watches && !is_watched => (WatchMode::Polled, false),
        () if is_watched => (WatchMode::Watched, memory.dirs.iter().any(|dir| !known.contains(dir))),
        () => (WatchMode::Polled, true),
    };
    Ok(Seen { looked, merged, watch, watched_anew })
}

fn merged_now(
    git: &Repository,
    found: &Found,
    base: Option<Oid>,
    known: Option<Merged>,
) -> Result<Option<Merged>, GitError> {
    let (Some(head), Some(base)) = (found.head.clone(), base) else { return Ok(None) };
    // While a branch is rebased HEAD is somewhere else, and says nothing of the branch.
    if found.detached && found.branch.is_some() {
        return Ok(None);
    }
    if known.as_ref().is_some_and(|known| known.is_of(Some(&head), Some(&base))) {
        return Ok(known);
    }
    // The main worktree is usually on the base itself.
    if found.branch.as_deref() == Some(git.base_branch()) {
        return Ok(Some(Merged { head, base, by: None }));
    }
    let by = git.merged(found.branch.as_deref(), &head, &base)?;
    Ok(Some(Merged { head, base, by }))
}

/// Asks git what it says of a worktree, path by path. The error says why it says nothing.
pub async fn ask_git(
    context: &Context,
    repo: &Arc<Repo>,
    found: &Found,
    ignored: bool,
    deadline: Duration,
) -> Result<porcelain::Status, String> {
    let (of, found) = (repo.clone(), found.clone());
    let command = tokio::task::spawn_blocking(move || {
        let git = of.git().map_err(|problem| problem.detail)?;
        git.status_command(&found, ignored, deadline).map_err(|error| error.to_string())
    });
    let command = command.await.map_err(|error| error.to_string())??;
    let begun = Instant::now();
    let mut env = context.environment.clone();
    env.extend(command.env);
    let spec = CaptureSpec {
        argv: command.argv,
        cwd: command.cwd,
        env,
        deadline: command.deadline,
        output_bytes_max: STATUS_BYTES_MAX,
        mark: format!("{}-status", context.run_mark),
    };
    let captured = capture(spec).await;
    let well = captured.as_ref().is_ok_and(|captured| captured.code == Some(0));
    git_metric::operation_finished("status", well, begun.elapsed());
    match captured {
        Ok(captured) if well => porcelain::parse(&captured.stdout),
        Ok(captured) => Err(format!("git status failed: {}", captured.stderr)),
        Err(error) => Err(format!("git status: {error}")),
    }
}
