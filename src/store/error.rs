//! What can go wrong with the ledger.

use std::path::PathBuf;
use std::time::Instant;

use rusqlite::ErrorCode;

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
    #[error("the ledger is damaged: {0}; restore a backup or move the file away to start with an empty one")]
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
    /// Another daemon has it.
    #[error("ledger {path} is in use by another daemon; stop that one, or give this one another --data-dir", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
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
            Self::Corrupt(_) => StoreFault::Corrupt,
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

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(format!("a record cannot be read: {error}"))
    }
}
