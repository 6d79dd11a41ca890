//! Locks of git, raced for: while a living git has one, it stays, however old it looks; what a git that was killed left
//! behind goes when it is old, and the worktree goes on.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde_json::json;
use slugline::cli::client::Reply;

use crate::harness::{House, Repo, Site, git, git_command, until, write};
use crate::scale::{Dice, seed, size};

/// Slugs that are raced for at once.
const SLUGS: u64 = 20;
/// Looks older than any lock git holds.
const OLD: Duration = Duration::from_secs(300);
/// A branch to be taken away.
const DOOMED: &str = "doomed";

/// How a git gets hold of locks.
#[derive(Debug, Clone, Copy)]
enum Grip {
    /// A commit with an editor that stays open has the worktree's index.
    Index,
    /// A prepared change of HEAD, made in the worktree, has HEAD and its branch.
    Head,
    /// A prepared change of the branch, made somewhere else, has the branch.
    Branch,
    /// A prepared removal of a packed branch has the file of all packed refs. There is one, so one has it at a time.
    Packed,
}

/// What becomes of it while the daemon wants the lock.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Stays,
    LetsGo,
    DiesYoung,
    DiesOld,
}

/// A git that holds locks.
struct Holder {
    git: Child,
    /// To a transaction that waits for its end.
    says: Option<ChildStdin>,
    /// The editor stays open while it is there.
    open: PathBuf,
    locks: Vec<(PathBuf, u64)>,
}

impl Holder {
    async fn take(site: &Site, repo: &Repo, slug: &str, grip: Grip) -> Self {
        let (worktree, common) = (site.worktree(slug), repo.path.join(".git"));
        let (admin, branch) = (common.join("worktrees").join(slug), common.join(format!("refs/heads/{slug}.lock")));
        let open = site.path(&format!("{slug}.open"));
        let head = git(&worktree, &["rev-parse", "HEAD"]);
        let (mut command, change, locks) = match grip {
            Grip::Index => {
                write(&open, "");
                let editor = site.path(&format!("{slug}.sh"));
                write(
                    &editor,
                    &format!("while test -e {}; do sleep 0.02; done\necho message > \"$1\"\n", open.display()),
                );
                let mut command = git_command(&worktree, &["commit", "--quiet", "--all", "--allow-empty"]);
                command.env("GIT_EDITOR", format!("sh {}", editor.display()));
                (command, None, vec![admin.join("index.lock")])
            }
            Grip::Head => {
                let command = git_command(&worktree, &["update-ref", "--stdin"]);
                (command, Some(format!("update HEAD {head}")), vec![admin.join("HEAD.lock"), branch])
            }
            Grip::Branch => {
                let dir = format!("--git-dir={}", common.display());
                let command = git_command(Path::new("/"), &[&dir, "update-ref", "--stdin"]);
                (command, Some(format!("update refs/heads/{slug} {head}")), vec![branch])
            }
            Grip::Packed => {
                let dir = format!("--git-dir={}", common.display());
                let command = git_command(Path::new("/"), &[&dir, "update-ref", "--stdin"]);
                let locks = ["packed-refs.lock".to_owned(), format!("refs/heads/{DOOMED}.lock")];
                (command, Some(format!("delete refs/heads/{DOOMED}")), locks.map(|lock| common.join(lock)).into())
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut git = command.spawn().expect("git starts");
        let mut says = git.stdin.take();
        if let (Some(change), Some(says)) = (change, says.as_mut()) {
            write!(says, "start\n{change}\nprepare\n").expect("is heard");
            let mut told = BufReader::new(git.stdout.as_mut().expect("piped")).lines();
            assert!(told.any(|line| line.expect("text") == "prepare: ok"), "{slug}: no {change}");
        }
        let there = until(&format!("a git to hold {locks:?}"), || async {
            locks.iter().map(|lock| std::fs::metadata(lock).ok().map(|meta| meta.ino())).collect::<Option<Vec<u64>>>()
        })
        .await;
        Self { git, says, open, locks: locks.into_iter().zip(there).collect() }
    }

    /// Makes what it holds look like something nobody has wanted for long.
    fn age(&self) {
        for (lock, _) in &self.locks {
            let file = std::fs::File::options().write(true).open(lock).expect("opens");
            file.set_modified(SystemTime::now() - OLD).expect("ages it");
        }
    }

    /// Every lock it took is there, and the same.
    fn has_all(&self) -> bool {
        self.locks.iter().all(|(lock, ino)| std::fs::metadata(lock).is_ok_and(|meta| meta.ino() == *ino))
    }

    fn kill(&mut self) {
        self.git.kill().expect("is killed");
        self.git.wait().expect("ends");
        let _ = std::fs::remove_file(&self.open);
    }

    /// It does what it wanted to do, which it cannot without its locks.
    fn finish(mut self) -> bool {
        let _ = std::fs::remove_file(&self.open);
        if let Some(mut says) = self.says.take() {
            says.write_all(b"commit\n").expect("is heard");
        }
        self.git.wait().expect("ends").success()
    }
}

async fn ask(house: &House, slug: &str) -> Reply {
    let body = json!({ "lane": "builder", "worker": slug, "slug": slug, "wait_ms": 45_000 });
    house.work(body).await
}

/// Work, or a reason with a name that says how to go on and may be tried again.
fn assert_named(reply: &Reply, what: &str) {
    let body = reply.json();
    let says = body["detail"].as_str().is_some_and(|detail| detail.contains("ask again"));
    let told = says && body["code"] != "internal" && body["retryable"] == json!(true);
    assert!(reply.status == 200 || told, "{what}: {}", reply.text());
}

async fn race(site: &Site, repo: &Repo, house: &House, slug: &str, grip: Grip, fate: Fate) {
    let what = format!("{slug}: {grip:?} {fate:?}");
    let mut holder = Holder::take(site, repo, slug, grip).await;
    match fate {
        Fate::Stays => {
            holder.age();
            assert_named(&ask(house, slug).await, &what);
            assert!(holder.has_all(), "{what}: the lock of a living git was taken from it");
            assert!(holder.finish(), "{what}: git could not do what it held the lock for");
        }
        Fate::LetsGo => {
            holder.age();
            let release = async {
                // While the daemon has come to it, or not yet, or has just given up: each is a race.
                let mut beat = tokio::time::interval(Duration::from_millis(100));
                beat.tick().await;
                beat.tick().await;
                assert!(holder.has_all(), "{what}: the lock of a living git was taken from it");
                assert!(holder.finish(), "{what}: git could not do what it held the lock for");
            };
            let (reply, ()) = tokio::join!(ask(house, slug), release);
            assert_named(&reply, &what);
        }
        Fate::DiesYoung => {
            holder.kill();
            assert_named(&ask(house, slug).await, &what);
            assert!(holder.has_all(), "{what}: a lock that is young was removed");
            holder.age();
        }
        Fate::DiesOld => {
            holder.kill();
            holder.age();
            assert_named(&ask(house, slug).await, &what);
        }
    }
    // Nobody holds anything any more: the base comes in.
    until(&format!("{what}: the worktree to go on"), || async {
        let reply = ask(house, slug).await;
        assert_named(&reply, &what);
        let base = repo.git(&["rev-parse", "main"]);
        let has_it = || git_command(&site.worktree(slug), &["merge-base", "--is-ancestor", &base, "HEAD"]).status();
        (reply.status == 200 && has_it().expect("git starts").success()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_a_living_git_is_never_removed_and_a_dead_ones_only_when_it_is_old() {
    let races = size("TEST_LOCK_RACES", [60, 1_000, 1_000]);
    let mut dice = Dice(seed(None));
    let slugs: Vec<String> = (0..SLUGS).map(|number| format!("s{number}")).collect();
    let site = Site::new();
    let names: Vec<&str> = slugs.iter().map(String::as_str).chain(["beside"]).collect();
    let repo = site.app(&names, "");
    let house = site.start(&[&repo]).await;
    house.begun("beside").await;
    for reply in join_all(slugs.iter().map(|slug| ask(&house, slug))).await {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let common = repo.path.join(".git");
    for round in 0..races.div_ceil(SLUGS) {
        // Something to bring in, for which the worktree's locks are wanted.
        repo.write(&format!("round-{round}.txt"), "new\n");
        repo.commit("moves");
        // Of one that died with it: it was in nobody's way, so nobody took it away.
        for left in ["packed-refs.lock".to_owned(), "packed-refs.new".to_owned(), format!("refs/heads/{DOOMED}.lock")] {
            let _ = std::fs::remove_file(common.join(left));
        }
        repo.git(&["branch", "--force", DOOMED]);
        repo.git(&["pack-refs", "--all"]);
        let packer = dice.below(SLUGS);
        let choices: Vec<(Grip, Fate)> = slugs
            .iter()
            .zip(0..)
            .map(|(_, number)| {
                let grip = *dice.one_of(&[Grip::Index, Grip::Head, Grip::Branch]);
                let grip = if number == packer { Grip::Packed } else { grip };
                (grip, *dice.one_of(&[Fate::Stays, Fate::LetsGo, Fate::DiesYoung, Fate::DiesOld]))
            })
            .collect();
        join_all(slugs.iter().zip(choices).map(|(slug, (grip, fate))| race(&site, &repo, &house, slug, grip, fate)))
            .await;
    }
    house.stop_with_all_kept().await;
}
