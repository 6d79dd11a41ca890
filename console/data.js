// What the daemon told, kept current by its events. A view asks for a resource by name while it is drawn; whatever is
// asked for is loaded, patched by events, and let go a while after no view asks for it any more. Entries are never changed in
// place: another object means another content, which is what drawing goes by.

import { Problem, get, path } from "./api.js";

/** Events that come together cause one question. */
const GATHER_MS = 150;
/** What no event tells of (a progress text, ages) is asked for this often while the page is looked at. */
const RENEW_MS = 30_000;
/** What no view asked for any more is kept for so long, so that going back finds it. */
const KEEP_MS = 60_000;
/** More todos than this at once are read as a list. */
const ONE_BY_ONE_MAX = 20;

const todoKey = (one) => `${one.repo}/${one.slug}`;
const worktreeKey = (one) => `${one.repo}/${one.name}`;
const byId = (one) => one.id;

/**
 * Every resource: where it is, for lists what tells entries apart, and which events mean "ask again". `todos`,
 * `worktrees`, `sessions` and `operations` are patched entry by entry instead (see `heard`).
 */
const KINDS = {
  status: { path: () => "/status", on: ["readiness.changed", "incident.updated", "hang.detected", "lane.paused", "lane.resumed"] },
  lanes: { path: () => "/lanes", key: (one) => one.lane, on: ["lane.paused", "lane.resumed", "claim.granted", "claim.released", "claim.expired"] },
  failures: { path: () => "/failures", key: (one) => `${one.lane} ${one.fingerprint} ${one.generation}`, on: ["claim.released", "lane.paused", "operation.updated"] },
  readiness: { path: () => "/readiness", on: ["readiness.changed"] },
  jobs: { path: () => "/jobs", key: (one) => one.job, on: ["job.updated"], every: 5_000 },
  incidents: { path: () => "/incidents", key: byId, on: ["incident.updated"] },
  hangs: { path: () => "/hangs", key: byId, on: ["hang.detected"] },
  hang: { path: (id) => path`/hangs/${id}` },
  actors: { path: () => "/actors", key: (one) => `${one.kind}:${one.name}`, on: ["actor.restarted"], every: 5_000 },
  lag: { path: () => "/lag", every: 10_000 },
  repositories: { load: loadRepositories, key: (one) => one.name },
  todos: { load: loadTodos, key: todoKey },
  // Their arguments are paths already.
  todo: { path: (key) => `/todos/${key}` },
  worktrees: { path: () => "/worktrees", key: worktreeKey },
  worktree: { path: (key) => `/worktrees/${key}` },
  sessions: { path: (query) => `/sessions${query ?? ""}`, key: byId },
  session: { path: (id) => path`/sessions/${id}` },
  "session-events": { path: (id) => path`/sessions/${id}/events?limit=1000`, key: (one) => one.n },
  operations: { path: (query) => `/operations${query ?? ""}`, key: byId },
};

let repositories = null;

/** The repositories; whoever asks while they are asked for gets the same answer. */
function loadRepositories() {
  repositories ??= get("/repositories").finally(() => (repositories = null));
  return repositories;
}

/** The todos of all repositories, or those at one stage; one repository that cannot be served costs only its own. */
async function loadTodos(stage) {
  const usable = (await loadRepositories()).filter((one) => one.usable);
  const lists = await Promise.all(usable.map((one) => get(path`/todos?repo=${one.name}` + (stage ? `&stage=${stage}` : ""))));
  return lists.flat();
}

const resources = new Map();
let changed = () => {};
let live = Promise.resolve();
let drawing = 0;

/** Begins: `onChange` is called whenever something to be shown is another one; questions wait for `whenLive`. */
export function begin(onChange, whenLive) {
  changed = onChange;
  live = whenLive;
  setInterval(() => {
    if (document.hidden) return;
    for (const one of resources.values()) {
      if (one.drawn === drawing && Date.now() - one.asked >= (one.kind.every ?? RENEW_MS)) renew(one);
    }
  }, 1_000);
}

/** Forgets everything, as after signing out. */
export function forget() {
  resources.clear();
}

/**
 * A resource for the view that is being drawn: `value` (or `items`, a Map in the daemon's order, for lists), `error`, and
 * `ready` once anything came. Asking is what keeps it.
 */
export function use(name, arg) {
  const id = arg === undefined ? name : `${name} ${arg}`;
  let one = resources.get(id);
  if (!one) {
    one = { id, name, arg, kind: KINDS[name], ready: false, error: null, value: null, items: new Map(), version: 0, asked: 0, busy: false, again: false, heard: new Map(), left: null };
    resources.set(id, one);
    live.then(() => resources.get(id) === one && renew(one));
  } else if (one.left && Date.now() - one.asked > GATHER_MS) renew(one);
  one.drawn = drawing;
  one.left = null;
  return one;
}

/** The entries of a list, in its order, as an array that is another one only when an entry is. */
export function entries(one) {
  if (one.arrayOf !== one.version) {
    one.array = [...one.items.values()];
    one.arrayOf = one.version;
  }
  return one.array;
}

/** Draws by `draw`, whose result it gives, and lets go what was not asked for in a while. */
export function drawn(draw) {
  drawing++;
  const result = draw();
  for (const [id, one] of resources) {
    if (one.drawn === drawing) continue;
    one.left ??= Date.now();
    if (Date.now() - one.left > KEEP_MS) resources.delete(id);
  }
  return result;
}

/** Asks again for everything that is shown. */
export const renewAll = () => Promise.all([...resources.values()].map(renew));

/** Asks again for a resource, if it is shown. */
export function renewNamed(...names) {
  for (const one of resources.values()) if (names.includes(one.name)) renew(one);
}

async function renew(one) {
  if (one.busy) {
    one.again = true;
    return;
  }
  one.busy = true;
  one.asked = Date.now();
  one.heard.clear();
  try {
    const value = await (one.kind.load ? one.kind.load(one.arg) : get(one.kind.path(one.arg)));
    one.error = null;
    if (one.kind.key) replaceAll(one, value);
    else if (!same(one.value, value)) one.value = value;
    one.ready = true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    one.error = error;
  } finally {
    one.busy = false;
  }
  changed();
  if (one.again) {
    one.again = false;
    await renew(one);
  }
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/**
 * Takes a list over; entries that look as before stay the objects they were. What was heard of while the list was on its
 * way may be newer than the list, and stays as it was heard.
 */
function replaceAll(one, list) {
  const items = new Map();
  for (const entry of list) {
    const key = one.kind.key(entry);
    const old = one.items.get(key);
    items.set(key, old && same(old, entry) ? old : entry);
  }
  for (const [key, entry] of one.heard) place(items, key, entry);
  one.items = items;
  one.version++;
}

function put(one, key, entry) {
  if (one.busy) one.heard.set(key, entry);
  place(one.items, key, entry);
  one.version++;
  changed();
}

function place(items, key, entry) {
  if (entry) items.set(key, entry);
  else items.delete(key);
}

const named = (...names) => [...resources.values()].filter((one) => names.includes(one.name));

// What events mean.

const gathered = new Map();

/** Does something once for everything that asks for it within a moment. */
function soon(id, act) {
  if (gathered.has(id)) return;
  gathered.set(id, setTimeout(() => { gathered.delete(id); act(); }, GATHER_MS));
}

/** Takes in an event of the daemon. */
export function heard(event) {
  const { type, data } = event;
  for (const one of resources.values()) if (one.kind.on?.includes(type)) soon(`renew ${one.id}`, () => renew(one));
  if (event.session) sessionHeard(event);
  else if (event.name) worktreeHeard(event);
  else if (event.slug) todoHeard(event);
  if (type === "operation.updated" || type === "phase.finished") operationHeard(event);
  if (type.startsWith("claim.") && event.slug) soonSession(`${event.repo}~${event.slug}~${data.token}`);
}

const todosToRead = new Set();

function todoHeard({ repo, slug, data }) {
  const key = `${repo}/${slug}`;
  // What a phase leaves behind shows only in the todo's own page.
  if (data.mark && !resources.has(`todo ${key}`)) return;
  todosToRead.add(key);
  soon("todos", readTodos);
}

function readTodos() {
  const keys = [...todosToRead];
  todosToRead.clear();
  const lists = named("todos");
  if (keys.length > ONE_BY_ONE_MAX) {
    for (const one of lists) renew(one);
  }
  for (const key of keys) {
    const shown = resources.get(`todo ${key}`);
    const listed = keys.length <= ONE_BY_ONE_MAX && (lists.length || named("worktrees").length);
    if (shown) renew(shown).then(() => shown.value && todoRead(key, shown.value));
    else if (listed) get(`/todos/${key}`).then((todo) => todoRead(key, todo), () => todoRead(key, null));
  }
}

/** A todo as it is now: in lists, and as the claim on its worktree. */
function todoRead(key, todo) {
  const short = todo && (({ instructions, findings, gates, endings, parked, history, ...rest }) => rest)(todo);
  for (const one of named("todos")) {
    const old = one.items.get(key);
    const fits = !one.arg || short?.stage === one.arg ? short : null;
    if (!same(old ?? null, fits)) put(one, key, fits);
  }
  for (const one of named("worktrees")) {
    const old = [...one.items.values()].find((row) => row.slug && `${row.repo}/${row.slug}` === key);
    if (old && todo && !same(old.claim, todo.claim)) put(one, worktreeKey(old), { ...old, claim: todo.claim });
  }
}

function worktreeHeard({ type, repo, name, data, at }) {
  const key = `${repo}/${name}`;
  for (const one of named("worktrees")) {
    const old = one.items.get(key);
    if (type === "worktree.removed") put(one, key, null);
    else if (old) put(one, key, { ...old, ...data, looked_at: data.state === "fresh" ? at : old.looked_at });
    else if (one.ready) soon(`renew ${one.id}`, () => renew(one));
  }
  const shown = resources.get(`worktree ${path`${repo}/${name}`}`);
  if (shown && type === "worktree.removed") {
    shown.value = null;
    shown.error = new Problem({ title: "It is gone", detail: "The worktree was removed." });
    changed();
  } else if (shown) {
    soon(`renew ${shown.id}`, () => renew(shown));
  }
}

function sessionHeard({ session, data }) {
  const { new: events, ...fields } = data;
  let known = false;
  for (const one of named("sessions")) {
    const old = one.items.get(session);
    if (!old) continue;
    known = true;
    put(one, session, { ...old, ...fields, active_at: fields.last?.at ?? old.active_at });
  }
  // Another status changes more than it says: what is waited for, in which lists it is.
  if (!known || "status" in fields || resources.has(`session ${session}`)) soonSession(session);
  const shown = resources.get(`session-events ${session}`);
  if (shown && events) soon(`renew ${shown.id}`, () => moreEvents(shown, session));
}

/** What came to a session's events since. */
async function moreEvents(one, session) {
  const last = [...one.items.keys()].at(-1) ?? 0;
  const more = await get(path`/sessions/${session}/events?after=${last}&limit=1000`).catch(() => []);
  for (const entry of more) put(one, entry.n, entry);
}

function soonSession(id) {
  if (named("sessions", "session").length) soon(`session ${id}`, () => readSession(id));
}

async function readSession(id) {
  const told = await get(path`/sessions/${id}`).catch(() => null);
  if (!told) return;
  for (const one of named("sessions")) {
    const wanted = new URLSearchParams(one.arg ?? "").get("status")?.split(",");
    const fits = !wanted || wanted.includes(told.status);
    if (fits) put(one, id, told);
    else if (one.items.has(id)) put(one, id, null);
  }
  for (const one of named("session")) if (one.arg === id) { one.value = told; changed(); }
}

function operationHeard({ type, repo, slug, data, at }) {
  for (const one of named("operations")) {
    const query = new URLSearchParams(one.arg ?? "");
    if (query.has("slug") && (query.get("repo") !== repo || query.get("slug") !== slug)) continue;
    const old = one.items.get(data.operation);
    if (type === "phase.finished") {
      if (old) put(one, data.operation, { ...old, phase: null, phases: [...old.phases.filter((p) => p.phase !== data.report.phase), data.report] });
      continue;
    }
    const states = query.get("state")?.split(",");
    if (old && states && !states.includes(data.state)) put(one, data.operation, null);
    else if (old && data.state === "running") put(one, data.operation, { ...old, state: data.state, phase: data.phase, started_at: old.started_at ?? at });
    else soon(`renew ${one.id}`, () => renew(one));
  }
}
