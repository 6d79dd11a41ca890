//! Named points where a test can make the daemon fail. In a running daemon every point does nothing.

use std::sync::Arc;

type Hook = Arc<dyn Fn(&str) + Send + Sync>;

/// What happens at the points.
#[derive(Clone, Default)]
pub struct Faults(Option<Hook>);

impl Faults {
    /// Calls the function at every point with the point's name; it may panic or block.
    pub fn at_points(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// One point.
    pub fn hit(&self, point: &str) {
        if let Some(hook) = &self.0 {
            hook(point);
        }
    }
}
