// The card of a run: its newest samples, its state, its progress and its numbers.

import { h, setText, show, tick } from "./dom.js";
import { ago, count, duration, interval, number, plural, size, title } from "./format.js";

const SIGNS = { waiting: "…", running: "▶", stopped: "❚❚", finished: "✓", failed: "✕", damaged: "!" };

/**
 * Return the state of a run as a badge with a sign and a word, because not everybody can tell the colours
 * apart.
 */
export function badge(state) {
  return h(
    "span",
    { class: `badge ${state}` },
    h("span", { "aria-hidden": "true" }, SIGNS[state] ?? ""),
    ` ${state}`,
  );
}

/** Return the address of a run's view. */
export const runAddress = (id) => `#/run/${encodeURIComponent(id)}`;

/** Return "12,800 of 40,000 images" and the time that is left. */
export function progressText(row) {
  const seen = row.total
    ? `${count(row.images)} of ${plural(row.total, "image")}`
    : plural(row.images, "image");
  const left =
    row.state === "running" && row.seconds_left !== null ? `, about ${duration(row.seconds_left)} left` : "";
  return seen + left;
}

/** Return a progress bar of a run that trains. */
export function progressBar(row) {
  const props = { "aria-label": `Progress of ${row.name}` };
  return row.total ? h("progress", { ...props, max: row.total, value: row.images }) : h("progress", props);
}

/**
 * The card of a run; `update(row)` changes only the parts that differ, so that the focus and the picture stay.
 */
export class Card {
  constructor(row, onpick) {
    this.image = h("img", { class: "pixels", alt: "", loading: "lazy" });
    this.blank = h("span", { class: "blank" });
    this.picture = h(
      "a",
      { class: "picture", href: runAddress(row.id), tabindex: -1, "aria-hidden": "true" },
      this.image,
      this.blank,
    );
    this.link = h("a", { href: runAddress(row.id) });
    this.body = h("div", { class: "card-body" });
    const { box, element } = tick("Compare", {
      onchange: () => onpick(row.id, box.checked),
      "aria-label": `Compare ${row.name}`,
    });
    this.box = box;
    this.state = h("span", {});
    this.element = h(
      "article",
      { class: "card" },
      this.picture,
      h("header", {}, h("h3", {}, this.link), this.state),
      this.body,
      h("footer", {}, element),
    );
    this.update(row);
  }

  update(row) {
    this.row = row;
    setText(this.link, row.name);
    show(this.state, badge(row.state));
    this.image.hidden = !row.sheet;
    this.blank.hidden = Boolean(row.sheet);
    setText(
      this.blank,
      row.sheet ? "" : row.state === "running" ? "Samples appear at the first validation" : "No samples",
    );
    if (row.sheet && this.image.getAttribute("src") !== row.sheet) this.image.src = row.sheet;
    show(
      this.body,
      h("p", { class: "note" }, [row.recipe, row.data, size(row.size)].filter(Boolean).join(" · ")),
      row.state === "running" ? progressBar(row) : null,
      h("p", { class: "progress-text" }, progressText(row)),
      facts(row),
      row.why ? h("p", { class: "why" }, row.why) : null,
      h("p", { class: "note" }, row.changed ? `Changed ${ago(row.changed)}` : ""),
    );
  }
}

function facts(row) {
  const entries = Object.entries(row.errors)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => [title(name), number(value)]);
  if (row.metrics.kid) {
    const mark = row.comparable ? "" : " (other conditions)";
    entries.unshift(["KID", interval(row.metrics.kid) + mark]);
  }
  if (!entries.length) return null;
  return h(
    "dl",
    { class: "facts" },
    entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}
