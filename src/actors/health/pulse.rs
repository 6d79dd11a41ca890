//! What the sampler has seen, for everybody to read: lateness of the last minute, hangs, who asks for a dump.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::turning::nanos;
use crate::metrics::runtime as metric;
use crate::model::hang::{HangReason, HangView, LagView};
use crate::model::time::Timestamp;

/// How long latenesses are kept.
const MINUTE_NANOS: u64 = 60_000_000_000;
/// Latenesses that are kept at most.
const LAGS_MAX: usize = 6_000;
/// Dumps that may be asked for at once.
const ASKS_MAX: usize = 4;

/// Somebody wants a dump.
pub struct Ask {
    /// Why.
    pub reason: HangReason,
    /// In words, when there is more to say.
    pub note: Option<String>,
    /// Told its id, or why there is none.
    pub reply: oneshot::Sender<Result<HangView, String>>,
}

/// The state of the runtime, as it is seen from outside.
#[derive(Default)]
pub struct Pulse {
    /// When the runtime last answered.
    answered: AtomicU64,
    /// When the watchdog's actor was last seen.
    watchdog: AtomicU64,
    /// How late timers were: when that was known, and by how many nanoseconds.
    lags: Mutex<VecDeque<(u64, u64)>>,
    /// When this process was stopped, from and to.
    stops: Mutex<Vec<(u64, u64)>>,
    hangs: AtomicU64,
    dumps: AtomicU64,
    suppressed: AtomicU64,
    hanging: AtomicBool,
    asks: Mutex<Vec<Ask>>,
    signal: OnceLock<std::sync::Arc<AtomicBool>>,
    sampler: OnceLock<Thread>,
}

impl Pulse {
    /// The runtime answered.
    pub fn answer(&self, at: Timestamp) {
        self.answered.store(nanos(), Ordering::Release);
        metric::pinged(at);
    }

    /// When it last did, by [`nanos`].
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// The watchdog's actor turns.
    pub fn watchdog_turns(&self) {
        self.watchdog.store(nanos(), Ordering::Release);
    }

    /// How long ago it was last seen to; `None` when it never was.
    #[must_use]
    pub fn watchdog_silent_for(&self) -> Option<Duration> {
        let at = self.watchdog.load(Ordering::Acquire);
        (at != 0).then(|| Duration::from_nanos(nanos().saturating_sub(at)))
    }

    /// A timer was so late; so the runtime turns.
    pub fn lag(&self, late: Duration, at: Timestamp) {
        self.answer(at);
        metric::lagged(metric::RuntimeKind::Main, late);
        let now = nanos();
        let mut lags = self.lags();
        lags.push_back((now, u64::try_from(late.as_nanos()).unwrap_or(u64::MAX)));
        while lags.len() > LAGS_MAX || lags.front().is_some_and(|(at, _)| now - at > MINUTE_NANOS) {
            lags.pop_front();
        }
    }

    fn lags(&self) -> MutexGuard<'_, VecDeque<(u64, u64)>> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stops(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process was stopped meanwhile: nobody is charged with that.
    pub(super) fn was_stopped(&self, from: u64, to: u64) {
        let mut stops = self.stops();
        stops.retain(|(_, ended)| to.saturating_sub(*ended) < 2 * MINUTE_NANOS);
        stops.push((from, to));
    }

    /// How long something lasted, in nanoseconds, without the time in which the process was stopped.
    #[must_use]
    pub fn length(&self, from: u64, to: u64) -> u64 {
        let stops = self.stops();
        let stopped: u64 = stops.iter().map(|(begun, ended)| to.min(*ended).saturating_sub(from.max(*begun))).sum();
        to.saturating_sub(from).saturating_sub(stopped)
    }

    /// How late timers were within the last minute, in milliseconds, oldest first.
    #[must_use]
    pub fn last_minute(&self) -> Vec<f64> {
        let now = nanos();
        let lags: Vec<(u64, u64)> = self.lags().iter().copied().collect();
        let recent = lags.into_iter().filter(|(at, _)| now.saturating_sub(*at) <= MINUTE_NANOS);
        #[expect(clippy::cast_precision_loss, reason = "seconds in nanoseconds")]
        let ms = |(at, late): (u64, u64)| self.length(at.saturating_sub(late), at) as f64 / 1e6;
        recent.map(ms).collect()
    }

    /// The same in three numbers.
    #[must_use]
    pub fn lag_view(&self) -> LagView {
        LagView::of(self.last_minute())
    }

    /// Hangs so far, dumps of them, and hangs that were not dumped because the last dump was too near.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        (read(&self.hangs), read(&self.dumps), read(&self.suppressed))
    }

    /// Whether the runtime hangs right now.
    #[must_use]
    pub fn is_hanging(&self) -> bool {
        self.hanging.load(Ordering::Acquire)
    }

    pub(super) fn hang_began(&self, reason: HangReason, dumped: bool) {
        self.hanging.store(true, Ordering::Release);
        self.hang_seen(reason, dumped);
    }

    pub(super) fn hang_seen(&self, reason: HangReason, dumped: bool) {
        self.hangs.fetch_add(1, Ordering::AcqRel);
        metric::hung(reason);
        if !dumped {
            self.suppressed.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn hang_over(&self) {
        self.hanging.store(false, Ordering::Release);
    }

    pub(super) fn dumped(&self, at: Timestamp) {
        self.dumps.fetch_add(1, Ordering::AcqRel);
        metric::dumped(at);
    }

    /// Asks for a dump; the error says that too many are asked for, or nobody makes them.
    pub fn ask(
        &self,
        reason: HangReason,
        note: Option<String>,
    ) -> Result<oneshot::Receiver<Result<HangView, String>>, String> {
        let sampler = self.sampler.get().ok_or("nobody makes dumps in this daemon")?;
        let (reply, told) = oneshot::channel();
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        if asks.len() >= ASKS_MAX {
            return Err(format!("{} dumps are asked for already", asks.len()));
        }
        asks.push(Ask { reason, note, reply });
        drop(asks);
        sampler.unpark();
        Ok(told)
    }

    pub(super) fn take_asks(&self) -> Vec<Ask> {
        std::mem::take(&mut *self.asks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A dump is made whenever this flag is found set, and it is cleared.
    pub fn on_signal(&self, flag: std::sync::Arc<AtomicBool>) {
        let _ = self.signal.set(flag);
    }

    pub(super) fn was_signalled(&self) -> bool {
        self.signal.get().is_some_and(|flag| flag.swap(false, Ordering::AcqRel))
    }

    pub(super) fn is_sampled_by(&self, thread: Thread) {
        let _ = self.sampler.set(thread);
    }
}
