//! The dispatcher: hands out todos. The only writer of the board and of claims.
//!
//! Supervised by the root. Its death loses nothing: what it granted is in the ledger, what it had not granted was
//! not answered; its next incarnation reads the claims again. In: `Next`, `Claim`, `Committed`, `Describe`.
//! Out: nothing but answers.
//!
//! Races: a grant is decided in one handler, written in a task and entered on the board when it is on disk. Between
//! the two it stands under `pending`, and every later decision sees it there, so no todo is granted twice; the same
//! worker asking again waits for the same write.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};

use super::context::Context;
use super::mailbox::{Envelope, Reply};
use super::repo::Base;
use crate::metrics::claims::{self as metric, ClaimResult};
use crate::model::claim::{Claim, ClaimOutcome, decide};
use crate::model::ids::{Lane, RepoName, Slug, TodoKey, Worker};
use crate::model::next::{self, TodoState};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::record::Stage;
use crate::model::time::Timestamp;
use crate::store::Write;

/// A claim and whether the caller held it before.
pub type Granted = Result<(Claim, bool), Problem>;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The lane.
    pub lane: Lane,
    /// The process.
    pub worker: Worker,
}

/// What the dispatcher hears.
pub enum DispatcherMsg {
    /// The next todo of a repository for this worker.
    Next {
        /// In which repository.
        repo: RepoName,
        /// What its base says.
        base: Arc<Base>,
        /// Who asks.
        asker: Asker,
        /// Answer, after the grant is on disk.
        reply: Reply<Granted>,
    },
    /// This very todo for this worker.
    Claim {
        /// Which.
        todo: TodoKey,
        /// What its repository's base says.
        base: Arc<Base>,
        /// Who asks.
        asker: Asker,
        /// Answer, after the grant is on disk.
        reply: Reply<Granted>,
    },
    /// A grant was written, or could not be.
    Committed {
        /// The grant.
        claim: Claim,
        /// How the write went.
        result: Result<(), Problem>,
    },
    /// What it is doing.
    Describe {
        /// Answer.
        reply: Reply<Value>,
    },
}

/// A grant on its way to the disk, and who waits for it.
struct Pending {
    claim: Claim,
    waiting: Vec<Reply<Granted>>,
}

/// The dispatcher's state.
pub struct DispatcherState {
    context: Arc<Context>,
    pending: HashMap<TodoKey, Pending>,
}

/// The actor.
pub struct Dispatcher;

impl Dispatcher {
    /// Starts it under a supervisor.
    pub async fn start(context: Arc<Context>, supervisor: ActorCell) -> Result<ActorCell, String> {
        let (actor, _) =
            Actor::spawn_linked(None, Self, context, supervisor).await.map_err(|error| error.to_string())?;
        Ok(actor.get_cell())
    }
}

impl Actor for Dispatcher {
    type Msg = Envelope<DispatcherMsg>;
    type State = DispatcherState;
    type Arguments = Arc<Context>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        context: Arc<Context>,
    ) -> Result<DispatcherState, ActorProcessingErr> {
        let store = context.ledger.store()?;
        for (todo, stage) in store.stages().await? {
            context.board.put_stage(todo, stage);
        }
        for claim in store.claims().await? {
            context.board.put_claim(claim);
        }
        context.dispatcher.point_at(Some(myself));
        Ok(DispatcherState { context, pending: HashMap::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut DispatcherState,
    ) -> Result<(), ActorProcessingErr> {
        let message = envelope.open().0;
        state.context.faults.hit("dispatcher.handle");
        match message {
            DispatcherMsg::Next { repo, base, asker, reply } => state.on_next(&repo, &base, &asker, reply),
            DispatcherMsg::Claim { todo, base, asker, reply } => state.on_claim(&todo, &base, &asker, reply),
            DispatcherMsg::Committed { claim, result } => state.on_committed(&claim, &result),
            DispatcherMsg::Describe { reply } => state.on_describe(reply),
        }
        Ok(())
    }
}

impl DispatcherState {
    fn on_next(&mut self, repo: &RepoName, base: &Base, asker: &Asker, reply: Reply<Granted>) {
        let now = self.context.clock.now();
        let seen = |slug: &Slug| self.state_of(&TodoKey { repo: repo.clone(), slug: slug.clone() });
        match next::next(&base.catalog, &seen, &asker.lane, &asker.worker, now) {
            Ok(slug) => self.grant(&TodoKey { repo: repo.clone(), slug }, asker, now, reply),
            Err(reasons) => {
                metric::claimed(ClaimResult::Empty);
                let _ = reply.send(Err(no_work(repo, base, &asker.lane, &reasons)));
            }
        }
    }

    fn on_claim(&mut self, todo: &TodoKey, base: &Base, asker: &Asker, reply: Reply<Granted>) {
        let now = self.context.clock.now();
        let seen = |slug: &Slug| self.state_of(&TodoKey { repo: todo.repo.clone(), slug: slug.clone() });
        match refusal(base, &seen, todo) {
            Some(problem) => {
                metric::claimed(ClaimResult::Invalid);
                let _ = reply.send(Err(problem));
            }
            None => self.grant(todo, asker, now, reply),
        }
    }

    /// Decides and, where something is to be granted, writes.
    fn grant(&mut self, todo: &TodoKey, asker: &Asker, now: Timestamp, reply: Reply<Granted>) {
        let latest = self.state_of(todo).claim;
        match decide(latest.as_ref(), todo, &asker.lane, &asker.worker, now, self.context.settings.lease_ms) {
            ClaimOutcome::Repeat(claim) => match self.pending.get_mut(todo) {
                Some(pending) => pending.waiting.push(reply),
                None => {
                    metric::claimed(ClaimResult::Granted);
                    let _ = reply.send(Ok((claim, true)));
                }
            },
            ClaimOutcome::Held(claim) => {
                metric::claimed(ClaimResult::Conflict);
                let _ = reply.send(Err(already_claimed(todo, &claim)));
            }
            ClaimOutcome::Grant(claim) => {
                self.pending.insert(todo.clone(), Pending { claim: claim.clone(), waiting: vec![reply] });
                self.write(claim);
            }
        }
    }

    fn write(&self, claim: Claim) {
        let context = self.context.clone();
        let first = context.board.of(&claim.todo).stage == Stage::Ready;
        tokio::spawn(async move {
            let mut batch = vec![Write::ClaimGranted(claim.clone())];
            if first {
                batch.push(Write::StageChanged { todo: claim.todo.clone(), stage: Stage::Build, at: claim.granted_at });
            }
            let result = context.ledger.commit(batch).await;
            let _ = context.dispatcher.tell(DispatcherMsg::Committed { claim, result });
        });
    }

    fn on_committed(&mut self, claim: &Claim, result: &Result<(), Problem>) {
        let current = self.pending.get(&claim.todo).is_some_and(|pending| pending.claim == *claim);
        if result.is_ok() {
            // Also without anybody waiting: an earlier incarnation's write is on disk all the same.
            self.context.board.put_claim(claim.clone());
        }
        let Some(pending) = current.then(|| self.pending.remove(&claim.todo)).flatten() else { return };
        for (index, reply) in pending.waiting.into_iter().enumerate() {
            metric::claimed(if result.is_ok() { ClaimResult::Granted } else { ClaimResult::Conflict });
            let _ = reply.send(result.clone().map(|()| (claim.clone(), index > 0)));
        }
    }

    fn on_describe(&self, reply: Reply<Value>) {
        let _ = reply.send(json!({ "grants_being_written": self.pending.len() }));
    }

    /// What the board says, and above it what is being written.
    fn state_of(&self, todo: &TodoKey) -> TodoState {
        let mut state = self.context.board.of(todo);
        if let Some(pending) = self.pending.get(todo) {
            state.claim = Some(pending.claim.clone());
        }
        state
    }
}

/// Why this todo cannot be given to anybody, if so.
pub fn refusal(base: &Base, seen: &impl Fn(&Slug) -> TodoState, todo: &TodoKey) -> Option<Problem> {
    next::check(&base.catalog, &todo.slug, seen).err().map(|refusal| {
        let problem = |code, detail: String| Problem::new(code, detail);
        match refusal {
            next::Refusal::Unknown => problem(
                ProblemCode::UnknownSlug,
                format!("{todo} is neither in {dir}/roadmap.yaml nor under {dir}/ on the base commit {oid}; add it there and commit", dir = base.config.todos_dir, oid = base.oid),
            ),
            next::Refusal::Invalid(fault) => problem(ProblemCode::TodoInvalid, format!("{todo}: {fault}"))
                .with("file", fault.file)
                .with("line", fault.line),
            next::Refusal::DependenciesUnmet(slugs) => {
                let names: Vec<String> = slugs.iter().map(ToString::to_string).collect();
                problem(ProblemCode::DependenciesUnmet, format!("{todo} comes after {}, not done yet", names.join(", "))).with("unmet", names)
            }
            next::Refusal::Closed(stage) => problem(ProblemCode::NoWork, format!("{todo} is {}", stage.as_str()))
                .with("reasons", json!([{ "slug": todo.slug, "why": stage.as_str() }])),
        }
    })
}

/// The problem of a todo that another worker holds.
#[must_use]
pub fn already_claimed(todo: &TodoKey, claim: &Claim) -> Problem {
    let detail = format!(
        "{todo} is held by {}/{} until {}; ask without a slug for another todo",
        claim.lane, claim.worker, claim.expires_at
    );
    Problem::new(ProblemCode::AlreadyClaimed, detail)
        .with("lane", claim.lane.as_str())
        .with("worker", claim.worker.as_str())
        .with("expires_at", claim.expires_at.to_string())
}

fn no_work(repo: &RepoName, base: &Base, lane: &Lane, reasons: &[next::NotOffered]) -> Problem {
    let detail = match base.catalog.fault() {
        Some(fault) => format!("the roadmap of {repo} is broken: {fault}"),
        None if reasons.is_empty() => {
            format!("{repo} has no todo in {}/roadmap.yaml on its base branch", base.config.todos_dir)
        }
        None => format!("no todo of {repo} can go to lane {lane} now; reasons says why, per todo"),
    };
    Problem::new(ProblemCode::NoWork, detail).with("reasons", json!(reasons)).retry_after(5_000)
}
