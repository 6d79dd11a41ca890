// Sessions: what agents are doing and did, what waits for a person first.

import { entries, use } from "../data.js";
import { h, keep } from "../dom.js";
import { grouped, latestFirst, says } from "../format.js";
import { at, cell, choice, empty, head, heads, link, pick, row, rows, search, skeleton, state, text, time, told, trouble } from "../parts.js";

/** The order of the statuses: what needs a person is first. */
const STATUSES = ["waiting", "stuck", "working", "dormant", "done"];

const GROUPS = [["status", "By status"], ["repo", "By repository"], ["lane", "By lane"], ["slug", "By todo"]];
const SORTS = [["active", "Last active first"], ["started", "Newest first"], ["title", "By name"]];

/** The view. */
export function sessionsView({ query }, set) {
  const sessions = use("sessions");
  const all = entries(sessions);
  const [status, q, by, sort] = ["status", "q", "group", "sort"].map((one) => query.get(one) ?? "");
  const said = all.filter((one) => !q || says(`${one.title} ${one.worker ?? ""} ${one.lane ?? ""} ${one.last?.text ?? ""} ${one.id}`, q));
  const list = sorted(said.filter((one) => !status || one.status === status), sort);
  return [
    head("Sessions", sessions.ready && `${all.length.toLocaleString()} in all`),
    h("div", { class: "bar-of-tools" },
      search("Search sessions", q, (value) => set({ q: value })),
      choice("Status", [["", "All", said.length], ...STATUSES.map((one) => [one, one, said.filter((session) => session.status === one).length])], status, (value) => set({ status: value })),
      pick("Group", GROUPS.map(([value, label]) => [value === "status" ? "" : value, label]), by, (value) => set({ group: value })),
      pick("Order", SORTS.map(([value, label]) => [value === "active" ? "" : value, label]), sort, (value) => set({ sort: value }))),
    sessions.error && trouble(sessions.error),
    !sessions.ready ? !sessions.error && skeleton(8)
    : list.length === 0 ? empty(all.length ? "No session fits." : "There are no sessions.", all.length ? undefined : "Every claim has one; logs of agents are read from [sessions] log_dirs.")
    : groups(list, by || "status").map(([one, members], i) =>
      h("section", { class: "group", key: one },
        h("h2", {}, by ? h("bdi", {}, one) : state("session", one), h("span", { class: "n" }, members.length)),
        i === 0 && heads("of-sessions", "session", "last", "events", "active", "status"),
        rows(`Sessions: ${one}`, "of-sessions", members.map((session) => keep(session.id, sessionRow, session))))),
  ];
}

function sorted(list, sort) {
  if (sort === "title") return [...list].sort((a, b) => (a.title < b.title ? -1 : 1));
  return latestFirst(list, sort === "started" ? (one) => one.started_at : (one) => one.active_at ?? one.started_at);
}

function groups(list, by) {
  const first = new Map(by === "status" ? STATUSES.map((one) => [one, []]) : []);
  return [...grouped(list, (one) => one[by] ?? "none", first)].filter(([, members]) => members.length);
}

const sessionRow = (one) => {
  const href = at.session(one.id);
  return row(one.id, href, {},
    cell("", link(href, h("bdi", { class: "name" }, one.title)), h("span", { class: "under" }, [one.worker, one.lane && `in ${one.lane}`, one.source === "log" && "its own log"].filter(Boolean).join(" "))),
    cell("last", one.waits_for ? text(`waits for: ${one.waits_for}`, 200) : one.last ? told(one.last) : h("span", { class: "dim" }, "nothing said")),
    cell("events", h("span", { class: "num" }, one.events.toLocaleString())),
    cell("active", time(one.active_at ?? one.started_at)),
    cell("status", state("session", one.status), one.how && h("span", { class: "under" }, one.how)));
};
