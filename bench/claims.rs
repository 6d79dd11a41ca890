//! How many claims and completes per second are durable: so many workers take todos and complete them, one after the
//! other, until none is left. Prints one line of JSON. `bench/claims` runs it beside other queues and draws the table.
//!
//! What is timed is the dispatcher with the real ledger on a real disk: every grant and every end is committed
//! (`synchronous=FULL`) before its worker hears of it. Preparing worktrees and running gates is left out, since the
//! queues beside it do nothing of the kind. With `--http` every call also pays for an exchange with the daemon's own
//! server on a connection of the worker's, as a client would.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use slugline::actors::dispatcher::DispatcherMsg;
use slugline::actors::repo::Base;
use slugline::cli::client::Client;
use slugline::config::{Config, Flags};
use slugline::model::desk::{Claimed, Completed};
use slugline::model::ids::{Lane, Worker};
use slugline::model::todo::{Asker, Circumstances, Complete, Outcome};
use slugline::runtime::{Daemon, Doors};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(60);

struct Options {
    workers: usize,
    jobs: usize,
    http: bool,
    data: PathBuf,
}

fn options() -> Options {
    let mut options = Options { workers: 8, jobs: 5_000, http: false, data: std::env::temp_dir() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--workers" => options.workers = value().parse().expect("a number"),
            "--jobs" => options.jobs = value().parse().expect("a number"),
            "--data" => options.data = value().into(),
            "--http" => options.http = true,
            // What `cargo bench` adds.
            "--bench" => {}
            other => panic!("{other} is not one of --workers N, --jobs N, --data DIR, --http"),
        }
    }
    options
}

fn git(dir: &std::path::Path, args: &[&str]) {
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
        .status()
        .expect("git starts");
    assert!(status.success(), "git {args:?}");
}

/// One worker's way to the server: a request whose answer costs next to nothing, on a connection that stays.
struct Line {
    stream: tokio::net::TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Line {
    async fn exchange(&mut self) {
        self.stream.write_all(&self.request).await.expect("sends");
        let read = self.stream.read(&mut self.buffer).await.expect("reads");
        assert!(read > 0 && self.buffer.starts_with(b"HTTP/1.1 200"), "the server answers");
    }
}

struct Team {
    handle: slugline::actors::Handle,
    base: Arc<Base>,
}

impl Team {
    async fn work(self: Arc<Self>, number: usize, mut line: Option<Line>) -> Vec<f64> {
        let asker = Asker {
            lane: Lane::parse("builder").expect("lane"),
            worker: Worker::parse(&format!("w{number}")).expect("worker"),
        };
        let (context, mut took) = (self.handle.context().clone(), Vec::new());
        let repo = context.repo(None).expect("one repository").repo.name().clone();
        loop {
            let begun = Instant::now();
            if let Some(line) = &mut line {
                line.exchange().await;
            }
            let (repo, base, asker) = (repo.clone(), self.base.clone(), asker.clone());
            let asked = context.dispatcher.ask(LIMIT, |reply| DispatcherMsg::Next { repo, base, asker, reply });
            let claim = match asked.await.expect("answers").expect("is written") {
                Claimed::Granted { claim, .. } => claim,
                Claimed::Nothing => return took,
                other => panic!("{other:?}"),
            };
            if let Some(line) = &mut line {
                line.exchange().await;
            }
            let complete = Complete {
                token: claim.token,
                outcome: Outcome::Done,
                summary: None,
                reason: None,
                review: None,
                findings: None,
            };
            let around = Circumstances { review_required: false, on_base: true, operation: None, no_fault: false };
            let todo = claim.todo.clone();
            let asked = context.dispatcher.ask(LIMIT, |reply| DispatcherMsg::Judged { todo, complete, around, reply });
            let completed = asked.await.expect("answers").expect("is written");
            assert!(matches!(completed, Completed::Counted { repeated: false, .. }), "{completed:?}");
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
}

/// The time one write of 4 KiB takes to be on disk, in milliseconds: the median of a hundred.
fn fsync_ms(dir: &std::path::Path) -> f64 {
    use std::io::Write as _;
    let mut file = std::fs::File::create(dir.join("fsync")).expect("makes");
    let mut all: Vec<f64> = (0..100)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&[7; 4_096]).expect("writes");
            file.sync_data().expect("syncs");
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[50]
}

fn main() {
    let options = options();
    let dir = tempfile::tempdir_in(&options.data).expect("makes");
    let repo = dir.path().join("app");
    std::fs::create_dir_all(repo.join("todos")).expect("makes");
    let roadmap: String = (0..options.jobs).map(|number| format!("- slug: t{number}\n")).collect();
    std::fs::write(repo.join("todos/roadmap.yaml"), roadmap).expect("writes");
    for args in
        [&["init", "--quiet", "--initial-branch", "main"][..], &["add", "--all"], &["commit", "--quiet", "-m", "b"]]
    {
        git(&repo, args);
    }
    let sync_ms = fsync_ms(dir.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let settings =
            vec![("listen", "127.0.0.1:0".to_owned()), ("data_dir", dir.path().join("data").display().to_string())];
        let flags = Flags { settings, repos: vec![repo] };
        let config = Config::load(&flags, &std::collections::BTreeMap::new(), None).expect("a configuration");
        let daemon = Daemon::build(&config, Doors::real(slugline::actors::health::turning::Workers::unwatched()))
            .await
            .expect("builds");
        let (handle, address) = (daemon.handle.clone(), daemon.address);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(daemon.serve(async {
            let _ = stopped.await;
        }));
        let live = Client::tcp(address, None).get("/livez").await.expect("answers");
        assert_eq!(live.status, 200);
        let entry = handle.context().repo(None).expect("one").repo.clone();
        let base = tokio::task::spawn_blocking(move || entry.base()).await.expect("reads").expect("is there");
        let team = Arc::new(Team { handle: handle.clone(), base });
        let mut lines = Vec::new();
        for _ in 0..options.workers {
            lines.push(if options.http {
                let stream = tokio::net::TcpStream::connect(address).await.expect("connects");
                stream.set_nodelay(true).expect("sets");
                let request = format!("GET /livez HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
                Some(Line { stream, request, buffer: vec![0; 4_096] })
            } else {
                None
            });
        }
        let before = handle.context().ledger.store().expect("open").stats();
        let begun = Instant::now();
        let workers = lines.into_iter().enumerate().map(|(number, line)| tokio::spawn(team.clone().work(number, line)));
        let mut took: Vec<f64> = Vec::new();
        for worker in futures_util::future::join_all(workers).await {
            took.extend(worker.expect("no panic"));
        }
        let seconds = begun.elapsed().as_secs_f64();
        let after = handle.context().ledger.store().expect("open").stats();
        assert_eq!(took.len(), options.jobs, "every job was done once");
        took.sort_by(f64::total_cmp);
        let quantile = |per_mille: usize| took[(took.len() - 1) * per_mille / 1_000];
        #[expect(clippy::cast_precision_loss, reason = "numbers of jobs")]
        let (per_second, per_commit) = (
            options.jobs as f64 / seconds,
            (after.batches - before.batches) as f64 / (after.commits - before.commits).max(1) as f64,
        );
        println!(
            "{}",
            json!({
                "rival": if options.http { "slugline-http" } else { "slugline" },
                "workers": options.workers,
                "jobs": options.jobs,
                "seconds": seconds,
                "per_second": per_second,
                "p50_ms": quantile(500),
                "p99_ms": quantile(990),
                "writes_per_commit": per_commit,
                "fsync_ms": sync_ms,
            })
        );
        drop(stop);
        let _ = serving.await;
    });
}
