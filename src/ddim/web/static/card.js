// A run in the list of runs: a card with its newest samples, or a row of a table.

import { h, setText, show, since } from "./dom.js";
import { count, duration, interval, number, plural, size, title } from "./format.js";

const SIGNS = { waiting: "…", running: "▶", stopped: "❚❚", finished: "✓", failed: "✕", damaged: "!" };
const GAP = 2; // pixels between the images of a sheet, before the sheet is enlarged

/** Return the state as a badge with a sign and a word, because not everybody can tell the colours apart. */
export function badge(state) {
  return h(`span.badge.${state}`, h("span", { "aria-hidden": "true" }, SIGNS[state] ?? ""), ` ${state}`);
}

/** Return the address of a run's view. */
export const runAddress = (id) => `#/run/${encodeURIComponent(id)}`;

/** Return "12,800 of 40,000 images" and the time that is left. */
export function progressText(row) {
  const seen = (row.total ? `${count(row.images)} of ` : "") + plural(row.total ?? row.images, "image");
  const left = row.state === "running" && row.seconds_left !== null;
  return seen + (left ? `, about ${duration(row.seconds_left)} left` : "");
}

/** Return a progress bar of a run that trains. */
export function progressBar(row) {
  const known = row.total ? { max: row.total, value: row.images } : {};
  return h("progress", { "aria-label": `Progress of ${row.name}`, ...known });
}

const describe = (row) => [row.recipe, row.data, size(row.size)].filter(Boolean).join(" · ");
const progress = (row) =>
  count(row.images) + (row.state !== "finished" && row.total ? ` of ${count(row.total)}` : "");
const kid = (row) => interval(row.metrics.kid) + (row.comparable ? "" : " (other conditions)");
const age = (row) => (row.changed ? since(row.changed) : "");
const lastChange = (row) => (row.state === "running" ? Infinity : row.changed);
const error = (key) => ({ key, title: title(key), value: (row) => row.errors[key], class: "number" });

/**
 * The columns of the table, which are also the ways to sort: `value` is what to sort by, `cell` what is shown,
 * and with `down` the largest comes first. Runs that train come first, because they change all the time.
 */
export const COLUMNS = [
  { key: "name", title: "Name", value: (row) => row.name },
  { key: "state", title: "State", value: (row) => row.state, cell: (row) => badge(row.state) },
  { key: "images", title: "Images", value: (row) => row.images, cell: progress, down: true },
  { key: "kid", title: "KID", value: (row) => (row.comparable ? row.metrics.kid?.value : null), cell: kid },
  error("image_mae"),
  error("noise_mae"),
  { key: "data", title: "Recipe and data", value: describe },
  { key: "changed", title: "Last change", value: lastChange, cell: age, down: true },
];

/** Return what a column shows of a row. */
function cellOf({ cell, value }, row) {
  if (cell) return cell(row);
  return typeof value(row) === "number" ? number(value(row)) : (value(row) ?? "");
}

/** Return a card of a run, {element, update}: `update` keeps the parts that are the same, and so the focus. */
export function makeCard(row, choice) {
  const image = h("img.pixels", { alt: "", loading: "lazy", onload: () => hideGaps(image, row.size) });
  const blank = h("span.blank");
  const address = runAddress(row.id);
  const link = h("a", { href: address });
  const state = h("span");
  const body = h("div.card-body");
  const picture = h("a.picture", { href: address, tabindex: -1, "aria-hidden": "true" }, image, blank);
  const head = h("header.title-row", h("h3", link), state);
  const element = h("article.card", picture, head, body, h("footer", choice));
  function update(row) {
    setText(link, row.name);
    show(state, badge(row.state));
    image.hidden = !row.sheet;
    if (row.sheet && image.getAttribute("src") !== row.sheet) image.src = row.sheet;
    const waiting = row.state === "running" ? "Samples appear at the first validation" : "No samples";
    setText(blank, row.sheet ? "" : waiting);
    show(
      body,
      row.state === "running" && progressBar(row),
      h("p.progress-text", progressText(row)),
      facts(row),
      row.why && h("p.why", row.why),
      row.note && h("p", row.note),
      h("p.note", describe(row), row.changed && [" · ", age(row)]),
    );
  }
  update(row);
  return { element, update };
}

function facts(row) {
  const known = COLUMNS.filter(({ key }) => key in row.metrics || key in row.errors);
  if (!known.length) return null;
  return h("dl.facts", known.map((one) => [h("dt", one.title), h("dd", cellOf(one, row))]));
}

/** Return a row of the table of runs with some of the `COLUMNS`, {element, update}. */
export function makeRow(row, choice, columns) {
  const link = h("a", { href: runAddress(row.id) });
  const note = h("small.note");
  const cells = columns.slice(1).map((column) => h("td", { class: column.class }));
  const element = h("tr", h("td", choice), h("th", { scope: "row" }, link, note), cells);
  function update(row) {
    setText(link, row.name);
    setText(note, row.note);
    element.title = row.note || row.why;
    columns.slice(1).forEach((column, k) => show(cells[k], cellOf(column, row)));
  }
  update(row);
  return { element, update };
}

/** Make the gaps between the images of a sheet transparent: they are white, which glares on a dark page. */
export function hideGaps(image, [height, width]) {
  const { naturalWidth, naturalHeight } = image;
  const fits = (whole, side, zoom) => (whole / zoom + GAP) % (side + GAP) === 0;
  for (let zoom = 1; zoom <= 64; zoom++) {
    if (!fits(naturalWidth, width, zoom) || !fits(naturalHeight, height, zoom)) continue;
    const across = stripes("90deg", width, naturalWidth / zoom);
    image.style.mask = `${across} intersect, ${stripes("180deg", height, naturalHeight / zoom)}`;
    return;
  }
}

function stripes(angle, side, whole) {
  const [end, next] = [side, side + GAP].map((pixels) => `${(100 * pixels) / whole}%`);
  return `repeating-linear-gradient(${angle}, #000 0 ${end}, transparent ${end} ${next}) content-box`;
}
