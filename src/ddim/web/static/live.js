// The latest rows of all runs from the server. All views share one connection.

import { get } from "./api.js";

const LOST = "The connection to the server is lost. The page tries again by itself.";

const rows = new Map();
const readers = new Set();
const banner = document.getElementById("connection");
let sweeps = [];
let source = null;
let loaded = null;
let whole = false; // whether the next event lists all runs, as the first one of a connection does

/** Start to listen; returns a promise of the first list of runs. `back` is called at each connection. */
export function start(back) {
  loaded ??= read().catch((error) => {
    loaded = null; // the next view tries again
    throw error;
  });
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

/** Return the sweeps: {id, name}. */
export const allSweeps = () => sweeps;

/** Call `act(changed ids)` after each change, until the signal aborts. */
export function subscribe(act, signal) {
  readers.add(act);
  signal?.addEventListener("abort", () => readers.delete(act));
}

async function read() {
  const answer = await get("/api/runs");
  sweeps = answer.sweeps;
  for (const row of answer.runs) rows.set(row.id, row);
}

function listen(back) {
  source?.close();
  const own = new EventSource("/api/events");
  source = own;
  own.addEventListener("open", () => {
    whole = true;
    back();
  });
  own.addEventListener("error", () => {
    warn(LOST);
    // The browser gives up after an answer other than 200, such as 503 during a restart.
    if (own.readyState === EventSource.CLOSED) setTimeout(() => own === source && listen(back), 5000);
  });
  own.addEventListener("failed", (event) => warn(JSON.parse(event.data).error));
  own.addEventListener("runs", (event) => take(JSON.parse(event.data)));
}

function warn(text) {
  banner.textContent = text;
  banner.hidden = !text;
}

async function take({ changed, gone }) {
  warn("");
  const lost = whole ? [...rows.keys()].filter((id) => !changed.some((row) => row.id === id)) : gone;
  whole = false;
  const differing = changed.filter((row) => JSON.stringify(rows.get(row.id)) !== JSON.stringify(row));
  for (const row of changed) rows.set(row.id, row);
  for (const id of lost) rows.delete(id);
  // The events contain no sweeps.
  const unknown = ({ sweep }) => sweep && !sweeps.some((one) => one.id === sweep);
  if (changed.some(unknown)) await read().catch(() => {});
  const ids = new Set([...differing.map((row) => row.id), ...lost]);
  if (ids.size) for (const act of [...readers]) act(ids);
}
