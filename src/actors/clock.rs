//! The clocks of the daemon, and the one source of chance.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use crate::model::ids::OperationId;
use crate::model::time::{Awake, Moment, Timestamp};

/// A difference between wall clock and waking time beyond this is a step of the wall clock or a sleep of the machine;
/// below it is the drift of two clocks and changes nothing that is shown.
const STEP_MS: i64 = 1_000;

/// Says what time it is, and rolls the dice. Clones show the same time; tests put their own clocks and dice in.
#[derive(Clone)]
pub struct Clock {
    hands: Arc<Inner>,
    /// Any number, another one with every call.
    dice: Arc<dyn Fn() -> u64 + Send + Sync>,
}

struct Inner {
    wall: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// Milliseconds of a clock that never steps and stands still while the machine sleeps.
    running: Box<dyn Fn() -> i64 + Send + Sync>,
    /// What is added to `running`, so that waking time goes on where the last daemon left it.
    before: AtomicI64,
    offset_ms: AtomicI64,
}

impl Clock {
    /// The clocks of this machine. `Instant` is `CLOCK_MONOTONIC`, which does not count sleep on Linux.
    #[must_use]
    pub fn system() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let wall = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        };
        Self::of(wall, || i64::try_from(START.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// Clocks that ask the given functions: wall time, and milliseconds of waking since any fixed point.
    #[must_use]
    pub fn of(
        wall: impl Fn() -> Timestamp + Send + Sync + 'static,
        running: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        let (first_wall, first_running) = (wall().as_ms(), running());
        let hands = Arc::new(Inner {
            wall: Box::new(wall),
            running: Box::new(running),
            before: AtomicI64::new(-first_running),
            offset_ms: AtomicI64::new(first_wall),
        });
        Self { hands, dice: Arc::new(random) }
    }

    /// The same clock with other dice.
    #[must_use]
    pub fn with_dice(self, dice: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { dice: Arc::new(dice), ..self }
    }

    /// Waking time goes on from here at least, where an earlier daemon left it.
    pub fn at_least(&self, awake: Awake) {
        if self.moment().awake < awake {
            let hands = &self.hands;
            hands.before.store(awake.as_ms() - (hands.running)(), Ordering::SeqCst);
            hands.offset_ms.store((hands.wall)().as_ms() - awake.as_ms(), Ordering::SeqCst);
        }
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.hands.wall)()
    }

    /// Both clocks, read together.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let hands = &self.hands;
        let wall = (hands.wall)();
        let awake = (hands.running)() + hands.before.load(Ordering::SeqCst);
        let seen = wall.as_ms() - awake;
        let kept = hands.offset_ms.load(Ordering::SeqCst);
        let offset_ms = if (seen - kept).abs() > STEP_MS { seen } else { kept };
        if offset_ms != kept {
            tracing::warn!(
                by_ms = seen - kept,
                "the wall clock was stepped or the machine slept; leases are not touched by it"
            );
            hands.offset_ms.store(offset_ms, Ordering::SeqCst);
        }
        Moment { wall, awake: Awake::from_ms(awake), offset_ms }
    }

    /// A number in `0.0..1.0` that differs from call to call, to spread retries.
    #[must_use]
    pub fn jitter(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a fraction needs no more than 53 bits")]
        let fraction = ((self.dice)() >> 11) as f64 / (1_u64 << 53) as f64;
        fraction
    }

    /// A new operation id; ids made later sort later.
    #[must_use]
    pub fn operation_id(&self) -> OperationId {
        let at = u64::try_from(self.now().as_ms()).unwrap_or(0);
        let random = u128::from((self.dice)()) << 64 | u128::from((self.dice)());
        let id = ulid::Ulid::from_parts(at, random).to_string();
        OperationId::parse(&id).expect("a ULID is 26 characters of Crockford base 32")
    }
}

/// A new id for what is outside of the actors' time.
#[must_use]
pub fn operation_id() -> OperationId {
    OperationId::parse(&ulid::Ulid::generate().to_string()).expect("a ULID is 26 characters of Crockford base 32")
}

/// Numbers unlike each other, not secret: the system's random keys, stirred anew for each.
fn random() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock with two hands a test can turn.
    fn clock() -> (Clock, Arc<AtomicI64>, Arc<AtomicI64>) {
        let (wall, running) = (Arc::new(AtomicI64::new(1_000_000)), Arc::new(AtomicI64::new(77)));
        let (w, r) = (wall.clone(), running.clone());
        let clock = Clock::of(move || Timestamp::from_ms(w.load(Ordering::SeqCst)), move || r.load(Ordering::SeqCst));
        (clock, wall, running)
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_what_is_shown_and_not_what_is_counted() {
        let (clock, wall, running) = clock();
        let end = clock.moment().awake.plus_ms(60_000);
        let ten_years = 10 * 365 * 86_400_000_i64;
        for step in [ten_years, -2 * ten_years, ten_years, 3_600_000, -7_200_000] {
            wall.fetch_add(step, Ordering::SeqCst);
            running.fetch_add(10, Ordering::SeqCst);
            wall.fetch_add(10, Ordering::SeqCst);
            let moment = clock.moment();
            assert!(moment.awake < end);
            assert_eq!(moment.wall_of(moment.awake), moment.wall);
        }
        assert_eq!(clock.moment().awake, Awake::from_ms(50));
    }

    #[test]
    fn drift_of_the_two_clocks_does_not_change_what_is_shown() {
        let (clock, wall, running) = clock();
        let end = clock.moment().awake.plus_ms(60_000);
        let shown = clock.moment().wall_of(end);
        wall.fetch_add(10_400, Ordering::SeqCst);
        running.fetch_add(10_000, Ordering::SeqCst);
        assert_eq!(clock.moment().wall_of(end), shown);
    }

    #[test]
    fn sleep_and_the_time_without_a_daemon_are_not_counted() {
        let (clock, wall, running) = clock();
        clock.at_least(Awake::from_ms(5_000));
        assert_eq!(clock.moment().awake, Awake::from_ms(5_000));
        wall.fetch_add(8 * 3_600_000, Ordering::SeqCst);
        running.fetch_add(20, Ordering::SeqCst);
        assert_eq!(clock.moment().awake, Awake::from_ms(5_020));
    }
}
