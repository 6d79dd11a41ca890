//! What happens to an actor that died: a pure policy over its recent history.

/// How much failure a child may show, and how its restarts are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Restarts allowed within the window; the next failure gives up.
    pub restarts_max: usize,
    /// Length of the window in milliseconds.
    pub window_ms: u64,
    /// Delay before the first restart, in milliseconds; doubles with each further one in the window.
    pub backoff_min_ms: u64,
    /// The delay never exceeds this, in milliseconds.
    pub backoff_max_ms: u64,
}

/// Whether the daemon cannot do its work without an actor of this kind. A slug's serves that slug alone.
#[must_use]
pub fn is_vital(kind: &str) -> bool {
    kind != "slug"
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// A handler panicked or returned an error; the text says which.
    Failed(String),
    /// It could not start.
    NotStarted(String),
    /// It was killed because a handler did not end; the text says which.
    Hung(String),
    /// It was killed from outside.
    Killed,
    /// It stopped because it was asked to or had nothing left to do.
    Stopped,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this many milliseconds.
    Restart {
        /// The delay, jitter included.
        after_ms: u64,
    },
    /// Its budget is used up: leave it down, visibly, until the window has passed.
    GiveUp,
    /// An orderly end.
    Ignore,
}

/// The failures of one child, newest last, in milliseconds of a clock that never steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    failures: Vec<u64>,
    /// Restarts since the daemon started.
    pub restarts: u32,
    /// Why it last failed.
    pub last_failure: Option<String>,
}

impl History {
    /// Decides what happens after `exit` at `now_ms`, and remembers it. `jitter` in `0.0..1.0` spreads restarts
    /// of many children over half their delay.
    pub fn on_exit(&mut self, budget: &Budget, exit: &Exit, now_ms: u64, jitter: f64) -> Verdict {
        let reason = match exit {
            Exit::Stopped => return Verdict::Ignore,
            Exit::Failed(reason) => reason.clone(),
            Exit::NotStarted(reason) => format!("could not start: {reason}"),
            Exit::Hung(reason) => format!("hung: {reason}"),
            Exit::Killed => "killed".to_owned(),
        };
        self.last_failure = Some(reason);
        self.failures.retain(|&at| at + budget.window_ms > now_ms);
        self.failures.push(now_ms);
        if self.failures.len() > budget.restarts_max {
            return Verdict::GiveUp;
        }
        self.restarts += 1;
        let doublings = u32::try_from(self.failures.len() - 1).unwrap_or(u32::MAX).min(16);
        let delay = budget.backoff_min_ms.saturating_mul(1 << doublings).min(budget.backoff_max_ms);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "delays are small"
        )]
        let spread = (delay as f64 * 0.5 * jitter.clamp(0.0, 1.0)) as u64;
        Verdict::Restart { after_ms: delay - delay / 2 + spread }
    }

    /// When a child that was given up may be tried again, in milliseconds of the same clock.
    #[must_use]
    pub fn retry_at_ms(&self, budget: &Budget) -> u64 {
        self.failures.first().map_or(0, |at| at + budget.window_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: Budget = Budget { restarts_max: 3, window_ms: 1_000, backoff_min_ms: 100, backoff_max_ms: 250 };

    fn failed() -> Exit {
        Exit::Failed("boom".into())
    }

    #[test]
    fn delays_double_up_to_the_limit_and_then_it_gives_up() {
        let mut history = History::default();
        let verdicts: Vec<Verdict> = (0..4).map(|at| history.on_exit(&BUDGET, &failed(), at, 1.0)).collect();
        assert_eq!(
            verdicts,
            [
                Verdict::Restart { after_ms: 100 },
                Verdict::Restart { after_ms: 200 },
                Verdict::Restart { after_ms: 250 },
                Verdict::GiveUp
            ]
        );
        assert_eq!((history.restarts, history.retry_at_ms(&BUDGET)), (3, 1_000));
    }

    #[test]
    fn an_orderly_end_is_no_failure() {
        let mut history = History::default();
        assert_eq!(history.on_exit(&BUDGET, &Exit::Stopped, 0, 0.5), Verdict::Ignore);
        assert_eq!(history, History::default());
    }

    #[test]
    fn failures_older_than_the_window_are_forgiven() {
        let mut history = History::default();
        for at in [0, 1, 2] {
            history.on_exit(&BUDGET, &failed(), at, 0.0);
        }
        assert!(matches!(history.on_exit(&BUDGET, &failed(), 1_002, 0.0), Verdict::Restart { .. }));
    }

    proptest! {
        #[test]
        fn never_more_restarts_in_a_window_than_the_budget(gaps in proptest::collection::vec(0_u64..600, 1..50)) {
            let (mut history, mut now, mut restarts) = (History::default(), 0, Vec::new());
            for gap in gaps {
                now += gap;
                if let Verdict::Restart { after_ms } = history.on_exit(&BUDGET, &failed(), now, 0.3) {
                    prop_assert!((BUDGET.backoff_min_ms / 2..=BUDGET.backoff_max_ms).contains(&after_ms));
                    restarts.push(now);
                }
            }
            for window in restarts.windows(BUDGET.restarts_max + 1) {
                prop_assert!(window[BUDGET.restarts_max] - window[0] >= BUDGET.window_ms);
            }
        }
    }
}
