//! What the daemon promised, held against its log after every step, by somebody who knows nothing of the code that wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use slugline::actors::Handle;
use slugline::model::ids::OperationId;
use slugline::model::kept::Answered;
use slugline::model::view::TodoView;
use slugline::store::Store;

use crate::replay::Replay;

/// The book of one world.
#[derive(Default)]
pub struct Book {
    promised: Mutex<Promised>,
    log: tokio::sync::Mutex<Replay>,
}

#[derive(Default)]
struct Promised {
    granted: BTreeSet<(String, u64)>,
    done: BTreeSet<(String, u64)>,
    operations: BTreeSet<OperationId>,
    filed: BTreeSet<String>,
    /// What was answered under each key.
    answers: BTreeMap<String, String>,
}

impl Book {
    fn promised(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn granted(&self, todo: &str, token: u64) {
        self.promised().granted.insert((todo.to_owned(), token));
    }

    pub fn done(&self, todo: &str, token: u64) {
        self.promised().done.insert((todo.to_owned(), token));
    }

    pub fn operation(&self, id: &OperationId) {
        self.promised().operations.insert(id.clone());
    }

    pub fn filed(&self, slug: &str) {
        self.promised().filed.insert(slug.to_owned());
    }

    /// The same request under the same key has the same answer, whenever it is answered.
    pub fn answered(&self, key: &str, answer: &Answered) {
        let body = format!("{} {}", answer.status, answer.body);
        let before = self.promised().answers.insert(key.to_owned(), body.clone());
        assert!(before.as_ref().is_none_or(|before| *before == body), "{key} was answered {before:?}, then {body}");
    }

    /// I2, I3, and I1 of claims, of everything up to now.
    pub async fn audit(&self, handle: &Handle) {
        let ledger = &handle.context().ledger;
        let tip = *ledger.tip().borrow();
        // A ledger whose thread has just ended is read by the next one.
        if let Ok(store) = ledger.store()
            && store.is_alive()
        {
            self.read_to(&store, tip).await;
        }
    }

    /// Reads the log up to this entry at least, and holds what was promised before that against it.
    async fn read_to(&self, store: &Store, tip: u64) {
        let (granted, done) = {
            let promised = self.promised();
            (promised.granted.clone(), promised.done.clone())
        };
        let mut log = self.log.lock().await;
        // Whatever an answer rests on is on disk, also before whoever wrote it is told.
        let unread =
            granted.difference(&log.log.granted).next().is_some() || done.difference(&log.log.done).next().is_some();
        if log.after() < tip || unread {
            log.go_on(store).await;
        }
        let lost: Vec<_> = granted.difference(&log.log.granted).collect();
        assert!(lost.is_empty(), "I1: grants that were told are not in the log: {lost:?}");
        let lost: Vec<_> = done.difference(&log.log.done).collect();
        assert!(lost.is_empty(), "I1: what was told to count is not in the log: {lost:?}");
    }

    /// Whether this token is over for everybody who can read the log: nothing may be accepted under it any more.
    pub async fn is_over(&self, todo: &str, token: u64) -> bool {
        let log = self.log.lock().await;
        log.log.granted.contains(&(todo.to_owned(), token)) && log.held().get(todo) != Some(&token)
    }

    pub async fn held(&self) -> BTreeMap<String, u64> {
        self.log.lock().await.held().clone()
    }

    pub async fn counts(&self) -> [usize; 2] {
        let log = self.log.lock().await;
        [log.log.granted.len(), log.log.finished.len()]
    }

    /// I1 of todos.
    pub fn all_filed_are_in(&self, listed: &[TodoView]) {
        for slug in &self.promised().filed {
            assert!(listed.iter().any(|view| view.slug.as_str() == slug), "I1: {slug} was filed and is lost");
        }
    }

    /// I1, when everything is over.
    pub async fn all_is_in(&self, store: &Store) {
        self.read_to(store, u64::MAX).await;
        let operations = self.promised().operations.clone();
        for id in operations {
            let found = store.operation(&id).await.expect("I5: operations can be read");
            let found = found.unwrap_or_else(|| panic!("I1: operation {id} was told and is lost"));
            assert!(found.finished_at.is_some(), "I6: operation {id} never ended");
        }
        let mut again = Replay::default();
        again.go_on(store).await;
        assert_eq!(again.held(), self.log.lock().await.held(), "I5: what the log said before is not what it says");
    }
}
