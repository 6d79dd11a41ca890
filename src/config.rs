//! The daemon's configuration: flags over environment over `slugline.toml` over defaults; everything is checked before
//! anything is bound, and all faults are reported at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::metrics::logs;
use crate::model::door::AllowedHost;
use crate::model::ids::{Lane, RepoName};
use crate::model::job::JobName;
use crate::model::mask::{has_credentials, masked};
use crate::model::settings::{Fault, Section};

/// Where the daemon listens when nothing is said: SLUG on a telephone.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7584";
/// Repositories one daemon may serve.
const REPOSITORIES_MAX: usize = 1_000;
/// Lanes that may have a limit of their own.
const LANES_MAX: usize = 1_000;
/// Names the daemon may be asked for by.
const HOSTS_MAX: usize = 32;
/// Directories of session logs.
const LOG_DIRS_MAX: usize = 100;
/// Directories watched when nothing is said: a third of what Linux gives a user on a machine of some size.
const WATCHES_DEFAULT: u64 = 65_536;
/// A day, in milliseconds: no limit here is longer.
const DAY_MS: u64 = 86_400_000;
/// How many prepare and gate commands run at once when nothing is said. They run at low priority, so the number
/// guards memory, not the daemon's own answers.
const COMMANDS_DEFAULT: u64 = 32;

/// Everything the daemon is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// TCP address. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Unix socket beside it.
    pub socket: Option<PathBuf>,
    /// Token, address, ledger, logs.
    pub data_dir: PathBuf,
    /// Worktrees.
    pub worktrees_dir: PathBuf,
    /// Who is let in.
    pub auth: Auth,
    /// Claims.
    pub lease: Lease,
    /// Attempts of a todo.
    pub attempts: Attempts,
    /// The lane breaker.
    pub breaker: Breaker,
    /// Claims per lane.
    pub lanes: Lanes,
    /// The runtime's watchdog.
    pub watchdog: Watchdog,
    /// Whether the daemon is to be relied on.
    pub readiness: ReadinessConfig,
    /// The daemon's own duties.
    pub jobs: BTreeMap<JobName, JobConfig>,
    /// What is let go.
    pub retention: RetentionConfig,
    /// Carrying out.
    pub runs: Runs,
    /// What a repository's command may use.
    pub limits: CommandLimits,
    /// Actors.
    pub actors: Actors,
    /// Worktrees, shown as they change.
    pub inventory: Inventory,
    /// Sessions.
    pub sessions: SessionsConfig,
    /// HTTP.
    pub http: Http,
    /// Logging.
    pub log: Log,
    /// Traces.
    pub traces: Traces,
    /// What is served.
    pub repositories: Vec<RepositoryConfig>,
}

/// `[auth]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth {
    /// Whether TCP callers need the token.
    pub mode: AuthMode,
    /// How long an old token is good after a rotation, in milliseconds.
    pub grace_ms: u64,
}

/// `[auth] mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// They do.
    Token,
    /// They do not.
    None,
}

/// `[lease]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// How long a claim lasts without a heartbeat, in milliseconds.
    pub duration_ms: u64,
    /// How often holders are asked to send one, in milliseconds.
    pub heartbeat_every_ms: u64,
    /// How long heartbeats that report nothing new carry a claim, in milliseconds.
    pub progress_ms: u64,
    /// How long a claim may wait for people in all, in milliseconds.
    pub hold_max_ms: u64,
}

/// `[attempts]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// Failed attempts after which a todo waits for a person.
    pub max: u64,
    /// Wait after the first failed attempt, in milliseconds; doubles with each further one.
    pub backoff_min_ms: u64,
    /// The wait never exceeds this, in milliseconds.
    pub backoff_max_ms: u64,
}

/// `[lanes]` and `[[lane]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    /// Claims a lane may have at once; any number when 0.
    pub wip_limit: u64,
    /// The same of named lanes.
    pub limits: BTreeMap<Lane, u64>,
}

/// `[breaker]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Failures of one fingerprint that pause a lane.
    pub failures: u64,
    /// Within so many milliseconds.
    pub window_ms: u64,
}

/// `[watchdog]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchdog {
    /// A lag beyond this is a hang, in milliseconds.
    pub lag_threshold_ms: u64,
    /// How often the lag is measured, in milliseconds.
    pub interval_ms: u64,
    /// An actor that handles one message for so long hangs and is ended, in milliseconds.
    pub handler_timeout_ms: u64,
    /// Dumps of hangs are at least so far apart, in milliseconds.
    pub dump_every_ms: u64,
    /// Dumps that are kept.
    pub dumps_max: usize,
    /// Whether the stacks of stuck threads are taken.
    pub stacks: bool,
}

/// `[readiness]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadinessConfig {
    /// Failing sightings in a row until a criterion is `NO_GO`.
    pub fail_after: u64,
    /// Good sightings in a row until it is `GO`.
    pub pass_after: u64,
    /// The failing sightings span at least so many milliseconds.
    pub min_span_ms: u64,
    /// Sightings further apart are not in a row.
    pub max_gap_ms: u64,
    /// Evidence of so many milliseconds says nothing any more.
    pub evidence_max_ms: u64,
    /// The same of what an earlier daemon stored.
    pub stored_max_ms: u64,
    /// Incidents without a sign for so many milliseconds fade.
    pub incident_stale_ms: u64,
    /// Todos that wait for so many milliseconds while nothing moves are a stall.
    pub stall_ms: u64,
    /// Less room on disk than so many bytes is too little.
    pub disk_free_min_bytes: u64,
}

/// One job of `[jobs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobConfig {
    /// How often it runs, in milliseconds; never when 0.
    pub every_ms: u64,
    /// How long one run should take, in milliseconds.
    pub budget_ms: u64,
}

/// `[retention]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Logs of operations are kept for so many milliseconds.
    pub logs_keep_ms: u64,
    /// And up to so many bytes in all.
    pub logs_bytes_max: u64,
    /// Backups of the ledger that are kept.
    pub backups_keep: usize,
}

/// `[runs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// Prepare and gate commands at once.
    pub max_parallel_commands: usize,
    /// What one git command gets, in milliseconds.
    pub git_timeout_ms: u64,
}

/// `[limits]`: what one prepare or gate command and all it starts may use. Without limit where 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandLimits {
    /// Bytes of memory of all its processes together.
    pub memory_bytes: u64,
    /// Processes at once.
    pub processes: u64,
    /// Open files of each process.
    pub open_files: u64,
    /// Bytes of each file it writes.
    pub file_bytes: u64,
    /// How far it stands back behind others, 0 to 19.
    pub niceness: i32,
}

/// `[actors]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actors {
    /// A slug's actor leaves after so many milliseconds without a call.
    pub idle_after_ms: u64,
}

/// `[inventory]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inventory {
    /// Directories the system is asked to tell changes of.
    pub watches_max: usize,
    /// Worktrees looked at at once; as many as there are cores when 0.
    pub scans_max: usize,
    /// How long one look may take, in milliseconds.
    pub scan_timeout_ms: u64,
    /// A repository that was not used for so many milliseconds leaves the memory.
    pub forget_after_ms: u64,
    /// Removed worktrees are kept for so many milliseconds.
    pub trash_keep_ms: u64,
}

/// `[sessions]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsConfig {
    /// Directories of `.jsonl` logs agents write themselves.
    pub log_dirs: Vec<PathBuf>,
    /// A held session without a sign of progress for so many milliseconds is stuck.
    pub stuck_after_ms: u64,
    /// A session of which nothing was heard for so many milliseconds is dormant.
    pub dormant_after_ms: u64,
}

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Names the daemon may be asked for by, beside its own.
    pub allowed_hosts: Vec<AllowedHost>,
    /// How long a shutdown waits for requests and runs, in milliseconds.
    pub drain_ms: u64,
    /// Connections at once.
    pub connections_max: usize,
    /// Clients that may listen to events at once.
    pub event_clients_max: usize,
    /// The same of one caller.
    pub event_clients_per_caller_max: usize,
    /// Requests of one caller each second; any number when 0.
    pub requests_per_s: u64,
    /// Requests of one caller at once, after a rest.
    pub requests_burst: u64,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Time for it to arrive, in milliseconds; an idle connection is closed after the same time.
    pub head_ms: u64,
    /// Bytes of its body.
    pub body_bytes_max: usize,
    /// Time for it to arrive, in milliseconds.
    pub body_ms: u64,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// `info`, or a filter such as `info,slugline::git=debug`.
    pub level: String,
}

/// `[traces]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// Where spans are sent, by OTLP over HTTP, in JSON.
    pub otlp_endpoint: Option<String>,
}

/// `[log] format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// One `[[repositories]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryConfig {
    /// Its name.
    pub name: RepoName,
    /// Its path.
    pub path: PathBuf,
    /// Its base branch; the one its HEAD names when `None`.
    pub base: Option<String>,
    /// Its remote.
    pub remote: Option<String>,
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Settings by dotted key, in the words of the user.
    pub settings: Vec<(&'static str, String)>,
    /// `--repo`.
    pub repos: Vec<PathBuf>,
}

/// Environment variable of every key that can be set by one.
const ENVIRONMENT: [(&str, &str); 51] = [
    ("SLUGLINE_LISTEN", "listen"),
    ("SLUGLINE_SOCKET", "socket"),
    ("SLUGLINE_DATA_DIR", "data_dir"),
    ("SLUGLINE_WORKTREES_DIR", "worktrees_dir"),
    ("SLUGLINE_AUTH_MODE", "auth.mode"),
    ("SLUGLINE_AUTH_GRACE_MS", "auth.grace_ms"),
    ("SLUGLINE_LEASE_DURATION_MS", "lease.duration_ms"),
    ("SLUGLINE_LEASE_HEARTBEAT_EVERY_MS", "lease.heartbeat_every_ms"),
    ("SLUGLINE_LEASE_PROGRESS_MS", "lease.progress_ms"),
    ("SLUGLINE_LEASE_HOLD_MAX_MS", "lease.hold_max_ms"),
    ("SLUGLINE_ATTEMPTS_MAX", "attempts.max"),
    ("SLUGLINE_ATTEMPTS_BACKOFF_MIN_MS", "attempts.backoff_min_ms"),
    ("SLUGLINE_ATTEMPTS_BACKOFF_MAX_MS", "attempts.backoff_max_ms"),
    ("SLUGLINE_LANES_WIP_LIMIT", "lanes.wip_limit"),
    ("SLUGLINE_BREAKER_FAILURES", "breaker.failures"),
    ("SLUGLINE_BREAKER_WINDOW_MS", "breaker.window_ms"),
    ("SLUGLINE_WATCHDOG_LAG_THRESHOLD_MS", "watchdog.lag_threshold_ms"),
    ("SLUGLINE_WATCHDOG_INTERVAL_MS", "watchdog.interval_ms"),
    ("SLUGLINE_WATCHDOG_HANDLER_TIMEOUT_MS", "watchdog.handler_timeout_ms"),
    ("SLUGLINE_WATCHDOG_DUMP_EVERY_MS", "watchdog.dump_every_ms"),
    ("SLUGLINE_WATCHDOG_STACKS", "watchdog.stacks"),
    ("SLUGLINE_JOBS_FETCH_EVERY_MS", "jobs.fetch_every_ms"),
    ("SLUGLINE_READINESS_DISK_FREE_MIN_BYTES", "readiness.disk_free_min_bytes"),
    ("SLUGLINE_RUNS_MAX_PARALLEL_COMMANDS", "runs.max_parallel_commands"),
    ("SLUGLINE_RUNS_GIT_TIMEOUT_MS", "runs.git_timeout_ms"),
    ("SLUGLINE_LIMITS_MEMORY_BYTES", "limits.memory_bytes"),
    ("SLUGLINE_LIMITS_PROCESSES", "limits.processes"),
    ("SLUGLINE_LIMITS_OPEN_FILES", "limits.open_files"),
    ("SLUGLINE_LIMITS_FILE_BYTES", "limits.file_bytes"),
    ("SLUGLINE_LIMITS_NICENESS", "limits.niceness"),
    ("SLUGLINE_ACTORS_IDLE_AFTER_MS", "actors.idle_after_ms"),
    ("SLUGLINE_INVENTORY_WATCHES_MAX", "inventory.watches_max"),
    ("SLUGLINE_INVENTORY_SCANS_MAX", "inventory.scans_max"),
    ("SLUGLINE_INVENTORY_SCAN_TIMEOUT_MS", "inventory.scan_timeout_ms"),
    ("SLUGLINE_INVENTORY_FORGET_AFTER_MS", "inventory.forget_after_ms"),
    ("SLUGLINE_INVENTORY_TRASH_KEEP_MS", "inventory.trash_keep_ms"),
    ("SLUGLINE_SESSIONS_STUCK_AFTER_MS", "sessions.stuck_after_ms"),
    ("SLUGLINE_SESSIONS_DORMANT_AFTER_MS", "sessions.dormant_after_ms"),
    ("SLUGLINE_HTTP_ALLOWED_HOSTS", "http.allowed_hosts"),
    ("SLUGLINE_HTTP_DRAIN_MS", "http.drain_ms"),
    ("SLUGLINE_HTTP_CONNECTIONS_MAX", "http.connections_max"),
    ("SLUGLINE_HTTP_EVENT_CLIENTS_MAX", "http.event_clients_max"),
    ("SLUGLINE_HTTP_EVENT_CLIENTS_PER_CALLER_MAX", "http.event_clients_per_caller_max"),
    ("SLUGLINE_HTTP_REQUESTS_PER_S", "http.requests_per_s"),
    ("SLUGLINE_HTTP_REQUESTS_BURST", "http.requests_burst"),
    ("SLUGLINE_HTTP_HEAD_BYTES_MAX", "http.head_bytes_max"),
    ("SLUGLINE_HTTP_HEAD_MS", "http.head_ms"),
    ("SLUGLINE_HTTP_BODY_BYTES_MAX", "http.body_bytes_max"),
    ("SLUGLINE_HTTP_BODY_MS", "http.body_ms"),
    ("SLUGLINE_LOG_LEVEL", "log.level"),
    ("SLUGLINE_TRACES_OTLP_ENDPOINT", "traces.otlp_endpoint"),
];

/// Variables with our prefix that are not settings: where the file is, and what commands of a run are given.
const NOT_SETTINGS: [&str; 7] = [
    "SLUGLINE_CONFIG",
    "SLUGLINE_RUN",
    "SLUGLINE_RUN_POLICY",
    "SLUGLINE_RUN_HELPER",
    "SLUGLINE_REPO",
    "SLUGLINE_SLUG",
    "SLUGLINE_OPERATION",
];

impl Config {
    /// Brings file, environment and flags together. `file` is the configuration file's path and text; relative paths
    /// in it are seen from its directory. All faults come back at once.
    pub fn load(
        flags: &Flags,
        env: &BTreeMap<String, String>,
        file: Option<(&Path, &str)>,
    ) -> Result<Self, Vec<Fault>> {
        let (source, text) =
            file.map_or(("defaults".to_owned(), ""), |(path, text)| (path.display().to_string(), text));
        let mut top = Section::parse(&source, text);
        let faults = top.fault_list();
        for (name, value) in
            env.iter().filter(|(name, _)| name.starts_with("SLUGLINE_") && !NOT_SETTINGS.contains(&name.as_str()))
        {
            match ENVIRONMENT.iter().find(|(known, _)| known == name) {
                Some((_, key)) => top.put(name, key, value),
                None => faults.borrow_mut().push(Fault {
                    source: "environment".to_owned(),
                    line: None,
                    key: name.clone(),
                    message: "unknown variable; `slugline serve --help` lists the settings".to_owned(),
                }),
            }
        }
        for (key, value) in &flags.settings {
            top.put("command line", key, value);
        }
        let home = file.and_then(|(path, _)| path.parent()).filter(|dir| !dir.as_os_str().is_empty());
        let config = read(&mut top, env, home.unwrap_or_else(|| Path::new(".")), &flags.repos);
        top.finish();
        let faults = faults.take();
        config.filter(|_| faults.is_empty()).ok_or(faults)
    }
}

fn read(top: &mut Section, env: &BTreeMap<String, String>, home: &Path, repos: &[PathBuf]) -> Option<Config> {
    let listen =
        top.parsed("listen", address).unwrap_or_else(|| LISTEN_DEFAULT.parse().expect("the default address is one"));
    let path = |text: &str| absolute(home, text);
    let socket = top.parsed("socket", |text| path(text));
    let data_dir = top.parsed("data_dir", |text| path(text)).or_else(|| default_data_dir(env));
    if data_dir.is_none() {
        top.fault("data_dir", "neither XDG_STATE_HOME nor HOME is set, so say where: --data-dir DIR");
    }
    let data_dir = data_dir.unwrap_or_default();
    let worktrees_dir = top.parsed("worktrees_dir", |text| path(text)).unwrap_or_else(|| data_dir.join("worktrees"));
    let socket = socket.or_else(|| Some(default_socket(env, &data_dir)));
    let mut auth = top.section("auth");
    let mode = auth.word("mode", &[("token", AuthMode::Token), ("none", AuthMode::None)]).unwrap_or(AuthMode::Token);
    let grace_ms = auth.whole("grace_ms", 0..=DAY_MS).unwrap_or(60_000);
    auth.finish();
    if mode == AuthMode::None && !listen.ip().is_loopback() {
        top.fault(
            "listen",
            format!(
                "{listen} is not on loopback and [auth] mode is \"none\": anybody who reaches it could run commands here; \
                 say mode = \"token\", or listen on 127.0.0.1"
            ),
        );
    }
    let mut number = |section: &'static str, keys: &[(&'static str, std::ops::RangeInclusive<u64>, u64)]| -> Vec<u64> {
        let mut table = top.section(section);
        let numbers =
            keys.iter().map(|(key, bounds, default)| table.whole(key, bounds.clone()).unwrap_or(*default)).collect();
        table.finish();
        numbers
    };
    let lease = number(
        "lease",
        &[
            ("duration_ms", 10..=7 * DAY_MS, 2_700_000),
            ("heartbeat_every_ms", 1..=DAY_MS, 60_000),
            ("progress_ms", 1..=30 * DAY_MS, 10_800_000),
            ("hold_max_ms", 0..=30 * DAY_MS, DAY_MS),
        ],
    );
    let attempts = number(
        "attempts",
        &[
            ("max", 1..=1_000, 5),
            ("backoff_min_ms", 0..=DAY_MS, 30_000),
            ("backoff_max_ms", 0..=30 * DAY_MS, 3_600_000),
        ],
    );
    let lanes = number("lanes", &[("wip_limit", 0..=100_000, 0)]);
    let breaker = number("breaker", &[("failures", 1..=1_000, 3), ("window_ms", 1_000..=365 * DAY_MS, DAY_MS)]);
    let readiness = number(
        "readiness",
        &[
            ("fail_after", 1..=1_000, 2),
            ("pass_after", 1..=1_000, 2),
            ("min_span_ms", 0..=DAY_MS, 5_000),
            ("max_gap_ms", 1_000..=DAY_MS, 60_000),
            ("evidence_max_ms", 1_000..=DAY_MS, 60_000),
            ("stored_max_ms", 1_000..=DAY_MS, 1_800_000),
            ("incident_stale_ms", 1_000..=30 * DAY_MS, 2_700_000),
            ("stall_ms", 1_000..=30 * DAY_MS, 2_700_000),
            ("disk_free_min_bytes", 0..=u64::MAX / 2, 256 << 20),
        ],
    );
    let retention = number(
        "retention",
        &[
            ("logs_keep_ms", 1_000..=3_650 * DAY_MS, 30 * DAY_MS),
            ("logs_bytes_max", 0..=u64::MAX / 2, 4 << 30),
            ("backups_keep", 1..=1_000, 7),
        ],
    );
    let runs = number(
        "runs",
        &[("max_parallel_commands", 1..=10_000, COMMANDS_DEFAULT), ("git_timeout_ms", 1_000..=DAY_MS, 120_000)],
    );
    let limits_of_commands = number(
        "limits",
        &[
            ("memory_bytes", 0..=u64::MAX / 2, 0),
            ("processes", 0..=10_000_000, 0),
            ("open_files", 0..=10_000_000, 0),
            ("file_bytes", 0..=u64::MAX / 2, 0),
            ("niceness", 0..=19, 10),
        ],
    );
    let actors = number("actors", &[("idle_after_ms", 100..=DAY_MS, 300_000)]);
    let inventory = number(
        "inventory",
        &[
            ("watches_max", 0..=10_000_000, WATCHES_DEFAULT),
            ("scans_max", 0..=1_000, 0),
            ("scan_timeout_ms", 100..=600_000, 30_000),
            ("forget_after_ms", 1_000..=3_650 * DAY_MS, 30 * DAY_MS),
            ("trash_keep_ms", 0..=3_650 * DAY_MS, 7 * DAY_MS),
        ],
    );
    let (http, watchdog, jobs) = (http(top), watchdog(top), jobs(top));
    let mut sessions = top.section("sessions");
    let stuck_after_ms = sessions.whole("stuck_after_ms", 1_000..=30 * DAY_MS).unwrap_or(600_000);
    let dormant_after_ms = sessions.whole("dormant_after_ms", 1_000..=365 * DAY_MS).unwrap_or(3_600_000);
    if dormant_after_ms < stuck_after_ms {
        sessions.fault("dormant_after_ms", "is shorter than stuck_after_ms; a session is stuck before it is dormant");
    }
    let log_dirs = sessions.texts("log_dirs", LOG_DIRS_MAX, |text| absolute(home, text).map(drop)).unwrap_or_default();
    let log_dirs = log_dirs.iter().filter_map(|dir| absolute(home, dir).ok()).collect();
    sessions.finish();
    let mut log = top.section("log");
    let format = log.word("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]).unwrap_or(LogFormat::Text);
    let level = log.parsed("level", level).unwrap_or_else(|| "info".to_owned());
    log.finish();
    let mut traces = top.section("traces");
    let otlp_endpoint = traces.parsed("otlp_endpoint", otlp_endpoint);
    traces.finish();
    let limits = lane_limits(top);
    let repositories = repositories(top, home, repos);
    Some(Config {
        listen,
        socket,
        data_dir,
        worktrees_dir,
        auth: Auth { mode, grace_ms },
        lease: Lease {
            duration_ms: lease[0],
            heartbeat_every_ms: lease[1],
            progress_ms: lease[2],
            hold_max_ms: lease[3],
        },
        attempts: Attempts { max: attempts[0], backoff_min_ms: attempts[1], backoff_max_ms: attempts[2] },
        lanes: Lanes { wip_limit: lanes[0], limits },
        breaker: Breaker { failures: breaker[0], window_ms: breaker[1] },
        watchdog,
        readiness: ReadinessConfig {
            fail_after: readiness[0],
            pass_after: readiness[1],
            min_span_ms: readiness[2],
            max_gap_ms: readiness[3],
            evidence_max_ms: readiness[4],
            stored_max_ms: readiness[5],
            incident_stale_ms: readiness[6],
            stall_ms: readiness[7],
            disk_free_min_bytes: readiness[8],
        },
        jobs,
        retention: RetentionConfig {
            logs_keep_ms: retention[0],
            logs_bytes_max: retention[1],
            backups_keep: whole(retention[2]),
        },
        runs: Runs { max_parallel_commands: whole(runs[0]), git_timeout_ms: runs[1] },
        limits: CommandLimits {
            memory_bytes: limits_of_commands[0],
            processes: limits_of_commands[1],
            open_files: limits_of_commands[2],
            file_bytes: limits_of_commands[3],
            niceness: i32::try_from(limits_of_commands[4]).unwrap_or(19),
        },
        actors: Actors { idle_after_ms: actors[0] },
        inventory: Inventory {
            watches_max: whole(inventory[0]),
            scans_max: whole(inventory[1]),
            scan_timeout_ms: inventory[2],
            forget_after_ms: inventory[3],
            trash_keep_ms: inventory[4],
        },
        sessions: SessionsConfig { log_dirs, stuck_after_ms, dormant_after_ms },
        http,
        log: Log { format, level },
        traces: Traces { otlp_endpoint },
        repositories,
    })
}

fn http(top: &mut Section) -> Http {
    let mut section = top.section("http");
    let allowed_hosts = section.texts("allowed_hosts", HOSTS_MAX, |host| AllowedHost::parse(host).map(drop));
    let allowed_hosts = allowed_hosts.unwrap_or_default();
    let mut number = |key, bounds, default| section.whole(key, bounds).unwrap_or(default);
    let http = Http {
        allowed_hosts: allowed_hosts.iter().filter_map(|host| AllowedHost::parse(host).ok()).collect(),
        drain_ms: number("drain_ms", 0..=600_000, 10_000),
        connections_max: whole(number("connections_max", 16..=100_000, 4_096)),
        event_clients_max: whole(number("event_clients_max", 0..=100_000, 2_048)),
        event_clients_per_caller_max: whole(number("event_clients_per_caller_max", 0..=100_000, 1_024)),
        requests_per_s: number("requests_per_s", 0..=1_000_000, 2_000),
        requests_burst: number("requests_burst", 1..=1_000_000, 4_000),
        // The parser wants room for the longest line.
        head_bytes_max: whole(number("head_bytes_max", 8_192..=1 << 20, 16 << 10)),
        head_ms: number("head_ms", 100..=600_000, 10_000),
        body_bytes_max: whole(number("body_bytes_max", 1_024..=64 << 20, 64 << 10)),
        body_ms: number("body_ms", 100..=600_000, 10_000),
    };
    section.finish();
    http
}

fn watchdog(top: &mut Section) -> Watchdog {
    let mut section = top.section("watchdog");
    let lag_threshold_ms = section.whole("lag_threshold_ms", 10..=60_000).unwrap_or(250);
    let interval_ms = section.whole("interval_ms", 5..=60_000).unwrap_or(100);
    if interval_ms > lag_threshold_ms {
        section.fault("interval_ms", "is longer than lag_threshold_ms; a hang would be over before it is looked for");
    }
    let watchdog = Watchdog {
        lag_threshold_ms,
        interval_ms,
        handler_timeout_ms: section.whole("handler_timeout_ms", 100..=DAY_MS).unwrap_or(30_000),
        dump_every_ms: section.whole("dump_every_ms", 0..=DAY_MS).unwrap_or(10_000),
        dumps_max: whole(section.whole("dumps_max", 1..=10_000).unwrap_or(50)),
        stacks: section.flag("stacks").unwrap_or(true),
    };
    section.finish();
    watchdog
}

/// The settings of each job.
const JOBS: [(JobName, &str, &str); JobName::ALL.len()] = [
    (JobName::Fetch, "fetch_every_ms", "fetch_budget_ms"),
    (JobName::LeaseSweep, "lease_sweep_every_ms", "lease_sweep_budget_ms"),
    (JobName::WorktreePrune, "worktree_prune_every_ms", "worktree_prune_budget_ms"),
    (JobName::RootEviction, "root_eviction_every_ms", "root_eviction_budget_ms"),
    (JobName::LogRetention, "log_retention_every_ms", "log_retention_budget_ms"),
    (JobName::DumpRetention, "dump_retention_every_ms", "dump_retention_budget_ms"),
    (JobName::LedgerUpkeep, "ledger_upkeep_every_ms", "ledger_upkeep_budget_ms"),
    (JobName::Backup, "backup_every_ms", "backup_budget_ms"),
    (JobName::SessionLiveness, "session_liveness_every_ms", "session_liveness_budget_ms"),
    (JobName::Readiness, "readiness_every_ms", "readiness_budget_ms"),
    (JobName::SelfHeal, "self_heal_every_ms", "self_heal_budget_ms"),
];

fn jobs(top: &mut Section) -> BTreeMap<JobName, JobConfig> {
    let mut section = top.section("jobs");
    let mut read = |(job, every, budget): (JobName, &'static str, &'static str)| {
        let config = JobConfig {
            every_ms: section.whole(every, 0..=30 * DAY_MS).unwrap_or(job.period_ms()),
            budget_ms: section.whole(budget, 10..=DAY_MS).unwrap_or(job.budget_ms()),
        };
        (job, config)
    };
    let jobs = JOBS.map(&mut read).into();
    section.finish();
    jobs
}

fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address such as {LISTEN_DEFAULT}"))
}

/// Where spans go. Without transport encryption: a collector is beside the daemon and sends on from there.
fn otlp_endpoint(text: &str) -> Result<String, String> {
    let uri: hyper::Uri = text.parse().map_err(|error| format!("{:?} is no URL: {error}", masked(text)))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err(format!("{:?} is no http URL such as http://127.0.0.1:4318/v1/traces", masked(text)));
    }
    if cfg!(not(feature = "otlp")) {
        return Err("needs a program that was built with `--features otlp`; this one was not".to_owned());
    }
    Ok(text.to_owned())
}

/// The name of a remote. Its address stays in the repository's own configuration, where git looks after it.
fn remote(text: &str) -> Result<String, String> {
    if text.contains("://") || has_credentials(text) {
        return Err("is an address, expected the name of a remote such as \"origin\"".to_owned());
    }
    Ok(text.to_owned())
}

fn level(text: &str) -> Result<String, String> {
    logs::parse(text).map(|_| text.to_owned())
}

fn absolute(home: &Path, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("is not a path".to_owned());
    }
    std::path::absolute(home.join(text)).map_err(|error| error.to_string())
}

fn default_data_dir(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let at = |name: &str| env.get(name).filter(|path| path.starts_with('/')).map(PathBuf::from);
    at("XDG_STATE_HOME")
        .or_else(|| at("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("slugline"))
}

/// In the runtime directory for the default data directory; a daemon with a data directory of its own has its socket
/// there, so that two daemons never want the same one.
fn default_socket(env: &BTreeMap<String, String>, data_dir: &Path) -> PathBuf {
    let usual = default_data_dir(env).is_some_and(|usual| usual == data_dir);
    let runtime = env.get("XDG_RUNTIME_DIR").filter(|path| usual && path.starts_with('/'));
    runtime.map_or_else(|| data_dir.join("slugline.sock"), |dir| Path::new(dir).join("slugline/slugline.sock"))
}

/// Lanes with a limit of their own.
fn lane_limits(top: &mut Section) -> BTreeMap<Lane, u64> {
    let mut all = BTreeMap::new();
    for mut section in top.sections("lane", LANES_MAX) {
        let (name, limit) = (section.parsed("name", Lane::parse), section.whole("wip_limit", 0..=100_000));
        match (name, limit) {
            (Some(name), Some(_)) if all.contains_key(&name) => {
                section.fault("name", format!("{name} has a limit already"));
            }
            (Some(name), Some(limit)) => drop(all.insert(name, limit)),
            _ => section.fault("", "a lane needs a name and a wip_limit"),
        }
        section.finish();
    }
    all
}

fn repositories(top: &mut Section, home: &Path, repos: &[PathBuf]) -> Vec<RepositoryConfig> {
    let mut all: Vec<RepositoryConfig> = Vec::new();
    for mut section in top.sections("repositories", REPOSITORIES_MAX) {
        let name = section.parsed("name", RepoName::parse);
        let path = section.parsed("path", |text| absolute(home, text));
        let (base, remote) = (section.text("base"), section.parsed("remote", remote));
        match (name, path) {
            (Some(name), Some(path)) if all.iter().any(|other| other.name == name) => {
                section.fault("name", format!("{name} ({}) is registered twice", path.display()))
            }
            (Some(name), Some(path)) => all.push(RepositoryConfig { name, path, base, remote }),
            _ => section.fault("", "a repository needs a name and a path"),
        }
        section.finish();
    }
    for path in repos {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        match name_of(&path) {
            Some(name) if all.iter().any(|other| other.name == name) => top.fault(
                "repositories",
                format!("{name} is registered twice; give {} a name of its own in slugline.toml", path.display()),
            ),
            Some(name) => all.push(RepositoryConfig { name, path, base: None, remote: None }),
            None => top.fault(
                "repositories",
                format!("{} has no usable directory name; register it under a name in slugline.toml", path.display()),
            ),
        }
    }
    all
}

/// A repository's directory name, made to follow the rule for names.
fn name_of(path: &Path) -> Option<RepoName> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .take(64)
        .collect();
    RepoName::parse(plain.trim_matches(['.', '_', '-'])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn load(text: &str, extra: &[(&str, &str)], settings: Vec<(&'static str, String)>) -> Result<Config, Vec<String>> {
        let flags = Flags { settings, repos: Vec::new() };
        let mut env = env(&[("HOME", "/home/u")]);
        env.extend(extra.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
        Config::load(&flags, &env, Some((Path::new("/etc/slugline.toml"), text)))
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let text = "data_dir = \"/file\"\nlisten = \"127.0.0.1:1\"\n[lease]\nduration_ms = 5000\n";
        let config = load(
            text,
            &[("SLUGLINE_LISTEN", "127.0.0.1:2"), ("SLUGLINE_LEASE_DURATION_MS", "6000")],
            vec![("listen", "127.0.0.1:3".into())],
        )
        .expect("fine");
        assert_eq!(
            (config.listen.port(), config.lease.duration_ms, config.data_dir, config.http.drain_ms),
            (3, 6000, "/file".into(), 10_000)
        );
    }

    #[test]
    fn every_fault_is_reported_at_once_with_its_place() {
        let text = "listen = \"0.0.0.0\"\ncolour = 1\n[lease]\nduration_ms = 1\n[[repositories]]\nname = \"../x\"\n";
        let faults =
            load(text, &[("SLUGLINE_LISTENN", "x"), ("SLUGLINE_AUTH_MODE", "maybe")], vec![]).expect_err("faulty");
        for part in [
            "is not an address",
            "/etc/slugline.toml:2: colour: unknown key",
            "lease.duration_ms: is 1, expected",
            "repositories[0].name",
            "SLUGLINE_LISTENN: unknown variable",
            "auth.mode: \"maybe\" is not one of token, none",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:#?}");
        }
    }

    #[test]
    fn beyond_loopback_somebody_has_to_be_asked_for_the_token() {
        for listen in ["0.0.0.0:7584", "192.0.2.7:7584", "[::]:7584"] {
            let text = format!("listen = \"{listen}\"\n");
            assert!(load(&text, &[], vec![]).is_ok(), "{listen}");
            let faults = load(&format!("{text}[auth]\nmode = \"none\"\n"), &[], vec![]).expect_err("nobody is asked");
            assert!(faults[0].contains("mode = \"token\"") && faults[0].contains("127.0.0.1"), "{faults:?}");
        }
        for listen in ["127.0.0.1:7584", "127.0.0.9:0", "[::1]:7584"] {
            assert!(
                load(&format!("listen = \"{listen}\"\n[auth]\nmode = \"none\"\n"), &[], vec![]).is_ok(),
                "{listen}"
            );
        }
    }

    #[test]
    fn allowed_hosts_are_a_list_or_a_text_with_commas_and_each_is_checked() {
        let hosts =
            |config: Config| config.http.allowed_hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let file = "[http]\nallowed_hosts = [\"one.example.org\", \"two:8443\"]\n";
        assert_eq!(hosts(load(file, &[], vec![]).expect("fine")), "one.example.org two:8443");
        let env = [("SLUGLINE_HTTP_ALLOWED_HOSTS", "three, Four:1")];
        assert_eq!(hosts(load(file, &env, vec![]).expect("fine")), "three four:1");
        let flag = vec![("http.allowed_hosts", "five".to_owned())];
        assert_eq!(hosts(load(file, &env, flag).expect("fine")), "five");
        let faults = load("[http]\nallowed_hosts = [\"*\", \"http://x\"]\n", &[], vec![]).expect_err("faulty");
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn a_remote_is_a_name_and_an_address_is_refused_without_being_repeated() {
        let text = |remote: &str| format!("[[repositories]]\nname = \"app\"\npath = \"/app\"\nremote = \"{remote}\"\n");
        assert_eq!(
            load(&text("up/stream"), &[], vec![]).expect("fine").repositories[0].remote.as_deref(),
            Some("up/stream")
        );
        let faults = load(&text("https://bot:s3cret@example.org/a"), &[], vec![]).expect_err("an address");
        assert!(faults[0].contains("name of a remote") && !faults.concat().contains("s3cret"), "{faults:?}");
    }

    #[test]
    fn a_data_directory_is_found_or_asked_for() {
        assert_eq!(load("", &[], vec![]).expect("fine").data_dir, Path::new("/home/u/.local/state/slugline"));
        assert_eq!(load("", &[("XDG_STATE_HOME", "/s")], vec![]).expect("fine").data_dir, Path::new("/s/slugline"));
        let flags = Flags::default();
        let faults = Config::load(&flags, &env(&[]), None).expect_err("nowhere to put anything");
        assert!(faults[0].to_string().contains("--data-dir"), "{faults:?}");
    }

    #[test]
    fn a_repository_on_the_command_line_is_named_after_its_directory() {
        let flags = Flags { settings: vec![("data_dir", "/d".into())], repos: vec!["/srv/My App".into()] };
        let config = Config::load(&flags, &env(&[]), None).expect("fine");
        assert_eq!((config.repositories[0].name.as_str(), config.repositories[0].base.as_deref()), ("my-app", None));
    }

    #[test]
    fn the_example_file_is_the_defaults_with_every_key() {
        let text = include_str!("../config.example.toml");
        let plain = load("", &[], vec![]).expect("fine");
        // The example's keys are commented out where they are optional; read with the comments taken off, it is all of
        // them, and the defaults.
        let all: String =
            text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).map(|line| format!("{line}\n")).collect();
        let example =
            load(&all.replace("~/.local/state", "/home/u/.local/state"), &[], vec![]).expect("the example parses");
        assert_eq!(example.repositories.len(), 1);
        assert_eq!(Config { repositories: Vec::new(), ..example }, plain);
        for (_, key) in ENVIRONMENT {
            let name = key.rsplit('.').next().unwrap_or(key);
            assert!(all.contains(&format!("{name} = ")), "{key} is not in the example");
        }
    }
}
