//! The runtime: lateness, hangs, dumps; the daemon's own duties, readiness and incidents.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::table::{self, labels};
use super::{Kind, LAG_BUCKETS, Metric, PHASE_BUCKETS};
use crate::model::hang::HangReason;
use crate::model::incident::Severity;
use crate::model::job::{JobName, JobResult};
use crate::model::readiness::{Criterion, Verdict};
use crate::model::time::Timestamp;

const LAG: Metric = Metric {
    name: "slugline_runtime_lag_seconds",
    kind: Kind::Histogram,
    labels: "runtime",
    help: "How late a timer fired (main), or a blocking task began (blocking).",
    buckets: LAG_BUCKETS,
};
const HANGS: Metric = Metric {
    name: "slugline_hangs_total",
    kind: Kind::Counter,
    labels: "kind",
    help: "Times the runtime, or an actor, did not turn for longer than the threshold.",
    buckets: &[],
};
const DUMPS: Metric = Metric {
    name: "slugline_hang_dumps_total",
    kind: Kind::Counter,
    labels: "",
    help: "Dumps that were written, of hangs and by hand.",
    buckets: &[],
};
const LAST_DUMP: Metric = Metric {
    name: "slugline_hang_last_dump_timestamp_seconds",
    kind: Kind::Gauge,
    labels: "",
    help: "When the last dump was written; 0 when none was.",
    buckets: &[],
};
const LAST_PING: Metric = Metric {
    name: "slugline_watchdog_last_ping_timestamp_seconds",
    kind: Kind::Gauge,
    labels: "",
    help: "When the runtime last answered the watchdog.",
    buckets: &[],
};
/// The label of a job is `name`: Prometheus calls what it scrapes `job`.
const JOB_RUNS: Metric = Metric {
    name: "slugline_job_runs_total",
    kind: Kind::Counter,
    labels: "name,result",
    help: "Runs of the daemon's own duties, by how they ended.",
    buckets: &[],
};
const JOB_SECONDS: Metric = Metric {
    name: "slugline_job_duration_seconds",
    kind: Kind::Histogram,
    labels: "name",
    help: "Time a run of a duty took.",
    buckets: PHASE_BUCKETS,
};
const JOB_RUNNING: Metric = Metric {
    name: "slugline_job_running",
    kind: Kind::Gauge,
    labels: "name",
    help: "1 while the duty is being done.",
    buckets: &[],
};
const READINESS: Metric = Metric {
    name: "slugline_readiness",
    kind: Kind::Gauge,
    labels: "criterion,verdict",
    help: "1 for the verdict that stands; criterion all is the daemon's.",
    buckets: &[],
};
const INCIDENTS: Metric = Metric {
    name: "slugline_incidents",
    kind: Kind::Gauge,
    labels: "severity",
    help: "Incidents that are not resolved.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] =
    &[LAG, HANGS, DUMPS, LAST_DUMP, LAST_PING, JOB_RUNS, JOB_SECONDS, JOB_RUNNING, READINESS, INCIDENTS];

labels! {
    /// Which part of the runtime.
    RuntimeKind {
        /// The workers.
        Main = "main",
        /// The threads for what blocks.
        Blocking = "blocking",
    }
}
labels! {
    /// What hung.
    HangKind {
        /// The runtime.
        Runtime = "runtime",
        /// An actor.
        Actor = "actor",
    }
}

const RESULTS: [(JobResult, &str); 4] =
    [(JobResult::Ok, "ok"), (JobResult::Failed, "failed"), (JobResult::Hung, "hung"), (JobResult::Held, "held")];
const VERDICTS: [Verdict; 3] = [Verdict::Go, Verdict::NoGo, Verdict::Unknown];
const SEVERITIES: [(Severity, &str); 2] = [(Severity::Warning, "warning"), (Severity::Critical, "critical")];

struct Tables {
    lag: Vec<Histogram>,
    hangs: Vec<Counter>,
    dumps: Counter,
    last_dump: Gauge,
    last_ping: Gauge,
    job_runs: Vec<Vec<Counter>>,
    job_seconds: Vec<Histogram>,
    job_running: Vec<Gauge>,
    readiness: Vec<Vec<Gauge>>,
    incidents: Vec<Gauge>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let jobs = || JobName::ALL.iter().map(|job| job.as_str());
    let criteria = Criterion::ALL.iter().map(|criterion| criterion.as_str()).chain(["all"]);
    Tables {
        lag: RuntimeKind::ALL.iter().map(|kind| table::histogram(&LAG, &[kind.as_str()])).collect(),
        hangs: HangKind::ALL.iter().map(|kind| table::counter(&HANGS, &[kind.as_str()])).collect(),
        dumps: table::counter(&DUMPS, &[]),
        last_dump: table::gauge(&LAST_DUMP, &[]),
        last_ping: table::gauge(&LAST_PING, &[]),
        job_runs: jobs()
            .map(|job| RESULTS.iter().map(|(_, result)| table::counter(&JOB_RUNS, &[job, result])).collect())
            .collect(),
        job_seconds: jobs().map(|job| table::histogram(&JOB_SECONDS, &[job])).collect(),
        job_running: jobs().map(|job| table::gauge(&JOB_RUNNING, &[job])).collect(),
        readiness: criteria
            .map(|criterion| {
                VERDICTS.iter().map(|verdict| table::gauge(&READINESS, &[criterion, verdict.as_str()])).collect()
            })
            .collect(),
        incidents: SEVERITIES.iter().map(|(_, severity)| table::gauge(&INCIDENTS, &[severity])).collect(),
    }
});

pub(super) fn create() {
    LazyLock::force(&TABLES);
}

/// Something began so late.
pub fn lagged(runtime: RuntimeKind, late: Duration) {
    TABLES.lag[runtime as usize].record(late.as_secs_f64());
}

/// Something hung.
pub fn hung(reason: HangReason) {
    let kind = if reason == HangReason::HandlerHung { HangKind::Actor } else { HangKind::Runtime };
    TABLES.hangs[kind as usize].increment(1);
}

/// A dump was written.
pub fn dumped(at: Timestamp) {
    TABLES.dumps.increment(1);
    TABLES.last_dump.set(at.as_seconds());
}

/// The runtime answered.
pub fn pinged(at: Timestamp) {
    TABLES.last_ping.set(at.as_seconds());
}

/// A duty is being done, or is not any more.
pub fn job_running(job: JobName, running: bool) {
    TABLES.job_running[job as usize].set(if running { 1.0 } else { 0.0 });
}

/// A run of a duty is over.
pub fn job_ended(job: JobName, result: JobResult, took: Duration) {
    let result = RESULTS.iter().position(|(known, _)| *known == result).unwrap_or(0);
    TABLES.job_runs[job as usize][result].increment(1);
    TABLES.job_seconds[job as usize].record(took.as_secs_f64());
}

/// What is said of every criterion, and of the daemon.
pub fn readiness(verdict: Verdict, criteria: impl Iterator<Item = (Criterion, Verdict)>) {
    let set = |gauges: &[Gauge], verdict: Verdict| {
        for (gauge, known) in gauges.iter().zip(VERDICTS) {
            gauge.set(if known == verdict { 1.0 } else { 0.0 });
        }
    };
    set(&TABLES.readiness[Criterion::ALL.len()], verdict);
    for (criterion, verdict) in criteria {
        set(&TABLES.readiness[criterion as usize], verdict);
    }
}

/// How many incidents of a severity are not resolved.
pub fn incidents(severity: Severity, count: usize) {
    let at = SEVERITIES.iter().position(|(known, _)| *known == severity).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    TABLES.incidents[at].set(count as f64);
}
