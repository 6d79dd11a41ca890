//! How the daemon is: jobs under run-locks, readiness, incidents, supervision seen from outside.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slugline::actors::faults::{Faults, Injected};
use slugline::actors::health::run_lock::{RunLock, dir as lock_dir, this_process};
use slugline::model::job::{JobName, LockNote};
use slugline::model::time::Timestamp;
use slugline::runtime::End;

use super::ear::Ear;
use super::harness::{House, Repo, Site, git, order, problem, until, write};

async fn get(house: &House, path: &str) -> Value {
    let reply = house.client.get(path).await.expect("answers");
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

async fn job(house: &House, name: &str) -> Value {
    let jobs = get(house, "/jobs").await;
    jobs.as_array().expect("a list").iter().find(|job| job["job"] == name).cloned().expect("is listed")
}

async fn criterion(house: &House, name: &str) -> Value {
    let readiness = get(house, "/readiness").await;
    let criteria = readiness["criteria"].as_array().expect("criteria").clone();
    criteria.into_iter().find(|criterion| criterion["name"] == name).expect("is listed")
}

async fn incident(house: &House, key: &str) -> Option<Value> {
    let incidents = get(house, "/incidents").await;
    incidents.as_array().expect("a list").iter().find(|incident| incident["key"] == key).cloned()
}

async fn comes_to(house: &House, verdict: &str) -> Value {
    until(&format!("readiness to be {verdict}"), || async {
        Some(get(house, "/readiness").await).filter(|readiness| readiness["verdict"] == verdict)
    })
    .await
}

/// Readiness that is evaluated often and needs little; how late timers are on a machine that runs many tests at once is not
/// what is tried here.
const QUICK: [(&str, &str); 5] = [
    ("watchdog.lag_threshold_ms", "60000"),
    ("jobs.readiness_every_ms", "50"),
    ("readiness.min_span_ms", "0"),
    ("readiness.evidence_max_ms", "60000"),
    ("readiness.max_gap_ms", "60000"),
];

fn quick(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    QUICK.iter().chain(more).copied().collect()
}

/// Holds whoever comes to a point until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn at(&self, point: &'static str) -> Faults {
        let gate = self.clone();
        Faults::at_points(move |at| {
            if at == point {
                gate.wait();
            }
        })
    }

    fn wait(&self) {
        let (open, opened) = &*self.0;
        let mut is_open = open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*is_open {
            is_open = opened.wait(is_open).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_is_listed_as_a_run_lock_with_owner_elapsed_and_budget() {
    let (site, gate) = (Site::new(), Gate::default());
    let repo = site.app(&[], "");
    let settings = [("jobs.log_retention_budget_ms", "60000")];
    let house = site.start_with(&[&repo], &settings, gate.at("job.aside")).await;
    let status = until("the job to run", || async {
        let status = get(&house, "/status").await;
        let locks = status["run_locks"].as_array()?.clone();
        locks.iter().any(|lock| lock["job"] == "log_retention").then_some(status)
    })
    .await;
    let locks = status["run_locks"].as_array().expect("a list");
    assert_eq!(status["run_locks_count"], json!(locks.len()));
    let lock = locks.iter().find(|lock| lock["job"] == "log_retention").expect("is listed");
    assert_eq!(lock["owner"], serde_json::to_value(this_process()).expect("writes"));
    assert_eq!(
        (&lock["budget_ms"], &lock["over_budget"], &lock["hung"]),
        (&json!(60_000), &json!(false), &json!(false))
    );
    assert!(lock["elapsed_ms"].is_u64() && lock["started_at"].is_string(), "{lock}");
    gate.open();
    until("the run-lock to be given back", || async {
        let locks = get(&house, "/status").await["run_locks"].clone();
        (!locks.to_string().contains("log_retention")).then_some(())
    })
    .await;
    assert_eq!(job(&house, "log_retention").await["result"], "ok");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_ended_stays_in_sight_until_it_is_gone_and_runs_no_second_time() {
    let (site, gate) = (Site::new(), Gate::default());
    let repo = site.app(&["beside"], "");
    let settings = [
        ("jobs.dump_retention_budget_ms", "50"),
        ("jobs.dump_retention_every_ms", "100"),
        ("jobs.log_retention_every_ms", "0"),
        ("jobs.worktree_prune_every_ms", "0"),
        ("jobs.self_heal_every_ms", "0"),
        ("jobs.readiness_every_ms", "50"),
        ("readiness.min_span_ms", "0"),
    ];
    let house = site.start_with(&[&repo], &settings, gate.at("job.aside")).await;
    house.begun("beside").await;
    // Far beyond three budgets: over it, told to end, and still there.
    let hung = until("the job to be told to end", || async {
        Some(job(&house, "dump_retention").await).filter(|job| job["running"]["hung"] == true && job["hung"] == 1)
    })
    .await;
    assert_eq!((&hung["running"]["over_budget"], &hung["result"]), (&json!(true), &json!("hung")));
    let seen = until("ten budgets to pass", || async {
        Some(job(&house, "dump_retention").await).filter(|job| job["running"]["elapsed_ms"].as_u64() > Some(500))
    })
    .await;
    assert_eq!(seen["runs"], 1, "it ran a second time while it ran: {seen}");
    assert!(get(&house, "/status").await["run_locks"].to_string().contains("dump_retention"));
    comes_to(&house, "NO_GO").await;
    assert!(
        criterion(&house, "jobs").await["detail"].as_str().is_some_and(|text| text.contains("dump_retention hangs"))
    );
    let opened = until("an incident", || async { incident(&house, "job:dump_retention").await }).await;
    assert_eq!((&opened["links"]["job"], &opened["state"]), (&json!("dump_retention"), &json!("open")));
    gate.open();
    until("it to run again", || async {
        Some(job(&house, "dump_retention").await).filter(|job| job["result"] == "ok" && job["runs"].as_u64() > Some(1))
    })
    .await;
    until("the incident to be resolved", || async {
        incident(&house, "job:dump_retention").await.filter(|incident| incident["state"] == "resolved")
    })
    .await;
    comes_to(&house, "GO").await;
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_hangs_is_ended_and_counted_and_one_that_dies_or_fails_is_run_again() {
    let site = Site::new();
    let repo = site.app(&["beside"], "");
    let order = Arc::new(Mutex::new(vec![Injected::Error, Injected::Panic, Injected::Hang]));
    let faults = Faults::in_handlers(move |kind, name, _| match (kind, name) {
        ("job", "ledger_upkeep") => {
            order.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or(Injected::Nothing)
        }
        _ => Injected::Nothing,
    });
    let settings = [("jobs.ledger_upkeep_every_ms", "100"), ("jobs.ledger_upkeep_budget_ms", "100")];
    let house = site.start_with(&[&repo], &settings, faults).await;
    house.begun("beside").await;
    let mut ear = Ear::at(&house, "?types=job.updated", None).await;
    for (result, words) in
        [("hung", "did not end within 200 ms"), ("failed", "panic"), ("failed", "made to fail"), ("ok", "bytes")]
    {
        ear.hear(&format!("{result}: {words}"), |heard| {
            let data = &heard.data["data"];
            heard.data["job"] == "ledger_upkeep"
                && data["result"] == result
                && (result != "hung" || data["hung"] == 1)
                && (words != "panic" || data["detail"].as_str().is_some_and(|text| text.contains("panic")))
                && (words != "made to fail" || data["failures_in_a_row"].as_u64() >= Some(2))
        })
        .await;
        if words == "panic" {
            // The next failure is no news, so it is no event.
            break;
        }
    }
    let is_well = |data: &Value| data["job"] == "ledger_upkeep" && data["data"]["result"] == "ok";
    ear.hear("it to be well again", |heard| is_well(&heard.data)).await;
    let view = job(&house, "ledger_upkeep").await;
    assert_eq!((&view["hung"], &view["failures_in_a_row"]), (&json!(1), &json!(0)));
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_another_process_runs_is_not_run_a_second_time_and_its_owner_is_shown() {
    let site = Site::new();
    let repo = site.app(&[], "");
    // Somebody else on the same data directory, still alive: a process of its own.
    let mut other = Command::new("sleep").arg("60").spawn().expect("starts");
    let owner = slugline::model::job::Owner {
        pid: other.id(),
        start_time: slugline::process::start_time(other.id()).expect("lives"),
        ..this_process()
    };
    let note = LockNote { job: JobName::LedgerUpkeep, owner, started_at: Timestamp::from_ms(0), budget_ms: 10 };
    let lock = RunLock::acquire(&lock_dir(&site.path("data")), &note).expect("works").expect("free");
    let house = site.start_with(&[&repo], &[("jobs.ledger_upkeep_every_ms", "100")], Faults::default()).await;
    let held = until("it to be tried", || async {
        Some(job(&house, "ledger_upkeep").await).filter(|job| job["runs"].as_u64() >= Some(2))
    })
    .await;
    assert_eq!((&held["result"], &held["failures_in_a_row"]), (&json!("held"), &json!(0)));
    let locks = get(&house, "/status").await["run_locks"].clone();
    let shown = locks.as_array().expect("a list").iter().find(|lock| lock["job"] == "ledger_upkeep").cloned();
    let shown = shown.expect("what another process runs is in sight");
    assert_eq!((&shown["owner"]["pid"], &shown["over_budget"]), (&json!(other.id()), &json!(true)));
    drop(lock);
    until("it to be run once the lock is free", || async {
        Some(job(&house, "ledger_upkeep").await).filter(|job| job["result"] == "ok")
    })
    .await;
    let _ = other.kill();
    let _ = other.wait();
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn self_heal_clears_what_the_dead_left_and_its_summary_lists_the_running_locks() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let dead = slugline::model::job::Owner { start_time: this_process().start_time + 1, ..this_process() };
    let note = LockNote { job: JobName::Fetch, owner: dead, started_at: Timestamp::from_ms(0), budget_ms: 10 };
    let dir = lock_dir(&site.path("data"));
    write(&dir.join("fetch.lock"), &serde_json::to_string(&note).expect("writes"));
    let settings = [("jobs.self_heal_every_ms", "100"), ("jobs.fetch_every_ms", "0")];
    let house = site.start_with(&[&repo], &settings, Faults::default()).await;
    assert!(!get(&house, "/status").await["run_locks"].to_string().contains("fetch"), "the dead run nothing");
    let mut cleared = false;
    let summary: Value = until("a summary", || async {
        let detail = job(&house, "self_heal").await["detail"].as_str()?.to_owned();
        serde_json::from_str(&detail).ok()
    })
    .await;
    cleared |= summary["cleared"] == json!(["fetch"]);
    let locks = summary["running_locks"].as_array().expect("a list");
    assert!(
        locks.iter().any(|lock| lock["job"] == "self_heal" && lock["owner"]["pid"] == std::process::id()),
        "{summary}"
    );
    cleared |= std::fs::metadata(dir.join("fetch.lock")).expect("is there").len() == 0;
    assert!(cleared, "{summary}");
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_fetched_from_the_remote_and_become_the_base() {
    let site = Site::new();
    let upstream = Repo::with(site.path("upstream"), &["fix"], "");
    git(site.dir.path(), &["clone", "--quiet", upstream.path.to_str().expect("text"), "app"]);
    let app = site.path("app");
    let text = format!(
        "[jobs]\nfetch_every_ms = 100\n[[repositories]]\nname = \"app\"\npath = {app:?}\nbase = \"main\"\nremote = \"origin\"\n"
    );
    let house = site.start_from(&[], &text).await;
    let first = house.order("fix").await;
    upstream.write("new.txt", "new\n");
    // What somebody planted in the shared configuration is not run by fetching.
    let canary = site.path("canary");
    for key in ["core.sshCommand", "remote.origin.uploadpack", "credential.helper", "core.gitProxy", "core.fsmonitor"] {
        git(&app, &["config", key, &format!("touch {}", canary.display())]);
    }
    let hook = app.join(".git/hooks/reference-transaction");
    write(&hook, &format!("#!/bin/sh\ntouch {}\n", canary.display()));
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("sets");
    let newest = upstream.commit("more");
    until("the base to move", || async {
        let order = house.order("fix").await;
        (order["worktree"]["base_oid"] == json!(newest)).then_some(())
    })
    .await;
    assert_ne!(first["worktree"]["base_oid"], json!(newest));
    assert!(!canary.exists(), "something planted was run");
    assert_eq!(job(&house, "fetch").await["result"], "ok");
    // A remote that is gone is a failing job that says so, and not the end of anything.
    std::fs::rename(&upstream.path, site.path("gone")).expect("moves");
    let failed = until("the fetch to fail", || async {
        Some(job(&house, "fetch").await)
            .filter(|job| job["result"] == "failed" && job["failures_in_a_row"].as_u64() >= Some(1))
    })
    .await;
    assert!(failed["detail"].as_str().is_some_and(|text| text.starts_with("app: git fetch failed")), "{failed}");
    house.order("fix").await;
    std::fs::rename(site.path("gone"), &upstream.path).expect("moves");
    until("the fetch to be well again", || async {
        Some(job(&house, "fetch").await).filter(|job| job["result"] == "ok")
    })
    .await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_evaluated_by_its_own_tick_however_often_it_is_read() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let settings = quick(&[("readiness.disk_free_min_bytes", "9000000000000000000"), ("readiness.fail_after", "5")]);
    let house = site.start_with(&[&repo], &settings, Faults::default()).await;
    // Read as fast as it goes until it has been evaluated some times: a reading is no sighting.
    let (mut reads, mut before) = (0_u32, 0);
    loop {
        let runs_before = job(&house, "readiness").await["runs"].as_u64().expect("a number");
        let disk = criterion(&house, "disk").await;
        let runs_after = job(&house, "readiness").await["runs"].as_u64().expect("a number");
        let failures = disk["consecutive_failures"].as_u64().expect("a number");
        // One more than was counted: the run that is just being ended.
        assert!((runs_before..=runs_after + 1).contains(&failures), "{failures} of {runs_before} to {runs_after}");
        assert!(failures >= before);
        assert_eq!(disk["verdict"] == "NO_GO", failures >= 5, "{disk}");
        (reads, before) = (reads + 1, failures);
        // Read more than fifty times, however long a reading takes and however often it is evaluated meanwhile.
        if failures >= 8 && reads > 50 {
            break;
        }
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_bad_sighting_never_makes_no_go() {
    let site = Site::new();
    let repo = site.app(&[], "");
    // One failing run of one job, between good ones.
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let hits = left.clone();
    let faults = Faults::in_handlers(move |kind, name, _| {
        let fails = (kind, name) == ("job", "lease_sweep") && hits.fetch_sub(1, Ordering::SeqCst) == 1;
        if fails { Injected::Error } else { Injected::Nothing }
    });
    let house = site.start_with(&[&repo], &quick(&[("jobs.lease_sweep_every_ms", "60")]), faults).await;
    comes_to(&house, "GO").await;
    // That it came to be so is told a moment after it is shown: what follows is behind it.
    let mut ear = Ear::at(&house, "?types=readiness.changed", Some(0)).await;
    ear.hear("that it is GO", |heard| heard.kind == "readiness.changed" && heard.data["data"]["verdict"] == "GO").await;
    let mut ear = Ear::at(&house, "?types=readiness.changed,job.updated", ear.last_id).await;
    left.store(1, Ordering::SeqCst);
    ear.hear("the failure", |heard| heard.data["job"] == "lease_sweep" && heard.data["data"]["result"] == "failed")
        .await;
    ear.hear("the recovery", |heard| heard.data["job"] == "lease_sweep" && heard.data["data"]["result"] == "ok").await;
    assert!(!ear.heard_before(|heard| heard.kind == "readiness.changed"), "one failure changed the verdict");
    assert_eq!(get(&house, "/readiness").await["verdict"], "GO");
    house.stop_with_all_kept().await;
}

/// The stored readiness, with its stamp moved.
fn restamp(site: &Site, by_ms: i64) {
    let file = site.path("data/readiness.json");
    let mut stored: Value = serde_json::from_slice(&std::fs::read(&file).expect("reads")).expect("is whole");
    let at: Timestamp = serde_json::from_value(stored["at"].clone()).expect("a time");
    stored["at"] = json!(at.plus_ms(by_ms));
    write(&file, &stored.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_no_go_blocks_only_while_it_is_fresh_and_live_evidence_wins() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let full = quick(&[("readiness.disk_free_min_bytes", "9000000000000000000")]);
    let house = site.start_with(&[&repo], &full, Faults::default()).await;
    comes_to(&house, "NO_GO").await;
    house.stop().await;
    // The next daemon evaluates nothing by itself, so that what it says is what was stored.
    let idle = [("jobs.readiness_every_ms", "0")];
    for (moved, verdict, stored) in
        [(-29 * 60_000, "NO_GO", true), (-2 * 60_000, "UNKNOWN", false), (3_600_000 * 10, "UNKNOWN", false)]
    {
        restamp(&site, moved);
        let house = site.start_with(&[&repo], &idle, Faults::default()).await;
        let readiness = get(&house, "/readiness").await;
        assert_eq!(readiness["verdict"], verdict, "after {moved} ms: {readiness}");
        assert_eq!(criterion(&house, "disk").await["stored"], stored);
        assert!(std::fs::read(site.path("data/readiness.json")).is_ok());
        let kept = std::fs::read(site.path("data/readiness.json")).expect("reads");
        house.stop().await;
        // What the next one is to find is what this one found.
        write(&site.path("data/readiness.json"), std::str::from_utf8(&kept).expect("text"));
    }
    for torn in ["", "{", "{\"at\":\"2026-01-01T00:00:00Z\"", "[]", "\u{0}\u{0}\u{0}"] {
        write(&site.path("data/readiness.json"), torn);
        let house = site.start_with(&[&repo], &idle, Faults::default()).await;
        assert_eq!(get(&house, "/readiness").await["verdict"], "UNKNOWN", "{torn:?}");
        house.stop().await;
    }
    std::fs::remove_file(site.path("data/readiness.json")).expect("is there");
    let house = site.start_with(&[&repo], &idle, Faults::default()).await;
    assert_eq!(get(&house, "/readiness").await["verdict"], "UNKNOWN", "nothing was stored");
    house.stop().await;
    let house = site.start_with(&[&repo], &quick(&[]), Faults::default()).await;
    comes_to(&house, "GO").await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_readiness_is_written_leaves_it_whole_or_as_it_was() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let config = site.path("slugline.toml");
    write(&config, "[jobs]\nreadiness_every_ms = 10\n[readiness]\nmin_span_ms = 0\n");
    let file = site.path("data/readiness.json");
    let part = file.with_extension("part");
    let (mut met, mut wholes) = (0, 0);
    for round in 0..12_u64 {
        // Without what was stored it is stored again at once, and at every change from then on.
        let _ = std::fs::remove_file(&file);
        let mut spawned = site.spawn_with(&[&repo], &[("SLUGLINE_CONFIG", config.clone())]).await;
        // Now at the very first write, now at a later one.
        if round % 2 == 1 {
            until("it to be stored", || async { file.exists().then_some(()) }).await;
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(40 * round) {
            if part.exists() {
                met += 1;
                break;
            }
            tokio::task::yield_now().await;
        }
        spawned.kill();
        match std::fs::read(&file) {
            Ok(bytes) => {
                wholes += 1;
                serde_json::from_slice::<Value>(&bytes).expect("what is there is whole");
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        }
    }
    assert!(wholes > 0, "it was never stored ({met} times just being written)");
    let spawned = site.spawn_with(&[&repo], &[("SLUGLINE_CONFIG", config)]).await;
    until("GO", || async {
        let readiness = spawned.client.get("/readiness").await.expect("answers").json();
        (readiness["verdict"] == "GO").then_some(())
    })
    .await;
    spawned.kill_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_incident_of_long_ago_is_recovering_and_does_not_block() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let full = quick(&[("readiness.disk_free_min_bytes", "9000000000000000000")]);
    // Fifty minutes ago.
    let house = site.start_at(&[&repo], &full, Faults::default(), -50 * 60_000).await;
    let opened = until("the incident", || async { incident(&house, "disk").await }).await;
    assert_eq!((&opened["severity"], &opened["state"]), (&json!("critical"), &json!("open")));
    assert_eq!(opened["history"].as_array().map(Vec::len), Some(1));
    comes_to(&house, "NO_GO").await;
    assert_eq!(criterion(&house, "incidents").await["verdict"], "NO_GO");
    house.stop().await;
    let idle = [("jobs.readiness_every_ms", "0")];
    let moment = -50 * 60_000;
    let house = site.start_at(&[&repo], &idle, Faults::default(), moment).await;
    assert_eq!(incident(&house, "disk").await.expect("is kept")["state"], "open", "seen a moment ago");
    house.stop().await;
    let house = site.start_with(&[&repo], &idle, Faults::default()).await;
    let status = get(&house, "/status").await;
    assert_eq!(status["incidents"][0]["state"], "recovering", "{status}");
    house.stop().await;
    // And what the next daemon sees decides: the disk is well.
    let house = site.start_with(&[&repo], &quick(&[]), Faults::default()).await;
    comes_to(&house, "GO").await;
    let over = until("its end", || async {
        incident(&house, "disk").await.filter(|incident| incident["state"] == "resolved")
    })
    .await;
    assert_eq!(over["id"], opened["id"]);
    assert!(over["resolved_at"].is_string());
    house.stop().await;
}

async fn fails(house: &House, worker: &str) {
    let order = order(&house.work(json!({ "lane": "builder", "worker": worker, "wait_ms": 45_000 })).await);
    let path = format!("/todos/app/{}/complete", order["slug"].as_str().expect("slug"));
    let body =
        json!({ "token": order["claim"]["token"], "outcome": "failed", "reason": "error: no such table: users" });
    let reply = house.client.post(&path, &body).await.expect("answers");
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_pauses_itself_is_an_incident_with_its_remediation_until_it_is_open_again() {
    let site = Site::new();
    let repo = site.app(&["a", "b", "c", "d", "e", "f"], "");
    let settings = quick(&[("attempts.backoff_min_ms", "0")]);
    let house = site.start_with(&[&repo], &settings, Faults::default()).await;
    comes_to(&house, "GO").await;
    let mut ear = Ear::at(&house, "?types=incident.updated", None).await;
    for worker in ["w1", "w2", "w3"] {
        fails(&house, worker).await;
    }
    let opened = ear.hear("the incident", |heard| heard.data["data"]["key"] == "lane:builder").await;
    assert_eq!(opened.data["data"]["links"]["lane"], "builder");
    let remedy = opened.data["data"]["links"]["remediation"].clone();
    assert!(remedy["slug"].as_str().is_some_and(|slug| slug.starts_with("mend-")), "{remedy}");
    comes_to(&house, "NO_GO").await;
    assert!(criterion(&house, "lanes").await["detail"].as_str().is_some_and(|text| text.starts_with("builder: ")));
    // Somebody takes what mends it.
    order(&house.work(json!({ "lane": "ops", "slug": remedy["slug"], "wait_ms": 45_000 })).await);
    ear.hear("somebody to work on it", |heard| heard.data["data"]["state"] == "remediating").await;
    assert_eq!(house.client.post("/lanes/builder/resume", &json!({})).await.expect("answers").status, 200);
    ear.hear("it to recover", |heard| heard.data["data"]["state"] == "recovering").await;
    comes_to(&house, "GO").await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_is_given_up_turns_readiness_and_is_an_incident() {
    let site = Site::new();
    let repo = site.app(&["fix", "beside"], "");
    let faults = Faults::in_handlers(|kind, _, message| match (kind, message) {
        ("inventory", "tick") => Injected::Error,
        _ => Injected::Nothing,
    });
    let house = site.start_with(&[&repo], &quick(&[]), faults).await;
    house.begun("beside").await;
    let view = until("the inventory to be given up", || async {
        let views = get(&house, "/actors").await;
        views.as_array()?.iter().find(|view| view["kind"] == "inventory" && view["state"] == "given_up").cloned()
    })
    .await;
    assert_eq!((&view["restarts"], &view["parent"]), (&json!(5), &json!("repository:app")));
    let reasons = view["reasons"].as_array().expect("reasons");
    assert!(
        reasons.len() == 6 && reasons.iter().all(|why| why["reason"] == "error" && why["at"].is_string()),
        "{view}"
    );
    comes_to(&house, "NO_GO").await;
    assert!(
        criterion(&house, "runtime").await["detail"]
            .as_str()
            .is_some_and(|text| text.contains("inventory app is given up"))
    );
    let opened = until("the incident", || async { incident(&house, "actor:inventory:app").await }).await;
    assert_eq!((&opened["severity"], &opened["links"]["actor"]), (&json!("critical"), &json!("inventory:app")));
    house.order("fix").await;
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slugs_actor_that_was_given_up_turns_readiness_for_its_minute_and_is_forgotten_then() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let broken = Arc::new(AtomicBool::new(true));
    let breaks = broken.clone();
    let faults = Faults::in_handlers(move |kind, _, message| match (kind, message) {
        ("slug", "work") if breaks.load(Ordering::SeqCst) => Injected::Error,
        _ => Injected::Nothing,
    });
    let house = site.start_with(&[&repo], &quick(&[]), faults).await;
    until("the slug's actor to be given up", || async {
        house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 0 })).await;
        let views = get(&house, "/actors").await;
        views.as_array()?.iter().any(|view| view["kind"] == "slug" && view["state"] == "given_up").then_some(())
    })
    .await;
    comes_to(&house, "NO_GO").await;
    let opened = until("the incident", || async { incident(&house, "actor:slug:app/fix").await }).await;
    assert_eq!(opened["severity"], "warning", "one slug's actor is not the daemon");
    broken.store(false, Ordering::SeqCst);
    // Nobody asks for it again; its minute ends all the same.
    until("it to be forgotten", || async {
        let views = get(&house, "/actors").await;
        views.as_array()?.iter().all(|view| view["kind"] != "slug").then_some(())
    })
    .await;
    comes_to(&house, "GO").await;
    house.order("fix").await;
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_what_the_daemon_cannot_do_without_ends_it_after_a_dump() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let faults = Faults::in_handlers(|kind, _, _| if kind == "sessions" { Injected::Panic } else { Injected::Nothing });
    let house = site.start_with(&[&repo], &[("jobs.session_liveness_every_ms", "20")], faults).await;
    let hangs = site.path("data/hangs");
    assert_eq!(house.end().await, End::Meltdown("sessions".to_owned()));
    let dumps = slugline::actors::health::hangs::list(&hangs).expect("reads");
    assert_eq!(dumps.iter().map(|dump| dump.reason.as_str()).collect::<Vec<_>>(), ["meltdown"]);
    let dump = slugline::actors::health::hangs::one(&hangs, &dumps[0].id).expect("reads").expect("is there");
    assert_eq!(dump["note"], "sessions was given up");
    assert_eq!(dump["in_flight"]["actors_down"][0]["actor"], "sessions");
    site.start(&[&repo]).await.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_dies_ends_the_daemon() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = broken.clone();
    let faults = Faults::in_handlers(move |kind, _, message| match (kind, message) {
        ("sessions", _) if !breaks.swap(true, Ordering::SeqCst) => Injected::Error,
        ("root", "restart") => Injected::Panic,
        _ => Injected::Nothing,
    });
    let house = site.start_with(&[&repo], &[("jobs.session_liveness_every_ms", "20")], faults).await;
    assert_eq!(house.end().await, End::Meltdown("root".to_owned()));
    site.start(&[&repo]).await.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_holds_its_thread_is_shown_as_hung_and_replaced_only_when_it_lets_go() {
    let (site, gate) = (Site::new(), Gate::default());
    let repo = site.app(&["fix", "beside"], "");
    let held = Arc::new(AtomicBool::new(false));
    let (hold, at) = (gate.clone(), held.clone());
    let faults = Faults::at_points(move |point| {
        if point == "inventory.handle" && !at.swap(true, Ordering::SeqCst) {
            hold.wait();
        }
    });
    let settings = quick(&[("watchdog.handler_timeout_ms", "1000")]);
    let house = site.start_with(&[&repo], &settings, faults).await;
    house.begun("beside").await;
    let view = |state: &'static str| {
        let house = &house;
        until(state, move || async move {
            let views = get(house, "/actors").await;
            let views = views.as_array()?.clone();
            views.into_iter().find(|view| view["kind"] == "inventory" && view["state"] == state)
        })
    };
    let hung = view("hung").await;
    assert_eq!((&hung["handling"]["message"], &hung["work"]), (&json!("tick"), &Value::Null));
    assert!(hung["handling"]["took_ms"].as_f64() >= Some(1_000.0), "{hung}");
    // The others do their work, and a dump names it.
    house.order("fix").await;
    until("its dump", || async {
        let hangs = get(&house, "/hangs").await;
        let found = hangs.as_array()?.iter().find(|hang| hang["reason"] == "handler_hung").cloned()?;
        let dump = get(&house, &format!("/hangs/{}", found["id"].as_str()?)).await;
        let says = dump["note"].as_str()?.starts_with("inventory app: it has handled tick");
        (says && dump["over"] == true).then_some(())
    })
    .await;
    gate.open();
    let back = view("running").await;
    assert_eq!((&back["restarts"], &back["reasons"][0]["reason"]), (&json!(1), &json!("hang")));
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_complete_and_reading_it_changes_nothing() {
    let site = Site::new();
    let repo = site.app(&["fix", "other"], "");
    let settings = quick(&[("jobs.session_liveness_every_ms", "1000"), ("jobs.lease_sweep_every_ms", "0")]);
    let house = site.start_with(&[&repo], &settings, Faults::default()).await;
    house.order("fix").await;
    comes_to(&house, "GO").await;
    let status = until("one todo to wait, and timers to have been measured", || async {
        let there = |status: &Value| status["queue"]["ready"] == 1 && status["lag_ms"]["samples"].as_u64() > Some(0);
        Some(get(&house, "/status").await).filter(there)
    })
    .await;
    for member in [
        "readiness",
        "criteria",
        "run_locks",
        "run_locks_count",
        "queue",
        "lanes",
        "incidents",
        "lag_ms",
        "hangs",
        "actors",
        "store",
        "version",
        "started_at",
    ] {
        assert!(!status[member].is_null(), "{member} is missing: {status}");
    }
    assert_eq!(status["criteria"].as_array().map(Vec::len), Some(7));
    assert!(status["queue"]["oldest_ready_ms"].is_i64() && status["lag_ms"]["samples"].as_u64() > Some(0), "{status}");
    assert_eq!(status["lanes"][0]["lane"], "builder");
    problem(&house.client.get("/hangs/..%2Ftoken").await.expect("answers"), 404, "unknown_hang");
    problem(&house.client.get("/hangs/01M7Z45YYQM2KW40VWQ0Q4GZSM").await.expect("answers"), 404, "unknown_hang");
    house.stop().await;
    // A daemon whose own duties rest writes nothing by itself, so what is written is the readers' doing.
    let mut quiet: Vec<(&'static str, &str)> =
        vec![("watchdog.lag_threshold_ms", "60000"), ("watchdog.handler_timeout_ms", "600000")];
    quiet.extend([
        ("jobs.fetch_every_ms", "0"),
        ("jobs.lease_sweep_every_ms", "0"),
        ("jobs.worktree_prune_every_ms", "0"),
        ("jobs.root_eviction_every_ms", "0"),
        ("jobs.log_retention_every_ms", "0"),
        ("jobs.dump_retention_every_ms", "0"),
        ("jobs.ledger_upkeep_every_ms", "0"),
        ("jobs.session_liveness_every_ms", "0"),
        ("jobs.readiness_every_ms", "0"),
        ("jobs.self_heal_every_ms", "0"),
    ]);
    let house = site.start_with(&[&repo], &quiet, Faults::default()).await;
    let batches = |status: &Value| status["store"]["batches"].clone();
    let before = batches(&get(&house, "/status").await);
    for _ in 0..100 {
        for path in ["/status", "/readiness", "/jobs", "/incidents", "/hangs"] {
            get(&house, path).await;
        }
    }
    assert_eq!(batches(&get(&house, "/status").await), before, "reading wrote something");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_command_prints_the_verdict_and_ends_with_it() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let data = site.path("data");
    let health = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
        command.arg("health").arg("--data-dir").arg(&data).args(more).current_dir(site.dir.path());
        let output = command.output().expect("starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = health(&[]);
    assert_eq!(code, Some(2));
    assert!(said.starts_with("UNKNOWN: no daemon runs on") && said.contains("slugline serve"), "{said}");
    let house = site.start_with(&[&repo], &quick(&[]), Faults::default()).await;
    comes_to(&house, "GO").await;
    let (code, said) = health(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("GO\n") && said.lines().count() == 8 && said.contains("disk"), "{said}");
    let (code, said) = health(&["--json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&said).expect("JSON")["verdict"].clone()), (Some(0), json!("GO")));
    house.stop().await;
    let full = quick(&[("readiness.disk_free_min_bytes", "9000000000000000000")]);
    let house = site.start_with(&[&repo], &full, Faults::default()).await;
    comes_to(&house, "NO_GO").await;
    let (code, said) = health(&[]);
    assert!(code == Some(1) && said.starts_with("NO_GO\n"), "{code:?}: {said}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_started_the_daemon_is_told_that_it_is_ready_alive_and_stopping() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let path = site.path("notify");
    let socket = UnixDatagram::bind(&path).expect("binds");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    let vars = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", PathBuf::from("4000000"))];
    let mut spawned = site.spawn_with(&[&repo], &vars).await;
    let pid = rustix::process::Pid::from_child(&spawned.child);
    let hear = tokio::task::spawn_blocking(move || {
        let (mut heard, mut buffer) = (Vec::new(), [0_u8; 256]);
        let mut asked = false;
        while let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
            let over = text.contains("STOPPING=1");
            heard.push((Instant::now(), text));
            if over {
                break;
            }
            if heard.len() >= 5 && !asked {
                asked = true;
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("asks");
            }
        }
        heard
    });
    let heard = hear.await.expect("listens");
    let _ = spawned.child.wait();
    let texts: Vec<&str> = heard.iter().map(|(_, text)| text.as_str()).collect();
    assert!(texts.contains(&"READY=1") && texts.last() == Some(&"STOPPING=1"), "{texts:?}");
    let pings: Vec<Instant> = heard.iter().filter(|(_, text)| text == "WATCHDOG=1").map(|(at, _)| *at).collect();
    assert!(pings.len() >= 4, "{texts:?}");
    let longest = pings.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default();
    assert!(longest < Duration::from_secs(4), "{longest:?} without a sign of life");
}

#[tokio::test(flavor = "multi_thread")]
async fn children_stop_in_order_with_what_they_do_last() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start_with(&[&repo], &[("jobs.readiness_every_ms", "0")], Faults::default()).await;
    house.order("fix").await;
    until("a job to have run", || async { (job(&house, "self_heal").await["runs"] == 1).then_some(()) }).await;
    let file = site.path("data/readiness.json");
    assert!(!file.exists(), "nothing was evaluated");
    let begun = Instant::now();
    assert_eq!(house.stop().await, End::Asked);
    assert!(file.exists(), "what readiness does last was left out");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for lock in std::fs::read_dir(site.path("data/jobs")).expect("reads").flatten() {
        assert_eq!(lock.metadata().expect("is there").len(), 0, "{:?} was left behind", lock.path());
    }
}
