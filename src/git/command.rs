//! git command lines: what goes out, what comes back, and trying again when another git held a lock.

use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use super::repository::Repository;
use super::{hardening, locks};
use crate::model::mask::masked;

/// What one git command gets unless the daemon's settings give less.
pub const DEADLINE: Duration = Duration::from_secs(600);
/// How often a command is tried when another git holds a lock, and the pause before the second try; it doubles, up to
/// its limit. Together about five seconds: git itself holds its locks for milliseconds.
const TRIES: u32 = 10;
const PAUSE_MIN: Duration = Duration::from_millis(15);
const PAUSE_MAX: Duration = Duration::from_millis(1_000);

/// One git command line to be run to its certain end.
#[derive(Debug, Clone)]
pub struct GitCommand {
    /// Starting with `git`.
    pub argv: Vec<OsString>,
    /// Where.
    pub cwd: std::path::PathBuf,
    /// What the hardening adds to the environment, which has no `GIT_*` of its own.
    pub env: Vec<(OsString, OsString)>,
    /// How long it may take.
    pub deadline: Duration,
    /// The operation's name, for metrics: `worktree_add`, `merge`.
    pub what: &'static str,
}

/// How a git command line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitEnd {
    /// By itself.
    Exited,
    /// At its deadline.
    TimedOut,
    /// Because the caller asked for it.
    Cancelled,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct GitExit {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// How it ended.
    pub outcome: GitEnd,
    /// The last of its output.
    pub tail: String,
}

/// Runs git command lines: in a process group of their own, with a deadline, with the caller's exclusion.
pub trait Exec: Send + Sync {
    /// Runs one. The error is for what kept it from running at all.
    fn exec(&self, command: GitCommand) -> impl Future<Output = Result<GitExit, String>> + Send;
}

/// Why a git operation did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GitError {
    /// git said no.
    #[error("git {what} failed with {status}: {tail}")]
    Command {
        /// The operation.
        what: &'static str,
        /// Exit code or signal in words.
        status: String,
        /// What it said.
        tail: String,
    },
    /// It was ended.
    #[error("git {what} was ended before it was done ({how})")]
    Ended {
        /// The operation.
        what: &'static str,
        /// Cancelled or out of time.
        how: &'static str,
    },
    /// It could not be run.
    #[error("git {what} could not be run: {reason}")]
    NotRun {
        /// The operation.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The library said no.
    #[error("{what}: {reason}")]
    Library {
        /// What was being done.
        what: String,
        /// What the library said.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// The repository's state does not allow it.
    #[error("{0}")]
    State(String),
}

impl GitError {
    pub(super) fn library(what: impl Into<String>) -> impl FnOnce(git2::Error) -> Self {
        let what = what.into();
        move |error| Self::Library { what, reason: masked(error.message()).into_owned() }
    }

    pub(super) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::File { path: path.display().to_string(), reason: error.to_string() }
    }

    /// Whether another git held a lock.
    #[must_use]
    pub fn is_lock_contention(&self) -> bool {
        const SIGNS: [&str; 5] =
            ["could not lock", "Unable to create", ".lock': File exists", "cannot lock ref", "Another git process"];
        matches!(self, Self::Command { tail, .. } if SIGNS.iter().any(|sign| tail.contains(sign)))
    }
}

/// Runs `git <args>` in `cwd`, hardened; tries again while another git holds a lock.
pub(super) async fn run(
    repo: &Repository,
    exec: &impl Exec,
    cwd: &Path,
    what: &'static str,
    args: &[&str],
) -> Result<(), GitError> {
    let mut pause = PAUSE_MIN;
    let git_dir = repo
        .git_dir_of(cwd)
        .ok_or_else(|| GitError::State(format!("{} is no worktree of this repository (any more)", cwd.display())))?;
    let has_files = cwd != repo.common_dir();
    for attempt in 1.. {
        repo.refuse_links(&git_dir)?;
        let env = hardening::environment(repo, &git_dir, has_files)?;
        let argv = std::iter::once("git").chain(args.iter().copied()).map(OsString::from).collect();
        let command = GitCommand { argv, cwd: cwd.to_owned(), env, deadline: DEADLINE, what };
        let exit = exec.exec(command).await.map_err(|reason| GitError::NotRun { what, reason })?;
        let error = match (exit.outcome, exit.code) {
            (GitEnd::Exited, Some(0)) => return Ok(()),
            (GitEnd::TimedOut, _) => return Err(GitError::Ended { what, how: "out of time" }),
            (GitEnd::Cancelled, _) => return Err(GitError::Ended { what, how: "cancelled" }),
            (GitEnd::Exited, code) => GitError::Command {
                what,
                status: code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}")),
                tail: with_lock(exit.tail.trim(), &git_dir),
            },
        };
        if !error.is_lock_contention() || attempt >= TRIES {
            return Err(error);
        }
        locks::clear_stale(repo, cwd, &error.to_string());
        tokio::time::sleep(pause.mul_f64(0.5 + jitter() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    unreachable!("the loop returns at its last try")
}

/// What git said, with the lock it met: a merge says only that it could not write the index.
fn with_lock(said: &str, git_dir: &Path) -> String {
    let lock = git_dir.join("index.lock");
    let met = said.contains("Unable to write index") && lock.symlink_metadata().is_ok();
    if met { format!("{said}\nUnable to create '{}': File exists.", lock.display()) } else { said.to_owned() }
}

/// A number in `0.0..1.0` that differs from call to call.
fn jitter() -> f64 {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
