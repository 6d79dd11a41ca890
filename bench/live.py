"""How soon a listener hears what happened in a worktree or a session, and what listening and idling cost.

  commits    `git commit` in a worktree -> `worktree.updated` of that worktree at a client of GET /events. The clock
             starts when git is started: what git itself takes is in it, and shown beside it.
  edits      one tracked file is changed or changed back -> the same. Watched: one edit after the other, in worktrees
             whose row says so. Polled: a daemon that may not watch ([inventory] watches_max = 0), two edits a second.
  sessions   POST /sessions/{id}/events, from before it is sent -> `session.updated`.
  cpu        processor time of the daemon with ten session events a second and one listener to everything, and what it
             started meanwhile: git commands and looks at worktrees, by its own /metrics.
  idle       1,000 worktrees of 600 files and 10,000 todos, nobody listening. The reference is a python process asleep.
  clients    many listeners: resident memory per client, and ten events a second to all of them. The clients are in one
             process that reads them one after the other (bench/live_clients.rs says what its delay contains).

Events that did not come within the limit of their part are counted as lost, and a part that lost one met nothing.
The repository is the one of bench/list (bench/corpus.py) and is put back afterwards. bench/out/live.json has every
delay. Other work on the machine shows in every row here: nothing is compared with a rival that would suffer alike.

  bench/live --quick                   31 worktrees, few events, ten seconds in the place of sixty
  bench/live                           101 worktrees of 3,000 files, and 1,000 of 600
  bench/live --only sessions,clients --clients 1000,10000
"""
import argparse, json, os, random, signal, subprocess, sys, time

from corpus import ENV, change, corpus, git, key, plain_files
from daemon import Daemon, Events, Unserved
from table import Table, ms, quantile

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "out")
COMMIT_LIMIT = SESSION_LIMIT = 20    # seconds until an event counts as lost
EDIT_LIMIT = 30
WATCHED_LIMIT = 30                   # seconds for rows to become watched
POLLED_EVERY = 0.5
EVENTS_PER_SECOND = 10
CLIENT_EVENTS = 50
CHANCE = random.Random(11)
DELAYS = {}                          # all that were measured, for the JSON


def within(table, what, times, lost, goal_ms, beside="–"):
    """A row of delays: p50 and p99 in milliseconds, against the goal for p99."""
    DELAYS[what] = times
    if not times:
        return table.missing(what, f"no event came ({lost} lost)", f"p99 ≤ {goal_ms:,} ms")
    p99 = quantile(times, 0.99)
    text = f"p50 {ms(quantile(times, 0.5))}, p99 {ms(p99)}, max {ms(max(times))}" + (f", **{lost} lost**" if lost else "")
    table.row(f"{what} (N = {len(times) + lost})", text, beside, goal=f"p99 ≤ {goal_ms:,} ms", met=not lost and p99 <= goal_ms)


# -------------------------------------------------------------- worktrees
def rows_of(daemon):
    """Rows by their real path, once every worktree has been looked at."""
    connection = daemon.connect()
    rows = connection.json("GET", "/worktrees?wait_ms=45000")
    connection.close()
    return {os.path.realpath(row["path"]): row for row in rows}


def about(name, **said):
    """Whether an event is about this worktree and, as far as it tells, says this of it."""
    def fits(event):
        data = event.data
        if event.type != "worktree.updated" or data.get("name") != name:
            return False
        head, changes = data.get("head"), data.get("changes")
        oid = head.get("oid") if isinstance(head, dict) else head
        if "oid" in said and oid is not None and oid != said["oid"]:
            return False
        return not ("unstaged" in said and isinstance(changes, dict) and changes.get("unstaged") != said["unstaged"])
    return fits


def commits(repository, daemon, count):
    """Milliseconds from the start of `git commit` to the event, those git took, and how many were lost."""
    times, own, lost, rows = [], [], 0, rows_of(daemon)
    file = plain_files(repository.app)[0]
    with Events(daemon, "worktree.updated") as events:
        while len(times) + lost < count:
            batch = CHANCE.sample(repository.clean, min(len(repository.clean), count - len(times) - lost))
            before = {path: git(path, "rev-parse", "HEAD").strip() for path in batch}
            try:
                for path in batch:
                    change(path, file)
                    git(path, "add", file)
                events.quiet(1, 30)
                for path in batch:
                    began = time.perf_counter()
                    git(path, "commit", "-qm", "live")
                    own.append((time.perf_counter() - began) * 1e3)
                    fits = about(rows[os.path.realpath(path)]["name"], oid=git(path, "rev-parse", "HEAD").strip())
                    event = events.wait(fits, began, COMMIT_LIMIT)
                    times += [(event.at - began) * 1e3] if event else []
                    lost += not event
                    time.sleep(CHANCE.uniform(0.01, 0.1))
            finally:
                for path, oid in before.items():
                    git(path, "reset", "-q", "--hard", oid)
            events.quiet(1, 30)
    return times, own, lost


class Edits:
    """One file of every worktree, changed and changed back in turn, so that every edit changes the row."""

    def __init__(self, repository):
        self.file, self.kept = plain_files(repository.app)[1], {}

    def one(self, path):
        """Make one; when it began, and how many unstaged files the worktree has now."""
        full, whole = f"{path}/{self.file}", self.kept.pop(path, None)
        if whole is None:
            with open(full, "rb") as f:
                self.kept[path] = f.read()
        began = time.perf_counter()
        with open(full, "ab" if whole is None else "wb") as f:
            f.write(b"an edit\n" if whole is None else whole)
        return began, int(whole is None)

    def put_back(self):
        for path in list(self.kept):
            self.one(path)


def watched(repository, daemon):
    """Clean worktrees whose rows say that they are watched, waited for while somebody listens."""
    until = time.perf_counter() + WATCHED_LIMIT
    while True:
        rows = rows_of(daemon)
        found = [path for path in repository.clean if rows[os.path.realpath(path)].get("watch") == "watched"]
        if len(found) == len(repository.clean) or time.perf_counter() > until:
            return found, rows
        time.sleep(0.5)


def edits_watched(repository, daemon, count):
    times, lost, edits = [], 0, Edits(repository)
    with Events(daemon, "worktree.updated") as events:
        paths, rows = watched(repository, daemon)
        if not paths:
            raise Unserved(f"no worktree was watched after {WATCHED_LIMIT} s")
        try:
            for _ in range(count):
                path = CHANCE.choice(paths)
                began, unstaged = edits.one(path)
                event = events.wait(about(rows[os.path.realpath(path)]["name"], unstaged=unstaged), began, EDIT_LIMIT)
                times += [(event.at - began) * 1e3] if event else []
                lost += not event
                time.sleep(CHANCE.uniform(0.01, 0.1))
        finally:
            edits.put_back()
    return times, lost, len(paths)


def edits_polled(repository, daemon, count):
    times, lost, edits, made = [], 0, Edits(repository), []
    with Events(daemon, "worktree.updated") as events:
        rows = rows_of(daemon)
        paths = [path for path in repository.clean if rows[os.path.realpath(path)].get("watch") != "watched"]
        if not paths:
            raise Unserved("all worktrees are watched in spite of watches_max = 0")
        try:
            for number in range(count):
                path = paths[number % len(paths)]
                made.append((rows[os.path.realpath(path)]["name"], *edits.one(path)))
                time.sleep(POLLED_EVERY)
            for name, began, unstaged in made:
                left = max(0, began + EDIT_LIMIT - time.perf_counter())
                event = events.wait(about(name, unstaged=unstaged), began, left)
                times += [(event.at - began) * 1e3] if event else []
                lost += not event
        finally:
            edits.put_back()
    return times, lost


def measure_commits(a, table, repository):
    with Daemon(repository, out=OUT) as daemon:
        times, own, lost = commits(repository, daemon, a.events)
    within(table, "`git commit` → SSE client", times, lost, 300, f"git itself: p50 {ms(quantile(own, 0.5))}")


def measure_edits(a, table, repository):
    with Daemon(repository, out=OUT) as daemon:
        times, lost, many = edits_watched(repository, daemon, a.events)
    within(table, f"unstaged edit → SSE client, {many} watched", times, lost, 2000)
    with Daemon(repository, "[inventory]\nwatches_max = 0\n", out=OUT) as daemon:
        within(table, "unstaged edit → SSE client, polled", *edits_polled(repository, daemon, a.events), 10000)


# --------------------------------------------------------------- sessions
def session(connection):
    """A session: of a claim, which is asked for here."""
    connection.json("POST", "/todos/work", {"repo": "app", "lane": "l", "worker": "w", "wait_ms": 45000})
    until = time.perf_counter() + 10
    while time.perf_counter() < until:
        answer = connection.json("GET", "/sessions")
        if found := answer if isinstance(answer, list) else answer.get("sessions"):
            return found[0]["id"]
        time.sleep(0.1)
    raise Unserved("GET /sessions has none although a claim was granted")


def note(connection, of, number):
    connection.json("POST", f"/sessions/{of}/events", {"events": [{"kind": "note", "text": f"note {number}"}]})


def notes(daemon, count):
    times, lost, connection = [], 0, daemon.connect()
    of = session(connection)
    with Events(daemon, "session.updated") as events:
        events.quiet(0.5, 5)
        for number in range(count):
            began = time.perf_counter()
            note(connection, of, number)
            event = events.wait(lambda event: event.type == "session.updated", began, SESSION_LIMIT)
            times += [(event.at - began) * 1e3] if event else []
            lost += not event
            time.sleep(CHANCE.uniform(0.005, 0.03))
    return times, lost


def cpu(daemon, seconds):
    """Share of a core, and what was started meanwhile: (git commands, looks at worktrees, seconds of children)."""
    connection = daemon.connect()
    of = session(connection)
    counted = lambda: [daemon.metrics("slugline_git_operation_seconds_count"), daemon.metrics("slugline_worktree_scans_total")]
    with Events(daemon) as events:
        note(connection, of, 0)
        events.quiet(3, 30)
        connection.close()
        connection, before, (used, children) = daemon.connect(), counted(), daemon.cpu()
        began = time.perf_counter()
        for number in range(seconds * EVENTS_PER_SECOND):
            time.sleep(max(0, began + number / EVENTS_PER_SECOND - time.perf_counter()))
            note(connection, of, number)
        took = time.perf_counter() - began
        (used_after, children_after), after = daemon.cpu(), counted()
    if None in before + after:
        raise Unserved("/metrics has no series of git commands or of scans")
    return (used_after - used) / took, [int(y - x) for x, y in zip(before, after)], children_after - children


def measure_sessions(a, table, repository):
    with Daemon(repository, out=OUT) as daemon:
        within(table, "session event → SSE client", *notes(daemon, 3 * a.events), 100)


def measure_cpu(a, table, repository):
    with Daemon(repository, out=OUT) as daemon:
        share, (commands, looks), children = cpu(daemon, a.seconds)
    table.row(f"CPU with {EVENTS_PER_SECOND} session events/s and one listener ({a.seconds} s)", f"{share:.2%} of a core",
              goal="≤ 1 %", met=share <= 0.01)
    table.row("the same: git processes, looks at worktrees", f"{commands}, {looks} ({children:.2f} s of children)",
              goal="0, 0", met=commands == looks == 0)


# ------------------------------------------------------------ idle, clients
def measure_idle(a, table, _):
    count, files = (a.worktrees, a.files) if a.quick else (1000, 600)
    repository = corpus(f"{OUT}/list/{key(count, files)}", count, files)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        with Daemon(repository, out=OUT) as daemon:
            rows, connection = rows_of(daemon), daemon.connect()
            connection.json("GET", "/todos?repo=app")
            connection.close()
            time.sleep(a.seconds / 3)                          # what a start leaves to do is done by then
            before, began = daemon.cpu(), time.perf_counter()
            time.sleep(a.seconds)
            took, after = time.perf_counter() - began, daemon.cpu()
            share, rss = (sum(after) - sum(before)) / took, daemon.rss() / 1e6
        with open(f"/proc/{sleeper.pid}/statm") as f:
            asleep = int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
    finally:
        sleeper.kill()
        sleeper.wait()
        repository.put_back()
    what = f"idle, {len(rows):,} worktrees × {files:,} files, {10 * count:,} todos"
    table.row(f"{what}: CPU, children included ({a.seconds} s)", f"{share:.2%} of a core", "0 %", goal="≤ 0.2 %", met=share <= 0.002)
    table.row(f"{what}: resident", f"{rss:.0f} MB", f"{asleep:.0f} MB (python, asleep)", goal="≤ 100 MB", met=rss <= 100)


def measure_clients(a, table, repository):
    for count in map(int, a.clients.split(",")):
        clients(table, repository, count)


def clients(table, repository, count):
    config = f"[http]\nevent_clients_max = {count + 2000}\nconnections_max = {count + 3000}\n"
    with Daemon(repository, config, out=OUT) as daemon:
        connection = daemon.connect()
        of = session(connection)
        connection.close()
        time.sleep(2)
        before = daemon.rss()
        command = [f"{OUT}/live_clients", daemon.address, f"{daemon.data}/token", of, str(count), str(CLIENT_EVENTS),
                   str(EVENTS_PER_SECOND)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as crowd:
            try:
                connected = crowd.stdout.readline()
                each = (daemon.rss() - before) / count / 1e3
                out, err = crowd.communicate("go\n" if connected else None, timeout=180)
            finally:
                crowd.kill()
        busy = (daemon.rss() - before) / count / 1e3 if connected else None
    said = json.loads(out) if crowd.returncode == 0 and out else {"fault": " ".join(err.split())[-200:]}
    if connected:
        table.row(f"{count:,} SSE clients: resident, each", f"{each:.1f} KB, {busy:.1f} KB after the events", goal="≤ 20 KB",
                  met=max(each, busy) <= 20)
    if "fault" in said:
        return table.missing(f"{count:,} SSE clients: delay", said["fault"], "p99 ≤ 250 ms")
    lost = f", **{said['lost']} lost**" if said["lost"] else ""
    table.row(f"{count:,} SSE clients: delay of {CLIENT_EVENTS} events, {EVENTS_PER_SECOND}/s",
              f"p50 {ms(said['p50_ms'])}, p99 {ms(said['p99_ms'])}, max {ms(said['max_ms'])}{lost}", goal="p99 ≤ 250 ms",
              met=not said["lost"] and said["p99_ms"] <= 250)


# ------------------------------------------------------------------- main
PARTS = {"commits": measure_commits, "edits": measure_edits, "sessions": measure_sessions, "cpu": measure_cpu,
         "idle": measure_idle, "clients": measure_clients}


def part(table, what, measure, a, repository):
    """Measure it; what this build does not serve becomes a row."""
    print(what, file=sys.stderr, flush=True)
    try:
        measure(a, table, repository)
    except (Unserved, OSError, KeyError, TypeError) as fault:
        table.missing(what, str(fault) or type(fault).__name__, "see --help")
    finally:
        repository.put_back()
        if measure in (measure_commits, measure_edits):
            repository.settle()


def main():
    ap = argparse.ArgumentParser(prog="bench/live", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--quick", action="store_true", help="smaller numbers")
    ap.add_argument("--worktrees", type=int, help="how many, the main one included (101)")
    ap.add_argument("--files", type=int, default=3000, help="tracked files (3000)")
    ap.add_argument("--clients", default="1000", help="how many listeners; several numbers with commas (1000)")
    ap.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    a = ap.parse_args()
    a.only = a.only.split(",")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))        # so that what was changed is put back
    if unknown := set(a.only) - set(PARTS):
        ap.error(f"no such part: {', '.join(sorted(unknown))}")
    a.worktrees, a.events, a.seconds = a.worktrees or (31 if a.quick else 101), 10 if a.quick else 100, 10 if a.quick else 60
    repository, table = corpus(f"{OUT}/list/{key(a.worktrees, a.files)}", a.worktrees, a.files), Table("reference")
    for what, measure in PARTS.items():
        if what in a.only:
            part(table, what, measure, a, repository)
    table.show(f"{a.worktrees} worktrees × {repository.files:,} files, {os.cpu_count()} cores, {git('.', '--version').strip()}",
               f"{OUT}/live.json", delays_ms=DELAYS)


if __name__ == "__main__":
    main()
