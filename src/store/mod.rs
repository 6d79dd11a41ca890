//! The durable ledger: an append-only event log in SQLite and the views derived from it in the same transaction.
//!
//! May know `model` and `metrics`. SQL stops at this door. Reading order: `write` (what can be written), `writer` (the
//! one thread that writes, many waiting batches per commit), `read` (views), `schema` (tables and migrations), `sums` and
//! `check` (whether it is what was written), `mark` (how far it was acknowledged), `backup` and `restore`, `error`.
//!
//! Durability: WAL with `synchronous=FULL`; when a commit was answered, it is on disk.

mod backup;
mod check;
mod error;
mod mark;
mod read;
mod restore;
mod schema;
mod sums;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::Semaphore;

pub use backup::{Backup, back_up};
pub use check::{Whole, check};
pub use error::{StoreError, Unusable, observe};
pub use mark::Position;
pub use restore::{Restored, restore};
pub use write::{REPLAY_MAX, Write};
pub use writer::{Chain, StoreStats};

use crate::model::ids::OperationId;
use crate::model::time::Timestamp;
use mark::Mark;
use writer::Writer;

/// Reads that run at once; each holds a thread and a connection.
const READERS: usize = 2;
/// How long a close waits for what is still to be written.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// A process that is being started holds a copy of every open file for an instant, locks included; so a lock is tried
/// again for half a second before somebody else is said to hold it.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// The open ledger. One per data directory and machine, guarded by a lock the system releases on death.
pub struct Store {
    path: PathBuf,
    writer: Writer,
    readers: Arc<ReaderPool>,
    opened: u64,
}

/// Counts opened stores, to tell incarnations apart in statistics.
static OPENED: AtomicU64 = AtomicU64::new(0);

struct ReaderPool {
    path: PathBuf,
    idle: std::sync::Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Store {
    /// Opens the ledger at `path`, or makes it where there never was one. Refuses a second opener, a file that is not a
    /// ledger, a damaged one, one that lost what was acknowledged and one of a newer version; never makes a new ledger in
    /// the place of one it cannot read. Blocks.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = lock_for(path)?;
        let (connection, end) = schema::open(path)?;
        let writer = Writer::start(connection, Mark::of(path, end), path, lock)?;
        let readers =
            ReaderPool { path: path.to_owned(), idle: std::sync::Mutex::default(), permits: Semaphore::new(READERS) };
        let opened = OPENED.fetch_add(1, Ordering::Relaxed);
        Ok(Self { path: path.to_owned(), writer, readers: Arc::new(readers), opened })
    }

    /// Commits a batch: all of it or nothing. When this returns, it is on disk. Returns the last sequence number.
    pub async fn commit(&self, batch: Vec<Write>) -> Result<u64, StoreError> {
        self.writer.enqueue(batch, None).await
    }

    /// Queues a batch of a chain, in the order of the calls; what comes back is ready when it is on disk.
    pub fn enqueue(
        &self,
        batch: Vec<Write>,
        chain: &Chain,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send + use<> {
        self.writer.enqueue(batch, Some(chain.clone()))
    }

    /// Closes every operation an earlier daemon left open as interrupted, and says which.
    pub async fn interrupt_open_operations(&self, at: Timestamp) -> Result<Vec<OperationId>, StoreError> {
        let open = self.open_operations().await?;
        let ids = open.iter().map(|operation| operation.id.clone()).collect();
        let writes: Vec<Write> = open.into_iter().map(|operation| write::interrupted(operation, at)).collect();
        if !writes.is_empty() {
            self.commit(writes).await?;
        }
        Ok(ids)
    }

    /// Whether the writer's thread lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.writer.is_alive()
    }

    /// What the store is doing.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let bytes = |suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            std::fs::metadata(PathBuf::from(name)).map_or(0, |meta| meta.len())
        };
        self.writer.stats(self.opened, bytes(""), bytes("-wal"))
    }

    /// Writes what waits, folds the write-ahead log in and ends the writer's thread, within a bound.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.writer.close()).await;
    }
}

/// The lock that makes the opener the only one; the system gives it back when the process is gone.
fn lock_for(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(|source| StoreError::Open { path: name.clone(), reason: source.to_string() })?;
    for _ in 0..LOCK_TRIES {
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        std::thread::park_timeout(LOCK_PAUSE);
    }
    Err(StoreError::InUse { path: path.to_owned() })
}
