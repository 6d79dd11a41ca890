//! Jobs: the daemon's own periodic duties. One run of each at a time, under a run-lock, with a budget; what is over its
//! budget is shown, what does not end is ended and counted, and what cannot be ended stays in sight until it is gone.
//!
//! Supervised by the root. Its death costs the runs that are on their record and nothing else: they go to their end, and
//! their locks keep a second run away until then. In: `Tick`, `Ended`, `Describe`. What a duty does is in [`super::duties`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::duties::{self, Done};
use super::run_lock::{self, RunLock};
use super::turning::{Doing, doing};
use crate::actors::context::Context;
use crate::actors::faults::Injected;
use crate::actors::mailbox::{Address, Envelope, Reply};
use crate::actors::supervision::last_words;
use crate::metrics::actors::ActorKind;
use crate::metrics::runtime as metric;
use crate::model::event::EventKind;
use crate::model::job::{JobName, JobRecord, JobResult, JobView, LIMIT_BUDGETS, LockNote, Owner, RunLockView};
use crate::model::time::Timestamp;
use crate::store::{Chain, Write};

/// Messages that may wait.
const MAILBOX_LIMIT: usize = 256;
/// How often it is looked what is due; less when something is due more often.
const TICK: Duration = Duration::from_millis(500);
/// Runs that are due more often than this are not written down one by one: after a restart they are due anyway.
const WRITTEN_FROM_MS: u64 = 60_000;
/// How long a stop waits for runs that are on.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// How long what a job started gets to end, when the job is ended.
const END_LIMIT: Duration = Duration::from_secs(8);
/// The first run of what has never run is spread over this time, so that a start has the disk for itself.
const FIRST_SPREAD_MS: u64 = 5_000;

/// When and for how long each job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTerms {
    /// How often it runs, in milliseconds; never when 0.
    pub every_ms: u64,
    /// How long one run should take, in milliseconds.
    pub budget_ms: u64,
}

/// A run that is on.
struct Running {
    started_at: Timestamp,
    begun: Instant,
    /// It was told to end.
    hung: bool,
    /// It is told that it is over its budget.
    over_told: bool,
    /// Alive as long as anything of the run is.
    lock: Weak<RunLock>,
    stop: CancellationToken,
}

struct Entry {
    terms: JobTerms,
    record: JobRecord,
    due: Instant,
    running: Option<Running>,
}

/// The jobs, for everybody to read; outlives the actor.
pub struct JobBoard {
    entries: Mutex<BTreeMap<JobName, Entry>>,
    owner: Owner,
}

impl JobBoard {
    /// Jobs of which none has run.
    #[must_use]
    pub fn new(terms: &BTreeMap<JobName, JobTerms>) -> Self {
        let entry = |(job, terms): (&JobName, &JobTerms)| {
            let record = JobRecord::new(*job);
            (*job, Entry { terms: *terms, record, due: Instant::now(), running: None })
        };
        Self { entries: Mutex::new(terms.iter().map(entry).collect()), owner: run_lock::this_process() }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<JobName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_view(&self, job: JobName, entry: &Entry, running: &Running) -> RunLockView {
        let elapsed_ms = u64::try_from(running.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        RunLockView {
            job,
            owner: self.owner.clone(),
            started_at: running.started_at,
            elapsed_ms,
            budget_ms: entry.terms.budget_ms,
            over_budget: elapsed_ms > entry.terms.budget_ms,
            hung: running.hung,
        }
    }

    /// The run-locks this daemon holds.
    #[must_use]
    pub fn running(&self) -> Vec<RunLockView> {
        let entries = self.entries();
        // While a lock is only tried for, somebody else may hold it.
        let held = |running: &&Running| running.lock.strong_count() > 0;
        let view =
            |(job, entry): (&JobName, &Entry)| Some(self.lock_view(*job, entry, entry.running.as_ref().filter(held)?));
        entries.iter().filter_map(view).collect()
    }

    /// Every run-lock of the data directory, whoever holds it. Blocks.
    #[must_use]
    pub fn run_locks(&self, data_dir: &std::path::Path, now: Timestamp) -> Vec<RunLockView> {
        let mut locks = self.running();
        for note in run_lock::notes(&run_lock::dir(data_dir)) {
            if note.owner != self.owner && !locks.iter().any(|lock| lock.job == note.job) {
                let elapsed_ms = u64::try_from(now.as_ms().saturating_sub(note.started_at.as_ms())).unwrap_or(0);
                locks.push(RunLockView {
                    job: note.job,
                    owner: note.owner,
                    started_at: note.started_at,
                    elapsed_ms,
                    budget_ms: note.budget_ms,
                    over_budget: elapsed_ms > note.budget_ms,
                    hung: false,
                });
            }
        }
        locks.sort_by_key(|lock| lock.job);
        locks
    }

    /// Every job.
    #[must_use]
    pub fn views(&self, now: Timestamp) -> Vec<JobView> {
        let entries = self.entries();
        let view = |(job, entry): (&JobName, &Entry)| {
            let left = entry.due.saturating_duration_since(Instant::now());
            let due_at = now.plus_ms(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
            JobView {
                record: entry.record.clone(),
                period_ms: entry.terms.every_ms,
                budget_ms: entry.terms.budget_ms,
                due_at: (entry.running.is_none() && entry.terms.every_ms > 0).then_some(due_at),
                running: entry.running.as_ref().map(|running| self.lock_view(*job, entry, running)),
            }
        };
        entries.iter().map(view).collect()
    }
}

/// What the jobs' actor hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum JobsMsg {
    /// Time to look what is due.
    Tick,
    /// A run is over, or was told to end.
    Ended {
        /// Of which job.
        job: JobName,
        /// How.
        result: JobResult,
        /// In words.
        detail: String,
    },
    /// What it is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// The actor's state.
pub struct JobsState {
    context: Arc<Context>,
    /// The tasks of the runs that are on.
    tasks: BTreeMap<JobName, AbortOnDropHandle<()>>,
    _ticks: AbortOnDropHandle<()>,
}

/// The actor.
pub struct JobsActor;

impl JobsActor {
    /// Where it is reached.
    #[must_use]
    pub fn address() -> Address<JobsMsg> {
        Address::new(ActorKind::Jobs, "jobs", MAILBOX_LIMIT)
    }

    /// Starts it under a supervisor.
    pub async fn start(context: Arc<Context>, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) =
            Actor::spawn_linked(None, Self, context, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for JobsActor {
    type Msg = Envelope<JobsMsg>;
    type State = JobsState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Arc<Context>,
    ) -> Result<JobsState, ActorProcessingErr> {
        let address = context.jobs_address.clone();
        address.point_at(Some(myself));
        let records = context.ledger.store()?.jobs().await?;
        let (now, mut shortest) = (context.clock.now(), TICK);
        for (job, entry) in context.jobs.entries().iter_mut() {
            if let Some(record) = records.iter().find(|record| record.job == *job && entry.record.runs == 0) {
                entry.record = record.clone();
            }
            let spread = entry.terms.every_ms.min(FIRST_SPREAD_MS) / 2;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a few seconds"
            )]
            let jitter = (spread as f64 * context.clock.jitter()) as u64;
            entry.due =
                Instant::now() + Duration::from_millis(entry.record.due_in_ms(entry.terms.every_ms, now) + jitter);
            if entry.terms.every_ms > 0 {
                shortest = shortest.min(Duration::from_millis((entry.terms.every_ms / 2).max(10)));
            }
        }
        let ticks = address.every(shortest, || JobsMsg::Tick);
        Ok(JobsState { context, tasks: BTreeMap::new(), _ticks: ticks })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut JobsState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.context.faults.clone();
        let handled = async {
            match message {
                JobsMsg::Tick => state.on_tick(),
                JobsMsg::Ended { job, result, detail } => state.on_ended(job, result, detail),
                JobsMsg::Describe { reply } => {
                    let running = state.context.jobs.running();
                    let _ = reply.send(json!({ "running": running }));
                }
            }
            Ok(())
        };
        handling.run(&faults, &myself, handled).await
    }

    /// Runs that are on are told to end, and get a moment for it.
    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut JobsState) -> Result<(), ActorProcessingErr> {
        for entry in state.context.jobs.entries().values() {
            if let Some(running) = &entry.running {
                running.stop.cancel();
            }
        }
        let tasks = std::mem::take(&mut state.tasks);
        let _ = tokio::time::timeout(STOP_LIMIT, futures_util::future::join_all(tasks.into_values())).await;
        Ok(())
    }
}

impl JobsState {
    fn on_tick(&mut self) {
        let now = Instant::now();
        let (mut due, mut over) = (Vec::new(), Vec::new());
        for (job, entry) in self.context.jobs.entries().iter_mut() {
            match &mut entry.running {
                Some(running) => {
                    // What was told to end, or whose task died with an earlier incarnation, is over when its lock is gone.
                    if running.lock.strong_count() == 0 && (running.hung || !self.tasks.contains_key(job)) {
                        entry.running = None;
                        metric::job_running(*job, false);
                        continue;
                    }
                    let budget = Duration::from_millis(entry.terms.budget_ms);
                    if running.begun.elapsed() > budget && !running.over_told {
                        running.over_told = true;
                        over.push(*job);
                    }
                }
                None if entry.terms.every_ms > 0 && entry.due <= now => due.push(*job),
                None => {}
            }
        }
        for job in over {
            self.tell_over_budget(job);
        }
        due.into_iter().for_each(|job| self.start(job));
    }

    fn tell_over_budget(&self, job: JobName) {
        let locks = self.context.jobs.running();
        let Some(lock) = locks.into_iter().find(|lock| lock.job == job) else { return };
        tracing::warn!(
            job = job.as_str(),
            elapsed_ms = lock.elapsed_ms,
            budget_ms = lock.budget_ms,
            "a job is over its budget"
        );
        let about = job.as_str().to_owned();
        let at = self.context.clock.now();
        self.write(Write::Noted { kind: EventKind::JobUpdated, about, data: json!({ "running": lock }), at });
    }

    fn write(&self, write: Write) {
        let written = self.context.ledger.enqueue(vec![write], &Chain::default());
        tokio::spawn(async move {
            if let Err(problem) = written.await {
                tracing::warn!(%problem, "what became of a job could not be written");
            }
        });
    }

    fn start(&mut self, job: JobName) {
        let (context, stop) = (self.context.clone(), CancellationToken::new());
        let (started_at, begun) = (context.clock.now(), Instant::now());
        let terms = {
            let mut entries = context.jobs.entries();
            let Some(entry) = entries.get_mut(&job) else { return };
            entry.record.started_at = Some(started_at);
            entry.due = begun + Duration::from_millis(entry.terms.every_ms);
            entry.running = Some(Running {
                started_at,
                begun,
                hung: false,
                over_told: false,
                lock: Weak::new(),
                stop: stop.clone(),
            });
            entry.terms
        };
        metric::job_running(job, true);
        let run = AbortOnDropHandle::new(tokio::spawn(async move {
            let inner = tokio::spawn(doing(
                Doing::Job { job: job.as_str() },
                locked(context.clone(), job, terms, started_at, stop),
            ));
            let (result, detail) = match inner.await {
                Ok(ended) => ended,
                Err(error) => (JobResult::Failed, format!("it died: it {}", last_words(&error))),
            };
            metric::job_ended(job, result, begun.elapsed());
            let _ = context.jobs_address.tell(JobsMsg::Ended { job, result, detail });
        }));
        self.tasks.insert(job, run);
    }

    fn on_ended(&mut self, job: JobName, result: JobResult, detail: String) {
        let now = self.context.clock.now();
        let (record, told, written) = {
            let mut entries = self.context.jobs.entries();
            let Some(entry) = entries.get_mut(&job) else { return };
            let told = entry.record.ended(result, detail, now);
            match &mut entry.running {
                // It was told to end: out of sight only when the last of it is gone.
                Some(running) if running.lock.strong_count() > 0 => running.hung = true,
                _ => {
                    entry.running = None;
                    metric::job_running(job, false);
                }
            }
            (entry.record.clone(), told, told || entry.terms.every_ms >= WRITTEN_FROM_MS)
        };
        self.tasks.remove(&job);
        match result {
            JobResult::Hung => {
                tracing::error!(job = job.as_str(), detail = record.detail, "a job did not end and was ended")
            }
            JobResult::Failed => tracing::warn!(job = job.as_str(), detail = record.detail, "a job failed"),
            JobResult::Ok | JobResult::Held => {}
        }
        if written {
            self.write(Write::JobEnded { record, told, at: now });
        }
    }
}

/// One run: under its lock, within its limit.
async fn locked(
    context: Arc<Context>,
    job: JobName,
    terms: JobTerms,
    started_at: Timestamp,
    stop: CancellationToken,
) -> (JobResult, String) {
    let note = LockNote { job, owner: context.jobs.owner.clone(), started_at, budget_ms: terms.budget_ms };
    let dir = run_lock::dir(&context.settings.data_dir);
    let acquired = tokio::task::spawn_blocking(move || RunLock::acquire(&dir, &note)).await;
    let lock = match acquired.map_err(std::io::Error::other).and_then(|acquired| acquired) {
        Ok(Some(lock)) => Arc::new(lock),
        Ok(None) => return (JobResult::Held, "another process runs it".to_owned()),
        Err(error) => return (JobResult::Failed, format!("its run-lock cannot be taken: {error}")),
    };
    if let Some(running) = context.jobs.entries().get_mut(&job).and_then(|entry| entry.running.as_mut()) {
        running.lock = Arc::downgrade(&lock);
    }
    let limit = Duration::from_millis(terms.budget_ms) * LIMIT_BUDGETS;
    let duty = async {
        match context.faults.in_handler("job", job.as_str(), "run") {
            Injected::Nothing => duties::run(&context, job, &lock, &stop).await,
            Injected::Panic | Injected::Kill => panic!("made to panic"),
            Injected::Error => Err("made to fail".to_owned()),
            Injected::Hang => std::future::pending().await,
        }
    };
    let mut duty = std::pin::pin!(duty);
    let done = tokio::select! {
        biased;
        done = tokio::time::timeout(limit, &mut duty) => done,
        () = stop.cancelled() => Ok(Err("the daemon stops".to_owned())),
    };
    match done {
        Ok(Ok(Done { detail })) => (JobResult::Ok, detail),
        Ok(Err(detail)) => (JobResult::Failed, detail),
        Err(_) => {
            if let Some(running) = context.jobs.entries().get_mut(&job).and_then(|entry| entry.running.as_mut()) {
                running.hung = true;
            }
            // What it started is ended in order, as long as that does not hang too.
            stop.cancel();
            let _ = tokio::time::timeout(limit.min(END_LIMIT), duty).await;
            (
                JobResult::Hung,
                format!("it did not end within {} ms, {LIMIT_BUDGETS} times its budget", limit.as_millis()),
            )
        }
    }
}
