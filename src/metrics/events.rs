//! The event stream and who listens to it.

use std::sync::LazyLock;

use metrics::{Counter, Gauge};

use super::table::{self, labels};
use super::{Kind, Metric};

const CLIENTS: Metric = Metric {
    name: "slugline_sse_clients",
    kind: Kind::Gauge,
    labels: "",
    help: "Clients listening to the event stream.",
    buckets: &[],
};
const EVENTS: Metric = Metric {
    name: "slugline_sse_events_total",
    kind: Kind::Counter,
    labels: "",
    help: "Events sent, each counted for every client it was sent to.",
    buckets: &[],
};
const DISCONNECTS: Metric = Metric {
    name: "slugline_sse_disconnects_total",
    kind: Kind::Counter,
    labels: "reason",
    help: "Clients that stopped listening, by why.",
    buckets: &[],
};
const RESUMES: Metric = Metric {
    name: "slugline_sse_resumes_total",
    kind: Kind::Counter,
    labels: "result",
    help: "Clients that came back with the id of the last event they had.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[CLIENTS, EVENTS, DISCONNECTS, RESUMES];

labels! {
    /// Why a client stopped listening.
    Disconnect {
        /// It went.
        Client = "client",
        /// It fell behind.
        Slow = "slow",
        /// There were too many.
        Limit = "limit",
        /// The daemon stops.
        Shutdown = "shutdown",
    }
}
labels! {
    /// What became of coming back.
    Resume {
        /// It was told everything it missed.
        Replayed = "replayed",
        /// It has to begin anew.
        Reset = "reset",
    }
}

struct Tables {
    clients: Gauge,
    events: Counter,
    disconnects: Vec<Counter>,
    resumes: Vec<Counter>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    clients: table::gauge(&CLIENTS, &[]),
    events: table::counter(&EVENTS, &[]),
    disconnects: Disconnect::ALL.iter().map(|why| table::counter(&DISCONNECTS, &[why.as_str()])).collect(),
    resumes: Resume::ALL.iter().map(|result| table::counter(&RESUMES, &[result.as_str()])).collect(),
});

pub(super) fn create() {
    LazyLock::force(&TABLES);
}

/// A client began to listen.
pub fn connected() {
    TABLES.clients.increment(1.0);
}

/// A client stopped listening.
pub fn disconnected(why: Disconnect) {
    TABLES.clients.decrement(1.0);
    TABLES.disconnects[why as usize].increment(1);
}

/// A client was turned away.
pub fn refused() {
    TABLES.disconnects[Disconnect::Limit as usize].increment(1);
}

/// Events were sent to a client.
pub fn sent(count: u64) {
    TABLES.events.increment(count);
}

/// A client came back.
pub fn resumed(result: Resume) {
    TABLES.resumes[result as usize].increment(1);
}
