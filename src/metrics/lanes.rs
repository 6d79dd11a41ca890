//! What is told by lane. Lanes are named by workers and roadmaps, so they are no closed set: the first sixteen have a
//! name of their own, for as long as the process lives, and the rest are one.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::table::{self, labels};
use super::{Kind, Metric, WAIT_BUCKETS};

const QUEUE_WAIT: Metric = Metric {
    name: "slugline_queue_wait_seconds",
    kind: Kind::Histogram,
    labels: "lane",
    help: "Time a run waited from the call to having its worktree.",
    buckets: WAIT_BUCKETS,
};
const DEPTH: Metric = Metric {
    name: "slugline_queue_depth",
    kind: Kind::Gauge,
    labels: "lane",
    help: "Todos that could be claimed now, by the lane they are for; (any) when that is open.",
    buckets: &[],
};
const OLDEST: Metric = Metric {
    name: "slugline_queue_oldest_timestamp_seconds",
    kind: Kind::Gauge,
    labels: "lane",
    help: "Since when the oldest of them has been seen to wait, in seconds since 1970; 0 when none waits.",
    buckets: &[],
};
const CAPACITY: Metric = Metric {
    name: "slugline_lane_capacity",
    kind: Kind::Gauge,
    labels: "lane",
    help: "Claims the lane may have at once; infinite without a limit.",
    buckets: &[],
};
const IN_USE: Metric = Metric {
    name: "slugline_lane_in_use",
    kind: Kind::Gauge,
    labels: "lane",
    help: "Claims the lane has.",
    buckets: &[],
};
const OPEN: Metric = Metric {
    name: "slugline_lane_open",
    kind: Kind::Gauge,
    labels: "lane",
    help: "1 while the lane gives out work; 0 while it is paused or opens again.",
    buckets: &[],
};
const CLAIMS: Metric = Metric {
    name: "slugline_claims_total",
    kind: Kind::Counter,
    labels: "lane,result",
    help: "Requests for a claim, by what came of them.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[QUEUE_WAIT, DEPTH, OLDEST, CAPACITY, IN_USE, OPEN, CLAIMS];

/// Lanes with a name of their own. Seven metrics, 40 series each.
const NAMED_MAX: usize = 16;
/// All the others.
const OTHER: &str = "other";
/// What is for whichever lane comes; no lane can be called so.
const ANY: &str = "(any)";

labels! {
    /// What came of a request for a claim.
    ClaimResult {
        /// It was granted, or held already.
        Granted = "granted",
        /// Nothing could be offered.
        Empty = "empty",
        /// Another worker holds it.
        Conflict = "conflict",
        /// The lane is paused or opening again.
        BreakerOpen = "breaker_open",
        /// The lane has as many claims as it may have.
        LaneFull = "lane_full",
        /// The todo cannot be given to this worker now.
        Invalid = "invalid",
    }
}

struct Lane {
    queue_wait: Histogram,
    capacity: Gauge,
    in_use: Gauge,
    open: Gauge,
    claims: Vec<Counter>,
    queue: Queue,
}

struct Queue {
    depth: Gauge,
    oldest: Gauge,
}

impl Queue {
    fn new(lane: &'static str) -> Self {
        Self { depth: table::gauge(&DEPTH, &[lane]), oldest: table::gauge(&OLDEST, &[lane]) }
    }

    #[expect(clippy::cast_precision_loss, reason = "a number of todos")]
    fn set(&self, level: Option<&QueueLevel>) {
        self.depth.set(level.map_or(0.0, |level| level.depth as f64));
        self.oldest.set(level.map_or(0.0, |level| level.oldest_seconds));
    }
}

impl Lane {
    fn new(lane: &'static str) -> Self {
        let claims = ClaimResult::ALL.iter().map(|result| table::counter(&CLAIMS, &[lane, result.as_str()])).collect();
        let [capacity, in_use, open] = [&CAPACITY, &IN_USE, &OPEN].map(|metric| table::gauge(metric, &[lane]));
        let queue_wait = table::histogram(&QUEUE_WAIT, &[lane]);
        Self { queue_wait, capacity, in_use, open, claims, queue: Queue::new(lane) }
    }
}

/// Lanes by name, and the name they are told under.
static LANES: RwLock<BTreeMap<&'static str, Arc<Lane>>> = RwLock::new(BTreeMap::new());
static UNBOUND: std::sync::LazyLock<Queue> = std::sync::LazyLock::new(|| Queue::new(ANY));

pub(super) fn create() {
    std::sync::LazyLock::force(&UNBOUND);
}

/// The lane's tables and the name they go by; made when it is new.
fn of(lane: &str) -> (&'static str, Arc<Lane>) {
    let find = |lanes: &BTreeMap<&'static str, Arc<Lane>>| {
        let known =
            lanes.get_key_value(lane).or_else(|| (lanes.len() > NAMED_MAX).then(|| lanes.get_key_value(OTHER))?);
        known.map(|(name, tables)| (*name, tables.clone()))
    };
    if let Some(found) = find(&LANES.read().unwrap_or_else(PoisonError::into_inner)) {
        return found;
    }
    let mut lanes = LANES.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = find(&lanes) {
        return found;
    }
    // Labels live as long as the process, and there are few of them.
    let name = if lanes.len() < NAMED_MAX { &*lane.to_owned().leak() } else { OTHER };
    let tables = lanes.entry(name).or_insert_with(|| Arc::new(Lane::new(name)));
    (name, tables.clone())
}

/// A request for a claim was decided.
pub fn claimed(lane: &str, result: ClaimResult) {
    of(lane).1.claims[result as usize].increment(1);
}

/// A run has its worktree.
pub fn queue_waited(lane: &str, waited: Duration) {
    of(lane).1.queue_wait.record(waited.as_secs_f64());
}

/// What waits for a lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueLevel {
    /// Todos that could be claimed.
    pub depth: usize,
    /// Since when the oldest of them waits, in seconds since 1970.
    pub oldest_seconds: f64,
}

/// How a lane stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LaneLevel {
    /// Claims it has.
    pub in_use: usize,
    /// Claims it may have; `None` without a limit.
    pub capacity: Option<usize>,
    /// Whether it gives out work.
    pub open: bool,
    /// What waits for it.
    pub queue: Option<QueueLevel>,
}

impl LaneLevel {
    /// Two lanes told as one.
    fn with(self, other: &Self) -> Self {
        let queue = match (self.queue, other.queue) {
            (Some(one), Some(two)) => Some(QueueLevel {
                depth: one.depth + two.depth,
                oldest_seconds: one.oldest_seconds.min(two.oldest_seconds),
            }),
            (one, two) => one.or(two),
        };
        Self {
            in_use: self.in_use + other.in_use,
            capacity: self.capacity.zip(other.capacity).map(|(one, two)| one + two),
            open: self.open || other.open,
            queue,
        }
    }
}

/// How every lane stands now, and what waits for any of them. A lane that is not among them is empty and open.
#[expect(clippy::cast_precision_loss, reason = "a number of claims")]
pub fn lanes_are<'a>(lanes: impl Iterator<Item = (&'a str, LaneLevel)>, unbound: Option<&QueueLevel>) {
    let mut levels: BTreeMap<&'static str, LaneLevel> = BTreeMap::new();
    for (lane, level) in lanes {
        let name = of(lane).0;
        let sum = levels.get(name).map_or(level, |other| level.with(other));
        levels.insert(name, sum);
    }
    UNBOUND.set(unbound);
    for (name, tables) in &*LANES.read().unwrap_or_else(PoisonError::into_inner) {
        let level =
            levels.get(name).copied().unwrap_or(LaneLevel { in_use: 0, capacity: None, open: true, queue: None });
        tables.in_use.set(level.in_use as f64);
        tables.capacity.set(level.capacity.map_or(f64::INFINITY, |capacity| capacity as f64));
        tables.open.set(if level.open { 1.0 } else { 0.0 });
        tables.queue.set(level.queue.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_lanes_have_names_and_the_rest_are_told_as_one() {
        super::super::install();
        let names: Vec<String> = (0..20).map(|number| format!("test-lane-{number}")).collect();
        let queue = Some(QueueLevel { depth: 1, oldest_seconds: 7.0 });
        let level = LaneLevel { in_use: 2, capacity: Some(3), open: false, queue };
        lanes_are(names.iter().map(|name| (name.as_str(), level)), None);
        let text = super::super::render();
        let named = text.lines().filter(|line| line.starts_with("slugline_lane_in_use{lane=\"test-lane-")).count();
        assert_eq!(named, NAMED_MAX);
        let other = |metric: &str, value: &str| {
            assert!(text.contains(&format!("{metric}{{lane=\"other\"}} {value}\n")), "{metric} is not {value}");
        };
        other("slugline_lane_in_use", "8");
        other("slugline_lane_capacity", "12");
        other("slugline_lane_open", "0");
        other("slugline_queue_depth", "4");
        other("slugline_queue_oldest_timestamp_seconds", "7");
        lanes_are(std::iter::empty(), queue.as_ref());
        let text = super::super::render();
        assert!(text.contains("slugline_lane_open{lane=\"other\"} 1\n"), "a lane nobody speaks of is open");
        assert!(text.contains("slugline_queue_depth{lane=\"(any)\"} 1\n"));
    }
}
