//! A short command whose output is wanted, such as `git status`: a process group of its own, a deadline, a bound on
//! what it may say. It is for commands that only read; what a repository declares runs under [`super::Runner`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::protocol::MARK_VARIABLE;
use crate::model::mask::masked;

/// Bytes of its complaints that are kept.
const COMPLAINT_BYTES: u64 = 4_096;

/// What to run.
#[derive(Debug, Clone)]
pub struct CaptureSpec {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Where.
    pub cwd: PathBuf,
    /// Its whole environment; the mark is added.
    pub env: Vec<(OsString, OsString)>,
    /// How long it may take.
    pub deadline: Duration,
    /// How much it may say.
    pub output_bytes_max: u64,
    /// Names it in its environment, so that it is found if the daemon dies.
    pub mark: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it said.
    pub stdout: Vec<u8>,
    /// The beginning of its complaints.
    pub stderr: String,
}

/// Why nothing came of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// It could not be started.
    #[error("it cannot be started: {0}")]
    NotStarted(String),
    /// It was ended at its deadline.
    #[error("it was ended after {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// It said more than it may.
    #[error("it said more than {0} bytes")]
    TooMuch(u64),
}

/// Ends the whole group when dropped, unless it ended by itself: so giving up on the future ends the command.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs a command to its end and keeps what it says.
pub async fn capture(spec: CaptureSpec) -> Result<Captured, CaptureError> {
    let not_started = |error: &dyn std::fmt::Display| CaptureError::NotStarted(error.to_string());
    let (program, args) = spec.argv.split_first().ok_or_else(|| not_started(&"no command given"))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(&spec.cwd)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .env(MARK_VARIABLE, &spec.mark)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| not_started(&error))?;
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let mut group = Group(pid);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let run = async {
        let (stdout, stderr) = tokio::join!(all_of(stdout, spec.output_bytes_max + 1), all_of(stderr, COMPLAINT_BYTES));
        if stdout.len() as u64 > spec.output_bytes_max {
            return Err(CaptureError::TooMuch(spec.output_bytes_max));
        }
        let status = child.wait().await.map_err(|error| not_started(&error))?;
        Ok(Captured {
            code: status.code(),
            stdout,
            stderr: masked(String::from_utf8_lossy(&stderr).trim()).into_owned(),
        })
    };
    let done = tokio::time::timeout(spec.deadline, run).await.unwrap_or(Err(CaptureError::TimedOut(spec.deadline)));
    if done.is_ok() {
        group.0 = None;
    }
    done
}

async fn all_of(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.take(limit).read_to_end(&mut bytes).await;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> CaptureSpec {
        CaptureSpec {
            argv: super::super::shell(line),
            cwd: std::env::temp_dir(),
            env: super::super::clean_env(&[]),
            deadline: Duration::from_secs(20),
            output_bytes_max: 1_000,
            mark: "capture-test".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_a_command_says_and_how_it_ends_comes_back() {
        let captured = capture(shell("echo out; echo err >&2; exit 3")).await.expect("runs");
        assert_eq!(captured, Captured { code: Some(3), stdout: b"out\n".to_vec(), stderr: "err".to_owned() });
    }

    #[tokio::test]
    async fn one_that_does_not_end_or_says_too_much_is_ended_with_all_it_started() {
        let dir = tempfile::tempdir().expect("temp dir");
        let pid_file = dir.path().join("pid");
        let line = format!("sleep 600 & echo $! > {}; sleep 600", pid_file.display());
        let spec = CaptureSpec { deadline: Duration::from_millis(500), ..shell(&line) };
        assert_eq!(capture(spec).await, Err(CaptureError::TimedOut(Duration::from_millis(500))));
        let pid: i32 = std::fs::read_to_string(pid_file).expect("was started").trim().parse().expect("a number");
        let is_there = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let since = std::time::Instant::now();
        while is_there() {
            assert!(since.elapsed() < Duration::from_secs(10), "its child is still there");
            tokio::task::yield_now().await;
        }
        assert_eq!(capture(shell("yes")).await, Err(CaptureError::TooMuch(1_000)));
    }
}
