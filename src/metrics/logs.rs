//! The log: how many lines of each level, and which are written.

use std::sync::OnceLock;

use metrics::Counter;
use tracing::Level;
use tracing_subscriber::filter::Targets;

use super::table;
use super::{Kind, Metric};

const MESSAGES: Metric = Metric {
    name: "slugline_log_messages_total",
    kind: Kind::Counter,
    labels: "level",
    help: "Lines that were logged, by level.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[MESSAGES];

/// From the loudest.
const LEVELS: [(Level, &str); 5] = [
    (Level::ERROR, "error"),
    (Level::WARN, "warn"),
    (Level::INFO, "info"),
    (Level::DEBUG, "debug"),
    (Level::TRACE, "trace"),
];

/// There once there is a recorder: what is logged before is not counted.
static COUNTERS: OnceLock<[Counter; 5]> = OnceLock::new();

pub(super) fn create() {
    COUNTERS.get_or_init(|| LEVELS.map(|(_, level)| table::counter(&MESSAGES, &[level])));
}

/// A line was logged.
pub fn logged(level: Level) {
    if let Some(counters) = COUNTERS.get() {
        let at = LEVELS.iter().position(|(known, _)| *known == level).unwrap_or(0);
        counters[at].increment(1);
    }
}

/// Reads a filter: levels by target, as in `info,slugline::git=debug`. One that names no level for everything is refused:
/// it would be a misspelt level, or a log that is silent about the rest.
pub fn parse(filter: &str) -> Result<Targets, String> {
    let hint = "say error, warn, info, debug, trace, off, or a filter such as info,slugline::git=debug";
    let targets: Targets = filter.parse().map_err(|error| format!("{filter:?}: {error}; {hint}"))?;
    match targets.default_level() {
        Some(_) => Ok(targets),
        None => Err(format!("{filter:?} names no level for what it does not name; {hint}")),
    }
}

/// What says which lines are written, and changes it.
pub trait Filter: Send + Sync {
    /// The filter in force, such as `info,slugline::git=debug`.
    fn current(&self) -> String;
    /// Puts another one in force, or says what is wrong with it.
    fn change(&self, filter: &str) -> Result<(), String>;
}

static FILTER: OnceLock<Box<dyn Filter>> = OnceLock::new();

/// Tells who filters, once per process.
pub fn filter_by(filter: Box<dyn Filter>) {
    let _ = FILTER.set(filter);
}

/// Who filters; nobody in a process that does not log.
#[must_use]
pub fn filter() -> Option<&'static dyn Filter> {
    FILTER.get().map(AsRef::as_ref)
}
