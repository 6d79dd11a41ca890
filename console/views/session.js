// One session: what happened in it, in order.

import { entries, use } from "../data.js";
import { h, keep } from "../dom.js";
import { clock, count, exact } from "../format.js";
import { at, button, chip, choice, empty, facts, head, link, section, skeleton, state, text, time, trouble } from "../parts.js";

/** Events that are more than one sees at once. */
const LONG = 15;

/** The view. */
export function sessionView({ parts: [id], query }, set) {
  const shown = use("session", id);
  const told = use("session-events", id);
  const one = shown.value;
  const kind = query.get("kind") ?? "";
  const all = entries(told);
  const kinds = [...new Set(all.map((event) => event.kind))].sort();
  const list = kind ? all.filter((event) => event.kind === kind) : all;
  return [
    h("p", {}, h("a", { class: "back", href: "#/sessions" }, "← Sessions")),
    head([h("bdi", {}, one?.title ?? id)], one && [state("session", one.status), one.how && h("span", {}, one.how)]),
    shown.error && trouble(shown.error),
    !one ? !shown.error && skeleton() : [
      one.waits_for && h("div", { class: "trouble ask" }, h("strong", {}, "Waits for a person: "), text(one.waits_for)),
      facts(
        one.repo && one.slug && ["Todo", link(at.todo(one.repo, one.slug), `${one.repo}/${one.slug}`)],
        one.worker && ["Worker", one.worker],
        one.lane && ["Lane", link(at.lane(one.lane), one.lane)],
        one.token !== null && ["Token", one.token],
        ["Began", time(one.started_at) ?? "–"],
        ["Last active", time(one.active_at) ?? "–"],
        one.ended_at && ["Over", time(one.ended_at)],
        ["Events", one.events.toLocaleString()],
        one.corrupt > 0 && ["Lines that are no events", chip(String(one.corrupt), "warn")],
        one.path && ["Log", h("span", { class: "mono" }, text(one.path))]),
      section("What happened", { key: "events" },
        all.length > LONG && h("div", { class: "bar-of-tools" }, button("Go to the newest", () => document.querySelector(".timeline > :last-child")?.scrollIntoView({ block: "center" }), { class: "small" })),
        kinds.length > 1 && h("div", { class: "bar-of-tools" }, choice("Kind", [["", "All", all.length], ...kinds.slice(0, 12).map((value) => [value, value, all.filter((event) => event.kind === value).length])], kind, (value) => set({ kind: value }))),
        told.error && trouble(told.error),
        !told.ready ? !told.error && skeleton()
        : all.length === 0 ? empty("Nothing was told yet.")
        : h("ol", { class: "events timeline" }, list.map((event) => keep(event.n, entry, event))),
        one.events > all.length && told.ready && h("p", { class: "dim" }, `${count(one.events - all.length, "event")} are not shown.`)),
    ],
  ];
}

const entry = (event) =>
  h("li", { "data-key": event.n },
    h("div", { class: "what" },
      h("span", { class: "kind" }, event.corrupt ? chip("not readable", "warn") : event.kind),
      event.at && h("time", { datetime: event.at, title: exact(event.at), class: "dim", "data-prefix": `${clock(event.at)}, ` }, clock(event.at))),
    event.text && text(event.text),
    event.data && h("details", {}, h("summary", {}, "data"), h("pre", { tabindex: "0" }, text(JSON.stringify(event.data, null, 2), 20_000))));
