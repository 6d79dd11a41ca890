// The one stream of events of this browser. It runs in a SharedWorker that all tabs share, because a browser has six
// connections to one place; where there is no SharedWorker, each tab runs it itself.

/** Waits between two tries: doubled from the first to the last. */
const RETRY_MIN_MS = 250, RETRY_MAX_MS = 5_000;
/** The daemon says something every ten seconds; silence for longer means that nobody is there. */
const SILENCE_MS = 25_000;
/** After so long without the daemon the page says offline. */
const OFFLINE_MS = 10_000;

const ports = new Set();
let key = null;
let state = "connecting";
let lastId = null;
let lostAt = null;
let version = null;
let running = null;

/** Takes in a tab. It says `{hello, key}` to begin, `{bye}` when it goes; it is told `{state}`, `{event}`, `{reset}` and `{version}`. */
export function serve(port) {
  port.onmessage = ({ data }) => {
    if (data.bye) {
      ports.delete(port);
      if (!ports.size) stop();
      return;
    }
    ports.add(port);
    // Somebody else, or the same one again: what was said of the one before is over.
    if (data.key !== key || state === "signed-out") {
      key = data.key;
      lostAt = null;
      stop();
      become("connecting");
    }
    port.postMessage({ state, version });
    running ??= run(new AbortController());
  };
  port.start?.();
}

function tell(message) {
  for (const port of ports) port.postMessage(message);
}

function become(next) {
  if (state === next) return;
  state = next;
  tell({ state });
}

function stop() {
  running?.abort.abort();
  running = null;
}

function run(abort) {
  const mine = { abort };
  go(mine).catch((error) => console.error(error));
  return mine;
}

const pause = (ms, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); done(); });
  });

async function go({ abort }) {
  let wait = RETRY_MIN_MS;
  while (!abort.signal.aborted) {
    const heard = await listen(abort.signal);
    if (abort.signal.aborted || state === "signed-out") return;
    if (heard) {
      lostAt = Date.now();
      wait = RETRY_MIN_MS;
    }
    lostAt ??= Date.now();
    become(Date.now() - lostAt > OFFLINE_MS ? "offline" : "reconnecting");
    await pause(wait * (0.75 + Math.random() / 2), abort.signal);
    wait = Math.min(wait * 2, RETRY_MAX_MS);
  }
}

/** One connection, until it ends; whether anything was heard on it. */
async function listen(outer) {
  const inner = new AbortController();
  const silence = () => setTimeout(() => inner.abort(), SILENCE_MS);
  let timer = silence();
  let heard = false;
  outer.addEventListener("abort", () => inner.abort(), { once: true });
  try {
    const headers = { Accept: "text/event-stream", ...(key ? { "X-Slugline-Key": key } : {}), ...(lastId === null ? {} : { "Last-Event-ID": lastId }) };
    const response = await fetch("/events", { headers, signal: inner.signal, cache: "no-store" });
    if (outer.aborted) return heard;
    if (response.status === 401) {
      become("signed-out");
      return heard;
    }
    if (!response.ok) return heard;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return heard;
      heard = true;
      clearTimeout(timer);
      timer = silence();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) take(block);
    }
  } catch {
    return heard;
  } finally {
    clearTimeout(timer);
    inner.abort();
  }
}

function take(block) {
  let type = null, data = "";
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.startsWith("id:")) lastId = value;
    else if (line.startsWith("event:")) type = value;
    else if (line.startsWith("data:")) data += value;
  }
  if (type === "hello") {
    lostAt = null;
    const told = JSON.parse(data);
    if (told.server_version !== version) tell({ version: (version = told.server_version) });
    become("live");
  } else if (type === "reset") {
    lastId = null;
    tell({ reset: true });
  } else if (type) {
    tell({ event: JSON.parse(data) });
  }
}
