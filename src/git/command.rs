//! git command lines: what goes out, what comes back, and trying again when another git held a lock.

use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use super::pipes::Reading;
use super::repository::Repository;
use super::{hardening, locks};
use crate::model::git_fault::GitFault;
use crate::model::mask::masked;
use crate::model::problem::{Problem, ProblemCode};

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
    fn exec(&self, command: GitCommand) -> impl Future<Output = Result<GitExit, Problem>> + Send;
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
    /// It took longer than it may.
    #[error("git {0} was ended before it was done (out of time)")]
    TimedOut(&'static str),
    /// It was ended because the caller asked for it.
    #[error("git {0} was ended before it was done (cancelled)")]
    Cancelled(&'static str),
    /// It could not be run.
    #[error("git {what} could not be run: {}", problem.detail)]
    NotRun {
        /// The operation.
        what: &'static str,
        /// Why.
        problem: Problem,
    },
    /// Somebody else works there, and was quicker.
    #[error("{0}; nothing of it is lost: ask again")]
    Overtaken(String),
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

    fn fault(&self) -> GitFault {
        match self {
            Self::Command { tail: said, .. } | Self::Library { reason: said, .. } | Self::File { reason: said, .. } => {
                GitFault::of(said)
            }
            _ => GitFault::Other,
        }
    }

    /// Whether another git held a lock.
    #[must_use]
    pub fn is_lock_contention(&self) -> bool {
        self.fault() == GitFault::Locked
    }

    /// The problem of whoever wanted it: what was wanted, what came instead, and the way out as far as it is known.
    #[must_use]
    pub fn problem(&self, wanted: &str) -> Problem {
        let code = match self {
            Self::TimedOut(_) => ProblemCode::DeadlineExceeded,
            Self::Cancelled(_) => ProblemCode::Cancelled,
            Self::NotRun { problem, .. } => problem.code,
            Self::Overtaken(_) => ProblemCode::LockTimeout,
            Self::Command { .. } | Self::Library { .. } | Self::File { .. } | Self::State(_) => self.fault().code(),
        };
        let way_out = self.fault().way_out().map(|way| format!("; {way}")).unwrap_or_default();
        Problem::new(code, format!("{wanted}: {self}{way_out}"))
    }
}

/// Runs `git <args>` in `cwd`, hardened; tries again while another git holds a lock. Only for what can be done again from
/// wherever it was left.
pub(super) async fn run(
    repo: &Repository,
    exec: &impl Exec,
    cwd: &Path,
    what: &'static str,
    args: &[&str],
) -> Result<(), GitError> {
    let mut tries = Tries::default();
    loop {
        match once(repo, exec, cwd, what, args).await {
            Err(error) if tries.again(repo, cwd, &error).await => {}
            done => return done,
        }
    }
}

/// Tries of one command, and the pauses between them.
pub(super) struct Tries {
    made: u32,
    pause: Duration,
}

impl Default for Tries {
    fn default() -> Self {
        Self { made: 0, pause: PAUSE_MIN }
    }
}

impl Tries {
    /// Whether a command that failed is tried again: when another git held a lock and it was not tried often enough. By
    /// then a pause has passed, and a lock that is nobody's is gone. The caller holds the exclusion of the worktree at `cwd`.
    pub(super) async fn again(&mut self, repo: &Repository, cwd: &Path, error: &GitError) -> bool {
        self.made += 1;
        if !error.is_lock_contention() || self.made >= TRIES {
            return false;
        }
        locks::clear_stale(repo, cwd, &error.to_string());
        tokio::time::sleep(self.pause.mul_f64(0.5 + jitter() / 2.0)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// Runs `git <args>` in `cwd` once, hardened.
pub(super) async fn once(
    repo: &Repository,
    exec: &impl Exec,
    cwd: &Path,
    what: &'static str,
    args: &[&str],
) -> Result<(), GitError> {
    let git_dir = repo
        .git_dir_of(cwd)
        .ok_or_else(|| GitError::State(format!("{} is no worktree of this repository (any more)", cwd.display())))?;
    let has_files = cwd != repo.common_dir();
    repo.refuse_links(&git_dir)?;
    repo.check()?;
    let env = hardening::environment(repo, &git_dir, has_files)?;
    let argv = std::iter::once("git").chain(args.iter().copied()).map(OsString::from).collect();
    let command = GitCommand { argv, cwd: cwd.to_owned(), env, deadline: DEADLINE, what };
    let _reading = Reading::git(repo.common_dir(), has_files.then_some(cwd));
    let exit = exec.exec(command).await.map_err(|problem| GitError::NotRun { what, problem })?;
    match (exit.outcome, exit.code) {
        (GitEnd::Exited, Some(0)) => Ok(()),
        (GitEnd::TimedOut, _) => Err(GitError::TimedOut(what)),
        (GitEnd::Cancelled, _) => Err(GitError::Cancelled(what)),
        (GitEnd::Exited, code) => Err(GitError::Command {
            what,
            status: code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}")),
            tail: with_lock(exit.tail.trim(), &git_dir),
        }),
    }
}

/// What git said, with the lock it met: a merge says only that it could not write the index.
fn with_lock(said: &str, git_dir: &Path) -> String {
    let lock = git_dir.join("index.lock");
    let met = said.contains("nable to write index") && lock.symlink_metadata().is_ok();
    if met { format!("{said}\nUnable to create '{}': File exists.", lock.display()) } else { said.to_owned() }
}

/// A number in `0.0..1.0` that differs from call to call.
fn jitter() -> f64 {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
    f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
