//! The stack of another thread of this process, taken while that thread is stuck.
//!
//! The thread is sent a signal; the handler writes the addresses of its frames into a fixed place and nothing else; the
//! caller waits for it, at most so long. Names are looked up later, elsewhere: reading debug information takes hundreds
//! of milliseconds the first time. The only unsafe code of the house is here.
//!
//! Unwinding inside a handler is safe in practice and not by the letter, so there is a switch: `[watchdog] stacks`.

#![allow(unsafe_code, reason = "signal handlers and signals to one thread have no safe interface")]

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Frames that are kept of a stack, from the innermost.
const FRAMES_MAX: usize = 128;
/// How long a thread gets to answer. One that is in the kernel answers at once, one that gets no processor later.
const ANSWER_LIMIT: Duration = Duration::from_millis(200);

/// Whose stack is wanted; 0 when nobody's.
static WANTED: AtomicI32 = AtomicI32::new(0);
/// Rises when a stack is there.
static TAKEN: AtomicU64 = AtomicU64::new(0);
static FRAMES: [AtomicUsize; FRAMES_MAX] = [const { AtomicUsize::new(0) }; FRAMES_MAX];
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// One stack at a time.
static ONE: Mutex<()> = Mutex::new(());

extern "C" fn on_signal(_: c_int) {
    // SAFETY: gettid and the address of errno belong to this thread and are always there.
    let (tid, errno) = unsafe { (libc::gettid(), libc::__errno_location()) };
    // SAFETY: as above; what the interrupted code finds in errno is what it left there.
    let before = unsafe { *errno };
    if WANTED.compare_exchange(tid, -tid, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        let mut count = 0;
        // SAFETY: one stack is taken at a time (`ONE` and the exchange above), and nothing is looked up here.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                if let Some(place) = FRAMES.get(count) {
                    place.store(frame.ip() as usize, Ordering::Relaxed);
                    count += 1;
                }
                count < FRAMES_MAX
            });
        }
        COUNT.store(count, Ordering::Relaxed);
        WANTED.store(0, Ordering::Release);
        TAKEN.fetch_add(1, Ordering::AcqRel);
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// The signal, installed on first use; `None` when the system did not take the handler.
fn signal() -> Option<c_int> {
    static SIGNAL: OnceLock<Option<c_int>> = OnceLock::new();
    *SIGNAL.get_or_init(|| {
        let signal = libc::SIGRTMIN() + 4;
        // SAFETY: the action is made of zeroes, which is valid for it, and filled before it is given away; the handler
        // only touches atomics and the stack it runs on. Interrupted system calls go on (SA_RESTART).
        let installed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        (installed == 0).then_some(signal)
    })
}

/// How long threads were waited for to answer, in all, in nanoseconds.
static WAITED: AtomicU64 = AtomicU64::new(0);

/// How long threads were waited for to answer so far, in all, in nanoseconds.
#[must_use]
pub fn waited() -> u64 {
    WAITED.load(Ordering::Acquire)
}

/// The addresses on the stack of a thread of this process, innermost first; `None` when it did not answer in time.
#[must_use]
pub fn of_thread(tid: i32) -> Option<Vec<usize>> {
    let signal = signal()?;
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = TAKEN.load(Ordering::Acquire);
    // A handler that is still at it from an earlier time is left alone.
    WANTED.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Acquire).ok()?;
    // SAFETY: a signal to a thread number of this very process; a number that is gone gives an error.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
    let begun = Instant::now();
    while sent == 0 && TAKEN.load(Ordering::Acquire) == before && begun.elapsed() < ANSWER_LIMIT {
        std::thread::park_timeout(Duration::from_micros(200));
    }
    // No longer than it was meant to wait: what is beyond was not its choice.
    let waited = begun.elapsed().min(ANSWER_LIMIT).as_nanos();
    WAITED.fetch_add(u64::try_from(waited).unwrap_or(0), Ordering::AcqRel);
    if TAKEN.load(Ordering::Acquire) == before {
        let _ = WANTED.compare_exchange(tid, 0, Ordering::AcqRel, Ordering::Acquire);
        return None;
    }
    Some((0..COUNT.load(Ordering::Relaxed)).map(|index| FRAMES[index].load(Ordering::Relaxed)).collect())
}

/// One function on a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Its name; the address when it has none.
    pub function: String,
    /// Where in the sources, when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Whether its source is neither the toolchain's nor a library's.
    pub own: bool,
}

/// The functions at these addresses, those inlined into one another too. What stands before the interrupted function is
/// the handler's and left out. Reads debug information: takes long the first time.
#[must_use]
pub fn named(addresses: &[usize]) -> Vec<Frame> {
    let mut frames = Vec::new();
    for address in addresses {
        let before = frames.len();
        backtrace::resolve(*address as *mut std::ffi::c_void, |symbol| {
            let function = symbol.name().map_or_else(|| format!("{address:#x}"), |name| format!("{name:#}"));
            let file = symbol.filename().map(|file| file.display().to_string());
            let at = file.as_deref().map(|file| {
                let short = file.rsplit_once("/src/").map_or(file, |(_, rest)| rest);
                format!("{short}:{}", symbol.lineno().unwrap_or(0))
            });
            frames.push(Frame { function, at, own: file.is_some_and(|file| is_own(&file)) });
        });
        if frames.len() == before {
            frames.push(Frame { function: format!("{address:#x}"), at: None, own: false });
        }
    }
    // The handler, and the system's trampoline that called it.
    let handler = |frame: &Frame| frame.function.contains("stacks::on_signal");
    let interrupted = frames.iter().rposition(handler).map_or(0, |at| (at + 2).min(frames.len()));
    frames.drain(..interrupted);
    frames
}

/// Whether a source file is neither the toolchain's nor a library's. Ours are compiled by their path in the project.
fn is_own(file: &str) -> bool {
    const OTHERS: [&str; 4] = ["/rustc/", "/rustlib/", "/registry/src/", "/git/checkouts/"];
    file.ends_with(".rs") && !OTHERS.iter().any(|other| file.contains(other))
}

/// Where in the frames the culprit is: the innermost function that is neither the toolchain's nor a library's, and not
/// merely what carries the others.
#[must_use]
pub fn culprit(frames: &[Frame]) -> Option<&Frame> {
    const CARRIES: [&str; 2] = ["health::turning::", "actors::mailbox::"];
    frames.iter().find(|frame| frame.own && !CARRIES.iter().any(|carrier| frame.function.contains(carrier)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[inline(never)]
    fn a_function_that_is_stuck(release: &mpsc::Receiver<()>) {
        let _ = release.recv();
        std::hint::black_box(());
    }

    #[test]
    fn the_stack_of_a_stuck_thread_names_the_function_it_is_stuck_in() {
        let (tell_tid, tid) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell_tid.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("told");
            a_function_that_is_stuck(&released);
        });
        let tid = tid.recv().expect("told");
        // It may not have got there yet.
        let is_there =
            |frames: &Vec<Frame>| frames.iter().any(|frame| frame.function.contains("a_function_that_is_stuck"));
        let frames = (0..1_000).map(|_| named(&of_thread(tid).expect("answers"))).find(is_there).expect("gets there");
        release.send(()).expect("waits still");
        thread.join().expect("ends");
        let culprit = culprit(&frames).expect("one of ours");
        assert!(culprit.function.contains("a_function_that_is_stuck"), "{culprit:?}");
    }

    #[test]
    fn a_thread_that_is_gone_gives_no_stack() {
        let tid = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get()).join().expect("ends");
        assert_eq!(of_thread(tid), None);
    }

    #[test]
    fn a_system_call_that_is_interrupted_for_its_stack_goes_on() {
        let (read, write) = std::io::pipe().expect("a pipe");
        let (tell_tid, tid) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            tell_tid.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("told");
            let mut byte = [0_u8];
            // The plain system call, without anything that would try again.
            rustix::io::read(&read, &mut byte).map(|count| (count, byte[0]))
        });
        let tid = tid.recv().expect("told");
        for _ in 0..20 {
            assert!(of_thread(tid).is_some_and(|stack| !stack.is_empty()));
        }
        rustix::io::write(&write, b"x").expect("writes");
        assert_eq!(reader.join().expect("ends"), Ok((1, b'x')));
    }
}
