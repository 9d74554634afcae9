// The form of the playground: class, seeds, steps, guidance, and the sampler.

import { button, field, h, menu, tick } from "./dom.js";
import { GuidanceFields, STEPS, evenly, fillFields, numeric, readFields, slider } from "./fields.js";
import { number } from "./format.js";
import { parseSeeds, writeSeeds } from "./seeds.js";

const random = () => Math.floor(Math.random() * 100_000);

/** A form; `body()` returns the request, `fill(body)` shows one, and `onsubmit` is called by its button. */
export class PlayForm {
  constructor(detail, { images: most, steps: longest }, onsubmit) {
    Object.assign(this, { detail, most });
    const start = Math.min(16, most);
    const recipes = (name) => [["", `the recipe's (${name})`]];
    const steps = slider("Steps", STEPS, { max: longest, placeholder: detail.steps });
    const film = tick("Make a film from noise to the samples");
    this.count = slider("Images", evenly(1, most), { value: start });
    this.seeds = h("input", { value: `0-${start - 1}`, autocomplete: "off", required: true });
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
      { "aria-label": "Samples", oninput: ({ target }) => this.update(target), onsubmit },
      detail.class_names.length ? field("Class", this.controls.label) : null,
      vectorFields(detail.vector, this.vector),
      this.count.box,
      h(
        "div.row.joined",
        field("Seeds, such as 0-15,40", this.seeds),
        button("⚄", () => this.writeSeeds(random()), { "aria-label": "Other seeds", title: "Other seeds" }),
      ),
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

  /** Show only the fields that have an effect; `changed` is the one that the user has changed. */
  update(changed) {
    if (changed === this.count) this.writeSeeds(Number(/\d+/.exec(this.seeds.value) ?? 0));
    if (changed === this.seeds) this.showCount();
    const { draws_labels: drawn, can_guide: alone, sampler } = this.detail;
    this.guidance.allow(alone && (drawn || this.controls.label.value !== ""));
    this.etaField.hidden = !["ddim", "dpm_solver"].includes(this.controls.sampler.value || sampler);
  }

  /** Write as many seeds as the user wants, from a first one on. */
  writeSeeds(first) {
    const { valueAsNumber: n, validity } = this.count;
    if (n && validity.valid) this.seeds.value = writeSeeds(evenly(first, first + n - 1));
  }

  showCount() {
    try {
      fillFields([this.count], [parseSeeds(this.seeds.value, this.most).length]);
    } catch {
      // The user has not finished typing; `body` complains.
    }
  }

  /** Return the body of a request; throws an Error with a sentence if a field is wrong. */
  body() {
    const seeds = parseSeeds(this.seeds.value, this.most);
    const fields = this.eta.value && !this.etaField.hidden ? { "sampler.eta": this.eta.value } : undefined;
    const vector = this.vector.filter((input) => input.value).map((input) => input.valueAsNumber);
    if (vector.length && vector.length < this.vector.length)
      throw new Error("Give all numbers of the vector, or none.");
    const given = { fields, vector: vector.length ? vector : undefined };
    return { seeds, ...readFields(this.controls), ...given, ...this.guidance.body() };
  }

  fill(body) {
    if (body.seeds) this.seeds.value = writeSeeds(body.seeds);
    this.showCount();
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
  const range = ({ low, high }) => (low === null ? "" : `${number(low)} to ${number(high)}`);
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
