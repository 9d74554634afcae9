// Handle pointer, wheel and key events of a chart.

import { svg } from "./dom.js";
import { EDGE, HEIGHT, nearest } from "./scale.js";

/** Listen to the events of a `Chart`. */
export function listenTo(chart) {
  const area = chart.svg;
  listenToDrag(chart, area);
  area.addEventListener("dblclick", () => chart.setZoom(null));
  // The wheel zooms only after the chart has the focus; before, it scrolls the page as usual.
  area.addEventListener(
    "wheel",
    (event) => {
      if (!chart.x || (document.activeElement !== area && !event.ctrlKey)) return;
      event.preventDefault();
      chart.zoomBy(event.deltaY > 0 ? 1.25 : 0.8, chart.x.back(position(chart, event)));
    },
    { passive: false },
  );
  area.addEventListener("keydown", (event) => act(chart, event));
}

function listenToDrag(chart, area) {
  let start = null;
  const frame = svg("rect", { class: "frame", y: EDGE.top, height: HEIGHT - EDGE.top - EDGE.bottom });
  area.addEventListener("pointerdown", (event) => {
    if (event.button || !chart.x) return;
    start = position(chart, event);
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointermove", (event) => {
    if (!chart.x) return;
    const here = position(chart, event);
    if (start !== null && Math.abs(here - start) > 4) {
      frame.setAttribute("x", Math.min(start, here));
      frame.setAttribute("width", Math.abs(here - start));
      if (frame.parentNode !== area) area.append(frame);
    }
    chart.setCursor(chart.x.back(here));
  });
  const end = (event) => {
    const here = position(chart, event);
    frame.remove();
    // A drag of a few pixels is a click.
    if (start !== null && chart.x && event.type === "pointerup" && Math.abs(here - start) > 8)
      chart.setZoom([chart.x.back(Math.min(start, here)), chart.x.back(Math.max(start, here))]);
    start = null;
  };
  area.addEventListener("pointerup", end);
  area.addEventListener("pointercancel", end);
  area.addEventListener("pointerleave", () => {
    if (start === null) chart.setCursor(null);
  });
}

/** Return the position of an event in the units of the SVG. */
function position(chart, event) {
  const box = chart.svg.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * chart.width;
}

function act(chart, event) {
  if (!chart.whole || event.altKey || event.metaKey || event.ctrlKey) return;
  const [from, to] = chart.zoom ?? chart.whole;
  const centre = chart.cursor ?? (from + to) / 2;
  if (event.key === "ArrowLeft") step(chart, -1);
  else if (event.key === "ArrowRight") step(chart, 1);
  else if (event.key === "+" || event.key === "=") chart.zoomBy(0.6, centre);
  else if (event.key === "-") chart.zoomBy(1 / 0.6, centre);
  else if (event.key === "0" || event.key === "Escape") chart.setZoom(null);
  else return;
  event.preventDefault();
}

/** Move the cursor by `by` points of the longest line; a zoomed chart scrolls with it. */
function step(chart, by) {
  if (!chart.shown.length) return;
  const { points } = chart.longest;
  const now = chart.cursor === null ? (by > 0 ? -1 : points.length) : nearest(points, chart.cursor);
  const { x } = points[Math.min(points.length - 1, Math.max(0, now + by))];
  if (chart.zoom && (x < chart.zoom[0] || x > chart.zoom[1])) {
    const half = (chart.zoom[1] - chart.zoom[0]) / 2;
    chart.setZoom([x - half, x + half]);
  }
  chart.setCursor(x);
}
