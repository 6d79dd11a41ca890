//! One timer for the earliest of many times. Being set earlier moves it; there is never a second sleeper.

use std::time::Instant;

use tokio_util::task::AbortOnDropHandle;

/// Tells once, at the earliest time it was set to.
#[derive(Default)]
pub struct Alarm {
    set: Option<(Instant, AbortOnDropHandle<()>)>,
}

impl Alarm {
    /// Has `tell` called at `at`, unless that is to happen earlier anyway.
    pub fn set(&mut self, at: Instant, tell: impl FnOnce() + Send + 'static) {
        if self.set.as_ref().is_some_and(|(due, _)| *due <= at) {
            return;
        }
        let sleeper = tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            tell();
        });
        // The one that slept longer is dropped, and with that it ends.
        self.set = Some((at, AbortOnDropHandle::new(sleeper)));
    }

    /// It told, or what it was set for is over: from here on it is not set.
    pub fn clear(&mut self) {
        self.set = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn however_often_it_is_set_one_sleeper_is_left_and_tells_at_the_earliest_time() {
        let (told, mut heard) = mpsc::unbounded_channel();
        let (mut alarm, alive, begun) = (Alarm::default(), Arc::new(()), Instant::now());
        for step in 0..1_000_u64 {
            // Earlier and earlier, and as often later.
            for at in [Duration::from_secs(3_600 - step), Duration::from_secs(7_200 + step)] {
                let (told, alive) = (told.clone(), alive.clone());
                alarm.set(begun + at, move || {
                    let _ = (told.send(at), alive);
                });
            }
        }
        while Arc::strong_count(&alive) > 2 {
            tokio::task::yield_now().await;
        }
        let soon = told.clone();
        alarm.set(begun, move || soon.send(Duration::ZERO).expect("is heard"));
        assert_eq!(heard.recv().await, Some(Duration::ZERO));
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
        alarm.clear();
        let (again, later) = (told.clone(), Duration::from_millis(1));
        alarm.set(Instant::now() + later, move || again.send(later).expect("is heard"));
        assert_eq!(heard.recv().await, Some(later), "after it told it can be set to any time again");
    }
}
