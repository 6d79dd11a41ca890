//! Finding the processes of a run by its mark, and ending them, when no supervisor does it.
//!
//! The mark is in the environment a process was started with, and in the name of its control group where it has one. What
//! descends from a marked process belongs to the run too, even with a cleaned environment; nothing else is ever signalled.
//! A supervisor is killed last, when nothing is left below it, so that its children never get out of sight. This process
//! and its ancestors are never touched.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid};

use super::command::WhenDaemonDies;
use super::ending::KILL_LIMIT;
use super::group;
use super::protocol::{HELPER_VARIABLE, MARK_VARIABLE, POLICY_FINISH, POLICY_VARIABLE};
use super::table::{self, Process};

/// Pause between two looks at the process table.
const LOOK: Duration = Duration::from_millis(10);

/// Longest environment read. The kernel allows a quarter of the stack limit, 2 MB by default.
const ENVIRONMENT_BYTES_MAX: u64 = 4 << 20;

/// Looks in a row that must find nothing: a process that forks and ends during one look is missed by it.
const EMPTY_LOOKS: u32 = 2;

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Processes that were signalled and are gone.
    pub killed: u32,
    /// Processes that KILL did not end within 10 s.
    pub survivors: u32,
    /// Processes left alone because they finish by themselves, within the deadline their supervisor keeps.
    pub left_to_finish: u32,
}

/// Whose marks count.
#[derive(Debug, Clone, Copy)]
enum Marked<'a> {
    /// This run, whatever its policy.
    Exactly(&'a str),
    /// All runs whose mark starts so, except those that are to finish without a daemon.
    StartingWith(&'a str),
}

impl Marked<'_> {
    fn is(self, mark: &[u8]) -> bool {
        match self {
            Self::Exactly(whole) => mark == whole.as_bytes(),
            Self::StartingWith(prefix) => mark.starts_with(prefix.as_bytes()),
        }
    }
}

/// Ends every process of this user whose run mark starts with `mark_prefix`: TERM, `grace`, then KILL for 10 s at
/// most. Runs that are to finish by themselves (`WhenDaemonDies::Finish`) are left alone. Blocks: not for an async
/// thread. Call it when no run with this prefix is meant to be alive, that is once, at the daemon's start.
#[must_use]
pub fn sweep(mark_prefix: &str, grace: Duration) -> Sweep {
    let swept = end_marked(Marked::StartingWith(mark_prefix), grace);
    group::clear(mark_prefix);
    swept
}

/// Ends what is left of one run, after waiting for it to end by itself for as long as `patience` is some.
pub(super) fn end_run(mark: &str, grace: Duration, mut patience: impl FnMut() -> ControlFlow<()>) -> Sweep {
    while patience().is_continue() && !Look::at(Marked::Exactly(mark)).is_empty() {
        table::pause(LOOK);
    }
    let swept = end_marked(Marked::Exactly(mark), grace);
    group::clear(&format!("{mark}."));
    swept
}

/// What one look at the process table found.
#[derive(Default)]
struct Look {
    supervisors: Vec<Process>,
    others: Vec<Process>,
    to_finish: u32,
}

impl Look {
    fn at(wanted: Marked<'_>) -> Self {
        let (table, mut look) = (table::all(), Self::default());
        let own = own_line(&table);
        for process in table.iter().filter(|process| !own.contains(&process.pid)) {
            match role_of(process, wanted) {
                Role::Stranger => {}
                Role::Finishing => look.to_finish += 1,
                Role::Supervisor => look.supervisors.push(*process),
                Role::Member => look.others.push(*process),
            }
        }
        let roots: Vec<i32> = look.supervisors.iter().chain(&look.others).map(|process| process.pid).collect();
        let below = table::descendants(&table, &roots);
        look.others.extend(below.into_iter().filter(|process| !own.contains(&process.pid)));
        look
    }

    fn is_empty(&self) -> bool {
        self.supervisors.is_empty() && self.others.is_empty()
    }

    fn len(&self) -> u32 {
        u32::try_from(self.supervisors.len() + self.others.len()).unwrap_or(u32::MAX)
    }
}

/// This process and its ancestors: a daemon may itself run under somebody's mark.
fn own_line(table: &[Process]) -> HashSet<i32> {
    let mut line = HashSet::new();
    let mut next = Some(getpid().as_raw_pid());
    while let Some(pid) = next.filter(|pid| line.insert(*pid)) {
        next = table.iter().find(|process| process.pid == pid).map(|process| process.parent);
    }
    line
}

enum Role {
    Stranger,
    Supervisor,
    Member,
    Finishing,
}

fn role_of(process: &Process, wanted: Marked<'_>) -> Role {
    match role_by_environment(process, wanted) {
        Role::Stranger => role_by_group(group::mark_of(process.pid), wanted),
        role => role,
    }
}

fn role_by_group(group: Option<(String, WhenDaemonDies)>, wanted: Marked<'_>) -> Role {
    match (group.filter(|(mark, _)| wanted.is(mark.as_bytes())), wanted) {
        (None, _) => Role::Stranger,
        (Some((_, WhenDaemonDies::Finish)), Marked::StartingWith(_)) => Role::Finishing,
        (Some(_), _) => Role::Member,
    }
}

fn role_by_environment(process: &Process, wanted: Marked<'_>) -> Role {
    let mut environment = Vec::new();
    // Other users' environments cannot be read, and what has ended has none: strangers both.
    let Ok(file) = File::open(format!("/proc/{}/environ", process.pid)) else { return Role::Stranger };
    if file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment).is_err() {
        return Role::Stranger;
    }
    role_in(&environment, wanted)
}

fn role_in(environment: &[u8], wanted: Marked<'_>) -> Role {
    let value = |name: &str| {
        let assigned = |entry: &'_ [u8]| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
        environment.split(|&byte| byte == 0).find_map(assigned)
    };
    let supervisor = value(HELPER_VARIABLE).is_some_and(|mark| wanted.is(&mark));
    if !supervisor && !value(MARK_VARIABLE).is_some_and(|mark| wanted.is(&mark)) {
        return Role::Stranger;
    }
    let finishes = value(POLICY_VARIABLE).is_some_and(|policy| policy == POLICY_FINISH.as_bytes());
    match wanted {
        Marked::StartingWith(_) if finishes => Role::Finishing,
        _ if supervisor => Role::Supervisor,
        _ => Role::Member,
    }
}

fn end_marked(wanted: Marked<'_>, grace: Duration) -> Sweep {
    let mut signalled = HashSet::new();
    let first = Look::at(wanted);
    for process in &first.others {
        // A stopped process gets the request only when it is continued.
        if process.signal(Signal::TERM) && process.signal(Signal::CONT) {
            signalled.insert(process.identity());
        }
    }
    let since = Instant::now();
    let mut empty_looks = 0;
    loop {
        let look = Look::at(wanted);
        empty_looks = if look.is_empty() { empty_looks + 1 } else { 0 };
        let over = since.elapsed() >= grace + KILL_LIMIT;
        if empty_looks == EMPTY_LOOKS || over {
            let (survivors, killed) = (look.len(), u32::try_from(signalled.len()).unwrap_or(u32::MAX));
            return Sweep { killed: killed.saturating_sub(survivors), survivors, left_to_finish: look.to_finish };
        }
        if since.elapsed() >= grace {
            kill(&look, &mut signalled);
        }
        table::pause(if since.elapsed() < grace || look.is_empty() { LOOK } else { Duration::from_micros(200) });
    }
}

fn kill(look: &Look, signalled: &mut HashSet<(i32, u64)>) {
    // A supervisor ends by itself once nothing is below it; one that hangs goes last.
    let targets = if look.others.is_empty() { &look.supervisors } else { &look.others };
    for process in targets.iter().filter(|process| process.signal(Signal::KILL)) {
        signalled.insert(process.identity());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(environment: &[u8], wanted: Marked<'_>) -> &'static str {
        match role_in(environment, wanted) {
            Role::Stranger => "stranger",
            Role::Supervisor => "supervisor",
            Role::Member => "member",
            Role::Finishing => "finishing",
        }
    }

    #[test]
    fn only_a_whole_variable_with_our_mark_makes_a_member() {
        let wanted = Marked::StartingWith("d1/");
        assert_eq!(role(b"A=1\0SLUGLINE_RUN=d1/7\0B=2", wanted), "member");
        assert_eq!(role(b"SLUGLINE_RUN_HELPER=d1/7", wanted), "supervisor");
        for stranger in [&b""[..], b"SLUGLINE_RUN=d2/7", b"XSLUGLINE_RUN=d1/7", b"A=SLUGLINE_RUN=d1/7", b"SLUGLINE_RUN"]
        {
            assert_eq!(role(stranger, wanted), "stranger");
        }
        assert_eq!(role(b"SLUGLINE_RUN=d1/70", Marked::Exactly("d1/7")), "stranger");
    }

    #[test]
    fn whoever_cleared_its_environment_is_known_by_its_group() {
        let group = |mark: &str, policy| Some((mark.to_owned(), policy));
        let is = |group, wanted, role: Role| {
            assert!(std::mem::discriminant(&role_by_group(group, wanted)) == std::mem::discriminant(&role));
        };
        let (all, one) = (Marked::StartingWith("d1-"), Marked::Exactly("d1-7"));
        is(group("d1-7", WhenDaemonDies::Kill), all, Role::Member);
        is(group("d1-7", WhenDaemonDies::Finish), all, Role::Finishing);
        is(group("d1-7", WhenDaemonDies::Finish), one, Role::Member);
        is(group("d1-70", WhenDaemonDies::Kill), one, Role::Stranger);
        is(group("d2-7", WhenDaemonDies::Kill), all, Role::Stranger);
        is(None, all, Role::Stranger);
    }

    #[test]
    fn a_sweep_leaves_finishing_commands_alone_and_a_lost_run_does_not() {
        let environment = b"SLUGLINE_RUN=d1/7\0SLUGLINE_RUN_POLICY=finish";
        assert_eq!(role(environment, Marked::StartingWith("d1/")), "finishing");
        assert_eq!(role(environment, Marked::Exactly("d1/7")), "member");
    }
}
