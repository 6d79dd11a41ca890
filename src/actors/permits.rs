//! Permits for looks at work trees: so many at once in the whole daemon, whoever needs one most first. A permit comes
//! back when it is dropped, in whatever way that happens, and one that was about to be handed to somebody who went is
//! handed on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::model::worktree::Urgency;

#[derive(Default)]
struct Inner {
    /// Below zero while somebody took one without waiting.
    free: isize,
    waiting: BTreeMap<(Urgency, u64), oneshot::Sender<Permit>>,
    next: u64,
}

/// All permits; clones hand out the same ones.
#[derive(Clone)]
pub struct Permits(Arc<Mutex<Inner>>);

/// One permit.
pub struct Permit(Arc<Mutex<Inner>>);

impl Permits {
    /// So many.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner { free: isize::try_from(count).unwrap_or(isize::MAX), ..Inner::default() })))
    }

    /// Waits for one. Giving up on the future gives up the place in the queue.
    pub async fn take(&self, urgency: Urgency) -> Permit {
        let (place, granted) = {
            let mut inner = lock(&self.0);
            if inner.free > 0 {
                inner.free -= 1;
                return Permit(self.0.clone());
            }
            let (grant, granted) = oneshot::channel();
            let key = (urgency, inner.next);
            inner.next += 1;
            inner.waiting.insert(key, grant);
            (Place { inner: self.0.clone(), key }, granted)
        };
        let permit = granted.await;
        drop(place);
        permit.unwrap_or_else(|_| unreachable!("a place in the queue is only taken out with a permit or by its owner"))
    }

    /// Takes one at once, even when none is left, to make a worktree: looks wait the longer for it.
    #[must_use]
    pub fn take_now(&self) -> Permit {
        lock(&self.0).free -= 1;
        Permit(self.0.clone())
    }

    /// Free ones, and how many wait.
    #[must_use]
    pub fn state(&self) -> (isize, usize) {
        let inner = lock(&self.0);
        (inner.free, inner.waiting.len())
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the queue, given up when dropped.
struct Place {
    inner: Arc<Mutex<Inner>>,
    key: (Urgency, u64),
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.inner).waiting.remove(&self.key);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut inner = lock(&self.0);
            inner.free += 1;
            if inner.free <= 0 {
                return;
            }
            let Some((_, next)) = inner.waiting.pop_first() else { return };
            inner.free -= 1;
            next
        };
        // Whoever went meanwhile drops it, and it comes back here.
        drop(next.send(Self(self.0.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test]
    async fn the_most_urgent_goes_first_and_equals_in_their_order() {
        let permits = Permits::new(1);
        let held = permits.take(Urgency::Background).await;
        let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for (name, urgency) in [
            ("b1", Urgency::Background),
            ("a1", Urgency::Active),
            ("b2", Urgency::Background),
            ("c", Urgency::Asked),
            ("a2", Urgency::Active),
        ] {
            let (permits_of, order) = (permits.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _permit = permits_of.take(urgency).await;
                let _ = order.send(name);
            }));
            while permits.state().1 < tasks.len() {
                tokio::task::yield_now().await;
            }
        }
        drop((held, order));
        let mut names = Vec::new();
        while let Some(name) = seen.recv().await {
            names.push(name);
        }
        assert_eq!(names, ["c", "a1", "a2", "b1", "b2"]);
        assert_eq!(permits.state(), (1, 0));
    }

    #[tokio::test]
    async fn one_taken_at_once_makes_the_others_wait() {
        let permits = Permits::new(1);
        let (urgent, also_urgent) = (permits.take_now(), permits.take_now());
        assert_eq!(permits.state(), (-1, 0));
        let waiting = tokio::spawn({
            let permits = permits.clone();
            async move { permits.take(Urgency::Asked).await }
        });
        while permits.state().1 == 0 {
            tokio::task::yield_now().await;
        }
        drop(urgent);
        assert_eq!(permits.state(), (0, 1));
        drop(also_urgent);
        drop(waiting.await.expect("gets one"));
        assert_eq!(permits.state(), (1, 0));
    }

    proptest! {
        /// Whatever is taken, dropped, given up and aborted in whichever order: in the end all are there, and never are
        /// more out than there are.
        #[test]
        fn no_permit_is_lost_or_made(steps in prop::collection::vec((0_u8..4, 0_usize..8), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
            runtime.block_on(async {
                let permits = Permits::new(2);
                let (mut held, mut waiting) = (Vec::new(), Vec::new());
                for (step, which) in steps {
                    match step {
                        0 | 1 => {
                            let mut future = Box::pin({
                                let permits = permits.clone();
                                async move { permits.take(Urgency::Active).await }
                            });
                            match futures_util::poll!(&mut future) {
                                std::task::Poll::Ready(permit) => held.push(permit),
                                std::task::Poll::Pending => waiting.push(future),
                            }
                        }
                        2 if !held.is_empty() => drop(held.swap_remove(which % held.len())),
                        3 if !waiting.is_empty() => drop(waiting.swap_remove(which % waiting.len())),
                        _ => {}
                    }
                    let mut still = Vec::new();
                    for mut future in waiting {
                        match futures_util::poll!(&mut future) {
                            std::task::Poll::Ready(permit) => held.push(permit),
                            std::task::Poll::Pending => still.push(future),
                        }
                    }
                    waiting = still;
                    assert!(held.len() <= 2);
                    assert!(waiting.is_empty() || held.len() == 2, "somebody waits for a permit that is free");
                }
                drop((held, waiting));
                assert_eq!(permits.state(), (2, 0));
            });
        }
    }
}
