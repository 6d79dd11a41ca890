//! What speaks for and against the daemon, gathered from what is shared. Every wait has a limit; what cannot be found out
//! is said to be so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::surroundings::{self, Wanted, room};
use crate::actors::context::Context;
use crate::metrics::store::{self as metric, Dir, StoreFile};
use crate::model::doctor;
use crate::model::ids::{Lane, TodoKey};
use crate::model::incident::{IncidentState, Incidents, Links, Severity, Sign};
use crate::model::job::{FAILURES_MAX, JobName, JobRecord, JobResult, JobView, RunLockView};
use crate::model::lane::{Gate, LaneState, PausedBy};
use crate::model::next;
use crate::model::readiness::{Criterion, Sighting};
use crate::model::supervision::is_vital;
use crate::model::time::{Awake, Moment};
use crate::model::todo::Stage;
use crate::model::view::QueueView;
use crate::store::Write;

/// How long the ledger may take to answer.
const STORE_LIMIT: Duration = Duration::from_secs(3);
/// A hang is an incident for so long after it, in milliseconds.
const HANG_MS: i64 = 600_000;
/// A hang this long is critical, in milliseconds; so are so many of them.
const HANG_LONG_MS: f64 = 5_000.0;
const HANGS_MANY: usize = 5;
/// Of fewer measurements than this the latest of a hundred is a single one.
const LAGS_MIN: usize = 100;
/// How often the todos are gone through for what waits, in milliseconds.
const QUEUE_EVERY_MS: i64 = 15_000;
/// Bytes, in words for people.
const MB: u64 = 1_000_000;

/// Says of an incident's key whether what it is about is over, and why.
pub type Over = Box<dyn Fn(&str) -> Option<String> + Send>;

/// Everything that was found out at one evaluation.
pub struct Gathered {
    /// Of each criterion but the incidents, which follow from the rest.
    pub sightings: Vec<(Criterion, Sighting)>,
    /// What is wrong.
    pub signs: Vec<Sign>,
    /// What is not wrong any more.
    pub over: Over,
    /// What waits to be claimed.
    pub queue: Queue,
}

/// What waits to be claimed, and where all todos are.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// In all.
    pub view: QueueView,
    /// How many for each lane, and since when the oldest; those for any under `None`.
    pub lanes: BTreeMap<Option<Lane>, (usize, Awake)>,
    /// Todos by stage.
    pub stages: [usize; Stage::ALL.len()],
}

/// Since when which todos can be claimed; carried on from evaluation to evaluation.
#[derive(Default)]
pub struct Waits {
    since: HashMap<TodoKey, Awake>,
    lanes: BTreeMap<Option<Lane>, (usize, Awake)>,
    stages: [usize; Stage::ALL.len()],
    looked_at: Option<Awake>,
    /// The version of the board at which somebody was last given something, and when.
    granted: Option<(u64, Awake)>,
}

/// Finds out.
pub async fn gather(context: &Arc<Context>, waits: &mut Waits) -> Gathered {
    let now = context.clock.moment();
    let jobs = context.jobs.views(now.wall);
    let lanes = context.board.lanes();
    let queue = of_queue(context, waits, &now).await;
    let stall = of_stall(context, waits, &queue.view, &now);
    let store = of_store(context).await;
    let disk = of_disk(context).await;
    let down = context.supervised.down();
    let hangs = context.recent_hangs.since(now.wall.plus_ms(-HANG_MS));
    let mut signs: Vec<Sign> = jobs.iter().filter_map(sign_of_job).collect();
    signs.extend(lanes.iter().filter_map(|lane| sign_of_lane(context, lane, &now)));
    signs.extend(down.iter().map(|(name, status)| {
        let kind = status.kind.as_str();
        let why = status.reasons.back().map_or("", |why| why.text.as_str());
        let severity = if is_vital(kind) { Severity::Critical } else { Severity::Warning };
        let key = format!("actor:{kind}:{name}");
        sign(
            &key,
            severity,
            format!("{kind} {name} is {}: {why}", status.state.replace('_', " ")),
            Links { actor: Some(format!("{kind}:{name}")), ..Links::default() },
        )
    }));
    if let Some(last) = hangs.last() {
        let long = hangs.iter().any(|hang| hang.lasted_ms.unwrap_or(hang.lag_ms) >= HANG_LONG_MS);
        let severity = if long || hangs.len() >= HANGS_MANY { Severity::Critical } else { Severity::Warning };
        let longest = hangs.iter().map(|hang| hang.lasted_ms.unwrap_or(hang.lag_ms)).fold(0.0, f64::max);
        let title = format!("{} hangs within ten minutes, the longest {longest:.0} ms", hangs.len());
        signs.push(sign("hang", severity, title, Links { hang: Some(last.id.clone()), ..Links::default() }));
    }
    signs.extend(signs_of_planted(context).await);
    let around = signs_of_surroundings(context).await;
    let around_unseen = around.is_none();
    signs.extend(around.unwrap_or_default());
    for (key, sighting) in [("store", &store), ("disk", &disk)] {
        if let Sighting::Failing(detail) = sighting {
            signs.push(sign(key, Severity::Critical, detail.clone(), Links::default()));
        }
    }
    if let Sighting::Failing(detail) = &stall {
        signs.push(sign("sustained_backlog_stall", Severity::Warning, detail.clone(), Links::default()));
    }
    let seen: Vec<String> = signs.iter().map(|sign| sign.key.clone()).collect();
    let unseen: Vec<&str> = [("store", &store), ("disk", &disk), ("sustained_backlog_stall", &stall)]
        .into_iter()
        .filter(|(_, sighting)| matches!(sighting, Sighting::Unseen(_)))
        .map(|(key, _)| key)
        .collect();
    let over: Over = Box::new(move |key: &str| {
        let is_unseen = unseen.contains(&key) || around_unseen && key.starts_with(doctor::KEYS);
        let is_over = !seen.iter().any(|seen| seen == key) && !is_unseen;
        is_over.then(|| "it is not so any more".to_owned())
    });
    let sightings = vec![
        (Criterion::Jobs, of_jobs(&jobs)),
        (Criterion::SustainedBacklogStall, stall),
        (Criterion::Lanes, of_lanes(&lanes)),
        (Criterion::Store, store),
        (Criterion::Runtime, of_runtime(context, &down)),
        (Criterion::Disk, disk),
    ];
    Gathered { sightings, signs, over, queue }
}

fn sign(key: &str, severity: Severity, title: String, links: Links) -> Sign {
    Sign { key: key.to_owned(), severity, title, state: IncidentState::Open, links }
}

/// Whether a critical incident is open.
#[must_use]
pub fn of_incidents(incidents: &Incidents) -> (Criterion, Sighting) {
    let blocking: Vec<&str> =
        incidents.open().filter(|incident| incident.blocks()).map(|incident| incident.title.as_str()).collect();
    let sighting = if blocking.is_empty() {
        Sighting::Well(format!("{} open, none critical", incidents.open().count()))
    } else {
        Sighting::Failing(blocking.join("; "))
    };
    (Criterion::Incidents, sighting)
}

fn of_jobs(jobs: &[JobView]) -> Sighting {
    let trouble = |job: &JobView| {
        let name = job.record.job.as_str();
        match &job.running {
            Some(RunLockView { hung: true, elapsed_ms, .. }) => Some(format!("{name} hangs, for {elapsed_ms} ms")),
            Some(RunLockView { over_budget: true, elapsed_ms, budget_ms, .. }) => {
                Some(format!("{name} has run for {elapsed_ms} ms of {budget_ms}"))
            }
            _ if job.record.failures_in_a_row >= FAILURES_MAX => {
                Some(format!("{name} failed {} times in a row: {}", job.record.failures_in_a_row, job.record.detail))
            }
            _ => None,
        }
    };
    let trouble: Vec<String> = jobs.iter().filter_map(trouble).collect();
    if trouble.is_empty() {
        Sighting::Well(format!("{} jobs", jobs.len()))
    } else {
        Sighting::Failing(trouble.join("; "))
    }
}

fn sign_of_job(job: &JobView) -> Option<Sign> {
    let name = job.record.job.as_str();
    let hangs = job.running.as_ref().is_some_and(|running| running.hung);
    let failures = job.record.failures_in_a_row;
    let title = if hangs {
        format!("job {name} hangs and cannot be ended")
    } else if job.record.result == Some(JobResult::Hung) && failures > 0 {
        format!("job {name} was ended: {}", job.record.detail)
    } else if failures >= FAILURES_MAX {
        format!("job {name} fails: {}", job.record.detail)
    } else {
        return None;
    };
    let links = Links { job: Some(name.to_owned()), ..Links::default() };
    Some(sign(&format!("job:{name}"), Severity::Warning, title, links))
}

fn of_lanes(lanes: &[LaneState]) -> Sighting {
    let paused = |lane: &LaneState| match &lane.gate {
        Gate::Paused(pause) if pause.by == PausedBy::Breaker => Some(format!("{}: {}", lane.lane, pause.reason)),
        _ => None,
    };
    let paused: Vec<String> = lanes.iter().filter_map(paused).collect();
    if paused.is_empty() {
        Sighting::Well(format!("{} lanes, none paused itself", lanes.len()))
    } else {
        Sighting::Failing(paused.join("; "))
    }
}

/// A lane that paused itself is an incident until it is open again; what mends it is linked.
fn sign_of_lane(context: &Context, lane: &LaneState, now: &Moment) -> Option<Sign> {
    let key = format!("lane:{}", lane.lane);
    let (state, title) = match &lane.gate {
        Gate::Paused(pause) if pause.by == PausedBy::Breaker => {
            (IncidentState::Open, format!("lane {} paused itself: {}", lane.lane, pause.reason))
        }
        // Only what was an incident recovers; a lane a person paused never was one.
        Gate::Probing { .. } if context.readiness.incidents().iter().any(|incident| incident.key == key) => {
            (IncidentState::Recovering, format!("lane {} opens again", lane.lane))
        }
        _ => return None,
    };
    let remediation = context.board.remediation_of(&lane.lane);
    let worked_on = remediation.as_ref().is_some_and(|todo| context.board.of(todo).live(now.awake).is_some());
    let state = if state == IncidentState::Open && worked_on { IncidentState::Remediating } else { state };
    let links = Links { lane: Some(lane.lane.clone()), remediation, ..Links::default() };
    Some(Sign { key, severity: Severity::Warning, title, state, links })
}

/// What was planted in a repository since the daemon first looked at it; until it is gone.
async fn signs_of_planted(context: &Arc<Context>) -> Vec<Sign> {
    let shared = context.clone();
    let looked = tokio::task::spawn_blocking(move || {
        shared.repos.values().for_each(|entry| entry.repo.look_for_planted());
    });
    if let Err(error) = looked.await {
        tracing::warn!(%error, "a look for what is planted failed");
    }
    let sign_of = |entry: &crate::actors::context::RepoEntry| {
        let (name, (_, new)) = (entry.repo.name(), entry.repo.planted());
        let title = format!("planted in repository {name}, and not followed: {}", new.join(", "));
        (!new.is_empty()).then(|| sign(&format!("planted:{name}"), Severity::Warning, title, Links::default()))
    };
    context.repos.values().filter_map(sign_of).collect()
}

/// What `slugline doctor` would say of where the daemon works; `None` when it could not be found out.
async fn signs_of_surroundings(context: &Arc<Context>) -> Option<Vec<Sign>> {
    let shared = context.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let settings = &shared.settings;
        doctor::signs(&surroundings::look(&Wanted {
            data_dir: &settings.data_dir,
            worktrees_dir: &settings.worktrees_dir,
            config_dir: None,
            repositories: shared.repos.values().map(|entry| entry.repo.registered.path.as_path()).collect(),
            connections_max: settings.health.connections_max,
        }))
    });
    looked.await.inspect_err(|error| tracing::warn!(%error, "a look at where the daemon works failed")).ok()
}

async fn of_store(context: &Context) -> Sighting {
    let store = match context.ledger.store() {
        Ok(store) => store,
        Err(problem) => return Sighting::Failing(problem.detail),
    };
    if let Some(error) = context.ledger.last_error() {
        // The last write failed: only one that is written says that it is over.
        let at = context.clock.now();
        let record = JobRecord { started_at: Some(at), ..JobRecord::new(JobName::Readiness) };
        let probe = vec![Write::JobEnded { record, told: false, at }];
        return match tokio::time::timeout(STORE_LIMIT, context.ledger.commit(probe)).await {
            Ok(Ok(())) => Sighting::Well("it takes writes again".to_owned()),
            _ => Sighting::Failing(format!("the ledger takes no writes: {error}")),
        };
    }
    match tokio::time::timeout(STORE_LIMIT, store.last_seq()).await {
        Ok(Ok(seq)) => Sighting::Well(format!("{seq} entries")),
        Ok(Err(error)) => Sighting::Failing(format!("the ledger cannot be read: {error}")),
        Err(_) => Sighting::Failing(format!("the ledger did not answer within {} s", STORE_LIMIT.as_secs())),
    }
}

fn of_runtime(context: &Context, down: &[(String, crate::actors::supervision::ChildStatus)]) -> Sighting {
    if context.pulse.is_hanging() {
        return Sighting::Failing("the runtime does not turn".to_owned());
    }
    let gone: Vec<String> = down
        .iter()
        .map(|(name, status)| format!("{} {name} is {}", status.kind.as_str(), status.state.replace('_', " ")))
        .collect();
    if !gone.is_empty() {
        return Sighting::Failing(gone.join("; "));
    }
    let lag = context.pulse.lag_view();
    let threshold = context.settings.watchdog.threshold_ms;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand milliseconds")]
    if lag.p99 > threshold as f64 && lag.samples >= LAGS_MIN {
        return Sighting::Failing(format!("timers are {:.0} ms late (p99 of the last minute)", lag.p99));
    }
    Sighting::Well(format!("timers are {:.1} ms late at most (p99 of the last minute)", lag.p99))
}

async fn of_disk(context: &Context) -> Sighting {
    let (data, worktrees) = (context.settings.data_dir.clone(), context.settings.worktrees_dir.clone());
    let least = context.settings.health.disk_free_min_bytes;
    let looked = tokio::task::spawn_blocking(move || {
        let mut lowest: Option<(u64, String)> = None;
        for (file, name) in [(StoreFile::Db, "ledger.db"), (StoreFile::Wal, "ledger.db-wal")] {
            metric::file_has(file, std::fs::metadata(data.join(name)).map_or(0, |meta| meta.len()));
        }
        for (dir, shown) in [(data, Dir::Data), (worktrees, Dir::Worktrees)] {
            let (free, size) = room(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
            metric::disk_has(shown, free, size);
            if lowest.as_ref().is_none_or(|(bytes, _)| free < *bytes) {
                lowest = Some((free, dir.display().to_string()));
            }
        }
        Ok::<_, String>(lowest.unwrap_or_default())
    });
    match looked.await {
        Ok(Ok((free, dir))) if free < least => {
            Sighting::Failing(format!("{} MB are free at {dir}, less than {}", free / MB, least.div_ceil(MB)))
        }
        Ok(Ok((free, dir))) => Sighting::Well(format!("{} MB are free at {dir}", free / MB)),
        Ok(Err(error)) => Sighting::Unseen(error),
        Err(error) => Sighting::Unseen(error.to_string()),
    }
}

/// What could be claimed now, and since when. Goes through the todos aside, and not at every evaluation.
async fn of_queue(context: &Arc<Context>, waits: &mut Waits, now: &Moment) -> Queue {
    let rested = waits.looked_at.is_none_or(|at| now.awake.since_ms(at) >= QUEUE_EVERY_MS);
    let version = context.board.version();
    if waits.granted.is_none_or(|(seen, _)| seen != version) {
        waits.granted = Some((version, now.awake));
    }
    if rested {
        waits.looked_at = Some(now.awake);
        let (shared, at) = (context.clone(), *now);
        let (found, stages) = tokio::task::spawn_blocking(move || go_through(&shared, &at)).await.unwrap_or_default();
        waits.stages = stages;
        waits.lanes.clear();
        let before = std::mem::take(&mut waits.since);
        for (todo, lane) in found {
            let since = before.get(&todo).copied().unwrap_or(now.awake);
            waits.since.insert(todo, since);
            let (count, oldest) = waits.lanes.entry(lane).or_insert((0, since));
            *count += 1;
            *oldest = since.min(*oldest);
        }
    }
    let oldest = waits.since.values().min().map(|since| now.awake.since_ms(*since));
    let view = QueueView { ready: waits.since.len(), oldest_ready_ms: oldest };
    Queue { view, lanes: waits.lanes.clone(), stages: waits.stages }
}

/// Every todo that could be given to somebody, with the lane it is for, and how many there are of each stage. Only
/// repositories whose base was read: nobody has asked for the others.
fn go_through(context: &Context, now: &Moment) -> (Vec<(TodoKey, Option<Lane>)>, [usize; Stage::ALL.len()]) {
    let (mut found, mut stages) = (Vec::new(), [0; Stage::ALL.len()]);
    for (name, entry) in &context.repos {
        let Some(base) = entry.repo.base_if_read() else { continue };
        let catalog = context.board.catalog(name, &base.catalog);
        let state = context.board.in_repo(name);
        catalog.iter().for_each(|todo| stages[state(&todo.slug).stage as usize] += 1);
        found.extend(
            next::claimable(&catalog, &state, now)
                .into_iter()
                .map(|todo| (TodoKey { repo: name.clone(), slug: todo.slug.clone() }, todo.lane.clone())),
        );
    }
    (found, stages)
}

/// Todos wait, nothing moves, and it has been so for long.
fn of_stall(context: &Context, waits: &Waits, queue: &QueueView, now: &Moment) -> Sighting {
    let limit = context.settings.health.stall_ms;
    let quiet = waits.granted.map_or(0, |(_, at)| now.awake.since_ms(at));
    match queue.oldest_ready_ms {
        Some(oldest) if oldest >= limit && quiet >= limit => Sighting::Failing(format!(
            "{} todos wait, the oldest for {} s, and nothing has moved for {} s",
            queue.ready,
            oldest / 1_000,
            quiet / 1_000
        )),
        Some(oldest) => Sighting::Well(format!("{} todos wait, the oldest for {} s", queue.ready, oldest / 1_000)),
        None => Sighting::Well("no todo waits".to_owned()),
    }
}
