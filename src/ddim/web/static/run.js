// The view of one run: samples during training, curves, recipe, evaluations, copies, log, and buttons.

import { get, post, runPath } from "./api.js";
import { badge, progressBar, progressText } from "./card.js";
import { button, announce, fault, field, h, section, setText, show } from "./dom.js";
import { logLine, plural, size } from "./format.js";
import { Curves } from "./curves.js";
import { findRun, subscribe } from "./live.js";
import { checkpoints, evaluations, films, memorisation, recipe } from "./run_parts.js";
import { SheetSlider } from "./sheets.js";

const REFRESH = 2000; // the least milliseconds between two readings of the curves while a run trains

/** Draw the view of a run. */
export async function draw(root, { id, about, signal }) {
  if (!findRun(id)) await arrival(root, id, signal);
  let detail = await get(runPath(id), signal);
  const head = h("header", { class: "run-head" });
  const slider = new SheetSlider(signal);
  const curves = new Curves(signal);
  const log = h("pre", { class: "log", tabindex: 0, "aria-label": "Log" });
  const changing = h("div", {});
  const actions = new Actions(id, about, refresh);
  root.append(
    head,
    actions.element,
    h("div", { class: "run-top" }, section("Samples", slider.element), curves.element),
    changing,
    section("Log", log),
  );
  const shown = {};

  function display() {
    const row = { ...detail, ...findRun(id) };
    show(
      head,
      h("h1", {}, row.name),
      h(
        "p",
        {},
        badge(row.state),
        " ",
        h(
          "span",
          { class: "note" },
          [row.recipe, row.data, size(row.size), row.parameters ? plural(row.parameters, "parameter") : ""]
            .filter(Boolean)
            .join(" · "),
        ),
      ),
      row.state === "running" ? progressBar(row) : null,
      h("p", { class: "progress-text" }, progressText(row)),
      row.why ? h("p", { class: "why" }, row.why) : null,
    );
    actions.update(detail);
    slider.update(detail.sheets, detail.real_sheet);
    const {
      fields,
      evaluations: evaluated,
      memorisation: copies,
      checkpoints: saved,
      films: filmed,
    } = detail;
    // These parts are redrawn only if they differ, so that folded parts and the focus stay.
    const key = JSON.stringify([fields, evaluated, copies, saved, filmed]);
    if (shown.key === key) return;
    shown.key = key;
    show(
      changing,
      evaluations(evaluated),
      memorisation(copies),
      films(filmed),
      recipe(fields, row.recipe),
      checkpoints(saved),
    );
  }

  async function readCurves() {
    const [numbers, { lines }] = await Promise.all([
      get(runPath(id, "/curves"), signal),
      get(runPath(id, "/log"), signal),
    ]);
    curves.update(numbers);
    const below = log.scrollHeight - log.scrollTop - log.clientHeight < 20;
    setText(log, lines.map(logLine).join("\n") || "The log is empty.");
    if (below) log.scrollTop = log.scrollHeight; // follows the end unless the reader scrolled up
  }

  let due = false,
    reading = false;
  async function refresh() {
    due = true;
    if (reading) return;
    reading = true;
    while (due && !signal.aborted) {
      due = false;
      const began = performance.now();
      try {
        detail = await get(runPath(id), signal);
        display();
        await readCurves();
      } catch (error) {
        if (error.name !== "AbortError") announce(error.message);
      }
      // The server reads a log of millions of lines in seconds, which the training should not lose each time.
      const pause = Math.max(REFRESH, 4 * (performance.now() - began));
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    reading = false;
  }

  display();
  await readCurves();
  subscribe((changed) => {
    if (changed.has(id)) {
      display();
      refresh();
    }
  }, signal);
}

/**
 * Wait for a run that is not in the list yet, because a training writes its first file after some seconds.
 */
async function arrival(root, id, signal) {
  show(
    root,
    h("h1", {}, id.replaceAll("~", "/")),
    h(
      "p",
      { role: "status" },
      "There is no such run yet. If its training has just been started, it appears here by itself.",
    ),
  );
  await new Promise((resolve) => subscribe((changed) => changed.has(id) && findRun(id) && resolve(), signal));
  show(root);
}

/** The buttons that sample a run, stop it and resume it. */
class Actions {
  constructor(id, about, refresh) {
    this.id = id;
    this.refresh = refresh;
    this.play = h(
      "a",
      { class: "button", href: `#/play/${encodeURIComponent(id)}` },
      "Open in the playground",
    );
    this.stop = button("Stop and save", () => this.act("/stop", {}, "The run saves a checkpoint and stops."));
    this.minutes = h("input", {
      type: "number",
      min: 0.1,
      step: "any",
      inputmode: "decimal",
      placeholder: "as planned",
    });
    this.resume = button("Go on", () =>
      this.act(
        "/resume",
        this.minutes.value ? { minutes: Number(this.minutes.value) } : {},
        "The run goes on.",
      ),
    );
    this.extend = h("div", { class: "row" }, field("Minutes more", this.minutes), this.resume);
    this.message = h("div", { role: "status" });
    this.element = h("div", { class: "row actions" }, this.play, this.stop, this.extend, this.message);
    this.mayTrain = about.may_train;
  }

  update({ can_sample: sample, can_stop: stop, can_resume: resume }) {
    this.play.hidden = !sample;
    this.stop.hidden = !(this.mayTrain && stop);
    this.extend.hidden = !(this.mayTrain && resume);
  }

  async act(path, body, done) {
    this.stop.disabled = this.resume.disabled = true;
    try {
      await post(runPath(this.id, path), body);
      show(this.message, h("p", { class: "note" }, done));
      this.refresh();
    } catch (error) {
      show(this.message, fault(error.message));
    }
    this.stop.disabled = this.resume.disabled = false;
  }
}
