// One todo: where it is, who holds it, what its gates said, and everything that happened to it.

import { cancelOperation, logButton, redrive, releaseClaim, showLog } from "../acts.js";
import { entries, use } from "../data.js";
import { h, keep } from "../dom.js";
import { count, span, words } from "../format.js";
import { at, button, chip, empty, facts, head, link, name, phases, section, skeleton, state, text, time, trouble } from "../parts.js";

/** Stages before the end, for the line that shows how far it is. */
const WAY = ["ready", "build", "review", "fix", "integrate", "done"];

/** The view. */
export function todoView({ parts: [repo, slug] }) {
  const shown = use("todo", `${encodeURIComponent(repo)}/${encodeURIComponent(slug)}`);
  const operations = use("operations", `?repo=${encodeURIComponent(repo)}&slug=${encodeURIComponent(slug)}&limit=20`);
  const todo = shown.value;
  const list = entries(operations);
  const running = list.find((one) => one.state === "queued" || one.state === "running");
  return [
    h("p", {}, h("a", { class: "back", href: "#/todos" }, "← Todos")),
    head([name(repo, slug)], todo && [state("stage", todo.stage), todo.attempts > 0 && h("span", {}, count(todo.attempts, "failed attempt"))],
      running && button("Cancel operation", () => cancelOperation(running), { key: "cancel" }),
      todo?.claim && button("Release claim…", () => releaseClaim(repo, slug, todo.claim), { key: "release" }),
      (todo?.blocked || todo?.not_before) && button("Redrive", () => redrive(repo, slug), { key: "redrive", class: "primary" })),
    shown.error && trouble(shown.error),
    !todo ? !shown.error && skeleton() : [
      way(todo),
      todo.fault && h("div", { class: "trouble", role: "alert" }, text(todo.fault.detail ?? JSON.stringify(todo.fault))),
      todo.blocked && h("div", { class: "trouble", key: "blocked" }, h("strong", {}, todo.blocked.dead_letter ? "Its attempts are used up. " : "Blocked. "), text(todo.blocked.reason), " ", time(todo.blocked.at)),
      h("div", { class: "columns" },
        section("Claim", { key: "claim" }, claim(todo)),
        section("About", { key: "about" }, about(todo))),
      todo.instructions && section("What to do", { key: "instructions" }, h("div", { class: "panel" }, text(todo.instructions))),
      todo.findings && section("What the last review asked for", { key: "findings" }, h("div", { class: "panel" }, text(todo.findings))),
      todo.gates.length > 0 && section("Gates", { key: "gates" }, gates(todo.gates, repo, slug)),
      section("Operations", { key: "operations" }, list.length ? list.map((one, i) => keep(one.id, operation, one, i === 0)) : operations.ready ? h("p", { class: "dim" }, "Nothing had to be run yet.") : skeleton(2)),
      todo.parked.length > 0 && section("Parked results", { key: "parked" }, h("p", { class: "dim" }, "They came under a token that was over, changed nothing and are kept."), h("ul", { class: "events" }, todo.parked.map(parked))),
      todo.endings.length > 0 && section("Claims before", { key: "endings" }, h("ul", { class: "events" }, [...todo.endings].reverse().map(ending))),
      section("History", { key: "history" }, todo.history.length ? h("ul", { class: "events" }, todo.history.filter(tells).map((one) => keep(one.seq, entry, one))) : empty("Nothing happened yet.")),
    ],
  ];
}

function way(todo) {
  const here = WAY.indexOf(todo.blocked?.from ?? todo.stage);
  return h("ol", { class: "way", "aria-label": "Stages" }, WAY.map((one, i) =>
    h("li", { class: i < here ? "past" : i === here ? "here" : "", "aria-current": i === here ? "step" : null }, one)));
}

function claim({ claim: held, repo, slug }) {
  if (!held) return h("p", { class: "dim" }, "Nobody holds it.");
  return facts(
    ["Held by", `${held.worker} in lane `, link(at.lane(held.lane), held.lane)],
    ["Token", held.token],
    ["Granted", time(held.granted_at)],
    ["Lease ends", time(held.expires_at)],
    ["Last sign of life", time(held.alive_at)],
    ["Last progress", time(held.progress_at)],
    held.progress && ["Progress", text(held.progress)],
    held.hold && ["Waits for a person", text(held.hold.why), " until ", time(held.hold.until)],
    ["Session", link(at.session(`${repo}~${slug}~${held.token}`), "what happens in it")]);
}

const about = (todo) =>
  facts(
    ["Lane", todo.lane ?? "any"],
    ["Priority", todo.priority],
    ["Comes after", todo.after.length ? todo.after.map((one) => [link(at.todo(todo.repo, one), one), " "]) : "nothing"],
    ["Brief", todo.brief.length ? todo.brief.map((one) => h("div", { class: "mono" }, one)) : "no files"],
    ["On the roadmap", todo.listed ? "yes" : "no: given when named, never offered"],
    todo.not_before && ["Given out again", time(todo.not_before)],
    todo.worktree && ["Worktree", link(at.worktree(todo.repo, todo.slug), todo.worktree)]);

const gates = (list, repo, slug) =>
  h("ul", { class: "rows of-gates", "aria-label": "Gates" }, list.map((one) =>
    h("li", { class: "row", key: one.gate, "data-key": one.gate },
      h("span", { class: "name" }, one.gate),
      chip(one.passed ? "passed" : "failed", one.passed ? "good" : "bad"),
      h("span", { class: "dim" }, one.exit_code === null ? "no exit code" : `exit ${one.exit_code}`),
      h("span", { class: "num" }, span(one.duration_ms)),
      h("span", { class: "mono dim" }, one.commit.slice(0, 10)),
      time(one.at),
      button("Show log", () => showLog(one.log, `Gate ${one.gate} of ${repo}/${slug}`), { class: "small" }))));

const operation = (one, newest) =>
  h("details", { class: "panel operation", "data-key": one.id, open: newest || one.state === "running" },
    h("summary", {}, state("operation", one.state), " ", h("strong", {}, one.kind), ` for ${one.worker} in ${one.lane} `, time(one.created_at), one.finished_at && h("span", { class: "num" }, ` took ${span(Date.parse(one.finished_at) - Date.parse(one.created_at))}`)),
    one.problem && h("div", { class: "trouble" }, h("strong", {}, one.problem.title, ". "), text(one.problem.detail)),
    one.phase && h("p", {}, chip(`now ${words(one.phase)}`, "busy")),
    one.phases.length > 0 && phases(one.phases),
    h("div", { class: "acts" }, logButton(one)));

const parked = ({ at: when, result }) =>
  h("li", {}, h("div", { class: "what" }, h("span", { class: "kind" }, result.outcome), h("span", { class: "dim" }, `token ${result.token}`), time(when)), text(result.summary ?? result.reason ?? ""));

const ending = (one) =>
  h("li", {}, h("div", { class: "what" },
    h("span", { class: "kind" }, words(one.how)), h("span", {}, `${one.worker} in ${one.lane}`), h("span", { class: "dim" }, `token ${one.token} → ${one.stage}`), time(one.at)), text(one.said ?? "", 1_000));

/** What a phase leaves behind is for the daemon; phases are shown with their operation. */
const tells = ({ kind, data }) => !data.mark && kind !== "phase.finished";

const entry = ({ kind, at: when, data, seq }) =>
  h("li", { "data-key": seq }, h("div", { class: "what" }, h("span", { class: "kind" }, kind), h("span", { class: "dim" }, said(kind, data)), time(when)), data.said && text(data.said, 500));

function said(kind, data) {
  const who = data.worker ? `${data.worker} in ${data.lane}` : "";
  if (kind === "operation.updated") return `${data.state}, ${who}`;
  if (kind.startsWith("claim.")) return [data.how && words(data.how), who, data.token && `token ${data.token}`, data.stage && `→ ${data.stage}`].filter(Boolean).join(", ");
  if (data.gate) return `gate ${data.gate} ${data.passed ? "passed" : "failed"} in ${span(data.duration_ms)}`;
  if (data.stage) return `→ ${data.stage}${data.attempts ? `, ${count(data.attempts, "failed attempt")}` : ""}`;
  return Object.keys(data).slice(0, 4).map(words).join(", ");
}
