//! The system's process table, read from `/proc`: who descends from whom, and signalling exactly the process meant.
//!
//! Races: a process may end, be replaced by another with the same id, or fork between the look and the signal. A
//! signal therefore goes through a process handle whose start time was compared after the handle was opened; a
//! missed fork is found by looking again, which every caller does until nothing is left. Where there is no `/proc`
//! the table is empty and callers fall back to process groups.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Clock ticks per second in `/proc/*/stat`: fixed at 100 towards user space on every Linux we run on.
const TICKS_PER_SECOND: u64 = 100;

/// One process as last seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    group: i32,
    /// Clock ticks between boot and its start: with the id it identifies a process for good.
    start: u64,
    /// Ended, and only waiting to be reaped.
    ended: bool,
    /// Processor time of reaped children in clock ticks.
    children_ticks: u64,
}

impl Process {
    /// Id and start time: never given to a second process.
    pub(super) fn identity(&self) -> (i32, u64) {
        (self.pid, self.start)
    }

    /// Reads one process; `None` when it is gone.
    pub(super) fn read(pid: i32) -> Option<Self> {
        parse_stat(pid, &String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    fn is_still_there(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.identity() == self.identity())
    }

    /// Signals this very process; false when it is gone.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(handle) => return self.is_still_there() && pidfd_send_signal(handle, signal).is_ok(),
                Err(rustix::io::Errno::SRCH) => return false,
                // Kernels before 5.3 and some sandboxes have no handles; the comparison alone must do.
                Err(_) => {}
            }
        }
        self.is_still_there() && kill_process(pid, signal).is_ok()
    }
}

/// When the process of this number was started, in clock ticks since the system booted; `None` when there is none, or it
/// has ended and is only waiting to be reaped. With its number this identifies a process for good.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let process = Process::read(i32::try_from(pid).ok()?)?;
    (!process.ended).then_some(process.start)
}

/// Fields after the command name, which may itself hold spaces and parentheses.
fn parse_stat(pid: i32, stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // A process whose first thread has exited looks like a zombie while its other threads run on.
    let ended = matches!(*fields.first()?, "Z" | "X") && number(17)? <= 1;
    let (parent, group) = (fields.get(1)?.parse().ok()?, fields.get(2)?.parse().ok()?);
    Some(Process { pid, parent, group, start: number(19)?, ended, children_ticks: number(13)? + number(14)? })
}

/// Every process there is right now.
pub(super) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::read).collect()
}

/// The live processes among `processes` that descend from `roots`, roots excluded.
pub(super) fn descendants(processes: &[Process], roots: &[i32]) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(*process);
    }
    let (mut open, mut found) = (roots.to_vec(), Vec::new());
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            open.push(child.pid);
            found.push(child);
        }
    }
    found.retain(|process| !process.ended && !roots.contains(&process.pid));
    found
}

/// Kills the process groups of `members`. A group dies at once, so that forking cannot outrun it.
pub(super) fn kill_groups(members: &[Process]) {
    let own = rustix::process::getpgrp().as_raw_pid();
    let alive = members.iter().filter(|member| member.group > 1 && member.group != own && member.is_still_there());
    let groups: BTreeSet<i32> = alive.map(|member| member.group).collect();
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        // A group that is gone already is what was wanted.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Processor time of all children this process has reaped, and theirs; zero where the system does not say.
pub(super) fn cpu_of_reaped_children() -> Duration {
    let own = Process::read(rustix::process::getpid().as_raw_pid());
    Duration::from_millis(own.map_or(0, |own| own.children_ticks.saturating_mul(1000 / TICKS_PER_SECOND)))
}

/// Blocks this thread for `length`, or less when a signal comes.
pub(super) fn pause(length: Duration) {
    if let Ok(length) = Timespec::try_from(length) {
        // Waiting on nothing can only be interrupted, and callers look again anyway.
        let _ = poll(&mut [], Some(&length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_full_of_parentheses_does_not_confuse_the_table() {
        let stat = "7 (a) Z 1 (b)) S 5 6 6 0 -1 0 0 0 0 0 1 2 30 40 20 0 1 0 999 0 0";
        let process = parse_stat(7, stat).expect("parses");
        assert_eq!((process.parent, process.group, process.start, process.ended), (5, 6, 999, false));
        assert_eq!(process.children_ticks, 70);
    }

    #[test]
    fn a_zombie_with_live_threads_counts_as_alive() {
        let stat = |threads: u32| format!("7 (x) Z 5 6 6 0 -1 0 0 0 0 0 1 2 3 4 20 0 {threads} 0 999 0 0");
        assert!(parse_stat(7, &stat(1)).expect("parses").ended);
        assert!(!parse_stat(7, &stat(2)).expect("parses").ended);
    }

    #[test]
    fn descendants_are_found_through_all_generations_and_strangers_are_not() {
        let process = |pid, parent| Process { pid, parent, group: pid, start: 1, ended: false, children_ticks: 0 };
        let table = [process(2, 1), process(3, 2), process(4, 3), process(9, 1)];
        let mut found: Vec<i32> = descendants(&table, &[2]).iter().map(|p| p.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
    }

    #[test]
    fn a_process_id_given_to_somebody_else_is_not_signalled() {
        let own = Process::read(rustix::process::getpid().as_raw_pid()).expect("reads itself");
        let predecessor = Process { start: own.start.wrapping_sub(1), ..own };
        assert!(!predecessor.signal(Signal::KILL), "this test would not come back from a wrong signal");
    }

    /// Where there are four hundred process ids, one that is free again is soon somebody else's. This test starts itself
    /// there; on a kernel that has one number for all (before 6.14), or without namespaces, it says so and shows nothing.
    #[test]
    fn an_id_that_was_given_again_reaches_nobody() {
        use std::process::{Command, Stdio};
        const ASKED: &str = "PLAY_FEW_IDS";
        const HERE: &str = "process::table::tests::an_id_that_was_given_again_reaches_nobody";
        if std::env::var_os(ASKED).is_none() {
            let few = "echo 400 > /proc/sys/kernel/pid_max && exec setsid \"$0\" --exact \"$1\" --nocapture";
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-c", few]);
            command.arg(std::env::current_exe().expect("has a name")).arg(HERE).env(ASKED, "1").stdin(Stdio::null());
            let played = command.output();
            let began = |text: &[u8]| String::from_utf8_lossy(text).contains("running 1 test");
            match &played {
                Ok(played) if began(&played.stdout) => assert!(played.status.success(), "{played:?}"),
                _ => println!("not shown: process ids cannot be made few for a part of this machine ({played:?})"),
            }
            return;
        }
        let ids = fs::read_to_string("/proc/sys/kernel/pid_max").expect("reads");
        assert_eq!(ids.trim(), "400");
        let sleeper = || Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("starts");
        let pid = |child: &std::process::Child| i32::try_from(child.id()).expect("small");
        let end = |mut child: std::process::Child| child.kill().and_then(|()| child.wait()).expect("ends");
        // Ids below three hundred are given only once.
        let again = |child: std::process::Child| {
            if pid(&child) > 300 {
                Some(child)
            } else {
                end(child);
                None
            }
        };
        let first = (0..400).find_map(|_| again(sleeper())).expect("ids go up");
        let seen = Process::read(pid(&first)).expect("is there");
        end(first);
        let mut heir = (0..10_000)
            .find_map(|_| {
                let child = sleeper();
                // A start is told in hundredths of a second.
                if pid(&child) == seen.pid && Process::read(seen.pid).is_some_and(|now| now.start != seen.start) {
                    return Some(child);
                }
                end(child);
                None
            })
            .expect("the id comes again");
        assert!(!seen.signal(Signal::KILL), "somebody else was signalled");
        kill_groups(&[Process { group: seen.pid, ..seen }]);
        assert!(heir.try_wait().expect("can be asked").is_none(), "somebody else was killed");
        end(heir);
    }
}
