//! The supervisor: entry of `slugline __run`, which runs one command and outlives everything of it.
//!
//! One loop: reap, look at exit, limits, deadline and control socket, wait; beside it a thread that reads what is printed.
//! Whatever ends the command, the loop goes over into `ending`, and the process exits (and with it goes the lock) when
//! nothing is left.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use super::command::{ExitOutcome, WhenDaemonDies};
use super::ending::{Kin, end_tree, linger};
use super::group::Group;
use super::limits::Census;
use super::output::Output;
use super::protocol::{
    CANCEL_LINE, Ended, HELPER_VARIABLE, MARK_VARIABLE, Order, POLICY_FINISH, POLICY_VARIABLE, Report,
};
use super::table;

/// Longest time between two looks at what the command uses.
const TICK: Duration = Duration::from_millis(50);

/// Where there is no handle to wait on, an exit is noticed by looking this often.
const BLIND_TICK: Duration = Duration::from_millis(10);

/// Exit code for wrong use (`EX_USAGE`): nobody but the daemon starts a supervisor.
const EXIT_USAGE: u8 = 64;

/// Runs the command described by `args` (what follows `__run`) to its certain end and reports on the control socket.
/// Must be called before any thread or runtime is started.
pub fn helper_main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some((order, cwd, argv)) = parse(args) else {
        eprintln!("__run is for the daemon itself: use `slugline serve`");
        return ExitCode::from(EXIT_USAGE);
    };
    match Doors::take() {
        Ok(doors) => supervise(&order, &cwd, &argv, doors),
        Err(_) => ExitCode::FAILURE,
    }
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Option<(Order, PathBuf, Vec<OsString>)> {
    let order = serde_json::from_str(args.next()?.to_str()?).ok()?;
    let cwd = PathBuf::from(args.next()?);
    let argv: Vec<OsString> = args.collect();
    (!argv.is_empty()).then_some((order, cwd, argv))
}

/// The three files the daemon passed as standard streams, moved where no command inherits them.
struct Doors {
    /// Held, never read: as long as it is open the worktree's lock is.
    lock: OwnedFd,
    log: File,
    control: UnixStream,
}

impl Doors {
    fn take() -> io::Result<Self> {
        // Duplicates close on exec, so that no command ever holds the lock or the control socket.
        let private = |stream: &dyn AsFd| stream.as_fd().try_clone_to_owned();
        let doors = Self {
            lock: private(&io::stdin())?,
            log: private(&io::stdout())?.into(),
            control: private(&io::stderr())?.into(),
        };
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        rustix::stdio::dup2_stdout(&nothing)?;
        rustix::stdio::dup2_stderr(&nothing)?;
        Ok(doors)
    }

    fn tell(&mut self, report: &Report) {
        if let Ok(mut line) = serde_json::to_vec(report) {
            line.push(b'\n');
            // A daemon that is gone cannot be told; its successor finds the run by other means.
            let _ = self.control.write_all(&line);
        }
    }
}

fn supervise(order: &Order, cwd: &Path, argv: &[OsString], mut doors: Doors) -> ExitCode {
    let (pid, output, group) = match detach(order).and_then(|()| start(order, cwd, argv, &doors.log)) {
        Ok(started) => started,
        Err(error) => {
            doors.tell(&Report::Failed { reason: error.to_string() });
            return ExitCode::FAILURE;
        }
    };
    let began = Instant::now();
    doors.tell(&Report::Started { pid: pid.as_raw_pid().unsigned_abs() });
    let mut watch = Watch { order, began, output, kin: Kin::of(pid), open: true };
    let outcome = watch.until_over(&mut doors);
    let toll = end_tree(&mut watch.kin, outcome, Duration::from_millis(order.grace_ms));
    let printed = watch.output.finish();
    doors.tell(&Report::Ended(Ended {
        outcome,
        duration_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        killed: toll.killed,
        survivors: toll.survivors,
        output_bytes: printed.bytes,
        left_out: printed.left_out,
        cpu_ms: u64::try_from(table::cpu_of_reaped_children().as_millis()).unwrap_or(u64::MAX),
    }));
    if toll.survivors > 0 {
        linger(&mut watch.kin);
    }
    group.iter().for_each(Group::remove);
    drop(doors.lock);
    ExitCode::SUCCESS
}

/// Own session (no terminal, none of the daemon's signals) and, on Linux, parent of every orphan below.
fn detach(order: &Order) -> io::Result<()> {
    // Commands of a repository stand back behind the daemon and people; git, which others wait for, does not.
    if order.when_daemon_dies == WhenDaemonDies::Kill {
        let _ = rustix::process::nice(order.limits.niceness);
    }
    // Fails only for a process group leader, which is detached enough.
    let _ = rustix::process::setsid();
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

fn start(order: &Order, cwd: &Path, argv: &[OsString], log: &File) -> io::Result<(Pid, Output, Option<Group>)> {
    // Entered here and inherited by the command, which so works in this very directory, whatever takes its name meanwhile.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entered = rustix::fs::open(cwd, flags, Mode::empty()).and_then(rustix::process::fchdir);
    entered.map_err(|error| io::Error::other(format!("its directory {} cannot be entered: {error}", cwd.display())))?;
    let (program, arguments) = argv.split_first().expect("an order without a program was refused when parsed");
    let mut command = Command::new(program);
    command.args(arguments).process_group(0);
    command.env_remove(HELPER_VARIABLE).env(MARK_VARIABLE, &order.mark);
    match order.when_daemon_dies {
        WhenDaemonDies::Finish => command.env(POLICY_VARIABLE, POLICY_FINISH),
        WhenDaemonDies::Kill => command.env_remove(POLICY_VARIABLE),
    };
    let (output, [stdout, stderr]) = Output::open(order, log)?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let pid = |child: &Child| i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = |child: &Child| pid(child).expect("the system gives process ids from 1 to i32::MAX");
    let group = Group::enter(&order.mark, order.when_daemon_dies);
    let started = order.limits.start(|| command.spawn(), pid);
    if let Some(group) = &group {
        group.leave();
        if started.is_err() {
            group.remove();
        }
    }
    let child = started?;
    // Keeps no file system busy while the command runs; failing to is no reason not to run.
    let _ = std::env::set_current_dir("/");
    Ok((pid(&child), output, group))
}

/// The running command and what is watched about it.
struct Watch<'a> {
    order: &'a Order,
    began: Instant,
    output: Output,
    kin: Kin,
    /// The control socket has not ended yet.
    open: bool,
}

impl Watch<'_> {
    /// Returns what ends the command: its own exit, or the reason for which it has to be ended now.
    fn until_over(&mut self, doors: &mut Doors) -> ExitOutcome {
        let handle = exit_handle(self.kin.command());
        let deadline = Duration::from_millis(self.order.deadline_ms);
        let mut census = Census::new(&self.order.limits);
        let mut called_off = false;
        loop {
            self.kin.reap();
            if self.output.is_beyond(self.order.output_bytes_max) {
                return ExitOutcome::OutputLimit;
            } else if let Some(outcome) = self.kin.exit() {
                return outcome;
            } else if called_off {
                return ExitOutcome::Cancelled;
            } else if let Some(limit) = census.exceeded(Kin::living) {
                return limit;
            }
            let left = deadline.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return ExitOutcome::TimedOut;
            }
            called_off = self.wait(doors, handle.as_ref(), left);
        }
    }

    /// Waits for exit, control or the next tick; true when the daemon calls the run off, or dies and it must not go on.
    fn wait(&mut self, doors: &mut Doors, handle: Option<&OwnedFd>, left: Duration) -> bool {
        let tick = if handle.is_some() { TICK } else { BLIND_TICK };
        let Ok(limit) = Timespec::try_from(tick.min(left)) else { return false };
        let mut fds: Vec<PollFd<'_>> = handle.iter().map(|h| PollFd::new(*h, PollFlags::IN)).collect();
        if self.open {
            fds.push(PollFd::new(&doors.control, PollFlags::IN));
        }
        // An interrupted or failed wait is a short one: everything is looked at again.
        let woken = poll(&mut fds, Some(&limit)).is_ok();
        let asked = self.open && woken && fds.last().is_some_and(|control| !control.revents().is_empty());
        drop(fds);
        asked && self.listen(&mut doors.control)
    }

    fn listen(&mut self, control: &mut UnixStream) -> bool {
        let mut line = [0; 64];
        match control.read(&mut line) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            Ok(0) | Err(_) => {
                self.open = false;
                self.order.when_daemon_dies == WhenDaemonDies::Kill
            }
            Ok(read) => line[..read].starts_with(CANCEL_LINE),
        }
    }
}

/// Something that becomes readable when the command exits, where the system has it.
fn exit_handle(command: Pid) -> Option<OwnedFd> {
    #[cfg(target_os = "linux")]
    return rustix::process::pidfd_open(command, rustix::process::PidfdFlags::empty()).ok();
    #[cfg(not(target_os = "linux"))]
    return None;
}
