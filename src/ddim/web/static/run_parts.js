// The tables and pictures of a run's view.

import { h, section, tick } from "./dom.js";
import { count, interval, moment, plural, smallIsGood, title } from "./format.js";

/** Return a table in a box that scrolls sideways on a narrow page, also with keys. */
export function table(caption, heads, rows, numbers = heads.length) {
  const side = (k) => (k >= numbers ? { class: "number" } : {});
  return h(
    "div",
    { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "hidden" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((head, k) => h("th", { scope: "col", ...side(k) }, head)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          row instanceof Node
            ? row
            : h(
                "tr",
                {},
                row.map((cell, k) => h("td", side(k), cell)),
              ),
        ),
      ),
    ),
  );
}

/** Return the recipe: first the fields that differ from the named recipe, then the others, folded. */
export function recipe(fields, name) {
  const line = ({ field, value, named, help }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("code", {}, field)),
      h("td", {}, h("code", {}, text(value))),
      h("td", {}, named === null ? "" : h("code", {}, text(named))),
      h("td", { class: "note" }, help ?? ""),
    );
  const differs = ({ value, named }) => named !== null && named !== value;
  const differing = fields.filter(differs),
    same = fields.filter((one) => !differs(one));
  const heads = ["Field", "This run", `Recipe ${name ?? ""}`, "Meaning"];
  return section(
    "Recipe",
    differing.length
      ? [
          h(
            "p",
            { class: "note" },
            `${plural(differing.length, "field")} of this run ${differing.length === 1 ? "differs" : "differ"} from the recipe ${name}.`,
          ),
          table("Fields that differ", heads, differing.map(line)),
        ]
      : h("p", {}, `This run follows the recipe ${name} in every field.`),
    same.length
      ? h(
          "details",
          {},
          h("summary", {}, `The other ${plural(same.length, "field")}`),
          table("Other fields", heads, same.map(line)),
        )
      : null,
  );
}

const text = (value) =>
  value === null || value === undefined
    ? "none"
    : typeof value === "object"
      ? JSON.stringify(value)
      : String(value);

/** Return the evaluations with their intervals. */
export function evaluations(list) {
  if (!list.length)
    return section(
      "Evaluations",
      h(
        "p",
        { class: "note" },
        "Not evaluated yet. ",
        h("code", {}, "ddim evaluate"),
        " measures KID and more.",
      ),
    );
  const names = [...new Set(list.flatMap((one) => Object.keys(one.metrics)))];
  const rows = [...list]
    .reverse()
    .map((one) => [
      one.name,
      h("span", { class: "when" }, moment(one.when)),
      [
        one.conditions,
        one.comparable ? "" : h("span", { class: "why" }, " Not comparable with the other runs."),
      ],
      count(one.nfe),
      ...names.map((name) => interval(one.metrics[name])),
    ]);
  const heads = [
    "Evaluation",
    "When",
    "Conditions",
    "NFE",
    ...names.map((name) => `${title(name)} ${smallIsGood(name) ? "↓" : "↑"}`),
  ];
  return section(
    "Evaluations",
    table("Evaluations", heads, rows, 3),
    h(
      "p",
      { class: "note" },
      "In brackets: 95 % interval. ↓ smaller is better, ↑ larger is better. NFE: network evaluations per image.",
    ),
  );
}

/** Return the result of the memorisation test, with the nearest pairs of sample and training image. */
export function memorisation(found) {
  if (!found) return null;
  return section(
    "Copies of training images",
    h("p", {}, found.sentence),
    found.pairs_url
      ? h(
          "figure",
          {},
          h("img", {
            class: "pixels pairs",
            src: found.pairs_url,
            loading: "lazy",
            alt: "The samples that are nearest to training images, each beside its nearest training image",
          }),
          h("figcaption", { class: "note" }, "The nearest pairs of a sample and a training image."),
        )
      : null,
  );
}

/** Return the films of a run. A film plays only after the user starts it. */
export function films(list) {
  if (!list.length) return null;
  return section(
    "Films",
    list.map(({ name, url }) => {
      const image = h("img", { class: "pixels sheet", alt: `Film ${name}`, hidden: true });
      const { element } = tick(`Show ${name}`, {
        onchange: ({ target }) => {
          image.hidden = !target.checked;
          if (target.checked) image.src = url;
        },
      });
      return h("div", {}, element, image);
    }),
  );
}

/** Return the checkpoints. */
export function checkpoints(list) {
  return section(
    "Checkpoints",
    list.length
      ? table(
          "Checkpoints",
          ["Checkpoint", "Step", "Training images"],
          list.map((one) => [h("code", {}, one.name), count(one.step), count(one.images)]),
          1,
        )
      : h("p", { class: "note" }, "No checkpoint yet."),
  );
}
