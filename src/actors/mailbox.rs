//! Counted, bounded mailboxes behind addresses that survive restarts.
//!
//! ractor's mailboxes are unbounded and have no length, so the sender bounds: an [`Address`] counts what it sent and
//! what was opened, and refuses beyond its limit. The count travels in the envelope, so messages that die with an
//! actor are given back. An address is held by callers for ever; a supervisor points it at each new incarnation.
//!
//! Races: a message sent between an actor's death and its supervisor's notice fails with [`AskError::Died`] or
//! [`AskError::Down`]; nothing was accepted then, so the caller may send it again.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ractor::{ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::faults::{Faults, Injected};
use super::health::turning::{Doing, doing};
use crate::metrics::actors as metric;
use crate::metrics::actors::{ActorKind, DropReason};

/// Where an answer goes. Dropping it tells the caller that nobody will answer.
pub type Reply<T> = oneshot::Sender<T>;

/// What an actor can be sent.
pub trait Message: Send + 'static {
    /// Its name, for whoever wants to know what an actor is doing.
    fn name(&self) -> &'static str;
}

impl<M: Send + 'static> Message for M
where
    for<'a> &'a M: Into<&'static str>,
{
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// A message on its way, counted until it is opened or dropped.
pub struct Envelope<M> {
    message: M,
    sent: Instant,
    counted: Counted,
}

impl<M: Message> Envelope<M> {
    /// Takes the message out; from here on it no longer counts as waiting, and its actor as handling it.
    pub fn open(self) -> (M, Handling) {
        let waited = self.sent.elapsed();
        let gauge = self.counted.0.clone();
        metric::message_waited(gauge.kind, waited);
        let handled = Handled { message: self.message.name(), begun: Instant::now() };
        gauge.hands().now = Some(handled);
        (self.message, Handling { gauge, handled, waited })
    }
}

/// One waiting message of a mailbox; dropping it takes it off the count.
struct Counted(Arc<Gauge>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Gauge {
    kind: ActorKind,
    name: Arc<str>,
    waiting: AtomicUsize,
    high_water: AtomicUsize,
    limit: usize,
    hands: Mutex<Hands>,
}

/// What an actor has in hand, and had last.
#[derive(Default)]
struct Hands {
    now: Option<Handled>,
    last: Option<(Handled, Duration)>,
}

#[derive(Clone, Copy)]
struct Handled {
    message: &'static str,
    begun: Instant,
}

impl Gauge {
    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message that is being handled, until this is dropped.
pub struct Handling {
    gauge: Arc<Gauge>,
    handled: Handled,
    /// How long the message waited.
    pub waited: Duration,
}

impl Handling {
    /// Carries the handler out, seen by the watchdog; a test may make it fail here, whatever the actor and the message.
    pub async fn run<M: ractor::Message>(
        self,
        faults: &Faults,
        myself: &ActorRef<M>,
        handler: impl Future<Output = Result<(), ActorProcessingErr>> + Send,
    ) -> Result<(), ActorProcessingErr> {
        let Handled { message, .. } = self.handled;
        let injected = faults.in_handler(self.gauge.kind.as_str(), &self.gauge.name, message);
        let name = self.gauge.name.clone();
        let what = Doing::Message { actor: self.gauge.kind.as_str(), name, message };
        let handled = async {
            match injected {
                Injected::Nothing => handler.await,
                Injected::Panic => panic!("made to panic while handling {message}"),
                Injected::Error => Err(format!("made to fail while handling {message}").into()),
                Injected::Hang => std::future::pending().await,
                Injected::Kill => {
                    myself.kill();
                    std::future::pending().await
                }
            }
        };
        doing(what, handled).await
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        let took = self.handled.begun.elapsed();
        metric::message_handled(self.gauge.kind, took);
        let mut hands = self.gauge.hands();
        hands.now = None;
        hands.last = Some((self.handled, took));
    }
}

/// What can be seen of an actor from outside, without asking it.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// What kind of actor.
    pub kind: ActorKind,
    /// Its name.
    pub name: Arc<str>,
    /// Whether an incarnation lives at the address now.
    pub up: bool,
    /// Messages waiting now.
    pub waiting: usize,
    /// The most that ever waited.
    pub high_water: usize,
    /// Messages that may wait.
    pub limit: usize,
    /// The message it is handling, and for how long.
    pub handling: Option<(&'static str, Duration)>,
    /// The message it handled last, how long ago it was done, and how long it took.
    pub last: Option<(&'static str, Duration, Duration)>,
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
    pub fn new(kind: ActorKind, name: impl Into<Arc<str>>, limit: usize) -> Self {
        let gauge = Gauge {
            kind,
            name: name.into(),
            waiting: AtomicUsize::new(0),
            high_water: AtomicUsize::new(0),
            limit,
            hands: Mutex::default(),
        };
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
        let counted = Counted(self.gauge.clone());
        self.gauge.high_water.fetch_max(waiting, Ordering::AcqRel);
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

    /// What can be seen of the actor from outside. Never waits for it.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let hands = self.gauge.hands();
        let last = |(handled, took): (Handled, Duration)| {
            (handled.message, handled.begun.elapsed().saturating_sub(took), took)
        };
        Vitals {
            kind: self.gauge.kind,
            name: self.gauge.name.clone(),
            up: self.is_up(),
            waiting: self.gauge.waiting.load(Ordering::Acquire),
            high_water: self.gauge.high_water.load(Ordering::Acquire),
            limit: self.gauge.limit,
            handling: hands.now.map(|handled| (handled.message, handled.begun.elapsed())),
            last: hands.last.map(last),
        }
    }

    /// Whether an incarnation lives at the address now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.target.load().is_some()
    }
}
