// The form of the playground: class, seeds, steps, guidance, and the sampler.

import { field, h, menu, tick } from "./dom.js";
import { GuidanceFields, STEPS, fillFields, numeric, readFields, slider } from "./fields.js";
import { number } from "./format.js";
import { SeedFields } from "./seeds.js";

/** A form; `body()` returns the request, `fill(body)` shows one, and `onsubmit` is called by its button. */
export class PlayForm {
  constructor(detail, { images: most, steps: longest }, onsubmit) {
    this.detail = detail;
    const recipes = (name) => [["", `the recipe's (${name})`]];
    const steps = slider("Steps", STEPS, { max: longest, placeholder: detail.steps });
    const film = tick("Make a film from noise to the samples");
    this.seeds = new SeedFields(most, Math.min(16, most));
    this.controls = {
      label: menu(labels(detail)),
      steps,
      sampler: menu([...recipes(detail.sampler), ...detail.samplers]),
      grid: menu([...recipes(detail.grid), ...detail.grids]),
      film: film.box,
    };
    this.eta = numeric({ min: 0, max: 1, placeholder: "the recipe's" });
    this.etaField = field("Eta", this.eta, "0 is deterministic, 1 as stochastic as DDPM");
    this.vector = detail.vector.map(() => numeric({ placeholder: "–" }));
    this.guidance = new GuidanceFields(detail.guides);
    this.element = h(
      "form.play-form",
      { "aria-label": "Samples", oninput: () => this.update(), onsubmit },
      detail.class_names.length ? field("Class", this.controls.label) : null,
      vectorFields(detail.vector, this.vector),
      this.seeds.box,
      steps.box,
      this.guidance.main,
      h(
        "details",
        h("summary", "More choices"),
        field("Sampler", this.controls.sampler),
        field("Sampling times (grid)", this.controls.grid),
        this.etaField,
        this.guidance.interval,
        film.element,
      ),
      h("div.main-row", h("button.main", { type: "submit" }, "Make samples")),
    );
    this.update();
  }

  /** Show only the fields that have an effect. */
  update() {
    const { draws_labels: drawn, can_guide: alone, sampler } = this.detail;
    this.guidance.allow(alone && (drawn || this.controls.label.value !== ""));
    this.etaField.hidden = !["ddim", "dpm_solver"].includes(this.controls.sampler.value || sampler);
  }

  /** Return the body of a request; throws an Error with a sentence if a field is wrong. */
  body() {
    const seeds = this.seeds.read();
    const fields = this.eta.value && !this.etaField.hidden ? { "sampler.eta": this.eta.value } : undefined;
    const vector = this.vector.filter((input) => input.value).map((input) => input.valueAsNumber);
    if (vector.length && vector.length < this.vector.length)
      throw new Error("Give all numbers of the vector, or none.");
    const given = { fields, vector: vector.length ? vector : undefined };
    return { seeds, ...readFields(this.controls), ...given, ...this.guidance.body() };
  }

  fill(body) {
    if (body.seeds) this.seeds.fill(body.seeds);
    fillFields(this.controls, body);
    fillFields([this.eta], [body.fields?.["sampler.eta"]]);
    fillFields(this.vector, body.vector ?? []);
    this.guidance.fill(body);
    this.update();
  }
}

/** Return the fields of the vector of all images, each with its range among the training images. */
function vectorFields(columns, inputs) {
  if (!columns.length) return null;
  const range = ({ low, high }) => `${number(low)} to ${number(high)}`;
  const legend = h("legend", "Vector of all images; if it is empty, each gets one of a training image");
  const fields = columns.map((column, k) => field(column.name, inputs[k], range(column)));
  return h("fieldset", legend, h("div.numbers", fields));
}

/** Return the classes of a menu, the default first. */
function labels({ class_names: names, draws_labels: drawn, unlabelled }) {
  if (!names.length) return [""];
  const classes = [["all", "all classes in turn"], ...names.map((name) => [name, name])];
  if (drawn) return [["", "as often as in training"], ...classes];
  return unlabelled ? [...classes, ["", "no class"]] : classes;
}
