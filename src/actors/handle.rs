//! The way in: what `http` (and tests) ask the actors. Finds the right actor, bounds every wait, and asks once more
//! when an actor died under the question, since nothing was accepted then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{self, ms};
use super::context::{Context, RepoEntry};
use super::dispatcher::{self, DispatcherMsg};
use super::keys::{Seen, keep, kept, named};
use super::log_stream::{self, LogStream};
use super::mailbox::{Address, AskError};
use super::phases::dispatch::{GRANT_LIMIT, no_answer};
use super::repo::Base;
use super::repository::RepositoryMsg;
use super::root::RootMsg;
use super::run;
use super::runs::{Purpose, RunHandle, RunView, StopCause};
use super::slug::{SlugMsg, WorkCall, WorkReply, as_joined};
use super::supervision::STOP_LIMIT;
use crate::metrics::phases as metric;
use crate::model::desk::{Claimed, Completed};
use crate::model::failure::FailureView;
use crate::model::ids::{Lane, OperationId, Slug, TodoKey, Worker};
use crate::model::kept::{Answer, Keyed};
use crate::model::lane::{LaneObstacle, LaneState};
use crate::model::next::{self, Why};
use crate::model::operation::{Operation, OperationState};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::roadmap::{Catalog, CatalogTodo};
use crate::model::time::Timestamp;
use crate::model::todo::{Asker, Complete, Outcome, Stage};
use crate::model::trace::Trace;
use crate::model::view::{
    ClaimHolder, GateView, HistoryEntry, LaneView, Mutation, OperationFilter, Ready, RepositoryView, TodoDetail,
    TodoFilter, TodoView, Work,
};
use crate::model::work_order::{Product, WAIT_MS_DEFAULT, WAIT_MS_MAX, WorkRequest};

/// How long an actor may take to take a question in. Handlers never wait for work, so this passes only when the
/// machine is in trouble.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long the actors get to stop: two rounds, of those that supervise others and of all.
const DRAIN_LIMIT: Duration = Duration::from_secs(2 * STOP_LIMIT.as_secs() + 2);
/// How long a caller waits for an actor that is being restarted before it is told so.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);
/// How long a cancel waits for the run's process tree to be gone: a kill grace and the kill rounds.
const CANCEL_LIMIT: Duration = Duration::from_secs(30);

/// Entries of a todo's history that are shown.
const HISTORY_MAX: usize = 100;
/// Parked results of a todo that are shown.
const PARKED_MAX: usize = 20;
/// Verdicts of a todo that are looked through for the newest of each gate.
const VERDICTS_MAX: usize = 200;

/// The way in; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    context: Arc<Context>,
}

impl Handle {
    /// A handle to running actors.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// What all actors share.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Asks for work: the order when nothing had to run or it ended within `wait_ms`, else the operation.
    pub async fn work(&self, request: WorkRequest, trace: Trace) -> Result<Work, Problem> {
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
        let purpose = Purpose::Work { refresh: request.refresh };
        let call = WorkCall { asker, purpose, granted, accepted, trace };
        self.served(entry, &todo, call, Duration::from_millis(wait_ms)).await
    }

    /// A holder says how it went. What is done is judged in a run; within `wait_ms` its result, else the operation.
    pub async fn complete(
        &self,
        todo: &TodoKey,
        complete: Complete,
        wait_ms: u64,
        trace: Trace,
    ) -> Result<Work, Problem> {
        let accepted = Instant::now();
        self.context.refuse_when_draining()?;
        let entry = self.context.repo(Some(&todo.repo))?;
        if complete.outcome == Outcome::Done {
            // So that the run's limit, and with it the lease, goes by what the base says now.
            read_base(entry).await?;
        }
        let judging_ms = i64::try_from(run::time_limit(&entry.repo).as_millis()).unwrap_or(i64::MAX);
        let asked = self.insist(|| async {
            let (todo, complete) = (todo.clone(), complete.clone());
            let message = |reply| DispatcherMsg::Complete { todo, complete, judging_ms, reply };
            self.context.dispatcher.ask(GRANT_LIMIT, message).await
        });
        let completed = asked.await.map_err(no_answer)??;
        match dispatcher::counted(todo, &complete, completed, &self.context.clock.moment())? {
            Completed::Counted { ending, repeated } => {
                let completion = answer::completion(todo, &ending, repeated, Vec::new());
                Ok(Work::Done(Product::Completion(Box::new(completion))))
            }
            Completed::Judge(claim) => {
                let purpose = Purpose::Complete(Box::new(complete));
                let call = WorkCall { asker: claim.holder(), purpose, granted: Some(true), accepted, trace };
                self.served(entry, todo, call, Duration::from_millis(wait_ms.min(WAIT_MS_MAX))).await
            }
            Completed::Stale(_) | Completed::Unfit(_) => {
                Err(Problem::new(ProblemCode::Internal, "a refused complete was not told as refused"))
            }
        }
    }

    /// Changes a claim, a lane or the todos; the answer is kept together with the change when there is a key.
    pub async fn mutate(&self, mutation: Mutation, keyed: Option<Keyed>) -> Answer {
        self.context.refuse_when_draining()?;
        let base = match mutation.repo() {
            Some(repo) => Some(read_base(self.context.repo(Some(repo))?).await?),
            None => None,
        };
        if let (Mutation::Redrive { todo } | Mutation::SetAfter { todo, .. }, Some(base)) = (&mutation, &base) {
            self.known(base, todo)?;
        }
        let taken = match &keyed {
            Some(keyed) => match self.context.keys.take(&self.context.ledger, keyed).await? {
                Seen::Answered(answer) => return answer,
                Seen::New(taken) => Some(taken),
            },
            None => None,
        };
        let asked_before = AtomicBool::new(false);
        let asked = self.insist(|| async {
            // A dispatcher that died under the question may have written it all the same.
            if let Some(keyed) = keyed.as_ref().filter(|_| asked_before.swap(true, Ordering::Relaxed))
                && let Some(answer) = kept(&self.context.ledger, keyed).await
            {
                return Ok(answer);
            }
            let (mutation, base, keyed) = (mutation.clone(), base.clone(), keyed.clone());
            let message = |reply| DispatcherMsg::Mutate { mutation, base, keyed, reply };
            self.context.dispatcher.ask(GRANT_LIMIT, message).await
        });
        let answer = asked.await.map_err(no_answer)?;
        drop(taken);
        answer
    }

    /// Answers a request under its key: with what was answered before, or with what `ask` comes to, which is kept.
    pub async fn under<F>(&self, keyed: Option<Keyed>, ask: F) -> Answer
    where
        F: Future<Output = Answer> + Send,
    {
        let Some(keyed) = keyed else { return ask.await };
        match self.context.keys.take(&self.context.ledger, &keyed).await? {
            Seen::Answered(answer) => answer,
            Seen::New(_taken) => {
                let answer = named(ask.await, &keyed);
                keep(&self.context.ledger, keyed, &answer, self.context.clock.moment().awake).await?;
                answer
            }
        }
    }

    /// The dispatcher's choice for this worker, and whether the worker held it already.
    async fn next(&self, entry: &RepoEntry, asker: &Asker) -> Result<(Slug, bool), Problem> {
        let base = read_base(entry).await?;
        let asked = self.insist(|| async {
            let (repo, base, asker) = (entry.repo.name().clone(), base.clone(), asker.clone());
            self.context.dispatcher.ask(GRANT_LIMIT, |reply| DispatcherMsg::Next { repo, base, asker, reply }).await
        });
        match asked.await.map_err(no_answer)?? {
            Claimed::Granted { claim, repeated } => Ok((claim.todo.slug, repeated)),
            Claimed::Lane(LaneObstacle::Full { limit, .. }) => {
                Err(self.no_work(entry, &base, asker, Some(Why::WipLimit(limit))).await)
            }
            Claimed::Lane(LaneObstacle::Probing { width }) => {
                Err(self.no_work(entry, &base, asker, Some(Why::Probing(width))).await)
            }
            Claimed::Lane(paused @ LaneObstacle::Paused(_)) => Err(answer::lane_obstacle(&asker.lane, &paused)),
            _ => Err(self.no_work(entry, &base, asker, None).await),
        }
    }

    /// Why each todo of a repository is not offered to this worker. Costs what is known, so it is made aside.
    async fn no_work(&self, entry: &RepoEntry, base: &Arc<Base>, asker: &Asker, lane: Option<Why>) -> Problem {
        let (repo, board, now) = (entry.repo.name().clone(), self.context.board.clone(), self.context.clock.moment());
        let (base, asker) = (base.clone(), asker.clone());
        let made = tokio::task::spawn_blocking(move || {
            let catalog = board.catalog(&repo, &base.catalog);
            let reasons = next::reasons(&catalog, &board.in_repo(&repo), &asker, &now, lane.as_ref());
            answer::no_work(&repo, &base, &asker.lane, reasons)
        });
        made.await
            .unwrap_or_else(|error| Problem::new(ProblemCode::Internal, format!("no reasons could be given: {error}")))
    }

    /// A call for a todo, served by its actor.
    async fn served(&self, entry: &RepoEntry, todo: &TodoKey, call: WorkCall, wait: Duration) -> Result<Work, Problem> {
        let accepted = call.accepted;
        loop {
            match self.ask_slug(entry, todo, &call).await? {
                WorkReply::Ready(order) => return Ok(Work::Done(Product::Order(order))),
                WorkReply::Running { run, joined } => return wait_for(run, joined, accepted, wait).await,
                WorkReply::Behind(run) => {
                    let mut view = run.view.clone();
                    let left = wait.saturating_sub(accepted.elapsed());
                    if tokio::time::timeout(left, view.wait_for(RunView::is_over)).await.is_err() {
                        let detail = format!("operation {} is on for {todo}; ask again when it has ended", run.id);
                        return Err(Problem::new(ProblemCode::Busy, detail)
                            .with("operation", run.id.as_str())
                            .retry_after(1_000));
                    }
                }
            }
        }
    }

    async fn ask_slug(&self, entry: &RepoEntry, todo: &TodoKey, call: &WorkCall) -> Result<WorkReply, Problem> {
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

    /// The todos of a repository, those that were filed among them; a problem when this one is not.
    fn known(&self, base: &Base, todo: &TodoKey) -> Result<Arc<Catalog>, Problem> {
        let catalog = self.context.board.catalog(&todo.repo, &base.catalog);
        if catalog.get(&todo.slug).is_some() {
            return Ok(catalog);
        }
        let seen = self.context.board.in_repo(&todo.repo);
        Err(answer::refusal(base, &catalog, &seen, todo)
            .unwrap_or_else(|| Problem::new(ProblemCode::UnknownSlug, todo.to_string())))
    }

    /// Brings a slug's actor up, if the base knows the todo: what is not known costs no actor.
    async fn activate(&self, entry: &RepoEntry, todo: &TodoKey) -> Result<Address<SlugMsg>, Problem> {
        let base = read_base(entry).await?;
        self.known(&base, todo)?;
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

    /// Operations, newest first, each as it is now.
    pub async fn operations(&self, filter: &OperationFilter) -> Result<Vec<Operation>, Problem> {
        if let Some(name) = &filter.repo {
            self.context.repo(Some(name))?;
        }
        let live: HashMap<OperationId, Arc<Operation>> =
            self.context.runs.all().into_iter().filter_map(|run| shown_of(&run.view.borrow())).collect();
        // The ledger hears that an operation runs only when it ends, so one that is open there may be either; and so many
        // more are read as may turn out to be in another state.
        let is_open = |state: &OperationState| matches!(state, OperationState::Queued | OperationState::Running);
        let mut asked = filter.clone();
        asked.limit += live.len();
        if filter.states.iter().any(is_open) {
            asked.states.extend([OperationState::Queued, OperationState::Running]);
        }
        let ledger = &self.context.ledger;
        let found = ledger.store()?.operations(asked).await.map_err(|error| ledger.note(&error))?;
        let as_it_is = |operation: Operation| match live.get(&operation.id) {
            Some(live) if is_open(&operation.state) => (**live).clone(),
            _ => operation,
        };
        let wanted = |operation: &Operation| filter.states.is_empty() || filter.states.contains(&operation.state);
        Ok(found.into_iter().map(as_it_is).filter(wanted).take(filter.limit).collect())
    }

    /// Every registered repository, with what keeps those from being used that cannot be.
    pub async fn repositories(&self) -> Vec<RepositoryView> {
        let views = self.context.repos.values().map(|entry| async {
            let problem = read_base(entry).await.err();
            let registered = &entry.repo.registered;
            let opened = entry.repo.git_if_open().map(|git| git.base_branch().to_owned());
            let repo = entry.repo.clone();
            let looked = tokio::task::spawn_blocking(move || repo.look_for_planted()).await;
            if let Err(error) = looked {
                tracing::warn!(%error, "a look for what is planted failed");
            }
            RepositoryView {
                name: registered.name.clone(),
                path: registered.path.display().to_string(),
                base: opened.or_else(|| registered.base.clone()),
                remote: registered.remote.clone(),
                planted: entry.repo.planted().0,
                usable: problem.is_none(),
                problem,
            }
        });
        futures_util::future::join_all(views).await
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
        Ok(log_stream::follow(run::log_path(&self.context.settings.data_dir, id), live))
    }

    /// The todos of one or all repositories.
    pub async fn todos(&self, filter: &TodoFilter) -> Result<Vec<TodoView>, Problem> {
        let named = filter.repo.as_ref().map(|name| self.context.repo(Some(name))).transpose()?;
        let entries: Vec<&RepoEntry> = named.map_or_else(|| self.context.repos.values().collect(), |entry| vec![entry]);
        let mut views = Vec::new();
        for entry in entries {
            let base = read_base(entry).await?;
            let catalog = self.context.board.catalog(entry.repo.name(), &base.catalog);
            views.extend(catalog.iter().map(|todo| self.todo_view(entry, &base, todo)));
        }
        views.retain(|view| filter.stage.is_none_or(|stage| stage == view.stage));
        views.retain(|view| filter.lane.is_none() || view.lane.is_none() || filter.lane == view.lane);
        Ok(views)
    }

    /// One todo, with everything that is known of it.
    pub async fn todo(&self, key: &TodoKey) -> Result<TodoDetail, Problem> {
        let entry = self.context.repo(Some(&key.repo))?;
        let base = read_base(entry).await?;
        let catalog = self.known(&base, key)?;
        let todo = catalog.get(&key.slug).map(|todo| self.todo_view(entry, &base, todo));
        let todo = todo.ok_or_else(|| Problem::new(ProblemCode::UnknownSlug, key.to_string()))?;
        let state = self.context.board.of(key);
        let store = self.context.ledger.store()?;
        let note = |error| self.context.ledger.note(&error);
        let verdicts = store.verdicts_of(key, VERDICTS_MAX).await.map_err(note)?;
        let mut gates: Vec<GateView> = Vec::new();
        for verdict in verdicts {
            if !gates.iter().any(|gate| gate.gate == verdict.gate) {
                gates.push(GateView {
                    gate: verdict.gate,
                    passed: verdict.passed,
                    exit_code: verdict.exit_code,
                    duration_ms: verdict.duration_ms,
                    commit: verdict.commit.to_string(),
                    log: format!("/operations/{}/log", verdict.operation),
                    at: verdict.at,
                });
            }
        }
        let history = store.history(key, HISTORY_MAX).await.map_err(note)?;
        Ok(TodoDetail {
            todo,
            instructions: self.context.board.filed(key).map(|filed| filed.todo.brief),
            findings: state.findings.clone(),
            gates,
            endings: state.endings.clone(),
            parked: store.parked(key, PARKED_MAX).await.map_err(note)?,
            history: history
                .into_iter()
                .map(|event| HistoryEntry {
                    seq: event.seq,
                    at: event.at,
                    kind: event.kind.as_str().to_owned(),
                    data: event.data,
                })
                .collect(),
        })
    }

    /// Every lane anybody has claimed in, paused or given a limit.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneView> {
        let limits = &self.context.settings.rules.wip;
        let mut lanes = self.context.board.lanes();
        for lane in limits.by_lane.keys() {
            if !lanes.iter().any(|known| known.lane == *lane) {
                lanes.push(LaneState::new(lane.clone()));
            }
        }
        lanes.sort_by(|a, b| a.lane.cmp(&b.lane));
        let wip = self.context.board.wip();
        let view =
            |lane: &LaneState| LaneView::of(lane, wip.get(&lane.lane).copied().unwrap_or(0), limits.of(&lane.lane));
        lanes.iter().map(view).collect()
    }

    /// Failures since a time, by lane, fingerprint and generation; the newest first.
    pub async fn failures(&self, lane: Option<&Lane>, since: Timestamp) -> Result<Vec<FailureView>, Problem> {
        let ledger = &self.context.ledger;
        ledger.store()?.failures(lane, since).await.map_err(|error| ledger.note(&error))
    }

    fn todo_view(&self, entry: &RepoEntry, base: &Base, todo: &CatalogTodo) -> TodoView {
        let key = TodoKey { repo: entry.repo.name().clone(), slug: todo.slug.clone() };
        let state = self.context.board.of(&key);
        let now = self.context.clock.moment();
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
            claim: state.live(now.awake).map(|claim| ClaimHolder::of(claim, &now)),
            attempts: state.attempts,
            not_before: state.not_before.filter(|until| now.awake < *until).map(|until| now.wall_of(until)),
            blocked: state.blocked.clone().filter(|_| state.stage == Stage::Blocked),
            fault: todo.fault.clone(),
            worktree: (state.stage != Stage::Ready).then(|| path.display().to_string()),
        }
    }

    /// Whether work is accepted, and what speaks against it.
    #[must_use]
    pub fn readiness(&self) -> Ready {
        let draining = self.context.refuse_when_draining().err();
        let given_up = self.context.meltdown.borrow().clone();
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
        self.context.hub.close();
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
        let _ = self.context.root.ask(DRAIN_LIMIT, |reply| RootMsg::Drain { reply }).await;
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
    let _waits = metric::waits();
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
        RunView::Ended(_, result) => (*result).clone().map(|product| Work::Done(as_seen_by(product, joined, accepted))),
        RunView::Refused(problem) => Err(problem),
        RunView::Live(operation) => Ok(Work::Running(Box::new((*operation).clone()))),
        RunView::Opening => Err(Problem::new(ProblemCode::Internal, "a run went back to opening")),
    }
}

/// What a run made, as one of its callers sees it.
fn as_seen_by(mut product: Product, joined: bool, accepted: Instant) -> Product {
    if let Product::Order(order) = &mut product {
        if joined {
            as_joined(order);
        }
        order.total_ms = ms(accepted.elapsed());
    }
    product
}

fn slug_did_not_answer(todo: &TodoKey, error: AskError) -> Problem {
    let (code, what) = match error {
        AskError::Full => (ProblemCode::Busy, "has too many calls waiting"),
        AskError::Down | AskError::Died => (ProblemCode::Restarting, "is being restarted"),
        AskError::TimedOut => (ProblemCode::DeadlineExceeded, "did not answer in time"),
    };
    Problem::new(code, format!("the actor of {todo} {what}; ask again")).retry_after(1_000)
}

/// The operation of a run, once it is accepted.
fn shown_of(view: &RunView) -> Option<(OperationId, Arc<Operation>)> {
    match view {
        RunView::Live(operation) | RunView::Ended(operation, _) => Some((operation.id.clone(), operation.clone())),
        RunView::Opening | RunView::Refused(_) => None,
    }
}

fn unknown_operation(id: &OperationId) -> Problem {
    Problem::new(ProblemCode::UnknownOperation, format!("there is no operation {id}"))
}
