//! A start on what another daemon left: how long it takes with ten thousand todos, and that it may die as often as it likes.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use slugline::model::claim::Terms;
use slugline::model::desk::{Change, Claimed, Desk, Rules, WipLimits};
use slugline::model::filed::{Filed, NewTodo};
use slugline::model::ids::{Lane, RepoName, Slug, TodoKey, Worker};
use slugline::model::lane::BreakerTerms;
use slugline::model::roadmap::{self, Catalog};
use slugline::model::time::Moment;
use slugline::model::todo::Asker;
use slugline::store::{Store, Write};

use crate::disk::Disk;
use crate::harness::{Noting, Repo, Site, until};
use crate::scale::{Dice, seed, size};

/// Todos of a large ledger, each filed and claimed; one in ten given back.
const MANY: usize = 10_000;
/// A start with them, in a release build; and what a busy machine may make of a debug build's.
const READY_WITHIN: Duration = Duration::from_secs(2);
const READY_AT_LAST: Duration = Duration::from_secs(30);
const SEEDS: [u64; 3] = [8, 200, 200];
/// Starts that die in a row.
const IN_A_ROW: usize = 5;
const SLUGS: [&str; 4] = ["one", "two", "three", "four"];

/// What a daemon with ten thousand todos would have written.
fn written() -> Vec<Write> {
    let (repo, now) = (RepoName::parse("app").expect("name"), Moment::both(1_750_000_000_000));
    let slugs: Vec<Slug> = (0..MANY).map(|number| Slug::parse(&format!("t{number}")).expect("slug")).collect();
    let listed: String = slugs.iter().map(|slug| format!("- slug: {slug}\n")).collect();
    let terms = Terms {
        lease_ms: 3_600_000,
        heartbeat_every_ms: 60_000,
        progress_ms: 3_600_000,
        hold_max_ms: 3_600_000,
        attempts_max: 3,
        backoff_min_ms: 0,
        backoff_max_ms: 0,
    };
    let breaker = BreakerTerms { failures: 3, window_ms: 60_000 };
    let mut desk = Desk::new(Rules { terms, breaker, wip: WipLimits { default: None, by_lane: BTreeMap::new() } });
    desk.base_is(&repo, &Arc::new(Catalog::build(roadmap::parse("r", &listed), &[], Vec::new())));
    let file = |slug: &Slug| {
        let todo =
            NewTodo { slug: slug.clone(), brief: "do it".to_owned(), lane: None, after: Vec::new(), priority: 0 };
        Change::Filed { repo: repo.clone(), filed: Filed { todo, remedy: None, at: now.wall } }
    };
    let mut changes: Vec<Change> = slugs.iter().map(file).collect();
    for (number, slug) in slugs.iter().enumerate() {
        let todo = TodoKey { repo: repo.clone(), slug: slug.clone() };
        let worker = Worker::parse(&format!("w{number}")).expect("worker");
        let asker = Asker { lane: Lane::parse("builder").expect("lane"), worker };
        let Claimed::Granted { claim, .. } = desk.claim(&todo, &asker, &now) else { panic!("{todo} is free") };
        if number % 10 == 0 {
            desk.release(&todo, claim.token, &now).expect("it is held");
        }
    }
    changes.push(Change::Awake(now.awake));
    changes.append(&mut desk.take_changes());
    changes.into_iter().map(|change| Write::Decided { change, at: now.wall }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_ready_in_time_on_a_ledger_with_ten_thousand_todos() {
    let site = Site::new();
    let repo = site.app(&SLUGS, "");
    std::fs::create_dir_all(site.path("data")).expect("makes");
    let path = site.path("data/ledger.db");
    let (store, all) =
        tokio::task::spawn_blocking(move || (Store::open(&path).expect("opens"), written())).await.expect("is written");
    for batch in all.chunks(1_000) {
        store.commit(batch.to_vec()).await.expect("is written");
    }
    let entries = store.last_seq().await.expect("reads");
    store.close().await;
    drop(store);
    let mut took = Vec::new();
    // The first start also looks at what the one before did not close; the second finds it as a daemon left it.
    for _ in 0..2 {
        let since = Instant::now();
        let daemon = site.spawn(&[&repo]).await;
        until("the daemon to be ready", || async {
            let ready = daemon.client.get("/readyz").await.ok()?;
            (ready.status == 200).then_some(())
        })
        .await;
        took.push(since.elapsed());
        let todos = daemon.client.get("/todos").await.expect("answers").json();
        let held = todos.as_array().expect("a list").iter().filter(|todo| !todo["claim"].is_null()).count();
        assert_eq!(held, MANY - MANY / 10, "claims are lost");
    }
    println!("ready after {took:?} with {MANY} todos and {entries} entries");
    let most = if cfg!(debug_assertions) { READY_AT_LAST } else { READY_WITHIN };
    assert!(took.iter().all(|took| *took < most), "ready after {took:?}");
}

/// Workers take every todo, leave work in it, report and file more, until nobody answers.
async fn work_until_gone(client: &Noting, filed: &AtomicU64) {
    let workers = SLUGS.map(|slug| async move {
        for turn in 0..50 {
            let new = json!({ "slug": format!("filed-{}", filed.fetch_add(1, Ordering::SeqCst)), "brief": "do it" });
            if client.post("/todos/app", &new).await.is_err() {
                return;
            }
            let body = json!({ "lane": "builder", "slug": slug, "refresh": true, "wait_ms": if turn % 2 == 0 { 0 } else { 5_000 } });
            let Ok(reply) = client.post("/todos/work", &body).await else { return };
            if reply.status != 200 {
                continue;
            }
            let body = json!({ "token": reply.json()["claim"]["token"], "outcome": "failed", "reason": "it broke" });
            let path = format!("/todos/app/{slug}/complete");
            if turn % 3 == 2 && client.post(&path, &body).await.is_err() {
                return;
            }
        }
    });
    futures_util::future::join_all(workers).await;
}

/// One daemon dies in the middle of work, five die while they recover, and the next one is left alone.
async fn five_deaths_in_a_row(dice: &mut Dice) -> usize {
    let site = Site::new();
    let prepare = "[prepare]\ncommand = \"for i in 1 2 3; do echo $i > out.$i; sleep 0.03; done\"\n";
    let repo: Repo = site.app(&SLUGS, prepare);
    let (disk, filed) = (Disk::of(&site), AtomicU64::new(0));
    let freely = [
        ("SLUGLINE_ATTEMPTS_MAX", "1000"),
        ("SLUGLINE_ATTEMPTS_BACKOFF_MIN_MS", "0"),
        ("SLUGLINE_ATTEMPTS_BACKOFF_MAX_MS", "0"),
        ("SLUGLINE_BREAKER_FAILURES", "1000"),
    ];
    let mut daemon = site.spawn_with(&[&repo], &disk.vars(&freely)).await;
    disk.kill_at(20 + dice.below(300), dice.below(2) == 0);
    work_until_gone(&daemon.client, &filed).await;
    daemon.kill();
    let mut before_it_served = 0;
    for _ in 0..IN_A_ROW {
        disk.kill_at(1 + dice.below(30), dice.below(2) == 0);
        match site.try_spawn(&[&repo], &disk.vars(&freely)).await {
            // It serves, and recovers meanwhile what does not have to wait for that.
            Ok(mut daemon) => daemon.kill(),
            Err(status) => {
                assert_eq!(status.signal(), Some(9), "{}", site.daemon_log());
                before_it_served += 1;
            }
        }
    }
    let daemon = site.spawn_with(&[&repo], &[]).await;
    until("whatever was on to be over", || async {
        let open = daemon.client.get("/operations?state=queued,running").await.expect("answers").json();
        open.as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    daemon.kill_with_all_kept().await;
    let log = site.daemon_log();
    assert!(!log.contains("panicked"), "{log}");
    before_it_served
}

#[tokio::test(flavor = "multi_thread")]
async fn five_deaths_in_a_row_while_it_recovers_lose_nothing_and_the_next_start_goes_on() {
    let seeds = size("TEST_RECOVERIES", SEEDS);
    let first = seed(None);
    let mut before_they_served = 0;
    for number in 0..seeds {
        println!("seed {}", first + number);
        before_they_served += five_deaths_in_a_row(&mut Dice(first + number)).await;
    }
    println!("{before_they_served} of {} deaths before they served", seeds as usize * IN_A_ROW);
    assert!(before_they_served > 0, "no start was met while it recovered");
}
