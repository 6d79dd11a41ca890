//! The states git leaves behind, and people and agents bring about: each is named or mended, and nothing anybody has
//! committed or edited is lost on the way.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use slugline::cli::client::Reply;

use crate::harness::{House, Repo, Site, git, git_command, write};
use crate::scale::{Dice, seed, size};

/// A named reason takes no longer than this; what has to be mended first may.
const REASON_LIMIT: Duration = Duration::from_secs(1);
/// How often a reason may be late because the machine is busy.
const ASKED_AT_MOST: u32 = 10;
/// Sequences of deeds that are gone through one after the other in one repository.
const SEQUENCES_OF_A_SITE: usize = 10;
/// Longest time until a pipe that somebody waits at is named: it is looked for after a second or three, more than once, and a
/// busy machine takes its own.
const PIPE_LIMIT: Duration = Duration::from_secs(45);

/// Asks, and says how long the answer took. A machine that is busy just then is asked again: a reason that is late is late
/// every time.
async fn ask(house: &House, slug: &str) -> (Reply, Duration) {
    let mut quickest = Duration::MAX;
    for _ in 0..ASKED_AT_MOST {
        let begun = Instant::now();
        let reply = house.work(json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 })).await;
        quickest = quickest.min(begun.elapsed());
        if reply.status == 200 || quickest < REASON_LIMIT || reply.json()["code"] == "lock_timeout" {
            return (reply, quickest);
        }
    }
    panic!("a reason for {slug} takes {quickest:?}");
}

/// All promises are kept; of a repository that cannot be read any more, those that can be asked for without it.
async fn end(house: House) {
    match house.client.get("/todos/app/fix").await.expect("answers").status {
        200 => house.stop_with_all_kept().await,
        _ => house.stop().await,
    };
}

/// What a worker has: commits that can be reached, and every file that is not git's own.
struct Belongings {
    commits: Vec<String>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Belongings {
    fn of(repo: &Path, worktree: &Path, slug: &str) -> Self {
        let log = git_command(repo, &["rev-list", slug]).output().expect("git runs");
        let commits = String::from_utf8_lossy(&log.stdout).lines().map(str::to_owned).collect();
        Self { commits, files: files_below(worktree) }
    }

    /// Everything is still there: each commit leads from some ref or reflog, each file stands in the worktree or was set
    /// aside.
    fn assert_kept(&self, site: &Site, repo: &Path, what: &str) {
        for commit in &self.commits {
            let there = git_command(repo, &["cat-file", "-e", commit]).status().expect("git runs");
            let reached = git_command(repo, &["for-each-ref", "--contains", commit]).output().expect("git runs");
            assert!(there.success() && !reached.stdout.is_empty(), "{what}: commit {commit} is lost");
        }
        let kept: Vec<(PathBuf, Vec<u8>)> = files_below(&site.path("data/worktrees")).into_iter().collect();
        for (file, content) in &self.files {
            let found = kept.iter().any(|(at, there)| at.ends_with(file) && there == content);
            assert!(found, "{what}: {} is lost", file.display());
        }
    }
}

/// Every regular file below a directory that is not git's own, links not followed.
fn files_below(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("kind"));
            if kind.is_dir() && !path.ends_with(".git") && !path.ends_with("registration") {
                left.push(path);
            } else if kind.is_file() && !path.ends_with(".git") {
                let name = path.strip_prefix(dir).expect("below").to_owned();
                found.insert(name, std::fs::read(&path).unwrap_or_default());
            }
        }
    }
    found
}

/// Whether what was asked is answered with work, or with a reason that says what to do.
fn is_named(reply: &Reply) -> bool {
    let body = reply.json();
    let detail = body["detail"].as_str().unwrap_or_default();
    reply.status == 200 || body["code"].as_str().is_some_and(|code| code != "internal") && detail.len() > 20
}

type State = (&'static str, fn(&Place));

/// Where a state is brought about.
struct Place {
    repo: PathBuf,
    worktree: PathBuf,
    admin: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn git(&self, args: &[&str]) {
        let _ = git_command(&self.worktree, args).output().expect("git runs");
    }

    /// The base has something to be brought in, and nothing of the worker's is in its way.
    fn move_base(&self) {
        self.git(&["commit", "--quiet", "--message", "staged"]);
        let main = Repo { path: self.repo.clone() };
        main.write("moved.txt", "the base's\n");
        main.commit("moves");
    }

    /// An object is gone.
    fn lose(&self, of: &Path, object: &str) {
        std::fs::remove_file(self.object(of, object)).expect("is loose");
    }

    /// The file of an object.
    fn object(&self, of: &Path, object: &str) -> PathBuf {
        let oid = git(of, &["rev-parse", object]);
        self.repo.join(".git/objects").join(&oid[..2]).join(&oid[2..])
    }

    /// The worktree and the base change the same line.
    fn diverge(&self) {
        write(&self.worktree.join("README.md"), "the worker's\n");
        git(&self.worktree, &["commit", "--quiet", "--all", "--message", "mine"]);
        let main = Repo { path: self.repo.clone() };
        main.write("README.md", "the base's\n");
        main.commit("theirs");
    }
}

const STATES: [State; 28] = [
    ("a stale index.lock", |at| write(&at.admin.join("index.lock"), "")),
    ("a stale HEAD.lock", |at| write(&at.admin.join("HEAD.lock"), "")),
    ("a stale packed-refs.lock", |at| write(&at.repo.join(".git/packed-refs.lock"), "")),
    ("a stale shallow.lock", |at| write(&at.repo.join(".git/shallow.lock"), "")),
    ("a stale lock of its branch", |at| write(&at.repo.join(".git/refs/heads/fix.lock"), "")),
    ("a directory that is gone", |at| std::fs::rename(&at.worktree, &at.outside).expect("moves")),
    ("a directory that is gone and locked", |at| {
        at.git(&["worktree", "lock", "."]);
        std::fs::rename(&at.worktree, &at.outside).expect("moves");
    }),
    ("a detached HEAD", |at| at.git(&["checkout", "--quiet", "--detach"])),
    ("another branch", |at| at.git(&["checkout", "--quiet", "-b", "another"])),
    ("a merge in the middle", |at| {
        at.diverge();
        at.git(&["merge", "main"]);
    }),
    ("a rebase in the middle", |at| {
        at.diverge();
        at.git(&["rebase", "main"]);
    }),
    ("a cherry-pick in the middle", |at| {
        at.diverge();
        at.git(&["cherry-pick", "main"]);
    }),
    ("a truncated index", |at| std::fs::write(at.admin.join("index"), b"DIRC\0\0\0\x02").expect("writes")),
    ("an index that counts four billion files", |at| {
        let mut index = b"DIRC\0\0\0\x02\xff\xff\xff\xff".to_vec();
        index.resize(4_096, 0);
        std::fs::write(at.admin.join("index"), index).expect("writes");
    }),
    ("a garbage HEAD", |at| write(&at.admin.join("HEAD"), "garbage\n")),
    ("a HEAD that is a pipe", |at| {
        std::fs::remove_file(at.admin.join("HEAD")).expect("removes");
        pipe(&at.admin.join("HEAD"));
    }),
    ("a branch that names nothing there is", |at| {
        std::fs::write(at.repo.join(".git/refs/heads/fix"), format!("{}\n", "1".repeat(40))).expect("writes");
    }),
    ("a link that is a pipe", |at| {
        std::fs::remove_file(at.worktree.join(".git")).expect("removes");
        pipe(&at.worktree.join(".git"));
    }),
    ("a symbolic link in its place", |at| {
        std::fs::rename(&at.worktree, &at.outside).expect("moves");
        symlink(&at.outside, &at.worktree).expect("links");
    }),
    ("a tree of its HEAD that is missing", |at| {
        at.move_base();
        at.lose(&at.worktree, "HEAD^{tree}");
    }),
    ("a file of its HEAD that is missing", |at| {
        at.move_base();
        at.lose(&at.worktree, "HEAD:mine.txt");
    }),
    ("a tree of the base that is missing", |at| {
        at.move_base();
        at.lose(&at.repo, "main^{tree}");
    }),
    ("a file of the base that is missing", |at| {
        at.move_base();
        at.lose(&at.repo, "main:moved.txt");
    }),
    ("a sparse checkout", |at| {
        at.git(&["sparse-checkout", "set", "--no-cone", "/todos/"]);
        at.move_base();
    }),
    ("files of LFS where there is none", |at| {
        at.move_base();
        let main = Repo { path: at.repo.clone() };
        main.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 4\n", "0".repeat(64));
        main.write("large.bin", &pointer);
        main.commit("large");
        for (key, value) in [("clean", "git-lfs clean -- %f"), ("smudge", "git-lfs smudge -- %f"), ("required", "true")]
        {
            git(&at.repo, &["config", &format!("filter.lfs.{key}"), value]);
        }
    }),
    ("its branch somewhere else, and others whose names differ in case alone", |at| {
        std::fs::rename(&at.worktree, &at.outside).expect("moves");
        git(&at.repo, &["worktree", "prune"]);
        let elsewhere = at.outside.with_extension("elsewhere");
        git(&at.repo, &["worktree", "add", "--quiet", &elsewhere.to_string_lossy(), "fix"]);
        git(&at.repo, &["branch", "Fix"]);
        std::fs::create_dir(at.worktree.with_file_name("FIX")).expect("makes");
    }),
    ("a file in its place", |at| {
        std::fs::rename(&at.worktree, &at.outside).expect("moves");
        write(&at.worktree, "mine\n");
    }),
    ("a registration that is a symbolic link", |at| {
        let away = at.outside.with_extension("registration");
        std::fs::rename(&at.admin, &away).expect("moves");
        symlink(&away, &at.admin).expect("links");
    }),
];

fn pipe(at: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, at, rustix::fs::Mode::RWXU).expect("makes a pipe");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_of_git_is_named_at_once_or_mended_and_nothing_is_lost() {
    for (what, bring_about) in STATES {
        let site = Site::new();
        let repo = site.app(&["fix", "beside"], "");
        let house = site.start(&[&repo]).await;
        house.begun("beside").await;
        house.order("fix").await;
        let worktree = site.worktree("fix");
        write(&worktree.join("mine.txt"), "committed\n");
        git(&worktree, &["add", "--all"]);
        git(&worktree, &["commit", "--quiet", "--message", "work"]);
        write(&worktree.join("staged.txt"), "staged\n");
        git(&worktree, &["add", "staged.txt"]);
        let place = Place {
            repo: repo.path.clone(),
            worktree: worktree.clone(),
            admin: repo.path.join(".git/worktrees/fix"),
            outside: site.path("data/worktrees/away"),
        };
        bring_about(&place);
        // What is there from here on has to stay, however odd it is.
        let mut had = Belongings::of(&repo.path, &worktree, "fix");
        had.files.extend(files_below(&place.outside));
        for _ in 0..2 {
            let (reply, _) = ask(&house, "fix").await;
            assert!(is_named(&reply), "{what}: {}", reply.text());
            had.assert_kept(&site, &repo.path, what);
        }
        let list = house.client.get("/worktrees?wait_ms=5000").await.expect("answers");
        assert_eq!(list.status, 200, "{what}: {}", list.text());
        had.assert_kept(&site, &repo.path, what);
        end(house).await;
    }
}

/// Who cannot be given work while a pipe is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suffers {
    /// It hangs on what git had to read anew.
    PerhapsItsWorktree,
    ItsWorktree,
    /// Whoever the base is brought to.
    Everybody,
}

/// A pipe where git reads a file.
type Trap = (&'static str, fn(&Place) -> PathBuf, Suffers);

const TRAPS: [Trap; 8] = [
    ("patterns", |at| at.worktree.join(".gitignore"), Suffers::ItsWorktree),
    ("patterns deep down", |at| at.worktree.join("todos/fix/.gitignore"), Suffers::ItsWorktree),
    ("attributes", |at| at.worktree.join(".gitattributes"), Suffers::PerhapsItsWorktree),
    ("submodules", |at| at.worktree.join(".gitmodules"), Suffers::PerhapsItsWorktree),
    ("a tree of its HEAD", |at| at.object(&at.worktree, "HEAD^{tree}"), Suffers::ItsWorktree),
    ("a commit of its own", |at| at.object(&at.worktree, "HEAD"), Suffers::ItsWorktree),
    ("a file of the base", |at| at.object(&at.repo, "main:moved.txt"), Suffers::Everybody),
    ("patterns of all", |at| at.repo.join(".git/info/exclude"), Suffers::Everybody),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_where_git_reads_a_file_is_named_in_seconds_and_holds_nobody_else_up() {
    futures_util::future::join_all(TRAPS.map(|(what, trap, suffers)| fall_into(what, trap, suffers))).await;
}

async fn fall_into(what: &str, trap: fn(&Place) -> PathBuf, suffers: Suffers) {
    let site = Site::new();
    let repo = site.app(&["fix", "other"], "");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    house.order("other").await;
    let worktree = site.worktree("fix");
    write(&worktree.join("mine.txt"), "committed\n");
    git(&worktree, &["add", "--all"]);
    git(&worktree, &["commit", "--quiet", "--message", "work"]);
    let place = Place {
        repo: repo.path.clone(),
        worktree: worktree.clone(),
        admin: repo.path.join(".git/worktrees/fix"),
        outside: site.path("data/worktrees/away"),
    };
    // There is something to be brought in.
    place.move_base();
    let at = trap(&place);
    let had = std::fs::read(&at).ok();
    let _ = std::fs::remove_file(&at);
    pipe(&at);
    let work = |slug: &str| house.work(json!({ "lane": "builder", "slug": slug, "wait_ms": 45_000 }));
    for _ in 0..2 {
        let asked = async |slug: &str| {
            let begun = Instant::now();
            let reply = work(slug).await;
            assert!(begun.elapsed() < PIPE_LIMIT, "{what}: {slug} after {:?}", begun.elapsed());
            assert!(is_named(&reply), "{what}: {slug}: {}", reply.text());
            reply
        };
        let (fix, other, list) = tokio::join!(asked("fix"), asked("other"), async {
            let begun = Instant::now();
            let list = house.client.get("/worktrees?wait_ms=5000").await.expect("answers");
            assert!(begun.elapsed() < PIPE_LIMIT, "{what}: the list after {:?}", begun.elapsed());
            list
        });
        println!("{what}: {} {}", fix.status, fix.json()["detail"]);
        assert!(fix.status != 200 || suffers == Suffers::PerhapsItsWorktree, "{what}: {}", fix.text());
        assert!(suffers == Suffers::Everybody || other.status == 200, "{what}: {}", other.text());
        assert_eq!(list.status, 200, "{what}: {}", list.text());
    }
    std::fs::remove_file(&at).expect("is still there");
    if let Some(had) = had {
        std::fs::write(&at, had).expect("puts it back");
    }
    for slug in ["fix", "other"] {
        crate::harness::until(&format!("{what}: {slug} to go on"), || async {
            let reply = work(slug).await;
            let has_it = site.worktree(slug).join("moved.txt").exists();
            (reply.status == 200 && has_it).then_some(())
        })
        .await;
    }
    site.promises.work_in(&site.worktree("other"));
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_a_kind_or_state_that_cannot_be_served_says_so_at_once() {
    type Bad = (&'static str, fn(&Path), &'static str);
    let cases: [Bad; 9] = [
        (
            "sha256",
            |at| drop(git_command(at, &["init", "--quiet", "-b", "main", "--object-format=sha256"]).output()),
            "format",
        ),
        (
            "reftable",
            |at| drop(git_command(at, &["init", "--quiet", "-b", "main", "--ref-format=reftable"]).output()),
            "format",
        ),
        (
            "bomb",
            |at| {
                good(at);
                let line = |to: &str| format!("[include]\n\tpath = {to}\n").repeat(1_000);
                for (name, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")] {
                    write(&at.join(".git").join(name), &line(to));
                }
                append(&at.join(".git/config"), &line("a"));
            },
            "includes too many files",
        ),
        (
            "huge",
            |at| {
                good(at);
                let config = std::fs::File::options().write(true).open(at.join(".git/config")).expect("opens");
                config.set_len(1 << 40).expect("a terabyte of nothing");
            },
            "larger than",
        ),
        (
            "pipe",
            |at| {
                good(at);
                std::fs::remove_file(at.join(".git/config")).expect("removes");
                pipe(&at.join(".git/config"));
            },
            "not a regular file",
        ),
        (
            "refs",
            |at| {
                good(at);
                std::fs::File::create(at.join(".git/packed-refs"))
                    .and_then(|file| file.set_len(1 << 30))
                    .expect("a gigabyte");
            },
            "at most",
        ),
        (
            "included",
            |at| {
                good(at);
                append(&at.join(".git/config"), "[include]\n\tpath = /dev/zero\n");
            },
            "not a regular file",
        ),
        (
            "head",
            |at| {
                good(at);
                std::fs::remove_file(at.join(".git/HEAD")).expect("removes");
                pipe(&at.join(".git/HEAD"));
            },
            "not a git repository",
        ),
        (
            "others",
            |at| {
                good(at);
                pipe(&at.join(".git/objects/info/alternates"));
            },
            "not a regular file",
        ),
    ];
    for (name, make, said) in cases {
        let site = Site::new();
        let repo = Repo { path: site.path("app") };
        std::fs::create_dir_all(&repo.path).expect("makes");
        make(&repo.path);
        let house = site.start(&[&repo]).await;
        let (reply, _) = ask(&house, "fix").await;
        assert_eq!(reply.status, 422, "{name}: {}", reply.text());
        assert!(reply.text().contains(said), "{name}: {}", reply.text());
        end(house).await;
    }
}

fn good(at: &Path) {
    Repo::with(at.to_owned(), &["fix"], "");
}

fn append(file: &Path, text: &str) {
    let had = std::fs::read_to_string(file).expect("reads");
    write(file, &(had + text));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_unreadable_while_it_is_served_is_named_and_served_again_when_it_is_mended() {
    let site = Site::new();
    let repo = site.app(&["fix", "beside"], "");
    let house = site.start(&[&repo]).await;
    house.begun("beside").await;
    house.order("fix").await;
    let config = repo.path.join(".git/config");
    let good = std::fs::read(&config).expect("reads");
    for trap in ["[include]\n\tpath = config\n", "[include]\n\tpath = /dev/zero\n", "[core\n"] {
        // The base has moved, so there is something to be read.
        repo.write("other.txt", trap);
        repo.commit("moves");
        append(&config, trap);
        let (reply, _) = ask(&house, "fix").await;
        assert_ne!(reply.status, 200, "{trap}: {}", reply.text());
        assert!(reply.text().contains("configuration"), "{trap}: {}", reply.text());
        std::fs::write(&config, &good).expect("mends");
        house.order("fix").await;
    }
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_leaves_no_room_for_the_todos_own_is_named_at_once() {
    let site = Site::new();
    let repo = site.app(&["fix", "packed", "empty"], "");
    for branch in ["fix/part/one", "packed/part", "empty/part"] {
        repo.git(&["branch", branch]);
    }
    repo.git(&["branch", "--delete", "empty/part"]);
    std::fs::create_dir_all(repo.path.join(".git/refs/heads/empty/was/here")).expect("makes");
    repo.git(&["pack-refs", "--all"]);
    repo.git(&["branch", "--force", "fix/part/one", "main"]);
    let house = site.start(&[&repo]).await;
    for (slug, other) in [("fix", "fix/part/one"), ("packed", "packed/part")] {
        let (reply, _) = ask(&house, slug).await;
        let body = crate::harness::problem(&reply, 423, "worktree_foreign");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.contains(other)), "{body}");
    }
    house.order("empty").await;
    house.stop_with_all_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roadmap_of_fifty_megabytes_is_a_fault_of_the_roadmap_and_its_todos_can_be_worked_on() {
    let site = Site::new();
    let repo = site.app(&["fix"], "");
    repo.write("todos/roadmap.yaml", &"# nothing\n".repeat(5_000_000));
    repo.commit("a large roadmap");
    let house = site.start(&[&repo]).await;
    house.order("fix").await;
    let todos = house.client.get("/todos").await.expect("answers");
    assert!(todos.text().contains("fix"), "{}", todos.text().chars().take(300).collect::<String>());
    house.stop_with_all_kept().await;
}

/// What a worker has by a plain book of its own: commits and files it made, whatever git's state is.
struct Book {
    slug: String,
    made: u64,
    commits: Vec<String>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// What somebody does to a worktree or to the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Edit,
    Stage,
    Commit,
    Detach,
    OtherBranch,
    Conflict,
    MoveAway,
    ComeBack,
    Unregister,
    Unlink,
    TruncateIndex,
    OldLock,
    LockWorktree,
    PackRefs,
    MoveBase,
}

impl Deed {
    const ALL: [Self; 15] = [
        Self::Edit,
        Self::Stage,
        Self::Commit,
        Self::Detach,
        Self::OtherBranch,
        Self::Conflict,
        Self::MoveAway,
        Self::ComeBack,
        Self::Unregister,
        Self::Unlink,
        Self::TruncateIndex,
        Self::OldLock,
        Self::LockWorktree,
        Self::PackRefs,
        Self::MoveBase,
    ];
}

impl Book {
    fn done(&mut self, deed: Deed, site: &Site, repo: &Repo) {
        let (worktree, away) = (site.worktree(&self.slug), site.path(&format!("data/worktrees/away-{}", self.slug)));
        let admin = repo.path.join(".git/worktrees").join(&self.slug);
        let there = worktree.join(".git").is_file();
        // git may say no; then the book has nothing new.
        let git = |args: &[&str]| there && git_command(&worktree, args).output().expect("git runs").status.success();
        self.made += 1;
        let file = format!("mine-{}.txt", self.made);
        let edit = |files: &mut BTreeMap<PathBuf, Vec<u8>>| {
            write(&worktree.join(&file), &format!("{} {}\n", self.slug, self.made));
            files.insert(file.clone().into(), std::fs::read(worktree.join(&file)).expect("was written"));
        };
        match deed {
            Deed::Edit if there => edit(&mut self.files),
            Deed::Stage if there => {
                edit(&mut self.files);
                git(&["add", "--all"]);
            }
            Deed::Commit if there => {
                edit(&mut self.files);
                if git(&["add", "--all"]) && git(&["commit", "--quiet", "--message", "work"]) {
                    self.commits.push(crate::harness::git(&worktree, &["rev-parse", "HEAD"]));
                    // What is committed off a branch is anybody's to lose; a branch keeps it.
                    git(&["branch", &format!("kept-{}-{}", self.slug, self.made)]);
                }
            }
            Deed::Detach => {
                git(&["checkout", "--quiet", "--detach"]);
            }
            Deed::OtherBranch => {
                git(&["checkout", "--quiet", "-b", &format!("other-{}-{}", self.slug, self.made)]);
            }
            Deed::Conflict if there => {
                write(&worktree.join("README.md"), &file);
                git(&["commit", "--quiet", "--message", "mine", "README.md"]);
                repo.write("README.md", &format!("{file} of the base\n"));
                repo.commit("theirs");
                git(&["merge", "main"]);
            }
            Deed::MoveAway if !away.exists() => drop(std::fs::rename(&worktree, &away)),
            Deed::ComeBack if !worktree.exists() => drop(std::fs::rename(&away, &worktree)),
            Deed::Unregister => drop(std::fs::rename(&admin, site.path(&format!("gone-{}-{}", self.slug, self.made)))),
            Deed::Unlink => drop(std::fs::remove_file(worktree.join(".git"))),
            Deed::TruncateIndex if admin.is_dir() => std::fs::write(admin.join("index"), b"DIRC").expect("writes"),
            Deed::OldLock if admin.is_dir() => {
                let lock = std::fs::File::create(admin.join("index.lock")).expect("creates");
                lock.set_modified(std::time::SystemTime::now() - Duration::from_secs(600)).expect("ages it");
            }
            Deed::LockWorktree => {
                git(&["worktree", "lock", "."]);
            }
            Deed::PackRefs => drop(git_command(&repo.path, &["pack-refs", "--all"]).output()),
            Deed::MoveBase => {
                repo.write(&format!("base-{}", self.made), &self.slug);
                repo.commit("the base moves");
            }
            _ => {}
        }
    }

    fn assert_kept(&self, site: &Site, repo: &Repo, deeds: &[Deed]) {
        let what = format!("{} after {deeds:?}", self.slug);
        let book = Belongings { commits: self.commits.clone(), files: self.files.clone() };
        book.assert_kept(site, &repo.path, &what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sequence_of_deeds_loses_a_commit_or_a_file_or_is_left_without_a_reason() {
    let sequences = size("GIT_SEQUENCES", [20, 200, 1_000]);
    let mut dice = Dice(seed(None));
    let names: Vec<String> = (0..sequences).map(|number| format!("todo-{number}")).collect();
    // All files of a site are gone through after every deed, so each site has a few.
    for names in names.chunks(SEQUENCES_OF_A_SITE) {
        go_through(names, &mut dice).await;
    }
}

async fn go_through(names: &[String], dice: &mut Dice) {
    let site = Site::new();
    let repo = site.app(&names.iter().map(String::as_str).collect::<Vec<_>>(), "");
    // The same fault again and again is what is tried here: no lane pauses for it.
    let house =
        site.start_with(&[&repo], &[("breaker.failures", "1000")], slugline::actors::faults::Faults::default()).await;
    for slug in names {
        house.order(slug).await;
        let mut book = Book { slug: slug.clone(), made: 0, commits: Vec::new(), files: BTreeMap::new() };
        let mut deeds = Vec::new();
        for _ in 0..=dice.below(6) {
            let deed = *dice.one_of(&Deed::ALL);
            deeds.push(deed);
            book.done(deed, &site, &repo);
            book.assert_kept(&site, &repo, &deeds);
            if dice.below(3) > 0 {
                let (reply, _) = ask(&house, slug).await;
                assert!(is_named(&reply), "{slug} after {deeds:?}: {}", reply.text());
                book.assert_kept(&site, &repo, &deeds);
            }
        }
        let (reply, _) = ask(&house, slug).await;
        assert!(is_named(&reply), "{slug} after {deeds:?}: {}", reply.text());
        book.assert_kept(&site, &repo, &deeds);
    }
    house.stop_with_all_kept().await;
}
