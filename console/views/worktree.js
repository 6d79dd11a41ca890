// One worktree: its files and commits, whether it may be removed, and who works in it.

import { refreshWorktree, removeWorktree } from "../acts.js";
import { use } from "../data.js";
import { h } from "../dom.js";
import { bytes, count } from "../format.js";
import { path } from "../api.js";
import { at, button, facts, head, link, name, section, skeleton, text, time, trouble } from "../parts.js";
import { baseOf, changesOf, stateOf } from "./worktrees.js";

/** git's letters in words. */
const LETTERS = { M: "modified", A: "added", D: "deleted", R: "renamed", C: "copied", T: "another type", U: "conflict", "?": "untracked" };

/** The view. */
export function worktreeView({ parts: [repo, one] }) {
  const shown = use("worktree", path`${repo}/${one}`);
  const tree = shown.value;
  return [
    h("p", {}, h("a", { class: "back", href: "#/worktrees" }, "← Worktrees")),
    head([name(repo, one)], tree && stateOf(tree),
      button("Refresh", () => refreshWorktree(repo, one), { key: "refresh" }),
      tree && !tree.main && button("Remove worktree…", () => removeWorktree(repo, one, () => (location.hash = "#/worktrees")), { key: "remove" })),
    shown.error && trouble(shown.error),
    !tree ? !shown.error && skeleton() : [
      tree.error && h("div", { class: "trouble", role: "alert" }, h("strong", {}, "The last look failed; what is shown is from before. "), text(tree.error)),
      facts(
        ["Path", h("span", { class: "mono" }, tree.path)],
        ["Branch", tree.branch ?? "none: HEAD is detached"],
        ["Base", baseOf(tree)],
        tree.upstream && ["Upstream", `${tree.upstream.name} ${tree.upstream.ahead === null ? "is gone" : `↑${tree.upstream.ahead} ↓${tree.upstream.behind}`}`],
        ["Changes", changesOf(tree)],
        tree.head && ["Last commit", h("bdi", {}, tree.head.subject), h("div", { class: "dim" }, h("span", { class: "mono" }, tree.head.oid.slice(0, 10)), " ", h("bdi", {}, tree.head.author), " ", time(tree.head.at))],
        ["Seen", tree.looked_at ? time(tree.looked_at) : "not yet", ` (${tree.watch})`],
        tree.locked !== null && ["Locked", tree.locked || "no reason given"],
        tree.prunable && ["Prunable", tree.prunable],
        tree.slug && ["Todo", link(at.todo(tree.repo, tree.slug), `${tree.repo}/${tree.slug}`)],
        tree.claim && ["Held by", `${tree.claim.worker} in ${tree.claim.lane}, lease ends `, time(tree.claim.expires_at)],
        tree.sessions.length > 0 && ["Sessions", tree.sessions.map((id) => h("div", {}, link(at.session(id), id)))],
        tree.disk_bytes != null && ["On disk", bytes(tree.disk_bytes)]),
      section(`Files with changes`, { key: "files" }, files(tree)),
      section("Commits that are not on the base", { key: "commits" }, commits(tree)),
      section("Removing it", { key: "removal" }, removal(tree)),
    ],
  ];
}

const letter = (one) => (one ? h("abbr", { title: LETTERS[one] ?? one, class: "mono" }, one) : h("span", { class: "dim" }, "·"));

function files({ files: list, files_cut: cut, changes }) {
  if (!list?.length) return h("p", { class: "dim" }, changes ? "Nothing is changed." : "It was not looked at yet.");
  return [
    h("ul", { class: "rows of-files", "aria-label": "Files" }, list.map((one) =>
      h("li", { class: "row", key: one.path, "data-key": one.path },
        h("span", {}, letter(one.staged), " ", letter(one.unstaged)),
        h("span", { class: "mono" }, text(one.path, 500), one.from && h("span", { class: "dim" }, " from ", text(one.from, 500))),
        one.conflicted && h("strong", {}, "in conflict")))),
    cut && h("p", { class: "dim" }, "The first thousand are shown."),
  ];
}

function commits({ commits: list, base }) {
  if (!list?.length) return h("p", { class: "dim" }, "There are none.");
  return [
    h("ul", { class: "rows of-commits", "aria-label": "Commits" }, list.map((one) =>
      h("li", { class: "row", key: one.oid, "data-key": one.oid }, h("span", { class: "mono dim" }, one.oid.slice(0, 10)), h("bdi", {}, one.subject), h("bdi", { class: "dim" }, one.author), time(one.at)))),
    base?.ahead > list.length && h("p", { class: "dim" }, `and ${count(base.ahead - list.length, "more commit")}`),
  ];
}

function removal({ main, removal: reasons }) {
  if (main) return h("p", { class: "dim" }, "It is the repository's main work tree and stays.");
  if (!reasons?.length) return h("p", {}, "It may be removed: nothing would be lost. Its branch stays.");
  return [h("p", {}, "It is not removed, because"), h("ul", { class: "reasons" }, reasons.map((one) => h("li", {}, text(one.detail ?? one, 500))))];
}

