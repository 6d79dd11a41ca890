//! Spans: what requests, runs, phases and commands did, told to whoever collects traces. Names and attributes are those of
//! OpenTelemetry's conventions for HTTP, CI/CD and version control, where they have a word.
//!
//! Places in traces ([`Trace`]) are made whether or not anybody collects: they are in logs, problems, events and in the
//! environment of commands.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

use metrics::Counter;

use super::table::{self, labels};
use super::{Kind, Metric};
use crate::model::ids::{OperationId, TodoKey};
use crate::model::phase::{Decision, Outcome, PhaseReport};
use crate::model::trace::Trace;

const SPANS: Metric = Metric {
    name: "slugline_trace_spans_total",
    kind: Kind::Counter,
    labels: "result",
    help: "Spans for the collector of traces, by whether it took them; dropped ones found too many waiting.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[SPANS];

labels! {
    /// What became of a span.
    Fate {
        /// The collector took it.
        Sent = "sent",
        /// The collector did not take it.
        Failed = "failed",
        /// Too many waited.
        Dropped = "dropped",
    }
}

static FATES: LazyLock<Vec<Counter>> =
    LazyLock::new(|| Fate::ALL.iter().map(|fate| table::counter(&SPANS, &[fate.as_str()])).collect());

pub(super) fn create() {
    LazyLock::force(&FATES);
}

/// So many spans came to this end.
pub fn spans_went(fate: Fate, count: usize) {
    FATES[fate as usize].increment(count as u64);
}

/// What a span says of itself under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A number.
    Number(i64),
}

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It answers somebody outside.
    Server,
    /// It is a step inside.
    Internal,
}

/// A span that is over.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Where it is in its trace.
    pub trace: Trace,
    /// Its name: few different ones.
    pub name: String,
    /// Which side.
    pub side: Side,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What it says of itself.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    pub failed: Option<String>,
}

type Collector = Box<dyn Fn(Ended) + Send + Sync>;

static COLLECTOR: OnceLock<Collector> = OnceLock::new();

/// Tells who collects spans, once per process. It must not block.
pub fn collect_by(collector: Collector) {
    let _ = COLLECTOR.set(collector);
}

/// Ids need to be unlike each other, not secret: the system's random keys, stirred anew for each.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn span_id() -> NonZeroU64 {
    NonZeroU64::new(random()).unwrap_or(NonZeroU64::MIN)
}

/// The place of a request: under its caller's, or at the beginning of a trace.
#[must_use]
pub fn begin(traceparent: Option<&str>, tracestate: Option<&str>) -> Trace {
    let under = traceparent.and_then(|parent| Trace::under(parent, tracestate, span_id()));
    under.unwrap_or_else(|| {
        let id = (u128::from(random()) << 64) | u128::from(random());
        Trace::root(NonZeroU128::new(id).unwrap_or(NonZeroU128::MIN), span_id())
    })
}

/// The place of a step of what is at `trace`.
#[must_use]
pub fn below(trace: &Trace) -> Trace {
    trace.child(span_id())
}

struct Draft {
    name: String,
    side: Side,
    attributes: Vec<(&'static str, Value)>,
    failed: Option<String>,
}

fn ended(trace: &Trace, took: Duration, draft: impl FnOnce() -> Draft) {
    let Some(collector) = COLLECTOR.get().filter(|_| trace.is_sampled()) else { return };
    let ended = SystemTime::now();
    let Draft { name, side, attributes, failed } = draft();
    let began = ended.checked_sub(took).unwrap_or(ended);
    collector(Ended { trace: trace.clone(), name, side, began, ended, attributes, failed });
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

/// A request was answered.
pub fn request_ended(trace: &Trace, method: &str, route: &'static str, status: u16, took: Duration) {
    ended(trace, took, || Draft {
        name: format!("{method} {route}"),
        side: Side::Server,
        attributes: vec![
            ("http.request.method", text(method)),
            ("http.route", text(route)),
            ("http.response.status_code", Value::Number(status.into())),
        ],
        // Only what is the server's fault is an error on the server's side.
        failed: (status >= 500).then(|| status.to_string()),
    });
}

/// A work call came to its end, with a run or without.
pub fn run_ended(trace: &Trace, todo: &TodoKey, operation: Option<&OperationId>, outcome: Outcome, took: Duration) {
    ended(trace, took, || {
        let mut attributes = vec![
            ("vcs.repository.name", text(todo.repo.as_str())),
            ("slugline.slug", text(todo.slug.as_str())),
            ("cicd.pipeline.result", text(outcome.as_str())),
        ];
        attributes.extend(operation.map(|id| ("cicd.pipeline.run.id", text(id.as_str()))));
        let failed = (outcome != Outcome::Success).then(|| outcome.as_str().to_owned());
        Draft { name: "run".to_owned(), side: Side::Internal, attributes, failed }
    });
}

/// A phase was decided about, and carried out when that was the decision.
pub fn phase_ended(trace: &Trace, report: &PhaseReport) {
    let took = Duration::try_from_secs_f64(report.duration_ms / 1_000.0).unwrap_or_default();
    ended(trace, took, || Draft {
        name: format!("phase {}", report.phase.as_str()),
        side: Side::Internal,
        attributes: vec![
            ("cicd.pipeline.task.name", text(report.phase.as_str())),
            ("slugline.decision", text(report.decision.as_str())),
            ("slugline.reason", text(report.reason.as_str())),
        ],
        failed: (report.decision == Decision::Fail).then(|| report.reason.as_str().to_owned()),
    });
}

/// A command is over: with an exit code, or for another reason.
pub fn command_ended(trace: &Trace, command_line: &str, ended_how: Result<i32, &str>, took: Duration) {
    ended(trace, took, || {
        let program = command_line.split([' ', '/']).find(|word| !word.is_empty()).unwrap_or("command");
        let mut attributes = vec![("process.command_line", text(command_line))];
        attributes.extend(ended_how.ok().map(|code| ("process.exit.code", Value::Number(code.into()))));
        let failed = match ended_how {
            Ok(0) => None,
            Ok(code) => Some(format!("exit code {code}")),
            Err(why) => Some(why.to_owned()),
        };
        Draft { name: format!("command {program}"), side: Side::Internal, attributes, failed }
    });
}
