//! What is told to the outside of how the daemon runs. Every metric: name, help, labels, buckets; and the verbs that feed
//! them. Names are declared here and nowhere else. Besides: `spans`, for traces, and `logs`.
//!
//! May know `model`. Labels come from closed sets, never from slugs, paths or ids, and every counter and
//! gauge exists at zero from the start. Handles are looked up once and kept in tables by label, because a look-up costs twenty times a held
//! handle. `table` holds the mechanism; the other files are one topic each.

pub mod actors;
pub mod claims;
pub mod events;
pub mod git;
pub mod http;
pub mod inventory;
pub mod lanes;
pub mod logs;
pub mod phases;
pub mod process;
pub mod runtime;
pub mod spans;
pub mod store;
pub mod system;
mod table;

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Only rises, in seconds with their fractions. The exporter's counters are whole numbers, so it is kept as a gauge
    /// and told as the counter it is.
    Seconds,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

impl Kind {
    /// The word of Prometheus' text format.
    const fn word(self) -> &'static str {
        match self {
            Self::Counter | Self::Seconds => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric, as declared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its full name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, comma separated.
    pub labels: &'static str,
    /// What it says, in one sentence.
    pub help: &'static str,
    /// Upper bounds, of a histogram.
    pub buckets: &'static [f64],
}

/// Buckets of phases and runs, in seconds: from a warm look to an hour.
const PHASE_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Buckets of waits, in seconds.
const WAIT_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// Buckets of HTTP requests, in seconds, as OpenTelemetry has them.
const HTTP_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Buckets of lags inside the runtime, in seconds.
const LAG_BUCKETS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Buckets of the ledger, in seconds.
const STORE_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

const BUILD_INFO: Metric = Metric {
    name: "slugline_build_info",
    kind: Kind::Gauge,
    labels: "version,revision,storage",
    help: "Always 1; the labels say what is running.",
    buckets: &[],
};

/// How often the exporter folds what was recorded into its buckets; without it every observation stays in memory.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Every metric there is, in the order of the reference page.
#[must_use]
pub fn all() -> Vec<Metric> {
    [
        &[BUILD_INFO][..],
        logs::ALL,
        spans::ALL,
        system::ALL,
        phases::ALL,
        lanes::ALL,
        claims::ALL,
        git::ALL,
        inventory::ALL,
        events::ALL,
        process::ALL,
        store::ALL,
        actors::ALL,
        runtime::ALL,
        http::ALL,
    ]
    .concat()
}

/// Installs the recorder and makes every series, once per process; later calls do nothing.
pub fn install() {
    HANDLE.get_or_init(|| {
        let with_buckets = |builder: PrometheusBuilder, metric: &Metric| {
            builder
                .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), metric.buckets)
                .expect("a histogram has buckets")
        };
        let all = all();
        let histograms = all.iter().filter(|metric| metric.kind == Kind::Histogram);
        let recorder = histograms.fold(PrometheusBuilder::new(), with_buckets).build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            return None;
        }
        all.iter().for_each(describe);
        table::gauge(&BUILD_INFO, &[env!("CARGO_PKG_VERSION"), env!("BUILD_REVISION"), "sqlite"]).set(1.0);
        for create in [
            logs::create,
            spans::create,
            system::create,
            phases::create,
            lanes::create,
            claims::create,
            git::create,
            inventory::create,
            events::create,
            process::create,
            store::create,
            actors::create,
            runtime::create,
            http::create,
        ] {
            create();
        }
        let upkeep = handle.clone();
        let started = std::thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(move || {
            loop {
                std::thread::park_timeout(UPKEEP_EVERY);
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "metrics upkeep cannot be started; histograms will grow until they are scraped");
        }
        Some(handle)
    });
}

fn describe(metric: &Metric) {
    match metric.kind {
        Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
        Kind::Gauge | Kind::Seconds => metrics::describe_gauge!(metric.name, metric.help),
        Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
    }
}

/// Everything in Prometheus' text format. Takes milliseconds with many series: not on a runtime thread.
#[must_use]
pub fn render() -> String {
    let Some(handle) = HANDLE.get().and_then(Option::as_ref) else { return String::new() };
    system::take();
    let kept_as_gauges = all().into_iter().filter(|metric| metric.kind == Kind::Seconds);
    kept_as_gauges.fold(handle.render(), |text, Metric { name, kind, .. }| {
        text.replacen(&format!("# TYPE {name} gauge\n"), &format!("# TYPE {name} {}\n", kind.word()), 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table cannot say.
    const AFTERWORD: &str = "
## How to read them

- Durations are classic histograms in seconds. A Prometheus of version 3 can keep them as native ones without a change here
  (`convert_classic_histograms_to_nhcb`, see `grafana/prometheus/prometheus.yaml`).
- `..._timestamp_seconds` is 0 for never; `time() - (x > 0)` is how long ago.
- `outcome`: `failure` is the repository's own (its command, its content), `error` is the daemon's or the machine's.
- A daemon that restarts begins at zero; `rate` and `increase` know that.
- No slug, path, branch, worker or id is a label. `/worktrees`, `/status`, events, logs and traces say which one it was.

## What is not here, and where it is instead

| one might look for | it is |
|---|---|
| todos whose lease ran out, and what became of them | `slugline_lease_expirations_total` (they can be claimed again), `slugline_parked_results_total` |
| hangs of phases and commands | they have deadlines: `outcome=\"timeout\"`, `result=\"timeout\"` |
| commands the system ended for memory | `result=\"signal\"`: without a control group of their own they cannot be told apart |
| streams by kind, backends of the ledger | there is one of each |
| reloads of the configuration | it is read at the start; the log's filter alone changes later |
| breakers by slug or remote | lanes have breakers; todos wait after failures, fetches are a job |
";

    /// The reference page, generated from the declarations.
    fn reference() -> String {
        let mut page = "# Metrics\n\nGenerated from the code. Every series exists at zero from the start; those of HTTP requests from the first such\nrequest, those of a lane from the first word about it. At most sixteen lanes are told apart; the others are `other`.\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
        for metric in all() {
            let labels = if metric.labels.is_empty() { "–".to_owned() } else { metric.labels.replace(',', ", ") };
            let kind = metric.kind.word();
            page.push_str(&format!("| `{}` | {kind} | {labels} | {} |\n", metric.name, metric.help));
        }
        page.push_str(AFTERWORD);
        page
    }

    #[test]
    fn the_reference_page_lists_exactly_the_declared_metrics() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("SLUGLINE_BLESS").is_some() {
            std::fs::write(path, reference()).expect("writes");
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(page, reference(), "run the tests once with SLUGLINE_BLESS=1 and look at the difference");
    }

    #[test]
    fn every_metric_is_rendered_from_the_start_with_help_and_a_bounded_number_of_series() {
        install();
        let text = render();
        for metric in all() {
            let is_seen = |word: &str| text.contains(&format!("# {word} {} ", metric.name));
            // A status is known with the first answer that has it, a lane with the first word about it.
            let rendered = metric.name.starts_with("http_server_request_")
                || lanes::ALL.contains(&metric)
                || is_seen("HELP") && text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind.word()));
            assert!(rendered, "{} has no help or type", metric.name);
            assert_eq!(metric.kind.word() == "counter", metric.name.ends_with("_total"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Histogram, !metric.buckets.is_empty(), "{}", metric.name);
        }
        let series = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        assert!(series <= 5_000, "{series} series");
        assert!(text.contains(
            "slugline_phase_decisions_total{phase=\"prepare\",decision=\"skip\",reason=\"inputs_unchanged\"}"
        ));
    }
}
