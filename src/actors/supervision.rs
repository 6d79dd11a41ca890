//! What ractor leaves out: restarts with a budget per child, spaced by backoff and jitter, and giving up in sight.
//!
//! A supervising actor keeps a [`Children`] in its state, hands it every supervision event and schedules what it
//! says. The decision itself is `model::supervision`; nothing here sleeps or loops.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{ActorCell, ActorId, SupervisionEvent};

use crate::metrics::actors as metric;
use crate::metrics::actors::{ActorKind, RestartReason};
use crate::model::supervision::{Budget, Exit, History, Verdict};

/// What every child of the daemon gets: five restarts a minute, a quarter second apart at first. A handler that
/// fails on every message is down within seconds; one bad minute does not need an operator.
pub const BUDGET: Budget = Budget { restarts_max: 5, window_ms: 60_000, backoff_min_ms: 250, backoff_max_ms: 10_000 };

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

struct Child {
    kind: ActorKind,
    start: Start,
    history: History,
    state: ChildState,
}

/// The children of one supervisor, by name.
pub struct Children {
    budget: Budget,
    born: Instant,
    by_name: HashMap<String, Child>,
    names: HashMap<ActorId, String>,
}

impl Children {
    /// No children yet.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self { budget, born: Instant::now(), by_name: HashMap::new(), names: HashMap::new() }
    }

    /// Starts a child and watches it from here on. A start that fails counts as a failure of the child.
    pub async fn start(&mut self, kind: ActorKind, name: &str, supervisor: ActorCell, start: Start) -> Aftermath {
        let child = Child { kind, start, history: History::default(), state: ChildState::Restarting };
        self.by_name.insert(name.to_owned(), child);
        self.restart(name, supervisor).await
    }

    /// Starts a known child again.
    pub async fn restart(&mut self, name: &str, supervisor: ActorCell) -> Aftermath {
        let Some(child) = self.by_name.get_mut(name) else { return Aftermath::Nothing };
        if matches!(child.state, ChildState::Up(_)) {
            return Aftermath::Nothing;
        }
        match (child.start)(supervisor).await {
            Ok(cell) => {
                child.state = ChildState::Up(cell.get_id());
                self.names.insert(cell.get_id(), name.to_owned());
                Aftermath::Nothing
            }
            Err(error) => self.judge(name, &Exit::NotStarted(error)),
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
        match self.names.remove(&cell.get_id()) {
            Some(name) => self.judge(&name, &exit),
            None => Aftermath::Nothing,
        }
    }

    fn judge(&mut self, name: &str, exit: &Exit) -> Aftermath {
        let now_ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(child) = self.by_name.get_mut(name) else { return Aftermath::Nothing };
        match child.history.on_exit(&self.budget, exit, now_ms, super::clock::jitter()) {
            Verdict::Ignore => {
                self.by_name.remove(name);
                Aftermath::Ended(name.to_owned())
            }
            Verdict::Restart { after_ms } => {
                child.state = ChildState::Restarting;
                metric::actor_restarted(child.kind, restart_reason(exit));
                tracing::warn!(
                    actor.kind = child.kind.as_str(),
                    actor.name = name,
                    reason = child.history.last_failure,
                    restarts = child.history.restarts,
                    delay_ms = after_ms,
                    "actor failed and will be restarted"
                );
                Aftermath::RestartAfter(name.to_owned(), Duration::from_millis(after_ms))
            }
            Verdict::GiveUp => {
                child.state = ChildState::GivenUp;
                metric::actor_meltdown(child.kind);
                tracing::error!(
                    actor.kind = child.kind.as_str(),
                    actor.name = name,
                    reason = child.history.last_failure,
                    "actor failed too often and is given up"
                );
                Aftermath::GaveUp(name.to_owned())
            }
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

    /// Name, state in words, restarts and last failure of every child.
    pub fn describe(&self) -> impl Iterator<Item = (&str, ActorKind, &'static str, &History)> {
        self.by_name.iter().map(|(name, child)| {
            let state = match child.state {
                ChildState::Up(_) => "running",
                ChildState::Restarting => "restarting",
                ChildState::GivenUp => "given_up",
            };
            (name.as_str(), child.kind, state, &child.history)
        })
    }
}

fn restart_reason(exit: &Exit) -> RestartReason {
    match exit {
        Exit::Failed(text) if text.contains("panic") => RestartReason::Panic,
        Exit::Killed => RestartReason::Killed,
        Exit::Failed(_) | Exit::NotStarted(_) | Exit::Stopped => RestartReason::Error,
    }
}
