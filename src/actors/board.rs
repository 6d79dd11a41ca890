//! Who holds what, for everybody to read: the newest claim and the stage of every todo that has ever been asked for.
//! The dispatcher is its only writer; what stands here as granted is in the ledger.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::model::claim::Claim;
use crate::model::ids::{RepoName, Slug, TodoKey};
use crate::model::next::TodoState;
use crate::model::record::Stage;

/// The shared board; clones show the same one.
#[derive(Clone, Default)]
pub struct Board(Arc<RwLock<HashMap<TodoKey, TodoState>>>);

impl Board {
    /// Stage and newest claim of a todo.
    #[must_use]
    pub fn of(&self, todo: &TodoKey) -> TodoState {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(todo).cloned().unwrap_or_default()
    }

    /// The state of every todo of one repository, as the selection of next work wants it.
    pub fn in_repo(&self, repo: &RepoName) -> impl Fn(&Slug) -> TodoState {
        let (board, repo) = (self.clone(), repo.clone());
        move |slug| board.of(&TodoKey { repo: repo.clone(), slug: slug.clone() })
    }

    /// Enters a claim that is in the ledger.
    pub(super) fn put_claim(&self, claim: Claim) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let state = map.entry(claim.todo.clone()).or_default();
        if state.stage == Stage::Ready {
            state.stage = Stage::Build;
        }
        state.claim = Some(claim);
    }

    /// Enters a stage that is in the ledger.
    pub(super) fn put_stage(&self, todo: TodoKey, stage: Stage) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(todo).or_default().stage = stage;
    }
}
