//! The root of the supervision tree: ledger, watchdog, dispatcher, events, sessions, one actor per repository, readiness
//! and jobs. Strategy: one for one, since none of them rests on what another one has in its state.
//!
//! When a child of the root is given up, nothing above it can help: the root reports the meltdown and the process
//! ends with a code, for whoever supervises the process. Its orderly end stops its children first, since a
//! supervisor that simply ends has its children killed. In: `Restart`, `Hung`, `Drain`.

use std::path::PathBuf;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::context::Context;
use super::dispatcher::Dispatcher;
use super::events::EventsActor;
use super::health::jobs::JobsActor;
use super::health::readiness::ReadinessActor;
use super::health::watchdog::WatchdogActor;
use super::ledger::{LedgerActor, LedgerArgs};
use super::mailbox::{Address, Envelope, Reply};
use super::repository::{RepositoryActor, RepositoryArgs, RepositoryMsg};
use super::sessions::SessionsActor;
use super::supervision::{Aftermath, BUDGET, Children, STOP_LIMIT, Start, start_by};
use crate::metrics::actors::ActorKind;

/// Messages the root may have waiting: restarts of its children and looks at it.
const MAILBOX_LIMIT: usize = 1_024;

/// What the root hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum RootMsg {
    /// The delay of a child's restart is over.
    Restart {
        /// Which child.
        child: String,
    },
    /// A child does not end what it handles.
    Hung {
        /// Which child.
        child: String,
        /// What, and for how long.
        why: String,
    },
    /// Stop all children in order.
    Drain {
        /// Answer, once they are gone.
        reply: Reply<()>,
    },
}

/// What the root is built from.
#[derive(Clone)]
pub struct RootArgs {
    /// What all actors share.
    pub context: Arc<Context>,
    /// The database file.
    pub ledger_path: PathBuf,
}

/// The root's state.
pub struct RootState {
    args: RootArgs,
    children: Children,
}

/// The actor.
pub struct Root;

impl Root {
    /// An address for a root.
    #[must_use]
    pub fn address() -> Address<RootMsg> {
        Address::new(ActorKind::Root, "root", MAILBOX_LIMIT)
    }
}

/// The children of the root, in the order they start: the ledger first, since the others read it.
fn children_of(args: &RootArgs) -> Vec<(ActorKind, String, Start)> {
    let ledger = LedgerArgs { ledger: args.context.ledger.clone(), path: args.ledger_path.clone() };
    let mut children =
        vec![child(ActorKind::Ledger, start_by(move |supervisor| LedgerActor::start(ledger.clone(), supervisor)))];
    let of_context = |kind: ActorKind| {
        let context = args.context.clone();
        let start: Start = match kind {
            ActorKind::Watchdog => start_by(move |root| WatchdogActor::start(context.clone(), root)),
            ActorKind::Dispatcher => start_by(move |root| Dispatcher::start(context.clone(), root)),
            ActorKind::Events => start_by(move |root| EventsActor::start(context.clone(), root)),
            ActorKind::Sessions => start_by(move |root| SessionsActor::start(context.clone(), root)),
            ActorKind::Readiness => start_by(move |root| ReadinessActor::start(context.clone(), root)),
            _ => start_by(move |root| JobsActor::start(context.clone(), root)),
        };
        child(kind, start)
    };
    children
        .extend([ActorKind::Watchdog, ActorKind::Dispatcher, ActorKind::Events, ActorKind::Sessions].map(of_context));
    for (name, entry) in &args.context.repos {
        let repository =
            RepositoryArgs { context: args.context.clone(), repo: entry.repo.clone(), address: entry.address.clone() };
        let start = start_by(move |supervisor| RepositoryActor::start(repository.clone(), supervisor));
        children.push((ActorKind::Repository, format!("repository:{name}"), start));
    }
    // Last, since they ask all the others; so they are the first to stop.
    children.extend([ActorKind::Readiness, ActorKind::Jobs].map(of_context));
    children
}

fn child(kind: ActorKind, start: Start) -> (ActorKind, String, Start) {
    (kind, kind.as_str().to_owned(), start)
}

impl Actor for Root {
    type Msg = Envelope<RootMsg>;
    type State = RootState;
    type Arguments = RootArgs;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, args: RootArgs) -> Result<RootState, ActorProcessingErr> {
        let supervised = args.context.supervised.clone();
        let mut state = RootState { args, children: Children::new(BUDGET, "root:root", supervised) };
        state.args.context.root.point_at(Some(myself.clone()));
        for (kind, name, start) in children_of(&state.args) {
            let shown = name.strip_prefix("repository:").unwrap_or(&name).to_owned();
            let aftermath = state.children.start(kind, &name, shown, myself.get_cell(), start).await;
            state.act(aftermath);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.args.context.faults.clone();
        let handled = async {
            match message {
                RootMsg::Restart { child } => {
                    let aftermath = state.children.restart(&child, myself.get_cell()).await;
                    state.act(aftermath);
                }
                RootMsg::Hung { child, why } => state.children.end_hung(&child, &why),
                RootMsg::Drain { reply } => {
                    // Who supervises stops its own children first: one that simply ends has them killed.
                    let repos = state.args.context.repos.values();
                    let drained =
                        repos.map(|entry| entry.address.ask(STOP_LIMIT, |reply| RepositoryMsg::Drain { reply }));
                    let _ = futures_util::future::join_all(drained).await;
                    state.children.stop_all(STOP_LIMIT).await;
                    let _ = reply.send(());
                }
            }
            Ok(())
        };
        handling.run(&faults, &myself, handled).await
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let aftermath = state.children.on_event(&event);
        state.act(aftermath);
        Ok(())
    }
}

impl RootState {
    fn act(&self, aftermath: Aftermath) {
        match aftermath {
            Aftermath::Nothing | Aftermath::Ended(_) => {}
            Aftermath::RestartAfter(child, delay) => {
                self.point_at_nobody(&child);
                let address = self.args.context.root.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = address.tell(RootMsg::Restart { child });
                });
            }
            Aftermath::GaveUp(child) => {
                self.point_at_nobody(&child);
                self.args.context.meltdown.send_replace(Some(child));
            }
        }
    }

    fn point_at_nobody(&self, child: &str) {
        match child {
            "ledger" => self.args.context.ledger.address.point_at(None),
            "dispatcher" => self.args.context.dispatcher.point_at(None),
            "events" => self.args.context.events.point_at(None),
            "sessions" => self.args.context.sessions_address.point_at(None),
            "watchdog" => self.args.context.watchdog.point_at(None),
            "jobs" => self.args.context.jobs_address.point_at(None),
            "readiness" => self.args.context.readiness_address.point_at(None),
            _ => {
                let entries = self.args.context.repos.iter();
                for (_, entry) in entries.filter(|(name, _)| child.strip_prefix("repository:") == Some(name.as_str())) {
                    entry.address.point_at(None);
                }
            }
        }
    }
}
