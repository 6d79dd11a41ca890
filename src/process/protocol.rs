//! What goes between the daemon and a supervisor.
//!
//! Down: the arguments (`__run <order as JSON> <directory> <program> <arguments…>`), the environment of the command as
//! the supervisor's own plus [`HELPER_VARIABLE`], the lock as standard input, the log as standard output, the control
//! socket as standard error; later at most one line, [`CANCEL_LINE`]. Up: one line of JSON per [`Report`].

use serde::{Deserialize, Serialize};

use super::command::{ExitOutcome, WhenDaemonDies};
use super::limits::ResourceLimits;

/// First argument that makes the program a supervisor.
pub const HELPER_VERB: &str = "__run";

/// Environment variable that marks every process of a run; its value is the run's mark.
pub const MARK_VARIABLE: &str = "SLUGLINE_RUN";

/// Marks the supervisor itself; its value is the run's mark.
pub(super) const HELPER_VARIABLE: &str = "SLUGLINE_RUN_HELPER";

/// Present in supervisor and command when they are to finish without a daemon, so that a sweep leaves them alone.
pub(super) const POLICY_VARIABLE: &str = "SLUGLINE_RUN_POLICY";

/// The value of [`POLICY_VARIABLE`] for [`WhenDaemonDies::Finish`].
pub(super) const POLICY_FINISH: &str = "finish";

/// What the daemon writes to have the run ended.
pub(super) const CANCEL_LINE: &[u8] = b"cancel\n";

/// The limits of a run, as the supervisor gets them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) mark: String,
    pub(super) when_daemon_dies: WhenDaemonDies,
    pub(super) deadline_ms: u64,
    pub(super) grace_ms: u64,
    pub(super) output_bytes_max: u64,
    pub(super) limits: ResourceLimits,
}

/// What the supervisor tells: `Started` then `Ended`, or `Failed` alone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    Started { pid: u32 },
    Failed { reason: String },
    Ended(Ended),
}

/// How the run ended, as the supervisor saw it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) outcome: ExitOutcome,
    pub(super) duration_us: u64,
    pub(super) killed: u32,
    pub(super) survivors: u32,
    pub(super) output_bytes: u64,
    pub(super) left_out: u64,
    pub(super) cpu_ms: u64,
}
