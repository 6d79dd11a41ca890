//! What can go wrong with the ledger.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHORT_READ;

use super::backup;
use crate::metrics::store::{self as metric, StoreFault, StoreOp};

/// Why the ledger could not be opened, written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// As many batches wait as may.
    #[error("too many writes are waiting")]
    Busy,
    /// The disk, or the quota, is full.
    #[error("the disk is full; free space and it goes on by itself")]
    Full,
    /// The disk failed.
    #[error("input or output failed: {0}")]
    Io(String),
    /// The file is not what it was written as.
    #[error("the ledger is damaged: {0}; stop the daemon and ask `slugline check`")]
    Corrupt(String),
    /// The write goes against what is there already.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The writer's thread is gone.
    #[error("the ledger is not open")]
    Gone,
    /// The file cannot be opened.
    #[error("ledger {path} cannot be opened: {reason}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The file is not what a daemon could go on with, and will not be by itself.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// Another daemon has it.
    #[error("ledger {path} is in use by another daemon; stop that one, or give this one another --data-dir", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

/// A ledger that is refused until somebody does something about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ledger {path} {what}; {way_out}", path = path.display())]
pub struct Unusable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub way_out: String,
}

impl Unusable {
    /// A ledger that lost something.
    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> StoreError {
        Self { path: path.to_owned(), what: what.into(), way_out: Self::restore(path) }.into()
    }

    /// How a backup is put in the place of a ledger.
    pub(super) fn restore(path: &Path) -> String {
        let dir = backup::dir_of(path);
        let newest = backup::newest(&dir).or_else(|| backup::of_format_before(&dir));
        newest.map_or_else(
            || format!("no backup is in {}; `slugline restore --help` says what can be done", dir.display()),
            |backup| format!("put a backup in its place: slugline restore {}", backup.display()),
        )
    }

    /// What SQLite could not do with a file: because of what is in it, or because of the system around it.
    pub(super) fn or_closed(path: &Path, error: &rusqlite::Error) -> StoreError {
        use ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, OperationInterrupted,
            OutOfMemory, PermissionDenied, ReadOnly, SystemIoFailure,
        };
        // A file that ends in the middle of a page.
        let is_cut = error.sqlite_error().is_some_and(|code| code.extended_code == SQLITE_IOERR_SHORT_READ);
        match error.sqlite_error_code() {
            Some(
                CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | FileLockingProtocolFailed
                | OperationInterrupted
                | OutOfMemory
                | PermissionDenied
                | ReadOnly
                | SystemIoFailure,
            ) if !is_cut => StoreError::Open { path: path.to_owned(), reason: error.to_string() },
            _ => Self::damaged(path, format!("is damaged ({error})")),
        }
    }
}

/// Tells metrics how an operation of the ledger went.
pub fn observe<T>(op: StoreOp, begun: Instant, result: &Result<T, StoreError>) {
    metric::operation_finished(op, result.as_ref().err().map(StoreError::fault), begun.elapsed());
}

impl StoreError {
    /// The word metrics have for it.
    #[must_use]
    pub const fn fault(&self) -> StoreFault {
        match self {
            Self::Busy => StoreFault::Busy,
            Self::Full => StoreFault::Full,
            Self::Io(_) | Self::Open { .. } => StoreFault::Io,
            Self::Corrupt(_) | Self::Unusable(_) => StoreFault::Corrupt,
            Self::Conflict(_) => StoreFault::Conflict,
            Self::Gone | Self::InUse { .. } => StoreFault::Closed,
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            Some(ErrorCode::ConstraintViolation) => Self::Conflict(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(format!("a record cannot be read: {error}"))
    }
}
