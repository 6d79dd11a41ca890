//! Counted, bounded mailboxes behind addresses that survive restarts.
//!
//! ractor's mailboxes are unbounded and have no length, so the sender bounds: an [`Address`] counts what it sent and
//! what was opened, and refuses beyond its limit. The count travels in the envelope, so messages that die with an
//! actor are given back. An address is held by callers for ever; a supervisor points it at each new incarnation.
//!
//! Races: a message sent between an actor's death and its supervisor's notice fails with [`AskError::Died`] or
//! [`AskError::Down`]; nothing was accepted then, so the caller may send it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use ractor::ActorRef;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::actors as metric;
use crate::metrics::actors::{ActorKind, DropReason};

/// Where an answer goes. Dropping it tells the caller that nobody will answer.
pub type Reply<T> = oneshot::Sender<T>;

/// A message on its way, counted until it is opened or dropped.
pub struct Envelope<M> {
    message: M,
    sent: Instant,
    counted: Counted,
}

impl<M> Envelope<M> {
    /// Takes the message out; from here on it no longer counts as waiting.
    pub fn open(self) -> (M, Duration) {
        let waited = self.sent.elapsed();
        metric::message_waited(self.counted.0.kind, waited);
        (self.message, waited)
    }
}

/// One waiting message of a mailbox; dropping it takes it off the count.
struct Counted(Arc<Gauge>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        metric::mailbox_changed(self.0.kind, -1);
    }
}

struct Gauge {
    kind: ActorKind,
    waiting: AtomicUsize,
    high_water: AtomicUsize,
    limit: usize,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The mailbox holds as many messages as it may.
    Full,
    /// Nobody lives at the address now.
    Down,
}

/// Why a question got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskError {
    /// The mailbox holds as many messages as it may.
    Full,
    /// Nobody lives at the address now; nothing was accepted.
    Down,
    /// The actor died or dropped the question.
    Died,
    /// The limit passed; the question may still be answered to nobody.
    TimedOut,
}

impl From<SendError> for AskError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => Self::Full,
            SendError::Down => Self::Down,
        }
    }
}

/// Where an actor of a kind can be reached, across its restarts.
pub struct Address<M> {
    gauge: Arc<Gauge>,
    target: Arc<ArcSwapOption<ActorRef<Envelope<M>>>>,
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { gauge: self.gauge.clone(), target: self.target.clone() }
    }
}

impl<M: Send + 'static> Address<M> {
    /// An address nobody lives at yet, for at most `limit` waiting messages.
    #[must_use]
    pub fn new(kind: ActorKind, limit: usize) -> Self {
        let gauge = Gauge { kind, waiting: AtomicUsize::new(0), high_water: AtomicUsize::new(0), limit };
        Self { gauge: Arc::new(gauge), target: Arc::default() }
    }

    /// Points the address at an incarnation, or at nobody.
    pub fn point_at(&self, actor: Option<ActorRef<Envelope<M>>>) {
        self.target.store(actor.map(Arc::new));
    }

    /// Sends a request without waiting for an answer; refused when the mailbox is full.
    pub fn send(&self, message: M) -> Result<(), SendError> {
        if self.gauge.waiting.load(Ordering::Acquire) >= self.gauge.limit {
            metric::message_dropped(self.gauge.kind, DropReason::Full);
            return Err(SendError::Full);
        }
        self.tell(message)
    }

    /// Sends a fact about work that was accepted before: never refused for fullness, because such facts are bounded
    /// by the requests that led to them.
    pub fn tell(&self, message: M) -> Result<(), SendError> {
        let waiting = self.gauge.waiting.fetch_add(1, Ordering::AcqRel) + 1;
        metric::mailbox_changed(self.gauge.kind, 1);
        let counted = Counted(self.gauge.clone());
        if self.gauge.high_water.fetch_max(waiting, Ordering::AcqRel) < waiting {
            metric::mailbox_max(self.gauge.kind, waiting);
        }
        let target = self.target.load();
        let actor = target.as_ref().ok_or(SendError::Down)?;
        actor.cast(Envelope { message, sent: Instant::now(), counted }).map_err(|_| {
            metric::message_dropped(self.gauge.kind, DropReason::Dead);
            SendError::Down
        })
    }

    /// Sends a message again and again, as long as what comes back is kept; one that finds the mailbox full or nobody at
    /// home is left out.
    pub fn every(&self, period: Duration, message: impl Fn() -> M + Send + 'static) -> AbortOnDropHandle<()> {
        let address = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let _ = address.send(message());
            }
        }))
    }

    /// Sends a question and waits for the answer, at most `limit`.
    pub async fn ask<R>(&self, limit: Duration, question: impl FnOnce(Reply<R>) -> M) -> Result<R, AskError> {
        let (reply, answer) = oneshot::channel();
        self.send(question(reply))?;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Died),
            Err(_) => Err(AskError::TimedOut),
        }
    }

    /// Messages waiting now, and the most that ever waited.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        (self.gauge.waiting.load(Ordering::Acquire), self.gauge.high_water.load(Ordering::Acquire))
    }

    /// Whether an incarnation lives at the address now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.target.load().is_some()
    }
}
