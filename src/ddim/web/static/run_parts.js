// The tables and pictures of a run's view.

import { h, section } from "./dom.js";
import { count, interval, moment, plural, smallIsGood, title } from "./format.js";

/** Return a table in a box that scrolls sideways; the columns from `numbers` on are numbers. */
export function table(caption, heads, rows, numbers = heads.length) {
  const side = (k) => ({ class: k >= numbers && "number" });
  return h(
    "div.wide",
    { tabindex: 0, role: "group", "aria-label": caption },
    h(
      "table",
      h("caption.hidden", caption),
      h("thead", h("tr", heads.map((head, k) => h("th", { scope: "col", ...side(k) }, head)))),
      h("tbody", rows.map((row) => h("tr", row.map((cell, k) => h("td", side(k), cell))))),
    ),
  );
}

/** Return the recipe: first the fields that differ from the named recipe, then the others, folded. */
export function recipe(fields, name) {
  const differs = ({ value, named }) => named !== null && named !== value;
  const rows = (list) =>
    list.map(({ field, value, named, help }) => [
      h("code", field),
      h("code", value),
      named === null ? "" : h("code", named),
      h("span.note", help),
    ]);
  const heads = ["Field", "This run", `Recipe ${name}`, "Meaning"];
  const differing = fields.filter(differs);
  const same = fields.filter((one) => !differs(one));
  if (!fields.length) return null;
  return section(
    "Recipe",
    differing.length
      ? table("Fields that differ from the recipe", heads, rows(differing))
      : h("p", `This run follows the recipe ${name} in every field.`),
    h(
      "details",
      h("summary", `The other ${plural(same.length, "field")}`),
      table("Other fields of the recipe", heads, rows(same)),
    ),
  );
}

/** Return the evaluations with their intervals. */
export function evaluations(list) {
  if (!list.length) return section("Evaluations", h("p.note", "Not evaluated yet."));
  const names = [...new Set(list.flatMap((one) => Object.keys(one.metrics)))];
  const rows = list.toReversed().map((one) => [
    one.name,
    h("span.when", moment(one.when)),
    [one.conditions, one.comparable ? "" : h("span.why", " Not comparable with the other runs.")],
    count(one.nfe),
    ...names.map((name) => interval(one.metrics[name])),
  ]);
  const heads = names.map((name) => `${title(name)} ${smallIsGood(name) ? "↓" : "↑"}`);
  return section(
    "Evaluations",
    table("Table of evaluations", ["Evaluation", "When", "Conditions", "NFE", ...heads], rows, 3),
    h("p.note", "In brackets: 95 % interval. ↓: smaller is better. NFE: network evaluations per image."),
  );
}

/** Return the result of the memorisation test, with the nearest pairs of sample and training image. */
export function memorisation(sentence, pairs) {
  if (!sentence) return null;
  const alt = "The samples nearest to training images, each beside its nearest training image";
  const picture = pairs && h("img.pixels.sheet", { src: pairs, loading: "lazy", alt });
  return section("Copies of training images", h("p", sentence), picture);
}

/** Return the films of a run, folded: a film is loaded and plays when it is unfolded. */
export function films(list) {
  if (!list.length) return null;
  const film = ({ name, url }) => h("img.pixels.sheet", { src: url, alt: `Film ${name}`, loading: "lazy" });
  return section("Films", list.map((one) => h("details", h("summary", one.name), film(one))));
}

/** Return the checkpoints. */
export function checkpoints(list) {
  if (!list.length) return section("Checkpoints", h("p.note", "No checkpoint yet."));
  const rows = list.map(({ name, step, images }) => [h("code", name), count(step), count(images)]);
  const heads = ["Checkpoint", "Step", "Training images"];
  return section("Checkpoints", table("Table of checkpoints", heads, rows, 1));
}
