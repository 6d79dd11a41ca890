//! What every scenario stands on: a temporary directory with real git repositories, a daemon in this process with the
//! real supervisor program, and a client. Waits are for a condition, with a limit that names it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slugline::actors::Handle;
use slugline::actors::clock::Clock;
use slugline::actors::faults::Faults;
use slugline::actors::health::turning::Workers;
use slugline::cli::client::{Client, Reply};
use slugline::config::{Config, Flags};
use slugline::model::time::Timestamp;
use slugline::process::Runner;
use slugline::runtime::{Daemon, Doors, End};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::promises::Promises;
use crate::replay::Log;

/// How long anything a test waits for may take; a slow machine gets there, a hang does not.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition gives a value; fails with its name after [`PATIENCE`].
pub async fn until<T, F, Fut>(what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    loop {
        beat.tick().await;
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
    }
}

/// A git repository with a work tree on branch `main`.
#[derive(Debug, Clone)]
pub struct Repo {
    pub path: PathBuf,
}

impl Repo {
    /// A repository without commits.
    pub fn empty(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).expect("makes the directory");
        let repo = Self { path };
        repo.git(&["init", "--quiet", "--initial-branch", "main"]);
        repo
    }

    /// A repository with one commit: the given todos on the roadmap, each with a brief, and the given `.slugline.toml`.
    pub fn with(path: PathBuf, slugs: &[&str], settings: &str) -> Self {
        let repo = Self::empty(path);
        repo.write(".slugline.toml", settings);
        repo.write("README.md", "read me\n");
        repo.write("todos/roadmap.yaml", &slugs.iter().map(|slug| format!("- slug: {slug}\n")).collect::<String>());
        for slug in slugs {
            repo.write(&format!("todos/{slug}/requirements.md"), &format!("# {slug}\n"));
        }
        repo.commit("first");
        repo
    }

    pub fn write(&self, file: &str, content: &str) {
        write(&self.path.join(file), content);
    }

    /// Commits everything and says the new commit.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in the main work tree and says its output; fails the test when git fails.
    pub fn git(&self, args: &[&str]) -> String {
        git(&self.path, args)
    }
}

/// Writes a file and its directories.
pub fn write(file: &Path, content: &str) {
    std::fs::create_dir_all(file.parent().expect("has a parent")).expect("makes directories");
    std::fs::write(file, content).expect("writes");
}

/// git without anything of the machine's configuration.
pub fn git_command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(args).current_dir(dir);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
        command.env_remove(name);
    }
    command.envs([
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "Test"),
        ("GIT_AUTHOR_EMAIL", "test@localhost"),
        ("GIT_COMMITTER_NAME", "Test"),
        ("GIT_COMMITTER_EMAIL", "test@localhost"),
    ]);
    command
}

/// Runs git somewhere; fails the test when git fails.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let output = git_command(dir, args).output().expect("git starts");
    assert!(output.status.success(), "git {args:?} in {}: {}", dir.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A temporary directory for repositories and a daemon's data, with the book of what its daemons promise.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub promises: Arc<Promises>,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let promises = Promises::of(&dir.path().canonicalize().expect("is there").join("data"));
        Self { dir, promises: Arc::new(promises) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        // Canonical, because answers give real paths and the temporary directory may be a link.
        self.dir.path().canonicalize().expect("is there").join(name)
    }

    /// A repository named `app` with these todos and settings.
    pub fn app(&self, slugs: &[&str], settings: &str) -> Repo {
        Repo::with(self.path("app"), slugs, settings)
    }

    /// The worktree of a slug of `app`.
    pub fn worktree(&self, slug: &str) -> PathBuf {
        self.path("data").join("worktrees/app").join(slug)
    }

    /// A configuration for the repositories, with its data under this site.
    pub fn config(&self, repos: &[&Repo], extra: &[(&'static str, &str)]) -> Config {
        let mut settings =
            vec![("listen", "127.0.0.1:0".to_owned()), ("data_dir", self.path("data").display().to_string())];
        settings.extend(extra.iter().map(|&(key, value)| (key, value.to_owned())));
        let flags = Flags { settings, repos: repos.iter().map(|repo| repo.path.clone()).collect() };
        Config::load(&flags, &std::collections::BTreeMap::new(), None).expect("the test's configuration is valid")
    }

    /// A daemon in this process on these repositories.
    pub async fn start(&self, repos: &[&Repo]) -> House {
        self.start_with(repos, &[], Faults::default()).await
    }

    /// The same, with settings of its own and faults at named points.
    pub async fn start_with(&self, repos: &[&Repo], extra: &[(&'static str, &str)], faults: Faults) -> House {
        self.start_at(repos, extra, faults, 0).await
    }

    /// The same with a wall clock that is ahead by so many milliseconds from the first moment.
    pub async fn start_at(
        &self,
        repos: &[&Repo],
        extra: &[(&'static str, &str)],
        faults: Faults,
        ahead_ms: i64,
    ) -> House {
        House::start(self.config(repos, extra), faults, ahead_ms, self.promises.clone()).await
    }

    /// A daemon in this process with a configuration file of its own.
    pub async fn start_from(&self, repos: &[&Repo], file: &str) -> House {
        let settings =
            vec![("listen", "127.0.0.1:0".to_owned()), ("data_dir", self.path("data").display().to_string())];
        let flags = Flags { settings, repos: repos.iter().map(|repo| repo.path.clone()).collect() };
        let path = self.path("slugline.toml");
        let config = Config::load(&flags, &std::collections::BTreeMap::new(), Some((&path, file)));
        let config = config.expect("the test's configuration is valid");
        House::start(config, Faults::default(), 0, self.promises.clone()).await
    }

    /// A daemon in a process of its own, to be killed.
    pub async fn spawn(&self, repos: &[&Repo]) -> Spawned {
        self.spawn_with(repos, &[]).await
    }

    /// The same with variables in its environment.
    pub async fn spawn_with(&self, repos: &[&Repo], vars: &[(&str, PathBuf)]) -> Spawned {
        match self.try_spawn(repos, vars).await {
            Ok(spawned) => spawned,
            Err(status) => panic!("the daemon ended ({status}): {}", self.daemon_log()),
        }
    }

    /// What daemons in processes of their own have said.
    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The same of a daemon that may end before it serves.
    pub async fn try_spawn(&self, repos: &[&Repo], vars: &[(&str, PathBuf)]) -> Result<Spawned, ExitStatus> {
        let data = self.path("data");
        let _ = std::fs::remove_file(data.join("address"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_slugline"));
        command
            .arg("serve")
            .arg("--listen")
            .arg("127.0.0.1:0")
            .arg("--data-dir")
            .arg(&data)
            .env("SLUGLINE_LOG_LEVEL", "warn")
            .envs(vars.iter().map(|(name, value)| (*name, value)));
        for repo in repos {
            command.arg("--repo").arg(&repo.path);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.path("daemon.log")).expect("log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .current_dir(self.dir.path())
            .spawn()
            .expect("the daemon starts");
        let spawned = std::cell::RefCell::new(child);
        let address = until("the daemon to write its address", || async {
            if let Ok(Some(status)) = spawned.borrow_mut().try_wait() {
                return Some(Err(status));
            }
            let text = std::fs::read_to_string(data.join("address")).ok()?;
            text.trim().parse().ok().map(Ok)
        })
        .await?;
        let child = spawned.into_inner();
        let token = std::fs::read_to_string(data.join("token")).expect("token").trim().to_owned();
        Ok(Spawned { child, client: self.noting(Client::tcp(address, Some(token))) })
    }

    /// A client of a daemon of this site.
    pub fn noting(&self, client: Client) -> Noting {
        Noting { client, promises: self.promises.clone() }
    }
}

/// A client whose answers are noted in the book of promises.
#[derive(Clone)]
pub struct Noting {
    client: Client,
    promises: Arc<Promises>,
}

impl Noting {
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        let reply = self.client.post(path, body).await?;
        self.promises.told(&reply);
        Ok(reply)
    }

    pub async fn send(
        &self,
        method: hyper::Method,
        path: &str,
        headers: &[(&str, &str)],
        body: bytes::Bytes,
    ) -> anyhow::Result<Reply> {
        let changes = method == hyper::Method::POST;
        let reply = self.client.send(method, path, headers, body).await?;
        if changes {
            self.promises.told(&reply);
        }
        Ok(reply)
    }
}

impl std::ops::Deref for Noting {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A daemon in a process of its own. Killed when dropped.
pub struct Spawned {
    pub child: Child,
    pub client: Noting,
}

impl Spawned {
    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of a test that broke something: whatever it was, all promises are kept.
    pub async fn kill_with_all_kept(mut self) -> Log {
        let promises = self.client.promises.clone();
        promises.kept_by(&self.client).await;
        self.kill();
        promises.kept_after().await
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A daemon in this process.
pub struct House {
    promises: Arc<Promises>,
    pub client: Noting,
    pub handle: Handle,
    pub address: std::net::SocketAddr,
    pub token: String,
    /// What is added to the wall clock, in milliseconds.
    pub wall_ms: Arc<AtomicI64>,
    /// What is added to the time the daemon has been awake, in milliseconds.
    pub awake_ms: Arc<AtomicI64>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<End>,
}

impl House {
    pub async fn start(config: Config, faults: Faults, ahead_ms: i64, promises: Arc<Promises>) -> Self {
        let (wall_ms, awake_ms) = (Arc::new(AtomicI64::new(ahead_ms)), Arc::new(AtomicI64::new(0)));
        let (wall, awake, system, born) = (wall_ms.clone(), awake_ms.clone(), Clock::system(), Instant::now());
        let clock = Clock::of(
            move || Timestamp::from_ms(system.now().as_ms() + wall.load(Ordering::SeqCst)),
            move || i64::try_from(born.elapsed().as_millis()).unwrap_or(i64::MAX) + awake.load(Ordering::SeqCst),
        );
        let runner = Runner::new(env!("CARGO_BIN_EXE_slugline").into());
        let doors = Doors { runner, clock, faults, workers: Workers::unwatched() };
        let daemon = Daemon::build(&config, doors).await.expect("the daemon builds");
        let (address, handle) = (daemon.address, daemon.handle.clone());
        let token = std::fs::read_to_string(config.data_dir.join("token")).expect("token").trim().to_owned();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(daemon.serve(async {
            let _ = stopped.await;
        }));
        let client = Noting { client: Client::tcp(address, Some(token.clone())), promises: promises.clone() };
        Self { promises, client, handle, address, token, wall_ms, awake_ms, stop: Some(stop), serving }
    }

    /// Stops in order and waits for the end. What holds of what a daemon leaves behind is asked for every time.
    pub async fn stop(mut self) -> End {
        drop(self.stop.take());
        let end = (&mut self.serving).await.expect("the daemon ends without a panic");
        self.promises.kept_after().await;
        end
    }

    /// The end of a test that broke something: whatever it was, all promises are kept.
    pub async fn stop_with_all_kept(self) -> End {
        self.promises.kept_by(&self.client).await;
        self.stop().await
    }

    /// Waits for an end nobody asked for; what holds of what a daemon leaves behind holds then, too.
    pub async fn end(mut self) -> End {
        let ended = tokio::time::timeout(PATIENCE, &mut self.serving).await.expect("the daemon ends in time");
        let end = ended.expect("the daemon ends without a panic");
        self.promises.kept_after().await;
        end
    }

    /// One work call with its body.
    pub async fn work(&self, body: Value) -> Reply {
        self.client.post("/todos/work", &body).await.expect("the daemon answers")
    }

    /// A work call for a slug by lane `builder` that has to end in a WorkOrder.
    pub async fn order(&self, slug: &str) -> Value {
        order(&self.work(json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 })).await)
    }

    /// A worker has a todo and has begun: a commit and an edit that have to stay, whatever happens.
    pub async fn begun(&self, slug: &str) {
        let order = self.order(slug).await;
        self.promises.work_in(Path::new(order["worktree"]["path"].as_str().expect("a path")));
    }

    /// The state of one operation.
    pub async fn operation(&self, id: &str) -> Value {
        self.client.get(&format!("/operations/{id}")).await.expect("the daemon answers").json()
    }

    /// Waits until an operation has ended and says how.
    pub async fn ended(&self, id: &str) -> Value {
        until(&format!("operation {id} to end"), || async {
            let operation = self.operation(id).await;
            (!matches!(operation["state"].as_str(), Some("queued" | "running"))).then_some(operation)
        })
        .await
    }
}

/// The WorkOrder of a reply that has to be one.
pub fn order(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// The problem of a reply that has to be one with this status and code.
pub fn problem(reply: &Reply, status: u16, code: &str) -> Value {
    let body = reply.json();
    assert_eq!((reply.status, body["code"].as_str()), (status, Some(code)), "{}", reply.text());
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    for member in ["type", "title", "status", "detail", "instance", "retryable"] {
        assert!(!body[member].is_null(), "{member} is missing: {body}");
    }
    body
}

/// `decision/reason` of a phase of a WorkOrder or operation.
pub fn phase(answer: &Value, name: &str) -> String {
    let phases = answer["phases"].as_array().expect("phases");
    let report =
        phases.iter().find(|report| report["phase"] == name).unwrap_or_else(|| panic!("no phase {name} in {answer}"));
    format!("{}/{}", report["decision"].as_str().unwrap_or("?"), report["reason"].as_str().unwrap_or("?"))
}

/// How many lines a file has; none when it is not there.
pub fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

/// How many events of todos, claims, lanes and runs the ledger has. What the daemon notes of itself comes by its own clock,
/// whatever is asked.
pub async fn work_events(handle: &Handle) -> usize {
    let all = handle.context().ledger.store().expect("open").events(0, 10_000).await.expect("reads");
    let of_work =
        |kind: &str| ["todo.", "claim.", "lane.", "operation.", "phase."].iter().any(|of| kind.starts_with(of));
    all.iter().filter(|event| of_work(event.kind.as_str())).count()
}
