//! Operations: on disk before they are accepted, visible while they run, ended for good when they are ended.

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::{House, Site, lines, order, phase, problem, until, write};

/// A prepare that says what it does, and waits until it may end or half a minute has passed.
fn held(site: &Site) -> String {
    format!(
        "[prepare]\ncommand = \"echo begun; echo $$ >> {0}/on; i=0; while test ! -e {0}/go -a $i -lt 600; do sleep 0.05; i=$((i+1)); done; echo ended\"\n",
        site.path("").display()
    )
}

fn id_of(reply: &slugline::cli::client::Reply) -> String {
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_operation_is_on_disk_shows_its_phase_and_streams_its_log() {
    let site = Site::new();
    let repo = site.app(&["fix"], &held(&site));
    let house = site.start(&[&repo]).await;
    let body = json!({ "lane": "builder", "slug": "fix" }).to_string();
    let headers = [("content-type", "application/json"), ("prefer", "respond-async")];
    let reply = house.client.send(Method::POST, "/todos/work", &headers, body.into()).await.expect("answers");
    let id = id_of(&reply);
    assert_eq!(reply.headers["location"], format!("/operations/{id}"));
    assert!(reply.headers.contains_key("retry-after"));
    let key = slugline::model::ids::OperationId::parse(&id).expect("id");
    let kept = house.handle.context().ledger.store().expect("open").operation(&key).await.expect("reads");
    assert!(kept.is_some(), "answered before it was written");
    until("the prepare to be shown", || async { (house.operation(&id).await["phase"] == "prepare").then_some(()) })
        .await;
    until("the prepare to be on", || async { (lines(&site.path("on")) == 1).then_some(()) }).await;
    // The log is asked for while it runs and has everything once it has ended.
    let path = format!("/operations/{id}/log");
    let (log, ()) = tokio::join!(house.client.get(&path), async { write(&site.path("go"), "") });
    assert_eq!(log.expect("answers").text(), "begun\nended\n");
    let ended = house.ended(&id).await;
    assert_eq!((&ended["state"], &ended["result"]["operation"]), (&json!("succeeded"), &json!(id)));
    assert_eq!(phase(&ended, "prepare"), "run/worktree_created");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_answers_after_the_process_tree_is_dead() {
    let site = Site::new();
    let repo = site.app(&["fix"], &held(&site));
    let house = site.start(&[&repo]).await;
    let id = id_of(&house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 0 })).await);
    until("the prepare to be on", || async { (lines(&site.path("on")) == 1).then_some(()) }).await;
    let pid = std::fs::read_to_string(site.path("on")).expect("pid").trim().to_owned();
    let path = format!("/operations/{id}");
    let (waiting, cancelled) = tokio::join!(
        house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })),
        house.client.delete(&path)
    );
    assert!(!std::path::Path::new("/proc").join(&pid).exists(), "the command lives");
    assert_eq!(cancelled.expect("answers").json()["state"], "cancelled");
    problem(&waiting, 409, "cancelled");
    // What has ended stays as it ended.
    assert_eq!(house.client.delete(&format!("/operations/{id}")).await.expect("answers").json()["state"], "cancelled");
    write(&site.path("go"), "");
    assert_eq!(phase(&house.order("fix").await, "prepare"), "run/last_attempt_failed");
    problem(
        &house.client.get("/operations/01ARZ3NDEKTSV4RRFFQ69G5FAV").await.expect("answers"),
        404,
        "unknown_operation",
    );
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_interrupts_what_ran_and_only_its_end_lets_the_next_run_begin() {
    let site = Site::new();
    let repo = site.app(&["fix"], &held(&site));
    let mut daemon = site.spawn(&[&repo]).await;
    let id = id_of(
        &daemon
            .client
            .post("/todos/work", &json!({ "lane": "builder", "slug": "fix", "wait_ms": 0 }))
            .await
            .expect("answers"),
    );
    until("the prepare to be on", || async { (lines(&site.path("on")) == 1).then_some(()) }).await;
    let pid = std::fs::read_to_string(site.path("on")).expect("pid").trim().to_owned();
    daemon.kill();
    let daemon = site.spawn(&[&repo]).await;
    let operation = daemon.client.get(&format!("/operations/{id}")).await.expect("answers").json();
    assert_eq!((&operation["state"], &operation["problem"]["code"]), (&json!("interrupted"), &json!("interrupted")));
    write(&site.path("go"), "");
    let again = order(
        &daemon
            .client
            .post("/todos/work", &json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 }))
            .await
            .expect("answers"),
    );
    assert!(
        !std::path::Path::new("/proc").join(&pid).exists(),
        "a command of the dead daemon lives beside the new run"
    );
    assert_eq!(
        (phase(&again, "worktree"), phase(&again, "prepare")),
        ("skip/present".into(), "run/last_attempt_failed".into())
    );
    site.promises.work_in(&site.worktree("fix"));
    daemon.kill_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_what_runs_as_interrupted_and_exits_in_order() {
    let site = Site::new();
    let repo = site.app(&["fix"], &held(&site));
    let house =
        site.start_with(&[&repo], &[("http.drain_ms", "200")], slugline::actors::faults::Faults::default()).await;
    let id = id_of(&house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 0 })).await);
    until("the prepare to be on", || async { (lines(&site.path("on")) == 1).then_some(()) }).await;
    assert_eq!(house.stop().await, slugline::runtime::End::Asked);
    let house = site.start(&[&repo]).await;
    assert_eq!(house.operation(&id).await["state"], "interrupted");
    house.stop().await;
}

/// The ids of a list of operations.
async fn listed(house: &House, query: &str) -> Vec<String> {
    let reply = house.client.get(&format!("/operations{query}")).await.expect("answers");
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    let list = reply.json();
    let id = |operation: &Value| operation["id"].as_str().expect("an id").to_owned();
    list.as_array().expect("a list").iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_listed_newest_first_by_todo_and_state_and_the_newest_of_each() {
    let site = Site::new();
    let at = site.path("").display().to_string();
    let settings = format!(
        "[prepare]\ncommand = \"test ! -e {at}/broken && touch {at}/on && while test -e {at}/held; do sleep 0.05; done\"\n"
    );
    let repo = site.app(&["one", "two"], &settings);
    let house = site.start(&[&repo]).await;
    assert_eq!(listed(&house, "").await, [""; 0]);
    let again = |slug| json!({ "lane": "builder", "slug": slug, "refresh": true, "wait_ms": 45_000 });
    let ran = |reply: slugline::cli::client::Reply| {
        let told = reply.json();
        let by_problem = told["instance"].as_str().and_then(|at| at.strip_prefix("/operations/"));
        told["operation"].as_str().or(by_problem).unwrap_or_else(|| panic!("no operation: {told}")).to_owned()
    };
    let first = ran(house.work(again("one")).await);
    write(&site.path("broken"), "");
    let second = ran(house.work(again("two")).await);
    let third = ran(house.work(again("one")).await);
    std::fs::remove_file(site.path("broken")).expect("removes");
    let fourth = ran(house.work(again("one")).await);
    for (query, ids) in [
        ("", vec![&fourth, &third, &second, &first]),
        ("?repo=app", vec![&fourth, &third, &second, &first]),
        ("?repo=app&slug=one", vec![&fourth, &third, &first]),
        ("?repo=app&slug=nobody", vec![]),
        ("?state=failed", vec![&third, &second]),
        ("?state=succeeded,cancelled&repo=app", vec![&fourth, &first]),
        ("?state=queued,running", vec![]),
        ("?limit=2", vec![&fourth, &third]),
        ("?latest=true", vec![&fourth, &second]),
        ("?latest=true&state=failed", vec![&second]),
        ("?latest=true&repo=app&slug=one", vec![&fourth]),
        ("?latest=true&limit=1", vec![&fourth]),
        ("?latest=false&state=failed&limit=1", vec![&third]),
    ] {
        assert_eq!(listed(&house, query).await.iter().collect::<Vec<_>>(), ids, "{query}");
    }
    // An entry is the operation without what it came to, which can be long; a problem looks like every other one.
    let whole = house.operation(&second).await;
    let entry = &house.client.get("/operations?latest=true&state=failed").await.expect("answers").json()[0];
    let mut without = whole.clone();
    without.as_object_mut().expect("an object").remove("result");
    assert_eq!(*entry, without);
    assert_eq!(entry["problem"]["type"], "/problems/prepare-failed");
    // What runs is told as it is, though the ledger hears of that only at its end.
    write(&site.path("held"), "");
    std::fs::remove_file(site.path("on")).expect("removes");
    let fifth = id_of(&house.work(json!({ "lane": "builder", "slug": "two", "refresh": true, "wait_ms": 0 })).await);
    until("the prepare to be on", || async { site.path("on").exists().then_some(()) }).await;
    assert_eq!(listed(&house, "?state=running").await, [fifth.as_str()]);
    assert_eq!(listed(&house, "?state=running,failed&latest=true&limit=1").await, [fifth.as_str()]);
    assert_eq!(listed(&house, "?state=queued").await, [""; 0]);
    let entry = &house.client.get("/operations?limit=1").await.expect("answers").json()[0];
    assert_eq!((&entry["state"], &entry["phase"]), (&json!("running"), &json!("prepare")));
    std::fs::remove_file(site.path("held")).expect("removes");
    house.ended(&fifth).await;
    assert_eq!(listed(&house, "?latest=true").await, [fifth.as_str(), fourth.as_str()]);
    for (query, says) in [
        ("?slug=one", "repo"),
        ("?state=done", "interrupted"),
        ("?state=", "queued"),
        ("?limit=0", "1 to 500"),
        ("?limit=501", "1 to 500"),
        ("?latest=maybe", "latest"),
        ("?colour=red", "colour"),
    ] {
        let reply = house.client.get(&format!("/operations{query}")).await.expect("answers");
        let told = problem(&reply, 400, "invalid_request");
        assert!(told["detail"].as_str().is_some_and(|detail| detail.contains(says)), "{query}: {told}");
    }
    problem(&house.client.get("/operations?repo=nobody").await.expect("answers"), 404, "unknown_repository");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_data_is_refused_and_the_first_goes_on() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_slugline"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(site.path("data"))
        .output()
        .expect("starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use by another daemon"), "{output:?}");
    house.order("fix").await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_as_instructions_when_asked_for() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start(&[&repo]).await;
    let done = house.order("fix").await;
    let body = json!({ "lane": "builder", "slug": "fix" }).to_string();
    let headers = [("content-type", "application/json"), ("accept", "text/markdown")];
    let reply = house.client.send(Method::POST, "/todos/work", &headers, body.into()).await.expect("answers");
    assert_eq!(reply.headers["content-type"], "text/markdown; charset=utf-8");
    for part in [
        site.worktree("fix").display().to_string().as_str(),
        "todos/fix/requirements.md",
        "POST /todos/work",
        "token 1",
    ] {
        assert!(reply.text().contains(part), "{part}: {}", reply.text());
    }
    let path = format!("/operations/{}", done["operation"].as_str().expect("id"));
    let operation =
        house.client.send(Method::GET, &path, &[("accept", "text/markdown")], "".into()).await.expect("answers");
    assert!(operation.text().contains("succeeded"), "{}", operation.text());
    house.stop().await;
}
