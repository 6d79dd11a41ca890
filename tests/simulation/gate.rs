//! What takes time outside of the runtime and must not be seen to: work on threads that may block, and the ledger's own
//! thread. The one keeps still while the runtime's thread has anything to do, the other is waited for where it is asked;
//! so nothing ever happens beside the runtime's thread, and what happens is the same however busy the machine is.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// What is waited for outside of the simulation takes this long only when it will never come.
const NEVER: Duration = Duration::from_secs(120);

/// Lets the runtime's thread and the thread that may block go on in turns.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<Turn>, Condvar)>);

#[derive(Default)]
struct Turn {
    /// The runtime's thread has nothing to do.
    idle: bool,
    /// The other one works.
    working: bool,
}

impl Gate {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(&'a self, turn: MutexGuard<'a, Turn>, so: impl Fn(&Turn) -> bool) -> MutexGuard<'a, Turn> {
        self.0.1.wait_while(turn, |turn| so(turn)).unwrap_or_else(PoisonError::into_inner)
    }

    /// A runtime of one thread whose clock goes on only when nothing else can be done, and in which everything comes in
    /// the same order again.
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let [begin, end, idle, busy] = std::array::from_fn(|_| self.clone());
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            // What comes from the other thread comes after everything that can be done here.
            .global_queue_interval(u32::MAX)
            .event_interval(u32::MAX)
            // One, which ends as soon as it has nothing to do: so it begins anew, and asks, whenever it gets something.
            .max_blocking_threads(1)
            .thread_keep_alive(Duration::ZERO)
            .on_thread_start(move || begin.begin())
            .on_thread_stop(move || end.set(|turn| turn.working = false))
            .on_thread_park(move || idle.rest())
            .on_thread_unpark(move || busy.go_on())
            .build()
            .expect("a runtime")
    }

    fn set(&self, how: impl FnOnce(&mut Turn)) {
        how(&mut self.turn());
        self.0.1.notify_all();
    }

    /// The other thread waits until nobody is at work here.
    fn begin(&self) {
        let mut turn = self.wait_while(self.turn(), |turn| !turn.idle);
        turn.working = true;
    }

    fn rest(&self) {
        self.set(|turn| turn.idle = true);
        drop(self.wait_while(self.turn(), |turn| turn.working));
    }

    fn go_on(&self) {
        self.wait_while(self.turn(), |turn| turn.working).idle = false;
    }

    /// From here on nobody waits: the runtime is about to be dropped.
    pub fn open(&self) {
        self.set(|turn| turn.idle = true);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Has this thread do nothing else until a future that is carried on elsewhere is ready.
pub fn at_once<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(tokio::task::unconstrained(future));
    let begun = std::time::Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(begun.elapsed() < NEVER, "what is carried on elsewhere does not end");
        std::thread::park_timeout(NEVER);
    }
}
