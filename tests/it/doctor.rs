//! `slugline doctor` on real directories: it names what is in the way, and changes nothing.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::Site;

fn doctor(site: &Site, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
    command.arg("doctor").arg("--data-dir").arg(site.path("data")).args(args).current_dir(site.path(""));
    command.stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

fn line<'a>(said: &'a str, name: &str) -> &'a str {
    said.lines()
        .find(|line| line[8.min(line.len())..].trim_start().starts_with(name))
        .unwrap_or_else(|| panic!("{name}: {said}"))
}

/// Everything below a directory, as it is: kinds, modes, lengths, times.
fn everything(dir: &Path, into: &mut BTreeMap<PathBuf, (u32, u64, i64, i64)>) {
    for entry in std::fs::read_dir(dir).expect("reads").flatten() {
        let found = entry.metadata().expect("is there");
        into.insert(entry.path(), (found.mode(), found.len(), found.mtime(), found.mtime_nsec()));
        if found.is_dir() {
            everything(&entry.path(), into);
        }
    }
}

#[test]
fn a_machine_where_nothing_is_in_the_way_is_well_and_stays_as_it_is() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    std::fs::create_dir(site.path("home")).expect("makes");
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    everything(&site.path(""), &mut before);
    let path = repo.path.display().to_string();
    let mut command = doctor(&site, &["--repo", &path, "--listen", "127.0.0.1:0"]);
    let (code, text) = said(&command.env("HOME", site.path("home")).output().expect("runs"));
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("TROUBLE"), "{text}");
    for name in [
        "data directory",
        "worktrees",
        "repository",
        "disk",
        "temporary files",
        "HOME",
        "git",
        "address",
        "watches",
        "open files",
    ] {
        line(&text, name);
    }
    everything(&site.path(""), &mut after);
    assert_eq!(before, after, "it changed something");
}

#[test]
fn what_is_in_the_way_is_named_with_the_way_out() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let listen = taken.local_addr().expect("has one").to_string();
    std::fs::create_dir_all(site.path("data")).expect("makes");
    std::fs::write(site.path("data/ledger.db"), "not one").expect("writes");
    std::fs::create_dir(site.path("plain")).expect("makes");
    std::fs::write(site.path("a-file"), "").expect("writes");
    let (plain, gone, file) = (site.path("plain"), site.path("gone"), site.path("a-file"));
    let (plain, gone, file) = (plain.display().to_string(), gone.display().to_string(), file.display().to_string());
    let args = ["--repo", &plain, "--repo", &gone, "--listen", &listen, "--worktrees-dir", &file];
    let mut command = doctor(&site, &args);
    command.env_remove("HOME").env("TMPDIR", site.path("nowhere")).env("PATH", site.path("plain"));
    command.env("SLUGLINE_READINESS_DISK_FREE_MIN_BYTES", (u64::MAX / 2).to_string());
    let (code, text) = said(&command.output().expect("runs"));
    assert_eq!(code, Some(1), "{text}");
    for (name, weight, way_out) in [
        ("ledger", "TROUBLE", "restore it from a copy"),
        ("worktrees", "TROUBLE", "move what is there away"),
        ("repository", "TROUBLE", "git init"),
        ("disk", "TROUBLE", "make room"),
        ("temporary files", "TROUBLE", "TMPDIR"),
        ("HOME", "note", "set HOME"),
        ("git", "TROUBLE", "install it"),
        ("address", "TROUBLE", "--listen"),
    ] {
        let line = line(&text, name);
        assert!(line.starts_with(weight) && line.contains(way_out), "{line}\n{text}");
    }
    assert!(text.contains(&format!("{gone} is not there")), "{text}");
    assert_eq!(std::fs::read_to_string(site.path("data/ledger.db")).expect("reads"), "not one");
}

#[test]
fn what_may_only_be_read_is_named() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let read_only = ["data", "config", "app/.git"].map(|name| site.path(name));
    std::fs::create_dir_all(&read_only[0]).expect("makes");
    std::fs::create_dir_all(&read_only[1]).expect("makes");
    std::fs::write(site.path("data/ledger.db"), "SQLite format 3\0 and so on").expect("writes");
    std::fs::write(site.path("config/slugline.toml"), "").expect("writes");
    let mode =
        |path: &Path, mode: u32| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("changes");
    // Whoever may do everything is asked as somebody who may not.
    mode(site.dir.path(), 0o755);
    mode(&site.path("data/ledger.db"), 0o444);
    read_only.iter().for_each(|path| mode(path, 0o555));
    let (config, path) = (site.path("config/slugline.toml").display().to_string(), repo.path.display().to_string());
    let asked = doctor(&site, &["--repo", &path, "--config", &config, "--listen", "127.0.0.1:0"]);
    let output = if rustix::process::geteuid().is_root() {
        let program = site.path("slugline");
        std::fs::copy(asked.get_program(), &program).expect("copies");
        mode(&program, 0o755);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(asked.get_args());
        command.current_dir(site.path("")).env("HOME", site.path("")).stdin(Stdio::null()).output()
    } else {
        let mut asked = asked;
        asked.output()
    };
    read_only.iter().for_each(|path| mode(path, 0o755));
    let (code, text) = match &output {
        Ok(output) => said(output),
        Err(error) => return println!("not shown: nobody else can be asked as ({error})"),
    };
    assert_eq!(code, Some(1), "{text}");
    for name in ["data directory", "ledger", "repository"] {
        let line = line(&text, name);
        assert!(line.starts_with("TROUBLE") && line.contains("may not be written"), "{line}\n{text}");
    }
    assert!(line(&text, "configuration").starts_with("ok"), "{text}");
}
