//! The root of the supervision tree: ledger, dispatcher, events, sessions and one actor per repository.
//!
//! When a child of the root is given up, nothing above it can help: the root reports the meltdown and the process
//! ends with a code, for whoever supervises the process. Its orderly end stops its children first, since a
//! supervisor that simply ends has its children killed. In: `Restart`, `Describe`, `Drain`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;

use super::context::Context;
use super::dispatcher::Dispatcher;
use super::events::EventsActor;
use super::ledger::{LedgerActor, LedgerArgs};
use super::mailbox::{Address, Envelope, Reply};
use super::repository::{RepositoryActor, RepositoryArgs};
use super::sessions::SessionsActor;
use super::supervision::{Aftermath, BUDGET, Children, Start, start_by};
use crate::metrics::actors::ActorKind;
use crate::model::view::ActorView;

/// Messages the root may have waiting: restarts of its children and looks at it.
const MAILBOX_LIMIT: usize = 1_024;
/// How long the children get to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What the root hears.
pub enum RootMsg {
    /// The delay of a child's restart is over.
    Restart {
        /// Which child.
        child: String,
    },
    /// The state of its children.
    Describe {
        /// Answer.
        reply: Reply<Vec<ActorView>>,
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
    /// Where the root is reached.
    pub address: Address<RootMsg>,
    /// Told the name of a child that was given up.
    pub meltdown: watch::Sender<Option<String>>,
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
        Address::new(ActorKind::Root, MAILBOX_LIMIT)
    }
}

/// The children of the root, in the order they start: the ledger first, since the others read it.
fn children_of(args: &RootArgs) -> Vec<(ActorKind, String, Start)> {
    let ledger = LedgerArgs { ledger: args.context.ledger.clone(), path: args.ledger_path.clone() };
    let context = args.context.clone();
    let mut children = vec![
        (
            ActorKind::Ledger,
            "ledger".to_owned(),
            start_by(move |supervisor| LedgerActor::start(ledger.clone(), supervisor)),
        ),
        (
            ActorKind::Dispatcher,
            "dispatcher".to_owned(),
            start_by(move |supervisor| Dispatcher::start(context.clone(), supervisor)),
        ),
    ];
    let (events, sessions) = (args.context.clone(), args.context.clone());
    children.push((
        ActorKind::Events,
        "events".to_owned(),
        start_by(move |supervisor| EventsActor::start(events.clone(), supervisor)),
    ));
    children.push((
        ActorKind::Sessions,
        "sessions".to_owned(),
        start_by(move |supervisor| SessionsActor::start(sessions.clone(), supervisor)),
    ));
    for (name, entry) in &args.context.repos {
        let repository =
            RepositoryArgs { context: args.context.clone(), repo: entry.repo.clone(), address: entry.address.clone() };
        let start = start_by(move |supervisor| RepositoryActor::start(repository.clone(), supervisor));
        children.push((ActorKind::Repository, format!("repository:{name}"), start));
    }
    children
}

impl Actor for Root {
    type Msg = Envelope<RootMsg>;
    type State = RootState;
    type Arguments = RootArgs;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, args: RootArgs) -> Result<RootState, ActorProcessingErr> {
        let mut state = RootState { args, children: Children::new(BUDGET) };
        state.args.address.point_at(Some(myself.clone()));
        for (kind, name, start) in children_of(&state.args) {
            let aftermath = state.children.start(kind, &name, myself.get_cell(), start).await;
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
        match envelope.open().0 {
            RootMsg::Restart { child } => {
                let aftermath = state.children.restart(&child, myself.get_cell()).await;
                state.act(aftermath);
            }
            RootMsg::Describe { reply } => state.on_describe(reply),
            RootMsg::Drain { reply } => {
                let _ = tokio::time::timeout(
                    STOP_LIMIT,
                    myself.stop_children_and_wait(Some("drained".to_owned()), Some(STOP_LIMIT)),
                )
                .await;
                let _ = reply.send(());
            }
        }
        Ok(())
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
                let address = self.args.address.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = address.tell(RootMsg::Restart { child });
                });
            }
            Aftermath::GaveUp(child) => {
                self.point_at_nobody(&child);
                self.args.meltdown.send_replace(Some(child));
            }
        }
    }

    fn point_at_nobody(&self, child: &str) {
        match child {
            "ledger" => self.args.context.ledger.address.point_at(None),
            "dispatcher" => self.args.context.dispatcher.point_at(None),
            "events" => self.args.context.events.point_at(None),
            "sessions" => self.args.context.sessions_address.point_at(None),
            _ => {
                let entries = self.args.context.repos.iter();
                for (_, entry) in entries.filter(|(name, _)| child.strip_prefix("repository:") == Some(name.as_str())) {
                    entry.address.point_at(None);
                }
            }
        }
    }

    fn on_describe(&self, reply: Reply<Vec<ActorView>>) {
        let views = self.children.describe().map(|(name, kind, state, history)| ActorView {
            kind: kind.as_str().to_owned(),
            name: name.strip_prefix("repository:").unwrap_or(name).to_owned(),
            parent: "root:root".to_owned(),
            state: state.to_owned(),
            restarts: history.restarts,
            last_failure: history.last_failure.clone(),
            mailbox: 0,
            mailbox_high_water: 0,
            work: serde_json::Value::Null,
        });
        let _ = reply.send(views.collect());
    }
}
