//! What ractor leaves out: restarts with a budget per child, spaced by backoff and jitter, and giving up in sight.
//!
//! A supervising actor keeps a [`Children`] in its state, hands it every supervision event and schedules what it
//! says. The decision itself is `model::supervision`; nothing here sleeps or loops.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::{ActorCell, ActorId, SupervisionEvent};
use tokio::task::JoinError;
use tokio::time::Instant;

use super::clock::Clock;
use crate::metrics::actors as metric;
use crate::metrics::actors::{ActorKind, RestartReason};
use crate::model::supervision::{Budget, Exit, History, Verdict};
use crate::model::view::Restarted;

/// What every child of the daemon gets: five restarts a minute, a quarter second apart at first. A handler that
/// fails on every message is down within seconds; one bad minute does not need an operator.
pub const BUDGET: Budget = Budget { restarts_max: 5, window_ms: 60_000, backoff_min_ms: 250, backoff_max_ms: 10_000 };

/// How long a child gets to start. A start that does not end would hold up its supervisor, and with it all the others.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long the children of one supervisor get to stop.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Reasons of restarts that are kept of a child.
const REASONS_MAX: usize = 10;
/// Restarts that wait to be told; older ones are only counted.
const UNTOLD_MAX: usize = 1_000;

/// How a child is started, linked to the given supervisor.
pub type Start =
    Arc<dyn Fn(ActorCell) -> Pin<Box<dyn Future<Output = Result<ActorCell, String>> + Send>> + Send + Sync>;

/// Turns an async closure into a [`Start`].
pub fn start_by<F, Fut>(start: F) -> Start
where
    F: Fn(ActorCell) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ActorCell, String>> + Send + 'static,
{
    Arc::new(move |supervisor| Box::pin(start(supervisor)))
}

/// Where a child is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildState {
    /// It lives.
    Up(ActorId),
    /// It waits for its restart.
    Restarting,
    /// Its budget is used up.
    GivenUp,
}

/// What the supervisor has to do after an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Aftermath {
    /// Not about a child of ours, or nothing to do.
    Nothing,
    /// Send yourself a restart of this child after the delay.
    RestartAfter(String, Duration),
    /// The child ended in order and is forgotten.
    Ended(String),
    /// The child is down for good, until its window has passed.
    GaveUp(String),
}

/// A child, as everybody may see it.
#[derive(Debug, Clone)]
pub struct ChildStatus {
    /// What kind of actor.
    pub kind: ActorKind,
    /// Its supervisor, as `kind:name`.
    pub parent: String,
    /// `running`, `restarting`, `hung` or `given_up`.
    pub state: &'static str,
    /// Restarts since its supervisor was started.
    pub restarts: u32,
    /// Why it was restarted or given up, the newest last.
    pub reasons: VecDeque<Restarted>,
}

impl ChildStatus {
    /// Whether it is down for good, or hangs.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.state, "given_up" | "hung")
    }
}

/// A restart, or the end of them, that nobody was told of yet.
#[derive(Debug, Clone)]
pub struct Untold {
    /// What kind of actor.
    pub kind: ActorKind,
    /// Its name.
    pub name: String,
    /// `restarting` or `given_up`.
    pub state: &'static str,
    /// Why, and when.
    pub why: Restarted,
}

/// Every supervised actor of the daemon, kept outside of the supervisors, so that it can be read while they are stuck.
#[derive(Clone)]
pub struct Supervised {
    inner: Arc<Mutex<SupervisedInner>>,
    clock: Clock,
}

#[derive(Default)]
struct SupervisedInner {
    children: BTreeMap<(&'static str, String), ChildStatus>,
    untold: VecDeque<Untold>,
}

impl Supervised {
    /// Nobody yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { inner: Arc::default(), clock }
    }

    fn inner(&self) -> MutexGuard<'_, SupervisedInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every supervised actor by its name.
    #[must_use]
    pub fn all(&self) -> Vec<(String, ChildStatus)> {
        self.inner().children.iter().map(|((_, name), status)| (name.clone(), status.clone())).collect()
    }

    /// Those that are down for good, or hang.
    #[must_use]
    pub fn down(&self) -> Vec<(String, ChildStatus)> {
        let inner = self.inner();
        let down = inner.children.iter().filter(|(_, status)| status.is_down());
        down.map(|((_, name), status)| (name.clone(), status.clone())).collect()
    }

    /// Takes the restarts nobody was told of yet.
    #[must_use]
    pub fn take_untold(&self) -> Vec<Untold> {
        self.inner().untold.drain(..).collect()
    }
}

struct Child {
    kind: ActorKind,
    /// What it is called outside of its supervisor.
    shown: String,
    /// How many were started before it.
    order: usize,
    start: Start,
    history: History,
    state: ChildState,
    cell: Option<ActorCell>,
}

/// The children of one supervisor, by name. Each is restarted by itself: none of them rests on what another one has in
/// its state.
pub struct Children {
    budget: Budget,
    born: Instant,
    parent: String,
    by_name: HashMap<String, Child>,
    names: HashMap<ActorId, String>,
    /// Those that were killed because they hang, and why.
    hung: HashMap<ActorId, String>,
    started: usize,
    supervised: Supervised,
}

impl Children {
    /// No children yet, of the supervisor that is shown as `parent`.
    #[must_use]
    pub fn new(budget: Budget, parent: impl Into<String>, supervised: Supervised) -> Self {
        let parent = parent.into();
        supervised.inner().children.retain(|_, child| child.parent != parent);
        Self {
            budget,
            born: Instant::now(),
            parent,
            by_name: HashMap::new(),
            names: HashMap::new(),
            hung: HashMap::new(),
            started: 0,
            supervised,
        }
    }

    /// Starts a child and watches it from here on. A start that fails counts as a failure of the child. `shown` is what it
    /// is called outside.
    pub async fn start(
        &mut self,
        kind: ActorKind,
        name: &str,
        shown: String,
        supervisor: ActorCell,
        start: Start,
    ) -> Aftermath {
        self.started += 1;
        let (order, history) = (self.started, History::default());
        let child = Child { kind, shown, order, start, history, state: ChildState::Restarting, cell: None };
        self.by_name.insert(name.to_owned(), child);
        self.restart(name, supervisor).await
    }

    /// Starts a known child again.
    pub async fn restart(&mut self, name: &str, supervisor: ActorCell) -> Aftermath {
        let Some(child) = self.by_name.get_mut(name) else { return Aftermath::Nothing };
        if matches!(child.state, ChildState::Up(_)) {
            return Aftermath::Nothing;
        }
        let started = tokio::time::timeout(START_LIMIT, (child.start)(supervisor)).await;
        match started.unwrap_or_else(|_| Err(format!("it did not start within {} s", START_LIMIT.as_secs()))) {
            Ok(cell) => {
                child.state = ChildState::Up(cell.get_id());
                self.names.insert(cell.get_id(), name.to_owned());
                child.cell = Some(cell);
                self.show(name, None);
                Aftermath::Nothing
            }
            Err(error) => self.judge(name, &Exit::NotStarted(error)),
        }
    }

    /// Ends a child whose handler does not end; its end is told as that of any other. One that holds its thread ends when
    /// it lets go of it, and is shown as hung until then: nobody takes its place before it is gone.
    pub fn end_hung(&mut self, name: &str, why: &str) {
        let Some(cell) = self.by_name.get(name).and_then(|child| child.cell.clone()) else { return };
        if self.hung.insert(cell.get_id(), why.to_owned()).is_none() {
            tracing::error!(actor.name = name, why, "an actor hangs and is ended");
            self.show(name, None);
            cell.kill();
        }
    }

    /// Takes one supervision event.
    pub fn on_event(&mut self, event: &SupervisionEvent) -> Aftermath {
        let (cell, exit) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, Exit::Failed(error.to_string())),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let killed = matches!(reason.as_deref(), Some("killed" | "actor_task_cancelled"));
                (cell, if killed { Exit::Killed } else { Exit::Stopped })
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Aftermath::Nothing,
        };
        let exit = match self.hung.remove(&cell.get_id()) {
            Some(why) => Exit::Hung(why),
            None => exit,
        };
        match self.names.remove(&cell.get_id()) {
            Some(name) => self.judge(&name, &exit),
            None => Aftermath::Nothing,
        }
    }

    fn judge(&mut self, name: &str, exit: &Exit) -> Aftermath {
        let now_ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(child) = self.by_name.get_mut(name) else { return Aftermath::Nothing };
        child.cell = None;
        let (aftermath, why) = match child.history.on_exit(&self.budget, exit, now_ms, self.supervised.clock.jitter()) {
            Verdict::Ignore => {
                let shown = (child.kind.as_str(), child.shown.clone());
                self.by_name.remove(name);
                self.supervised.inner().children.remove(&shown);
                return Aftermath::Ended(name.to_owned());
            }
            Verdict::Restart { after_ms } => {
                child.state = ChildState::Restarting;
                metric::actor_restarted(child.kind, restart_reason(exit));
                tracing::warn!(
                    actor.kind = child.kind.as_str(),
                    actor.name = child.shown,
                    reason = child.history.last_failure,
                    restarts = child.history.restarts,
                    delay_ms = after_ms,
                    "actor failed and will be restarted"
                );
                (Aftermath::RestartAfter(name.to_owned(), Duration::from_millis(after_ms)), restart_reason(exit))
            }
            Verdict::GiveUp => {
                child.state = ChildState::GivenUp;
                metric::actor_meltdown(child.kind);
                tracing::error!(
                    actor.kind = child.kind.as_str(),
                    actor.name = child.shown,
                    reason = child.history.last_failure,
                    "actor failed too often and is given up"
                );
                (Aftermath::GaveUp(name.to_owned()), restart_reason(exit))
            }
        };
        let (at, text) = (self.supervised.clock.now(), child.history.last_failure.clone().unwrap_or_default());
        self.show(name, Some(Restarted { at, reason: why.as_str().to_owned(), text }));
        aftermath
    }

    /// Brings what everybody sees of a child up to date.
    fn show(&self, name: &str, why: Option<Restarted>) {
        let Some(child) = self.by_name.get(name) else { return };
        let state = match &child.state {
            ChildState::Up(id) if self.hung.contains_key(id) => "hung",
            ChildState::Up(_) => "running",
            ChildState::Restarting => "restarting",
            ChildState::GivenUp => "given_up",
        };
        let mut inner = self.supervised.inner();
        let status = inner.children.entry((child.kind.as_str(), child.shown.clone())).or_insert_with(|| ChildStatus {
            kind: child.kind,
            parent: self.parent.clone(),
            state,
            restarts: 0,
            reasons: VecDeque::new(),
        });
        status.state = state;
        status.restarts = child.history.restarts;
        if let Some(why) = why {
            status.reasons.push_back(why.clone());
            if status.reasons.len() > REASONS_MAX {
                status.reasons.pop_front();
            }
            inner.untold.push_back(Untold { kind: child.kind, name: child.shown.clone(), state, why });
            if inner.untold.len() > UNTOLD_MAX {
                inner.untold.pop_front();
            }
        }
    }

    /// A child that was given up is left to be started anew by whoever needs it.
    pub fn forget(&mut self, name: &str) {
        let given_up = self.by_name.get(name).is_some_and(|child| child.state == ChildState::GivenUp);
        if given_up && let Some(child) = self.by_name.remove(name) {
            self.supervised.inner().children.remove(&(child.kind.as_str(), child.shown));
        }
    }

    /// Where a child is, if it is known.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<&ChildState> {
        self.by_name.get(name).map(|child| &child.state)
    }

    /// How long until a given-up child may be tried again; zero when it may.
    #[must_use]
    pub fn until_retry(&self, name: &str) -> Duration {
        let now_ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let retry_at = self.by_name.get(name).map_or(0, |child| child.history.retry_at_ms(&self.budget));
        Duration::from_millis(retry_at.saturating_sub(now_ms))
    }

    /// Stops the children, those started last first, each kind together; each ends with its `post_stop`, and what has not
    /// ended within the limit is killed.
    pub async fn stop_all(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut living: Vec<(usize, ActorKind, ActorCell)> =
            self.by_name.values().filter_map(|child| Some((child.order, child.kind, child.cell.clone()?))).collect();
        living.sort_by_key(|(order, ..)| std::cmp::Reverse(*order));
        while let Some((_, kind, _)) = living.first() {
            let kind = *kind;
            let together = living.iter().take_while(|(_, other, _)| *other == kind).count();
            let stopping = living.drain(..together).map(|(_, _, cell)| async move {
                cell.stop(Some("drained".to_owned()));
                let left = deadline.saturating_duration_since(Instant::now());
                if cell.wait(Some(left)).await.is_err() && !is_over(&cell) {
                    tracing::warn!(actor.kind = kind.as_str(), "an actor did not stop in time and is killed");
                    cell.kill();
                }
            });
            futures_util::future::join_all(stopping).await;
        }
    }
}

/// What a task died of, in words. Its number says nothing to anybody.
#[must_use]
pub fn last_words(error: &JoinError) -> String {
    let words = error.to_string();
    words.strip_prefix(&format!("task {} ", error.id())).unwrap_or(&words).to_owned()
}

fn is_over(cell: &ActorCell) -> bool {
    matches!(cell.get_status(), ractor::ActorStatus::Stopped)
}

fn restart_reason(exit: &Exit) -> RestartReason {
    match exit {
        Exit::Failed(text) if text.contains("panic") => RestartReason::Panic,
        Exit::Killed => RestartReason::Killed,
        Exit::Hung(_) => RestartReason::Hang,
        Exit::Failed(_) | Exit::NotStarted(_) | Exit::Stopped => RestartReason::Error,
    }
}
