//! Readiness and incidents: gathers evidence on its own tick (a job), judges it by `model::readiness` and
//! `model::incident`, stores what the next daemon should know, and tells what changed.
//!
//! Supervised by the root. What is shown is outside of it: while it is down, evidence ages until it says nothing any more.
//! In: `Evaluate`, `Gathered`, `Describe`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};

use super::evidence::{self, Gathered, Queue};
use crate::actors::context::Context;
use crate::actors::exclusion::write_whole;
use crate::actors::mailbox::{Address, Envelope, Reply};
use crate::metrics::actors::ActorKind;
use crate::metrics::runtime as metric;
use crate::model::event::EventKind;
use crate::model::incident::{Incident, Incidents, Severity};
use crate::model::readiness::{Readiness, ReadinessTerms, ReadinessView, Restored, Verdict};
use crate::model::time::{Awake, Moment};
use crate::store::{Chain, Write};

/// Messages that may wait.
const MAILBOX_LIMIT: usize = 64;
/// What has not changed is stored again after so long, in milliseconds: its stamp must not grow old.
const STORE_AGAIN_MS: i64 = 60_000;
/// How long gathering may take in all.
const GATHER_LIMIT: Duration = Duration::from_secs(8);
/// A file beyond this was not written by us.
const STORED_BYTES_MAX: u64 = 1 << 20;
/// Incidents read at a start.
const INCIDENTS_MAX: usize = 1_000;

/// What readiness and incidents go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthTerms {
    /// Verdicts.
    pub readiness: ReadinessTerms,
    /// Incidents without a sign for so many milliseconds fade.
    pub incident_stale_ms: i64,
    /// Todos that can be claimed and are not for so many milliseconds are a stall.
    pub stall_ms: i64,
    /// Less room on disk than so many bytes is too little.
    pub disk_free_min_bytes: u64,
    /// Open files have to do for so many connections at once.
    pub connections_max: u64,
}

/// What is said of the daemon, for everybody to read.
pub struct ReadinessBoard {
    readiness: RwLock<Readiness>,
    open: RwLock<Vec<Incident>>,
    queue: RwLock<Arc<Queue>>,
}

impl ReadinessBoard {
    /// Nothing is known.
    #[must_use]
    pub fn new(terms: &HealthTerms) -> Self {
        Self {
            readiness: RwLock::new(Readiness::new(terms.readiness)),
            open: RwLock::default(),
            queue: RwLock::default(),
        }
    }

    /// What is said now. Looking changes nothing.
    #[must_use]
    pub fn view(&self, now: Awake) -> ReadinessView {
        self.readiness.read().unwrap_or_else(PoisonError::into_inner).view(now)
    }

    /// Incidents that are not over.
    #[must_use]
    pub fn incidents(&self) -> Vec<Incident> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What waits to be claimed.
    #[must_use]
    pub fn queue(&self) -> Arc<Queue> {
        self.queue.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the readiness actor hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ReadinessMsg {
    /// Time to evaluate.
    Evaluate {
        /// Answer: the verdict, once it is stored.
        reply: Reply<Verdict>,
    },
    /// Evidence was gathered; nothing when that took too long.
    Gathered {
        /// The evidence.
        gathered: Option<Box<Gathered>>,
        /// What is carried on from evaluation to evaluation.
        waits: Box<evidence::Waits>,
        /// Whom to tell.
        reply: Reply<Verdict>,
    },
    /// What it is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// The actor's state.
pub struct ReadinessState {
    context: Arc<Context>,
    incidents: Incidents,
    /// `None` while it is lent to somebody who gathers.
    waits: Option<Box<evidence::Waits>>,
    /// What was last told and stored.
    told: Option<(ReadinessView, Awake)>,
}

/// The actor.
pub struct ReadinessActor;

impl ReadinessActor {
    /// Where it is reached.
    #[must_use]
    pub fn address() -> Address<ReadinessMsg> {
        Address::new(ActorKind::Readiness, "readiness", MAILBOX_LIMIT)
    }

    /// Starts it under a supervisor.
    pub async fn start(context: Arc<Context>, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) =
            Actor::spawn_linked(None, Self, context, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

/// Where the verdict is stored for the next daemon.
#[must_use]
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("readiness.json")
}

/// What an earlier daemon stored; `None` when there is nothing.
fn stored(path: &Path) -> Option<Vec<u8>> {
    let length = std::fs::metadata(path).ok()?.len();
    if length > STORED_BYTES_MAX { Some(Vec::new()) } else { std::fs::read(path).ok() }
}

impl Actor for ReadinessActor {
    type Msg = Envelope<ReadinessMsg>;
    type State = ReadinessState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Arc<Context>,
    ) -> Result<ReadinessState, ActorProcessingErr> {
        let (terms, path, now) = (context.settings.health, file(&context.settings.data_dir), context.clock.moment());
        let bytes = tokio::task::spawn_blocking(move || stored(&path)).await?;
        let (readiness, restored) = Readiness::restore(terms.readiness, bytes.as_deref(), &now);
        match &restored {
            Restored::Fresh | Restored::Missing => {}
            Restored::Stale => tracing::info!("the stored readiness is too old to say anything"),
            Restored::Future | Restored::Torn(_) => {
                tracing::warn!(?restored, "the stored readiness cannot be believed; nothing is known until it is seen")
            }
        }
        let open = context.ledger.store()?.incidents(INCIDENTS_MAX).await?;
        let mut incidents = Incidents::new(open, terms.incident_stale_ms);
        // Those that were stored as critical long ago do not block a daemon that has seen nothing of them.
        incidents.sweep(now.wall);
        *context.readiness.readiness.write().unwrap_or_else(PoisonError::into_inner) = readiness;
        *context.readiness.open.write().unwrap_or_else(PoisonError::into_inner) = incidents.open().cloned().collect();
        context.readiness_address.point_at(Some(myself));
        Ok(ReadinessState { context, incidents, waits: Some(Box::default()), told: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut ReadinessState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.context.faults.clone();
        let handled = async {
            match message {
                ReadinessMsg::Evaluate { reply } => state.on_evaluate(reply),
                ReadinessMsg::Gathered { gathered, waits, reply } => state.on_gathered(gathered, waits, reply),
                ReadinessMsg::Describe { reply } => {
                    let view = state.context.readiness.view(state.context.clock.moment().awake);
                    let _ = reply.send(json!({ "verdict": view.verdict, "gathering": state.waits.is_none() }));
                }
            }
            Ok(())
        };
        handling.run(&faults, &myself, handled).await
    }

    /// The next daemon begins with what this one knew last.
    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut ReadinessState) -> Result<(), ActorProcessingErr> {
        state.store(&state.context.clock.moment()).await?;
        Ok(())
    }
}

impl ReadinessState {
    fn on_evaluate(&mut self, reply: Reply<Verdict>) {
        // Somebody gathers already; whoever asks now is not told, and its job says that it was not answered.
        let Some(mut waits) = self.waits.take() else { return };
        let context = self.context.clone();
        tokio::spawn(async move {
            let gathered = tokio::time::timeout(GATHER_LIMIT, evidence::gather(&context, &mut waits)).await;
            let gathered = gathered.ok().map(Box::new);
            let _ = context.readiness_address.tell(ReadinessMsg::Gathered { gathered, waits, reply });
        });
    }

    fn on_gathered(&mut self, gathered: Option<Box<Gathered>>, waits: Box<evidence::Waits>, reply: Reply<Verdict>) {
        self.waits = Some(waits);
        let now = self.context.clock.moment();
        let mut writes = Vec::new();
        if let Some(gathered) = gathered {
            let Gathered { mut sightings, signs, over, queue } = *gathered;
            let mut changed: Vec<Incident> = Vec::new();
            for sign in signs {
                changed.extend(self.incidents.seen(sign, || self.context.clock.operation_id().to_string(), now.wall));
            }
            for key in self.context.readiness.incidents().iter().map(|incident| incident.key.clone()) {
                if let Some(why) = over(&key) {
                    changed.extend(self.incidents.ended(&key, &why, now.wall));
                }
            }
            changed.extend(self.incidents.sweep(now.wall));
            sightings.push(evidence::of_incidents(&self.incidents));
            writes.extend(
                changed
                    .into_iter()
                    .map(|incident| Write::IncidentChanged { incident: Box::new(incident), at: now.wall }),
            );
            let board = &self.context.readiness;
            let mut readiness = board.readiness.write().unwrap_or_else(PoisonError::into_inner);
            for (criterion, sighting) in sightings {
                readiness.observe(criterion, &sighting, now.awake);
            }
            drop(readiness);
            *board.open.write().unwrap_or_else(PoisonError::into_inner) = self.incidents.open().cloned().collect();
            *board.queue.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(queue);
        }
        self.show(&now, writes, reply);
    }

    /// Tells what changed, and stores what the next daemon should know.
    fn show(&mut self, now: &Moment, mut writes: Vec<Write>, reply: Reply<Verdict>) {
        let view = self.context.readiness.view(now.awake);
        metric::readiness(view.verdict, view.criteria.iter().map(|criterion| (criterion.name, criterion.verdict)));
        for severity in [Severity::Warning, Severity::Critical] {
            metric::incidents(severity, self.incidents.open().filter(|incident| incident.severity == severity).count());
        }
        let verdicts = |view: &ReadinessView| {
            view.criteria.iter().map(|criterion| (criterion.name, criterion.verdict)).collect::<Vec<_>>()
        };
        let changed = self.told.as_ref().is_none_or(|(told, _)| verdicts(told) != verdicts(&view));
        let due = self.told.as_ref().is_none_or(|(_, at)| now.awake.since_ms(*at) >= STORE_AGAIN_MS);
        if changed {
            let before = self.told.as_ref().map(|(told, _)| told.verdict);
            tracing::info!(verdict = view.verdict.as_str(), before = before.map(Verdict::as_str), "readiness changed");
            let (kind, about) = (EventKind::ReadinessChanged, "readiness".to_owned());
            writes.push(Write::Noted { kind, about, data: json!(view), at: now.wall });
        }
        if changed || due {
            self.told = Some((view.clone(), now.awake));
        }
        let stored = (changed || due).then(|| self.store(now));
        let written = (!writes.is_empty()).then(|| self.context.ledger.enqueue(writes, &Chain::default()));
        let verdict = view.verdict;
        tokio::spawn(async move {
            if let Some(written) = written
                && let Err(problem) = written.await
            {
                tracing::warn!(%problem, "what became of readiness and incidents could not be written");
            }
            if let Some(stored) = stored
                && let Err(error) = stored.await
            {
                // Not answered: the job that asked says that it failed.
                tracing::error!(%error, "readiness could not be stored");
                return;
            }
            let _ = reply.send(verdict);
        });
    }

    fn store(&self, now: &Moment) -> impl Future<Output = std::io::Result<()>> + Send + use<> {
        let stored = self.context.readiness.readiness.read().unwrap_or_else(PoisonError::into_inner).stored(now);
        let path = file(&self.context.settings.data_dir);
        let faults = self.context.faults.clone();
        async move {
            let written = tokio::task::spawn_blocking(move || {
                faults.hit("readiness.store");
                write_whole(&path, &serde_json::to_vec(&stored).map_err(std::io::Error::other)?)
            });
            written.await.map_err(std::io::Error::other)?
        }
    }
}
