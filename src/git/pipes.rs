//! Pipes where files should be. The library and git open what they read without asking what it is, and who opens a pipe
//! that nobody writes to waits for ever. Files we open ourselves are asked first (`files`); what the two read beside them
//! cannot be: objects, ignore and attribute files in every directory.
//!
//! So every use of either is noted while it lasts. Of one that lasts long the places are looked through, and each pipe in a
//! file's place is opened for writing and closed at once: whoever waits at it goes on, having read nothing. Nobody is
//! held up longer than that, no thread and no handle is lost. The pipe is remembered by name while it is there, and kept
//! hold of while somebody could wait at it: one that was taken away meanwhile has no name to open it by.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::configuration::Settings;

/// Most uses of the library take milliseconds, those of git a second. A place is looked through after this, and again
/// each time it has taken twice as long.
const LIBRARY_SLOW: Duration = Duration::from_millis(500);
const GIT_SLOW: Duration = Duration::from_secs(3);
/// How often it is looked who takes long, and how many times in a row nobody may be there before that rests.
const BEAT: Duration = Duration::from_millis(200);
const IDLE_BEATS: u32 = 5;
/// Names looked at in one place, and pipes that are kept hold of: each is an open file.
const NAMES_MAX: usize = 500_000;
const PIPES_MAX: usize = 64;
/// What git and the library read of a work tree, in whichever directory, besides the files that are tracked.
const READ_ANYWHERE: [&str; 3] = [".gitignore", ".gitattributes", ".gitmodules"];

static WATCH: Mutex<Watch> =
    Mutex::new(Watch { uses: BTreeMap::new(), last: 0, pipes: BTreeMap::new(), running: false, resting: false });
static WOKEN: Condvar = Condvar::new();

/// Who uses git or the library now, and the pipes somebody has waited at.
struct Watch {
    uses: BTreeMap<u64, Use>,
    last: u64,
    pipes: BTreeMap<PathBuf, Arc<Held>>,
    running: bool,
    resting: bool,
}

/// A pipe that is kept hold of without being opened, where the system can do that.
struct Held {
    path: PathBuf,
    file: Option<OwnedFd>,
}

#[derive(Clone)]
struct Use {
    since: Instant,
    /// When its places are looked through next.
    slow: Duration,
    common_dir: PathBuf,
    worktree: Option<PathBuf>,
}

/// One use of the library or of git, noted until it is dropped.
pub(super) struct Reading(u64);

impl Reading {
    /// The library reads there.
    pub(super) fn library(common_dir: &Path, worktree: Option<&Path>) -> Self {
        Self::begin(LIBRARY_SLOW, common_dir, worktree)
    }

    /// git reads there.
    pub(super) fn git(common_dir: &Path, worktree: Option<&Path>) -> Self {
        Self::begin(GIT_SLOW, common_dir, worktree)
    }

    fn begin(slow: Duration, common_dir: &Path, worktree: Option<&Path>) -> Self {
        let begun = Use {
            since: Instant::now(),
            slow,
            common_dir: common_dir.to_owned(),
            worktree: worktree.map(Path::to_owned),
        };
        let mut watch = watched();
        watch.last += 1;
        let number = watch.last;
        watch.uses.insert(number, begun);
        if !watch.running {
            watch.running = std::thread::Builder::new().name("pipes".to_owned()).spawn(keep_watch).is_ok();
        }
        if std::mem::take(&mut watch.resting) {
            WOKEN.notify_one();
        }
        Self(number)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        watched().uses.remove(&self.0);
    }
}

/// A pipe below a directory that somebody has waited at, if it is still there.
pub(super) fn known_below(dir: &Path) -> Option<PathBuf> {
    let watch = watched();
    let mut below = watch.pipes.keys().filter(|pipe| pipe.starts_with(dir));
    below.find(|pipe| is_pipe(pipe)).cloned()
}

fn watched() -> MutexGuard<'static, Watch> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks every beat who takes long, for as long as the process lives; rests while nobody is there.
fn keep_watch() {
    let (mut watch, mut idle) = (watched(), 0);
    loop {
        idle = if watch.uses.is_empty() { idle + 1 } else { 0 };
        watch.resting = idle > IDLE_BEATS;
        watch = if watch.resting {
            WOKEN.wait_while(watch, |watch| watch.resting).unwrap_or_else(PoisonError::into_inner)
        } else {
            WOKEN.wait_timeout(watch, BEAT).unwrap_or_else(PoisonError::into_inner).0
        };
        let known: Vec<Arc<Held>> = watch.pipes.values().cloned().collect();
        let mut slow = Vec::new();
        for waiting in watch.uses.values_mut().filter(|waiting| waiting.since.elapsed() >= waiting.slow) {
            waiting.slow *= 2;
            slow.push(waiting.clone());
        }
        if slow.is_empty() && (known.is_empty() || watch.uses.is_empty()) {
            continue;
        }
        drop(watch);
        for pipe in &known {
            pipe.let_go();
        }
        let found: Vec<Held> = slow.iter().flat_map(Use::pipes).collect();
        watch = watched();
        // At one that was taken away somebody may wait who came before.
        let used = !watch.uses.is_empty();
        watch.pipes.retain(|pipe, _| used || is_pipe(pipe));
        // Whoever is let go asks what is known, and has to wait for this lock until it is.
        for pipe in found.into_iter().filter(Held::let_go) {
            tracing::warn!(pipe = %pipe.path.display(), "a pipe stands where git reads a file; whoever waited at it goes on");
            watch.pipes.insert(pipe.path.clone(), Arc::new(pipe));
        }
        while watch.pipes.len() > PIPES_MAX {
            watch.pipes.pop_first();
        }
    }
}

impl Use {
    /// The pipes in its places.
    fn pipes(&self) -> Vec<Held> {
        let mut pipes = Vec::new();
        below(&self.common_dir, &mut |path, _| pipes.push(path));
        if let Some(worktree) = &self.worktree {
            below(worktree, &mut |path, name| {
                if READ_ANYWHERE.contains(&name) {
                    pipes.push(path);
                }
            });
        }
        pipes.extend(named_in(&self.common_dir.join("config")));
        pipes.into_iter().filter_map(Held::of).collect()
    }
}

/// Every pipe below a directory, with its name; links are followed to what they name and not below that.
fn below(dir: &Path, found: &mut dyn FnMut(PathBuf, &str)) {
    let (mut left, mut seen) = (vec![dir.to_owned()], 0);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            seen += 1;
            let (Ok(kind), name) = (entry.file_type(), entry.file_name()) else { continue };
            if kind.is_dir() && seen < NAMES_MAX {
                left.push(entry.path());
            } else if kind.is_fifo() || kind.is_symlink() && is_pipe(&entry.path()) {
                found(entry.path(), &name.to_string_lossy());
            }
        }
    }
}

/// Files of patterns and attributes that the configuration names.
fn named_in(config: &Path) -> Vec<PathBuf> {
    let Ok(found) = Settings::read([config.to_owned()]) else { return Vec::new() };
    let names = |key: &str| matches!(key, "core.excludesfile" | "core.attributesfile");
    let named = found.settings.into_iter().filter(|setting| names(&setting.key)).filter_map(|setting| setting.value);
    named.map(PathBuf::from).filter(|path| path.is_absolute() && is_pipe(path)).collect()
}

fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
}

impl Held {
    fn of(path: PathBuf) -> Option<Self> {
        #[cfg(target_os = "linux")]
        let file = Some(rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?);
        #[cfg(not(target_os = "linux"))]
        let file = None;
        Some(Self { path, file })
    }

    /// Opens it for writing and closes it: whether somebody waited there. Without anybody it is not opened.
    fn let_go(&self) -> bool {
        let held = |file: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let path = self.file.as_ref().map_or_else(|| self.path.clone(), held);
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        is_pipe(&path) && rustix::fs::open(&path, flags, Mode::empty()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_at_a_pipe_goes_on_and_the_pipe_is_known_until_it_is_gone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let common = dir.path().join("r/.git");
        let worktree = dir.path().join("w");
        for made in [common.join("objects/ab"), worktree.join("deep/down")] {
            fs::create_dir_all(made).expect("makes");
        }
        let pipe = |path: PathBuf| {
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).expect("makes a pipe");
            path
        };
        let somebodys = pipe(worktree.join("mine"));
        for pipe in [pipe(common.join("objects/ab/cdef")), pipe(worktree.join("deep/down/.gitignore"))] {
            let reading = Reading::library(&common, Some(&worktree));
            assert_eq!(fs::read(&pipe).expect("is let go"), b"", "{}", pipe.display());
            drop(reading);
            assert!(fs::metadata(&pipe).is_ok(), "it is taken away by nobody");
        }
        assert_eq!(known_below(&worktree), Some(worktree.join("deep/down/.gitignore")));
        assert_eq!(known_below(&dir.path().join("r/.git/objects")), Some(common.join("objects/ab/cdef")));
        let (known, reading) = (worktree.join("deep/down/.gitignore"), Reading::library(&common, Some(&worktree)));
        let waits = std::thread::spawn({
            let known = known.clone();
            move || fs::read(known)
        });
        fs::remove_file(&known).expect("removes");
        // It may have come too late to wait.
        let _ = waits.join().expect("is let go");
        drop(reading);
        assert_eq!(known_below(&worktree), None, "{}", somebodys.display());
    }
}
