// The form of the playground: seeds, steps, sampler, class and guidance.

import { button, field, h, menu, tick } from "./dom.js";
import { number } from "./format.js";
import { GuidanceFields, clean, numeric, optional } from "./guidance.js";
import { nextSeeds, parseSeeds } from "./seeds.js";

/** A form; `body()` returns the request, `onsubmit` and `oncancel` are called by its buttons. */
export class PlayForm {
  constructor(detail, limits, { onsubmit, oncancel }) {
    this.most = limits.images;
    this.seeds = h("input", {
      value: `0-${Math.min(16, limits.images) - 1}`,
      autocomplete: "off",
      spellcheck: "false",
      required: true,
    });
    const others = button(
      "Next",
      () => {
        this.seeds.value = nextSeeds(this.seeds.value, this.most);
      },
      { class: "quiet", "aria-label": "Next seeds" },
    );
    this.steps = numeric({
      min: 1,
      max: limits.steps,
      step: 1,
      inputmode: "numeric",
      placeholder: detail.steps,
    });
    this.guidance = new GuidanceFields(detail, unguided(detail));
    this.vector = detail.vector.map(() => numeric({ placeholder: "–" }));
    this.sampler = menu([["", `the recipe's${named(detail.sampler)}`], ...detail.samplers]);
    this.grid = menu([["", `the recipe's${named(detail.grid)}`], ...detail.grids]);
    this.eta = numeric({ min: 0, max: 1, placeholder: "the recipe's" });
    this.label = menu(labels(detail.class_names));
    this.film = tick("Make a film from noise to the samples");
    this.make = h("button", { type: "submit", class: "main" }, "Make samples");
    this.cancel = button("Cancel", oncancel, { disabled: true });
    this.element = h(
      "form",
      {
        class: "play-form",
        "aria-label": "Samples",
        onsubmit: (event) => {
          event.preventDefault();
          onsubmit();
        },
      },
      h("div", { class: "row joined" }, field("Seeds", this.seeds, "such as 0-15,40"), others),
      detail.class_names.length ? field("Class", this.label) : null,
      vectorFields(detail.vector, this.vector),
      h("div", { class: "row" }, field("Steps", this.steps), this.guidance.scale),
      this.guidance.guide,
      h(
        "details",
        {},
        h("summary", {}, "More choices"),
        field("Sampler", this.sampler),
        field("Sampling times (grid)", this.grid),
        field("Eta", this.eta, "0 deterministic, 1 as stochastic as DDPM; for ddim and dpm_solver"),
        this.guidance.interval,
        this.film.element,
      ),
      h("div", { class: "row" }, this.make, this.cancel),
    );
  }

  /** Return the body of a request; throws an Error with a sentence if a field is wrong. */
  body() {
    return clean({
      seeds: parseSeeds(this.seeds.value, this.most),
      steps: optional(this.steps),
      sampler: this.sampler.value || undefined,
      grid: this.chosenGrid(),
      fields: this.chosenFields(),
      label: this.label.value || undefined,
      vector: this.readVector(),
      ...this.guidance.body(),
      film: this.film.box.checked || undefined,
    });
  }

  /** Return the chosen grid, which edits use too; undefined for the default. */
  chosenGrid() {
    return this.grid.value || undefined;
  }

  /** Return the fields of the recipe that the form changes, as text; undefined if there are none. */
  chosenFields() {
    const eta = optional(this.eta);
    return eta === undefined ? undefined : { "sampler.eta": String(eta) };
  }

  /** Return the vector, undefined if its fields are empty; throws an Error if only some are filled. */
  readVector() {
    const numbers = this.vector.map(optional);
    const missing = numbers.filter((number) => number === undefined).length;
    if (missing === numbers.length) return undefined;
    if (missing) throw new Error("Give all numbers of the vector, or none.");
    return numbers;
  }

  /** Enable the right buttons while a request is in progress, or while none is. */
  setBusy(busy) {
    // A disabled button loses the focus, so the focus is moved first.
    const moved = busy && document.activeElement === this.make;
    this.make.disabled = busy;
    this.cancel.disabled = !busy;
    if (moved) this.cancel.focus();
    else if (!busy && document.activeElement === document.body) this.make.focus({ preventScroll: true });
  }
}

const named = (name) => (name ? ` (${name})` : "");

/** Return the text for samples without a weaker model: what guides them instead. */
function unguided({ class_names: names, vector }) {
  if (vector.length) return "this run without its vector";
  return names.length ? "this run without its class" : "nothing";
}

/** Return the fields of the vector of all images, each with its range among the training images. */
function vectorFields(columns, inputs) {
  if (!columns.length) return null;
  const range = ({ low, high }) => (low === null ? "" : `${number(low)} to ${number(high)}`);
  return h(
    "fieldset",
    { class: "vector" },
    h("legend", {}, "Vector of all images"),
    h(
      "div",
      { class: "numbers" },
      columns.map((column, k) => field(column.name, inputs[k], range(column))),
    ),
    h(
      "small",
      { class: "note" },
      "The ranges are those of the training images. If all are empty, each sample gets a training image's vector.",
    ),
  );
}

function labels(names) {
  return [
    ["", "the run's default"],
    ["all", "all classes in turn"],
    ...names.map((name) => [name, name]),
  ];
}
