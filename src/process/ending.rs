//! Ending everything a command has started, from inside its supervisor.
//!
//! As sub-reaper the supervisor is the parent of every orphan below it, so "no children left" means that nothing is
//! left at all; the process table is only read to know whom to signal. Each round reads it afresh, because processes
//! go on forking while they are being killed.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};

use super::command::ExitOutcome;
use super::table::{self, Process};

/// What a command that exited has left behind may still end by itself for this long (the tail of a pipeline).
const LEFTOVER_PATIENCE: Duration = Duration::from_millis(150);

/// Longest grace for leftovers between TERM and KILL: the run must be over 2 s after its command.
const LEFTOVER_GRACE_MAX: Duration = Duration::from_millis(500);

/// How long KILL is repeated before survivors are reported. Only a process stuck in the kernel lasts so long.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Longest pause between two looks for processes that were asked to end.
const LOOK_MAX: Duration = Duration::from_millis(20);

/// Pause between rounds against survivors that were already reported.
const LINGER_PAUSE: Duration = Duration::from_secs(1);

/// Rounds of KILL without a pause; later ones leave the processor to the dying.
const EAGER_ROUNDS: u32 = 50;

/// Distinct processes remembered for counting; a fork bomb must not fill the supervisor's memory.
const COUNTED_MAX: usize = 100_000;

/// What ending a run took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Toll {
    /// Processes signalled.
    pub(super) killed: u32,
    /// Processes KILL did not end within [`KILL_LIMIT`].
    pub(super) survivors: u32,
}

/// The command and everything below the supervisor.
pub(super) struct Kin {
    command: Pid,
    exit: Option<ExitOutcome>,
    signalled: HashSet<(i32, u64)>,
}

impl Kin {
    pub(super) fn of(command: Pid) -> Self {
        Self { command, exit: None, signalled: HashSet::new() }
    }

    pub(super) fn command(&self) -> Pid {
        self.command
    }

    /// How the command itself ended, once it was reaped.
    pub(super) fn exit(&self) -> Option<ExitOutcome> {
        self.exit
    }

    /// Reaps every child that has ended; true when nothing of the run is left.
    pub(super) fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => self.exit = outcome_of(status).or(self.exit),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CHILD) => return self.group_is_gone(),
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Where orphans do not come to us, the command's process group is all that can be known.
    fn group_is_gone(&self) -> bool {
        cfg!(target_os = "linux") || rustix::process::test_kill_process_group(self.command).is_err()
    }

    /// Everything of the run there is right now.
    pub(super) fn living() -> Vec<Process> {
        table::descendants(&table::all(), &[rustix::process::getpid().as_raw_pid()])
    }

    /// Waits up to `length` for everything to end by itself; true when it did.
    fn settled_within(&mut self, length: Duration) -> bool {
        let (since, mut look) = (Instant::now(), Duration::from_millis(1));
        loop {
            if self.reap() {
                return true;
            }
            let left = length.saturating_sub(since.elapsed());
            if left.is_zero() {
                return false;
            }
            table::pause(look.min(left));
            look = (look * 2).min(LOOK_MAX);
        }
    }

    fn ask_to_end(&mut self) {
        for process in Self::living() {
            // A stopped process gets the request only when it is continued.
            if process.signal(Signal::TERM) && process.signal(Signal::CONT) {
                self.count(&process);
            }
        }
        self.signal_group(Signal::TERM);
    }

    fn kill_round(&mut self) {
        let living = Self::living();
        table::kill_groups(&living);
        for process in &living {
            process.signal(Signal::KILL);
            self.count(process);
        }
        self.signal_group(Signal::KILL);
    }

    /// The fallback where the process table cannot be read.
    fn signal_group(&self, signal: Signal) {
        if cfg!(not(target_os = "linux")) {
            // A group that is gone is what was wanted.
            let _ = rustix::process::kill_process_group(self.command, signal);
        }
    }

    fn count(&mut self, process: &Process) {
        if self.signalled.len() < COUNTED_MAX {
            self.signalled.insert(process.identity());
        }
    }
}

fn outcome_of(status: WaitStatus) -> Option<ExitOutcome> {
    status.exit_status().map(ExitOutcome::Code).or(status.terminating_signal().map(ExitOutcome::Signal))
}

/// Ends what is left of the run: a moment of patience when the command exited by itself, TERM, `grace`, then KILL
/// until nothing is left or [`KILL_LIMIT`] is over.
pub(super) fn end_tree(kin: &mut Kin, outcome: ExitOutcome, grace: Duration) -> Toll {
    let exited = matches!(outcome, ExitOutcome::Code(_) | ExitOutcome::Signal(_));
    let (patience, grace) =
        if exited { (LEFTOVER_PATIENCE, grace.min(LEFTOVER_GRACE_MAX)) } else { (Duration::ZERO, grace) };
    let gone = kin.settled_within(patience) || {
        kin.ask_to_end();
        kin.settled_within(grace)
    };
    let survivors = if gone { 0 } else { kill_until_gone(kin) };
    Toll { killed: u32::try_from(kin.signalled.len()).unwrap_or(u32::MAX), survivors }
}

fn kill_until_gone(kin: &mut Kin) -> u32 {
    let since = Instant::now();
    let mut rounds = 0;
    while since.elapsed() < KILL_LIMIT {
        kin.kill_round();
        let pause = if rounds < EAGER_ROUNDS { Duration::from_micros(200) } else { LOOK_MAX };
        if kin.settled_within(pause) {
            return 0;
        }
        rounds += 1;
    }
    if kin.reap() { 0 } else { u32::try_from(Kin::living().len()).unwrap_or(u32::MAX).max(1) }
}

/// Goes on after survivors were reported, holding the lock for them, until they are gone.
pub(super) fn linger(kin: &mut Kin) {
    while !kin.reap() {
        kin.kill_round();
        table::pause(LINGER_PAUSE);
    }
}
