#!/usr/bin/env python3
"""Makes the pictures in docs/img: a daemon under a scripted load, a Prometheus that scrapes it, and draw.py.

Workers in three lanes ask for todos of a repository made for this, work on them for some seconds and say how it went;
most finish, some fail, one lane fails until it pauses itself; people look at lists and listen to events. After two
thirds of the time the daemon is killed and started again, as a machine might. Everything listens on 127.0.0.1 and is
gone afterwards. Needs what requirements-draw.txt lists.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCRAPE_SECONDS = 5
TODOS = 3_000
SETTINGS = """
[prepare]
command = "sleep $(shuf -n 1 -e 0.2 0.5 1 2 4); echo prepared; : > made"
inputs = ["deps.lock"]
outputs = ["made"]

[[gates]]
name = "test"
command = "sleep $(shuf -n 1 -e 0.1 0.3 1); test $(shuf -i 1-12 -n 1) -gt 1"
"""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def git(repo: Path, *args: str) -> None:
    """Runs git with a name of its own and nothing of this machine's settings."""
    names = {f"GIT_{who}_{what}": "load@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = os.environ | names | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "-C", str(repo), *args], check=True, env=env, stdout=subprocess.DEVNULL)


def make_repository(repo: Path) -> None:
    """A repository with todos for three lanes."""
    (repo / "todos").mkdir(parents=True)
    lanes = ["builder", "builder", "builder", "reviewer", "fixer"]
    lines = [f"- slug: t{number:04}\n  lane: {lanes[number % len(lanes)]}\n" for number in range(TODOS)]
    for name, text in {"todos/roadmap.yaml": "".join(lines), ".slugline.toml": SETTINGS, ".gitignore": "made\n",
                       "deps.lock": "1\n", "README.md": "a load\n"}.items():
        (repo / name).write_text(text)
    for number in range(TODOS):
        (repo / f"todos/t{number:04}").mkdir()
        (repo / f"todos/t{number:04}/requirements.md").write_text(f"# {number}\n")
    git(repo, "init", "--quiet", "--initial-branch", "main")
    move_base(repo, "first")


def move_base(repo: Path, what: str) -> None:
    """A new commit on the base."""
    (repo / "README.md").write_text(what)
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", what)


class Load:
    """Everybody who asks the daemon, until `over`."""

    def __init__(self, address: str, token: str, repo: Path) -> None:
        self.address, self.token, self.repo = address, token, repo
        self.over = threading.Event()
        self.random = random.Random(7)

    def ask(self, method: str, path: str, body: Any = None, wait: float = 70) -> Any:
        """An answer, or nothing while the daemon is away."""
        try:
            connection = http.client.HTTPConnection(self.address, timeout=wait)
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            return json.loads(connection.getresponse().read() or b"null")
        except (OSError, http.client.HTTPException, ValueError):
            self.over.wait(1)
            return {}

    def word(self) -> str:
        """One of many that nobody knows."""
        return "".join(self.random.choice("bdfgklmnprst") + self.random.choice("aeiou") for _ in range(3))

    def worker(self, lane: str, name: str, good: float) -> None:
        """Takes work and does it, well so often."""
        while not self.over.is_set():
            order = self.ask("POST", "/todos/work", {"lane": lane, "worker": name, "wait_ms": 45_000})
            slug, claim = order.get("slug"), order.get("claim") or {}
            if not slug or not claim:
                self.over.wait(5)
                continue
            todo = f"/todos/{order['repo']}/{slug}"
            for _ in range(self.random.randint(1, 4)):
                self.over.wait(self.random.uniform(0.5, 3))
                self.ask("POST", f"{todo}/heartbeat", {"token": claim["token"], "progress": str(time.time())})
                self.ask("POST", "/todos/work", {"lane": lane, "worker": name, "slug": slug})
            if self.random.random() < 0.05:
                continue
            if self.random.random() < 0.05:
                self.ask("POST", f"{todo}/release", {"token": claim["token"]})
                continue
            done = self.random.random() < good
            # What fails twice the same way is rare but for the fixer, whose lane pauses itself in the end.
            what = "the linker is missing" if good == 0 else f"test {self.word()} of {self.word()} does not pass"
            how = {"outcome": "done", "summary": "done"} if done else {"outcome": "failed", "reason": what}
            self.ask("POST", f"{todo}/complete", {"token": claim["token"]} | how)

    def visitor(self) -> None:
        """Looks at what there is, as a console would, and now and then at what it may not."""
        while not self.over.wait(3):
            for path in ("/worktrees?limit=50", "/sessions", "/status", "/lanes", "/todos?stage=build"):
                self.ask("GET", path, wait=20)
            if self.random.random() < 0.1:
                self.ask("GET", "/todos/pictures/nobody")

    def listener(self) -> None:
        """Listens to events, goes away and comes back."""
        last = ""
        while not self.over.is_set():
            try:
                connection = http.client.HTTPConnection(self.address, timeout=30)
                headers = {"Authorization": f"Bearer {self.token}"} | ({"Last-Event-ID": last} if last else {})
                connection.request("GET", "/events", headers=headers)
                stream = connection.getresponse()
                until = time.monotonic() + self.random.uniform(20, 60)
                while time.monotonic() < until and not self.over.is_set():
                    line = stream.readline().decode(errors="replace")
                    last = line[3:].strip() if line.startswith("id:") else last
                    if not line:
                        break
                connection.close()
            except (OSError, http.client.HTTPException):
                self.over.wait(1)

    def committer(self) -> None:
        """Moves the base, at times with what prepare depends on."""
        number = 0
        while not self.over.wait(20):
            number += 1
            if number % 4 == 0:
                (self.repo / "deps.lock").write_text(f"{number}\n")
            move_base(self.repo, f"change {number}")

    def start(self) -> list[threading.Thread]:
        """Sends them all."""
        whos: list[tuple[Any, ...]] = [(self.worker, "builder", f"b{number}", 0.95) for number in range(6)]
        whos += [(self.worker, "reviewer", f"r{number}", 0.9) for number in range(2)]
        whos += [(self.worker, "fixer", "f0", 0.0), (self.visitor,), (self.listener,), (self.listener,), (self.committer,)]
        threads = [threading.Thread(target=who, args=args, daemon=True) for who, *args in whos]
        for thread in threads:
            thread.start()
        return threads


def start_daemon(program: Path, work: Path, port: int) -> subprocess.Popen[bytes]:
    """The daemon, once it answers."""
    command = [str(program), "serve", "--listen", f"127.0.0.1:{port}", "--data-dir", str(work / "data"),
               "--repo", str(work / "pictures"), "--config", str(work / "slugline.toml")]
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(work / "daemon.log").open("ab"), cwd=work)
    await_answer(port, "/livez", "the daemon")
    return daemon


def await_answer(port: int, path: str, who: str) -> None:
    """Waits until somebody answers well."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit(f"pictures.py: {who} does not answer on 127.0.0.1:{port}")


def start_prometheus(work: Path, port: int, target: int) -> subprocess.Popen[bytes]:
    """A Prometheus with the project's rules that scrapes the daemon."""
    tools = subprocess.run([ROOT / "grafana/fetch-prometheus"], check=True, capture_output=True, text=True).stdout.strip()
    config = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "15s"},
              "rule_files": [str(ROOT / f"grafana/prometheus/{name}.yaml") for name in ("rules", "alerts")],
              "scrape_configs": [{"job_name": "slugline", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}]}
    (work / "prometheus.yaml").write_text(json.dumps(config))
    command = [f"{tools}/prometheus", f"--config.file={work}/prometheus.yaml", f"--storage.tsdb.path={work}/tsdb",
               f"--web.listen-address=127.0.0.1:{port}"]
    log = (work / "prometheus.log").open("wb")
    prometheus = subprocess.Popen(command, stdout=log, stderr=log, cwd=work)
    await_answer(port, "/-/ready", "Prometheus")
    return prometheus


def main() -> None:
    """Load, scrape, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long the load goes on (default: 10)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/img", help="where the pictures go (default: docs/img)")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/slugline",
                        help="the daemon (default: target/release/slugline)")
    args = parser.parse_args()
    if not args.program.is_file():
        sys.exit(f"pictures.py: {args.program} is not there; `cargo build --release` makes it")
    work = Path(tempfile.mkdtemp(prefix="slugline-pictures-"))
    children: list[subprocess.Popen[bytes]] = []
    try:
        make_repository(work / "pictures")
        (work / "slugline.toml").write_text('[lease]\nduration_ms = 30000\n[[lane]]\nname = "builder"\nwip_limit = 8\n'
                                            '[[lane]]\nname = "reviewer"\nwip_limit = 4\n')
        port, watch = free_port(), free_port()
        children.append(start_daemon(args.program, work, port))
        children.append(start_prometheus(work, watch, port))
        began = time.time()
        load = Load(f"127.0.0.1:{port}", (work / "data/token").read_text().strip(), work / "pictures")
        threads = load.start()
        print(f"pictures.py: {args.minutes:g} minutes of load, http://127.0.0.1:{watch} shows what Prometheus has")
        time.sleep(args.minutes * 60 * 2 / 3)
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        children[0] = start_daemon(args.program, work, port)
        time.sleep(args.minutes * 60 / 3)
        load.over.set()
        for thread in threads:
            thread.join(10)
        draw = [sys.executable, str(ROOT / "grafana/draw.py"), "--prometheus", f"http://127.0.0.1:{watch}", "--out",
                str(args.out), "--from", str(int(began)), "--scrape", str(SCRAPE_SECONDS)]
        subprocess.run(draw, check=True)
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
