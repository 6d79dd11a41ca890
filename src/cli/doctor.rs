//! `slugline doctor`: says what a daemon with this configuration would find. What it would work in is looked at by whoever also
//! looks while one runs; what only a start needs is looked at here. Nothing is changed. What it means is said by
//! [`crate::model::doctor`].

use std::io::{self, Read as _, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::config::Config;
use crate::model::doctor::{self, Access, Finding, Found, Port, Surroundings, Use};

/// The first bytes of a ledger: it is a database of SQLite.
const LEDGER_BEGINS: &[u8] = b"SQLite format 3\0";
/// How long git may take to say its version.
const GIT_LIMIT: Duration = Duration::from_secs(10);

/// Looks at what a start with this configuration would need besides what it would work in; prints a line for each thing, and
/// says whether a daemon would work.
pub fn show(config: &Config, around: Surroundings, out: &mut impl Write) -> io::Result<bool> {
    let findings = doctor::judge(&look(config, around));
    findings.iter().try_for_each(|finding: &Finding| writeln!(out, "{finding}"))?;
    Ok(doctor::is_well(&findings))
}

fn look(config: &Config, mut around: Surroundings) -> Found {
    // One that is not there yet is made by the first start.
    around.places.retain(|place| place.of != Use::Ledger || Path::new(&place.path).exists());
    for place in around.places.iter_mut().filter(|place| place.of == Use::Ledger) {
        place.access = ledger_access(Path::new(&place.path), place.access);
    }
    Found {
        around,
        disk_free_min_bytes: config.readiness.disk_free_min_bytes,
        git: git_version(),
        listen: config.listen.to_string(),
        port: port(config),
        watches_max: number_in("/proc/sys/fs/inotify/max_user_watches"),
        watches_wanted: config.inventory.watches_max as u64,
    }
}

/// What may be done with the ledger's file, when it is one.
fn ledger_access(path: &Path, access: Access) -> Access {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    let mut begins = [0; LEDGER_BEGINS.len()];
    let opened = std::fs::File::options().read(true).custom_flags(flags).open(path);
    match opened.and_then(|mut file| file.read_exact(&mut begins)) {
        Ok(()) if begins == LEDGER_BEGINS => access,
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
