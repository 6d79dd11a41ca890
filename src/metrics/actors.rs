//! Actors: mailboxes, restarts.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::table::{self, labels};
use super::{Kind, LAG_BUCKETS, Metric, WAIT_BUCKETS};

const ACTORS: Metric = Metric {
    name: "slugline_actors",
    kind: Kind::Gauge,
    labels: "kind,state",
    help: "Actors, by what they are doing; parked ones were given up.",
    buckets: &[],
};
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
    help: "Messages waiting in the fullest mailbox of a kind.",
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

pub(super) const ALL: &[Metric] = &[ACTORS, RESTARTS, MELTDOWNS, MAILBOX, MAILBOX_MAX, WAIT, HANDLE, DROPPED];

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
    /// What an actor is doing.
    ActorState {
        /// It is being started, or started again.
        Starting = "starting",
        /// It waits for messages.
        Idle = "idle",
        /// It handles one.
        Busy = "busy",
        /// It was given up.
        Parked = "parked",
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
    actors: Vec<Vec<Gauge>>,
    restarts: Vec<Vec<Counter>>,
    meltdowns: Vec<Counter>,
    mailbox: Vec<Gauge>,
    mailbox_max: Vec<Gauge>,
    wait: Vec<Histogram>,
    handle: Vec<Histogram>,
    dropped: Vec<Vec<Counter>>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let kinds = || ActorKind::ALL.iter().map(|kind| kind.as_str());
    Tables {
        actors: kinds()
            .map(|kind| ActorState::ALL.iter().map(|state| table::gauge(&ACTORS, &[kind, state.as_str()])).collect())
            .collect(),
        restarts: kinds()
            .map(|kind| {
                RestartReason::ALL.iter().map(|reason| table::counter(&RESTARTS, &[kind, reason.as_str()])).collect()
            })
            .collect(),
        meltdowns: kinds().map(|kind| table::counter(&MELTDOWNS, &[kind])).collect(),
        mailbox: kinds().map(|kind| table::gauge(&MAILBOX, &[kind])).collect(),
        mailbox_max: kinds().map(|kind| table::gauge(&MAILBOX_MAX, &[kind])).collect(),
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

/// What every actor is doing, and how many messages wait for it.
#[expect(clippy::cast_precision_loss, reason = "thousands at most")]
pub fn actors_are(all: impl Iterator<Item = (ActorKind, ActorState, usize)>) {
    let mut counts = [[0.0_f64; ActorState::ALL.len()]; ActorKind::ALL.len()];
    let mut sums = [0.0_f64; ActorKind::ALL.len()];
    let mut most = sums;
    for (kind, state, waiting) in all {
        counts[kind as usize][state as usize] += 1.0;
        sums[kind as usize] += waiting as f64;
        most[kind as usize] = most[kind as usize].max(waiting as f64);
    }
    for (gauges, counts) in TABLES.actors.iter().zip(counts) {
        gauges.iter().zip(counts).for_each(|(gauge, count)| gauge.set(count));
    }
    TABLES.mailbox.iter().zip(sums).for_each(|(gauge, sum)| gauge.set(sum));
    TABLES.mailbox_max.iter().zip(most).for_each(|(gauge, most)| gauge.set(most));
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
