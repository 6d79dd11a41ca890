//! Named points where a test can make the daemon fail. In a running daemon every point does nothing.

use std::sync::Arc;

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

/// What happens at the points.
#[derive(Clone, Default)]
pub struct Faults {
    points: Option<Hook>,
    handlers: Option<HandlerHook>,
}

impl Faults {
    /// Calls the function at every point with the point's name; it may panic or block.
    pub fn at_points(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { points: Some(Arc::new(hook)), handlers: None }
    }

    /// Asks the function before every message that is handled, and before every job: what kind of actor, its name, the
    /// message.
    pub fn in_handlers(hook: impl Fn(&str, &str, &str) -> Injected + Send + Sync + 'static) -> Self {
        Self { points: None, handlers: Some(Arc::new(hook)) }
    }

    /// One point.
    pub fn hit(&self, point: &str) {
        if let Some(hook) = &self.points {
            hook(point);
        }
    }

    /// One message that is about to be handled.
    #[must_use]
    pub fn in_handler(&self, kind: &str, name: &str, message: &str) -> Injected {
        self.handlers.as_ref().map_or(Injected::Nothing, |hook| hook(kind, name, message))
    }
}
