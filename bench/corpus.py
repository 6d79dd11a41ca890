"""Repositories with many worktrees to measure on: made once, kept, and the same at every start.

    corpus(DIR, worktrees, files)      -> a Corpus, from DIR if it is there already

DIR/app is the main worktree, DIR/wt/wt-001 ... the linked ones; corpus.json in DIR is written last, so what was
interrupted is made anew. Every tenth worktree is dirty (staged, unstaged or untracked, in turn), every tenth has an
ignored node_modules of 5,000 files (hard links, as pnpm makes them), every seventh is 1 to 5 commits ahead, and all
are 10 behind the base. Todos are ten per worktree: w00000, w00001, ...
"""
import concurrent.futures, hashlib, json, os, random, shutil, subprocess, time

CLEAN = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
         "GIT_AUTHOR_NAME": "B", "GIT_AUTHOR_EMAIL": "b@localhost",
         "GIT_COMMITTER_NAME": "B", "GIT_COMMITTER_EMAIL": "b@localhost"}
ENV = {**{k: v for k, v in os.environ.items() if not k.startswith("GIT_")}, **CLEAN}
IGNORED_FILES = 5000             # in each node_modules
FILES_PER_DIRECTORY = 12         # 3,000 files are in 250 directories
BEHIND = 10                      # commits the base moves on
RACY_SECONDS = 1.1               # git compares seconds: what was written within one of its index is looked into again


def git(where, *args, **more):
    """Run one git command without anybody's settings; its output, or an error that says what git said."""
    done = subprocess.run(["git", "-C", where, *args], text=True, capture_output=True, env=ENV, **more)
    if done.returncode:
        raise SystemExit(f"git {' '.join(args)} in {where}: {done.stderr.strip()}")
    return done.stdout


def each(act, items):
    """Do it to all of them, two at a time."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(act, items))


class Corpus:
    def __init__(self, where):
        with open(f"{where}/corpus.json") as f:
            kept = json.load(f)
        self.where, self.app, self.base, self.files = where, f"{where}/app", kept["base"], kept["files"]
        self.linked = [f"{where}/wt/{name}" for name in kept["linked"]]
        self.clean = [f"{where}/wt/{name}" for name in kept["clean"]]      # nothing changed, nothing ahead
        self.all = [self.app, *self.linked]

    def add(self, name):
        """One more worktree, as new as can be."""
        path = f"{self.where}/wt/{name}"
        git(self.app, "worktree", "add", "-q", "--no-track", "-b", name, path, self.base)
        return path

    def remove(self, path):
        git(self.app, "worktree", "remove", "--force", path)
        git(self.app, "branch", "-q", "-D", os.path.basename(path))

    def put_back(self):
        """Take out what a run that was stopped left behind: worktrees and branches that are not of the corpus."""
        mine = {os.path.realpath(path) for path in self.all}
        for line in git(self.app, "worktree", "list", "--porcelain").splitlines():
            path = line.removeprefix("worktree ")
            if line.startswith("worktree ") and os.path.realpath(path) not in mine:
                git(self.app, "worktree", "remove", "--force", "--force", path) if os.path.isdir(path) else None
        git(self.app, "worktree", "prune")
        own = {self.base, *map(os.path.basename, self.linked)}
        heads = git(self.app, "for-each-ref", "--format=%(refname:short)", "refs/heads").split()
        if extra := [head for head in heads if head not in own]:
            git(self.app, "branch", "-q", "-D", *extra)

    def settle(self):
        """Let git write every index once more, late enough that no entry of it is racy."""
        time.sleep(RACY_SECONDS)
        each(lambda path: git(path, "status", "--porcelain"), self.all)


def corpus(where, worktrees, files, source=None):
    where = os.path.abspath(where)
    if not os.path.exists(f"{where}/corpus.json"):
        shutil.rmtree(where, ignore_errors=True)
        make(where, worktrees, files, source)
    found = Corpus(where)
    found.put_back()
    return found


def key(worktrees, files, source=None):
    """The directory's name: what it was made from, so that another source is another corpus."""
    if not source:
        return f"{worktrees}x{files}"
    head = git(source, "rev-parse", "HEAD").strip()
    name = hashlib.sha256(os.path.realpath(source).encode()).hexdigest()[:6]
    return f"{worktrees}x{os.path.basename(os.path.realpath(source))}-{name}-{head[:10]}"


def make(where, worktrees, files, source):
    began, chance = time.monotonic(), random.Random(7)
    os.makedirs(f"{where}/wt")
    app = f"{where}/app"
    if source:
        git(".", "clone", "-q", "--no-hardlinks", os.path.realpath(source), app)
    else:
        synthetic(app, files, 10 * worktrees, chance)
    base = git(app, "symbolic-ref", "--short", "HEAD").strip()
    for name, value in (("gc.auto", "0"), ("maintenance.auto", "false"), ("core.hooksPath", os.devnull)):
        git(app, "config", name, value)
    with open(f"{app}/.git/info/exclude", "a") as f:
        f.write("node_modules/\n*.log\n")
    git(app, "gc", "-q")
    names = [f"wt-{number:03}" for number in range(1, worktrees)]
    for name in names:                                       # one after the other: they share a registry
        git(app, "worktree", "add", "-q", "--no-track", "-b", name, f"{where}/wt/{name}", base)
    plain = plain_files(app)
    for number in range(BEHIND):
        change(app, plain[number % len(plain)])
        git(app, "commit", "-qam", f"base {number}")
    modules(f"{where}/modules")
    clean = []
    for number, name in enumerate(names):
        path = f"{where}/wt/{name}"
        if number % 7 == 2:
            for ahead in range(1 + number % 5):
                change(path, chance.choice(plain))
                git(path, "commit", "-qam", f"ahead {ahead}")
        if number % 10 == 3:
            dirty(path, number // 10, chance, plain)
        if number % 10 == 8:
            subprocess.run(["cp", "-al", f"{where}/modules", f"{path}/node_modules"], check=True)
        if number % 7 != 2 and number % 10 != 3:
            clean.append(name)
    count = len(git(app, "ls-files").splitlines())
    kept = {"base": base, "files": count, "linked": names, "clean": clean}
    with open(f"{where}/corpus.part", "w") as f:
        json.dump(kept, f)
    os.rename(f"{where}/corpus.part", f"{where}/corpus.json")
    Corpus(where).settle()
    print(f"made {where}: {worktrees} worktrees of {count} files in {time.monotonic() - began:.0f} s", flush=True)


def synthetic(app, files, todos, chance):
    """A repository of so many files of 200 B to 8 KB, and a roadmap."""
    git(".", "init", "-q", "-b", "main", app)
    words = "the quick brown fox jumps over a lazy dog and writes some code about it".split()
    text = "".join(" ".join(chance.choices(words, k=9)) + "\n" for _ in range(4000))
    for number in range(files - 2):                          # .gitignore and the roadmap are two
        directory = number // FILES_PER_DIRECTORY
        path = f"{app}/src/part{directory // 25:02}/module{directory:03}"
        os.makedirs(path, exist_ok=True)
        start, size = chance.randrange(len(text) - 8192), chance.randint(200, 8192)
        with open(f"{path}/file{number:05}.txt", "w") as f:
            f.write(f"{number}\n{text[start:start + size - 7]}\n")
    os.makedirs(f"{app}/todos")
    with open(f"{app}/todos/roadmap.yaml", "w") as f:
        f.writelines(f"- slug: w{number:05}\n" for number in range(todos))
    with open(f"{app}/.gitignore", "w") as f:
        f.write("node_modules/\n*.log\n")
    git(app, "add", "-A")
    git(app, "commit", "-qm", "first")


def plain_files(app):
    """Tracked regular files that a line can be added to: text, not small, not the roadmap."""
    listed = (line.split(" ", 1) for line in git(app, "ls-files", "-s").splitlines())
    paths = (rest.split("\t", 1)[1] for mode, rest in listed if mode == "100644")
    fits = lambda path: os.path.isfile(f"{app}/{path}") and 100 < os.path.getsize(f"{app}/{path}") < 65536
    found = [path for path in paths if not path.startswith(("todos/", ".")) and fits(path)]
    return random.Random(3).sample(found, min(len(found), 400))


def change(path, file):
    with open(f"{path}/{file}", "a") as f:
        f.write("one more line\n")


def dirty(path, kind, chance, plain):
    """One to five files staged, unstaged or untracked."""
    for file in chance.sample(plain, 1 + kind % 5):
        if kind % 3 == 2:
            file += ".new"
        change(path, file)
        if kind % 3 == 0:
            git(path, "add", file)


def modules(path):
    """A directory as package managers make them, to be linked into worktrees."""
    for number in range(IGNORED_FILES):
        package = f"{path}/package{number // 20:03}/lib/part{number // 5 % 4}"
        os.makedirs(package, exist_ok=True)
        with open(f"{package}/module{number}.js", "w") as f:
            f.write("module.exports = 1\n")
