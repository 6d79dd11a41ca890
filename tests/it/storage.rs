//! Storage that fails: kills at single calls, loss of power, errors of input and output, no room, bits that turn, files that are
//! missing, old or new. The daemon is the real one; between it and its files is `tests/shim`. What is promised is kept book of
//! in `promises`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slugline::cli::client::Client;
use slugline::model::event::EventKind;
use slugline::model::ids::OperationId;
use slugline::store::{Store, StoreError, Write};

use crate::disk::{Disk, FAILED, LEDGER, LOGS, NO_ROOM, REST, after_power_loss};
use crate::harness::{Noting, Repo, Site, Spawned, git_command, problem, until, write};
use crate::promises::Promises;
use crate::replay::replay;
use crate::scale::{Dice, seed, size};

const SLUGS: [&str; 4] = ["one", "two", "three", "four"];

/// Exit code of a ledger nothing can go on with.
const DAMAGED: i32 = 65;

/// Attempts without a wait and without an end: what is given back can be had at once.
const FREELY: [(&str, &str); 4] = [
    ("SLUGLINE_ATTEMPTS_MAX", "1000"),
    ("SLUGLINE_ATTEMPTS_BACKOFF_MIN_MS", "0"),
    ("SLUGLINE_ATTEMPTS_BACKOFF_MAX_MS", "0"),
    ("SLUGLINE_BREAKER_FAILURES", "1000"),
];

fn whole(number: u64) -> usize {
    usize::try_from(number).expect("fits")
}

async fn post(client: &Noting, path: &str, body: &Value) -> Option<Value> {
    let reply = client.post(path, body).await.ok()?;
    let answer = reply.json();
    assert!(reply.status < 300 || reply.status == 409 || answer["retryable"] == true, "{path}: {}", reply.text());
    (reply.status < 300).then_some(answer)
}

/// Workers take every todo, report, give back, and file more, for some rounds or until nobody answers.
async fn work(client: &Noting, rounds: usize, filed: &AtomicU64) {
    let workers = SLUGS.map(|slug| async move {
        for _ in 0..rounds {
            let name = format!("filed-{}", filed.fetch_add(1, Ordering::SeqCst));
            post(client, "/todos/app", &json!({ "slug": name, "brief": "do it" })).await;
            let body = json!({ "lane": "builder", "slug": slug, "wait_ms": 5_000 });
            let answer = post(client, "/todos/work", &body).await;
            let Some(token) = answer.and_then(|answer| answer["claim"]["token"].as_u64()) else { continue };
            let body = json!({ "token": token, "outcome": "failed", "reason": "it broke" });
            post(client, &format!("/todos/app/{slug}/complete"), &body).await;
        }
    });
    futures_util::future::join_all(workers).await;
}

/// A site with todos and a disk of its own.
fn site() -> (Site, Repo, Disk) {
    let site = Site::new();
    let (repo, disk) = (site.app(&SLUGS, ""), Disk::of(&site));
    (site, repo, disk)
}

fn no_panic(site: &Site) {
    let log = site.daemon_log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Ends with a daemon that is left alone, keeps its promises, and leaves a ledger that is whole.
async fn all_kept(site: &Site, repo: &Repo) {
    let daemon = site.spawn_with(&[repo], &vars(&FREELY)).await;
    daemon.kill_with_all_kept().await;
    no_panic(site);
}

fn vars(pairs: &[(&'static str, &str)]) -> Vec<(&'static str, PathBuf)> {
    pairs.iter().map(|&(name, value)| (name, value.into())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_single_calls_also_during_recovery_lose_nothing_acknowledged() {
    let mut dice = Dice(seed(None));
    let kills = whole(size("TEST_CALL_KILLS", [16, 1_000, 10_000]));
    let (site, repo, disk) = site();
    let filed = AtomicU64::new(0);
    let daemon = site.spawn_with(&[&repo], &vars(&FREELY)).await;
    work(&daemon.client, 1, &filed).await;
    drop(daemon);
    let mut while_starting = 0;
    for round in 0..kills {
        // After a death in the middle of work five starts die one after the other, each a little later.
        let call = if (1..6).contains(&(round % 8)) { 1 + dice.below(60) } else { 40 + dice.below(400) };
        disk.kill_at(call, dice.below(2) == 0);
        match site.try_spawn(&[&repo], &disk.vars(&FREELY)).await {
            Ok(daemon) => {
                work(&daemon.client, 4, &filed).await;
            }
            Err(status) => {
                assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{}", site.daemon_log());
                while_starting += 1;
            }
        }
    }
    println!("{while_starting} of {kills} while it started");
    all_kept(&site, &repo).await;
}

/// Something that was acknowledged, and how far the journal was by then.
enum Told {
    Operation(String),
    Filed(String),
    Granted(String, u64),
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_loss_of_power_everything_acknowledged_is_there() {
    let mut dice = Dice(seed(None));
    let losses = size("TEST_POWER_LOSSES", [40, 200, 2_000]);
    let site = Site::new();
    let (repo, disk) = (site.app(&SLUGS, ""), Disk::with_journal(&site));
    let mut told: Vec<(u64, Told)> = Vec::new();
    // Two daemons one after the other, so that a ledger that is opened again is among it; the first dies.
    for life in 0..2 {
        let daemon = site.spawn_with(&[&repo], &disk.vars(&FREELY)).await;
        for turn in 0..40 {
            let slug = SLUGS[turn % SLUGS.len()];
            let name = format!("filed-{life}-{turn}");
            let filed =
                daemon.client.post("/todos/app", &json!({ "slug": name, "brief": "do it" })).await.expect("answers");
            assert!(filed.status < 300, "{}", filed.text());
            told.push((disk.journaled(), Told::Filed(name)));
            let body = json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 });
            let order = daemon.client.post("/todos/work", &body).await.expect("answers").json();
            let token = order["claim"]["token"].as_u64().expect("a claim");
            told.push((disk.journaled(), Told::Granted(format!("app/{slug}"), token)));
            if let Some(id) = order["operation"].as_str() {
                told.push((disk.journaled(), Told::Operation(id.to_owned())));
            }
            let path = format!("/todos/app/{slug}/release");
            let released = daemon.client.post(&path, &json!({ "token": token })).await.expect("answers");
            assert!(released.status < 300, "{}", released.text());
        }
    }
    let journal = disk.journal();
    let mut asked = 0;
    for loss in 0..losses {
        // Every second one early, where the ledger is made and opened.
        let among = if loss % 2 == 0 { journal.len() } else { journal.len().min(120) };
        let count = whole(dice.below(among as u64 + 1));
        let after = tempfile::tempdir().expect("temp dir");
        after_power_loss(&journal[..count], &mut dice, after.path());
        let path = after.path().join("ledger.db");
        let store = Store::open(&path).unwrap_or_else(|error| panic!("loss {loss} after {count} changes: {error}"));
        let log = replay(&store).await;
        let decided = store.decided().await.expect("reads");
        let end = count.checked_sub(1).map_or(0, |last| journal[last].end);
        for (_, told) in told.iter().filter(|(by, _)| *by <= end) {
            let there = match told {
                Told::Granted(todo, token) => log.granted.contains(&(todo.clone(), *token)),
                Told::Filed(name) => decided.iter().any(|change| format!("{change:?}").contains(name)),
                Told::Operation(id) => {
                    store.operation(&OperationId::parse(id).expect("an id")).await.expect("reads").is_some()
                }
            };
            let what = match told {
                Told::Operation(what) | Told::Filed(what) | Told::Granted(what, _) => what,
            };
            assert!(there, "I1: {what} is lost by loss {loss} after {count} changes");
            asked += 1;
        }
        store.close().await;
    }
    println!("{} changes, {} acknowledged, asked for {asked} times", journal.len(), told.len());
}

/// A change the daemon has to write, and how it answers when it cannot.
async fn pause(daemon: &Client, lane: &str) -> u16 {
    let reply = daemon.post(&format!("/lanes/{lane}/pause"), &json!({ "reason": "to see" })).await.expect("answers");
    if reply.status != 200 {
        let problem = problem(&reply, 503, "store_unavailable");
        assert_eq!(problem["retryable"], true);
    }
    reply.status
}

/// What only reads, and the console.
async fn reads_go_on(daemon: &Client) {
    for path in ["/livez", "/todos", "/lanes", "/sessions", "/worktrees", "/status", "/console/"] {
        let reply = daemon.get(path).await.expect("answers");
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
}

/// Waits until changes are written again.
async fn recovers(daemon: &Client) {
    until("changes to be written again", || async { (pause(daemon, "probe").await == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_call_fails_nothing_is_acknowledged_falsely_and_the_daemon_goes_on() {
    let stride = size("TEST_IO_STRIDE", [37, 3, 1]);
    let (site, repo, disk) = site();
    let filed = AtomicU64::new(0);
    let (mut call, mut failed, mut ended) = (1 + seed(None) % stride, 0, 0);
    loop {
        disk.fail_at(call, if call.is_multiple_of(2) { FAILED } else { NO_ROOM });
        match site.try_spawn(&[&repo], &disk.vars(&FREELY)).await {
            Ok(daemon) => {
                work(&daemon.client, 1, &filed).await;
                recovers(&daemon.client).await;
                reads_go_on(&daemon.client).await;
            }
            Err(status) => {
                assert_eq!(status.code(), Some(1), "{}", site.daemon_log());
                ended += 1;
            }
        }
        if disk.failed() == 0 {
            break;
        }
        failed += 1;
        call += stride;
    }
    println!("{failed} runs with a call that failed, {ended} of them did not start; a clean one before call {call}");
    disk.well();
    all_kept(&site, &repo).await;
    // And when it is not one call but every so many, while it serves.
    let mut daemon = site.spawn_with(&[&repo], &disk.vars(&FREELY)).await;
    for every in [1, 2, 3, 5, 7] {
        disk.fail_every(every, FAILED);
        work(&daemon.client, 1, &filed).await;
        reads_go_on(&daemon.client).await;
        disk.well();
        recovers(&daemon.client).await;
    }
    daemon.kill();
    all_kept(&site, &repo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_what_is_to_be_written_and_nothing_else_and_goes_on_when_there_is_room() {
    let cycles = size("TEST_FULL_CYCLES", [4, 50, 50]);
    let (site, repo, disk) = site();
    let filed = AtomicU64::new(0);
    let mut daemon = site.spawn_with(&[&repo], &disk.vars(&FREELY)).await;
    for cycle in 0..cycles {
        disk.full([LEDGER, LEDGER | LOGS | REST][whole(cycle % 2)]);
        until("a change to be refused", || async { (pause(&daemon.client, "other").await == 503).then_some(()) }).await;
        work(&daemon.client, 1, &filed).await;
        reads_go_on(&daemon.client).await;
        let ready = daemon.client.get("/readyz").await.expect("answers");
        assert!(ready.status == 200 || ready.status == 503, "{}", ready.text());
        disk.well();
        recovers(&daemon.client).await;
        work(&daemon.client, 1, &filed).await;
        site.promises.is_known(&daemon.client).await;
    }
    // Where logs of runs are written: what cannot be had is that run alone.
    let logs = site.path("data/logs/operations");
    let aside = site.path("aside");
    let _ = std::fs::rename(&logs, &aside);
    std::fs::create_dir_all(site.path("data/logs")).expect("makes");
    std::fs::write(&logs, "no directory").expect("writes");
    let new = json!({ "slug": "without-logs", "brief": "do it" });
    assert!(post(&daemon.client, "/todos/app", &new).await.is_some(), "a todo that is filed needs no log");
    let body = json!({ "lane": "builder", "slug": "without-logs", "wait_ms": 45_000 });
    let refused = daemon.client.post("/todos/work", &body).await.expect("answers");
    let refused = problem(&refused, 503, "store_unavailable");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("log")), "{refused}");
    assert_eq!(refused["retryable"], true);
    recovers(&daemon.client).await;
    reads_go_on(&daemon.client).await;
    std::fs::remove_file(&logs).expect("removes");
    until("the todo to be had", || async {
        let reply = daemon.client.post("/todos/work", &body).await.expect("answers");
        (reply.status == 200).then_some(())
    })
    .await;
    daemon.kill();
    all_kept(&site, &repo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else_in_the_data_directory_can_be_refused_and_the_daemon_still_serves() {
    let (site, repo, disk) = site();
    drop(site.spawn_with(&[&repo], &disk.vars(&[])).await);
    disk.full(LOGS | REST);
    // It cannot write down where it is; the socket is where it always was.
    let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(site.path("data"))
        .arg("--repo")
        .arg(&repo.path);
    command.envs(disk.vars(&[])).env("SLUGLINE_LOG_LEVEL", "warn").stdin(Stdio::null());
    let log = File::create(site.path("daemon.log")).expect("makes");
    let child = command.current_dir(site.dir.path()).stderr(log).spawn().expect("starts");
    let daemon = Spawned { child, client: site.noting(Client::unix(&site.path("data/slugline.sock"))) };
    until("the daemon to serve", || async { daemon.client.get("/livez").await.ok() }).await;
    assert!(!site.path("data/address").exists(), "the address of another daemon");
    // Nor has a run a place for its log, as where there is no room for another name.
    let logs = site.path("data/logs/operations");
    let _ = std::fs::rename(&logs, site.path("aside"));
    std::fs::create_dir_all(site.path("data/logs")).expect("makes");
    std::fs::write(&logs, "no directory").expect("writes");
    let body = json!({ "lane": "builder", "slug": SLUGS[0], "wait_ms": 45_000 });
    let refused = problem(&daemon.client.post("/todos/work", &body).await.expect("answers"), 503, "store_unavailable");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("log")), "{refused}");
    assert_eq!(refused["retryable"], true);
    let dump = daemon.client.post("/debug/hang-dump", &json!({})).await.expect("answers");
    assert!(dump.status == 200 || dump.json()["retryable"] == true, "{}", dump.text());
    recovers(&daemon.client).await;
    reads_go_on(&daemon.client).await;
    std::fs::remove_file(&logs).expect("removes");
    until("the todo to be had", || async {
        let reply = daemon.client.post("/todos/work", &body).await.expect("answers");
        (reply.status == 200).then_some(())
    })
    .await;
    drop(daemon);
    all_kept(&site, &repo).await;
}

/// A small disk in the daemon's own name space, seen from outside.
struct Mounted(PathBuf);

impl Mounted {
    /// Leaves no room for a byte or a name.
    fn fill(&self) {
        let dir = self.0.join("filled");
        std::fs::create_dir(&dir).expect("makes");
        let mut names = (0..).map(|number| File::create(dir.join(format!("{number}"))));
        let full = names.find_map(Result::err);
        let mut first = File::options().write(true).open(dir.join("0")).expect("opens");
        let error =
            std::iter::repeat_with(|| std::io::Write::write_all(&mut first, &[7; 1 << 16])).find_map(Result::err);
        println!("{}: {full:?}, {error:?}", self.0.display());
    }

    fn empty(&self) {
        std::fs::remove_dir_all(self.0.join("filled")).expect("removes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disks_under_worktrees_and_logs_are_named_lose_nothing_and_all_goes_on_when_there_is_room() {
    let cycles = whole(size("TEST_FULL_CYCLES", [4, 50, 50]));
    let site = Site::new();
    let places = ["worktrees", "logs"].map(|name| site.path("data").join(name));
    let own = ["--user", "--map-root-user", "--mount", "sh", "-euc"];
    let mounts = "for at in \"$1\" \"$2\"; do mkdir -p \"$at\"; mount -t tmpfs -o size=64m,nr_inodes=20000,mode=0700 tmpfs \"$at\"; done; shift 2; exec \"$@\"";
    let with_disks = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(own).args([mounts, "sh"]).args(&places).arg(program);
        command
    };
    let tried = with_disks("true").output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        println!("not shown: a small disk cannot be mounted here ({tried:?})");
        return;
    }
    let slugs: Vec<String> = (0..cycles).map(|cycle| format!("cycle-{cycle}")).chain(["kept".to_owned()]).collect();
    let repo = site.app(&slugs.iter().map(String::as_str).collect::<Vec<_>>(), "");
    let data = site.path("data");
    let mut command = with_disks(env!("CARGO_BIN_EXE_slugline"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).arg("--repo").arg(&repo.path);
    command.envs(vars(&FREELY)).env("SLUGLINE_LOG_LEVEL", "warn").stdin(Stdio::null());
    let log = File::create(site.path("daemon.log")).expect("makes");
    let child = command.current_dir(site.dir.path()).stderr(log).spawn().expect("starts");
    let read = |name: &str| std::fs::read_to_string(data.join(name)).ok().map(|text| text.trim().to_owned());
    let address = until("the daemon to write its address", || async { read("address")?.parse().ok() }).await;
    let daemon = Spawned { child, client: site.noting(Client::tcp(address, read("token"))) };
    // The same disks, from here.
    let root = PathBuf::from(format!("/proc/{}/root", daemon.child.id()));
    let disks = places.each_ref().map(|place| Mounted(root.join(place.strip_prefix("/").expect("absolute"))));
    let client = &daemon.client;
    let ask = async |slug: &str| {
        let body = json!({ "lane": "builder", "slug": slug, "worker": slug, "wait_ms": 45_000 });
        client.post("/todos/work", &body).await.expect("answers")
    };
    let had = async |slug: &str| {
        until(&format!("{slug} to be had"), || async { (ask(slug).await.status == 200).then_some(()) }).await;
    };
    had("kept").await;
    let kept = disks[0].0.join("app/kept");
    write(&kept.join("committed.txt"), "committed\n");
    // git goes by the real path of where it is, which is there in the daemon's name space alone.
    let git_inside = |args: &[&str]| {
        let mut command = Command::new("nsenter");
        let pid = daemon.child.id().to_string();
        command.args(["--target", &pid, "--user", "--preserve-credentials", "--mount"]);
        let at = places[0].join("app/kept");
        let inner = git_command(site.dir.path(), &[]);
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).arg("git").arg("-C").arg(at);
        let output = command.args(args).output().expect("starts");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    git_inside(&["add", "--all"]);
    git_inside(&["commit", "--quiet", "--message", "work"]);
    for cycle in 0..cycles {
        // Something to bring in, and something to be made.
        repo.write(&format!("base-{cycle}.txt"), &"of the base\n".repeat(1_000));
        repo.commit("moves");
        let full: &[Mounted] = [&disks[..1], &disks[1..], &disks[..]][cycle % 3];
        full.iter().for_each(Mounted::fill);
        for slug in ["kept", &slugs[cycle]] {
            let refused = problem(&ask(slug).await, 503, "store_unavailable");
            assert_eq!(refused["retryable"], true, "{refused}");
            assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("make room")), "{refused}");
        }
        reads_go_on(client).await;
        recovers(client).await;
        full.iter().for_each(Mounted::empty);
        for slug in ["kept", &slugs[cycle]] {
            had(slug).await;
            assert!(disks[0].0.join("app").join(slug).join(format!("base-{cycle}.txt")).exists(), "{slug}");
        }
        assert_eq!(std::fs::read_to_string(kept.join("committed.txt")).expect("I7"), "committed\n");
        assert_eq!(git_inside(&["status", "--porcelain"]), "", "nothing half brought in is left");
        site.promises.is_known(client).await;
    }
    daemon.kill_with_all_kept().await;
    no_panic(&site);
}

/// A daemon that is to end by itself, its output, and how long it took.
fn refused(site: &Site, repo: &Repo) -> (Option<i32>, String, Duration) {
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_slugline"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(site.path("data"))
        .arg("--repo")
        .arg(&repo.path)
        .stdin(Stdio::null())
        .current_dir(site.dir.path())
        .output()
        .expect("starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_within_a_second_and_what_a_killed_one_left_is_in_nobodys_way() {
    let (site, repo, _) = site();
    let mut first = site.spawn(&[&repo]).await;
    let address = std::fs::read(site.path("data/address")).expect("reads");
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let (code, said, took) = refused(&site, &repo);
        assert!(code == Some(1) && said.contains("in use by another daemon"), "{code:?}: {said}");
        quickest = quickest.min(took);
        work(&first.client, 1, &AtomicU64::new(quickest.as_nanos() as u64)).await;
        assert_eq!(
            std::fs::read(site.path("data/address")).expect("is there"),
            address,
            "the first is not to be found"
        );
    }
    assert!(quickest <= Duration::from_secs(1), "{quickest:?}");
    first.kill();
    // Its address, its socket and its notes are still there.
    all_kept(&site, &repo).await;
}

/// Every record of a ledger, table by table.
fn dump(path: &Path) -> BTreeMap<String, Vec<String>> {
    let db = rusqlite::Connection::open(path).expect("opens");
    let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let names: Vec<String> =
        db.prepare(names).expect("reads").query_map([], |row| row.get(0)).expect("reads").flatten().collect();
    let rows = |name: String| {
        let mut statement = db.prepare(&format!("SELECT * FROM {name} ORDER BY 1, 2")).expect("reads");
        let columns = statement.column_count();
        let shown = statement.query_map([], |row| {
            (0..columns).map(|at| row.get::<_, rusqlite::types::Value>(at).map(|value| format!("{value:?} "))).collect()
        });
        let shown: Vec<String> = shown.expect("reads").map(|row| row.expect("reads")).collect();
        (name, shown)
    };
    names.into_iter().map(rows).collect()
}

/// A ledger as a killed daemon leaves it, with most of it in the write-ahead log or none.
async fn left_by_a_killed_daemon() -> (Site, Vec<(&'static str, Vec<u8>)>) {
    let (site, repo, _) = site();
    let filed = AtomicU64::new(0);
    let idle = [&FREELY[..], &[("SLUGLINE_JOBS_FETCH_EVERY_MS", "0")]].concat();
    // The first is stopped in order, so that its part is in the database itself.
    let daemon = site.spawn_with(&[&repo], &vars(&idle)).await;
    work(&daemon.client, 3, &filed).await;
    let pid = rustix::process::Pid::from_raw(daemon.child.id().try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("asks");
    let mut daemon = daemon;
    daemon.child.wait().expect("ends");
    let mut daemon = site.spawn_with(&[&repo], &vars(&idle)).await;
    work(&daemon.client, 2, &filed).await;
    daemon.kill();
    let files = ["ledger.db", "ledger.db-wal", "ledger.mark"];
    let read = |name: &&'static str| (*name, std::fs::read(site.path("data").join(name)).expect("reads"));
    let files = files.iter().map(read).collect();
    (site, files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_with_a_turned_bit_or_a_lost_end_is_refused_or_says_what_it_said() {
    let mut dice = Dice(seed(None));
    let faults = size("TEST_FLIPS", [1_000, 10_000, 100_000]);
    let (_site, files) = left_by_a_killed_daemon().await;
    let place = tempfile::tempdir().expect("temp dir");
    let path = place.path().join("ledger.db");
    let put = |files: &[(&str, Vec<u8>)]| {
        for entry in std::fs::read_dir(place.path()).expect("reads").flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        files.iter().for_each(|(name, bytes)| std::fs::write(place.path().join(name), bytes).expect("writes"));
    };
    put(&files);
    Store::open(&path).expect("opens").close().await;
    let all = dump(&path);
    let (mut opened, mut said) = (0, BTreeMap::<String, usize>::new());
    for fault in 0..faults {
        let mut damaged = files.clone();
        let (name, bytes) = &mut damaged[[0, 0, 0, 1, 1, 2][whole(dice.below(6))]];
        let at = whole(dice.below(bytes.len() as u64));
        let what = match dice.below(10) {
            0 => {
                bytes.truncate(at);
                format!("{name} ends at {at}")
            }
            1 => {
                bytes.clear();
                format!("{name} is empty")
            }
            _ => {
                let bit = dice.below(8);
                bytes[at] ^= 1 << bit;
                format!("bit {bit} of byte {at} of {name}")
            }
        };
        put(&damaged);
        match Store::open(&path) {
            Ok(store) => {
                store.close().await;
                assert!(dump(&path) == all, "fault {fault}, {what}: it opens and says something else");
                opened += 1;
            }
            Err(StoreError::Unusable(why)) => {
                let words = why.what.split(['(', ',']).next().unwrap_or_default();
                *said.entry(words.chars().filter(|c| !c.is_ascii_digit()).collect()).or_default() += 1;
            }
            Err(error) => panic!("fault {fault}, {what}: {error}"),
        }
    }
    println!("{opened} of {faults} changed nothing; the others: {said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_meet_no_busy_ledger_and_the_log_stays_bounded_while_somebody_reads_all_the_time() {
    let seconds = size("TEST_READER_SECONDS", [3, 60, 3_600]);
    let dir = tempfile::tempdir().expect("temp dir");
    let store = Arc::new(Store::open(&dir.path().join("ledger.db")).expect("opens"));
    let over = Arc::new(AtomicBool::new(false));
    let readers = (0..4).map(|_| {
        let (store, over) = (store.clone(), over.clone());
        tokio::spawn(async move {
            let mut reads = 0;
            while !over.load(Ordering::SeqCst) {
                store.events(0, 50_000).await.expect("reads");
                reads += 1;
            }
            reads
        })
    });
    let readers: Vec<_> = readers.collect();
    let writers = (0..64).map(|writer| {
        let (store, over) = (store.clone(), over.clone());
        tokio::spawn(async move {
            let mut took = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let data = json!({ "of": writer, "text": "x".repeat(1_000) });
                let at = slugline::model::time::Timestamp::from_ms(1);
                let kind = EventKind::JobUpdated;
                let begun = Instant::now();
                store
                    .commit(vec![Write::Noted { kind, about: "fetch".to_owned(), data, at }])
                    .await
                    .expect("is never busy");
                took.push(begun.elapsed());
            }
            took
        })
    });
    let writers: Vec<_> = writers.collect();
    let (begun, mut highest) = (Instant::now(), 0);
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    while begun.elapsed() < Duration::from_secs(seconds) {
        beat.tick().await;
        highest = highest.max(store.stats().wal_bytes);
    }
    over.store(true, Ordering::SeqCst);
    let mut took: Vec<Duration> = Vec::new();
    for writer in writers {
        took.extend(writer.await.expect("writes"));
    }
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.expect("reads");
    }
    took.sort();
    println!(
        "{} commits, the slowest hundredth took {:?} and more, {reads} reads, at most {highest} bytes of log",
        took.len(),
        took[took.len() * 99 / 100]
    );
    assert!(highest <= 64 << 20, "{highest}");
    store.close().await;
}

/// A ledger the version before this one wrote.
fn of_the_version_before(into: &Path) {
    let packed =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ledger-format-4.db.gz")).expect("reads");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("unpacks");
    std::fs::create_dir_all(into.parent().expect("has one")).expect("makes");
    std::fs::write(into, bytes).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_the_version_before_opens_whole_also_when_each_call_of_its_migration_was_a_death() {
    let stride = size("TEST_MIGRATION_STRIDE", [9, 2, 1]);
    let (mut call, mut deaths) = (1, 0);
    let reference = Site::new();
    let path = reference.path("data/ledger.db");
    of_the_version_before(&path);
    let without_sums = |path: &Path| -> BTreeMap<String, usize> {
        dump(path).into_iter().map(|(name, rows)| (name, rows.len())).collect()
    };
    let before = without_sums(&path);
    loop {
        let (site, repo, disk) = site();
        let path = site.path("data/ledger.db");
        of_the_version_before(&path);
        disk.kill_at(call, call.is_multiple_of(2));
        let died = match site.try_spawn(&[&repo], &disk.vars(&[])).await {
            Ok(mut daemon) => {
                daemon.kill();
                false
            }
            Err(_) => true,
        };
        let whole = slugline::store::check(&path).unwrap_or_else(|error| panic!("after a death at {call}: {error}"));
        assert!(matches!(whole.format, 4 | 5), "{whole}");
        let store = Store::open(&path).unwrap_or_else(|error| panic!("after a death at {call}: {error}"));
        let tokens = store.decided().await.expect("reads");
        assert!(tokens.iter().any(|change| format!("{change:?}").contains("token: 6")), "{tokens:?}");
        store.close().await;
        let after = without_sums(&path);
        assert!(before.iter().all(|(name, rows)| after[name] >= *rows), "{before:?} {after:?}");
        if !died {
            // The todos of that ledger's repository are of this one, too.
            all_kept(&site, &repo).await;
            break;
        }
        deaths += 1;
        call += stride;
    }
    println!("{deaths} deaths, a start that lives before call {call}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_gone_on_with_is_refused_by_one_clear_line_and_a_restore_goes_on() {
    let (site, repo, _) = site();
    let filed = AtomicU64::new(0);
    let ledger = site.path("data/ledger.db");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
        let output = command.args(args).arg("--data-dir").arg(site.path("data")).current_dir(site.dir.path()).output();
        let output = output.expect("starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let mut daemon = site.spawn_with(&[&repo], &vars(&FREELY)).await;
    work(&daemon.client, 2, &filed).await;
    // While it serves: a look, and a copy.
    let (code, said) = run(&["check"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["backup"]);
    assert_eq!(code, Some(0), "{said}");
    let backup = said.split(" goes to").next().expect("a path").to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&backup).expect("is there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let (code, said) = run(&["restore", &backup]);
    assert!(code == Some(1) && said.contains("in use"), "{code:?}: {said}");
    work(&daemon.client, 2, &filed).await;
    let body = json!({ "lane": "builder", "slug": "one", "wait_ms": 45_000 });
    let given = daemon.client.post("/todos/work", &body).await.expect("answers").json()["claim"]["token"].clone();
    daemon.kill();

    let kept = std::fs::read(&ledger).expect("reads");
    let newer = rusqlite::Connection::open(&ledger).expect("opens");
    newer.pragma_update(None, "user_version", 99).expect("writes");
    drop(newer);
    let (code, said, _) = refused(&site, &repo);
    assert!(code == Some(DAMAGED) && said.contains("newer version") && said.contains("slugline restore"), "{said}");
    for (what, bytes) in
        [("is empty", &b""[..]), ("is damaged", &kept[..kept.len() / 2]), ("is not a Slugline", &[7; 4_096])]
    {
        std::fs::write(&ledger, bytes).expect("writes");
        let _ = std::fs::remove_file(site.path("data/ledger.db-wal"));
        let (code, said, _) = refused(&site, &repo);
        assert_eq!(code, Some(DAMAGED), "{what}: {said}");
        assert!(
            said.contains("ledger.db") && said.lines().filter(|line| line.contains("slugline: ")).count() == 1,
            "{said}"
        );
        assert_eq!(std::fs::read(&ledger).expect("reads"), bytes, "{what}: it was changed");
        let (code, said) = run(&["check"]);
        assert_eq!(code, Some(DAMAGED), "{what}: {said}");
    }
    std::fs::remove_file(&ledger).expect("removes");
    let (code, said, _) = refused(&site, &repo);
    assert!(code == Some(DAMAGED) && said.contains("is missing") && said.contains(&backup), "{code:?}: {said}");
    assert!(!ledger.exists(), "a new one was made in silence");

    let (code, said) = run(&["restore", &backup]);
    assert!(code == Some(0) && said.contains("are lost"), "{code:?}: {said}");
    assert_eq!(run(&["check"]).0, Some(0));
    let daemon = site.spawn_with(&[&repo], &vars(&FREELY)).await;
    let order = until("the todo to be had again", || async {
        let body = json!({ "lane": "builder", "slug": "one", "worker": "another", "wait_ms": 45_000 });
        let reply = daemon.client.post("/todos/work", &body).await.expect("answers");
        (reply.status == 200).then(|| reply.json())
    })
    .await;
    let again = order["claim"]["token"].as_u64().expect("a token");
    assert!(again > given.as_u64().expect("a token"), "I2: {again} after {given}");
    let late = json!({ "token": given, "outcome": "done" });
    let late = daemon.client.post("/todos/app/one/complete", &late).await.expect("answers");
    problem(&late, 409, "stale_token");
    // What came after the backup is lost and was said to be; of what is there all holds.
    let promises = Promises::of(&site.path("data"));
    promises.kept_by(&daemon.client).await;
    drop(daemon);
    promises.kept_after().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_and_a_restore_that_die_at_any_call_leave_no_half_ledger_and_can_be_done_again() {
    let stride = size("TEST_RESTORE_STRIDE", [11, 2, 1]);
    let (site, repo, disk) = site();
    let filed = AtomicU64::new(0);
    let daemon = site.spawn_with(&[&repo], &vars(&FREELY)).await;
    work(&daemon.client, 2, &filed).await;
    drop(daemon);
    let (ledger, backups) = (site.path("data/ledger.db"), site.path("data/backups"));
    // Whether it lived to its end.
    let lives = |call: u64, args: &[&str]| {
        disk.kill_at(call, call.is_multiple_of(2));
        let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
        command.args(args).arg("--data-dir").arg(site.path("data")).current_dir(site.dir.path());
        let status = command.envs(disk.vars(&[])).stdout(Stdio::null()).status().expect("starts");
        assert!(status.success() || status.code().is_none(), "{args:?}: {status}");
        status.success()
    };
    let mut call = 1;
    let backup = loop {
        let lived = lives(call, &["backup"]);
        slugline::store::check(&ledger).unwrap_or_else(|error| panic!("after a death at {call}: {error}"));
        let named = std::fs::read_dir(&backups).into_iter().flatten().flatten().map(|entry| entry.path());
        let named: Vec<PathBuf> = named.filter(|path| path.extension().is_some_and(|of| of == "db")).collect();
        for path in &named {
            slugline::store::check(path).unwrap_or_else(|error| panic!("after a death at {call}: {error}"));
        }
        if let (true, Some(backup)) = (lived, named.into_iter().find(|path| !path.ends_with("newest.db"))) {
            break backup;
        }
        call += stride;
    };
    println!("a backup lives before call {call}");
    let (mut call, mut missing) = (1, 0);
    while !lives(call, &["restore", backup.to_str().expect("utf-8")]) {
        match slugline::store::check(&ledger) {
            Ok(_) => {}
            Err(StoreError::Unusable(why)) if why.what.contains("is missing") => missing += 1,
            Err(error) => panic!("after a death at {call}: {error}"),
        }
        call += stride;
    }
    println!("a restore lives before call {call}; {missing} deaths left no ledger, and said so");
    all_kept(&site, &repo).await;
}
