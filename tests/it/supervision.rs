//! Panics: the daemon stays up, only the slug concerned is disturbed, nothing accepted is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use slugline::actors::faults::Faults;

use crate::harness::{Site, lines, phase, problem, until, write};

/// Panics the given number of times at a point.
fn panics(point: &'static str, times: usize) -> Faults {
    let left = Arc::new(AtomicUsize::new(times));
    Faults::at_points(move |at| {
        if at == point && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            panic!("made to fail at {point}");
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_any_handler_costs_its_caller_nothing_but_time() {
    for point in ["slug.handle", "dispatcher.handle", "repository.handle"] {
        let site = Site::new();
        let repo = site.app(
            &["fix", "other"],
            &format!("[prepare]\ncommand = \"echo run >> {}/runs\"\n", site.path("").display()),
        );
        let house = site.start_with(&[&repo], &[], panics(point, 1)).await;
        let first = until(&format!("an answer in spite of {point}"), || async {
            let reply = house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await;
            assert!(reply.status == 200 || reply.json()["retryable"] == true, "{point}: {}", reply.text());
            (reply.status == 200).then(|| reply.json())
        })
        .await;
        assert_eq!(first["slug"], "fix");
        house.begun("other").await;
        assert_eq!(lines(&site.path("runs")), 2, "{point}");
        house.stop_with_all_kept().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_when_its_slugs_actor_dies_and_is_joined_again() {
    let site = Site::new();
    let go = site.path("go");
    let repo = site.app(&["fix", "other"], &format!("[prepare]\ncommand = \"test $SLUGLINE_SLUG = other && exit 0; echo run >> {0}/runs; i=0; while test ! -e {0}/go -a $i -lt 600; do sleep 0.05; i=$((i+1)); done\"\n", site.path("").display()));
    let armed = Arc::new(AtomicUsize::new(0));
    let trigger = armed.clone();
    let faults = Faults::at_points(move |at| {
        if at == "slug.handle"
            && trigger.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        {
            panic!("made to fail");
        }
    });
    let house = site.start_with(&[&repo], &[], faults).await;
    house.begun("other").await;
    let id = house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 0 })).await.json()["id"].clone();
    until("the prepare to be on", || async { (lines(&site.path("runs")) == 1).then_some(()) }).await;
    armed.store(1, Ordering::SeqCst);
    // The actor dies of this call; the call is asked again and its next incarnation finds the run.
    let joined = house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 0 })).await;
    assert_eq!((joined.status, &joined.json()["id"], armed.load(Ordering::SeqCst)), (202, &id, 0), "{}", joined.text());
    write(&go, "");
    assert_eq!(house.ended(id.as_str().expect("an id")).await["state"], "succeeded");
    assert_eq!(phase(&house.order("fix").await, "prepare"), "skip/inputs_unchanged");
    assert_eq!(lines(&site.path("runs")), 1);
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_inside_a_phase_is_an_answer_and_the_next_call_works() {
    let site = Site::new();
    let repo = site.app(&["fix"], "[prepare]\ncommand = \"true\"\n");
    let house = site.start_with(&[&repo], &[], panics("prepare", 1)).await;
    let failed =
        problem(&house.work(json!({ "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await, 500, "internal");
    assert!(failed["detail"].as_str().is_some_and(|detail| detail.contains("inside the daemon")), "{failed}");
    assert_eq!(phase(&house.order("fix").await, "prepare"), "run/never_prepared");
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_fails_for_ever_is_given_up_in_sight_of_everybody() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let house = site.start_with(&[&repo], &[], panics("slug.handle", 1_000_000)).await;
    let views = until("the slug's actor to be given up", || async {
        let reply = house.work(json!({ "lane": "builder", "slug": "fix" })).await;
        let body: Value = reply.json();
        assert_eq!((reply.status, &body["code"]), (503, &json!("restarting")), "{body}");
        let views = house.client.get("/actors").await.expect("answers").json();
        let given_up = views.as_array()?.iter().any(|view| view["kind"] == "slug" && view["state"] == "given_up");
        given_up.then_some(views)
    })
    .await;
    let slug = views.as_array().expect("a list").iter().find(|view| view["kind"] == "slug").expect("listed").clone();
    assert!(
        slug["reasons"][4]["text"].as_str().is_some_and(|why| why.contains("made to fail"))
            && slug["restarts"].as_u64() == Some(5),
        "{slug}"
    );
    for kind in ["root", "ledger", "dispatcher", "repository"] {
        assert!(
            views.as_array().expect("a list").iter().any(|view| view["kind"] == kind && view["state"] == "running"),
            "{kind}"
        );
    }
    assert_eq!(house.client.get("/readyz").await.expect("answers").status, 200, "one slug's actor is not the daemon");
    house.stop().await;
    site.start(&[&repo]).await.stop_with_all_kept().await;
}
