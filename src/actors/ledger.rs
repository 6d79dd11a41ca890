//! The ledger actor: owns the life of the store, whose own thread is the single writer of the database.
//!
//! Supervised by the root. Everybody commits through [`Ledger`]; when the store's thread is gone, the actor is told,
//! dies of it and opens the store again in its next incarnation. Until then commits answer `store_unavailable`.
//! Its death loses nothing: what was answered is on disk, what was not answered was not accepted.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::faults::Faults;
use super::mailbox::{Address, Envelope, Reply};
use crate::metrics::actors::ActorKind;
use crate::metrics::store::StoreOp;
use crate::model::problem::{Problem, ProblemCode};
use crate::store::{self, Chain, Store, StoreError, Write};

/// Messages that may wait: facts and questions about the store, never the writes themselves.
const MAILBOX_LIMIT: usize = 256;

/// What the ledger actor hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum LedgerMsg {
    /// The store's thread is gone.
    StoreDied,
    /// What the store is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// The way to the ledger.
#[derive(Clone)]
pub struct Ledger {
    store: Arc<ArcSwapOption<Store>>,
    /// Where its actor is.
    pub address: Address<LedgerMsg>,
    /// The last entry that is known to be on disk.
    tip: Arc<watch::Sender<u64>>,
    /// Why the last write failed, until one is written again.
    failing: Arc<ArcSwapOption<String>>,
    faults: Faults,
}

impl Ledger {
    /// A ledger around a store that was opened for it and has entries up to `tip`.
    #[must_use]
    pub fn new(store: Store, tip: u64, faults: Faults) -> Self {
        Self {
            store: Arc::new(ArcSwapOption::from_pointee(store)),
            address: Address::new(ActorKind::Ledger, "ledger", MAILBOX_LIMIT),
            tip: Arc::new(watch::Sender::new(tip)),
            failing: Arc::default(),
            faults,
        }
    }

    /// Follows the last entry that is on disk.
    #[must_use]
    pub fn tip(&self) -> watch::Receiver<u64> {
        self.tip.subscribe()
    }

    fn reached(&self, seq: u64) {
        if self.failing.load().is_some() {
            self.failing.store(None);
        }
        self.tip.send_if_modified(|tip| {
            let further = seq > *tip;
            *tip = seq.max(*tip);
            further
        });
    }

    /// The store, for reading.
    pub fn store(&self) -> Result<Arc<Store>, Problem> {
        self.store.load_full().ok_or_else(|| problem(&StoreError::Gone))
    }

    /// Commits a batch; when this returns, it is on disk.
    pub async fn commit(&self, batch: Vec<Write>) -> Result<(), Problem> {
        self.enqueue(batch, &Chain::default()).await
    }

    /// Queues a batch of a chain, in the order of the calls; what comes back is ready when it is on disk.
    pub fn enqueue(
        &self,
        batch: Vec<Write>,
        chain: &Chain,
    ) -> impl Future<Output = Result<(), Problem>> + Send + use<> {
        self.faults.hit("ledger.commit");
        let (begun, fate) = (Instant::now(), self.faults.of_batch());
        let queued = match fate.refused {
            Some(error) => Err(error),
            None => self.store.load_full().map(|store| store.enqueue(batch, chain)).ok_or(StoreError::Gone),
        };
        if queued.is_err() {
            chain.tear();
        }
        self.faults.hit("ledger.queued");
        let ledger = self.clone();
        async move {
            let result = match queued {
                Ok(written) => written.await,
                Err(error) => Err(error),
            };
            if !fate.told_after.is_zero() {
                tokio::time::sleep(fate.told_after).await;
            }
            store::observe(StoreOp::Commit, begun, &result);
            ledger.faults.hit("ledger.committed");
            result.map(|seq| ledger.reached(seq)).map_err(|error| ledger.note(&error))
        }
    }

    /// Why the last write failed; `None` when it did not.
    #[must_use]
    pub fn last_error(&self) -> Option<Arc<String>> {
        self.failing.load_full()
    }

    /// Turns a store error into a problem, and tells the actor when the store is gone.
    pub fn note(&self, error: &StoreError) -> Problem {
        if !matches!(error, StoreError::Busy | StoreError::Conflict(_)) {
            self.failing.store(Some(Arc::new(error.to_string())));
        }
        if matches!(error, StoreError::Gone) {
            let _ = self.address.send(LedgerMsg::StoreDied);
        }
        problem(error)
    }

    /// Writes out what waits and lets the store go, within its own bound.
    pub async fn close(&self) {
        if let Some(store) = self.store.swap(None) {
            store.close().await;
        }
    }
}

/// A store error as clients see it.
fn problem(error: &StoreError) -> Problem {
    let code = if matches!(error, StoreError::Busy) { ProblemCode::Busy } else { ProblemCode::StoreUnavailable };
    Problem::new(code, format!("the ledger did not take the write: {error}; nothing was accepted, try again"))
        .retry_after(1_000)
}

/// What the actor is built from.
#[derive(Clone)]
pub struct LedgerArgs {
    /// The ledger it serves.
    pub ledger: Ledger,
    /// The database file.
    pub path: PathBuf,
}

/// The actor.
pub struct LedgerActor;

impl LedgerActor {
    /// Starts it under a supervisor.
    pub async fn start(args: LedgerArgs, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) = Actor::spawn_linked(None, Self, args, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for LedgerActor {
    type Msg = Envelope<LedgerMsg>;
    type State = LedgerArgs;
    type Arguments = LedgerArgs;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, args: LedgerArgs) -> Result<LedgerArgs, ActorProcessingErr> {
        if args.ledger.store.load().is_none() {
            let path = args.path.clone();
            let store = tokio::task::spawn_blocking(move || Store::open(&path)).await??;
            args.ledger.store.store(Some(Arc::new(store)));
        }
        args.ledger.address.point_at(Some(myself));
        Ok(args)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut LedgerArgs,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.ledger.faults.clone();
        let handled = async {
            match message {
                LedgerMsg::StoreDied => on_store_died(state),
                LedgerMsg::Describe { reply } => on_describe(state, reply),
            }
        };
        handling.run(&faults, &myself, handled).await
    }
}

/// The store is let go, so that its lock is free, and the actor dies of it: its next incarnation opens it again.
fn on_store_died(state: &LedgerArgs) -> Result<(), ActorProcessingErr> {
    let gone = state.ledger.store.load().as_ref().is_none_or(|store| !store.is_alive());
    if !gone {
        return Ok(());
    }
    state.ledger.store.store(None);
    Err("the store's writer thread is gone".into())
}

fn on_describe(state: &LedgerArgs, reply: Reply<Value>) -> Result<(), ActorProcessingErr> {
    let stats = state.ledger.store.load().as_ref().map(|store| store.stats());
    let _ = reply.send(json!({ "path": state.path, "stats": stats }));
    Ok(())
}
