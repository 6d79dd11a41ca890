//! What a command of a repository may use: its whole tree in memory and processes, each of its processes in open files and
//! the size of files.
//!
//! The system keeps the last two by itself, as limits every process inherits. Of a tree it would keep the first two only in a
//! control group that was handed to us; so the supervisor counts, several times a second, and ends what is over.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::command::ExitOutcome;
use super::table::Process;

/// How often a tree is counted.
const COUNT_EVERY: Duration = Duration::from_millis(200);

/// How far commands of a repository stand back when nothing is said: a build on every core leaves the daemon's answers quick.
pub const NICENESS_DEFAULT: i32 = 10;

/// What one command and all it starts may use; without limit where `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Bytes of memory of all its processes together. What several share counts once.
    pub memory_bytes: Option<u64>,
    /// Processes at once.
    pub processes: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Bytes of each file it writes.
    pub file_bytes: Option<u64>,
    /// How far it stands back behind others, 0 to 19.
    pub niceness: i32,
}

impl Default for ResourceLimits {
    fn default() -> Self {
        Self { memory_bytes: None, processes: None, open_files: None, file_bytes: None, niceness: NICENESS_DEFAULT }
    }
}

impl ResourceLimits {
    fn of_each(&self) -> impl Iterator<Item = (Resource, u64)> {
        [(Resource::Nofile, self.open_files), (Resource::Fsize, self.file_bytes)]
            .into_iter()
            .filter_map(|(resource, limit)| Some((resource, limit?)))
    }

    /// Starts something that inherits the limits of each process; this process has its own again afterwards.
    ///
    /// What is started has them from its first instruction; that it cannot raise them follows right after its start, because
    /// a limit that cannot be raised would be this process's too.
    pub(super) fn start<T>(&self, spawn: impl FnOnce() -> io::Result<T>, pid: impl Fn(&T) -> Pid) -> io::Result<T> {
        let own: Vec<(Resource, Rlimit)> =
            self.of_each().map(|(resource, _)| (resource, getrlimit(resource))).collect();
        for (resource, limit) in self.of_each() {
            let maximum = getrlimit(resource).maximum;
            let current = Some(maximum.map_or(limit, |maximum| limit.min(maximum)));
            setrlimit(resource, Rlimit { current, maximum })?;
        }
        let started = spawn();
        for (resource, own) in own {
            setrlimit(resource, own)?;
        }
        let started = started?;
        #[cfg(target_os = "linux")]
        for (resource, limit) in self.of_each() {
            let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
            // One that is gone already needs no limit.
            let _ = rustix::process::prlimit(Some(pid(&started)), resource, limit);
        }
        Ok(started)
    }

    fn counts(&self) -> bool {
        self.memory_bytes.is_some() || self.processes.is_some()
    }

    /// Which limit this tree is over, if any. Memory is first added up as each process sees it, which is quick and too much;
    /// what they share is told apart only when that is over the limit.
    fn exceeded_by(&self, tree: &[Process]) -> Option<ExitOutcome> {
        let sum = |of: fn(i32) -> u64| tree.iter().map(|process| of(process.pid)).sum::<u64>();
        if self.processes.is_some_and(|limit| tree.len() as u64 > limit) {
            return Some(ExitOutcome::ProcessLimit);
        }
        let limit = self.memory_bytes?;
        (sum(resident_bytes) > limit && sum(proportional_bytes) > limit).then_some(ExitOutcome::MemoryLimit)
    }
}

/// Counts a tree now and then.
pub(super) struct Census<'a> {
    limits: &'a ResourceLimits,
    last: Instant,
}

impl<'a> Census<'a> {
    pub(super) fn new(limits: &'a ResourceLimits) -> Self {
        Self { limits, last: Instant::now() }
    }

    /// Which limit the tree is over, when it is time to count again.
    pub(super) fn exceeded(&mut self, tree: impl FnOnce() -> Vec<Process>) -> Option<ExitOutcome> {
        if !self.limits.counts() || self.last.elapsed() < COUNT_EVERY {
            return None;
        }
        let exceeded = self.limits.exceeded_by(&tree());
        // From its end: counting a large tree takes a while, and something else has to be done, too.
        self.last = Instant::now();
        exceeded
    }
}

/// Memory a process has, shared or not; nothing when it is gone.
fn resident_bytes(pid: i32) -> u64 {
    kilobytes_of(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The same with what it shares divided among those who do. Where the system does not say, all of it counts.
fn proportional_bytes(pid: i32) -> u64 {
    match kilobytes_of(&format!("/proc/{pid}/smaps_rollup"), "Pss:") {
        0 => resident_bytes(pid),
        bytes => bytes,
    }
}

fn kilobytes_of(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processes_of_a_tree_are_held_against_their_limits() {
        let own = Process::read(rustix::process::getpid().as_raw_pid()).expect("reads itself");
        let limits = |memory_bytes, processes| ResourceLimits { memory_bytes, processes, ..ResourceLimits::default() };
        for (limits, wanted) in [
            (limits(None, None), None),
            (limits(Some(1 << 40), Some(1)), None),
            (limits(Some(1 << 16), None), Some(ExitOutcome::MemoryLimit)),
            (limits(None, Some(0)), Some(ExitOutcome::ProcessLimit)),
        ] {
            assert_eq!(limits.exceeded_by(&[own]), wanted, "{limits:?}");
        }
        assert!(proportional_bytes(own.pid) > 0 && proportional_bytes(own.pid) <= resident_bytes(own.pid));
    }
}
