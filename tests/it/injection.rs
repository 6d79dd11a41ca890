//! A panic, an error, a hang and a kill in every message handler of every kind of actor: the daemon stays up, only what the
//! actor served is disturbed, nothing accepted is lost, budgets are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use slugline::actors::faults::{Faults, Injected};

use crate::harness::{House, Site, git, until, write};
use crate::scale::size;

/// How often each handler meets each fault: some 150 faults a time.
const ROUNDS: [u64; 3] = [1, 7, 25];

/// One handler: what kind of actor, and which message.
type Handler = (String, String);

/// What is done to the next message of a handler.
#[derive(Clone, Default)]
struct Needle {
    next: Arc<Mutex<Option<(Handler, Injected)>>>,
    seen: Arc<Mutex<BTreeSet<Handler>>>,
}

impl Needle {
    fn faults(&self) -> Faults {
        let needle = self.clone();
        Faults::in_handlers(move |kind, _, message| {
            let handler = (kind.to_owned(), message.to_owned());
            needle.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(handler.clone());
            let mut next = needle.next.lock().unwrap_or_else(PoisonError::into_inner);
            match next.take_if(|(wanted, _)| *wanted == handler) {
                Some((_, injected)) => injected,
                None => Injected::Nothing,
            }
        })
    }

    fn set(&self, handler: &Handler, injected: Injected) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some((handler.clone(), injected));
    }

    fn was_used(&self) -> bool {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

const SETTINGS: [(&str, &str); 8] = [
    ("watchdog.handler_timeout_ms", "3000"),
    ("jobs.readiness_every_ms", "150"),
    ("jobs.lease_sweep_every_ms", "150"),
    ("jobs.session_liveness_every_ms", "150"),
    ("jobs.root_eviction_every_ms", "300"),
    ("jobs.readiness_budget_ms", "2000"),
    ("jobs.lease_sweep_budget_ms", "2000"),
    ("jobs.session_liveness_budget_ms", "2000"),
];

/// Asks until the answer is not one that says "try again"; fails at any other problem.
async fn insist(house: &House, path: &str, body: &Value) -> Value {
    until(path, || async {
        let reply = house.client.post(path, body).await.expect("the daemon answers");
        let answer = reply.json();
        assert!(reply.status < 300 || answer["retryable"] == true, "{path}: {answer}");
        (reply.status < 300).then_some(answer)
    })
    .await
}

/// Somebody looks at everything.
async fn look_around(house: &House) {
    for path in ["/worktrees?wait_ms=100", "/sessions", "/status", "/actors", "/jobs", "/readiness", "/incidents"] {
        let reply = house.client.get(path).await.expect("answers");
        assert!(reply.status == 200 || reply.json()["retryable"] == true, "{path}: {}", reply.text());
    }
}

/// One round of a worker's life on a todo, that touches every kind of actor. What was acknowledged has to hold at its end.
async fn live(site: &Site, house: &House, slug: &str) {
    let work = json!({ "lane": "builder", "worker": slug, "slug": slug, "wait_ms": 20_000 });
    let mut order = insist(house, "/todos/work", &work).await;
    while order["claim"].is_null() {
        order = insist(house, "/todos/work", &work).await;
    }
    let token = order["claim"]["token"].clone();
    let about = format!("/todos/app/{slug}");
    insist(house, &format!("{about}/heartbeat"), &json!({ "token": token })).await;
    let session = order["claim"]["session"].as_str().expect("a session").to_owned();
    let report = json!({ "events": [{ "kind": "note", "text": "hello" }] });
    insist(house, &format!("/sessions/{session}/events"), &report).await;
    look_around(house).await;
    let worktree = site.worktree(slug);
    write(&worktree.join("work.txt"), slug);
    git(&worktree, &["add", "--all"]);
    git(&worktree, &["commit", "--quiet", "--allow-empty", "--message", "work"]);
    let done = json!({ "token": token, "outcome": "done" });
    until(&format!("{slug} to be counted"), || async {
        let said = insist(house, &format!("{about}/complete"), &done).await;
        [&said["stage"], &said["result"]["stage"]]
            .iter()
            .any(|stage| **stage == "done" || **stage == "integrate")
            .then_some(())
    })
    .await;
    let detail = house.client.get(&about).await.expect("answers").json();
    let endings = detail["endings"].as_array().cloned().unwrap_or_default();
    let of_token: Vec<&Value> = endings.iter().filter(|ending| ending["token"] == token).collect();
    assert_eq!(of_token.len(), 1, "{slug} was counted otherwise than once: {detail}");
    let events = house.client.get(&format!("/sessions/{session}/events")).await.expect("answers").json();
    // A report whose answer was lost was sent again.
    assert!(events.as_array().is_some_and(|events| !events.is_empty()), "an acknowledged report was lost: {events}");
}

/// Restarts of actors, by kind.
async fn restarts(house: &House) -> BTreeMap<String, u64> {
    let views = house.client.get("/actors").await.expect("answers").json();
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for view in views.as_array().expect("a list") {
        *all.entry(view["kind"].as_str().expect("text").to_owned()).or_default() +=
            view["restarts"].as_u64().expect("a number");
        assert_ne!(view["state"], "given_up", "{view}");
    }
    all
}

/// Kinds that end and come back with their supervisor, and those that lose their count with it.
fn disturbs(kind: &str, other: &str) -> bool {
    kind == other || kind == "repository" && matches!(other, "slug" | "inventory")
}

async fn all_faults_in(handler: Handler) {
    let site = Site::new();
    let slugs: Vec<String> = (0..6).map(|number| format!("todo-{number}")).collect();
    let repo = site.app(&slugs.iter().map(String::as_str).collect::<Vec<_>>(), "[prepare]\ncommand = \"true\"\n");
    let needle = Needle::default();
    let house = site.start_with(&[&repo], &SETTINGS, needle.faults()).await;
    // Somebody has begun and says nothing more; what it has stays through all of it.
    house.begun(&slugs[5]).await;
    let mut ear = crate::ear::Ear::at(&house, "?types=worktree.*,actor.*", None).await;
    let faults = [Injected::Panic, Injected::Error, Injected::Kill, Injected::Hang];
    for (injected, slug) in faults.into_iter().zip(&slugs) {
        needle.set(&handler, injected);
        live(&site, &house, slug).await;
        // Some messages come by themselves, or when somebody looks or something changes.
        until(&format!("{handler:?} to be met"), || async {
            if needle.was_used() {
                return Some(());
            }
            look_around(&house).await;
            write(&site.worktree(slug).join("noise.txt"), &format!("{:?}", Instant::now()));
            None
        })
        .await;
    }
    // Afterwards everything goes on as if nothing had been.
    live(&site, &house, &slugs[4]).await;
    let counted = restarts(&house).await;
    for (kind, count) in &counted {
        let limit = if disturbs(&handler.0, kind) { 4 } else { 0 };
        assert!(*count <= limit, "{kind} was restarted {count} times for faults in {handler:?}: {counted:?}");
    }
    assert_eq!(house.client.get("/livez").await.expect("answers").status, 200);
    let status = house.client.get("/readyz?verbose").await.expect("answers");
    assert_eq!(status.status, 200, "{}", status.text());
    ear.hear("the restarts", |heard| heard.kind == "actor.restarted").await;
    drop(ear);
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_handler_of_every_actor_may_panic_fail_hang_or_be_killed() {
    // First: which handlers there are.
    let site = Site::new();
    let repo = site.app(&["todo-0", "todo-1"], "[prepare]\ncommand = \"true\"\n");
    let needle = Needle::default();
    let house = site.start_with(&[&repo], &SETTINGS, needle.faults()).await;
    live(&site, &house, "todo-0").await;
    live(&site, &house, "todo-1").await;
    house.stop().await;
    let mut handlers = needle.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // A stop is the end of everything; jobs have a test of their own, and nothing asks the root while all is well.
    // The end of the pump is a failure already; what is read once at a start comes no second time.
    let left_out = |message: &str| matches!(message, "drain" | "pump_ended" | "loaded");
    handlers.retain(|(kind, message)| !left_out(message) && kind != "job" && kind != "root");
    let kinds: BTreeSet<&str> = handlers.iter().map(|(kind, _)| kind.as_str()).collect();
    for kind in [
        "ledger",
        "watchdog",
        "dispatcher",
        "events",
        "sessions",
        "jobs",
        "readiness",
        "repository",
        "inventory",
        "slug",
    ] {
        assert!(kinds.contains(kind), "no message of {kind} was met: {handlers:?}");
    }
    assert!(handlers.len() >= 30, "{handlers:?}");
    let at_once = Arc::new(tokio::sync::Semaphore::new(3));
    let rounds = size("TEST_INJECTIONS", ROUNDS);
    let tried = (0..rounds).flat_map(|_| handlers.clone()).map(|handler| {
        let at_once = at_once.clone();
        tokio::spawn(async move {
            let _one = at_once.acquire().await.expect("open");
            let name = format!("{handler:?}");
            (name, tokio::spawn(all_faults_in(handler)).await)
        })
    });
    let mut failed = Vec::new();
    for tried in tried.collect::<Vec<_>>() {
        let (name, ended) = tried.await.expect("ends");
        if ended.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
