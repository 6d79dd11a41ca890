//! Operations: on disk before they are accepted, visible while they run, ended for good when they are ended.

use hyper::Method;
use serde_json::json;

use crate::harness::{Site, lines, order, phase, problem, until, write};

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
