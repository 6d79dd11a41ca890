// Now: what needs a person, and what is being worked on. If nothing does, that is said, too.

import { cancelOperation, logButton, redrive, resumeLane } from "../acts.js";
import { entries, use } from "../data.js";
import { h } from "../dom.js";
import { count, ms, span, words } from "../format.js";
import { at, button, cell, chip, empty, head, link, name, row, rows, section, skeleton, state, text, time, told, trouble } from "../parts.js";

/** How long a hang is news. */
const HANG_NEWS_MS = 3_600_000;

/** Problems of operations that are told by what caused them, or pass by themselves. */
const TOLD_ELSEWHERE = new Set(["lane_paused", "wip_limit", "backoff", "already_claimed", "stale_token", "dependencies_unmet", "todo_blocked", "draining", "restarting"]);

/** What this page and the navigation go by. */
function known() {
  return {
    status: use("status"),
    lanes: use("lanes"),
    blocked: use("todos", "blocked"),
    sessions: use("sessions", "?status=waiting,stuck,working"),
    failed: use("operations", "?state=failed&latest=true&limit=100"),
    running: use("operations", "?state=queued,running&limit=100"),
    hangs: use("hangs"),
    repositories: use("repositories"),
  };
}

/** Everything that needs a person, what is worst first: `{key, tone, what, title, href, at, detail, acts}`. */
export function attention() {
  const all = known();
  const status = all.status.value;
  const found = [];
  if (status && status.readiness === "NO_GO") {
    const bad = status.criteria.filter((one) => one.verdict === "NO_GO");
    found.push({ key: "readiness", tone: "bad", what: "NO_GO", title: "Automation should not rely on this daemon", href: "#/system", detail: bad.map((one) => `${words(one.name)}: ${one.detail}`).join("\n") });
  }
  for (const one of entries(all.repositories).filter((one) => !one.usable)) {
    found.push({ key: `repository ${one.name}`, tone: "bad", what: "repository unusable", title: one.name, href: "#/system", detail: one.problem?.detail });
  }
  for (const one of status?.incidents ?? []) {
    if (one.severity === "critical") found.push({ key: `incident ${one.id}`, tone: "bad", what: `incident ${one.state}`, title: one.title, href: "#/system", at: one.opened_at });
  }
  for (const lane of entries(all.lanes).filter((lane) => lane.state === "paused")) {
    found.push({
      key: `lane ${lane.lane}`, tone: "warn", what: lane.paused_by === "breaker" ? "lane paused itself" : "lane paused",
      title: lane.lane, href: at.lane(lane.lane), at: lane.since, detail: lane.reason,
      acts: [button("Resume lane", () => resumeLane(lane.lane), { class: "small" })],
    });
  }
  for (const session of entries(all.sessions).filter((one) => one.status !== "working")) {
    const waits = session.status === "waiting";
    found.push({
      key: `session ${session.id}`, tone: waits ? "ask" : "warn", what: waits ? "waits for a person" : "session stuck",
      title: session.title, href: at.session(session.id), at: session.active_at,
      detail: session.waits_for ?? session.last?.text ?? `${session.worker ?? "It"} holds the claim and nothing came of it since.`,
    });
  }
  for (const one of entries(all.failed).filter((one) => !TOLD_ELSEWHERE.has(one.problem?.code))) {
    const gate = one.problem?.code === "gate_failed";
    found.push({
      key: `operation ${one.id}`, tone: "bad", what: gate ? "gate failed" : words(one.problem?.code ?? "operation failed"),
      title: `${one.repo}/${one.slug}`, href: at.todo(one.repo, one.slug), at: one.finished_at, detail: one.problem?.detail,
      acts: [logButton(one)],
    });
  }
  for (const todo of entries(all.blocked)) {
    found.push({
      key: `todo ${todo.repo}/${todo.slug}`, tone: "warn", what: todo.blocked?.dead_letter ? "attempts used up" : "blocked",
      title: `${todo.repo}/${todo.slug}`, href: at.todo(todo.repo, todo.slug), at: todo.blocked?.at, detail: todo.blocked?.reason,
      acts: [button("Redrive", () => redrive(todo.repo, todo.slug), { class: "small" })],
    });
  }
  for (const hang of entries(all.hangs).filter((one) => one.reason !== "by_hand" && Date.now() - ms(one.at) < HANG_NEWS_MS)) {
    found.push({ key: `hang ${hang.id}`, tone: "warn", what: words(hang.reason), title: "The runtime hung", href: at.hang(hang.id), at: hang.at, detail: hang.culprits.map((one) => one.doing).filter(Boolean).join("\n") });
  }
  return found;
}

/** The view, of everything that needs a person. */
export function nowView(_, __, found) {
  const all = known();
  const ready = Object.values(all).every((one) => one.ready || one.error);
  const error = Object.values(all).find((one) => one.error)?.error;
  const status = all.status.value;
  const working = entries(all.sessions).filter((one) => one.status === "working");
  return [
    head("Now", status && [state("verdict", status.readiness), h("span", {}, count(status.queue.ready, "todo"), " ready"), status.queue.oldest_ready_ms > 60_000 && h("span", {}, `the oldest for ${span(status.queue.oldest_ready_ms)}`)]),
    error && trouble(error),
    section("Needs a person", {},
      !ready && found.length === 0 ? skeleton(3)
      : found.length === 0 ? h("p", { class: "well" }, h("span", { class: "sign", "aria-hidden": "true" }, "✓"), "All is well. Nothing needs you.")
      : [h("div", { class: "cards" }, found.map(card)), !ready && skeleton(1)]),
    section("Operations", {}, runningRows(entries(all.running))),
    section("Being worked on", {}, !all.sessions.ready ? skeleton(3) : workingRows(working)),
  ];
}

const card = (one) =>
  h("article", { class: `card row ${one.tone}`, key: one.key, "data-key": one.key, "data-href": one.href },
    h("header", {}, chip(one.what, one.tone), time(one.at)),
    link(one.href, h("bdi", { class: "name" }, one.title)),
    one.detail && h("p", { class: "dim" }, text(one.detail, 400)),
    one.acts && h("div", { class: "acts" }, one.acts));

function runningRows(list) {
  if (!list.length) return h("p", { class: "dim" }, "Nothing is being prepared or judged.");
  return rows("Operations", "of-operations", list.map((one) =>
    row(one.id, at.todo(one.repo, one.slug), { key: one.id },
      cell("", link(at.todo(one.repo, one.slug), name(one.repo, one.slug)), h("span", { class: "under" }, `${one.kind} for ${one.worker} in ${one.lane}`)),
      cell("state", state("operation", one.state)),
      cell("phase", words(one.phase ?? "between phases")),
      cell("since", time(one.created_at)),
      cell("", button("Cancel operation", () => cancelOperation(one), { class: "small" })))));
}

function workingRows(list) {
  if (!list.length) return empty("Nobody works.", "Agents ask for work with POST /todos/work.");
  return rows("Sessions at work", "of-working", list.map((one) =>
    row(one.id, at.session(one.id), { key: one.id },
      cell("", link(at.session(one.id), h("bdi", { class: "name" }, one.title)), h("span", { class: "under" }, one.worker ?? one.source, one.lane && ` in ${one.lane}`)),
      cell("last", one.last ? told(one.last) : h("span", { class: "dim" }, "nothing said yet")),
      cell("events", h("span", { class: "num" }, one.events)),
      cell("active", time(one.active_at)))));
}
