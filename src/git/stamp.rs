//! What a stat says of one path. Any edit changes it once the file has settled, and git replaces its own files by
//! renaming new ones over them, so a stamp that is the same says that the content is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file changed this recently could change again without its stamp showing it: kernels keep file times in ticks of
/// up to 10 ms.
const SETTLE: Duration = Duration::from_millis(50);

/// The stamp of one path, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// Nothing is there.
    Absent,
    /// Something is there.
    There {
        /// Length in bytes; 0 for a directory, whose own length says nothing.
        len: u64,
        /// When its content last changed, in seconds and nanoseconds.
        mtime: (i64, i64),
        /// When anything about it last changed.
        ctime: (i64, i64),
        /// Which file it is.
        ino: u64,
        /// What it is, and who may use it.
        mode: u32,
    },
}

impl Stamp {
    /// The stamp of a path now.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match fs::symlink_metadata(path) {
            Ok(meta) => Self::There {
                len: if meta.is_dir() { 0 } else { meta.len() },
                mtime: (meta.mtime(), meta.mtime_nsec()),
                ctime: (meta.ctime(), meta.ctime_nsec()),
                ino: meta.ino(),
                mode: meta.mode(),
            },
            Err(_) => Self::Absent,
        }
    }

    /// Whether a later change would show in the stamp, seen from `now`.
    #[must_use]
    pub fn settled(&self, now: SystemTime) -> bool {
        let Self::There { ctime: (secs, nanos), .. } = *self else { return true };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::new(u64::try_from(secs).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        since > changed + SETTLE
    }
}

/// The stamps of everything an answer was read from: while they hold, so does the answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Witness {
    stamps: Vec<(PathBuf, Stamp)>,
}

impl Witness {
    /// Takes the stamps of these paths, before they are read.
    pub(super) fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            stamps: paths
                .into_iter()
                .map(|path| {
                    let stamp = Stamp::of(&path);
                    (path, stamp)
                })
                .collect(),
        }
    }

    /// The same with the stamps of these paths.
    pub(super) fn and(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.stamps.extend(Self::of(paths).stamps);
        self
    }

    /// Whether every stamp is old enough to go by.
    pub(super) fn settled(&self) -> bool {
        let now = SystemTime::now();
        self.stamps.iter().all(|(_, stamp)| stamp.settled(now))
    }

    /// Whether nothing has changed since, by stats alone.
    pub(super) fn holds(&self) -> bool {
        self.stamps.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}
