// The console: who is looking, where they are, and drawing it. Views are functions from what is known to what is shown.

import { get, keepKey, key, onSignedOut, post } from "./api.js";
import { ask, now, toast } from "./acts.js";
import * as data from "./data.js";
import { h, patch } from "./dom.js";
import { KEYS, listen } from "./keys.js";
import { button, tick } from "./parts.js";
import { attention, nowView } from "./views/now.js";
import { todosView } from "./views/todos.js";
import { todoView } from "./views/todo.js";
import { worktreesView } from "./views/worktrees.js";
import { worktreeView } from "./views/worktree.js";
import { sessionsView } from "./views/sessions.js";
import { sessionView } from "./views/session.js";
import { lanesView } from "./views/lanes.js";
import { systemView } from "./views/system.js";
import { hangView } from "./views/hang.js";

/** The places of the navigation, in order: address, name, and how many things there want to be looked at, of all that needs a person. */
const PLACES = [
  ["now", "Now", (wants) => wants.length],
  ["todos", "Todos"],
  ["worktrees", "Worktrees"],
  ["sessions", "Sessions"],
  ["lanes", "Lanes & failures", () => data.entries(data.use("lanes")).filter((lane) => lane.state === "paused").length],
  ["system", "System", () => (data.use("status").value?.readiness === "NO_GO" ? 1 : 0)],
];

const main = document.querySelector("main");
let stream = "connecting";
// Until the daemon says "in" or "out".
let signed = "unknown";
let version = null;
// Other numbers than before the page was loaded again.
let newest = Math.floor(performance.timeOrigin);
let due = false;

// Where we are.

/** The address in parts: `#/todos/app/fix-login?q=x` is `{place: "todos", parts: ["app", "fix-login"], query}`. */
function route() {
  const [where, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [place, ...parts] = where.split("/").map(decoded);
  return { place: place || "now", parts, query: new URLSearchParams(query ?? "") };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Entries of the history that were left: how far down one was there, and where one went. */
const left = new Map();
let entry = 0;

/** Every entry of the history has a number, so that one that is come back to is known again. */
function arrived() {
  if (history.state?.entry === undefined) history.replaceState({ entry: ++newest }, "");
  if (history.state.entry === entry) return;
  left.set(entry, { y: scrollY, to: location.hash });
  entry = history.state.entry;
}

/** Changes what is said behind the `?` of the address, without a step in the history. */
function set(changes) {
  const { query } = route();
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString();
  history.replaceState(history.state, "", `${location.hash.split("?")[0] || "#/now"}${text ? `?${text}` : ""}`);
  draw();
}

function viewOf({ place, parts }) {
  const one = parts.length > 0 && parts[0] !== "";
  switch (place) {
    case "now": return ["now", "Now", nowView];
    case "todos": return parts.length > 1 ? ["todo", parts.join("/"), todoView] : ["todos", "Todos", todosView];
    case "worktrees": return parts.length > 1 ? ["worktree", parts.join("/"), worktreeView] : ["worktrees", "Worktrees", worktreesView];
    case "sessions": return one ? ["session", parts[0], sessionView] : ["sessions", "Sessions", sessionsView];
    case "lanes": return ["lanes", one ? parts[0] : "Lanes & failures", lanesView];
    case "system": return parts[0] === "hangs" && parts[1] ? ["hang", "Hang dump", hangView] : ["system", "System", systemView];
    default: return ["nowhere", "No such page", () => h("p", {}, "There is no such page. ", h("a", { href: "#/now" }, "Go to Now"), ".")];
  }
}

// Drawing.

/** Draws soon: once for everything that changed until then, and not while nobody looks. */
function draw() {
  if (due) return;
  due = true;
  if (!document.hidden) requestAnimationFrame(drawNow);
}

function drawNow() {
  due = false;
  document.body.dataset.live = stream;
  document.body.dataset.signed = signed;
  if (signed === "out") return drawSignIn();
  arrived();
  const here = route();
  const [name, title, view] = viewOf(here);
  const moved = main.dataset.view !== name || main.dataset.title !== title;
  const wants = data.drawn(() => {
    const found = attention();
    const shown = view(here, set, found);
    drawNav(here, found);
    main.dataset.view = name;
    main.dataset.title = title;
    patch(main, shown);
    main.setAttribute("aria-busy", String(main.querySelector(".skeleton") !== null));
    return found.length;
  });
  document.title = `${wants ? `(${wants}) ` : ""}${title} · Slugline`;
  if (moved) {
    arrive();
    document.querySelector("#nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

/** After going on: the top. After going back: where one was, at the row one went to. */
function arrive() {
  const { y, to } = left.get(history.state?.entry) ?? { y: 0 };
  scrollTo(0, y);
  const row = to && main.querySelector(`.row[data-href="${CSS.escape(to)}"]`);
  if (row) {
    row.setAttribute("aria-current", "true");
    row.querySelector("a")?.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  } else {
    main.querySelector("h1")?.focus({ preventScroll: true });
  }
}

function drawNav({ place }, wants) {
  patch(document.getElementById("nav"), PLACES.map(([where, name, count]) => {
    const n = count?.(wants) ?? 0;
    return h("a", { href: `#/${where}`, key: where, "aria-current": where === place ? "page" : null },
      name, n > 0 && h("span", { class: "badge" }, n, h("span", { class: "unseen" }, where === "lanes" ? " paused" : " to look at")));
  }));
  drawLive(stream);
  patch(document.getElementById("foot"), [
    button("Keys ?", help, { class: "quiet" }),
    key() && button("Sign out", signOut, { class: "quiet" }),
    version && h("span", { class: "dim" }, version),
  ]);
}

function drawLive(state) {
  patch(document.getElementById("live"), [h("span", { class: "dot", "aria-hidden": "true" }), state.replace("-", " ")]);
}

function help() {
  ask({ title: "Keys", fields: h("dl", { class: "keys" }, KEYS.map(([keys, what]) => h("div", {}, h("dt", {}, keys.split(" ").map((one) => h("kbd", {}, one))), h("dd", {}, what)))) });
}

// Signing in.

let signInError = null;

function drawSignIn() {
  main.dataset.view = "sign-in";
  main.dataset.title = "";
  main.setAttribute("aria-busy", "false");
  document.title = "Sign in · Slugline";
  patch(document.getElementById("nav"), []);
  patch(document.getElementById("foot"), []);
  drawLive("signed-out");
  patch(main, h("form", { class: "sign-in", onsubmit: signInWithToken },
    h("h1", { tabindex: "-1" }, "Sign in"),
    h("p", {}, "Run ", h("code", {}, "slugline console"), " in a terminal: it opens this page signed in. Or paste the token; ", h("code", {}, "slugline serve"), " prints where it is."),
    h("label", { class: "field" }, "Token", h("input", { name: "token", type: "password", required: true, autocomplete: "current-password", autofocus: true })),
    signInError && h("div", { class: "trouble", role: "alert" }, signInError),
    h("div", { class: "acts" }, h("button", { class: "primary" }, "Sign in"))));
}

function signInWithToken(event) {
  event.preventDefault();
  signIn({ token: new FormData(event.target).get("token").trim() });
}

async function signIn(body) {
  try {
    const told = await post("/console/sign-in", body);
    keepKey(told.key);
    signInError = null;
    signed = "in";
    data.forget();
    connect();
  } catch (problem) {
    signed = "out";
    signInError = problem.message;
  }
  draw();
}

async function signOut() {
  await now(async () => {
    await post("/console/sign-out");
  });
  keepKey(null);
  signedOut();
  connect();
}

function signedOut() {
  if (signed === "out") return;
  signed = "out";
  data.forget();
  draw();
}

// Listening.

let port = null;
let whenLive;
const live = new Promise((done) => (whenLive = done));

/** Joins the stream of this browser. */
function connect() {
  port ??= newPort();
  port.postMessage({ hello: true, key: key() });
}

function newPort() {
  let mine;
  if (window.SharedWorker) {
    // Nothing but this address is ever loaded as a script by name.
    const policy = window.trustedTypes?.createPolicy("slugline", { createScriptURL: () => new URL("worker.js", import.meta.url).href });
    const worker = new SharedWorker(policy ? policy.createScriptURL("") : new URL("worker.js", import.meta.url), { type: "module", name: "slugline" });
    mine = worker.port;
  } else {
    const channel = new MessageChannel();
    import("./stream.js").then(({ serve }) => serve(channel.port2));
    mine = channel.port1;
  }
  mine.onmessage = ({ data: told }) => take(told);
  return mine;
}

function take(told) {
  // What an event changes is drawn by whoever it changes.
  if (told.event) return data.heard(told.event);
  if (told.version) {
    if (version && version !== told.version) toast("The daemon is another version now. Reload the page to have its console.", "warn");
    version = told.version;
  }
  if (told.state) {
    const before = stream;
    stream = told.state;
    if (stream === "live") {
      // Another tab may have signed in.
      signed = "in";
      whenLive();
      if (before !== "live" && before !== "connecting") data.renewAll();
    }
    if (stream === "signed-out") signedOut();
  }
  if (told.reset) data.renewAll();
  draw();
}

// Beginning.

/** How long the first questions wait for the stream, so that nothing falls between them and the first event. */
const STREAM_WAIT_MS = 500;

async function begin() {
  history.scrollRestoration = "manual";
  onSignedOut.call = signedOut;
  setTimeout(whenLive, STREAM_WAIT_MS);
  data.begin(draw, live);
  listen({ go: (place) => (location.hash = `#/${place}`), renew: () => { data.renewAll(); toast("Asked again."); }, help });
  window.addEventListener("hashchange", onHash);
  window.addEventListener("pagehide", () => port?.postMessage({ bye: true }));
  window.addEventListener("pageshow", (event) => event.persisted && connect());
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { due = false; draw(); } });
  main.addEventListener("click", onRowClick);
  // The fragment is the address here, so this link is none.
  document.querySelector(".skip-link").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
  setInterval(() => document.hidden || tick(), 1_000);
  if (!onHash()) connect();
}

/** A click anywhere in a row leads where the row does, unless it was meant for something else or selected text. */
function onRowClick(event) {
  const row = event.target.closest(".row[data-href]");
  if (!row || event.target.closest("a, button, summary, input, select, label") || getSelection().toString()) return;
  location.hash = row.dataset.href;
}

/** A one-time code is used at once and leaves the address. */
function onHash() {
  const code = /^#code=(.+)$/.exec(location.hash)?.[1];
  if (code) {
    history.replaceState(null, "", "#/now");
    signIn({ code });
  } else {
    draw();
  }
  return Boolean(code);
}

begin();
