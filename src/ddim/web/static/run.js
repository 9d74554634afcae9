// The view of one run: samples during training, curves, recipe, evaluations, copies, log, and actions.

import { get, runPath } from "./api.js";
import { Actions } from "./run_actions.js";
import { badge, progressBar, progressText } from "./card.js";
import { Curves } from "./curves.js";
import { announce, fault, h, section, setText, show } from "./dom.js";
import { logLine, plural, size } from "./format.js";
import { findRun, subscribe } from "./live.js";
import { checkpoints, evaluations, films, memorisation, recipe } from "./run_parts.js";
import { SheetSlider } from "./sheets.js";

const REFRESH = 4000; // the least milliseconds between two readings of the curves while a run trains

/** Draw the view of a run. */
export async function draw(root, { id, about, signal }) {
  let detail = await get(runPath(id), signal);
  let drawn = "";
  const head = h("header.run-head");
  const actions = new Actions(id, about.may_train, refresh);
  const slider = new SheetSlider(signal);
  const curves = new Curves(signal);
  const tables = h("div");
  const log = h("pre.log", { tabindex: 0, role: "group", "aria-label": "Lines of the log" });
  const top = h("div.run-top", section("Samples", slider.element), curves.element);
  root.append(head, actions.element, top, tables, section("Log", log));

  function display(row) {
    const weights = row.parameters && plural(row.parameters, "parameter");
    const facts = [row.recipe, row.data, size(row.size), weights].filter(Boolean);
    show(
      head,
      h("h1", row.name),
      h("p", badge(row.state), h("span.note", ["", ...facts].join(" · "))),
      row.state === "running" && progressBar(row),
      h("p.progress-text", progressText(row)),
      row.note && h("p.run-note", row.note),
      row.why && h("p.why", row.why),
    );
    actions.update(row);
    slider.update({ ...detail, state: row.state });
    // These parts are redrawn only if they differ, so that folded parts and the focus stay.
    const copies = [detail.memorisation, detail.pairs_url];
    const shown = [detail.evaluations, copies, detail.films, detail.fields, detail.checkpoints];
    if (drawn === JSON.stringify(shown)) return;
    drawn = JSON.stringify(shown);
    const [judged, , filmed, fields, saved] = shown;
    const measured = [evaluations(judged), memorisation(...copies), films(filmed)];
    show(tables, measured, recipe(fields, row.recipe), checkpoints(saved));
  }

  async function readCurves() {
    const found = await get(runPath(id, "/curves"), signal);
    curves.update([{ name: detail.name, curves: found }]);
    const below = log.scrollHeight - log.scrollTop - log.clientHeight < 20;
    setText(log, found.lines.map(logLine).join("\n") || "The log is empty.");
    if (below) log.scrollTop = log.scrollHeight; // follows the end unless the reader scrolled up
  }

  let [due, reading] = [false, false];
  async function refresh() {
    due = true;
    if (reading) return;
    reading = true;
    while (due && !signal.aborted) {
      const began = performance.now();
      due = false;
      try {
        detail = await get(runPath(id), signal);
        display(detail); // is newer than the list of runs, which has the note of the user a little later
        await readCurves();
        due ||= Boolean(detail.doing); // the end of a command that changed no file is no event
      } catch (error) {
        if (error.name !== "AbortError") announce(error.message);
      }
      // To read a log of millions of lines takes seconds, which the training should not lose each time.
      const pause = Math.max(REFRESH, 4 * (performance.now() - began));
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    reading = false;
  }

  function leave() {
    actions.element.remove();
    show(head, h("h1", detail.name), fault("This run was deleted, renamed or moved."));
  }

  display(detail);
  await readCurves();
  if (detail.doing) refresh();
  subscribe((changed) => {
    if (!changed.has(id)) return;
    if (!findRun(id)) return leave();
    display({ ...detail, ...findRun(id) });
    return refresh();
  }, signal);
}
