//! What the sampler has seen, for everybody to read: lateness of the last minute, hangs, who asks for a dump.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::turning::nanos;
use crate::metrics::runtime as metric;
use crate::model::hang::{HangReason, HangView, LagHistory, LagPoint, LagView};
use crate::model::time::Timestamp;

/// How long latenesses are kept.
const MINUTE_NANOS: u64 = 60_000_000_000;
/// Latenesses that are kept at most.
const LAGS_MAX: usize = 6_000;
/// How long a stretch of the history is.
const STRETCH_NANOS: u64 = 10_000_000_000;
/// How long after its end a stretch is looked at: by then it is known whether the process was stopped meanwhile.
const SETTLED_NANOS: u64 = 1_000_000_000;
/// Stretches that are kept: an hour.
const STRETCHES_MAX: usize = 360;
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
    history: Mutex<History>,
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

/// What timers were like, a stretch after the other.
#[derive(Default)]
struct History {
    /// The number of the stretch that is looked at next.
    next: u64,
    points: VecDeque<LagPoint>,
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
        self.look_back(&lags, now, at);
    }

    /// Notes every stretch that is over and was not noted. What was measured too long ago is not known any more.
    fn look_back(&self, lags: &VecDeque<(u64, u64)>, now: u64, wall: Timestamp) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let over = now.saturating_sub(SETTLED_NANOS) / STRETCH_NANOS;
        let first = history.next.max(over.saturating_sub(MINUTE_NANOS / STRETCH_NANOS));
        for stretch in first..over {
            let (from, to) = (stretch * STRETCH_NANOS, (stretch + 1) * STRETCH_NANOS);
            let inside = lags.iter().filter(|(at, _)| (from..to).contains(at));
            let LagView { p50, p99, max, samples } = LagView::of(inside.map(|lag| self.late_ms(*lag)).collect());
            if samples > 0 {
                let ago = i64::try_from((now - to) / 1_000_000).unwrap_or(0);
                let point = LagPoint { at: wall.plus_ms(-ago), p50_ms: p50, p99_ms: p99, max_ms: max, samples };
                history.points.push_back(point);
            }
        }
        history.next = over;
        let beyond = history.points.len().saturating_sub(STRETCHES_MAX);
        history.points.drain(..beyond);
    }

    /// How late timers were within the last hour.
    #[must_use]
    pub fn lag_history(&self) -> LagHistory {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        LagHistory { every_ms: STRETCH_NANOS / 1_000_000, points: history.points.iter().copied().collect() }
    }

    /// How late a timer was, in milliseconds, without the time in which the process was stopped.
    #[expect(clippy::cast_precision_loss, reason = "seconds in nanoseconds")]
    fn late_ms(&self, (at, late): (u64, u64)) -> f64 {
        self.length(at.saturating_sub(late), at) as f64 / 1e6
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
        recent.map(|lag| self.late_ms(lag)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const WALL: Timestamp = Timestamp::from_ms(1_000_000_000);

    /// A measurement every second, a microsecond late, between two seconds.
    fn each_second(from: u64, to: u64) -> VecDeque<(u64, u64)> {
        (from..to).map(|second| (second * SECOND, 1_000)).collect()
    }

    #[test]
    fn a_stretch_is_noted_once_it_is_settled_and_only_once() {
        let pulse = Pulse::default();
        let lags = each_second(1, 30);
        pulse.look_back(&lags, 10 * SECOND, WALL);
        pulse.look_back(&lags, 11 * SECOND - 1, WALL);
        assert_eq!(pulse.lag_history(), LagHistory { every_ms: 10_000, points: Vec::new() });
        for second in [11, 12, 20, 21, 22] {
            pulse.look_back(&lags, second * SECOND, WALL.plus_ms(i64::try_from(second).expect("small") * 1_000));
        }
        let seen = pulse.lag_history().points;
        let at = |seconds: i64| WALL.plus_ms(seconds * 1_000);
        let point =
            |seconds, samples| LagPoint { at: at(seconds), p50_ms: 0.001, p99_ms: 0.001, max_ms: 0.001, samples };
        assert_eq!(seen, [point(10, 9), point(20, 10)]);
    }

    #[test]
    fn a_hang_is_a_gap_and_then_a_late_point_but_a_stopped_process_is_nobodys_lateness() {
        let pulse = Pulse::default();
        let mut lags = each_second(1, 5);
        // For forty seconds nothing is measured; of the lateness half is a stop.
        lags.push_back((45 * SECOND, 40 * SECOND));
        pulse.was_stopped(10 * SECOND, 30 * SECOND);
        lags.extend(each_second(46, 52));
        pulse.look_back(&lags, 52 * SECOND, WALL);
        let seen: Vec<(usize, f64)> =
            pulse.lag_history().points.iter().map(|point| (point.samples, point.max_ms)).collect();
        assert_eq!(seen, [(4, 0.001), (5, 20_000.0)]);
    }

    #[test]
    fn an_hour_is_kept() {
        let pulse = Pulse::default();
        let mut wall = WALL;
        for stretch in 1..=STRETCHES_MAX as u64 + 40 {
            let second = stretch * 10;
            wall = WALL.plus_ms(i64::try_from(second).expect("small") * 1_000);
            pulse.look_back(&each_second(second - 10, second), (second + 1) * SECOND, wall.plus_ms(1_000));
        }
        let points = pulse.lag_history().points;
        assert_eq!((points.len(), points.last().map(|point| point.at)), (STRETCHES_MAX, Some(wall)));
        assert!(points.windows(2).all(|pair| pair[1].at.as_ms() - pair[0].at.as_ms() == 10_000));
    }
}
