// The keyboard: everything that can be done with a mouse, and quicker.

/** What `g` and a letter lead to. */
const PLACES = { n: "now", t: "todos", w: "worktrees", s: "sessions", l: "lanes", y: "system" };
/** How long `g` waits for its letter. */
const CHORD_MS = 1_200;

/** Every key with what it does, for the help. */
export const KEYS = [
  ["j k ↓ ↑", "next and previous row"],
  ["Enter", "open the row"],
  ["u", "back to the list"],
  ["/", "search"],
  ["r", "ask the daemon again"],
  ...Object.entries(PLACES).map(([letter, place]) => [`g ${letter}`, place]),
  ["?", "this help"],
  ["Esc", "close, or leave the search"],
];

let chord = 0;

/** Listens. `acts` has `go(place)`, `renew()` and `help()`. */
export function listen(acts) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const { target, key } = event;
    if (document.querySelector("dialog[open]")) return;
    if (target.closest("input, textarea, select")) {
      if (key === "Escape") target.blur();
      if (key === "ArrowDown" && target.type === "search") move(1) && event.preventDefault();
      return;
    }
    if (press(key, target, acts)) event.preventDefault();
  });
}

function press(key, target, acts) {
  if (chord && Date.now() - chord < CHORD_MS && PLACES[key]) {
    chord = 0;
    acts.go(PLACES[key]);
    return true;
  }
  chord = 0;
  switch (key) {
    case "g": chord = Date.now(); return true;
    case "j": case "ArrowDown": return move(1);
    case "k": case "ArrowUp": return move(-1);
    case "Enter": return !target.closest("a, button, summary") && open();
    case "/": return search();
    case "r": acts.renew(); return true;
    case "u": return up();
    case "?": acts.help(); return true;
    default: return false;
  }
}

const current = () => document.querySelector("main .row[aria-current=true]");

/** Makes the next row the current one: it has the focus too, so that Enter and screen readers know. */
function move(by) {
  const all = [...document.querySelectorAll("main .row[data-href]")];
  if (!all.length) return false;
  const from = all.indexOf(current());
  const next = all[Math.max(0, Math.min(all.length - 1, from < 0 ? (by > 0 ? 0 : all.length - 1) : from + by))];
  current()?.removeAttribute("aria-current");
  next.setAttribute("aria-current", "true");
  (next.querySelector("a") ?? next).focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
  return true;
}

function open() {
  const row = current();
  if (row) location.hash = row.dataset.href;
  return Boolean(row);
}

function search() {
  const field = document.querySelector("main input[type=search]");
  field?.focus();
  field?.select();
  return Boolean(field);
}

function up() {
  const back = document.querySelector("main .back");
  back?.click();
  return Boolean(back);
}
