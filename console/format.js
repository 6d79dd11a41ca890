// Numbers and times as people read them.

const SECOND = 1_000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;

/** A time of the daemon in milliseconds; the one place where its text is read. */
export const ms = (at) => (at ? Date.parse(at) : NaN);

/** A length of time in milliseconds: `0.3 ms`, `12 s`, `3 min`, `2 h 5 min`, `4 d`. */
export function span(length) {
  if (!Number.isFinite(length)) return "–";
  const of = Math.abs(length);
  if (of < 10) return `${of.toFixed(of < 1 ? 2 : 1)} ms`;
  if (of < SECOND) return `${Math.round(of)} ms`;
  if (of < 10 * SECOND) return `${(of / SECOND).toFixed(1)} s`;
  return coarse(of);
}

function coarse(of) {
  if (of < MINUTE) return `${Math.floor(of / SECOND)} s`;
  if (of < HOUR) return `${Math.floor(of / MINUTE)} min`;
  if (of < DAY) {
    const rest = Math.floor((of % HOUR) / MINUTE);
    return `${Math.floor(of / HOUR)} h${rest && of < 6 * HOUR ? ` ${rest} min` : ""}`;
  }
  return `${Math.floor(of / DAY)} d`;
}

/** How far a time is from now, in words: `12 s ago`, `in 3 min`, `2 h ago`. Clocks differ a little: what is just ahead is now. */
export function ago(at, now = Date.now()) {
  const apart = now - ms(at);
  if (!Number.isFinite(apart)) return "–";
  if (apart < -2 * SECOND) return `in ${whole(-apart)}`;
  return apart < SECOND ? "now" : `${whole(apart)} ago`;
}

/** Short enough for a column: whoever wants to know more looks at the exact time. */
const whole = (of) => (of < HOUR || of >= DAY ? coarse(of) : `${Math.floor(of / HOUR)} h`);

const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** A time with its date, to the second. */
export const exact = (at) => (Number.isFinite(ms(at)) ? EXACT.format(ms(at)) : "");
/** A time of day. */
export const clock = (at) => (Number.isFinite(ms(at)) ? CLOCK.format(ms(at)) : "");

/** A count with its noun: `1 todo`, `3 todos`. */
export const count = (n, one, many = `${one}s`) => `${n.toLocaleString()} ${n === 1 ? one : many}`;

/** Bytes. */
export function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000;
    unit++;
  }
  return `${unit && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

/** A word of the daemon's as people write it: `sync_main` → `sync main`. */
export const words = (text) => String(text ?? "").replaceAll("_", " ");

/** A list by a time of its entries, the latest first; each time is read once. */
export function latestFirst(list, of) {
  return list.map((one) => [ms(of(one)) || 0, one]).sort(([a], [b]) => b - a).map(([, one]) => one);
}

/** A list in groups, as a Map in the order in which they come; groups that are there before come first. */
export function grouped(list, of, groups = new Map()) {
  for (const one of list) {
    const group = of(one);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(one);
  }
  return groups;
}

/** Whether all words of a search are somewhere in a text. */
export function says(text, query) {
  const all = text.toLowerCase();
  return query.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}
