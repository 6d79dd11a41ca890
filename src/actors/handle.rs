//! The way in: what `http` (and tests) ask the actors. Finds the right actor, bounds every wait, and asks once more
//! when an actor died under the question, since nothing was accepted then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::answer::ms;
use super::context::{Context, RepoEntry};
use super::dispatcher::{Asker, DispatcherMsg, refusal};
use super::ledger::LedgerMsg;
use super::log_stream::{self, LogStream};
use super::mailbox::{Address, AskError};
use super::phases::dispatch::{GRANT_LIMIT, no_answer};
use super::repo::Base;
use super::repository::RepositoryMsg;
use super::root::RootMsg;
use super::runs::{RunHandle, RunView, StopCause};
use super::slug::{SlugMsg, WorkCall, WorkReply, as_joined};
use crate::model::ids::{OperationId, RepoName, Slug, TodoKey, Worker};
use crate::model::operation::Operation;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::view::{ActorView, ClaimHolder, Ready, TodoFilter, TodoView, Work};
use crate::model::work_order::{WAIT_MS_DEFAULT, WAIT_MS_MAX, WorkOrder, WorkRequest};

/// How long an actor may take to take a question in. Handlers never wait for work, so this passes only when the
/// machine is in trouble.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long a caller waits for an actor that is being restarted before it is told so.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);
/// How long a cancel waits for the run's process tree to be gone: a kill grace and the kill rounds.
const CANCEL_LIMIT: Duration = Duration::from_secs(30);

/// The way in; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    context: Arc<Context>,
    root: Address<RootMsg>,
    given_up: watch::Receiver<Option<String>>,
}

impl Handle {
    /// A handle to running actors.
    #[must_use]
    pub fn new(context: Arc<Context>, root: Address<RootMsg>, given_up: watch::Receiver<Option<String>>) -> Self {
        Self { context, root, given_up }
    }

    /// What all actors share.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Asks for work: the order when nothing had to run or it ended within `wait_ms`, else the operation.
    pub async fn work(&self, request: WorkRequest, traceparent: Option<String>) -> Result<Work, Problem> {
        let accepted = Instant::now();
        self.context.refuse_when_draining()?;
        let wait_ms = request.wait_ms.unwrap_or(WAIT_MS_DEFAULT).min(WAIT_MS_MAX);
        let entry = self.context.repo(request.repo.as_ref())?;
        let asker = Asker { lane: request.lane, worker: request.worker.unwrap_or_else(Worker::default_of_lane) };
        let (slug, granted) = match request.slug {
            Some(slug) => (slug, None),
            None => self.next(entry, &asker).await.map(|(slug, held)| (slug, Some(held)))?,
        };
        let todo = TodoKey { repo: entry.repo.name().clone(), slug };
        let call = WorkCall { asker, refresh: request.refresh, granted, accepted, traceparent };
        match self.ask_slug(entry, &todo, call).await? {
            WorkReply::Ready(order) => Ok(Work::Done(*order)),
            WorkReply::Running { run, joined } => wait_for(run, joined, accepted, Duration::from_millis(wait_ms)).await,
        }
    }

    /// The dispatcher's choice for this worker, and whether the worker held it already.
    async fn next(&self, entry: &RepoEntry, asker: &Asker) -> Result<(Slug, bool), Problem> {
        let base = read_base(entry).await?;
        let granted = self.insist(|| async {
            let (repo, base, asker) = (entry.repo.name().clone(), base.clone(), asker.clone());
            self.context.dispatcher.ask(GRANT_LIMIT, |reply| DispatcherMsg::Next { repo, base, asker, reply }).await
        });
        let (claim, held) = granted.await.map_err(no_answer)??;
        Ok((claim.todo.slug, held))
    }

    async fn ask_slug(&self, entry: &RepoEntry, todo: &TodoKey, call: WorkCall) -> Result<WorkReply, Problem> {
        let began = Instant::now();
        loop {
            let address = match self.context.slugs.get(todo).filter(Address::is_up) {
                Some(address) => Ok(address),
                None => self.activate(entry, todo).await,
            };
            let problem = match address {
                Ok(address) => {
                    match address.ask(ASK_LIMIT, |reply| SlugMsg::Work { call: call.clone(), reply }).await {
                        Ok(answer) => return answer,
                        Err(error @ (AskError::Down | AskError::Died)) => slug_did_not_answer(todo, error),
                        Err(error) => return Err(slug_did_not_answer(todo, error)),
                    }
                }
                Err(problem) if problem.code == ProblemCode::Restarting => problem,
                Err(problem) => return Err(problem),
            };
            let pause = Duration::from_millis(problem.retry_after_ms.unwrap_or(50).min(250));
            if began.elapsed() + pause > RESTART_PATIENCE {
                return Err(problem);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Brings a slug's actor up, if the base knows the todo: what is not known costs no actor.
    async fn activate(&self, entry: &RepoEntry, todo: &TodoKey) -> Result<Address<SlugMsg>, Problem> {
        let base = read_base(entry).await?;
        if base.catalog.get(&todo.slug).is_none() {
            let seen = self.context.board.in_repo(&todo.repo);
            return Err(
                refusal(&base, &seen, todo).unwrap_or_else(|| Problem::new(ProblemCode::UnknownSlug, todo.to_string()))
            );
        }
        let asked = self.insist(|| async {
            let slug = todo.slug.clone();
            entry.address.ask(ASK_LIMIT, |reply| RepositoryMsg::Activate { slug, reply }).await
        });
        asked.await.map_err(|error| slug_did_not_answer(todo, error))?
    }

    /// Asks again for a while when the actor died under the question or is down.
    async fn insist<T, F, Fut>(&self, ask: F) -> Result<T, AskError>
    where
        F: Fn() -> Fut + Send,
        Fut: Future<Output = Result<T, AskError>> + Send,
    {
        let began = Instant::now();
        loop {
            match ask().await {
                Err(AskError::Down | AskError::Died) if began.elapsed() < RESTART_PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => return other,
            }
        }
    }

    /// An operation as it is now.
    pub async fn operation(&self, id: &OperationId) -> Result<Operation, Problem> {
        let live = self.context.runs.by_operation(id).map(|run| run.view.borrow().clone());
        if let Some(RunView::Live(operation) | RunView::Ended(operation, _)) = live {
            return Ok((*operation).clone());
        }
        let ledger = &self.context.ledger;
        let found = ledger.store()?.operation(id).await.map_err(|error| ledger.note(&error))?;
        found.ok_or_else(|| unknown_operation(id))
    }

    /// Cancels an operation: its process tree dies first, then this answers. An ended one is left as it is.
    pub async fn cancel(&self, id: &OperationId) -> Result<Operation, Problem> {
        let Some(run) = self.context.runs.by_operation(id) else { return self.operation(id).await };
        run.stop(StopCause::Cancel);
        let mut view = run.view.clone();
        let ended = tokio::time::timeout(CANCEL_LIMIT, view.wait_for(RunView::is_over)).await.is_ok();
        match ended {
            true => self.operation(id).await,
            false => {
                let detail = format!(
                    "operation {id} is being cancelled but its processes are not gone after {} s",
                    CANCEL_LIMIT.as_secs()
                );
                Err(Problem::new(ProblemCode::DeadlineExceeded, detail).retry_after(1_000))
            }
        }
    }

    /// An operation's log, followed while it runs.
    pub async fn log(&self, id: &OperationId) -> Result<LogStream, Problem> {
        let live = self.context.runs.by_operation(id).map(|run| run.view);
        if live.is_none() {
            self.operation(id).await?;
        }
        Ok(log_stream::follow(super::run::log_path(&self.context.settings.data_dir, id), live))
    }

    /// The todos of one or all repositories.
    pub async fn todos(&self, filter: &TodoFilter) -> Result<Vec<TodoView>, Problem> {
        let named = filter.repo.as_ref().map(|name| self.context.repo(Some(name))).transpose()?;
        let entries: Vec<&RepoEntry> = named.map_or_else(|| self.context.repos.values().collect(), |entry| vec![entry]);
        let mut views = Vec::new();
        for entry in entries {
            let base = read_base(entry).await?;
            views.extend(base.catalog.iter().map(|todo| self.todo_view(entry, &base, todo)));
        }
        views.retain(|view| filter.stage.is_none_or(|stage| stage == view.stage));
        views.retain(|view| filter.lane.is_none() || view.lane.is_none() || filter.lane == view.lane);
        Ok(views)
    }

    /// One todo.
    pub async fn todo(&self, repo: &RepoName, slug: &Slug) -> Result<TodoView, Problem> {
        let entry = self.context.repo(Some(repo))?;
        let base = read_base(entry).await?;
        match base.catalog.get(slug) {
            Some(todo) => Ok(self.todo_view(entry, &base, todo)),
            None => {
                let key = TodoKey { repo: repo.clone(), slug: slug.clone() };
                Err(refusal(&base, &self.context.board.in_repo(repo), &key)
                    .unwrap_or_else(|| Problem::new(ProblemCode::UnknownSlug, key.to_string())))
            }
        }
    }

    fn todo_view(&self, entry: &RepoEntry, base: &Base, todo: &crate::model::roadmap::CatalogTodo) -> TodoView {
        let key = TodoKey { repo: entry.repo.name().clone(), slug: todo.slug.clone() };
        let state = self.context.board.of(&key);
        let now = self.context.clock.now();
        let path = entry.repo.worktree_path(&todo.slug);
        TodoView {
            repo: key.repo,
            slug: key.slug,
            stage: state.stage,
            lane: todo.lane.clone(),
            after: todo.after.clone(),
            priority: todo.priority,
            listed: todo.listed,
            brief: base
                .briefs
                .get(&todo.slug)
                .map(|brief| brief.files.iter().map(|file| file.path.clone()).collect())
                .unwrap_or_default(),
            claim: state.claim.filter(|claim| claim.is_live(now)).map(|claim| ClaimHolder {
                lane: claim.lane,
                worker: claim.worker,
                token: claim.token,
                expires_at: claim.expires_at,
            }),
            fault: todo.fault.clone(),
            worktree: state.stage.ne(&crate::model::record::Stage::Ready).then(|| path.display().to_string()),
        }
    }

    /// Every actor's own view of itself.
    pub async fn actors(&self) -> Vec<ActorView> {
        let mut views = vec![self.root_view()];
        views.extend(self.root.ask(ASK_LIMIT, |reply| RootMsg::Describe { reply }).await.unwrap_or_default());
        for view in &mut views {
            match view.kind.as_str() {
                "ledger" => fill(view, &self.context.ledger.address, |reply| LedgerMsg::Describe { reply }).await,
                "dispatcher" => fill(view, &self.context.dispatcher, |reply| DispatcherMsg::Describe { reply }).await,
                _ => {}
            }
        }
        for (name, entry) in &self.context.repos {
            let Ok((work, slugs)) = entry.address.ask(ASK_LIMIT, |reply| RepositoryMsg::Describe { reply }).await
            else {
                continue;
            };
            if let Some(view) = views.iter_mut().find(|view| view.kind == "repository" && view.name == name.as_str()) {
                (view.mailbox, view.mailbox_high_water) = entry.address.depth();
                view.work = work;
            }
            for mut view in slugs {
                let slug = view.name.split_once('/').and_then(|(_, slug)| Slug::parse(slug).ok());
                if let Some(address) =
                    slug.and_then(|slug| self.context.slugs.get(&TodoKey { repo: name.clone(), slug }))
                {
                    fill(&mut view, &address, |reply| SlugMsg::Describe { reply }).await;
                }
                views.push(view);
            }
        }
        views
    }

    fn root_view(&self) -> ActorView {
        let (mailbox, mailbox_high_water) = self.root.depth();
        ActorView {
            kind: "root".to_owned(),
            name: "root".to_owned(),
            parent: String::new(),
            state: if self.root.is_up() { "running" } else { "given_up" }.to_owned(),
            restarts: 0,
            last_failure: None,
            mailbox,
            mailbox_high_water,
            work: Value::Null,
        }
    }

    /// Whether work is accepted, and what speaks against it.
    #[must_use]
    pub fn readiness(&self) -> Ready {
        let draining = self.context.refuse_when_draining().err();
        let given_up = self.given_up.borrow().clone();
        let ledger = self.context.ledger.store().is_ok();
        let check = |name: &str, ok: bool, detail: String| (name.to_owned(), ok, detail);
        let checks = vec![
            check(
                "draining",
                draining.is_none(),
                draining.map_or_else(|| "accepting".to_owned(), |problem| problem.detail),
            ),
            check("ledger", ledger, if ledger { "open" } else { "not open" }.to_owned()),
            check(
                "dispatcher",
                self.context.dispatcher.is_up(),
                if self.context.dispatcher.is_up() { "up" } else { "down" }.to_owned(),
            ),
            check(
                "supervision",
                given_up.is_none(),
                given_up.map_or_else(|| "nothing given up".to_owned(), |name| format!("{name} was given up")),
            ),
        ];
        Ready { ok: checks.iter().all(|(_, ok, _)| *ok), checks }
    }

    /// Nothing new is accepted; runs that are on get `grace` to end, then they are ended; then the actors stop.
    pub async fn drain(&self, grace: Duration) {
        self.context.start_draining();
        let ended = |run: RunHandle| async move {
            let mut view = run.view;
            let _ = view.wait_for(RunView::is_over).await;
        };
        let all = |runs: Vec<RunHandle>| futures_util::future::join_all(runs.into_iter().map(ended));
        let _ = tokio::time::timeout(grace, all(self.context.runs.all())).await;
        let left = self.context.runs.all();
        for run in &left {
            run.stop(StopCause::Shutdown);
        }
        let _ = tokio::time::timeout(CANCEL_LIMIT, all(left)).await;
        let _ = self.root.ask(ASK_LIMIT, |reply| RootMsg::Drain { reply }).await;
        self.context.ledger.close().await;
    }
}

/// What the base of a repository says, read where it may block.
async fn read_base(entry: &RepoEntry) -> Result<Arc<Base>, Problem> {
    let repo = entry.repo.clone();
    let read = tokio::task::spawn_blocking(move || repo.base()).await;
    read.map_err(|error| Problem::new(ProblemCode::Internal, format!("reading the base failed: {error}")))?
}

/// Waits for a run: for its acceptance in any case, for its end as long as the caller wants.
async fn wait_for(run: RunHandle, joined: bool, accepted: Instant, wait: Duration) -> Result<Work, Problem> {
    let mut view = run.view.clone();
    let opened = tokio::time::timeout(ASK_LIMIT, view.wait_for(|view| !matches!(view, RunView::Opening)))
        .await
        .is_ok_and(|seen| seen.is_ok());
    if !opened {
        let detail = "the operation could not be written in time; nothing was accepted, ask again";
        return Err(Problem::new(ProblemCode::StoreUnavailable, detail).retry_after(1_000));
    }
    let left = wait.saturating_sub(accepted.elapsed());
    drop(tokio::time::timeout(left, view.wait_for(|view| !matches!(view, RunView::Live(_)))).await);
    let seen = view.borrow().clone();
    match seen {
        RunView::Ended(_, result) => (*result).clone().map(|order| Work::Done(as_seen_by(order, joined, accepted))),
        RunView::Refused(problem) => Err(problem),
        RunView::Live(operation) => Ok(Work::Running((*operation).clone())),
        RunView::Opening => Err(Problem::new(ProblemCode::Internal, "a run went back to opening")),
    }
}

/// The order of a run, as one of its callers sees it.
fn as_seen_by(mut order: WorkOrder, joined: bool, accepted: Instant) -> WorkOrder {
    if joined {
        as_joined(&mut order);
    }
    order.total_ms = ms(accepted.elapsed());
    order
}

/// Fills in what an actor says of itself.
async fn fill<M: Send + 'static>(
    view: &mut ActorView,
    address: &Address<M>,
    question: impl FnOnce(super::mailbox::Reply<Value>) -> M + Send,
) {
    (view.mailbox, view.mailbox_high_water) = address.depth();
    if let Ok(work) = address.ask(ASK_LIMIT, question).await {
        view.work = work;
    }
}

fn slug_did_not_answer(todo: &TodoKey, error: AskError) -> Problem {
    let (code, what) = match error {
        AskError::Full => (ProblemCode::Busy, "has too many calls waiting"),
        AskError::Down | AskError::Died => (ProblemCode::Restarting, "is being restarted"),
        AskError::TimedOut => (ProblemCode::DeadlineExceeded, "did not answer in time"),
    };
    Problem::new(code, format!("the actor of {todo} {what}; ask again")).retry_after(1_000)
}

fn unknown_operation(id: &OperationId) -> Problem {
    Problem::new(ProblemCode::UnknownOperation, format!("there is no operation {id}"))
}
