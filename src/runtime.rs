//! From a configuration to a serving daemon and back: build (open the ledger, bind, start the actors), serve (until a
//! signal or a meltdown), drain (within a bounded grace).

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use sd_notify::NotifyState;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::actors::clock::Clock;
use crate::actors::exclusion::{self, private_dir};
use crate::actors::faults::Faults;
use crate::actors::health::duties::Retention;
use crate::actors::health::jobs::JobTerms;
use crate::actors::health::readiness::HealthTerms;
use crate::actors::health::sampler::Sampler;
use crate::actors::health::surroundings::{self, Wanted};
use crate::actors::health::turning::Workers;
use crate::actors::ledger::Ledger;
use crate::actors::{self, Args, Handle, Registered, Settings, inputs};
use crate::cli::args::{Backup, Check, Console, Demo, Doctor, Health, Restore, Running, Serve, Token};
use crate::cli::client::Client;
use crate::cli::{console, demo, doctor, health, token};
use crate::config::{AuthMode, Config, Flags, Http, JobConfig, Log, LogFormat, RepositoryConfig, Traces};
use crate::http;
use crate::http::guard::{self, Access};
use crate::http::server::{Limits, Server};
use crate::http::token::TokenFile;
use crate::metrics;
use crate::model::claim::Terms;
use crate::model::desk::{Rules, WipLimits};
use crate::model::door::{DESCRIPTORS_KEPT, Names, connections_within};
use crate::model::fingerprint;
use crate::model::hang::{HangReason, WatchdogTerms};
use crate::model::job::JobName;
use crate::model::lane::BreakerTerms;
use crate::model::pace::Pace;
use crate::model::readiness::{ReadinessTerms, Verdict};
use crate::model::session::LivenessTerms;
use crate::process::{self, ResourceLimits, Runner};
use crate::store::{self, Store, StoreError};
use crate::telemetry;

/// Exit code for wrong usage or configuration (BSD's EX_USAGE).
pub const EXIT_USAGE: u8 = 64;
/// Exit code for a ledger that nothing can go on with until somebody does something about it (BSD's EX_DATAERR).
pub const EXIT_DATA: u8 = 65;
/// Exit code after a meltdown (BSD's EX_SOFTWARE).
pub const EXIT_MELTDOWN: u8 = 70;

/// How long a process tree gets between TERM and KILL.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// The same for what an earlier daemon left behind: a start should not take long.
const SWEEP_GRACE: Duration = Duration::from_secs(1);
/// What is kept of what one command prints, its beginning and its end: more than anybody reads, less than fills a disk.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// How long connections get for what they are being answered, once everything else is over.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What a test may put in the place of the real thing.
pub struct Doors {
    /// How commands are run.
    pub runner: Runner,
    /// What time it is.
    pub clock: Clock,
    /// Where things are made to fail.
    pub faults: Faults,
    /// The threads of the runtime the daemon is built in.
    pub workers: Arc<Workers>,
}

impl Doors {
    /// The real ones, in a runtime with these threads.
    #[must_use]
    pub fn real(workers: Arc<Workers>) -> Self {
        Self { runner: Runner::of_this_program(), clock: Clock::system(), faults: Faults::default(), workers }
    }
}

/// Why a daemon stopped serving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Asked,
    /// It was asked again while it drained: it goes at once, as if it were killed.
    AskedAgain,
    /// An actor the daemon cannot do without was given up.
    Meltdown(String),
}

/// A daemon that is bound and ready to serve.
pub struct Daemon {
    /// The way to its actors.
    pub handle: Handle,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its token is, when it wants one.
    pub token_path: Option<PathBuf>,
    server: Server,
    melted: watch::Receiver<Option<String>>,
    drain_grace: Duration,
    address_file: PathBuf,
    sampler: Sampler,
}

impl Daemon {
    /// Opens the ledger, starts the actors and binds; after this every request is answered.
    pub async fn build(config: &Config, doors: Doors) -> anyhow::Result<Self> {
        metrics::install();
        let data_dir = config.data_dir.clone();
        private_dir(&data_dir).with_context(|| format!("data directory {}", data_dir.display()))?;
        let store = open_store(&ledger_path(&data_dir), &doors.clock).await?;
        let tip = store.last_seq().await?;
        // Aside: a start waits for nothing that only the first failure needs.
        drop(tokio::task::spawn_blocking(fingerprint::make_ready));
        let run_mark = run_mark(&data_dir);
        sweep_leftovers(&run_mark).await?;
        let token_file = (config.auth.mode == AuthMode::Token)
            .then(|| TokenFile { path: data_dir.join("token"), grace: Duration::from_millis(config.auth.grace_ms) });
        let token = token_file.as_ref().map(TokenFile::read_or_make).transpose()?;
        let workers = doors.workers.clone();
        let ledger = Ledger::new(store, tip, doors.faults.clone());
        let (handle, melted) = start_actors(config, ledger, doors, run_mark).await?;
        let sampler = Sampler::start(handle.context(), workers).context("the watchdog cannot be started")?;
        let access = Access::new(token.as_deref(), handle.context().clock.clone(), terms(config))
            .context("the system gives no random numbers")?;
        let limits = limits(&config.http);
        let token_path = token_file.as_ref().map(|file| file.path.clone());
        let routes = http::routes(handle.clone(), access.clone(), token_file);
        let on = handle.context().on.requests.clone();
        let server = Server::bind_with(config.listen, config.socket.as_deref(), routes, access, limits, on).await?;
        let address = server.address();
        let address_file = data_dir.join("address");
        if let Err(error) = write_whole(&address_file, &format!("{address}\n")) {
            // No address rather than that of a daemon before; who knows the port, or the socket, finds it all the same.
            let _ = std::fs::remove_file(&address_file);
            tracing::warn!(%address, error = %format!("{error:#}"), "where the daemon listens cannot be noted");
        }
        let drain_grace = Duration::from_millis(config.http.drain_ms);
        Ok(Self { handle, address, token_path, server, melted, drain_grace, address_file, sampler })
    }

    /// Serves until `shutdown` is ready or an actor melts down, then drains.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> End {
        let Self { handle, server, mut melted, drain_grace, address_file, sampler, .. } = self;
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(server.serve(wait_true(stopped), drain_grace.min(LAST_ANSWERS)));
        tell_systemd(&[NotifyState::Ready]);
        let end = tokio::select! {
            () = shutdown => End::Asked,
            name = melted.wait_for(Option::is_some) => End::Meltdown(name.ok().and_then(|name| name.clone()).unwrap_or_default()),
        };
        tell_systemd(&[NotifyState::Stopping]);
        if let End::Meltdown(name) = &end
            && let Err(problem) = handle.dump(HangReason::Meltdown, Some(format!("{name} was given up"))).await
        {
            tracing::error!(%problem, "the meltdown could not be dumped");
        }
        tracing::info!(grace_ms = drain_grace.as_secs_f64() * 1_000.0, "draining");
        // Whoever asks is answered to the end: that the daemon is not ready, and how the run ended that is waited for.
        handle.drain(drain_grace).await;
        let _ = stop.send(true);
        let _ = serving.await;
        let _ = std::fs::remove_file(address_file);
        // It watches until the end; its thread is joined where that holds up nobody.
        let _ = tokio::task::spawn_blocking(move || drop(sampler)).await;
        end
    }
}

/// Starts the actors on an open ledger: the whole daemon but for its ways in and the thread that watches the runtime.
pub async fn start_actors(
    config: &Config,
    ledger: Ledger,
    doors: Doors,
    run_mark: String,
) -> anyhow::Result<(Handle, watch::Receiver<Option<String>>)> {
    let args = Args {
        settings: settings(config),
        repositories: config.repositories.iter().map(registered).collect(),
        ledger,
        runner: doors.runner,
        environment: process::clean_env(&[]),
        clock: doors.clock,
        faults: doors.faults,
        run_mark,
    };
    actors::start(args, ledger_path(&config.data_dir)).await.map_err(|error| anyhow!("starting the actors: {error}"))
}

/// Where the ledger of a data directory is.
#[must_use]
pub fn ledger_path(data_dir: &Path) -> PathBuf {
    data_dir.join("ledger.db")
}

/// Tells whoever started the daemon how it is, when that is systemd.
fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

async fn wait_true(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|&set| set).await;
}

/// The ledger, with the operations of an earlier daemon closed as interrupted.
pub async fn open_store(path: &Path, clock: &Clock) -> anyhow::Result<Store> {
    let file = path.to_owned();
    let store = tokio::task::spawn_blocking(move || Store::open(&file)).await??;
    let interrupted = store.interrupt_open_operations(clock.now()).await?;
    if !interrupted.is_empty() {
        tracing::warn!(
            count = interrupted.len(),
            "operations of the last daemon were interrupted; the next work calls do what is missing"
        );
    }
    Ok(store)
}

/// Commands an earlier daemon on this data directory left behind are ended, before any of ours carries the mark.
async fn sweep_leftovers(run_mark: &str) -> anyhow::Result<()> {
    let prefix = format!("{run_mark}-");
    let swept = tokio::task::spawn_blocking(move || process::sweep(&prefix, SWEEP_GRACE)).await?;
    if swept.killed > 0 || swept.survivors > 0 {
        tracing::warn!(
            killed = swept.killed,
            survivors = swept.survivors,
            "processes an earlier daemon left behind were ended"
        );
    }
    Ok(())
}

/// Who callers have to be, and how much each may ask.
fn terms(config: &Config) -> guard::Terms {
    guard::Terms {
        names: Names::new(config.listen.ip(), config.http.allowed_hosts.clone()),
        pace: Pace { per_s: config.http.requests_per_s, burst: config.http.requests_burst },
        listeners_each_max: config.http.event_clients_per_caller_max,
    }
}

fn limits(http: &Http) -> Limits {
    Limits {
        connections: connections_for(http.connections_max),
        head: Duration::from_millis(http.head_ms),
        head_bytes: http.head_bytes_max,
        body: Duration::from_millis(http.body_ms),
        body_bytes: http.body_bytes_max,
        ..Limits::default()
    }
}

/// Asks the system for as many open files as connections may need. How many connections there may be with what it gives:
/// store and git always have some.
fn connections_for(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    let files = wanted as u64 + DESCRIPTORS_KEPT;
    let Some(now) = limits.current.filter(|now| *now < files) else { return wanted };
    let asked = limits.maximum.map_or(files, |maximum| files.min(maximum));
    let given =
        setrlimit(Resource::Nofile, Rlimit { current: Some(asked), maximum: limits.maximum }).map_or(now, |()| asked);
    let connections = connections_within(wanted, given);
    if connections < wanted {
        tracing::warn!(
            files = given,
            connections,
            wanted,
            "the system gives fewer open files than [http] connections_max needs"
        );
    }
    connections
}

/// What the processes of all runs of a data directory have in their environment: the same for every daemon there, and
/// different for any other.
#[must_use]
pub fn run_mark(data_dir: &Path) -> String {
    let path = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    format!("slugline-{}", &inputs::hex(&digest)[..16])
}

fn settings(config: &Config) -> Settings {
    Settings {
        data_dir: config.data_dir.clone(),
        worktrees_dir: config.worktrees_dir.clone(),
        rules: rules(config),
        idle_after: Duration::from_millis(config.actors.idle_after_ms),
        git_timeout: Duration::from_millis(config.runs.git_timeout_ms),
        commands_max: config.runs.max_parallel_commands,
        output_bytes_max: OUTPUT_BYTES_MAX,
        command_limits: command_limits(config),
        kill_grace: KILL_GRACE,
        scans_max: Some(config.inventory.scans_max).filter(|scans| *scans > 0).unwrap_or_else(cores),
        scan_timeout: Duration::from_millis(config.inventory.scan_timeout_ms),
        watches_max: config.inventory.watches_max,
        forget_after: Duration::from_millis(config.inventory.forget_after_ms),
        trash_keep: Duration::from_millis(config.inventory.trash_keep_ms),
        session_logs: config.sessions.log_dirs.clone(),
        liveness: LivenessTerms {
            stuck_after_ms: config.sessions.stuck_after_ms,
            dormant_after_ms: config.sessions.dormant_after_ms,
        },
        event_clients_max: config.http.event_clients_max,
        watchdog: WatchdogTerms {
            threshold_ms: config.watchdog.lag_threshold_ms,
            interval_ms: config.watchdog.interval_ms,
            handler_timeout_ms: config.watchdog.handler_timeout_ms,
            dump_every_ms: config.watchdog.dump_every_ms,
            dumps_max: config.watchdog.dumps_max,
            stacks: config.watchdog.stacks,
        },
        jobs: jobs(config),
        retention: Retention {
            keep: Duration::from_millis(config.retention.logs_keep_ms),
            bytes_max: config.retention.logs_bytes_max,
            backups_keep: config.retention.backups_keep,
        },
        health: health_terms(config),
    }
}

/// What is zero in the configuration has no limit.
fn command_limits(config: &Config) -> ResourceLimits {
    let limit = |limit: u64| Some(limit).filter(|limit| *limit > 0);
    ResourceLimits {
        memory_bytes: limit(config.limits.memory_bytes),
        processes: limit(config.limits.processes),
        open_files: limit(config.limits.open_files),
        file_bytes: limit(config.limits.file_bytes),
        niceness: config.limits.niceness,
    }
}

/// What is let go after a time is looked for often enough that the time means something.
fn jobs(config: &Config) -> BTreeMap<JobName, JobTerms> {
    let soon_enough = |job: JobName, every_ms: u64| match job {
        JobName::RootEviction => every_ms.min((config.inventory.forget_after_ms / 4).max(100)),
        JobName::WorktreePrune => every_ms.min((config.inventory.trash_keep_ms / 4).max(1_000)),
        JobName::LogRetention => every_ms.min((config.retention.logs_keep_ms / 4).max(1_000)),
        _ => every_ms,
    };
    let terms = |(job, one): (&JobName, &JobConfig)| {
        (*job, JobTerms { every_ms: soon_enough(*job, one.every_ms), budget_ms: one.budget_ms })
    };
    config.jobs.iter().map(terms).collect()
}

fn health_terms(config: &Config) -> HealthTerms {
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let readiness = &config.readiness;
    HealthTerms {
        readiness: ReadinessTerms {
            fail_after: count(readiness.fail_after),
            pass_after: count(readiness.pass_after),
            min_span_ms: ms(readiness.min_span_ms),
            max_gap_ms: ms(readiness.max_gap_ms),
            evidence_max_ms: ms(readiness.evidence_max_ms),
            stored_max_ms: ms(readiness.stored_max_ms),
        },
        incident_stale_ms: ms(readiness.incident_stale_ms),
        stall_ms: ms(readiness.stall_ms),
        disk_free_min_bytes: readiness.disk_free_min_bytes,
        connections_max: config.http.connections_max as u64,
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// What claims, leases and lanes go by.
fn rules(config: &Config) -> Rules {
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let limit = |limit: u64| Some(count(limit)).filter(|limit| *limit > 0);
    let limits = config.lanes.limits.iter();
    Rules {
        terms: Terms {
            lease_ms: ms(config.lease.duration_ms),
            heartbeat_every_ms: ms(config.lease.heartbeat_every_ms),
            progress_ms: ms(config.lease.progress_ms),
            hold_max_ms: ms(config.lease.hold_max_ms),
            attempts_max: u32::try_from(config.attempts.max).unwrap_or(u32::MAX),
            backoff_min_ms: ms(config.attempts.backoff_min_ms),
            backoff_max_ms: ms(config.attempts.backoff_max_ms),
        },
        breaker: BreakerTerms { failures: count(config.breaker.failures), window_ms: ms(config.breaker.window_ms) },
        wip: WipLimits {
            default: limit(config.lanes.wip_limit),
            by_lane: limits.map(|(lane, wip)| (lane.clone(), limit(*wip).unwrap_or(usize::MAX))).collect(),
        },
    }
}

fn registered(repository: &RepositoryConfig) -> Registered {
    Registered {
        name: repository.name.clone(),
        path: repository.path.clone(),
        base: repository.base.clone(),
        remote: repository.remote.clone(),
    }
}

/// Writes a file whole or not at all, for this user alone.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    exclusion::write_whole(path, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// Ready when signals from outside have asked the daemon to stop so often.
pub async fn asked_to_stop(times: u32) {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            for _ in 0..times {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
        }
        _ => std::future::pending().await,
    }
}

/// `slugline serve`.
#[must_use]
pub fn serve(args: &Serve) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(faults) => return wrong_usage(&faults),
    };
    let log = telemetry::init(&config.log, &config.traces);
    let end = run(async |workers| {
        let daemon = Daemon::build(&config, Doors::real(workers)).await?;
        dump_on_signal(&daemon);
        announce(&daemon, &config);
        tokio::select! {
            end = daemon.serve(asked_to_stop(1)) => Ok(end),
            // Nothing is waited for: supervisors end what runs, and what was accepted is on disk already.
            () = asked_to_stop(2) => Ok(End::AskedAgain),
        }
    });
    if matches!(end, Ok(End::AskedAgain)) {
        // Neither for what a collector has not taken yet.
        std::mem::forget(log);
    }
    finish(end)
}

/// `slugline health`.
#[must_use]
pub fn health(args: &Health) -> ExitCode {
    let client = match args.daemon.data_dir() {
        Ok(data_dir) => Client::of_data_dir(&data_dir),
        Err(faults) => return wrong_usage(&faults),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut text = Vec::new();
    match runtime.and_then(|runtime| runtime.block_on(health::show(client, args.json, &mut text))) {
        Ok(verdict) => {
            // Whoever reads only the first line has what they wanted.
            let _ = io::stdout().write_all(&text);
            ExitCode::from(health::exit_code(verdict))
        }
        Err(error) => {
            eprintln!("slugline: {error}");
            ExitCode::from(health::exit_code(Verdict::Unknown))
        }
    }
}

/// `slugline doctor`.
#[must_use]
pub fn doctor(args: &Doctor) -> ExitCode {
    let config = match args.serve.load() {
        Ok(config) => config,
        Err(faults) => return wrong_usage(&faults),
    };
    let mut text = Vec::new();
    let file = args.serve.file().and_then(|file| std::path::absolute(file).ok());
    let around = surroundings::look(&Wanted {
        data_dir: &config.data_dir,
        worktrees_dir: &config.worktrees_dir,
        config_dir: file.as_deref().and_then(Path::parent),
        repositories: config.repositories.iter().map(|repository| repository.path.as_path()).collect(),
        connections_max: config.http.connections_max as u64,
    });
    let well = doctor::show(&config, around, &mut text);
    // Whoever reads only the first line has what they wanted.
    let _ = io::stdout().write_all(&text);
    if well.is_ok_and(|well| well) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `slugline console`.
#[must_use]
pub fn console(args: &Console) -> ExitCode {
    let data_dir = match args.daemon.data_dir() {
        Ok(data_dir) => data_dir,
        Err(faults) => return wrong_usage(&faults),
    };
    let shown = Client::of_data_dir(&data_dir).map_err(anyhow::Error::msg).and_then(|client| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(console::show(&client, args.print, &mut io::stdout()))
    });
    finish(shown.map(|()| End::Asked))
}

/// `slugline check`.
#[must_use]
pub fn check(args: &Check) -> ExitCode {
    on_ledger(&args.ledger, |ledger| {
        let path = args.file.as_deref().unwrap_or(ledger);
        writeln!(io::stdout(), "{} is whole: {}", path.display(), store::check(path)?).map_err(Into::into)
    })
}

/// `slugline backup`.
#[must_use]
pub fn backup(args: &Backup) -> ExitCode {
    on_ledger(&args.ledger, |ledger| {
        let made = store::back_up(ledger, args.file.as_deref(), Clock::system().now())?;
        writeln!(io::stdout(), "{} goes to entry {}, {} bytes", made.path.display(), made.last_seq, made.bytes)
            .map_err(Into::into)
    })
}

/// `slugline restore`.
#[must_use]
pub fn restore(args: &Restore) -> ExitCode {
    on_ledger(&args.ledger, |ledger| {
        let restored = store::restore(ledger, &args.file, Clock::system().now())?;
        writeln!(io::stdout(), "{} is the ledger now. {restored}", args.file.display()).map_err(Into::into)
    })
}

/// Does something with the ledger of a data directory without a daemon.
fn on_ledger(which: &Running, work: impl FnOnce(&Path) -> anyhow::Result<()>) -> ExitCode {
    match which.data_dir() {
        Ok(data_dir) => finish(work(&ledger_path(&data_dir)).map(|()| End::Asked)),
        Err(faults) => wrong_usage(&faults),
    }
}

/// `slugline token`.
#[must_use]
pub fn token(args: &Token) -> ExitCode {
    let config = match args.daemon().load() {
        Ok(config) => config,
        Err(faults) => return wrong_usage(&faults),
    };
    let done = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(token::run(args, &config, &mut io::stdout()))
    };
    finish(done().map(|()| End::Asked))
}

/// `slugline demo`.
#[must_use]
pub fn demo(args: &Demo) -> ExitCode {
    let log = Log { format: LogFormat::Text, level: "warn".to_owned() };
    let _log = telemetry::init(&log, &Traces::default());
    finish(run(async |workers| {
        let dir = tempfile::Builder::new().prefix("slugline-demo-").tempdir()?;
        let at = dir.path().to_owned();
        let sample = tokio::task::spawn_blocking(move || demo::make_sample(&at)).await??;
        let settings =
            vec![("listen", "127.0.0.1:0".to_owned()), ("data_dir", dir.path().join("data").display().to_string())];
        let config = Config::load(
            &Flags { settings, repos: vec![sample.path.clone()] },
            &std::collections::BTreeMap::new(),
            None,
        );
        let config = config
            .map_err(|faults| anyhow!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let daemon = Daemon::build(&config, Doors::real(workers)).await?;
        let (address, token_path) = (daemon.address, daemon.token_path.clone().context("the demo has a token")?);
        let client = Client::tcp(address, Some(std::fs::read_to_string(&token_path)?.trim().to_owned()));
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(daemon.serve(wait_true(stopped)));
        let mut out = io::stdout();
        let shown = demo::show(&client, &mut out).await;
        if shown.is_ok() && !args.once {
            demo::what_next(&address.to_string(), &token_path, &sample.path, &mut out)?;
            writeln!(out, "Serving until Ctrl-C; then everything under {} is removed.", dir.path().display())?;
            asked_to_stop(1).await;
        }
        let _ = stop.send(true);
        let end = serving.await?;
        shown.map(|()| end)
    }))
}

fn announce(daemon: &Daemon, config: &Config) {
    let token = daemon.token_path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    let repositories: Vec<&str> = config.repositories.iter().map(|repository| repository.name.as_str()).collect();
    eprintln!(
        "slugline {} serves http://{}  token: {token}  repositories: {}",
        env!("CARGO_PKG_VERSION"),
        daemon.address,
        repositories.join(", ")
    );
    if let Some(socket) = &config.socket {
        eprintln!("unix socket: {}", socket.display());
    }
    eprintln!("console: http://{}/console/ (`slugline console` opens it, signed in)", daemon.address);
    let handle = daemon.handle.clone();
    // A repository that cannot be served is said at once, not at its first request; the others are served all the same.
    tokio::task::spawn_blocking(move || {
        for entry in handle.context().repos.values() {
            if let Err(problem) = entry.repo.base() {
                tracing::error!(repo = entry.repo.name().as_str(), problem = %problem, "a repository cannot be served as it is");
            }
        }
    });
}

/// `kill -USR1` makes a dump, even while the runtime is stuck.
fn dump_on_signal(daemon: &Daemon) {
    let flag = Arc::new(AtomicBool::new(false));
    match signal_hook::flag::register(signal_hook::consts::SIGUSR1, flag.clone()) {
        Ok(_) => daemon.handle.context().pulse.on_signal(flag),
        Err(error) => tracing::warn!(%error, "SIGUSR1 cannot be listened to; POST /debug/hang-dump makes dumps too"),
    }
}

/// A runtime whose threads say what they do.
pub fn watched_runtime() -> io::Result<(tokio::runtime::Runtime, Arc<Workers>)> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all();
    let workers = Workers::watch(&mut builder);
    Ok((builder.build()?, workers))
}

/// Runs to the end on a runtime of its own.
fn run(work: impl AsyncFnOnce(Arc<Workers>) -> anyhow::Result<End>) -> anyhow::Result<End> {
    let (runtime, workers) = watched_runtime().context("the runtime cannot be started")?;
    let end = runtime.block_on(work(workers));
    match end {
        Ok(End::AskedAgain) => runtime.shutdown_background(),
        _ => runtime.shutdown_timeout(Duration::from_secs(1)),
    }
    end
}

fn wrong_usage(faults: &[String]) -> ExitCode {
    for fault in faults {
        eprintln!("slugline: {fault}");
    }
    ExitCode::from(EXIT_USAGE)
}

fn finish(end: anyhow::Result<End>) -> ExitCode {
    match end {
        Ok(End::Asked | End::AskedAgain) => ExitCode::SUCCESS,
        Ok(End::Meltdown(name)) => {
            eprintln!("slugline: {name} failed too often and was given up; the log says why");
            ExitCode::from(EXIT_MELTDOWN)
        }
        Err(error) => {
            eprintln!("slugline: {error:#}");
            match error.downcast_ref::<StoreError>() {
                Some(StoreError::Unusable(_)) => ExitCode::from(EXIT_DATA),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
