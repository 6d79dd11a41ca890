//! Control groups of the system (Linux, version 2): a mark that no command can put off.
//!
//! A supervisor starts its command in a group of the command's own, which everything that comes of it is in, too: neither a
//! fork nor a session of its own nor a clean environment leads out. The name of the group says whose it is, as the mark in
//! the environment does; a sweep looks at both. Where groups cannot be made commands run without: then the mark is all.
//!
//! Groups are made below the daemon's own where that was given to it: by systemd (`Delegate=yes`), which says so at the group, or,
//! where there is no systemd that keeps all groups (a container), by whoever made it writable for this user.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::command::WhenDaemonDies;

/// Longest mark that names a group; the name of one has at most 255 bytes.
const MARK_BYTES_MAX: usize = 200;
/// What a group's name ends with when its command finishes without a daemon.
const FINISH: &str = "finish";
/// The same when it is ended.
const KILL: &str = "kill";
/// What lists and takes the processes of a group.
const PROCESSES: &str = "cgroup.procs";

/// The group of one command.
pub(super) struct Group {
    dir: PathBuf,
    /// Where the supervisor came from.
    base: PathBuf,
}

impl Group {
    /// Makes a group and enters it, so that what is started now is in it. `None` where that cannot be.
    pub(super) fn enter(mark: &str, when_daemon_dies: WhenDaemonDies) -> Option<Self> {
        let base = base()?;
        let dir = base.join(name_of(mark, std::process::id(), when_daemon_dies)?);
        fs::create_dir(&dir).ok()?;
        let group = Self { dir, base };
        match enter(&group.dir) {
            Ok(()) => Some(group),
            Err(_) => {
                group.remove();
                None
            }
        }
    }

    /// Goes back to where it came from; what was started stays.
    pub(super) fn leave(&self) {
        // A supervisor that cannot is found by its own mark, and its group is taken away with the next sweep.
        let _ = enter(&self.base);
    }

    /// Takes the group away, when nothing is left in it.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

fn enter(dir: &Path) -> io::Result<()> {
    fs::write(dir.join(PROCESSES), "0")
}

fn name_of(mark: &str, supervisor: u32, when_daemon_dies: WhenDaemonDies) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let named = !mark.is_empty() && mark.len() <= MARK_BYTES_MAX && mark.bytes().all(plain);
    let policy = match when_daemon_dies {
        WhenDaemonDies::Finish => FINISH,
        WhenDaemonDies::Kill => KILL,
    };
    named.then(|| format!("{mark}.{supervisor}.{policy}"))
}

/// The mark of the innermost group of ours a process is in, and what becomes of it without a daemon.
pub(super) fn mark_of(pid: i32) -> Option<(String, WhenDaemonDies)> {
    mark_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

fn mark_in(groups: &str) -> Option<(String, WhenDaemonDies)> {
    own_path(groups)?.rsplit('/').find_map(|name| {
        let (rest, policy) = name.rsplit_once('.')?;
        let (mark, supervisor) = rest.rsplit_once('.')?;
        let policy = match policy {
            FINISH => WhenDaemonDies::Finish,
            KILL => WhenDaemonDies::Kill,
            _ => return None,
        };
        supervisor.parse::<u32>().ok().map(|_| (mark.to_owned(), policy))
    })
}

/// Takes away groups with this beginning of a mark in which nothing is left, such as those of supervisors that were killed.
pub(super) fn clear(mark_prefix: &str) {
    let Some(entries) = base().and_then(|base| fs::read_dir(base).ok()) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(mark_prefix)) {
        // What is in use is refused.
        let _ = fs::remove_dir(entry.path());
    }
}

/// The group this process is in, when groups may be made below it.
fn base() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let base = place_of(own_path(&own)?, &fs::read_to_string("/proc/self/mountinfo").ok()?)?;
    is_given(&base).then_some(base)
}

/// The path in the hierarchy of version 2, which has the number 0 and no name.
fn own_path(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Where a path of the hierarchy is in the file system.
fn place_of(path: &str, mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let inside = Path::new(path).strip_prefix(root).ok()?;
        // A name with a space or a line in it is written otherwise; nobody mounts this one there.
        (kind.starts_with("cgroup2 ") && !point.contains('\\')).then(|| Path::new(point).join(inside))
    })
}

#[cfg(target_os = "linux")]
fn is_given(base: &Path) -> bool {
    use rustix::fs::{Access, access, getxattr};
    let writable = |path: &Path| access(path, Access::WRITE_OK).is_ok();
    let said = |name: &str| {
        let mut value = [0; 1];
        getxattr(base, name, &mut value).is_ok_and(|length| length == 1) && value == *b"1"
    };
    let kept = Path::new("/run/systemd/system").exists();
    writable(base) && writable(&base.join(PROCESSES)) && (!kept || said("trusted.delegate") || said("user.delegate"))
}

#[cfg(not(target_os = "linux"))]
fn is_given(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_name_gives_back_the_mark_and_what_becomes_of_it() {
        for policy in [WhenDaemonDies::Kill, WhenDaemonDies::Finish] {
            let name = name_of("slugline-12-01J", 77, policy).expect("a plain mark");
            let found = |line: String| mark_in(&line);
            assert_eq!(found(format!("0::/a/{name}\n")), Some(("slugline-12-01J".to_owned(), policy)));
            // Also from below, where a command made groups of its own.
            assert_eq!(found(format!("1:pids:/\n0::/{name}/more\n")), Some(("slugline-12-01J".to_owned(), policy)));
        }
        for stranger in ["0::/\n", "0::/user.slice/a.service\n", "1:name=systemd:/m.7.kill\n", "0::/m.x.kill\n", ""] {
            assert_eq!(mark_in(stranger), None, "{stranger:?}");
        }
    }

    #[test]
    fn a_mark_that_could_lead_elsewhere_names_no_group() {
        for mark in ["", "..", "a/b", "a.b", "a b", &"x".repeat(MARK_BYTES_MAX + 1)] {
            assert_eq!(name_of(mark, 1, WhenDaemonDies::Kill), None, "{mark:?}");
        }
    }

    #[test]
    fn the_hierarchy_is_found_where_it_is_mounted() {
        let mounts = "25 30 0:22 / /sys rw - sysfs sysfs rw\n\
                      31 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        assert_eq!(place_of("/a/b", mounts), Some("/sys/fs/cgroup/a/b".into()));
        let part = "31 25 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup ro\n";
        assert_eq!(place_of("/docker/1/x", part), Some("/sys/fs/cgroup/x".into()));
        assert_eq!(place_of("/other", part), None);
        assert_eq!(place_of("/", "36 32 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"), None);
    }
}
