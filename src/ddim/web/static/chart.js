// A line chart as SVG, with zoom by drag, wheel or keys, the values at the pointer, and a legend that hides
// lines.

import { button, h, newId, setText, show, svg } from "./dom.js";
import { count, number, tickText } from "./format.js";
import { listenTo } from "./chart_input.js";
import { EDGE, HEIGHT, domainX, domainY, logTicks, nearest, scale, ticks } from "./scale.js";

/** Return a paragraph that explains how to use charts; all charts of a page share it. */
export const chartHint = () =>
  h(
    "p",
    { id: newId("hint"), class: "note" },
    "Drag over a chart to zoom. Click it to zoom with the wheel, or with the keys + and −; ← and → show values, 0 shows all.",
  );

/** A chart. Put `element` into the page; `update(series)` shows new data and keeps the zoom. */
export class Chart {
  /**
   * Series are {name, points: [{x, y, low?, high?}], color?}. With `low` and `high`, a point has a bar for its interval.
   * `hint` is the element of `chartHint`. When `signal` aborts, the chart stops to observe its size.
   */
  constructor({ title, xLabel, yLabel, hint, log = false, signal }) {
    Object.assign(this, {
      title,
      xLabel,
      yLabel,
      log,
      series: [],
      hidden: new Set(),
      zoom: null,
      cursor: null,
    });
    this.width = 640;
    this.svg = svg("svg", {
      class: "chart",
      tabindex: 0,
      role: "group",
      "aria-label": `${title}, chart`,
      "aria-describedby": hint.id,
      height: HEIGHT,
    });
    this.readout = h("output", { class: "readout", "aria-live": "polite" });
    this.legend = h("div", { class: "legend", role: "group", "aria-label": `Lines of ${title}` });
    this.reset = button("Reset zoom", () => this.setZoom(null), { class: "quiet", disabled: true });
    const scaleButton = button(
      "Log scale",
      () => {
        this.log = !this.log;
        scaleButton.setAttribute("aria-pressed", this.log);
        this.draw();
      },
      { class: "quiet", "aria-pressed": String(log) },
    );
    this.element = h(
      "figure",
      { class: "chart-box" },
      h("figcaption", {}, h("h3", {}, title), h("span", { class: "tools" }, scaleButton, this.reset)),
      this.svg,
      this.readout,
      this.legend,
    );
    listenTo(this);
    const watcher = new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width && width !== this.width) {
        this.width = width;
        this.draw();
      }
    });
    watcher.observe(this.element);
    signal?.addEventListener("abort", () => watcher.disconnect());
  }

  update(series) {
    this.series = series.filter((one) => one.points.length);
    this.drawLegend();
    this.draw();
  }

  get shown() {
    return this.series.filter((one) => !this.hidden.has(one.name));
  }

  get longest() {
    return this.shown.reduce((one, other) => (other.points.length > one.points.length ? other : one));
  }

  drawLegend() {
    if (this.series.length < 2) return show(this.legend);
    const key = this.series.map((one) => one.name).join("\n");
    if (this.legendKey === key) return this.legend; // keeps the focus while a run trains
    this.legendKey = key;
    return show(
      this.legend,
      this.series.map((one, k) => {
        const swatch = h("i", { class: "swatch", style: { background: this.color(one, k) } });
        const toggle = h(
          "button",
          {
            type: "button",
            class: "quiet",
            "aria-pressed": String(!this.hidden.has(one.name)),
            onclick: () => {
              if (!this.hidden.delete(one.name)) this.hidden.add(one.name);
              toggle.setAttribute("aria-pressed", String(!this.hidden.has(one.name)));
              this.draw();
            },
          },
          swatch,
          one.name,
        );
        return toggle;
      }),
    );
  }

  color(one, k) {
    return one.color ?? `var(--line-${(k % 6) + 1})`;
  }

  draw() {
    const { width, shown } = this;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const whole = domainX(shown);
    if (!whole) {
      const text = this.series.length ? "All lines are hidden." : "No values yet.";
      this.x = null;
      show(
        this.svg,
        svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle", class: "axis" }, text),
      );
      return;
    }
    this.whole = whole;
    const [from, to] = this.zoom ?? whole;
    const log = this.log && shown.every((one) => one.points.every((point) => point.y > 0));
    const [low, high] = domainY(shown, from, to, log);
    this.x = scale(from, to, EDGE.left, width - EDGE.right);
    this.y = scale(low, high, HEIGHT - EDGE.bottom, EDGE.top, log);
    const clip = (this.clip ??= newId("clip"));
    this.layer = svg("g", { class: "cursor" });
    show(
      this.svg,
      svg(
        "clipPath",
        { id: clip },
        svg("rect", {
          x: EDGE.left,
          y: EDGE.top - 4,
          width: Math.max(0, width - EDGE.left - EDGE.right),
          height: HEIGHT - EDGE.top - EDGE.bottom + 8,
        }),
      ),
      this.axes(from, to, low, high, log),
      svg(
        "g",
        { "clip-path": `url(#${clip})` },
        this.series.map((one, k) => (this.hidden.has(one.name) ? null : this.line(one, k))),
      ),
      this.layer,
    );
    this.reset.disabled = !this.zoom;
    this.drawCursor();
  }

  axes(from, to, low, high, log) {
    const { width, x, y } = this;
    const bottom = HEIGHT - EDGE.bottom;
    const across = (log ? logTicks(low, high) : ticks(low, high, 4)).map((value) => [
      svg("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value), class: "grid" }),
      svg(
        "text",
        { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end", class: "axis" },
        tickText(value),
      ),
    ]);
    const along = ticks(from, to, width < 480 ? 3 : 6).map((value) =>
      svg("text", { x: x(value), y: bottom + 18, "text-anchor": "middle", class: "axis" }, short(value)),
    );
    return [
      across,
      along,
      svg("line", { x1: EDGE.left, x2: width - EDGE.right, y1: bottom, y2: bottom, class: "base" }),
      svg(
        "text",
        { x: (EDGE.left + width - EDGE.right) / 2, y: HEIGHT - 4, "text-anchor": "middle", class: "axis" },
        this.xLabel,
      ),
      svg(
        "text",
        {
          x: 12,
          y: (bottom + EDGE.top) / 2,
          "text-anchor": "middle",
          class: "axis",
          transform: `rotate(-90 12 ${(bottom + EDGE.top) / 2})`,
        },
        this.yLabel,
      ),
    ];
  }

  line(one, k) {
    const { x, y } = this;
    const color = this.color(one, k);
    const parts = [];
    for (const { x: at, low, high } of one.points)
      if (low !== undefined && low !== null && high !== null)
        parts.push(
          svg("line", {
            x1: x(at),
            x2: x(at),
            y1: y(low),
            y2: y(high),
            class: "whisker",
            style: { stroke: color },
          }),
        );
    const path = one.points
      .map((point, j) => `${j ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`)
      .join("");
    parts.push(svg("path", { d: path, class: "line", style: { stroke: color } }));
    if (one.points.length < 40)
      for (const point of one.points)
        parts.push(svg("circle", { cx: x(point.x), cy: y(point.y), r: 3, style: { fill: color } }));
    return parts;
  }

  /** Show the values at a position of the data; null removes them. */
  setCursor(value) {
    this.cursor = value;
    this.drawCursor();
  }

  drawCursor() {
    if (!this.layer) return;
    const { shown, cursor } = this;
    if (cursor === null || !shown.length || !this.x) {
      show(this.layer);
      setText(this.readout, "");
      return;
    }
    const marks = [],
      words = [];
    const { points } = this.longest;
    const at = points[nearest(points, cursor)].x;
    marks.push(
      svg("line", { x1: this.x(at), x2: this.x(at), y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "hair" }),
    );
    for (const one of shown) {
      const point = one.points[nearest(one.points, at)];
      const bar =
        point.low === undefined || point.low === null
          ? ""
          : ` (${number(point.low)} to ${number(point.high)})`;
      words.push(`${shown.length > 1 ? `${one.name} ` : ""}${number(point.y, 4)}${bar}`);
      marks.push(
        svg("circle", {
          cx: this.x(point.x),
          cy: this.y(point.y),
          r: 4.5,
          class: "dot",
          style: { fill: this.color(one, this.series.indexOf(one)) },
        }),
      );
    }
    show(this.layer, marks);
    setText(this.readout, `${count(at)} images: ${words.join(" · ")}`);
  }

  setZoom(range) {
    if (range && this.whole) {
      const [low, high] = this.whole;
      const from = Math.max(low, range[0]),
        to = Math.min(high, range[1]);
      const least = (high - low) / 500;
      this.zoom = to - from >= high - low - least ? null : to - from < least ? this.zoom : [from, to];
    } else this.zoom = null;
    this.draw();
  }

  /** Zoom by a factor; the value `centre` stays where it is. */
  zoomBy(factor, centre) {
    if (!this.whole) return;
    const [from, to] = this.zoom ?? this.whole;
    this.setZoom([centre - (centre - from) * factor, centre + (to - centre) * factor]);
  }
}

function short(value) {
  if (Math.abs(value) >= 1e6) return `${tickText(value / 1e6)}M`;
  return Math.abs(value) >= 1e4 ? `${tickText(value / 1e3)}k` : tickText(value);
}
