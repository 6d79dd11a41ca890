//! The daemon's side of a run: start the supervisor, follow its reports, pass on a cancellation.
//!
//! Whoever drops the future drops the leash, which calls the run off; the supervisor then ends it without us.

use std::fs::File;
use std::future::Future;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::command::{CommandSpec, Exit, ExitOutcome, ProcessError, WhenDaemonDies};
use super::ending::KILL_LIMIT;
use super::protocol::{
    CANCEL_LINE, Ended, HELPER_VARIABLE, HELPER_VERB, Order, POLICY_FINISH, POLICY_VARIABLE, Report,
};
use super::{sweep, tail};

/// What a supervisor may take beyond deadline, grace and killing before it counts as lost. Generous: a loaded machine
/// must not make us kill a run that is being ended properly.
const SUPERVISOR_SLACK: Duration = Duration::from_secs(10);

/// How long a supervisor may take to exit after its last report; it has nothing left to do then.
const SUPERVISOR_EXIT_LIMIT: Duration = Duration::from_secs(5);

/// Most bytes of reports accepted: three short lines.
const REPORT_BYTES_MAX: u64 = 64 * 1024;

/// Longest limit of a wait: 30 years, because adding `Duration::MAX` to a clock overflows.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// What runs commands in the place of supervisors.
type StandIn = Arc<dyn Fn(CommandSpec, CancellationToken) -> Running + Send + Sync>;
type Running = Pin<Box<dyn Future<Output = Result<Exit, ProcessError>> + Send>>;

/// Starts commands under supervisors. Cheap to clone.
#[derive(Clone)]
pub struct Runner {
    helper: Arc<PathBuf>,
    instead: Option<StandIn>,
}

impl Runner {
    /// Has every command run by this function, which keeps the promises of [`Runner::run`] without a process.
    #[must_use]
    pub fn by<F>(run: impl Fn(CommandSpec, CancellationToken) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Exit, ProcessError>> + Send + 'static,
    {
        let instead: StandIn = Arc::new(move |spec, cancel| Box::pin(run(spec, cancel)));
        Self { helper: Arc::default(), instead: Some(instead) }
    }

    /// Supervises with the program at `helper`, which must dispatch [`HELPER_VERB`] to [`super::helper_main`].
    #[must_use]
    pub fn new(helper: PathBuf) -> Self {
        Self { helper: Arc::new(helper), instead: None }
    }

    /// Supervises with this very program; on Linux that holds even when its file was replaced meanwhile.
    #[must_use]
    pub fn of_this_program() -> Self {
        let link = PathBuf::from("/proc/self/exe");
        let by_name = || std::env::current_exe().unwrap_or_else(|_| PathBuf::from("slugline"));
        Self::new(if link.exists() { link } else { by_name() })
    }

    /// Runs one command until nothing of it is left. Cancelling `cancel` ends it, and this returns once it has ended;
    /// dropping the future ends it too, without anybody waiting. Needs a tokio runtime whose clock is not paused.
    ///
    /// # Errors
    /// See [`ProcessError`]; a command that fails, is killed or times out is an [`Exit`], not an error.
    pub async fn run(&self, mut spec: CommandSpec, cancel: &CancellationToken) -> Result<Exit, ProcessError> {
        if cancel.is_cancelled() {
            return Ok(never_started());
        }
        if let Some(instead) = &self.instead {
            return instead(spec, cancel.clone()).await;
        }
        let mut on_started = spec.on_started.take();
        let spec = Arc::new(spec);
        let (runner, order) = (self.clone(), Arc::clone(&spec));
        let leash = off_thread(move || runner.start(&order)).await??;
        let mut pid = 0;
        let tell = |started: u32| {
            pid = started;
            if let Some(on_started) = on_started.take() {
                on_started(started);
            }
        };
        match leash.follow(&spec, cancel, tell).await {
            Ok(ended) => leash.finish(ended, pid).await,
            Err(Parting::Failed(reason)) => Err(not_started(&spec, reason)),
            Err(Parting::Lost { limit }) => Err(end_without_supervisor(&spec, cancel, limit).await),
        }
    }

    fn start(&self, spec: &CommandSpec) -> Result<Leash, ProcessError> {
        if spec.argv.is_empty() {
            return Err(ProcessError::NoCommand);
        }
        let failed = |source| ProcessError::Log { path: spec.log.clone(), source };
        let log = open_log(spec, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE).map_err(failed)?;
        let reader = open_log(spec, OFlags::RDONLY).map_err(failed)?;
        let start = reader.metadata().map_err(failed)?.len();
        if !spec.log_kept {
            std::fs::remove_file(&spec.log).map_err(failed)?;
        }
        let (control, child) = self
            .spawn(spec, log)
            .map_err(|source| ProcessError::Helper { program: self.helper.as_ref().clone(), source })?;
        Ok(Leash { control, child, log: reader, start })
    }

    fn spawn(&self, spec: &CommandSpec, log: File) -> io::Result<(StdUnixStream, Child)> {
        let (control, far_end) = StdUnixStream::pair()?;
        control.set_nonblocking(true)?;
        let lock = match &spec.lock {
            Some(lock) => Stdio::from(lock.try_clone()?),
            None => Stdio::null(),
        };
        let mut command = Command::new(self.helper.as_ref());
        command.arg0("slugline").arg(HELPER_VERB).arg(serde_json::to_string(&order_of(spec))?);
        command.arg(&spec.cwd).args(&spec.argv);
        command.env_clear().envs(spec.env.iter().map(|(name, value)| (name, value))).env(HELPER_VARIABLE, &spec.mark);
        if spec.when_daemon_dies == WhenDaemonDies::Finish {
            command.env(POLICY_VARIABLE, POLICY_FINISH);
        }
        command.stdin(lock).stdout(log).stderr(OwnedFd::from(far_end));
        Ok((control, command.spawn()?))
    }
}

fn order_of(spec: &CommandSpec) -> Order {
    let ms = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    Order {
        mark: spec.mark.clone(),
        when_daemon_dies: spec.when_daemon_dies,
        deadline_ms: ms(spec.deadline),
        grace_ms: ms(spec.grace),
        output_bytes_max: spec.output_bytes_max,
        limits: spec.limits,
    }
}

fn open_log(spec: &CommandSpec, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    Ok(rustix::fs::open(&spec.log, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn never_started() -> Exit {
    Exit {
        outcome: ExitOutcome::Cancelled,
        duration: Duration::ZERO,
        tail: String::new(),
        pid: 0,
        killed: 0,
        survivors: 0,
        output_bytes: 0,
        left_out: 0,
        cpu: Duration::ZERO,
    }
}

fn not_started(spec: &CommandSpec, reason: String) -> ProcessError {
    let program = spec.argv.first().map(|program| program.to_string_lossy().into_owned());
    ProcessError::NotStarted { program: program.unwrap_or_default(), reason }
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ProcessError> {
    // The work does not panic, so only a runtime that is going down refuses it.
    spawn_blocking(work).await.map_err(|_| ProcessError::ShuttingDown)
}

/// Why no end was reported.
enum Parting {
    /// The command could not be started.
    Failed(String),
    /// The supervisor vanished or fell silent; `limit` is when the run would have been over at the latest.
    Lost { limit: Instant },
}

/// A running supervisor. Dropping it calls the run off.
struct Leash {
    control: StdUnixStream,
    child: Child,
    log: File,
    /// Length of the log before the command.
    start: u64,
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.call_off();
    }
}

impl Leash {
    fn call_off(&self) {
        // A supervisor that is gone needs no telling, and one line always fits an unused socket.
        let _ = (&self.control).write_all(CANCEL_LINE);
    }

    async fn follow(
        &self,
        spec: &CommandSpec,
        cancel: &CancellationToken,
        mut tell: impl FnMut(u32),
    ) -> Result<Ended, Parting> {
        let ending = spec.grace.min(FOR_EVER) + KILL_LIMIT + SUPERVISOR_SLACK;
        let mut limit = Instant::now() + spec.deadline.min(FOR_EVER) + ending;
        let lost = |limit| Err(Parting::Lost { limit });
        let Ok(stream) = self.control.try_clone().and_then(UnixStream::from_std) else { return lost(limit) };
        let mut lines = BufReader::new(stream.take(REPORT_BYTES_MAX)).lines();
        let mut called_off = false;
        loop {
            tokio::select! {
                line = lines.next_line() => match line.ok().flatten().map(|line| serde_json::from_str(&line)) {
                    Some(Ok(Report::Started { pid })) => tell(pid),
                    Some(Ok(Report::Failed { reason })) => return Err(Parting::Failed(reason)),
                    Some(Ok(Report::Ended(ended))) => return Ok(ended),
                    Some(Err(_)) | None => return lost(limit),
                },
                () = cancel.cancelled(), if !called_off => {
                    called_off = true;
                    self.call_off();
                    limit = limit.min(Instant::now() + ending);
                }
                () = sleep_until(limit) => return lost(limit),
            }
        }
    }

    async fn finish(mut self, ended: Ended, pid: u32) -> Result<Exit, ProcessError> {
        if ended.survivors == 0 {
            // The lock is free when the supervisor is gone; one that does not go is a matter for the next sweep.
            let _ = timeout(SUPERVISOR_EXIT_LIMIT, self.child.wait()).await;
        }
        let tail = off_thread(move || tail::read_tail(&self.log, self.start).unwrap_or_default()).await?;
        Ok(Exit {
            outcome: ended.outcome,
            duration: Duration::from_micros(ended.duration_us),
            tail,
            pid,
            killed: ended.killed,
            survivors: ended.survivors,
            output_bytes: ended.output_bytes,
            left_out: ended.left_out,
            cpu: Duration::from_millis(ended.cpu_ms),
        })
    }
}

/// Finds what a lost supervisor left and ends it; a command that must finish gets what is left of its time first.
async fn end_without_supervisor(spec: &Arc<CommandSpec>, cancel: &CancellationToken, limit: Instant) -> ProcessError {
    let (run, cancel) = (Arc::clone(spec), cancel.clone());
    let patient = move || {
        let waits = run.when_daemon_dies == WhenDaemonDies::Finish && !cancel.is_cancelled() && Instant::now() < limit;
        if waits { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let run = Arc::clone(spec);
    match off_thread(move || sweep::end_run(&run.mark, run.grace, patient)).await {
        Ok(swept) => {
            ProcessError::HelperLost { mark: spec.mark.clone(), killed: swept.killed, survivors: swept.survivors }
        }
        Err(error) => error,
    }
}
