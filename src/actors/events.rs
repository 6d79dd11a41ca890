//! What is in the ledger, told to everybody who listens.
//!
//! One pump reads each new entry once and puts it, written out, into a ring all listeners read from at their own pace,
//! each with a place of its own. So a listener costs no buffer, one that falls out of the ring is let go, and one that
//! comes back is told what it missed from the ledger. With nobody listening nothing is read.
//!
//! Supervised by the root; its death costs listeners a moment, the ring is outside of it. In: `PumpEnded`, `Describe`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::context::Context;
use super::ledger::Ledger;
use super::mailbox::{Address, Envelope, Reply};
use crate::metrics::actors::ActorKind;
use crate::metrics::events as metric;
use crate::metrics::events::{Disconnect, Resume};
use crate::model::event::{Event, EventFilter, EventKind, Subject};
use crate::model::problem::{Problem, ProblemCode};
use crate::store::REPLAY_MAX;

/// Entries the ring holds: some seconds of a busy night.
const RING_MAX: usize = 8_192;
/// Entries read from the ledger at once.
const PAGE: usize = 1_000;
/// Bytes sent to a listener at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// A listener hears something at least this often.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a listener should wait before it comes back, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// The pause after the ledger could not be read.
const PAUSE: Duration = Duration::from_millis(500);

/// One entry, written out for listeners.
struct Frame {
    seq: u64,
    kind: EventKind,
    subject: Subject,
    text: Bytes,
}

impl Frame {
    fn of(event: &Event) -> Self {
        let text = format!("id: {}\nevent: {}\ndata: {}\n\n", event.seq, event.kind.as_str(), shown(event));
        Self { seq: event.seq, kind: event.kind, subject: event.subject.clone(), text: text.into() }
    }
}

/// An entry as listeners see it; never with a line break in it.
fn shown(event: &Event) -> Value {
    let mut all = json!({ "seq": event.seq, "at": event.at, "type": event.kind, "data": event.data });
    if let (Value::Object(all), Ok(Value::Object(subject))) = (&mut all, serde_json::to_value(&event.subject)) {
        all.extend(subject);
    }
    all
}

struct Ring {
    frames: VecDeque<Arc<Frame>>,
    /// Everything after this entry is in the ring, up to `upto`.
    after: u64,
    upto: u64,
}

impl Ring {
    fn push(&mut self, frame: Frame) {
        self.upto = frame.seq;
        self.frames.push_back(Arc::new(frame));
        while self.frames.len() > RING_MAX {
            self.after = self.frames.pop_front().map_or(self.after, |frame| frame.seq);
        }
    }

    fn start_at(&mut self, seq: u64) {
        self.frames.clear();
        (self.after, self.upto) = (seq, seq);
    }
}

/// The ring and its listeners; outlives the actor.
pub struct Hub {
    ring: RwLock<Ring>,
    tip: watch::Sender<u64>,
    listeners: AtomicUsize,
    /// Listeners to each kind, so that nobody does work for what nobody wants to hear.
    interest: [AtomicUsize; EventKind::ALL.len()],
    places: Arc<Semaphore>,
    places_max: usize,
    over: CancellationToken,
}

impl Hub {
    /// A hub for at most so many listeners, to a ledger that has entries up to `upto`.
    #[must_use]
    pub fn new(listeners_max: usize, upto: u64) -> Self {
        Self {
            ring: RwLock::new(Ring { frames: VecDeque::new(), after: upto, upto }),
            tip: watch::Sender::new(0),
            listeners: AtomicUsize::new(0),
            interest: std::array::from_fn(|_| AtomicUsize::new(0)),
            places: Arc::new(Semaphore::new(listeners_max)),
            places_max: listeners_max,
            over: CancellationToken::new(),
        }
    }

    /// Whether anybody wants to hear of a kind.
    #[must_use]
    pub fn is_wanted(&self, kind: EventKind) -> bool {
        self.interest[kind as usize].load(Ordering::Acquire) > 0
    }

    /// Lets every listener go: the daemon stops.
    pub fn close(&self) {
        self.over.cancel();
    }

    /// A listener; `last` is the id of the last event it had. The error says that there are too many.
    pub fn listen(
        self: &Arc<Self>,
        ledger: &Ledger,
        filter: EventFilter,
        last: Option<u64>,
    ) -> Result<impl Stream<Item = Bytes> + Send + use<>, Problem> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            metric::refused();
            let detail =
                format!("{} clients listen already; close one, or raise [http] event_clients_max", self.places_max);
            return Err(Problem::new(ProblemCode::Busy, detail).retry_after(5_000));
        };
        let listener = Listener::new(self.clone(), ledger.clone(), filter, last, place);
        Ok(futures_util::stream::unfold(listener, |mut listener| async move {
            let chunk = listener.next().await?;
            Some((chunk, listener))
        }))
    }
}

/// Where a listener stands.
enum Standing {
    /// It was told nothing yet; this is the last event it had.
    New(Option<u64>),
    /// It is told from the ledger what it missed.
    Replaying,
    /// It is told what comes.
    Live,
}

struct Listener {
    hub: Arc<Hub>,
    ledger: Ledger,
    filter: EventFilter,
    standing: Standing,
    /// It was told everything up to here.
    at: u64,
    tip: watch::Receiver<u64>,
    why: Disconnect,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    fn new(hub: Arc<Hub>, ledger: Ledger, filter: EventFilter, last: Option<u64>, place: OwnedSemaphorePermit) -> Self {
        let tip = hub.tip.subscribe();
        hub.listeners.fetch_add(1, Ordering::AcqRel);
        for kind in EventKind::ALL.into_iter().filter(|kind| filter.wants_kind(*kind)) {
            hub.interest[kind as usize].fetch_add(1, Ordering::AcqRel);
        }
        metric::connected();
        // Counted as listening before the ring is looked at: from here on the pump reads everything.
        let at = hub.ring.read().unwrap_or_else(PoisonError::into_inner).upto;
        Self { hub, ledger, filter, standing: Standing::New(last), at, tip, why: Disconnect::Client, _place: place }
    }

    /// What to send next; `None` when the listener is let go.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.hub.over.is_cancelled() {
                self.why = Disconnect::Shutdown;
                return None;
            }
            match self.standing {
                Standing::New(last) => return Some(self.greet(last).await),
                Standing::Replaying => {
                    if let Some(chunk) = self.replay().await? {
                        return Some(chunk);
                    }
                }
                Standing::Live => match self.unheard() {
                    Err(()) => {
                        self.why = Disconnect::Slow;
                        return None;
                    }
                    Ok(Some(chunk)) => return Some(chunk),
                    Ok(None) => {
                        if let Some(keep_alive) = self.wait().await {
                            return Some(keep_alive);
                        }
                    }
                },
            }
        }
    }

    /// The first words: where the listener is, and whether it has to begin anew.
    async fn greet(&mut self, last: Option<u64>) -> Bytes {
        let newest = match self.ledger.store() {
            Ok(store) => store.last_seq().await.unwrap_or(self.at),
            Err(_) => self.at,
        };
        let mut text = format!("retry: {RETRY_MS}\n");
        let hello = |at: u64| {
            let data = json!({ "seq": at, "server_version": env!("CARGO_PKG_VERSION") });
            format!("id: {at}\nevent: hello\ndata: {data}\n\n")
        };
        match last {
            None => {
                // The pump may be behind the ledger: what is not in the ring yet is still to come.
                self.standing = Standing::Live;
                text.push_str(&hello(self.at));
            }
            Some(last) if last <= newest && newest - last <= REPLAY_MAX => {
                metric::resumed(Resume::Replayed);
                self.at = last;
                self.standing = Standing::Replaying;
                text.push_str(&hello(last));
            }
            Some(last) => {
                metric::resumed(Resume::Reset);
                let reason =
                    if last > newest { "that event is not in this ledger" } else { "that event is too long ago" };
                self.standing = Standing::Live;
                text.push_str(&hello(self.at));
                let data = json!({ "seq": self.at, "reason": reason });
                text.push_str(&format!("id: {}\nevent: reset\ndata: {data}\n\n", self.at));
            }
        }
        text.into()
    }

    /// A page from the ledger. The inner `None` says there is nothing to send of it.
    async fn replay(&mut self) -> Option<Option<Bytes>> {
        if self.at >= self.hub.ring.read().unwrap_or_else(PoisonError::into_inner).after {
            self.standing = Standing::Live;
            return Some(None);
        }
        let read = match self.ledger.store() {
            Ok(store) => store.events(self.at, PAGE).await.ok(),
            Err(_) => None,
        };
        let Some(events) = read else {
            // It comes back with what it had.
            return None;
        };
        let Some(last) = events.last() else {
            self.at = self.hub.ring.read().unwrap_or_else(PoisonError::into_inner).after;
            return Some(None);
        };
        self.at = last.seq;
        let wanted = events.iter().filter(|event| self.filter.wants(event.kind, &event.subject));
        Some(joined(wanted.map(|event| Frame::of(event).text)))
    }

    /// What of the ring the listener has not heard. The error says that it fell out of it.
    fn unheard(&mut self) -> Result<Option<Bytes>, ()> {
        let ring = self.hub.ring.read().unwrap_or_else(PoisonError::into_inner);
        if self.at < ring.after {
            return Err(());
        }
        let from = ring.frames.partition_point(|frame| frame.seq <= self.at);
        let (mut bytes, mut at, mut texts) = (0, ring.upto.max(self.at), Vec::new());
        for frame in ring.frames.range(from..) {
            if bytes > CHUNK_BYTES {
                at = frame.seq - 1;
                break;
            }
            if self.filter.wants(frame.kind, &frame.subject) {
                bytes += frame.text.len();
                texts.push(frame.text.clone());
            }
        }
        drop(ring);
        self.at = at;
        Ok(joined(texts.into_iter()))
    }

    /// Waits for something new; a sign of life when nothing comes. It carries the id of what the listener need not be
    /// told again.
    async fn wait(&mut self) -> Option<Bytes> {
        let over = self.hub.over.clone();
        tokio::select! {
            changed = tokio::time::timeout(KEEP_ALIVE, self.tip.changed()) => match changed {
                Ok(_) => None,
                Err(_) => Some(format!("id: {}\n\n", self.at).into()),
            },
            () = over.cancelled() => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.listeners.fetch_sub(1, Ordering::AcqRel);
        for kind in EventKind::ALL.into_iter().filter(|kind| self.filter.wants_kind(*kind)) {
            self.hub.interest[kind as usize].fetch_sub(1, Ordering::AcqRel);
        }
        metric::disconnected(self.why);
    }
}

fn joined(texts: impl Iterator<Item = Bytes>) -> Option<Bytes> {
    let mut count = 0;
    let all = texts.fold(BytesMut::new(), |mut all, text| {
        count += 1;
        all.extend_from_slice(&text);
        all
    });
    metric::sent(count);
    (!all.is_empty()).then(|| all.freeze())
}

/// What the events actor hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum EventsMsg {
    /// The pump stopped.
    PumpEnded {
        /// Why.
        why: String,
    },
    /// How many listen, and to what.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// Messages that may wait.
const MAILBOX_LIMIT: usize = 256;

/// The actor's state.
pub struct EventsState {
    context: Arc<Context>,
    _pump: AbortOnDropHandle<()>,
}

/// The actor.
pub struct EventsActor;

impl EventsActor {
    /// Where it is reached.
    #[must_use]
    pub fn address() -> Address<EventsMsg> {
        Address::new(ActorKind::Events, "events", MAILBOX_LIMIT)
    }

    /// Starts it under a supervisor.
    pub async fn start(context: Arc<Context>, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) =
            Actor::spawn_linked(None, Self, context, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for EventsActor {
    type Msg = Envelope<EventsMsg>;
    type State = EventsState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Arc<Context>,
    ) -> Result<EventsState, ActorProcessingErr> {
        context.events.point_at(Some(myself));
        let (hub, ledger, address) = (context.hub.clone(), context.ledger.clone(), context.events.clone());
        let pump = tokio::spawn(async move {
            let pumped = tokio::spawn(pump(hub, ledger));
            let why = pumped.await.map_or_else(|error| error.to_string(), |()| "it ended".to_owned());
            let _ = address.tell(EventsMsg::PumpEnded { why });
        });
        Ok(EventsState { context, _pump: AbortOnDropHandle::new(pump) })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut EventsState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.context.faults.clone();
        let handled = async {
            match message {
                // Everybody was let go: the daemon stops.
                EventsMsg::PumpEnded { .. } if state.context.hub.over.is_cancelled() => Ok(()),
                EventsMsg::PumpEnded { why } => Err(format!("the pump stopped: {why}").into()),
                EventsMsg::Describe { reply } => {
                    let hub = &state.context.hub;
                    let ring = hub.ring.read().unwrap_or_else(PoisonError::into_inner);
                    let view = json!({
                        "listeners": hub.listeners.load(Ordering::Acquire),
                        "listeners_max": hub.places_max,
                        "in_ring": ring.frames.len(),
                        "upto": ring.upto,
                    });
                    let _ = reply.send(view);
                    Ok(())
                }
            }
        };
        handling.run(&faults, &myself, handled).await
    }
}

/// Follows the ledger and fills the ring, until the daemon stops.
async fn pump(hub: Arc<Hub>, ledger: Ledger) {
    let mut tip = ledger.tip();
    loop {
        let newest = *tip.borrow_and_update();
        if let Err(problem) = fill(&hub, &ledger, newest).await {
            tracing::warn!(%problem, "the ledger cannot be read for those who listen; trying again");
            tokio::time::sleep(PAUSE).await;
        }
        tokio::select! {
            changed = tip.changed() => if changed.is_err() { return },
            () = hub.over.cancelled() => return,
        }
    }
}

/// Brings the ring up to an entry.
async fn fill(hub: &Hub, ledger: &Ledger, newest: u64) -> Result<(), Problem> {
    loop {
        let upto = {
            let mut ring = hub.ring.write().unwrap_or_else(PoisonError::into_inner);
            if hub.listeners.load(Ordering::Acquire) == 0 && ring.upto < newest {
                ring.start_at(newest);
            }
            ring.upto
        };
        if upto >= newest {
            return Ok(());
        }
        let events = ledger.store()?.events(upto, PAGE).await.map_err(|error| ledger.note(&error))?;
        let Some(last) = events.last().map(|event| event.seq) else { return Ok(()) };
        {
            let mut ring = hub.ring.write().unwrap_or_else(PoisonError::into_inner);
            events.iter().map(Frame::of).for_each(|frame| ring.push(frame));
        }
        hub.tip.send_replace(last);
    }
}
