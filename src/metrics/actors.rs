//! Actors: mailboxes, restarts.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::table::{self, labels};
use super::{Kind, LAG_BUCKETS, Metric, WAIT_BUCKETS};

const RESTARTS: Metric = Metric {
    name: "slugline_actor_restarts_total",
    kind: Kind::Counter,
    labels: "kind,reason",
    help: "Actors that were restarted, by why.",
    buckets: &[],
};
const MELTDOWNS: Metric = Metric {
    name: "slugline_actor_meltdowns_total",
    kind: Kind::Counter,
    labels: "kind",
    help: "Actors that failed more often than their budget allows and were given up.",
    buckets: &[],
};
const MAILBOX: Metric = Metric {
    name: "slugline_actor_mailbox_messages",
    kind: Kind::Gauge,
    labels: "kind",
    help: "Messages waiting in all mailboxes of a kind.",
    buckets: &[],
};
const MAILBOX_MAX: Metric = Metric {
    name: "slugline_actor_mailbox_max_messages",
    kind: Kind::Gauge,
    labels: "kind",
    help: "The most messages that ever waited in one mailbox of a kind.",
    buckets: &[],
};
const WAIT: Metric = Metric {
    name: "slugline_actor_message_wait_seconds",
    kind: Kind::Histogram,
    labels: "kind",
    help: "Time a message waited in a mailbox.",
    buckets: LAG_BUCKETS,
};
const HANDLE: Metric = Metric {
    name: "slugline_actor_handle_seconds",
    kind: Kind::Histogram,
    labels: "kind",
    help: "Time an actor took to handle a message.",
    buckets: WAIT_BUCKETS,
};
const DROPPED: Metric = Metric {
    name: "slugline_actor_dropped_messages_total",
    kind: Kind::Counter,
    labels: "kind,reason",
    help: "Messages that were not taken.",
    buckets: &[],
};

pub(super) const ALL: &[Metric] = &[RESTARTS, MELTDOWNS, MAILBOX, MAILBOX_MAX, WAIT, HANDLE, DROPPED];

labels! {
    /// What kind of actor.
    ActorKind {
        /// The top of the tree.
        Root = "root",
        /// The store's keeper.
        Ledger = "ledger",
        /// Who hands out todos.
        Dispatcher = "dispatcher",
        /// Who tells listeners what is in the ledger.
        Events = "events",
        /// Who follows sessions and their logs.
        Sessions = "sessions",
        /// Who watches the runtime.
        Watchdog = "watchdog",
        /// Who does the daemon's own duties.
        Jobs = "jobs",
        /// Who says whether the daemon is to be relied on.
        Readiness = "readiness",
        /// One per repository.
        Repository = "repository",
        /// One per repository: what its worktrees look like.
        Inventory = "inventory",
        /// One per slug in use.
        Slug = "slug",
    }
}
labels! {
    /// Why an actor was restarted.
    RestartReason {
        /// A handler panicked.
        Panic = "panic",
        /// A handler failed, or it could not start.
        Error = "error",
        /// A handler did not end.
        Hang = "hang",
        /// It was killed.
        Killed = "killed",
    }
}
labels! {
    /// Why a message was not taken.
    DropReason {
        /// Nobody lived at the address.
        Dead = "dead",
        /// The mailbox was full.
        Full = "full",
    }
}

struct Tables {
    restarts: Vec<Vec<Counter>>,
    meltdowns: Vec<Counter>,
    mailbox: Vec<Gauge>,
    mailbox_max: Vec<(Gauge, AtomicUsize)>,
    wait: Vec<Histogram>,
    handle: Vec<Histogram>,
    dropped: Vec<Vec<Counter>>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let kinds = || ActorKind::ALL.iter().map(|kind| kind.as_str());
    Tables {
        restarts: kinds()
            .map(|kind| {
                RestartReason::ALL.iter().map(|reason| table::counter(&RESTARTS, &[kind, reason.as_str()])).collect()
            })
            .collect(),
        meltdowns: kinds().map(|kind| table::counter(&MELTDOWNS, &[kind])).collect(),
        mailbox: kinds().map(|kind| table::gauge(&MAILBOX, &[kind])).collect(),
        mailbox_max: kinds().map(|kind| (table::gauge(&MAILBOX_MAX, &[kind]), AtomicUsize::new(0))).collect(),
        wait: kinds().map(|kind| table::histogram(&WAIT, &[kind])).collect(),
        handle: kinds().map(|kind| table::histogram(&HANDLE, &[kind])).collect(),
        dropped: kinds()
            .map(|kind| {
                DropReason::ALL.iter().map(|reason| table::counter(&DROPPED, &[kind, reason.as_str()])).collect()
            })
            .collect(),
    }
});

pub(super) fn create() {
    LazyLock::force(&TABLES);
}

/// An actor is restarted.
pub fn actor_restarted(kind: ActorKind, reason: RestartReason) {
    TABLES.restarts[kind as usize][reason as usize].increment(1);
}

/// An actor is given up.
pub fn actor_meltdown(kind: ActorKind) {
    TABLES.meltdowns[kind as usize].increment(1);
}

/// A message came into a mailbox (`1`) or left it (`-1`).
pub fn mailbox_changed(kind: ActorKind, by: i8) {
    TABLES.mailbox[kind as usize].increment(f64::from(by));
}

/// A mailbox holds more messages than ever before.
pub fn mailbox_max(kind: ActorKind, waiting: usize) {
    let (gauge, most) = &TABLES.mailbox_max[kind as usize];
    if most.fetch_max(waiting, Ordering::Relaxed) < waiting {
        #[expect(clippy::cast_precision_loss, reason = "a mailbox holds thousands at most")]
        gauge.set(waiting as f64);
    }
}

/// A message was opened after waiting so long.
pub fn message_waited(kind: ActorKind, waited: Duration) {
    TABLES.wait[kind as usize].record(waited.as_secs_f64());
}

/// A message was handled in so long.
pub fn message_handled(kind: ActorKind, took: Duration) {
    TABLES.handle[kind as usize].record(took.as_secs_f64());
}

/// A message was not taken.
pub fn message_dropped(kind: ActorKind, reason: DropReason) {
    TABLES.dropped[kind as usize][reason as usize].increment(1);
}
