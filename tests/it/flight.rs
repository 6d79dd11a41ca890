//! Many callers at once: one run per worktree, no todo twice, nobody waits for somebody else's slug.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{House, Repo, Site, lines, order, phase, problem, until, write};

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_calls_for_one_slug_prepare_once_and_get_the_same_operation() {
    let site = Site::new();
    let repo = site
        .app(&["fix"], &format!("[prepare]\ncommand = \"echo run >> {}/runs; sleep 0.5\"\n", site.path("").display()));
    let house = site.start(&[&repo]).await;
    let orders: Vec<Value> = join_all((0..64).map(|_| house.order("fix"))).await;
    assert_eq!(lines(&site.path("runs")), 1);
    let operation = &orders[0]["operation"];
    assert!(operation.is_string() && orders.iter().all(|order| order["operation"] == *operation));
    let of = |decision: &str| orders.iter().filter(|order| phase(order, "prepare").starts_with(decision)).count();
    assert_eq!((of("run/"), of("join/")), (1, 63));
    house.stop().await;
}

/// A prepare that says that it is on and waits until it may go on.
fn waiting_prepare(site: &Site) -> String {
    format!(
        "[prepare]\ncommand = \"echo $SLUGLINE_REPO/$SLUGLINE_SLUG >> {0}/on; i=0; while test $SLUGLINE_SLUG = held -a $SLUGLINE_REPO = app -a ! -e {0}/go -a $i -lt 600; do sleep 0.05; i=$((i+1)); done\"\n",
        site.path("").display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_another_slug_nor_another_repository_waits_for_a_prepare() {
    let site = Site::new();
    let settings = waiting_prepare(&site);
    let (app, lib) = (site.app(&["held", "free"], &settings), Repo::with(site.path("lib"), &["held"], &settings));
    let house = site.start(&[&app, &lib]).await;
    let ask = |repo: &str, slug: &str, wait: u64| {
        house.work(json!({ "repo": repo, "lane": "builder", "slug": slug, "wait_ms": wait }))
    };
    let running = ask("app", "held", 0).await;
    assert_eq!(running.status, 202);
    until("the held prepare to be on", || async { (lines(&site.path("on")) == 1).then_some(()) }).await;
    // The same slug of another repository, and another slug of the same one: both answered while it is held.
    order(&ask("lib", "held", 45_000).await);
    order(&ask("app", "free", 45_000).await);
    let id = running.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(house.operation(&id).await["state"], "running");
    write(&site.path("go"), "");
    assert_eq!(house.ended(&id).await["state"], "succeeded");
    house.stop().await;
}

async fn next(house: &House, worker: &str) -> slugline::cli::client::Reply {
    house.work(json!({ "lane": "builder", "worker": worker, "wait_ms": 45_000 })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_slug_get_different_todos_in_the_roadmaps_order() {
    let site = Site::new();
    let repo = site.app(&["one", "two", "three", "late", "first", "other"], "");
    repo.write("todos/roadmap.yaml", "- slug: one\n- slug: two\n- slug: late\n  after: [one]\n- slug: three\n- slug: first\n  priority: 9\n- slug: other\n  lane: reviewer\n");
    repo.commit("order");
    let house = site.start(&[&repo]).await;
    let replies = join_all(["w1", "w2", "w3", "w4"].map(|worker| next(&house, worker))).await;
    let mut slugs: Vec<String> =
        replies.iter().map(|reply| order(reply)["slug"].as_str().expect("slug").to_owned()).collect();
    slugs.sort();
    assert_eq!(slugs, ["first", "one", "three", "two"]);
    // Asking again is the same grant, not the next todo.
    let again = order(&next(&house, "w1").await);
    assert_eq!(
        (&again["slug"], &again["claim"]["guard"]),
        (&order(&replies[0])["slug"], &json!("duplicate_claim_guard"))
    );
    let none = problem(&next(&house, "w5").await, 404, "no_work");
    let reasons: Vec<&str> =
        none["reasons"].as_array().expect("reasons").iter().filter_map(|reason| reason["why"].as_str()).collect();
    assert_eq!(reasons.len(), 6);
    for part in ["claimed by builder/w", "comes after one", "for lane reviewer"] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
    }
    problem(&house.work(json!({ "lane": "builder", "worker": "w9", "slug": "late" })).await, 409, "dependencies_unmet");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_is_told_who_holds_a_todo_and_gets_it_when_the_lease_is_over() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    let ask =
        |worker: &str| house.work(json!({ "lane": "builder", "worker": worker, "slug": "fix", "wait_ms": 45_000 }));
    let first = order(&ask("w1").await);
    let held = problem(&ask("w2").await, 409, "already_claimed");
    assert_eq!(
        (&held["lane"], &held["worker"], &held["expires_at"]),
        (&json!("builder"), &json!("w1"), &first["claim"]["expires_at"])
    );
    house.awake_ms.fetch_add(2_700_000 + 1, Ordering::SeqCst);
    let second = order(&ask("w2").await);
    assert!(second["claim"]["token"].as_u64() > first["claim"]["token"].as_u64());
    problem(&ask("w1").await, 409, "already_claimed");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_roadmap_entry_is_an_error_of_that_todo_alone() {
    let site = Site::new();
    let repo = site.app(&["good", "bad"], "");
    repo.write("todos/roadmap.yaml", "- slug: good\n- slug: bad\n  after: good\n");
    repo.commit("a slip");
    let house = site.start(&[&repo]).await;
    house.order("good").await;
    let bad =
        problem(&house.work(json!({ "lane": "builder", "worker": "w2", "slug": "bad" })).await, 422, "todo_invalid");
    assert_eq!((&bad["file"], &bad["line"]), (&json!("todos/roadmap.yaml"), &json!(3)));
    // A file that cannot be read at all offers nothing, but who names a todo that has a directory gets it.
    repo.write("todos/roadmap.yaml", "- slug: [\n");
    repo.commit("worse");
    let none = problem(&next(&house, "w3").await, 404, "no_work");
    assert!(none["detail"].as_str().is_some_and(|detail| detail.contains("todos/roadmap.yaml:")), "{none}");
    order(&house.work(json!({ "lane": "builder", "worker": "w2", "slug": "bad", "wait_ms": 45_000 })).await);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_actor_leaves_when_nobody_asks_and_comes_back_on_demand() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site
        .start_with(&[&repo], &[("actors.idle_after_ms", "150")], slugline::actors::faults::Faults::default())
        .await;
    house.order("fix").await;
    let slugs = || async { house.handle.actors().await.iter().filter(|view| view.kind == "slug").count() };
    until("the slug's actor to leave", || async { (slugs().await == 0).then_some(()) }).await;
    let again = house.order("fix").await;
    assert_eq!(phase(&again, "worktree"), "skip/present");
    house.stop().await;
}
