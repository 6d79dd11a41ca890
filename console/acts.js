// What a person can do. What destroys, or stops somebody, is asked about first; what came of it is said.

import { del, path, post, request } from "./api.js";
import { h, patch } from "./dom.js";
import { renewNamed } from "./data.js";
import { button, text } from "./parts.js";
import { count } from "./format.js";

/** Says in passing what happened. */
export function toast(message, tone = "good") {
  const place = document.getElementById("toast");
  patch(place, h("div", { class: `toast ${tone}`, key: String(Date.now()) }, text(message, 300)));
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => patch(place, []), 6_000);
}

/** A problem as a person can use it: what is the matter, and everything it names. */
function plain(problem) {
  const { reasons, files } = problem.body ?? {};
  const list = [...(reasons ?? []).map((one) => one.detail ?? `${one.slug}: ${one.why}`), ...(files ?? [])];
  return [h("strong", {}, problem.title ?? "It did not work"), " ", text(problem.message), list.length > 0 && h("ul", {}, list.slice(0, 20).map((one) => h("li", {}, text(one, 300))))];
}

/**
 * Asks in a dialog, does it, and shows what went wrong there. `fields` is drawn above the buttons and may hold a form's
 * inputs, whose values `act` gets by name. Without an `act` it only shows.
 */
export function ask({ title, detail, fields, verb, danger = false, act }) {
  const dialog = document.getElementById("dialog");
  const before = document.activeElement;
  let error = null, busy = false;
  const draw = () =>
    patch(dialog, h("form", { method: "dialog", onsubmit: go },
      h("h2", { id: "dialog-title" }, title),
      detail && h("div", { class: "detail" }, detail),
      fields,
      error && h("div", { class: "trouble", role: "alert" }, plain(error)),
      h("div", { class: "acts" },
        button(act ? "Keep as it is" : "Close", () => dialog.close(), { class: "quiet" }),
        act && h("button", { type: "submit", class: danger ? "danger" : "primary", disabled: busy }, busy ? "…" : verb))));
  async function go(event) {
    event.preventDefault();
    if (busy || !act) return;
    busy = true;
    error = null;
    const values = Object.fromEntries(new FormData(event.target));
    draw();
    try {
      const said = await act(values);
      dialog.close();
      if (said) toast(said);
    } catch (problem) {
      error = problem;
    }
    busy = false;
    if (dialog.open) draw();
  }
  dialog.onclose = () => { patch(dialog, []); before?.isConnected && before.focus(); };
  draw();
  dialog.showModal();
}

/** Does something at once, and says what came of it. */
export async function now(act) {
  try {
    const said = await act();
    if (said) toast(said);
  } catch (problem) {
    toast(`${problem.title ?? "It did not work"}: ${problem.message}`, "bad");
  }
}

const field = (label, name, props = {}) => h("label", { class: "field" }, label, h("input", { name, autocomplete: "off", ...props }));

/** Nobody gets work in a lane. */
export const pauseLane = (lane) =>
  ask({
    title: `Pause lane ${lane}?`,
    detail: "Nobody gets work in it until it is resumed. Whoever has work keeps it.",
    fields: field("Why", "reason", { required: true, maxlength: 500, autofocus: true }),
    verb: "Pause lane",
    danger: true,
    act: async ({ reason }) => {
      await post(path`/lanes/${lane}/pause`, { reason });
      renewNamed("lanes", "status");
      return `Lane ${lane} is paused.`;
    },
  });

/** A lane opens again. */
export const resumeLane = (lane) =>
  now(async () => {
    const told = await post(path`/lanes/${lane}/resume`);
    renewNamed("lanes", "status");
    return told.state === "probing" ? `Lane ${lane} opens again: one claim as a probe first.` : `Lane ${lane} is ${told.state}.`;
  });

/** An operation ends; its processes die first. */
export const cancelOperation = (operation) =>
  ask({
    title: "Cancel this operation?",
    detail: [`It prepares or judges ${operation.repo}/${operation.slug}. Its commands are ended; the next call for work does what is missing.`],
    verb: "Cancel operation",
    danger: true,
    act: async () => {
      const told = await del(path`/operations/${operation.id}`);
      renewNamed("operations", "todo");
      return told.state === "cancelled" ? "The operation was cancelled." : `The operation had ended already: ${told.state}.`;
    },
  });

/** A worktree is looked at now. */
export const refreshWorktree = (repo, name) =>
  now(async () => {
    const told = await post(path`/worktrees/${repo}/${name}/refresh`);
    renewNamed("worktree", "worktrees");
    return `${repo}/${name} was looked at: ${told.state}.`;
  });

/** A worktree is removed, after its verdict was shown. */
export async function removeWorktree(repo, name, after) {
  const where = path`/worktrees/${repo}/${name}`;
  let dry;
  try {
    dry = await del(`${where}?dry_run=true`);
  } catch (problem) {
    ask({ title: `Remove ${repo}/${name}?`, detail: plain(problem) });
    return;
  }
  const goes = dry.ignored?.length ? h("details", {}, h("summary", {}, `${count(dry.ignored.length, "ignored file")} would go with it`), h("ul", {}, dry.ignored.slice(0, 100).map((one) => h("li", {}, text(one, 300))))) : null;
  if (!dry.safe) {
    ask({
      title: `${repo}/${name} cannot be removed`,
      detail: [h("p", {}, "Something would be lost, or somebody works in it:"), h("ul", { class: "reasons" }, dry.reasons.map((one) => h("li", {}, text(one.detail, 500))))],
    });
    return;
  }
  ask({
    title: `Remove worktree ${repo}/${name}?`,
    detail: [h("p", {}, "Nothing would be lost: everything in it is committed and on a branch."), h("p", {}, "It is moved to the trash and stays there for a while. ", dry.branch && ["Its branch ", h("code", {}, dry.branch), " stays."]), goes],
    verb: "Remove worktree",
    danger: true,
    act: async () => {
      const told = await del(where);
      renewNamed("worktrees");
      after?.();
      return told.trash ? `Removed. It is in ${told.trash} for a while.` : "Removed.";
    },
  });
}

/** A claim is taken from its holder. */
export const releaseClaim = (repo, slug, claim) =>
  ask({
    title: `Release the claim on ${repo}/${slug}?`,
    detail: [`${claim.worker} in lane ${claim.lane} holds it. What that worker reports later changes nothing, and the todo is given to somebody else. No attempt is counted.`],
    verb: "Release claim",
    danger: true,
    act: async () => {
      await post(path`/todos/${repo}/${slug}/release`, { token: claim.token });
      renewNamed("todo", "todos");
      return "The claim was released.";
    },
  });

/** A blocked or waiting todo goes on. */
export const redrive = (repo, slug) =>
  now(async () => {
    await post(path`/todos/${repo}/${slug}/redrive`);
    renewNamed("todo", "todos");
    return `${repo}/${slug} goes on.`;
  });

/** The daemon writes down all that is in flight. */
export const dumpHangs = (after) =>
  now(async () => {
    const told = await post("/debug/hang-dump");
    renewNamed("hangs");
    after?.(told.id);
    return "A dump was made.";
  });

/** The button that shows what an operation's commands printed. */
export const logButton = ({ id, repo, slug }) => button("Show log", () => showLog(`/operations/${id}/log`, `Log of ${repo}/${slug}`), { class: "small" });

/** What was printed. */
export async function showLog(where, title) {
  try {
    const response = await fetchLog(where);
    ask({ title, detail: h("pre", { class: "log", tabindex: "0" }, text(response, 200_000)) });
  } catch (problem) {
    ask({ title, detail: plain(problem) });
  }
}

/** The end of a log: of one that is followed, what is there now. */
async function fetchLog(where) {
  const stop = new AbortController();
  const response = await request(where, { signal: stop.signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let all = "";
  for (;;) {
    const next = await Promise.race([reader.read(), new Promise((done) => setTimeout(() => done({ done: true }), 1_000))]);
    if (next.done) break;
    all = (all + next.value).slice(-400_000);
  }
  stop.abort();
  return all || "(nothing was printed)";
}
