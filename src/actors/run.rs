//! Carrying out a plan that has something to do: look, plan, carry out the first phase that needs it, look again.
//!
//! A run is a task of its own and owes nothing to the actor that started it: it opens its operation in the ledger
//! before anybody is told, holds the worktree's exclusion while it works, writes its end to the ledger and publishes
//! it. It is visible in [`super::runs`] from the first instant to the last. A panic in a phase ends the run with a
//! problem; the exclusion is free again when the last process of the run is gone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::answer::{self, ms};
use super::exclusion::{self, Exclusion};
use super::health::turning::{Doing, doing};
use super::phases;
use super::probe::{self, Look, Memory, Scan};
use super::repo::{Base, Repo};
use super::runs::{Entered, Purpose, RunHandle, RunView, StopCause};
use super::slug::{SlugArgs, SlugMsg, WorkCall};
use super::supervision::last_words;
use super::timing;
use crate::git::{Change, Repository};
use crate::metrics::phases as metric;
use crate::metrics::{lanes as lane_metric, spans};
use crate::model::claim::Claim;
use crate::model::operation::{Operation, OperationKind, OperationState};
use crate::model::phase::{Decision, Outcome, Phase, PhaseReport, Reason};
use crate::model::plan::{self, ClaimState, PhaseSet, Step, Wish};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::repo_config::GateConfig;
use crate::model::trace::Trace;
use crate::model::work_order::Product;
use crate::store::Write;

/// What a run gets beyond the limits of the commands it may start: time to wait for its worktree and for git.
const ALLOWANCE: Duration = Duration::from_secs(600);
/// How long a run waits for its worktree. Whoever holds it is ending: at most a kill grace and a little more.
const EXCLUSION_LIMIT: Duration = Duration::from_secs(60);
/// How long a client should wait before it polls a running operation again, in milliseconds.
const POLL_AFTER_MS: u64 = 1_000;
/// How often the end of a run is written again when the ledger does not take it, and how long between.
const FINAL_WRITE_TRIES: u32 = 5;
const FINAL_WRITE_PAUSE: Duration = Duration::from_millis(200);

/// What a run is to do.
pub struct Order {
    /// The call that started it.
    pub call: WorkCall,
    /// What it asked for beyond the usual.
    pub wish: Wish,
}

/// Why a phase did not do what it should.
#[derive(Debug)]
pub struct PhaseFault {
    /// What the caller is told.
    pub problem: Problem,
    /// Whose fault it was.
    pub outcome: Outcome,
}

impl From<Problem> for PhaseFault {
    /// A problem without further word is ours.
    fn from(problem: Problem) -> Self {
        Self { problem, outcome: Outcome::Error }
    }
}

/// A run, as its phases see it.
pub struct Run {
    /// Where the run is in its trace.
    trace: Trace,
    /// Where its phase is, that is being carried out or was last.
    pub(super) phase_trace: Trace,
    /// The slug it is for.
    pub args: SlugArgs,
    /// What is remembered of the slug.
    pub memory: Box<Memory>,
    /// The call that started it.
    pub call: WorkCall,
    /// Its operation, for messages.
    pub handle: RunHandle,
    /// The caller's claim, once dispatched.
    pub claim: Option<Claim>,
    /// The worktree's exclusion.
    pub exclusion: Option<Exclusion>,
    /// Everything its commands print.
    pub log: PathBuf,
    /// The base of the run's first look. The run is about this one to its end: what the base becomes meanwhile is for the
    /// next call, so nothing is brought in here that was not prepared and judged with.
    base: Option<Arc<Base>>,
    /// When the worktree's files were written by this run, if they were.
    pub checked_out: Option<Instant>,
    feed: watch::Sender<RunView>,
    operation: Operation,
    /// What was decided about each phase so far.
    pub reports: Vec<PhaseReport>,
    pending: Vec<Write>,
    /// What the run was asked for, and what it has made by itself.
    pub wish: Wish,
    started: Instant,
    lock_wait: Duration,
}

/// What a start came to.
pub enum Started {
    /// The run is on.
    Now(RunHandle),
    /// Another one was on; it and the memory come back.
    WasOn(RunHandle, Box<Memory>),
}

/// Starts a run, unless one is on.
pub fn start(args: &SlugArgs, order: Order, memory: Box<Memory>) -> Started {
    let Order { call, wish } = order;
    let id = args.context.clock.operation_id();
    let (handle, feed) = RunHandle::new(id.clone(), args.todo.clone(), &call.asker, call.purpose.clone());
    let entered = match args.context.runs.enter(handle.clone()) {
        Ok(entered) => entered,
        Err(on) => return Started::WasOn(*on, memory),
    };
    let now = args.context.clock.now();
    let operation = Operation {
        id: id.clone(),
        kind: match call.purpose {
            Purpose::Work { .. } => OperationKind::Work,
            Purpose::Complete(_) => OperationKind::Complete,
        },
        todo: args.todo.clone(),
        lane: call.asker.lane.clone(),
        worker: call.asker.worker.clone(),
        trace_id: Some(call.trace.trace_id()),
        state: OperationState::Queued,
        phase: None,
        phases: Vec::new(),
        created_at: now,
        started_at: None,
        finished_at: None,
        deadline_at: now.plus_ms(i64::try_from(time_limit(&args.repo).as_millis()).unwrap_or(i64::MAX)),
        poll_after_ms: Some(POLL_AFTER_MS),
        result: None,
        problem: None,
    };
    let trace = spans::below(&call.trace);
    let span = tracing::info_span!(parent: None, "run", operation = id.as_str(), trace_id = trace.trace_id());
    let run = Run {
        phase_trace: trace.clone(),
        trace,
        memory,
        call,
        claim: None,
        exclusion: None,
        log: log_path(&args.context.settings.data_dir, &id),
        base: None,
        checked_out: None,
        feed,
        operation,
        reports: Vec::new(),
        pending: Vec::new(),
        wish,
        started: Instant::now(),
        lock_wait: Duration::ZERO,
        handle: handle.clone(),
        args: args.clone(),
    };
    tokio::spawn(run.go_to_the_end(entered).instrument(span));
    Started::Now(handle)
}

/// Where the output of an operation's commands is.
#[must_use]
pub fn log_path(data_dir: &std::path::Path, id: &crate::model::ids::OperationId) -> PathBuf {
    data_dir.join("logs").join("operations").join(format!("{id}.log"))
}

/// The sum of what its commands may take, as the base defines them now, and an allowance.
pub fn time_limit(args: &Repo) -> Duration {
    let commands = args.base_if_read().map_or(0, |base| {
        let gates: u64 = base.config.gates.iter().map(|gate: &GateConfig| gate.timeout_ms).sum();
        base.prepare.as_ref().map_or(0, |prepare| prepare.timeout_ms) + gates
    });
    ALLOWANCE + Duration::from_millis(commands)
}

impl Run {
    /// From opening the operation to telling everybody.
    async fn go_to_the_end(mut self, entered: Entered) {
        if let Err(problem) = self.open().await {
            let feed = self.feed.clone();
            hand_back(&self.args, &self.handle, entered, Some(self.memory));
            feed.send_replace(RunView::Refused(problem));
            return;
        }
        let deadline = self.stop_at_deadline();
        // The work is a task of its own, so that a panic in a phase is an answer and not a silence.
        let (feed, handle, args, accepted) =
            (self.feed.clone(), self.handle.clone(), self.args.clone(), self.call.accepted);
        let trace = self.trace.clone();
        let what = Doing::Run { todo: args.todo.clone(), operation: handle.id.clone() };
        let working = doing(what, async move {
            let result = self.work().await;
            (self, result)
        });
        let worked = tokio::spawn(working.in_current_span());
        let (memory, ended) = match worked.await {
            Ok((mut run, result)) => {
                let ended = run.finish(result).await;
                (Some(run.memory), ended)
            }
            Err(error) => (None, finish_for_the_dead(&args, &feed, &handle, accepted, &trace, &error).await),
        };
        deadline.abort();
        hand_back(&args, &handle, entered, memory);
        feed.send_replace(ended);
    }

    fn stop_at_deadline(&self) -> tokio::task::JoinHandle<()> {
        let (handle, limit) = (self.handle.clone(), time_limit(&self.args.repo));
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            handle.stop(StopCause::Deadline);
        })
    }

    /// The operation goes to the ledger; from here on it is accepted.
    async fn open(&mut self) -> Result<(), Problem> {
        self.args.context.ledger.commit(vec![Write::OperationOpened(Box::new(self.operation.clone()))]).await?;
        self.publish();
        Ok(())
    }

    async fn work(&mut self) -> Result<Product, Problem> {
        let waiting = Instant::now();
        let stop = self.stopped().clone();
        let (locks, who) = (&self.args.context.on.locks, self.handle.words());
        let slug = &self.args.todo.slug;
        let exclusion = exclusion::acquire(&self.args.repo, slug, EXCLUSION_LIMIT, &stop, locks, &who).await?;
        self.exclusion = Some(exclusion);
        self.lock_wait = waiting.elapsed();
        lane_metric::queue_waited(self.call.asker.lane.as_str(), self.call.accepted.elapsed());
        self.operation.state = OperationState::Running;
        self.operation.started_at = Some(self.args.context.clock.now());
        self.publish();
        let mut ran = PhaseSet::default();
        loop {
            self.refuse_when_stopped()?;
            let found = self.look().await?;
            if self.has_lost_its_claim() {
                return self.end_without_claim(&found).await;
            }
            let plan = plan::plan(&found.probe, self.wish);
            match plan.next(ran) {
                Step::Run(phase, reason) => {
                    ran.insert(phase);
                    self.carry_out(phase, reason, &found).await?;
                    self.wish.judged |= phase == Phase::Gates && self.complete().is_some();
                }
                Step::Fail(phase, reason) => {
                    self.report(phase, Decision::Fail, reason, found.took[phase as usize]);
                    return Err(answer::cannot(phase, &self.args.todo, &self.args.repo, &found, &self.memory));
                }
                Step::Done => return self.settle(&found, &plan, ran).await,
            }
        }
    }

    /// The repository's handle; a look has opened it before.
    pub fn git(&self) -> Result<Arc<Repository>, Problem> {
        self.args.repo.git_if_open().ok_or_else(|| Problem::new(ProblemCode::Internal, "the repository is not open"))
    }

    async fn look(&mut self) -> Result<Look, Problem> {
        let mut memory = std::mem::take(&mut self.memory);
        if self.complete().is_some() {
            // What was seen a moment ago is good enough to leave a work tree alone, not to call it done.
            memory.scan = None;
        }
        let (base, SlugArgs { context, repo, todo, .. }) = (self.base.clone(), &self.args);
        let (environment, now) = (&context.gate_environment, context.clock.now());
        let (memory, found) = probe::look(repo, todo, &context.ledger, environment, memory, base, now).await;
        self.memory = memory;
        let mut found = found?;
        self.base.get_or_insert_with(|| found.base.clone());
        found.probe.claim = self.claim_state();
        Ok(found)
    }

    fn claim_state(&mut self) -> ClaimState {
        let now = self.args.context.clock.moment().awake;
        match self.args.context.board.of(&self.args.todo).live(now) {
            Some(claim) if claim.is_held_by(&self.call.asker.lane, &self.call.asker.worker) => {
                self.claim.get_or_insert_with(|| claim.clone());
                ClaimState::Mine
            }
            Some(_) => ClaimState::Others,
            None => ClaimState::Free,
        }
    }

    async fn carry_out(&mut self, phase: Phase, reason: Reason, found: &Look) -> Result<(), Problem> {
        self.args.context.faults.hit(phase.as_str());
        self.operation.phase = Some(phase);
        self.publish();
        let begun = Instant::now();
        metric::phase_started(phase);
        self.phase_trace = spans::below(&self.trace);
        let span = tracing::info_span!("phase", name = phase.as_str());
        let ended = phases::carry_out(self, phase, reason, found).instrument(span).await;
        metric::phase_ended(phase);
        let took = begun.elapsed();
        self.operation.phase = None;
        match ended {
            Ok(reason) => {
                timing::phase_carried_out(phase, Outcome::Success, took);
                self.report(phase, Decision::Run, reason, took);
                Ok(())
            }
            Err(fault) => {
                let outcome = match self.handle.stop_cause() {
                    Some(StopCause::Deadline) => Outcome::Timeout,
                    Some(StopCause::Cancel | StopCause::Shutdown) => Outcome::Cancellation,
                    None => fault.outcome,
                };
                timing::phase_carried_out(phase, outcome, took);
                if self.handle.stop_cause().is_none() {
                    self.note_failure(phase, &fault).await;
                }
                let reason = if phase == Phase::Gates {
                    Reason::Failed
                } else {
                    phases::failure_reason(phase, reason, &fault.problem)
                };
                self.report(phase, Decision::Fail, reason, took);
                Err(fault.problem)
            }
        }
    }

    /// Notes the report of a phase, for the answer, the log, the metrics and the ledger.
    fn report(&mut self, phase: Phase, decision: Decision, reason: Reason, took: Duration) {
        let report = PhaseReport { phase, decision, reason, duration_ms: ms(took) };
        let path = self.args.repo.worktree_path(&self.args.todo.slug);
        let trace = if decision == Decision::Skip { spans::below(&self.trace) } else { self.phase_trace.clone() };
        timing::phase_finished(&self.args.todo, &path, &report, Some(&self.handle.id), &trace);
        self.pending.push(Write::PhaseFinished {
            operation: self.handle.id.clone(),
            todo: self.args.todo.clone(),
            trace_id: self.trace.trace_id(),
            report: report.clone(),
            at: self.args.context.clock.now(),
        });
        self.reports.push(report);
        self.reports.sort_by_key(|report| report.phase);
        self.operation.phases = self.reports.clone();
        self.publish();
    }

    /// Every phase is as it should be: the rest of the reports, and the WorkOrder or the end of the claim.
    async fn settle(&mut self, found: &Look, plan: &plan::Plan, ran: PhaseSet) -> Result<Product, Problem> {
        let on_base = match self.complete() {
            Some(_) => Some(self.stands(found, ran).await?),
            None => None,
        };
        if ran.contains(Phase::Prepare) || ran.contains(Phase::Gates) || self.memory.scan.is_none() {
            self.scan(ran).await;
        }
        phases::worktree::repair_racy_index(self).await;
        for decided in plan.phases {
            if !ran.contains(decided.phase) {
                self.report(decided.phase, decided.decision, decided.reason, found.took[decided.phase as usize]);
            }
        }
        if let Some(on_base) = on_base {
            return self.conclude(found, on_base).await;
        }
        let claim =
            self.claim.clone().ok_or_else(|| Problem::new(ProblemCode::Internal, "a settled run without a claim"))?;
        let repeated = !ran.contains(Phase::Dispatch) && self.call.granted.unwrap_or(true);
        let mut order = answer::order(&self.args, found, &self.memory, &claim, repeated);
        order.operation = Some(self.handle.id.clone());
        order.phases = self.reports.clone();
        order.queued_ms = ms(self.started.saturating_duration_since(self.call.accepted) + self.lock_wait);
        order.total_ms = ms(self.call.accepted.elapsed());
        Ok(Product::Order(Box::new(order)))
    }

    /// What was just checked out by us is clean; after commands of the repository only a look can tell.
    async fn scan(&mut self, ran: PhaseSet) {
        let now = self.args.context.clock.now();
        if !ran.contains(Phase::Prepare) && !ran.contains(Phase::Gates) && self.checked_out.is_some() {
            self.memory.scan = Some(Scan::fresh(now, false));
            return;
        }
        if let Ok(changes) = self.local_changes().await {
            self.memory.scan = Some(Scan::fresh(now, !changes.is_empty()));
        }
    }

    /// The paths with local changes, gone through now.
    pub async fn local_changes(&self) -> Result<Vec<Change>, Problem> {
        let git = self.git()?;
        let path = self.args.repo.worktree_path(&self.args.todo.slug);
        let mark = self.memory.record().todo;
        tokio::task::spawn_blocking(move || probe::local_changes(&git, &path, mark.as_ref())).await.map_err(
            |error| Problem::new(ProblemCode::Internal, format!("looking through the work tree failed: {error}")),
        )?
    }

    /// Commits writes together with what waits for a commit.
    pub async fn commit(&mut self, writes: Vec<Write>) -> Result<(), Problem> {
        let mut batch = std::mem::take(&mut self.pending);
        batch.extend(writes);
        self.args.context.ledger.commit(batch).await
    }

    /// Cancelled when the run has to end.
    #[must_use]
    pub fn stopped(&self) -> &CancellationToken {
        self.handle.stopped()
    }

    fn refuse_when_stopped(&self) -> Result<(), Problem> {
        if self.stopped().is_cancelled() {
            Err(Problem::new(ProblemCode::Cancelled, "ended between two phases"))
        } else {
            Ok(())
        }
    }

    fn publish(&self) {
        self.feed.send_replace(RunView::Live(Arc::new(self.operation.clone())));
    }

    /// The end goes to the ledger; what comes back is for everybody who waits.
    async fn finish(&mut self, result: Result<Product, Problem>) -> RunView {
        // The worktree is free before anybody is told that it is theirs.
        self.exclusion = None;
        let now = self.args.context.clock.now();
        let result = result.map_err(|problem| self.in_context(problem));
        close(&mut self.operation, &result, self.handle.stop_cause(), now);
        if self.operation.state == OperationState::Succeeded {
            self.memory.record_mut().last_operation = Some(self.handle.id.clone());
        }
        let total_ms = ms(self.call.accepted.elapsed());
        timing::call_closed(
            &self.args.todo,
            Some(&self.handle.id),
            outcome(&self.operation, &result),
            &self.reports,
            [ms(self.lock_wait), total_ms],
            &self.trace,
        );
        write_end(&self.args, std::mem::take(&mut self.pending), &self.operation).await;
        self.args.context.faults.hit("run.finished");
        RunView::Ended(Arc::new(self.operation.clone()), Arc::new(result))
    }

    /// A problem with what a client needs to go on: where the log is, which operation it was, and the claim it holds.
    fn in_context(&self, problem: Problem) -> Problem {
        let problem = match self.handle.stop_cause() {
            Some(StopCause::Cancel) => Problem::new(
                ProblemCode::Cancelled,
                format!("operation {} was cancelled; its processes are dead", self.handle.id),
            ),
            Some(StopCause::Deadline) => Problem::new(
                ProblemCode::DeadlineExceeded,
                format!("operation {} reached its time limit; its processes are dead", self.handle.id),
            ),
            Some(StopCause::Shutdown) => Problem::new(
                ProblemCode::Interrupted,
                format!("operation {} was ended by the daemon's shutdown; ask again once it is back", self.handle.id),
            ),
            None => problem,
        };
        let problem = problem
            .with("operation", self.handle.id.as_str())
            .with("trace_id", self.trace.trace_id())
            .with("log", format!("/operations/{}/log", self.handle.id));
        match &self.claim {
            Some(claim) => problem
                .with("claim", self.claim_shown(claim))
                .with("worktree", self.args.repo.worktree_path(&self.args.todo.slug).display().to_string()),
            None => problem,
        }
    }
}

impl Run {
    fn claim_shown(&self, claim: &Claim) -> serde_json::Value {
        let until = claim.expires_at(&self.args.context.clock.moment());
        serde_json::json!({ "token": claim.token, "worker": claim.worker, "expires_at": until })
    }
}

/// Takes the run out of sight and gives the memory back to the slug's actor, before anybody is told of the end:
/// whoever asks after that finds no run and a memory that knows of it.
fn hand_back(args: &SlugArgs, handle: &RunHandle, entered: Entered, memory: Option<Box<Memory>>) {
    drop(entered);
    let _ = args.address.tell(SlugMsg::RunEnded { id: handle.id.clone(), memory });
}

/// The end of a run whose task panicked.
async fn finish_for_the_dead(
    args: &SlugArgs,
    feed: &watch::Sender<RunView>,
    handle: &RunHandle,
    accepted: Instant,
    trace: &Trace,
    error: &tokio::task::JoinError,
) -> RunView {
    let problem = Problem::new(
        ProblemCode::Internal,
        format!("operation {} failed inside the daemon: it {}; ask again", handle.id, last_words(error)),
    );
    let last = match &*feed.borrow() {
        RunView::Live(operation) | RunView::Ended(operation, _) => Some(operation.clone()),
        RunView::Opening | RunView::Refused(_) => None,
    };
    let Some(last) = last else { return RunView::Refused(problem) };
    let mut operation = (*last).clone();
    let result = Err(problem);
    close(&mut operation, &result, handle.stop_cause(), args.context.clock.now());
    let times = [0.0, ms(accepted.elapsed())];
    timing::call_closed(&args.todo, Some(&handle.id), Outcome::Error, &operation.phases, times, trace);
    write_end(args, Vec::new(), &operation).await;
    RunView::Ended(Arc::new(operation), Arc::new(result))
}

fn close(
    operation: &mut Operation,
    result: &Result<Product, Problem>,
    cause: Option<StopCause>,
    now: crate::model::time::Timestamp,
) {
    operation.finished_at = Some(now);
    operation.poll_after_ms = None;
    operation.phase = None;
    operation.state = match (result, cause) {
        (Ok(_), _) => OperationState::Succeeded,
        (Err(_), Some(StopCause::Cancel)) => OperationState::Cancelled,
        (Err(_), Some(StopCause::Shutdown)) => OperationState::Interrupted,
        (Err(_), Some(StopCause::Deadline) | None) => OperationState::Failed,
    };
    match result {
        Ok(order) => operation.result = serde_json::to_value(order).ok(),
        Err(problem) => operation.problem = Some(problem.clone()),
    }
}

fn outcome(operation: &Operation, result: &Result<Product, Problem>) -> Outcome {
    match (operation.state, result) {
        (OperationState::Succeeded, _) => Outcome::Success,
        (OperationState::Cancelled | OperationState::Interrupted, _) => Outcome::Cancellation,
        (_, Err(problem)) if problem.code == ProblemCode::DeadlineExceeded => Outcome::Timeout,
        (_, Err(problem)) if problem.code.status() < 500 => Outcome::Failure,
        _ => Outcome::Error,
    }
}

/// Writes the end of an operation; a ledger that does not take it now gets it again a few times. If it never does,
/// the next start of the daemon finds the operation open and calls it interrupted.
async fn write_end(args: &SlugArgs, mut batch: Vec<Write>, operation: &Operation) {
    batch.push(Write::OperationChanged(Box::new(operation.clone())));
    for attempt in 1..=FINAL_WRITE_TRIES {
        match args.context.ledger.commit(batch.clone()).await {
            Ok(()) => return,
            Err(problem) => {
                tracing::error!(operation = operation.id.as_str(), attempt, problem = %problem, "the end of an operation could not be written")
            }
        }
        tokio::time::sleep(FINAL_WRITE_PAUSE * attempt).await;
    }
}
