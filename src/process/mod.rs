//! Running one command to its certain end.
//!
//! Every command is started through a supervisor: our own program executed again as `slugline __run …`. It becomes
//! sub-reaper, so that whatever the command starts, however it detaches itself, stays in the supervisor's subtree; it
//! keeps the deadline and all limits by itself; it holds the caller's lock until nothing of the run is left,
//! even when the daemon dies. The daemon only ever does a plain spawn.
//!
//! May know `model` and `metrics`. Reading order: `command` (what is asked and answered), `environment`, `runner` (the
//! daemon's side), `protocol` (what goes between), `supervisor`, `limits`, `output` and `ending` (the other side), `table` (the
//! system's process table), `group` (control groups, where there are any), `sweep` (what is done when a supervisor is lost), `tail` (output made safe to show), `capture` (a short
//! command that only reads).
//!
//! Not reachable from here: what a command asks another service to start (systemd, cron, a container engine).

mod capture;
mod command;
mod ending;
mod environment;
mod group;
mod limits;
mod output;
mod protocol;
mod runner;
mod supervisor;
mod sweep;
mod table;
mod tail;

pub use capture::{CaptureError, CaptureSpec, Captured, capture};
pub use command::{CommandSpec, Exit, ExitOutcome, OnStarted, ProcessError, WhenDaemonDies, shell};
pub use environment::clean_env;
pub use limits::{NICENESS_DEFAULT, ResourceLimits};
pub use protocol::{HELPER_VERB, MARK_VARIABLE};
pub use runner::Runner;
pub use supervisor::helper_main;
pub use sweep::{Sweep, sweep};
pub use table::start_time;
