//! What is on right now, readable from outside the runtime: requests, commands, who holds and who waits for which lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::model::ids::{OperationId, TodoKey};

/// How often a lock that is held is tried again before what it guards is called unreadable.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);

struct Inner<T> {
    next: u64,
    on: BTreeMap<u64, (Instant, T)>,
}

/// Things that are on.
pub struct InFlight<T>(Arc<Mutex<Inner<T>>>);

impl<T> Clone for InFlight<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner { next: 0, on: BTreeMap::new() })))
    }
}

impl<T> InFlight<T> {
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something begins; it is on until what comes back is dropped.
    pub fn enter(&self, what: T) -> On<T> {
        let mut inner = self.inner();
        inner.next += 1;
        let number = inner.next;
        inner.on.insert(number, (Instant::now(), what));
        drop(inner);
        On { of: self.clone(), number }
    }

    /// How many are on.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner().on.len()
    }
}

impl<T: Clone> InFlight<T> {
    /// What is on and for how long, the oldest first; `None` when a thread that is stuck keeps it from being read.
    #[must_use]
    pub fn all(&self) -> Option<Vec<(Duration, T)>> {
        let inner = patiently(&self.0)?;
        Some(inner.on.values().map(|(since, what)| (since.elapsed(), what.clone())).collect())
    }
}

/// What a lock guards, unless it is held for longer than anybody who is not stuck would hold it.
pub fn patiently<T>(lock: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    for _ in 0..TRIES {
        match lock.try_lock() {
            Ok(inner) => return Some(inner),
            Err(TryLockError::Poisoned(inner)) => return Some(inner.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(PAUSE),
        }
    }
    None
}

/// Something that is on, until it is dropped.
pub struct On<T> {
    of: InFlight<T>,
    number: u64,
}

impl<T> Drop for On<T> {
    fn drop(&mut self) {
        self.of.inner().on.remove(&self.number);
    }
}

/// A request that is being answered.
#[derive(Debug, Clone, Serialize)]
pub struct RequestOn {
    /// Its method.
    pub method: String,
    /// Its route.
    pub route: &'static str,
}

/// A command of a run.
#[derive(Debug, Clone, Serialize)]
pub struct CommandOn {
    /// For which todo.
    #[serde(flatten)]
    pub todo: TodoKey,
    /// In which operation.
    pub operation: OperationId,
    /// In which phase.
    pub phase: &'static str,
    /// What is run.
    pub command: String,
    /// Its process, once it has one.
    pub pid: Pid,
    /// After how long it is ended, in milliseconds.
    pub deadline_ms: u64,
}

/// The number of a process that may not have been started yet.
#[derive(Debug, Clone, Default)]
pub struct Pid(Arc<AtomicU32>);

impl Pid {
    /// The process was started.
    pub fn set(&self, pid: u32) {
        self.0.store(pid, Ordering::Release);
    }
}

impl Serialize for Pid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Some(self.0.load(Ordering::Acquire)).filter(|pid| *pid != 0).serialize(serializer)
    }
}

/// What somebody does with a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grip {
    /// Has it.
    Holds,
    /// Waits for it.
    Waits,
}

/// Somebody at a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockUse {
    /// Which: `worktree app/fix-login`, `registry app`, `commands`.
    pub lock: String,
    /// Who, in words.
    pub who: String,
    /// What they do with it.
    pub grip: Grip,
}

/// Who holds and who waits for which lock.
pub type Locks = InFlight<LockUse>;

impl Locks {
    /// Somebody waits for a lock, until it is theirs or they give up.
    pub fn waiting(&self, lock: &str, who: &str) -> On<LockUse> {
        self.enter(LockUse { lock: lock.to_owned(), who: who.to_owned(), grip: Grip::Waits })
    }

    /// Somebody has a lock.
    pub fn holding(&self, lock: &str, who: &str) -> On<LockUse> {
        self.enter(LockUse { lock: lock.to_owned(), who: who.to_owned(), grip: Grip::Holds })
    }

    /// Waits for something of this name, and notes who has it from then on.
    pub async fn take<G>(&self, lock: &str, who: &str, guard: impl Future<Output = G>) -> (G, On<LockUse>) {
        let waiting = self.waiting(lock, who);
        let guard = guard.await;
        drop(waiting);
        (guard, self.holding(lock, who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_is_listed_oldest_first_until_it_is_dropped() {
        let locks = Locks::default();
        let first = locks.holding("worktree app/a", "run 1");
        let second = locks.waiting("worktree app/a", "run 2");
        let who = |all: Vec<(Duration, LockUse)>| all.into_iter().map(|(_, on)| (on.who, on.grip)).collect::<Vec<_>>();
        let all = who(locks.all().expect("readable"));
        assert_eq!(all, [("run 1".to_owned(), Grip::Holds), ("run 2".to_owned(), Grip::Waits)]);
        drop(first);
        assert_eq!(who(locks.all().expect("readable")), [("run 2".to_owned(), Grip::Waits)]);
        drop(second);
        assert_eq!(locks.count(), 0);
    }

    #[test]
    fn what_a_stuck_thread_holds_is_called_unreadable_and_not_waited_for() {
        let locks = Locks::default();
        let held = locks.inner();
        let other = locks.clone();
        assert_eq!(std::thread::spawn(move || other.all().is_none()).join().ok(), Some(true));
        drop(held);
    }
}
