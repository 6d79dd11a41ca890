//! The inventory against git itself: random operations in many worktrees of one repository, and after each of them
//! everything the inventory says is compared, field by field, with what git's own commands say.
//!
//! `TEST_SEED` chooses the operations, `TEST_STEPS` how many there are; `TEST_REPO` is a repository to begin with a clone
//! of, and `TEST_WORKTREES` how many worktrees there are at first.

#[path = "scale/mod.rs"]
mod scale;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use slugline::git::{Found, Looked, MAIN, Repository, ScanMemory};
use slugline::model::ids::RepoName;
use slugline::model::worktree::{Changes, Distance, Upstream};

use scale::{seed, size};

/// Small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

struct World {
    root: tempfile::TempDir,
    repo: Repository,
    dice: Dice,
    verified: BTreeMap<PathBuf, ScanMemory>,
    made: usize,
    /// Looks that were counted here, and looks that were left to git.
    counted: usize,
    asked: usize,
    log: Vec<String>,
}

fn git_raw(dir: &Path, args: &[&str]) -> (bool, String) {
    let done = Command::new("git")
        .args(["-c", "user.name=Ünï Tester", "-c", "user.email=t@example.org", "-c", "core.hooksPath=/dev/null"])
        .args(["-c", "gc.auto=0", "-c", "core.editor=true", "-c", "advice.detachedHead=false"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .expect("git runs");
    (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
}

fn git(dir: &Path, args: &[&str]) -> String {
    let (well, out) = git_raw(dir, args);
    assert!(well, "git {args:?} in {}", dir.display());
    out
}

impl World {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().expect("temp dir");
        let main = root.path().join("main");
        match std::env::var("TEST_REPO") {
            Ok(source) => {
                git(root.path(), &["clone", "-q", "--no-hardlinks", &source, "main"]);
                git(&main, &["checkout", "-q", "-B", "trunk"]);
            }
            Err(_) => {
                fs::create_dir(&main).expect("makes");
                git(&main, &["init", "-q", "-b", "trunk"]);
            }
        }
        for dir in 0..12 {
            for file in 0..12 {
                let at = main.join(format!("dir-{dir}/sub {}", dir % 3));
                fs::create_dir_all(&at).expect("makes");
                fs::write(at.join(format!("file-{file}.txt")), format!("content {dir} {file}\nline\n"))
                    .expect("writes");
            }
        }
        fs::create_dir_all(main.join("ünï/cödé")).expect("makes");
        fs::write(main.join("ünï/cödé/ñame.txt"), "text\n").expect("writes");
        fs::write(main.join("dir-1.txt"), "beside a directory of nearly that name\n").expect("writes");
        fs::write(main.join(".gitignore"), "*.log\nnode_modules/\n/build\n!keep.log\n").expect("writes");
        fs::write(main.join(".gitattributes"), "*.win text eol=crlf\n").expect("writes");
        fs::write(main.join("lines.win"), "a\r\nb\r\n").expect("writes");
        git(&main, &["add", "-A"]);
        git(&main, &["commit", "-qm", "first: ünï"]);
        git(&main, &["branch", "up"]);
        let repo = Repository::open(RepoName::parse("app").expect("name"), &main, Some("trunk"), None).expect("opens");
        let mut world = Self {
            root,
            repo,
            dice: Dice(seed | 1),
            verified: BTreeMap::new(),
            made: 0,
            counted: 0,
            asked: 0,
            log: Vec::new(),
        };
        for _ in 0..worktrees() {
            world.add_worktree();
        }
        world
    }

    fn main(&self) -> PathBuf {
        self.root.path().join("main")
    }

    fn add_worktree(&mut self) {
        self.made += 1;
        let (path, branch) = (self.root.path().join(format!("wt {}", self.made)), format!("b{}", self.made));
        let path_text = path.display().to_string();
        git(&self.main(), &["worktree", "add", "-q", "--no-track", "-b", &branch, &path_text, "trunk"]);
        if self.made.is_multiple_of(2) {
            git(&path, &["branch", "-q", "--set-upstream-to=up"]);
        }
        fs::create_dir_all(path.join("node_modules/deep/er")).expect("makes");
        let files = if self.made.is_multiple_of(10) { 5_000 } else { 1 };
        (0..files)
            .for_each(|file| fs::write(path.join(format!("node_modules/deep/er/{file}.js")), "x").expect("writes"));
    }

    /// Worktrees with a directory.
    fn standing(&self) -> Vec<Found> {
        self.repo.worktrees().expect("lists").into_iter().filter(|found| !found.missing).collect()
    }

    fn a_file(&mut self, dir: &Path) -> Option<PathBuf> {
        let tracked = git(dir, &["ls-files", "-z"]);
        let names: Vec<&str> = tracked.split('\0').filter(|name| !name.is_empty()).collect();
        (!names.is_empty()).then(|| dir.join(self.dice.pick(&names)))
    }

    /// One random thing somebody could do; things git refuses change nothing, which is a step too.
    fn step(&mut self) -> PathBuf {
        let standing = self.standing();
        let at = standing[self.dice.roll(standing.len())].path.clone();
        let number = self.dice.roll(10_000);
        let try_git = |args: &[&str]| drop(git_raw(&at, args));
        let branches = ["b1", "b2", "b3", "b4", "up", "trunk"];
        let kind = self.dice.roll(40);
        self.log.push(format!("{kind} in {}", at.display()));
        match kind {
            0..=3 => {
                if let Some(file) = self.a_file(&at).filter(|file| file.is_file()) {
                    let old = fs::read_to_string(&file).unwrap_or_default();
                    let same_size = self.dice.roll(2) == 0 && old.contains('c');
                    let new = if same_size { old.replacen('c', "k", 1) } else { format!("{old}{number}\n") };
                    let _ = fs::write(&file, new);
                }
            }
            4 | 5 => {
                let name = self.dice.pick(&[
                    "new.txt",
                    "dir-2/new.txt",
                    "neu/ñ/x.txt",
                    "trace.log",
                    "keep.log",
                    "build/out.o",
                ]);
                let path = at.join(format!("{number}-{name}").replacen(&format!("{number}-build"), "build", 1));
                if fs::create_dir_all(path.parent().expect("has one")).is_ok() {
                    let _ = fs::write(path, "new\n");
                }
            }
            6 => {
                if let Some(file) = self.a_file(&at) {
                    let _ = fs::remove_file(file);
                }
            }
            7 => {
                if let Some(file) = self.a_file(&at).filter(|file| file.is_file()) {
                    let mode = if self.dice.roll(2) == 0 { 0o755 } else { 0o644 };
                    let _ = fs::set_permissions(file, fs::Permissions::from_mode(mode));
                }
            }
            8 => {
                if let Some(file) = self.a_file(&at) {
                    let _ = fs::remove_file(&file);
                    let _ = symlink("somewhere", &file);
                }
            }
            9 => {
                if let Some(file) = self.a_file(&at) {
                    let _ = fs::remove_file(&file);
                    if fs::create_dir(&file).is_ok() && self.dice.roll(2) == 0 {
                        let _ = fs::write(file.join("inside"), "x");
                    }
                }
            }
            10 => {
                if let Some(dir) =
                    self.a_file(&at).and_then(|file| file.parent().map(Path::to_owned)).filter(|dir| *dir != at)
                {
                    let _ = fs::remove_dir_all(&dir);
                    if self.dice.roll(2) == 0 {
                        let _ = fs::write(&dir, "a file now");
                    }
                }
            }
            11 => {
                if let Some(file) = self.a_file(&at).filter(|file| file.is_file()) {
                    // The same content under another stat.
                    let content = fs::read(&file).unwrap_or_default();
                    let _ = fs::remove_file(&file);
                    let _ = fs::write(&file, content);
                }
            }
            12 => {
                if let Some(file) = self.a_file(&at) {
                    try_git(&["mv", &file.display().to_string(), &format!("moved-{number}.txt")]);
                }
            }
            13 => {
                let ignores = ["", "*.txt\n", "dir-2/\n", "neu\n!neu/x.txt\n", "# nothing\n", "/new*\n\\!x\n"];
                let dir = self.dice.pick(&["", "dir-1", "dir-2/sub 2"]);
                let _ = fs::write(at.join(dir).join(".gitignore"), self.dice.pick(&ignores));
            }
            14 => {
                // A repository in the work tree, and one that is none.
                let nested = at.join(format!("nested-{number}"));
                let _ = fs::create_dir_all(&nested);
                if self.dice.roll(2) == 0 {
                    drop(git_raw(&nested, &["init", "-q"]));
                }
            }
            15 => {
                if let Some(file) = self.a_file(&at) {
                    try_git(&["rm", "-q", "--cached", &file.display().to_string()]);
                }
            }
            16 => {
                if let Some(file) = self.a_file(&at) {
                    try_git(&[
                        "update-index",
                        self.dice.pick(&["--assume-unchanged", "--no-assume-unchanged"]),
                        &file.display().to_string(),
                    ]);
                }
            }
            17 => {
                let _ = fs::write(at.join(format!("meant-{number}")), "x");
                try_git(&["add", "-N", &format!("meant-{number}")]);
            }
            18..=20 => try_git(&["add", "-A"]),
            21..=24 => {
                try_git(&["add", "-A"]);
                try_git(&["commit", "-qm", &format!("work {number}: ä")]);
            }
            25 => try_git(&["commit", "-q", "--amend", "-m", &format!("amended {number}")]),
            26 => try_git(&["merge", "-q", "--no-edit", self.dice.pick(&branches)]),
            27 => try_git(&["merge", "--abort"]),
            28 => try_git(&["rebase", "-q", self.dice.pick(&branches)]),
            29 => try_git(&["rebase", "--abort"]),
            30 => try_git(&["cherry-pick", self.dice.pick(&branches)]),
            31 => try_git(&["cherry-pick", "--abort"]),
            32 => match self.dice.roll(3) {
                0 => try_git(&["checkout", "-q", "--detach"]),
                1 => try_git(&["checkout", "-q", "-b", &format!("n{number}")]),
                _ => try_git(&["checkout", "-q", self.dice.pick(&branches)]),
            },
            33 => try_git(&[
                "reset",
                "-q",
                self.dice.pick(&["--hard", "--mixed", "--soft"]),
                self.dice.pick(&["HEAD", "HEAD~1", "trunk"]),
            ]),
            34 => try_git(&["stash", "-q", "-u"]),
            35 => match self.dice.roll(3) {
                0 => try_git(&["pack-refs", "--all"]),
                1 => try_git(&["gc", "-q", "--prune=now"]),
                _ => try_git(&["update-index", "--index-version", self.dice.pick(&["2", "3", "4"])]),
            },
            36 => self.add_worktree(),
            37 if standing.len() > 5 && at != self.main() => {
                let path = at.display().to_string();
                match self.dice.roll(4) {
                    0 => drop(git_raw(&self.main(), &["worktree", "remove", "--force", &path])),
                    1 => drop(git_raw(&self.main(), &["worktree", "move", &path, &format!("{path}m")])),
                    2 => drop(fs::remove_dir_all(&at)),
                    _ => drop(git_raw(&self.main(), &["worktree", "lock", "--reason", "a reason", &path])),
                }
            }
            38 => drop(git_raw(&self.main(), &["worktree", "unlock", &at.display().to_string()])),
            _ => try_git(&["clean", "-qfd"]),
        }
        at
    }

    /// Everything that is said of one worktree, against git.
    fn compare(&mut self, found: &Found) {
        let at = &found.path;
        let told = |args: &[&str]| git_raw(at, args).1.trim_end().to_owned();
        let context = || format!("{} after {:?}", at.display(), &self.log[self.log.len().saturating_sub(12)..]);
        let head = found.head.as_ref();
        assert_eq!(
            head.map(ToString::to_string).unwrap_or_default(),
            told(&["rev-parse", "-q", "--verify", "HEAD"]),
            "HEAD of {}",
            context()
        );
        let branch = told(&["branch", "--show-current"]);
        assert_eq!(found.detached, branch.is_empty(), "{}", context());
        if !found.detached {
            assert_eq!(found.branch.as_deref(), Some(branch.as_str()), "{}", context());
        }
        if let Some(head) = head {
            let view = self.repo.commit_view(head).expect("reads");
            let authored = view.at.as_ms() / 1_000;
            assert_eq!(
                format!("{}\n{}\n{authored}", view.subject, view.author),
                told(&["log", "-1", "--format=%s%n%an%n%at"]),
                "{}",
                context()
            );
            let base = self.repo.base_oid().expect("has a base");
            let distance = self.repo.distance(head, &base).expect("walks").expect("is near");
            assert_eq!(
                format!("{}\t{}", distance.ahead, distance.behind),
                told(&["rev-list", "--left-right", "--count", "HEAD...trunk"]),
                "{}",
                context()
            );
            let beyond = self.repo.commits_beyond(head, &base, 1_000).expect("walks");
            let mut ours: Vec<String> = beyond.iter().map(|commit| commit.oid.to_string()).collect();
            let mut theirs: Vec<String> = told(&["rev-list", "trunk..HEAD"]).lines().map(str::to_owned).collect();
            ours.sort();
            theirs.sort();
            assert_eq!(ours, theirs, "{}", context());
            if let Some(branch) = found.branch.as_deref().filter(|_| !found.detached) {
                let upstream = self.repo.upstream(branch, head).expect("reads");
                let said = told(&["for-each-ref", "--format=%(upstream:short)", &format!("refs/heads/{branch}")]);
                assert_eq!(
                    upstream.as_ref().map(|upstream| upstream.name.clone()).unwrap_or_default(),
                    said,
                    "{}",
                    context()
                );
                if let Some(Upstream { ahead: Some(ahead), behind: Some(behind), .. }) = upstream {
                    let counted = told(&["rev-list", "--left-right", "--count", "HEAD...@{upstream}"]);
                    assert_eq!(format!("{ahead}\t{behind}"), counted, "{}", context());
                }
            }
            if self.repo.merged(found.branch.as_deref(), head, &base).expect("walks").is_some() {
                let brings = git_raw(at, &["merge-tree", "--write-tree", "trunk", "HEAD"]).1;
                assert_eq!(
                    brings.lines().next(),
                    Some(told(&["rev-parse", "trunk^{tree}"]).as_str()),
                    "called merged: {}",
                    context()
                );
            } else if distance.behind > 0 && distance.ahead > 0 {
                let (clean, brings) = git_raw(at, &["merge-tree", "--write-tree", "trunk", "HEAD"]);
                let nothing = clean && brings.trim_end() == told(&["rev-parse", "trunk^{tree}"]);
                assert!(!nothing, "brings nothing and is not called merged: {}", context());
            }
        }
        let said = told(&["status"]);
        let under_way = match () {
            () if said.contains("rebasing")
                || said.contains("rebase in progress")
                || said.contains("during a rebase") =>
            {
                Some("rebase")
            }
            () if said.contains("still merging")
                || said.contains("unmerged paths") && said.contains("git merge --abort") =>
            {
                Some("merge")
            }
            () if said.contains("currently cherry-picking") => Some("cherry-pick"),
            () => None,
        };
        assert_eq!(found.in_progress, under_way, "{said}\n{}", context());
        let tree = head.map(|head| self.repo.tree_of_commit(head).expect("has a tree"));
        let verified = self.verified.entry(at.clone()).or_default();
        let looked = self.repo.scan(at, &found.git_dir, tree.as_ref(), verified, &|| false);
        let status =
            git_raw(at, &["--no-optional-locks", "status", "--porcelain=v2", "-z", "--untracked-files=normal"]).1;
        match looked.unwrap_or_else(|error| panic!("{error}: {}", context())) {
            Looked::Counted(changes) => {
                self.counted += 1;
                assert_eq!(changes, counted(&status), "{status:?}\n{}", context());
            }
            Looked::AskGit(_) => self.asked += 1,
        }
    }

    /// The list of worktrees, against git's.
    fn compare_list(&self) {
        let said = git(&self.main(), &["worktree", "list", "--porcelain", "-z"]);
        let mut theirs: Vec<(String, bool, Option<String>, bool)> = Vec::new();
        for line in said.split('\0') {
            if let Some(path) = line.strip_prefix("worktree ") {
                theirs.push((path.to_owned(), false, None, false));
            }
            let Some(last) = theirs.last_mut() else { continue };
            match line.split_once(' ').unwrap_or((line, "")) {
                ("detached", _) => last.1 = true,
                ("locked", reason) => last.2 = Some(reason.to_owned()),
                ("prunable", _) => last.3 = true,
                _ => {}
            }
        }
        let found = self.repo.worktrees().expect("lists");
        assert_eq!(found[0].name, MAIN);
        let mut ours: Vec<_> = found
            .into_iter()
            .map(|found| (found.path.display().to_string(), found.detached, found.locked, found.prunable.is_some()))
            .collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
    }
}

/// Counts porcelain v2 records, as the documentation of git-status has them.
fn counted(status: &str) -> Changes {
    let mut changes = Changes::default();
    let mut records = status.split('\0').filter(|record| !record.is_empty());
    while let Some(record) = records.next() {
        let mut letters = record.chars().skip(2);
        match record.as_bytes()[0] {
            b'1' | b'2' => {
                changes.staged += u64::from(letters.next() != Some('.'));
                changes.unstaged += u64::from(letters.next() != Some('.'));
                if record.starts_with('2') {
                    records.next();
                }
            }
            b'u' => changes.conflicted += 1,
            b'?' => changes.untracked += 1,
            _ => {}
        }
    }
    changes
}

/// Worktrees of the random world.
fn worktrees() -> u64 {
    size("TEST_WORKTREES", [6; 3])
}

#[test]
fn every_field_is_what_git_says_after_every_one_of_a_thousand_random_operations() {
    let (seed, steps) = (seed(Some(0x5eed_5109)), size("TEST_STEPS", [1_000, 10_000, 100_000]));
    let mut world = World::new(seed);
    let all_every = worktrees().max(10) * 5;
    for step in 0..steps {
        let at = world.step();
        if let Some(found) = world.standing().into_iter().find(|found| found.path == at) {
            world.compare(&found);
        }
        if step % all_every == all_every - 1 {
            world.compare_list();
            for found in world.standing() {
                world.compare(&found);
            }
        }
    }
    let share = world.counted * 100 / (world.counted + world.asked);
    println!("counted here: {share} % of {}", world.counted + world.asked);
    assert!(share >= 30, "only {share} % of the looks were counted here, so little was compared");
}

#[test]
fn distances_are_right_where_clocks_are_wrong() {
    let root = tempfile::tempdir().expect("temp dir");
    let main = root.path();
    git(main, &["init", "-q", "-b", "trunk"]);
    let commit = |message: &str, at: i64| {
        fs::write(main.join("f"), message).expect("writes");
        git(main, &["add", "-A"]);
        let date = format!("{at} +0000");
        let done = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message])
            .env("GIT_COMMITTER_DATE", &date)
            .env("GIT_AUTHOR_DATE", &date)
            .current_dir(main)
            .status();
        assert!(done.expect("git runs").success());
    };
    commit("root", 1_700_000_000);
    for index in 0..20 {
        // Each child says it is older than its parent.
        commit(&format!("shared {index}"), 1_700_000_000 - index * 600);
    }
    git(main, &["branch", "side"]);
    commit("trunk", 1_700_000_100);
    git(main, &["checkout", "-q", "side"]);
    commit("side one", 1_600_000_000);
    commit("side two", 1_800_000_000);
    let repo = Repository::open(RepoName::parse("app").expect("name"), main, Some("trunk"), None).expect("opens");
    let found = &repo.worktrees().expect("lists")[0];
    let head = found.head.clone().expect("has commits");
    let base = repo.base_oid().expect("has a base");
    assert_eq!(repo.distance(&head, &base).expect("walks"), Some(Distance { ahead: 2, behind: 1 }));
}
