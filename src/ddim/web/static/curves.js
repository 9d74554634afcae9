// The curves of one run or of several: charts that share their x axis, zoom, cursor and hidden lines.

import { Chart } from "./chart.js";
import { button, field, h, newId, section, tick } from "./dom.js";
import { count, number, title } from "./format.js";

const MORE = { lr: "Learning rate", gradient_norm: "Gradient norm", images_per_second: "Images a second" };
// The style sheet has six colours for lines; those of further runs are turned by the golden angle.
const color = (k) => (k < 6 ? `var(--line-${k + 1})` : `oklch(65% 0.14 ${(137.5 * k) % 360})`);
const POINTS = 10_000; // of all lines of a chart together
const settings = { time: false, smooth: 0, log: false }; // kept while the page is open

/** The charts; `update(runs)` shows runs {name, curves} and keeps the zoom. */
export class Curves {
  constructor(signal) {
    Object.assign(this, { charts: new Map(), hidden: new Set(), zoomed: null, key: newId("charts") });
    const hint = "Drag over a chart to zoom all. On a chart, the keys ← and → show its values.";
    this.hint = h("p.note.keys", { id: newId("hint") }, hint);
    const oninput = ({ target }) => this.set({ smooth: Number(target.value) });
    const smooth = h("input", { type: "range", max: 0.98, step: 0.02, value: settings.smooth, oninput });
    const choice = (label, name) => {
      const onchange = ({ target }) => this.set({ [name]: target.checked });
      return tick(label, { checked: settings[name], onchange }).element;
    };
    this.tools = h(
      "div.row.chart-tools",
      field("Smoothing", smooth),
      choice("By time", "time"),
      choice("Log scale", "log"),
      button("Zoom in", () => this.zoomBy(0.5), { class: "quiet" }),
      button("Zoom out", () => this.zoomBy(2), { class: "quiet" }),
      button("Show all", () => this.zoom(this.whole), { class: "quiet" }),
    );
    this.place = h("div.charts");
    this.empty = h("p.note", "No values yet.");
    this.element = section("Curves", this.tools, this.hint, this.place, this.empty);
    // The canvas does not know when the colours of the page change.
    const paint = () => this.charts.forEach(({ plot }) => plot.redraw());
    document.getElementById("theme").addEventListener("click", paint, { signal });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint, { signal });
  }

  /** Keep a change of the settings, and draw anew. */
  set(changed) {
    if ("time" in changed) this.zoomed = null;
    Object.assign(settings, changed);
    this.update(this.runs);
  }

  update(runs) {
    this.runs = runs;
    const axis = settings.time ? "seconds" : "images";
    const end = Math.max(1, ...runs.map(({ curves }) => curves[axis].at(-1) ?? 0));
    const [unit, length] = end > 5400 ? ["hours", 3600] : ["minutes", 60];
    this.label = settings.time ? `${unit} of training` : "training images";
    Object.assign(this, { log: settings.log, smooth: settings.smooth });
    this.whole = [0, settings.time ? end / length : end];
    const lines = runs.flatMap(({ name, curves }, k) => {
      const times = new Map(curves.images.map((images, j) => [images, (curves.seconds[j] ?? NaN) / length]));
      const place = (images) => (settings.time ? times.get(images) : images);
      return [...readLines(curves, runs.length === 1)].map((line) => ({
        name: runs.length === 1 ? line.chart : name,
        color: color(k),
        ...line,
        ...readPoints(line, POINTS / runs.length, place),
      }));
    });
    const shown = Map.groupBy(lines.filter(({ x }) => x.length), ({ chart }) => chart);
    for (const [title, parts] of shown) {
      if (!this.charts.has(title)) {
        this.charts.set(title, new Chart(title, this));
        this.place.append(this.charts.get(title).element);
      }
      this.charts.get(title).update(parts);
    }
    this.empty.hidden = shown.size > 0;
    this.tools.hidden = this.hint.hidden = !shown.size;
  }

  /** Show a part of the x axis in all charts. */
  zoom([low, high]) {
    const end = this.whole[1];
    const [from, to] = [Math.max(0, low), Math.min(end, high)];
    if (to - from < end / 1000) return;
    this.zoomed = to - from < 0.999 * end ? [from, to] : null; // the whole axis grows while a run trains
    this.charts.forEach((chart) => chart.plot.setData(chart.data));
  }

  /** Make the shown part so many times as long, around the last position that a key or the pointer showed. */
  zoomBy(factor) {
    const [from, to] = this.zoomed ?? this.whole;
    const at = Math.min(to, Math.max(from, this.at ?? to));
    this.zoom([at - (at - from) * factor, at + (to - at) * factor]);
  }

  /** Hide the lines of a name in all charts, or show them again. */
  toggle(name) {
    if (!this.hidden.delete(name)) this.hidden.add(name);
    this.charts.forEach((chart) => chart.showHidden());
  }

  /** Return a position on the x axis in words. */
  describe(x) {
    this.at = x;
    return settings.time ? `${number(x)} ${this.label}` : `${count(x)} images`;
  }
}

/** Yield the lines of a run, by their numbers of images, each with the title of its chart. */
function* readLines(curves, alone) {
  const { images, loss, errors, more, noise_images, noise, kid_images, kid } = curves;
  yield { chart: "Loss", images, values: loss, smooth: true };
  for (const [name, values] of Object.entries(errors))
    yield { chart: `Held-out ${title(name).toLowerCase()}`, images, values };
  const levels = Object.entries(noise).sort(([one], [other]) => one - other);
  if (alone)
    for (const [k, [label, values]] of levels.entries()) {
      // Noise levels have an order, so their colours go gradually from one colour to another.
      const part = Math.round((100 * k) / Math.max(1, levels.length - 1));
      const color = `color-mix(in oklch, var(--ramp-b) ${part}%, var(--ramp-a))`;
      const name = `log-SNR ${label.replace("-", "−")}`;
      yield { chart: "Error by noise level", images: noise_images, values, name, color };
    }
  const [low, high] = ["low", "high"].map((side) => kid.map((one) => one[side]));
  yield { chart: "KID", images: kid_images, values: kid.map(({ value }) => value), low, high };
  for (const [name, values] of Object.entries(more))
    yield { chart: MORE[name] ?? name, images, values, smooth: name !== "lr" };
}

/** Return at most `most` points {x, y, low, high} of a line; `place` returns x for a number of images. */
function readPoints({ images, values, low = [], high = [], smooth }, most, place) {
  const known = [...images.keys()].filter((k) => values[k] !== null && Number.isFinite(place(images[k])));
  const all = known.map((k) => values[k]);
  const ys = smooth ? average(all) : all;
  const step = Math.ceil(known.length / most);
  const kept = [...known.keys()].filter((j) => (known.length - 1 - j) % step === 0); // the newest too
  const pick = (column) => kept.map((j) => column[known[j]]);
  const whole = low.length > 0 && [...pick(low), ...pick(high)].every(Number.isFinite);
  const ends = whole ? { low: pick(low), high: pick(high) } : { low: [], high: [] };
  return { x: pick(images).map(place), y: kept.map((j) => ys[j]), ...ends };
}

/** Return the exponential moving average of values; without a bias towards the first value. */
function average(values) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    sum = settings.smooth * sum + value;
    weight = settings.smooth * weight + 1;
    return sum / weight;
  });
}
