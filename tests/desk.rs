//! The desk against models of it: a random walk beside a plain reference, and every reachable state of a small world.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use proptest::prelude::*;
use slugline::model::claim::Terms;
use slugline::model::desk::{Change, Claimed, Completed, Desk, FilingError, Rules, SWEEP_MAX, WipLimits};
use slugline::model::event::EventKind;
use slugline::model::filed::NewTodo;
use slugline::model::ids::{Lane, RepoName, Slug, TodoKey, Worker};
use slugline::model::lane::{BreakerTerms, Gate, LaneObstacle, STEPS};
use slugline::model::roadmap::{self, Catalog};
use slugline::model::time::Moment;
use slugline::model::todo::{Asker, Circumstances, Complete, Completing, Grant, How, Outcome, Stage, TodoState};
use stateright::{Checker, Model, Property};

#[path = "scale/mod.rs"]
mod scale;

use scale::{Dice, seed, size};

const LEASE_MS: i64 = 100;

fn terms() -> Terms {
    Terms {
        lease_ms: LEASE_MS,
        heartbeat_every_ms: 10,
        progress_ms: 250,
        hold_max_ms: 200,
        attempts_max: 4,
        backoff_min_ms: 30,
        backoff_max_ms: 60,
    }
}

fn repo() -> RepoName {
    RepoName::parse("app").expect("name")
}

fn todo(number: usize) -> TodoKey {
    TodoKey { repo: repo(), slug: Slug::parse(&format!("t{number}")).expect("slug") }
}

fn asker(lane: usize, worker: usize) -> Asker {
    Asker {
        lane: Lane::parse(["a", "b"][lane % 2]).expect("lane"),
        worker: Worker::parse(&format!("w{worker}")).expect("worker"),
    }
}

fn says(token: u64, outcome: Outcome, reason: &str) -> Complete {
    let reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
    Complete { token, outcome, summary: None, reason, review: None, findings: None }
}

fn around() -> Circumstances {
    Circumstances { review_required: false, on_base: true, operation: None, no_fault: false }
}

/// One todo, as plainly as it can be told.
#[derive(Debug, Clone, Default)]
struct Plain {
    holder: Option<(Asker, u64, i64)>,
    token: u64,
    attempts: u32,
    waits_until: i64,
    is_over: bool,
    counted: BTreeMap<u64, How>,
}

/// The whole world, as plainly as it can be told. Lanes are asked of the desk: they have a model of their own.
#[derive(Debug, Default)]
struct World {
    todos: BTreeMap<usize, Plain>,
}

impl World {
    fn expire(&mut self, now: i64) {
        for plain in self.todos.values_mut() {
            if plain.holder.as_ref().is_some_and(|(_, _, end)| now >= *end) {
                plain.holder = None;
                plain.attempts += 1;
                plain.is_over = plain.attempts >= 4;
            }
        }
    }
}

fn rules() -> Rules {
    Rules {
        terms: terms(),
        breaker: BreakerTerms { failures: 3, window_ms: 10_000 },
        wip: WipLimits { default: Some(2), by_lane: BTreeMap::new() },
    }
}

fn catalog(todos: usize) -> Arc<Catalog> {
    let text: String = (0..todos).map(|number| format!("- slug: t{number}\n")).collect();
    Arc::new(Catalog::build(roadmap::parse("r", &text), &[], Vec::new()))
}

/// A desk made again from everything that was written.
fn again(log: &[Change], base: &Arc<Catalog>) -> Desk {
    let mut desk = Desk::new(rules());
    let order = |change: &Change| match change {
        Change::Todo { .. } | Change::Awake(_) => 0,
        Change::Lane { .. } => 1,
        _ => 2,
    };
    // As the ledger gives it: the newest state of each todo and lane, then the failures.
    let mut sorted: Vec<Change> = log.to_vec();
    sorted.sort_by_key(order);
    sorted.into_iter().for_each(|change| desk.load(change));
    desk.base_is(&repo(), base);
    desk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn the_desk_is_its_plain_model_over_ten_thousand_schedules_and_the_same_when_made_again_from_the_log(
        steps in proptest::collection::vec((0_u8..10, 0_usize..3, 0_usize..2, 0_usize..3, 0_i64..60), 1..40),
    ) {
        let base = catalog(3);
        let (mut desk, mut world, mut log, mut now) = (Desk::new(rules()), World::default(), Vec::new(), 0);
        desk.base_is(&repo(), &base);
        for (what, which, lane, worker, pass) in steps {
            now += pass;
            let moment = Moment::both(now);
            desk.sweep(&moment);
            world.expire(now);
            let asker = asker(lane, worker);
            let admits = |desk: &Desk, world: &World| {
                let (state, _) = desk.lane(&asker.lane);
                let wip = world.todos.values().filter(|plain| plain.holder.as_ref().is_some_and(|(who, ..)| who.lane == asker.lane)).count();
                let room = match &state.gate {
                    Gate::Open => true,
                    Gate::Paused(_) => false,
                    Gate::Probing { step, out, .. } => out.len() < STEPS[*step] as usize,
                };
                room && wip < 2
            };
            let free = admits(&desk, &world);
            let plain = world.todos.entry(which).or_default();
            match what {
                0..=3 => {
                    let claimed = desk.claim(&todo(which), &asker, &moment);
                    match &plain.holder {
                        Some((who, token, _)) if *who == asker => {
                            let same = matches!(&claimed, Claimed::Granted { claim, repeated: true } if claim.token == *token);
                            prop_assert!(same, "{:?}", claimed);
                        }
                        _ if plain.is_over => prop_assert!(matches!(claimed, Claimed::Refused(_)), "{:?}", claimed),
                        Some(_) => prop_assert!(matches!(claimed, Claimed::Held(_))),
                        None if now < plain.waits_until => {
                            let waits = matches!(claimed, Claimed::Waiting { .. });
                            prop_assert!(waits, "{:?}", claimed);
                        }
                        None if !free => prop_assert!(matches!(claimed, Claimed::Lane(_)), "{:?}", claimed),
                        None => {
                            plain.token += 1;
                            let is_new = matches!(&claimed, Claimed::Granted { claim, repeated: false } if claim.token == plain.token);
                            prop_assert!(is_new, "{:?}", claimed);
                            plain.holder = Some((asker.clone(), plain.token, now + LEASE_MS));
                        }
                    }
                }
                4 => {
                    let token = plain.token;
                    let beat = desk.heartbeat(&todo(which), token, Some(&now.to_string()), None, &moment);
                    prop_assert_eq!(beat.is_ok(), plain.holder.is_some());
                    if let Some((_, _, end)) = &mut plain.holder { *end = (*end).max(now + LEASE_MS) }
                }
                5 => {
                    let released = desk.release(&todo(which), plain.token, &moment);
                    match plain.holder.take() {
                        Some(_) => {
                            prop_assert!(matches!(released, Ok((_, false))));
                            plain.counted.insert(plain.token, How::Released);
                        }
                        None => prop_assert_eq!(released.is_ok(), plain.counted.get(&plain.token) == Some(&How::Released)),
                    }
                }
                6 => {
                    let said = says(plain.token, Outcome::Failed, ["x broke", "y broke"][lane]);
                    let completed = desk.complete(&todo(which), &said, 0, &moment);
                    match plain.holder.take() {
                        Some(_) => {
                            let counts = matches!(completed, Completed::Counted { repeated: false, .. });
                            prop_assert!(counts, "{:?}", completed);
                            plain.attempts += 1;
                            plain.is_over = plain.attempts >= 4;
                            plain.waits_until = now + (30 << (plain.attempts - 1)).min(60);
                            plain.counted.insert(plain.token, How::Failed);
                        }
                        None => {
                            let repeats = matches!(completed, Completed::Counted { repeated: true, .. });
                            prop_assert_eq!(repeats, plain.counted.get(&plain.token) == Some(&How::Failed), "{:?}", completed);
                        }
                    }
                }
                7 => {
                    let completed = desk.judged(&todo(which), &says(plain.token, Outcome::Done, ""), &around(), &moment);
                    match plain.holder.take() {
                        Some(_) => {
                            let counts = matches!(completed, Completed::Counted { repeated: false, .. });
                            prop_assert!(counts, "{:?}", completed);
                            (plain.is_over, plain.attempts) = (true, 0);
                            plain.counted.insert(plain.token, How::Done);
                        }
                        None => {
                            let repeats = matches!(completed, Completed::Counted { repeated: true, .. });
                            prop_assert_eq!(repeats, plain.counted.get(&plain.token) == Some(&How::Done));
                        }
                    }
                }
                8 => {
                    desk.pause(&asker.lane, "a try", None, moment.wall);
                }
                _ => {
                    desk.resume(&asker.lane, moment.wall);
                }
            }
            for (number, plain) in &world.todos {
                let state = desk.todo(&todo(*number));
                prop_assert_eq!((state.token, state.attempts), (plain.token, plain.attempts));
                prop_assert_eq!(state.live(moment.awake).map(|claim| claim.token), plain.holder.as_ref().map(|(_, token, _)| *token));
            }
            log.extend(desk.take_changes());
        }
        let moment = Moment::both(now);
        let mut other = again(&log, &base);
        for number in 0..3 {
            prop_assert_eq!(desk.todo(&todo(number)), other.todo(&todo(number)));
        }
        for lane in 0..2 {
            let lane = asker(lane, 0).lane;
            prop_assert_eq!(desk.lane(&lane), other.lane(&lane));
        }
        // What they decide next is the same too.
        for worker in 0..3 {
            prop_assert_eq!(desk.next(&repo(), &asker(0, worker), &moment), other.next(&repo(), &asker(0, worker), &moment));
        }
        desk.take_changes();
    }
}

/// Claimers at once, and how many histories of them are gone through.
const CLAIMERS: [u64; 3] = [64, 256, 1_000];
const HISTORIES: [u64; 3] = [2, 20, 100];
const MANY: usize = 10_000;

/// What has to be true of one of many todos, told by somebody who only knows the rules.
#[derive(Debug, Clone, Default)]
struct Item {
    /// Token and end of the claim that runs.
    held: Option<(u64, i64)>,
    token: u64,
    is_done: bool,
}

impl Item {
    fn is_held_under(&self, token: u64, now: i64) -> bool {
        self.held.is_some_and(|(held, end)| held == token && now < end)
    }
}

/// What claimers are told about many todos, in the order in which it is decided.
struct History {
    desk: Desk,
    items: Vec<Item>,
    now: i64,
    /// Results that came too late.
    late: usize,
}

impl History {
    fn begin(base: &Arc<Catalog>) -> Self {
        let terms = Terms { attempts_max: u32::MAX, backoff_min_ms: 0, backoff_max_ms: 0, ..terms() };
        let breaker = BreakerTerms { failures: usize::MAX, window_ms: 1_000 };
        let wip = WipLimits { default: None, by_lane: BTreeMap::new() };
        let mut desk = Desk::new(Rules { terms, breaker, wip });
        desk.base_is(&repo(), base);
        Self { desk, items: vec![Item::default(); MANY], now: 0, late: 0 }
    }

    fn pass(&mut self, ms: i64) {
        self.now += ms;
        self.desk.sweep(&Moment::both(self.now));
        self.desk.take_changes();
    }

    /// Whatever a worker is given is nobody's, and its token is the next one.
    fn next(&mut self, worker: usize) -> Option<(usize, u64)> {
        let claimed = self.desk.next(&repo(), &asker(worker, worker), &Moment::both(self.now));
        let claim = match claimed {
            Claimed::Granted { claim, repeated: false } => claim,
            Claimed::Granted { claim, repeated: true } => {
                let which = number_of(&claim.todo);
                assert!(self.items[which].is_held_under(claim.token, self.now), "{claim:?} is over");
                return Some((which, claim.token));
            }
            Claimed::Nothing => return None,
            other => panic!("{other:?}"),
        };
        let (which, now) = (number_of(&claim.todo), self.now);
        let item = &mut self.items[which];
        assert!(!item.is_done && item.held.is_none_or(|(_, end)| end <= now), "{claim:?} is not free: {item:?}");
        assert_eq!(claim.token, item.token + 1, "{item:?}");
        (item.token, item.held) = (claim.token, Some((claim.token, claim.expires.as_ms())));
        Some((which, claim.token))
    }

    /// A result counts if and only if its claim runs; and once. Whether it is one more that counts.
    fn complete(&mut self, (which, token): (usize, u64)) -> bool {
        let counts = self.items[which].is_held_under(token, self.now);
        let moment = Moment::both(self.now);
        match self.desk.judged(&todo(which), &says(token, Outcome::Done, ""), &around(), &moment) {
            Completed::Counted { repeated: false, .. } if counts => {
                (self.items[which].held, self.items[which].is_done) = (None, true);
            }
            Completed::Counted { repeated: true, .. } => {
                assert!(self.items[which].is_done && self.items[which].token == token, "{:?}", self.items[which]);
            }
            Completed::Stale(_) if !counts => self.late += 1,
            other => panic!("{which}, {token}, {:?}: {other:?}", self.items[which]),
        }
        counts
    }

    fn release(&mut self, (which, token): (usize, u64)) {
        let runs = self.items[which].is_held_under(token, self.now);
        let released = self.desk.release(&todo(which), token, &Moment::both(self.now));
        assert_eq!(matches!(released, Ok((_, false))), runs, "{released:?}");
        if runs {
            self.items[which].held = None;
        }
    }

    fn beat(&mut self, (which, token): (usize, u64)) {
        let runs = self.items[which].is_held_under(token, self.now);
        let beat = self.desk.heartbeat(&todo(which), token, None, None, &Moment::both(self.now));
        assert_eq!(beat.is_ok(), runs);
        if let Ok(claim) = beat {
            self.items[which].held = Some((token, claim.expires.as_ms()));
        }
    }
}

fn number_of(todo: &TodoKey) -> usize {
    todo.slug.as_str()[1..].parse().expect("a number")
}

#[test]
fn however_many_claim_ten_thousand_todos_none_is_held_twice_none_is_lost_and_none_is_done_twice() {
    let claimers = usize::try_from(size("TEST_CLAIMERS", CLAIMERS)).expect("a number");
    let (base, first) = (catalog(MANY), seed(Some(1)));
    for seed in first..first + size("TEST_HISTORIES", HISTORIES) {
        let (mut history, mut dice) = (History::begin(&base), Dice(seed.wrapping_mul(1_000_003)));
        // Who each of them is, and what it holds as far as it knows; and what was let go of by those who are gone.
        let mut knows: Vec<(usize, Option<(usize, u64)>)> = (0..claimers).map(|worker| (worker, None)).collect();
        let mut old: Vec<(usize, u64)> = Vec::new();
        let everybody = u64::try_from(claimers).expect("a number");
        let mut left = MANY;
        while left > 0 {
            // So that a lease lasts for some turns of everybody.
            history.pass(i64::from(dice.below(everybody / 8) == 0));
            let one = usize::try_from(dice.below(everybody)).expect("a number");
            let (worker, holds) = knows[one];
            match (dice.below(100), holds) {
                (0..3, _) if !old.is_empty() => {
                    let late = *dice.one_of(&old);
                    left -= usize::from(history.complete(late));
                }
                (_, None) => knows[one].1 = history.next(worker),
                (3..20, Some(claim)) => history.beat(claim),
                (20..23, Some(claim)) => {
                    history.release(claim);
                    old.push(claim);
                    knows[one].1 = None;
                }
                // It is not heard of any more, until its result comes; somebody else takes its place.
                (23..27, Some(claim)) => {
                    old.push(claim);
                    knows[one] = (worker + claimers, None);
                }
                (27..40, Some(_)) => {}
                (_, Some(claim)) => {
                    left -= usize::from(history.complete(claim));
                    knows[one].1 = None;
                }
            }
        }
        assert!(history.items.iter().all(|item| item.is_done), "seed {seed}");
        assert!(history.late > MANY / 100, "seed {seed}: hardly anything was late: {}", history.late);
    }
}

/// A world small enough to look at every state of it: one todo, two workers, messages that arrive late or twice.
struct Small;

#[derive(Debug, Clone, PartialEq)]
struct SmallState {
    todo: TodoState,
    now: i64,
    /// The tokens each worker was given, newest last.
    told: [Vec<u64>; 2],
    /// What every grant and end has to be, told by somebody who only knows the rules: holder and its end.
    holder: Option<(usize, u64, i64)>,
    grants: u64,
    counted: Vec<u64>,
    broken: Option<&'static str>,
}

impl Eq for SmallState {}

impl Hash for SmallState {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        serde_json::to_string(&self.todo).expect("a state is JSON").hash(hasher);
        (self.now, &self.told, &self.holder, self.grants, &self.counted, self.broken).hash(hasher);
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Wait,
    Sweep,
    Claim(usize),
    Beat(usize, u64),
    Release(usize, u64),
    /// A complete under any token the worker was ever given: late, repeated or in time.
    Complete(usize, u64, bool),
}

/// Half a lease.
const TICK_MS: i64 = 50;
const TOKENS_MAX: u64 = 3;
const TIME_MAX: i64 = 350;

impl SmallState {
    fn is_held(&self, token: u64) -> bool {
        self.holder.is_some_and(|(_, held, end)| held == token && self.now < end)
    }

    fn check(&mut self, is_so: bool, what: &'static str) {
        if !is_so {
            self.broken = Some(what);
        }
    }
}

impl Model for Small {
    type State = SmallState;
    type Action = Step;

    fn init_states(&self) -> Vec<SmallState> {
        vec![SmallState {
            todo: TodoState::default(),
            now: 0,
            told: [Vec::new(), Vec::new()],
            holder: None,
            grants: 0,
            counted: Vec::new(),
            broken: None,
        }]
    }

    fn actions(&self, state: &SmallState, actions: &mut Vec<Step>) {
        actions.extend([Step::Wait, Step::Sweep]);
        for worker in 0..2 {
            actions.push(Step::Claim(worker));
            for &token in &state.told[worker] {
                actions.extend([Step::Beat(worker, token), Step::Release(worker, token)]);
                actions.extend([Step::Complete(worker, token, true), Step::Complete(worker, token, false)]);
            }
        }
    }

    fn next_state(&self, before: &SmallState, step: Step) -> Option<SmallState> {
        let mut state = before.clone();
        let moment = Moment::both(state.now);
        match step {
            Step::Wait => state.now += TICK_MS,
            Step::Sweep => {
                if let Some(after) = state.todo.expired(&moment, &terms()) {
                    state.check(before.holder.is_none_or(|(_, _, end)| before.now >= end), "a live lease was ended");
                    (state.todo, state.holder) = (after, None);
                } else {
                    let dead = before.holder.is_some_and(|(_, _, end)| before.now >= end);
                    state.check(!dead, "a dead lease was kept");
                }
            }
            Step::Claim(worker) => {
                // Whoever decides about a claim has swept before.
                if let Some(after) = state.todo.expired(&moment, &terms()) {
                    (state.todo, state.holder) = (after, None);
                }
                if !state.todo.stage.is_open() {
                    return None;
                }
                match state.todo.grant(&todo(0), &asker(0, worker), 1, &moment, &terms()) {
                    Grant::Granted(after) => {
                        let token = after.token;
                        state.check(state.holder.is_none(), "granted while it was held");
                        state.check(token == state.grants + 1, "a token that does not rise by one");
                        state.grants += 1;
                        state.holder = Some((worker, token, state.now + LEASE_MS));
                        state.told[worker].push(token);
                        state.todo = *after;
                    }
                    Grant::Repeat(claim) => {
                        state.check(before.holder.is_some_and(|(who, ..)| who == worker), "repeated to a stranger");
                        state.check(state.is_held(claim.token), "repeated after its end");
                    }
                    Grant::Held(_) => {
                        state.check(state.holder.is_some_and(|(who, ..)| who != worker), "held by nobody");
                    }
                    Grant::Waiting(_) => {}
                }
            }
            Step::Beat(_, token) => {
                let held = state.is_held(token);
                let beat = state.todo.heartbeat(token, None, None, moment.awake, &terms());
                state.check(beat.is_ok() == held, "a beat was taken wrongly");
                if let Ok(after) = beat {
                    let end = after.claim.as_ref().map_or(0, |claim| claim.expires.as_ms());
                    state.check(state.holder.is_some_and(|(_, _, before)| end >= before), "a beat shortened a lease");
                    state.holder = state.holder.map(|(who, token, _)| (who, token, end));
                    state.todo = after;
                }
            }
            Step::Release(_, token) => {
                let held = state.is_held(token);
                let released = state.todo.released(token, &moment);
                state.check(released.is_ok() == held, "a release was taken wrongly");
                if let Ok(after) = released {
                    (state.todo, state.holder) = (after, None);
                }
            }
            Step::Complete(_, token, well) => {
                let said = if well { says(token, Outcome::Done, "") } else { says(token, Outcome::Failed, "it broke") };
                let held = state.is_held(token);
                match state.todo.completing(&said, moment.awake) {
                    Completing::Go(_) => {
                        state.check(held, "a stale complete counted");
                        state.check(!state.counted.contains(&token), "one claim counted twice");
                        state.counted.push(token);
                        state.todo = state.todo.completed(&said, &around(), &moment, &terms());
                        state.holder = None;
                    }
                    Completing::Repeat(ending) => {
                        state.check(state.counted.contains(&ending.token), "a repeat of what never counted");
                    }
                    Completing::Stale(_) => state.check(!held, "a complete in time was refused"),
                    Completing::Unfit(_) => state.check(false, "fit words were called unfit"),
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("every step keeps its promise", |_, state| state.broken.is_none()),
            Property::<Self>::always("at most one complete as done counts", |_, state| {
                state.todo.endings.iter().filter(|ending| ending.how == How::Done).count() <= 1
            }),
            Property::<Self>::always("an attempt is an expiry or a failure", |_, state| {
                let ends = state.todo.endings.iter().filter(|ending| matches!(ending.how, How::Expired | How::Failed));
                state.todo.stage == Stage::Done || ends.count() == state.todo.attempts as usize
            }),
            Property::<Self>::sometimes("it can be done", |_, state| state.todo.stage == Stage::Done),
            Property::<Self>::sometimes("it can change hands", |_, state| {
                state.told.iter().all(|tokens| !tokens.is_empty())
            }),
            Property::<Self>::sometimes("it can expire and be given out again", |_, state| {
                state.todo.endings.iter().any(|ending| ending.how == How::Expired) && state.holder.is_some()
            }),
        ]
    }

    fn within_boundary(&self, state: &SmallState) -> bool {
        state.grants <= TOKENS_MAX && state.now <= TIME_MAX
    }
}

#[test]
fn in_every_state_that_can_be_reached_a_claim_has_one_holder_and_counts_once() {
    let checker = Small.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    assert!(checker.unique_state_count() > 1_000, "the world is too small to say anything");
    checker.assert_properties();
}

#[test]
fn the_lanes_obstacle_of_a_full_lane_names_its_limit() {
    let base = catalog(3);
    let mut desk = Desk::new(rules());
    desk.base_is(&repo(), &base);
    let now = Moment::both(0);
    for worker in 0..2 {
        assert!(matches!(desk.next(&repo(), &asker(0, worker), &now), Claimed::Granted { repeated: false, .. }));
    }
    let third = desk.next(&repo(), &asker(0, 2), &now);
    assert_eq!(third, Claimed::Lane(LaneObstacle::Full { wip: 2, limit: 2 }));
    assert!(matches!(desk.next(&repo(), &asker(1, 2), &now), Claimed::Granted { .. }), "another lane has room");
}

#[test]
fn thousands_of_leases_that_run_out_at_once_end_in_portions_and_none_is_granted_over_before_its_end() {
    let (todos, base) = (SWEEP_MAX * 3, catalog(SWEEP_MAX * 3));
    let mut desk = Desk::new(Rules { wip: WipLimits::default(), ..rules() });
    desk.base_is(&repo(), &base);
    for number in 0..todos {
        assert!(matches!(desk.next(&repo(), &asker(0, number), &Moment::both(0)), Claimed::Granted { .. }));
    }
    desk.take_changes();
    let later = Moment::both(LEASE_MS);
    assert_eq!(desk.sweep(&later), SWEEP_MAX);
    assert_eq!(desk.next_due_ms(&later), Some(0), "the rest is due at once");
    // One the sweep has not come to: its end is written before the new grant.
    desk.take_changes();
    let last = todo(todos - 1);
    assert!(desk.todo(&last).claim.is_some());
    assert!(matches!(desk.claim(&last, &asker(1, 0), &later), Claimed::Granted { repeated: false, .. }));
    let kinds: Vec<&str> = desk
        .take_changes()
        .iter()
        .filter_map(|change| match change {
            Change::Todo { events, .. } => events.first().map(|(kind, _)| kind.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, ["claim.expired", "claim.granted"]);
    while desk.sweep(&later) > 0 {}
    assert_eq!(desk.claims(), 1);
}

#[test]
fn what_was_claimed_before_a_pause_neither_trips_nor_closes_the_lane_that_opens_again() {
    let base = catalog(6);
    let mut desk = Desk::new(Rules { wip: WipLimits::default(), ..rules() });
    desk.base_is(&repo(), &base);
    let now = Moment::both(0);
    let mut tokens = Vec::new();
    for worker in 0..5 {
        match desk.next(&repo(), &asker(0, worker), &now) {
            Claimed::Granted { claim, .. } => tokens.push((claim.todo, claim.token)),
            other => panic!("{other:?}"),
        }
    }
    let lane = asker(0, 0).lane;
    let fail = |desk: &mut Desk, at: usize| {
        let (todo, token) = &tokens[at];
        let said = says(*token, Outcome::Failed, "the same thing broke");
        assert!(matches!(desk.complete(todo, &said, 0, &now), Completed::Counted { repeated: false, .. }));
    };
    fail(&mut desk, 0);
    fail(&mut desk, 1);
    assert!(desk.pause(&lane, "a look", None, now.wall) && desk.resume(&lane, now.wall));
    // Three more of the same kind, and five in all: but every one of the generation before.
    for at in 2..5 {
        fail(&mut desk, at);
    }
    let (state, _) = desk.lane(&lane);
    assert!(matches!(state.gate, Gate::Probing { step: 0, .. }), "{state:?}");
}

#[test]
fn a_claim_in_one_repository_is_no_answer_in_another() {
    let mut desk = Desk::new(rules());
    let other = RepoName::parse("other").expect("name");
    desk.base_is(&repo(), &catalog(2));
    desk.base_is(&other, &catalog(2));
    let now = Moment::both(0);
    for (of, repeats) in [(&repo(), false), (&other, false), (&repo(), true), (&other, true)] {
        let claimed = desk.next(of, &asker(0, 0), &now);
        let Claimed::Granted { claim, repeated } = claimed else { panic!("{claimed:?}") };
        assert_eq!((&claim.todo.repo, repeated), (of, repeats));
    }
}

#[test]
fn a_failure_that_is_nobodys_fault_does_not_close_the_lane_of_its_claim_again() {
    for no_fault in [true, false] {
        let mut desk = Desk::new(rules());
        desk.base_is(&repo(), &catalog(2));
        let (now, lane) = (Moment::both(0), asker(0, 0).lane);
        assert!(desk.pause(&lane, "a look", None, now.wall) && desk.resume(&lane, now.wall));
        let Claimed::Granted { claim, .. } = desk.next(&repo(), &asker(0, 0), &now) else { panic!("it is free") };
        let said = says(claim.token, Outcome::Failed, "it broke");
        desk.judged(&claim.todo, &said, &Circumstances { no_fault, ..around() }, &now);
        assert_eq!(desk.lane(&lane).0.paused().is_some(), !no_fault);
    }
}

#[test]
fn the_same_pause_of_a_lane_is_no_change_and_another_is() {
    let mut desk = Desk::new(rules());
    let (lane, now) = (asker(0, 0).lane, Moment::both(0).wall);
    assert!(desk.pause(&lane, "a look", None, now) && !desk.pause(&lane, "a look", None, now));
    assert!(desk.pause(&lane, "a look", Some(now.plus_ms(10)), now) && desk.pause(&lane, "another", None, now));
}

#[test]
fn a_todo_the_desk_is_given_twice_is_filed_once_and_another_under_its_name_is_refused() {
    let mut desk = Desk::new(rules());
    desk.base_is(&repo(), &catalog(1));
    let now = Moment::both(0).wall;
    let new = |slug: &str, brief: &str| NewTodo {
        slug: Slug::parse(slug).expect("slug"),
        brief: brief.to_owned(),
        lane: None,
        after: Vec::new(),
        priority: 0,
    };
    assert_eq!(desk.file(&repo(), new("more", "do it"), now), Ok(true));
    assert_eq!(desk.file(&repo(), new("more", "do it"), now), Ok(false));
    assert_eq!(desk.file(&repo(), new("more", "do more"), now), Err(FilingError::Taken));
    assert_eq!(desk.file(&repo(), new("t0", "do it"), now), Err(FilingError::Taken));
    let filed = desk.take_changes().into_iter().filter(|change| matches!(change, Change::Filed { .. })).count();
    assert_eq!((filed, desk.catalog(&repo()).map(|all| all.iter().count())), (1, Some(2)));
}

#[test]
fn a_claim_that_fails_tells_of_its_todo_and_one_that_is_given_back_does_not() {
    let mut desk = Desk::new(rules());
    desk.base_is(&repo(), &catalog(2));
    let now = Moment::both(0);
    let mut tells = |fails: bool, worker: usize| {
        let claimed = desk.next(&repo(), &asker(worker, worker), &now);
        let Claimed::Granted { claim, repeated: false } = claimed else { panic!("{claimed:?}") };
        let other = RepoName::parse("other").expect("name");
        assert!(desk.at_stage(&repo(), Stage::Build).contains(&claim.todo.slug));
        assert_eq!(desk.at_stage(&other, Stage::Build), []);
        desk.take_changes();
        if fails {
            desk.complete(&claim.todo, &says(claim.token, Outcome::Failed, "it broke"), 0, &now);
        } else {
            desk.release(&claim.todo, claim.token, &now).expect("it is held");
        }
        desk.take_changes().iter().any(|change| match change {
            Change::Todo { events, .. } => events.iter().any(|(kind, _)| *kind == EventKind::TodoUpdated),
            _ => false,
        })
    };
    assert!(tells(true, 0));
    assert!(!tells(false, 1));
}

#[test]
fn how_long_the_desk_has_been_awake_is_noted_while_something_waits_and_not_all_the_time() {
    let mut desk = Desk::new(Rules { terms: Terms { lease_ms: 3_600_000, ..terms() }, ..rules() });
    desk.base_is(&repo(), &catalog(1));
    let noted = |desk: &mut Desk, now: i64| {
        desk.sweep(&Moment::both(now));
        desk.take_changes().iter().any(|change| matches!(change, Change::Awake(_)))
    };
    assert!(!noted(&mut desk, 1_000_000), "nothing waits");
    let claimed = desk.next(&repo(), &asker(0, 0), &Moment::both(1_000_000));
    assert!(matches!(claimed, Claimed::Granted { .. }), "{claimed:?}");
    desk.take_changes();
    assert!(noted(&mut desk, 1_000_000) && !noted(&mut desk, 1_000_001));
    assert!(noted(&mut desk, 2_000_000));
}

#[test]
fn a_lane_that_is_open_again_counts_failures_from_nothing() {
    let base = catalog(12);
    let mut desk = Desk::new(Rules { wip: WipLimits::default(), ..rules() });
    desk.base_is(&repo(), &base);
    let now = Moment::both(0);
    let lane = asker(0, 0).lane;
    let next = |desk: &mut Desk| match desk.next(&repo(), &asker(0, 0), &now) {
        Claimed::Granted { claim, repeated: false } => claim,
        other => panic!("{other:?}"),
    };
    let fail = |desk: &mut Desk| {
        let claim = next(desk);
        let said = says(claim.token, Outcome::Failed, "the same thing broke");
        assert!(matches!(desk.complete(&claim.todo, &said, 0, &now), Completed::Counted { repeated: false, .. }));
    };
    fail(&mut desk);
    fail(&mut desk);
    assert!(desk.pause(&lane, "a look", None, now.wall) && desk.resume(&lane, now.wall));
    let probes: u32 = STEPS.iter().sum();
    for _ in 0..probes {
        let claim = next(&mut desk);
        let said = says(claim.token, Outcome::Done, "");
        let counted = desk.judged(&claim.todo, &said, &around(), &now);
        assert!(matches!(counted, Completed::Counted { repeated: false, .. }), "{counted:?}");
    }
    assert_eq!(desk.lane(&lane).0.gate, Gate::Open);
    fail(&mut desk);
    assert_eq!(desk.lane(&lane).0.gate, Gate::Open, "two of the three were of the generation before");
}

#[test]
fn a_probe_whose_lease_runs_out_closes_its_lane_again_and_a_claim_from_before_does_not() {
    let base = catalog(6);
    let mut desk = Desk::new(Rules { wip: WipLimits::default(), ..rules() });
    desk.base_is(&repo(), &base);
    let next =
        |desk: &mut Desk, worker: usize, now: i64| match desk.next(&repo(), &asker(0, worker), &Moment::both(now)) {
            Claimed::Granted { claim, repeated: false } => claim,
            other => panic!("{other:?}"),
        };
    let lane = asker(0, 0).lane;
    let failures =
        |desk: &mut Desk| desk.take_changes().iter().filter(|change| matches!(change, Change::Failed(_))).count();
    next(&mut desk, 0, 0);
    let before = next(&mut desk, 1, 10);
    assert_eq!(desk.sweep(&Moment::both(LEASE_MS)), 1);
    assert_eq!(failures(&mut desk), 0, "silence on an open lane is nobody's failure");
    assert!(desk.pause(&lane, "a look", None, Moment::both(LEASE_MS).wall));
    assert!(desk.resume(&lane, Moment::both(LEASE_MS).wall));
    let probe = next(&mut desk, 2, LEASE_MS);
    let (state, _) = desk.lane(&lane);
    assert!(state.holds(&probe.todo, probe.token), "{state:?}");
    assert!(!state.holds(&before.todo, probe.token) && !state.holds(&probe.todo, probe.token + 1), "{state:?}");
    assert_eq!(desk.sweep(&Moment::both(LEASE_MS + 10)), 1);
    assert!(matches!(desk.lane(&lane).0.gate, Gate::Probing { .. }) && failures(&mut desk) == 0);
    assert_eq!(desk.sweep(&Moment::both(2 * LEASE_MS)), 1);
    let (state, _) = desk.lane(&lane);
    assert!(state.paused().is_some_and(|pause| pause.reason.contains("ran out")), "{state:?}");
    assert_eq!(failures(&mut desk), 1);
}

#[test]
fn claims_that_fail_after_their_lane_has_paused_file_no_second_remediation() {
    let base = catalog(6);
    let mut desk = Desk::new(Rules { wip: WipLimits::default(), ..rules() });
    desk.base_is(&repo(), &base);
    let now = Moment::both(0);
    for worker in 0..6 {
        assert!(matches!(desk.next(&repo(), &asker(0, worker), &now), Claimed::Granted { repeated: false, .. }));
    }
    for number in 0..6 {
        let said = says(1, Outcome::Failed, "the same thing broke");
        assert!(matches!(desk.complete(&todo(number), &said, 0, &now), Completed::Counted { repeated: false, .. }));
    }
    let changes = desk.take_changes();
    assert_eq!(changes.iter().filter(|change| matches!(change, Change::Filed { .. })).count(), 1);
    let pauses = changes.iter().filter(|change| matches!(change, Change::Lane { event: Some(_), .. })).count();
    assert_eq!(pauses, 1, "a lane that is paused is not paused again");
}
