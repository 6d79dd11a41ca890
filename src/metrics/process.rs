//! Commands of runs.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Gauge};

use super::table::{self, labels};
use super::{Kind, Metric};
use crate::model::phase::Phase;

const RUNNING: Metric = Metric {
    name: "slugline_subprocesses",
    kind: Kind::Gauge,
    labels: "phase",
    help: "Commands running now.",
    buckets: &[],
};
const EXITS: Metric = Metric {
    name: "slugline_subprocess_exits_total",
    kind: Kind::Counter,
    labels: "phase,result",
    help: "Commands that ended, by how.",
    buckets: &[],
};
const KILLS: Metric = Metric {
    name: "slugline_subprocess_kills_total",
    kind: Kind::Counter,
    labels: "",
    help: "Processes that had to be signalled to end a command.",
    buckets: &[],
};
const ORPHANS: Metric = Metric {
    name: "slugline_subprocess_orphans_reaped_total",
    kind: Kind::Counter,
    labels: "",
    help: "Processes that a command left behind when it ended by itself, and that were ended after it.",
    buckets: &[],
};
const CPU: Metric = Metric {
    name: "slugline_subprocess_cpu_seconds_total",
    kind: Kind::Seconds,
    labels: "phase",
    help: "Processor time of commands.",
    buckets: &[],
};
const OUTPUT: Metric = Metric {
    name: "slugline_subprocess_output_bytes_total",
    kind: Kind::Counter,
    labels: "",
    help: "Bytes commands printed.",
    buckets: &[],
};

const TRUNCATED: Metric = Metric {
    name: "slugline_subprocess_output_truncated_total",
    kind: Kind::Counter,
    labels: "",
    help: "Commands that printed more than a log keeps.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[RUNNING, EXITS, KILLS, ORPHANS, CPU, OUTPUT, TRUNCATED];

labels! {
    /// How a command ended.
    ExitResult {
        /// With code 0.
        Ok = "ok",
        /// With another code.
        Nonzero = "nonzero",
        /// By a signal from elsewhere.
        Signal = "signal",
        /// At its deadline.
        Timeout = "timeout",
        /// By us, for another reason.
        Killed = "killed",
        /// It never started.
        SpawnError = "spawn_error",
    }
}

struct Tables {
    running: Vec<Gauge>,
    exits: Vec<Vec<Counter>>,
    kills: Counter,
    orphans: Counter,
    cpu: Vec<Gauge>,
    output: Counter,
    truncated: Counter,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    running: Phase::ALL.map(|phase| table::gauge(&RUNNING, &[phase.as_str()])).into(),
    exits: Phase::ALL
        .map(|phase| {
            ExitResult::ALL.iter().map(|result| table::counter(&EXITS, &[phase.as_str(), result.as_str()])).collect()
        })
        .into(),
    kills: table::counter(&KILLS, &[]),
    orphans: table::counter(&ORPHANS, &[]),
    cpu: Phase::ALL.map(|phase| table::gauge(&CPU, &[phase.as_str()])).into(),
    output: table::counter(&OUTPUT, &[]),
    truncated: table::counter(&TRUNCATED, &[]),
});

pub(super) fn create() {
    LazyLock::force(&TABLES);
}

/// A command begins.
pub fn command_started(phase: Phase) {
    TABLES.running[phase as usize].increment(1.0);
}

/// A command is over, however it ended.
pub fn command_ended(phase: Phase) {
    TABLES.running[phase as usize].decrement(1.0);
}

/// What a command did, once nothing of it is left.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// How it ended.
    pub result: ExitResult,
    /// Processes that had to be signalled.
    pub killed: u32,
    /// Processor time of all its processes.
    pub cpu: Duration,
    /// Bytes it printed.
    pub output_bytes: u64,
    /// Whether it printed more than its log keeps.
    pub truncated: bool,
}

/// A command never started.
pub fn command_not_started(phase: Phase) {
    TABLES.exits[phase as usize][ExitResult::SpawnError as usize].increment(1);
}

/// A command ended.
pub fn command_exited(phase: Phase, ended: &Ended) {
    TABLES.exits[phase as usize][ended.result as usize].increment(1);
    TABLES.kills.increment(u64::from(ended.killed));
    if matches!(ended.result, ExitResult::Ok | ExitResult::Nonzero | ExitResult::Signal) {
        TABLES.orphans.increment(u64::from(ended.killed));
    }
    TABLES.cpu[phase as usize].increment(ended.cpu.as_secs_f64());
    TABLES.output.increment(ended.output_bytes);
    TABLES.truncated.increment(u64::from(ended.truncated));
}
