//! The runs that are on, kept outside every actor's state: an actor may die and come back, its run goes on, and the
//! next incarnation finds it here. One entry per todo at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::inflight::patiently;
use crate::model::ids::{Lane, OperationId, TodoKey, Worker};
use crate::model::operation::Operation;
use crate::model::problem::Problem;
use crate::model::todo::{Asker, Complete};
use crate::model::work_order::Product;

/// What everybody who waits for a run sees of it.
#[derive(Debug, Clone)]
pub enum RunView {
    /// Its operation is being written to the ledger; nothing is accepted yet.
    Opening,
    /// The operation could not be written; nothing was accepted.
    Refused(Problem),
    /// Accepted: the operation as it is now.
    Live(Arc<Operation>),
    /// Over: the operation as the ledger has it, and the answer.
    Ended(Arc<Operation>, Arc<Result<Product, Problem>>),
}

impl RunView {
    /// Whether nothing more will be seen of it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Ended(..) | Self::Refused(_))
    }
}

/// Why a run is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// A client cancelled the operation.
    Cancel,
    /// The operation's time limit was reached.
    Deadline,
    /// The daemon shuts down.
    Shutdown,
}

/// What a run is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A worktree made ready for its worker.
    Work {
        /// Whether it is prepared in any case.
        refresh: bool,
    },
    /// Finished work judged, and counted.
    Complete(Box<Complete>),
}

/// One run that is on.
#[derive(Clone)]
pub struct RunHandle {
    /// Its operation.
    pub id: OperationId,
    /// For which todo.
    pub todo: TodoKey,
    /// Who asked.
    pub lane: Lane,
    /// Who asked.
    pub worker: Worker,
    /// What it is for.
    pub purpose: Purpose,
    /// What can be seen of it.
    pub view: watch::Receiver<RunView>,
    /// When it began.
    pub begun: Instant,
    stop: CancellationToken,
    cause: Arc<Mutex<Option<StopCause>>>,
}

impl RunHandle {
    /// A handle and the sender that feeds it.
    #[must_use]
    pub fn new(id: OperationId, todo: TodoKey, asker: &Asker, purpose: Purpose) -> (Self, watch::Sender<RunView>) {
        let (feed, view) = watch::channel(RunView::Opening);
        let (Asker { lane, worker }, begun) = (asker.clone(), Instant::now());
        let handle = Self {
            id,
            todo,
            lane,
            worker,
            purpose,
            view,
            begun,
            stop: CancellationToken::new(),
            cause: Arc::default(),
        };
        (handle, feed)
    }

    /// Its name, for whoever reads who holds a lock.
    #[must_use]
    pub fn words(&self) -> String {
        format!("run {} of {}", self.id, self.todo)
    }

    /// Asks the run to end; its process tree dies first. The first cause stays.
    pub fn stop(&self, cause: StopCause) {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        self.stop.cancel();
    }

    /// Why the run is being ended, if it is.
    #[must_use]
    pub fn stop_cause(&self) -> Option<StopCause> {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when the run has to end.
    #[must_use]
    pub fn stopped(&self) -> &CancellationToken {
        &self.stop
    }
}

/// All runs that are on.
#[derive(Clone, Default)]
pub struct Runs(Arc<Mutex<HashMap<TodoKey, RunHandle>>>);

impl Runs {
    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<TodoKey, RunHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a run, unless one is on for the todo: then that one comes back.
    pub fn enter(&self, handle: RunHandle) -> Result<Entered, Box<RunHandle>> {
        let mut map = self.map();
        if let Some(on) = map.get(&handle.todo) {
            return Err(Box::new(on.clone()));
        }
        let entered = Entered { runs: self.clone(), todo: handle.todo.clone() };
        map.insert(handle.todo.clone(), handle);
        Ok(entered)
    }

    /// The run of a todo, if one is on.
    #[must_use]
    pub fn of(&self, todo: &TodoKey) -> Option<RunHandle> {
        self.map().get(todo).cloned()
    }

    /// The run of an operation, if it is on.
    #[must_use]
    pub fn by_operation(&self, id: &OperationId) -> Option<RunHandle> {
        self.map().values().find(|handle| handle.id == *id).cloned()
    }

    /// Every run that is on; `None` when a thread that is stuck keeps it from being read.
    #[must_use]
    pub fn try_all(&self) -> Option<Vec<RunHandle>> {
        patiently(&self.0).map(|map| map.values().cloned().collect())
    }

    /// Every run that is on.
    #[must_use]
    pub fn all(&self) -> Vec<RunHandle> {
        self.map().values().cloned().collect()
    }
}

/// Keeps a run entered; dropping it takes the run out, whatever happened to its task.
pub struct Entered {
    runs: Runs,
    todo: TodoKey,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.runs.map().remove(&self.todo);
    }
}
