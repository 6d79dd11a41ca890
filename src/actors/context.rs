//! What every actor of one daemon shares: handles, limits and tables that outlive any single actor.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use super::board::Board;
use super::clock::Clock;
use super::dispatcher::DispatcherMsg;
use super::events::{EventsActor, EventsMsg, Hub};
use super::faults::Faults;
use super::health::duties::Retention;
use super::health::inflight::{CommandOn, InFlight, Locks, RequestOn};
use super::health::jobs::{JobBoard, JobTerms, JobsActor, JobsMsg};
use super::health::pulse::Pulse;
use super::health::readiness::{HealthTerms, ReadinessActor, ReadinessBoard, ReadinessMsg};
use super::health::watchdog::{RecentHangs, WatchdogActor, WatchdogMsg};
use super::inventory::{InventoryActor, InventoryMsg, Rows};
use super::keys::Keys;
use super::ledger::Ledger;
use super::mailbox::{Address, Vitals};
use super::permits::Permits;
use super::probe::GateEnvironment;
use super::repo::{Registered, Repo};
use super::repository::RepositoryMsg;
use super::root::{Root, RootMsg};
use super::runs::Runs;
use super::sessions::{Places, Sessions, SessionsActor, SessionsMsg};
use super::slug::SlugMsg;
use super::supervision::Supervised;
use super::watching::{Signals, Watching};
use crate::metrics::actors::ActorKind;
use crate::model::desk::Rules;
use crate::model::hang::WatchdogTerms;
use crate::model::ids::{RepoName, TodoKey};
use crate::model::job::JobName;
use crate::model::problem::{Problem, ProblemCode};
use crate::model::session::LivenessTerms;
use crate::model::time::Timestamp;
use crate::process::{ResourceLimits, Runner};

/// Limits and places, from the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where token, address, ledger and logs are.
    pub data_dir: PathBuf,
    /// Where worktrees are.
    pub worktrees_dir: PathBuf,
    /// What claims, leases and lanes go by.
    pub rules: Rules,
    /// How long a slug actor stays without being asked anything.
    pub idle_after: Duration,
    /// What one git command gets.
    pub git_timeout: Duration,
    /// How many prepare and gate commands run at once.
    pub commands_max: usize,
    /// How much one command may print, in bytes.
    pub output_bytes_max: u64,
    /// What a repository's command may use.
    pub command_limits: ResourceLimits,
    /// How long a process tree gets between TERM and KILL.
    pub kill_grace: Duration,
    /// How many worktrees are looked at at once.
    pub scans_max: usize,
    /// How long one look at a worktree may take.
    pub scan_timeout: Duration,
    /// How many directories are watched.
    pub watches_max: usize,
    /// After how long an unused repository leaves the memory.
    pub forget_after: Duration,
    /// How long removed worktrees are kept.
    pub trash_keep: Duration,
    /// Directories of logs agents write themselves.
    pub session_logs: Vec<PathBuf>,
    /// After how much silence a session is called what.
    pub liveness: LivenessTerms,
    /// How many clients may listen to events.
    pub event_clients_max: usize,
    /// What a hang is judged by.
    pub watchdog: WatchdogTerms,
    /// When and for how long each job runs.
    pub jobs: BTreeMap<JobName, JobTerms>,
    /// How long logs of operations are kept.
    pub retention: Retention,
    /// What readiness and incidents go by.
    pub health: HealthTerms,
}

/// What an actor system is built from.
pub struct Args {
    /// Limits and places.
    pub settings: Settings,
    /// The repositories to serve.
    pub repositories: Vec<Registered>,
    /// The opened ledger.
    pub ledger: Ledger,
    /// How commands are run.
    pub runner: Runner,
    /// What commands get as their environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What time it is.
    pub clock: Clock,
    /// Where a test makes things fail.
    pub faults: Faults,
    /// Marks the processes of this daemon's runs; the same for every daemon on one data directory.
    pub run_mark: String,
}

/// The shared part. Built once; handed to every actor.
pub struct Context {
    /// Limits and places.
    pub settings: Settings,
    /// What time it is.
    pub clock: Clock,
    /// The way to the ledger.
    pub ledger: Ledger,
    /// How commands are run.
    pub runner: Runner,
    /// What commands get as their environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What verdicts depend on in it.
    pub gate_environment: Arc<GateEnvironment>,
    /// Who holds what.
    pub board: Board,
    /// The runs that are on.
    pub runs: Runs,
    /// The repositories, by name.
    pub repos: BTreeMap<RepoName, RepoEntry>,
    /// Which repository and todo a directory belongs to.
    pub places: Places,
    /// Idempotency keys whose requests are being answered.
    pub keys: Keys,
    /// Where the dispatcher is.
    pub dispatcher: Address<DispatcherMsg>,
    /// Those who listen to events.
    pub hub: Arc<Hub>,
    /// Where the actor that tells them is.
    pub events: Address<EventsMsg>,
    /// What is known of sessions.
    pub sessions: Sessions,
    /// Where the actor that follows them is.
    pub sessions_address: Address<SessionsMsg>,
    /// Being told what changes on disk.
    pub watching: Watching,
    /// Looks at worktrees take one of these each.
    pub permits: Permits,
    /// Where the root is.
    pub root: Address<RootMsg>,
    /// Told the name of an actor the daemon cannot do without, when it is given up.
    pub meltdown: watch::Sender<Option<String>>,
    /// Every supervised actor.
    pub supervised: Supervised,
    /// Where the watchdog's actor is.
    pub watchdog: Address<WatchdogMsg>,
    /// What the watchdog's thread has seen.
    pub pulse: Arc<Pulse>,
    /// The last hangs.
    pub recent_hangs: RecentHangs,
    /// Where the jobs' actor is.
    pub jobs_address: Address<JobsMsg>,
    /// The daemon's own duties.
    pub jobs: JobBoard,
    /// Where the readiness actor is.
    pub readiness_address: Address<ReadinessMsg>,
    /// What is said of the daemon.
    pub readiness: ReadinessBoard,
    /// What is on right now.
    pub on: On,
    /// When the daemon was started.
    pub started_at: Timestamp,
    /// The slug actors that live or are being restarted.
    pub slugs: Directory,
    /// Prepare and gate commands take one of these each.
    pub commands: tokio::sync::Semaphore,
    /// Where a test makes things fail.
    pub faults: Faults,
    /// Marks the processes of this daemon's runs.
    pub run_mark: String,
    draining: AtomicBool,
}

/// What is on right now, readable while the runtime is stuck.
#[derive(Default)]
pub struct On {
    /// Requests that are being answered.
    pub requests: InFlight<RequestOn>,
    /// Commands of runs.
    pub commands: InFlight<CommandOn>,
    /// Who holds and who waits for which lock.
    pub locks: Locks,
}

/// A repository and its actor.
pub struct RepoEntry {
    /// The shared part.
    pub repo: Arc<Repo>,
    /// Where its actor is.
    pub address: Address<RepositoryMsg>,
    /// Where its inventory is.
    pub inventory: Address<InventoryMsg>,
    /// What its worktrees look like.
    pub rows: Rows,
    /// Signs of change the inventory has not heard of yet.
    pub signals: Signals,
}

/// Messages a repository actor may have waiting: activations, one per slug asked for the first time.
const REPOSITORY_MAILBOX_LIMIT: usize = 4_096;
/// Messages the dispatcher may have waiting: a lane of a thousand workers that all ask at once.
const DISPATCHER_MAILBOX_LIMIT: usize = 4_096;

impl Context {
    /// Everything that is shared, before any actor lives.
    #[must_use]
    pub fn new(args: Args) -> Arc<Self> {
        let entry = |registered: Registered| {
            let repo = Arc::new(Repo::new(registered, &args.settings.worktrees_dir));
            let name = repo.name().clone();
            let address = Address::new(ActorKind::Repository, name.as_str(), REPOSITORY_MAILBOX_LIMIT);
            let inventory = InventoryActor::address(&name);
            (name, RepoEntry { repo, address, inventory, rows: Rows::default(), signals: Signals::default() })
        };
        let repos: BTreeMap<RepoName, RepoEntry> = args.repositories.into_iter().map(entry).collect();
        let place = |entry: &RepoEntry| {
            let repo = &entry.repo;
            (repo.name().clone(), repo.registered.path.clone(), repo.worktrees.clone())
        };
        let context = Arc::new(Self {
            places: Places::new(repos.values().map(place).collect()),
            repos,
            gate_environment: Arc::new(GateEnvironment::of(&args.environment)),
            commands: tokio::sync::Semaphore::new(args.settings.commands_max),
            dispatcher: Address::new(ActorKind::Dispatcher, "dispatcher", DISPATCHER_MAILBOX_LIMIT),
            hub: Arc::new(Hub::new(args.settings.event_clients_max, *args.ledger.tip().borrow())),
            events: EventsActor::address(),
            sessions: Sessions::new(args.settings.liveness),
            sessions_address: SessionsActor::address(),
            watching: Watching::new(args.settings.watches_max),
            permits: Permits::new(args.settings.scans_max),
            root: Root::address(),
            meltdown: watch::Sender::new(None),
            supervised: Supervised::new(args.clock.clone()),
            watchdog: WatchdogActor::address(),
            pulse: Arc::default(),
            recent_hangs: RecentHangs::default(),
            jobs_address: JobsActor::address(),
            jobs: JobBoard::new(&args.settings.jobs),
            readiness_address: ReadinessActor::address(),
            readiness: ReadinessBoard::new(&args.settings.health),
            on: On::default(),
            started_at: args.clock.now(),
            settings: args.settings,
            clock: args.clock,
            ledger: args.ledger,
            runner: args.runner,
            environment: args.environment,
            board: Board::default(),
            runs: Runs::default(),
            slugs: Directory::default(),
            keys: Keys::default(),
            faults: args.faults,
            run_mark: args.run_mark,
            draining: AtomicBool::new(false),
        });
        context.watching.tell(&context);
        context
    }

    /// The repository of a request: the named one, or the only one.
    pub fn repo(&self, name: Option<&RepoName>) -> Result<&RepoEntry, Problem> {
        let names = || self.repos.keys().map(ToString::to_string).collect::<Vec<_>>();
        match name {
            Some(name) => self.repos.get(name).ok_or_else(|| {
                let detail = format!("no repository is registered as {name}; registered: {}", names().join(", "));
                Problem::new(ProblemCode::UnknownRepository, detail).with("registered", names())
            }),
            None if self.repos.len() == 1 => self.repos.values().next().ok_or_else(no_repository),
            None if self.repos.is_empty() => Err(no_repository()),
            None => {
                let detail =
                    format!("several repositories are registered, so say which in repo: {}", names().join(", "));
                Err(Problem::new(ProblemCode::InvalidRequest, detail).with("registered", names()))
            }
        }
    }

    /// From here on nothing new is accepted.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the daemon is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// What can be seen of every actor without asking it.
    #[must_use]
    pub fn vitals(&self) -> Vec<Vitals> {
        let mut all = vec![
            self.root.vitals(),
            self.ledger.address.vitals(),
            self.watchdog.vitals(),
            self.dispatcher.vitals(),
            self.events.vitals(),
            self.sessions_address.vitals(),
            self.jobs_address.vitals(),
            self.readiness_address.vitals(),
        ];
        all.extend(self.repos.values().flat_map(|entry| [entry.address.vitals(), entry.inventory.vitals()]));
        all.extend(self.slugs.all().iter().map(|(_, address)| address.vitals()));
        all
    }

    /// Refuses once the daemon is shutting down.
    pub fn refuse_when_draining(&self) -> Result<(), Problem> {
        if !self.is_draining() {
            return Ok(());
        }
        let detail = "the daemon is shutting down and accepts nothing new; ask again once it is back";
        Err(Problem::new(ProblemCode::Draining, detail).retry_after(2_000))
    }
}

fn no_repository() -> Problem {
    Problem::new(
        ProblemCode::UnknownRepository,
        "no repository is registered; start the daemon with --repo PATH or list one in slugline.toml",
    )
}

/// Addresses of slug actors, so that a warm call goes to its actor directly.
#[derive(Clone, Default)]
pub struct Directory(Arc<RwLock<HashMap<TodoKey, Address<SlugMsg>>>>);

impl Directory {
    /// Where a slug's actor is, if it has one.
    #[must_use]
    pub fn get(&self, todo: &TodoKey) -> Option<Address<SlugMsg>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(todo).cloned()
    }

    /// Enters an address.
    pub fn insert(&self, todo: TodoKey, address: Address<SlugMsg>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(todo, address);
    }

    /// Takes an address out.
    pub fn remove(&self, todo: &TodoKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(todo);
    }

    /// Every address.
    #[must_use]
    pub fn all(&self) -> Vec<(TodoKey, Address<SlugMsg>)> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.iter().map(|(todo, address)| (todo.clone(), address.clone())).collect()
    }
}
