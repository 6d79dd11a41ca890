//! Being told to stop, under load: nothing new is granted, what is on gets its time, nothing is lost, and whoever says it twice
//! does not wait.

use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use slugline::cli::client::Reply;

use crate::harness::{Noting, PATIENCE, Repo, Site, Spawned, until};
use crate::promises::Promises;

/// What a shutdown may take: what systemd gives when nothing is said, less five seconds.
const BUDGET: Duration = Duration::from_secs(85);

fn tell_to_stop(daemon: &Spawned) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.child.id()).expect("small")).expect("an id");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("is there");
}

async fn gone(daemon: &mut Spawned) -> ExitStatus {
    let daemon = std::cell::RefCell::new(daemon);
    until("the daemon to exit", || async { daemon.borrow_mut().child.try_wait().expect("can be asked") }).await
}

/// A repository whose prepare waits for a file, but of todos that begin with a `q`.
fn app(site: &Site) -> Repo {
    let dir = site.path("").display().to_string();
    let slugs: Vec<String> = (0..6).flat_map(|number| [format!("q{number}"), format!("w{number}")]).collect();
    let command = format!(
        "case $SLUGLINE_SLUG in q*) exit 0;; esac; touch {dir}/on.$SLUGLINE_SLUG; while test ! -e {dir}/go; do sleep 0.05; done"
    );
    let slugs: Vec<&str> = slugs.iter().map(String::as_str).collect();
    site.app(&slugs, &format!("[prepare]\ncommand = \"{command}\"\n"))
}

async fn ask(client: &Noting, slug: &str, worker: &str) -> anyhow::Result<Reply> {
    let body = json!({ "lane": "builder", "worker": worker, "slug": slug, "wait_ms": 30_000 });
    client.post("/todos/work", &body).await
}

/// Workers that take what can be had, work in it and give it back, until the daemon is gone. What comes after it was told to
/// stop must not be a grant.
async fn load(client: Noting, number: usize, promises: Arc<Promises>, told: Arc<AtomicBool>) {
    let slug = format!("q{number}");
    loop {
        let late = told.load(Ordering::SeqCst);
        let Ok(reply) = ask(&client, &slug, "w").await else { return };
        assert!(!(late && reply.status == 200), "granted after the daemon was told to stop: {}", reply.text());
        if reply.status == 503 {
            return;
        }
        let Some(token) = reply.json()["claim"]["token"].as_u64() else { continue };
        let path = reply.json()["worktree"]["path"].as_str().map(std::path::PathBuf::from).expect("a path");
        let book = promises.clone();
        tokio::task::spawn_blocking(move || book.work_in(&path)).await.expect("works");
        let beat = client.post(&format!("/todos/app/{slug}/heartbeat"), &json!({ "token": token })).await;
        if beat.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_stop_under_load_grants_nothing_more_says_so_and_keeps_every_promise() {
    let site = Site::new();
    let repo = app(&site);
    let mut daemon = site.spawn_with(&[&repo], &[("SLUGLINE_HTTP_DRAIN_MS", "60000".into())]).await;
    let (promises, told) = (site.promises.clone(), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (0..6)
        .map(|number| tokio::spawn(load(daemon.client.clone(), number, promises.clone(), told.clone())))
        .collect();
    let client = daemon.client.clone();
    let waits = tokio::spawn(async move { ask(&client, "w0", "waiter").await });
    until("a prepare to be on and work to be done", || async {
        (site.path("on.w0").exists() && promises.worked_in() == 6).then_some(())
    })
    .await;
    tell_to_stop(&daemon);
    let since = Instant::now();
    // It says so first, and goes on saying it for as long as somebody waits.
    until("the daemon to say that it is not ready", || async {
        (daemon.client.get("/readyz").await.expect("is answered").status == 503).then_some(())
    })
    .await;
    told.store(true, Ordering::SeqCst);
    println!("not ready {:?} after the signal", since.elapsed());
    let refused = ask(&daemon.client, "w1", "late").await.expect("is answered");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("draining")), "{}", refused.text());
    assert!(!waits.is_finished());
    std::fs::write(site.path("go"), "").expect("writes");
    let waited = waits.await.expect("no panic").expect("whoever waits is answered");
    assert_eq!(waited.status, 200, "{}", waited.text());
    let token = waited.json()["claim"]["token"].as_u64().expect("a token");
    assert!(gone(&mut daemon).await.success());
    println!("gone {:?} after the signal", since.elapsed());
    assert!(since.elapsed() < BUDGET);
    for worker in workers {
        worker.await.expect("no grant came late");
    }
    promises.kept_after().await;
    // Whoever held something holds it still.
    let next = site.spawn(&[&repo]).await;
    let again = ask(&next.client, "w0", "waiter").await.expect("is answered");
    assert_eq!(again.json()["claim"]["token"].as_u64(), Some(token), "{}", again.text());
    next.kill_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_it_twice_does_not_wait_and_loses_nothing() {
    let site = Site::new();
    let repo = app(&site);
    let mut daemon = site.spawn_with(&[&repo], &[("SLUGLINE_HTTP_DRAIN_MS", "600000".into())]).await;
    let promises = &site.promises;
    ask(&daemon.client, "q0", "w").await.expect("is answered");
    promises.work_in(&site.worktree("q0"));
    let client = daemon.client.clone();
    let waits = tokio::spawn(async move { ask(&client, "w0", "waiter").await });
    until("a prepare to be on", || async { site.path("on.w0").exists().then_some(()) }).await;
    tell_to_stop(&daemon);
    until("the daemon to drain", || async {
        (daemon.client.get("/readyz").await.expect("is answered").status == 503).then_some(())
    })
    .await;
    assert!(daemon.child.try_wait().expect("can be asked").is_none(), "it did not wait for its run");
    tell_to_stop(&daemon);
    let since = Instant::now();
    assert!(gone(&mut daemon).await.success());
    println!("gone {:?} after the second signal", since.elapsed());
    assert!(since.elapsed() < PATIENCE / 6, "it waited: {:?}", since.elapsed());
    drop(waits.await);
    promises.kept_after().await;
    let next = site.spawn(&[&repo]).await;
    std::fs::write(site.path("go"), "").expect("writes");
    next.kill_with_all_kept().await;
}
