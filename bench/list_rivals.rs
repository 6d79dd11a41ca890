//! What one would write in the place of `GET /worktrees`, timed from within: `bench/list` builds and runs it.
//!
//! `list_rivals six|best|floor AT_ONCE BASE LIST` prints one line of JSON. LIST has the path of a worktree per line, the
//! first one being the main worktree.
//! - `six`: six git commands per worktree, AT_ONCE processes at a time over all of them.
//! - `best`: one `for-each-ref` for what refs tell, and a status without locks per worktree, AT_ONCE at a time.
//! - `floor`: lstat of every tracked file, by its path inside its worktree, and readdir of every directory that has one,
//!   on AT_ONCE threads. The tracked files are asked for before the clock starts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// All of a ref that a row shows; `BASE` is put in.
const REFS: &str =
    "%(refname) %(objectname) %(subject) %(authorname) %(authordate) %(ahead-behind:BASE) %(upstream:track)";

/// `unshare` with this gives a thread a working directory of its own.
const CLONE_FS: i32 = 0x200;

unsafe extern "C" {
    fn unshare(flags: i32) -> i32;
}

/// One git command, where, and whether it may fail: a branch without an upstream is no fault.
struct Call {
    args: Vec<String>,
    at: String,
    may_fail: bool,
}

/// A worktree with everything tracked in it.
struct Tracked {
    path: PathBuf,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, at_once, base, list] = args.as_slice() else {
        eprintln!("list_rivals six|best|floor AT_ONCE BASE LIST");
        std::process::exit(64);
    };
    let at_once: usize = at_once.parse().expect("AT_ONCE is a number");
    let list = std::fs::read_to_string(list).expect("LIST reads");
    let worktrees: Vec<&str> = list.lines().collect();
    let (ms, seen) = match mode.as_str() {
        "six" => processes(&worktrees.iter().flat_map(|at| six(at, base)).collect::<Vec<_>>(), at_once),
        "best" => processes(&best(&worktrees, base), at_once),
        "floor" => floor(&worktrees.iter().map(|at| tracked(at)).collect::<Vec<_>>(), at_once),
        other => panic!("{other} is no mode"),
    };
    println!("{{\"ms\": {ms:.3}, \"seen\": {seen}}}");
}

/// What a row needs, asked for one by one.
fn six(at: &str, base: &str) -> Vec<Call> {
    let range = format!("{base}...HEAD");
    let commands: [&[&str]; 6] = [
        &["rev-parse", "HEAD"],
        &["rev-parse", "--abbrev-ref", "HEAD"],
        &["status", "--porcelain"],
        &["log", "-1", "--format=%s%n%an%n%ct"],
        &["rev-list", "--left-right", "--count", &range],
        &["rev-parse", "--abbrev-ref", "@{u}"],
    ];
    commands.iter().map(|args| call(at, args, args.contains(&"@{u}"))).collect()
}

/// The same by as few processes as git can do it with.
fn best(worktrees: &[&str], base: &str) -> Vec<Call> {
    let format = format!("--format={}", REFS.replace("BASE", base));
    let refs = call(worktrees[0], &["for-each-ref", &format, "refs/heads"], false);
    let status: [&str; 5] = ["--no-optional-locks", "status", "--porcelain=v2", "--branch", "-z"];
    std::iter::once(refs).chain(worktrees.iter().map(|at| call(at, &status, false))).collect()
}

fn call(at: &str, args: &[&str], may_fail: bool) -> Call {
    Call { args: args.iter().map(|arg| (*arg).to_owned()).collect(), at: at.to_owned(), may_fail }
}

/// Runs them all, so many at a time; milliseconds, and the bytes they printed.
fn processes(calls: &[Call], at_once: usize) -> (f64, u64) {
    let bytes = AtomicU64::new(0);
    let ms = on_threads(calls, at_once, |call| {
        let done = Command::new("git").args(&call.args).current_dir(&call.at).output().expect("git starts");
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() || call.may_fail, "git {:?} in {}: {text}", call.args, call.at);
        bytes.fetch_add(done.stdout.len() as u64, Ordering::Relaxed);
    });
    (ms, bytes.into_inner())
}

fn tracked(at: &str) -> Tracked {
    let done = Command::new("git").args(["ls-files", "-z"]).current_dir(at).output().expect("git starts");
    assert!(done.status.success(), "git ls-files in {at}");
    let text = String::from_utf8(done.stdout).expect("paths are text");
    let files: Vec<PathBuf> = text.split_terminator('\0').map(PathBuf::from).collect();
    let parents = |file: &PathBuf| file.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    let directories: BTreeSet<PathBuf> = files.iter().flat_map(parents).collect();
    let here = |path: PathBuf| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
    Tracked { path: at.into(), directories: directories.into_iter().map(here).collect(), files }
}

/// Looks at everything once; milliseconds, and how many things were seen.
fn floor(worktrees: &[Tracked], threads: usize) -> (f64, u64) {
    let seen = AtomicU64::new(0);
    let ms = on_threads(worktrees, threads, |worktree| {
        std::env::set_current_dir(&worktree.path).expect("the worktree is there");
        let files = worktree.files.iter().filter(|file| std::fs::symlink_metadata(file).is_ok()).count();
        let entries: usize = worktree.directories.iter().map(|at| entries(at)).sum();
        seen.fetch_add((files + entries) as u64, Ordering::Relaxed);
    });
    (ms, seen.into_inner())
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

/// Does the work on so many threads, each with a working directory of its own; milliseconds from start to end.
fn on_threads<T: Sync>(work: &[T], threads: usize, act: impl Fn(&T) + Sync) -> f64 {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(work.len()) {
            let worker = || {
                // SAFETY: takes a number and touches nothing of this program's memory.
                assert_eq!(unsafe { unshare(CLONE_FS) }, 0, "a thread gets its own working directory");
                while let Some(item) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    act(item);
                }
            };
            std::thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, worker).expect("a thread");
        }
    });
    begun.elapsed().as_secs_f64() * 1e3
}
