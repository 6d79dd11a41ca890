//! Run-locks: one run of a job at a time, across restarts and daemons on one data directory.
//!
//! A run-lock is a file that is locked as long as the run lasts, and says whose it is. The system gives the lock back when
//! the last process that has it open is gone, so nobody waits for the dead; what the file says is for people, and for
//! whoever looks at it without trying the lock. A note counts until its owner is proven dead.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use crate::actors::exclusion::private_dir;
use crate::model::job::{Facts, JobName, LockNote, Owner};
use crate::process;

/// A note is a line; what is longer is none of ours.
const NOTE_BYTES_MAX: u64 = 4_096;

/// The lock of a run that is on. Free again when the last clone of the file is closed.
pub struct RunLock {
    /// The locked file; commands of the run inherit it.
    pub file: Arc<File>,
}

impl RunLock {
    /// Takes the lock, unless somebody has it. Blocks for as long as a small write takes.
    pub fn acquire(dir: &Path, note: &LockNote) -> io::Result<Option<Self>> {
        private_dir(dir)?;
        let mut file = open(&path(dir, note.job))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(serde_json::to_string(note)?.as_bytes())?;
        Ok(Some(Self { file: Arc::new(file) }))
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A command that was started with the lock keeps it, and the note.
        if Arc::strong_count(&self.file) == 1 {
            let _ = self.file.set_len(0);
        }
    }
}

fn path(dir: &Path, job: JobName) -> PathBuf {
    dir.join(format!("{}.lock", job.as_str()))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// Where run-locks are.
#[must_use]
pub fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("jobs")
}

/// This process.
#[must_use]
pub fn this_process() -> Owner {
    let pid = std::process::id();
    Owner { pid, start_time: process::start_time(pid).unwrap_or(0), boot_id: boot_id().unwrap_or_default() }
}

fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

fn facts(pid: u32) -> Facts {
    Facts { boot_id: boot_id(), start_time: process::start_time(pid) }
}

/// What stands in the run-locks, whoever wrote it, except of those proven dead. Reads and tries nothing. Blocks.
#[must_use]
pub fn notes(dir: &Path) -> Vec<LockNote> {
    let read = |job: JobName| note(&path(dir, job)).filter(|note| note.job == job);
    let alive = |note: &LockNote| !note.owner.is_proven_dead(&facts(note.owner.pid));
    JobName::ALL.into_iter().filter_map(read).filter(alive).collect()
}

fn note(path: &Path) -> Option<LockNote> {
    let mut text = String::new();
    File::open(path).ok()?.take(NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Takes away the notes of the dead, where nobody has the lock any more. Says whose they were. Blocks.
#[must_use]
pub fn clear_dead(dir: &Path) -> Vec<JobName> {
    let clear = |job: &JobName| {
        let path = path(dir, *job);
        let dead = note(&path).is_some_and(|note| note.owner.is_proven_dead(&facts(note.owner.pid)));
        let file = dead.then(|| open(&path).ok()).flatten();
        file.is_some_and(|file| {
            flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && file.set_len(0).is_ok()
        })
    };
    JobName::ALL.into_iter().filter(clear).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    fn fetch(owner: Owner) -> LockNote {
        LockNote { job: JobName::Fetch, owner, started_at: Timestamp::from_ms(1), budget_ms: 10 }
    }

    #[test]
    fn a_run_lock_is_had_by_one_and_says_whose_it_is() {
        let dir = tempfile::tempdir().expect("temp dir");
        let lock = RunLock::acquire(dir.path(), &fetch(this_process())).expect("works").expect("free");
        assert!(RunLock::acquire(dir.path(), &fetch(this_process())).expect("works").is_none());
        assert_eq!(notes(dir.path()), [fetch(this_process())]);
        assert_eq!(clear_dead(dir.path()), []);
        drop(lock);
        assert_eq!(notes(dir.path()), []);
        assert!(RunLock::acquire(dir.path(), &fetch(this_process())).expect("works").is_some());
    }

    #[test]
    fn a_note_of_the_dead_is_not_shown_and_is_cleared_and_one_of_the_living_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let other_life = Owner { start_time: this_process().start_time + 1, ..this_process() };
        let write = |note: &LockNote| {
            std::fs::write(path(dir.path(), JobName::Fetch), serde_json::to_string(note).expect("writes"))
                .expect("writes");
        };
        write(&fetch(other_life));
        assert_eq!(notes(dir.path()), []);
        assert_eq!(clear_dead(dir.path()), [JobName::Fetch]);
        write(&fetch(this_process()));
        assert_eq!((notes(dir.path()).len(), clear_dead(dir.path()).len()), (1, 0));
        std::fs::write(path(dir.path(), JobName::Fetch), "{\"job\":\"fe").expect("writes");
        assert_eq!((notes(dir.path()).len(), clear_dead(dir.path()).len()), (0, 0), "a torn note is nobody's");
    }
}
