//! Hangs: the runtime did not turn for longer than the threshold, and what was seen of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{RepoName, Slug};
use super::time::Timestamp;

/// Why there is a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HangReason {
    /// One worker was held by one thing; the others turned.
    WorkerStuck,
    /// Every worker was held.
    AllWorkersStuck,
    /// Nobody was seen to hold a worker, and still nothing new was begun.
    Unanswered,
    /// An actor did not end handling a message.
    HandlerHung,
    /// Somebody asked for it.
    ByHand,
    /// The daemon gives up.
    Meltdown,
}

impl HangReason {
    /// Its word in the API and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkerStuck => "worker_stuck",
            Self::AllWorkersStuck => "all_workers_stuck",
            Self::Unanswered => "unanswered",
            Self::HandlerHung => "handler_hung",
            Self::ByHand => "by_hand",
            Self::Meltdown => "meltdown",
        }
    }

    /// Whether it is about the runtime, and will be told to be over.
    #[must_use]
    pub const fn is_of_the_runtime(self) -> bool {
        matches!(self, Self::WorkerStuck | Self::AllWorkersStuck | Self::Unanswered)
    }

    /// Whether it says that something hung, and not merely that somebody looked.
    #[must_use]
    pub const fn is_hang(self) -> bool {
        !matches!(self, Self::ByHand | Self::Meltdown)
    }
}

/// What held a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Culprit {
    /// Index of the worker, when the thread was one.
    pub worker: Option<usize>,
    /// What it did, in words; absent when it is not known.
    pub doing: Option<String>,
    /// For which repository.
    pub repo: Option<RepoName>,
    /// For which slug.
    pub slug: Option<Slug>,
    /// The innermost function of ours on its stack; absent when no stack could be taken.
    pub function: Option<String>,
    /// How long it has held its worker, in milliseconds.
    pub held_ms: f64,
}

/// A hang, or a dump made by hand, as it is listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HangView {
    /// Its id.
    pub id: String,
    /// When it began.
    pub at: Timestamp,
    /// Why.
    pub reason: HangReason,
    /// How long it lasted when it was dumped, in milliseconds.
    pub lag_ms: f64,
    /// How long it lasted in all; absent while it lasts.
    pub lasted_ms: Option<f64>,
    /// What held the workers.
    pub culprits: Vec<Culprit>,
}

/// What a hang is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchdogTerms {
    /// A lag beyond this is a hang, in milliseconds.
    pub threshold_ms: u64,
    /// How often the lag is measured, in milliseconds.
    pub interval_ms: u64,
    /// An actor that handles a message for so long hangs, in milliseconds.
    pub handler_timeout_ms: u64,
    /// Dumps of hangs are at least so far apart, in milliseconds; those in between are only counted.
    pub dump_every_ms: u64,
    /// Dumps that are kept.
    pub dumps_max: usize,
    /// Whether stacks are taken.
    pub stacks: bool,
}

/// How late the runtime was within the last minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LagView {
    /// Half of the measurements were at most so late, in milliseconds.
    pub p50: f64,
    /// 99 of 100 were.
    pub p99: f64,
    /// All were.
    pub max: f64,
    /// How many there are.
    pub samples: usize,
}

/// How late timers were in one stretch of the last hour.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LagPoint {
    /// When the stretch ended.
    pub at: Timestamp,
    /// Half of the measurements were at most so late, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 were.
    pub p99_ms: f64,
    /// All were.
    pub max_ms: f64,
    /// How many there are.
    pub samples: usize,
}

/// How late timers were within the last hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LagHistory {
    /// How long a stretch is, in milliseconds.
    pub every_ms: u64,
    /// Oldest first; none for a stretch in which nothing was measured.
    pub points: Vec<LagPoint>,
}

impl LagView {
    /// Of these latenesses, in milliseconds.
    #[must_use]
    pub fn of(mut lags: Vec<f64>) -> Self {
        lags.sort_by(f64::total_cmp);
        let rank = |percent: usize| lags.get((lags.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Self {
            p50: rank(50).unwrap_or(0.0),
            p99: rank(99).unwrap_or(0.0),
            max: lags.last().copied().unwrap_or(0.0),
            samples: lags.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_ranks_they_are_named_for() {
        let view = LagView::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((view.p50, view.p99, view.max, view.samples), (50.0, 99.0, 100.0, 100));
        assert_eq!(LagView::of(vec![7.0]), LagView { p50: 7.0, p99: 7.0, max: 7.0, samples: 1 });
        assert_eq!(LagView::of(Vec::new()), LagView::default());
    }
}
