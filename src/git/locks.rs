//! Lock files a git that died left behind. One is removed only when it is provably nobody's: older than a minute, and
//! either older than this boot or open in no process while no git works in that worktree. In doubt it stays, and the
//! error that names it goes to the caller.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Repository;
use crate::metrics::git::{self as metric, StaleLock};

/// git holds its locks for milliseconds, long rebases of an index for seconds. A minute is beyond both.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// Looks at the lock git complained about, if it is one of this repository's, and removes it when it is nobody's.
/// The caller holds the exclusion of the worktree at `cwd`.
pub(super) fn clear_stale(repo: &Repository, cwd: &Path, complaint: &str) {
    let Some(lock) = named_lock(complaint).filter(|lock| lock.starts_with(repo.common_dir())) else { return };
    if is_nobodys(&lock, cwd) {
        let removed = fs::remove_file(&lock);
        metric::stale_lock(if removed.is_ok() { StaleLock::Removed } else { StaleLock::Left });
        tracing::warn!(lock = %lock.display(), removed = removed.is_ok(), "a stale git lock that is nobody's");
    } else {
        metric::stale_lock(StaleLock::Left);
        tracing::info!(lock = %lock.display(), "a git lock is held or cannot be proven stale; it is left");
    }
}

/// git names the lock in quotes: `Unable to create '/…/index.lock': File exists.`
fn named_lock(complaint: &str) -> Option<PathBuf> {
    let (_, rest) = complaint.split_once("Unable to create '")?;
    let (path, _) = rest.split_once('\'')?;
    path.ends_with(".lock").then(|| PathBuf::from(path))
}

fn is_nobodys(lock: &Path, cwd: &Path) -> bool {
    let Ok(meta) = fs::symlink_metadata(lock) else { return false };
    let Ok(changed) = meta.modified() else { return false };
    let old = SystemTime::now().duration_since(changed).is_ok_and(|age| age > STALE_AFTER);
    if !old || !meta.is_file() {
        return false;
    }
    before_this_boot(changed) || nobody_holds(lock, cwd).unwrap_or(false)
}

/// Whether the file was last changed before the machine started: then no living process made it.
fn before_this_boot(changed: SystemTime) -> bool {
    let Ok(stat) = fs::read_to_string("/proc/stat") else { return false };
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    boot.is_some_and(|boot| changed < SystemTime::UNIX_EPOCH + Duration::from_secs(boot))
}

/// Whether no process has the lock open and no git works in the worktree. `None` when a process of any user could not
/// be looked into: then nothing is proven.
fn nobody_holds(lock: &Path, cwd: &Path) -> Option<bool> {
    let mut looked = false;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let dir = entry.path();
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let fds = match fs::read_dir(dir.join("fd")) {
            Ok(fds) => fds,
            // It ended while we looked.
            Err(_) if !dir.exists() => continue,
            Err(_) => return None,
        };
        looked = true;
        if fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == lock)) {
            return Some(false);
        }
        let is_git = fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.trim_end().starts_with("git"));
        if is_git && fs::read_link(dir.join("cwd")).is_ok_and(|at| at.starts_with(cwd)) {
            return Some(false);
        }
    }
    Some(looked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock_aged(dir: &Path, age: Duration) -> PathBuf {
        let lock = dir.join("index.lock");
        let file = fs::File::create(&lock).expect("creates");
        file.set_modified(SystemTime::now() - age).expect("sets the time");
        lock
    }

    #[test]
    fn only_an_old_lock_that_nobody_has_open_is_nobodys() {
        let dir = tempfile::tempdir().expect("temp dir");
        let young = lock_aged(dir.path(), Duration::from_secs(5));
        assert!(!is_nobodys(&young, dir.path()));
        let old = lock_aged(dir.path(), Duration::from_secs(300));
        let held = fs::File::open(&old).expect("opens");
        assert!(!is_nobodys(&old, dir.path()), "it is open here");
        drop(held);
        assert!(is_nobodys(&old, dir.path()));
    }

    #[test]
    fn only_a_lock_git_names_is_looked_at() {
        assert_eq!(
            named_lock("fatal: Unable to create '/r/.git/index.lock': File exists."),
            Some("/r/.git/index.lock".into())
        );
        assert_eq!(named_lock("error: could not lock config file .git/config"), None);
        assert_eq!(named_lock("Unable to create '/etc/passwd': File exists"), None);
    }
}
