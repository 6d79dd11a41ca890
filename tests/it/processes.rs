//! What a repository's commands may do to the daemon: nothing. Deaths, timeouts, floods of output, limits; on a daemon in a
//! process of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slugline::cli::client::{Client, Reply};
use slugline::process::MARK_VARIABLE;
use slugline::runtime::run_mark;

use crate::harness::{PATIENCE, Repo, Site, Spawned, order, problem, until};
use crate::marked::marked;
use crate::scale::size;

/// Prepare trees that are on when the daemon is killed.
const TREES: [u64; 3] = [12, 50, 50];
/// Megabytes a prepare prints on each of standard output and error.
const PRINTED_MB: [u64; 3] = [64, 1_024, 1_024];
/// By how much the daemon's memory may grow meanwhile, in bytes.
const GROWN_MAX: u64 = 32 << 20;
/// How long the next daemon may take to end what was left.
const SWEPT: Duration = Duration::from_secs(5);

fn prepare(command: &str, timeout_ms: u64) -> String {
    format!("[prepare]\ncommand = {}\ntimeout_ms = {timeout_ms}\n", json!(command))
}

fn slugs(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("s{number}")).collect()
}

fn app(site: &Site, slugs: &[String], settings: &str) -> Repo {
    site.app(&slugs.iter().map(String::as_str).collect::<Vec<_>>(), settings)
}

/// Live processes of runs of the site's daemons.
fn of_runs(site: &Site) -> Vec<i32> {
    let mark = format!("{MARK_VARIABLE}={}-", run_mark(&site.path("data")));
    marked(|given| given.starts_with(mark.as_bytes()))
}

/// Their supervisors.
fn supervisors(site: &Site) -> Vec<i32> {
    let mark = format!("SLUGLINE_RUN_HELPER={}-", run_mark(&site.path("data")));
    marked(|given| given.starts_with(mark.as_bytes()))
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("an id");
    // One that is gone is what was wanted.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

async fn ask(daemon: &Spawned, slug: &str, wait_ms: u64) -> Reply {
    // A lane each, so that no failure of one stands in the way of another.
    let body = json!({ "lane": slug, "slug": slug, "wait_ms": wait_ms });
    daemon.client.post("/todos/work", &body).await.expect("the daemon answers")
}

/// A number of the system about a process, such as `VmRSS:` in bytes.
fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_ends_every_tree_a_killed_one_left_also_where_the_supervisors_are_killed() {
    let trees = size("TEST_TREES", TREES);
    let site = Site::new();
    let up = site.path("up");
    std::fs::create_dir_all(&up).expect("makes");
    // Deaf, in a session of its own, and stopped: each tree has one of each.
    let command = format!(
        "test -e {0}/fine && exit 0; trap '' TERM; setsid sh -c 'trap \"\" TERM; kill -STOP $$' & (sleep 600 &); : > {0}/up/$SLUGLINE_SLUG; sleep 600; sleep 600",
        site.path("").display()
    );
    let names = slugs(trees);
    let repo = app(&site, &names, &prepare(&command, 600_000));
    let vars = [("SLUGLINE_RUNS_MAX_PARALLEL_COMMANDS", PathBuf::from("64"))];
    for supervisors_too in [true, false] {
        let mut daemon = site.spawn_with(&[&repo], &vars).await;
        for slug in &names {
            ask(&daemon, slug, 0).await;
        }
        let all_up = || async { (std::fs::read_dir(&up).expect("reads").count() == names.len()).then_some(()) };
        until("every tree to be up", all_up).await;
        daemon.kill();
        if supervisors_too {
            // Stopped first, so that none of them can act on the daemon's death or on another one's.
            supervisors(&site).into_iter().for_each(kill);
            assert!(!of_runs(&site).is_empty(), "nothing was left, so this shows nothing");
        }
        let since = Instant::now();
        let next = site.spawn_with(&[&repo], &vars).await;
        let took = since.elapsed();
        println!("{trees} trees, supervisors killed: {supervisors_too}: the next daemon served after {took:?}");
        // It serves only after its sweep; a supervisor that lives has its own grace.
        until("the last process of the old runs to end", || async { of_runs(&site).is_empty().then_some(()) }).await;
        println!("nothing was left after {:?}", since.elapsed());
        if supervisors_too {
            assert!(took < SWEPT * 2, "the start took {took:?}");
        }
        assert_eq!(supervisors(&site), Vec::<i32>::new());
        for slug in &names {
            std::fs::remove_file(up.join(slug)).expect("was up");
        }
        site.promises.is_known(&next.client).await;
        drop(next);
    }
    std::fs::write(site.path("fine"), "").expect("writes");
    site.spawn(&[&repo]).await.kill_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cleared_its_environment_and_lost_supervisor_and_daemon_is_ended_by_the_next_one() {
    let site = Site::new();
    let dir = site.path("");
    // In a session of its own, with nothing of its environment, and its parent gone.
    let command = format!(
        "test -e {0}/fine && exit 0; (env -i setsid /bin/sh -c 'trap \"\" TERM; echo $$ > {0}/pid.part; mv {0}/pid.part {0}/pid;          while :; do sleep 1; done' &); sleep 600",
        dir.display()
    );
    let repo = site.app(&["fix"], &prepare(&command, 600_000));
    let mut daemon = site.spawn(&[&repo]).await;
    ask(&daemon, "fix", 0).await;
    let pid = || std::fs::read_to_string(dir.join("pid")).ok()?.trim().parse::<u32>().ok();
    let escaped = until("it to be on", || async { pid() }).await;
    let groups = std::fs::read_to_string(format!("/proc/{escaped}/cgroup")).expect("lives");
    let born = slugline::process::start_time(escaped).expect("lives");
    daemon.kill();
    supervisors(&site).into_iter().for_each(kill);
    assert_eq!(
        slugline::process::start_time(escaped),
        Some(born),
        "it ended with its supervisor, so this shows nothing"
    );
    let next = site.spawn(&[&repo]).await;
    if groups.contains(&slugline::runtime::run_mark(&site.path("data"))) {
        until("it to end", || async { slugline::process::start_time(escaped).is_none().then_some(()) }).await;
    } else {
        println!("not shown: no control group can be made here ({groups})");
        kill(escaped.try_into().expect("small"));
    }
    std::fs::write(dir.join("fine"), "").expect("writes");
    next.kill_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_does_not_listen_is_over_in_time_and_called_a_timeout_and_never_a_failure() {
    let site = Site::new();
    let command = "trap '' TERM INT HUP; setsid sleep 600 & sleep 600; sleep 600; while :; do sleep 600; done";
    let repo = site.app(&["fix"], &prepare(command, 1_000));
    let daemon = site.spawn(&[&repo]).await;
    let since = Instant::now();
    let late = problem(&ask(&daemon, "fix", 45_000).await, 504, "deadline_exceeded");
    println!("over {:?} after it was asked for", since.elapsed());
    assert!(since.elapsed() < PATIENCE / 2, "{late}");
    assert_eq!(of_runs(&site), Vec::<i32>::new());
    let metrics = daemon.client.get("/metrics").await.expect("answers").text();
    let count = |metric: &str, wanted: &[&str]| {
        let lines =
            metrics.lines().filter(|line| line.starts_with(metric) && wanted.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let phases = |outcome: &str| {
        count("slugline_phase_duration_seconds_count", &["phase=\"prepare\"", &format!("outcome=\"{outcome}\"")])
    };
    assert_eq!((phases("timeout"), phases("failure"), phases("success")), (1.0, 0.0, 0.0), "{metrics}");
    let exits = |result: &str| {
        count("slugline_subprocess_exits_total", &["phase=\"prepare\"", &format!("result=\"{result}\"")])
    };
    assert_eq!((exits("timeout"), exits("nonzero"), exits("killed")), (1.0, 0.0, 0.0), "{metrics}");
    daemon.kill_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_costs_the_daemon_nothing_and_its_log_keeps_both_ends() {
    let megabytes = size("TEST_OUTPUT_MB", PRINTED_MB);
    let site = Site::new();
    // One line that never ends, of what is no text: bytes that are no UTF-8, NULs, escapes, and what a page must not run.
    let bytes = megabytes << 20;
    let command = format!(
        "printf 'the beginning'; test $SLUGLINE_SLUG = small && exit 3; poison='\\377\\376\\000\\033[2J\\033]0;owned\\007<script>alert(1)</script>'; \
         flood() {{ while :; do printf \"$poison%01000d\" 0; done | head -c 1048576 > {0}/block.$1; \
         i=0; while [ $i -lt {megabytes} ]; do cat {0}/block.$1; i=$((i+1)); done; }}; \
         flood out & flood err >&2 & wait; printf 'the <b>end</b>'; exit 3",
        site.path("").display()
    );
    let repo = site.app(&["fix", "small"], &prepare(&command, 600_000));
    // Where the machine is busy a thread may be late, and finding out by name where it was takes tens of megabytes.
    let daemon = site.spawn_with(&[&repo], &[("SLUGLINE_WATCHDOG_STACKS", "false".into())]).await;
    let pid = daemon.child.id();
    // What the first failure of a daemon costs, whatever is printed, is not asked for here; nor what showing a log costs.
    let small = problem(&ask(&daemon, "small", 45_000).await, 422, "prepare_failed");
    let log = format!("/operations/{}/log", small["operation"].as_str().expect("an id"));
    assert_eq!(daemon.client.get(&log).await.expect("is answered").text(), "the beginning");
    let before = status_bytes(pid, "VmRSS:");
    let accepted = ask(&daemon, "fix", 0).await.json();
    let id = accepted["id"].as_str().or(accepted["operation"].as_str()).expect("an id").to_owned();
    // Somebody follows the log all the while, and others ask.
    let follower = daemon.client.clone();
    let log = format!("/operations/{id}/log");
    let following = tokio::spawn(async move { follower.get(&log).await });
    let mut slowest = Duration::ZERO;
    let ended = until("the operation to end", || async {
        let operation = daemon.client.get(&format!("/operations/{id}")).await.expect("answers").json();
        (operation["state"] == "failed").then_some(operation)
    });
    let asking = async {
        loop {
            let since = Instant::now();
            daemon.client.get("/readyz").await.expect("the daemon answers");
            slowest = slowest.max(since.elapsed());
            tokio::task::yield_now().await;
        }
    };
    let operation: Value = tokio::select! { ended = ended => ended, () = asking => unreachable!("asks for ever") };
    let peak = status_bytes(pid, "VmHWM:");
    println!(
        "{megabytes} MB on each of both: memory {} KiB above {} KiB, slowest answer {slowest:?}",
        peak.saturating_sub(before) >> 10,
        before >> 10
    );
    assert!(peak < before + GROWN_MAX, "the daemon grew from {before} to {peak}");
    let failed = &operation["problem"];
    assert_eq!((failed["code"].as_str(), failed["exit_code"].as_i64()), (Some("prepare_failed"), Some(3)), "{failed}");
    let tail = failed["tail"].as_str().expect("a tail");
    assert!(tail.ends_with("the <b>end</b>") && tail.len() <= 8 << 10, "{tail:?}");
    assert!(tail.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()), "{tail:?}");
    let path = site.path(&format!("data/logs/operations/{id}.log"));
    let length = path.metadata().expect("a log").len();
    let log = std::fs::read(&path).expect("reads");
    assert!(length < (64 << 20) + (1 << 20), "the log has {length} bytes");
    assert!(log.starts_with(b"the beginning") && log.ends_with(b"the <b>end</b>"));
    if 2 * bytes > 64 << 20 {
        let (tail, said) = (log.len() - (1 << 20), "bytes are left out here]\n");
        assert!(log[..tail].ends_with(said.as_bytes()), "it is not said that something is left out");
    }
    // What shows it does not take it for a page.
    let followed = following.await.expect("no panic").expect("is answered");
    assert_eq!(followed.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(followed.headers["x-content-type-options"], "nosniff");
    assert_eq!(followed.body.len() as u64, length);
    // Whoever asks again has it flood again; here it is enough that nothing is left of it.
    drop(daemon);
    site.promises.kept_after().await;
}

/// Asks for `/readyz` until the work is done, and says the slowest answer.
async fn answers_while<T>(daemon: &Spawned, work: impl Future<Output = T>) -> (T, Duration) {
    let mut slowest = Duration::ZERO;
    tokio::pin!(work);
    loop {
        let since = Instant::now();
        tokio::select! {
            done = &mut work => return (done, slowest),
            reply = daemon.client.get("/readyz") => {
                assert_eq!(reply.expect("the daemon answers").status, 200);
                slowest = slowest.max(since.elapsed());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_beyond_its_limits_is_ended_and_told_which_while_the_daemon_answers() {
    let site = Site::new();
    // Bounded by itself as well, so that a test that fails does not fill the machine.
    let bomb = "b() { [ $1 -gt 0 ] && { b $(($1-1)) & b $(($1-1)) & }; setsid sleep 60; }; b 10; wait";
    let command = format!(
        "case $SLUGLINE_SLUG in \
         memory) head -c 8589934592 /dev/zero | tail -n 1;; \
         bomb) {bomb};; \
         file) exec head -c 2000000 /dev/zero > big;; \
         files) python3 -c 'import os; [os.open(\"/dev/null\", 0) for _ in range(200)]';; \
         fine) echo fine;; esac"
    );
    let repo = site.app(&["memory", "bomb", "file", "files", "fine"], &prepare(&command, 120_000));
    let vars = [
        ("SLUGLINE_LIMITS_MEMORY_BYTES", "268435456"),
        ("SLUGLINE_LIMITS_PROCESSES", "200"),
        ("SLUGLINE_LIMITS_FILE_BYTES", "1048576"),
        ("SLUGLINE_LIMITS_OPEN_FILES", "100"),
    ];
    let vars: Vec<(&str, PathBuf)> = vars.map(|(name, value)| (name, value.into())).into();
    let daemon = site.spawn_with(&[&repo], &vars).await;
    order(&ask(&daemon, "fine", 45_000).await);
    for (slug, limit) in [
        ("memory", Some(("memory_limit", "limits.memory_bytes", "268435456"))),
        ("bomb", Some(("process_limit", "limits.processes", "200"))),
        ("file", Some(("file_limit", "limits.file_bytes", "1048576"))),
        // The system says so to the command itself.
        ("files", None),
    ] {
        let (reply, slowest) = answers_while(&daemon, ask(&daemon, slug, 45_000)).await;
        println!("{slug}: the slowest answer meanwhile took {slowest:?}");
        let refused = problem(&reply, 422, "prepare_failed");
        if let Some((name, key, number)) = limit {
            assert_eq!(
                (refused["limit"].as_str(), refused["config_key"].as_str()),
                (Some(name), Some(key)),
                "{refused}"
            );
            let detail = refused["detail"].as_str().expect("a detail");
            assert!(detail.contains(number) && detail.contains("[limits]"), "{detail}");
        }
        assert_eq!(of_runs(&site), Vec::<i32>::new(), "{slug}");
    }
    order(&ask(&daemon, "fine", 45_000).await);
    site.promises.work_in(&site.worktree("fine"));
    daemon.kill_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_the_first_process_there_is_ends_what_a_lost_supervisor_left_and_goes_on() {
    let site = Site::new();
    let alone = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let tried = Command::new("unshare").args(alone).arg("true").output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        println!("not shown: there are no namespaces to be had ({tried:?})");
        return;
    }
    let (dir, data) = (site.path(""), site.path("data"));
    let command = format!(
        "test -e {0}/fine || {{ setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' & (sleep 600 &); : > {0}/up; sleep 600; }}",
        dir.display()
    );
    let repo = site.app(&["fix"], &prepare(&command, 600_000));
    let mut started = Command::new("unshare");
    started.args(alone).arg(env!("CARGO_BIN_EXE_slugline")).args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    started.arg(&data).arg("--repo").arg(&repo.path).env("SLUGLINE_LOG_LEVEL", "warn").current_dir(&dir);
    let child = started.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let read = |name: &str| std::fs::read_to_string(data.join(name)).ok().map(|text| text.trim().to_owned());
    let address = until("the daemon to write its address", || async { read("address")?.parse().ok() }).await;
    let daemon = Spawned { child, client: site.noting(Client::tcp(address, read("token"))) };
    let accepted = ask(&daemon, "fix", 0).await.json();
    let id = accepted["id"].as_str().expect("an id").to_owned();
    until("the prepare to be on", || async { dir.join("up").exists().then_some(()) }).await;
    // What its supervisor leaves behind has nobody above it now but the daemon.
    supervisors(&site).into_iter().for_each(kill);
    until("the operation to end", || async {
        let operation = daemon.client.get(&format!("/operations/{id}")).await.expect("answers").json();
        (operation["state"] == "failed").then_some(())
    })
    .await;
    assert_eq!(of_runs(&site), Vec::<i32>::new());
    std::fs::write(dir.join("fine"), "").expect("writes");
    order(&ask(&daemon, "fix", 45_000).await);
    site.promises.work_in(&site.worktree("fix"));
    daemon.kill_with_all_kept().await;
}
