//! What each job does. A duty either asks the actor it belongs to and waits for its answer, or does its work on a thread
//! that may block; such work keeps the run-lock until it is over, whatever becomes of the run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::hangs;
use super::readiness::ReadinessMsg;
use super::run_lock::{self, RunLock};
use crate::actors::context::{Context, RepoEntry};
use crate::actors::dispatcher::DispatcherMsg;
use crate::actors::exec::RunExec;
use crate::actors::inventory::InventoryMsg;
use crate::actors::mailbox::{Address, AskError, Reply};
use crate::actors::removal;
use crate::actors::sessions::SessionsMsg;
use crate::model::job::JobName;

/// Remotes that are fetched from at once; most of a fetch is waiting for the other side.
const FETCHES_AT_ONCE: usize = 16;

/// What a run did, in words.
pub struct Done {
    /// In words.
    pub detail: String,
}

impl From<String> for Done {
    fn from(detail: String) -> Self {
        Self { detail }
    }
}

/// Does a job's duty. The error says in words why it could not.
pub async fn run(
    context: &Arc<Context>,
    job: JobName,
    lock: &Arc<RunLock>,
    stop: &CancellationToken,
) -> Result<Done, String> {
    let budget = Duration::from_millis(context.settings.jobs.get(&job).map_or(0, |terms| terms.budget_ms));
    match job {
        JobName::Fetch => fetch(context, lock, stop).await,
        JobName::LeaseSweep => {
            let ended = asked(&context.dispatcher, budget, |reply| DispatcherMsg::Sweep { reply }).await?;
            Ok(format!("{ended} leases had run out").into())
        }
        JobName::WorktreePrune => {
            let keep = context.settings.trash_keep;
            let trashes: Vec<PathBuf> = context.repos.values().map(|entry| entry.repo.trash.clone()).collect();
            let purged = aside(context, lock, move || {
                Ok(trashes.iter().map(|trash| removal::purge(trash, keep)).sum::<usize>())
            });
            Ok(format!("{} removed worktrees were deleted", purged.await?).into())
        }
        JobName::RootEviction => evict(context, budget).await,
        JobName::LogRetention => {
            let (dir, settings) =
                (context.settings.data_dir.join("logs").join("operations"), context.settings.retention);
            let busy: Vec<String> = context.runs.all().iter().map(|run| run.id.to_string()).collect();
            let (count, bytes) = aside(context, lock, move || let_logs_go(&dir, settings, &busy)).await?;
            Ok(format!("{count} logs with {bytes} bytes were let go").into())
        }
        JobName::DumpRetention => {
            let (dir, max) = (hangs::dir(&context.settings.data_dir), context.settings.watchdog.dumps_max);
            let count = aside(context, lock, move || hangs::keep(&dir, max).map_err(|error| error.to_string())).await?;
            Ok(format!("{count} dumps were let go").into())
        }
        JobName::LedgerUpkeep => {
            let store = context.ledger.store().map_err(|problem| problem.detail)?;
            store.tidy().await.map_err(|error| error.to_string())?;
            let stats = store.stats();
            Ok(format!("{} bytes, {} of them in the write-ahead log", stats.db_bytes, stats.wal_bytes).into())
        }
        JobName::Backup => {
            let store = context.ledger.store().map_err(|problem| problem.detail)?;
            let (at, keep) = (context.clock.now(), context.settings.retention.backups_keep);
            let made = aside(context, lock, move || store.back_up(at, keep).map_err(|error| error.to_string())).await?;
            let (path, seq, bytes) = (made.path.display(), made.last_seq, made.bytes);
            Ok(format!("{path} goes to entry {seq}, {bytes} bytes").into())
        }
        JobName::SessionLiveness => {
            let told = asked(&context.sessions_address, budget, |reply| SessionsMsg::Tick { reply }).await?;
            Ok(format!("{told} sessions are called otherwise").into())
        }
        JobName::Readiness => {
            let verdict = asked(&context.readiness_address, budget, |reply| ReadinessMsg::Evaluate { reply }).await?;
            Ok(verdict.as_str().to_owned().into())
        }
        JobName::SelfHeal => heal(context, lock).await,
    }
}

/// Asks an actor; the error says in words that it did not answer.
async fn asked<M: Send + 'static, R>(
    address: &Address<M>,
    limit: Duration,
    question: impl FnOnce(Reply<R>) -> M,
) -> Result<R, String> {
    address.ask(limit, question).await.map_err(|error| {
        let actor = address.vitals().kind.as_str();
        match error {
            AskError::Full => format!("the {actor} actor has too many messages waiting"),
            AskError::Down | AskError::Died => format!("the {actor} actor is down"),
            AskError::TimedOut => format!("the {actor} actor did not answer within {} ms", limit.as_millis()),
        }
    })
}

/// Works on a thread that may block, with the run-lock for as long as that takes.
async fn aside<T: Send + 'static>(
    context: &Arc<Context>,
    lock: &Arc<RunLock>,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (lock, faults) = (lock.clone(), context.faults.clone());
    let worked = tokio::task::spawn_blocking(move || {
        let _lock = lock;
        faults.hit("job.aside");
        work()
    });
    worked.await.map_err(|error| error.to_string())?
}

/// The base branch of every repository that has a remote. Several at once: one whose remote hangs takes its whole time, and
/// the others are not to wait for it.
async fn fetch(context: &Arc<Context>, lock: &Arc<RunLock>, stop: &CancellationToken) -> Result<Done, String> {
    let mut fetches = Vec::new();
    for entry in context.repos.values() {
        if let Some(remote) = entry.repo.registered.remote.clone() {
            fetches.push(fetch_one(context, entry, remote, lock, stop));
        }
    }
    let ended: Vec<Result<(), String>> = futures_util::stream::iter(fetches).buffered(FETCHES_AT_ONCE).collect().await;
    let fetched = ended.iter().filter(|fetched| fetched.is_ok()).count();
    let faults: Vec<String> = ended.into_iter().filter_map(Result::err).collect();
    if faults.is_empty() { Ok(format!("{fetched} repositories").into()) } else { Err(faults.join("; ")) }
}

/// One of them, unless the daemon stops by then. The error names the repository.
async fn fetch_one(
    context: &Arc<Context>,
    entry: &RepoEntry,
    remote: String,
    lock: &Arc<RunLock>,
    stop: &CancellationToken,
) -> Result<(), String> {
    let (repo, name) = (entry.repo.clone(), entry.repo.name());
    if stop.is_cancelled() {
        return Err(format!("{name}: the daemon stops"));
    }
    let log = context.settings.data_dir.join("logs").join("jobs").join(format!("fetch-{name}.log"));
    let named = |fault: String| format!("{name}: {fault}");
    let git = aside(context, lock, move || repo.git().map_err(|problem| problem.detail)).await.map_err(named)?;
    let exec = RunExec::job(context.clone(), lock.file.clone(), log, stop.clone());
    git.fetch(&exec, &remote).await.map_err(|error| named(error.to_string()))
}

/// Repositories nobody has used for long leave the memory.
async fn evict(context: &Arc<Context>, limit: Duration) -> Result<Done, String> {
    let mut forgotten = 0;
    for entry in context.repos.values() {
        forgotten += usize::from(asked(&entry.inventory, limit, |reply| InventoryMsg::ForgetIfUnused { reply }).await?);
    }
    Ok(format!("{forgotten} repositories left the memory").into())
}

/// What logs of operations and backups are kept by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// For so long.
    pub keep: Duration,
    /// Up to so many bytes in all.
    pub bytes_max: u64,
    /// So many backups.
    pub backups_keep: usize,
}

/// Lets logs go that are too old, then the oldest until the rest is small enough; never those of runs that are on. Says
/// how many went, and how many bytes.
fn let_logs_go(dir: &Path, terms: Retention, busy: &[String]) -> Result<(usize, u64), String> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(format!("{}: {error}", dir.display())),
    };
    let mut logs: Vec<(SystemTime, u64, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"))
        .filter(|entry| {
            !busy.iter().any(|id| entry.file_name().to_str().is_some_and(|name| name.starts_with(id.as_str())))
        })
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            Some((meta.modified().ok()?, meta.len(), entry.path()))
        })
        .collect();
    logs.sort();
    let (now, mut total) = (SystemTime::now(), logs.iter().map(|(_, bytes, _)| bytes).sum::<u64>());
    let (mut count, mut gone) = (0, 0);
    for (at, bytes, path) in logs {
        let old = now.duration_since(at).is_ok_and(|age| age > terms.keep);
        if !old && total <= terms.bytes_max {
            break;
        }
        std::fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        (count, gone, total) = (count + 1, gone + bytes, total - bytes);
    }
    Ok((count, gone))
}

/// Clears what the dead left, and says what runs.
async fn heal(context: &Arc<Context>, lock: &Arc<RunLock>) -> Result<Done, String> {
    let dir = run_lock::dir(&context.settings.data_dir);
    let cleared = aside(context, lock, move || Ok(run_lock::clear_dead(&dir))).await?;
    let (data_dir, shared, now) = (context.settings.data_dir.clone(), context.clone(), context.clock.now());
    let running = aside(context, lock, move || Ok(shared.jobs.run_locks(&data_dir, now))).await?;
    let summary = json!({ "running_locks": running, "cleared": cleared });
    tracing::debug!(%summary, "self-heal");
    Ok(summary.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_go_by_age_then_by_size_and_never_those_of_runs_that_are_on() {
        let dir = tempfile::tempdir().expect("temp dir");
        let log = |name: &str, bytes: usize, age: u64| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![b'x'; bytes]).expect("writes");
            let file = std::fs::File::options().write(true).open(&path).expect("opens");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("sets");
        };
        let left = || {
            let mut names: Vec<String> = std::fs::read_dir(dir.path())
                .expect("reads")
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        log("old.log", 10, 1_000);
        log("busy.log", 10, 2_000);
        log("a.log", 100, 30);
        log("b.log", 100, 20);
        log("c.log", 100, 10);
        log("other.txt", 10, 5_000);
        let terms = Retention { keep: Duration::from_secs(500), bytes_max: 250, backups_keep: 1 };
        assert_eq!(let_logs_go(dir.path(), terms, &["busy".to_owned()]), Ok((2, 110)));
        assert_eq!(left(), ["b.log", "busy.log", "c.log", "other.txt"]);
        assert_eq!(let_logs_go(dir.path(), terms, &["busy".to_owned()]), Ok((0, 0)));
        assert_eq!(let_logs_go(&dir.path().join("none"), terms, &[]), Ok((0, 0)));
    }
}
