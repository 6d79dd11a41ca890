//! Many workers, short leases, late results: whatever they do, the event log has to make sense. An oracle reads it from
//! the first entry to the last and knows nothing of the code that wrote it. `TEST_SEEDS` says how many seeds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slugline::actors::dispatcher::DispatcherMsg;
use slugline::actors::faults::Faults;
use slugline::actors::repo::Base;
use slugline::model::claim::Claim;
use slugline::model::desk::{Claimed, Completed};
use slugline::model::ids::{Lane, Worker};
use slugline::model::time::Awake;
use slugline::model::todo::{Asker, Circumstances, Complete, Outcome};
use slugline::model::view::{HeartbeatRequest, Mutation};
use tokio::sync::Mutex;

use crate::harness::{House, Repo, Site};
use crate::replay::{Log, replay};
use crate::scale::{Dice, seed, size};

const WORKERS: usize = 64;
const TODOS: usize = 10_000;
const SEEDS: [u64; 3] = [20, 100, 1_000];
const RACES: [u64; 3] = [1_500, 1_500, 15_000];
const LIMIT: Duration = Duration::from_secs(60);

/// What workers were told, to be held against the log.
#[derive(Default)]
struct Told {
    /// Todo and token of every grant.
    granted: BTreeSet<(String, u64)>,
    /// The same of every complete that counts.
    done: BTreeSet<(String, u64)>,
    /// Results that were refused as too late.
    late: usize,
}

struct Team {
    house: House,
    base: Arc<Base>,
    told: Mutex<Told>,
}

impl Team {
    async fn of(site: &Site, todos: usize, lease_ms: u64) -> Self {
        let names: Vec<String> = (0..todos).map(|number| format!("t{number}")).collect();
        let repo = Repo::empty(site.path("app"));
        repo.write("todos/roadmap.yaml", &names.iter().map(|name| format!("- slug: {name}\n")).collect::<String>());
        repo.commit("many todos");
        let lease = lease_ms.to_string();
        let settings = [
            ("lease.duration_ms", lease.as_str()),
            ("attempts.max", "1000"),
            ("attempts.backoff_min_ms", "1"),
            ("attempts.backoff_max_ms", "5"),
            ("breaker.failures", "1000"),
            ("breaker.window_ms", "1000"),
        ];
        let house = site.start_with(&[&repo], &settings, Faults::default()).await;
        let entry = house.handle.context().repo(None).expect("one repository").repo.clone();
        let base = tokio::task::spawn_blocking(move || entry.base()).await.expect("reads").expect("is there");
        Self { house, base, told: Mutex::default() }
    }

    async fn log(&self) -> Log {
        replay(&self.house.handle.context().ledger.store().expect("open")).await
    }

    async fn next(&self, worker: usize) -> Option<Claim> {
        let asker = Asker {
            lane: Lane::parse("builder").expect("lane"),
            worker: Worker::parse(&format!("w{worker}")).expect("worker"),
        };
        let (repo, base) =
            (self.house.handle.context().repo(None).expect("one").repo.name().clone(), self.base.clone());
        let dispatcher = &self.house.handle.context().dispatcher;
        let asked = dispatcher.ask(LIMIT, |reply| DispatcherMsg::Next { repo, base, asker, reply });
        match asked.await.expect("answers").expect("is written") {
            Claimed::Granted { claim, .. } => {
                self.told.lock().await.granted.insert((claim.todo.to_string(), claim.token));
                Some(claim)
            }
            Claimed::Nothing => None,
            other => panic!("{other:?}"),
        }
    }

    /// Says that it is done, as if it had been judged and were on the base; whether that counts.
    async fn complete(&self, claim: &Claim) -> bool {
        let complete = Complete {
            token: claim.token,
            outcome: Outcome::Done,
            summary: Some(format!("result of {}", claim.token)),
            reason: None,
            review: None,
            findings: None,
        };
        let around = Circumstances { review_required: false, on_base: true, operation: None, no_fault: false };
        let (todo, dispatcher) = (claim.todo.clone(), &self.house.handle.context().dispatcher);
        let asked = dispatcher.ask(LIMIT, |reply| DispatcherMsg::Judged { todo, complete, around, reply });
        let completed = asked.await.expect("answers").expect("is written");
        let mut told = self.told.lock().await;
        match completed {
            Completed::Counted { repeated, .. } => {
                let new = told.done.insert((claim.todo.to_string(), claim.token));
                assert_eq!(new, !repeated, "counted twice");
                true
            }
            Completed::Stale(_) => {
                told.late += 1;
                false
            }
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the daemon has been awake for so long.
    async fn awake_at(&self, at: Awake) {
        let mut beat = tokio::time::interval(Duration::from_millis(1));
        while self.house.handle.context().clock.moment().awake < at {
            beat.tick().await;
        }
    }

    async fn mutate(&self, mutation: Mutation) -> bool {
        let dispatcher = &self.house.handle.context().dispatcher;
        let asked = dispatcher.ask(LIMIT, |reply| DispatcherMsg::Mutate { mutation, base: None, keyed: None, reply });
        asked.await.expect("answers").is_ok()
    }

    /// One worker until there is nothing left: most of its work ends well, some late, some twice, some not at all.
    async fn work(self: Arc<Self>, worker: usize, mut dice: Dice, left: Arc<std::sync::atomic::AtomicUsize>) {
        while left.load(Ordering::SeqCst) > 0 {
            let Some(claim) = self.next(worker).await else {
                // All that is left is held by others: their leases last as long as this at most.
                self.awake_at(self.house.handle.context().clock.moment().awake.plus_ms(5)).await;
                continue;
            };
            let todo = claim.todo.clone();
            let counts = match dice.below(100) {
                // Never comes back to it: whoever is next when the lease is over gets it.
                0..2 => {
                    self.awake_at(claim.expires.plus_ms(5)).await;
                    false
                }
                // Comes back when the lease is over.
                2..4 => {
                    self.awake_at(claim.expires).await;
                    self.complete(&claim).await
                }
                // Somewhere around its end.
                4..6 => {
                    let around = i64::try_from(dice.below(10)).unwrap_or(0) - 5;
                    self.awake_at(claim.expires.plus_ms(around)).await;
                    self.complete(&claim).await
                }
                6..8 => {
                    self.mutate(Mutation::Release { todo, token: claim.token }).await;
                    false
                }
                8..12 => {
                    let body = HeartbeatRequest { token: claim.token, progress: None, extend_ms: None };
                    self.mutate(Mutation::Heartbeat { todo, body }).await;
                    self.complete(&claim).await
                }
                // The first answer was lost.
                12..16 => {
                    let first = self.complete(&claim).await;
                    self.complete(&claim).await;
                    first
                }
                _ => self.complete(&claim).await,
            };
            if counts {
                left.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_workers_on_ten_thousand_todos_with_short_leases_never_hold_one_twice_and_lose_none() {
    let first = seed(Some(1));
    for seed in first..first + size("TEST_SEEDS", SEEDS) {
        let site = Site::new();
        let team = Arc::new(Team::of(&site, TODOS, 50).await);
        let left = Arc::new(std::sync::atomic::AtomicUsize::new(TODOS));
        let begun = std::time::Instant::now();
        let work = (0..WORKERS).map(|worker| {
            let dice = Dice(seed.wrapping_mul(1_000_003) + worker as u64);
            tokio::spawn(team.clone().work(worker, dice, left.clone()))
        });
        for worker in futures_util::future::join_all(work).await {
            worker.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        let (verdict, told) = (team.log().await, team.told.lock().await);
        println!(
            "seed {seed}: {} grants, {} expired, {} late, {:?}",
            verdict.granted.len(),
            verdict.expired,
            told.late,
            begun.elapsed()
        );
        assert_eq!(verdict.granted, told.granted, "seed {seed}: grants");
        assert_eq!(verdict.done, told.done, "seed {seed}: what counts");
        assert_eq!(verdict.parked, told.late, "seed {seed}: every late result is parked");
        assert_eq!(verdict.finished.len(), TODOS, "seed {seed}: lost work");
        assert!(verdict.finished.values().all(|&times| times == 1), "seed {seed}: done twice");
        assert!(verdict.expired > 0 && told.late > 0, "seed {seed}: nothing was ever late");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifteen_hundred_results_that_come_too_late_every_one_is_refused_and_parked() {
    let site = Site::new();
    let team = Arc::new(Team::of(&site, WORKERS * 2, 60_000).await);
    let mut late = 0;
    let races = usize::try_from(size("TEST_RACES", RACES)).expect("a number of races");
    while late < races {
        let claims = futures_util::future::join_all((0..WORKERS).map(|worker| team.next(worker))).await;
        let claims: Vec<Claim> = claims.into_iter().flatten().collect();
        team.house.awake_ms.fetch_add(60_000, Ordering::SeqCst);
        // The late results race with those who are given the same todos next.
        let results = futures_util::future::join_all(claims.iter().map(|claim| team.complete(claim)));
        let next = futures_util::future::join_all((0..WORKERS).map(|worker| team.next(worker + WORKERS)));
        let (counted, _) = tokio::join!(results, next);
        assert!(counted.iter().all(|counted| !counted), "a late result counted");
        late += counted.len();
        team.house.awake_ms.fetch_add(60_000, Ordering::SeqCst);
    }
    let verdict = team.log().await;
    assert_eq!((verdict.parked, verdict.done.len(), verdict.finished.len()), (late, 0, 0));
    assert_eq!(verdict.granted, team.told.lock().await.granted);
}
