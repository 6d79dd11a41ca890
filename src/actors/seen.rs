//! The way in to what the daemon says of itself: actors, jobs, readiness, incidents, hangs. The rest of [`Handle`] is in
//! `handle` and `live`. Reading any of it changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::dispatcher::DispatcherMsg;
use super::events::EventsMsg;
use super::handle::Handle;
use super::health::hangs;
use super::health::jobs::JobsMsg;
use super::health::readiness::ReadinessMsg;
use super::health::watchdog::WatchdogMsg;
use super::inventory::InventoryMsg;
use super::ledger::LedgerMsg;
use super::mailbox::{Address, AskError, Reply, Vitals};
use super::repository::RepositoryMsg;
use super::sessions::SessionsMsg;
use super::slug::SlugMsg;
use super::supervision::ChildStatus;
use crate::metrics::actors::ActorKind;
use crate::model::hang::{HangReason, HangView, LagHistory};
use crate::model::ids::{RepoName, Slug, TodoKey};
use crate::model::incident::Incident;
use crate::model::job::{JobView, RunLockView};
use crate::model::problem::{Problem, ProblemCode};
use crate::model::readiness::ReadinessView;
use crate::model::view::{ActorView, HandledMessage, HangCounts, StatusView};

/// How long an actor gets to say what it is doing. Whoever does not is shown without it.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(2);
/// How long a dump may take: a look at every thread, and reading debug information the first time.
const DUMP_LIMIT: Duration = Duration::from_secs(20);
/// Incidents that are shown.
const INCIDENTS_MAX: usize = 200;
/// Actors that are asked at once what they do.
const ASKED_AT_ONCE: usize = 64;

/// What each supervisor does with its children.
const STRATEGY_ROOT: &str = "one_for_one: 5 restarts a minute each; giving one up ends the daemon";
const STRATEGY_REPOSITORY: &str =
    "one_for_one: 5 restarts a minute each; one that is given up is left down for the rest of its minute";

impl Handle {
    /// Every actor, as it is seen and as it sees itself; supervisors before their children.
    pub async fn actors(&self) -> Vec<ActorView> {
        use futures_util::StreamExt as _;
        let root = ChildStatus {
            kind: ActorKind::Root,
            parent: String::new(),
            state: if self.context().root.is_up() { "running" } else { "given_up" },
            restarts: 0,
            reasons: std::collections::VecDeque::new(),
        };
        let mut children = vec![("root".to_owned(), root)];
        children.extend(self.context().supervised.all());
        let views = children.into_iter().map(|(name, status)| async move {
            let (vitals, work) = self.ask_actor(status.kind, &name).await;
            shown(name, status, vitals.as_ref(), work)
        });
        let mut views: Vec<ActorView> = futures_util::stream::iter(views).buffered(ASKED_AT_ONCE).collect().await;
        views.sort_by_key(|view| (rank(&view.kind), view.name.clone()));
        views
    }

    /// What can be seen of an actor, and what it says of itself.
    async fn ask_actor(&self, kind: ActorKind, name: &str) -> (Option<Vitals>, Option<Value>) {
        let context = self.context();
        let repo = || RepoName::parse(name).ok().and_then(|repo| context.repos.get(&repo));
        match kind {
            ActorKind::Root => (Some(context.root.vitals()), None),
            ActorKind::Ledger => ask(&context.ledger.address, |reply| LedgerMsg::Describe { reply }).await,
            ActorKind::Watchdog => ask(&context.watchdog, |reply| WatchdogMsg::Describe { reply }).await,
            ActorKind::Dispatcher => ask(&context.dispatcher, |reply| DispatcherMsg::Describe { reply }).await,
            ActorKind::Events => ask(&context.events, |reply| EventsMsg::Describe { reply }).await,
            ActorKind::Sessions => ask(&context.sessions_address, |reply| SessionsMsg::Describe { reply }).await,
            ActorKind::Jobs => ask(&context.jobs_address, |reply| JobsMsg::Describe { reply }).await,
            ActorKind::Readiness => ask(&context.readiness_address, |reply| ReadinessMsg::Describe { reply }).await,
            ActorKind::Repository => match repo() {
                Some(entry) => ask(&entry.address, |reply| RepositoryMsg::Describe { reply }).await,
                None => (None, None),
            },
            ActorKind::Inventory => match repo() {
                Some(entry) => ask(&entry.inventory, |reply| InventoryMsg::Describe { reply }).await,
                None => (None, None),
            },
            ActorKind::Slug => match todo(name).and_then(|todo| context.slugs.get(&todo)) {
                Some(address) => ask(&address, |reply| SlugMsg::Describe { reply }).await,
                None => (None, None),
            },
        }
    }

    /// How late timers were within the last hour.
    #[must_use]
    pub fn lag(&self) -> LagHistory {
        self.context().pulse.lag_history()
    }

    /// The daemon at a glance.
    pub async fn status(&self) -> Result<StatusView, Problem> {
        let context = self.context();
        let run_locks = self.run_locks().await?;
        let ReadinessView { verdict, criteria } = self.verdict();
        let mut actors: BTreeMap<String, usize> = BTreeMap::new();
        for (_, status) in context.supervised.all() {
            *actors.entry(status.state.to_owned()).or_default() += 1;
        }
        let (total, dumps, not_dumped) = context.pulse.counts();
        let store = context.ledger.store().ok().and_then(|store| serde_json::to_value(store.stats()).ok());
        Ok(StatusView {
            readiness: verdict,
            criteria,
            run_locks_count: run_locks.len(),
            run_locks,
            queue: context.readiness.queue().view,
            lanes: self.lanes(),
            incidents: context.readiness.incidents(),
            lag_ms: context.pulse.lag_view(),
            hangs: HangCounts { total, dumps, not_dumped },
            actors,
            store,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: context.started_at,
        })
    }

    async fn run_locks(&self) -> Result<Vec<RunLockView>, Problem> {
        let context = self.context().clone();
        let read = tokio::task::spawn_blocking(move || {
            context.jobs.run_locks(&context.settings.data_dir, context.clock.now())
        });
        read.await.map_err(|error| Problem::new(ProblemCode::Internal, format!("run-locks could not be read: {error}")))
    }

    /// Whether automation may rely on the daemon.
    #[must_use]
    pub fn verdict(&self) -> ReadinessView {
        self.context().readiness.view(self.context().clock.moment().awake)
    }

    /// The daemon's own duties.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobView> {
        self.context().jobs.views(self.context().clock.now())
    }

    /// Incidents: those that are not over, then the newest that are.
    pub async fn incidents(&self) -> Result<Vec<Incident>, Problem> {
        let ledger = &self.context().ledger;
        ledger.store()?.incidents(INCIDENTS_MAX).await.map_err(|error| ledger.note(&error))
    }

    /// The hang dumps that are kept, newest first.
    pub async fn hangs(&self) -> Result<Vec<HangView>, Problem> {
        let dir = hangs::dir(&self.context().settings.data_dir);
        blocking(move || hangs::list(&dir)).await
    }

    /// One hang dump.
    pub async fn hang(&self, id: &str) -> Result<Value, Problem> {
        let (dir, wanted) = (hangs::dir(&self.context().settings.data_dir), id.to_owned());
        blocking(move || hangs::one(&dir, &wanted)).await?.ok_or_else(|| {
            let shown: String = id.chars().take(32).collect();
            Problem::new(
                ProblemCode::UnknownHang,
                format!("there is no dump {shown:?}; GET /hangs lists those that are kept"),
            )
        })
    }

    /// Has a dump made now.
    pub async fn dump(&self, reason: HangReason, note: Option<String>) -> Result<HangView, Problem> {
        let busy =
            |error: String| Problem::new(ProblemCode::Busy, format!("no dump was made: {error}")).retry_after(1_000);
        let told = self.context().pulse.ask(reason, note).map_err(busy)?;
        match tokio::time::timeout(DUMP_LIMIT, told).await {
            Ok(Ok(written)) => written.map_err(|error| {
                Problem::new(ProblemCode::Internal, format!("the dump could not be written: {error}"))
            }),
            Ok(Err(_)) => Err(busy("too many wait to be written".to_owned())),
            Err(_) => Err(Problem::new(
                ProblemCode::DeadlineExceeded,
                format!("the dump was not written within {} s", DUMP_LIMIT.as_secs()),
            )),
        }
    }
}

/// The order in which kinds are shown: as they are started.
fn rank(kind: &str) -> usize {
    const ORDER: [&str; 11] = [
        "root",
        "ledger",
        "watchdog",
        "dispatcher",
        "events",
        "sessions",
        "readiness",
        "jobs",
        "repository",
        "inventory",
        "slug",
    ];
    ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len())
}

fn todo(name: &str) -> Option<TodoKey> {
    let (repo, slug) = name.split_once('/')?;
    Some(TodoKey { repo: RepoName::parse(repo).ok()?, slug: Slug::parse(slug).ok()? })
}

async fn ask<M: Send + 'static>(
    address: &Address<M>,
    question: impl FnOnce(Reply<Value>) -> M,
) -> (Option<Vitals>, Option<Value>) {
    // Seen before it is asked: what it does, and not that it is being asked.
    let vitals = address.vitals();
    let answer: Result<Value, AskError> = address.ask(DESCRIBE_LIMIT, question).await;
    (Some(vitals), answer.ok())
}

fn shown(name: String, status: ChildStatus, vitals: Option<&Vitals>, work: Option<Value>) -> ActorView {
    let handled = |message: &str, took: Duration, ago: Option<Duration>| HandledMessage {
        message: message.to_owned(),
        took_ms: super::answer::ms(took),
        ago_ms: ago.map(super::answer::ms),
    };
    ActorView {
        kind: status.kind.as_str().to_owned(),
        name,
        parent: status.parent,
        state: status.state.to_owned(),
        strategy: match status.kind {
            ActorKind::Root => Some(STRATEGY_ROOT.to_owned()),
            ActorKind::Repository => Some(STRATEGY_REPOSITORY.to_owned()),
            _ => None,
        },
        restarts: status.restarts,
        reasons: status.reasons.into(),
        mailbox: vitals.map_or(0, |vitals| vitals.waiting),
        mailbox_high_water: vitals.map_or(0, |vitals| vitals.high_water),
        mailbox_limit: vitals.map_or(0, |vitals| vitals.limit),
        handling: vitals.and_then(|vitals| vitals.handling).map(|(message, took)| handled(message, took, None)),
        last: vitals.and_then(|vitals| vitals.last).map(|(message, ago, took)| handled(message, took, Some(ago))),
        work,
    }
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Problem> {
    let read = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other).and_then(|read| read);
    read.map_err(|error| Problem::new(ProblemCode::Internal, format!("hang dumps could not be read: {error}")))
}
