//! The dispatcher's mind: every claim, lease, lane and failure of the daemon, and every decision about them. Pure: it
//! is told what is asked and what time it is, answers at once, and collects what has to be written down. Whoever owns it
//! gives no answer away before the changes that led to it are on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::agenda::Agenda;
use super::claim::{Claim, Terms};
use super::event::EventKind;
use super::failure::{Failure, FailureSource, sample};
use super::filed::{Additions, FILED_MAX, Filed, NewTodo, Remedy};
use super::fingerprint;
use super::ids::{Lane, RepoName, Slug, TodoKey};
use super::lane::{BreakerTerms, Gate, LaneEnd, LaneObstacle, LaneState, Pause, PausedBy, Tally};
use super::next::{self, Refusal};
use super::roadmap::Catalog;
use super::time::{Awake, Moment, Timestamp};
use super::todo::{Asker, Circumstances, Complete, Completing, Ending, Grant, How, Outcome, Stage, Stale, TodoState};

/// Remediation todos go before everything people order.
const REMEDY_PRIORITY: i64 = 1_000_000;
/// How long a lane rests after a provider said "too many" or "not now" without saying until when, in milliseconds.
const REST_MS: i64 = 300_000;
/// The longest rest a provider's words can lead to, in milliseconds: a week.
const REST_MAX_MS: i64 = 7 * 86_400_000;
/// Leases that are ended in one go: when thousands run out at once, others are answered in between.
pub const SWEEP_MAX: usize = 256;
/// Waking time is noted in the ledger this often while leases run or todos wait, in milliseconds, if nothing else is: a
/// kill makes either at most this much longer.
const AWAKE_NOTE_EVERY_MS: i64 = 5_000;

/// How many claims lanes may have at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WipLimits {
    /// Of a lane that is not named; none when `None`.
    pub default: Option<usize>,
    /// Of named lanes.
    pub by_lane: BTreeMap<Lane, usize>,
}

impl WipLimits {
    /// The limit of one lane.
    #[must_use]
    pub fn of(&self, lane: &Lane) -> Option<usize> {
        self.by_lane.get(lane).copied().or(self.default)
    }
}

/// Everything the desk goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Leases and attempts.
    pub terms: Terms,
    /// The breaker.
    pub breaker: BreakerTerms,
    /// WIP limits.
    pub wip: WipLimits,
}

/// One entry for the ledger. Applied in order, entries make the views again from nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A todo's state, and what to log of it.
    Todo {
        /// Which.
        todo: TodoKey,
        /// Its state now.
        state: Arc<TodoState>,
        /// What happened; nothing for a sign of life.
        events: Vec<(EventKind, Value)>,
    },
    /// A lane's state, and what to log of it.
    Lane {
        /// Its state now.
        state: LaneState,
        /// What happened; nothing when a permit was taken or given back.
        event: Option<(EventKind, Value)>,
    },
    /// Something failed.
    Failed(Failure),
    /// A todo was filed.
    Filed {
        /// In which repository.
        repo: RepoName,
        /// The todo.
        filed: Filed,
    },
    /// The dependencies of a todo were set.
    AfterSet {
        /// Which.
        todo: TodoKey,
        /// What it comes after.
        after: Vec<Slug>,
    },
    /// A result came too late to count, and is kept.
    Parked {
        /// For which todo.
        todo: TodoKey,
        /// What was said.
        complete: Complete,
    },
    /// How long the daemon has been awake.
    Awake(Awake),
    /// Every token from now on is above this one: a backup was put in the ledger's place.
    TokensAbove(u64),
}

/// What a request for a claim leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The caller's claim; `repeated` says it was granted before.
    Granted {
        /// The claim.
        claim: Claim,
        /// Whether the caller held it already.
        repeated: bool,
    },
    /// Another worker's lease runs.
    Held(Claim),
    /// It failed and waits.
    Waiting {
        /// Failed attempts so far.
        attempts: u32,
        /// Until when.
        until: Awake,
    },
    /// A review is not by who built it.
    OwnWork,
    /// The lane may have no further claim now.
    Lane(LaneObstacle),
    /// It cannot be given to anybody.
    Refused(Refusal),
    /// There is nothing to offer.
    Nothing,
}

/// What a complete leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    /// It counts; or counted before, when `repeated`.
    Counted {
        /// What came of it.
        ending: Ending,
        /// Whether it was counted before.
        repeated: bool,
    },
    /// It is to be judged first; the lease is carried on meanwhile.
    Judge(Claim),
    /// The token is not the live claim's; what was said is parked.
    Stale(Stale),
    /// The words do not fit.
    Unfit(&'static str),
}

/// What a request for a hold leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// The lease covers the wait.
    Held(Claim),
    /// The wait is longer than what is left of the claim's allowance, in milliseconds.
    TooLong(i64),
    /// The token is not the live claim's.
    Stale(Stale),
}

/// Why a todo could not be filed or ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilingError {
    /// Another todo has that name.
    Taken,
    /// There are too many.
    Full,
    /// There is no such todo.
    Unknown(Slug),
    /// It would come after itself.
    Cycle(Vec<Slug>),
}

/// One lane in use.
#[derive(Debug, Clone)]
struct LaneDesk {
    state: LaneState,
    tally: Tally,
    held: BTreeSet<TodoKey>,
}

/// The index of a repository's todos, and the base it was made from.
#[derive(Debug, Clone)]
struct BasedAgenda {
    base: Arc<Catalog>,
    index: Agenda,
}

/// The desk.
#[derive(Debug, Clone)]
pub struct Desk {
    rules: Rules,
    todos: HashMap<TodoKey, Arc<TodoState>>,
    lanes: BTreeMap<Lane, LaneDesk>,
    additions: HashMap<RepoName, Additions>,
    agendas: HashMap<RepoName, BasedAgenda>,
    /// Every claim that has not ended, by the end of its lease.
    expiries: BTreeSet<(Awake, TodoKey)>,
    /// Every todo that waits after a failure, by when that is over.
    waits: BTreeSet<(Awake, Option<TodoKey>)>,
    /// The claims by holder.
    holders: HashMap<Asker, BTreeSet<TodoKey>>,
    noted: Awake,
    tokens_above: u64,
    changes: Vec<Change>,
}

impl Desk {
    /// An empty desk.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            todos: HashMap::new(),
            lanes: BTreeMap::new(),
            additions: HashMap::new(),
            agendas: HashMap::new(),
            expiries: BTreeSet::new(),
            waits: BTreeSet::new(),
            holders: HashMap::new(),
            noted: Awake::default(),
            tokens_above: 0,
            changes: Vec::new(),
        }
    }

    /// Takes in what the ledger has, one entry at a time; nothing of it is written again. Failures have to come after
    /// the lanes.
    pub fn load(&mut self, change: Change) {
        match change {
            Change::Todo { todo, state, .. } => self.index(&todo, state),
            Change::Lane { state, .. } => {
                let lane = state.lane.clone();
                self.lane_mut(&lane).state = state;
            }
            Change::Failed(failure) => {
                let breaker = self.rules.breaker;
                let lane = self.lane_mut(&failure.lane);
                if lane.state.generation == failure.generation {
                    lane.tally.note(&failure.fingerprint, failure.at, &breaker);
                }
            }
            Change::Filed { repo, filed } => {
                self.additions.entry(repo).or_default().filed.insert(filed.todo.slug.clone(), filed);
            }
            Change::AfterSet { todo, after } => {
                self.additions.entry(todo.repo).or_default().after.insert(todo.slug, after);
            }
            Change::Awake(awake) => self.noted = awake,
            Change::TokensAbove(token) => self.tokens_above = token,
            Change::Parked { .. } => {}
        }
    }

    /// What has to be written before anything decided so far is told.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The state of a todo.
    #[must_use]
    pub fn todo(&self, todo: &TodoKey) -> Arc<TodoState> {
        self.todos.get(todo).cloned().unwrap_or_default()
    }

    /// The state of a lane, and how many claims it has.
    #[must_use]
    pub fn lane(&self, lane: &Lane) -> (LaneState, usize) {
        self.lanes
            .get(lane)
            .map_or_else(|| (LaneState::new(lane.clone()), 0), |desk| (desk.state.clone(), desk.held.len()))
    }

    /// Milliseconds until something happens by itself: a lease runs out, a wait is over or a pause ends. `None` when
    /// nothing will.
    #[must_use]
    pub fn next_due_ms(&self, now: &Moment) -> Option<u64> {
        let lease = self.expiries.first().map(|(end, _)| now.until_ms(*end));
        let wait = self.waits.range((now.awake.plus_ms(1), None)..).next().map(|(end, _)| now.until_ms(*end));
        let pause = self.lanes.values().filter_map(|lane| lane.state.paused()?.until);
        let pause = pause.map(|until| u64::try_from(until.as_ms() - now.wall.as_ms()).unwrap_or(0)).min();
        [lease, wait, pause].into_iter().flatten().min()
    }

    /// How many claims have not ended.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.expiries.len()
    }

    /// Ends the leases that have run out and the pauses whose time has come, at most [`SWEEP_MAX`] leases at once: the
    /// rest is due at once again. Says how many leases ended.
    pub fn sweep(&mut self, now: &Moment) -> usize {
        let over = |(end, todo): &(Awake, TodoKey)| (*end <= now.awake).then(|| todo.clone());
        let due: Vec<TodoKey> = self.expiries.iter().map_while(over).take(SWEEP_MAX).collect();
        let expired = due.iter().filter(|todo| self.expire(todo, now)).count();
        let due: Vec<Lane> = self
            .lanes
            .values()
            .filter(|lane| lane.state.is_due(now.wall))
            .map(|lane| lane.state.lane.clone())
            .collect();
        for lane in due {
            self.resume(&lane, now.wall);
        }
        let waits = self.waits.last().is_some_and(|(end, _)| now.awake < *end);
        if (waits || !self.expiries.is_empty()) && now.awake.since_ms(self.noted) >= AWAKE_NOTE_EVERY_MS {
            self.noted = now.awake;
            self.changes.push(Change::Awake(now.awake));
        }
        expired
    }

    /// Ends the claim of a todo if its lease has run out. Whether it had.
    fn expire(&mut self, todo: &TodoKey, now: &Moment) -> bool {
        let before = self.todo(todo);
        let (Some(claim), Some(after)) = (before.claim.clone(), before.expired(now, &self.rules.terms)) else {
            return false;
        };
        let what = format!("the lease of {}/{} ran out", claim.lane, claim.worker);
        let data = json!({ "token": claim.token, "lane": claim.lane, "worker": claim.worker });
        self.end(todo, &claim, after, (EventKind::ClaimExpired, data));
        if self.lane_mut(&claim.lane).state.holds(todo, claim.token) {
            let end = LaneEnd::Failed { what: what.clone(), fingerprint: fingerprint::of(&what).id };
            self.lane_ended(&claim, &end, now.wall);
            self.note_failure(&claim, FailureSource::Expired, &what, now.wall);
            self.remedy_if_closed(&claim, &what, now.wall);
        }
        true
    }

    /// What a repository's base says from now on. Whether that is news; then states may have to be looked at again.
    pub fn base_is(&mut self, repo: &RepoName, base: &Arc<Catalog>) -> bool {
        let known = self.agendas.get(repo).is_some_and(|agenda| Arc::ptr_eq(&agenda.base, base));
        if !known {
            self.plan_agenda(repo, base.clone());
        }
        !known
    }

    /// The next todo of a repository for this worker: what it holds already, else the first that can be offered.
    pub fn next(&mut self, repo: &RepoName, asker: &Asker, now: &Moment) -> Claimed {
        let held = self.holders.get(asker).into_iter().flatten().find(|todo| todo.repo == *repo);
        if let Some(claim) = held.and_then(|todo| self.todos.get(todo)).and_then(|state| state.live(now.awake)) {
            return Claimed::Granted { claim: claim.clone(), repeated: true };
        }
        if let Err(obstacle) = self.admit(&asker.lane) {
            return Claimed::Lane(obstacle);
        }
        let Some(agenda) = self.agendas.get_mut(repo) else { return Claimed::Nothing };
        let todos = &self.todos;
        let state = |slug: &Slug| state_of(todos, repo, slug);
        match agenda.index.next(asker, now.awake, &state) {
            Some(slug) => self.grant(&TodoKey { repo: repo.clone(), slug }, asker, now),
            None => Claimed::Nothing,
        }
    }

    /// This very todo for this worker.
    pub fn claim(&mut self, todo: &TodoKey, asker: &Asker, now: &Moment) -> Claimed {
        let before = self.todo(todo);
        let held = before.live(now.awake).is_some_and(|claim| claim.is_held_by(&asker.lane, &asker.worker));
        let todos = &self.todos;
        let state = |slug: &Slug| state_of(todos, &todo.repo, slug);
        match self.agendas.get(&todo.repo) {
            _ if held => {}
            None => return Claimed::Refused(Refusal::Unknown),
            Some(agenda) => {
                if let Err(refusal) = next::check(agenda.index.catalog(), &todo.slug, &state) {
                    return Claimed::Refused(refusal);
                }
            }
        }
        self.grant(todo, asker, now)
    }

    fn grant(&mut self, todo: &TodoKey, asker: &Asker, now: &Moment) -> Claimed {
        // A lease that ran out is ended before the next one begins, also when a sweep has not come to it yet.
        self.expire(todo, now);
        let mut before = self.todo(todo);
        if before.token < self.tokens_above {
            Arc::make_mut(&mut before).token = self.tokens_above;
        }
        let generation = self.lane(&asker.lane).0.generation;
        let after = match before.grant(todo, asker, generation, now, &self.rules.terms) {
            Grant::Repeat(claim) => return Claimed::Granted { claim, repeated: true },
            Grant::Held(claim) => return Claimed::Held(claim),
            Grant::Waiting(until) => return Claimed::Waiting { attempts: before.attempts, until },
            Grant::Granted(after) => *after,
        };
        if before.stage == Stage::Review && before.built_by.as_ref() == Some(asker) {
            return Claimed::OwnWork;
        }
        if let Err(obstacle) = self.admit(&asker.lane) {
            return Claimed::Lane(obstacle);
        }
        let Some(claim) = after.claim.clone() else { return Claimed::Nothing };
        let lane = self.lane_mut(&asker.lane);
        if lane.state.granted(todo, claim.token) {
            let state = lane.state.clone();
            self.changes.push(Change::Lane { state, event: None });
        }
        let data = json!({ "token": claim.token, "lane": claim.lane, "worker": claim.worker, "stage": after.stage, "expires": claim.expires });
        let mut events = vec![(EventKind::ClaimGranted, data)];
        if before.stage != after.stage {
            events.push((EventKind::TodoUpdated, json!({ "stage": after.stage })));
        }
        self.put(todo, after, events);
        Claimed::Granted { claim, repeated: false }
    }

    /// A sign of life.
    pub fn heartbeat(
        &mut self,
        todo: &TodoKey,
        token: u64,
        note: Option<&str>,
        extend_ms: Option<i64>,
        now: &Moment,
    ) -> Result<Claim, Stale> {
        let after = self.todo(todo).heartbeat(token, note, extend_ms, now.awake, &self.rules.terms)?;
        self.put_claimed(todo, after)
    }

    /// The holder waits for a person.
    pub fn hold(&mut self, todo: &TodoKey, token: u64, for_ms: i64, why: &str, now: &Moment) -> Holding {
        match self.todo(todo).held(token, for_ms, why, now.awake, &self.rules.terms) {
            Err(stale) => Holding::Stale(stale),
            Ok(Err(too_long)) => Holding::TooLong(too_long.left_ms),
            Ok(Ok(after)) => match self.put_claimed(todo, after) {
                Ok(claim) => Holding::Held(claim),
                Err(stale) => Holding::Stale(stale),
            },
        }
    }

    /// The holder gives the todo back. A second time says what the first did.
    pub fn release(&mut self, todo: &TodoKey, token: u64, now: &Moment) -> Result<(Ending, bool), Stale> {
        let before = self.todo(todo);
        match (before.owned(token, now.awake).cloned(), before.released(token, now)) {
            (Ok(claim), Ok(after)) => {
                let data = json!({ "token": token, "how": How::Released });
                let ending = self.end(todo, &claim, after, (EventKind::ClaimReleased, data));
                self.lane_ended(&claim, &LaneEnd::Returned, now.wall);
                Ok((ending, false))
            }
            (Err(stale), _) | (_, Err(stale)) => match stale.ended.clone() {
                Some(ending) if ending.how == How::Released => Ok((*ending, true)),
                _ => Err(stale),
            },
        }
    }

    /// The holder says how it went. Failed and blocked count at once; what is done is judged first, and the lease is
    /// carried on for `judging_ms` meanwhile.
    pub fn complete(&mut self, todo: &TodoKey, complete: &Complete, judging_ms: i64, now: &Moment) -> Completed {
        match self.todo(todo).completing(complete, now.awake) {
            Completing::Go(claim) if complete.outcome == Outcome::Done => {
                match self.todo(todo).carried_to(claim.token, now.awake.plus_ms(judging_ms), now.awake) {
                    Ok(after) => match self.put_claimed(todo, after) {
                        Ok(claim) => Completed::Judge(claim),
                        Err(stale) => Completed::Stale(stale),
                    },
                    Err(stale) => Completed::Stale(stale),
                }
            }
            Completing::Go(claim) => {
                let said = complete.reason.clone().unwrap_or_default();
                let class = fingerprint::of(&said).class;
                let around = Circumstances {
                    review_required: false,
                    on_base: false,
                    operation: None,
                    no_fault: class.reset().is_some() && complete.outcome == Outcome::Failed,
                };
                self.count(todo, &claim, complete, &around, now)
            }
            other => self.not_counted(todo, complete, other),
        }
    }

    /// What was said to be done has been judged, and passed.
    pub fn judged(&mut self, todo: &TodoKey, complete: &Complete, around: &Circumstances, now: &Moment) -> Completed {
        match self.todo(todo).completing(complete, now.awake) {
            Completing::Go(claim) => self.count(todo, &claim, complete, around, now),
            other => self.not_counted(todo, complete, other),
        }
    }

    fn not_counted(&mut self, todo: &TodoKey, complete: &Complete, why: Completing) -> Completed {
        match why {
            Completing::Repeat(ending) => Completed::Counted { ending, repeated: true },
            Completing::Unfit(why) => Completed::Unfit(why),
            Completing::Stale(stale) => {
                self.changes.push(Change::Parked { todo: todo.clone(), complete: complete.clone() });
                Completed::Stale(stale)
            }
            Completing::Go(claim) => Completed::Judge(claim),
        }
    }

    fn count(
        &mut self,
        todo: &TodoKey,
        claim: &Claim,
        complete: &Complete,
        around: &Circumstances,
        now: &Moment,
    ) -> Completed {
        let after = self.todo(todo).completed(complete, around, now, &self.rules.terms);
        let data = json!({ "token": claim.token, "how": complete.outcome.how(), "summary": complete.summary, "reason": complete.reason, "review": complete.review, "findings": complete.findings });
        let ending = self.end(todo, claim, after, (EventKind::ClaimReleased, data));
        let what = complete.reason.clone().unwrap_or_default();
        let end = match complete.outcome {
            Outcome::Done => LaneEnd::Passed,
            Outcome::Failed if !around.no_fault => {
                LaneEnd::Failed { what: what.clone(), fingerprint: fingerprint::of(&what).id }
            }
            Outcome::Failed | Outcome::Blocked => LaneEnd::Returned,
        };
        self.lane_ended(claim, &end, now.wall);
        if complete.outcome == Outcome::Failed {
            self.failed(claim, FailureSource::Complete, &what, now);
        }
        Completed::Counted { ending, repeated: false }
    }

    /// Something failed under a claim: it is noted, and may pause the lane.
    pub fn failed(&mut self, claim: &Claim, source: FailureSource, text: &str, now: &Moment) {
        let found = self.note_failure(claim, source, text, now.wall);
        let breaker = self.rules.breaker;
        let lane = self.lane_mut(&claim.lane);
        if let Some(reset) = found.class.reset() {
            let rest_ms = reset.map_or(REST_MS, |reset| reset.after_ms(now.wall)).clamp(1_000, REST_MAX_MS);
            let until = now.wall.plus_ms(rest_ms);
            let later = lane.state.paused().and_then(|pause| pause.until).is_none_or(|known| known < until);
            if lane.state.can_trip() && later {
                let reason = format!("{}: {}", found.class.as_str(), first_line(&found.said));
                self.pause_by_breaker(&claim.lane, reason, Some(until), &found.id, now.wall);
            }
            return;
        }
        if claim.generation != lane.state.generation {
            return;
        }
        let count = lane.tally.note(&found.id, now.wall, &breaker);
        if count >= breaker.failures && lane.state.can_trip() {
            let reason = format!("failed {count} times the same way: {}", first_line(&found.said));
            self.pause_by_breaker(&claim.lane, reason, None, &found.id, now.wall);
        }
        self.remedy_if_closed(claim, text, now.wall);
    }

    /// The base contains the branch of a todo that nobody holds.
    pub fn integrated(&mut self, todo: &TodoKey, now: &Moment) -> bool {
        let Some(after) = self.todo(todo).integrated(now.awake) else { return false };
        self.put(todo, after, vec![(EventKind::TodoUpdated, json!({ "stage": Stage::Done }))]);
        true
    }

    /// A person wants a todo tried again.
    pub fn redrive(&mut self, todo: &TodoKey, now: &Moment) -> bool {
        let Some(after) = self.todo(todo).redriven(now.awake) else { return false };
        let data = json!({ "stage": after.stage, "redriven": true });
        self.put(todo, after, vec![(EventKind::TodoUpdated, data)]);
        true
    }

    /// A person pauses a lane. Whether anything changed.
    pub fn pause(&mut self, lane: &Lane, reason: &str, until: Option<Timestamp>, now: Timestamp) -> bool {
        let known = self.lane(lane).0;
        let same = |pause: &Pause| pause.by == PausedBy::Person && pause.reason == reason && pause.until == until;
        if known.paused().is_some_and(same) {
            return false;
        }
        let pause = Pause { by: PausedBy::Person, reason: reason.to_owned(), since: now, until, fingerprint: None };
        self.put_pause(lane, &pause);
        true
    }

    /// A paused lane opens again, step by step. Whether anything changed.
    pub fn resume(&mut self, lane: &Lane, now: Timestamp) -> bool {
        let desk = self.lane_mut(lane);
        if !desk.state.resume(now) {
            return false;
        }
        desk.tally.clear();
        let state = desk.state.clone();
        let data = json!({ "lane": lane, "generation": state.generation, "state": "probing" });
        self.changes.push(Change::Lane { state, event: Some((EventKind::LaneResumed, data)) });
        true
    }

    /// A todo beside those of the base. The same one again is no change.
    pub fn file(&mut self, repo: &RepoName, todo: NewTodo, now: Timestamp) -> Result<bool, FilingError> {
        let additions = self.additions.entry(repo.clone()).or_default();
        match additions.filed.get(&todo.slug) {
            Some(filed) if filed.todo == todo && filed.remedy.is_none() => return Ok(false),
            Some(_) => return Err(FilingError::Taken),
            None if additions.filed.len() >= FILED_MAX => return Err(FilingError::Full),
            None => {}
        }
        let base = self.agendas.get(repo).map(|agenda| agenda.base.clone()).unwrap_or_default();
        if base.get(&todo.slug).is_some() {
            return Err(FilingError::Taken);
        }
        let mut tried = additions.clone();
        let filed = Filed { todo, remedy: None, at: now };
        tried.filed.insert(filed.todo.slug.clone(), filed.clone());
        sound(&base.with(&tried), &filed.todo.slug, &filed.todo.after)?;
        self.put_filed(repo, filed);
        Ok(true)
    }

    /// What a todo comes after, in the place of what its base says. The same again is no change.
    pub fn set_after(&mut self, todo: &TodoKey, after: Vec<Slug>) -> Result<bool, FilingError> {
        let base = self.agendas.get(&todo.repo).map(|agenda| agenda.base.clone()).unwrap_or_default();
        let additions = self.additions.entry(todo.repo.clone()).or_default();
        let known = base.with(additions);
        let Some(current) = known.get(&todo.slug) else { return Err(FilingError::Unknown(todo.slug.clone())) };
        if current.after == after {
            return Ok(false);
        }
        let mut tried = additions.clone();
        tried.after.insert(todo.slug.clone(), after.clone());
        sound(&base.with(&tried), &todo.slug, &after)?;
        *additions = tried;
        self.changes.push(Change::AfterSet { todo: todo.clone(), after });
        self.plan_agenda(&todo.repo, base);
        Ok(true)
    }

    /// The todos at a stage in one repository.
    #[must_use]
    pub fn at_stage(&self, repo: &RepoName, stage: Stage) -> Vec<Slug> {
        let fits = |(todo, state): (&TodoKey, &Arc<TodoState>)| {
            (todo.repo == *repo && state.stage == stage).then(|| todo.slug.clone())
        };
        self.todos.iter().filter_map(fits).collect()
    }

    /// The todos of a repository, those that were filed among them.
    #[must_use]
    pub fn catalog(&self, repo: &RepoName) -> Option<Arc<Catalog>> {
        self.agendas.get(repo).map(|agenda| agenda.index.catalog().clone())
    }

    fn admit(&self, lane: &Lane) -> Result<(), LaneObstacle> {
        let (state, wip) = self.lane(lane);
        state.admit(wip, self.rules.wip.of(lane))
    }

    fn lane_mut(&mut self, lane: &Lane) -> &mut LaneDesk {
        self.lanes.entry(lane.clone()).or_insert_with(|| LaneDesk {
            state: LaneState::new(lane.clone()),
            tally: Tally::default(),
            held: BTreeSet::new(),
        })
    }

    /// A claim is over: the todo's next state, and what became of the claim.
    fn end(&mut self, todo: &TodoKey, claim: &Claim, after: TodoState, event: (EventKind, Value)) -> Ending {
        let before = self.todo(todo);
        let ending = after.ending(claim.token).cloned().unwrap_or_else(|| Ending {
            token: claim.token,
            holder: claim.holder(),
            granted_at: Some(claim.granted_at),
            how: How::Released,
            at: claim.granted_at,
            stage: after.stage,
            attempts: after.attempts,
            operation: None,
            said: None,
        });
        let mut events = vec![event];
        if before.stage != after.stage || before.attempts != after.attempts {
            let data = json!({ "stage": after.stage, "attempts": after.attempts, "not_before": after.not_before, "blocked": after.blocked });
            events.push((EventKind::TodoUpdated, data));
        }
        self.put(todo, after, events);
        ending
    }

    fn lane_ended(&mut self, claim: &Claim, end: &LaneEnd, now: Timestamp) -> bool {
        let desk = self.lane_mut(&claim.lane);
        if !desk.state.ended(&claim.todo, claim.token, end, now) {
            return false;
        }
        let state = desk.state.clone();
        let event = match &state.gate {
            Gate::Open => Some((
                EventKind::LaneResumed,
                json!({ "lane": state.lane, "generation": state.generation, "state": "open" }),
            )),
            Gate::Paused(pause) => Some((EventKind::LanePaused, paused_data(&state, pause))),
            Gate::Probing { .. } => None,
        };
        self.changes.push(Change::Lane { state, event });
        true
    }

    fn note_failure(
        &mut self,
        claim: &Claim,
        source: FailureSource,
        text: &str,
        at: Timestamp,
    ) -> fingerprint::Fingerprint {
        let found = fingerprint::of(text);
        self.changes.push(Change::Failed(Failure {
            lane: claim.lane.clone(),
            generation: claim.generation,
            fingerprint: found.id.clone(),
            todo: claim.todo.clone(),
            token: claim.token,
            source,
            at,
            sample: sample(text),
        }));
        found
    }

    fn pause_by_breaker(&mut self, lane: &Lane, reason: String, until: Option<Timestamp>, id: &str, now: Timestamp) {
        let fingerprint = Some(id.to_owned());
        self.put_pause(lane, &Pause { by: PausedBy::Breaker, reason, since: now, until, fingerprint });
    }

    fn put_pause(&mut self, lane: &Lane, pause: &Pause) {
        let desk = self.lane_mut(lane);
        desk.state.pause(pause.clone());
        let state = desk.state.clone();
        let event = Some((EventKind::LanePaused, paused_data(&state, pause)));
        self.changes.push(Change::Lane { state, event });
    }

    /// One remediation todo per lane, fingerprint and generation, in the repository where it was seen last.
    fn remedy_if_closed(&mut self, claim: &Claim, text: &str, now: Timestamp) {
        let state = self.lane(&claim.lane).0;
        let Some(Pause { by: PausedBy::Breaker, until: None, fingerprint: Some(fingerprint), reason, .. }) =
            state.paused()
        else {
            return;
        };
        let remedy =
            Remedy { lane: state.lane.clone(), fingerprint: fingerprint.clone(), generation: state.generation };
        let slug = remedy_slug(&remedy);
        let known = self.additions.values().any(|additions| additions.filed.contains_key(&slug));
        if known {
            return;
        }
        let brief = format!(
            "# Mend what stopped lane {lane}\n\nLane {lane} was paused: {reason}\n\nThe last failure was seen on {todo} and reads:\n\n{words}\n\nFind the cause and mend it. `GET /failures?lane={lane}` has every failure of it. When it is mended, complete this todo and resume the lane: `POST /lanes/{lane}/resume`. It then opens step by step, and closes again if it was not mended.\n",
            lane = state.lane,
            todo = claim.todo,
            words = sample(text).lines().map(|line| format!("    {line}\n")).collect::<String>(),
        );
        let todo = NewTodo { slug, brief, lane: None, after: Vec::new(), priority: REMEDY_PRIORITY };
        self.put_filed(&claim.todo.repo.clone(), Filed { todo, remedy: Some(remedy), at: now });
    }

    fn put_filed(&mut self, repo: &RepoName, filed: Filed) {
        let additions = self.additions.entry(repo.clone()).or_default();
        additions.filed.insert(filed.todo.slug.clone(), filed.clone());
        self.changes.push(Change::Filed { repo: repo.clone(), filed });
        if let Some(agenda) = self.agendas.get(repo) {
            let base = agenda.base.clone();
            self.plan_agenda(repo, base);
        }
    }

    fn put_claimed(&mut self, todo: &TodoKey, after: TodoState) -> Result<Claim, Stale> {
        let claim = after.claim.clone().ok_or(Stale { holder: None, ended: None })?;
        if *self.todo(todo) != after {
            self.put(todo, after, Vec::new());
        }
        Ok(claim)
    }

    fn put(&mut self, todo: &TodoKey, after: TodoState, events: Vec<(EventKind, Value)>) {
        let state = Arc::new(after);
        self.index(todo, state.clone());
        self.changes.push(Change::Todo { todo: todo.clone(), state, events });
    }

    /// Enters a state everywhere it is looked for.
    fn index(&mut self, todo: &TodoKey, state: Arc<TodoState>) {
        if let Some(claim) = self.todos.get(todo).and_then(|before| before.claim.clone()) {
            self.expiries.remove(&(claim.expires, todo.clone()));
            let holder = claim.holder();
            if let Some(held) = self.holders.get_mut(&holder) {
                held.remove(todo);
                if held.is_empty() {
                    self.holders.remove(&holder);
                }
            }
            self.lane_mut(&claim.lane).held.remove(todo);
        }
        if let Some(until) = self.todos.get(todo).and_then(|before| before.not_before) {
            self.waits.remove(&(until, Some(todo.clone())));
        }
        if let Some(until) = state.not_before {
            self.waits.insert((until, Some(todo.clone())));
        }
        if let Some(claim) = &state.claim {
            self.expiries.insert((claim.expires, todo.clone()));
            self.holders.entry(claim.holder()).or_default().insert(todo.clone());
            self.lane_mut(&claim.lane).held.insert(todo.clone());
        }
        self.todos.insert(todo.clone(), state);
        if let Some(agenda) = self.agendas.get_mut(&todo.repo) {
            let (todos, repo) = (&self.todos, &todo.repo);
            agenda.index.changed(&todo.slug, &|slug: &Slug| state_of(todos, repo, slug));
        }
    }

    fn plan_agenda(&mut self, repo: &RepoName, base: Arc<Catalog>) {
        let additions = self.additions.get(repo).filter(|additions| **additions != Additions::default());
        let catalog = additions.map_or_else(|| base.clone(), |additions| Arc::new(base.with(additions)));
        let todos = &self.todos;
        let index = Agenda::new(catalog, &|slug: &Slug| state_of(todos, repo, slug));
        self.agendas.insert(repo.clone(), BasedAgenda { base, index });
    }
}

fn state_of(todos: &HashMap<TodoKey, Arc<TodoState>>, repo: &RepoName, slug: &Slug) -> Arc<TodoState> {
    todos.get(&TodoKey { repo: repo.clone(), slug: slug.clone() }).cloned().unwrap_or_default()
}

/// Whether what a todo comes after is known and leads nowhere back to it.
fn sound(catalog: &Catalog, slug: &Slug, after: &[Slug]) -> Result<(), FilingError> {
    if let Some(unknown) = after.iter().find(|slug| catalog.get(slug).is_none()) {
        return Err(FilingError::Unknown(unknown.clone()));
    }
    catalog.cycle(slug).map_or(Ok(()), |path| Err(FilingError::Cycle(path)))
}

fn paused_data(state: &LaneState, pause: &Pause) -> Value {
    json!({ "lane": state.lane, "generation": state.generation, "paused_by": pause.by, "reason": pause.reason, "until": pause.until, "fingerprint": pause.fingerprint })
}

/// The first line that says something, cut to what fits a sentence.
fn first_line(text: &str) -> String {
    const CHARS: usize = 200;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("(nothing was said)");
    let cut: String = line.chars().take(CHARS).collect();
    if cut.len() < line.len() { format!("{cut}…") } else { cut }
}

/// The name of a remediation todo: the lane, for people, and a digest of all it is for, so that no two are the same.
fn remedy_slug(remedy: &Remedy) -> Slug {
    const LANE_BYTES: usize = 32;
    let digest = Sha256::digest(format!("{}\0{}\0{}", remedy.lane, remedy.fingerprint, remedy.generation));
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let lane = remedy.lane.as_str();
    let lane = lane[..lane.len().min(LANE_BYTES)].trim_end_matches(['.', '_', '-']);
    Slug::parse(&format!("mend-{lane}-{digest}")).expect("a lane's name and a digest make a slug")
}
