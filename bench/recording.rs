//! What it costs to note one thing: the verbs of `slugline::metrics` with their held handles, beside looking the same series
//! up by name and labels each time, as most programs do. Prints one line of JSON. `bench/scrape` draws the table.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::json;
use slugline::metrics;
use slugline::metrics::actors::ActorKind;
use slugline::metrics::http::Method;
use slugline::metrics::lanes::ClaimResult;
use slugline::model::phase::{Outcome, Phase};

/// Times each is done per round.
const TIMES: u32 = 200_000;
const ROUNDS: usize = 7;

/// Nanoseconds each: the best of some rounds, since what disturbs only ever adds.
fn nanoseconds(act: impl Fn()) -> f64 {
    let round = || {
        let begun = Instant::now();
        (0..TIMES).for_each(|_| act());
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
    };
    let best = (0..ROUNDS).map(|_| round()).fold(f64::MAX, f64::min);
    // Folds what was recorded away, as the daemon's own upkeep does.
    drop(metrics::render());
    best
}

fn main() {
    metrics::install();
    let took = Duration::from_micros(1_234);
    let rows = json!({
        "phase": [
            nanoseconds(|| metrics::phases::phase_finished(black_box(Phase::Prepare), black_box(Outcome::Success), took)),
            nanoseconds(|| {
                let (phase, outcome) = (black_box(Phase::Prepare).as_str(), black_box(Outcome::Success).as_str());
                ::metrics::histogram!("rival_seconds", "phase" => phase, "outcome" => outcome).record(took.as_secs_f64());
            }),
        ],
        "message": [
            nanoseconds(|| metrics::actors::message_waited(black_box(ActorKind::Slug), took)),
            nanoseconds(|| {
                let kind = black_box(ActorKind::Slug).as_str();
                ::metrics::histogram!("rival_wait_seconds", "kind" => kind).record(took.as_secs_f64());
            }),
        ],
        "claim": [
            nanoseconds(|| metrics::lanes::claimed(black_box("builder"), ClaimResult::Granted)),
            nanoseconds(|| {
                let lane = black_box("builder").to_owned();
                ::metrics::counter!("rival_total", "lane" => lane, "result" => "granted").increment(1);
            }),
        ],
        "request": [
            nanoseconds(|| metrics::http::request_finished(black_box(Method::Post), "/todos/work", 200, took)),
            nanoseconds(|| {
                let status = black_box(200_u16).to_string();
                ::metrics::histogram!("rival_request_seconds", "method" => "POST", "route" => "/todos/work", "status" => status)
                    .record(took.as_secs_f64());
            }),
        ],
    });
    println!("{rows}");
}
