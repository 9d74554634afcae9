// A chart of lines over a training, drawn by uPlot, with the values at the cursor and a table behind it.

import uPlot from "./vendor/uPlot.esm.js";
import { announce, h, setText, show } from "./dom.js";
import { number } from "./format.js";
import { table } from "./run_parts.js";

const HEIGHT = 210; // pixels
const ROWS = 100; // of a table; longer curves are thinned
const MEANINGS = {
  "Error by noise level": `How wrong the network's guess of the noise is in held-out images; lower is better.
    Each line is one noise level: at log-SNR −10 an image is almost pure noise, at 8 almost clean. Almost clean
    images have the highest error, because hardly any noise is left to find. It hardly shows in samples.`,
};

/**
 * A chart of a group, which is a `Curves`. `update(lines)` shows lines {name, color, x, y, low, high}, where
 * `low` and `high` are the ends of an interval around each y, or empty. Line k begins at column 3k + 1.
 */
export class Chart {
  constructor(title, group) {
    Object.assign(this, { title, group });
    this.position = h("p.note.position");
    this.canvas = h("div.plot", {
      tabindex: 0,
      role: "group",
      "aria-label": `${title}, chart`,
      "aria-describedby": group.hint.id,
      onkeydown: (event) => this.press(event),
    });
    this.legend = h("div.legend", { role: "group", "aria-label": `Lines of ${title}` });
    this.values = h("div");
    this.folded = h("details", { ontoggle: () => this.showTable() }, h("summary", "Table"), this.values);
    const meaning = title in MEANINGS && h("p.note", MEANINGS[title]);
    const caption = h("figcaption", h("h3", title), meaning, this.position);
    this.element = h("figure.chart", caption, this.canvas, this.legend, this.folded);
    new ResizeObserver(() => this.plot?.setSize(this.size)).observe(this.canvas);
  }

  get size() {
    return { width: this.canvas.clientWidth || 320, height: HEIGHT };
  }

  update(lines) {
    this.lines = lines;
    this.data = uPlot.join(lines.map(({ x, y, low, high }) => [x, y, low, high]));
    const log = this.group.log && lines.every(({ y, low }) => [...y, ...low].every((value) => value > 0));
    const key = JSON.stringify([lines.map(({ name }) => name), log, this.group.label]);
    if (key === this.key) this.plot.setData(this.data);
    else this.build(log);
    this.key = key;
    this.showValues();
    this.showTable();
  }

  build(log) {
    this.plot?.destroy();
    const { group, lines } = this;
    const edge = { points: { show: false } };
    const series = lines.map(({ color }) => [{ stroke: () => this.paint(color), width: 1.7 }, edge, edge]);
    const bands = lines.map(({ color }, k) => ({
      series: [3 * k + 3, 3 * k + 2],
      fill: () => this.paint(`color-mix(in srgb, ${color} 18%, transparent)`),
    }));
    const axis = {
      stroke: () => this.paint("var(--soft)"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: () => this.paint("var(--rule)"), width: 1 },
      ticks: { show: false },
    };
    const values = (_, marks) => marks.map(short);
    const options = {
      ...this.size,
      series: [{}, ...series.flat()],
      bands,
      legend: { show: false },
      cursor: {
        y: false,
        drag: { setScale: false },
        bind: { dblclick: () => () => group.zoom(group.whole) },
        sync: { key: group.key, filters: { pub: (type) => /mousemove|mouseleave/.test(type) } },
      },
      scales: {
        x: { time: false, range: () => group.zoomed ?? group.whole },
        y: log ? { distr: 3 } : { range: rangeY },
      },
      axes: [
        { ...axis, values, size: 28, label: group.label, labelFont: axis.font, labelSize: 18 },
        { ...axis, values, size: 58 },
      ],
      hooks: {
        setCursor: [() => this.showValues()],
        setSelect: [
          ({ select: { left, width }, posToVal, setSelect }) => {
            setSelect({ width: 0 }, false); // else the rectangle stays, and marks other images after the zoom
            if (width > 8) group.zoom([posToVal(left, "x"), posToVal(left + width, "x")]);
          },
        ],
      },
    };
    this.plot = new uPlot(options, this.data, this.canvas);
    this.buildLegend();
  }

  buildLegend() {
    this.outputs = this.lines.map(() => h("output"));
    const keys = this.lines.map(({ name, color }, k) => {
      const swatch = h("i.swatch", { style: { "border-color": color } });
      const onclick = () => this.group.toggle(name);
      return h("button.quiet", { type: "button", onclick }, swatch, h("span", name), this.outputs[k]);
    });
    const longest = Math.max(...this.lines.map(({ name }) => name.length));
    this.legend.style.setProperty("--name", `${longest}ch`);
    show(this.legend, keys);
    this.legend.hidden = this.lines.length === 1 && this.lines[0].name === this.title;
    this.showHidden();
  }

  /** Return a colour of the style sheet as the canvas needs it. */
  paint(color) {
    this.position.style.setProperty("border-color", color);
    return getComputedStyle(this.position).borderTopColor;
  }

  /** Show for each line its value at the cursor, or its newest value. */
  showValues() {
    if (!this.plot) return;
    const { idx, idxs } = this.plot.cursor;
    const at = idx ?? null;
    const place = this.data[0][at];
    let text = at === null ? "newest" : this.group.describe(place);
    if (this.group.smooth && this.lines[0].smooth) text += ", smoothed";
    this.lines.forEach(({ x, low }, k) => {
      // uPlot takes the nearest value, but before and after a run there is none.
      const inside = x[0] <= place && place <= x.at(-1);
      const row = at === null ? this.data[0].indexOf(x.at(-1)) : inside && idxs[3 * k + 1];
      const [y, from, to] = this.data.slice(3 * k + 1, 3 * k + 4).map((values) => number(values[row]));
      setText(this.outputs[k], y);
      if (this.legend.hidden) text += low.length ? `: ${y} (${from} to ${to})` : `: ${y}`;
    });
    setText(this.position, text);
  }

  /** Show or hide the lines, as the group says. */
  showHidden() {
    this.lines.forEach(({ name }, k) => {
      const on = !this.group.hidden.has(name);
      this.legend.children[k].setAttribute("aria-pressed", String(on));
      for (const column of [1, 2, 3]) this.plot.setSeries(3 * k + column, { show: on });
    });
  }

  /** Fill the table if it is unfolded. */
  showTable() {
    if (!this.folded.open) return;
    const [xs, ...columns] = this.data;
    const step = Math.ceil(xs.length / ROWS);
    const rows = [...xs.keys()].filter((k) => k % step === 0 || k === xs.length - 1);
    const heads = this.lines.flatMap(({ name, low }) => (low.length ? [name, "from", "to"] : [name]));
    const filled = columns.filter((_, k) => k % 3 === 0 || this.lines[Math.floor(k / 3)].low.length);
    const cells = rows.map((k) => [number(xs[k], 6), ...filled.map((values) => number(values[k]))]);
    show(this.values, table(`${this.title}, table`, [this.group.label, ...heads], cells, 0));
  }

  /** Move the cursor with the keys ← and →. */
  press(event) {
    const { plot, group, data } = this;
    const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!side) return;
    event.preventDefault();
    const [first, last] = plot.series[0].idxs;
    const stride = side * Math.max(1, Math.round((last - first) / 60));
    const next = (plot.cursor.idx ?? (side > 0 ? first - stride : last - stride)) + stride;
    const x = data[0][Math.min(last, Math.max(first, next))];
    plot.setCursor({ left: plot.valToPos(x, "x"), top: 0 }, true, true);
    const values = this.lines.map(({ name }, k) => `${name} ${this.outputs[k].value}`);
    announce(`${group.describe(x)}: ${values.join(", ")}`);
  }
}

/** Return the range of an axis for values from `low` to `high`; it begins at 0 if 0 is near. */
function rangeY(_, low, high) {
  if (low === null) return [0, 1];
  const margin = (high - low || Math.abs(high) || 1) * 0.08;
  return [low >= 0 && low < 0.4 * high ? 0 : low - margin, high + margin];
}

function short(value) {
  if (value === null) return ""; // a line of a log scale without a number
  const [part, unit] = value >= 1e6 ? [1e6, "M"] : value >= 1e4 ? [1e3, "k"] : [1, ""];
  return `${Number((value / part).toPrecision(6))}${unit}`;
}
