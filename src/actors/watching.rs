//! Where changes the system tells of go: to the actor whose affair they are.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::context::Context;
use super::inventory::InventoryMsg;
use super::sessions;
use crate::git::{Noticed, WatchError, Watcher};
use crate::model::ids::RepoName;

pub use crate::git::Watched;

/// The daemon's one watcher.
pub struct Watching {
    watcher: Arc<Watcher>,
    context: Arc<OnceLock<Weak<Context>>>,
}

impl Watching {
    /// A watcher of at most so many directories, which tells nobody yet.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let context: Arc<OnceLock<Weak<Context>>> = Arc::default();
        let of = context.clone();
        let tell = move |noticed: Noticed| {
            if let Some(context) = of.get().and_then(Weak::upgrade) {
                route(&context, noticed);
            }
        };
        Self { watcher: Arc::new(Watcher::new(limit, tell)), context }
    }

    /// From here on changes go to the actors of this context.
    pub(super) fn tell(&self, context: &Arc<Context>) {
        let _ = self.context.set(Arc::downgrade(context));
    }

    /// Makes these the directories of an owner, see [`Watcher::watch`]. Blocks.
    pub fn watch(&self, owner: &Watched, dirs: &[PathBuf]) -> Result<bool, WatchError> {
        self.watcher.watch(owner, dirs)
    }

    /// Lets go what an owner watches. Blocks.
    pub fn release(&self, owner: &Watched) {
        self.watcher.release(owner);
    }

    /// Lets go everything of a repository. Blocks.
    pub fn release_repo(&self, repo: &RepoName) {
        self.watcher.release_repo(repo);
    }

    /// Directories watched now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.watcher.count()
    }

    /// Watches directories of session logs, aside.
    pub(super) fn watch_logs(&self, dirs: &[PathBuf]) {
        let (watcher, dirs) = (self.watcher.clone(), dirs.to_vec());
        // Without a watch they are looked through every few seconds.
        drop(tokio::task::spawn_blocking(move || watcher.watch(&Watched::Logs, &dirs)));
    }
}

fn route(context: &Context, noticed: Noticed) {
    match noticed {
        Noticed::One(what, path) => match what.repo().and_then(|repo| context.repos.get(repo)) {
            Some(entry) => {
                // Which file of a work tree it was does not matter: it is looked at as a whole.
                let path = if matches!(what, Watched::Tree(..)) { PathBuf::new() } else { path };
                if entry.signals.add(what, path) {
                    let _ = entry.inventory.tell(InventoryMsg::Noticed);
                }
            }
            None => sessions::noticed(context, &what),
        },
        Noticed::Everything => {
            for entry in context.repos.values() {
                if entry.signals.everything() {
                    let _ = entry.inventory.tell(InventoryMsg::Noticed);
                }
            }
            sessions::noticed(context, &Watched::Logs);
        }
    }
}

/// Signs of change beyond this are one: that everything may have changed.
const SIGNALS_MAX: usize = 4_096;

/// Signs of change an inventory has not heard of yet. However many there are, one message tells of them all.
#[derive(Default)]
pub struct Signals(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    told: bool,
    all: bool,
    some: HashSet<(Watched, PathBuf)>,
}

impl Signals {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one; whether the inventory has to be told.
    pub(super) fn add(&self, what: Watched, path: PathBuf) -> bool {
        let mut pending = self.lock();
        if pending.some.len() < SIGNALS_MAX {
            pending.some.insert((what, path));
        } else {
            pending.all = true;
        }
        !std::mem::replace(&mut pending.told, true)
    }

    /// Everything may have changed; whether the inventory has to be told.
    fn everything(&self) -> bool {
        let mut pending = self.lock();
        pending.all = true;
        !std::mem::replace(&mut pending.told, true)
    }

    /// Takes what came together; `None` says that everything may have changed.
    #[must_use]
    pub fn take(&self) -> Option<HashSet<(Watched, PathBuf)>> {
        let pending = std::mem::take(&mut *self.lock());
        (!pending.all).then_some(pending.some)
    }
}
