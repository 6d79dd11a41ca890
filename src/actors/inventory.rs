//! What the worktrees of one repository look like: two tiers of one row each, kept while somebody wants to see them.
//!
//! A **survey** reads the registry, HEADs and refs, and what follows from commits: milliseconds for all worktrees. A
//! **look** goes through the files of one worktree. A sign of change marks one worktree, or asks for a survey of those it
//! concerns; it never looks at the rest. Looks wait for a permit of the whole daemon, have a time limit, and are given up
//! when nobody wants their answer any more. What was last known stays, whatever goes wrong; a row only goes when its
//! worktree does. With nobody listening and nobody asking nothing is watched and nothing is looked at.
//!
//! Supervised by its repository actor; what is shown is outside of it ([`Shown`]). Nothing of sessions comes here.
//! In: `Want`, `Noticed`, `Due`, `Released`, `Written`, `Surveyed`, `Looked`, `Unstuck`, `Refresh`, `Tick`, `Describe`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Map, Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::alarm::Alarm;
use super::context::Context;
use super::look::{self, LookError, LookTask, Told};
use super::mailbox::{Address, Envelope, Reply};
use super::repo::Repo;
use super::survey::{self, Commits, Survey};
use super::watching::Watched;
use crate::git::{Found, MAIN, ScanMemory};
use crate::metrics::actors::ActorKind;
use crate::metrics::inventory::{self as metric, RowLabel};
use crate::model::event::EventKind;
use crate::model::ids::{RepoName, TodoKey};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::time::Timestamp;
use crate::model::worktree::{
    Changes, RowFacts, RowState, Urgency, WatchMode, WorktreeRow, poll_after_ms, retry_after_ms,
};
use crate::store::{Chain, Write};

/// Messages that may wait.
const MAILBOX_LIMIT: usize = 4_096;
/// How often polled rows, retries and whether anybody still wants them are looked after.
const TICK: Duration = Duration::from_secs(1);
/// How long after the last question rows are kept up to date.
const WANTED_FOR: Duration = Duration::from_secs(600);
/// Looks of one repository that wait for a permit or are on.
const LOOKS_MAX: usize = 8;
/// Signs of change are gathered for so long before they are followed: git changes several files at a time.
const GATHER: Duration = Duration::from_millis(15);
/// A survey, or a look at the same worktree, comes at the earliest after so many times what the last one took.
const REST_FACTOR: u32 = 4;
/// A worktree that changes all the time is looked at no more often than this.
const LOOK_GAP: Duration = Duration::from_millis(150);
/// A look that found new directories to watch is made once more, after this.
const CONFIRM_AFTER: Duration = Duration::from_millis(1_000);

/// What is shown of the worktrees of a repository; whole, and replaced as a whole.
#[derive(Default)]
pub struct Shown {
    /// The rows, the main worktree first; without claims, sessions and age.
    pub rows: Vec<Arc<WorktreeRow>>,
    /// Whether the registry was read at all.
    pub surveyed: bool,
    /// Why it cannot be read now.
    pub error: Option<String>,
}

/// The rows of one repository, for everybody to read.
#[derive(Default)]
pub struct Rows {
    shown: ArcSwap<Shown>,
    version: AtomicU64,
}

impl Rows {
    /// The rows as they are now.
    #[must_use]
    pub fn get(&self) -> Arc<Shown> {
        self.shown.load_full()
    }

    /// Changes with every change of the rows.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn put(&self, shown: Shown) {
        let before = self.shown.swap(Arc::new(shown));
        let now = self.shown.load();
        let same = |before: &Arc<WorktreeRow>, now: &Arc<WorktreeRow>| {
            // That nothing had changed when it was looked at again is no change.
            Arc::ptr_eq(before, now) || WorktreeRow { looked_at: now.looked_at, ..(**before).clone() } == **now
        };
        let same_rows = before.rows.len() == now.rows.len()
            && before.rows.iter().zip(&now.rows).all(|(before, now)| same(before, now));
        if !same_rows || before.error != now.error {
            self.version.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// What the inventory hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum InventoryMsg {
    /// Somebody wants to see the rows; answered when the registry was read.
    Want {
        /// Whether every row has to be looked at before the answer.
        looked: bool,
        /// Answer.
        reply: Reply<()>,
    },
    /// There are signs of change.
    Noticed,
    /// What was put off is due.
    Due,
    /// Nothing of the repository is watched any more.
    Released,
    /// What became of rows is on disk, or could not be written.
    Written,
    /// A survey is over.
    Surveyed {
        /// What it read.
        result: Result<Survey, Problem>,
        /// How long it took.
        took: Duration,
    },
    /// A look is over.
    Looked {
        /// At which worktree.
        name: String,
        /// What it told.
        result: Result<Told, LookError>,
        /// What of it is of use for the next one.
        memory: Box<ScanMemory>,
        /// How long it took, waiting for a permit left out.
        took: Duration,
    },
    /// A look that was given up because the disk did not answer has come back.
    Unstuck {
        /// At which worktree.
        name: String,
    },
    /// Somebody wants one worktree looked at now.
    Refresh {
        /// Which.
        name: String,
        /// Answer, when it was.
        reply: Reply<Result<(), Problem>>,
    },
    /// Time has passed.
    Tick,
    /// When nobody has wanted the repository for long, it leaves the memory; says whether it did.
    ForgetIfUnused {
        /// Answer.
        reply: Reply<bool>,
    },
    /// What it is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// What an inventory is built from.
#[derive(Clone)]
pub struct InventoryArgs {
    /// What all actors share.
    pub context: Arc<Context>,
    /// The repository.
    pub repo: Arc<Repo>,
}

/// One worktree.
struct Row {
    found: Found,
    /// The todo it was made for.
    todo: Option<TodoKey>,
    commits: Commits,
    /// What was last found in its files, and when.
    changes: Option<(Changes, Timestamp)>,
    /// Whether the base has what was committed, for which commits that was found out.
    merged: Option<survey::Merged>,
    /// Nothing has changed since the last look, as far as is known.
    fresh: bool,
    error: Option<String>,
    failures: u32,
    watch: WatchMode,
    memory: Box<ScanMemory>,
    /// A look that is on: raised to give it up.
    looking: Option<Arc<AtomicBool>>,
    /// A sign of change came while it was looked at.
    changed_meanwhile: bool,
    /// It is to be looked at once more, to make sure.
    confirm: bool,
    /// The disk does not answer: no further look until it does.
    stuck: bool,
    looked: Option<Instant>,
    cost: Duration,
    not_before: Option<Instant>,
    asked: Vec<Reply<Result<(), Problem>>>,
    /// What everybody was told of it.
    told: Option<Map<String, Value>>,
}

/// The actor's state.
pub struct InventoryState {
    args: InventoryArgs,
    rows: BTreeMap<String, Row>,
    wanted_until: Option<Instant>,
    wanted: bool,
    last_wanted: Instant,
    surveying: bool,
    /// What the next survey is of; of everything when `Some(None)`.
    survey_next: Option<Option<BTreeSet<String>>>,
    /// When the next survey starts.
    survey_due: Option<Instant>,
    survey_rests_until: Option<Instant>,
    error: Option<String>,
    surveyed: bool,
    surveyed_since_wanted: bool,
    releasing: bool,
    waiting_survey: Vec<Reply<()>>,
    waiting_looks: Vec<Reply<()>>,
    base_ref: String,
    due: Alarm,
    /// Worktrees that are due for a look, the first at the end; made anew when `requeue` says so.
    queue: Vec<(Urgency, String)>,
    requeue: bool,
    /// What is to be noted when the write that is on is over.
    outbox: Vec<Write>,
    writing: bool,
    /// What is shown of each row.
    shown: BTreeMap<String, Arc<WorktreeRow>>,
    labels: [usize; RowLabel::ALL.len()],
    /// Surveys and looks so far.
    surveys: u64,
    looks: u64,
    _ticks: AbortOnDropHandle<()>,
}

/// The actor.
pub struct InventoryActor;

impl InventoryActor {
    /// Where it is reached.
    #[must_use]
    pub fn address(repo: &RepoName) -> Address<InventoryMsg> {
        Address::new(ActorKind::Inventory, repo.as_str(), MAILBOX_LIMIT)
    }

    /// Starts it under a supervisor.
    pub async fn start(args: InventoryArgs, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) = Actor::spawn_linked(None, Self, args, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for InventoryActor {
    type Msg = Envelope<InventoryMsg>;
    type State = InventoryState;
    type Arguments = InventoryArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: InventoryArgs,
    ) -> Result<InventoryState, ActorProcessingErr> {
        let address = args.entry().inventory.clone();
        address.point_at(Some(myself));
        let ticks = address.every(TICK, || InventoryMsg::Tick);
        // What an earlier incarnation was told and did not follow is lost: so everything is looked at anew.
        drop(args.entry().signals.take());
        Ok(InventoryState {
            args,
            rows: BTreeMap::new(),
            wanted_until: None,
            wanted: false,
            last_wanted: Instant::now(),
            surveying: false,
            survey_next: None,
            survey_due: None,
            survey_rests_until: None,
            error: None,
            surveyed: false,
            surveyed_since_wanted: false,
            releasing: false,
            waiting_survey: Vec::new(),
            waiting_looks: Vec::new(),
            base_ref: String::new(),
            due: Alarm::default(),
            queue: Vec::new(),
            requeue: false,
            outbox: Vec::new(),
            writing: false,
            shown: BTreeMap::new(),
            labels: [0; RowLabel::ALL.len()],
            surveys: 0,
            looks: 0,
            _ticks: ticks,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut InventoryState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.args.context.faults.clone();
        let handled = async {
            state.args.context.faults.hit("inventory.handle");
            match message {
                InventoryMsg::Want { looked, reply } => state.on_want(looked, reply),
                InventoryMsg::Noticed => state.on_noticed(),
                InventoryMsg::Due => state.due.clear(),
                InventoryMsg::Released => state.releasing = false,
                InventoryMsg::Written => {
                    state.writing = false;
                    state.write(Vec::new());
                    return Ok(());
                }
                InventoryMsg::Surveyed { result, took } => state.on_surveyed(result, took),
                InventoryMsg::Looked { name, result, memory, took } => {
                    // Of the others nothing has changed, so their order has not.
                    state.on_looked(&name, result, memory, took);
                    state.go_on();
                    return Ok(());
                }
                InventoryMsg::Unstuck { name } => {
                    if let Some(row) = state.rows.get_mut(&name) {
                        row.stuck = false;
                    }
                }
                InventoryMsg::Refresh { name, reply } => state.on_refresh(&name, reply),
                InventoryMsg::ForgetIfUnused { reply } => {
                    let _ = reply.send(state.forget_if_unused());
                }
                InventoryMsg::Tick => state.on_tick(),
                InventoryMsg::Describe { reply } => {
                    let _ = reply.send(state.describe());
                    return Ok(());
                }
            }
            state.requeue = true;
            state.go_on();
            Ok(())
        };
        handling.run(&faults, &myself, handled).await
    }
}

impl Drop for InventoryState {
    fn drop(&mut self) {
        for (label, count) in RowLabel::ALL.iter().zip(self.labels) {
            #[expect(clippy::cast_precision_loss, reason = "a count of worktrees")]
            metric::worktrees_changed(*label, -(count as f64));
        }
        self.rows.values().filter_map(|row| row.looking.as_ref()).for_each(|stop| stop.store(true, Ordering::Release));
    }
}

impl InventoryArgs {
    fn entry(&self) -> &super::context::RepoEntry {
        &self.context.repos[self.repo.name()]
    }

    fn tell(&self, message: InventoryMsg) {
        let _ = self.entry().inventory.tell(message);
    }
}

impl InventoryState {
    fn repo(&self) -> &RepoName {
        self.args.repo.name()
    }

    // What is asked.

    fn on_want(&mut self, looked: bool, reply: Reply<()>) {
        let now = Instant::now();
        self.wanted_until = Some(now + WANTED_FOR);
        self.become_wanted();
        match (self.surveyed && !self.surveying_all(), looked) {
            (_, true) => self.waiting_looks.push(reply),
            (true, false) => drop(reply.send(())),
            (false, false) => self.waiting_survey.push(reply),
        }
    }

    fn surveying_all(&self) -> bool {
        self.error.is_some() && (self.surveying || self.survey_next.is_some())
    }

    fn on_refresh(&mut self, name: &str, reply: Reply<Result<(), Problem>>) {
        self.wanted_until = Some(Instant::now() + WANTED_FOR);
        self.become_wanted();
        match self.rows.get_mut(name) {
            Some(row) if row.stuck => {
                let detail = format!("worktree {name}: its disk does not answer; a look at it has not come back yet");
                let _ = reply.send(Err(Problem::new(ProblemCode::WorktreeUnreadable, detail)));
            }
            Some(row) if !row.can_be_looked_at() => drop(reply.send(Ok(()))),
            Some(row) => {
                row.asked.push(reply);
                row.not_before = None;
                row.fresh = false;
                row.changed_meanwhile = row.looking.is_some();
                self.survey_of(name);
            }
            None => drop(reply.send(Err(unknown(self.args.repo.name(), name)))),
        }
    }

    /// Somebody wants to see the rows: from here on changes are followed.
    fn become_wanted(&mut self) {
        self.last_wanted = Instant::now();
        if !std::mem::replace(&mut self.wanted, true) || self.error.is_some() && !self.surveying {
            self.survey_next = Some(None);
        }
    }

    /// Nobody does any more: watches go, looks that are on are given up, what is known stays as it was.
    fn become_unwanted(&mut self) {
        self.wanted = false;
        self.surveyed_since_wanted = false;
        self.survey_next = None;
        for row in self.rows.values_mut() {
            row.fresh = false;
            row.watch = WatchMode::Idle;
            *row.memory = ScanMemory::default();
            if let Some(stop) = &row.looking {
                stop.store(true, Ordering::Release);
            }
        }
        // Nothing is watched anew until this is over.
        self.releasing = true;
        let args = self.args.clone();
        tokio::spawn(async move {
            let (context, repo) = (args.context.clone(), args.repo.name().clone());
            let _ = tokio::task::spawn_blocking(move || context.watching.release_repo(&repo)).await;
            args.tell(InventoryMsg::Released);
        });
        self.publish();
    }

    // What is noticed.

    fn on_noticed(&mut self) {
        let signals = self.args.entry().signals.take();
        if !self.wanted {
            return;
        }
        let Some(signals) = signals else {
            self.survey_next = Some(None);
            self.rows.values_mut().for_each(Row::touch);
            return;
        };
        for (what, path) in signals {
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or("").to_owned();
            match what {
                Watched::Tree(_, name) => self.touch(&name),
                Watched::Admin(_, name) => {
                    self.survey_of(&name);
                    self.touch(&name);
                }
                Watched::Common(_) if matches!(file.as_str(), "packed-refs" | "config" | "worktrees") => {
                    self.survey_next = Some(None);
                }
                Watched::Common(_) => {
                    self.survey_of(MAIN);
                    self.touch(MAIN);
                }
                Watched::Refs(_) => self.on_ref(&path),
                Watched::Registry(_) | Watched::Logs => self.survey_next = Some(None),
            }
        }
    }

    /// A ref moved: it concerns those on that branch, or everybody when it is the base or nobody's.
    fn on_ref(&mut self, path: &Path) {
        let text = path.to_string_lossy();
        let name = text.rsplit_once("/refs/").map(|(_, name)| format!("refs/{name}")).unwrap_or_default();
        let branch = name.strip_prefix("refs/heads/");
        let on_it: Vec<String> = self
            .rows
            .iter()
            .filter(|(_, row)| row.found.branch.is_some() && row.found.branch.as_deref() == branch)
            .map(|(name, _)| name.clone())
            .collect();
        // A branch may be upstream of others; that is rare enough to look at everybody's commits.
        if name == self.base_ref || on_it.is_empty() {
            self.survey_next = Some(None);
            return;
        }
        on_it.iter().for_each(|name| {
            self.survey_of(name);
            self.touch(name);
        });
    }

    fn survey_of(&mut self, name: &str) {
        match &mut self.survey_next {
            Some(None) => {}
            Some(Some(names)) => drop(names.insert(name.to_owned())),
            none => *none = Some(Some(BTreeSet::from([name.to_owned()]))),
        }
    }

    fn touch(&mut self, name: &str) {
        if let Some(row) = self.rows.get_mut(name) {
            row.touch();
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let listened_to = self.args.context.hub.is_wanted(EventKind::WorktreeUpdated);
        let asked_for = self.wanted_until.is_some_and(|until| now < until);
        match (self.wanted, listened_to || asked_for) {
            (false, true) => self.become_wanted(),
            (true, false) => self.become_unwanted(),
            (true, true) => self.last_wanted = now,
            (false, false) => {}
        }
        if self.error.is_some() && self.wanted && !self.surveying {
            self.survey_next = Some(None);
        }
        let round_ms: u128 =
            self.rows.values().filter(|row| row.watch == WatchMode::Polled).map(|row| row.cost.as_millis()).sum();
        let poll_after = Duration::from_millis(poll_after_ms(u64::try_from(round_ms).unwrap_or(u64::MAX)));
        for row in self.rows.values_mut().filter(|row| row.watch == WatchMode::Polled && row.looking.is_none()) {
            if row.fresh && row.looked.is_some_and(|looked| now >= looked + poll_after) {
                // What is shown stays fresh: this only makes sure of it.
                row.confirm();
            }
        }
    }

    /// A repository nobody has used for long leaves the memory; it comes back with the next question.
    fn forget_if_unused(&mut self) -> bool {
        let (now, keep) = (Instant::now(), self.args.context.settings.forget_after);
        let unused = now >= self.last_wanted + keep && self.args.repo.unused_for() >= keep;
        if self.wanted || !unused || !self.surveyed {
            return false;
        }
        tracing::info!(repo = self.repo().as_str(), "a repository that was not used for long leaves the memory");
        self.rows.clear();
        self.surveyed = false;
        self.args.repo.forget();
        self.publish();
        true
    }

    // Surveys.

    /// Starts what is due, and sees to it that what is not yet due will be.
    fn go_on(&mut self) {
        self.start_survey();
        self.start_looks();
        self.answer_waiting();
    }

    fn start_survey(&mut self) {
        let now = Instant::now();
        if self.surveying || self.releasing || self.survey_next.is_none() {
            return;
        }
        // Gathering begins with the first sign and is not drawn out by further ones.
        let gathered = if self.surveyed { now + GATHER } else { now };
        let due = *self.survey_due.get_or_insert(self.survey_rests_until.map_or(gathered, |rests| rests.max(gathered)));
        if due > now {
            self.wake_at(due);
            return;
        }
        self.survey_due = None;
        let Some(names) = self.survey_next.take() else { return };
        self.surveying = true;
        self.surveys += 1;
        // The first one answers whoever waits; what it read is watched from the second on.
        let watch = self.wanted && self.surveyed_since_wanted;
        let known: Vec<String> = self.rows.keys().cloned().collect();
        let args = self.args.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let of = args.clone();
            let surveyed =
                tokio::task::spawn_blocking(move || survey::survey(&of.context, &of.repo, names, &known, watch));
            let result = surveyed.await.unwrap_or_else(|error| {
                Err(Problem::new(ProblemCode::Internal, format!("reading the worktrees failed: {error}")))
            });
            metric::surveyed();
            args.tell(InventoryMsg::Surveyed { result, took: begun.elapsed() });
        });
    }

    fn on_surveyed(&mut self, result: Result<Survey, Problem>, took: Duration) {
        self.surveying = false;
        self.survey_rests_until = Some(Instant::now() + took * REST_FACTOR);
        match result {
            Ok(survey) => {
                self.error = None;
                self.surveyed = true;
                let first = !std::mem::replace(&mut self.surveyed_since_wanted, true);
                if self.wanted && (first || survey.watched_anew) {
                    // What was not watched when it was read may have changed since.
                    self.survey_next = Some(None);
                }
                self.base_ref.clone_from(&survey.base_ref);
                self.merge(survey);
            }
            Err(problem) => {
                self.error = Some(problem.detail);
                self.survey_rests_until = Some(Instant::now() + Duration::from_millis(retry_after_ms(1)));
            }
        }
        self.publish();
        // Whoever waits is told even of a failure: the rows say so.
        self.waiting_survey.drain(..).for_each(|reply| {
            let _ = reply.send(());
        });
    }

    fn merge(&mut self, survey: Survey) {
        let mut gone: BTreeSet<String> = match &survey.of {
            None => self.rows.keys().cloned().collect(),
            Some(names) => names.iter().filter(|name| self.rows.contains_key(*name)).cloned().collect(),
        };
        for (found, commits) in survey.rows {
            gone.remove(&found.name);
            match self.rows.get_mut(&found.name) {
                Some(row) => row.take_in(found, commits),
                None => {
                    let todo = self.args.repo.todo_at(&found.path);
                    self.rows.insert(found.name.clone(), Row::new(found, todo, commits));
                }
            }
        }
        let repo = self.repo().clone();
        let mut writes = Vec::new();
        for name in gone {
            let Some(row) = self.rows.remove(&name) else { continue };
            if let Some(stop) = row.looking {
                stop.store(true, Ordering::Release);
            }
            row.asked.into_iter().for_each(|reply| drop(reply.send(Err(unknown(&repo, &name)))));
            if row.told.is_some() {
                let at = self.args.context.clock.now();
                writes.push(Write::WorktreeSeen { repo: self.repo().clone(), name, delta: None, at });
            }
        }
        self.write(writes);
    }

    // Looks.

    fn start_looks(&mut self) {
        if self.releasing || !self.wanted && self.rows.values().all(|row| row.asked.is_empty()) {
            return;
        }
        let mut on = self.rows.values().filter(|row| row.looking.is_some()).count();
        if std::mem::take(&mut self.requeue) {
            self.line_up();
        }
        while let Some((urgency, name)) = self.queue.last().cloned() {
            // Somebody who waits for exactly this one does not wait for the others.
            if on >= LOOKS_MAX && urgency > Urgency::Asked {
                return;
            }
            self.queue.pop();
            if self.rows.get(&name).is_some_and(|row| matches!(row.due(Instant::now()), Due::Now)) {
                self.start_look(&name, urgency);
                on += 1;
            }
        }
    }

    /// Puts what is due in order, the first at the end, and sees to it that what will be due is not forgotten.
    fn line_up(&mut self) {
        let now = Instant::now();
        let mut due: Vec<(Urgency, bool, Option<Instant>, &String)> = Vec::new();
        let mut next: Option<Instant> = None;
        for (name, row) in &self.rows {
            match row.due(now) {
                // What is known to be old goes before what is only made sure of.
                Due::Now => due.push((self.urgency(row), row.fresh, row.looked, name)),
                Due::At(at) => next = Some(next.map_or(at, |next| next.min(at))),
                Due::No => {}
            }
        }
        due.sort_unstable_by(|a, b| b.cmp(a));
        self.queue = due.into_iter().map(|(urgency, _, _, name)| (urgency, name.clone())).collect();
        if let Some(at) = next {
            self.wake_at(at);
        }
    }

    fn urgency(&self, row: &Row) -> Urgency {
        let claimed = || row.todo.as_ref().is_some_and(|todo| self.args.context.board.of(todo).claim.is_some());
        match () {
            () if !row.asked.is_empty() => Urgency::Asked,
            () if claimed() => Urgency::Active,
            () => Urgency::Background,
        }
    }

    fn start_look(&mut self, name: &str, urgency: Urgency) {
        let Some(row) = self.rows.get_mut(name) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        row.looking = Some(stop.clone());
        row.confirm = false;
        self.looks += 1;
        row.changed_meanwhile = false;
        let task = LookTask {
            context: self.args.context.clone(),
            repo: self.args.repo.clone(),
            found: row.found.clone(),
            base: row.commits.base_oid.clone(),
            merged: row.merged.clone(),
            memory: std::mem::take(&mut row.memory),
            watch: self.wanted,
            urgency,
            stop,
        };
        let (args, name) = (self.args.clone(), name.to_owned());
        tokio::spawn(async move {
            let back = args.clone();
            let unstuck = {
                let name = name.clone();
                move || back.tell(InventoryMsg::Unstuck { name })
            };
            let (result, memory, took) = look::look(task, unstuck).await;
            args.tell(InventoryMsg::Looked { name, result, memory, took });
        });
    }

    fn on_looked(&mut self, name: &str, result: Result<Told, LookError>, memory: Box<ScanMemory>, took: Duration) {
        let at = self.args.context.clock.now();
        let wanted = self.wanted;
        let Some(row) = self.rows.get_mut(name) else { return };
        let now = Instant::now();
        row.looking = None;
        row.memory = memory;
        row.looked = Some(now);
        row.cost = took;
        row.not_before = Some(now + LOOK_GAP.max(took * REST_FACTOR));
        let answer = match result {
            Ok(told) => {
                row.failures = 0;
                row.error = None;
                row.changes = Some((told.changes, at));
                row.merged = told.merged;
                row.watch = if wanted { told.watch } else { WatchMode::Idle };
                row.fresh = wanted && !row.changed_meanwhile;
                if told.watched_anew && row.fresh {
                    row.confirm();
                    row.not_before = Some(now + CONFIRM_AFTER.max(took * REST_FACTOR));
                }
                Ok(())
            }
            Err(LookError::GivenUp) => {
                row.fresh = false;
                // It went, or nobody wants it: the next survey or question says which.
                let detail = format!("the look at {name} was given up; ask again");
                Err(Problem::new(ProblemCode::Cancelled, detail).retry_after(1_000))
            }
            Err(LookError::Failed { what, stuck }) => {
                row.failures = row.failures.saturating_add(1);
                row.stuck = stuck;
                row.fresh = false;
                row.not_before = Some(now + Duration::from_millis(retry_after_ms(row.failures)));
                let problem = Problem::new(ProblemCode::WorktreeUnreadable, format!("worktree {name}: {what}"));
                row.error = Some(what);
                // Perhaps it is not there any more.
                self.survey_of(name);
                Err(problem)
            }
        };
        if let Some(at) = self.rows.get(name).filter(|row| row.confirm || !row.fresh).and_then(|row| row.not_before) {
            self.wake_at(at);
        }
        self.publish_rows(&[name.to_owned()]);
        // Whoever asked finds what was found.
        let asked = self.rows.get_mut(name).map(|row| std::mem::take(&mut row.asked)).unwrap_or_default();
        asked.into_iter().for_each(|reply| drop(reply.send(answer.clone())));
    }

    fn answer_waiting(&mut self) {
        if self.waiting_looks.is_empty()
            || self.surveying && !self.surveyed
            || self.survey_next.is_some() && !self.surveyed
        {
            return;
        }
        let done = |row: &Row| !row.can_be_looked_at() || row.fresh || row.failures > 0 || row.found.error.is_some();
        if self.error.is_some() || self.surveyed && self.rows.values().all(done) {
            self.waiting_looks.drain(..).for_each(|reply| {
                let _ = reply.send(());
            });
        }
    }

    fn wake_at(&mut self, at: Instant) {
        let args = self.args.clone();
        self.due.set(at, move || args.tell(InventoryMsg::Due));
    }

    // What is shown.

    fn shown_row(&self, name: &str, row: &Row) -> WorktreeRow {
        let Row { found, commits, .. } = row;
        let error = row.error.clone().or_else(|| found.error.clone()).or_else(|| self.error.clone());
        let facts = RowFacts {
            missing: found.missing,
            error: error.as_deref(),
            fresh: row.fresh || found.bare,
            locked: found.locked.is_some(),
            detached: found.detached,
        };
        let merged = row.merged.as_ref().filter(|merged| merged.is_of(found.head.as_ref(), commits.base_oid.as_ref()));
        WorktreeRow {
            repo: self.repo().clone(),
            name: name.to_owned(),
            slug: row.todo.as_ref().map(|todo| todo.slug.clone()),
            path: found.path.display().to_string(),
            main: found.main,
            bare: found.bare,
            branch: found.branch.clone(),
            detached: found.detached,
            locked: found.locked.clone(),
            prunable: found.prunable.clone(),
            head: commits.head.clone(),
            base: commits.base,
            upstream: commits.upstream.clone(),
            changes: row.changes.map(|(changes, _)| changes).filter(|_| !found.bare && !found.missing),
            merged: merged.map(|merged| merged.by.is_some()),
            merged_by: merged.and_then(|merged| merged.by),
            operation_in_progress: found.in_progress.map(str::to_owned),
            state: RowState::of(&facts),
            looked_at: row.changes.map(|(_, at)| at),
            age_ms: None,
            error,
            watch: row.watch,
            claim: None,
            sessions: Vec::new(),
        }
    }

    /// Shows what is known now of every row, and tells what of it changed.
    fn publish(&mut self) {
        let names: Vec<String> = self.rows.keys().cloned().collect();
        self.shown.retain(|name, _| self.rows.contains_key(name));
        self.publish_rows(&names);
    }

    /// The same of some rows.
    fn publish_rows(&mut self, names: &[String]) {
        let at = self.args.context.clock.now();
        let mut writes = Vec::new();
        for name in names {
            let Some(row) = self.rows.get(name) else { continue };
            let now = self.shown_row(name, row);
            let before = self.shown.get(name);
            if before.is_some_and(|before| **before == now) {
                continue;
            }
            let told = row.told.clone().unwrap_or_default();
            let facts = facts_of(&now);
            let news = facts.iter().filter(|(key, value)| told.get(*key) != Some(value));
            let delta: Map<String, Value> = news.map(|(key, value)| (key.clone(), value.clone())).collect();
            // That a row is looked at again is nothing to tell; what is found is.
            let is_news = delta.keys().any(|key| key != "state") || now.state != RowState::Stale && !delta.is_empty();
            self.shown.insert(name.clone(), Arc::new(now));
            if !is_news {
                continue;
            }
            if let Some(row) = self.rows.get_mut(name) {
                row.told = Some(facts);
            }
            let (repo, name, delta) = (self.repo().clone(), name.clone(), Some(Value::Object(delta)));
            writes.push(Write::WorktreeSeen { repo, name, delta, at });
        }
        let mut rows: Vec<Arc<WorktreeRow>> = self.shown.values().cloned().collect();
        // Names are in order; the main one goes first.
        rows.sort_by_key(|row| !row.main);
        self.count(&rows);
        if rows.is_empty() && self.error.is_some() {
            rows.push(Arc::new(self.unusable()));
        }
        self.args.entry().rows.put(Shown { rows, surveyed: self.surveyed, error: self.error.clone() });
        self.write(writes);
    }

    fn count(&mut self, rows: &[Arc<WorktreeRow>]) {
        let mut labels = [0; RowLabel::ALL.len()];
        for row in rows {
            let label = match row.state {
                RowState::Missing => RowLabel::Missing,
                RowState::Error => RowLabel::Error,
                RowState::Stale => RowLabel::Stale,
                RowState::Locked | RowState::Detached | RowState::Fresh => RowLabel::Fresh,
            };
            labels[label as usize] += 1;
        }
        for (label, (now, before)) in RowLabel::ALL.iter().zip(labels.iter().zip(self.labels)) {
            #[expect(clippy::cast_precision_loss, reason = "a count of worktrees")]
            metric::worktrees_changed(*label, *now as f64 - before as f64);
        }
        self.labels = labels;
    }

    /// The one row of a repository that cannot be read at all.
    fn unusable(&self) -> WorktreeRow {
        let nothing = Found {
            name: MAIN.to_owned(),
            path: self.args.repo.registered.path.clone(),
            git_dir: PathBuf::new(),
            main: true,
            bare: false,
            branch: None,
            detached: false,
            head: None,
            locked: None,
            prunable: None,
            missing: false,
            initializing: false,
            in_progress: None,
            error: self.error.clone(),
        };
        self.shown_row(MAIN, &Row::new(nothing, None, Commits::default()))
    }

    /// Has what became of rows noted and told. While one write is on its way the next ones gather, so that many rows
    /// that come at once cost one sync to disk.
    fn write(&mut self, writes: Vec<Write>) {
        self.outbox.extend(writes);
        if self.writing || self.outbox.is_empty() {
            return;
        }
        self.writing = true;
        let written = self.args.context.ledger.enqueue(std::mem::take(&mut self.outbox), &Chain::default());
        let args = self.args.clone();
        tokio::spawn(async move {
            if let Err(problem) = written.await {
                tracing::warn!(%problem, "what became of worktrees could not be noted");
            }
            args.tell(InventoryMsg::Written);
        });
    }

    fn describe(&self) -> Value {
        let looking: Vec<&String> =
            self.rows.iter().filter(|(_, row)| row.looking.is_some()).map(|(name, _)| name).collect();
        let (free, waiting) = self.args.context.permits.state();
        json!({
            "wanted": self.wanted,
            "worktrees": self.rows.len(),
            "fresh": self.rows.values().filter(|row| row.fresh).count(),
            "looking_at": looking,
            "stuck": self.rows.iter().filter(|(_, row)| row.stuck).map(|(name, _)| name).collect::<Vec<_>>(),
            "surveying": self.surveying,
            "surveys": self.surveys,
            "looks": self.looks,
            "error": self.error,
            "permits": { "free": free, "waiting": waiting },
            "watches": self.args.context.watching.count(),
        })
    }
}

/// What of a row is told when it changes: all but what time or others' affairs change.
fn facts_of(row: &WorktreeRow) -> Map<String, Value> {
    let Ok(Value::Object(mut facts)) = serde_json::to_value(row) else { return Map::new() };
    for key in ["repo", "name", "looked_at", "age_ms", "claim", "sessions", "watch"] {
        facts.remove(key);
    }
    facts
}

/// There is no such worktree.
pub(super) fn unknown(repo: &RepoName, name: &str) -> Problem {
    let shown: String = name.escape_default().take(200).collect();
    let detail = format!("repository {repo} has no worktree {shown}; GET /worktrees?repo={repo} lists them");
    Problem::new(ProblemCode::UnknownWorktree, detail)
}

/// When a worktree is to be looked at.
enum Due {
    Now,
    At(Instant),
    No,
}

impl Row {
    fn new(found: Found, todo: Option<TodoKey>, commits: Commits) -> Self {
        Self {
            found,
            todo,
            commits,
            changes: None,
            merged: None,
            fresh: false,
            error: None,
            failures: 0,
            watch: WatchMode::Idle,
            memory: Box::default(),
            looking: None,
            changed_meanwhile: false,
            confirm: false,
            stuck: false,
            looked: None,
            cost: Duration::ZERO,
            not_before: None,
            asked: Vec::new(),
            told: None,
        }
    }

    /// There is a sign that it changed.
    fn touch(&mut self) {
        self.fresh = false;
        self.changed_meanwhile = self.looking.is_some();
    }

    /// It is to be looked at once more, although nothing says that it changed: what is shown stays fresh.
    fn confirm(&mut self) {
        self.confirm = true;
    }

    /// Takes in what a survey says; a commit or branch that is another one asks for a look.
    fn take_in(&mut self, found: Found, commits: Commits) {
        let moved = self.found.head != found.head
            || self.found.path != found.path
            || self.found.in_progress != found.in_progress
            || self.found.missing != found.missing
            || self.found.initializing != found.initializing
            || self.commits.base_oid != commits.base_oid
                && self
                    .merged
                    .as_ref()
                    .is_some_and(|merged| !merged.is_of(found.head.as_ref(), commits.base_oid.as_ref()));
        if moved {
            self.touch();
            self.failures = 0;
            if self.found.path != found.path || found.missing {
                self.changes = None;
            }
            self.error = None;
        }
        (self.found, self.commits) = (found, commits);
    }

    /// Whether there are files to look at.
    fn can_be_looked_at(&self) -> bool {
        !(self.found.missing || self.found.bare || self.found.initializing)
    }

    fn due(&self, now: Instant) -> Due {
        let asked = !self.asked.is_empty();
        let nothing_to_look_at = !self.can_be_looked_at() || self.stuck || self.looking.is_some();
        if nothing_to_look_at || self.fresh && !self.confirm && !asked {
            return Due::No;
        }
        match self.not_before.filter(|at| *at > now && !asked) {
            Some(at) => Due::At(at),
            None => Due::Now,
        }
    }
}
