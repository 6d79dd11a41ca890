//! Looks at what a daemon works in, for itself while it runs and for `slugline doctor` before one does. Asks the system and tries
//! nothing, so nothing is changed by looking. What it means is said by [`crate::model::doctor`].

use std::io;
use std::path::Path;

use rustix::fs::{Access as Wish, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};
use rustix::process::{Resource, getrlimit};

use crate::model::doctor::{Access, Place, Surroundings, Use};

/// What is to be looked at.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Where token, address, ledger and logs are.
    pub data_dir: &'a Path,
    /// Where worktrees are.
    pub worktrees_dir: &'a Path,
    /// Where the configuration file is, where that matters.
    pub config_dir: Option<&'a Path>,
    /// The repositories.
    pub repositories: Vec<&'a Path>,
    /// Connections at once.
    pub connections_max: u64,
}

/// Looks. May block for as long as the disks do.
#[must_use]
pub fn look(wanted: &Wanted<'_>) -> Surroundings {
    let temporary = std::env::temp_dir();
    let flags = statvfs(&temporary).map(|there| there.f_flag);
    let mut places = vec![
        place(Use::DataDir, wanted.data_dir),
        place(Use::WorktreesDir, wanted.worktrees_dir),
        ledger(&wanted.data_dir.join("ledger.db")),
    ];
    places.extend(wanted.config_dir.map(|dir| place(Use::ConfigDir, dir)));
    places.extend(wanted.repositories.iter().map(|path| repository(path)));
    Surroundings {
        places,
        temporary: place(Use::DataDir, &temporary),
        temporary_runs_programs: flags.is_ok_and(|flags| !flags.contains(StatVfsMountFlags::NOEXEC)),
        home: std::env::var_os("HOME").is_some_and(|home| !home.is_empty()),
        files_max: getrlimit(Resource::Nofile).maximum,
        connections_max: wanted.connections_max,
    }
}

/// Room for this user where the directory is or will be, and how large that file system is; in bytes.
pub fn room(dir: &Path) -> io::Result<(u64, u64)> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    let stat = statvfs(there)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

fn place(of: Use, path: &Path) -> Place {
    let free_bytes = room(path).ok().map(|(free, _)| free);
    Place { of, path: path.display().to_string(), access: access(path), free_bytes }
}

/// It is never opened here: to close it again would give up the locks that this process has on it.
fn ledger(path: &Path) -> Place {
    let access = if path.is_file() { may(path, Wish::empty()) } else { access(path) };
    Place { access, ..place(Use::Ledger, path) }
}

fn repository(path: &Path) -> Place {
    let git = path.join(".git");
    // A work tree of its own, or a directory that is the git directory itself.
    let shown = place(Use::Repository, path);
    let access = match shown.access {
        Access::CanBeMade | Access::CannotBeMade | Access::Unreadable => shown.access,
        _ if git.is_dir() => access(&git),
        _ if git.is_file() || path.join("HEAD").is_file() => access(path),
        _ => Access::WrongKind,
    };
    Place { access, ..shown }
}

/// What this user may do with a directory.
fn access(path: &Path) -> Access {
    let Ok(found) = path.metadata() else {
        // What is not there is made below what is.
        let above = path.ancestors().skip(1).find(|path| path.exists());
        return if above.is_some_and(|above| access(above) == Access::Writable) {
            Access::CanBeMade
        } else {
            Access::CannotBeMade
        };
    };
    if found.is_dir() { may(path, Wish::EXEC_OK) } else { Access::WrongKind }
}

fn may(path: &Path, enter: Wish) -> Access {
    // As this process would be let in, not as the user who started it.
    let can = |wish| accessat(CWD, path, wish, AtFlags::EACCESS);
    match (can(Wish::READ_OK | enter), can(Wish::WRITE_OK)) {
        (Err(_), _) => Access::Unreadable,
        (Ok(()), Ok(())) => Access::Writable,
        (Ok(()), Err(rustix::io::Errno::ROFS)) => Access::ReadOnlyFileSystem,
        (Ok(()), Err(_)) => Access::ReadOnly,
    }
}
