"""What watching costs: a scrape of a daemon with many slugs, beside one of Prometheus' own metrics, and noting one thing.

A repository with --slugs todos is made, every one of them is claimed and gets its worktree and its actor, and then the
daemon is scraped --scrapes times on one connection, every fifty milliseconds, once idle and once while a caller asks for
work as fast as it is answered. In between each time Prometheus is scraped, whose own page is what a user knows. What
the caller loses while it is scraped is measured too. bench/recording (Rust) says what noting costs.
"""
import argparse, concurrent.futures, json, os, re, shutil, signal, socket, subprocess, tempfile, threading, time, urllib.request

from daemon import Daemon, Connection
from corpus import git
from table import Table, quantile

PAUSE = 0.05


class Repo:
    """What Daemon wants to know of a repository."""

    def __init__(self, where, slugs):
        self.app, self.base = f"{where}/app", "main"
        os.makedirs(f"{self.app}/todos")
        with open(f"{self.app}/todos/roadmap.yaml", "w") as f:
            f.write("".join(f"- slug: s{n:04}\n" for n in range(slugs)))
        git(self.app, "init", "-q", "-b", "main")
        git(self.app, "add", "-A")
        git(self.app, "commit", "-q", "-m", "first")


def prometheus(where):
    """A Prometheus that scrapes itself; its process and address."""
    tools = subprocess.run(["grafana/fetch-prometheus"], check=True, capture_output=True, text=True).stdout.strip()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with open(f"{where}/prometheus.yaml", "w") as f:
        f.write('{"scrape_configs": [{"job_name": "self", "static_configs": [{"targets": ["%s"]}]}]}' % address)
    log = open(f"{where}/prometheus.log", "w")
    process = subprocess.Popen([f"{tools}/prometheus", f"--config.file={where}/prometheus.yaml", f"--storage.tsdb.path={where}/tsdb",
                                f"--web.listen-address={address}"], stdout=log, stderr=log)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).status == 200:
                return process, address
        except OSError:
            time.sleep(0.1)
    raise SystemExit("Prometheus does not answer")


def scrape(connection):
    """Milliseconds, and the page."""
    began = time.perf_counter()
    status, _, page = connection.ask("GET", "/metrics")
    assert status == 200, status
    return (time.perf_counter() - began) * 1e3, page


class Caller(threading.Thread):
    """Asks for the same work again and again; how long each answer took."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.connection, self.over, self.took = daemon.connect(), threading.Event(), []

    def run(self):
        while not self.over.is_set():
            began = time.perf_counter()
            self.connection.json("POST", "/todos/work", {"lane": "a", "slug": "s0000", "worker": "w0"})
            self.took.append((time.perf_counter() - began) * 1e3)

    def end(self):
        self.over.set()
        self.join(10)
        return self.took


def main():
    parser = argparse.ArgumentParser(prog="bench/scrape", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slugs", type=int, default=1_000)
    parser.add_argument("--scrapes", type=int, default=200)
    args = parser.parse_args()
    os.makedirs("bench/out", exist_ok=True)
    where = os.path.abspath(tempfile.mkdtemp(prefix="scrape-", dir="bench/out"))
    table, rival = Table("Prometheus' own page, or naming"), None
    try:
        rival, address = prometheus(where)
        with Daemon(Repo(where, args.slugs), config="[actors]\nidle_after_ms = 86400000\n", out="bench/out") as daemon:
            workers = [daemon.connect() for _ in range(4)]

            def claim(part):
                for number in range(part, args.slugs, len(workers)):
                    workers[part].json("POST", "/todos/work", {"lane": f"lane-{number % 40}", "slug": f"s{number:04}", "worker": f"w{number}", "wait_ms": 30_000}
                                       if number else {"lane": "a", "slug": "s0000", "worker": "w0", "wait_ms": 30_000})
            with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
                list(pool.map(claim, range(len(workers))))
            ours, theirs = daemon.connect(), Connection(address, "none")
            idle, known, busy = [], [], []
            for _ in range(args.scrapes):
                took, page = scrape(ours)
                idle.append(took)
                known_took, known_page = scrape(theirs)
                known.append(known_took)
                time.sleep(PAUSE)
            count = lambda page: sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))
            actors = sum(float(line.rsplit(b" ", 1)[1]) for line in page.splitlines() if line.startswith(b'slugline_actors{kind="slug"'))
            calm = Caller(daemon)
            calm.start()
            time.sleep(args.scrapes * PAUSE)
            calm = calm.end()
            watched, ours = Caller(daemon), daemon.connect()
            watched.start()
            for _ in range(args.scrapes):
                busy.append(scrape(ours)[0])
                time.sleep(PAUSE)
            watched = watched.end()
        per = lambda took, page: took / count(page) * 1e3
        table.row("series", f"{count(page):,}", f"{count(known_page):,}", goal="≤ 5,000", met=count(page) <= 5_000)
        table.row("bytes", f"{len(page):,}", f"{len(known_page):,}")
        for share in (0.5, 0.99):
            mine, other = quantile(idle, share), quantile(known, share)
            table.row(f"scrape, p{share * 100:g}", f"{mine:.2f} ms", f"{other:.2f} ms", mine / other, "≤ 100 ms", mine <= 100)
        table.row("the same per series, p50", f"{per(quantile(idle, 0.5), page):.2f} µs", f"{per(quantile(known, 0.5), known_page):.2f} µs",
                  per(quantile(idle, 0.5), page) / per(quantile(known, 0.5), known_page))
        table.row("scrape beside a busy caller, p99", f"{quantile(busy, 0.99):.2f} ms", goal="≤ 100 ms", met=quantile(busy, 0.99) <= 100)
        for share in (0.5, 0.99):
            mine, other = quantile(watched, share), quantile(calm, share)
            table.row(f"the caller's answer while scraped 20 times a second, p{share * 100:g}", f"{mine:.3f} ms", f"unscraped {other:.3f} ms", mine / other)
        noting = json.loads(subprocess.run([os.environ["RECORDING"]], check=True, capture_output=True, text=True).stdout)
        for what, (ours_ns, theirs_ns) in noting.items():
            table.row(f"noting a {what}", f"{ours_ns:.0f} ns", f"{theirs_ns:.0f} ns", ours_ns / theirs_ns)
        table.show(f"{args.slugs:,} slugs with an actor each ({actors:,.0f} seen), {args.scrapes} scrapes", "bench/out/scrape.json")
    finally:
        if rival:
            rival.send_signal(signal.SIGTERM)
            rival.wait(30)
        shutil.rmtree(where, ignore_errors=True)


main()
