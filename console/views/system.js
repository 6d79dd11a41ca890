// The daemon itself: whether it is to be relied on and why, its duties, incidents, actors, lateness and hang dumps.

import { dumpHangs } from "../acts.js";
import { entries, use } from "../data.js";
import { h, keep } from "../dom.js";
import { clock, count, grouped, ms, span, words } from "../format.js";
import { at, button, cell, chip, facts, head, heads, link, prose, row, rows, section, skeleton, state, text, time, trouble } from "../parts.js";

/** The view. */
export function systemView() {
  const status = use("status");
  const [readiness, jobs, incidents, hangs, actors, lag, repositories] = ["readiness", "jobs", "incidents", "hangs", "actors", "lag", "repositories"].map((one) => use(one));
  const told = status.value;
  const of = (one, show) => (one.error ? trouble(one.error) : one.ready ? show(one) : skeleton(3));
  return [
    head("System", told && [state("verdict", told.readiness), h("span", {}, `version ${told.version}`), time(told.started_at, "started ")],
      button("Make a hang dump", () => dumpHangs((id) => (location.hash = at.hang(id))))),
    section("Readiness", { key: "readiness" }, of(readiness, criteria)),
    section("Lateness of timers", { key: "lag" }, of(lag, ({ value }) => lateness(value, told))),
    h("div", { class: "columns", key: "two" },
      section("Incidents", { key: "incidents" }, of(incidents, (one) => incidentList(entries(one)))),
      section("Hang dumps", { key: "hangs" }, of(hangs, (one) => hangList(entries(one))))),
    section("Jobs", { key: "jobs" }, of(jobs, (one) => jobRows(entries(one), told?.run_locks ?? []))),
    section("Repositories", { key: "repositories" }, of(repositories, (one) => repositoryRows(entries(one)))),
    section("Actors", { key: "actors" }, of(actors, (one) => tree(entries(one)))),
    told?.store && section("Ledger", { key: "ledger" }, facts(...Object.entries(told.store).map(([name, value]) => [words(name), typeof value === "number" ? value.toLocaleString() : String(value)]))),
  ];
}

const criteria = ({ value }) =>
  [heads("of-criteria", "criterion", "verdict", "what was seen", "in a row", "seen"),
  rows("Criteria", "of-criteria", value.criteria.map((one) =>
    row(one.name, null, { key: one.name },
      cell("", h("span", { class: "name" }, words(one.name))),
      cell("verdict", state("verdict", one.verdict), one.stale && chip("stale", "warn"), one.stored && chip("stored", "idle", "seen by an earlier daemon")),
      prose("what was seen", text(one.detail, 400)),
      cell("in a row", one.consecutive_failures > 0 ? `${one.consecutive_failures} of ${one.fail_after} bad` : `${Math.min(one.consecutive_passes, one.pass_after)} of ${one.pass_after} good`),
      cell("seen", one.evidence_age_ms === null ? "never" : `${span(one.evidence_age_ms)} ago`))))];

/** Lateness over the last hour: the worst and the median of every ten seconds. */
function lateness({ points }, told) {
  const now = told?.lag_ms;
  const words = now && h("p", {}, "In the last minute: median ", h("strong", {}, span(now.p50)), ", 99 of 100 below ", h("strong", {}, span(now.p99)), ", worst ", h("strong", {}, span(now.max)), ".");
  if (points.length < 2) return [words, h("p", { class: "dim" }, "The chart begins with the daemon; it needs a little time.")];
  const [width, height, left, foot] = [900, 160, 52, 18];
  const top = Math.max(10, ...points.map((one) => one.max_ms));
  const steps = [1, 10, 100, 1_000, 10_000].filter((one) => one <= top * 1.2);
  const from = ms(points[0].at), to = Math.max(ms(points.at(-1).at), from + 60_000);
  const x = (one) => left + ((width - left) * (ms(one.at) - from)) / (to - from);
  const y = (value) => (height - foot) * (1 - Math.log10(1 + value) / Math.log10(1 + top * 1.2)) + 4;
  const line = (of) => points.map((one, i) => `${i ? "L" : "M"}${x(one).toFixed(1)} ${y(one[of]).toFixed(1)}`).join("");
  const worst = points.reduce((a, b) => (b.max_ms > a.max_ms ? b : a));
  return [
    words,
    h("figure", { class: "chart panel" },
      h("svg", { viewBox: `0 0 ${width} ${height + 8}`, role: "img", "aria-label": `Lateness since ${clock(points[0].at)}: worst ${span(worst.max_ms)} at ${clock(worst.at)}` },
        steps.map((one) => [h("line", { key: `l${one}`, x1: left, x2: width, y1: y(one), y2: y(one), class: "grid" }), h("text", { key: `t${one}`, x: left - 6, y: y(one) + 4, "text-anchor": "end" }, span(one))]),
        h("path", { d: line("max_ms"), class: "worst", key: "worst" }),
        h("path", { d: line("p50_ms"), class: "median", key: "median" }),
        h("text", { x: left, y: height + 6, key: "from" }, clock(points[0].at)),
        h("text", { x: width, y: height + 6, "text-anchor": "end", key: "to" }, clock(points.at(-1).at))),
      h("figcaption", { class: "dim" }, h("span", { class: "key worst" }, "worst"), h("span", { class: "key median" }, "median"), `of every ten seconds; the worst was ${span(worst.max_ms)} at ${clock(worst.at)}`)),
  ];
}

const incidentList = (list) =>
  list.length === 0 ? h("p", { class: "dim" }, "There are none.")
  : h("ul", { class: "events" }, list.slice(0, 50).map((one) =>
    h("li", { key: one.id, "data-key": one.id },
      h("div", { class: "what" }, state("incident", one.state), chip(one.severity, one.severity === "critical" ? "bad" : "idle"), h("span", { class: "kind" }, text(one.title, 400)), time(one.opened_at)),
      h("details", {}, h("summary", {}, count(one.history.length, "step")), h("ol", {}, one.history.map((step) => h("li", {}, time(step.at), " ", text(Object.entries(step).filter(([name, value]) => name !== "at" && value !== null).map(([, value]) => (typeof value === "string" ? words(value) : JSON.stringify(value))).join(": "), 400))))))));

const hangList = (list) =>
  list.length === 0 ? h("p", { class: "dim" }, "There are none.")
  : rows("Hang dumps", "of-hangs", list.slice(0, 30).map((one) =>
    row(one.id, at.hang(one.id), { key: one.id },
      cell("", link(at.hang(one.id), words(one.reason)), h("span", { class: "under" }, one.culprits.map((culprit) => culprit.doing).filter(Boolean).join(", ") || "nobody was seen to hold a worker")),
      cell("late", one.reason === "by_hand" ? null : span(one.lasted_ms ?? one.lag_ms)),
      cell("when", time(one.at)))));

function jobRows(list, locks) {
  const running = new Map(locks.map((one) => [one.job, one]));
  return [heads("of-jobs", "job", "last run", "what it did", "runs", "next"),
    rows("Jobs", "of-jobs", list.map((one) => {
      const on = one.running ?? running.get(one.job);
      return row(one.job, null, { key: one.job },
        cell("", h("span", { class: "name" }, words(one.job)), h("span", { class: "under" }, one.period_ms ? `every ${span(one.period_ms)}` : "switched off")),
        cell("last run", on ? chip(on.over_budget ? `runs for ${span(on.elapsed_ms)}, over its budget` : "running", on.over_budget ? "warn" : "busy", `process ${on.owner?.pid}`) : one.result ? state("job", one.result) : chip("not yet")),
        prose("what it did", text(one.detail?.startsWith("{") ? "" : one.detail ?? "", 200), one.ended_at && one.started_at && h("span", { class: "under" }, time(one.ended_at), ` in ${span(ms(one.ended_at) - ms(one.started_at))} of ${span(one.budget_ms)}`)),
        cell("runs", h("span", { class: "num" }, one.runs.toLocaleString()), one.failures_in_a_row > 0 && chip(`${one.failures_in_a_row} failures in a row`, "bad")),
        cell("next", time(one.due_at)));
    }))];
}

const repositoryRows = (list) =>
  rows("Repositories", "of-repositories", list.map((one) =>
    row(one.name, null, { key: one.name },
      cell("", h("span", { class: "name" }, one.name)),
      cell("state", one.usable ? chip("usable", "good") : chip("unusable", "bad")),
      cell("base", one.base ?? "–", one.remote && h("span", { class: "under" }, one.remote)),
      prose("path", h("span", { class: "mono" }, text(one.path)), one.problem && h("div", { class: "trouble" }, text(one.problem.detail))))));

/** Actors under their supervisors. */
function tree(list) {
  const children = grouped(list, (one) => one.parent);
  const below = (parent) => (children.get(parent) ?? []).map((one) => {
    const id = `${one.kind}:${one.name}`;
    return h("li", { key: id, "data-key": id }, keep("self", actor, one), children.has(id) && h("ul", {}, below(id)));
  });
  return h("ul", { class: "tree panel" }, below(""));
}

const actor = (one) =>
  h("details", {},
    h("summary", {}, h("span", { class: "name" }, one.kind), one.name !== one.kind && h("bdi", {}, ` ${one.name}`), " ", state("actor", one.state),
      one.restarts > 0 && chip(count(one.restarts, "restart"), "warn"),
      one.mailbox > 0 && chip(`${one.mailbox} waiting`, "busy"),
      one.handling && h("span", { class: "dim" }, ` handles ${one.handling.message} for ${span(one.handling.took_ms)}`)),
    facts(
      ["Mailbox", `${one.mailbox} of ${one.mailbox_limit}, ${one.mailbox_high_water} at most so far`],
      one.last && ["Last message", `${one.last.message}, ${span(one.last.took_ms)}`],
      one.strategy && ["Strategy", one.strategy],
      ...one.reasons.map((why) => ["Restarted", `${why.reason}: `, text(why.text, 400), " ", time(why.at)])),
    one.work !== null && one.work !== undefined && h("pre", { tabindex: "0" }, text(JSON.stringify(one.work, null, 1), 6_000)));
