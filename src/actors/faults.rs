//! Named points where a test can make the daemon fail. In a running daemon every point does nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::store::StoreError;

type Hook = Arc<dyn Fn(&str) + Send + Sync>;
type HandlerHook = Arc<dyn Fn(&str, &str, &str) -> Injected + Send + Sync>;

/// What a handler is made to do instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// Its work.
    Nothing,
    /// Panic.
    Panic,
    /// Return an error.
    Error,
    /// Never end, without holding up the runtime.
    Hang,
    /// Be killed from outside.
    Kill,
}

/// What becomes of a batch on its way to the ledger.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    /// Nothing of it is written, for this reason.
    pub refused: Option<StoreError>,
    /// How much later than it was written whoever waits is told.
    pub told_after: Duration,
}

type FateHook = Arc<dyn Fn() -> Fate + Send + Sync>;

/// What happens at the points.
#[derive(Clone, Default)]
pub struct Faults {
    points: Option<Hook>,
    handlers: Option<HandlerHook>,
    batches: Option<FateHook>,
}

impl Faults {
    /// Calls the function at every point with the point's name; it may panic or block.
    pub fn at_points(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { points: Some(Arc::new(hook)), ..Self::default() }
    }

    /// Asks the function before every message that is handled, and before every job: what kind of actor, its name, the
    /// message.
    pub fn in_handlers(hook: impl Fn(&str, &str, &str) -> Injected + Send + Sync + 'static) -> Self {
        Self { handlers: Some(Arc::new(hook)), ..Self::default() }
    }

    /// Asks the function at every batch for the ledger what becomes of it.
    pub fn of_batches(hook: impl Fn() -> Fate + Send + Sync + 'static) -> Self {
        Self { batches: Some(Arc::new(hook)), ..Self::default() }
    }

    /// These, and those the others have where these have none.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self {
            points: self.points.or(others.points),
            handlers: self.handlers.or(others.handlers),
            batches: self.batches.or(others.batches),
        }
    }

    /// One point.
    pub fn hit(&self, point: &str) {
        if let Some(hook) = &self.points {
            hook(point);
        }
    }

    /// One batch that is about to be queued for the ledger.
    #[must_use]
    pub fn of_batch(&self) -> Fate {
        self.batches.as_ref().map_or_else(Fate::default, |hook| hook())
    }

    /// One message that is about to be handled.
    #[must_use]
    pub fn in_handler(&self, kind: &str, name: &str, message: &str) -> Injected {
        self.handlers.as_ref().map_or(Injected::Nothing, |hook| hook(kind, name, message))
    }
}
