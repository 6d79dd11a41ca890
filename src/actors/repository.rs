//! The repository actor: supervises the inventory and the slug actors of one repository; those are brought up on demand.
//!
//! Supervised by the root. Its death ends its slug actors; runs that are on go on (they live in [`super::runs`]) and
//! are found again by the slug actors that come back on demand. In: `Activate`, `Restart`,
//! `Forget`, `Hung`, `Drain`, `Describe`. Strategy: one for one; a slug's actor that is given up is left down for its window, the
//! inventory is tried again after it.
//!
//! Nothing shared is owned here: the git handle, what was read of the base and the permit for the registry are in
//! [`super::repo::Repo`], so a restart costs no git work.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde_json::{Value, json};

use super::context::{Context, RepoEntry};
use super::inventory::{InventoryActor, InventoryArgs};
use super::mailbox::{Address, Envelope, Reply};
use super::repo::Repo;
use super::slug::{MAILBOX_LIMIT, SlugActor, SlugArgs, SlugMsg};
use super::supervision::{Aftermath, BUDGET, ChildState, Children, STOP_LIMIT, start_by};
use crate::metrics::actors::ActorKind;
use crate::model::ids::{Slug, TodoKey};
use crate::model::problem::{Problem, ProblemCode};

/// What a repository actor hears.
#[derive(strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum RepositoryMsg {
    /// Somebody wants to talk to a slug's actor. The caller has checked that the todo exists.
    Activate {
        /// Which.
        slug: Slug,
        /// Where it is.
        reply: Reply<Result<Address<SlugMsg>, Problem>>,
    },
    /// The delay of a child's restart is over.
    Restart {
        /// Which child.
        child: String,
    },
    /// The time is over for which a slug's actor was left down; nobody may ever ask for it again.
    Forget {
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
    /// Its own view.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// What a repository actor is built from.
#[derive(Clone)]
pub struct RepositoryArgs {
    /// What all actors share.
    pub context: Arc<Context>,
    /// The repository.
    pub repo: Arc<Repo>,
    /// Where this actor is reached.
    pub address: Address<RepositoryMsg>,
}

impl RepositoryArgs {
    fn entry(&self) -> &RepoEntry {
        &self.context.repos[self.repo.name()]
    }
}

/// What the inventory is called among the children; no slug looks like that.
pub const INVENTORY: &str = "@inventory";

/// The actor's state.
pub struct RepositoryState {
    args: RepositoryArgs,
    children: Children,
}

/// The actor.
pub struct RepositoryActor;

impl RepositoryActor {
    /// Starts it under a supervisor.
    pub async fn start(args: RepositoryArgs, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) = Actor::spawn_linked(None, Self, args, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for RepositoryActor {
    type Msg = Envelope<RepositoryMsg>;
    type State = RepositoryState;
    type Arguments = RepositoryArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: RepositoryArgs,
    ) -> Result<RepositoryState, ActorProcessingErr> {
        // Slug actors of an earlier incarnation died with it; their addresses lead nowhere.
        for (todo, address) in args.context.slugs.all() {
            if todo.repo == *args.repo.name() {
                address.point_at(None);
                args.context.slugs.remove(&todo);
            }
        }
        args.entry().inventory.point_at(None);
        args.address.point_at(Some(myself.clone()));
        let (parent, supervised) = (format!("repository:{}", args.repo.name()), args.context.supervised.clone());
        let mut state = RepositoryState { args, children: Children::new(BUDGET, parent, supervised) };
        let inventory = InventoryArgs { context: state.args.context.clone(), repo: state.args.repo.clone() };
        let shown = state.args.repo.name().to_string();
        let start = start_by(move |supervisor| InventoryActor::start(inventory.clone(), supervisor));
        let aftermath = state.children.start(ActorKind::Inventory, INVENTORY, shown, myself.get_cell(), start).await;
        state.act(aftermath);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut RepositoryState,
    ) -> Result<(), ActorProcessingErr> {
        let (message, handling) = envelope.open();
        let faults = state.args.context.faults.clone();
        let handled = async {
            state.args.context.faults.hit("repository.handle");
            match message {
                RepositoryMsg::Activate { slug, reply } => state.on_activate(slug, reply, myself.get_cell()).await,
                RepositoryMsg::Restart { child } => state.on_restart(&child, myself.get_cell()).await,
                RepositoryMsg::Forget { child } => state.children.forget(&child),
                RepositoryMsg::Hung { child, why } => state.children.end_hung(&child, &why),
                RepositoryMsg::Drain { reply } => {
                    state.children.stop_all(STOP_LIMIT).await;
                    let _ = reply.send(());
                }
                RepositoryMsg::Describe { reply } => state.on_describe(reply),
            }
            Ok(())
        };
        handling.run(&faults, &myself, handled).await
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut RepositoryState,
    ) -> Result<(), ActorProcessingErr> {
        let aftermath = state.children.on_event(&event);
        state.act(aftermath);
        Ok(())
    }
}

impl RepositoryState {
    fn todo(&self, slug: &Slug) -> TodoKey {
        TodoKey { repo: self.args.repo.name().clone(), slug: slug.clone() }
    }

    async fn on_activate(&mut self, slug: Slug, reply: Reply<Result<Address<SlugMsg>, Problem>>, myself: ActorCell) {
        let todo = self.todo(&slug);
        let answer = match (self.children.state(slug.as_str()), self.args.context.slugs.get(&todo)) {
            (Some(ChildState::Up(_)), Some(address)) if address.is_up() => Ok(address),
            (Some(ChildState::Restarting), _) => Err(restarting(&todo, 250)),
            (Some(ChildState::GivenUp), _) if !self.children.until_retry(slug.as_str()).is_zero() => {
                let ms = self.children.until_retry(slug.as_str()).as_millis();
                Err(given_up(&todo, u64::try_from(ms).unwrap_or(u64::MAX)))
            }
            _ => self.bring_up(&todo, myself).await,
        };
        let _ = reply.send(answer);
    }

    async fn bring_up(&mut self, todo: &TodoKey, myself: ActorCell) -> Result<Address<SlugMsg>, Problem> {
        let address = Address::new(ActorKind::Slug, todo.to_string(), MAILBOX_LIMIT);
        let args = SlugArgs {
            context: self.args.context.clone(),
            repo: self.args.repo.clone(),
            todo: todo.clone(),
            address: address.clone(),
        };
        let start = start_by(move |supervisor| SlugActor::start(args.clone(), supervisor));
        let aftermath = self.children.start(ActorKind::Slug, todo.slug.as_str(), todo.to_string(), myself, start).await;
        self.args.context.slugs.insert(todo.clone(), address.clone());
        let up = aftermath == Aftermath::Nothing;
        self.act(aftermath);
        if up { Ok(address) } else { Err(restarting(todo, 250)) }
    }

    async fn on_restart(&mut self, child: &str, myself: ActorCell) {
        let aftermath = self.children.restart(child, myself).await;
        self.act(aftermath);
    }

    /// Follows up on what happened to a child. A child that is down is out of reach at once, not after its callers
    /// have waited.
    fn act(&mut self, aftermath: Aftermath) {
        match aftermath {
            Aftermath::Nothing => {}
            Aftermath::RestartAfter(child, delay) => {
                self.point_at_nobody(&child, false);
                self.restart_after(child, delay);
            }
            // Nobody asks for it by name, so it is tried again by itself.
            Aftermath::GaveUp(child) if child == INVENTORY => {
                self.point_at_nobody(&child, true);
                let delay = self.children.until_retry(&child);
                self.restart_after(child, delay);
            }
            Aftermath::GaveUp(child) => {
                self.point_at_nobody(&child, true);
                self.tell_after(self.children.until_retry(&child), RepositoryMsg::Forget { child });
            }
            Aftermath::Ended(child) => self.point_at_nobody(&child, true),
        }
    }

    fn restart_after(&self, child: String, delay: Duration) {
        self.tell_after(delay, RepositoryMsg::Restart { child });
    }

    fn tell_after(&self, delay: Duration, message: RepositoryMsg) {
        let address = self.args.address.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = address.tell(message);
        });
    }

    fn point_at_nobody(&self, child: &str, forget: bool) {
        if child == INVENTORY {
            self.args.entry().inventory.point_at(None);
        }
        let Ok(slug) = Slug::parse(child) else { return };
        let todo = self.todo(&slug);
        if let Some(address) = self.args.context.slugs.get(&todo) {
            address.point_at(None);
            if forget {
                self.args.context.slugs.remove(&todo);
            }
        }
    }

    fn on_describe(&self, reply: Reply<Value>) {
        let view = json!({
            "path": self.args.repo.registered.path,
            "open": self.args.repo.git_if_open().is_some(),
            "base_oid": self.args.repo.base_if_read().map(|base| base.oid.clone()),
        });
        let _ = reply.send(view);
    }
}

fn restarting(todo: &TodoKey, after_ms: u64) -> Problem {
    Problem::new(ProblemCode::Restarting, format!("the actor of {todo} is being restarted; ask again"))
        .retry_after(after_ms)
}

fn given_up(todo: &TodoKey, after_ms: u64) -> Problem {
    let detail = format!("the actor of {todo} failed too often and is left down for now; /actors says why");
    Problem::new(ProblemCode::Restarting, detail).retry_after(after_ms)
}
