//! Being told what changes: one watcher for the whole daemon, of directories alone, each for an owner.
//!
//! git replaces its files by renaming new ones over them, so directories are watched and never files. Reading is not
//! asked to be told, so that our own looks never come back as changes. The number of directories is bounded, by the
//! setting and by what the system gives; whoever gets no watch is told so and looks by itself.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{CreateKind, EventKind, EventKindMask, ModifyKind, RemoveKind};
use notify::{Config, ErrorKind, PathOp, RecommendedWatcher, Watcher as _};

use crate::metrics::inventory as metric;
use crate::model::ids::RepoName;

/// What a watched directory is to its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Watched {
    /// Session logs.
    Logs,
    /// The git directory that a repository's worktrees share, which is also its main worktree's.
    Common(RepoName),
    /// The registry of a repository's worktrees.
    Registry(RepoName),
    /// The git directory of a linked worktree, by its name.
    Admin(RepoName, String),
    /// Directories of refs.
    Refs(RepoName),
    /// The files of a worktree, by its name.
    Tree(RepoName, String),
}

impl Watched {
    /// The repository, when it belongs to one.
    #[must_use]
    pub fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Logs => None,
            Self::Common(repo)
            | Self::Registry(repo)
            | Self::Admin(repo, _)
            | Self::Refs(repo)
            | Self::Tree(repo, _) => Some(repo),
        }
    }

    /// Whether a change of this name in such a directory can mean anything.
    fn minds(&self, name: &OsStr) -> bool {
        let bytes = name.as_encoded_bytes();
        match self {
            Self::Tree(..) | Self::Logs => true,
            // A lock comes and goes with every command of git's; what it guards is renamed over and told of then.
            _ if bytes.ends_with(b".lock") => false,
            Self::Registry(_) | Self::Refs(_) => true,
            Self::Common(_) | Self::Admin(..) => matches!(
                bytes,
                b"HEAD"
                    | b"index"
                    | b"config"
                    | b"config.worktree"
                    | b"packed-refs"
                    | b"worktrees"
                    | b"gitdir"
                    | b"locked"
                    | b"MERGE_HEAD"
                    | b"CHERRY_PICK_HEAD"
                    | b"REVERT_HEAD"
                    | b"BISECT_LOG"
                    | b"rebase-merge"
                    | b"rebase-apply"
            ),
        }
    }
}

/// A change, as its owner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noticed {
    /// Something of this owner, by the path that changed.
    One(Watched, PathBuf),
    /// The system lost count: anything may have changed.
    Everything,
}

/// Why directories are not watched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The bound is reached.
    #[error("no more than {0} directories are watched")]
    Full(usize),
    /// The system does not watch.
    #[error("the system does not watch: {0}")]
    System(String),
}

#[derive(Default)]
struct State {
    owners: HashMap<Watched, BTreeSet<PathBuf>>,
    dirs: HashMap<PathBuf, HashSet<Watched>>,
    /// Directories that were replaced: what is watched under their name is another one.
    replaced: HashSet<PathBuf>,
    /// What the system gives, once it has said no.
    given: Option<usize>,
}

type Tell = Arc<dyn Fn(Noticed) + Send + Sync>;

/// The watcher; started with the first directory.
pub struct Watcher {
    state: Arc<Mutex<State>>,
    system: Mutex<Option<RecommendedWatcher>>,
    tell: Tell,
    limit: usize,
}

impl Watcher {
    /// A watcher of at most so many directories; `tell` is called on its own thread and must not wait.
    #[must_use]
    pub fn new(limit: usize, tell: impl Fn(Noticed) + Send + Sync + 'static) -> Self {
        Self { state: Arc::default(), system: Mutex::default(), tell: Arc::new(tell), limit }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes these the directories of an owner, no others. Whether some were not watched before: then a change of them
    /// may have been missed. On an error the owner has none. Blocks.
    pub fn watch(&self, owner: &Watched, dirs: &[PathBuf]) -> Result<bool, WatchError> {
        let wanted: BTreeSet<PathBuf> = dirs.iter().cloned().collect();
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut ops, fresh) = {
            let mut state = self.state();
            let before = state.owners.get(owner).cloned().unwrap_or_default();
            let replaced: Vec<PathBuf> = wanted.iter().filter(|dir| state.replaced.contains(*dir)).cloned().collect();
            let mut ops: Vec<PathOp> = Vec::new();
            for dir in before.difference(&wanted) {
                ops.extend(state.release(owner, dir).then(|| PathOp::unwatch(dir)));
            }
            for dir in &replaced {
                state.replaced.remove(dir);
                if state.dirs.contains_key(dir) {
                    ops.push(PathOp::unwatch(dir));
                    ops.push(PathOp::watch_non_recursive(dir));
                }
            }
            let fresh: Vec<PathBuf> = wanted.difference(&before).cloned().collect();
            let limit = self.limit.min(state.given.unwrap_or(self.limit));
            let more = fresh.iter().filter(|dir| !state.dirs.contains_key(*dir)).count();
            if state.dirs.len() + more > limit {
                for dir in before.intersection(&wanted) {
                    ops.extend(state.release(owner, dir).then(|| PathOp::unwatch(dir)));
                }
                state.owners.remove(owner);
                drop(state);
                run(&mut system, ops);
                return Err(WatchError::Full(limit));
            }
            for dir in &fresh {
                let owners = state.dirs.entry(dir.clone()).or_default();
                if owners.is_empty() {
                    ops.push(PathOp::watch_non_recursive(dir));
                }
                owners.insert(owner.clone());
            }
            state.owners.insert(owner.clone(), wanted);
            metric::watches_are(state.dirs.len());
            (ops, !fresh.is_empty() || !replaced.is_empty())
        };
        if ops.is_empty() {
            return Ok(fresh);
        }
        if system.is_none() {
            *system = Some(self.start().map_err(|error| {
                self.state().forget(owner);
                WatchError::System(error.to_string())
            })?);
        }
        let refused = run(&mut system, std::mem::take(&mut ops));
        if refused {
            let mut state = self.state();
            state.forget(owner);
            state.given = Some(state.dirs.len());
            let given = state.dirs.len();
            drop(state);
            run(
                &mut system,
                dirs.iter().filter(|dir| !self.state().dirs.contains_key(*dir)).map(PathOp::unwatch).collect(),
            );
            tracing::warn!(
                given,
                "the system watches no more directories; what is beyond them is looked at again and again"
            );
            return Err(WatchError::Full(given));
        }
        Ok(fresh)
    }

    /// Lets go what an owner watches. Blocks.
    pub fn release(&self, owner: &Watched) {
        // Without directories nothing can be refused.
        let _ = self.watch(owner, &[]);
        self.state().owners.remove(owner);
    }

    /// Lets go everything of a repository. Blocks.
    pub fn release_repo(&self, repo: &RepoName) {
        let owners: Vec<Watched> =
            self.state().owners.keys().filter(|owner| owner.repo() == Some(repo)).cloned().collect();
        owners.iter().for_each(|owner| self.release(owner));
    }

    /// Directories watched now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().dirs.len()
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let kinds = EventKindMask::CREATE
            | EventKindMask::REMOVE
            | EventKindMask::MODIFY_DATA
            | EventKindMask::MODIFY_META
            | EventKindMask::MODIFY_NAME;
        let config = Config::default().with_event_kinds(kinds).with_follow_symlinks(false);
        let (state, tell) = (self.state.clone(), self.tell.clone());
        RecommendedWatcher::new(move |event| route(&state, &tell, event), config)
    }
}

/// Carries out what it can; whether the system refused a watch.
fn run(system: &mut Option<RecommendedWatcher>, mut ops: Vec<PathOp>) -> bool {
    let Some(system) = system else { return false };
    while !ops.is_empty() {
        match system.update_paths(std::mem::take(&mut ops)) {
            Ok(()) => {}
            Err(error) if matches!(error.source.kind, ErrorKind::MaxFilesWatch) => return true,
            // A directory that went meanwhile: whoever owns it is told by the one above it.
            Err(error) => ops = error.remaining,
        }
    }
    false
}

impl State {
    /// Takes a directory from an owner; whether nobody has it any more.
    fn release(&mut self, owner: &Watched, dir: &Path) -> bool {
        let Some(owners) = self.dirs.get_mut(dir) else { return false };
        owners.remove(owner);
        let last = owners.is_empty();
        if last {
            self.dirs.remove(dir);
            self.replaced.remove(dir);
        }
        last
    }

    fn forget(&mut self, owner: &Watched) {
        for dir in self.owners.remove(owner).unwrap_or_default() {
            self.release(owner, &dir);
        }
    }
}

/// Brings an event to the owners of its directory.
fn route(state: &Mutex<State>, tell: &Tell, event: notify::Result<notify::Event>) {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::debug!(%error, "the watcher reports an error");
            return;
        }
    };
    if event.need_rescan() {
        metric::overflowed();
        tell(Noticed::Everything);
        return;
    }
    let may_replace = match event.kind {
        EventKind::Create(kind) => kind != CreateKind::File,
        EventKind::Remove(kind) => kind != RemoveKind::File,
        EventKind::Modify(kind) => matches!(kind, ModifyKind::Name(_)),
        _ => false,
    };
    let mut owners = Vec::new();
    {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        for path in &event.paths {
            if may_replace && state.dirs.contains_key(path) {
                let below: Vec<PathBuf> = state.dirs.keys().filter(|dir| dir.starts_with(path)).cloned().collect();
                state.replaced.extend(below);
            }
            let parent = path.parent().and_then(|parent| state.dirs.get(parent));
            let minding =
                parent.into_iter().flatten().filter(|owner| path.file_name().is_some_and(|name| owner.minds(name)));
            owners.extend(minding.map(|owner| (owner.clone(), path.clone())));
            // The directory itself went, or its mode changed.
            owners.extend(state.dirs.get(path).into_iter().flatten().map(|owner| (owner.clone(), path.clone())));
        }
    }
    owners.into_iter().for_each(|(owner, path)| tell(Noticed::One(owner, path)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn repo() -> RepoName {
        RepoName::parse("app").expect("name")
    }

    fn watcher(limit: usize) -> (Watcher, mpsc::Receiver<Noticed>) {
        // A gauge that is used before there is a recorder counts for nobody in this process.
        crate::metrics::install();
        let (out, noticed) = mpsc::channel();
        let out = Mutex::new(out);
        let tell = move |noticed| drop(out.lock().expect("locks").send(noticed));
        (Watcher::new(limit, tell), noticed)
    }

    #[test]
    fn changes_come_to_the_owner_of_their_directory_and_reading_is_no_change() {
        let dir = tempfile::tempdir().expect("temp dir");
        let tree = Watched::Tree(repo(), "w".to_owned());
        let (watcher, noticed) = watcher(10);
        fs::write(dir.path().join("a"), "x").expect("writes");
        assert_eq!(watcher.watch(&tree, &[dir.path().to_owned()]), Ok(true));
        assert_eq!(watcher.watch(&tree, &[dir.path().to_owned()]), Ok(false));
        for _ in 0..100 {
            fs::read(dir.path().join("a")).expect("reads");
            assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        }
        fs::write(dir.path().join("b"), "x").expect("writes");
        let first = noticed.recv_timeout(PATIENCE).expect("is told");
        assert_eq!(first, Noticed::One(tree.clone(), dir.path().join("b")), "the hundred reads were told of");
        watcher.release(&tree);
        assert_eq!(watcher.count(), 0);
    }

    #[test]
    fn locks_of_git_are_not_told_and_what_they_guard_is() {
        let dir = tempfile::tempdir().expect("temp dir");
        let admin = Watched::Admin(repo(), "w".to_owned());
        let (watcher, noticed) = watcher(10);
        watcher.watch(&admin, &[dir.path().to_owned()]).expect("watches");
        for name in ["index.lock", "ORIG_HEAD", "gc.pid"] {
            fs::write(dir.path().join(name), "x").expect("writes");
        }
        fs::rename(dir.path().join("index.lock"), dir.path().join("index")).expect("renames");
        let first = noticed.recv_timeout(PATIENCE).expect("is told");
        assert_eq!(first, Noticed::One(admin, dir.path().join("index")));
    }

    #[test]
    fn beyond_the_bound_nothing_of_an_owner_is_watched_and_it_is_told_so() {
        let dir = tempfile::tempdir().expect("temp dir");
        let dirs: Vec<PathBuf> = (0..5).map(|number| dir.path().join(number.to_string())).collect();
        dirs.iter().for_each(|dir| fs::create_dir(dir).expect("makes"));
        let (watcher, _noticed) = watcher(3);
        let of = |name: &str| Watched::Tree(repo(), name.to_owned());
        assert_eq!(watcher.watch(&of("a"), &dirs[..2]), Ok(true));
        assert_eq!(watcher.watch(&of("b"), &dirs[2..]), Err(WatchError::Full(3)));
        assert_eq!(watcher.count(), 2);
        watcher.release(&of("a"));
        assert_eq!(watcher.watch(&of("b"), &dirs[2..]), Ok(true));
        watcher.release_repo(&repo());
        assert_eq!(watcher.count(), 0);
    }

    #[test]
    fn a_directory_that_is_replaced_is_watched_again_under_its_name() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (root, inner) = (dir.path().to_owned(), dir.path().join("inner"));
        fs::create_dir(&inner).expect("makes");
        let tree = Watched::Tree(repo(), "w".to_owned());
        let (watcher, noticed) = watcher(10);
        watcher.watch(&tree, &[root.clone(), inner.clone()]).expect("watches");
        fs::rename(&inner, dir.path().join("away")).expect("renames");
        fs::create_dir(&inner).expect("makes");
        while noticed.recv_timeout(PATIENCE).expect("is told") != Noticed::One(tree.clone(), inner.clone()) {}
        let again = || watcher.watch(&tree, &[root.clone(), inner.clone()]).expect("watches");
        let since = std::time::Instant::now();
        while !again() {
            assert!(since.elapsed() < PATIENCE, "it was not noticed that the directory is another one");
        }
        fs::write(inner.join("new"), "x").expect("writes");
        while noticed.recv_timeout(PATIENCE).expect("is told") != Noticed::One(tree.clone(), inner.join("new")) {}
    }
}
