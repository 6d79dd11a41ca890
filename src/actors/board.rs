//! What the dispatcher has decided, for everybody to read: todos, lanes and what was filed. The dispatcher is its only
//! writer; what stands here is in the ledger.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::model::desk::Change;
use crate::model::filed::{Additions, Filed};
use crate::model::ids::{Lane, RepoName, Slug, TodoKey};
use crate::model::lane::LaneState;
use crate::model::roadmap::Catalog;
use crate::model::todo::{Stage, TodoState};

/// The shared board; clones show the same one.
#[derive(Clone, Default)]
pub struct Board(Arc<RwLock<Inner>>, Arc<AtomicU64>);

#[derive(Default)]
struct Inner {
    todos: HashMap<TodoKey, Arc<TodoState>>,
    lanes: BTreeMap<Lane, LaneState>,
    additions: HashMap<RepoName, Arc<Additions>>,
    /// The todos of a base with what was added to them, made once per base and addition.
    catalogs: HashMap<RepoName, (Arc<Catalog>, Arc<Catalog>)>,
}

impl Board {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with every change of the board.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.1.load(Ordering::Acquire)
    }

    /// The state of a todo.
    #[must_use]
    pub fn of(&self, todo: &TodoKey) -> Arc<TodoState> {
        self.read().todos.get(todo).cloned().unwrap_or_default()
    }

    /// The state of every todo of one repository, as the selection of next work wants it.
    pub fn in_repo(&self, repo: &RepoName) -> impl Fn(&Slug) -> Arc<TodoState> + use<> {
        let (board, repo) = (self.clone(), repo.clone());
        move |slug| board.of(&TodoKey { repo: repo.clone(), slug: slug.clone() })
    }

    /// Every lane anybody has claimed in or paused.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneState> {
        self.read().lanes.values().cloned().collect()
    }

    /// One lane.
    #[must_use]
    pub fn lane(&self, lane: &Lane) -> LaneState {
        self.read().lanes.get(lane).cloned().unwrap_or_else(|| LaneState::new(lane.clone()))
    }

    /// How many claims each lane has.
    #[must_use]
    pub fn wip(&self) -> HashMap<Lane, usize> {
        let mut wip = HashMap::new();
        for claim in self.read().todos.values().filter_map(|state| state.claim.as_ref()) {
            *wip.entry(claim.lane.clone()).or_default() += 1;
        }
        wip
    }

    /// A todo that was filed.
    #[must_use]
    pub fn filed(&self, todo: &TodoKey) -> Option<Filed> {
        self.read().additions.get(&todo.repo).and_then(|additions| additions.filed.get(&todo.slug)).cloned()
    }

    /// The todo that was made last to mend a lane, if it is not done.
    #[must_use]
    pub fn remediation_of(&self, lane: &Lane) -> Option<TodoKey> {
        let inner = self.read();
        let remedies = inner.additions.iter().flat_map(|(repo, additions)| {
            additions.filed.values().filter_map(move |filed| Some((filed.remedy.as_ref()?, repo, &filed.todo.slug)))
        });
        let (_, repo, slug) =
            remedies.filter(|(remedy, ..)| remedy.lane == *lane).max_by_key(|(remedy, ..)| remedy.generation)?;
        let todo = TodoKey { repo: repo.clone(), slug: slug.clone() };
        let done = inner.todos.get(&todo).is_some_and(|state| state.stage == Stage::Done);
        (!done).then_some(todo)
    }

    /// The todos of a repository: those of its base, with what was added.
    #[must_use]
    pub fn catalog(&self, repo: &RepoName, base: &Arc<Catalog>) -> Arc<Catalog> {
        let additions = {
            let inner = self.read();
            let Some(additions) = inner.additions.get(repo) else { return base.clone() };
            if let Some((_, catalog)) = inner.catalogs.get(repo).filter(|(of, _)| Arc::ptr_eq(of, base)) {
                return catalog.clone();
            }
            additions.clone()
        };
        let catalog = Arc::new(base.with(&additions));
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Something may have been added meanwhile; then the next reader makes it again.
        if inner.additions.get(repo).is_some_and(|now| Arc::ptr_eq(now, &additions)) {
            inner.catalogs.insert(repo.clone(), (base.clone(), catalog.clone()));
        }
        catalog
    }

    /// Enters what is in the ledger now.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        self.1.fetch_add(1, Ordering::AcqRel);
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Todo { todo, state, .. } => {
                    if let Some(claim) = &state.claim {
                        let lane = &claim.lane;
                        inner.lanes.entry(lane.clone()).or_insert_with(|| LaneState::new(lane.clone()));
                    }
                    inner.todos.insert(todo, state);
                }
                Change::Lane { state, .. } => {
                    inner.lanes.insert(state.lane.clone(), state);
                }
                Change::Filed { repo, filed } => {
                    inner.catalogs.remove(&repo);
                    let additions = Arc::make_mut(inner.additions.entry(repo).or_default());
                    additions.filed.insert(filed.todo.slug.clone(), filed);
                }
                Change::AfterSet { todo, after } => {
                    inner.catalogs.remove(&todo.repo);
                    let additions = Arc::make_mut(inner.additions.entry(todo.repo).or_default());
                    additions.after.insert(todo.slug, after);
                }
                Change::Failed(_) | Change::Parked { .. } | Change::Awake(_) | Change::TokensAbove(_) => {}
            }
        }
    }
}
