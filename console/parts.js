// Pieces that views share.

import { count, exact, ago, span, words } from "./format.js";
import { h } from "./dom.js";

/** A time as it is from now, exact on hover; it goes on by itself (see `tick`). */
export const time = (at, prefix) =>
  at ? h("time", { datetime: at, title: exact(at), "data-prefix": prefix }, `${prefix ?? ""}${ago(at)}`) : null;

/** Lets shown times go on. Called every second while the page is looked at. */
export function tick() {
  const now = Date.now();
  for (const node of document.querySelectorAll("time[datetime]")) {
    const text = `${node.dataset.prefix ?? ""}${ago(node.dateTime, now)}`;
    if (node.textContent !== text && node.firstChild) node.firstChild.data = text;
  }
}

/** What each tone looks like beside its colour, so that colour is never the only sign. */
const SIGNS = { good: "✓", bad: "✕", warn: "!", busy: "▸", idle: "·", ask: "?" };

/** A state in a word, with its sign. */
export const chip = (text, tone = "idle", title) =>
  h("span", { class: `chip ${tone}`, title }, h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[tone] ?? "·"), text);

/** The tone of everything that has states. */
const TONES = {
  stage: { ready: "idle", build: "busy", review: "busy", fix: "warn", integrate: "busy", done: "good", blocked: "bad" },
  session: { working: "busy", waiting: "ask", stuck: "warn", dormant: "idle", done: "good" },
  lane: { open: "good", paused: "warn", probing: "busy" },
  verdict: { GO: "good", NO_GO: "bad", UNKNOWN: "ask" },
  operation: { queued: "idle", running: "busy", succeeded: "good", failed: "bad", cancelled: "idle", interrupted: "warn" },
  decision: { run: "busy", skip: "idle", join: "ask", fail: "bad" },
  worktree: { fresh: "good", stale: "idle", error: "bad", missing: "bad", locked: "warn", detached: "warn" },
  incident: { open: "bad", remediating: "busy", resolved: "good" },
  actor: { running: "good", restarting: "warn", hung: "bad", given_up: "bad" },
  job: { ok: "good", failed: "bad", hung: "bad", held: "idle" },
};

/** The state of something in a word. */
export const state = (kind, word, title) => chip(kind === "verdict" ? word : words(word), TONES[kind]?.[word], title);

/** A link to another page of this console. */
export const link = (href, ...children) => h("a", { href }, ...children);
/** Where a todo, worktree, session, lane or hang dump is shown. */
export const at = {
  todo: (repo, slug) => `#/todos/${repo}/${slug}`,
  worktree: (repo, name) => `#/worktrees/${encodeURIComponent(repo)}/${encodeURIComponent(name)}`,
  session: (id) => `#/sessions/${encodeURIComponent(id)}`,
  lane: (lane) => `#/lanes/${encodeURIComponent(lane)}`,
  hang: (id) => `#/system/hangs/${id}`,
};

/** A button that does something. */
export const button = (text, onclick, props = {}) => h("button", { type: "button", onclick, ...props }, text);

/** A name with what is dim before it: `app/` **fix-login**. */
export const name = (repo, rest) => h("span", { class: "name" }, h("span", { class: "dim" }, `${repo}/`), h("bdi", {}, rest));

/** Text of agents and people, as text: its own direction, its own lines, cut when it is very long. */
export function text(value, max = 4_000) {
  const all = String(value ?? "");
  const shown = all.length > max ? `${all.slice(0, max)}… (${count(all.length - max, "more character")})` : all;
  return h("bdi", { class: "text" }, visible(shown));
}

/** Controls that would change what stands around them are shown as what they are. */
const visible = (value) =>
  String(value ?? "").replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (char) => `␛${char.charCodeAt(0).toString(16)}`);

/** A list of rows. `columns` is a class that lays them out; every row is a description made by `row`. */
export const rows = (label, columns, children) => h("ul", { class: `rows ${columns}`, "aria-label": label }, children);

/** A row that leads somewhere. */
export const row = (key, href, props, ...cells) =>
  h("li", { class: "row", "data-key": key, "data-href": href, ...props }, ...cells);

/** A cell with its name for whoever sees no column heads. */
export const cell = (label, ...children) => h("span", { class: "cell", "data-label": label }, ...children);

/** A cell with chips, which go on in the next line. */
export const chips = (label, ...children) => h("span", { class: "cell chips", "data-label": label }, ...children);

/** A cell with text that goes on in the next line. */
export const prose = (label, ...children) => h("span", { class: "cell wrap", "data-label": label }, ...children);

/** The last thing an agent told. */
export const told = ({ kind, text: words }) => [h("span", { class: "dim" }, `${kind} `), text(words, 200)];

/** The head of a list. */
export const heads = (columns, ...names) => h("div", { class: `heads ${columns}`, "aria-hidden": "true" }, names.map((one) => h("span", {}, one)));

/** Where nothing is: why, and what to do. */
export const empty = (title, detail) => h("div", { class: "empty" }, h("p", { class: "title" }, title), detail && h("p", {}, detail));

/** A problem, in the daemon's words. */
export const trouble = (problem) =>
  h("div", { class: "trouble", role: "alert" }, h("strong", {}, problem.title ?? "No answer"), " ", text(problem.message));

/** Places where rows will be. */
export const skeleton = (n = 6) => h("div", { class: "skeleton", "aria-hidden": "true" }, Array.from({ length: n }, () => h("div", {})));

/** The head of a page: its title, what belongs to it, and what can be done. */
export const head = (title, aside, ...acts) =>
  h("header", { class: "head" }, h("h1", { tabindex: "-1" }, title), aside && h("div", { class: "aside" }, aside), acts.length > 0 && h("div", { class: "acts" }, acts));

/** A part of a page under its own heading. */
export const section = (title, props, ...children) => h("section", { ...props }, h("h2", {}, title), ...children);

/** Names and values. */
export const facts = (...pairs) =>
  h("dl", { class: "facts" }, pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== false).map(([term, ...value]) => h("div", {}, h("dt", {}, term), h("dd", {}, ...value))));

/** A choice among few, as part of the address. `options` are `[value, label, count]`. */
export const choice = (label, options, chosen, choose) =>
  h("div", { class: "choice", role: "group", "aria-label": label }, options.map(([value, text, n]) =>
    h("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => choose(value), key: value }, text, n !== undefined && h("span", { class: "n" }, n))));

/** The field that `/` goes to. */
export const search = (label, value, change) =>
  h("input", { type: "search", class: "search", "aria-label": label, placeholder: `${label}  /`, value: value ?? "", oninput: (event) => change(event.target.value), autocomplete: "off", spellcheck: "false" });

/** A choice among many. */
export const pick = (label, options, chosen, choose) =>
  h("select", { "aria-label": label, onchange: (event) => choose(event.target.value), value: chosen ?? "" }, options.map(([value, text]) => h("option", { value, key: value }, text)));

/** Phases of an operation as bars: how long each took, what was decided and why. */
export function phases(reports) {
  const longest = Math.max(...reports.map((one) => one.duration_ms), 0.001);
  // By the logarithm: phases are microseconds to minutes.
  const width = (ms) => Math.max(1.5, (100 * Math.log1p(ms * 50)) / Math.log1p(longest * 50));
  return h("ol", { class: "phases", "aria-label": "Phases" }, reports.map((one) =>
    h("li", { class: one.decision, key: one.phase },
      h("span", { class: "phase" }, words(one.phase)),
      state("decision", one.decision),
      h("span", { class: "reason" }, words(one.reason)),
      h("span", { class: "bar", "aria-hidden": "true" }, h("span", { style: { width: `${width(one.duration_ms)}%` } })),
      h("span", { class: "num" }, span(one.duration_ms)))));
}
