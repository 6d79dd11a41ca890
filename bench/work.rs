//! What asking for work costs, beside what one would do instead, in one run: medians of interleaved rounds, one table,
//! and the same as JSON in `bench/out/latest.json`. `bench/run` builds and runs it; `--quick` takes smaller numbers.
//!
//! The daemon under test is a process of its own with its default settings and its log in a file, except for the last
//! row, which looks at the lag inside the runtime and so has the daemon in this process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// One row of the table.
struct Row {
    what: String,
    ours: String,
    rival: String,
    ratio: f64,
    goal: String,
    met: bool,
}

/// A keep-alive connection that sends one request after the other.
struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
    head: String,
}

impl Http {
    fn connect(address: SocketAddr, token: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
        Self { stream, buffer: Vec::new(), head: format!("Host: {address}\r\nAuthorization: Bearer {token}\r\n") }
    }

    /// Sends a request, reads the whole answer, says its status and body.
    fn send(&mut self, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let request =
            format!("{method} {path} HTTP/1.1\r\n{}{kind}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).expect("sends");
        self.buffer.clear();
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
                let length: usize =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
                if self.buffer.len() >= end + 4 + length {
                    let status = head[9..12].parse().expect("a status");
                    return (status, self.buffer[end + 4..end + 4 + length].to_vec());
                }
            }
            let read = self.stream.read(&mut chunk).expect("reads");
            assert!(read > 0, "the daemon closed the connection");
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }

    fn work(&mut self, slug: &str) -> Value {
        let body = json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 }).to_string();
        let (status, answer) = self.send("POST", "/todos/work", &body);
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        assert_eq!(status, 200, "{slug}: {answer}");
        answer
    }
}

/// A daemon in a process of its own; ended when dropped.
struct Daemon {
    child: Child,
    address: SocketAddr,
    token: String,
}

impl Daemon {
    fn start(repo: &Path, data: &Path) -> Self {
        Self::with(repo, data, "")
    }

    /// With a configuration of its own.
    fn with(repo: &Path, data: &Path, settings: &str) -> Self {
        std::fs::create_dir_all(data).expect("makes");
        std::fs::write(data.join("slugline.toml"), settings).expect("writes");
        let log = std::fs::File::create(data.join("log")).expect("log");
        let child = Command::new(env!("CARGO_BIN_EXE_slugline"))
            .args(["serve", "--listen", "127.0.0.1:0", "--repo"])
            .arg(repo)
            .arg("--data-dir")
            .arg(data)
            .arg("--config")
            .arg(data.join("slugline.toml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let begun = Instant::now();
        let address = loop {
            if let Some(address) =
                std::fs::read_to_string(data.join("address")).ok().and_then(|text| text.trim().parse().ok())
            {
                break address;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the daemon did not start");
            std::thread::park_timeout(Duration::from_millis(10));
        };
        let token = std::fs::read_to_string(data.join("token")).expect("token").trim().to_owned();
        Self { child, address, token }
    }

    fn http(&self) -> Http {
        Http::connect(self.address, &self.token)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn git(dir: &Path, args: &[&str]) {
    let status = Command::new("git")
        .args(args)
        .current_dir(dir)
        .envs([
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_NAME", "B"),
            ("GIT_AUTHOR_EMAIL", "b@localhost"),
            ("GIT_COMMITTER_NAME", "B"),
            ("GIT_COMMITTER_EMAIL", "b@localhost"),
        ])
        .stdout(Stdio::null())
        .status()
        .expect("git starts");
    assert!(status.success(), "git {args:?}");
}

/// A repository of so many files and todos named `t0`, `t1`, ...
fn repository(path: &Path, files: usize, todos: usize, settings: &str) -> PathBuf {
    std::fs::create_dir_all(path.join("todos/t0")).expect("makes");
    for number in 0..files {
        let dir = path.join(format!("src/{}", number / 100));
        std::fs::create_dir_all(&dir).expect("makes");
        std::fs::write(dir.join(format!("f{number}.rs")), format!("// {number}\n").repeat(40)).expect("writes");
    }
    std::fs::write(
        path.join("todos/roadmap.yaml"),
        (0..todos).map(|number| format!("- slug: t{number}\n")).collect::<String>(),
    )
    .expect("writes");
    std::fs::write(path.join("todos/t0/requirements.md"), "# t0\n").expect("writes");
    std::fs::write(path.join(".slugline.toml"), settings).expect("writes");
    git(path, &["init", "--quiet", "--initial-branch", "main"]);
    git(path, &["add", "--all"]);
    git(path, &["commit", "--quiet", "--message", "bench"]);
    path.to_owned()
}

/// So many times, in microseconds, sorted.
fn times(count: usize, mut run: impl FnMut()) -> Vec<f64> {
    let mut all: Vec<f64> = (0..count)
        .map(|_| {
            let begun = Instant::now();
            run();
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a sample"
    )]
    let index = ((sorted.len() - 1) as f64 * q).round() as usize;
    sorted[index]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// Rounds of two things side by side: the median over the rounds of each one's quantile.
fn side_by_side(
    rounds: usize,
    q: f64,
    mut ours: impl FnMut() -> Vec<f64>,
    mut rival: impl FnMut() -> Vec<f64>,
) -> (f64, f64) {
    let (a, b): (Vec<f64>, Vec<f64>) = (0..rounds).map(|_| (quantile(&ours(), q), quantile(&rival(), q))).unzip();
    (median(a), median(b))
}

fn show(us: f64) -> String {
    if us < 1_000.0 {
        format!("{us:.0} µs")
    } else if us < 1e6 {
        format!("{:.1} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

fn row(what: impl Into<String>, ours: f64, rival: f64, goal: &str, met: bool) -> Row {
    Row { what: what.into(), ours: show(ours), rival: show(rival), ratio: ours / rival, goal: goal.to_owned(), met }
}

const NOTHING: &str = "[prepare]\ncommand = \"true\"\ninputs = [\"Cargo.lock\"]\n";

/// Rows 1 and 2: a repeated call, beside /livez and beside doing everything again.
fn repeated(dir: &Path, scale: &Scale, rows: &mut Vec<Row>) {
    let repo = repository(&dir.join("repeat"), 3_000, 1, NOTHING);
    let daemon = Daemon::start(&repo, &dir.join("repeat-data"));
    let (mut work, mut live) = (daemon.http(), daemon.http());
    work.work("t0");
    for (q, name, limit) in [(0.5, "p50", 2.0), (0.99, "p99", 3.0)] {
        let (ours, rival) = side_by_side(
            scale.rounds,
            q,
            || times(scale.calls, || drop(work.work("t0"))),
            || times(scale.calls, || assert_eq!(live.send("GET", "/livez", "").0, 200)),
        );
        rows.push(row(
            format!("repeated work, nothing changed, {name} (3,000 files, {} × {})", scale.rounds, scale.calls),
            ours,
            rival,
            &format!("≤ {limit}× GET /livez"),
            ours <= limit * rival,
        ));
    }
    // On a daemon whose own duties rest: what they write is no call's.
    let every = slugline::model::job::JobName::ALL.map(|job| format!("{}_every_ms = 0\n", job.as_str()));
    let own = repository(&dir.join("quiet"), 3_000, 1, NOTHING);
    let quiet = Daemon::with(&own, &dir.join("quiet-data"), &format!("[jobs]\n{}", every.concat()));
    let mut alone = quiet.http();
    alone.work("t0");
    rows.extend(syscalls(&quiet, &mut alone));
    drop((quiet, alone));
    let worktree = dir.join("repeat-data/worktrees/repeat/t0");
    let again = || {
        assert!(
            Command::new("/bin/sh")
                .args(["-c", "true"])
                .current_dir(&worktree)
                .status()
                .is_ok_and(|status| status.success())
        );
        git(&worktree, &["merge", "--quiet", "--no-edit", "main"]);
        git(&worktree, &["checkout", "--quiet", "main", "--", "todos/t0"]);
    };
    let (ours, rival) =
        side_by_side(scale.rounds, 0.5, || times(scale.calls, || drop(work.work("t0"))), || times(10, again));
    rows.push(row(
        "the same, p50, beside a prepare that does nothing (`true`), merge and todo copy in every request",
        ours,
        rival,
        "≤ 1/1000",
        rival >= 1_000.0 * ours,
    ));
    // What such a design runs in truth: a package manager that finds everything installed.
    std::fs::write(worktree.join("package.json"), "{\"name\":\"bench\",\"version\":\"1.0.0\"}\n").expect("writes");
    let npm = || {
        Command::new("npm")
            .args(["install", "--offline", "--no-audit", "--no-fund"])
            .current_dir(&worktree)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    };
    if npm().is_ok_and(|status| status.success()) {
        let again = || {
            assert!(npm().is_ok_and(|status| status.success()));
            git(&worktree, &["merge", "--quiet", "--no-edit", "main"]);
            git(&worktree, &["checkout", "--quiet", "main", "--", "todos/t0"]);
        };
        let (ours, rival) = side_by_side(3, 0.5, || times(scale.calls, || drop(work.work("t0"))), || times(3, again));
        rows.push(row(
            "the same, p50, beside `npm install` with nothing to install, merge and todo copy in every request",
            ours,
            rival,
            "≤ 1/1000",
            rival >= 1_000.0 * ours,
        ));
    }
}

/// System calls, started processes and writes of a warm call, counted by strace where it is installed.
fn syscalls(daemon: &Daemon, work: &mut Http) -> Option<Row> {
    const CALLS: u32 = 200;
    let out = tempfile::NamedTempFile::new().ok()?;
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-y", "-o"])
        .arg(out.path())
        .args(["-p", &daemon.child.id().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    // It is attached when a call shows up in its output.
    let begun = Instant::now();
    while std::fs::metadata(out.path()).map_or(0, |meta| meta.len()) == 0 && begun.elapsed() < Duration::from_secs(10) {
        work.work("t0");
    }
    let skip = std::fs::read_to_string(out.path()).ok()?.lines().count();
    for _ in 0..CALLS {
        work.work("t0");
    }
    let _ = Command::new("kill").args(["-INT", &strace.id().to_string()]).status();
    let _ = strace.wait();
    let text = std::fs::read_to_string(out.path()).ok()?;
    let calls: Vec<&str> = text
        .lines()
        .skip(skip)
        .filter_map(|line| line.split_once(' ').map(|(_, call)| call.trim_start()))
        .filter(|call| call.contains('(') && !call.starts_with("<...") && !call.starts_with("+++"))
        .collect();
    let started = calls
        .iter()
        .filter(|call| {
            call.starts_with("execve")
                || call.starts_with("fork")
                || call.starts_with("vfork")
                || call.starts_with("clone") && !call.contains("CLONE_THREAD")
        })
        .count();
    let is_write = |call: &&&str| {
        ["write(", "pwrite64(", "writev(", "rename", "unlink", "mkdir", "ftruncate", "fsync", "fdatasync"]
            .iter()
            .any(|name| call.starts_with(name))
    };
    let to_disk = calls
        .iter()
        .filter(is_write)
        .filter(|call| !["socket:", "eventfd", "pipe:", "/log>"].iter().any(|quiet| call.contains(quiet)))
        .count();
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let per_call = calls.len() as f64 / f64::from(CALLS);
    let met = per_call <= 64.0 && started == 0 && to_disk == 0;
    Some(Row {
        what: format!("the same: system calls per call (strace, {CALLS} calls)"),
        ours: format!("{per_call:.1}; {started} processes, {to_disk} writes besides log and socket"),
        rival: "–".to_owned(),
        ratio: f64::NAN,
        goal: "≤ 64, 0, 0".to_owned(),
        met,
    })
}

/// Row 3: the same with ten thousand todos known and a thousand worktrees.
fn many(dir: &Path, scale: &Scale, rows: &mut Vec<Row>) {
    let one = repository(&dir.join("one"), 20, 1, NOTHING);
    let all = repository(&dir.join("many"), 20, 10_000, NOTHING);
    let (few, many) = (Daemon::start(&one, &dir.join("one-data")), Daemon::start(&all, &dir.join("many-data")));
    eprintln!("making {} worktrees …", scale.worktrees);
    std::thread::scope(|scope| {
        for lane in 0..8 {
            let mut http = many.http();
            scope.spawn(move || {
                (lane..scale.worktrees).step_by(8).for_each(|number| drop(http.work(&format!("t{number}"))))
            });
        }
    });
    let (mut a, mut b) = (many.http(), few.http());
    b.work("t0");
    let mut turn = 0;
    let mut ours = || {
        times(scale.calls, || {
            turn = (turn + 1) % 8;
            a.work(&format!("t{}", turn * scale.worktrees / 8));
        })
    };
    let (ours, rival) = side_by_side(scale.rounds, 0.5, &mut ours, || times(scale.calls, || drop(b.work("t0"))));
    rows.push(row(
        format!("the same, p50, with 10,000 todos known and {} worktrees, beside one of each", scale.worktrees),
        ours,
        rival,
        "≤ 1.2×",
        ours <= 1.2 * rival,
    ));
}

/// Row 4: first work on a new todo, beside `git worktree add` alone.
fn first(dir: &Path, scale: &Scale, rows: &mut Vec<Row>) {
    let repo = repository(&dir.join("first"), 3_000, 200, "");
    let daemon = Daemon::start(&repo, &dir.join("first-data"));
    let mut http = daemon.http();
    http.work("t0");
    let (mut next, mut alone) = (1, 0);
    let ours = || {
        times(1, || {
            http.work(&format!("t{next}"));
            next += 1;
        })
    };
    let rival = || {
        times(1, || {
            alone += 1;
            let target = dir.join(format!("alone/{alone}"));
            git(
                &repo,
                &[
                    "worktree",
                    "add",
                    "--quiet",
                    "--no-track",
                    "-b",
                    &format!("alone-{alone}"),
                    target.to_str().expect("utf-8"),
                    "main",
                ],
            );
        })
    };
    let (ours, rival) = side_by_side(scale.firsts, 0.5, ours, rival);
    rows.push(row(
        format!("first work on a new todo, no prepare (3,000 files, {} of each)", scale.firsts),
        ours,
        rival,
        "≤ 1.2× git worktree add",
        ours <= 1.2 * rival,
    ));
}

/// Row 5: sixty-four calls at once for one todo that needs prepare.
fn crowd(dir: &Path, rows: &mut Vec<Row>) {
    let runs = dir.join("crowd-runs");
    let repo = repository(
        &dir.join("crowd"),
        20,
        10,
        &format!("[prepare]\ncommand = \"echo run >> {}; sleep 1\"\n", runs.display()),
    );
    let daemon = Daemon::start(&repo, &dir.join("crowd-data"));
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let slug = format!("t{round}");
        let begun = Instant::now();
        let mut ended: Vec<f64> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..64)
                .map(|_| {
                    let (mut http, slug) = (daemon.http(), slug.as_str());
                    scope.spawn(move || {
                        http.work(slug);
                        begun.elapsed().as_secs_f64() * 1e6
                    })
                })
                .collect();
            calls.into_iter().map(|call| call.join().expect("answers")).collect()
        });
        ended.sort_by(f64::total_cmp);
        firsts.push(ended[0]);
        lasts.push(ended[63]);
    }
    let prepares = std::fs::read_to_string(runs).map_or(0, |text| text.lines().count());
    let (last, first) = (median(lasts), median(firsts));
    rows.push(row(
        format!("64 calls at once for one todo: last answer beside the first ({prepares} prepares in 5 rounds)"),
        last,
        first,
        "1 prepare each; ≤ 1.05×",
        prepares == 5 && last <= 1.05 * first,
    ));
}

/// A prepare that keeps a core busy for some seconds.
const BUSY: &str = "[prepare]\ncommand = \"if [ $SLUGLINE_SLUG != t0 ]; then end=$(($(date +%s)+6)); while [ $(date +%s) -lt $end ]; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done; fi\"\n";

/// Row 6: a warm call's worst while sixteen others prepare.
fn beside_prepares(dir: &Path, scale: &Scale, rows: &mut Vec<Row>) {
    let repo = repository(&dir.join("beside"), 200, 20, BUSY);
    let daemon = Daemon::start(&repo, &dir.join("beside-data"));
    let mut http = daemon.http();
    http.work("t0");
    let idle = times(scale.calls * 2, || drop(http.work("t0")));
    let busy = AtomicBool::new(true);
    let loaded = std::thread::scope(|scope| {
        let calls: Vec<_> = (1..=16)
            .map(|number| {
                let mut other = daemon.http();
                scope.spawn(move || drop(other.work(&format!("t{number}"))))
            })
            .collect();
        std::thread::park_timeout(Duration::from_secs(1));
        let loaded = times(scale.calls * 2, || drop(http.work("t0")));
        busy.store(calls.iter().any(|call| !call.is_finished()), Ordering::SeqCst);
        loaded
    });
    assert!(busy.load(Ordering::SeqCst), "the prepares ended before the measurement");
    let (ours, rival) = (quantile(&loaded, 0.99), quantile(&idle, 0.99));
    rows.push(row(
        format!("another todo's warm p99 while 16 prepare, beside idle (N = {})", scale.calls * 2),
        ours,
        rival,
        "≤ 2×",
        ours <= 2.0 * rival,
    ));
}

/// Row 7: the lag of the runtime itself while sixteen CPU-bound prepares run.
fn lag(dir: &Path, rows: &mut Vec<Row>) {
    use slugline::config::{Config, Flags};
    let repo = repository(&dir.join("lag"), 200, 20, BUSY);
    let settings = vec![("listen", "127.0.0.1:0".to_owned()), ("data_dir", dir.join("lag-data").display().to_string())];
    let config =
        Config::load(&Flags { settings, repos: vec![repo] }, &std::collections::BTreeMap::new(), None).expect("valid");
    let (runtime, workers) = slugline::runtime::watched_runtime().expect("a runtime");
    let (lags, own, hangs) = runtime.block_on(async {
        let doors = slugline::runtime::Doors {
            runner: slugline::process::Runner::new(env!("CARGO_BIN_EXE_slugline").into()),
            ..slugline::runtime::Doors::real(workers)
        };
        let daemon = slugline::runtime::Daemon::build(&config, doors).await.expect("builds");
        let handle = daemon.handle.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(daemon.serve(async { drop(stopped.await) }));
        let done = Arc::new(AtomicBool::new(false));
        let until = done.clone();
        let sampler = tokio::spawn(async move {
            let mut lags = Vec::new();
            while !until.load(Ordering::SeqCst) {
                let begun = Instant::now();
                tokio::time::sleep(Duration::from_millis(10)).await;
                lags.push((begun.elapsed().as_secs_f64() - 0.010) * 1e6);
            }
            lags
        });
        let ask = |number: u32| {
            let request = json!({ "lane": "builder", "slug": format!("t{number}"), "wait_ms": 45_000 });
            handle
                .work(serde_json::from_value(request).expect("a request"), slugline::metrics::spans::begin(None, None))
        };
        for result in futures_util::future::join_all((1..=16).map(ask)).await {
            result.expect("prepares");
        }
        done.store(true, Ordering::SeqCst);
        let lags = sampler.await.expect("samples");
        let (own, hangs) = (handle.context().pulse.lag_view(), handle.context().pulse.counts().0);
        drop(stop);
        let _ = serving.await;
        (lags, own, hangs)
    });
    let mut lags = lags;
    lags.sort_by(f64::total_cmp);
    for (name, value, limit) in [("p99", quantile(&lags, 0.99), 10_000.0), ("max", quantile(&lags, 1.0), 50_000.0)] {
        rows.push(row(
            format!(
                "runtime lag while 16 CPU-bound prepares run, {name} (N = {}), beside the first document's 679 ms",
                lags.len()
            ),
            value,
            679_000.0,
            &format!("≤ {}", show(limit)),
            value <= limit,
        ));
    }
    rows.push(Row {
        what: format!("the same, as the daemon's own watchdog saw it: max (N = {}), and hangs", own.samples),
        ours: format!("{:.1} ms, {hangs}", own.max),
        rival: "–".to_owned(),
        ratio: f64::NAN,
        goal: "≤ 50.0 ms, 0".to_owned(),
        met: own.max <= 50.0 && hangs == 0,
    });
}

/// How much of everything.
struct Scale {
    rounds: usize,
    calls: usize,
    worktrees: usize,
    firsts: usize,
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let scale = if quick {
        Scale { rounds: 5, calls: 500, worktrees: 100, firsts: 5 }
    } else {
        Scale { rounds: 11, calls: 2_000, worktrees: 1_000, firsts: 15 }
    };
    let dir = tempfile::tempdir().expect("temp dir");
    let mut rows = Vec::new();
    repeated(dir.path(), &scale, &mut rows);
    many(dir.path(), &scale, &mut rows);
    first(dir.path(), &scale, &mut rows);
    crowd(dir.path(), &mut rows);
    beside_prepares(dir.path(), &scale, &mut rows);
    lag(dir.path(), &mut rows);
    println!("| what | ours | rival | ratio | goal | met |\n|---|---|---|---|---|---|");
    for Row { what, ours, rival, ratio, goal, met } in &rows {
        let ratio = if ratio.is_nan() { "–".to_owned() } else { format!("{ratio:.4}") };
        println!("| {what} | {ours} | {rival} | {ratio} | {goal} | {} |", if *met { "yes" } else { "**no**" });
    }
    let all: Vec<Value> = rows.iter().map(|row| json!({ "what": row.what, "ours": row.ours, "rival": row.rival, "ratio": row.ratio, "goal": row.goal, "met": row.met })).collect();
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/out");
    std::fs::create_dir_all(&out).expect("makes");
    std::fs::write(out.join("latest.json"), format!("{:#}\n", Value::from(all))).expect("writes");
}
