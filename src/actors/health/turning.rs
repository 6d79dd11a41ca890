//! What each thread of the runtime is doing right now, readable from outside the runtime while it is stuck.
//!
//! Every future of ours that may hold up a worker is polled inside [`doing`]: for as long as one poll lasts, the thread's
//! [`Slot`] says since when and for whom. The runtime's own hooks tell when a worker parks, so that a worker held by
//! something unnamed is seen too. Lengths are taken by the thread itself, when the poll is over: they are exact, however
//! seldom somebody looks.
//!
//! A runtime that was not built with [`Workers::watch`] has no slots; everything here then costs a look at a
//! thread-local and says nothing.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::model::ids::{OperationId, TodoKey};

/// A poll this long is noted with its length.
const LONG: Duration = Duration::from_millis(10);
/// Long polls of one thread that wait to be taken; older ones are let go.
const SPELLS_MAX: usize = 64;

/// Nanoseconds of a clock that never steps; never 0.
#[must_use]
pub fn nanos() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
}

/// What a thread does, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Doing {
    /// An actor handles a message.
    Message {
        /// What kind of actor.
        actor: &'static str,
        /// Its name: `app/fix-login` of a slug's.
        name: Arc<str>,
        /// Which message.
        message: &'static str,
    },
    /// A run is carried out.
    Run {
        /// For which todo.
        #[serde(flatten)]
        todo: TodoKey,
        /// Its operation.
        operation: OperationId,
    },
    /// A request is answered.
    Request {
        /// Its method.
        method: String,
        /// Its route.
        route: String,
    },
    /// A duty of the daemon is done.
    Job {
        /// Which.
        job: &'static str,
    },
}

impl Doing {
    /// In a few words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Message { actor, name, message } => format!("{actor} {name} handles {message}"),
            Self::Run { todo, operation } => format!("run {operation} of {todo}"),
            Self::Request { method, route } => format!("request {method} {route}"),
            Self::Job { job } => format!("job {job}"),
        }
    }
}

/// A poll that was long.
#[derive(Debug, Clone)]
pub struct Spell {
    /// When it began, by [`nanos`].
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// What it was, when that is known.
    pub doing: Option<Arc<Doing>>,
}

#[derive(Default)]
struct What {
    doing: Option<Arc<Doing>>,
    /// The innermost long part of the poll that is on.
    inner: Option<Arc<Doing>>,
    spells: Vec<Spell>,
}

/// One thread of the runtime.
#[derive(Default)]
pub struct Slot {
    /// Its number in the system.
    pub tid: i32,
    /// Index of the worker it is or was; `usize::MAX` before it was one.
    worker: AtomicUsize,
    /// Since when it has not parked; 0 while it is parked or no worker.
    busy_since: AtomicU64,
    /// Since when it has been in one poll of ours; 0 when it is in none.
    polling_since: AtomicU64,
    what: Mutex<What>,
}

impl Slot {
    fn what(&self) -> MutexGuard<'_, What> {
        self.what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which worker it is.
    #[must_use]
    pub fn worker(&self) -> Option<usize> {
        Some(self.worker.load(Ordering::Acquire)).filter(|index| *index != usize::MAX)
    }

    /// A thread is told by the runtime which worker it is; it may be given another later.
    fn note_worker(&self) {
        if let Some(index) = tokio::runtime::worker_index() {
            self.worker.store(index, Ordering::Release);
        }
    }

    /// Since when it has been held by one thing; `None` when it is not.
    #[must_use]
    pub fn held_since(&self) -> Option<u64> {
        let since = |at: &AtomicU64| Some(at.load(Ordering::Acquire)).filter(|at| *at != 0);
        since(&self.polling_since).or_else(|| since(&self.busy_since))
    }

    /// What it does; `None` when that is not known, or somebody is just changing it.
    #[must_use]
    pub fn doing(&self) -> Option<Arc<Doing>> {
        self.what.try_lock().ok()?.doing.clone()
    }

    /// Takes the long polls that ended since the last time.
    #[must_use]
    pub fn take_spells(&self) -> Vec<Spell> {
        self.what.try_lock().map(|mut what| std::mem::take(&mut what.spells)).unwrap_or_default()
    }

    fn ended(&self, began: u64, now: u64) {
        if now.saturating_sub(began) < LONG.as_nanos() as u64 {
            return;
        }
        let mut what = self.what();
        if what.spells.len() >= SPELLS_MAX {
            what.spells.remove(0);
        }
        let doing = what.inner.take().or_else(|| what.doing.clone());
        what.spells.push(Spell { began, ended: now, doing });
    }
}

thread_local! {
    static SLOT: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

fn here() -> Option<Arc<Slot>> {
    SLOT.with(|slot| slot.borrow().clone())
}

/// The threads of one runtime.
#[derive(Default)]
pub struct Workers {
    slots: Mutex<Vec<Arc<Slot>>>,
}

impl Workers {
    /// A runtime of which nothing is known.
    #[must_use]
    pub fn unwatched() -> Arc<Self> {
        Arc::default()
    }

    /// Has the threads of the runtime that is being built say what they do.
    #[must_use]
    pub fn watch(builder: &mut tokio::runtime::Builder) -> Arc<Self> {
        let workers = Arc::new(Self::default());
        let (born, gone) = (workers.clone(), workers.clone());
        builder
            .on_thread_start(move || {
                let slot = Arc::new(Slot {
                    tid: rustix::thread::gettid().as_raw_nonzero().get(),
                    worker: AtomicUsize::new(usize::MAX),
                    ..Slot::default()
                });
                born.slots().push(slot.clone());
                SLOT.with(|here| *here.borrow_mut() = Some(slot));
            })
            .on_thread_stop(move || {
                if let Some(slot) = SLOT.with(|here| here.borrow_mut().take()) {
                    gone.slots().retain(|other| !Arc::ptr_eq(other, &slot));
                }
            })
            .on_thread_unpark(|| {
                if let Some(slot) = here() {
                    slot.note_worker();
                    slot.busy_since.store(nanos(), Ordering::Release);
                }
            })
            .on_thread_park(|| {
                if let Some(slot) = here() {
                    let began = slot.busy_since.swap(0, Ordering::AcqRel);
                    if began != 0 {
                        slot.ended(began, nanos());
                    }
                }
            });
        workers
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every thread.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.slots().clone()
    }
}

/// One poll, as long as it lasts.
struct Turn {
    slot: Arc<Slot>,
    began: u64,
    outermost: bool,
    before: Option<Arc<Doing>>,
}

impl Turn {
    fn begin(what: &Arc<Doing>) -> Option<Self> {
        let slot = here()?;
        slot.note_worker();
        let began = nanos();
        let outermost = slot.polling_since.compare_exchange(0, began, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let before = slot.what().doing.replace(what.clone());
        Some(Self { slot, began, outermost, before })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = nanos();
        if self.outermost {
            // Somebody may have given the worker away and begun anew; the length is that of what is on now.
            let began = self.slot.polling_since.swap(0, Ordering::AcqRel);
            if began != 0 {
                self.slot.ended(began, now);
            }
            // A worker that turns is not held, however long it does not park.
            if self.slot.busy_since.load(Ordering::Acquire) != 0 {
                self.slot.busy_since.store(now, Ordering::Release);
            }
        }
        let mut what = self.slot.what();
        let was = std::mem::replace(&mut what.doing, self.before.take());
        if self.outermost {
            what.inner = None;
        } else if now.saturating_sub(self.began) >= LONG.as_nanos() as u64 && what.inner.is_none() {
            what.inner = was;
        }
    }
}

/// Carries a future out, and says so wherever it is polled.
pub async fn doing<F: Future>(what: Doing, future: F) -> F::Output {
    let what = Arc::new(what);
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _turn = Turn::begin(&what);
        future.as_mut().poll(cx)
    })
    .await
}

/// Does something that may block, after giving the worker's other tasks away: meanwhile this thread holds up nobody.
pub fn beside<T>(work: impl FnOnce() -> T) -> T {
    let slot = here();
    let was_polling = slot.as_ref().map_or(0, |slot| slot.polling_since.load(Ordering::Acquire));
    let alone = || {
        if let Some(slot) = &slot {
            if was_polling != 0 {
                // What was on until here is over for the worker.
                slot.ended(was_polling, nanos());
            }
            slot.polling_since.store(0, Ordering::Release);
            slot.busy_since.store(0, Ordering::Release);
        }
        work()
    };
    // A runtime of one thread has nobody to give them to.
    let done = match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::CurrentThread => alone(),
        _ => tokio::task::block_in_place(alone),
    };
    if let Some(slot) = slot.filter(|_| was_polling != 0) {
        slot.polling_since.store(nanos(), Ordering::Release);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> (tokio::runtime::Runtime, Arc<Workers>) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all();
        let workers = Workers::watch(&mut builder);
        (builder.build().expect("a runtime"), workers)
    }

    fn job(job: &'static str) -> Doing {
        Doing::Job { job }
    }

    /// What ended on any thread, as soon as something did.
    fn spells(workers: &Workers) -> Vec<Spell> {
        for _ in 0..2_000 {
            let spells: Vec<Spell> = workers.all().iter().flat_map(|slot| slot.take_spells()).collect();
            if !spells.is_empty() {
                return spells;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Vec::new()
    }

    #[test]
    fn a_poll_says_what_it_is_while_it_lasts_and_how_long_it_was_when_it_is_over() {
        let (runtime, workers) = runtime();
        let (held, release) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
        let (in_poll, may_end) = (held.clone(), release.clone());
        let began = Instant::now();
        let task = runtime.spawn(doing(job("outer"), async move {
            doing(job("inner"), async move {
                in_poll.wait();
                may_end.wait();
            })
            .await;
        }));
        held.wait();
        let slot = workers.all().into_iter().find(|slot| slot.doing().is_some()).expect("somebody polls");
        assert_eq!(slot.doing().as_deref(), Some(&job("inner")));
        assert!(slot.held_since().is_some() && slot.worker().is_some());
        std::thread::park_timeout(Duration::from_millis(30));
        release.wait();
        runtime.block_on(task).expect("ends");
        let spell = spells(&workers).pop().expect("it was long");
        let length = Duration::from_nanos(spell.ended - spell.began);
        assert!(length >= Duration::from_millis(29) && length <= began.elapsed(), "{length:?}");
        assert_eq!(spell.doing.as_deref(), Some(&job("inner")), "the innermost is the culprit");
    }

    #[test]
    fn what_is_done_beside_holds_no_worker() {
        let (runtime, workers) = runtime();
        let held = runtime.block_on(runtime.spawn(doing(job("look"), async move {
            beside(|| {
                std::thread::park_timeout(Duration::from_millis(30));
                here().expect("a thread of the runtime").held_since()
            })
        })));
        assert_eq!(held.expect("ends"), None);
        assert!(workers.all().iter().flat_map(|slot| slot.take_spells()).all(|spell| spell.doing.is_none()));
    }

    #[test]
    fn a_future_that_only_waits_is_in_no_poll() {
        let (runtime, workers) = runtime();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let task = runtime.spawn(doing(job("waits"), async move { drop(told.await) }));
        std::thread::park_timeout(Duration::from_millis(20));
        assert!(workers.all().iter().all(|slot| slot.doing().is_none()));
        drop(tell);
        runtime.block_on(task).expect("ends");
    }
}
