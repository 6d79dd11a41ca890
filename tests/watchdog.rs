//! Stalls of the runtime are seen while they last, measured, and blamed on whoever made them; and nobody else ever is.
//!
//! A daemon lives in a watched runtime of its own with two workers; a hook in its handlers and runs holds them up. These
//! tests share two processors, so one runs at a time.

#[allow(dead_code, reason = "of what every scenario stands on, one is here")]
#[path = "it/harness.rs"]
mod harness;
#[path = "marked/mod.rs"]
mod marked;
#[allow(dead_code, reason = "of what is asked for, not all is asked for here")]
#[path = "it/promises.rs"]
mod promises;
#[path = "replay/mod.rs"]
mod replay;
#[path = "scale/mod.rs"]
mod scale;

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slugline::actors::Handle;
use slugline::actors::clock::Clock;
use slugline::actors::faults::Faults;
use slugline::actors::health::turning::Workers;
use slugline::cli::client::Client;
use slugline::model::hang::{Culprit, HangReason, HangView};
use slugline::process::Runner;
use slugline::runtime::{Daemon, Doors};
use tokio::runtime::Runtime;

use harness::{Noting, Repo, Site};
use scale::size;

/// How long anything that has to happen may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far a measured length may be off.
const TOLERANCE: f64 = 0.10;
/// What one poll does besides being held up, in milliseconds.
const BESIDES_MS: f64 = 8.0;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How a handler is held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Sleeping,
    Working,
}

#[inline(never)]
fn held_up_by_sleeping(length: Duration) {
    // A blocking call that nobody ends early: what it waits for never comes.
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let _ = nothing.recv_timeout(length);
    std::hint::black_box(());
}

#[inline(never)]
fn held_up_by_working(length: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < length {
        std::hint::black_box(());
    }
}

/// What the hook does at the next time its point is hit.
struct Order {
    point: &'static str,
    length: Duration,
    how: How,
    /// How many have to be there before anybody is held up.
    together: Option<Arc<std::sync::Barrier>>,
    left: usize,
}

/// Holds up whoever comes to a point.
#[derive(Clone, Default)]
struct Holdup {
    order: Arc<Mutex<Option<Order>>>,
    /// The length of the longest one, as the threads themselves measured it, in nanoseconds.
    took: Arc<AtomicU64>,
}

impl Holdup {
    fn faults(&self) -> Faults {
        let holdup = self.clone();
        Faults::at_points(move |point| holdup.hit(point))
    }

    /// Whether somebody is held up.
    fn is_on(&self) -> bool {
        self.order.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|order| order.left == 0)
    }

    fn hit(&self, point: &str) {
        let (length, how, together) = {
            let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(on) = order.as_mut().filter(|order| order.point == point && order.left > 0) else { return };
            on.left -= 1;
            (on.length, on.how, on.together.clone())
        };
        let begun = Instant::now();
        if let Some(together) = together {
            together.wait();
        }
        match how {
            How::Sleeping => held_up_by_sleeping(length),
            How::Working => held_up_by_working(length),
        }
        self.took.fetch_max(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

struct House {
    runtime: Option<Runtime>,
    handle: Handle,
    client: Noting,
    holdup: Holdup,
    site: Site,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    serving: Option<tokio::task::JoinHandle<slugline::runtime::End>>,
}

impl House {
    fn start(slugs: &[&str], settings: &[(&'static str, &str)]) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().worker_threads(2);
        let workers = Workers::watch(&mut builder);
        let runtime = builder.build().expect("a runtime");
        let site = Site::new();
        let repo = site.app(&[slugs, &["beside"]].concat(), "[prepare]\ncommand = \"true\"\n");
        let all = [&[("watchdog.dump_every_ms", "0"), ("watchdog.dumps_max", "10000")], settings].concat();
        let config = site.config(&[&repo], &all);
        let holdup = Holdup::default();
        let doors = Doors {
            runner: Runner::new(PathBuf::from(env!("CARGO_BIN_EXE_slugline"))),
            clock: Clock::system(),
            faults: holdup.faults(),
            workers,
        };
        // Built where its workers are, and driven from outside of it: a client inside would stand still with it.
        let daemon = runtime.block_on(runtime.spawn(async move { Daemon::build(&config, doors).await }));
        let daemon = daemon.expect("no panic").expect("the daemon builds");
        let token = std::fs::read_to_string(site.path("data/token")).expect("token").trim().to_owned();
        let client = site.noting(Client::tcp(daemon.address, Some(token)));
        let handle = daemon.handle.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = runtime.spawn(daemon.serve(async {
            let _ = stopped.await;
        }));
        let house =
            Self { runtime: Some(runtime), handle, client, holdup, site, stop: Some(stop), serving: Some(serving) };
        // Somebody has begun and says nothing more; what it has stays through all of it.
        house.work("beside", false);
        house.site.promises.work_in(&house.site.worktree("beside"));
        house
    }

    /// Asks from a runtime of its own.
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let reply = outside().block_on(async {
            match method {
                "GET" => self.client.get(path).await,
                _ => self.client.post(path, body).await,
            }
        });
        let reply = reply.expect("answers");
        (reply.status, reply.json())
    }

    fn work(&self, slug: &str, refresh: bool) {
        let body = json!({ "lane": "builder", "worker": slug, "slug": slug, "refresh": refresh, "wait_ms": 45_000 });
        let (status, answer) = self.ask("POST", "/todos/work", &body);
        assert_eq!(status, 200, "{answer}");
    }

    fn dumps(&self) -> Vec<HangView> {
        slugline::actors::health::hangs::list(&self.site.path("data/hangs")).expect("reads")
    }

    /// Every hang that was told lately, dumped or not.
    fn told(&self) -> Vec<HangView> {
        let context = self.handle.context();
        context.recent_hangs.since(context.clock.now().plus_ms(-30_000))
    }

    fn dump(&self, id: &str) -> Value {
        let dir = self.site.path("data/hangs");
        slugline::actors::health::hangs::one(&dir, id).expect("reads").expect("is there")
    }

    /// Holds one or both workers up, once, and gives the dump that tells of it, and how long it really was.
    fn stall(&self, point: &'static str, slugs: &[&str], length: Duration, how: How) -> (Option<HangView>, Duration) {
        let before = self.told().into_iter().map(|hang| hang.id).collect::<Vec<_>>();
        // What began before belongs to the stall before, however late it is told; measured from the last beat.
        let since = self.handle.context().clock.now().plus_ms(-BEAT_MS);
        let together = (slugs.len() > 1).then(|| Arc::new(std::sync::Barrier::new(slugs.len())));
        let order = Order { point, length, how, together, left: slugs.len() };
        *self.holdup.order.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
        self.holdup.took.store(0, Ordering::SeqCst);
        let refresh = point != "slug.handle";
        std::thread::scope(|scope| {
            for slug in slugs {
                scope.spawn(move || self.work(slug, refresh));
            }
        });
        *self.holdup.order.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let took = Duration::from_nanos(self.holdup.took.load(Ordering::SeqCst));
        let begun = Instant::now();
        let blames = |hang: &HangView| {
            let is_ours = |culprit: &Culprit| {
                culprit.function.as_ref().map_or_else(|| culprit.slug.is_some(), |name| name.contains("held_up_by_"))
            };
            hang.lasted_ms.is_some() && hang.culprits.iter().any(is_ours)
        };
        while begun.elapsed() < Duration::from_secs(4) {
            let mut new = self.told().into_iter().filter(|hang| hang.at >= since && !before.contains(&hang.id));
            if let Some(hang) = new.find(blames) {
                return (Some(hang), took);
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        (None, took)
    }
}

/// A runtime that is not the daemon's: a client inside of that would stand still with it.
fn outside() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl Drop for House {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            outside().block_on(self.site.promises.kept_by(&self.client));
        }
        drop(self.stop.take());
        if let (Some(runtime), Some(serving)) = (self.runtime.take(), self.serving.take()) {
            let _ = runtime.block_on(async { tokio::time::timeout(PATIENCE, serving).await });
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        if !std::thread::panicking() {
            outside().block_on(self.site.promises.kept_after());
        }
    }
}

/// Stalls of these lengths, in milliseconds, and how many of each.
const LENGTHS: [(u64, usize); 8] =
    [(55, 20), (75, 15), (110, 15), (180, 10), (300, 6), (600, 3), (1_500, 1), (5_000, 1)];

/// Makes all the stalls at a point and checks what is told of them.
fn all_are_seen(house: &House, point: &'static str, slugs: &[&str], lengths: &[(u64, usize)]) {
    let (mut made, mut seen, mut dumped, mut off, mut errors) = (0, 0, 0, Vec::new(), Vec::new());
    for (length, count) in lengths {
        for round in 0..*count {
            let how = if round % 2 == 0 { How::Sleeping } else { How::Working };
            let (hang, took) = house.stall(point, slugs, Duration::from_millis(*length), how);
            made += 1;
            let Some(hang) = hang else { continue };
            seen += 1;
            let (lasted, real) = (hang.lasted_ms.unwrap_or(0.0), took.as_secs_f64() * 1_000.0);
            errors.push((lasted - real).abs() / real);
            // What is held is the whole poll; the hook is not all of it.
            if (lasted - real).abs() > (real * TOLERANCE).max(BESIDES_MS) {
                off.push(format!("{lasted:.1} for {real:.1}"));
            }
            if hang.culprits.iter().all(|culprit| culprit.function.is_none()) {
                // It was over before its stack could be taken: that one is told without a dump.
                continue;
            }
            dumped += 1;
            if slugs.len() > 1 {
                assert_eq!(hang.reason, HangReason::AllWorkersStuck, "{slugs:?} for {length} ms");
            }
            let function = match how {
                How::Sleeping => "held_up_by_sleeping",
                How::Working => "held_up_by_working",
            };
            for slug in slugs {
                let blamed = hang.culprits.iter().any(|culprit| {
                    culprit.slug.as_ref().is_some_and(|named| named.as_str() == *slug)
                        && culprit.function.as_ref().is_some_and(|named| named.contains(function))
                });
                assert!(blamed, "{slug} in {function}: {:#?}", hang.culprits);
            }
        }
    }
    assert!(seen * 100 >= made * 99, "{seen} of {made} stalls were seen");
    assert!(dumped * 100 >= made * 90, "{dumped} of {made} stalls were dumped");
    assert!(off.len() * 20 <= made, "lengths of {made} stalls that are off: {off:?}");
    errors.sort_by(f64::total_cmp);
    let (half, worst) = (errors[errors.len() / 2] * 100.0, errors[errors.len() - 1] * 100.0);
    println!(
        "{point} {slugs:?}: {made} stalls, {seen} seen, {dumped} dumped, off by {half:.2} % (median), {worst:.1} % (worst)"
    );
}

/// Processes that take all the processor time there is, as long as this is not dropped.
struct Hogs(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>);

impl Hogs {
    fn let_loose(count: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let hog = |_| {
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::black_box(());
                }
            })
        };
        let hogs = (0..count).map(hog).collect();
        Self(over, hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        for hog in self.1.drain(..) {
            let _ = hog.join();
        }
    }
}

/// How often the lag is measured, in milliseconds.
const BEAT_MS: i64 = 20;
const STRICT: [(&str, &str); 2] = [("watchdog.lag_threshold_ms", "40"), ("watchdog.interval_ms", "20")];

#[test]
fn a_handler_that_blocks_one_worker_is_seen_measured_and_named() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::start(&["fix"], &STRICT);
    house.work("fix", false);
    all_are_seen(&house, "slug.handle", &["fix"], &LENGTHS);
}

#[test]
fn handlers_that_block_every_worker_are_all_named() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::start(&["fix", "other"], &STRICT);
    house.work("fix", false);
    house.work("other", false);
    all_are_seen(&house, "slug.handle", &["fix", "other"], &[(60, 8), (110, 8), (300, 4), (2_000, 1)]);
}

#[test]
fn a_blocking_call_in_a_run_is_blamed_on_its_slug() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::start(&["fix"], &STRICT);
    house.work("fix", false);
    all_are_seen(&house, "prepare", &["fix"], &[(60, 8), (110, 8), (300, 4)]);
}

#[test]
fn stalls_are_seen_and_measured_while_others_take_all_processor_time() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::start(&["fix"], &[("watchdog.lag_threshold_ms", "150"), ("watchdog.interval_ms", "20")]);
    house.work("fix", false);
    let _hogs = Hogs::let_loose(4);
    all_are_seen(&house, "slug.handle", &["fix"], &[(200, 8), (400, 5), (1_000, 2)]);
}

#[test]
fn a_hang_is_dumped_while_it_lasts_with_all_that_is_in_flight() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::start(&["fix", "slow"], &[]);
    let (app, go_on) = (Repo { path: house.site.path("app") }, house.site.path("go-on"));
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done", go_on.display());
    app.write(".slugline.toml", &format!("[prepare]\ncommand = \"{waits}\"\n"));
    app.commit("slow");
    let (status, _) = house.ask("POST", "/todos/work", &json!({ "lane": "l", "slug": "slow", "wait_ms": 0 }));
    assert_eq!(status, 202);
    let begun = Instant::now();
    while house.handle.context().on.commands.count() == 0 {
        assert!(begun.elapsed() < PATIENCE, "the command never began");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let order = Order {
        point: "dispatcher.handle",
        length: Duration::from_millis(2_500),
        how: How::Sleeping,
        together: None,
        left: 1,
    };
    *house.holdup.order.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
    let (dump, during) = std::thread::scope(|scope| {
        let held = Instant::now();
        scope.spawn(|| house.ask("POST", "/lanes/l/pause", &json!({ "reason": "x" })));
        while house.dumps().iter().all(|hang| hang.culprits.iter().all(|culprit| culprit.function.is_none())) {
            assert!(held.elapsed() < PATIENCE, "no dump was written");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let id = house.dumps()[0].id.clone();
        (house.dump(&id), held.elapsed())
    });
    assert!(during < Duration::from_millis(2_400), "it was written only after the hang: {during:?}");
    assert_eq!((&dump["over"], &dump["lasted_ms"]), (&json!(false), &Value::Null));
    let in_flight = &dump["in_flight"];
    let command = &in_flight["commands"][0];
    assert_eq!(
        (&command["repo"], &command["slug"], &command["phase"]),
        (&json!("app"), &json!("slow"), &json!("prepare"))
    );
    assert!(command["command"].as_str().is_some_and(|text| text.contains("go-on")), "{command}");
    let pid = command["pid"].as_u64().expect("a pid");
    assert!(PathBuf::from(format!("/proc/{pid}")).exists(), "{pid} is not there");
    let run = &in_flight["runs"][0];
    assert_eq!((&run["slug"], &run["phase"], &run["state"]), (&json!("slow"), &json!("prepare"), &json!("running")));
    assert!(run["elapsed_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    let locks = in_flight["locks"].as_array().expect("a list");
    assert!(locks.iter().any(|lock| lock["lock"] == "worktree app/slow" && lock["grip"] == "holds"), "{locks:?}");
    let requests = in_flight["requests"].as_array().expect("a list");
    assert!(requests.iter().any(|request| request["route"] == "/lanes/{lane}/pause"), "{requests:?}");
    let mailboxes = in_flight["mailboxes"].as_array().expect("a list");
    assert!(
        mailboxes.iter().any(|mailbox| mailbox["actor"] == "dispatcher" && mailbox["handling"]["message"] == "mutate"),
        "{mailboxes:?}"
    );
    assert!(in_flight["jobs"].is_array() && in_flight["actors_down"].is_array());
    assert!(dump["lag_last_minute"]["samples_ms"].as_array().is_some_and(|samples| !samples.is_empty()));
    let stack = dump["threads"][0]["stack"].as_array().expect("a stack");
    assert!(
        stack.iter().any(|frame| frame["function"].as_str().is_some_and(|name| name.contains("held_up_by_sleeping")))
    );
    assert!(stack.len() > 5 && stack.iter().any(|frame| frame["own"] == true && frame["at"].is_string()), "{stack:?}");
    assert_eq!(dump["culprits"][0]["doing"], "dispatcher dispatcher handles mutate");
    // When it is over, that is told too: in the file, over HTTP, as an event and as an incident to come.
    let id = dump["id"].as_str().expect("text").to_owned();
    let begun = Instant::now();
    let over = loop {
        let (_, over) = house.ask("GET", &format!("/hangs/{id}"), &Value::Null);
        if over["over"] == true {
            break over;
        }
        assert!(begun.elapsed() < PATIENCE, "its end was never told: {over}");
        std::thread::park_timeout(Duration::from_millis(10));
    };
    assert!(over["lasted_ms"].as_f64().is_some_and(|ms| (2_450.0..2_900.0).contains(&ms)), "{}", over["lasted_ms"]);
    let (_, listed) = house.ask("GET", "/hangs", &Value::Null);
    assert_eq!(listed[0]["id"], json!(id));
    std::fs::write(go_on, "").expect("writes");
}

#[test]
fn timers_go_on_while_one_worker_is_held() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::start(&["fix"], &[]);
    house.work("fix", false);
    let worst = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let (seen, done) = (worst.clone(), over.clone());
    let runtime = house.runtime.as_ref().expect("runs");
    let timers = runtime.spawn(async move {
        while !done.load(Ordering::SeqCst) {
            let due = tokio::time::Instant::now() + Duration::from_millis(5);
            tokio::time::sleep_until(due).await;
            seen.fetch_max(u64::try_from(due.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    });
    for _ in 0..8 {
        house.stall("slug.handle", &["fix"], Duration::from_millis(400), How::Sleeping);
    }
    over.store(true, Ordering::SeqCst);
    runtime.block_on(timers).expect("ends");
    // Without help every timer waits for the whole stall when the worker that is held tends them.
    let worst = worst.load(Ordering::SeqCst);
    assert!(worst < 200, "a timer was {worst} ms late beside a worker that was held for 400 ms");
}

#[test]
fn others_get_their_work_while_a_slug_holds_its_worker() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::start(&["fix", "other"], &[]);
    house.work("fix", false);
    house.work("other", false);
    let ask = || {
        let begun = Instant::now();
        house.work("other", false);
        begun.elapsed()
    };
    let hundredth = |mut took: Vec<Duration>| {
        took.sort();
        took[took.len() * 99 / 100]
    };
    let alone = hundredth((0..200).map(|_| ask()).collect());
    let over = AtomicBool::new(false);
    let beside: Vec<Duration> = std::thread::scope(|scope| {
        scope.spawn(|| {
            house.stall("slug.handle", &["fix"], Duration::from_secs(5), How::Sleeping);
            over.store(true, Ordering::SeqCst);
        });
        // Whoever comes first is the one that is held.
        while !house.holdup.is_on() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        std::iter::from_fn(|| (!over.load(Ordering::SeqCst)).then(ask)).collect()
    });
    let (answers, slowest) = (beside.len(), beside.iter().max().copied().unwrap_or_default());
    println!(
        "{answers} answers beside a worker that was held for 5 s: p99 {:?}, alone {alone:?}, slowest {slowest:?}",
        hundredth(beside)
    );
    assert!(answers > 100 && slowest < Duration::from_secs(2), "{answers} answers, the slowest took {slowest:?}");
}

#[test]
fn nothing_is_ever_dumped_while_nothing_hangs() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::start(&["fix"], &[]);
    house.work("fix", false);
    let until = Instant::now() + Duration::from_secs(size("TEST_IDLE_SECONDS", [15, 600, 3_600]));
    while Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(house.dumps(), []);
    let (total, ..) = house.handle.context().pulse.counts();
    let samples = house.handle.context().pulse.lag_view().samples;
    assert_eq!(total, 0);
    assert!(samples > 50, "{samples} measurements within the last minute");
}

#[test]
fn a_process_that_is_stopped_charges_nobody_with_it() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let (data, outside) = (site.path("data"), outside());
    let spawned = outside.block_on(site.spawn(&[&repo]));
    let pid = rustix::process::Pid::from_child(&spawned.child);
    let begun = Instant::now();
    let waited = |what: &str| assert!(begun.elapsed() < PATIENCE, "waited for {what}");
    while !data.join("readiness.json").exists() {
        waited("the daemon to live");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    for _ in 0..3 {
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stops");
        std::thread::park_timeout(Duration::from_millis(1_200));
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
        std::thread::park_timeout(Duration::from_millis(300));
    }
    // Nor is it lateness.
    let status = outside.block_on(spawned.client.get("/status")).expect("answers").json();
    assert!(status["lag_ms"]["max"].as_f64().is_some_and(|max| max < 600.0), "{}", status["lag_ms"]);
    // It still makes dumps when it is asked to, by signal.
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("asks");
    let dumps = loop {
        let dumps = slugline::actors::health::hangs::list(&data.join("hangs")).expect("reads");
        if !dumps.is_empty() {
            break dumps;
        }
        waited("a dump by hand");
        std::thread::park_timeout(Duration::from_millis(20));
    };
    assert!(dumps.iter().all(|dump| dump.reason == HangReason::ByHand), "{dumps:?}");
    outside.block_on(spawned.kill_with_all_kept());
}

/// Where a daemon that plays for another test tells that it lives.
const PLAYS: &str = "TEST_PLAYS_A_STUCK_DAEMON";

/// Not a test of its own: the daemon of the next one, in a process that systemd would watch.
#[test]
fn plays_a_daemon_whose_runtime_stops_turning_when_asked() {
    let Some(said) = std::env::var_os(PLAYS) else { return };
    let house = House::start(&["fix", "other"], &[]);
    house.work("fix", false);
    house.work("other", false);
    let wait = |name: &str| {
        while !PathBuf::from(&said).join(name).exists() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    wait("hold-up");
    let (hang, _) = house.stall("slug.handle", &["fix", "other"], Duration::from_millis(2_000), How::Sleeping);
    std::fs::write(PathBuf::from(&said).join("over"), format!("{:?}", hang.map(|hang| hang.reason))).expect("writes");
    wait("end");
}

/// A process that does not outlive its test, however that ends.
struct Player(Child);

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn systemd_hears_nothing_of_a_daemon_whose_runtime_does_not_turn() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("temp dir");
    let socket = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).expect("binds");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("sets");
    let child = Command::new(std::env::current_exe().expect("is known"))
        .args(["--exact", "plays_a_daemon_whose_runtime_stops_turning_when_asked", "--test-threads=1"])
        .env(PLAYS, dir.path())
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "400000")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    let mut child = Player(child);
    let (mut pings, mut buffer, begun) = (Vec::new(), [0_u8; 256], Instant::now());
    let mut held_up = None;
    while !dir.path().join("over").exists()
        || pings.last().is_none_or(|at| Instant::now() - *at > Duration::from_millis(300))
    {
        assert!(begun.elapsed() < PATIENCE, "{} pings, held up: {held_up:?}", pings.len());
        if let Ok(length) = socket.recv(&mut buffer)
            && buffer[..length].starts_with(b"WATCHDOG=1")
        {
            pings.push(Instant::now());
        }
        if pings.len() == 10 && held_up.is_none() {
            held_up = Some(Instant::now());
            std::fs::write(dir.path().join("hold-up"), "").expect("writes");
        }
    }
    std::fs::write(dir.path().join("end"), "").expect("writes");
    let ended = child.0.wait().expect("can be waited for");
    assert!(ended.success(), "the daemon that was held up did not keep its promises: {ended}");
    let said = std::fs::read_to_string(dir.path().join("over")).expect("reads");
    assert_eq!(said, "Some(AllWorkersStuck)");
    let before: Vec<Duration> = pings[..10].windows(2).map(|two| two[1] - two[0]).collect();
    assert!(before.iter().all(|gap| *gap < Duration::from_secs(1)), "{before:?}");
    let longest = pings.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default();
    assert!(longest > Duration::from_millis(1_500), "it was told that all is well while nothing turned: {longest:?}");
}
