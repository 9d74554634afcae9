// The form that starts a run. Below it stands what `ddim plan` expects of the training.

import { get, post, runPath } from "./api.js";
import { runAddress } from "./card.js";
import { fault, field, h, menu, recall, remember, setText, show } from "./dom.js";
import { allRuns } from "./live.js";

const CLASSES = { false: "none", true: "one for each folder", clusters: "clusters of similar images" };
const UNITS = { minutes: "minutes", images: "training images" };
// The fields of a recipe that have controls of their own, or follow from the images.
const OWN = /^(name|data\.(source|size|labels)|net\.(classes|vector)|minutes|images)$/;
const PAUSE = 800; // milliseconds after the last change until the plan is made

/** Draw the form of a new run; `like` in the address names a run whose settings fill it. */
export async function draw(root, { query, about, signal }) {
  root.append(h("h1", "New run"));
  const why = "This server does not start trainings. Begin one with `ddim train`; it appears under Runs.";
  if (!about.may_train) return root.append(h("p", why));
  const choices = await get("/api/choices", signal);
  const like = query.get("like");
  const values = like ? readSettings(await get(runPath(like), signal), choices) : recall("new-run");
  const form = new TrainForm(choices, about, signal);
  form.fill({ ...values, ...(query.has("data") && { data: query.get("data") }) });
  const lost = "The images of this run are not among those above; choose others.";
  if (like && !values.data) show(form.message, h("p.why", lost));
  return root.append(form.element);
}

/** Return the values of the form that train like a run. */
function readSettings({ name, data, recipe, fields, total }, choices) {
  const texts = Object.fromEntries(fields.map(({ field, value }) => [field, value]));
  const [height, width] = texts["data.size"].split(",");
  const [classes, clusters] = texts["data.labels"].split(":");
  const unit = texts.images === "none" ? "minutes" : "images";
  const differs = ({ field, value, named }) => (named ?? value) !== value && !OWN.test(field);
  return {
    data: choices.data.find((one) => one.name === data)?.id,
    recipe: choices.recipes.find((one) => one.name === recipe)?.name,
    // A run that was trained longer has more images than its recipe.
    ...{ name, height, width, classes, clusters, unit, amount: unit === "images" ? total : texts.minutes },
    changes: fields.filter(differs).map(({ field, value }) => `${field}=${value}`).join("\n"),
  };
}

class TrainForm {
  constructor({ data, recipes, fields }, about, signal) {
    Object.assign(this, { data, recipes, signal });
    const number = (props) => h("input", { type: "number", inputmode: "numeric", ...props });
    this.controls = {
      data: menu(data.map((one) => [one.id, `${one.name} (${one.kind})`])),
      name: h("input", { maxlength: 80, placeholder: "from the data and the recipe", autocomplete: "off" }),
      recipe: menu(recipes.map((one) => one.name)),
      height: number({ min: 8 }),
      width: number({ min: 8 }),
      classes: menu(Object.entries(CLASSES)),
      clusters: number({ min: 2, value: 16 }),
      amount: number({ min: 0, step: "any", value: 10, inputmode: "decimal", required: true }),
      unit: menu(Object.entries(UNITS)),
      changes: h("textarea", { rows: 3, spellcheck: "false", placeholder: "optim.lr=0.002" }),
    };
    this.recipeText = h("p.note");
    this.final = h("p.note");
    this.clusters = field("Number of clusters", this.controls.clusters);
    this.changes = this.makeChanges(fields);
    this.plan = h("p.plan", { role: "status" });
    this.message = h("div");
    this.start = h("button", { type: "submit" }, "Start training");
    const act = { oninput: () => this.update(), onsubmit: (event) => this.submit(event) };
    const launch = h("div", this.plan, this.message, this.start);
    this.element = h("form.sheet-form", act, this.rows(about), this.changes, launch);
    signal.addEventListener("abort", () => clearTimeout(this.timer));
  }

  rows({ data_folder: folder }) {
    const { data, name, recipe, height, width, classes, amount, unit } = this.controls;
    return [
      field("Training images", data, folder && `Images below ${folder}, and built-in sets`),
      h("div", field("Name", name), this.final),
      h("div", field("Recipe", recipe), this.recipeText),
      h("div.row", field("Height in pixels", height), field("Width in pixels", width)),
      h("div.row", field("Classes", classes), this.clusters),
      h("div.row", field("Train for", amount), field("Unit", unit)),
    ];
  }

  /** Return the fields of the recipe that the user changes, and a menu of all of them. */
  makeChanges(fields) {
    const { changes } = this.controls;
    const help = h("small.note");
    const add = ({ target }) => {
      const chosen = fields.find((one) => one.field === target.value);
      changes.value = `${changes.value.trim()}\n${chosen.field}=${chosen.value}`.trim();
      setText(help, chosen.help);
      target.value = "";
      changes.focus();
    };
    const known = menu([["", ""], ...fields.map((one) => one.field)], { onchange: add });
    const inputs = [field("Add a field", known), help, field("Changed fields, one a line", changes)];
    return h("details", h("summary", "Change fields of the recipe"), inputs);
  }

  fill(values) {
    for (const [name, value] of Object.entries(values)) if (value) this.controls[name].value = value;
    this.controls.data.value ||= this.data[0].id;
    this.changes.open = Boolean(values.changes);
    this.update();
  }

  /** Return the text of each control. */
  values() {
    return Object.fromEntries(Object.entries(this.controls).map(([name, { value }]) => [name, value.trim()]));
  }

  /** Return the body of the request. */
  body() {
    const { data, recipe, height, width, classes, clusters, unit, amount, changes } = this.values();
    const size = height || width ? `${height || width}x${width || height}` : undefined;
    const labels = classes === "clusters" ? `clusters:${clusters}` : classes;
    const lines = changes.split("\n").filter(Boolean);
    const pairs = lines.map((line) => line.split(/\s*=\s*(.*)/).slice(0, 2));
    const fields = { "data.labels": labels, ...Object.fromEntries(pairs) };
    return { data, recipe, size, [unit]: Number(amount), fields };
  }

  /** Return the name that the server gives the run: a free name stays, else it ends in the next number. */
  finalName({ name, data, recipe }) {
    const names = allRuns().map((row) => row.name);
    if (name && !names.includes(name)) return name;
    const { name: images } = this.data.find((one) => one.id === data);
    const stem = name ? name.replace(/-\d+$/, "") : `${images.replace(/\.[^.]*$/, "")}-${recipe}`;
    const ends = names.filter((one) => one.startsWith(`${stem}-`)).map((one) => one.slice(stem.length + 1));
    return `${stem}-${Math.max(0, ...ends.filter((end) => /^\d+$/.test(end))) + 1}`;
  }

  /** Show what belongs to the values, keep them, and plan the training when the user pauses. */
  update() {
    const { recipe, height, width, classes } = this.controls;
    const { text, size } = this.recipes.find((one) => one.name === recipe.value);
    setText(this.recipeText, text);
    setText(this.final, `The run will be named ${this.finalName(this.values())}`);
    height.placeholder = width.value || size[0];
    width.placeholder = height.value || size[1];
    this.clusters.hidden = classes.value !== "clusters";
    remember("new-run", this.values());
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.makePlan(), PAUSE);
  }

  async makePlan() {
    this.planning?.abort();
    show(this.plan);
    if (!this.element.checkValidity()) return;
    this.planning = new AbortController();
    const signal = AbortSignal.any([this.planning.signal, this.signal]);
    const { text } = this.controls.data.selectedOptions[0];
    show(this.plan, `Planning with ${text}: a large set of images takes a while the first time …`);
    try {
      const { verdict } = await post("/api/plans", this.body(), signal);
      show(this.plan, h("strong", "Plan: "), verdict);
    } catch (error) {
      if (error.name !== "AbortError") show(this.plan, h("span.why", error.message));
    }
  }

  async submit(event) {
    event.preventDefault();
    this.start.disabled = true;
    show(this.message, h("p", { role: "status" }, "Starting …"));
    try {
      const name = encodeURIComponent(this.controls.name.value.trim());
      const { id } = await post(`/api/runs?name=${name}`, this.body(), this.signal);
      location.hash = runAddress(id);
    } catch (error) {
      if (error.name !== "AbortError") show(this.message, fault(error.message));
      this.start.disabled = false;
    }
  }
}
