//! `kill -9` of the daemon at random moments: while it prepares, while it makes worktrees, between a commit and its
//! answer. After each restart: nothing accepted is lost, nobody works twice in one worktree, nothing of the user's is
//! gone. `TEST_KILLS` says how many kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Noting, PATIENCE, Repo, Site, git, lines, until};
use crate::promises::Promises;
use crate::scale::{Dice, seed, size};

/// Kills, by tier.
const KILLS: [u64; 3] = [100, 1_000, 10_000];
/// Todos that workers have and ask for again and again. Every round has a new one besides, so that every kill can hit
/// the making of a worktree.
const SLUGS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
/// The longest a daemon lives before it is killed: several runs' length.
const LIFE_MS_MAX: u64 = 350;

/// The new todo of a round.
fn fresh(round: usize) -> String {
    format!("new-{round}")
}

/// A prepare that tells of any other prepare in the same worktree, and takes a moment in several steps.
fn settings(site: &Site) -> String {
    let overlaps = site.path("overlaps");
    format!(
        "[prepare]\ncommand = \"mkdir busy 2>/dev/null || {{ kill -0 $(cat busy/pid) 2>/dev/null && echo $SLUGLINE_SLUG >> {overlaps}; rm -rf busy; mkdir busy; }}; echo $$ > busy/pid; for i in 1 2 3 4; do echo $i > out.$i; sleep 0.02; done; rm -rf busy\"\ninputs = [\"input\"]\noutputs = [\"out.4\"]\n",
        overlaps = overlaps.display()
    )
}

/// Asks for every slug at once, half of the calls without waiting, until the daemon is gone.
async fn ask_until_gone(daemon: &Noting, round: usize) {
    let slugs = SLUGS.iter().map(|&slug| slug.to_owned()).chain([fresh(round)]);
    let calls = slugs.enumerate().map(|(index, slug)| {
        let client = daemon.clone();
        async move {
            // Bounded: a daemon lives for a third of a second and a call takes at least tens of microseconds.
            for turn in 0..200 {
                let wait = if (index + round + turn).is_multiple_of(2) { 0 } else { 5_000 };
                let body = json!({ "lane": "builder", "slug": slug, "wait_ms": wait, "refresh": turn == 1 });
                match client.post("/todos/work", &body).await {
                    Ok(reply) => assert!(reply.status < 300 || reply.json()["retryable"] == true, "{}", reply.text()),
                    Err(_) => break,
                }
                tokio::task::yield_now().await;
            }
        }
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_kills_lose_nothing_accepted_and_nothing_of_the_workers() {
    let mut dice = Dice(seed(None));
    let kills = usize::try_from(size("TEST_KILLS", KILLS)).expect("a number of rounds");
    let site = Site::new();
    let slugs: Vec<String> = SLUGS.iter().map(|&slug| slug.to_owned()).chain((0..kills).map(fresh)).collect();
    let repo = Repo::with(site.path("app"), &slugs.iter().map(String::as_str).collect::<Vec<_>>(), &settings(&site));
    repo.write(".gitignore", "out.*\nbusy/\n");
    repo.commit("ignore what prepare makes");
    let promises = &site.promises;
    for round in 0..kills {
        let mut daemon = site.spawn(&[&repo]).await;
        promises.is_known(&daemon.client).await;
        let life = Duration::from_millis(dice.below(LIFE_MS_MAX));
        // Dying is what ends the callers, so they and the death run side by side.
        let client = daemon.client.clone();
        let death = tokio::task::spawn_blocking(move || {
            std::thread::park_timeout(life);
            daemon.kill();
        });
        ask_until_gone(&client, round).await;
        death.await.expect("kills");
        if round % 10 == 9 || round + 1 == kills {
            let new: Vec<String> = (round - round % 10..=round).map(fresh).collect();
            settle(&site, &repo, promises, &new).await;
        }
    }
    let daemon = site.spawn(&[&repo]).await;
    daemon.kill_with_all_kept().await;
    assert_eq!(lines(&site.path("overlaps")), 0, "two prepares ran in one worktree");
    assert_eq!(promises.worked_in(), SLUGS.len());
}

/// With the daemon left alone everything comes to rest, prepared; and all that workers did is there.
async fn settle(site: &Site, repo: &Repo, promises: &Promises, new: &[String]) {
    let daemon = site.spawn(&[repo]).await;
    for slug in SLUGS.into_iter().chain(new.iter().map(String::as_str)) {
        let order = until(&format!("{slug} to be ready"), || async {
            let body = json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 });
            let reply = daemon.client.post("/todos/work", &body).await.expect("the daemon answers");
            assert!(reply.status < 300 || reply.json()["retryable"] == true, "{}", reply.text());
            (reply.status == 200).then(|| reply.json())
        })
        .await;
        let worktree = site.worktree(slug);
        assert_eq!(order["worktree"]["path"], worktree.display().to_string());
        assert!(worktree.join("out.4").exists() && worktree.join(format!("todos/{slug}/requirements.md")).exists());
        let changed = if SLUGS.contains(&slug) {
            let commit = promises.work_in(&worktree);
            assert_eq!(git(&worktree, &["rev-parse", "HEAD"]), commit, "the branch of {slug} moved");
            "?? mine.txt"
        } else {
            ""
        };
        assert_eq!(git(&worktree, &["status", "--porcelain"]), changed, "{slug} was not made whole");
    }
    promises.kept_so_far(&daemon.client).await;
}

/// One client that changes things under keys of its own, one after the other, and sends each again until it is answered.
struct Changer {
    number: usize,
    /// Requests that were answered, and how.
    answered: usize,
    /// Completes as failed that were answered, of the todo this one works on.
    failed: u64,
    /// Resumes of its lane that were answered.
    resumed: u64,
    /// Todos it filed.
    filed: Vec<String>,
    token: Option<u64>,
    bytes: Vec<(String, Value, String, Vec<u8>)>,
    /// The last refusal, to be told when something goes wrong.
    refused: String,
}

impl Changer {
    fn new(number: usize) -> Self {
        let (answered, failed, resumed, filed) = (0, 0, 0, Vec::new());
        Self { number, answered, failed, resumed, filed, token: None, bytes: Vec::new(), refused: String::new() }
    }

    /// The next thing it wants: a function of what was answered, so a request that was not is sent again as it was.
    fn wants(&self) -> (String, Value) {
        let (me, turn) = (self.number, self.answered);
        match (turn % 4, self.token) {
            (0, _) => ("/todos/app".to_owned(), json!({ "slug": format!("c{me}-{turn}"), "brief": "do it" })),
            (1, _) => (format!("/lanes/lane-{me}/pause"), json!({ "reason": format!("turn {turn}") })),
            (2, _) => (format!("/lanes/lane-{me}/resume"), json!({})),
            (_, None) => {
                let slug = SLUGS[me % SLUGS.len()];
                ("/todos/work".to_owned(), json!({ "lane": format!("lane-{me}"), "slug": slug, "wait_ms": 20_000 }))
            }
            (_, Some(token)) => {
                let reason = "the build broke";
                let body = json!({ "token": token, "outcome": "failed", "reason": reason });
                (format!("/todos/app/{}/complete", SLUGS[me % SLUGS.len()]), body)
            }
        }
    }

    async fn change_until_gone(mut self, client: Noting, answers: &AtomicUsize) -> Self {
        for _ in 0..200 {
            let (path, body) = self.wants();
            let key = format!("k{}-{}-{}", self.number, self.answered, self.token.unwrap_or(0));
            let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
            let sent = client.send(hyper::Method::POST, &path, &headers, body.to_string().into()).await;
            let Ok(reply) = sent else { return self };
            if reply.status >= 300 {
                assert!(reply.json()["retryable"] == true, "{path}: {}", reply.text());
                self.refused = format!("{path}: {}", reply.text());
                tokio::task::yield_now().await;
                continue;
            }
            let answer = reply.json();
            if reply.status == 202 {
                // Accepted and going on; the claim is seen when it is asked for again.
                self.answered += 4;
                continue;
            }
            match (self.answered % 4, self.token) {
                (0, _) => self.filed.push(body["slug"].as_str().unwrap_or_default().to_owned()),
                (2, _) => self.resumed += 1,
                (3, None) => {
                    self.token = answer["claim"]["token"].as_u64();
                    self.bytes.push((path, body, key, reply.body.to_vec()));
                    continue;
                }
                (3, Some(_)) => (self.failed, self.token) = (self.failed + 1, None),
                _ => {}
            }
            self.bytes.push((path, body, key, reply.body.to_vec()));
            self.answered += 1;
            answers.fetch_add(1, Ordering::SeqCst);
        }
        self
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_load_lose_no_acknowledged_change_and_no_retry_has_a_second_effect() {
    let mut dice = Dice(seed(None));
    let kills = usize::try_from(size("TEST_KILLS", KILLS)).expect("a number of rounds");
    let site = Site::new();
    let repo = site.app(&SLUGS, "");
    let vars: Vec<(&str, std::path::PathBuf)> = [
        ("SLUGLINE_ATTEMPTS_MAX", "1000"),
        ("SLUGLINE_ATTEMPTS_BACKOFF_MIN_MS", "0"),
        ("SLUGLINE_ATTEMPTS_BACKOFF_MAX_MS", "0"),
        ("SLUGLINE_BREAKER_FAILURES", "1000"),
        ("SLUGLINE_BREAKER_WINDOW_MS", "1000"),
    ]
    .map(|(name, value)| (name, value.into()))
    .into();
    let mut changers: Vec<Changer> = (0..SLUGS.len()).map(Changer::new).collect();
    let answers = Arc::new(AtomicUsize::new(0));
    for round in 0..kills {
        let mut daemon = site.spawn_with(&[&repo], &vars).await;
        let life = Duration::from_millis(dice.below(LIFE_MS_MAX));
        // Every second one lives until it has answered three, also where all processor time is taken by others.
        let wanted = if round % 2 == 0 { 0 } else { answers.load(Ordering::SeqCst) + 3 };
        let (client, answered) = (daemon.client.clone(), answers.clone());
        let death = tokio::task::spawn_blocking(move || {
            std::thread::park_timeout(life);
            let since = Instant::now();
            while answered.load(Ordering::SeqCst) < wanted && since.elapsed() < PATIENCE {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            daemon.kill();
        });
        let all = changers.drain(..).map(|changer| changer.change_until_gone(client.clone(), &answers));
        changers = futures_util::future::join_all(all).await;
        death.await.expect("kills");
    }
    // One last daemon is left alone; what was not answered is sent once more by nobody.
    let daemon = site.spawn_with(&[&repo], &vars).await;
    let get = |path: String| {
        let client = &daemon.client;
        async move { client.get(&path).await.expect("the daemon answers").json() }
    };
    let mut total = 0;
    for changer in &changers {
        total += changer.bytes.len();
        println!("changer {}: {} answered, last refused: {}", changer.number, changer.answered, changer.refused);
        for slug in &changer.filed {
            assert_eq!(get(format!("/todos/app/{slug}")).await["slug"], slug.as_str(), "a filed todo is lost");
        }
        let (me, pending) = (changer.number, changer.answered % 4);
        let lanes = get("/lanes".to_owned()).await;
        let lane = lanes.as_array().expect("lanes").iter().find(|lane| lane["lane"] == format!("lane-{me}")).cloned();
        let generation = lane.and_then(|lane| lane["generation"].as_u64()).unwrap_or(1);
        let known = 1 + changer.resumed;
        // A resume that was carried out and not answered is the only one there may be more.
        assert!(
            generation == known || pending == 2 && generation == known + 1,
            "lane-{me}: {generation}, told {known}"
        );
        let todo = get(format!("/todos/app/{}", SLUGS[me])).await;
        let attempts = todo["attempts"].as_u64().expect("attempts");
        let unanswered = u64::from(pending == 3 && changer.token.is_some());
        assert!(
            attempts == changer.failed || attempts == changer.failed + unanswered,
            "{}: {attempts} attempts, told {}",
            SLUGS[me],
            changer.failed
        );
        for (path, body, key, bytes) in &changer.bytes {
            let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
            let again = daemon.client.send(hyper::Method::POST, path, &headers, body.to_string().into()).await;
            let again = again.expect("the daemon answers");
            assert_eq!(again.body.to_vec(), *bytes, "{path} under {key} is answered otherwise: {}", again.text());
        }
    }
    daemon.kill_with_all_kept().await;
    assert!(total > kills, "only {total} changes were ever answered");
    println!("{total} changes were answered over {kills} kills");
}
