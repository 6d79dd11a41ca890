// Lanes and failures: which lanes are paused and why, what failed how often, and how a text becomes a fingerprint.

import { Problem, post } from "../api.js";
import { pauseLane, resumeLane } from "../acts.js";
import { entries, use } from "../data.js";
import { h, keep, patch } from "../dom.js";
import { ago, count, latestFirst, ms, words } from "../format.js";
import { at, button, cell, chip, empty, head, heads, link, prose, row, rows, section, skeleton, state, text, time, trouble } from "../parts.js";

/** What the strip of a fingerprint spans, and in how many parts. */
const STRIP_MS = 24 * 3_600_000, STRIP_PARTS = 48;

/** What a lane did when its state began. */
const SINCE = { open: "opened", paused: "paused", probing: "resumed" };

/** The view; with a lane in the address, of that lane alone. */
export function lanesView({ parts: [lane] }) {
  const lanes = use("lanes");
  const failures = use("failures");
  const list = entries(lanes).filter((one) => !lane || one.lane === lane);
  const failed = latestFirst(entries(failures).filter((one) => !lane || one.lane === lane), (one) => one.last_at);
  return [
    lane && h("p", {}, h("a", { class: "back", href: "#/lanes" }, "← Lanes & failures")),
    head(lane ? [h("bdi", {}, lane)] : "Lanes & failures", lanes.ready && !lane && count(list.length, "lane")),
    lanes.error && trouble(lanes.error),
    !lanes.ready ? !lanes.error && skeleton(4)
    : list.length === 0 ? empty(lane ? "There is no such lane." : "There are no lanes yet.", "A lane is there once somebody asks for work in it.")
    : h("section", {},
      heads("of-lanes", "lane", "state", "why", "claims", ""),
      rows("Lanes", "of-lanes", list.map((one) => keep(one.lane, laneRow, one)))),
    section("Failures", { key: "failures" },
      h("p", { class: "dim" }, "What failed, by its fingerprint: its words without directories, times, ids and counts. The strip is the last 24 hours."),
      failures.error && trouble(failures.error),
      !failures.ready ? !failures.error && skeleton(4)
      : failed.length === 0 ? empty("Nothing failed.")
      : rows("Failures", "of-failures", failed.map((one) => failureRow(one)))),
    section("Explain", { key: "explain" }, explainer()),
  ];
}

const laneRow = (one) =>
  row(one.lane, at.lane(one.lane), { class: `row${one.state === "paused" ? " paused" : ""}` },
    cell("", link(at.lane(one.lane), h("bdi", { class: "name" }, one.lane)), h("span", { class: "under" }, `generation ${one.generation}`)),
    cell("state", state("lane", one.state), one.probes && h("span", { class: "under" }, `${count(one.probes, "claim")} at once`)),
    prose("why",
      one.reason ? [h("span", {}, one.paused_by === "breaker" ? "paused itself: " : "a person: "), text(one.reason, 300)] : null,
      one.since && h("span", { class: "under" }, time(one.since, `${SINCE[one.state] ?? ""} `), one.until && [", ", time(one.until, "resumes ")])),
    cell("claims", h("span", { class: "num" }, one.wip_limit === null ? one.wip : `${one.wip} of ${one.wip_limit}`)),
    cell("", one.state === "paused"
      ? button("Resume lane", () => resumeLane(one.lane), { class: "small primary", key: "resume" })
      : button("Pause lane", () => pauseLane(one.lane), { class: "small", key: "pause" })));

const failureRow = (one) =>
  h("li", { class: "row", key: `${one.lane} ${one.fingerprint} ${one.generation}`, "data-key": one.fingerprint },
    h("div", { class: "cell wrap" },
      h("details", {},
        h("summary", {}, text(one.said.replaceAll("\n", " · "), 200)),
        h("p", { class: "mono dim" }, one.fingerprint),
        h("pre", { tabindex: "0" }, text(one.sample)),
        h("p", {}, "Todos: ", one.todos.map((todo) => [link(`#/todos/${todo}`, todo), " "])))),
    cell("lane", link(at.lane(one.lane), one.lane), h("span", { class: "under" }, `generation ${one.generation}, ${words(one.source)}`)),
    cell("times", strip(one)),
    cell("how often", h("span", { class: "num" }, `${one.count} ×`), h("span", { class: "under" }, count(one.todos.length, "todo"))),
    cell("last", time(one.last_at)));

/** When it happened, as a strip of the last day; its words say the same. */
function strip({ times, first_at: first, last_at: last, count: n }) {
  const now = Date.now();
  const parts = new Array(STRIP_PARTS).fill(0);
  for (const one of times ?? [first, last]) {
    const part = Math.floor((ms(one) - (now - STRIP_MS)) / (STRIP_MS / STRIP_PARTS));
    if (part >= 0) parts[Math.min(part, STRIP_PARTS - 1)]++;
  }
  const most = Math.max(...parts, 1);
  return h("svg", { class: "strip", viewBox: `0 0 ${STRIP_PARTS * 3} 20`, role: "img", preserveAspectRatio: "none", "aria-label": `${n} times, first ${ago(first)}, last ${ago(last)}` },
    h("rect", { x: 0, y: 19, width: STRIP_PARTS * 3, height: 1, class: "base" }),
    parts.map((many, i) => many > 0 && h("rect", { key: i, x: i * 3, width: 2, y: 19 - (18 * many) / most, height: (18 * many) / most })));
}

// The explainer keeps what it was told while the page is drawn again.
let explained = null;

function explainer() {
  return h("form", { class: "panel", onsubmit: explain },
    h("label", { class: "field" }, "Words of a failure", h("textarea", { name: "text", rows: 4, required: true, spellcheck: "false" })),
    h("div", { class: "acts" }, h("button", {}, "Explain")),
    h("div", { class: "explained", "aria-live": "polite" }, explained));
}

async function explain(event) {
  event.preventDefault();
  const place = event.target.querySelector(".explained");
  try {
    const told = await post("/failures/explain", { text: new FormData(event.target).get("text") });
    explained = [
      h("p", {}, "Fingerprint ", h("code", {}, told.fingerprint), " ", chip(words(told.class), told.class === "ordinary" ? "idle" : "warn")),
      h("ol", { class: "steps" }, told.applied.map((one) => h("li", {}, h("strong", {}, words(one.rule)), ": ", one.why, h("pre", { tabindex: "0" }, text(one.text, 2_000))))),
    ];
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    explained = trouble(problem);
  }
  patch(place, explained);
}
