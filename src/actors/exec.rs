//! How the commands of a run are run: with its exclusion, its log, its mark and its end.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::exclusion::{not_kept, private_parent};
use super::health::inflight::{CommandOn, Pid};
use super::run::{PhaseFault, Run};
use crate::git::{Exec, GitCommand, GitEnd, GitExit};
use crate::metrics::{git as git_metric, process as metric, spans};
use crate::model::ids::{OperationId, TodoKey};
use crate::model::phase::{Outcome, Phase};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::trace::Trace;
use crate::process::{CommandSpec, Exit, ExitOutcome, ProcessError, ResourceLimits, WhenDaemonDies, shell};

/// The signal that ends who writes a file larger than it may (`SIGXFSZ`).
const FILE_TOO_LARGE: i32 = 25;
/// How much of a command line is shown of what is in flight.
const COMMAND_SHOWN: usize = 400;

/// Runs the commands of one run.
pub struct RunExec {
    context: Arc<Context>,
    cwd: PathBuf,
    log: PathBuf,
    lock: Option<Arc<File>>,
    of: Option<(TodoKey, OperationId)>,
    stop: CancellationToken,
    mark: String,
    extra: Vec<(OsString, OsString)>,
    phase: Phase,
    trace: Trace,
}

impl RunExec {
    /// For git commands of a run: they end by themselves when the daemon dies, so that git leaves nothing half done.
    #[must_use]
    pub fn git(run: &Run) -> Self {
        Self::of(run, Phase::Worktree)
    }

    /// For the commands a repository declares: they end with the daemon.
    #[must_use]
    pub fn command(run: &Run, phase: Phase) -> Self {
        Self::of(run, phase)
    }

    fn of(run: &Run, phase: Phase) -> Self {
        let todo = &run.args.todo;
        let extra: Vec<(OsString, OsString)> = vec![
            ("SLUGLINE_REPO".into(), todo.repo.as_str().into()),
            ("SLUGLINE_SLUG".into(), todo.slug.as_str().into()),
            ("SLUGLINE_OPERATION".into(), run.handle.id.as_str().into()),
        ];
        Self {
            context: run.args.context.clone(),
            cwd: run.args.repo.worktree_path(&todo.slug),
            log: run.log.clone(),
            lock: run.exclusion.as_ref().map(|exclusion| exclusion.file.clone()),
            of: Some((todo.clone(), run.handle.id.clone())),
            stop: run.stopped().clone(),
            mark: format!("{}-{}", run.args.context.run_mark, run.handle.id),
            extra,
            phase,
            trace: run.phase_trace.clone(),
        }
    }

    /// For git commands of a job, which inherit its run-lock; what they print passes through `log` and is not kept.
    #[must_use]
    pub fn job(context: Arc<Context>, lock: Arc<File>, log: PathBuf, stop: CancellationToken) -> Self {
        let mark = format!("{}-job", context.run_mark);
        let (cwd, extra) = (context.settings.data_dir.clone(), Vec::new());
        let (phase, trace) = (Phase::SyncMain, spans::begin(None, None));
        Self { context, cwd, log, lock: Some(lock), of: None, stop, mark, extra, phase, trace }
    }

    /// Runs one line of shell in the worktree.
    pub async fn shell(&self, command: &str, deadline: Duration) -> Result<Exit, PhaseFault> {
        let who = self.of.as_ref().map_or_else(|| "a job".to_owned(), |(todo, id)| format!("run {id} of {todo}"));
        let (permit, _held) = tokio::select! {
            biased;
            permit = self.context.on.locks.take("commands", &who, self.context.commands.acquire()) => permit,
            () = self.stop.cancelled() => return Err(cancelled()),
        };
        let _permit = permit.map_err(|_| cancelled())?;
        let env = [self.context.environment.clone(), self.extra.clone()].concat();
        let spec = self.spec(shell(command), self.cwd.clone(), env, deadline, WhenDaemonDies::Kill).await?;
        self.run(spec).await.map_err(|error| not_run(&format!("`{command}`"), &error).into())
    }

    async fn spec(
        &self,
        argv: Vec<OsString>,
        cwd: PathBuf,
        env: Vec<(OsString, OsString)>,
        deadline: Duration,
        when_daemon_dies: WhenDaemonDies,
    ) -> Result<CommandSpec, Problem> {
        let log = self.log.clone();
        let log = tokio::task::spawn_blocking(move || private_parent(log))
            .await
            .map_err(std::io::Error::other)
            .and_then(|made| made);
        let log = log.map_err(|error| not_kept("the directory of log", &self.log, &error))?;
        Ok(CommandSpec {
            argv,
            cwd,
            env,
            log,
            // git repeats the address of a remote when it fetches, and there may be credentials in it.
            log_kept: self.of.is_some(),
            deadline,
            grace: self.context.settings.kill_grace,
            output_bytes_max: self.context.settings.output_bytes_max,
            // Those of a repository's commands; what git takes follows from the repository.
            limits: match when_daemon_dies {
                WhenDaemonDies::Kill => self.context.settings.command_limits,
                WhenDaemonDies::Finish => ResourceLimits::default(),
            },
            lock: self.lock.clone(),
            when_daemon_dies,
            mark: self.mark.clone(),
            on_started: None,
        })
    }

    async fn run(&self, mut spec: CommandSpec) -> Result<Exit, ProcessError> {
        metric::command_started(self.phase);
        let (trace, begun, line) = (spans::below(&self.trace), Instant::now(), words(&spec.argv));
        spec.env.push(("TRACEPARENT".into(), trace.to_string().into()));
        spec.env.extend(trace.state().map(|state| ("TRACESTATE".into(), state.into())));
        let pid = Pid::default();
        let _on = self.of.as_ref().map(|(todo, operation)| {
            self.context.on.commands.enter(CommandOn {
                todo: todo.clone(),
                operation: operation.clone(),
                phase: self.phase.as_str(),
                command: line.clone(),
                pid: pid.clone(),
                deadline_ms: u64::try_from(spec.deadline.as_millis()).unwrap_or(u64::MAX),
            })
        });
        spec.on_started = Some(Box::new(move |started| pid.set(started)));
        let result = self.context.runner.run(spec, &self.stop).await;
        metric::command_ended(self.phase);
        let how = match &result {
            Ok(exit) => {
                let ended = ended(exit);
                metric::command_exited(self.phase, &ended);
                if let ExitOutcome::Code(code) = exit.outcome { Ok(code) } else { Err(ended.result) }
            }
            Err(_) => {
                metric::command_not_started(self.phase);
                Err(metric::ExitResult::SpawnError)
            }
        };
        spans::command_ended(&trace, &line, how.map_err(metric::ExitResult::as_str), begun.elapsed());
        result
    }

    /// Turns the end of a repository's command into success or the problem the caller is told.
    pub fn judge(&self, command: &str, name: &str, code: ProblemCode, exit: &Exit) -> Result<(), PhaseFault> {
        let (limits, mut reached) = (self.context.settings.command_limits, None);
        let mut over = |name: &'static str, key: &str, limit: Option<u64>, did: &str, unit: &str| {
            reached = Some((name, format!("limits.{key}")));
            let limit = limit.unwrap_or_default();
            (
                Outcome::Failure,
                code,
                format!(
                    "{did} {limit} {unit} and was ended with everything it had started; {key} in [limits] of the daemon's configuration says how much it may"
                ),
            )
        };
        let (outcome, code, what) = match exit.outcome {
            ExitOutcome::Code(0) => return Ok(()),
            ExitOutcome::Code(status) => (Outcome::Failure, code, format!("ended with exit code {status}")),
            ExitOutcome::Signal(FILE_TOO_LARGE) if limits.file_bytes.is_some() => {
                over("file_limit", "file_bytes", limits.file_bytes, "wrote a file of more than", "bytes")
            }
            ExitOutcome::Signal(signal) => (Outcome::Failure, code, format!("was ended by signal {signal}")),
            ExitOutcome::MemoryLimit => {
                over("memory_limit", "memory_bytes", limits.memory_bytes, "used more memory than", "bytes")
            }
            ExitOutcome::ProcessLimit => {
                over("process_limit", "processes", limits.processes, "had more than", "processes at once")
            }
            ExitOutcome::TimedOut => (
                Outcome::Timeout,
                ProblemCode::DeadlineExceeded,
                format!(
                    "did not end in time and was killed after {} s with everything it had started",
                    exit.duration.as_secs()
                ),
            ),
            ExitOutcome::OutputLimit => (
                Outcome::Failure,
                code,
                format!("printed more than {} bytes and was ended", self.context.settings.output_bytes_max),
            ),
            ExitOutcome::Cancelled => return Err(cancelled()),
        };
        let mut problem = Problem::new(code, format!("{name}: `{command}` {what}; mend it and ask again"))
            .with("command", command)
            .with("name", name)
            .with("log_path", self.log.display().to_string())
            .with("tail", exit.tail.as_str());
        if let ExitOutcome::Code(status) = exit.outcome {
            problem = problem.with("exit_code", status);
        }
        if let Some((limit, key)) = reached {
            problem = problem.with("limit", limit).with("config_key", key);
        }
        Err(PhaseFault { problem, outcome })
    }
}

/// A command line, as people would read it.
fn words(argv: &[OsString]) -> String {
    argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ").chars().take(COMMAND_SHOWN).collect()
}

fn cancelled() -> PhaseFault {
    PhaseFault {
        problem: Problem::new(ProblemCode::Cancelled, "ended while its command ran"),
        outcome: Outcome::Cancellation,
    }
}

/// The problem of a command that could not be run.
fn not_run(command: &str, error: &ProcessError) -> Problem {
    match error {
        ProcessError::Log { path, source } => not_kept("log", path, source),
        ProcessError::ShuttingDown => Problem::new(ProblemCode::Draining, error.to_string()),
        ProcessError::NoCommand
        | ProcessError::Helper { .. }
        | ProcessError::NotStarted { .. }
        | ProcessError::HelperLost { .. } => {
            Problem::new(ProblemCode::Internal, format!("{command} could not be run: {error}"))
        }
    }
}

fn ended(exit: &Exit) -> metric::Ended {
    let result = match exit.outcome {
        ExitOutcome::Code(0) => metric::ExitResult::Ok,
        ExitOutcome::Code(_) => metric::ExitResult::Nonzero,
        ExitOutcome::Signal(_) => metric::ExitResult::Signal,
        ExitOutcome::TimedOut => metric::ExitResult::Timeout,
        ExitOutcome::Cancelled | ExitOutcome::OutputLimit | ExitOutcome::MemoryLimit | ExitOutcome::ProcessLimit => {
            metric::ExitResult::Killed
        }
    };
    let truncated = exit.outcome == ExitOutcome::OutputLimit || exit.left_out > 0;
    metric::Ended { result, killed: exit.killed, cpu: exit.cpu, output_bytes: exit.output_bytes, truncated }
}

impl Exec for RunExec {
    async fn exec(&self, command: GitCommand) -> Result<GitExit, Problem> {
        let begun = Instant::now();
        let env = [self.context.environment.clone(), command.env].concat();
        let deadline = command.deadline.min(self.context.settings.git_timeout);
        let spec = self.spec(command.argv, command.cwd, env, deadline, WhenDaemonDies::Finish).await?;
        let exit = self.run(spec).await.map_err(|error| not_run("its command", &error))?;
        let ended_well = exit.outcome == ExitOutcome::Code(0);
        git_metric::operation_finished(command.what, ended_well, begun.elapsed());
        Ok(GitExit {
            code: if let ExitOutcome::Code(code) = exit.outcome { Some(code) } else { None },
            outcome: match exit.outcome {
                ExitOutcome::Code(_) | ExitOutcome::Signal(_) => GitEnd::Exited,
                ExitOutcome::TimedOut
                | ExitOutcome::OutputLimit
                | ExitOutcome::MemoryLimit
                | ExitOutcome::ProcessLimit => GitEnd::TimedOut,
                ExitOutcome::Cancelled => GitEnd::Cancelled,
            },
            tail: exit.tail,
        })
    }
}
