#!/usr/bin/env python3
"""Has Schemathesis ask a real daemon for everything its own description allows, and for much that it does not."""

import argparse
import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
# How much one round asks of each operation; rounds follow until there were enough cases.
EXAMPLES_PER_OPERATION = 66
ROUNDS_MAX = 2_000
ROUND_SECONDS_MAX = 1_800
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
# Whose good answers cannot be met with by chance: a token or a code to sign in with, a file's name, work that a gate lets through.
HARDLY = {"POST /console/sign-in", "GET /console/{file}", "POST /todos/{repo}/{slug}/complete"}
SETTINGS = """
listen = "127.0.0.1:0"
data_dir = "{data}"

[breaker]
failures = 1000

[[repositories]]
name = "sample"
path = "{sample}"
"""
FILES = {
    ".slugline.toml": '[prepare]\ncommand = "test ! -e broken"\n\n[[gates]]\nname = "check"\ncommand = "true"\n',
    "README.md": "# A sample\n",
    "todos/roadmap.yaml": "".join(f"- slug: todo-{n}\n" for n in range(40)) + "- slug: last\n  after: [todo-1, todo-2]\n",
    "todos/todo-1/requirements.md": "# Do it\n",
}


def say(text):
    print(text, flush=True)


def git(directory, *arguments):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = {f"GIT_{who}_{what}": "sample@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *arguments], cwd=directory, check=True, env=clean | identity | own, timeout=60)


def repository(directory):
    for name, text in FILES.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    git(directory, "init", "--quiet", "--initial-branch", "main")
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "A sample repository")


class Daemon:
    """A daemon in a process of its own, on one repository."""

    def __init__(self, program, directory):
        self.data, self.log = directory / "data", directory / "daemon.log"
        repository(directory / "sample")
        config = directory / "slugline.toml"
        config.write_text(SETTINGS.format(data=self.data, sample=directory / "sample"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLUGLINE_", "GIT_"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [program, "serve", "--config", config], cwd=directory, env=kept, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.url = "http://" + self.wait_for(lambda: (self.data / "address").read_text().strip())
        self.token = (self.data / "token").read_text().strip()
        self.wait_for(lambda: self.get("/readyz", None))

    def wait_for(self, ask):
        until = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                if answer := ask():
                    return answer
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the daemon did not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def get(self, path, body=None):
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=60) as answer:
            return answer.read()

    def fill(self):
        """Something of each kind, so that what is asked for can be there."""
        for slug in ("todo-1", "todo-2", "todo-3"):
            body = {"slug": slug, "lane": "builder", "worker": slug, "wait_ms": 30_000}
            order = json.loads(self.get("/todos/work", body))
            report = {"events": [{"kind": "note", "text": "at it"}]}
            self.get(f"/sessions/{order['claim']['session']}/events", report)
        self.get("/worktrees?wait_ms=20000")
        self.get("/debug/hang-dump", {})

    def stop(self):
        """Stops it; whether it ended well by itself."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "it did not stop"


def one_round(st, daemon, seed, examples, reports):
    """One run of Schemathesis: how many cases there were, and what was found."""
    report = reports / f"{seed}.json"
    command = [
        st, "--config-file", HERE / "schemathesis.toml", "run", daemon.url + "/openapi.json",
        "--header", f"Authorization: Bearer {daemon.token}", "--checks", "all", "--mode", "all", "--seed", str(seed),
        "--max-examples", str(examples), "--continue-on-failure", "--no-color", "--generation-database", "none",
        "--request-timeout", "60", "--report-json-path", report, "--warnings", "off",
    ]  # fmt: skip
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=reports, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=ROUND_SECONDS_MAX, check=False,
    )  # fmt: skip
    (reports / f"{seed}.txt").write_text(done.stdout + done.stderr)
    told = json.loads(report.read_text()) if report.exists() else {}
    return done, told


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=pathlib.Path, required=True, help="the daemon's program")
    parser.add_argument("--schemathesis", type=pathlib.Path, required=True, help="Schemathesis' program, `st`")
    parser.add_argument("--cases", type=int, default=10_000, help="how many cases there shall be at least (default: 10000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each one after adds one (default: 1)")
    parser.add_argument("--keep", type=pathlib.Path, help="keep reports and the daemon's log in this directory")
    asked = parser.parse_args()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="slugline-clients-"))
    reports = asked.keep.resolve() if asked.keep else directory / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    daemon, cases, seed, good = Daemon(asked.program.resolve(), directory), 0, asked.seed, True
    accepted = collections.Counter()
    try:
        daemon.fill()
        while good and cases < asked.cases and seed < asked.seed + ROUNDS_MAX:
            began = time.monotonic()
            done, told = one_round(asked.schemathesis, daemon, seed, EXAMPLES_PER_OPERATION, reports)
            count = told.get("test_cases", {}).get("generated", 0)
            for operation, phases in told.get("valid_rates", {}).items():
                accepted[operation] += sum(phase["accepted"] for phase in phases.values())
            cases, good = cases + count, done.returncode == 0 and count > 0
            say(f"seed {seed}: {count} cases in {time.monotonic() - began:.0f} s, exit code {done.returncode}")
            if not good:
                say((done.stdout + done.stderr)[-20_000:])
            seed += 1
        ended = daemon.stop()
        log = daemon.log.read_text(errors="replace")
        panics = log.count("panicked")
        say(f"{cases} cases, {asked.cases} asked for; the daemon ended with {ended}, {panics} panics in its log")
        never = sorted(operation for operation, count in accepted.items() if not count and operation not in HARDLY)
        if never:
            say(f"never answered well, so hardly tested: {', '.join(never)}")
        good = good and cases >= asked.cases and ended == 0 and panics == 0 and not never
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        if asked.keep:
            shutil.copy(daemon.log, reports / "daemon.log")
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
