//! Sessions: of claims, and of logs agents write themselves.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use hyper::Method;
use serde_json::{Value, json};
use slugline::actors::faults::Faults;

use super::ear::{Ear, Heard};
use super::harness::{House, Site, problem, until};

async fn sessions(house: &House, query: &str) -> Vec<Value> {
    let reply = house.client.get(&format!("/sessions{query}")).await.expect("answers");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json().as_array().expect("a list").clone()
}

async fn one(house: &House, id: &str) -> Value {
    house.client.get(&format!("/sessions/{id}")).await.expect("answers").json()
}

fn append(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("has one")).expect("makes");
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("opens");
    file.write_all(text.as_bytes()).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_claim_has_a_session_that_begins_and_ends_with_it() {
    let site = Site::new();
    let repo = site.app(&["one", "two"], "");
    let house = site.start(&[&repo]).await;
    let order = house.order("one").await;
    let id = order["claim"]["session"].as_str().expect("a session").to_owned();
    assert_eq!(id, "app~one~1");
    let shown = one(&house, &id).await;
    assert_eq!((&shown["status"], &shown["source"], &shown["events"]), (&json!("working"), &json!("claim"), &json!(0)));
    assert_eq!(
        (&shown["repo"], &shown["slug"], &shown["lane"], &shown["worker"]),
        (&json!("app"), &json!("one"), &json!("builder"), &json!("default"))
    );
    let token = &order["claim"]["token"];
    house.client.post("/todos/app/one/release", &json!({ "token": token })).await.expect("answers");
    let shown = one(&house, &id).await;
    assert_eq!((&shown["status"], &shown["how"]), (&json!("done"), &json!("released")));
    assert!(shown["ended_at"].is_string());
    house.order("one").await;
    let ids: Vec<Value> = sessions(&house, "?sort=started").await.iter().map(|session| session["id"].clone()).collect();
    assert_eq!(ids, [json!("app~one~2"), json!("app~one~1")]);
    house.stop().await;
    let house = site.start(&[&repo]).await;
    let after = until("sessions to be read", || async {
        let all = sessions(&house, "?sort=started").await;
        (all.len() == 2).then_some(all)
    })
    .await;
    assert_eq!(
        (&after[0]["status"], &after[1]["status"], &after[1]["how"]),
        (&json!("working"), &json!("done"), &json!("released"))
    );
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_reports_is_kept_once_told_and_there_after_a_restart() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start(&[&repo]).await;
    let id = house.order("one").await["claim"]["session"].as_str().expect("a session").to_owned();
    let path = format!("/sessions/{id}/events");
    let body = json!({ "events": [{ "kind": "tool", "text": "make", "data": { "exit": 0 } }, { "kind": "note" }] });
    let send = || async {
        let headers = [("content-type", "application/json"), ("idempotency-key", "report-1")];
        house.client.send(Method::POST, &path, &headers, body.to_string().into()).await.expect("answers")
    };
    let (first, again) = (send().await, send().await);
    assert_eq!(first.json(), json!({ "session": id, "accepted": 2, "events": 2 }));
    assert_eq!(first.body, again.body);
    house.stop().await;
    let house = site.start(&[&repo]).await;
    let events = house.client.get(&path).await.expect("answers").json();
    let kinds: Vec<&str> =
        events.as_array().expect("a list").iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds, ["tool", "note"]);
    assert_eq!(events[0]["data"], json!({ "exit": 0 }));
    let rest = house.client.get(&format!("{path}?after={}", events[0]["n"])).await.expect("answers").json();
    assert_eq!(rest.as_array().map(Vec::len), Some(1));
    let shown = until("sessions to be read", || async {
        let shown = one(&house, &id).await;
        (shown["events"] == 2).then_some(shown)
    })
    .await;
    assert_eq!(shown["last"]["kind"], "note");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_are_too_much_or_to_nobody_are_refused_with_what_is_wrong() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start(&[&repo]).await;
    let id = house.order("one").await["claim"]["session"].as_str().expect("a session").to_owned();
    let path = format!("/sessions/{id}/events");
    for (body, says) in [
        (json!({ "events": [] }), "1 to 100"),
        (json!({ "events": vec![json!({ "kind": "n" }); 101] }), "101"),
        (json!({ "events": [{ "kind": "n" }, { "kind": "No Such" }] }), "events[1]"),
        (json!({ "events": [{ "kind": "n", "extra": 1 }] }), "extra"),
        (json!({ "events": [{ "kind": "n", "text": "x".repeat(9_000) }] }), "8192"),
    ] {
        let said = problem(&house.client.post(&path, &body).await.expect("answers"), 400, "invalid_request");
        assert!(said["detail"].as_str().is_some_and(|detail| detail.contains(says)), "{says}: {said}");
    }
    let nobody = house.client.post("/sessions/app~none~1/events", &json!({ "events": [{ "kind": "n" }] })).await;
    problem(&nobody.expect("answers"), 404, "unknown_session");
    problem(&house.client.get("/sessions/NOT!").await.expect("answers"), 404, "unknown_session");
    problem(&house.client.get("/sessions?status=busy").await.expect("answers"), 400, "invalid_request");
    assert_eq!(one(&house, &id).await["events"], 0, "nothing of what was refused is there");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_alone_changes_what_a_session_is_called_and_everybody_is_told() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start_with(&[&repo], &[("sessions.dormant_after_ms", "1200000")], Faults::default()).await;
    let pass = |ms: i64| {
        house.wall_ms.fetch_add(ms, Ordering::SeqCst);
        house.awake_ms.fetch_add(ms, Ordering::SeqCst);
    };
    let id = house.order("one").await["claim"]["session"].as_str().expect("a session").to_owned();
    let mut ear = Ear::at(&house, &format!("?session={id}"), None).await;
    ear.next().await.expect("hello");
    // Until the actor has seen it working.
    house
        .client
        .post(&format!("/sessions/{id}/events"), &json!({ "events": [{ "kind": "note" }] }))
        .await
        .expect("answers");
    until("the session to be noticed", || async {
        let mut beat = tokio::time::interval(std::time::Duration::from_millis(1_200));
        beat.tick().await;
        beat.tick().await;
        Some(())
    })
    .await;
    pass(601_000);
    ear.hear("that it is stuck", |heard| heard.data["data"]["status"] == "stuck").await;
    assert_eq!(one(&house, &id).await["status"], "stuck");
    pass(600_000);
    ear.hear("that it is dormant", |heard| heard.data["data"]["status"] == "dormant").await;
    house
        .client
        .post(&format!("/sessions/{id}/events"), &json!({ "events": [{ "kind": "question", "text": "which?" }] }))
        .await
        .expect("answers");
    let shown = one(&house, &id).await;
    assert_eq!((&shown["status"], &shown["waits_for"]), (&json!("waiting"), &json!("which?")));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_as_they_grow_and_belong_to_the_worktree_they_were_written_in() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let logs = site.path("logs");
    append(&logs.join("project/before.jsonl"), "{\"type\":\"user\",\"text\":\"hello\"}\n");
    let file = format!("[sessions]\nlog_dirs = [{:?}]\n", logs.display().to_string());
    let house = site.start_from(&[&repo], &file).await;
    house.order("one").await;
    until("the first log to be there", || async {
        sessions(&house, "?q=before").await.first().filter(|log| log["events"] == 1).cloned()
    })
    .await;
    let mut ear = Ear::at(&house, "?types=session.updated", None).await;
    ear.next().await.expect("hello");
    let log = logs.join("project/agent.jsonl");
    let cwd = site.worktree("one").display().to_string();
    append(&log, &format!("{{\"type\":\"user\",\"cwd\":{cwd:?},\"text\":\"do it\"}}\n{{\"type\":\"assist"));
    // Made and written are two moments: the log may be told of while it is still empty.
    let is_written = |heard: &Heard| heard.data["data"]["title"] == "agent" && heard.data["data"]["events"] != 0;
    let heard = ear.hear("the new log", is_written).await;
    let id = heard.data["session"].as_str().expect("an id").to_owned();
    assert_eq!((&heard.data["repo"], &heard.data["slug"]), (&json!("app"), &json!("one")));
    assert_eq!(heard.data["data"]["events"], 1, "half a line is none");
    append(&log, "ant\",\"text\":\"done\"}\nno json at all\n");
    ear.hear("the rest", |heard| heard.data["session"] == id && heard.data["data"]["corrupt"] == 1).await;
    let shown = one(&house, &id).await;
    assert_eq!(
        (&shown["source"], &shown["events"], &shown["corrupt"], &shown["status"]),
        (&json!("log"), &json!(3), &json!(1), &json!("working"))
    );
    let events = house.client.get(&format!("/sessions/{id}/events")).await.expect("answers").json();
    assert_eq!(
        (&events[1]["text"], &events[2]["corrupt"], &events[2]["text"]),
        (&json!("done"), &json!(true), &json!("no json at all"))
    );
    let rows = house.client.get("/worktrees?wait_ms=45000&q=one").await.expect("answers").json();
    assert_eq!(rows[0]["sessions"], json!(["app~one~1", id]));
    let refused = house.client.post(&format!("/sessions/{id}/events"), &json!({ "events": [{ "kind": "n" }] })).await;
    problem(&refused.expect("answers"), 400, "invalid_request");
    append(&log, "{\"type\":\"result\",\"text\":\"over\"}\n");
    ear.hear("its end", |heard| heard.data["session"] == id && heard.data["data"]["status"] == "done").await;
    std::fs::remove_file(&log).expect("removes");
    until("it to be gone", || async { (one(&house, &id).await["code"] == "unknown_session").then_some(()) }).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_searched_filtered_sorted_grouped_and_paged() {
    let site = Site::new();
    let slugs = ["alpha", "beta", "gamma", "delta"];
    let repo = site.app(&slugs, "");
    let house = site.start(&[&repo]).await;
    for (slug, lane) in slugs.iter().zip(["red", "red", "blue", "blue"]) {
        let body = json!({ "lane": lane, "slug": slug, "worker": format!("w-{slug}"), "wait_ms": 45_000 });
        assert_eq!(house.work(body).await.status, 200);
    }
    house.client.post("/todos/app/alpha/release", &json!({ "token": 1 })).await.expect("answers");
    house
        .client
        .post("/todos/app/beta/hold", &json!({ "token": 1, "for_ms": 60_000, "why": "a person" }))
        .await
        .expect("answers");
    let names = |list: Vec<Value>| -> Vec<String> {
        list.iter().map(|session| session["slug"].as_str().unwrap_or("").to_owned()).collect()
    };
    assert_eq!(names(sessions(&house, "?lane=red&sort=title").await), ["alpha", "beta"]);
    assert_eq!(names(sessions(&house, "?status=waiting").await), ["beta"]);
    assert_eq!(names(sessions(&house, "?status=working,done&sort=title").await), ["alpha", "delta", "gamma"]);
    assert_eq!(names(sessions(&house, "?q=W-GAMMA").await), ["gamma"]);
    assert_eq!(names(sessions(&house, "?sort=status").await)[0], "beta", "what needs a person comes first");
    let groups = sessions(&house, "?group=lane&sort=title").await;
    assert_eq!(
        groups.iter().map(|group| (&group["group"], &group["count"])).collect::<Vec<_>>(),
        [(&json!("red"), &json!(2)), (&json!("blue"), &json!(2))]
    );
    let page = house.client.get("/sessions?sort=title&limit=3").await.expect("answers");
    assert_eq!(page.headers["x-total-count"], "4");
    let link = page.headers["link"].to_str().expect("text").to_owned();
    let next = link.trim_start_matches('<').split('>').next().expect("a link").to_owned();
    assert_eq!(names(sessions(&house, &next).await), ["gamma"]);
    let tag = page.headers["etag"].to_str().expect("text").to_owned();
    let again = house
        .client
        .send(Method::GET, "/sessions?sort=title&limit=3", &[("if-none-match", &tag)], hyper::body::Bytes::new())
        .await;
    assert_eq!(again.expect("answers").status, 304);
    house.stop().await;
}
