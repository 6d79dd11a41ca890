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
const CPU: Metric = Metric {
    name: "slugline_subprocess_cpu_seconds_total",
    kind: Kind::Counter,
    labels: "phase",
    help: "Processor time of commands, in whole seconds as they add up.",
    buckets: &[],
};
const OUTPUT: Metric = Metric {
    name: "slugline_subprocess_output_bytes_total",
    kind: Kind::Counter,
    labels: "",
    help: "Bytes commands printed.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[RUNNING, EXITS, KILLS, CPU, OUTPUT];

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
    cpu: Vec<Counter>,
    cpu_left_ms: [std::sync::atomic::AtomicU64; 7],
    output: Counter,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    running: Phase::ALL.map(|phase| table::gauge(&RUNNING, &[phase.as_str()])).into(),
    exits: Phase::ALL
        .map(|phase| {
            ExitResult::ALL.iter().map(|result| table::counter(&EXITS, &[phase.as_str(), result.as_str()])).collect()
        })
        .into(),
    kills: table::counter(&KILLS, &[]),
    cpu: Phase::ALL.map(|phase| table::counter(&CPU, &[phase.as_str()])).into(),
    cpu_left_ms: Default::default(),
    output: table::counter(&OUTPUT, &[]),
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

/// How a command ended, how many processes had to be signalled, what it used and printed.
pub fn command_exited(phase: Phase, result: ExitResult, killed: u32, cpu: Duration, output_bytes: u64) {
    use std::sync::atomic::Ordering::Relaxed;
    TABLES.exits[phase as usize][result as usize].increment(1);
    TABLES.kills.increment(u64::from(killed));
    TABLES.output.increment(output_bytes);
    // The exporter counts in whole numbers: what is below a second waits for the next command.
    let spent = u64::try_from(cpu.as_millis()).unwrap_or(0);
    let left = &TABLES.cpu_left_ms[phase as usize];
    let whole = (left.fetch_add(spent, Relaxed) + spent) / 1_000;
    if whole > 0 {
        left.fetch_sub(whole * 1_000, Relaxed);
        TABLES.cpu[phase as usize].increment(whole);
    }
}
