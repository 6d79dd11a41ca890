//! `Idempotency-Key`: a request that is sent again has no second effect and gets the same bytes, also from the next
//! daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use slugline::actors::faults::Faults;
use slugline::cli::client::{Client, Reply};
use slugline::model::event::EventKind;

use crate::harness::{Repo, Site, order, problem, until, work_events, write};

async fn send(client: &Client, path: &str, key: &str, body: &Value) -> Reply {
    let (method, path) = path.split_once(' ').unwrap_or(("POST", path));
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    client.send(method, path, &headers, Bytes::from(body.to_string())).await.expect("the daemon answers")
}

/// Every mutation there is, in an order in which each has an effect, with the path and body that make it.
fn mutations(token: u64) -> Vec<(&'static str, Value)> {
    vec![
        ("/todos/app", json!({ "slug": "filed", "brief": "do it" })),
        ("PUT /todos/app/two/after", json!({ "after": ["one"] })),
        ("/todos/app/one/heartbeat", json!({ "token": token, "progress": "reading" })),
        ("/todos/app/one/hold", json!({ "token": token, "for_ms": 5_000, "why": "a person" })),
        ("/lanes/other/pause", json!({ "reason": "a try" })),
        ("/lanes/other/resume", json!({})),
        ("/todos/app/one/complete", json!({ "token": token, "outcome": "blocked", "reason": "a person" })),
        ("/todos/app/one/redrive", json!({})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mutation_sent_three_times_has_one_effect_and_the_same_bytes_also_after_a_restart() {
    let site = Site::new();
    let repo = site.app(&["one", "two"], "");
    let house = site.start(&[&repo]).await;
    let work = json!({ "lane": "builder", "worker": "a", "wait_ms": 45_000 });
    let first = send(&house.client, "/todos/work", "work", &work).await;
    let token = order(&first)["claim"]["token"].as_u64().expect("a token");
    let mut answers = vec![("/todos/work", work, first)];
    for (path, body) in mutations(token) {
        let reply = send(&house.client, path, path.trim_start_matches("PUT "), &body).await;
        assert!(matches!(reply.status, 200 | 201), "{path}: {}", reply.text());
        answers.push((path, body, reply));
    }
    let release = json!({ "token": 99 });
    let refused = send(&house.client, "/todos/app/one/release", "release", &release).await;
    problem(&refused, 409, "stale_token");
    answers.push(("/todos/app/one/release", release, refused));
    let late = json!({ "token": 99, "outcome": "done", "summary": "too late" });
    let refused = send(&house.client, "/todos/app/one/complete", "late", &late).await;
    problem(&refused, 409, "stale_token");
    answers.push(("late", late, refused));
    let before = work_events(&house.handle).await;
    let key = |path: &'static str| match path {
        "/todos/work" => "work",
        "/todos/app/one/release" => "release",
        other => other.trim_start_matches("PUT "),
    };
    let mut house = house;
    for round in 0..2 {
        for (path, body, first) in &answers {
            let to = if *path == "late" { "/todos/app/one/complete" } else { path };
            let again = send(&house.client, to, key(path), body).await;
            assert_eq!((again.status, &again.body), (first.status, &first.body), "{path} in round {round}");
            assert_eq!(again.headers.get("content-type"), first.headers.get("content-type"));
        }
        assert_eq!(work_events(&house.handle).await, before, "nothing happened a second time");
        if round == 0 {
            house.stop().await;
            house = site.start(&[&repo]).await;
        }
    }
    let shown = house.client.get("/todos/app/one").await.expect("answers").json();
    assert_eq!(shown["parked"].as_array().map(Vec::len), Some(1), "a late result that is sent again is parked once");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_under_a_key_is_refused_and_changes_nothing() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let pause = json!({ "reason": "a try" });
    assert_eq!(send(&house.client, "/lanes/a/pause", "k", &pause).await.status, 200);
    for (path, body) in [
        ("/lanes/a/pause", json!({ "reason": "another" })),
        ("/lanes/b/pause", pause.clone()),
        ("/lanes/a/resume", json!({})),
        ("/todos/work", json!({ "lane": "builder" })),
    ] {
        problem(&send(&house.client, path, "k", &body).await, 422, "key_reused");
    }
    let lanes = house.client.get("/lanes").await.expect("answers").json();
    assert_eq!(lanes.as_array().map(Vec::len), Some(1), "{lanes}");
    for bad in ["", &"x".repeat(129), "a b"] {
        problem(&send(&house.client, "/lanes/a/pause", bad, &pause).await, 400, "invalid_request");
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_twin_is_being_answered_is_told_so_and_then_gets_its_answer() {
    let site = Site::new();
    let go = site.path("go");
    let settings =
        format!("[prepare]\ncommand = \"until test -e {}; do sleep 0.02; done\"\ninputs = [\"x\"]\n", go.display());
    let house = site.start(&[&site.app(&["one"], &settings)]).await;
    let body = json!({ "lane": "builder", "worker": "a", "slug": "one", "wait_ms": 45_000 });
    let first = {
        let (client, body) = (Client::tcp(house.address, Some(house.token.clone())), body.clone());
        tokio::spawn(async move { send(&client, "/todos/work", "k", &body).await })
    };
    until("the first to be at work", || async {
        let todo = house.client.get("/todos/app/one").await.expect("answers").json();
        todo["claim"]["token"].as_u64()
    })
    .await;
    problem(&send(&house.client, "/todos/work", "k", &body).await, 409, "key_in_flight");
    write(&go, "");
    let first = first.await.expect("no panic");
    let again = send(&house.client, "/todos/work", "k", &body).await;
    assert_eq!((again.status, again.body), (first.status, first.body));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_different_at_the_next_try_is_not_kept() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let work = |worker: &str| json!({ "lane": "builder", "worker": worker, "wait_ms": 45_000 });
    let held = send(&house.client, "/todos/work", "a", &work("a")).await;
    problem(&send(&house.client, "/todos/work", "b", &work("b")).await, 404, "no_work");
    let release = json!({ "token": order(&held)["claim"]["token"] });
    assert_eq!(send(&house.client, "/todos/app/one/release", "r", &release).await.status, 200);
    assert_eq!(send(&house.client, "/todos/work", "b", &work("b")).await.status, 200, "the same key, now with work");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_complete_sent_again_gets_the_same_operation() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "[[gates]]\nname = \"t\"\ncommand = \"sleep 0.2\"\n")]).await;
    let work = json!({ "lane": "builder", "worker": "a", "wait_ms": 45_000 });
    let token = order(&house.work(work).await)["claim"]["token"].clone();
    let worktree = Repo { path: site.worktree("one") };
    worktree.write("work", "done\n");
    worktree.commit("work");
    let client = &house.client;
    let body = json!({ "token": token, "outcome": "done" });
    let headers = [("content-type", "application/json"), ("idempotency-key", "k"), ("prefer", "respond-async")];
    let send = || async {
        let body = Bytes::from(body.to_string());
        client.send(Method::POST, "/todos/app/one/complete", &headers, body).await.expect("answers")
    };
    let first = send().await;
    assert_eq!(first.status, 202, "{}", first.text());
    let again = send().await;
    assert_eq!(
        (again.status, &again.body, again.headers.get("location")),
        (202, &first.body, first.headers.get("location"))
    );
    assert_eq!(house.ended(first.json()["id"].as_str().expect("an id")).await["state"], "succeeded");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_dies_between_its_commit_and_its_answer_answers_all_the_same_and_once() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    // The second message it handles once the fuse is lit is that its write is on disk.
    let fuse = Arc::new(AtomicUsize::new(0));
    let lit = fuse.clone();
    let faults = Faults::at_points(move |point| {
        if point == "dispatcher.handle" && lit.load(Ordering::SeqCst) > 0 && lit.fetch_sub(1, Ordering::SeqCst) == 1 {
            panic!("the test wants this dispatcher dead");
        }
    });
    let house = site.start_with(&[&repo], &[], faults).await;
    for (key, lane) in [("k", "a"), ("l", "b")] {
        fuse.store(2, Ordering::SeqCst);
        let body = json!({ "reason": "a try" });
        let path = format!("/lanes/{lane}/pause");
        let first = send(&house.client, &path, key, &body).await;
        assert_eq!((first.status, fuse.load(Ordering::SeqCst)), (200, 0), "{}", first.text());
        assert_eq!(send(&house.client, &path, key, &body).await.body, first.body);
    }
    let store = house.handle.context().ledger.store().expect("open");
    let events = store.events(0, 1_000).await.expect("reads");
    assert_eq!(events.iter().filter(|event| event.kind == EventKind::LanePaused).count(), 2);
    house.stop_with_all_kept().await;
}
