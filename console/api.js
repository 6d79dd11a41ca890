// Asking the daemon. Everything goes through the public interface; errors are its problem documents.

const KEY = "slugline.key";

/** What went wrong, in the daemon's own words. */
export class Problem extends Error {
  constructor(body) {
    super(body.detail || body.title || "something went wrong");
    this.name = "Problem";
    this.status = body.status;
    this.code = body.code;
    this.title = body.title;
    this.retryable = body.retryable ?? false;
    this.body = body;
  }
}

/** The half of what lets this page in that the cookie does not have: cookies know no ports, this belongs to this origin. */
export const key = () => localStorage.getItem(KEY);
/** Keeps that half, or forgets it. */
export function keepKey(value) {
  if (value) localStorage.setItem(KEY, value);
  else localStorage.removeItem(KEY);
}

/** Called when the daemon does not know us (any more). */
export const onSignedOut = { call: () => {} };

/** A path with its parts escaped: `` path`/todos/${repo}/${slug}` ``. */
export const path = (parts, ...values) => String.raw({ raw: parts }, ...values.map(encodeURIComponent));

/** Asks, and gives the answer itself with its headers and status; throws a `Problem`. */
export async function request(where, { method = "GET", body, headers = {}, signal } = {}) {
  const shown = key();
  let response;
  try {
    response = await fetch(where, {
      method,
      signal,
      cache: "no-store",
      headers: {
        ...(shown ? { "X-Slugline-Key": shown } : {}),
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ code: "unreachable", retryable: true, detail: "The daemon does not answer. This page tries again by itself." });
  }
  if (response.ok || response.status === 304) return response;
  let told = {};
  try {
    told = await response.json();
  } catch {
    // Not a problem document; the status has to do.
  }
  const problem = new Problem({ status: response.status, detail: `The daemon answered ${response.status}.`, ...told });
  // Somebody may have signed in since this was asked.
  if (problem.code === "unauthorized" && !where.startsWith("/console/") && shown === key()) onSignedOut.call();
  throw problem;
}

/** Asks and reads the JSON of the answer. */
export const get = async (where, options) => (await request(where, options)).json();
/** Tells something. */
export const post = (where, body = {}) => get(where, { method: "POST", body });
/** Has something removed or cancelled. */
export const del = (where) => get(where, { method: "DELETE" });
