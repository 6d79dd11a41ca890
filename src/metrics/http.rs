//! HTTP requests and connections.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Gauge};

use super::table::{self, labels};
use super::{HTTP_BUCKETS, Kind, Metric};

const REQUESTS: Metric = Metric {
    name: "http_server_request_duration_seconds",
    kind: Kind::Histogram,
    labels: "http_request_method,http_route,http_response_status_code",
    help: "Time from a request's head to its answer being ready; streams are left out.",
    buckets: HTTP_BUCKETS,
};
const ACTIVE: Metric = Metric {
    name: "http_server_active_requests",
    kind: Kind::Gauge,
    labels: "http_request_method",
    help: "Requests that are being answered; streams until they end their head.",
    buckets: &[],
};
const CONNECTIONS: Metric = Metric {
    name: "slugline_http_connections",
    kind: Kind::Gauge,
    labels: "",
    help: "Open connections.",
    buckets: &[],
};
const REJECTED: Metric = Metric {
    name: "slugline_http_rejected_total",
    kind: Kind::Counter,
    labels: "reason",
    help: "Requests and connections turned away before they reached a handler.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[REQUESTS, ACTIVE, CONNECTIONS, REJECTED];

labels! {
    /// Why something was turned away.
    RejectReason {
        /// The Host header is not ours.
        Host = "host",
        /// The Origin or Sec-Fetch-Site header is not ours.
        Origin = "origin",
        /// No or a wrong token.
        Auth = "auth",
        /// The body is too large.
        BodySize = "body_size",
        /// The head is not HTTP as we take it.
        Malformed = "malformed",
        /// A stranger's connection made room for another.
        ConnLimit = "conn_limit",
        /// More requests than a caller may make.
        Pace = "pace",
    }
}

labels! {
    /// Methods; whatever else comes is one.
    Method {
        /// Read.
        Get = "GET",
        /// Do.
        Post = "POST",
        /// Set.
        Put = "PUT",
        /// Remove.
        Delete = "DELETE",
        /// Read the head.
        Head = "HEAD",
        /// Any other.
        Other = "other",
    }
}

impl Method {
    /// The method of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::ALL.iter().copied().find(|method| method.as_str() == name).unwrap_or(Self::Other)
    }
}

static ANSWERING: LazyLock<Vec<Gauge>> =
    LazyLock::new(|| Method::ALL.iter().map(|method| table::gauge(&ACTIVE, &[method.as_str()])).collect());
static REJECTIONS: LazyLock<Vec<Counter>> =
    LazyLock::new(|| RejectReason::ALL.iter().map(|reason| table::counter(&REJECTED, &[reason.as_str()])).collect());
static OPEN: LazyLock<Gauge> = LazyLock::new(|| table::gauge(&CONNECTIONS, &[]));

pub(super) fn create() {
    LazyLock::force(&ANSWERING);
    LazyLock::force(&REJECTIONS);
    LazyLock::force(&OPEN);
}

/// A request that is being answered, until this is dropped.
pub struct Answering(Method);

/// A request begins to be answered.
#[must_use]
pub fn request_started(method: Method) -> Answering {
    ANSWERING[method as usize].increment(1.0);
    Answering(method)
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERING[self.0 as usize].decrement(1.0);
    }
}

/// A request was answered. Route and method come from the route table, the status from the answer.
pub fn request_finished(method: Method, route: &'static str, status: u16, took: Duration) {
    metrics::histogram!(REQUESTS.name, "http_request_method" => method.as_str(), "http_route" => route, "http_response_status_code" => status_text(status)).record(took.as_secs_f64());
}

/// Statuses we give, as text that lives for ever.
fn status_text(status: u16) -> &'static str {
    match status {
        200 => "200",
        201 => "201",
        202 => "202",
        302 => "302",
        304 => "304",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        409 => "409",
        413 => "413",
        415 => "415",
        422 => "422",
        423 => "423",
        429 => "429",
        500 => "500",
        503 => "503",
        504 => "504",
        _ => "other",
    }
}

/// A connection was opened (`1`) or closed (`-1`).
pub fn connections_changed(by: i8) {
    OPEN.increment(f64::from(by));
}

/// Something was turned away.
pub fn rejected(reason: RejectReason) {
    REJECTIONS[reason as usize].increment(1);
}
