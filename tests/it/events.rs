//! The event stream.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use slugline::actors::faults::Faults;

use super::ear::{Ear, Heard};
use super::harness::{House, Site, problem, until};
use super::scale::{Dice, size};

/// A session to report to.
async fn session(house: &House) -> String {
    house.order("one").await["claim"]["session"].as_str().expect("a session").to_owned()
}

async fn report(house: &House, session: &str, text: &str) {
    let body = json!({ "events": [{ "kind": "note", "text": text }] });
    let reply = house.client.post(&format!("/sessions/{session}/events"), &body).await.expect("answers");
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn text_of(heard: &Heard) -> &str {
    heard.data["data"]["new"][0]["text"].as_str().unwrap_or("")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_greeted_and_hears_what_happens_typed_with_its_subject_in_order() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start(&[&repo]).await;
    let mut ear = Ear::at(&house, "", None).await;
    let hello = ear.next().await.expect("is greeted");
    assert_eq!((hello.kind.as_str(), &hello.data["seq"]), ("hello", &json!(hello.id)));
    assert_eq!(hello.data["server_version"], env!("CARGO_PKG_VERSION"));
    house.order("one").await;
    let mut kinds = BTreeSet::new();
    let mut last = hello.id;
    while !kinds.contains("operation.updated:succeeded") {
        let heard = ear.next().await.expect("goes on");
        assert!(heard.id > last, "ids rise");
        last = heard.id;
        assert_eq!((&heard.data["seq"], &heard.data["type"]), (&json!(heard.id), &json!(heard.kind)));
        assert!(heard.data["at"].is_string());
        assert_eq!(heard.data["repo"], "app", "{}", heard.data);
        let subject = if heard.kind.starts_with("worktree.") { "name" } else { "slug" };
        assert!(heard.data[subject].is_string(), "{}", heard.data);
        kinds.insert(match heard.data["data"]["state"].as_str() {
            Some(state) => format!("{}:{state}", heard.kind),
            None => heard.kind,
        });
    }
    assert!(kinds.contains("claim.granted") && kinds.contains("phase.finished"), "{kinds:?}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_hear_only_what_they_asked_for_and_a_wrong_question_says_what_there_is() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start(&[&repo]).await;
    let mut claims = Ear::at(&house, "?types=claim.*&repo=app", None).await;
    claims.next().await.expect("hello");
    let id = session(&house).await;
    let mut of_session = Ear::at(&house, &format!("?session={id}"), None).await;
    of_session.next().await.expect("hello");
    house.client.post("/lanes/builder/pause", &json!({ "reason": "x" })).await.expect("answers");
    report(&house, &id, "hear me").await;
    assert_eq!(claims.next().await.expect("goes on").kind, "claim.granted");
    assert_eq!(claims.within(Duration::from_millis(100)).await, None);
    let heard = of_session.next().await.expect("goes on");
    assert_eq!(
        (heard.kind.as_str(), text_of(&heard), &heard.data["session"]),
        ("session.updated", "hear me", &json!(id))
    );
    for (query, status, code) in [
        ("?types=change", 400, "invalid_request"),
        ("?repo=nobody", 404, "unknown_repository"),
        ("?type=claim.granted", 400, "invalid_request"),
        ("?last_event_id=abc", 400, "invalid_request"),
    ] {
        problem(&house.client.get(&format!("/events{query}")).await.expect("answers"), status, code);
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_hears_everything_once_and_in_order_however_often_it_goes() {
    let disconnects = usize::try_from(size("TEST_DISCONNECTS", [200, 1_000, 10_000])).expect("a number of them");
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = std::sync::Arc::new(site.start(&[&repo]).await);
    let id = session(&house).await;
    let start = Ear::at(&house, "?types=session.updated", None).await.next().await.expect("hello").id;
    let total = disconnects * 3;
    let writer = {
        let (house, id) = (house.clone(), id.clone());
        tokio::spawn(async move {
            for number in 0..total {
                report(&house, &id, &number.to_string()).await;
            }
        })
    };
    let (mut last, mut heard, mut connected, mut dice) = (start, Vec::new(), 0, Dice(0x5eed));
    while heard.len() < total {
        let mut ear = Ear::at(&house, "?types=session.updated", Some(last)).await;
        connected += 1;
        for _ in 0..=dice.below(6) {
            if heard.len() >= total {
                break;
            }
            let next = ear.next().await.expect("goes on");
            match next.kind.as_str() {
                "hello" => assert_eq!(next.id, last),
                "session.updated" if !text_of(&next).is_empty() => {
                    assert!(next.id > last, "{} after {last}", next.id);
                    last = next.id;
                    heard.push(text_of(&next).parse::<usize>().expect("a number"));
                }
                // A status that time has changed.
                "session.updated" => last = next.id,
                other => panic!("{other}: nothing can have been missed"),
            }
        }
    }
    assert_eq!(heard, (0..total).collect::<Vec<_>>());
    assert!(connected > disconnects / 2, "{connected}");
    writer.await.expect("ends");
    until("listeners to be gone", || async {
        let actors = house.client.get("/actors").await.expect("answers").json();
        let events = actors.as_array().expect("a list").iter().find(|actor| actor["kind"] == "events").cloned();
        (events.expect("one")["work"]["listeners"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_go_on_across_a_restart_and_what_cannot_be_told_again_is_said() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start(&[&repo]).await;
    let id = session(&house).await;
    report(&house, &id, "before").await;
    let mut ear = Ear::at(&house, "?types=session.updated", Some(0)).await;
    let before = ear.hear("the report", |heard| text_of(heard) == "before").await;
    report(&house, &id, "meanwhile").await;
    house.stop().await;
    let house = site.start(&[&repo]).await;
    let mut ear = Ear::at(&house, "?types=session.updated", Some(before.id)).await;
    assert_eq!(ear.next().await.expect("hello").kind, "hello");
    assert_eq!(text_of(&ear.next().await.expect("goes on")), "meanwhile");
    let mut lost = Ear::at(&house, "", Some(before.id + 1_000_000)).await;
    assert_eq!(lost.next().await.expect("hello").kind, "hello");
    let reset = lost.next().await.expect("goes on");
    assert_eq!(
        (reset.kind.as_str(), reset.data["reason"].as_str()),
        ("reset", Some("that event is not in this ledger"))
    );
    report(&house, &id, "after").await;
    lost.hear("what comes after a reset", |heard| text_of(heard) == "after").await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_listener_too_many_is_told_to_come_back_and_a_place_is_free_again_when_one_goes() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let house = site.start_with(&[&repo], &[("http.event_clients_max", "2")], Faults::default()).await;
    let first = Ear::at(&house, "", None).await;
    let _second = Ear::at(&house, "", None).await;
    let refused = house.client.get("/events").await.expect("answers");
    problem(&refused, 429, "busy");
    assert!(refused.headers.contains_key("retry-after"));
    drop(first);
    until("a place to be free", || async { (Ear::at(&house, "", None).await.status == 200).then_some(()) }).await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_every_stream_at_once() {
    let site = Site::new();
    let repo = site.app(&[], "");
    let house = site.start(&[&repo]).await;
    let mut ear = Ear::at(&house, "", None).await;
    ear.next().await.expect("hello");
    let stopping = tokio::spawn(house.stop());
    assert_eq!(ear.next().await, None);
    stopping.await.expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_goes_back_changes_no_id_and_no_order() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start(&[&repo]).await;
    let id = session(&house).await;
    let mut ear = Ear::at(&house, "?types=session.updated", None).await;
    let mut last = ear.next().await.expect("hello").id;
    for (number, step) in [0, -86_400_000, 10 * 365 * 86_400_000, -5].into_iter().enumerate() {
        house.wall_ms.fetch_add(step, Ordering::SeqCst);
        report(&house, &id, &number.to_string()).await;
        let heard = ear.hear("the report", |heard| text_of(heard) == number.to_string()).await;
        assert!(heard.id > last);
        last = heard.id;
    }
    let events: Value = house.client.get(&format!("/sessions/{id}/events")).await.expect("answers").json();
    let texts: Vec<&str> =
        events.as_array().expect("a list").iter().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(texts, ["0", "1", "2", "3"]);
    house.stop_with_all_kept().await;
}
