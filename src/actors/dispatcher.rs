//! The dispatcher: hands out todos, keeps leases and lanes. It owns the [`Desk`], which decides, and gives no answer away
//! before what led to it is on disk. The only writer of the board.
//!
//! Supervised by the root. Its death loses nothing: what was answered is in the ledger, and its next incarnation reads it
//! again. In: questions, `Written`, `Loaded`, `Tick`, `Describe`. Out: nothing but answers.
//!
//! Races: decisions are made one after the other, faster than the disk, each resting on those before it. Their batches
//! are one [`Chain`], so the ledger has them in this order or, from a failed one on, not at all; answers leave in the
//! same order. When a batch fails, everybody who waits is told, and the desk is read again from the ledger.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};

use super::answer::{hold_too_long, stale, unfit};
use super::context::Context;
use super::keys::named;
use super::mailbox::{Envelope, Reply};
use super::repo::Base;
use crate::metrics::claims::{self as metric, RenewalResult};
use crate::metrics::lanes::{self as lane_metric, ClaimResult};
use crate::model::claim::Claim;
use crate::model::desk::{Change, Claimed, Completed, Desk, FilingError, Holding};
use crate::model::failure::FailureSource;
use crate::model::ids::{Lane, RepoName, Slug, TodoKey};
use crate::model::kept::{Answer, Answered, Kept, Keyed, is_final};
use crate::model::lane::LaneObstacle;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::time::{Awake, Moment};
use crate::model::todo::{Asker, Circumstances, Complete, Stage};
use crate::model::view::{LaneView, LeaseView, Mutation};
use crate::store::{Chain, Write};

/// How often leases, waits and pauses are looked after while there are any, in milliseconds: at least once a second,
/// since a lease that begins later may end sooner.
const TICK_MAX_MS: u64 = 500;
/// And not more often than this.
const TICK_MIN_MS: u64 = 10;

/// What the dispatcher hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum DispatcherMsg {
    /// The next todo of a repository for this worker.
    Next {
        /// In which repository.
        repo: RepoName,
        /// What its base says.
        base: Arc<Base>,
        /// Who asks.
        asker: Asker,
        /// Answer, after the grant is on disk.
        reply: Reply<Result<Claimed, Problem>>,
    },
    /// This very todo for this worker.
    Claim {
        /// Which.
        todo: TodoKey,
        /// What its repository's base says.
        base: Arc<Base>,
        /// Who asks.
        asker: Asker,
        /// Answer, after the grant is on disk.
        reply: Reply<Result<Claimed, Problem>>,
    },
    /// A change of a claim, a lane or the todos.
    Mutate {
        /// What.
        mutation: Mutation,
        /// What the base of its repository says, when it is about one.
        base: Option<Arc<Base>>,
        /// Under which key the answer is kept, together with the change.
        keyed: Option<Keyed>,
        /// Answer, after the change is on disk.
        reply: Reply<Answer>,
    },
    /// A holder says how it went.
    Complete {
        /// With which todo.
        todo: TodoKey,
        /// What it says.
        complete: Complete,
        /// How long judging it may take, in milliseconds.
        judging_ms: i64,
        /// Answer, after what it led to is on disk.
        reply: Reply<Result<Completed, Problem>>,
    },
    /// What a holder says is done was judged, and passed.
    Judged {
        /// Which todo.
        todo: TodoKey,
        /// What it said.
        complete: Complete,
        /// What was found.
        around: Circumstances,
        /// Answer, after the end of the claim is on disk.
        reply: Reply<Result<Completed, Problem>>,
    },
    /// Something failed under a claim.
    Failed {
        /// Under which.
        claim: Claim,
        /// Where.
        source: FailureSource,
        /// Its words.
        text: String,
        /// Answered once it is on disk.
        reply: Reply<()>,
    },
    /// The base contains the branch of a todo.
    Integrated {
        /// Which.
        todo: TodoKey,
    },
    /// The batch of a flight was written, or could not be.
    Written {
        /// Which flight.
        flight: u64,
        /// How the write went.
        result: Result<(), Problem>,
    },
    /// The ledger was read again, or could not be.
    Loaded {
        /// What it has.
        result: Result<Vec<Change>, Problem>,
    },
    /// Time to look after leases.
    Tick,
    /// The same, for somebody who wants to know that it was done.
    Sweep {
        /// Answer, once it is on disk: how many leases had run out.
        reply: Reply<usize>,
    },
    /// What it is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// Told when everything decided up to it is on disk, or why it is not.
type Deliver = Box<dyn FnOnce(Result<(), Problem>) + Send>;

/// Decisions on their way to the disk, and who waits for them.
struct Flight {
    number: u64,
    changes: Vec<Change>,
    waiting: Vec<Deliver>,
    result: Option<Result<(), Problem>>,
}

/// The dispatcher's state.
pub struct DispatcherState {
    context: Arc<Context>,
    /// `None` after a write failed, until the ledger was read again.
    desk: Option<Desk>,
    chain: Chain,
    flights: VecDeque<Flight>,
    departed: u64,
    ticking: bool,
    loading: bool,
}

/// The actor.
pub struct Dispatcher;

impl Dispatcher {
    /// Starts it under a supervisor.
    pub async fn start(context: Arc<Context>, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) =
            Actor::spawn_linked(None, Self, context, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for Dispatcher {
    type Msg = Envelope<DispatcherMsg>;
    type State = DispatcherState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Arc<Context>,
    ) -> Result<DispatcherState, ActorProcessingErr> {
        let mut state = DispatcherState {
            desk: None,
            chain: Chain::default(),
            flights: VecDeque::new(),
            departed: 0,
            ticking: false,
            loading: false,
            context,
        };
        state.take_in(state.context.ledger.store()?.decided().await?);
        state.context.dispatcher.point_at(Some(myself));
        state.tick_later();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut DispatcherState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.context.faults.clone();
        handling.run(&faults, &myself, async { state.on_message(message) }).await
    }
}

impl DispatcherState {
    fn on_message(&mut self, message: DispatcherMsg) -> Result<(), ActorProcessingErr> {
        self.context.faults.hit("dispatcher.handle");
        match message {
            DispatcherMsg::Next { repo, base, asker, reply } => self.on_next(&repo, &base, &asker, reply),
            DispatcherMsg::Claim { todo, base, asker, reply } => self.on_claim(&todo, &base, &asker, reply),
            DispatcherMsg::Mutate { mutation, base, keyed, reply } => {
                self.on_mutate(&mutation, base.as_ref(), keyed, reply)
            }
            DispatcherMsg::Complete { todo, complete, judging_ms, reply } => {
                self.on_complete(&todo, &complete, judging_ms, reply)
            }
            DispatcherMsg::Judged { todo, complete, around, reply } => self.on_judged(&todo, &complete, &around, reply),
            DispatcherMsg::Failed { claim, source, text, reply } => self.on_failed(&claim, source, &text, reply),
            DispatcherMsg::Integrated { todo } => self.on_integrated(&todo),
            DispatcherMsg::Written { flight, result } => self.on_written(flight, result),
            DispatcherMsg::Loaded { result } => self.on_loaded(result),
            DispatcherMsg::Tick => self.on_tick(),
            DispatcherMsg::Sweep { reply } => self.on_sweep(reply),
            DispatcherMsg::Describe { reply } => self.on_describe(reply),
        }
        self.tick_later();
        Ok(())
    }

    /// The desk, with everything ended that had to end by now; or why there is none.
    fn desk(&mut self) -> Result<(&mut Desk, Moment), Problem> {
        let now = self.context.clock.moment();
        if self.desk.is_none() {
            self.load_again();
        }
        let Some(desk) = self.desk.as_mut() else {
            let detail = "a write to the ledger failed, and what it has is being read again; nothing was accepted";
            return Err(Problem::new(ProblemCode::StoreUnavailable, detail).retry_after(1_000));
        };
        metric::leases_expired(desk.sweep(&now));
        Ok((desk, now))
    }

    fn on_next(&mut self, repo: &RepoName, base: &Arc<Base>, asker: &Asker, reply: Reply<Result<Claimed, Problem>>) {
        let landing = self.learn(repo, base);
        if !landing.is_empty() {
            // Nobody is given what is on the base already: this question comes again behind what is found.
            let (repo, of, asker) = (repo.clone(), base.clone(), asker.clone());
            let again = DispatcherMsg::Next { repo: repo.clone(), base: of, asker, reply };
            return self.look_for_landed(&repo, base, landing, Some(again));
        }
        let granting = self.context.refuse_when_draining();
        match granting.and_then(|()| self.desk()).map(|(desk, now)| desk.next(repo, asker, &now)) {
            Ok(claimed) => self.on_claimed(&asker.lane, claimed, reply),
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    fn on_claim(&mut self, todo: &TodoKey, base: &Arc<Base>, asker: &Asker, reply: Reply<Result<Claimed, Problem>>) {
        let landing = self.learn(&todo.repo, base);
        self.look_for_landed(&todo.repo, base, landing, None);
        let granting = self.context.refuse_when_draining();
        match granting.and_then(|()| self.desk()).map(|(desk, now)| desk.claim(todo, asker, &now)) {
            Ok(claimed) => self.on_claimed(&asker.lane, claimed, reply),
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    fn on_claimed(&mut self, lane: &Lane, claimed: Claimed, reply: Reply<Result<Claimed, Problem>>) {
        let result = match &claimed {
            Claimed::Granted { .. } => ClaimResult::Granted,
            Claimed::Held(_) => ClaimResult::Conflict,
            Claimed::Nothing => ClaimResult::Empty,
            Claimed::Lane(LaneObstacle::Full { .. }) => ClaimResult::LaneFull,
            Claimed::Lane(_) => ClaimResult::BreakerOpen,
            Claimed::Waiting { .. } | Claimed::OwnWork | Claimed::Refused(_) => ClaimResult::Invalid,
        };
        lane_metric::claimed(lane.as_str(), result);
        self.settle(None, move |written| {
            let _ = reply.send(written.map(|()| claimed));
        });
    }

    fn on_mutate(&mut self, mutation: &Mutation, base: Option<&Arc<Base>>, keyed: Option<Keyed>, reply: Reply<Answer>) {
        if let (Some(base), Some(repo)) = (base, mutation.repo()) {
            let landing = self.learn(repo, base);
            self.look_for_landed(repo, base, landing, None);
        }
        let context = self.context.clone();
        let answer = self.desk().and_then(|(desk, now)| mutate(&context, desk, mutation, &now));
        let answer = match &keyed {
            Some(keyed) => named(answer, keyed),
            None => answer,
        };
        let keyed = keyed.filter(|_| is_final(&answer)).map(|keyed| (keyed, answer.clone()));
        self.settle(keyed, move |written| {
            let _ = reply.send(written.and(answer));
        });
    }

    fn on_complete(
        &mut self,
        todo: &TodoKey,
        complete: &Complete,
        judging_ms: i64,
        reply: Reply<Result<Completed, Problem>>,
    ) {
        let completed = self.desk().map(|(desk, now)| desk.complete(todo, complete, judging_ms, &now));
        self.on_completed(completed, reply);
    }

    fn on_judged(
        &mut self,
        todo: &TodoKey,
        complete: &Complete,
        around: &Circumstances,
        reply: Reply<Result<Completed, Problem>>,
    ) {
        let completed = self.desk().map(|(desk, now)| desk.judged(todo, complete, around, &now));
        self.on_completed(completed, reply);
    }

    fn on_completed(&mut self, completed: Result<Completed, Problem>, reply: Reply<Result<Completed, Problem>>) {
        if let Ok(Completed::Stale(_)) = completed {
            metric::write_fenced(metric::FencedOp::Complete);
        }
        self.settle(None, move |written| {
            let _ = reply.send(written.and(completed));
        });
    }

    fn on_failed(&mut self, claim: &Claim, source: FailureSource, text: &str, reply: Reply<()>) {
        if let Ok((desk, now)) = self.desk() {
            desk.failed(claim, source, text, &now);
        }
        self.settle(None, move |_| {
            let _ = reply.send(());
        });
    }

    fn on_integrated(&mut self, todo: &TodoKey) {
        if let Ok((desk, now)) = self.desk() {
            desk.integrated(todo, &now);
        }
        self.settle(None, |_| {});
    }

    fn on_tick(&mut self) {
        self.ticking = false;
        let _ = self.desk();
        self.settle(None, |_| {});
    }

    fn on_sweep(&mut self, reply: Reply<usize>) {
        let now = self.context.clock.moment();
        let Some(desk) = self.desk.as_mut() else { return self.load_again() };
        let ended = desk.sweep(&now);
        metric::leases_expired(ended);
        self.settle(None, move |written| {
            if written.is_ok() {
                let _ = reply.send(ended);
            }
        });
    }

    /// Sends what was decided on its way to the disk; `deliver` is told when it and everything before it is there.
    fn settle(&mut self, keyed: Option<(Keyed, Answer)>, deliver: impl FnOnce(Result<(), Problem>) + Send + 'static) {
        let changes = self.desk.as_mut().map(Desk::take_changes).unwrap_or_default();
        metric::observe(&changes);
        if changes.is_empty() && keyed.is_none() {
            match self.flights.back_mut() {
                Some(flight) => flight.waiting.push(Box::new(deliver)),
                None => deliver(Ok(())),
            }
            return;
        }
        let now = self.context.clock.moment();
        // Every batch says how late it is, so that the next daemon goes on from there.
        let late = Change::Awake(now.awake);
        let decided =
            changes.iter().chain([&late]).map(|change| Write::Decided { change: change.clone(), at: now.wall });
        let kept = keyed.map(|(keyed, answer)| Write::Kept {
            key: keyed.key,
            kept: Box::new(Kept { digest: keyed.digest, answer, at: now.awake }),
        });
        let written = self.context.ledger.enqueue(decided.chain(kept).collect(), &self.chain);
        self.departed += 1;
        let number = self.departed;
        self.flights.push_back(Flight { number, changes, waiting: vec![Box::new(deliver)], result: None });
        let context = self.context.clone();
        tokio::spawn(async move {
            let result = written.await;
            let _ = context.dispatcher.tell(DispatcherMsg::Written { flight: number, result });
        });
    }

    /// Flights land in the order they left.
    fn on_written(&mut self, number: u64, result: Result<(), Problem>) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.number == number) {
            flight.result = Some(result);
        }
        while let Some(result) = self.flights.front_mut().and_then(|flight| flight.result.take()) {
            let Some(flight) = self.flights.pop_front() else { break };
            match &result {
                Ok(()) => {
                    self.context.sessions.follow(&flight.changes, self.context.clock.now());
                    self.context.board.apply(flight.changes);
                }
                Err(_) => self.desk = None,
            }
            for deliver in flight.waiting {
                deliver(result.clone());
            }
        }
        if self.desk.is_none() {
            self.load_again();
        }
    }

    /// Reads the ledger again, once nothing of the broken chain is on its way any more.
    fn load_again(&mut self) {
        if self.loading || !self.flights.is_empty() {
            return;
        }
        self.loading = true;
        let context = self.context.clone();
        tokio::spawn(async move {
            let result = match context.ledger.store() {
                Ok(store) => store.decided().await.map_err(|error| context.ledger.note(&error)),
                Err(problem) => Err(problem),
            };
            let _ = context.dispatcher.tell(DispatcherMsg::Loaded { result });
        });
    }

    fn on_loaded(&mut self, result: Result<Vec<Change>, Problem>) {
        self.loading = false;
        match result {
            Ok(changes) => {
                tracing::warn!("the dispatcher read the ledger again after a write had failed");
                self.take_in(changes);
            }
            // The next question tries again.
            Err(problem) => tracing::error!(%problem, "the dispatcher could not read the ledger"),
        }
    }

    /// Begins with what the ledger has.
    fn take_in(&mut self, changes: Vec<Change>) {
        let mut desk = Desk::new(self.context.settings.rules.clone());
        let mut awake = Awake::default();
        for change in &changes {
            match change {
                Change::Awake(at) => awake = awake.max(*at),
                Change::Todo { state, .. } => {
                    awake = state.claim.as_ref().map_or(awake, |claim| awake.max(claim.alive));
                }
                _ => {}
            }
            desk.load(change.clone());
        }
        self.context.clock.at_least(awake);
        self.context.sessions.catch_up(&changes, self.context.clock.now());
        self.context.board.apply(changes);
        metric::claims_are(desk.claims());
        self.desk = Some(desk);
        self.chain = Chain::default();
    }

    /// While anything will happen by itself it is looked after, as soon as it is due; else nothing wakes.
    fn tick_later(&mut self) {
        let now = self.context.clock.moment();
        let due_ms = self.desk.as_ref().map_or(Some(TICK_MAX_MS), |desk| desk.next_due_ms(&now));
        let (false, Some(due_ms)) = (self.ticking, due_ms) else { return };
        self.ticking = true;
        let pause = Duration::from_millis(due_ms.clamp(TICK_MIN_MS, TICK_MAX_MS));
        let dispatcher = self.context.dispatcher.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = dispatcher.tell(DispatcherMsg::Tick);
        });
    }

    /// Takes in what a repository's base says. When it moved: the todos that wait to be brought onto it.
    fn learn(&mut self, repo: &RepoName, base: &Arc<Base>) -> Vec<Slug> {
        let Some(desk) = self.desk.as_mut() else { return Vec::new() };
        if desk.base_is(repo, &base.catalog) { desk.at_stage(repo, Stage::Integrate) } else { Vec::new() }
    }

    /// Looks which of these branches the base contains, aside; `then` comes behind what is found.
    fn look_for_landed(&self, repo: &RepoName, base: &Arc<Base>, slugs: Vec<Slug>, then: Option<DispatcherMsg>) {
        if slugs.is_empty() {
            return;
        }
        let (context, repo, oid) = (self.context.clone(), repo.clone(), base.oid.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let git = context.repos.get(&repo).and_then(|entry| entry.repo.git_if_open());
            for slug in slugs {
                let has = |git: Arc<crate::git::Repository>| {
                    git.branch_oid(&slug).is_some_and(|head| git.has_all_of(&oid, &head).unwrap_or(false))
                };
                if git.clone().is_some_and(has) {
                    let todo = TodoKey { repo: repo.clone(), slug };
                    let _ = context.dispatcher.tell(DispatcherMsg::Integrated { todo });
                }
            }
            if let Some(then) = then {
                let _ = context.dispatcher.tell(then);
            }
        });
        drop(looked);
    }

    fn on_describe(&self, reply: Reply<Value>) {
        let view = json!({
            "being_written": self.flights.len(),
            "waiting": self.flights.iter().map(|flight| flight.waiting.len()).sum::<usize>(),
            "claims": self.desk.as_ref().map(Desk::claims),
            "reading_the_ledger": self.desk.is_none(),
        });
        let _ = reply.send(view);
    }
}

fn mutate(context: &Context, desk: &mut Desk, mutation: &Mutation, now: &Moment) -> Answer {
    let terms = &context.settings.rules.terms;
    match mutation {
        Mutation::Heartbeat { todo, body } => {
            let extend_ms = body.extend_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
            let beat = desk.heartbeat(todo, body.token, body.progress.as_deref(), extend_ms, now);
            metric::lease_renewed(if beat.is_ok() { RenewalResult::Ok } else { RenewalResult::Fenced });
            let claim = beat.map_err(|found| stale(todo, body.token, &found, now, "nothing was changed"))?;
            Answered::of(200, &LeaseView::of(&claim, verbs(context, desk, &claim, now), now, terms))
        }
        Mutation::Hold { todo, body } => {
            let for_ms = i64::try_from(body.for_ms).unwrap_or(i64::MAX);
            match desk.hold(todo, body.token, for_ms, &body.why, now) {
                Holding::Held(claim) => {
                    Answered::of(200, &LeaseView::of(&claim, verbs(context, desk, &claim, now), now, terms))
                }
                Holding::TooLong(left_ms) => Err(hold_too_long(todo, body.for_ms, left_ms)),
                Holding::Stale(found) => {
                    metric::write_fenced(metric::FencedOp::Hold);
                    Err(stale(todo, body.token, &found, now, "nothing was changed"))
                }
            }
        }
        Mutation::Release { todo, token } => match desk.release(todo, *token, now) {
            Ok((ending, repeated)) => {
                let guard = repeated.then_some("duplicate_release_guard");
                Answered::of(
                    200,
                    &json!({ "repo": todo.repo, "slug": todo.slug, "token": token, "stage": ending.stage, "released_at": ending.at, "guard": guard }),
                )
            }
            Err(found) => {
                metric::write_fenced(metric::FencedOp::Release);
                Err(stale(todo, *token, &found, now, "nothing was changed"))
            }
        },
        Mutation::Redrive { todo } => {
            let changed = desk.redrive(todo, now);
            let state = desk.todo(todo);
            Answered::of(
                200,
                &json!({ "repo": todo.repo, "slug": todo.slug, "stage": state.stage, "attempts": state.attempts, "guard": (!changed).then_some("nothing_to_redrive") }),
            )
        }
        Mutation::File { repo, body } => match desk.file(repo, body.clone(), now.wall) {
            Ok(new) => Answered::of(
                if new { 201 } else { 200 },
                &json!({ "repo": repo, "slug": body.slug, "lane": body.lane, "after": body.after, "priority": body.priority, "guard": (!new).then_some("duplicate_todo_guard") }),
            ),
            Err(error) => Err(filing_problem(&TodoKey { repo: repo.clone(), slug: body.slug.clone() }, error)),
        },
        Mutation::SetAfter { todo, after } => match desk.set_after(todo, after.clone()) {
            Ok(_) => Answered::of(200, &json!({ "repo": todo.repo, "slug": todo.slug, "after": after })),
            Err(error) => Err(filing_problem(todo, error)),
        },
        Mutation::Pause { lane, body } => {
            if let Some(until) = body.until.filter(|until| *until <= now.wall) {
                let detail = format!("until: {until} has passed; leave it out for a pause that a person ends");
                return Err(Problem::new(ProblemCode::InvalidRequest, detail));
            }
            desk.pause(lane, &body.reason, body.until, now.wall);
            lane_answer(context, desk, lane)
        }
        Mutation::Resume { lane } => {
            desk.resume(lane, now.wall);
            lane_answer(context, desk, lane)
        }
    }
}

fn lane_answer(context: &Context, desk: &Desk, lane: &Lane) -> Answer {
    let (state, wip) = desk.lane(lane);
    Answered::of(200, &LaneView::of(&state, wip, context.settings.rules.wip.of(lane)))
}

/// What a holder should know.
fn verbs(context: &Context, desk: &Desk, claim: &Claim, now: &Moment) -> Vec<String> {
    let terms = &context.settings.rules.terms;
    let unwanted = desk.catalog(&claim.todo.repo).is_some_and(|catalog| catalog.get(&claim.todo.slug).is_none());
    [
        (unwanted, "cancel_requested"),
        (desk.lane(&claim.lane).0.paused().is_some(), "lane_paused"),
        (claim.wants_progress(now.awake, terms), "progress_needed"),
        (context.refuse_when_draining().is_err(), "draining"),
    ]
    .into_iter()
    .filter(|(is_so, _)| *is_so)
    .map(|(_, verb)| verb.to_owned())
    .collect()
}

fn filing_problem(todo: &TodoKey, error: FilingError) -> Problem {
    match error {
        FilingError::Taken => {
            Problem::new(ProblemCode::TodoExists, format!("there is another todo {todo}; choose another slug"))
        }
        FilingError::Full => Problem::new(
            ProblemCode::TooManyTodos,
            format!("{} has as many filed todos as it may have; put further ones on its roadmap", todo.repo),
        ),
        FilingError::Unknown(slug) => {
            Problem::new(ProblemCode::UnknownSlug, format!("there is no todo {}/{slug}", todo.repo))
        }
        FilingError::Cycle(path) => {
            let names: Vec<&str> = path.iter().map(Slug::as_str).collect();
            let detail = format!("{todo} would depend on itself: {}", names.join(" → "));
            Problem::new(ProblemCode::DependencyCycle, detail).with("path", names)
        }
    }
}

/// What a complete leads to, for whoever has to answer it.
pub fn counted(todo: &TodoKey, complete: &Complete, completed: Completed, now: &Moment) -> Result<Completed, Problem> {
    match completed {
        Completed::Stale(found) => Err(stale(todo, complete.token, &found, now, "the result is parked on the todo")),
        Completed::Unfit(why) => Err(unfit(why)),
        other => Ok(other),
    }
}
