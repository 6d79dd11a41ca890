//! Eight ways to stay behind, by three endings and three ways to dress: nothing stays, and nobody else is harmed.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use slugline::process::{ExitOutcome, MARK_VARIABLE, sweep};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::scale::size;
use crate::{Bench, GRACE, eventually, is_alive, kill_hard, within};

const WAYS: [&str; 8] =
    ["group", "setsid", "double_fork", "daemonized", "nohup", "term_ignoring", "stopped", "forking"];
/// What it does to its environment, by which runs are found when nobody supervises them any more.
const DRESSES: [&str; 3] = ["keep", "bare", "mimic"];
/// Runs of each way with each ending.
const RUNS: [u64; 3] = [10, 200, 200];
/// Runs at once: most of a run is waiting.
const AT_ONCE: usize = 12;
/// The deadline: long enough to be up on a busy machine in most runs; one that is not up yet has to go as well.
const NEAR: Duration = Duration::from_millis(300);
/// What is promised: nothing is left so long after it was to end.
const OVER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Deadline,
    Cancel,
    Exit,
}

/// The program that stays behind, made once.
fn escape() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("temp dir");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/process/escape.c");
        let made = Command::new("cc").args(["-O1", "-o"]).arg(dir.path().join("escape")).arg(source).status();
        assert!(made.expect("a C compiler").success(), "{source} does not compile");
        dir
    });
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| dir.path().join("escape"))
}

/// Live processes with this directory among their arguments, whatever their environment says.
fn with_argument(dir: &Path) -> Vec<i32> {
    let wanted = dir.as_os_str().as_encoded_bytes();
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == wanted)
    })
    .filter(|pid| is_alive(*pid))
    .collect()
}

/// Somebody else's process: the same program, a session of its own, and whatever mark it likes.
struct Stranger {
    child: Child,
    dir: TempDir,
}

impl Stranger {
    fn new(mark: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(escape());
        command.args(["stranger", "-", "-"]).arg(dir.path()).env_remove(MARK_VARIABLE).process_group(0);
        command.envs(mark.map(|mark| (MARK_VARIABLE, mark))).stdin(Stdio::null());
        Self { child: command.spawn().unwrap(), dir }
    }

    async fn is_up(&self) {
        eventually("the stranger is up", || self.dir.path().join("stranger").exists()).await;
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One run that is left behind; it is over in time and nothing of it is there.
async fn one(way: &str, dress: &str, ending: Ending) {
    let bench = Bench::new();
    let mut spec = bench.spec("");
    let end = if ending == Ending::Exit { "exits" } else { "stays" };
    spec.argv = vec![escape().into(), way.into(), dress.into(), end.into(), bench.dir.path().into()];
    if ending == Ending::Deadline {
        spec.deadline = NEAR;
    }
    let cancel = CancellationToken::new();
    let run = bench.runner.run(spec, &cancel);
    let ask = async {
        match ending {
            Ending::Cancel => {
                bench.is_up().await;
                cancel.cancel();
            }
            Ending::Exit => bench.is_up().await,
            Ending::Deadline => {}
        }
        Instant::now()
    };
    let what = format!("{way}, {dress}, {ending:?}");
    let (exit, asked) = within(&what, async { tokio::join!(run, ask) }).await;
    let exit = exit.unwrap();
    let wanted = match ending {
        Ending::Deadline => ExitOutcome::TimedOut,
        Ending::Cancel => ExitOutcome::Cancelled,
        Ending::Exit => ExitOutcome::Code(0),
    };
    assert_eq!((exit.outcome, exit.survivors), (wanted, 0), "{what}: {exit:?}");
    let took = if ending == Ending::Deadline { exit.duration.saturating_sub(NEAR) } else { asked.elapsed() };
    assert!(took < OVER, "{what}: over only after {took:?}");
    assert_eq!(with_argument(bench.dir.path()), Vec::<i32>::new(), "{what}: left behind: {exit:?}");
    assert!(bench.supervisor().is_none(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_way_a_command_tries_to_stay_nothing_of_it_does_and_no_stranger_is_killed() {
    let runs = size("TEST_ESCAPES", RUNS);
    let mut strangers = [Stranger::new(None), Stranger::new(Some("somebody/else"))];
    for stranger in &strangers {
        stranger.is_up().await;
    }
    let mut going = JoinSet::new();
    for number in 0..runs {
        for way in WAYS {
            for ending in [Ending::Deadline, Ending::Cancel, Ending::Exit] {
                if going.len() >= AT_ONCE {
                    going.join_next().await.unwrap().unwrap();
                }
                let dress = DRESSES[usize::try_from(number).unwrap() % DRESSES.len()];
                going.spawn(one(way, dress, ending));
            }
        }
    }
    while let Some(ended) = going.join_next().await {
        ended.unwrap();
    }
    for stranger in &mut strangers {
        assert!(stranger.lives(), "somebody else's process was killed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_like_a_process_of_a_run_is_left_alone_when_its_supervisor_is_lost() {
    let bench = Bench::new();
    let mut strangers = [Stranger::new(None), Stranger::new(Some(&format!("{}0", bench.mark)))];
    for stranger in &strangers {
        stranger.is_up().await;
    }
    let mut spec = bench.spec("");
    spec.argv = vec![escape().into(), "setsid".into(), "keep".into(), "stays".into(), bench.dir.path().into()];
    let (run, _cancel) = bench.launch(spec).await;
    kill_hard(bench.supervisor().unwrap());
    let lost = within("the loss is noticed", run).await.unwrap().unwrap_err();
    assert!(lost.to_string().contains("2 processes of the run were ended, 0 could not be"), "{lost}");
    assert_eq!(with_argument(bench.dir.path()), Vec::<i32>::new());
    for stranger in &mut strangers {
        assert!(stranger.lives(), "somebody else's process was killed");
    }
}

// ---- ids that are given again ----

/// How many process ids there are in the small world.
const IDS: &str = "400";
/// Runs in it.
const ROUNDS: [u64; 3] = [10, 200, 200];

#[tokio::test(flavor = "multi_thread")]
async fn where_process_ids_are_given_again_at_once_no_stranger_is_killed() {
    let small_world = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
        command
    };
    // A kernel that has one number for all (before 6.14), or a sandbox without namespaces, cannot show this.
    let can = format!("echo {IDS} > /proc/sys/kernel/pid_max && cat /proc/sys/kernel/pid_max");
    let before = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let tried = small_world().args(["sh", "-c", &can]).output();
    let own = tried.as_ref().is_ok_and(|tried| tried.status.success() && tried.stdout.starts_with(IDS.as_bytes()));
    if !own || std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap() != before {
        println!("not shown: process ids cannot be made few for a part of this machine ({tried:?})");
        return;
    }
    let mut command = small_world();
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "escapes::plays_in_a_small_world_when_asked"]);
    command.args(["--nocapture"]).env("PLAY_SMALL_WORLD", "1").stdin(Stdio::null());
    let played = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success() && said.contains("ids were given again"), "{said}");
}

/// Not a test by itself: what goes on in the small world of the one above.
#[tokio::test(flavor = "multi_thread")]
async fn plays_in_a_small_world_when_asked() {
    if std::env::var_os("PLAY_SMALL_WORLD").is_none() {
        return;
    }
    std::fs::write("/proc/sys/kernel/pid_max", IDS).unwrap();
    let rounds = size("TEST_ID_ROUNDS", ROUNDS);
    escape();
    static OVER: AtomicBool = AtomicBool::new(false);
    // Strangers come and go all the while, so that what a run's process leaves free is theirs at once; each leads a group.
    let crowd = tokio::task::spawn_blocking(|| {
        let (mut seen, mut again) = (std::collections::HashSet::new(), 0_usize);
        while !OVER.load(Ordering::SeqCst) {
            let mut stranger = Command::new("/bin/true");
            stranger.process_group(0).env_remove(MARK_VARIABLE);
            // There may be no id free at this moment.
            let Ok(mut stranger) = stranger.spawn() else { continue };
            again += usize::from(!seen.insert(stranger.id()));
            let status = stranger.wait().unwrap();
            assert!(status.success(), "a stranger was ended: {status}");
        }
        again
    });
    let mut strangers: Vec<Stranger> = (0..5).map(|_| Stranger::new(None)).collect();
    for round in 0..rounds {
        let way = ["forking", "setsid", "double_fork"][usize::try_from(round).unwrap() % 3];
        one(way, "keep", Ending::Cancel).await;
        one(way, "keep", Ending::Exit).await;
        let swept = tokio::task::spawn_blocking(|| sweep("bench-that-never-ran", GRACE)).await.unwrap();
        assert_eq!(swept.killed, 0);
    }
    for stranger in &mut strangers {
        assert!(stranger.lives(), "somebody else's process was killed");
    }
    OVER.store(true, Ordering::SeqCst);
    let again = crowd.await.unwrap();
    assert!(again > 0, "no id was given twice, so this shows nothing");
    println!("{again} ids were given again");
}
