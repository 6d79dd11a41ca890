// Worktrees: every one of every repository, what needs attention first.

import { entries, use } from "../data.js";
import { h, keep } from "../dom.js";
import { count, grouped, latestFirst, ms, says } from "../format.js";
import { at, cell, chips, choice, chip, empty, head, heads, link, name, pick, row, rows, search, skeleton, state, time, trouble } from "../parts.js";

/** A worktree that nobody touched for so long and that nobody works in is not active. */
const ACTIVE_MS = 3 * 24 * 3_600_000;

const ORDERS = [["attention", "Needs attention first"], ["recent", "Newest commit first"], ["name", "By name"]];

/** How much a worktree wants to be looked at; more is more. */
function urgency(one) {
  const changes = one.changes ?? {};
  return (one.state === "error" || one.state === "missing" ? 64 : 0)
    + (changes.conflicted ? 48 : 0)
    + (one.operation_in_progress ? 32 : 0)
    + (!one.main && !one.claim && dirty(one) ? 16 : 0)
    + (one.detached && one.base?.ahead ? 12 : 0)
    + (one.merged && !one.claim ? 8 : 0)
    + (one.base?.behind > 20 ? 4 : 0)
    + (one.claim ? 2 : 0)
    + (dirty(one) ? 1 : 0);
}

const dirty = ({ changes }) => Boolean(changes && (changes.staged || changes.unstaged || changes.untracked || changes.conflicted));

/** Whether somebody works in it, something is not finished in it, or it was touched lately. */
const isActive = (one, now) =>
  one.main || one.claim || one.sessions.length > 0 || dirty(one) || one.operation_in_progress || one.error || one.state === "missing" || one.changes === null || now - ms(one.head?.at) < ACTIVE_MS;

/** The view. */
export function worktreesView({ query }, set) {
  const worktrees = use("worktrees");
  const [q, show, order, repo] = ["q", "show", "order", "repo"].map((one) => query.get(one) ?? "");
  const now = Math.floor(Date.now() / 60_000) * 60_000;
  const all = entries(worktrees);
  const fits = all.filter((one) => (!repo || one.repo === repo) && (!q || says(`${one.repo}/${one.name} ${one.branch ?? ""} ${one.path} ${one.head?.subject ?? ""} ${one.claim?.worker ?? ""}`, q)));
  const active = fits.filter((one) => isActive(one, now));
  const list = sorted(show === "all" ? fits : active, order);
  const hidden = fits.length - list.length;
  return [
    head("Worktrees", worktrees.ready && [count(all.length, "worktree"), hidden > 0 && h("span", {}, `${hidden.toLocaleString()} hidden`)]),
    h("div", { class: "bar-of-tools" },
      search("Search worktrees", q, (value) => set({ q: value })),
      choice("Which", [["", "Active", active.length], ["all", "All", fits.length]], show, (value) => set({ show: value })),
      pick("Order", ORDERS.map(([value, label]) => [value === "attention" ? "" : value, label]), order, (value) => set({ order: value })),
      pick("Repository", [["", "All repositories"], ...[...new Set(all.map((one) => one.repo))].map((one) => [one, one])], repo, (value) => set({ repo: value }))),
    worktrees.error && trouble(worktrees.error),
    !worktrees.ready ? !worktrees.error && skeleton(8)
    : list.length === 0 ? empty(all.length ? "No worktree fits." : "There are no worktrees.", hidden ? `${hidden} are hidden: choose All.` : undefined)
    : [...grouped(list, (one) => one.repo)].map(([one, rowsOf], i) =>
      h("section", { class: "group", key: one },
        h("h2", {}, one, h("span", { class: "n" }, rowsOf.length)),
        i === 0 && heads("of-worktrees", "worktree", "last commit", "changes", "base", "state", "who"),
        rows(`Worktrees of ${one}`, "of-worktrees", rowsOf.map((worktree) => keep(`${worktree.repo}/${worktree.name}`, worktreeRow, worktree))))),
  ];
}

function sorted(list, order) {
  if (order === "name") return [...list].sort((a, b) => (a.name < b.name ? -1 : 1));
  const recent = latestFirst(list, (one) => one.head?.at);
  if (order === "recent") return recent;
  const weights = new Map(list.map((one) => [one, urgency(one)]));
  return recent.sort((a, b) => weights.get(b) - weights.get(a));
}

/** What is not committed, counted. */
export function changesOf({ changes }) {
  if (!changes) return h("span", { class: "dim" }, "not looked at yet");
  const { staged, unstaged, untracked, conflicted } = changes;
  if (!staged && !unstaged && !untracked && !conflicted) return h("span", { class: "dim" }, "clean");
  return [
    conflicted > 0 && chip(`${conflicted} in conflict`, "bad"),
    staged > 0 && chip(`${staged} staged`, "busy"),
    unstaged > 0 && chip(`${unstaged} changed`, "warn"),
    untracked > 0 && chip(`${untracked} new`, "idle", "untracked"),
  ];
}

/** How far from the base, and whether the base has it all. */
export function baseOf({ base, merged, merged_by: by }) {
  if (merged) return chip("merged", "good", `by ${by}`);
  if (!base) return h("span", { class: "dim" }, "–");
  const { ahead, behind } = base;
  return h("span", { class: "num", title: `${count(ahead, "commit")} ahead of the base, ${behind} behind` }, ahead || behind ? [ahead > 0 && `↑${ahead} `, behind > 0 && h("span", { class: "dim" }, `↓${behind}`)] : h("span", { class: "dim" }, "even"));
}

/** Its state, what is under way in it, and how fresh that is. */
export const stateOf = (one) => [
  one.operation_in_progress && chip(`${one.operation_in_progress} in progress`, "warn"),
  one.state === "fresh" || (one.state === "detached" && one.operation_in_progress) ? null : state("worktree", one.state, one.error ?? one.locked ?? one.prunable),
  one.looked_at && h("span", { class: "under" }, one.state === "fresh" && "✓ fresh, ", time(one.looked_at)),
];

const worktreeRow = (one) => {
  const href = at.worktree(one.repo, one.name);
  return row(`${one.repo}/${one.name}`, href, {},
    cell("", link(href, h("bdi", { class: "name" }, one.name)), h("span", { class: "under" }, one.branch === null ? "on no branch" : one.branch !== one.name ? one.branch : "")),
    cell("last commit", one.head ? [h("bdi", {}, one.head.subject), h("span", { class: "under" }, h("bdi", {}, one.head.author), " ", time(one.head.at))] : h("span", { class: "dim" }, "no commit yet")),
    chips("changes", changesOf(one)),
    cell("base", baseOf(one)),
    chips("state", stateOf(one)),
    cell("who", one.claim ? [one.claim.worker, h("span", { class: "under" }, one.claim.lane)] : one.sessions.length ? count(one.sessions.length, "session") : null));
};
