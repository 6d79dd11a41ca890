//! The process and the runtime it turns in, read when metrics are asked for.

use std::sync::{LazyLock, OnceLock};

use metrics::Gauge;
use metrics_process::Collector;
use tokio::runtime::RuntimeMetrics;

use super::table;
use super::{Kind, Metric};

const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, labels: "", help, buckets: &[] }
}

const WORKERS: Metric = metric("tokio_workers", Kind::Gauge, "Threads that turn the daemon's tasks.");
const TASKS: Metric = metric("tokio_live_tasks", Kind::Gauge, "Tasks that have not ended.");
const QUEUED: Metric =
    metric("tokio_global_queue_depth", Kind::Gauge, "Tasks that wait for any of those threads to take them.");
const BUSY: Metric = metric(
    "tokio_busy_seconds_total",
    Kind::Seconds,
    "Time all those threads together spent turning tasks; the rest of their time they slept.",
);
const PARKS: Metric = metric("tokio_parks_total", Kind::Counter, "Times one of those threads went to sleep.");

pub(super) const ALL: &[Metric] = &[
    // Names and meanings are those of Prometheus' own clients.
    metric("process_cpu_seconds_total", Kind::Seconds, "Processor time of the daemon itself, without its commands."),
    metric("process_open_fds", Kind::Gauge, "Files the daemon has open."),
    metric("process_max_fds", Kind::Gauge, "Files it may have open."),
    metric("process_virtual_memory_bytes", Kind::Gauge, "Address space it has reserved."),
    metric("process_virtual_memory_max_bytes", Kind::Gauge, "Address space it may reserve."),
    metric("process_resident_memory_bytes", Kind::Gauge, "Memory it occupies."),
    metric("process_start_time_seconds", Kind::Gauge, "When it was started, in seconds since 1970."),
    metric("process_threads", Kind::Gauge, "Threads it has."),
    WORKERS,
    TASKS,
    QUEUED,
    BUSY,
    PARKS,
];

struct Tables {
    collector: Collector,
    workers: Gauge,
    tasks: Gauge,
    queued: Gauge,
    busy: Gauge,
    parks: metrics::Counter,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let [workers, tasks, queued, busy] = [&WORKERS, &TASKS, &QUEUED, &BUSY].map(|metric| table::gauge(metric, &[]));
    Tables { collector: Collector::default(), workers, tasks, queued, busy, parks: table::counter(&PARKS, &[]) }
});
/// The runtime that is told of: the first one, since a process that is a daemon has one.
static RUNTIME_SEEN: OnceLock<RuntimeMetrics> = OnceLock::new();

pub(super) fn create() {
    take();
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let _ = RUNTIME_SEEN.set(runtime.metrics());
    }
}

/// Reads everything anew.
#[expect(clippy::cast_precision_loss, reason = "counts of threads and tasks")]
pub(super) fn take() {
    let tables = &*TABLES;
    tables.collector.collect();
    let Some(runtime) = RUNTIME_SEEN.get() else { return };
    let workers = 0..runtime.num_workers();
    tables.workers.set(workers.len() as f64);
    tables.tasks.set(runtime.num_alive_tasks() as f64);
    tables.queued.set(runtime.global_queue_depth() as f64);
    let busy: f64 = workers.clone().map(|worker| runtime.worker_total_busy_duration(worker).as_secs_f64()).sum();
    tables.busy.set(busy);
    tables.parks.absolute(workers.map(|worker| runtime.worker_park_count(worker)).sum());
}
