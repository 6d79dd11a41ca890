//! Remotes that are down, hang, dribble, ask for a password for ever or rewrite what they have: a fetch ends in time and
//! says why it failed, work goes on with the base that is known, and what is well is fetched all the same.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{House, PATIENCE, Repo, Site, git, order, phase, until, write};

/// What a fetch may take; three of those that hang, one after the other, are more than the job may.
const FETCH_LIMIT: Duration = Duration::from_secs(8);
const SECRET: &str = "canary-password";

/// How a remote behaves once it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Takes the connection and says nothing.
    Silent,
    /// Begins to answer and goes on with one byte a second.
    Dribbling,
    /// Wants a password, whatever password it is given.
    Refusing,
}

/// A remote on loopback.
struct Remote {
    address: SocketAddr,
    /// Requests, and those of them that brought a password.
    asked: Arc<AtomicUsize>,
    with_password: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Remote {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        let (asked, with_password) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (asked.clone(), with_password.clone());
        let serving = tokio::spawn(async move {
            let mut talks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, with_password) = counts.clone();
                talks.spawn(async move {
                    // It ends as the other side wants it to.
                    let _ = talk(stream, manner, &asked, &with_password).await;
                });
            }
        });
        Self { address, asked, with_password, _serving: AbortOnDropHandle::new(serving) }
    }

    fn asked(&self) -> (usize, usize) {
        (self.asked.load(Ordering::SeqCst), self.with_password.load(Ordering::SeqCst))
    }
}

async fn talk(
    stream: TcpStream,
    manner: Manner,
    asked: &AtomicUsize,
    with_password: &AtomicUsize,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut brought) = (String::new(), false);
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            brought |= line.to_ascii_lowercase().starts_with("authorization:");
        }
        with_password.fetch_add(usize::from(brought), Ordering::SeqCst);
        asked.fetch_add(1, Ordering::SeqCst);
        match manner {
            Manner::Silent => std::future::pending().await,
            Manner::Dribbling => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n";
                stream.write_all(head).await?;
                let mut beat = tokio::time::interval(Duration::from_secs(1));
                loop {
                    beat.tick().await;
                    stream.write_all(b"0").await?;
                }
            }
            Manner::Refusing => {
                let head =
                    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"app\"\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(head).await?;
            }
        }
    }
}

/// A clone that knows its remote's base already, with its remote somewhere else from now on.
fn clone(site: &Site, upstream: &Repo, name: &str, url: Option<String>) {
    git(site.dir.path(), &["clone", "--quiet", upstream.path.to_str().expect("text"), name]);
    if let Some(url) = url {
        git(&site.path(name), &["remote", "set-url", "origin", &url]);
        // What the machine has to go through does not lead to this machine.
        git(&site.path(name), &["config", "http.proxy", ""]);
    }
}

fn configuration(site: &Site, jobs: &str, names: &[&str]) -> String {
    let entry = |name: &&str| {
        let path = site.path(name);
        format!("[[repositories]]\nname = {name:?}\npath = {path:?}\nbase = \"main\"\nremote = \"origin\"\n")
    };
    format!("{jobs}{}", names.iter().map(entry).collect::<String>())
}

async fn fetch_job(house: &House) -> Value {
    let jobs = house.client.get("/jobs").await.expect("answers").json();
    jobs.as_array().expect("a list").iter().find(|job| job["job"] == "fetch").cloned().expect("is listed")
}

async fn work(house: &House, repo: &str) -> Value {
    order(&house.work(json!({ "repo": repo, "lane": "builder", "slug": "fix", "wait_ms": 45_000 })).await)
}

/// Where in a directory something is written that nobody should find there.
fn places_of(text: &str, dir: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            } else if std::fs::read(entry.path())
                .is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
            {
                found.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn remotes_that_are_down_hang_dribble_or_want_a_password_are_named_in_time_while_work_goes_on() {
    let site = Site::new();
    let upstream = Repo::with(site.path("upstream"), &["fix"], "");
    // Nobody listens there, and nobody else can have the port.
    let down = TcpSocket::new_v4().expect("socket");
    down.bind("127.0.0.1:0".parse().expect("address")).expect("binds");
    let (silent, mute) = (Remote::start(Manner::Silent).await, Remote::start(Manner::Silent).await);
    let (dribbling, refusing) = (Remote::start(Manner::Dribbling).await, Remote::start(Manner::Refusing).await);
    let asking = Remote::start(Manner::Refusing).await;
    let url = |address: SocketAddr, user: &str| Some(format!("http://{user}{address}/app.git"));
    let user = format!("somebody:{SECRET}@");
    clone(&site, &upstream, "asking", url(asking.address, ""));
    clone(&site, &upstream, "down", url(down.local_addr().expect("address"), &user));
    clone(&site, &upstream, "dribbling", url(dribbling.address, &user));
    clone(&site, &upstream, "mute", url(mute.address, &user));
    clone(&site, &upstream, "refusing", url(refusing.address, &user));
    clone(&site, &upstream, "silent", url(silent.address, &user));
    clone(&site, &upstream, "well", None);
    // Who wants a password asks nobody for it: not a program somebody planted, nor one of the repository's.
    let canary = site.path("canary");
    for key in ["credential.helper", "core.askPass"] {
        git(&site.path("asking"), &["config", key, &format!("touch {}", canary.display())]);
    }
    let known = upstream.git(&["rev-parse", "main"]);
    upstream.write("new.txt", "new\n");
    let newest = upstream.commit("more");
    let names = ["asking", "down", "dribbling", "mute", "refusing", "silent", "well"];
    let limit_ms = FETCH_LIMIT.as_millis();
    let jobs = format!(
        "[runs]\ngit_timeout_ms = {limit_ms}\n[jobs]\nfetch_every_ms = 3600000\nfetch_budget_ms = {limit_ms}\n"
    );
    let house = site.start_from(&[], &configuration(&site, &jobs, &names)).await;
    let begun = Instant::now();
    until("the fetch to hang", || async { (silent.asked().0 == 1).then_some(()) }).await;

    // A hundred callers want work of the repository whose remote hangs: they get it on the base that is known.
    let orders = join_all((0..100).map(|_| work(&house, "silent"))).await;
    assert!(orders.iter().all(|order| order["worktree"]["base_oid"] == json!(known)), "{:?}", orders[0]["worktree"]);
    until("what is well to be fetched", || async {
        (work(&house, "well").await["worktree"]["base_oid"] == json!(newest)).then_some(())
    })
    .await;

    let failed = until("the fetch to end", || async {
        Some(fetch_job(&house).await).filter(|job| job["runs"].as_u64() >= Some(1))
    })
    .await;
    assert!(begun.elapsed() < FETCH_LIMIT + PATIENCE);
    assert_eq!(failed["result"], "failed", "{failed}");
    let detail = failed["detail"].as_str().expect("words");
    for (name, said) in [
        ("asking", "could not read Username"),
        ("down", "Failed to connect"),
        ("dribbling", "out of time"),
        ("mute", "out of time"),
        ("refusing", "Authentication failed"),
        ("silent", "out of time"),
    ] {
        let told = detail.split("; ").find(|part| part.starts_with(&format!("{name}: git fetch")));
        assert!(told.is_some_and(|told| told.contains(said)), "{name} is not said to be {said:?}: {detail}");
    }
    assert!(!detail.contains("well:"), "{detail}");
    // One fetch each, whoever waited; a password is tried once, and nobody is asked for one.
    assert_eq!((silent.asked().0, mute.asked().0, dribbling.asked().0), (1, 1, 1));
    assert_eq!((asking.asked(), refusing.asked()), ((1, 0), (2, 1)));
    assert!(!canary.exists(), "something planted was asked for a password");
    for name in names {
        let order = work(&house, name).await;
        site.promises.work_in(Path::new(order["worktree"]["path"].as_str().expect("a path")));
    }
    for path in ["/jobs", "/incidents", "/status", "/repositories"] {
        let told = house.client.get(path).await.expect("answers").text();
        assert!(!told.contains(SECRET), "{path} tells the password: {told}");
    }
    house.stop_with_all_kept().await;
    assert_eq!(places_of(SECRET, &site.path("data")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_rewritten_or_deleted_at_the_remote_costs_no_work_and_is_named() {
    let site = Site::new();
    let upstream = Repo::with(site.path("upstream"), &["fix", "beside"], "");
    upstream.write("dropped.txt", "will be gone\n");
    upstream.commit("to be dropped");
    clone(&site, &upstream, "app", None);
    let house = site.start_from(&[], &configuration(&site, "[jobs]\nfetch_every_ms = 100\n", &["app"])).await;
    house.begun("beside").await;
    work(&house, "app").await;
    let worktree = site.worktree("fix");
    write(&worktree.join("own.txt"), "the worker's\n");
    git(&worktree, &["add", "--all"]);
    git(&worktree, &["commit", "--quiet", "--message", "own"]);
    let own = git(&worktree, &["rev-parse", "HEAD"]);

    // Somebody pushes with force: the base is what the remote has now, and what a worker has stays.
    upstream.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    upstream.write("instead.txt", "instead\n");
    let rewritten = upstream.commit("instead of it");
    let moved = until("the rewritten base", || async {
        Some(work(&house, "app").await).filter(|order| order["worktree"]["base_oid"] == json!(rewritten))
    })
    .await;
    assert_eq!(phase(&moved, "worktree"), "skip/present");
    git(&worktree, &["merge-base", "--is-ancestor", &own, "HEAD"]);
    git(&worktree, &["merge-base", "--is-ancestor", &rewritten, "HEAD"]);
    assert!(worktree.join("own.txt").exists() && worktree.join("instead.txt").exists());

    // The branch is deleted: the fetch says so, and the base that was there last is still the base.
    upstream.git(&["branch", "--move", "main", "other"]);
    let failed =
        until("the fetch to fail", || async { Some(fetch_job(&house).await).filter(|job| job["result"] == "failed") })
            .await;
    let detail = failed["detail"].as_str().expect("words");
    assert!(detail.starts_with("app: git fetch failed") && detail.contains("refs/heads/main"), "{detail}");
    assert_eq!(work(&house, "app").await["worktree"]["base_oid"], json!(rewritten));

    upstream.git(&["branch", "--move", "other", "main"]);
    upstream.write("again.txt", "again\n");
    let again = upstream.commit("again");
    until("the base to move again", || async {
        (work(&house, "app").await["worktree"]["base_oid"] == json!(again)).then_some(())
    })
    .await;
    house.stop_with_all_kept().await;
}
