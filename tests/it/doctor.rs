//! `slugline doctor` on real directories: it names what is in the way, and changes nothing; and a daemon that says the same of
//! itself while it runs.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use slugline::cli::client::Client;

use crate::harness::{Repo, Site, Spawned, until};

/// Who may do nothing but what everybody may.
const NOBODY: u32 = 65_534;

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

/// Everything below a directory, and itself, is this user's.
fn give(dir: &Path, user: u32) {
    let entries = std::fs::read_dir(dir).expect("reads").flatten().map(|entry| entry.path());
    for path in entries {
        std::os::unix::fs::lchown(&path, Some(user), Some(user)).expect("gives");
        if path.is_dir() && !path.is_symlink() {
            give(&path, user);
        }
    }
    std::os::unix::fs::lchown(dir, Some(user), Some(user)).expect("gives");
}

/// A daemon without a HOME, that looks at itself all the time; as somebody who may not do everything. `None` where it cannot
/// be had.
async fn daemon(site: &Site, repo: &Repo) -> Option<Spawned> {
    let own = site.path("slugline");
    std::fs::copy(env!("CARGO_BIN_EXE_slugline"), &own).expect("copies");
    let mut command = if rustix::process::geteuid().is_root() {
        give(&site.path(""), NOBODY);
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]).arg(own);
        command
    } else {
        Command::new(own)
    };
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(site.path("data")).arg("--repo");
    command.arg(&repo.path).current_dir(site.path("")).env_remove("HOME");
    std::fs::write(site.path("slugline.toml"), "[jobs]\nreadiness_every_ms = 50\n").expect("writes");
    command.arg("--config").arg(site.path("slugline.toml"));
    let log = std::fs::File::create(site.path("daemon.log")).expect("makes");
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    let mut child = started.inspect_err(|error| println!("not shown: nobody else can be asked as ({error})")).ok()?;
    let address = until("the daemon to write its address", || {
        assert!(matches!(child.try_wait(), Ok(None)), "the daemon ended: {}", site.daemon_log());
        let address = std::fs::read_to_string(site.path("data/address")).ok();
        std::future::ready(address.and_then(|text| text.trim().parse().ok()))
    });
    let address = address.await;
    let token = std::fs::read_to_string(site.path("data/token")).expect("token").trim().to_owned();
    Some(Spawned { child, client: site.noting(Client::tcp(address, Some(token))) })
}

/// The incident of this key that is not over, as everybody is shown it.
async fn incident(daemon: &Spawned, key: &str) -> Option<Value> {
    let status = daemon.client.get("/status").await.expect("answers").json();
    status["incidents"].as_array().expect("a list").iter().find(|one| one["key"] == key).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_may_not_write_any_more_says_so_until_it_may() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let Some(daemon) = daemon(&site, &repo).await else { return };
    let home = until("an incident about HOME", || incident(&daemon, "machine:home")).await;
    assert!(home["severity"] == "warning" && home["title"].as_str().expect("text").contains("set HOME"), "{home}");
    let repository = format!("machine:repository:{}", repo.path.display());
    let places = [
        ("app/.git", repository.as_str(), "warning"),
        ("data", "machine:data_directory", "critical"),
        ("data/worktrees", "machine:worktrees", "critical"),
        ("data/ledger.db", "machine:ledger", "critical"),
    ];
    std::fs::create_dir_all(site.path("data/worktrees")).expect("makes");
    give(&site.path("data/worktrees"), std::fs::metadata(site.path("data")).expect("is there").uid());
    for (place, key, severity) in places {
        assert_eq!(incident(&daemon, key).await, None);
        let path = site.path(place);
        let before = std::fs::metadata(&path).expect("is there").permissions();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(before.mode() & 0o555)).expect("changes");
        let opened = until(&format!("an incident about {place}"), || incident(&daemon, key)).await;
        let title = opened["title"].as_str().expect("text");
        assert!(opened["severity"] == severity && title.contains("may not be written"), "{opened}");
        std::fs::set_permissions(&path, before).expect("changes");
        until(&format!("the incident about {place} to be over"), || async {
            incident(&daemon, key).await.is_none().then_some(())
        })
        .await;
    }
    // On record with both its ends, once the ledger has it.
    until("the end to be on record", || async {
        let all = daemon.client.get("/incidents").await.expect("answers").json();
        let all = all.as_array().expect("a list");
        let resolved = |key| all.iter().any(|one| one["key"] == key && one["state"] == "resolved");
        places.iter().all(|(_, key, _)| resolved(*key)).then_some(())
    })
    .await;
}
