// The latest rows of all runs from the server. All views share one connection.

import { get } from "./api.js";

const LOST = "The connection to the server is lost. The page tries again by itself.";

const rows = new Map();
const readers = new Set();
const banner = document.getElementById("connection");
let source = null;
const { promise: loaded, resolve: ready } = Promise.withResolvers();

/** Start to listen; the promise ends at the first list of runs. `back` is called at each connection. */
export function start(back) {
  if (!source) {
    listen(back);
    // Nobody looks at a hidden tab, and a browser has few connections to one server for all its tabs.
    document.addEventListener("visibilitychange", () => (document.hidden ? source.close() : listen(back)));
  }
  return loaded;
}

/** Return the rows of all runs. */
export const allRuns = () => [...rows.values()];

/** Return the row of a run, or undefined. */
export const findRun = (id) => rows.get(id);

/** Call `act(changed ids)` after each change, until the signal aborts. */
export function subscribe(act, signal) {
  readers.add(act);
  signal?.addEventListener("abort", () => readers.delete(act));
}

function listen(back) {
  source?.close();
  const own = new EventSource("/api/events");
  source = own;
  own.addEventListener("open", back);
  own.addEventListener("error", () => {
    warn(LOST);
    if (own.readyState !== EventSource.CLOSED) return;
    // The browser gives up after an answer other than 200, which it does not tell: the token may be a new one.
    get("/api/about").catch((error) => warn(error.message));
    setTimeout(() => own === source && listen(back), 5000);
  });
  own.addEventListener("failed", (event) => warn(JSON.parse(event.data).error));
  own.addEventListener("runs", (event) => take(JSON.parse(event.data)));
}

function warn(text) {
  banner.textContent = text;
  banner.hidden = !text;
}

function take({ runs }) {
  warn("");
  const lost = [...rows.keys()].filter((id) => !runs.some((row) => row.id === id));
  const differing = runs.filter((row) => JSON.stringify(rows.get(row.id)) !== JSON.stringify(row));
  for (const row of runs) rows.set(row.id, row);
  for (const id of lost) rows.delete(id);
  ready();
  const ids = new Set([...differing.map((row) => row.id), ...lost]);
  if (ids.size) for (const act of [...readers]) act(ids);
}
