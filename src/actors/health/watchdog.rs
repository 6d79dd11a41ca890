//! The watchdog's part inside the runtime: measures how late timers are, has actors ended that do not end what they
//! handle, and writes into the ledger what the sampler saw. The rest of it is [`super::sampler`], which needs none of this
//! to see a hang and to dump it.
//!
//! Supervised by the root. Its death loses a second of measurements. In: `Hang`, `Tick`, `Describe`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::actors::context::Context;
use crate::actors::mailbox::{Address, Envelope, Reply, Vitals};
use crate::actors::repository::RepositoryMsg;
use crate::actors::root::RootMsg;
use crate::metrics::actors::ActorKind;
use crate::model::event::EventKind;
use crate::model::hang::{HangReason, HangView};
use crate::model::ids::RepoName;
use crate::model::time::Timestamp;
use crate::store::{Chain, Write};

/// Messages that may wait.
const MAILBOX_LIMIT: usize = 256;
/// How often it is looked for actors that hang; less when handlers may only take a moment.
const TICK: Duration = Duration::from_secs(1);
/// Hangs that are kept at hand.
const RECENT_MAX: usize = 100;

/// What the watchdog's actor hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum WatchdogMsg {
    /// A hang was dumped, or is over.
    Hang {
        /// What is known of it.
        hang: Box<HangView>,
    },
    /// Time to look for actors that hang.
    Tick,
    /// What it is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// The last hangs, for everybody to read.
#[derive(Clone, Default)]
pub struct RecentHangs(Arc<Mutex<VecDeque<HangView>>>);

impl RecentHangs {
    fn note(&self, hang: &HangView) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|known| known.id != hang.id);
        recent.push_back(hang.clone());
        if recent.len() > RECENT_MAX {
            recent.pop_front();
        }
    }

    /// Hangs that began since then.
    #[must_use]
    pub fn since(&self, at: Timestamp) -> Vec<HangView> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().filter(|hang| hang.reason.is_hang() && hang.at >= at).cloned().collect()
    }
}

/// The actor's state.
pub struct WatchdogState {
    context: Arc<Context>,
    /// Handlers that were told to be hanging, and when.
    ended: HashMap<(&'static str, String), Instant>,
    _ticks: AbortOnDropHandle<()>,
    _timers: AbortOnDropHandle<()>,
}

/// The actor.
pub struct WatchdogActor;

impl WatchdogActor {
    /// Where it is reached.
    #[must_use]
    pub fn address() -> Address<WatchdogMsg> {
        Address::new(ActorKind::Watchdog, "watchdog", MAILBOX_LIMIT)
    }

    /// Starts it under a supervisor.
    pub async fn start(context: Arc<Context>, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) =
            Actor::spawn_linked(None, Self, context, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

/// Measures how late timers are, for as long as it is not dropped.
fn measure(context: &Arc<Context>) -> AbortOnDropHandle<()> {
    let (pulse, clock) = (context.pulse.clone(), context.clock.clone());
    let every = Duration::from_millis(context.settings.watchdog.interval_ms);
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let due = Instant::now() + every;
            tokio::time::sleep_until(due).await;
            pulse.lag(due.elapsed(), clock.now());
        }
    }))
}

impl Actor for WatchdogActor {
    type Msg = Envelope<WatchdogMsg>;
    type State = WatchdogState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Arc<Context>,
    ) -> Result<WatchdogState, ActorProcessingErr> {
        context.watchdog.point_at(Some(myself));
        let limit = Duration::from_millis(context.settings.watchdog.handler_timeout_ms);
        let ticks = context.watchdog.every(TICK.min(limit / 4), || WatchdogMsg::Tick);
        let timers = measure(&context);
        Ok(WatchdogState { context, ended: HashMap::new(), _ticks: ticks, _timers: timers })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut WatchdogState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.context.faults.clone();
        let handled = async {
            match message {
                WatchdogMsg::Hang { hang } => state.on_hang(&hang),
                WatchdogMsg::Tick => state.on_tick(),
                WatchdogMsg::Describe { reply } => {
                    let (hangs, dumps, suppressed) = state.context.pulse.counts();
                    let lag = state.context.pulse.lag_view();
                    let view = json!({ "hangs": hangs, "dumps": dumps, "not_dumped": suppressed, "lag_ms": lag });
                    let _ = reply.send(view);
                }
            }
            Ok(())
        };
        handling.run(&faults, &myself, handled).await
    }
}

impl WatchdogState {
    fn on_hang(&self, hang: &HangView) {
        if !hang.reason.is_hang() {
            return;
        }
        self.context.recent_hangs.note(hang);
        self.note(vec![self.noted(EventKind::HangDetected, hang.id.clone(), json!(hang))]);
    }

    fn on_tick(&mut self) {
        self.context.pulse.watchdog_turns();
        let untold = self.context.supervised.take_untold();
        self.note(
            untold
                .into_iter()
                .map(|untold| {
                    let about = format!("{}:{}", untold.kind.as_str(), untold.name);
                    self.noted(EventKind::ActorRestarted, about, json!({ "state": untold.state, "why": untold.why }))
                })
                .collect(),
        );
        self.end_what_hangs();
    }

    fn noted(&self, kind: EventKind, about: String, data: Value) -> Write {
        Write::Noted { kind, about, data, at: self.context.clock.now() }
    }

    fn note(&self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        let written = self.context.ledger.enqueue(writes, &Chain::default());
        tokio::spawn(async move {
            if let Err(problem) = written.await {
                tracing::warn!(%problem, "what the watchdog saw could not be written");
            }
        });
    }

    /// Actors that do not end what they handle are ended by their supervisors. Not while the daemon stops: then
    /// supervisors wait for their children.
    fn end_what_hangs(&mut self) {
        let limit = Duration::from_millis(self.context.settings.watchdog.handler_timeout_ms);
        self.ended.retain(|_, at| at.elapsed() < limit);
        if self.context.is_draining() {
            return;
        }
        for vitals in self.context.vitals() {
            let Some((message, took)) = vitals.handling.filter(|(_, took)| *took >= limit) else { continue };
            let key = (vitals.kind.as_str(), vitals.name.to_string());
            if self.ended.contains_key(&key) {
                continue;
            }
            self.ended.insert(key, Instant::now());
            let why = format!("it has handled {message} for {} ms", took.as_millis());
            self.context.pulse.hang_seen(HangReason::HandlerHung, true);
            let note = format!("{} {}: {why}", vitals.kind.as_str(), vitals.name);
            // Nobody waits for the dump; too many asked for at once are left out.
            drop(self.context.pulse.ask(HangReason::HandlerHung, Some(note)));
            self.end(&vitals, why);
        }
    }

    fn end(&self, vitals: &Vitals, why: String) {
        let name = &*vitals.name;
        let told = match vitals.kind {
            ActorKind::Root => {
                self.context.meltdown.send_replace(Some(format!("root ({why})")));
                return;
            }
            ActorKind::Slug => {
                let (repo, slug) = name.split_once('/').unwrap_or((name, ""));
                self.tell_repository(repo, slug.to_owned(), why)
            }
            ActorKind::Inventory => self.tell_repository(name, crate::actors::repository::INVENTORY.to_owned(), why),
            ActorKind::Repository => self.tell_root(format!("repository:{name}"), why),
            kind => self.tell_root(kind.as_str().to_owned(), why),
        };
        if !told {
            tracing::error!(actor = name, "the supervisor of an actor that hangs cannot be told");
        }
    }

    fn tell_root(&self, child: String, why: String) -> bool {
        self.context.root.send(RootMsg::Hung { child, why }).is_ok()
    }

    fn tell_repository(&self, repo: &str, child: String, why: String) -> bool {
        let entry = RepoName::parse(repo).ok().and_then(|repo| self.context.repos.get(&repo));
        entry.is_some_and(|entry| entry.address.send(RepositoryMsg::Hung { child, why }).is_ok())
    }
}
