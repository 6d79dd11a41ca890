//! Lanes that pause themselves: what repeats stops its lane and nothing else, is mended by somebody else, and the lane
//! opens step by step.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use slugline::cli::client::Reply;

use crate::harness::{House, Site, order, problem, until, work_events};

async fn claim(house: &House, lane: &str, worker: &str) -> Reply {
    house.work(json!({ "lane": lane, "worker": worker, "wait_ms": 45_000 })).await
}

async fn post(house: &House, path: &str, body: Value) -> Reply {
    house.client.post(path, &body).await.expect("the daemon answers")
}

/// Gets work, fails it for this reason, and lets its wait pass.
async fn fail(house: &House, lane: &str, worker: &str, reason: &str) -> String {
    let order = order(&claim(house, lane, worker).await);
    let slug = order["slug"].as_str().expect("slug").to_owned();
    end(house, &order, json!({ "outcome": "failed", "reason": reason })).await;
    house.awake_ms.fetch_add(3_600_000, Ordering::SeqCst);
    slug
}

/// Completes what an order is for; done work of these tests has nothing to judge.
async fn end(house: &House, order: &Value, mut body: Value) -> Value {
    body["token"] = order["claim"]["token"].clone();
    let path = format!("/todos/app/{}/complete", order["slug"].as_str().expect("slug"));
    let reply = post(house, &path, body).await;
    match reply.status {
        200 => reply.json(),
        202 => house.ended(reply.json()["id"].as_str().expect("an id")).await["result"].clone(),
        _ => panic!("{}", reply.text()),
    }
}

async fn lane(house: &House, name: &str) -> Value {
    let lanes = house.client.get("/lanes").await.expect("answers").json();
    let found = lanes.as_array().expect("lanes").iter().find(|lane| lane["lane"] == name).cloned();
    found.unwrap_or_else(|| panic!("no lane {name} in {lanes}"))
}

async fn todos(house: &House) -> Vec<Value> {
    house.client.get("/todos").await.expect("answers").json().as_array().expect("todos").clone()
}

/// The remediation todos there are.
async fn remedies(house: &House) -> Vec<Value> {
    todos(house)
        .await
        .into_iter()
        .filter(|todo| todo["slug"].as_str().is_some_and(|slug| slug.starts_with("mend-")))
        .collect()
}

/// Ten todos, so that there is always one to be had.
const MANY: [&str; 12] = ["t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "t09", "t10", "t11", "t12"];

/// One cause as three workers would tell it.
const THRICE: [&str; 3] = [
    "error[E0425]: cannot find value `config` in this scope\n --> /home/ci/wt/t01/src/main.rs:12:5",
    "error[E0425]: cannot find value `config` in this scope\n --> /tmp/x7/wt/t02/src/main.rs:14:9",
    "error[E0425]: cannot find value `config` in this scope\n --> src/main.rs:112:5",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_third_failure_of_one_kind_pauses_its_lane_and_no_other() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    for (index, reason) in THRICE.iter().enumerate() {
        assert_eq!(fail(&house, "builder", &format!("w{index}"), reason).await, MANY[0], "the same todo fails");
        assert_eq!(lane(&house, "builder").await["state"], if index < 2 { "open" } else { "paused" });
    }
    let refused = problem(&claim(&house, "builder", "w9").await, 409, "lane_paused");
    assert_eq!((&refused["paused_by"], &refused["resume"]), (&json!("breaker"), &json!("/lanes/builder/resume")));
    assert!(
        refused["reason"].as_str().is_some_and(|reason| reason.contains("cannot find value `config`"))
            && refused["since"].is_string()
    );
    let named = house.work(json!({ "lane": "builder", "worker": "w9", "slug": "t05" })).await;
    problem(&named, 409, "lane_paused");
    assert_eq!(claim(&house, "other", "w1").await.status, 200);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn different_failures_pause_nothing() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    for (index, name) in ["config", "settings", "options", "choices"].iter().enumerate() {
        fail(&house, "builder", &format!("w{index}"), &format!("cannot find value `{name}` in this scope")).await;
    }
    assert_eq!(lane(&house, "builder").await["state"], "open");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_yesterday_and_the_day_before_do_not_pause_a_lane_today() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    for reason in THRICE {
        fail(&house, "builder", "w", reason).await;
        house.wall_ms.fetch_add(23 * 3_600_000, Ordering::SeqCst);
    }
    assert_eq!(lane(&house, "builder").await["state"], "open", "the window is a day, by when each failed");
    house.wall_ms.fetch_add(3_600_000, Ordering::SeqCst);
    fail(&house, "builder", "w", THRICE[0]).await;
    assert_eq!(lane(&house, "builder").await["state"], "open");
    fail(&house, "builder", "w", THRICE[0]).await;
    assert_eq!(lane(&house, "builder").await["state"], "open", "the fifth made it a dead letter, on two in a day");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_fails_the_same_way_each_time_pauses_the_lane() {
    let site = Site::new();
    let settings = "[prepare]\ncommand = \"echo cannot resolve registry.internal >&2; exit 6\"\ninputs = [\"x\"]\n";
    let house = site.start(&[&site.app(&MANY, settings)]).await;
    for slug in ["t01", "t02", "t03"] {
        let body = json!({ "lane": "builder", "worker": slug, "slug": slug, "wait_ms": 45_000 });
        problem(&house.work(body).await, 422, "prepare_failed");
    }
    problem(&claim(&house, "builder", "w").await, 409, "lane_paused");
    let failures = house.client.get("/failures?lane=builder").await.expect("answers").json();
    assert_eq!((&failures[0]["count"], &failures[0]["source"]), (&json!(3), &json!("prepare")));
    assert_eq!(failures[0]["todos"], json!(["app/t01", "app/t02", "app/t03"]));
    assert_eq!(failures[0]["said"], "cannot resolve registry.internal");
    let times: Vec<&str> = failures[0]["times"].as_array().expect("times").iter().filter_map(Value::as_str).collect();
    assert!(times.len() == 3 && times.is_sorted(), "{times:?}");
    assert_eq!((&failures[0]["first_at"], &failures[0]["last_at"]), (&json!(times[0]), &json!(times[2])));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_remediation_per_lane_kind_and_generation_and_another_lane_gets_it() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    for reason in THRICE {
        fail(&house, "builder", "w", reason).await;
    }
    let found = remedies(&house).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let order = order(&claim(&house, "ops", "o").await);
    assert_eq!(order["slug"], found[0]["slug"], "it goes before everything else");
    let brief = order["instructions"].as_str().expect("a brief");
    assert!(brief.contains("/lanes/builder/resume") && brief.contains("E0425"), "{brief}");
    assert_eq!(end(&house, &order, json!({ "outcome": "done" })).await["stage"], "done");

    // Mended, or so it was thought: after the resume the probe fails the same way.
    assert_eq!(post(&house, "/lanes/builder/resume", json!({})).await.json()["generation"], 2);
    fail(&house, "builder", "w", THRICE[1]).await;
    assert_eq!(lane(&house, "builder").await["state"], "paused");
    let again = remedies(&house).await;
    assert_eq!(again.len(), 2, "the next generation has a remediation of its own: {again:?}");
    assert_ne!(again[0]["slug"], again[1]["slug"]);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_whose_names_begin_alike_have_remediations_of_their_own() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    let long = "a-lane-with-a-very-long-name-that-goes-on-and-on";
    for lane in [format!("{long}-1"), format!("{long}-2")] {
        for (index, reason) in THRICE.iter().enumerate() {
            let slug = if lane.ends_with('1') { MANY[index] } else { MANY[index + 3] };
            let work = house.work(json!({ "lane": lane, "worker": "w", "slug": slug, "wait_ms": 45_000 })).await;
            end(&house, &order(&work), json!({ "outcome": "failed", "reason": reason })).await;
        }
    }
    let found = remedies(&house).await;
    assert_eq!(found.len(), 2, "{found:?}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_resume_exactly_one_probe_gets_in_however_many_ask() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    post(&house, "/lanes/builder/pause", json!({ "reason": "the machine is being moved" })).await;
    assert_eq!(post(&house, "/lanes/builder/resume", json!({})).await.json()["state"], "probing");
    let mut widths = Vec::new();
    while lane(&house, "builder").await["state"] == "probing" {
        let names: Vec<String> = (0..16).map(|number| format!("w{number}")).collect();
        let all = futures_util::future::join_all(names.iter().map(|name| claim(&house, "builder", name))).await;
        let (got, refused): (Vec<Reply>, Vec<Reply>) = all.into_iter().partition(|reply| reply.status == 200);
        for reply in &refused {
            let none = problem(reply, 404, "no_work");
            assert!(none["reasons"].to_string().contains("\"probing\""), "{none}");
        }
        widths.push(got.len());
        for reply in &got {
            end(&house, &order(reply), json!({ "outcome": "done" })).await;
        }
    }
    assert_eq!(widths, [1, 1, 2, 4]);
    assert_eq!(lane(&house, "builder").await["state"], "open");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_probe_gives_its_permit_back_and_an_expired_one_closes_the_lane() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    post(&house, "/lanes/builder/pause", json!({ "reason": "a try" })).await;
    post(&house, "/lanes/builder/resume", json!({})).await;
    for _ in 0..3 {
        let order = order(&claim(&house, "builder", "w").await);
        let path = format!("/todos/app/{}/release", order["slug"].as_str().expect("slug"));
        assert_eq!(post(&house, &path, json!({ "token": order["claim"]["token"] })).await.status, 200);
    }
    order(&claim(&house, "builder", "w").await);
    house.awake_ms.fetch_add(2_700_000, Ordering::SeqCst);
    let closed = until("the lane to close", || async {
        let lane = lane(&house, "builder").await;
        (lane["state"] == "paused").then_some(lane)
    })
    .await;
    assert_eq!(closed["paused_by"], "breaker");
    assert_eq!(remedies(&house).await.len(), 1);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_long_after_a_resume_does_not_pause_again() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    for reason in THRICE {
        fail(&house, "builder", "w", reason).await;
    }
    post(&house, "/lanes/builder/resume", json!({})).await;
    while lane(&house, "builder").await["state"] == "probing" {
        let order = order(&claim(&house, "builder", "w").await);
        end(&house, &order, json!({ "outcome": "done" })).await;
    }
    house.wall_ms.fetch_add(5 * 3_600_000, Ordering::SeqCst);
    fail(&house, "builder", "w", THRICE[0]).await;
    assert_eq!(lane(&house, "builder").await["state"], "open");
    let failures = house.client.get("/failures?lane=builder").await.expect("answers").json();
    let counts: Vec<(u64, u64)> = failures
        .as_array()
        .expect("failures")
        .iter()
        .map(|row| (row["generation"].as_u64().unwrap_or(0), row["count"].as_u64().unwrap_or(0)))
        .collect();
    assert_eq!(counts, [(2, 1), (1, 3)], "{failures}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_rests_the_lane_until_its_reset_and_counts_against_no_todo() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    let order = order(&claim(&house, "builder", "w").await);
    let reason = "API error: 429 Too Many Requests: rate limit reached, try again in 6m12s";
    assert_eq!(end(&house, &order, json!({ "outcome": "failed", "reason": reason })).await["attempts"], 0);
    let paused = lane(&house, "builder").await;
    assert_eq!((&paused["state"], &paused["paused_by"]), (&json!("paused"), &json!("breaker")));
    assert!(paused["until"].is_string() && remedies(&house).await.is_empty(), "{paused}");
    problem(&claim(&house, "builder", "w").await, 409, "lane_paused");
    house.wall_ms.fetch_add(371_000, Ordering::SeqCst);
    problem(&claim(&house, "builder", "w").await, 409, "lane_paused");
    house.wall_ms.fetch_add(1_500, Ordering::SeqCst);
    assert_eq!(claim(&house, "builder", "w").await.status, 200);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_pause_stays_until_a_person_ends_it_or_its_time_has_come() {
    let site = Site::new();
    let repo = site.app(&MANY, "");
    let house = site.start(&[&repo]).await;
    let body = json!({ "reason": "audit" });
    assert_eq!(
        post(&house, "/lanes/quiet/pause", body).await.json()["paused_by"],
        "person",
        "an empty lane can be paused"
    );
    house.wall_ms.fetch_add(40 * 86_400_000, Ordering::SeqCst);
    house.stop().await;
    let house = site.start(&[&repo]).await;
    assert_eq!(lane(&house, "quiet").await["state"], "paused", "also across a restart");
    problem(&claim(&house, "quiet", "w").await, 409, "lane_paused");

    problem(
        &post(&house, "/lanes/quiet/pause", json!({ "reason": "x", "until": "2020-01-01T00:00:00Z" })).await,
        400,
        "invalid_request",
    );
    problem(&post(&house, "/lanes/quiet/pause", json!({ "reason": " " })).await, 400, "invalid_request");
    let soon = house.handle.context().clock.now().plus_ms(60_000).to_string();
    post(&house, "/lanes/quiet/pause", json!({ "reason": "a minute", "until": soon })).await;
    house.wall_ms.fetch_add(60_000, Ordering::SeqCst);
    until("the pause to end by itself", || async { (lane(&house, "quiet").await["state"] == "probing").then_some(()) })
        .await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_in_a_paused_lane_keeps_its_claim_and_is_told() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    let first = order(&claim(&house, "builder", "w").await);
    post(&house, "/lanes/builder/pause", json!({ "reason": "lunch" })).await;
    let again = order(&claim(&house, "builder", "w").await);
    assert_eq!((&again["slug"], &again["claim"]["guard"]), (&first["slug"], &json!("duplicate_claim_guard")));
    let beat = post(&house, "/todos/app/t01/heartbeat", json!({ "token": 1 })).await.json();
    assert_eq!(beat["verbs"], json!(["lane_paused"]));
    assert_eq!(end(&house, &first, json!({ "outcome": "done" })).await["stage"], "done");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_has_no_more_claims_than_its_limit_however_many_ask() {
    let site = Site::new();
    let config = "[[lane]]\nname = \"builder\"\nwip_limit = 3\n";
    let house = site.start_from(&[&site.app(&MANY, "")], config).await;
    let names: Vec<String> = (0..10).map(|number| format!("w{number}")).collect();
    let all = futures_util::future::join_all(names.iter().map(|name| claim(&house, "builder", name))).await;
    let (got, refused): (Vec<Reply>, Vec<Reply>) = all.into_iter().partition(|reply| reply.status == 200);
    assert_eq!((got.len(), refused.len()), (3, 7));
    assert!(refused.iter().all(|reply| problem(reply, 404, "no_work")["reasons"].to_string().contains("wip_limit")));
    let named = house.work(json!({ "lane": "builder", "worker": "w99", "slug": "t12" })).await;
    problem(&named, 409, "wip_limit");
    let shown = lane(&house, "builder").await;
    assert_eq!((&shown["wip"], &shown["wip_limit"]), (&json!(3), &json!(3)));
    end(&house, &order(&got[0]), json!({ "outcome": "done" })).await;
    assert_eq!(claim(&house, "builder", "w99").await.status, 200);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_text_is_recognised_by_can_be_explained() {
    let site = Site::new();
    let house = site.start(&[&site.app(&["one"], "")]).await;
    let explain = |text: &'static str| {
        let client = &house.client;
        async move { client.post("/failures/explain", &json!({ "text": text })).await.expect("answers").json() }
    };
    let (a, b) = (explain(THRICE[0]).await, explain(THRICE[1]).await);
    assert_eq!(a["fingerprint"], b["fingerprint"]);
    assert_eq!(a["normalized"], "error[e0425]: cannot find value `config` in this scope");
    assert!(a["applied"].as_array().is_some_and(|rules| rules.iter().any(|rule| rule["rule"] == "paths")), "{a}");
    let limited = explain("overloaded_error (529), retry after 20s").await;
    assert_eq!((&limited["class"], &limited["reset_after_ms"]), (&json!("provider"), &json!(20_000)));
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_lanes_and_failures_changes_nothing() {
    let site = Site::new();
    let house = site.start(&[&site.app(&MANY, "")]).await;
    fail(&house, "builder", "w", THRICE[0]).await;
    let events = || work_events(&house.handle);
    let before = events().await;
    for _ in 0..20 {
        for path in ["/lanes", "/failures", "/todos", "/todos/app/t01", "/actors", "/readyz"] {
            assert_eq!(house.client.get(path).await.expect("answers").status, 200, "{path}");
        }
    }
    // Whatever a read had set off would be written by now.
    tokio::time::timeout(Duration::from_secs(60), house.handle.context().ledger.commit(Vec::new()))
        .await
        .expect("in time")
        .expect("commits");
    assert_eq!(events().await, before);
    house.stop().await;
}
