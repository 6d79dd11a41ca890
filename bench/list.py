"""The list of all worktrees with all their fields, cold and warm: Slugline beside what one would run instead.

Every way gives, per worktree: head, branch, subject, author, time, what is changed, how far it is ahead and behind.

  node, all at once    six git processes per worktree, all of them at the same time, from Node (execFile, Promise.all)
  rust, all at once    the same from Rust, a thread per process
  node, 8 at a time    the same six, eight processes at a time
  rust, 8 at a time    the same from Rust
  best CLI             one `for-each-ref` for all refs and `git --no-optional-locks status` per worktree, 2 at a time
  wt list              worktrunk, when `wt` is on the PATH
  floor                lstat of every tracked file and readdir of every directory with one, 2 threads: no list that
                       looks at the work trees can do without that

Ours is the whole answer of GET /worktrees over HTTP. Cold: a fresh daemon each time, asked once /readyz says 200, for
an answer that waits until every worktree has been looked at; "from the start" counts from the start of its process.
First paint: a fresh daemon's first answer without waiting. Warm: 200 requests on one connection.

Rounds are interleaved, the table has medians, bench/out/list.json has every run. The repository is made at the first
run (bench/corpus.py tells what is in it) and kept in bench/out/list: 101 worktrees of 3,000 files take 2 GB and some
minutes. Plain `git status` rewrites indexes; that is what those rivals do, and it makes the next one no slower.
Worktrees that were just added are a case of their own: git cannot tell their files from changed ones by time and reads
them again. Each contender there gets twenty worktrees made for it right before.

  bench/list --quick                   31 worktrees, one round
  bench/list                           101 worktrees of 3,000 files, three rounds
  bench/list --worktrees 1000 --files 600
  bench/list --grow                    besides: 101 and 1,000 worktrees of 600 files, per worktree
  bench/list --repo DIR                a clone of a repository of yours in the place of the made one
"""
import argparse, json, os, shutil, signal, statistics, subprocess, sys, time

from corpus import ENV, corpus, git, key
from daemon import Daemon, Unserved
from table import Table, ms

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "out")
RIVALS = ["node, all at once", "rust, all at once", "node, 8 at a time", "rust, 8 at a time", "best CLI", "wt list", "floor"]
AT_ONCE_MAX = 1000               # more git processes at the same time are left out: 6,000 would need all memory there is
FRESH = 20                       # worktrees added right before
SETTLE = 2.0
WARM = 200
LINEAR = 1.1                     # a row may cost so many times as much among many: linear, and a tenth for noise
ALL_LOOKED_AT = "/worktrees?wait_ms=45000"
SETTLE_SECONDS = 0.3             # between contenders, so that none pays for the writes of the one before


# ---------------------------------------------------------------- rivals
def rival(name, paths, base):
    """Milliseconds one of them took; None if it cannot run here."""
    if name == "wt list":
        return worktrunk(paths[0])
    at_once = {"all": 6 * len(paths), "8": 8}.get(name.split(", ")[-1].split()[0], 2)
    if at_once > AT_ONCE_MAX or (name.startswith("node") and not shutil.which("node")):
        return None
    with open(f"{OUT}/list.paths", "w") as f:
        f.writelines(path + "\n" for path in paths)
    if name.startswith("node"):
        command = ["node", f"{HERE}/list_node.js", str(at_once)]
    else:
        mode = {"best CLI": "best", "floor": "floor"}.get(name, "six")
        command = [f"{OUT}/list_rivals", mode, str(at_once)]
    done = subprocess.run([*command, base, f"{OUT}/list.paths"], text=True, capture_output=True, env=ENV, timeout=600)
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr[-1000:]}")
    return json.loads(done.stdout)["ms"]


def worktrunk(app):
    """`wt list`, its start included as it is not taken out of any other command line either."""
    if not shutil.which("wt"):
        return None
    for command in (["wt", "list", "--format", "json"], ["wt", "list"]):
        began = time.perf_counter()
        if subprocess.run(command, cwd=app, capture_output=True, env=ENV, timeout=600).returncode == 0:
            return (time.perf_counter() - began) * 1e3
    return None


def why_not(name, count):
    if name == "wt list":
        return "not installed" if not shutil.which("wt") else "did not run"
    if name.startswith("node") and not shutil.which("node"):
        return "node is not installed"
    if "all at once" in name and 6 * count > AT_ONCE_MAX:
        return f"left out: {6 * count:,} processes at once"
    return "left out (--skip-node)"


# ------------------------------------------------------------------ ours
def cold(repository):
    """Milliseconds from the question, from the start of the daemon, and the rows."""
    with Daemon(repository, out=OUT) as daemon:
        connection = daemon.connect()
        began = time.perf_counter()
        rows = connection.json("GET", ALL_LOOKED_AT)
        ended = time.perf_counter()
        return (ended - began) * 1e3, (ended - daemon.began) * 1e3, rows


def first_paint(repository):
    with Daemon(repository, out=OUT) as daemon:
        connection = daemon.connect()
        began = time.perf_counter()
        rows = connection.json("GET", "/worktrees")
        ended = time.perf_counter()
        if len(rows) != len(repository.all):
            raise Unserved(f"the first answer had {len(rows)} rows of {len(repository.all)}")
        return (ended - began) * 1e3


def warm(repository):
    """Milliseconds of a warm answer and of a 304, medians; and whether it was 304."""
    with Daemon(repository, out=OUT) as daemon:
        connection = daemon.connect()
        connection.json("GET", ALL_LOOKED_AT)
        settled(connection)
        full, tag = repeated(connection, "")
        unchanged, _ = repeated(connection, f"If-None-Match: {tag}\r\n") if tag else (None, None)
        status = connection.ask("GET", "/worktrees", headers=f"If-None-Match: {tag}\r\n")[0] if tag else 200
        return full, unchanged, status


def settled(connection):
    """Waits until the list has stayed the same for two seconds: after the first look every worktree is looked at once
    more, with its watches in place."""
    tag, since = None, time.perf_counter()
    while time.perf_counter() - since < SETTLE:
        now = connection.ask("GET", "/worktrees")[1].get("etag")
        if now != tag:
            tag, since = now, time.perf_counter()
        time.sleep(0.1)


def repeated(connection, headers):
    times, tag = [], None
    for _ in range(WARM):
        began = time.perf_counter()
        _, names, _ = connection.ask("GET", "/worktrees", headers=headers)
        times.append((time.perf_counter() - began) * 1e3)
        tag = names.get("etag", tag)
    return statistics.median(times), tag


def wrong(repository, rows):
    """Rows that do not say what git says: their paths. A quick answer that is wrong is no answer."""
    by_path, found = {os.path.realpath(row["path"]): row for row in rows}, []
    for path in repository.all:
        lines = git(path, "--no-optional-locks", "status", "--porcelain", "--untracked-files=all").splitlines()
        counts = (sum(line[0] not in " ?" for line in lines), sum(line[1] not in " ?" for line in lines),
                  sum(line.startswith("??") for line in lines))
        row = by_path.get(os.path.realpath(path))
        said = row and row.get("changes")
        head = git(path, "rev-parse", "HEAD").strip()
        if not said or (said["staged"], said["unstaged"], said["untracked"]) != counts or row["head"]["oid"] != head:
            found.append(path)
    return found


# ---------------------------------------------------------------- rounds
class Runs:
    """All that was measured: milliseconds by name, and why something of ours could not be."""

    def __init__(self, ours):
        self.times, self.ours, self.why = {}, ours, None if ours else "left out (SLUGLINE=none)"

    def note(self, name, value):
        if value is not None:
            self.times.setdefault(name, []).append(value)
            print(f"{name:40} {value:10.2f} ms", file=sys.stderr, flush=True)

    def of(self, name):
        return statistics.median(self.times[name]) if name in self.times else None

    def of_ours(self, act, *args):
        """What it gives, or None and the reason kept."""
        if self.why is not None:
            return None
        try:
            return act(*args)
        except (Unserved, OSError, KeyError, TypeError) as fault:
            self.why = str(fault) or type(fault).__name__
            print(f"ours: {self.why}", file=sys.stderr)
            return None


def round_of(repository, runs, rivals, label=""):
    for name in rivals:
        runs.note(label + name, rival(name, repository.all, repository.base))
        time.sleep(SETTLE_SECONDS)
    if done := runs.of_ours(cold, repository):
        runs.note(label + "ours, cold", done[0])
        runs.note(label + "ours, cold from the start", done[1])
        if label + "wrong" not in runs.times:
            runs.times[label + "wrong"] = [len(wrong(repository, done[2]))]
    if not label and (done := runs.of_ours(first_paint, repository)):
        runs.note("ours, first paint", done)


def fresh_round(repository, runs):
    """Each contender beside twenty worktrees that were added for it a moment ago."""
    for name in ("rust, 8 at a time", "best CLI", "ours"):
        added = []
        try:
            for number in range(FRESH):
                added.append(repository.add(f"wt-fresh-{number:02}"))
            if name != "ours":
                runs.note("fresh, " + name, rival(name, [repository.app, *added], repository.base))
            elif done := runs.of_ours(cold, repository):
                runs.note("fresh, ours", done[0])
        finally:
            for path in added:
                repository.remove(path)


# ----------------------------------------------------------------- table
def report(table, runs, count):
    of = runs.of
    compare(table, runs, "cold, all fields", of("ours, cold"),
            [("rust, 8 at a time", 2.5), ("node, 8 at a time", 4), ("rust, all at once", None), ("node, all at once", None),
             ("best CLI", None), ("wt list", None)], count, within=("floor", 1.25))
    if (started := of("ours, cold from the start")) and of("best CLI"):
        table.ahead("the same, counted from the daemon's start, beside best CLI", started, of("best CLI"))
    compare(table, runs, "first paint (without the work trees)", of("ours, first paint"),
            [("rust, 8 at a time", 100), ("best CLI", None)], count)
    compare(table, runs, "warm", of("ours, warm"), [("rust, 8 at a time", 1000), ("best CLI", None)], count)
    if unchanged := of("ours, unchanged"):
        table.row("warm, unchanged, with If-None-Match", ms(unchanged), goal="304", met=runs.times["status"] == [304])
    compare(table, runs, f"{FRESH} worktrees added right before, cold", of("fresh, ours"),
            [("fresh, rust, 8 at a time", 10), ("fresh, best CLI", 10)], count)
    if "wrong" in runs.times:
        table.row("rows that do not say what git says", str(runs.times["wrong"][0]), "0", goal="0", met=runs.times["wrong"] == [0])


def compare(table, runs, what, ours, rivals, count, within=None):
    """A row for each rival; a rival or an ours that could not run is said in the row."""
    for name, goal in ([within] if within else []) + rivals:
        title, theirs = f"{what}, beside {name.removeprefix('fresh, ')}", runs.of(name)
        text = f"≤ {goal:g}×" if (name, goal) == within else f"≥ {goal:,g}× ahead" if goal else "–"
        if theirs is None:
            table.row(title, ms(ours) if ours else "–", why_not(name, count), goal=text, met="not measured" if goal else None)
        elif ours is None:
            table.row(title, runs.why or "not measured", ms(theirs), goal=text, met="not measured" if goal else None)
        elif (name, goal) == within:
            table.within(title, ours, theirs, goal)
        else:
            table.ahead(title, ours, theirs, goal)


def growth(table, runs, few, many):
    """What a worktree costs among few and among many, for each contender."""
    for name in ("ours, cold", "best CLI", "floor"):
        one, other = runs.of(f"{few}: {name}"), runs.of(f"{many}: {name}")
        goal = f"≤ {LINEAR:g}×, linear" if name.startswith("ours") else "–"
        if one and other:
            ratio = other / many / (one / few)
            table.row(f"per worktree among {many:,}, beside {few} (600 files): {name}", ms(other / many), ms(one / few),
                      ratio, goal, ratio <= LINEAR if goal != "–" else None)
        else:
            table.missing(f"per worktree among {many:,}, beside {few}: {name}", runs.why or "not measured", goal)


def main():
    ap = argparse.ArgumentParser(prog="bench/list", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--quick", action="store_true", help="31 worktrees and one round")
    ap.add_argument("--worktrees", type=int, help="how many, the main one included (101)")
    ap.add_argument("--files", type=int, default=3000, help="tracked files of the repository that is made (3000)")
    ap.add_argument("--rounds", type=int, help="interleaved rounds (3)")
    ap.add_argument("--repo", metavar="DIR", help="clone this in the place of making one")
    ap.add_argument("--skip-node", action="store_true", help="leave the two ways from Node out")
    ap.add_argument("--grow", action="store_true", help="besides: how the cost grows from 101 to 1,000 worktrees")
    a = ap.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))        # so that daemons are stopped and worktrees removed
    worktrees, rounds = a.worktrees or (31 if a.quick else 101), a.rounds or (1 if a.quick else 3)
    rivals = [name for name in RIVALS if not (a.skip_node and name.startswith("node"))]
    runs = Runs(os.environ.get("SLUGLINE", "none") != "none")
    repository = corpus(f"{OUT}/list/{key(worktrees, a.files, a.repo)}", worktrees, a.files, a.repo)
    small = corpus(f"{OUT}/list/fresh-{key(1, a.files, a.repo)}", 1, a.files, a.repo)
    rival("floor", repository.all, repository.base)                # everything is in the page cache from here on
    for _ in range(rounds):
        round_of(repository, runs, rivals)
        fresh_round(small, runs)
    if done := runs.of_ours(warm, repository):
        runs.note("ours, warm", done[0]), runs.note("ours, unchanged", done[1])
        runs.times["status"] = [done[2]]
    table = Table()
    report(table, runs, worktrees)
    if a.grow:
        for count in (101, 1000):
            grown = corpus(f"{OUT}/list/{key(count, 600)}", count, 600)
            rival("floor", grown.all, grown.base)
            for _ in range(rounds):
                round_of(grown, runs, ["best CLI", "floor"], f"{count}: ")
        growth(table, runs, 101, 1000)
    table.show(f"{worktrees} worktrees × {repository.files:,} files, median of {rounds} interleaved rounds, "
               f"{os.cpu_count()} cores, {git('.', '--version').strip()}", f"{OUT}/list.json", times=runs.times)


if __name__ == "__main__":
    main()
