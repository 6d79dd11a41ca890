//! The one thread that writes. It takes everything that waits, applies each batch in a savepoint of its own, commits
//! once and answers everybody: one sync to disk however many wait.

use std::fs::File;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use rusqlite::Connection;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::check;
use super::error::StoreError;
use super::mark::{Mark, Position};
use super::write::{self, Write};

/// Batches that may wait. At one commit per few milliseconds and hundreds of batches in each this is seconds of work;
/// whoever comes after that is told to come back.
const QUEUE_MAX: usize = 1_024;
/// Batches in one commit: enough to hide the sync, few enough that nobody waits long for the others' inserts.
const BATCHES_PER_COMMIT_MAX: usize = 256;

type Answer = oneshot::Sender<Result<u64, StoreError>>;

/// Batches that build on one another: once one of them was not written, none after it is. So somebody who decides
/// faster than the disk never has a decision on disk without those it rests on.
#[derive(Debug, Clone, Default)]
pub struct Chain(Arc<AtomicBool>);

impl Chain {
    /// Whether a batch of it was not written.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Nothing of it is written any more.
    pub fn tear(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What is on its way to the disk, and who waits for it.
struct Batch {
    writes: Vec<Write>,
    chain: Option<Chain>,
    answer: Answer,
}

enum Job {
    Batch(Batch),
    Close(oneshot::Sender<()>),
}

/// What the store has done and is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoreStats {
    /// How often a store was opened in this process before this one.
    pub opened_before: u64,
    /// Batches waiting now.
    pub waiting: usize,
    /// Batches answered with success.
    pub batches: u64,
    /// Commits made; fewer than batches when many waited at once.
    pub commits: u64,
    /// How long the last commit took, in milliseconds.
    pub last_commit_ms: f64,
    /// Size of the database file, in bytes.
    pub db_bytes: u64,
    /// Size of its write-ahead log, in bytes.
    pub wal_bytes: u64,
}

#[derive(Default)]
struct Counters {
    waiting: AtomicUsize,
    batches: AtomicU64,
    commits: AtomicU64,
    last_commit_us: AtomicU64,
}

/// The way to the writer's thread.
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    counters: Arc<Counters>,
}

impl Writer {
    /// Starts the thread; it owns the connection and keeps the ledger's lock as long as it lives.
    pub fn start(connection: Connection, mut mark: Mark, path: &Path, lock: File) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let counters = Arc::new(Counters::default());
        let theirs = counters.clone();
        std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || {
                let closing = write_all(connection, queue, &mut mark, &theirs);
                mark.close();
                // Whoever asked for the close may open the ledger again at once.
                drop(lock);
                if let Some(done) = closing {
                    let _ = done.send(());
                }
            })
            .map_err(|error| StoreError::Open {
                path: path.to_owned(),
                reason: format!("its thread cannot be started: {error}"),
            })?;
        Ok(Self { jobs, counters })
    }

    /// Queues a batch, in the order of the calls, and gives back what to wait for.
    pub fn enqueue(
        &self,
        writes: Vec<Write>,
        chain: Option<Chain>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let counters = self.counters.clone();
        counters.waiting.fetch_add(1, Ordering::Relaxed);
        let torn = chain.clone();
        let queued = self.jobs.try_send(Job::Batch(Batch { writes, chain, answer })).map_err(|error| {
            if let Some(chain) = torn {
                chain.tear();
            }
            match error {
                mpsc::error::TrySendError::Full(_) => StoreError::Busy,
                mpsc::error::TrySendError::Closed(_) => StoreError::Gone,
            }
        });
        async move {
            let result = match queued {
                Ok(()) => answered.await.unwrap_or(Err(StoreError::Gone)),
                Err(error) => Err(error),
            };
            counters.waiting.fetch_sub(1, Ordering::Relaxed);
            result
        }
    }

    /// Lets the thread finish what waits and end.
    pub async fn close(&self) {
        let (done, ended) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            let _ = ended.await;
        }
    }

    /// Whether the thread lives.
    pub fn is_alive(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// What was done so far; sizes are the caller's.
    pub fn stats(&self, opened_before: u64, db_bytes: u64, wal_bytes: u64) -> StoreStats {
        let counters = &self.counters;
        #[expect(clippy::cast_precision_loss, reason = "microseconds of one commit")]
        let last_commit_ms = counters.last_commit_us.load(Ordering::Relaxed) as f64 / 1_000.0;
        StoreStats {
            opened_before,
            waiting: counters.waiting.load(Ordering::Relaxed),
            batches: counters.batches.load(Ordering::Relaxed),
            commits: counters.commits.load(Ordering::Relaxed),
            last_commit_ms,
            db_bytes,
            wal_bytes,
        }
    }
}

/// The thread: until the queue is closed, a close is asked for, or something panics. Dropping the queue tells
/// everybody who waits that nobody will answer. Comes back with whom to tell of an orderly end.
fn write_all(
    connection: Connection,
    mut queue: mpsc::Receiver<Job>,
    mark: &mut Mark,
    counters: &Counters,
) -> Option<oneshot::Sender<()>> {
    let mut closing = None;
    while closing.is_none() {
        let Some(first) = queue.blocking_recv() else { break };
        let mut batches = Vec::new();
        take(first, &mut batches, &mut closing);
        while batches.len() < BATCHES_PER_COMMIT_MAX && closing.is_none() {
            let Ok(job) = queue.try_recv() else { break };
            take(job, &mut batches, &mut closing);
        }
        let begun = Instant::now();
        let committed = catch_unwind(AssertUnwindSafe(|| commit_all(&connection, batches, mark, counters)));
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.last_commit_us.store(took, Ordering::Relaxed);
        if committed.is_err() {
            tracing::error!("the ledger's writer thread panicked");
            return None;
        }
    }
    queue.close();
    // Readers may still hold the log open; what can be folded in now need not be replayed at the next start.
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::warn!(%error, "the write-ahead log could not be folded in; the next start does it");
    }
    drop(connection.close());
    closing
}

fn take(job: Job, batches: &mut Vec<Batch>, closing: &mut Option<oneshot::Sender<()>>) {
    match job {
        Job::Batch(batch) => batches.push(batch),
        Job::Close(done) => *closing = Some(done),
    }
}

fn commit_all(db: &Connection, batches: Vec<Batch>, mark: &mut Mark, counters: &Counters) {
    if batches.is_empty() {
        return;
    }
    match in_one_transaction(db, &batches) {
        Ok((results, end)) => {
            counters.commits.fetch_add(1, Ordering::Relaxed);
            mark.reached(end);
            for (batch, result) in batches.into_iter().zip(results) {
                counters.batches.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
                let _ = batch.answer.send(result.map(|()| end.seq));
            }
        }
        Err(error) => {
            if !db.is_autocommit() {
                let _ = db.execute_batch("ROLLBACK");
            }
            tracing::error!(%error, batches = batches.len(), "a commit failed; nothing of it was accepted");
            for batch in batches {
                if let Some(chain) = &batch.chain {
                    chain.tear();
                }
                let _ = batch.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Applies every batch, each on its own savepoint, and commits. A batch that fails is rolled back alone, with those of
/// its chain behind it; a disk that is full or fails ends the whole transaction, because nothing after it can be trusted
/// to be written.
fn in_one_transaction(
    db: &Connection,
    batches: &[Batch],
) -> Result<(Vec<Result<(), StoreError>>, Position), StoreError> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let before = check::last_seq(db)?;
    let mut results = Vec::with_capacity(batches.len());
    for batch in batches {
        if batch.chain.as_ref().is_some_and(Chain::is_broken) {
            results.push(Err(StoreError::Conflict("it rests on a write that failed".to_owned())));
            continue;
        }
        db.prepare_cached("SAVEPOINT batch")?.execute([])?;
        let applied = batch.writes.iter().try_for_each(|write| write::apply(db, write));
        match &applied {
            Ok(()) => {}
            Err(StoreError::Conflict(_)) => {
                if let Some(chain) = &batch.chain {
                    chain.tear();
                }
            }
            Err(error) => return Err(error.clone()),
        }
        if applied.is_err() {
            db.execute_batch("ROLLBACK TO batch")?;
        }
        db.prepare_cached("RELEASE batch")?.execute([])?;
        results.push(applied);
    }
    let end = check::end(db)?;
    // So that the end of the ledger tells of every commit.
    let is_quiet = end.seq == before && results.iter().any(Result::is_ok);
    if is_quiet {
        db.prepare_cached("UPDATE ledger SET quiet = quiet + 1")?.execute([])?;
    }
    db.execute_batch("COMMIT")?;
    Ok((results, Position { quiet: end.quiet + u64::from(is_quiet), ..end }))
}

/// One batch on a connection of the caller's, for tests that prepare the connection.
#[cfg(test)]
pub fn commit_one(db: &Connection, mark: &mut Mark, writes: Vec<Write>) -> Result<u64, StoreError> {
    let (answer, mut answered) = oneshot::channel();
    commit_all(db, vec![Batch { writes, chain: None, answer }], mark, &Counters::default());
    answered.try_recv().unwrap_or(Err(StoreError::Gone))
}
