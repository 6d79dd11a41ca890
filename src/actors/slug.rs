//! The slug actor: everything that happens to one todo's worktree goes through here, one thing at a time. That is the
//! single-flight: while a look is under way further callers wait for the next look, while a run is on they join it.
//!
//! Supervised by its repository's actor. Its death disturbs this slug only and loses nothing accepted: a run that is
//! on lives in [`super::runs`] and is found again, what is remembered is in the ledger, and a caller whose question
//! died with it asks once more. It stops by itself when nobody has asked for a while, and comes back on demand.
//! In: `Work`, `Looked`, `RunEnded`, `Scanned`, `IdleCheck`, `Describe`. Out: `IdleCheck` to itself.
//!
//! Races: `Looked` and `RunEnded` carry the memory that was lent to a task; a fact from an earlier incarnation's task
//! is as good as one from our own, because the memory in it is newer than nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{self, Settled, already_claimed};
use super::context::Context;
use super::health::turning::beside;
use super::mailbox::{Address, Envelope, Reply};
use super::probe::{self, Look, Memory, Scan};
use super::repo::Repo;
use super::run::{self, Order, Started};
use super::runs::{Purpose, RunHandle};
use crate::metrics::phases::{self as metric, FlightRole};
use crate::model::ids::{OperationId, TodoKey};
use crate::model::phase::{Decision, Phase};
use crate::model::plan::{self, ClaimState, PhaseSet, Step, Wish};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::todo::Asker;
use crate::model::trace::Trace;
use crate::model::work_order::WorkOrder;

/// Calls one slug may have waiting. More callers than this for a single worktree is a mistake of theirs: 429.
pub const MAILBOX_LIMIT: usize = 1_024;

/// What a work call brings.
#[derive(Debug, Clone)]
pub struct WorkCall {
    /// Who asks.
    pub asker: Asker,
    /// What for.
    pub purpose: Purpose,
    /// Whether the dispatcher found the caller's own live claim, or the actor has to look itself.
    pub granted: Option<bool>,
    /// When the call was accepted.
    pub accepted: Instant,
    /// Where the call is in its trace.
    pub trace: Trace,
}

/// What a work call leads to.
pub enum WorkReply {
    /// Nothing had to run.
    Ready(Box<WorkOrder>),
    /// A run is on; `joined` says it was on before this call.
    Running {
        /// The run.
        run: RunHandle,
        /// Whether somebody else's call started it.
        joined: bool,
    },
    /// A run is on that is not what was asked for: wait for its end and ask again.
    Behind(RunHandle),
}

/// What a slug actor hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum SlugMsg {
    /// A worker asks for this todo.
    Work {
        /// The call.
        call: WorkCall,
        /// Answer: at once, or a run to wait for.
        reply: Reply<Result<WorkReply, Problem>>,
    },
    /// A look is over; the memory lent to it comes back.
    Looked {
        /// The memory.
        memory: Box<Memory>,
        /// What was found.
        found: Box<Result<Look, Problem>>,
        /// The calls it was made for.
        calls: Vec<Waiting>,
    },
    /// A run is over; the memory lent to it comes back, unless its task died.
    RunEnded {
        /// Its operation: when this is heard, another run may be on.
        id: OperationId,
        /// The memory.
        memory: Option<Box<Memory>>,
    },
    /// The work tree was gone through behind an answer.
    Scanned {
        /// What was found, or nothing when it failed.
        scan: Option<Scan>,
    },
    /// Time to see whether anybody still needs this actor.
    IdleCheck,
    /// What it is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// A call that waits for a look.
pub struct Waiting {
    call: WorkCall,
    reply: Reply<Result<WorkReply, Problem>>,
    waited: Duration,
}

/// What a slug actor is built from.
#[derive(Clone)]
pub struct SlugArgs {
    /// What all actors share.
    pub context: Arc<Context>,
    /// The repository.
    pub repo: Arc<Repo>,
    /// The todo.
    pub todo: TodoKey,
    /// Where this actor is reached.
    pub address: Address<SlugMsg>,
}

enum Activity {
    Idle,
    Looking,
    Running(RunHandle),
}

/// The actor's state.
pub struct SlugState {
    args: SlugArgs,
    activity: Activity,
    /// `None` while it is lent to a look or a run, or was lost with one.
    memory: Option<Box<Memory>>,
    /// Calls that wait for the next look.
    waiting: VecDeque<Waiting>,
    scanning: bool,
    last_asked: Instant,
}

/// The actor.
pub struct SlugActor;

impl SlugActor {
    /// Starts it under its repository's actor.
    pub async fn start(args: SlugArgs, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) = Actor::spawn_linked(None, Self, args, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for SlugActor {
    type Msg = Envelope<SlugMsg>;
    type State = SlugState;
    type Arguments = SlugArgs;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, args: SlugArgs) -> Result<SlugState, ActorProcessingErr> {
        let activity = args.context.runs.of(&args.todo).map_or(Activity::Idle, Activity::Running);
        args.address.point_at(Some(myself));
        let state = SlugState {
            activity,
            memory: None,
            waiting: VecDeque::new(),
            scanning: false,
            last_asked: Instant::now(),
            args,
        };
        state.check_idle_later();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut SlugState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let (waited, faults) = (handling.waited, state.args.context.faults.clone());
        let handled = async {
            state.args.context.faults.hit("slug.handle");
            match message {
                SlugMsg::Work { call, reply } => state.on_work(Waiting { call, reply, waited }),
                SlugMsg::Looked { memory, found, calls } => state.on_looked(memory, *found, calls),
                SlugMsg::RunEnded { id, memory } => state.on_run_ended(&id, memory),
                SlugMsg::Scanned { scan } => state.on_scanned(scan),
                SlugMsg::IdleCheck => state.on_idle_check(&myself),
                SlugMsg::Describe { reply } => state.on_describe(reply),
            }
            Ok(())
        };
        handling.run(&faults, &myself, handled).await
    }
}

impl SlugState {
    fn on_work(&mut self, waiting: Waiting) {
        self.last_asked = Instant::now();
        self.notice_ended_run();
        match (&self.activity, &waiting.call.purpose) {
            (Activity::Running(run), _) => answer_behind(waiting, run, &self.args),
            (Activity::Looking, _) => self.wait(waiting),
            (Activity::Idle, Purpose::Work { .. }) => self.look(vec![waiting]),
            (Activity::Idle, Purpose::Complete(_)) => self.start_run(vec![waiting], Wish::default()),
        }
    }

    /// A run that was adopted from an earlier incarnation may have ended before we were there to hear of it.
    fn notice_ended_run(&mut self) {
        if matches!(self.activity, Activity::Running(_)) && self.args.context.runs.of(&self.args.todo).is_none() {
            self.activity = Activity::Idle;
        }
    }

    fn wait(&mut self, waiting: Waiting) {
        if self.waiting.len() < MAILBOX_LIMIT {
            self.waiting.push_back(waiting);
        } else {
            let detail = format!("{} calls wait for {} already", self.waiting.len(), self.args.todo);
            drop(waiting.reply.send(Err(Problem::new(ProblemCode::Busy, detail).retry_after(1_000))));
        }
    }

    /// Looks for these calls. What is in memory already lets the look be made right here: some twenty stats and small
    /// reads, cheaper than waking another thread twice. [`beside`] first gives everything else this worker has
    /// to do away, so a disk that hangs holds up this slug and nothing else.
    fn look(&mut self, calls: Vec<Waiting>) {
        let mut memory = self.memory.take().unwrap_or_default();
        if memory.record.is_some() {
            let SlugArgs { context, repo, todo, .. } = &self.args;
            let now = context.clock.now();
            let found = beside(|| probe::look_here(repo, &todo.slug, &context.gate_environment, &mut memory, now));
            if let Some(found) = found {
                return self.on_looked(memory, found, calls);
            }
        }
        self.look_elsewhere(memory, calls);
    }

    /// Lends the memory to a look that has to ask the ledger first.
    fn look_elsewhere(&mut self, memory: Box<Memory>, calls: Vec<Waiting>) {
        self.activity = Activity::Looking;
        let args = self.args.clone();
        tokio::spawn(async move {
            let SlugArgs { context, repo, todo, address } = args;
            let now = context.clock.now();
            let (memory, found) =
                probe::look(&repo, &todo, &context.ledger, &context.gate_environment, memory, None, now).await;
            let _ = address.tell(SlugMsg::Looked { memory, found: Box::new(found), calls });
        });
    }

    fn on_looked(&mut self, memory: Box<Memory>, found: Result<Look, Problem>, calls: Vec<Waiting>) {
        self.memory = Some(memory);
        self.activity = Activity::Idle;
        match found {
            Ok(found) => self.decide(found, calls),
            Err(problem) => refuse_all(calls, &problem),
        }
        self.serve_waiting();
    }

    /// Plans for the first caller that may have the todo; everybody else of the same worker gets the same, other
    /// workers are told who was first.
    fn decide(&mut self, mut found: Look, calls: Vec<Waiting>) {
        let (board, now) = (&self.args.context.board, self.args.context.clock.moment());
        let live = board.of(&self.args.todo).live(now.awake).cloned();
        let first = match (&live, calls.first()) {
            (Some(claim), _) => claim.holder(),
            (None, Some(first)) => first.call.asker.clone(),
            (None, None) => return,
        };
        let (mine, others): (Vec<Waiting>, Vec<Waiting>) =
            calls.into_iter().partition(|waiting| waiting.call.asker == first);
        let others_problem = live.as_ref().map(|claim| already_claimed(&self.args.todo, claim, &now));
        refuse_all(others, &others_problem.unwrap_or_else(|| being_claimed(&self.args.todo, &first)));
        if live.is_none() {
            let repo = &self.args.todo.repo;
            let (seen, catalog) = (board.in_repo(repo), board.catalog(repo, &found.base.catalog));
            if let Some(problem) = answer::refusal(&found.base, &catalog, &seen, &self.args.todo) {
                return refuse_all(mine, &problem);
            }
        }
        found.probe.claim = if live.is_some() { ClaimState::Mine } else { ClaimState::Free };
        let wish = Wish { refresh: mine.iter().any(|waiting| waiting.call.wants_refresh()), ..Wish::default() };
        let plan = plan::plan(&found.probe, wish);
        match (plan.next(PhaseSet::default()), live) {
            (Step::Done, Some(claim)) => {
                self.answer_settled(mine, &Settled { found: &found, plan: &plan, claim: &claim })
            }
            (Step::Fail(phase, _), _) => {
                let memory = self.memory.get_or_insert_default();
                let problem = answer::cannot(phase, &self.args.todo, &self.args.repo, &found, memory);
                refuse_all(mine, &problem);
            }
            (Step::Run(..) | Step::Done, _) => self.start_run(mine, wish),
        }
    }

    /// Nothing had to run: everybody is answered at once, then what was decided is told to log and metrics.
    fn answer_settled(&mut self, calls: Vec<Waiting>, settled: &Settled<'_>) {
        let memory = self.memory.get_or_insert_default();
        for waiting in calls {
            let order = answer::settled(&self.args, settled, memory, &waiting.call, waiting.waited);
            let _ = waiting.reply.send(Ok(WorkReply::Ready(Box::new(order.clone()))));
            super::timing::call_finished(&self.args.todo, order, &waiting.call.trace);
        }
        self.scan_behind_the_answer();
    }

    fn start_run(&mut self, calls: Vec<Waiting>, wish: Wish) {
        let Some(first) = calls.first() else { return };
        let order = Order { call: first.call.clone(), wish };
        let memory = self.memory.take().unwrap_or_default();
        let run = match run::start(&self.args, order, memory) {
            Started::Now(run) => run,
            Started::WasOn(on, memory) => {
                self.memory = Some(memory);
                for waiting in calls {
                    answer_behind(waiting, &on, &self.args);
                }
                self.activity = Activity::Running(on);
                return;
            }
        };
        metric::flight(FlightRole::Leader);
        for (index, waiting) in calls.into_iter().enumerate() {
            answer_running(waiting, run.clone(), index > 0);
        }
        self.activity = Activity::Running(run);
    }

    fn on_run_ended(&mut self, id: &OperationId, memory: Option<Box<Memory>>) {
        match &self.activity {
            // A call that was waiting already has seen that it was over, and began another one.
            Activity::Running(run) if run.id != *id => return,
            Activity::Running(_) => self.activity = Activity::Idle,
            Activity::Idle | Activity::Looking => {}
        }
        if memory.is_some() {
            self.memory = memory;
        }
        self.serve_waiting();
    }

    fn serve_waiting(&mut self) {
        if matches!(self.activity, Activity::Idle) {
            // Finished work is judged before anybody is given the todo again.
            let is_complete = |waiting: &Waiting| matches!(waiting.call.purpose, Purpose::Complete(_));
            if let Some(at) = self.waiting.iter().position(is_complete) {
                let first = self.waiting.remove(at);
                self.start_run(first.into_iter().collect(), Wish::default());
            } else if !self.waiting.is_empty() {
                let calls = self.waiting.drain(..).collect();
                self.look(calls);
            }
        }
        if let Activity::Running(run) = &self.activity {
            // Those who came while the look was under way.
            for waiting in std::mem::take(&mut self.waiting) {
                answer_behind(waiting, run, &self.args);
            }
        }
    }

    /// Goes through the work tree when the last time is too long ago, so that the next answer can say what is there.
    fn scan_behind_the_answer(&mut self) {
        let old = self.memory.as_ref().and_then(|memory| memory.scan.as_ref()).is_none_or(Scan::is_old);
        let git = self.args.repo.git_if_open();
        let (false, true, Some(git)) = (self.scanning, old, git) else { return };
        self.scanning = true;
        let args = self.args.clone();
        let mark = self.memory.as_ref().and_then(|memory| memory.record().todo);
        tokio::spawn(async move {
            let (path, now) = (args.repo.worktree_path(&args.todo.slug), args.context.clock.now());
            let scanned = tokio::task::spawn_blocking(move || {
                probe::local_changes(&git, &path, mark.as_ref())
                    .ok()
                    .map(|changes| Scan::fresh(now, !changes.is_empty()))
            });
            let _ = args.address.tell(SlugMsg::Scanned { scan: scanned.await.ok().flatten() });
        });
    }

    fn on_scanned(&mut self, scan: Option<Scan>) {
        self.scanning = false;
        if let (Some(scan), Some(memory)) = (scan, self.memory.as_mut()) {
            memory.scan = Some(scan);
        }
    }

    fn check_idle_later(&self) {
        let (address, after) = (self.args.address.clone(), self.args.context.settings.idle_after);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = address.tell(SlugMsg::IdleCheck);
        });
    }

    /// Nobody asked for a while and nothing is on: the actor goes, its next caller gets a new one.
    fn on_idle_check(&mut self, myself: &ActorRef<Envelope<SlugMsg>>) {
        self.notice_ended_run();
        let idle = matches!(self.activity, Activity::Idle) && self.waiting.is_empty();
        if idle && self.last_asked.elapsed() >= self.args.context.settings.idle_after {
            self.args.address.point_at(None);
            self.args.context.slugs.remove(&self.args.todo);
            myself.stop(Some("idle".to_owned()));
        } else {
            self.check_idle_later();
        }
    }

    fn on_describe(&self, reply: Reply<Value>) {
        let activity = match &self.activity {
            Activity::Idle => json!("idle"),
            Activity::Looking => json!("looking"),
            Activity::Running(run) => json!({ "operation": run.id, "lane": run.lane, "worker": run.worker }),
        };
        let view = json!({ "activity": activity, "waiting": self.waiting.len(), "scanning": self.scanning });
        let _ = reply.send(view);
    }
}

impl WorkCall {
    fn wants_refresh(&self) -> bool {
        matches!(self.purpose, Purpose::Work { refresh: true })
    }
}

/// Answers a call that comes while a run is on: it joins, has to wait for its turn, or is told who is served.
fn answer_behind(waiting: Waiting, run: &RunHandle, args: &SlugArgs) {
    let asker = Asker { lane: run.lane.clone(), worker: run.worker.clone() };
    let joins = match (&waiting.call.purpose, &run.purpose) {
        (Purpose::Complete(said), Purpose::Complete(judged)) => said.token == judged.token,
        (Purpose::Work { refresh }, Purpose::Work { refresh: does }) => *does || !refresh,
        _ => false,
    };
    if matches!(waiting.call.purpose, Purpose::Work { .. }) && waiting.call.asker != asker {
        let now = args.context.clock.moment();
        let state = args.context.board.of(&args.todo);
        let problem = state
            .live(now.awake)
            .map_or_else(|| being_claimed(&args.todo, &asker), |claim| already_claimed(&args.todo, claim, &now));
        let _ = waiting.reply.send(Err(problem));
    } else if joins {
        answer_running(waiting, run.clone(), true);
    } else {
        let _ = waiting.reply.send(Ok(WorkReply::Behind(run.clone())));
    }
}

/// The problem of a todo another worker is just being given.
fn being_claimed(todo: &TodoKey, holder: &Asker) -> Problem {
    let detail =
        format!("{todo} is just being given to {}/{}; ask without a slug for another todo", holder.lane, holder.worker);
    Problem::new(ProblemCode::AlreadyClaimed, detail)
        .with("lane", holder.lane.as_str())
        .with("worker", holder.worker.as_str())
        .retry_after(1_000)
}

fn refuse_all(calls: Vec<Waiting>, problem: &Problem) {
    for waiting in calls {
        let _ = waiting.reply.send(Err(problem.clone()));
    }
}

fn answer_running(waiting: Waiting, run: RunHandle, joined: bool) {
    if joined {
        metric::flight(FlightRole::Joined);
    }
    let _ = waiting.reply.send(Ok(WorkReply::Running { run, joined }));
}

/// What a caller that joined sees of the phases it waited for.
pub fn as_joined(order: &mut WorkOrder) {
    for report in &mut order.phases {
        if report.decision == Decision::Run && report.phase != Phase::Dispatch {
            report.decision = Decision::Join;
        }
    }
}
