"""The daemon under test: a process of its own, one raw connection to it, and a listener to its events.

The program is SLUGLINE in the environment, as the wrappers set it; "none" leaves our side out.
"""
import collections, json, os, re, shutil, signal, socket, subprocess, tempfile, threading, time

READY_SECONDS = 60
STOP_SECONDS = 20
TICKS = os.sysconf("SC_CLK_TCK")


class Unserved(Exception):
    """This build does not serve what is asked for; the text says what it answered."""


class Connection:
    """One keep-alive connection; requests go one after the other."""

    def __init__(self, address, token, seconds=60):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head = f"Host: {address}\r\nAuthorization: Bearer {token}\r\n"

    def ask(self, method, path, body=None, headers=""):
        """Send it, read the whole answer: status, headers in lower case, body."""
        data = b"" if body is None else json.dumps(body).encode()
        kind = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n" if body is not None else ""
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\n{self.head}{headers}{kind}\r\n".encode() + data)
        got = bytearray()
        while (end := got.find(b"\r\n\r\n")) < 0:
            self.more(got)
        lines = got[:end].decode().split("\r\n")
        fields = (line.split(": ", 1) for line in lines[1:] if ": " in line)
        names = {name.lower(): value for name, value in fields}
        status, start = int(lines[0].split()[1]), end + 4
        if names.get("transfer-encoding") == "chunked":
            while not got.endswith(b"0\r\n\r\n"):
                self.more(got)
            return status, names, unchunked(bytes(got[start:]))
        length = int(names.get("content-length", 0)) if status != 304 else 0
        while len(got) < start + length:
            self.more(got)
        return status, names, bytes(got[start:start + length])

    def more(self, got):
        read = self.socket.recv(1 << 20)
        if not read:
            raise ConnectionError("the daemon closed the connection")
        got += read

    def json(self, method, path, body=None):
        status, _, answer = self.ask(method, path, body)
        if status >= 400:
            code = re.search(rb'"code": ?"(\w+)"', answer)
            raise Unserved(f"{method} {path.split('?')[0]}: {status} {code[1].decode() if code else ''}".strip())
        return json.loads(answer) if answer else None

    def close(self):
        self.socket.close()


def unchunked(data):
    whole, at = b"", 0
    while size := int(data[at:(end := data.index(b"\r\n", at))].split(b";")[0], 16):
        whole, at = whole + data[end + 2:end + 2 + size], end + 4 + size
    return whole


class Daemon:
    """A daemon on this repository, with an empty data directory; stopped and cleared away when left."""

    def __init__(self, corpus, config="", out="bench/out"):
        self.data = tempfile.mkdtemp(prefix="daemon-", dir=out)
        with open(f"{self.data}/slugline.toml", "w") as f:       # a basic string in TOML is one in JSON
            # What is measured is the daemon, not how often one caller may ask it.
            config = config if "[http]" in config else f"{config}\n[http]\n"
            config = config.replace("[http]\n", "[http]\nrequests_per_s = 0\nevent_clients_per_caller_max = 100000\n")
            f.write(f'{config}\n[[repositories]]\nname = "app"\npath = {json.dumps(corpus.app)}\n'
                    f"base = {json.dumps(corpus.base)}\n")
        self.log = open(f"{self.data}/log", "w")
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [os.environ["SLUGLINE"], "serve", "--config", f"{self.data}/slugline.toml", "--listen", "127.0.0.1:0",
             "--data-dir", self.data], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = self.process.pid
        try:
            self.address, self.token = self.file("address"), self.file("token")
            self.until_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def file(self, name):
        """What the daemon wrote there, once it did."""
        while time.perf_counter() < self.began + READY_SECONDS:
            try:
                with open(f"{self.data}/{name}") as f:
                    if text := f.read().strip():
                        return text
            except FileNotFoundError:
                pass
            if self.process.poll() is not None:
                with open(f"{self.data}/log") as f:
                    raise Unserved("the daemon ended at its start: " + " ".join(f.read()[-400:].replace(self.data, "DIR").split()))
            time.sleep(0.002)
        raise Unserved(f"the daemon wrote no {name} in {READY_SECONDS} s")

    def until_ready(self):
        connection = self.connect()
        while connection.ask("GET", "/readyz")[0] != 200:
            if time.perf_counter() > self.began + READY_SECONDS:
                raise Unserved(f"not ready after {READY_SECONDS} s")
            time.sleep(0.002)
        connection.close()

    def connect(self, seconds=60):
        return Connection(self.address, self.token, seconds)

    def cpu(self):
        """Seconds of processor time the daemon took so far, and those of processes it started and waited for."""
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        user, system, child_user, child_system = (int(field) / TICKS for field in fields[11:15])
        return user + system, child_user + child_system

    def rss(self):
        """Bytes resident."""
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1]) * 1024

    def metrics(self, name):
        """The sum of all series of a metric; None if there is no such series."""
        connection = self.connect()
        text = connection.ask("GET", "/metrics")[2].decode()
        connection.close()
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
        return sum(values) if values else None

    def stop(self):
        """By its own pid: politely, then by force."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        if not os.environ.get("SLUGLINE_KEEP"):
            shutil.rmtree(self.data, ignore_errors=True)


Event = collections.namedtuple("Event", "at type data")


class Events:
    """One listener: a thread that does nothing but read, so an event's time is when it arrived."""

    def __init__(self, daemon, types=""):
        self.list, self.changed, self.fault = [], threading.Condition(), None
        self.connection = daemon.connect(seconds=None)
        query = f"?types={types}" if types else ""
        head = f"GET /events{query} HTTP/1.1\r\n{self.connection.head}Accept: text/event-stream\r\n\r\n"
        self.connection.socket.sendall(head.encode())
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        self.wait(lambda event: event.type == "hello", 0, 10, "the stream's hello")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.connection.close()

    def read(self):
        rest = b""
        try:
            while got := self.connection.socket.recv(1 << 16):
                at, rest = time.perf_counter(), rest + got
                if rest.startswith(b"HTTP/1.1 ") and not rest.startswith(b"HTTP/1.1 200"):
                    self.end("GET /events: " + rest.split(b"\r\n")[0].decode(errors="replace").removeprefix("HTTP/1.1 "))
                    return
                *whole, rest = rest.split(b"\n\n")
                self.take([event for event in (parse(block, at) for block in whole) if event])
        except OSError:
            pass
        self.end("the daemon ended the stream")

    def take(self, events):
        if events:
            with self.changed:
                self.list += events
                self.changed.notify_all()

    def end(self, why):
        with self.changed:
            self.fault = why
            self.changed.notify_all()

    def wait(self, fits, since, seconds, what="an event"):
        """The first event that fits and came at or after `since`; None after so many seconds."""
        until, seen = time.perf_counter() + seconds, 0
        with self.changed:
            while True:
                for event in self.list[seen:]:
                    if event.at >= since and fits(event):
                        return event
                seen = len(self.list)
                left = until - time.perf_counter()
                if self.fault:
                    raise Unserved(self.fault)
                if left <= 0:
                    if what != "an event":
                        raise Unserved(f"{what} did not come")
                    return None
                self.changed.wait(left)

    def quiet(self, for_seconds, at_most):
        """Wait until nothing came for so long."""
        until = time.perf_counter() + at_most
        while (now := time.perf_counter()) < until:
            last = self.list[-1].at if self.list else 0
            if now - last >= for_seconds:
                return
            time.sleep(for_seconds / 10)


def parse(block, at):
    """An event of `event:` and `data:` lines, also where chunk sizes stand between them; None for a comment."""
    kind = re.search(rb"^event: ?([\w.]+)", block, re.M)
    data = b"\n".join(re.findall(rb"^data: ?(.*)$", block, re.M))
    if not kind:
        return None
    try:
        return Event(at, kind[1].decode(), json.loads(data))
    except ValueError:
        return Event(at, kind[1].decode(), {})
