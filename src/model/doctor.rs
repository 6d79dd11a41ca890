//! What would keep a daemon from working, judged from what was found on the machine, each with the way out: before a start, by
//! `slugline doctor`, and of what may change while one runs, by the daemon itself. Pure.

use std::fmt;

use super::incident::{IncidentState, Links, Severity, Sign};

/// How keys of incidents begin that are about what a daemon works in.
pub const KEYS: &str = "machine:";
/// git a daemon is tried with, at least: major and minor version.
const GIT_TRIED: (u32, u32) = (2, 39);
/// Open files a daemon needs besides its connections.
const OTHER_FILES: u64 = 512;

/// A place on disk, as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It can be read and written.
    Writable,
    /// It is not there, and can be made.
    CanBeMade,
    /// It is not there, and cannot be made.
    CannotBeMade,
    /// It is there and may not be read.
    Unreadable,
    /// It may be read only: its permissions say so.
    ReadOnly,
    /// It may be read only: its file system is mounted so.
    ReadOnlyFileSystem,
    /// It is something else than it should be.
    WrongKind,
}

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Token, address, ledger, logs.
    DataDir,
    /// Worktrees.
    WorktreesDir,
    /// The ledger's file.
    Ledger,
    /// The git directory of a repository.
    Repository,
    /// Where the configuration file is.
    ConfigDir,
}

/// A place and what was found of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is for.
    pub of: Use,
    /// Where it is.
    pub path: String,
    /// What may be done there.
    pub access: Access,
    /// Bytes that are free there.
    pub free_bytes: Option<u64>,
}

/// Where the daemon would listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// Nobody is there.
    Free,
    /// The daemon of this data directory is there.
    Ours,
    /// Somebody else is.
    Taken,
    /// The system does not give it: why.
    Refused(String),
}

/// What a daemon works in, and what may change around one that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Directories and files.
    pub places: Vec<Place>,
    /// The directory for temporary files, and whether programs may be run there.
    pub temporary: Place,
    /// See `temporary`.
    pub temporary_runs_programs: bool,
    /// Whether `HOME` is set.
    pub home: bool,
    /// Open files a process may have at most; `None` is any number.
    pub files_max: Option<u64>,
    /// Connections at once.
    pub connections_max: u64,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What a daemon would work in.
    pub around: Surroundings,
    /// Less room on disk is too little, in bytes.
    pub disk_free_min_bytes: u64,
    /// What `git --version` says, or why it says nothing.
    pub git: Result<String, String>,
    /// The address, as it was configured.
    pub listen: String,
    /// What is there.
    pub port: Port,
    /// Directories the system watches for one user, where it says.
    pub watches_max: Option<u64>,
    /// Directories a daemon would have watched.
    pub watches_wanted: u64,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// As it should be.
    Fine,
    /// A daemon works, with less.
    Note,
    /// A daemon does not start, or something it is asked for fails.
    Trouble,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How bad it is.
    pub weight: Weight,
    /// What was found; where it is not fine, with the way out.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = match self.weight {
            Weight::Fine => "ok",
            Weight::Note => "note",
            Weight::Trouble => "TROUBLE",
        };
        write!(out, "{weight:8} {:18} {}", self.name, self.detail)
    }
}

/// Whether a daemon would work.
#[must_use]
pub fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.weight != Weight::Trouble)
}

/// What is to be said of what was found, in the order in which a start needs it.
#[must_use]
pub fn judge(found: &Found) -> Vec<Finding> {
    let around = &found.around;
    let mut all: Vec<Finding> = around.places.iter().map(place).collect();
    all.extend(around.places.iter().filter_map(|place| room(place, found.disk_free_min_bytes)));
    all.extend([temporary(around), home(around), git(found), port(found), watches(found), files(around)]);
    all
}

/// What of it is an incident while a daemon runs: whatever is not fine. Room on disk is a criterion of its own there, watches
/// fall back to polling, and git and the address were settled by the start.
#[must_use]
pub fn signs(around: &Surroundings) -> Vec<Sign> {
    let places = around.places.iter().map(|one| (Some(one), place(one)));
    let rest = [temporary(around), home(around), files(around)].map(|finding| (None, finding));
    let all = places.chain(rest).filter(|(_, finding)| finding.weight != Weight::Fine);
    all.map(|(place, finding)| sign(place, &finding)).collect()
}

fn sign(place: Option<&Place>, finding: &Finding) -> Sign {
    let name = finding.name.replace(' ', "_").to_lowercase();
    let key = match place {
        Some(Place { of: Use::Repository, path, .. }) => format!("{KEYS}{name}:{path}"),
        _ => format!("{KEYS}{name}"),
    };
    // Without these nothing is kept or made; all else is some of what is asked for.
    let vital = place.is_some_and(|place| matches!(place.of, Use::DataDir | Use::WorktreesDir | Use::Ledger));
    Sign {
        key,
        severity: if vital { Severity::Critical } else { Severity::Warning },
        title: format!("{}: {}", finding.name, finding.detail),
        state: IncidentState::Open,
        links: Links::default(),
    }
}

fn finding(name: &'static str, weight: Weight, detail: String) -> Finding {
    Finding { name, weight, detail }
}

const fn name_of(of: Use) -> &'static str {
    match of {
        Use::DataDir => "data directory",
        Use::WorktreesDir => "worktrees",
        Use::Ledger => "ledger",
        Use::Repository => "repository",
        Use::ConfigDir => "configuration",
    }
}

fn place(place: &Place) -> Finding {
    let (path, name) = (&place.path, name_of(place.of));
    let elsewhere = match place.of {
        Use::DataDir | Use::Ledger => "or name another directory with --data-dir",
        Use::WorktreesDir => "or name another directory with --worktrees-dir",
        Use::Repository => "or register another path",
        Use::ConfigDir => "or name another file with --config",
    };
    let (weight, what) = match (place.of, place.access) {
        (_, Access::Writable) => (Weight::Fine, "can be read and written".to_owned()),
        // A daemon reads its configuration and never writes it.
        (Use::ConfigDir, Access::ReadOnly | Access::ReadOnlyFileSystem) => (Weight::Fine, "can be read".to_owned()),
        (Use::Repository, Access::CanBeMade | Access::CannotBeMade) => {
            (Weight::Trouble, format!("is not there; mend the path, {elsewhere}"))
        }
        (Use::Repository, Access::WrongKind) => {
            (Weight::Trouble, format!("is no git repository; run git init there, {elsewhere}"))
        }
        (Use::Ledger, Access::WrongKind) => (
            Weight::Trouble,
            format!("is no ledger; restore it from a copy, {elsewhere}; it is never made anew by itself"),
        ),
        (_, Access::WrongKind) => (Weight::Trouble, format!("is no directory; move what is there away, {elsewhere}")),
        (Use::Ledger, Access::CanBeMade | Access::CannotBeMade) => (
            Weight::Trouble,
            "is gone, and what is written now goes with it; put it back, or end the daemon and restore a copy"
                .to_owned(),
        ),
        (_, Access::CanBeMade) => (Weight::Fine, "is not there yet and can be made".to_owned()),
        (_, Access::CannotBeMade) => {
            (Weight::Trouble, format!("is not there and cannot be made; make it for this user, {elsewhere}"))
        }
        (_, Access::Unreadable) => {
            (Weight::Trouble, format!("may not be read by this user; change its owner or mode, {elsewhere}"))
        }
        (_, Access::ReadOnly) => {
            (Weight::Trouble, format!("may not be written by this user; change its owner or mode, {elsewhere}"))
        }
        (_, Access::ReadOnlyFileSystem) => (
            Weight::Trouble,
            format!("is on a file system that is mounted read-only; mount it for writing, {elsewhere}"),
        ),
    };
    finding(name, weight, format!("{path} {what}"))
}

fn room(place: &Place, least: u64) -> Option<Finding> {
    let free = place.free_bytes.filter(|_| matches!(place.of, Use::DataDir | Use::WorktreesDir))?;
    let megabytes = |bytes: u64| bytes >> 20;
    let (weight, what) = if free < least {
        let way_out = "make room there, or lower disk_free_min_bytes in [readiness]";
        (Weight::Trouble, format!("less than the {} MiB it should be; {way_out}", megabytes(least)))
    } else {
        (Weight::Fine, "enough".to_owned())
    };
    Some(finding("disk", weight, format!("{} MiB are free for {}: {what}", megabytes(free), place.path)))
}

fn temporary(around: &Surroundings) -> Finding {
    let path = &around.temporary.path;
    let (weight, what) = match around.temporary.access {
        Access::Writable if around.temporary_runs_programs => (Weight::Fine, "can be written, and programs run there"),
        Access::Writable => (
            Weight::Note,
            "is mounted noexec: what a prepare unpacks there and runs fails; set TMPDIR to a directory where programs may run",
        ),
        _ => (Weight::Trouble, "cannot be written; set TMPDIR to a directory that can be"),
    };
    finding("temporary files", weight, format!("{path} {what}"))
}

fn home(around: &Surroundings) -> Finding {
    if around.home {
        return finding("HOME", Weight::Fine, "is set".to_owned());
    }
    let detail = "is not set: git finds no configuration of the user, and many tools of a prepare fail; set HOME for the daemon (in a systemd unit: Environment=HOME=...)";
    finding("HOME", Weight::Note, detail.to_owned())
}

fn git(found: &Found) -> Finding {
    let said = match &found.git {
        Ok(said) => said.trim(),
        Err(error) => {
            let detail = format!("cannot be run ({error}); install it, or put it on the PATH of the daemon");
            return finding("git", Weight::Trouble, detail);
        }
    };
    match version(said) {
        Some(version) if version >= GIT_TRIED => finding("git", Weight::Fine, said.to_owned()),
        Some(_) => {
            let (major, minor) = GIT_TRIED;
            let detail =
                format!("{said} is older than {major}.{minor}, the oldest this is tried with; install a newer one");
            finding("git", Weight::Note, detail)
        }
        None => finding("git", Weight::Note, format!("says {said:?}, which is no version; is it git?")),
    }
}

fn version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.strip_prefix("git version ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn port(found: &Found) -> Finding {
    let listen = &found.listen;
    let choose = "choose another address with --listen";
    let (weight, what) = match &found.port {
        Port::Free => (Weight::Fine, "is free".to_owned()),
        Port::Ours => (Weight::Fine, "is where the daemon of this data directory listens".to_owned()),
        Port::Taken => (Weight::Trouble, format!("is in use by another program; {choose}, or end that program")),
        Port::Refused(why) => (Weight::Trouble, format!("cannot be listened on ({why}); {choose}")),
    };
    finding("address", weight, format!("{listen} {what}"))
}

fn watches(found: &Found) -> Finding {
    let (weight, detail) = match found.watches_max {
        Some(given) if given < found.watches_wanted => (
            Weight::Note,
            format!(
                "the system watches {given} directories for one user, {} are wanted: what is beyond is polled; raise fs.inotify.max_user_watches by sysctl, or lower watches_max in [inventory]",
                found.watches_wanted
            ),
        ),
        Some(given) => {
            (Weight::Fine, format!("{given} directories can be watched, {} are wanted", found.watches_wanted))
        }
        None => (Weight::Note, "the system does not say how many directories can be watched".to_owned()),
    };
    finding("watches", weight, detail)
}

fn files(around: &Surroundings) -> Finding {
    let wanted = around.connections_max.saturating_add(OTHER_FILES);
    match around.files_max {
        Some(given) if given < wanted => finding(
            "open files",
            Weight::Note,
            format!(
                "{given} may be open, {wanted} are wanted: connections wait before there are {}; raise the hard limit (ulimit -Hn; in a systemd unit: LimitNOFILE=), or lower connections_max in [http]",
                around.connections_max
            ),
        ),
        Some(given) => finding("open files", Weight::Fine, format!("{given} may be open, {wanted} are wanted")),
        None => finding("open files", Weight::Fine, "any number may be open".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(of: Use, access: Access) -> Place {
        Place { of, path: "/p".to_owned(), access, free_bytes: Some(1 << 40) }
    }

    fn well() -> Surroundings {
        Surroundings {
            places: vec![at(Use::DataDir, Access::Writable), at(Use::Repository, Access::Writable)],
            temporary: at(Use::DataDir, Access::Writable),
            temporary_runs_programs: true,
            home: true,
            files_max: Some(20_000),
            connections_max: 4_096,
        }
    }

    fn fine() -> Found {
        Found {
            around: well(),
            disk_free_min_bytes: 1 << 20,
            git: Ok("git version 2.47.3\n".to_owned()),
            listen: "127.0.0.1:7584".to_owned(),
            port: Port::Free,
            watches_max: Some(100_000),
            watches_wanted: 65_536,
        }
    }

    #[test]
    fn a_machine_as_it_should_be_has_nothing_to_mend() {
        let findings = judge(&fine());
        assert!(findings.iter().all(|finding| finding.weight == Weight::Fine), "{findings:#?}");
        assert!(is_well(&findings));
    }

    #[test]
    fn every_trouble_is_named_with_its_way_out() {
        let read_only = |of| move |found: &mut Found| found.around.places.push(at(of, Access::ReadOnly));
        type Spoil = Box<dyn Fn(&mut Found)>;
        let cases: Vec<(Spoil, Weight, &str, &str)> = vec![
            (Box::new(read_only(Use::Ledger)), Weight::Trouble, "ledger", "change its owner or mode"),
            (Box::new(read_only(Use::Repository)), Weight::Trouble, "repository", "change its owner or mode"),
            (Box::new(read_only(Use::DataDir)), Weight::Trouble, "data directory", "--data-dir"),
            (Box::new(read_only(Use::ConfigDir)), Weight::Fine, "configuration", "can be read"),
            (
                Box::new(|found| found.around.places.push(at(Use::WorktreesDir, Access::ReadOnlyFileSystem))),
                Weight::Trouble,
                "worktrees",
                "mount it for writing",
            ),
            (
                Box::new(|found| found.around.places.push(at(Use::Ledger, Access::WrongKind))),
                Weight::Trouble,
                "ledger",
                "restore it from a copy",
            ),
            (
                Box::new(|found| found.around.places.push(at(Use::Repository, Access::CanBeMade))),
                Weight::Trouble,
                "repository",
                "is not there",
            ),
            (
                Box::new(|found| found.around.places[0].free_bytes = Some(1)),
                Weight::Trouble,
                "disk",
                "disk_free_min_bytes in [readiness]",
            ),
            (Box::new(|found| found.around.temporary_runs_programs = false), Weight::Note, "temporary files", "TMPDIR"),
            (
                Box::new(|found| found.around.temporary.access = Access::ReadOnly),
                Weight::Trouble,
                "temporary files",
                "TMPDIR",
            ),
            (Box::new(|found| found.around.home = false), Weight::Note, "HOME", "Environment=HOME"),
            (Box::new(|found| found.git = Err("no such file".to_owned())), Weight::Trouble, "git", "install it"),
            (Box::new(|found| found.git = Ok("git version 2.25.1".to_owned())), Weight::Note, "git", "2.39"),
            (Box::new(|found| found.git = Ok("something".to_owned())), Weight::Note, "git", "is it git?"),
            (Box::new(|found| found.port = Port::Taken), Weight::Trouble, "address", "--listen"),
            (Box::new(|found| found.port = Port::Refused("no".to_owned())), Weight::Trouble, "address", "--listen"),
            (Box::new(|found| found.port = Port::Ours), Weight::Fine, "address", "of this data directory"),
            (Box::new(|found| found.watches_max = Some(8_192)), Weight::Note, "watches", "max_user_watches"),
            (Box::new(|found| found.around.files_max = Some(1_024)), Weight::Note, "open files", "LimitNOFILE"),
        ];
        for (spoil, weight, name, way_out) in cases {
            let mut found = fine();
            spoil(&mut found);
            let findings = judge(&found);
            let hit = |finding: &&Finding| finding.name == name && finding.detail.contains(way_out);
            let hit = findings.iter().find(hit).unwrap_or_else(|| panic!("{name}, {way_out}: {findings:#?}"));
            assert_eq!(hit.weight, weight, "{hit}");
            assert_eq!(is_well(&findings), weight != Weight::Trouble, "{hit}");
        }
    }

    #[test]
    fn whatever_is_not_fine_is_an_incident_of_its_own_while_a_daemon_runs() {
        assert_eq!(signs(&well()), []);
        type Spoil = fn(&mut Surroundings);
        let cases: [(Spoil, &str, Severity, &str); 9] = [
            (
                |around| around.places[0].access = Access::ReadOnly,
                "machine:data_directory",
                Severity::Critical,
                "data directory: /p may not be written",
            ),
            (
                |around| around.places.push(at(Use::WorktreesDir, Access::ReadOnlyFileSystem)),
                "machine:worktrees",
                Severity::Critical,
                "mount it for writing",
            ),
            (
                |around| around.places.push(at(Use::Ledger, Access::CanBeMade)),
                "machine:ledger",
                Severity::Critical,
                "is gone",
            ),
            (
                |around| around.places[1].access = Access::ReadOnly,
                "machine:repository:/p",
                Severity::Warning,
                "change its owner",
            ),
            (
                |around| around.places[1].access = Access::CannotBeMade,
                "machine:repository:/p",
                Severity::Warning,
                "is not there",
            ),
            (|around| around.temporary_runs_programs = false, "machine:temporary_files", Severity::Warning, "noexec"),
            (
                |around| around.temporary.access = Access::ReadOnly,
                "machine:temporary_files",
                Severity::Warning,
                "cannot be written",
            ),
            (|around| around.home = false, "machine:home", Severity::Warning, "set HOME"),
            (|around| around.files_max = Some(1_024), "machine:open_files", Severity::Warning, "LimitNOFILE"),
        ];
        for (spoil, key, severity, words) in cases {
            let mut around = well();
            spoil(&mut around);
            let signs = signs(&around);
            let [sign] = &signs[..] else { panic!("{key}: {signs:#?}") };
            assert_eq!(
                (sign.key.as_str(), sign.severity, sign.state),
                (key, severity, IncidentState::Open),
                "{sign:?}"
            );
            assert!(sign.title.contains(words), "{sign:?}");
        }
    }
}
