// One hang dump: what held the runtime, and what was in flight.

import { use } from "../data.js";
import { h } from "../dom.js";
import { count, span, words } from "../format.js";
import { chip, facts, head, section, skeleton, text, time, trouble } from "../parts.js";

/** The view. */
export function hangView({ parts: [, id] }) {
  const shown = use("hang", id);
  const dump = shown.value;
  return [
    h("p", {}, h("a", { class: "back", href: "#/system" }, "← System")),
    head("Hang dump", dump && [chip(words(dump.reason), dump.reason === "by_hand" ? "idle" : "bad"), time(dump.at)]),
    shown.error && trouble(shown.error),
    !dump ? !shown.error && skeleton() : [
      facts(["Late by", span(dump.lag_ms)], dump.lasted_ms !== null && ["Lasted", span(dump.lasted_ms)], ["Threshold", span(dump.threshold_ms)], ["Process", dump.pid], ["Version", dump.version], dump.note && ["Note", text(dump.note)], ["Id", h("span", { class: "mono" }, dump.id)]),
      section("What held it", { key: "culprits" }, dump.culprits.length === 0 ? h("p", { class: "dim" }, "Nobody was seen to hold a worker.")
        : h("ul", { class: "events" }, dump.culprits.map((one) => h("li", {}, h("div", { class: "what" }, h("span", { class: "kind" }, one.doing ?? "something unknown"), one.worker !== null && h("span", { class: "dim" }, `worker ${one.worker}`))))) ),
      section("In flight", { key: "flight" }, Object.entries(dump.in_flight ?? {}).map(([name, list]) =>
        h("details", { key: name, open: list.length > 0 && list.length < 20 }, h("summary", {}, `${words(name)}: ${list.length}`), h("pre", { tabindex: "0" }, text(JSON.stringify(list, null, 1), 20_000))))),
      section("Threads", { key: "threads" }, (dump.threads ?? []).map((one, i) =>
        h("details", { key: i, open: i === 0 }, h("summary", {}, h("strong", {}, one.name ?? `thread ${one.worker ?? i}`), one.doing && ` ${one.doing}`, one.held_ms > 0 && ` for ${span(one.held_ms)}`, h("span", { class: "dim" }, ` ${count(one.stack.length, "frame")}`)),
          h("pre", { tabindex: "0" }, h("ol", {}, one.stack.map((frame) => h("li", { class: frame.own ? "own" : "dim" }, text(frame.function, 300), frame.at && h("span", { class: "dim" }, ` ${frame.at}`)))))))),
    ],
  ];
}
