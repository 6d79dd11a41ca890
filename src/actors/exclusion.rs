//! One run at a time in one worktree, across actors, daemons and crashes: an advisory lock on a file beside the
//! worktrees. The lock belongs to the open file, which every command of the run inherits through its supervisor
//! process: it is free only when the last process of the run is gone, whatever became of the daemon.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::inflight::{LockUse, Locks, On};
use super::repo::Repo;
use crate::metrics::git::{self as metric, LockKind};
use crate::model::ids::Slug;
use crate::model::problem::{Problem, ProblemCode};

/// How often a held lock is tried again. Waiting is rare (a daemon before us is still cleaning up), so a poll is
/// enough and a blocked thread is not needed.
const RETRY_EVERY: Duration = Duration::from_millis(25);

/// The exclusion of one worktree; free again when the last clone of the file is closed.
#[derive(Clone)]
pub struct Exclusion {
    /// The locked file; commands inherit it.
    pub file: Arc<File>,
    _held: Arc<On<LockUse>>,
}

/// Waits for the exclusion of a slug's worktree, at most `limit`; `who` wants it.
pub async fn acquire(
    repo: &Repo,
    slug: &Slug,
    limit: Duration,
    stop: &CancellationToken,
    locks: &Locks,
    who: &str,
) -> Result<Exclusion, Problem> {
    let begun = Instant::now();
    let name = format!("worktree {}/{slug}", repo.name());
    let waiting = locks.waiting(&name, who);
    let path = repo.locks.join(format!("{slug}.lock"));
    let held = loop {
        let attempt = path.clone();
        let tried = tokio::task::spawn_blocking(move || try_lock(&attempt)).await;
        match tried.map_err(io::Error::other).and_then(|tried| tried) {
            Ok(Some(file)) => break Ok(file),
            Ok(None) if begun.elapsed() >= limit => break Err(timed_out(&path, limit)),
            Ok(None) => {}
            Err(error) => {
                break Err(not_kept("lock", &path, &error));
            }
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(RETRY_EVERY) => {}
            () = stop.cancelled() => break Err(Problem::new(ProblemCode::Cancelled, "ended while it waited for its worktree")),
        }
    };
    metric::lock_waited(LockKind::Worktree, begun.elapsed());
    drop(waiting);
    held.map(|file| Exclusion { file: Arc::new(file), _held: Arc::new(locks.holding(&name, who)) })
}

fn timed_out(path: &Path, limit: Duration) -> Problem {
    let detail = format!(
        "another process has held {} for {} s; `fuser` names it, it ends with the run it belongs to",
        path.display(),
        limit.as_secs()
    );
    Problem::new(ProblemCode::LockTimeout, detail).retry_after(1_000)
}

/// One attempt. The file is never removed, and an attempt counts only if the path still leads to what was locked.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let (ours, there) = (file.metadata()?, fs::metadata(path)?);
    Ok((ours.ino() == there.ino() && ours.dev() == there.dev()).then_some(file))
}

/// Writes a file whole or not at all, for this user alone: what was there before stays until all of it is on disk.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// The same, also of its name: what is given out has to be there after a loss of power.
pub fn write_to_stay(path: &Path, content: &[u8]) -> io::Result<()> {
    write_whole(path, content)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// The problem of something of the daemon's own that its disk does not take: what asked for it can be asked for again when
/// it does.
pub fn not_kept(what: &str, path: &Path, error: &io::Error) -> Problem {
    let detail = format!(
        "{what} {} cannot be written ({error}); make room there, or make it writable, and ask again",
        path.display()
    );
    Problem::new(ProblemCode::StoreUnavailable, detail).retry_after(1_000)
}

/// Makes a directory and its parents for this user alone.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// A path made for this user alone, as the caller wants it next.
pub fn private_parent(path: PathBuf) -> io::Result<PathBuf> {
    if let Some(dir) = path.parent() {
        private_dir(dir)?;
    }
    Ok(path)
}
