//! What the daemon asks for and what it gets: a command with its limits, and how it ended.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::ResourceLimits;

/// Called once with the command's process id as soon as it runs. Must not block.
pub type OnStarted = Box<dyn FnOnce(u32) + Send + Sync>;

/// One command with everything that bounds it.
pub struct CommandSpec {
    /// Program and arguments; never passed through a shell (see [`shell`]).
    pub argv: Vec<OsString>,
    /// Absolute directory the command starts in.
    pub cwd: PathBuf,
    /// The whole environment of the command; the run's mark is added to it. See [`super::clean_env`].
    pub env: Vec<(OsString, OsString)>,
    /// Standard output and error, appended; created with mode 0600. Must not be a symbolic link.
    pub log: PathBuf,
    /// Whether the log keeps its name. Else its output is only to be had as [`Exit::tail`], in which there are no
    /// credentials: nothing of it is to be found on disk.
    pub log_kept: bool,
    /// How long the command may run, counted by the supervisor on the monotonic clock.
    pub deadline: Duration,
    /// How long processes may take to end after being asked to (TERM) before they are killed.
    pub grace: Duration,
    /// How many bytes the log may grow during this command, and a line that says how many are left out. Of more output
    /// the beginning and the end are kept.
    pub output_bytes_max: u64,
    /// What it and all it starts may use.
    pub limits: ResourceLimits,
    /// A file this process holds an exclusive `flock` on. The supervisor shares that lock until nothing of the run is
    /// left. Release it by dropping the file; an explicit unlock would also take it from the supervisor.
    pub lock: Option<Arc<File>>,
    /// What becomes of the command when the daemon dies.
    pub when_daemon_dies: WhenDaemonDies,
    /// Names this run in the environment of every process of it. Unique per run: what carries it may be killed.
    pub mark: String,
    /// Told the process id once the command runs.
    pub on_started: Option<OnStarted>,
}

/// What becomes of a command whose daemon died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenDaemonDies {
    /// It is ended at once: what it did is done again from the start.
    Kill,
    /// It runs on to its own end within the deadline: ending it would leave half-done state (git).
    Finish,
}

/// The argument vector that runs one line of shell.
#[must_use]
pub fn shell(command: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", command].map(OsString::from).into()
}

/// How a command ended. When it is handed out nothing of the run is left, except `survivors`.
#[derive(Debug, Clone)]
pub struct Exit {
    /// What ended it.
    pub outcome: ExitOutcome,
    /// From the start of the command until nothing of it was left.
    pub duration: Duration,
    /// The last 8 KiB at most of this command's output: valid UTF-8, no escape sequences, no control characters but
    /// line feed and tab. Still text of a stranger: escape it for the medium it is shown in.
    pub tail: String,
    /// Process id of the command; 0 when it was cancelled before it started.
    pub pid: u32,
    /// Processes that had to be signalled to end the run.
    pub killed: u32,
    /// Processes that even KILL did not end in time (stuck in the kernel). The supervisor goes on holding the lock for
    /// them.
    pub survivors: u32,
    /// Bytes it printed.
    pub output_bytes: u64,
    /// How many of them are not in the log.
    pub left_out: u64,
    /// Processor time of all processes of the run that were waited for.
    pub cpu: Duration,
}

/// What ended a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitOutcome {
    /// It exited by itself with this code.
    Code(i32),
    /// A signal from elsewhere ended it.
    Signal(i32),
    /// It was ended at its deadline.
    TimedOut,
    /// It was ended because the caller asked for it.
    Cancelled,
    /// It is git, which prints into the log itself, and the log grew beyond the limit.
    OutputLimit,
    /// Its processes had more memory than they may.
    MemoryLimit,
    /// It had more processes than it may.
    ProcessLimit,
}

/// Why a command could not be run to an outcome.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The argument vector is empty.
    #[error("no command given: name at least a program")]
    NoCommand,
    /// The log file could not be opened.
    #[error("log file {path} cannot be opened: {source}", path = path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The supervisor could not be started.
    #[error("supervisor {program} cannot be started: {source}", program = program.display())]
    Helper {
        /// The program that was to supervise.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The supervisor could not start the command: no such program or directory, no permission.
    #[error("{program} cannot be started: {reason}")]
    NotStarted {
        /// The program as asked for.
        program: String,
        /// Why.
        reason: String,
    },
    /// The supervisor vanished or fell silent; what it left behind was found by the run's mark and ended.
    #[error(
        "the supervisor of run {mark} was lost: {killed} processes of the run were ended, {survivors} could not be"
    )]
    HelperLost {
        /// The run.
        mark: String,
        /// Processes that were signalled.
        killed: u32,
        /// Processes still there.
        survivors: u32,
    },
    /// The runtime is shutting down and takes no more work.
    #[error("the daemon is shutting down: no command is started any more")]
    ShuttingDown,
}
