//! Lock files a git that died left behind. One is removed only when it is provably nobody's: older than a minute, and
//! either older than this boot or open in no process while no git works where it could have been taken: git closes most
//! locks while it holds them. In doubt it stays, and the error that names it goes to the caller.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Repository;
use crate::metrics::git::{self as metric, StaleLock};

/// git holds its locks for milliseconds, long rebases of an index for seconds. A minute is beyond both.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// Looks at the locks git complained about, if they are this repository's, and removes those that are nobody's.
/// The caller holds the exclusion of the worktree at `cwd`.
pub(super) fn clear_stale(repo: &Repository, cwd: &Path, complaint: &str) {
    let named: BTreeSet<PathBuf> = named_locks(complaint).collect();
    for lock in named.into_iter().filter(|lock| lock.starts_with(repo.common_dir())) {
        clear_one(repo, cwd, &lock);
    }
}

fn clear_one(repo: &Repository, cwd: &Path, lock: &Path) {
    if places(repo, cwd, lock).is_some_and(|places| is_nobodys(lock, &places)) {
        let removed = fs::remove_file(lock);
        metric::stale_lock(if removed.is_ok() { StaleLock::Removed } else { StaleLock::Left });
        tracing::warn!(lock = %lock.display(), removed = removed.is_ok(), "a stale git lock that is nobody's");
    } else {
        metric::stale_lock(StaleLock::Left);
        tracing::info!(lock = %lock.display(), "a git lock is held or cannot be proven stale; it is left");
    }
}

/// git names the lock in quotes: `Unable to create '/…/index.lock': File exists.`
/// One that it only met on its way comes before the one that stopped it.
fn named_locks(complaint: &str) -> impl Iterator<Item = PathBuf> + '_ {
    let rests = complaint.split("Unable to create '").skip(1);
    rests.filter_map(|rest| Some(rest.split_once('\'')?.0)).filter(|path| path.ends_with(".lock")).map(PathBuf::from)
}

/// Where a git works that may hold this lock: one of the worktree's own belongs to who works in that worktree, one that
/// all worktrees share to anybody in the repository.
fn places(repo: &Repository, cwd: &Path, lock: &Path) -> Option<Vec<PathBuf>> {
    let own = repo.git_dir_of(cwd)?;
    if own != repo.common_dir() && lock.starts_with(&own) {
        return Some(vec![cwd.to_owned(), own]);
    }
    let mut places = vec![repo.common_dir().to_owned()];
    places.extend(repo.worktrees().ok()?.into_iter().map(|found| found.path));
    Some(places)
}

fn is_nobodys(lock: &Path, places: &[PathBuf]) -> bool {
    let Ok(meta) = fs::symlink_metadata(lock) else { return false };
    let Ok(changed) = meta.modified() else { return false };
    let old = SystemTime::now().duration_since(changed).is_ok_and(|age| age > STALE_AFTER);
    if !old || !meta.is_file() {
        return false;
    }
    before_this_boot(changed) || nobody_holds(lock, places).unwrap_or(false)
}

/// Whether the file was last changed before the machine started: then no living process made it.
fn before_this_boot(changed: SystemTime) -> bool {
    let Ok(stat) = fs::read_to_string("/proc/stat") else { return false };
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    boot.is_some_and(|boot| changed < SystemTime::UNIX_EPOCH + Duration::from_secs(boot))
}

/// Whether no process has the lock open and no git works in these places. `None` when a process of any user could not
/// be looked into: then nothing is proven.
fn nobody_holds(lock: &Path, places: &[PathBuf]) -> Option<bool> {
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
        if is_git && works_in(&dir, places) {
            return Some(false);
        }
    }
    Some(looked)
}

/// Whether a process is in one of the places, or was told of one in its arguments or what it has of git's variables.
fn works_in(process: &Path, places: &[PathBuf]) -> bool {
    let told = |file: &str| fs::read(process.join(file)).unwrap_or_default();
    let (arguments, variables) = (told("cmdline"), told("environ"));
    let words = || {
        let variables = variables.split(|byte| *byte == 0).filter(|word| word.starts_with(b"GIT_"));
        arguments.split(|byte| *byte == 0).chain(variables)
    };
    let at = fs::read_link(process.join("cwd")).unwrap_or_default();
    places.iter().any(|place| at.starts_with(place) || words().any(|word| names(word, place)))
}

/// Whether a word has the path of a place, or of something in it.
fn names(word: &[u8], place: &Path) -> bool {
    let place = place.as_os_str().as_bytes();
    let ends = |rest: &[u8]| matches!(rest.first(), None | Some(b'/'));
    word.windows(place.len().max(1)).enumerate().any(|(at, part)| part == place && ends(&word[at + place.len()..]))
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
        let places = [dir.path().to_owned()];
        assert!(!is_nobodys(&young, &places));
        let old = lock_aged(dir.path(), Duration::from_secs(300));
        let held = fs::File::open(&old).expect("opens");
        assert!(!is_nobodys(&old, &places), "it is open here");
        drop(held);
        assert!(is_nobodys(&old, &places));
    }

    #[test]
    fn a_place_is_named_by_its_path_or_one_inside_it() {
        let place = Path::new("/r/.git/worktrees/fix");
        for (word, named) in [
            ("/r/.git/worktrees/fix", true),
            ("--git-dir=/r/.git/worktrees/fix", true),
            ("GIT_DIR=/r/.git/worktrees/fix/x", true),
            ("/r/.git/worktrees/fix-2", false),
            ("/r/.git", false),
            ("", false),
        ] {
            assert_eq!(names(word.as_bytes(), place), named, "{word}");
        }
    }

    #[test]
    fn only_a_lock_git_names_is_looked_at() {
        let named = |complaint: &str| named_locks(complaint).collect::<Vec<_>>();
        assert_eq!(
            named("fatal: Unable to create '/r/.git/index.lock': File exists."),
            [Path::new("/r/.git/index.lock")]
        );
        let two = "error: Unable to create '/r/.git/packed-refs.lock': File exists.\n\nfatal: cannot lock ref 'HEAD': Unable to create '/r/.git/HEAD.lock': File exists.";
        assert_eq!(named(two), [Path::new("/r/.git/packed-refs.lock"), Path::new("/r/.git/HEAD.lock")]);
        assert!(named("error: could not lock config file .git/config").is_empty());
        assert!(named("Unable to create '/etc/passwd': File exists").is_empty());
    }
}
