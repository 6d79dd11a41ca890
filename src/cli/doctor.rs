//! `slugline doctor`: looks at the machine and at what the configuration names, and changes nothing. What it means is said by
//! [`crate::model::doctor`].

use std::io::{self, Read as _, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Access as Wish, AtFlags, CWD, OFlags, StatVfs, StatVfsMountFlags, accessat, statvfs};
use rustix::process::{Resource, getrlimit};

use crate::config::Config;
use crate::model::doctor::{self, Access, Finding, Found, Place, Port, Use};

/// The first bytes of a ledger: it is a database of SQLite.
const LEDGER_BEGINS: &[u8] = b"SQLite format 3\0";
/// How long git may take to say its version.
const GIT_LIMIT: Duration = Duration::from_secs(10);

/// Looks at what a daemon with this configuration, read from `file`, would need; prints a line for each thing, and says whether a daemon would work.
pub fn show(config: &Config, file: Option<&Path>, out: &mut impl Write) -> io::Result<bool> {
    let findings = doctor::judge(&look(config, file));
    findings.iter().try_for_each(|finding: &Finding| writeln!(out, "{finding}"))?;
    Ok(doctor::is_well(&findings))
}

fn look(config: &Config, file: Option<&Path>) -> Found {
    let temporary = std::env::temp_dir();
    let flags = statvfs(&temporary).map(|there| there.f_flag);
    Found {
        places: places(config, file),
        disk_free_min_bytes: config.readiness.disk_free_min_bytes,
        temporary: place(Use::DataDir, &temporary),
        temporary_runs_programs: flags.is_ok_and(|flags| !flags.contains(StatVfsMountFlags::NOEXEC)),
        home: std::env::var_os("HOME").is_some_and(|home| !home.is_empty()),
        git: git_version(),
        listen: config.listen.to_string(),
        port: port(config),
        watches_max: number_in("/proc/sys/fs/inotify/max_user_watches"),
        watches_wanted: config.inventory.watches_max as u64,
        files_max: getrlimit(Resource::Nofile).maximum,
        connections_max: config.http.connections_max as u64,
    }
}

fn places(config: &Config, file: Option<&Path>) -> Vec<Place> {
    let ledger = config.data_dir.join("ledger.db");
    let mut all = vec![place(Use::DataDir, &config.data_dir), place(Use::WorktreesDir, &config.worktrees_dir)];
    if ledger.exists() {
        all.push(Place { access: ledger_access(&ledger), ..place(Use::Ledger, &ledger) });
    }
    if let Some(dir) = file.and_then(|file| std::path::absolute(file).ok()?.parent().map(Path::to_owned)) {
        all.push(place(Use::ConfigDir, &dir));
    }
    all.extend(config.repositories.iter().map(|repository| {
        let git = repository.path.join(".git");
        // A work tree of its own, or a directory that is the git directory itself.
        let shown = place(Use::Repository, &repository.path);
        let access = match shown.access {
            Access::CanBeMade | Access::CannotBeMade | Access::Unreadable => shown.access,
            _ if git.is_dir() => access(&git),
            _ if git.is_file() || repository.path.join("HEAD").is_file() => access(&repository.path),
            _ => Access::WrongKind,
        };
        Place { access, ..shown }
    }));
    all
}

fn place(of: Use, path: &Path) -> Place {
    let room = |there: StatVfs| there.f_bavail.saturating_mul(there.f_frsize);
    let standing = path.ancestors().find(|path| path.exists());
    let free_bytes = standing.and_then(|path| statvfs(path).ok()).map(room);
    Place { of, path: path.display().to_string(), access: access(path), free_bytes }
}

/// What this user may do with a directory, found out by asking and not by trying.
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

fn ledger_access(path: &Path) -> Access {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    let mut begins = [0; LEDGER_BEGINS.len()];
    let opened = std::fs::File::options().read(true).custom_flags(flags).open(path);
    match opened.and_then(|mut file| file.read_exact(&mut begins)) {
        Ok(()) if begins == LEDGER_BEGINS => may(path, Wish::empty()),
        Ok(()) => Access::WrongKind,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Access::Unreadable,
        Err(_) => Access::WrongKind,
    }
}

fn git_version() -> Result<String, String> {
    let mut command = Command::new("git");
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null());
    let (tell, told) = mpsc::channel();
    // On a thread of its own: what calls itself git may never end.
    std::thread::spawn(move || tell.send(command.output()));
    match told.recv_timeout(GIT_LIMIT) {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => Err(output.status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it did not end within {} s", GIT_LIMIT.as_secs())),
    }
}

/// Taken for an instant and given back, which is the only way to know.
fn port(config: &Config) -> Port {
    let ours = std::fs::read_to_string(config.data_dir.join("address")).ok();
    match TcpListener::bind(config.listen) {
        Ok(_) => Port::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let listen = config.listen.to_string();
            if ours.is_some_and(|ours| ours.trim() == listen) { Port::Ours } else { Port::Taken }
        }
        Err(error) => Port::Refused(error.to_string()),
    }
}

fn number_in(file: &str) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
