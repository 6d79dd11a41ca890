// Todos: all of them, by stage, lane, claim, attempts and what they come after.

import { entries, use } from "../data.js";
import { h, keep } from "../dom.js";
import { count, ms, says } from "../format.js";
import { at, cell, choice, chip, empty, head, heads, link, name, pick, row, rows, search, skeleton, state, time, trouble } from "../parts.js";

/** The stages: what moves first, then what waits, then what is over. */
const STAGES = ["build", "review", "fix", "integrate", "blocked", "ready", "done"];

/** The view. */
export function todosView({ query }, set) {
  const todos = use("todos");
  const all = entries(todos);
  const [stage, q, repo, lane] = ["stage", "q", "repo", "lane"].map((one) => query.get(one) ?? "");
  const fits = all.filter((one) => (!q || says(`${one.repo}/${one.slug} ${one.lane ?? ""} ${one.claim?.worker ?? ""} ${one.claim?.lane ?? ""}`, q)) && (!repo || one.repo === repo) && (!lane || (one.claim?.lane ?? one.lane) === lane));
  const staged = (wanted) => fits.filter((one) => one.stage === wanted);
  const shown = stage ? [[stage, staged(stage)]] : STAGES.filter((one) => one !== "done").map((one) => [one, staged(one)]);
  const done = staged("done");
  const after = (todo) => todo.after.map((one) => (todos.items.get(`${todo.repo}/${one}`)?.stage === "done" ? `✓ ${one}` : one)).join(", ");
  const total = shown.reduce((sum, [, list]) => sum + list.length, 0);
  return [
    head("Todos", todos.ready && count(all.length, "todo")),
    h("div", { class: "bar-of-tools" },
      search("Search todos", q, (value) => set({ q: value })),
      choice("Stage", [["", "Open", fits.length - done.length], ...STAGES.map((one) => [one, one, staged(one).length])], stage, (value) => set({ stage: value })),
      pick("Repository", [["", "All repositories"], ...names(all, (one) => one.repo)], repo, (value) => set({ repo: value })),
      pick("Lane", [["", "All lanes"], ...names(all, (one) => one.claim?.lane ?? one.lane)], lane, (value) => set({ lane: value }))),
    todos.error && trouble(todos.error),
    !todos.ready ? skeleton()
    : total === 0 ? empty(all.length ? "No todo fits." : "There are no todos.", all.length ? (done.length && !stage ? `${count(done.length, "todo")} done.` : "Other filters show others.") : "A directory todos/<slug>/ on the base branch is one; todos/roadmap.yaml orders them.")
    : shown.filter(([, list]) => list.length).map(([one, list], i) =>
      h("section", { class: "group", key: one },
        h("h2", {}, state("stage", one), h("span", { class: "n" }, list.length)),
        i === 0 && heads("of-todos", "todo", "held by", "attempts", "after", "lease"),
        rows(`Todos at ${one}`, "of-todos", list.map((todo) => keep(`${todo.repo}/${todo.slug}`, todoRow, todo, after(todo)))))),
    !stage && done.length > 0 && total > 0 && h("p", { class: "dim" }, `${count(done.length, "todo")} done.`),
  ];
}

const names = (all, of) => [...new Set(all.map(of).filter(Boolean))].sort().map((one) => [one, one]);

const todoRow = (todo, after) =>
  row(`${todo.repo}/${todo.slug}`, at.todo(todo.repo, todo.slug), {},
    cell("", link(at.todo(todo.repo, todo.slug), name(todo.repo, todo.slug)),
      h("span", { class: "under" },
        todo.fault ? chip("broken entry", "bad", todo.fault.detail)
        : todo.blocked ? todo.blocked.reason
        : todo.claim?.progress ?? (todo.listed ? (todo.lane ? `for lane ${todo.lane}` : "") : "not on the roadmap"))),
    cell("held by", todo.claim ? [h("span", {}, todo.claim.worker), h("span", { class: "under" }, todo.claim.lane)] : h("span", { class: "dim" }, "–")),
    cell("attempts", todo.attempts > 0 && chip(String(todo.attempts), "warn", "failed attempts")),
    cell("after", after && h("span", { class: "dim", title: "what it comes after; ✓ is done" }, after)),
    cell("lease", todo.claim ? time(todo.claim.expires_at) : ms(todo.not_before) > Date.now() ? time(todo.not_before, "given out ") : null));
