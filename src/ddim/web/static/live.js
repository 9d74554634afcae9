// The latest rows of all runs from the server. All views share one connection.

import { get } from "./api.js";

const rows = new Map();
const readers = new Set();
let sweeps = [];
let source = null;
let loaded = null;

/** Start to listen; returns a promise of the first list of runs. */
export function start() {
  loaded ??= read();
  if (!source) listen();
  return loaded;
}

/** Return the rows of all runs. */
export const allRuns = () => [...rows.values()];

/** Return the row of a run, or undefined. */
export const findRun = (id) => rows.get(id);

/** Return the sweeps: {id, name, runs}. */
export const allSweeps = () => sweeps;

/** Call `act(changed ids)` after each change, until the signal aborts. */
export function subscribe(act, signal) {
  readers.add(act);
  signal?.addEventListener("abort", () => readers.delete(act));
}

async function read() {
  try {
    const answer = await get("/api/runs");
    sweeps = answer.sweeps;
    rows.clear();
    for (const row of answer.runs) rows.set(row.id, row);
  } catch (error) {
    loaded = null; // the next view tries again
    throw error;
  }
}

function listen() {
  source = new EventSource("/api/events");
  const banner = document.getElementById("connection");
  source.addEventListener("open", () => {
    banner.hidden = true;
  });
  source.addEventListener("error", () => {
    banner.textContent = "The connection to the server is lost. The page tries again by itself.";
    banner.hidden = false;
    // The browser gives up after an answer other than 200, such as 401, or 503 during a restart.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  });
  source.addEventListener("runs", (event) => take(JSON.parse(event.data)));
}

async function take({ changed, gone }) {
  // The events contain no sweeps. If a run belongs to an unknown sweep, the list of sweeps is loaded again.
  const known = new Set(sweeps.map((sweep) => sweep.id));
  const strange = changed.some((row) => row.sweep && !known.has(row.sweep));
  const differing = changed.filter((row) => JSON.stringify(rows.get(row.id)) !== JSON.stringify(row));
  for (const row of changed) rows.set(row.id, row);
  for (const id of gone) rows.delete(id);
  if (strange)
    await get("/api/runs")
      .then((answer) => {
        sweeps = answer.sweeps;
      })
      .catch(() => {});
  const ids = [...differing.map((row) => row.id), ...gone];
  if (ids.length) for (const act of [...readers]) act(new Set(ids));
}
