//! What `process` promises, tried on real processes: a run is over when it says so, whoever dies and however the
//! command tries to stay, and nobody else is harmed.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

#[path = "process/escapes.rs"]
mod escapes;
#[path = "marked/mod.rs"]
mod marked;
#[path = "scale/mod.rs"]
mod scale;

use std::ffi::OsString;
use std::fs::{self, File};
use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use slugline::process::{
    CommandSpec, Exit, ExitOutcome, MARK_VARIABLE, ProcessError, ResourceLimits, Runner, WhenDaemonDies, clean_env,
    shell, sweep,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How long a condition may take on a loaded machine before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Grace between TERM and KILL in these tests.
const GRACE: Duration = Duration::from_millis(100);
/// A deadline no test reaches.
const FAR: Duration = Duration::from_secs(120);
/// A deadline that leaves a command time to start what it wants to leave behind.
const NEAR: Duration = Duration::from_millis(500);

/// A directory, a unique mark and a runner.
struct Bench {
    dir: TempDir,
    mark: String,
    runner: Runner,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mark = format!("bench{}", dir.path().file_name().unwrap().to_string_lossy());
        Self { dir, mark, runner: Runner::new(env!("CARGO_BIN_EXE_slugline").into()) }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn spec(&self, script: &str) -> CommandSpec {
        spec_in(self.dir.path(), &self.mark, script)
    }
    async fn run(&self, spec: CommandSpec) -> Exit {
        within("the run ends", self.runner.run(spec, &CancellationToken::new())).await.unwrap()
    }
    /// Starts the run and returns when the command has written `up`.
    async fn launch(
        &self,
        spec: CommandSpec,
    ) -> (tokio::task::JoinHandle<Result<Exit, ProcessError>>, CancellationToken) {
        let (runner, cancel) = (self.runner.clone(), CancellationToken::new());
        let token = cancel.clone();
        let task = tokio::spawn(async move { runner.run(spec, &token).await });
        self.is_up().await;
        (task, cancel)
    }
    async fn is_up(&self) {
        eventually("the command is up", || self.path("up").exists()).await;
    }
    fn marked(&self) -> Vec<i32> {
        marked(MARK_VARIABLE, &self.mark)
    }
    fn supervisor(&self) -> Option<i32> {
        marked("SLUGLINE_RUN_HELPER", &self.mark).into_iter().next()
    }
    async fn nothing_is_left(&self) {
        eventually("nothing of the run is left", || self.marked().is_empty() && self.supervisor().is_none()).await;
    }
}

fn spec_in(dir: &Path, mark: &str, script: &str) -> CommandSpec {
    CommandSpec {
        argv: shell(script),
        cwd: dir.to_owned(),
        env: clean_env(&[]),
        log: dir.join("log"),
        log_kept: true,
        deadline: FAR,
        grace: GRACE,
        output_bytes_max: 1 << 30,
        limits: ResourceLimits::default(),
        lock: None,
        when_daemon_dies: WhenDaemonDies::Kill,
        mark: mark.to_owned(),
        on_started: None,
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(5));
    within(what, async {
        while !holds() {
            look.tick().await;
        }
    })
    .await;
}

/// Live processes with exactly this variable.
fn marked(variable: &str, mark: &str) -> Vec<i32> {
    let wanted = format!("{variable}={mark}").into_bytes();
    marked::marked(|given| given == wanted)
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

fn kill_hard(pid: i32) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

fn pid_in(path: &Path) -> i32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

// ---- the ordinary run ----

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_code_its_output_and_its_pid_are_reported() {
    let bench = Bench::new();
    let (told, tell) = oneshot::channel();
    let mut spec = bench.spec("echo out; echo err >&2; echo $$; exit 3");
    spec.on_started = Some(Box::new(move |pid| {
        // Nobody listens any more only when this test has failed already.
        let _ = told.send(pid);
    }));
    let exit = bench.run(spec).await;
    assert_eq!(exit.outcome, ExitOutcome::Code(3));
    assert_eq!(exit.tail, format!("out\nerr\n{}\n", exit.pid));
    assert_eq!((exit.killed, exit.survivors, exit.output_bytes), (0, 0, exit.tail.len() as u64));
    assert_eq!(tell.await.unwrap(), exit.pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_private_and_appended_and_the_tail_is_of_this_command_only() {
    let bench = Bench::new();
    bench.run(bench.spec("echo first")).await;
    let exit = bench.run(bench.spec("echo second")).await;
    assert_eq!(exit.tail, "second\n");
    assert_eq!(fs::read_to_string(bench.path("log")).unwrap(), "first\nsecond\n");
    assert_eq!(fs::metadata(bench.path("log")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_kept_has_no_name_while_the_command_runs_and_is_told_without_credentials() {
    let bench = Bench::new();
    let mut spec = bench.spec("test ! -e log && echo https://bot:s3cret@example.org/x; exit 3");
    spec.log_kept = false;
    let exit = bench.run(spec).await;
    assert_eq!((exit.outcome, exit.tail.as_str()), (ExitOutcome::Code(3), "https://***@example.org/x\n"));
    assert!(!bench.path("log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_a_symbolic_link_is_refused() {
    let bench = Bench::new();
    std::os::unix::fs::symlink(bench.path("elsewhere"), bench.path("log")).unwrap();
    let refused = bench.runner.run(bench.spec("true"), &CancellationToken::new()).await;
    assert!(matches!(refused, Err(ProcessError::Log { .. })), "{refused:?}");
    assert!(!bench.path("elsewhere").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_at_its_end_and_there_is_no_terminal() {
    let bench = Bench::new();
    let exit = bench.run(bench.spec("cat && ! (: < /dev/tty) 2>/dev/null && echo alone")).await;
    assert_eq!((exit.outcome, exit.tail.as_str()), (ExitOutcome::Code(0), "alone\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_exactly_its_environment() {
    let bench = Bench::new();
    let mut spec = bench.spec("");
    spec.argv = vec!["/usr/bin/env".into()];
    spec.env = vec![("A".into(), "1".into())];
    let exit = bench.run(spec).await;
    assert_eq!(exit.tail, format!("A=1\nSLUGLINE_RUN={}\n", bench.mark));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_inherits_neither_the_lock_nor_the_control_socket() {
    let bench = Bench::new();
    let listed = |exit: &Exit| exit.tail.lines().filter(|l| !l.contains("/fd")).map(str::to_owned).collect::<Vec<_>>();
    // What this test itself was started with open goes through everything; the rest must be null and one pipe, twice.
    let script = "for fd in /proc/self/fd/*; do readlink $fd; done";
    let ambient = Command::new("/bin/sh").args(["-c", script]).stdin(std::process::Stdio::null()).output().unwrap();
    let ambient = String::from_utf8(ambient.stdout).unwrap();
    let mut spec = bench.spec(script);
    spec.lock = Some(Arc::new(File::create(bench.path("lock")).unwrap()));
    let exit = bench.run(spec).await;
    let ours: Vec<String> = listed(&exit).into_iter().filter(|target| !ambient.contains(target.as_str())).collect();
    assert!(matches!(&ours[..], [out, err] if out == err && out.starts_with("pipe:")), "{}", exit.tail);
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_are_not_text_arrive_unchanged() {
    use std::os::unix::ffi::OsStringExt as _;
    let bench = Bench::new();
    let mut spec = bench.spec("");
    spec.argv = vec!["/usr/bin/printf".into(), "%s".into(), OsString::from_vec(b"a \"$x\" \xff\n".to_vec())];
    bench.run(spec).await;
    assert_eq!(fs::read(bench.path("log")).unwrap(), b"a \"$x\" \xff\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_from_elsewhere_is_reported_as_such() {
    let bench = Bench::new();
    assert_eq!(bench.run(bench.spec("kill -USR1 $$")).await.outcome, ExitOutcome::Signal(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why() {
    let bench = Bench::new();
    let none = CancellationToken::new();
    let mut missing = bench.spec("");
    missing.argv = vec!["no-such-program".into()];
    let error = bench.runner.run(missing, &none).await.unwrap_err();
    assert!(error.to_string().starts_with("no-such-program cannot be started: No such file"), "{error}");
    let mut homeless = bench.spec("true");
    homeless.cwd = bench.path("gone");
    let error = bench.runner.run(homeless, &none).await.unwrap_err();
    assert!(error.to_string().contains("gone cannot be entered"), "{error}");
    let mut empty = bench.spec("");
    empty.argv.clear();
    assert!(matches!(bench.runner.run(empty, &none).await, Err(ProcessError::NoCommand)));
    let error = Runner::new(bench.path("nothing")).run(bench.spec("true"), &none).await.unwrap_err();
    assert!(matches!(error, ProcessError::Helper { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_time_of_the_whole_tree_is_counted() {
    let bench = Bench::new();
    let exit = bench.run(bench.spec("sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; true")).await;
    assert!(exit.cpu > Duration::ZERO && exit.cpu <= exit.duration * 2, "{exit:?}");
}

// ---- output ----

#[tokio::test(flavor = "multi_thread")]
async fn twenty_megabytes_without_a_newline_give_a_short_tail() {
    let bench = Bench::new();
    let exit = bench.run(bench.spec("head -c 20000000 /dev/zero | tr '\\0' x")).await;
    assert_eq!((exit.outcome, exit.output_bytes), (ExitOutcome::Code(0), 20_000_000));
    assert_eq!(exit.tail, "x".repeat(8 * 1024));
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_and_escapes_give_a_safe_tail() {
    let bench = Bench::new();
    let exit =
        bench.run(bench.spec("head -c 3000000 /dev/urandom; printf '\\033[31mred\\033[0m \\033]0;t\\007end'")).await;
    assert!(exit.tail.ends_with("red end") && exit.tail.len() <= 8 * 1024);
    assert!(exit.tail.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_more_output_than_a_log_may_hold_the_beginning_and_the_end_are_kept() {
    let bench = Bench::new();
    bench.run(bench.spec("echo earlier")).await;
    let mut spec = bench.spec("echo first; yes | head -c 5000000; echo; echo last");
    spec.output_bytes_max = 100_000;
    let exit = bench.run(spec).await;
    assert_eq!((exit.outcome, exit.output_bytes), (ExitOutcome::Code(0), 5_000_012));
    assert_eq!(exit.left_out, 4_900_012);
    let log = fs::read_to_string(bench.path("log")).unwrap();
    assert!(log.starts_with("earlier\nfirst\ny\n") && log.ends_with("y\n\nlast\n"));
    assert!(log.contains("\n[slugline: 4900012 bytes are left out here]\n") && log.len() < 101_000, "{}", log.len());
    assert!(exit.tail.ends_with("y\n\nlast\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_says_while_it_is_ended_is_heard_however_much_it_is() {
    let bench = Bench::new();
    let mut spec =
        bench.spec("trap 'yes | head -c 3000000; echo tidied; exit' TERM; : > up; while :; do sleep 0.02; done");
    spec.grace = PATIENCE;
    let (run, cancel) = bench.launch(spec).await;
    cancel.cancel();
    let exit = within("the run ends", run).await.unwrap().unwrap();
    assert_eq!(exit.outcome, ExitOutcome::Cancelled);
    // The shell may say that something of it was ended, too.
    assert!(exit.output_bytes >= 3_000_007, "{exit:?}");
    assert!(exit.tail.ends_with("tidied\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn git_is_ended_where_it_says_more_than_a_log_may_hold() {
    let bench = Bench::new();
    for script in ["yes", "head -c 200000 /dev/zero"] {
        let mut spec = bench.spec(script);
        spec.when_daemon_dies = WhenDaemonDies::Finish;
        spec.output_bytes_max = 100_000;
        let exit = bench.run(spec).await;
        assert_eq!((exit.outcome, exit.survivors), (ExitOutcome::OutputLimit, 0), "{script}");
        assert!(exit.output_bytes > 100_000);
    }
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_password_is_told_at_once_that_there_is_none() {
    let bench = Bench::new();
    let key = "ssh-keygen -q -t ed25519 -N secret -f key && ssh-keygen -y -f key";
    let has = |program: &str| {
        Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success()
    };
    for (program, script) in [
        ("cat", "cat; false"),
        ("sh", "read answer"),
        ("sh", "cat < /dev/tty"),
        ("git", "echo url=https://nobody.invalid | git credential fill"),
        ("ssh-keygen", key),
    ] {
        if !has(program) {
            println!("not shown: there is no {program}");
            continue;
        }
        let exit = bench.run(bench.spec(script)).await;
        println!("{script}: {:?} after {:?}", exit.outcome, exit.duration);
        assert!(matches!(exit.outcome, ExitOutcome::Code(1..)), "{script}: {exit:?}");
        assert!(exit.duration < PATIENCE / 3, "{script} waited for somebody: {exit:?}");
    }
}

// ---- limits ----

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_takes_more_memory_than_it_may_is_ended() {
    let bench = Bench::new();
    // `tail` keeps all of a line, of which there is only one here; each of two takes what both may take together.
    let mut spec =
        bench.spec("for i in 1 2; do setsid sh -c 'head -c 8000000000 /dev/zero | tail -n 1 | wc -c' & done; wait");
    spec.limits.memory_bytes = Some(64 << 20);
    let exit = bench.run(spec).await;
    assert_eq!((exit.outcome, exit.survivors), (ExitOutcome::MemoryLimit, 0), "{exit:?}");
    // What many share counts once: forty shells are far more than this together if it does not.
    let mut spec = bench.spec("i=0; while [ $((i+=1)) -le 40 ]; do (sleep 0.6; :) & done; wait");
    spec.limits.memory_bytes = Some(64 << 20);
    assert_eq!(bench.run(spec).await.outcome, ExitOutcome::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_more_processes_than_it_may_have_is_ended() {
    let bench = Bench::new();
    // Bounded, so that a test that fails does not fill the machine: two to the power of nine shells, and as many sleeps.
    let mut spec = bench.spec("b() { [ $1 -gt 0 ] && { b $(($1-1)) & b $(($1-1)) & }; setsid sleep 60; }; b 9; wait");
    spec.limits.processes = Some(100);
    let exit = bench.run(spec).await;
    assert_eq!((exit.outcome, exit.survivors), (ExitOutcome::ProcessLimit, 0), "{exit:?}");
    assert!(bench.marked().is_empty());
    let mut spec = bench.spec("for i in 1 2 3 4 5; do sleep 0.5 & done; wait");
    spec.limits.processes = Some(100);
    assert_eq!(bench.run(spec).await.outcome, ExitOutcome::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_and_the_size_of_files_are_limited_for_all_a_command_starts_and_cannot_be_raised() {
    let bench = Bench::new();
    let mut spec = bench.spec("");
    (spec.limits.open_files, spec.limits.file_bytes, spec.limits.niceness) = (Some(77), Some(51_200), 7);
    // What it prints is no file of its own, and may be more.
    spec.argv = shell(
        "head -c 60000 /dev/zero | tr '\\0' '\\n'; ulimit -n; sh -c 'ulimit -n; ulimit -f'; ulimit -n 4000 2>/dev/null || echo refused; nice",
    );
    let exit = bench.run(spec).await;
    assert!(exit.output_bytes > 60_000 && exit.left_out == 0, "{exit:?}");
    let own = String::from_utf8(Command::new("nice").output().unwrap().stdout).unwrap();
    let nice = (own.trim().parse::<i32>().unwrap() + 7).min(19);
    assert!(exit.tail.ends_with(&format!("77\n77\n100\nrefused\n{nice}\n")), "{exit:?}");
    let mut spec = bench.spec("exec head -c 60000 /dev/zero > file");
    spec.limits.file_bytes = Some(51_200);
    let exit = bench.run(spec).await;
    assert_eq!(exit.outcome, ExitOutcome::Signal(25), "{exit:?}");
    assert_eq!(fs::metadata(bench.path("file")).unwrap().len(), 51_200);
}

// ---- the end of a tree ----

/// Everything a command can do to stay, one line each. Every line ends with something that goes on for long. What
/// forks is bounded, so that a test that fails does not fill the machine.
const STAYERS: [&str; 8] = [
    "sleep 600",
    "setsid sleep 600 & sleep 600",
    "(setsid sh -c '(sleep 600 &) ; (sleep 600 &)' &) ; sleep 600",
    "nohup sleep 600 >/dev/null 2>&1 & trap '' HUP; sleep 600",
    "trap '' TERM INT HUP; sh -c 'sleep 600; sleep 600'; sleep 600; sleep 600; while :; do sleep 600; done",
    "sleep 600 & kill -STOP $!; setsid sh -c 'trap \"\" TERM; kill -STOP $$' & sleep 600",
    "trap '' TERM; i=0; while [ $((i+=1)) -lt 2000 ]; do (sleep 60 &) ; done; sleep 600",
    "env -i setsid sh -c 'trap \"\" TERM; i=0; while [ $((i+=1)) -lt 9999 ]; do setsid sleep 0.01; done' & sleep 600",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_survives_the_deadline() {
    let mut runs = tokio::task::JoinSet::new();
    for script in STAYERS {
        runs.spawn(async move {
            let bench = Bench::new();
            let mut spec = bench.spec(script);
            spec.deadline = NEAR;
            let exit = bench.run(spec).await;
            assert_eq!((exit.outcome, exit.survivors), (ExitOutcome::TimedOut, 0), "{script}");
            assert!(exit.killed >= 1, "{script}: {exit:?}");
            assert!(bench.marked().is_empty() && bench.supervisor().is_none(), "{script}");
        });
    }
    while let Some(ended) = runs.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_forks_while_it_is_killed_is_caught() {
    let bench = Bench::new();
    let link = bench.path("link");
    fs::write(&link, "#!/bin/sh\ntrap '' TERM\n[ $1 -gt 0 ] && setsid \"$0\" $(($1-1)) &\nexit 0\n").unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o700)).unwrap();
    let exit = bench.run(bench.spec("./link 20000")).await;
    assert_eq!((exit.outcome, exit.survivors), (ExitOutcome::Code(0), 0), "{exit:?}");
    assert!(bench.marked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_command_is_asked_before_it_is_killed() {
    let bench = Bench::new();
    let mut spec = bench.spec("trap 'echo tidied; exit 0' TERM; : > up; while :; do sleep 0.02; done");
    spec.grace = PATIENCE;
    let (run, cancel) = bench.launch(spec).await;
    cancel.cancel();
    let exit = within("the run ends", run).await.unwrap().unwrap();
    assert_eq!(exit.outcome, ExitOutcome::Cancelled);
    assert!(exit.tail.ends_with("tidied\n"), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_returns_only_when_its_tree_is_gone() {
    let bench = Bench::new();
    let (run, cancel) = bench.launch(bench.spec("trap '' TERM; setsid sleep 600 & : > up; sleep 600; sleep 600")).await;
    cancel.cancel();
    let exit = within("the run ends", run).await.unwrap().unwrap();
    assert_eq!((exit.outcome, exit.survivors), (ExitOutcome::Cancelled, 0));
    assert!(bench.marked().is_empty() && bench.supervisor().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_cancelled_before_it_began_starts_nothing() {
    let bench = Bench::new();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let exit = bench.runner.run(bench.spec(": > up"), &cancel).await.unwrap();
    assert_eq!((exit.outcome, exit.pid), (ExitOutcome::Cancelled, 0));
    assert!(!bench.path("up").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grandchild_holding_the_output_open_does_not_keep_the_run() {
    let bench = Bench::new();
    let mut spec = bench.spec("setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' & echo done");
    // Whatever grace a run has, leftovers get less: it is over two seconds after its command.
    spec.grace = PATIENCE;
    let exit = bench.run(spec).await;
    println!("over {:?} after its start", exit.duration);
    assert!(exit.duration < PATIENCE / 3, "{exit:?}");
    assert_eq!((exit.outcome, exit.tail.as_str(), exit.survivors), (ExitOutcome::Code(0), "done\n", 0));
    assert!(exit.killed >= 1 && bench.marked().is_empty(), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_about_to_end_are_let_to_end() {
    let bench = Bench::new();
    let exit = bench.run(bench.spec("(sleep 0.03; echo last) & exit 0")).await;
    assert_eq!((exit.tail.as_str(), exit.killed), ("last\n", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_run_ends_it() {
    let bench = Bench::new();
    let (run, _cancel) =
        bench.launch(bench.spec("trap '' TERM; setsid sleep 600 & : > up; sleep 600; sleep 600")).await;
    run.abort();
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_never_killed() {
    let bench = Bench::new();
    let mut plain = Command::new("sleep").arg("600").spawn().unwrap();
    let mut other = Command::new("sleep").arg("600").env(MARK_VARIABLE, "somebody/else").spawn().unwrap();
    let mut spec = bench
        .spec("trap '' TERM; setsid sleep 600 & i=0; while [ $((i+=1)) -lt 2000 ]; do (sleep 60 &) ; done; sleep 600");
    spec.deadline = Duration::from_millis(300);
    bench.run(spec).await;
    let swept = tokio::task::spawn_blocking(|| sweep("bench-that-never-ran", GRACE)).await.unwrap();
    assert_eq!((swept.killed, swept.survivors), (0, 0));
    for stranger in [&mut plain, &mut other] {
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

// ---- the lock ----

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_held_until_the_tree_is_gone_even_without_the_daemons_handle() {
    let bench = Bench::new();
    let lock = File::create(bench.path("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut spec = bench.spec("trap '' TERM; setsid sleep 600 & : > up; sleep 600; sleep 600");
    spec.lock = Some(Arc::new(lock));
    let (run, _cancel) = bench.launch(spec).await;
    let rival = File::open(bench.path("lock")).unwrap();
    let free = || flock(&rival, FlockOperation::NonBlockingLockExclusive).is_ok();
    assert!(!free());
    run.abort();
    // The future and with it the daemon's handle go first; whoever gets the lock then must find nothing left.
    eventually("the lock is free", free).await;
    assert!(bench.marked().is_empty());
}

/// Not a test by itself: the test below runs it alone in its process, because a process that another test starts has every
/// open file, and so the lock, until it has become the program it is to be.
#[tokio::test(flavor = "multi_thread")]
async fn plays_a_run_under_a_lock_when_asked() {
    if std::env::var_os("PLAY_LOCK").is_none() {
        return;
    }
    let bench = Bench::new();
    let lock = File::create(bench.path("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut spec = bench.spec("true");
    spec.lock = Some(Arc::new(lock));
    bench.run(spec).await;
    flock(File::open(bench.path("lock")).unwrap(), FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn the_lock_is_free_when_the_run_returns() {
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", "plays_a_run_under_a_lock_when_asked"]).env("PLAY_LOCK", "1");
    let played = alone.output().unwrap();
    let said = String::from_utf8_lossy(&played.stdout);
    assert!(played.status.success() && said.contains("1 passed"), "{said}");
}

// ---- deaths ----

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_supervisor_left_is_found_by_its_mark() {
    let bench = Bench::new();
    let script = "trap '' TERM; setsid sleep 600 & (env -i sleep 600) & : > up; sleep 600; sleep 600";
    let (run, _cancel) = bench.launch(bench.spec(script)).await;
    kill_hard(bench.supervisor().unwrap());
    let lost = within("the loss is noticed", run).await.unwrap().unwrap_err();
    assert!(matches!(lost, ProcessError::HelperLost { killed: 3.., survivors: 0, .. }), "{lost}");
    assert!(bench.marked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finishing_command_ends_by_itself_when_its_supervisor_is_lost() {
    let bench = Bench::new();
    let mut spec = bench.spec(": > up; while [ ! -e go ]; do sleep 0.01; done; : > finished");
    spec.when_daemon_dies = WhenDaemonDies::Finish;
    let (run, _cancel) = bench.launch(spec).await;
    kill_hard(bench.supervisor().unwrap());
    eventually("the supervisor is gone", || bench.supervisor().is_none()).await;
    fs::write(bench.path("go"), "").unwrap();
    let lost = within("the loss is noticed", run).await.unwrap().unwrap_err();
    assert!(matches!(lost, ProcessError::HelperLost { killed: 0, survivors: 0, .. }), "{lost}");
    assert!(bench.path("finished").exists());
}

/// Not a test by itself: the process that plays the daemon in the tests below, which start it and kill it.
#[tokio::test(flavor = "multi_thread")]
async fn plays_the_daemon_when_asked() {
    let Some(dir) = std::env::var_os("PLAY_DIR").map(PathBuf::from) else { return };
    let script = "trap '' TERM; setsid sleep 600 & echo $! > other; echo $$ > up.new; mv up.new up; \
                  while [ ! -e go ]; do sleep 0.01; done; kill -9 $(cat other); : > finished";
    let mut spec = spec_in(&dir, &std::env::var("PLAY_MARK").unwrap(), script);
    if std::env::var("PLAY_POLICY").unwrap() == "finish" {
        spec.when_daemon_dies = WhenDaemonDies::Finish;
    }
    let runner = Runner::new(env!("CARGO_BIN_EXE_slugline").into());
    runner.run(spec, &CancellationToken::new()).await.unwrap();
}

/// Starts a daemon that runs a command, and kills the daemon once the command is up.
async fn kill_a_daemon(bench: &Bench, policy: &str) {
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plays_the_daemon_when_asked"])
        .envs([("PLAY_DIR", bench.dir.path().as_os_str()), ("PLAY_MARK", bench.mark.as_ref())])
        .env("PLAY_POLICY", policy)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    bench.is_up().await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemons_death_ends_what_it_ran() {
    let bench = Bench::new();
    kill_a_daemon(&bench, "kill").await;
    bench.nothing_is_left().await;
    assert!(!is_alive(pid_in(&bench.path("up"))) && !bench.path("finished").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemons_death_lets_git_finish_and_the_next_daemons_sweep_too() {
    let bench = Bench::new();
    kill_a_daemon(&bench, "finish").await;
    let mark = bench.mark.clone();
    let swept = tokio::task::spawn_blocking(move || sweep(&mark, GRACE)).await.unwrap();
    assert!(swept.killed == 0 && swept.left_to_finish >= 2, "{swept:?}");
    assert!(is_alive(pid_in(&bench.path("up"))));
    fs::write(bench.path("go"), "").unwrap();
    bench.nothing_is_left().await;
    assert!(bench.path("finished").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_ends_what_daemon_and_supervisor_left_when_both_died() {
    let bench = Bench::new();
    kill_a_daemon_and_its_supervisor(&bench).await;
    assert!(!bench.marked().is_empty());
    let mark = bench.mark.clone();
    let swept = tokio::task::spawn_blocking(move || sweep(&mark, GRACE)).await.unwrap();
    assert!(swept.killed >= 2 && swept.survivors == 0 && swept.left_to_finish == 0, "{swept:?}");
    assert!(bench.marked().is_empty());
}

/// The supervisor is stopped first, so that it cannot act on the daemon's death.
async fn kill_a_daemon_and_its_supervisor(bench: &Bench) {
    let watcher = async {
        bench.is_up().await;
        let supervisor = bench.supervisor().unwrap();
        let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        supervisor
    };
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plays_the_daemon_when_asked"])
        .envs([("PLAY_DIR", bench.dir.path().as_os_str()), ("PLAY_MARK", bench.mark.as_ref())])
        .env("PLAY_POLICY", "kill")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let supervisor = watcher.await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    kill_hard(supervisor);
    eventually("the supervisor is gone", || bench.supervisor().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_ends_a_supervisor_that_hangs() {
    let bench = Bench::new();
    let (run, _cancel) = bench.launch(bench.spec("setsid sleep 600 & : > up; sleep 600; sleep 600")).await;
    let supervisor = rustix::process::Pid::from_raw(bench.supervisor().unwrap()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::STOP).unwrap();
    let mark = bench.mark.clone();
    let swept = tokio::task::spawn_blocking(move || sweep(&mark, GRACE)).await.unwrap();
    assert!(swept.killed >= 3 && swept.survivors == 0, "{swept:?}");
    let lost = within("the loss is noticed", run).await.unwrap().unwrap_err();
    assert!(matches!(lost, ProcessError::HelperLost { killed: 0, survivors: 0, .. }), "{lost}");
}
