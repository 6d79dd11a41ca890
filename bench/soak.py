"""A daemon with agents at work and faults once a minute, for as long as asked; in the end, whether every promise held.

Agents file todos, ask for work, commit and edit in their worktree, send heartbeats, and complete, fail or give back. What is
done is merged into the base, as a person would, and its worktree is asked to be removed. One fault after the other:

  kill       the daemon is killed (SIGKILL) and started again
  worktree   the directory of a worktree somebody works in is deleted; what was not committed there is noted as deleted
  lock       git's index lock of a worktree somebody works in is held for some seconds
  prepare    prepares fail for some seconds

The book is kept here, from answers alone:

  I1  every todo and operation that was acknowledged can be seen in the end
  I2  no token is given twice or goes back, and nobody is granted what another one holds
  I4  ten seconds after the daemon no process of its runs is left
  I5  the ledger passes SQLite's own check
  I7  every commit of an agent is on its branch; every edit that was not committed is there, unless it was deleted on purpose

Repositories given with --repos are cloned, never touched. Everything is on loopback and below bench/out, and is stopped by
its process id. Growth is told as a slope: of memory, files, threads and watches within each life of the daemon, of the
ledger over all; in the first minutes of a life everything grows. Exit code 0: every promise held; 1: one did not.

  bench/soak --for 10m --agents 50
  bench/soak --for 72h --agents 200 --repos /path/to/one /path/to/another
"""
import argparse, concurrent.futures, glob, hashlib, http.client, json, os, random, re, shutil, signal, sqlite3, subprocess, sys, tempfile, threading, time

from corpus import ENV

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "out")
READY_SECONDS = STOP_SECONDS = 90
SAMPLE_SECONDS = 5
SETTLING_SECONDS = 30          # of a life that slopes leave out
LEASE_MS = 120_000
FAULT_SECONDS = 5              # how long a held lock and failing prepares last
LEFTOVERS_SECONDS = 10
RSS_GOAL = 1.0                 # MB an hour, once a soak is long enough to say
HOURS_TO_JUDGE = 2.0


def length(text):
    """Seconds of 90s, 10m, 72h."""
    number, unit = re.fullmatch(r"(\d+)([smh])", text).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def git(where, *args, check=True):
    done = subprocess.run(["git", "-C", where, *args], text=True, capture_output=True, env=ENV, timeout=120)
    if check and done.returncode:
        raise RuntimeError(f"git {' '.join(args)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip() if not done.returncode else None


class Book:
    """What was acknowledged and what agents did."""

    def __init__(self):
        self.lock = threading.Lock()
        self.told, self.tokens, self.holder = set(), {}, {}
        self.commits, self.edits, self.deleted = {}, {}, set()
        self.broken, self.counts = [], {}

    def count(self, what, by=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + by

    def breaks(self, text):
        with self.lock:
            self.broken.append(text)
        print(f"BROKEN {text}", flush=True)

    def tell(self, path):
        with self.lock:
            self.told.add(path)

    def granted(self, todo, token, worker, asked_at):
        """A grant that was answered. Somebody who holds it by this book and did not begin to end it must not lose it."""
        with self.lock:
            highest = self.tokens.get(todo, (0, None))
            if token < highest[0] or token == highest[0] and highest[1] != worker:
                self.broken.append(f"I2: {todo} was granted to {worker} under {token} after {highest}")
            held = self.holder.get(todo)
            if held and held[0] != worker and held[2] > asked_at:
                self.broken.append(f"I2: {todo} was granted to {worker} while {held[0]} held it")
            self.tokens[todo] = max(highest, (token, worker), key=lambda entry: entry[0])
            self.holder[todo] = (worker, token, time.monotonic() + LEASE_MS / 1000)

    def beat(self, todo, worker, sent_at):
        with self.lock:
            held = self.holder.get(todo)
            if held and held[0] == worker:
                self.holder[todo] = (worker, held[1], sent_at + LEASE_MS / 1000)

    def ends(self, todo):
        """Before it is said: whoever is granted it from here on may be."""
        with self.lock:
            self.holder.pop(todo, None)


class Daemon:
    """A daemon with a data directory that outlives it."""

    def __init__(self, data, config):
        self.data, self.config = data, config
        self.lock, self.process, self.life, self.exits = threading.Lock(), None, 0, []
        self.start()

    def start(self):
        try:
            os.unlink(f"{self.data}/address")
        except FileNotFoundError:
            pass
        with open(f"{self.data}/daemon.log", "ab") as log:
            process = subprocess.Popen(
                [os.environ["SLUGLINE"], "serve", "--config", self.config, "--listen", "127.0.0.1:0", "--data-dir", self.data],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**ENV, "SLUGLINE_LOG_LEVEL": "warn"})
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                with open(f"{self.data}/address") as f:
                    address = f.read().strip()
                with open(f"{self.data}/token") as f:
                    token = f.read().strip()
                if address and token:
                    break
            except FileNotFoundError:
                pass
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                process.wait()
                raise SystemExit(f"the daemon does not start; {self.data}/daemon.log says why")
            time.sleep(0.01)
        self.process, self.address, self.token, self.life = process, address, token, self.life + 1

    def kill(self):
        with self.lock:
            self.process.kill()
            self.process.wait()
            self.start()

    def stop(self):
        with self.lock:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            return self.process.returncode

    def ask(self, method, path, body=None, seconds=60):
        """Status and JSON; None when there was no answer."""
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=seconds)
        try:
            head = {"Authorization": f"Bearer {self.token}"}
            data = None
            if body is not None:
                head["Content-Type"], data = "application/json", json.dumps(body)
            connection.request(method, path, data, head)
            reply = connection.getresponse()
            text = reply.read()
            try:
                return reply.status, json.loads(text) if text else None
            except ValueError:
                return reply.status, text.decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def sample(self):
        pid = self.process.pid
        with open(f"/proc/{pid}/status") as f:
            status = f.read()
        number = lambda name: int(re.search(rf"{name}:\s+(\d+)", status)[1])
        watches = 0
        files = os.listdir(f"/proc/{pid}/fd")
        for file in files:
            try:
                with open(f"/proc/{pid}/fdinfo/{file}") as f:
                    watches += sum(line.startswith("inotify wd") for line in f)
            except OSError:
                pass
        ledger = sum(os.path.getsize(path) for path in glob.glob(f"{self.data}/ledger.db*"))
        return {"rss_mb": number("VmRSS") / 1024, "files": len(files), "threads": number("Threads"), "watches": watches,
                "ledger_mb": ledger / 1048576}


class Soak:
    def __init__(self, args):
        self.args, self.book, self.over = args, Book(), threading.Event()
        self.where = tempfile.mkdtemp(prefix="soak-", dir=OUT)
        self.flag = f"{self.where}/prepares-fail"
        self.chance = random.Random(args.seed)
        self.repos, self.merging = {}, {}
        for number, given in enumerate(args.repos or [None, None]):
            name = f"r{number}"
            path = f"{self.where}/{name}"
            made = self.clone(given, path) if given else self.make(path, 400 if number == 0 else 60)
            self.repos[name], self.merging[name] = made, threading.Lock()
        config = f"{self.where}/slugline.toml"
        with open(config, "w") as f:
            f.write(f"[lease]\nduration_ms = {LEASE_MS}\nheartbeat_every_ms = 5000\n[attempts]\nmax = 1000\nbackoff_min_ms = 0\n"
                    "backoff_max_ms = 0\n[breaker]\nfailures = 1000\nwindow_ms = 1000\n[inventory]\ntrash_keep_ms = 60000\n"
                    "[retention]\nlogs_keep_ms = 600000\n")
            for name, (path, base) in self.repos.items():
                f.write(f"[[repositories]]\nname = {json.dumps(name)}\npath = {json.dumps(path)}\nbase = {json.dumps(base)}\n")
        self.data = f"{self.where}/data"
        os.mkdir(self.data, 0o700)
        self.daemon = Daemon(self.data, config)
        self.samples, self.next, self.working = [], 0, {}

    def settings(self, path):
        """A prepare that is quick, writes an output, and can be made to fail."""
        with open(f"{path}/.slugline.toml", "w") as f:
            command = f"test ! -e {self.flag} && echo prepared > .prepared"
            f.write(f"[prepare]\ncommand = {json.dumps(command)}\noutputs = [\".prepared\"]\n"
                    "[[gates]]\nname = \"whole\"\ncommand = \"test -e .prepared\"\n")
        with open(f"{path}/.gitignore", "a") as f:
            f.write("\n.prepared\n")
        git(path, "add", "--all")
        git(path, "commit", "-q", "-m", "settings of the soak")

    def make(self, path, files):
        os.mkdir(path)
        git(path, "init", "-q", "--initial-branch", "main")
        for number in range(files):
            os.makedirs(f"{path}/src/d{number % 20}", exist_ok=True)
            with open(f"{path}/src/d{number % 20}/f{number}.txt", "w") as f:
                f.write(f"{number}\n" * 40)
        self.settings(path)
        return path, "main"

    def clone(self, given, path):
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", os.path.join(self.args.start, given), path], check=True, env=ENV)
        base = git(path, "symbolic-ref", "--short", "HEAD")
        git(path, "remote", "remove", "origin")
        self.settings(path)
        return path, base

    # ---------------------------------------------------------- agents
    def agent(self, number):
        worker, dice = f"a{number}", random.Random(f"{self.args.seed} {number}")
        while not self.over.is_set():
            try:
                self.turn(worker, dice)
            except Exception as error:                  # an agent that stumbles is no fault of the daemon's, and is counted
                self.book.count(f"stumbled: {type(error).__name__} {' '.join(str(error).split()[:2])}")
                self.over.wait(0.5)

    def insist(self, method, path, body, seconds=60):
        """Ask again until there is an answer that is one; None when the soak is over."""
        while True:
            reply = self.daemon.ask(method, path, body, seconds)
            if reply and not (reply[0] in (429, 503, 504, 500)):
                return reply
            self.book.count(f"asked again: {reply[0] if reply else 'no answer'}")
            if self.over.is_set() and reply is None:
                return None
            self.over.wait(0.2)

    def turn(self, worker, dice):
        with self.book.lock:
            self.next += 1
            slug = f"t{self.next}"
        repo = dice.choice(list(self.repos))
        todo = f"{repo}/{slug}"
        reply = self.insist("POST", f"/todos/{repo}", {"slug": slug, "brief": f"do {slug}"})
        if reply is None:
            return
        if reply[0] >= 300 and reply[1].get("code") != "todo_exists":
            self.book.count(f"not filed: {reply[1].get('code')}")
            return
        self.book.tell(f"/todos/{todo}")
        for _ in range(dice.randint(1, 3)):
            if not self.attempt(repo, slug, worker, dice):
                return

    def attempt(self, repo, slug, worker, dice):
        """Work once on a todo; whether it can be worked on again."""
        todo, asked_at = f"{repo}/{slug}", time.monotonic()
        body = {"repo": repo, "slug": slug, "lane": f"lane{hash(slug) % 4}", "worker": worker, "wait_ms": 30000}
        reply = self.insist("POST", "/todos/work", body)
        if reply is None:
            return False
        status, answer = reply
        if status == 202:
            self.book.tell(f"/operations/{answer['id']}")
            self.over.wait(0.5)
            return not self.over.is_set()
        if status != 200:
            self.book.count(f"refused: {answer.get('code')}")
            self.over.wait(0.5)
            return True
        self.book.count("granted")
        if answer.get("operation"):
            self.book.tell(f"/operations/{answer['operation']}")
        token, path = answer["claim"]["token"], answer["worktree"]["path"]
        self.book.granted(todo, token, worker, asked_at)
        with self.book.lock:
            self.working[path] = (todo, repo)
        try:
            return self.work(repo, slug, worker, dice, token, path)
        finally:
            with self.book.lock:
                self.working.pop(path, None)

    def work(self, repo, slug, worker, dice, token, path):
        todo = f"{repo}/{slug}"
        for number in range(dice.randint(1, 3)):
            name = f"work-{slug}-{token}-{number}.txt"
            with open(f"{path}/{name}", "a") as f:
                f.write(f"{worker} {token} {number}\n")
            git(path, "add", name)
            git(path, "commit", "-q", "-m", f"{todo} {number}")
            commit = git(path, "rev-parse", "HEAD")
            with self.book.lock:
                self.book.commits[commit] = (repo, slug)
            self.book.count("commits")
            sent_at = time.monotonic()
            reply = self.daemon.ask("POST", f"/todos/{todo}/heartbeat", {"token": token, "progress": f"{number} of it"})
            if reply and reply[0] == 200:
                self.book.beat(todo, worker, sent_at)
                self.book.count("heartbeats")
            elif reply and reply[1].get("code") == "stale_token":
                held = self.book.holder.get(todo)
                if held and held[:2] == (worker, token) and held[2] > time.monotonic():
                    self.book.breaks(f"I2: {todo}: the token {token} of {worker} is stale within its lease: {reply[1]}")
                return False
            self.over.wait(dice.uniform(0.1, 1.0))
        edit = f"{path}/edit-{slug}-{token}.txt"
        with open(edit, "w") as f:
            f.write("not committed\n")
        with self.book.lock:
            self.book.edits[edit] = "not committed\n"
        outcome = dice.choices(["done", "failed", "release"], [3, 4, 2])[0]
        if outcome == "done":
            # What is judged is what is committed: so everything is, also what earlier attempts left.
            git(path, "add", "--all")
            git(path, "commit", "-q", "--allow-empty", "-m", f"{todo} done")
            commit = git(path, "rev-parse", "HEAD")
            with self.book.lock:
                self.book.commits[commit] = (repo, slug)
                for edit in [edit for edit in self.book.edits if edit.startswith(f"{path}/")]:
                    del self.book.edits[edit]
        self.book.ends(todo)
        if outcome == "release":
            reply = self.insist("POST", f"/todos/{todo}/release", {"token": token})
        else:
            reply = self.insist("POST", f"/todos/{todo}/complete", {"token": token, "outcome": outcome, "reason": "soaked"} if outcome == "failed"
                                else {"token": token, "outcome": "done", "summary": "soaked"})
        if reply is None:
            return False
        if reply[0] == 202:
            self.book.tell(f"/operations/{reply[1]['id']}")
            state = self.settle(reply[1]["id"])
            if state != "succeeded":
                self.book.count(f"{outcome} ended as {state}")
                return True
        elif reply[0] != 200:
            self.book.count(f"{outcome} refused: {reply[1].get('code')}")
            return True
        self.book.count(outcome)
        if outcome != "done":
            return True
        self.integrate(repo, slug)
        reply = self.daemon.ask("DELETE", f"/worktrees/{repo}/{slug}")
        self.book.count("worktrees removed" if reply and reply[0] < 300 else f"not removed: {reply[1].get('code') if reply else 'no answer'}")
        if reply and reply[0] < 300:
            with self.book.lock:
                for edit in [edit for edit in self.book.edits if edit.startswith(f"{path}/")]:
                    # It was asked to be removed, and only where nothing is lost: so an edit there is one too many.
                    self.book.broken.append(f"I7: {path} was removed with {edit}")
        return False

    def settle(self, operation):
        for _ in range(120):
            reply = self.daemon.ask("GET", f"/operations/{operation}")
            if reply and reply[0] == 200 and reply[1]["state"] not in ("queued", "running"):
                return reply[1]["state"]
            if self.over.wait(0.25):
                return None
        return None

    def integrate(self, repo, slug):
        """Merge what is done into the base, as a person would."""
        path, base = self.repos[repo]
        with self.merging[repo]:
            if git(path, "merge", "-q", "--no-edit", slug, check=False) is None:
                git(path, "merge", "--abort", check=False)
                self.book.count("not merged")

    # ---------------------------------------------------------- faults
    def faults(self):
        kinds = [self.kill, self.delete_worktree, self.hold_lock, self.fail_prepares]
        number = 0
        while not self.over.wait(self.args.fault_every):
            kind = kinds[number % len(kinds)]
            number += 1
            try:
                kind()
                self.book.count(f"fault: {kind.__name__}")
            except Exception as error:
                self.book.count(f"fault that did not come about: {kind.__name__} {type(error).__name__}")

    def kill(self):
        self.daemon.kill()

    def somewhere(self):
        with self.book.lock:
            return self.chance.choice(list(self.working))

    def delete_worktree(self):
        path = self.somewhere()
        with self.book.lock:
            self.book.deleted.add(path)
            for edit in [edit for edit in self.book.edits if edit.startswith(f"{path}/")]:
                del self.book.edits[edit]
        for _ in range(20):
            shutil.rmtree(path, ignore_errors=True)
            if not os.path.exists(path):
                break
        with self.book.lock:                            # what was written meanwhile went with it
            for edit in [edit for edit in self.book.edits if edit.startswith(f"{path}/") and not os.path.exists(edit)]:
                del self.book.edits[edit]

    def hold_lock(self):
        lock = git(self.somewhere(), "rev-parse", "--path-format=absolute", "--git-path", "index.lock")
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            self.over.wait(FAULT_SECONDS)
        finally:
            os.close(handle)
            try:
                os.unlink(lock)
            except FileNotFoundError:
                self.book.breaks(f"a lock that was held was removed: {lock}")

    def fail_prepares(self):
        with open(self.flag, "w"):
            pass
        self.over.wait(FAULT_SECONDS)
        os.unlink(self.flag)

    # ---------------------------------------------------------- watching
    def watch(self):
        while not self.over.wait(SAMPLE_SECONDS):
            self.daemon.ask("GET", "/worktrees?wait_ms=1000&limit=50")
            try:
                with self.daemon.lock:
                    self.samples.append((time.monotonic(), self.daemon.life, self.daemon.sample()))
            except (OSError, TypeError):
                pass                                    # it was killed just now

    def slope(self, what, within_lives=True):
        """Growth an hour by least squares; within each life alone, or over all of them."""
        began = {}
        for at, life, _ in self.samples:
            began.setdefault(life if within_lives else 0, at)
        groups = {}
        for at, life, sample in self.samples:
            group = life if within_lives else 0
            if at - began[group] >= SETTLING_SECONDS or not within_lives:
                groups.setdefault(group, []).append((at, sample[what]))
        above = below = 0.0
        for points in groups.values():
            mean_at, mean = (sum(values) / len(points) for values in zip(*points))
            above += sum((at - mean_at) * (value - mean) for at, value in points)
            below += sum((at - mean_at) ** 2 for at, _ in points)
        return above / below * 3600 if below else None

    def run(self):
        threads = [threading.Thread(target=self.agent, args=[number], daemon=True) for number in range(self.args.agents)]
        threads += [threading.Thread(target=act, daemon=True) for act in (self.faults, self.watch)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            while time.monotonic() - began < self.args.seconds:
                time.sleep(min(30, max(0.1, self.args.seconds - (time.monotonic() - began))))
                counts = self.book.counts
                print(f"{time.monotonic() - began:6.0f} s: {counts.get('granted', 0)} grants, {counts.get('commits', 0)} commits, "
                      f"{counts.get('done', 0)} done, {len(self.book.broken)} broken", flush=True)
        except KeyboardInterrupt:
            print("stopped before its time")
        self.over.set()
        for thread in threads:
            thread.join(90)
        self.judge()
        return self.report(time.monotonic() - began)

    # ---------------------------------------------------------- the end
    def judge(self):
        book = self.book
        book.counts["acknowledged, and looked for"] = len(book.told)

        def known(path):
            for _ in range(50):
                reply = self.daemon.ask("GET", path)
                if reply and reply[0] == 200:
                    return
                if reply and reply[0] == 404:
                    break
                time.sleep(0.2)
            book.breaks(f"I1: {path} was acknowledged and is answered {reply}")

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(known, sorted(book.told)))
        by_branch = {}
        for commit, of in book.commits.items():
            by_branch.setdefault(of, []).append(commit)
        for (repo, slug), commits in by_branch.items():
            on_it = set((git(self.repos[repo][0], "rev-list", f"refs/heads/{slug}", check=False) or "").split())
            for commit in commits:
                if commit not in on_it:
                    book.breaks(f"I7: {repo}/{slug} lost its commit {commit}")
        for edit, text in book.edits.items():
            try:
                with open(edit) as f:
                    kept = f.read() == text
            except OSError:
                kept = False
            if not kept and not any(edit.startswith(f"{path}/") for path in book.deleted):
                book.breaks(f"I7: {edit} is lost")
        code = self.daemon.stop()
        if code != 0:
            book.breaks(f"the daemon that was told to stop ended with {code}")
        mark = hashlib.sha256(os.path.realpath(self.data).encode()).hexdigest()[:16]
        mark = f"SLUGLINE_RUN=slugline-{mark}-".encode()
        until = time.monotonic() + LEFTOVERS_SECONDS
        while left := self.marked(mark):
            if time.monotonic() > until:
                book.breaks(f"I4: {left} outlive the daemon")
                break
            time.sleep(0.2)
        ledger = sqlite3.connect(f"file:{self.data}/ledger.db?mode=ro", uri=True)
        if (said := ledger.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            book.breaks(f"I5: {said}")
        ledger.close()

    def marked(self, mark):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if any(one.startswith(mark) for one in f.read().split(b"\0")):
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def report(self, seconds):
        book = self.book
        print(f"\n{seconds:.0f} s, {self.args.agents} agents, seed {self.args.seed}, {self.daemon.life} lives of the daemon")
        for what, count in sorted(book.counts.items()):
            print(f"  {count:8} {what}")
        print(f"  {len(book.deleted):8} worktrees deleted on purpose")
        if self.samples:
            print("growth an hour (and from, to):")
            for what in ("rss_mb", "files", "threads", "watches", "ledger_mb"):
                slope = self.slope(what, what != "ledger_mb")
                values = [sample[what] for _, _, sample in self.samples]
                said = "too short to say" if slope is None else f"{slope:+.1f}"
                print(f"  {what:10} {said:>16}   ({values[0]:.1f}, {values[-1]:.1f}; most {max(values):.1f})")
        slope = self.slope("rss_mb")
        grew = seconds > HOURS_TO_JUDGE * 3600 and slope is not None and slope > RSS_GOAL
        if grew:
            print(f"memory grows by {slope:.1f} MB an hour, more than {RSS_GOAL}")
        for text in book.broken[:50]:
            print(f"BROKEN {text}")
        print("every promise held" if not book.broken else f"{len(book.broken)} promises were broken")
        return 1 if book.broken or grew else 0

    def clear(self):
        self.daemon.stop()
        if not self.args.keep:
            shutil.rmtree(self.where, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--for", dest="seconds", type=length, default=length("10m"), help="90s, 10m, 72h; default 10m")
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--repos", nargs="*", metavar="PATH", help="work on clones of these; two small ones are made without")
    parser.add_argument("--fault-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", action="store_true", help="leave everything below bench/out afterwards")
    parser.add_argument("--from", dest="start", default=os.getcwd(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.makedirs(OUT, exist_ok=True)
    soak = Soak(args)
    try:
        code = soak.run()
    finally:
        soak.clear()
    sys.exit(code)


if __name__ == "__main__":
    main()
