//! Claims: nobody gets a todo twice, leases end when they should and not before, a complete counts once, and what comes
//! too late is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use slugline::actors::dispatcher::DispatcherMsg;
use slugline::actors::faults::Faults;
use slugline::cli::client::Reply;
use slugline::model::desk::{Change, Claimed};
use slugline::model::filed::{FILED_MAX, Filed};
use slugline::model::ids::{Lane, RepoName, Slug, TodoKey, Worker};
use slugline::model::time::Timestamp;
use slugline::model::todo::{Asker, TodoState};
use slugline::store::{Store, Write};

use crate::harness::{House, PATIENCE, Repo, Site, order, problem, until, write};
use crate::scale::{Dice, seed, size};

/// Ten years in milliseconds.
const TEN_YEARS_MS: i64 = 10 * 365 * 86_400_000;
/// The default lease in milliseconds.
const LEASE_MS: i64 = 2_700_000;

async fn claim(house: &House, lane: &str, worker: &str) -> Reply {
    house.work(json!({ "lane": lane, "worker": worker, "wait_ms": 45_000 })).await
}

async fn claim_slug(house: &House, slug: &str, worker: &str) -> Reply {
    house.work(json!({ "lane": "builder", "worker": worker, "slug": slug, "wait_ms": 45_000 })).await
}

async fn say(house: &House, slug: &str, verb: &str, body: Value) -> Reply {
    house.client.post(&format!("/todos/app/{slug}/{verb}"), &body).await.expect("the daemon answers")
}

async fn todo(house: &House, slug: &str) -> Value {
    house.client.get(&format!("/todos/app/{slug}")).await.expect("the daemon answers").json()
}

fn token(reply: &Reply) -> u64 {
    order(reply)["claim"]["token"].as_u64().expect("a token")
}

fn good(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// A complete that is waited for, however long it is judged.
async fn complete(house: &House, slug: &str, body: Value) -> Reply {
    let reply = say(house, slug, "complete", body).await;
    if reply.status != 202 {
        return reply;
    }
    let id = reply.json()["id"].as_str().expect("an id").to_owned();
    let ended = house.ended(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    Reply { status: 200, body: ended["result"].to_string().into(), ..reply }
}

/// Commits something in the worktree of a slug.
fn commit_in(site: &Site, slug: &str, file: &str) -> String {
    let worktree = Repo { path: site.worktree(slug) };
    worktree.write(file, &format!("{slug}\n"));
    worktree.commit(&format!("{file} of {slug}"))
}

/// The events of the ledger, oldest first, as `kind token` of one todo.
async fn log(house: &House, slug: &str) -> Vec<String> {
    let history = todo(house, slug).await["history"].as_array().expect("history").clone();
    let mut entries: Vec<String> = history
        .iter()
        .filter(|entry| entry["kind"].as_str().is_some_and(|kind| kind.starts_with("claim.")))
        .map(|entry| format!("{} {}", entry["kind"].as_str().unwrap_or("?"), entry["data"]["token"]))
        .collect();
    entries.reverse();
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_one_lane_never_hold_the_same_todo() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one", "two"], "")]).await;
    let (a, b) = tokio::join!(claim(&house, "builder", "a"), claim(&house, "builder", "b"));
    assert_ne!(order(&a)["slug"], order(&b)["slug"]);
    let refused = claim_slug(&house, order(&a)["slug"].as_str().expect("slug"), "b").await;
    let refused = problem(&refused, 409, "already_claimed");
    assert_eq!((&refused["lane"], &refused["worker"]), (&json!("builder"), &json!("a")));
    assert!(refused["expires_at"].is_string());
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_claim_after_a_lost_answer_is_the_same_grant_and_writes_nothing() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one", "two"], "")]).await;
    let first = order(&claim(&house, "builder", "a").await);
    let commits = |actors: &Value| {
        let ledger = actors.as_array().expect("actors").iter().find(|actor| actor["kind"] == "ledger").cloned();
        ledger.expect("a ledger")["work"]["stats"]["commits"].clone()
    };
    let before = commits(&house.client.get("/actors").await.expect("answers").json());
    let again = order(&claim(&house, "builder", "a").await);
    assert_eq!(again["claim"]["guard"], "duplicate_claim_guard");
    for member in ["token", "worker", "granted_at", "expires_at"] {
        assert_eq!(first["claim"][member], again["claim"][member], "{member}");
    }
    assert_eq!(first["slug"], again["slug"]);
    assert_eq!(before, commits(&house.client.get("/actors").await.expect("answers").json()));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_carries_the_lease_on_and_never_back() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let first = good(&say(&house, "one", "heartbeat", json!({ "token": token, "progress": "reading" })).await);
    house.awake_ms.fetch_add(60_000, Ordering::SeqCst);
    house.wall_ms.fetch_add(60_000, Ordering::SeqCst);
    let less = good(&say(&house, "one", "heartbeat", json!({ "token": token, "extend_ms": 1 })).await);
    assert_eq!(first["expires_at"], less["expires_at"], "a short extension takes nothing away");
    let more = good(&say(&house, "one", "heartbeat", json!({ "token": token, "progress": "writing" })).await);
    assert!(more["expires_at"].as_str() > less["expires_at"].as_str(), "{more}");
    assert_eq!(more["verbs"], json!([]));
    let shown = todo(&house, "one").await;
    assert_eq!(shown["claim"]["progress"], "writing");
    assert_eq!(log(&house, "one").await, ["claim.granted 1"], "signs of life are no events");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticker_alone_keeps_a_wedged_worker_no_longer_than_its_progress_allows() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let (mut beats, mut warned) = (0, false);
    let refused = loop {
        house.awake_ms.fetch_add(LEASE_MS / 2, Ordering::SeqCst);
        let beat = say(&house, "one", "heartbeat", json!({ "token": token, "progress": "still at it" })).await;
        if beat.status != 200 {
            break beat;
        }
        warned = beat.json()["verbs"] == json!(["progress_needed"]);
        beats += 1;
        assert!(beats < 50, "the lease never ends");
    };
    assert!(warned, "it was told that it has to report something new");
    problem(&refused, 409, "stale_token");
    assert_eq!(log(&house, "one").await, ["claim.granted 1", "claim.expired 1"]);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_work_is_offered_again_by_itself_with_a_new_token_also_to_the_same_worker() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    assert_eq!(token(&claim(&house, "builder", "a").await), 1);
    problem(&claim(&house, "builder", "b").await, 404, "no_work");
    house.awake_ms.fetch_add(LEASE_MS, Ordering::SeqCst);
    // Nobody asks: the daemon notices.
    until("the lease to be ended", || async {
        log(&house, "one").await.contains(&"claim.expired 1".to_owned()).then_some(())
    })
    .await;
    assert_eq!(todo(&house, "one").await["attempts"], 1, "an expiry counts as an attempt");
    assert_eq!(token(&claim(&house, "builder", "a").await), 2);
    assert_eq!(log(&house, "one").await, ["claim.granted 1", "claim.expired 1", "claim.granted 2"]);
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_sleep_nor_steps_of_the_clock_end_a_lease_or_keep_a_dead_one() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    for step in [TEN_YEARS_MS, -2 * TEN_YEARS_MS, TEN_YEARS_MS, 8 * 3_600_000, -3_600_000] {
        house.wall_ms.fetch_add(step, Ordering::SeqCst);
        let beat = good(&say(&house, "one", "heartbeat", json!({ "token": token })).await);
        let offered = claim(&house, "builder", "b").await;
        problem(&offered, 404, "no_work");
        assert!(beat["expires_at"].is_string());
    }
    house.awake_ms.fetch_add(LEASE_MS, Ordering::SeqCst);
    assert_eq!(crate::claims::token(&claim(&house, "builder", "b").await), 2, "a dead lease ends all the same");
    house.stop_with_all_kept().await;
}

/// Where the wall clock may be set to: back to the beginning, years and hours to and fro, a second back again and again.
fn jump(house: &House, dice: &mut Dice) {
    let by = *dice.one_of(&[TEN_YEARS_MS, -TEN_YEARS_MS, 3_600_000, -3_600_000, -1_000, -1_000, 0]);
    if by == 0 {
        let now = house.handle.context().clock.now().as_ms();
        house.wall_ms.fetch_sub(now, Ordering::SeqCst);
    } else {
        house.wall_ms.fetch_add(by, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_the_wall_clock_jumps_who_beats_keeps_its_claim_and_who_is_silent_loses_it_in_time() {
    /// Parts of a lease between two beats.
    const PARTS: i64 = 4;
    let site = Site::new();
    let repo = site.app(&["beats", "silent"], "");
    let settings = [
        ("attempts.max", "1000"),
        ("attempts.backoff_min_ms", "0"),
        ("attempts.backoff_max_ms", "0"),
        ("breaker.failures", "1000"),
    ];
    let house = site.start_with(&[&repo], &settings, Faults::default()).await;
    let beating = token(&claim_slug(&house, "beats", "heron").await);
    let mut silent = token(&claim_slug(&house, "silent", "w0").await);
    let (mut dice, mut left) = (Dice(seed(Some(7))), PARTS);
    for step in 1..=size("TEST_CLOCK_STEPS", [80, 1_000, 3_000]) {
        jump(&house, &mut dice);
        house.awake_ms.fetch_add(LEASE_MS / PARTS, Ordering::SeqCst);
        let beat = json!({ "token": beating, "progress": format!("step {step}") });
        good(&say(&house, "beats", "heartbeat", beat).await);
        left -= 1;
        let next = claim_slug(&house, "silent", &format!("w{step}")).await;
        if left > 0 {
            problem(&next, 409, "already_claimed");
        } else {
            assert_eq!(token(&next), silent + 1, "a dead lease ends all the same");
            (silent, left) = (silent + 1, PARTS);
        }
    }
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_neither_ends_leases_nor_makes_them_whole_again() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start(&[&repo]).await;
    let token = token(&claim(&house, "builder", "a").await);
    house.awake_ms.fetch_add(LEASE_MS - 60_000, Ordering::SeqCst);
    // The time that was waked through is noted with the next write.
    good(&say(&house, "one", "heartbeat", json!({ "token": token, "extend_ms": 0 })).await);
    house.stop().await;
    let house = site.start(&[&repo]).await;
    house.wall_ms.fetch_add(3 * 86_400_000, Ordering::SeqCst);
    let held = order(&claim(&house, "builder", "a").await);
    assert_eq!((&held["claim"]["token"], &held["claim"]["guard"]), (&json!(1), &json!("duplicate_claim_guard")));
    house.awake_ms.fetch_add(60_000, Ordering::SeqCst);
    assert_eq!(crate::claims::token(&claim(&house, "builder", "b").await), 2);
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_waits_for_a_person_within_its_bound() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let day = 86_400_000;
    let held =
        good(&say(&house, "one", "hold", json!({ "token": token, "for_ms": day, "why": "which region?" })).await);
    assert!(held["expires_at"].is_string());
    assert_eq!(todo(&house, "one").await["claim"]["hold"]["why"], "which region?");
    house.awake_ms.fetch_add(day - 1_000, Ordering::SeqCst);
    good(&say(&house, "one", "heartbeat", json!({ "token": token })).await);
    let refused = say(&house, "one", "hold", json!({ "token": token, "for_ms": day, "why": "still" })).await;
    let refused = problem(&refused, 409, "hold_limit");
    assert!(refused["left_ms"].as_i64().is_some_and(|left| left <= 1_000), "{refused}");
    for bad in [json!({ "token": token, "for_ms": 0, "why": "x" }), json!({ "token": token, "for_ms": 5, "why": " " })]
    {
        problem(&say(&house, "one", "hold", bad).await, 400, "invalid_request");
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_is_offered_at_once_and_counts_as_no_attempt() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let first = good(&say(&house, "one", "release", json!({ "token": token })).await);
    let again = good(&say(&house, "one", "release", json!({ "token": token })).await);
    assert_eq!((&first["guard"], &again["guard"]), (&Value::Null, &json!("duplicate_release_guard")));
    assert_eq!(first["released_at"], again["released_at"]);
    assert_eq!(todo(&house, "one").await["attempts"], 0);
    assert_eq!(crate::claims::token(&claim(&house, "builder", "b").await), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_complete_counts_once_and_is_answered_the_same() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let body = json!({ "token": token, "outcome": "done", "summary": "it works" });
    let first = good(&complete(&house, "one", body.clone()).await);
    let again = good(&complete(&house, "one", body).await);
    assert_eq!((&first["guard"], &again["guard"]), (&Value::Null, &json!("duplicate_complete_guard")));
    for member in ["stage", "token", "outcome", "completed_at", "operation", "attempts"] {
        assert_eq!(first[member], again[member], "{member}");
    }
    assert_eq!(log(&house, "one").await, ["claim.granted 1", "claim.released 1"]);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_completes_of_one_claim_are_judged_once() {
    let site = Site::new();
    let gates = site.path("gates");
    let settings = format!("[[gates]]\nname = \"t\"\ncommand = \"echo x >> {}; sleep 0.3\"\n", gates.display());
    let house = site.start(&[&site.app(&["one"], &settings)]).await;
    let token = token(&claim(&house, "builder", "a").await);
    commit_in(&site, "one", "work");
    let before = crate::harness::lines(&gates);
    let body = json!({ "token": token, "outcome": "done" });
    let all = futures_util::future::join_all((0..8).map(|_| complete(&house, "one", body.clone()))).await;
    for reply in &all {
        assert_eq!(good(reply)["stage"], "integrate", "{}", reply.text());
    }
    assert_eq!(crate::harness::lines(&gates), before + 1);
    assert_eq!(log(&house, "one").await, ["claim.granted 1", "claim.released 1"]);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_failed_complete_is_one_attempt_and_the_wait_is_enforced() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let body = json!({ "token": token, "outcome": "failed", "reason": "no network" });
    for _ in 0..3 {
        assert_eq!(good(&say(&house, "one", "complete", body.clone()).await)["attempts"], 1);
    }
    let waits = problem(&claim_slug(&house, "one", "a").await, 409, "backoff");
    assert!(waits["retry_after_ms"].as_u64().is_some_and(|ms| ms > 20_000), "{waits}");
    let none = problem(&claim(&house, "builder", "b").await, 404, "no_work");
    assert_eq!(none["reasons"][0]["code"], "backoff");
    house.awake_ms.fetch_add(30_000, Ordering::SeqCst);
    assert_eq!(crate::claims::token(&claim(&house, "builder", "b").await), 2);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_todo_that_fails_again_and_again_becomes_a_dead_letter_until_a_person_redrives_it() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    for attempt in 1..=5 {
        let token = token(&claim(&house, "builder", "a").await);
        let reason = format!("cause number {}", ["one", "two", "three", "four", "five"][attempt - 1]);
        let body = json!({ "token": token, "outcome": "failed", "reason": reason });
        let ended = good(&say(&house, "one", "complete", body).await);
        assert_eq!(ended["attempts"], attempt);
        assert_eq!(ended["stage"], if attempt == 5 { "blocked" } else { "build" });
        house.awake_ms.fetch_add(3_600_000, Ordering::SeqCst);
    }
    let shown = todo(&house, "one").await;
    assert_eq!((&shown["blocked"]["dead_letter"], &shown["stage"]), (&json!(true), &json!("blocked")));
    let refused = problem(&claim_slug(&house, "one", "a").await, 409, "todo_blocked");
    let path = refused["redrive"].as_str().expect("a way out").to_owned();
    assert_eq!(good(&house.client.post(&path, &json!({})).await.expect("answers"))["stage"], "build");
    assert_eq!(good(&house.client.post(&path, &json!({})).await.expect("answers"))["guard"], "nothing_to_redrive");
    assert_eq!(token(&claim(&house, "builder", "a").await), 6);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_blocked_waits_for_a_person_and_comes_back_to_its_stage() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let unsaid = json!({ "token": token, "outcome": "blocked" });
    problem(&say(&house, "one", "complete", unsaid).await, 400, "invalid_request");
    let body = json!({ "token": token, "outcome": "blocked", "reason": "needs the key of the vault" });
    assert_eq!(good(&say(&house, "one", "complete", body).await)["stage"], "blocked");
    let none = problem(&claim(&house, "builder", "b").await, 404, "no_work");
    assert_eq!(none["reasons"][0]["why"], "blocked: needs the key of the vault");
    good(&say(&house, "one", "redrive", json!({})).await);
    assert_eq!(order(&claim(&house, "builder", "b").await)["stage"], "build");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_changes_nothing_names_the_holder_and_is_parked() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let late = token(&claim(&house, "builder", "slow").await);
    house.awake_ms.fetch_add(LEASE_MS, Ordering::SeqCst);
    let now = token(&claim(&house, "builder", "next").await);
    let body = json!({ "token": late, "outcome": "done", "summary": "two hours of work" });
    let refused = problem(&say(&house, "one", "complete", body).await, 409, "stale_token");
    assert_eq!((&refused["holder"]["worker"], &refused["holder"]["token"]), (&json!("next"), &json!(now)));
    assert_eq!(refused["ended"]["how"], "expired");
    let never = json!({ "token": 99, "outcome": "failed", "reason": "made up" });
    problem(&say(&house, "one", "complete", never).await, 409, "stale_token");
    for (verb, body) in [
        ("heartbeat", json!({ "token": late })),
        ("hold", json!({ "token": late, "for_ms": 5, "why": "a person" })),
        ("release", json!({ "token": late })),
    ] {
        problem(&say(&house, "one", verb, body).await, 409, "stale_token");
    }
    let shown = todo(&house, "one").await;
    assert_eq!(shown["stage"], "build");
    assert_eq!(shown["claim"]["worker"], "next");
    let parked = shown["parked"].as_array().expect("parked");
    assert_eq!(parked.len(), 2);
    assert_eq!(parked[1]["result"]["summary"], "two hours of work");
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_judged_on_the_server_and_a_red_gate_leaves_the_claim() {
    let site = Site::new();
    let settings =
        "[[gates]]\nname = \"green\"\ncommand = \"test -e fixed || { echo the answer is wrong; exit 3; }\"\n";
    let repo = site.app(&["one"], settings);
    repo.write("fixed", "on the base\n");
    repo.commit("green base");
    let house = site.start(&[&repo]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let worktree = Repo { path: site.worktree("one") };
    std::fs::remove_file(worktree.path.join("fixed")).expect("removes");
    worktree.commit("broken");
    let body = json!({ "token": token, "outcome": "done" });
    let red = problem(&say(&house, "one", "complete", body.clone()).await, 422, "gate_failed");
    assert_eq!(red["name"], "green", "{red}");
    assert_eq!(todo(&house, "one").await["claim"]["token"].as_u64(), Some(token), "the claim lives on");
    let failures = house.client.get("/failures").await.expect("answers").json();
    assert_eq!((&failures[0]["source"], &failures[0]["count"]), (&json!("gate"), &json!(1)));
    assert!(failures[0]["sample"].as_str().is_some_and(|words| words.contains("the answer is wrong")), "{failures}");
    write(&worktree.path.join("fixed"), "better\n");
    let dirty = problem(&say(&house, "one", "complete", body.clone()).await, 409, "local_changes");
    assert_eq!(dirty["files"], json!(["fixed"]));
    worktree.commit("mended");
    let done = good(&complete(&house, "one", body).await);
    assert_eq!(done["stage"], "integrate");
    assert!(done["phases"].to_string().contains("\"passed\""), "{done}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_todo_goes_through_review_and_fix_and_onto_the_base_before_it_is_done() {
    let site = Site::new();
    let repo = site.app(&["one", "two"], "[todos]\nreview = \"required\"\n");
    repo.write("todos/roadmap.yaml", "- slug: one\n- slug: two\n  after: [one]\n");
    repo.commit("two comes after one");
    let house = site.start(&[&repo]).await;
    let built = token(&claim(&house, "builder", "a").await);
    commit_in(&site, "one", "feature");
    let premature = json!({ "token": built, "outcome": "done", "review": "approved" });
    problem(&say(&house, "one", "complete", premature).await, 400, "invalid_request");
    let done = json!({ "token": built, "outcome": "done" });
    assert_eq!(good(&complete(&house, "one", done).await)["stage"], "review");

    problem(&claim_slug(&house, "one", "a").await, 409, "own_work");
    let none = problem(&claim(&house, "builder", "a").await, 404, "no_work");
    assert_eq!(none["reasons"][0]["code"], "own_work");
    let review = claim(&house, "builder", "b").await;
    assert_eq!(order(&review)["stage"], "review");
    let token_b = token(&review);
    problem(
        &say(&house, "one", "complete", json!({ "token": token_b, "outcome": "done" })).await,
        400,
        "invalid_request",
    );
    let unsaid = json!({ "token": token_b, "outcome": "done", "review": "changes_requested" });
    problem(&say(&house, "one", "complete", unsaid).await, 400, "invalid_request");
    let findings =
        json!({ "token": token_b, "outcome": "done", "review": "changes_requested", "findings": "no test for it" });
    assert_eq!(good(&complete(&house, "one", findings).await)["stage"], "fix");

    let fix = order(&claim(&house, "builder", "a").await);
    assert_eq!((&fix["stage"], &fix["findings"]), (&json!("fix"), &json!("no test for it")));
    commit_in(&site, "one", "test");
    let fixed = json!({ "token": fix["claim"]["token"], "outcome": "done" });
    assert_eq!(good(&complete(&house, "one", fixed).await)["stage"], "review");
    let review = token(&claim(&house, "builder", "b").await);
    let approved = json!({ "token": review, "outcome": "done", "review": "approved" });
    assert_eq!(good(&complete(&house, "one", approved).await)["stage"], "integrate");

    let integrate = token(&claim(&house, "builder", "c").await);
    let early = json!({ "token": integrate, "outcome": "done" });
    problem(&say(&house, "one", "complete", early.clone()).await, 409, "not_integrated");
    problem(&claim_slug(&house, "two", "d").await, 409, "dependencies_unmet");
    repo.git(&["merge", "--quiet", "--no-ff", "--message", "integrate", "one"]);
    assert_eq!(good(&complete(&house, "one", early).await)["stage"], "done");
    assert_eq!(order(&claim(&house, "builder", "d").await)["slug"], "two");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_comes_onto_the_base_by_other_hands_is_done_by_itself() {
    let site = Site::new();
    let repo = site.app(&["one", "two", "three"], "");
    let house = site.start(&[&repo]).await;
    for (slug, worker) in [("one", "a"), ("two", "b")] {
        let token = token(&claim_slug(&house, slug, worker).await);
        commit_in(&site, slug, slug);
        let body = json!({ "token": token, "outcome": "done" });
        assert_eq!(good(&complete(&house, slug, body).await)["stage"], "integrate");
    }
    repo.git(&["merge", "--quiet", "--no-ff", "--message", "one", "one"]);
    repo.git(&["merge", "--quiet", "--squash", "two"]);
    repo.commit("two, squashed");
    claim(&house, "other", "z").await;
    until("both to be done", || async {
        let (one, two) = (todo(&house, "one").await, todo(&house, "two").await);
        (one["stage"] == "done" && two["stage"] == "done").then_some(())
    })
    .await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_claim_is_over_does_nothing_more_for_it() {
    let site = Site::new();
    let go = site.path("go");
    let settings =
        format!("[prepare]\ncommand = \"until test -e {}; do sleep 0.02; done\"\ninputs = [\"x\"]\n", go.display());
    let house = site.start(&[&site.app(&["one"], &settings)]).await;
    let running = house.work(json!({ "lane": "builder", "worker": "a", "slug": "one", "wait_ms": 0 })).await;
    let id = running.json()["id"].as_str().expect("an operation").to_owned();
    until("the claim", || async { todo(&house, "one").await["claim"]["token"].as_u64() }).await;
    until("the prepare", || async { (house.operation(&id).await["phase"] == "prepare").then_some(()) }).await;
    good(&say(&house, "one", "release", json!({ "token": 1 })).await);
    write(&go, "");
    let ended = house.ended(&id).await;
    assert_eq!(ended["problem"]["code"], "stale_token", "{ended}");
    assert_eq!(log(&house, "one").await, ["claim.granted 1", "claim.released 1"], "nothing was claimed again");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_todo_can_be_filed_ordered_and_worked_on_without_a_file() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let post = |path: &'static str, body: Value| {
        let client = &house.client;
        async move { client.post(path, &body).await.expect("answers") }
    };
    let new = json!({ "slug": "urgent", "brief": "Restart the **mail**.", "priority": 5 });
    assert_eq!(post("/todos/app", new.clone()).await.status, 201);
    assert_eq!(good(&post("/todos/app", new).await)["guard"], "duplicate_todo_guard");
    for taken in [json!({ "slug": "urgent", "brief": "other" }), json!({ "slug": "one" })] {
        problem(&post("/todos/app", taken).await, 409, "todo_exists");
    }
    let unknown = json!({ "slug": "later", "after": ["ghost"] });
    problem(&post("/todos/app", unknown).await, 404, "unknown_slug");
    assert_eq!(post("/todos/app", json!({ "slug": "later", "after": ["urgent"] })).await.status, 201);
    let cycle = house.client.send(
        hyper::Method::PUT,
        "/todos/app/urgent/after",
        &[("content-type", "application/json")],
        json!({ "after": ["later"] }).to_string().into(),
    );
    let cycle = problem(&cycle.await.expect("answers"), 409, "dependency_cycle");
    assert_eq!(cycle["path"], json!(["urgent", "later", "urgent"]));

    let work = order(&claim(&house, "builder", "a").await);
    assert_eq!((&work["slug"], &work["instructions"]), (&json!("urgent"), &json!("Restart the **mail**.")));
    problem(&claim_slug(&house, "later", "b").await, 409, "dependencies_unmet");
    let body = json!({ "token": work["claim"]["token"], "outcome": "done" });
    assert_eq!(good(&complete(&house, "urgent", body).await)["stage"], "done", "it has no commits to bring anywhere");
    assert_eq!(order(&claim_slug(&house, "later", "b").await)["slug"], "later");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_with_ten_thousand_filed_todos_takes_no_further_one() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    site.start(&[&repo]).await.stop().await;
    let filed = |number: usize| Change::Filed {
        repo: RepoName::parse("app").expect("a name"),
        filed: Filed {
            todo: serde_json::from_value(json!({ "slug": format!("filed-{number}") })).expect("a todo"),
            remedy: None,
            at: Timestamp::from_ms(0),
        },
    };
    let at = Timestamp::from_ms(0);
    let path = site.path("data").join("ledger.db");
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.expect("ends").expect("opens");
    store
        .commit((0..FILED_MAX).map(|number| Write::Decided { change: filed(number), at }).collect())
        .await
        .expect("writes");
    store.close().await;
    let house = site.start(&[&repo]).await;
    let post = async |body: Value| house.client.post("/todos/app", &body).await.expect("answers");
    problem(&post(json!({ "slug": "one-more" })).await, 409, "too_many_todos");
    // One that is there already is no further one.
    assert_eq!(good(&post(json!({ "slug": "filed-7" })).await)["guard"], "duplicate_todo_guard");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_todo_left_the_roadmap_is_told_so() {
    let site = Site::new();
    let repo = site.app(&["one", "two"], "");
    let house = site.start(&[&repo]).await;
    let token = token(&claim(&house, "builder", "a").await);
    repo.git(&["rm", "-r", "--quiet", "todos/one"]);
    repo.write("todos/roadmap.yaml", "- slug: two\n");
    repo.commit("one is not wanted any more");
    let beat = good(&say(&house, "one", "heartbeat", json!({ "token": token })).await);
    assert_eq!(beat["verbs"], json!(["cancel_requested"]));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_made_while_its_forerunner_is_judged_does_not_slip_through() {
    let site = Site::new();
    let (running, go) = (site.path("running"), site.path("go"));
    let settings = format!(
        "[[gates]]\nname = \"t\"\ncommand = \"test ! -e bad || exit 1; touch {}; until test -e {}; do sleep 0.02; done\"\n",
        running.display(),
        go.display()
    );
    let house = site.start(&[&site.app(&["one"], &settings)]).await;
    write(&go, "");
    let token = token(&claim(&house, "builder", "a").await);
    commit_in(&site, "one", "good");
    std::fs::remove_file(&go).expect("removes");
    std::fs::remove_file(&running).expect("removes");
    let body = json!({ "token": token, "outcome": "done" });
    let judging = say(&house, "one", "complete", body).await;
    assert_eq!(judging.status, 202, "{}", judging.text());
    until("the gate to run", || async { running.exists().then_some(()) }).await;
    commit_in(&site, "one", "bad");
    write(&go, "");
    let ended = house.ended(judging.json()["id"].as_str().expect("an id")).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert_eq!(todo(&house, "one").await["stage"], "build");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_the_ledger_refuses_is_told_and_the_next_call_goes_on_from_what_the_ledger_has() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one", "two"], "")]).await;
    // Somebody else was at the ledger: its token is ahead of what the dispatcher believes.
    let key = TodoKey { repo: RepoName::parse("app").expect("name"), slug: Slug::parse("one").expect("slug") };
    let ahead = TodoState { token: 41, ..TodoState::default() };
    let change = Change::Todo { todo: key, state: ahead.into(), events: Vec::new() };
    let context = house.handle.context();
    let write = Write::Decided { change, at: context.clock.now() };
    context.ledger.commit(vec![write]).await.expect("commits");
    let refused = problem(&claim_slug(&house, "one", "a").await, 503, "store_unavailable");
    assert_eq!(refused["retryable"], true);
    until("the dispatcher to have read the ledger again", || async {
        let reply = claim_slug(&house, "one", "a").await;
        (reply.status == 200).then(|| assert_eq!(token(&reply), 42))
    })
    .await;
    assert_eq!(log(&house, "one").await, ["claim.granted 42"], "nothing of what was refused is there");
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_moves_while_finished_work_is_judged_neither_voids_the_verdict_nor_is_brought_in() {
    let site = Site::new();
    let (running, go) = (site.path("running"), site.path("go"));
    let settings = format!(
        "[[gates]]\nname = \"t\"\ncommand = \"touch {}; until test -e {}; do sleep 0.02; done\"\n",
        running.display(),
        go.display()
    );
    let repo = site.app(&["one"], &settings);
    let house = site.start(&[&repo]).await;
    write(&go, "");
    let token = token(&claim(&house, "builder", "a").await);
    let head = commit_in(&site, "one", "good");
    std::fs::remove_file(&go).expect("removes");
    std::fs::remove_file(&running).expect("removes");
    let judging = say(&house, "one", "complete", json!({ "token": token, "outcome": "done" })).await;
    assert_eq!(judging.status, 202, "{}", judging.text());
    until("the gate to run", || async { running.exists().then_some(()) }).await;
    repo.write("elsewhere", "another todo was integrated\n");
    repo.commit("the base moves");
    write(&go, "");
    let ended = house.ended(judging.json()["id"].as_str().expect("an id")).await;
    assert_eq!((&ended["state"], &ended["result"]["stage"]), (&json!("succeeded"), &json!("integrate")), "{ended}");
    assert_eq!(Repo { path: site.worktree("one") }.git(&["rev-parse", "HEAD"]), head, "what was judged is what counts");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_kept_under_its_key_once_its_cause_is_mended() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let token = token(&claim(&house, "builder", "a").await);
    write(&site.worktree("one").join("new"), "not committed\n");
    let send = || async {
        let headers = [("content-type", "application/json"), ("idempotency-key", "k"), ("prefer", "wait=40")];
        let body = json!({ "token": token, "outcome": "done" }).to_string();
        let sent = house.client.send(hyper::Method::POST, "/todos/app/one/complete", &headers, body.into()).await;
        sent.expect("the daemon answers")
    };
    problem(&send().await, 409, "local_changes");
    Repo { path: site.worktree("one") }.commit("now it is");
    assert_eq!(good(&send().await)["stage"], "integrate");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_made_between_a_verdict_and_its_counting_does_not_slip_through() {
    let site = Site::new();
    let (running, armed) = (site.path("running"), Arc::new(AtomicBool::new(false)));
    let settings = format!("[[gates]]\nname = \"t\"\ncommand = \"test ! -e bad && touch {}\"\n", running.display());
    let repo = site.app(&["one"], &settings);
    let (worktree, seen, fuse) = (site.worktree("one"), running.clone(), armed.clone());
    // The verdict is just being written when the worker commits once more.
    let faults = Faults::at_points(move |point| {
        if point == "ledger.commit" && seen.exists() && fuse.swap(false, Ordering::SeqCst) {
            let worktree = Repo { path: worktree.clone() };
            worktree.write("bad", "never judged\n");
            worktree.commit("one more thing");
        }
    });
    let house = site.start_with(&[&repo], &[], faults).await;
    let token = token(&claim(&house, "builder", "a").await);
    commit_in(&site, "one", "good");
    std::fs::remove_file(&running).expect("removes");
    armed.store(true, Ordering::SeqCst);
    let body = json!({ "token": token, "outcome": "done" }).to_string();
    let headers = [("content-type", "application/json"), ("prefer", "wait=40")];
    let answer = house.client.send(hyper::Method::POST, "/todos/app/one/complete", &headers, body.into()).await;
    problem(&answer.expect("answers"), 422, "gate_failed");
    assert!(!armed.load(Ordering::SeqCst), "the worker never committed");
    assert_eq!(todo(&house, "one").await["stage"], "build");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_answer_leaves_before_everything_it_rests_on_is_on_disk() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let (held, let_go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (stuck, go) = (held.clone(), let_go.clone());
    // The disk takes its time over what is written while it is held.
    let faults = Faults::at_points(move |point| {
        let begun = std::time::Instant::now();
        while point == "ledger.committed" && !go.load(Ordering::SeqCst) && begun.elapsed() < PATIENCE / 4 {
            stuck.store(true, Ordering::SeqCst);
            std::thread::yield_now();
        }
    });
    let house = site.start_with(&[&repo], &[], faults).await;
    let context = house.handle.context().clone();
    let entry = context.repo(None).expect("one repository").repo.clone();
    let base = tokio::task::spawn_blocking(move || entry.base()).await.expect("reads").expect("is there");
    let ask = |worker: &str| {
        let asker =
            Asker { lane: Lane::parse("builder").expect("lane"), worker: Worker::parse(worker).expect("worker") };
        let (context, base) = (context.clone(), base.clone());
        let todo = TodoKey { repo: RepoName::parse("app").expect("name"), slug: Slug::parse("one").expect("slug") };
        tokio::spawn(async move {
            let asked = context.dispatcher.ask(PATIENCE, |reply| DispatcherMsg::Claim { todo, base, asker, reply });
            asked.await.expect("answers").expect("is written")
        })
    };
    let_go.store(false, Ordering::SeqCst);
    let first = ask("a");
    until("the grant to be on its way", || async { held.load(Ordering::SeqCst).then_some(()) }).await;
    let (again, other) = (ask("a"), ask("b"));
    until("all three to have been decided", || async {
        // Questions are taken in order, so what came before this one has been decided when it is answered.
        let view = context.dispatcher.ask(PATIENCE, |reply| DispatcherMsg::Describe { reply }).await.expect("answers");
        (view["waiting"] == 3).then_some(())
    })
    .await;
    assert!(!first.is_finished() && !again.is_finished() && !other.is_finished(), "an answer left too early");
    let_go.store(true, Ordering::SeqCst);
    assert!(matches!(first.await.expect("no panic"), Claimed::Granted { repeated: false, .. }));
    assert!(matches!(again.await.expect("no panic"), Claimed::Granted { repeated: true, .. }));
    assert!(matches!(other.await.expect("no panic"), Claimed::Held(_)));
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_after_a_failure_goes_on_across_restarts_from_where_it_was() {
    let site = Site::new();
    let repo = site.app(&["one"], "");
    let house = site.start(&[&repo]).await;
    let token = token(&claim(&house, "builder", "a").await);
    let body = json!({ "token": token, "outcome": "failed", "reason": "no network" });
    good(&say(&house, "one", "complete", body).await);
    house.awake_ms.fetch_add(29_000, Ordering::SeqCst);
    // Anything that is decided says how late it is.
    good(&house.client.post("/lanes/other/pause", &json!({ "reason": "a try" })).await.expect("answers"));
    house.stop().await;
    let house = site.start(&[&repo]).await;
    let waits = problem(&claim_slug(&house, "one", "a").await, 409, "backoff");
    assert!(waits["retry_after_ms"].as_u64().is_some_and(|ms| ms <= 1_000), "{waits}");
    house.awake_ms.fetch_add(1_000, Ordering::SeqCst);
    assert_eq!(crate::claims::token(&claim(&house, "builder", "a").await), 2);
    house.stop_with_all_kept().await;
}
