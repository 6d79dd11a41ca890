#!/usr/bin/env python3
"""How many jobs per second can four well-known queue systems claim and complete?

What is measured: M small jobs are put in the queue (not timed). Then N concurrent
workers take jobs ONE AT A TIME, do nothing with them, and mark each one complete,
until all M are done. The clock runs from the first claim to the last completion.
One "pair" is one claim followed by one completion of that job, as a worker sees it;
p50_ms and p99_ms are the median and the 99th percentile of those pairs.

Every system is set so that a state it acknowledges was fsynced first. What is NOT
the same between the systems is told in docs/performance.md; read it before comparing.

  queues.py --prepare DIR                      install everything into DIR, once
  queues.py --rival NAME --workers N --jobs M --data DIR     one run, one JSON line

NAME is postgres, graphile-worker, pg-boss or beanstalkd. DIR is the same directory
in both calls; what is missing is installed at the first run. Servers listen on a unix
socket in DIR or on 127.0.0.1 only, and are stopped by their own pid at the end.
queues_node.js, beside this file, drives the two node rivals.
Needs: Python 3.9+, PostgreSQL with pgbench, node 20+ with npm, apt (for beanstalkd).
When run as root, PostgreSQL (which refuses root) runs as the user "postgres".
"""
import argparse, glob, json, os, select, shutil, signal, socket, subprocess, sys
import tempfile, time

NPM_PACKAGES = ["graphile-worker@0.16.6", "pg-boss@10.4.2", "pg@8.23.1"]

# Durability first (the three settings every commit depends on), then sensible sizes.
# Checkpoints are kept out of the timed part, which favours the PostgreSQL rivals. Vacuum
# looks every second, not every minute: a queue table otherwise slows down as dead index
# entries pile up (seen here: 8000 plain jobs at 8 workers ran 2.4 times slower without).
PG_SETTINGS = {
    "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
    "shared_buffers": "256MB", "effective_cache_size": "1GB", "work_mem": "16MB",
    "wal_buffers": "16MB", "max_wal_size": "4GB", "checkpoint_timeout": "30min",
    "max_connections": "100", "random_page_cost": "1.1", "jit": "off",
    "autovacuum_naptime": "1s", "autovacuum_vacuum_scale_factor": "0.01",
}

# One job for pgbench: two statements, each its own transaction with its own commit.
# \gset keeps the claimed id, and stops the client with an error if nothing was claimed.
PGBENCH_SCRIPT = """\
UPDATE jobs SET state = 'running' WHERE id = (SELECT id FROM jobs WHERE state = 'ready' \
ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id \\gset
UPDATE jobs SET state = 'done' WHERE id = :id;
"""
PG_TABLE = """
CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                   state text NOT NULL DEFAULT 'ready', payload text);
CREATE INDEX jobs_ready ON jobs (state, id) WHERE state = 'ready';
INSERT INTO jobs (payload) SELECT '{"n":' || n || '}' FROM generate_series(1, %d) n;
"""

def run(cmd, **kw):
    """Run a command; give back its standard output; stop everything if it fails."""
    p = subprocess.run(cmd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)
    if p.returncode:
        sys.exit(f"{' '.join(map(str, cmd))} failed:\n{p.stdout}{p.stderr}")
    return p.stdout

def stop(proc, sig):
    """Stop one server we started, by its pid: politely, then by force."""
    if proc.poll() is None:
        proc.send_signal(sig)
        try:
            proc.wait(30)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()

# ---------------------------------------------------------------- installing
def pg_bin(name):
    found = glob.glob(f"/usr/lib/postgresql/*/bin/{name}")   # Debian's place; newest wins
    found.sort(key=lambda p: float(p.split("/")[4]))
    return found[-1] if found else shutil.which(name) or sys.exit(f"{name} not found")

def as_server_user():
    """PostgreSQL refuses to run as root: then run it as the user postgres."""
    return dict(user="postgres", group="postgres", extra_groups=[]) if os.getuid() == 0 else {}

def prepare_postgres(d):
    if os.path.exists(f"{d}/pg/PG_VERSION"):
        return
    for sub in ("pg", "sock"):
        os.makedirs(f"{d}/{sub}", mode=0o700, exist_ok=True)
        if os.getuid() == 0:
            shutil.chown(f"{d}/{sub}", "postgres", "postgres")
    if os.getuid() == 0:     # the user postgres must be able to pass through DIR
        os.chmod(d, os.stat(d).st_mode | 0o011)
    run([pg_bin("initdb"), "-D", f"{d}/pg", "-U", "postgres", "-A", "trust", "-E", "UTF8",
         "--locale", "C"], cwd="/", **as_server_user())

def prepare_npm(d):
    if os.path.exists(f"{d}/npm/node_modules/pg-boss"):
        return
    os.makedirs(f"{d}/npm", exist_ok=True)
    with open(f"{d}/npm/package.json", "w") as f:
        f.write('{"private": true}')
    run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--cache",
         f"{d}/npm-cache", *NPM_PACKAGES], cwd=f"{d}/npm")
    shutil.rmtree(f"{d}/npm-cache", ignore_errors=True)

def prepare_beanstalkd(d):
    """Unpack Debian's package inside DIR: nothing is installed in the system."""
    exe = f"{d}/beanstalkd/usr/bin/beanstalkd"
    if not os.path.exists(exe):
        os.makedirs(f"{d}/beanstalkd", exist_ok=True)
        run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "beanstalkd"],
            cwd=f"{d}/beanstalkd")
        run(["dpkg", "-x", glob.glob(f"{d}/beanstalkd/*.deb")[0], f"{d}/beanstalkd"])
    return exe

# ------------------------------------------------- the three on PostgreSQL
def with_postgres(d, rival, workers, jobs):
    prepare_postgres(d)
    if rival != "postgres":
        prepare_npm(d)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    env.update(PGHOST=f"{d}/sock", PGUSER="postgres", PGDATABASE="bench")
    sql = lambda text, db="bench": run(
        [pg_bin("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", db, "-c", text],
        env=env).strip()
    options = [x for k, v in PG_SETTINGS.items() for x in ("-c", f"{k}={v}")]
    with open(f"{d}/pg.log", "w") as log:
        server = subprocess.Popen(
            [pg_bin("postgres"), "-D", f"{d}/pg", "-k", f"{d}/sock", "-c",
             "listen_addresses=", "-c", "unix_socket_permissions=0700", *options],
            stdout=log, stderr=log, cwd="/", **as_server_user())
    try:
        ready = [pg_bin("pg_isready"), "-q"]
        for _ in range(300):
            if server.poll() is not None:
                sys.exit("postgres did not start: " + open(f"{d}/pg.log").read()[-800:])
            if subprocess.run(ready, env=env).returncode == 0:
                break
            time.sleep(0.1)
        sql("DROP DATABASE IF EXISTS bench", "postgres")     # every run starts empty
        sql("CREATE DATABASE bench", "postgres")
        if rival == "postgres":
            seconds, lat = pgbench(d, env, sql, workers, jobs)
            left = jobs - int(sql("SELECT count(*) FROM jobs WHERE state = 'done'"))
            client = "pgbench -M prepared -j 2"
        else:
            script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "queues_node.js")
            out = json.loads(run(["node", script, rival, str(workers), str(jobs)],
                                 env={**env, "NODE_PATH": f"{d}/npm/node_modules"}))
            seconds, lat, left = out["seconds"], out["lat"], out["left"]
            client = "one node process " + run(["node", "--version"]).strip()
        if left or len(lat) != jobs:
            sys.exit(f"not all jobs were completed: {left} left, {len(lat)} counted")
        syncs = int(sql("SELECT wal_sync FROM pg_stat_wal"))
        settings = {k: sql(f"SHOW {k}") for k in [*PG_SETTINGS, "wal_sync_method"]}
        settings.update(client=client, fsyncs_per_job=round(syncs / jobs, 2))
        version = "PostgreSQL " + sql("SHOW server_version").split()[0]
    finally:
        stop(server, signal.SIGINT)                          # SIGINT: "fast" shutdown
    if rival != "postgres":
        with open(f"{d}/npm/node_modules/{rival}/package.json") as f:
            version = f"{rival} {json.load(f)['version']}, {version}"
    return seconds, lat, version, settings

def pgbench(d, env, sql, workers, jobs):
    for text in (PG_TABLE % jobs, "VACUUM ANALYZE jobs", "SELECT pg_stat_reset_shared('wal')"):
        sql(text)
    with tempfile.TemporaryDirectory(dir=d) as tmp:
        with open(f"{tmp}/job.sql", "w") as f:
            f.write(PGBENCH_SCRIPT)
        run([pg_bin("pgbench"), "-n", "-f", "job.sql", "-c", str(workers), "-j", "2", "-M",
             "prepared", "-t", str(jobs // workers), "-l", "bench"], cwd=tmp, env=env)
        # One line per pair: client, number, microseconds, script, end second, end micros.
        lines = [x.split() for n in glob.glob(f"{tmp}/pgbench_log.*") for x in open(n)]
    ends = [(int(x[4]) + int(x[5]) / 1e6, int(x[2]) / 1e6) for x in lines]
    return (max(e for e, _ in ends) - min(e - took for e, took in ends),
            [took * 1000 for _, took in ends])

# ------------------------------------------------------------- beanstalkd
def beanstalkd(d, workers, jobs):
    exe = prepare_beanstalkd(d)
    with socket.create_server(("127.0.0.1", 0)) as s:        # ask for a free port
        port = s.getsockname()[1]
    binlog = tempfile.mkdtemp(prefix="binlog-", dir=d)
    server = subprocess.Popen([exe, "-b", binlog, "-f", "0", "-l", "127.0.0.1",
                               "-p", str(port)])
    try:
        return beanstalkd_run(port, workers, jobs) + (
            run([exe, "-v"]).strip(),
            {"args": "-b DIR -f 0", "client": "one python process, epoll, TCP loopback"})
    finally:
        stop(server, signal.SIGTERM)
        shutil.rmtree(binlog, ignore_errors=True)

def beanstalkd_connect(port):
    for _ in range(100):
        try:
            c = socket.create_connection(("127.0.0.1", port))
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return c
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("beanstalkd does not answer")

def beanstalkd_run(port, workers, jobs):
    with beanstalkd_connect(port) as c, c.makefile("rb") as replies:
        for first in range(0, jobs, 100):                    # put, a hundred at a time
            body = [b'{"n":%d}' % n for n in range(first, min(first + 100, jobs))]
            c.sendall(b"".join(b"put 1 0 300 %d\r\n%s\r\n" % (len(b), b) for b in body))
            for _ in body:
                if not replies.readline().startswith(b"INSERTED"):
                    sys.exit("beanstalkd refused a put")
    # N connections, each strictly reserve -> delete -> reserve ..., served by one epoll
    # loop: threads doing the same would mostly wait for each other in Python.
    loop, conns, lat, asked = select.epoll(), {}, [], 0
    for _ in range(workers):
        c = beanstalkd_connect(port)
        conns[c.fileno()] = [c, b"", 0.0]                    # socket, bytes read, began
        loop.register(c.fileno(), select.EPOLLIN)
    began = time.perf_counter()
    for w in conns.values():
        if asked < jobs:
            asked, w[2] = asked + 1, time.perf_counter()
            w[0].send(b"reserve\r\n")
    while len(lat) < jobs:
        for fd, _ in loop.poll():
            w = conns[fd]
            w[1] += w[0].recv(65536) or sys.exit("beanstalkd closed a connection")
            if w[1].startswith(b"RESERVED"):                 # RESERVED id size, then body
                head, found, body = w[1].partition(b"\r\n")
                if found and len(body) == int(head.split()[2]) + 2:
                    w[1] = b""
                    w[0].send(b"delete " + head.split()[1] + b"\r\n")
            elif w[1] == b"DELETED\r\n":
                t = time.perf_counter()
                lat.append((t - w[2]) * 1000)
                w[1] = b""
                if asked < jobs:
                    asked, w[2] = asked + 1, t
                    w[0].send(b"reserve\r\n")
            elif w[1].endswith(b"\r\n"):
                sys.exit(f"beanstalkd said {w[1]!r}")
    seconds = time.perf_counter() - began
    for w in conns.values():
        w[0].close()
    return seconds, lat

# ------------------------------------------------------------------- main
def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--rival", choices=["postgres", "graphile-worker", "pg-boss", "beanstalkd"])
    ap.add_argument("--workers", type=int, default=1)
    ap.add_argument("--jobs", type=int, default=2000)
    ap.add_argument("--data", metavar="DIR", help="where --prepare put things")
    ap.add_argument("--prepare", metavar="DIR", help="install everything into DIR")
    a = ap.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))    # so that finally runs
    if not (a.prepare or (a.rival and a.data)):
        ap.error("give --prepare DIR, or --rival NAME --data DIR")
    if a.prepare:
        d = os.path.abspath(a.prepare)
        os.makedirs(d, exist_ok=True)
        prepare_postgres(d), prepare_npm(d), prepare_beanstalkd(d)
    if a.rival:
        d = os.path.abspath(a.data or a.prepare)
        os.makedirs(d, exist_ok=True)
        jobs = a.jobs
        if a.rival == "postgres":      # every pgbench client does the same number of jobs
            jobs = -(-jobs // a.workers) * a.workers
        if a.rival == "beanstalkd":
            seconds, lat, version, settings = beanstalkd(d, a.workers, jobs)
        else:
            seconds, lat, version, settings = with_postgres(d, a.rival, a.workers, jobs)
        lat.sort()
        at = lambda share: round(lat[min(len(lat) - 1, int(share * len(lat)))], 3)
        print(json.dumps({
            "rival": a.rival, "workers": a.workers, "jobs": jobs,
            "seconds": round(seconds, 4), "per_second": round(jobs / seconds, 1),
            "p50_ms": at(0.50), "p99_ms": at(0.99), "version": version,
            "settings": settings}))

if __name__ == "__main__":
    main()
