//! A flood of messages to one slug: what is beyond the bound of its mailbox is refused at once, nothing waits without an
//! end, and the memory of the process stays as it was. A binary of its own, so that the memory is its own.

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

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use slugline::actors::Handle;
use slugline::actors::faults::Faults;
use slugline::actors::slug::MAILBOX_LIMIT;
use slugline::metrics::spans;
use slugline::model::ids::{Lane, Slug};
use slugline::model::problem::{Problem, ProblemCode};
use slugline::model::view::Work;
use slugline::model::work_order::{Product, WorkRequest};

use harness::Site;
use scale::size;

/// How long anything that has to happen may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Who sends, and how much each has on its way at once.
const SENDERS: usize = 8;
const AT_ONCE: usize = 1_024;
/// A sender looks whether there is room before it puts its message there, so as many as there are threads may be too many;
/// and facts about accepted work are never refused.
const SLACK: usize = 64;
/// What the flood may cost.
const MEMORY_MAX: u64 = 256 << 20;

/// How the slug's actor handles messages.
#[derive(Default)]
struct Brake {
    shut: Mutex<bool>,
    opened: Condvar,
    slow: AtomicBool,
}

impl Brake {
    fn shut(&self, shut: bool) {
        *self.shut.lock().unwrap_or_else(PoisonError::into_inner) = shut;
        self.opened.notify_all();
    }

    fn hit(&self) {
        if self.slow.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let mut shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        while *shut {
            shut = self.opened.wait(shut).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What became of the messages.
#[derive(Default)]
struct Fates {
    served: AtomicUsize,
    refused: AtomicUsize,
    late: AtomicUsize,
    /// The longest a refusal and an answer took, in milliseconds.
    refused_ms: AtomicU64,
    answered_ms: AtomicU64,
}

impl Fates {
    fn note(&self, answer: Result<Work, Problem>, took: Duration) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match answer {
            Ok(Work::Done(Product::Order(_)) | Work::Running(_)) => {
                self.served.fetch_add(1, Ordering::SeqCst);
            }
            Err(problem) if problem.code == ProblemCode::Busy => {
                assert!(problem.retry_after_ms.is_some(), "{problem:?}");
                self.refused_ms.fetch_max(took_ms, Ordering::SeqCst);
                self.refused.fetch_add(1, Ordering::SeqCst);
            }
            // It waited as long as a call may for an actor that does nothing.
            Err(problem) if problem.code == ProblemCode::DeadlineExceeded => {
                self.late.fetch_add(1, Ordering::SeqCst);
            }
            Ok(Work::Done(_)) => panic!("work was asked for"),
            Err(problem) => panic!("{problem:?}"),
        }
        self.answered_ms.fetch_max(took_ms, Ordering::SeqCst);
    }

    fn of(count: &AtomicUsize) -> usize {
        count.load(Ordering::SeqCst)
    }
}

async fn ask(handle: &Handle) -> Result<Work, Problem> {
    let request = WorkRequest {
        repo: None,
        slug: Some(Slug::parse("fix").expect("slug")),
        lane: Lane::parse("builder").expect("lane"),
        worker: None,
        refresh: false,
        wait_ms: Some(45_000),
    };
    handle.work(request, spans::begin(None, None)).await
}

/// Sends so many messages from several tasks, thousands of them on their way at any time.
fn flood(handle: &Handle, fates: &Arc<Fates>, messages: usize) -> tokio::task::JoinSet<()> {
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let (handle, fates) = (handle.clone(), fates.clone());
        let mine = messages / SENDERS + usize::from(sender < messages % SENDERS);
        senders.spawn(async move {
            let send = |_| async {
                let begun = Instant::now();
                let answer = ask(&handle).await;
                fates.note(answer, begun.elapsed());
            };
            futures_util::stream::iter(0..mine).map(send).buffer_unordered(AT_ONCE).collect::<()>().await;
        });
    }
    senders
}

/// Waits for all senders; a panic of theirs is one of ours.
async fn all_sent(mut senders: tokio::task::JoinSet<()>) {
    while let Some(sent) = tokio::time::timeout(PATIENCE, senders.join_next()).await.expect("every call is answered") {
        sent.expect("what is answered is as it should be");
    }
}

/// A line of what the system says of this process's memory, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("reads");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("is said");
    let kilobytes: u64 = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().expect("a number");
    kilobytes << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_messages_to_one_slug_is_refused_beyond_its_bound_and_costs_no_memory() {
    let messages = usize::try_from(size("TEST_MESSAGES", [100_000, 1_000_000, 1_000_000])).expect("a number");
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    let brake = Arc::<Brake>::default();
    let held = brake.clone();
    // The worker that is held gives everything else it has to do away first.
    let faults = Faults::at_points(move |point| {
        if point == "slug.handle" {
            tokio::task::block_in_place(|| held.hit());
        }
    });
    // The actor is held up on purpose; that the watchdog tells of it is tried elsewhere.
    let house = site.start_with(&[&repo], &[("watchdog.stacks", "false")], faults).await;
    let handle = house.handle.clone();
    house.begun("fix").await;
    assert!(matches!(ask(&handle).await, Ok(Work::Done(_))));
    let before = memory("VmRSS");

    // Half of them while the actor handles nothing: a mailbox full waits, and everybody else hears at once that it does.
    let (half, fates) = (messages / 2, Arc::<Fates>::default());
    brake.shut(true);
    let senders = flood(&handle, &fates, half);
    let begun = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    while Fates::of(&fates.refused) + MAILBOX_LIMIT + SLACK < half {
        beat.tick().await;
        assert!(begun.elapsed() < PATIENCE, "{} of {half} were refused", Fates::of(&fates.refused));
    }
    assert_eq!(Fates::of(&fates.served), 0, "somebody was served by an actor that handles nothing");
    brake.shut(false);
    all_sent(senders).await;
    let (refused, served, late) = (Fates::of(&fates.refused), Fates::of(&fates.served), Fates::of(&fates.late));
    println!("held: {refused} refused, {served} served, {late} late, {:?}", begun.elapsed());
    assert_eq!(refused + served + late, half);

    // A quarter while it is slow, and a quarter as fast as it is.
    for (slow, count) in [(true, messages / 4), (false, messages - half - messages / 4)] {
        brake.slow.store(slow, Ordering::SeqCst);
        let begun = Instant::now();
        all_sent(flood(&handle, &fates, count)).await;
        println!("slow: {slow}, {count} answered after {:?}", begun.elapsed());
    }
    let answered = [&fates.refused, &fates.served, &fates.late].map(Fates::of);
    let longest = [&fates.refused_ms, &fates.answered_ms].map(|longest| longest.load(Ordering::SeqCst));
    println!("refused, served, late: {answered:?}; the longest refusal and answer took {longest:?} ms");
    assert_eq!(answered.iter().sum::<usize>(), messages);
    assert!(longest[0] < 5_000, "a refusal took {} ms", longest[0]);
    let actors = handle.actors().await;
    let slug = actors.iter().find(|actor| actor.kind == "slug").expect("lives");
    println!("{} of {} waited at most", slug.mailbox_high_water, slug.mailbox_limit);
    assert!((MAILBOX_LIMIT..=MAILBOX_LIMIT + SLACK).contains(&slug.mailbox_high_water), "{slug:?}");
    assert_eq!(slug.restarts, 0, "{slug:?}");
    let cost = memory("VmHWM").saturating_sub(before);
    println!("{} KB more than the {} KB of before", cost >> 10, before >> 10);
    assert!(cost <= MEMORY_MAX, "the flood cost {cost} bytes");

    // And then it is a slug as any other.
    assert!(matches!(ask(&handle).await, Ok(Work::Done(_))));
    house.stop_with_all_kept().await;
}
