//! Sessions: one per claim, and one per log agents write themselves.
//!
//! What is shown is in [`Sessions`], outside of the actor, for everybody to read: claims come into it with the board's
//! changes, reports once they are in the ledger, logs as they are read. The actor takes reports in, has logs read, and
//! notices what time alone changes. Nothing here looks at git, and nothing of git's comes here.
//!
//! Supervised by the root. Its death loses no report that was answered; logs are read again from their beginning.
//! In: `Report`, `Reported`, `Look`, `Looked`, `Wanted`, `Loaded`, `Tick`, `Describe`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::board::Board;
use super::context::Context;
use super::log_tail::{LogSet, LogTail, LookedAt};
use super::mailbox::{Address, Envelope, Reply};
use super::watching::Watched;
use crate::metrics::actors::ActorKind;
use crate::model::desk::Change;
use crate::model::ids::{RepoName, SessionId, Slug, TodoKey};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::session::{
    self, Activity, ClaimSession, LastEvent, LivenessFacts, LivenessTerms, NewSessionEvent, SessionEvent,
    SessionSource, SessionStatus, SessionStep, SessionView,
};
use crate::model::time::{Moment, Timestamp};
use crate::store::{Chain, Write};

/// Sessions of claims that are kept at hand; older ones are read from the ledger when they are asked for.
const AT_HAND_MAX: usize = 10_000;
/// The pause before what could not be read is read again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often directories of logs are looked through although nothing was told of them.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Messages that may wait.
const MAILBOX_LIMIT: usize = 4_096;

/// A claim's session and what its events add up to.
#[derive(Clone)]
struct OfClaim {
    session: ClaimSession,
    activity: Activity,
}

#[derive(Default)]
struct Inner {
    claims: HashMap<SessionId, OfClaim>,
    /// The ids of `claims`, oldest first.
    order: VecDeque<SessionId>,
    /// Those that are not over.
    open: BTreeSet<SessionId>,
    logs: HashMap<SessionId, Arc<LogTail>>,
    loaded: bool,
}

/// What is known of sessions, for everybody to read.
pub struct Sessions {
    inner: RwLock<Inner>,
    version: AtomicU64,
    terms: LivenessTerms,
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(terms: LivenessTerms) -> Self {
        Self { inner: RwLock::default(), version: AtomicU64::new(0), terms }
    }

    fn write<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let changed = change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner));
        self.version.fetch_add(1, Ordering::AcqRel);
        changed
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with everything that is shown of sessions but the time.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether what the ledger has was read.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.read().loaded
    }

    /// Takes in what is in the ledger now: claims begin and end sessions.
    pub(super) fn follow(&self, changes: &[Change], now: Timestamp) {
        for change in changes {
            let Change::Todo { todo, state, events } = change else { continue };
            for step in events.iter().filter_map(|(kind, data)| SessionStep::of(todo, state, *kind, data)) {
                self.write(|inner| inner.follow(step, now));
            }
        }
    }

    /// Takes in what a dispatcher that died may have written without telling anybody: sessions nobody has heard of, ends
    /// nobody has. Before the ledger was read there is nothing to make up for.
    pub(super) fn catch_up(&self, changes: &[Change], now: Timestamp) {
        if !self.is_loaded() {
            return;
        }
        for change in changes {
            let Change::Todo { todo, state, .. } = change else { continue };
            for step in SessionStep::all_of(todo, state) {
                let missed = match &step {
                    SessionStep::Began(session) => !self.has(&session.id()),
                    SessionStep::Ended { id, .. } => self.read().open.contains(id),
                };
                if missed {
                    self.write(|inner| inner.follow(step, now));
                }
            }
        }
    }

    /// Logs that are written to, by the todo they belong to, newest first.
    #[must_use]
    pub fn logs_by_todo(&self, places: &Places) -> HashMap<TodoKey, Vec<SessionId>> {
        let inner = self.read();
        let mut logs: Vec<&Arc<LogTail>> = inner.logs.values().filter(|log| !log.cold).collect();
        logs.sort_by(|a, b| (b.written_at, &b.id).cmp(&(a.written_at, &a.id)));
        let mut by_todo: HashMap<TodoKey, Vec<SessionId>> = HashMap::new();
        for log in logs {
            if let Some((repo, Some(slug))) = places.of(log.cwd.as_deref()) {
                by_todo.entry(TodoKey { repo, slug }).or_default().push(log.id.clone());
            }
        }
        by_todo
    }

    /// Whether a session of a claim is at hand.
    #[must_use]
    pub fn has(&self, id: &SessionId) -> bool {
        self.read().claims.contains_key(id)
    }

    /// Every session at hand.
    #[must_use]
    pub fn all(&self, board: &Board, places: &Places, now: &Moment) -> Vec<SessionView> {
        let inner = self.read();
        let claims = inner.claims.values().map(|of| self.claim_view(of, board, now));
        claims.chain(inner.logs.values().map(|log| self.log_view(log, places, now))).collect()
    }

    /// One session, when it is at hand.
    #[must_use]
    pub fn one(&self, id: &SessionId, board: &Board, places: &Places, now: &Moment) -> Option<SessionView> {
        let inner = self.read();
        let claim = inner.claims.get(id).map(|of| self.claim_view(of, board, now));
        claim.or_else(|| inner.logs.get(id).map(|log| self.log_view(log, places, now)))
    }

    /// A log, to read events of.
    #[must_use]
    pub fn log(&self, id: &SessionId) -> Option<Arc<LogTail>> {
        self.read().logs.get(id).cloned()
    }

    /// One session that is not at hand, from what the ledger has of it.
    #[must_use]
    pub fn view_of(&self, session: ClaimSession, activity: Activity, board: &Board, now: &Moment) -> SessionView {
        self.claim_view(&OfClaim { session, activity }, board, now)
    }

    fn claim_view(&self, of: &OfClaim, board: &Board, now: &Moment) -> SessionView {
        let OfClaim { session, activity } = of;
        let state = board.of(&session.todo);
        let claim = state.live(now.awake).filter(|claim| claim.token == session.token);
        let progress_at = claim.map(|claim| now.wall_of(claim.progressed()));
        let last_at = activity.last.as_ref().map(|last| last.at);
        let active_at = [Some(session.started_at), progress_at, last_at].into_iter().flatten().max();
        let hold = claim
            .and_then(|claim| claim.hold.as_ref())
            .filter(|hold| now.awake < hold.until)
            .map(|hold| hold.why.clone());
        let asked = activity.last.as_ref().filter(|last| session::asks_a_person(&last.kind));
        let asked = asked.filter(|last| progress_at.is_none_or(|progress| progress <= last.at));
        let facts = LivenessFacts {
            ended: session.ended_at.is_some() || claim.is_none(),
            held: claim.is_some(),
            waits: hold.is_some() || asked.is_some(),
            silent_ms: silence(active_at, now),
        };
        SessionView {
            id: session.id(),
            source: SessionSource::Claim,
            status: session::status(&facts, &self.terms),
            repo: Some(session.todo.repo.clone()),
            slug: Some(session.todo.slug.clone()),
            lane: Some(session.lane.clone()),
            worker: Some(session.worker.clone()),
            token: Some(session.token),
            title: session.todo.to_string(),
            path: None,
            started_at: Some(session.started_at),
            active_at,
            ended_at: session.ended_at,
            how: session.how.clone(),
            events: activity.events,
            corrupt: 0,
            last: activity.last.clone(),
            waits_for: hold.or_else(|| asked.and_then(|last| last.text.clone())),
        }
    }

    fn log_view(&self, log: &LogTail, places: &Places, now: &Moment) -> SessionView {
        let place = places.of(log.cwd.as_deref());
        let active_at = log.last.as_ref().map(|last| last.at).or(Some(log.written_at));
        let asked = log.last.as_ref().filter(|last| session::asks_a_person(&last.kind));
        let ended = log.last.as_ref().filter(|last| session::ends_a_log(&last.kind));
        let silent_ms = silence(active_at, now);
        let facts = LivenessFacts { ended: ended.is_some(), held: false, waits: asked.is_some(), silent_ms };
        SessionView {
            id: log.id.clone(),
            source: SessionSource::Log,
            status: session::status(&facts, &self.terms),
            repo: place.as_ref().map(|(repo, _)| repo.clone()),
            slug: place.and_then(|(_, slug)| slug),
            lane: None,
            worker: None,
            token: None,
            title: log.title(),
            path: Some(log.path.display().to_string()),
            started_at: log.started_at,
            active_at,
            ended_at: ended.map(|last| last.at),
            how: ended.map(|last| last.kind.clone()),
            events: log.lines,
            corrupt: log.corrupt,
            last: log.last.clone(),
            waits_for: asked.and_then(|last| last.text.clone()),
        }
    }
}

impl Inner {
    fn follow(&mut self, step: SessionStep, now: Timestamp) {
        match step {
            SessionStep::Began(session) => self.put(session, Activity::default()),
            SessionStep::Ended { id, how } => {
                self.open.remove(&id);
                if let Some(of) = self.claims.get_mut(&id) {
                    (of.session.ended_at, of.session.how) = (Some(now), Some(how));
                }
            }
        }
    }

    fn put(&mut self, session: ClaimSession, activity: Activity) {
        let id = session.id();
        if session.ended_at.is_none() {
            self.open.insert(id.clone());
        }
        if self.claims.insert(id.clone(), OfClaim { session, activity }).is_none() {
            self.order.push_back(id);
        }
        // Those that are not over stay, however old.
        let mut left = self.order.len();
        while self.claims.len() > AT_HAND_MAX && left > 0 {
            left -= 1;
            let Some(oldest) = self.order.pop_front() else { break };
            if self.claims.get(&oldest).is_some_and(|of| of.session.ended_at.is_none()) {
                self.order.push_back(oldest);
            } else {
                self.claims.remove(&oldest);
            }
        }
    }
}

/// Milliseconds since, by the wall clock; none when that is ahead.
fn silence(since: Option<Timestamp>, now: &Moment) -> u64 {
    since.map_or(u64::MAX, |since| u64::try_from(now.wall.as_ms().saturating_sub(since.as_ms())).unwrap_or(0))
}

/// Which repository and todo a directory belongs to.
#[derive(Debug, Clone, Default)]
pub struct Places(Vec<(RepoName, PathBuf, PathBuf)>);

impl Places {
    /// From where repositories and their worktrees are.
    #[must_use]
    pub fn new(places: Vec<(RepoName, PathBuf, PathBuf)>) -> Self {
        Self(places)
    }

    fn of(&self, cwd: Option<&str>) -> Option<(RepoName, Option<Slug>)> {
        let cwd = Path::new(cwd?);
        self.0.iter().find_map(|(repo, main, worktrees)| {
            if let Ok(rest) = cwd.strip_prefix(worktrees) {
                let slug = rest.components().next().and_then(|slug| Slug::parse(slug.as_os_str().to_str()?).ok());
                return Some((repo.clone(), slug));
            }
            cwd.starts_with(main).then(|| (repo.clone(), None))
        })
    }
}

/// What the sessions actor hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum SessionsMsg {
    /// The holder of a claim reports.
    Report {
        /// The session.
        session: SessionId,
        /// What happened.
        events: Vec<NewSessionEvent>,
        /// How many events the session has then, once they are on disk.
        reply: Reply<Result<u64, Problem>>,
    },
    /// A report is on disk, or is not.
    Reported {
        /// The session.
        session: SessionId,
        /// What it adds up to.
        activity: Activity,
        /// Whether it is.
        result: Result<(), Problem>,
        /// Who waits for it.
        reply: Reply<Result<u64, Problem>>,
    },
    /// Something changed in a directory of logs.
    Look,
    /// A look at the logs is over.
    Looked {
        /// The logs, and what came of it; nothing when the look failed.
        done: Option<(Box<LogSet>, LookedAt)>,
    },
    /// Somebody wants to read a log.
    Wanted {
        /// Its session.
        session: SessionId,
    },
    /// What the ledger has was read.
    Loaded {
        /// Sessions, oldest first.
        result: Result<Vec<(ClaimSession, Activity)>, Problem>,
    },
    /// Time has passed.
    Tick {
        /// Answer: how many are called otherwise now.
        reply: Reply<usize>,
    },
    /// What it is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// The actor's state.
pub struct SessionsState {
    context: Arc<Context>,
    /// What sessions add up to with the reports that are on their way to the disk.
    pending: HashMap<SessionId, (Activity, usize)>,
    /// The status everybody was told.
    told: HashMap<SessionId, SessionStatus>,
    /// The logs, while nobody is looking at them.
    logs: Option<Box<LogSet>>,
    look_again: bool,
    wanted: Vec<SessionId>,
    looked_at: Option<Instant>,
}

/// The actor.
pub struct SessionsActor;

impl SessionsActor {
    /// Where it is reached.
    #[must_use]
    pub fn address() -> Address<SessionsMsg> {
        Address::new(ActorKind::Sessions, "sessions", MAILBOX_LIMIT)
    }

    /// Starts it under a supervisor.
    pub async fn start(context: Arc<Context>, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) =
            Actor::spawn_linked(None, Self, context, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for SessionsActor {
    type Msg = Envelope<SessionsMsg>;
    type State = SessionsState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Arc<Context>,
    ) -> Result<SessionsState, ActorProcessingErr> {
        context.sessions_address.point_at(Some(myself));
        let state = SessionsState {
            logs: Some(Box::new(LogSet::new(context.settings.session_logs.clone()))),
            context,
            pending: HashMap::new(),
            told: HashMap::new(),
            look_again: false,
            wanted: Vec::new(),
            looked_at: None,
        };
        if !state.context.sessions.is_loaded() {
            state.load_after(Duration::ZERO);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut SessionsState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.context.faults.clone();
        let handled = async {
            state.context.faults.hit("sessions.handle");
            match message {
                SessionsMsg::Report { session, events, reply } => state.on_report(session, events, reply),
                SessionsMsg::Reported { session, activity, result, reply } => {
                    state.on_reported(&session, activity, result, reply);
                }
                SessionsMsg::Look => state.look(),
                SessionsMsg::Looked { done } => state.on_looked(done),
                SessionsMsg::Wanted { session } => {
                    state.wanted.push(session);
                    state.look();
                }
                SessionsMsg::Loaded { result } => state.on_loaded(result),
                SessionsMsg::Tick { reply } => {
                    let _ = reply.send(state.on_tick());
                }
                SessionsMsg::Describe { reply } => {
                    let inner = state.context.sessions.read();
                    let view = json!({ "claims": inner.claims.len(), "logs": inner.logs.len(), "looking": state.logs.is_none() });
                    let _ = reply.send(view);
                }
            }
            Ok(())
        };
        handling.run(&faults, &myself, handled).await
    }
}

impl SessionsState {
    /// Reads what the ledger has, aside: a start does not wait for it.
    fn load_after(&self, pause: Duration) {
        let context = self.context.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let result = match context.ledger.store() {
                Ok(store) => store.sessions(AT_HAND_MAX).await.map_err(|error| context.ledger.note(&error)),
                Err(problem) => Err(problem),
            };
            let _ = context.sessions_address.tell(SessionsMsg::Loaded { result });
        });
    }

    fn on_loaded(&mut self, result: Result<Vec<(ClaimSession, Activity)>, Problem>) {
        match result {
            Ok(loaded) => self.context.sessions.write(|inner| {
                // What came in meanwhile is newer than what was read.
                let newer = std::mem::take(&mut inner.order);
                for (session, activity) in loaded {
                    if !inner.claims.contains_key(&session.id()) {
                        inner.put(session, activity);
                    }
                }
                inner.order.extend(newer);
                inner.loaded = true;
            }),
            Err(problem) => {
                tracing::warn!(%problem, "sessions cannot be read from the ledger yet");
                self.load_after(PAUSE);
            }
        }
    }

    fn on_report(&mut self, session: SessionId, events: Vec<NewSessionEvent>, reply: Reply<Result<u64, Problem>>) {
        let at_hand = self.context.sessions.read().claims.get(&session).cloned();
        let Some(of) = at_hand else {
            let _ = reply.send(Err(unknown(&session)));
            return;
        };
        let now = self.context.clock.now();
        let (mut activity, on_their_way) = self.pending.remove(&session).unwrap_or((of.activity, 0));
        activity.events += events.len() as u64;
        if let Some(last) = events.last() {
            activity.last = Some(LastEvent::of(now, &last.kind, last.text.as_deref()));
        }
        self.pending.insert(session.clone(), (activity.clone(), on_their_way + 1));
        let delta = json!({ "events": activity.events, "last": activity.last, "new": events });
        let todo = of.session.todo;
        let write = Write::SessionReported { session: session.clone(), todo, events, delta, at: now };
        let written = self.context.ledger.enqueue(vec![write], &Chain::default());
        let address = self.context.sessions_address.clone();
        tokio::spawn(async move {
            let result = written.await;
            let _ = address.tell(SessionsMsg::Reported { session, activity, result, reply });
        });
    }

    fn on_reported(
        &mut self,
        session: &SessionId,
        activity: Activity,
        result: Result<(), Problem>,
        reply: Reply<Result<u64, Problem>>,
    ) {
        let left = self.pending.get_mut(session).map_or(0, |(_, on_their_way)| {
            *on_their_way -= 1;
            *on_their_way
        });
        if left == 0 {
            self.pending.remove(session);
        }
        let count = activity.events;
        if result.is_ok() {
            self.context.sessions.write(|inner| {
                if let Some(of) = inner.claims.get_mut(session).filter(|of| of.activity.events < count) {
                    of.activity = activity;
                }
            });
        }
        let _ = reply.send(result.map(|()| count));
    }

    /// Has the logs looked at, one look at a time.
    fn look(&mut self) {
        if self.context.settings.session_logs.is_empty() {
            return;
        }
        let Some(mut logs) = self.logs.take() else {
            self.look_again = true;
            return;
        };
        self.looked_at = Some(Instant::now());
        let wanted = std::mem::take(&mut self.wanted);
        let address = self.context.sessions_address.clone();
        tokio::spawn(async move {
            let looked = tokio::task::spawn_blocking(move || {
                let looked = logs.look(&wanted);
                (logs, looked)
            });
            let done = looked.await.inspect_err(|error| tracing::error!(%error, "a look at session logs failed")).ok();
            let _ = address.tell(SessionsMsg::Looked { done });
        });
    }

    fn on_looked(&mut self, done: Option<(Box<LogSet>, LookedAt)>) {
        let Some((logs, looked)) = done else {
            self.logs = Some(Box::new(LogSet::new(self.context.settings.session_logs.clone())));
            return;
        };
        self.context.watching.watch_logs(&looked.dirs);
        let by_id: HashMap<&SessionId, &LogTail> = logs.logs.values().map(|log| (&log.id, log)).collect();
        let changed: Vec<LogTail> =
            looked.changed.iter().filter_map(|id| by_id.get(id).map(|log| (*log).clone())).collect();
        let now = self.context.clock.moment();
        if !changed.is_empty() || !looked.gone.is_empty() {
            let first = self.context.sessions.write(|inner| {
                inner.logs.retain(|id, _| !looked.gone.contains(id));
                let mut first = Vec::new();
                for log in &changed {
                    if inner.logs.insert(log.id.clone(), Arc::new(log.clone())).is_none() && log.cold {
                        first.push(log.id.clone());
                    }
                }
                first
            });
            // Of an old log that was only found there is nothing to tell.
            let mut told = Vec::new();
            for log in changed.iter().filter(|log| !first.contains(&log.id)) {
                let Some(view) = self.context.sessions.one(&log.id, &self.context.board, &self.context.places, &now)
                else {
                    continue;
                };
                self.told.insert(log.id.clone(), view.status);
                let delta = json!({
                    "source": view.source, "title": view.title, "status": view.status, "events": view.events,
                    "corrupt": view.corrupt, "last": view.last,
                });
                told.push(Write::SessionSeen { session: log.id.clone(), todo: view.todo(), delta, at: now.wall });
            }
            self.tell(told);
        }
        self.logs = Some(logs);
        if looked.more || std::mem::take(&mut self.look_again) {
            self.look();
        }
    }

    /// Statuses that time alone has changed are told.
    fn on_tick(&mut self) -> usize {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.look();
        }
        let (now, places) = (self.context.clock.moment(), &self.context.places);
        let sessions = &self.context.sessions;
        // Of a dormant one time alone changes nothing any more.
        let lively = self.told.iter().filter(|(_, status)| **status != SessionStatus::Dormant).map(|(id, _)| id);
        let ids: BTreeSet<SessionId> = sessions.read().open.iter().chain(lively).cloned().collect();
        let views = ids.iter().filter_map(|id| sessions.one(id, &self.context.board, places, &now));
        let mut told = HashMap::with_capacity(self.told.len());
        let mut writes = Vec::new();
        // Those that are over are told by their claim's end.
        for view in views.into_iter().filter(|view| view.status != SessionStatus::Done) {
            let before = self.told.get(&view.id);
            if before.is_some_and(|before| *before != view.status) {
                let delta = json!({ "status": view.status });
                writes.push(Write::SessionSeen { session: view.id.clone(), todo: view.todo(), delta, at: now.wall });
            }
            told.insert(view.id, view.status);
        }
        self.told = told;
        let changed = writes.len();
        self.tell(writes);
        changed
    }

    fn tell(&self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        let written = self.context.ledger.enqueue(writes, &Chain::default());
        tokio::spawn(async move {
            if let Err(problem) = written.await {
                tracing::warn!(%problem, "what became of sessions could not be noted");
            }
        });
    }
}

/// There is no such session.
pub(super) fn unknown(session: &SessionId) -> Problem {
    let detail = format!("there is no session {session}; GET /sessions lists them, and a claim's is repo~slug~token");
    Problem::new(ProblemCode::UnknownSession, detail)
}

/// Events of a log, read where it may block.
pub(super) async fn log_events(log: Arc<LogTail>, after: u64, limit: usize) -> Result<Vec<SessionEvent>, Problem> {
    let path = log.path.display().to_string();
    let read = tokio::task::spawn_blocking(move || log.events(after, limit)).await;
    let fault =
        |error: &dyn std::fmt::Display| Problem::new(ProblemCode::Internal, format!("{path} cannot be read: {error}"));
    read.map_err(|error| fault(&error))?.map_err(|error| fault(&error))
}

/// A change in a directory of logs.
pub(super) fn noticed(context: &Context, what: &Watched) {
    if matches!(what, Watched::Logs) {
        let _ = context.sessions_address.send(SessionsMsg::Look);
    }
}
