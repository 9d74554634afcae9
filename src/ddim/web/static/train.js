// The form that starts a run. Below it stands what `ddim plan` expects of the training.

import { get, post, runPath } from "./api.js";
import { runAddress } from "./card.js";
import { button, fault, field, h, menu, newId, recall, remember, setText, show } from "./dom.js";

const CLASSES = [
  ["false", "none"],
  ["true", "one for each folder"],
  ["clusters", "clusters of similar images"],
];
const UNITS = [
  ["minutes", "minutes"],
  ["images", "training images"],
];
const PAUSE = 800; // milliseconds after the last change until the plan is made
const OWN = ["name", "data.source", "data.size", "data.labels", "minutes", "images"]; // not among the changes

/** Draw the form of a new run; `like` in the address names a run whose settings fill it. */
export async function draw(root, { query, about, signal }) {
  root.append(h("h1", "New run"));
  const why = "This server does not start trainings. Begin one with `ddim train`; it appears under Runs.";
  if (!about.may_train) return root.append(h("p", why));
  const choices = await get("/api/choices", signal);
  const like = query.get("like");
  const values = like ? readSettings(await get(runPath(like), signal), choices) : recall("new-run") ?? {};
  const form = new TrainForm(choices, about, signal);
  form.fill(query.has("data") ? { ...values, data: query.get("data") } : values);
  return root.append(form.element);
}

/** Return the values of the form that train like a run. */
function readSettings({ name, data, recipe, fields }, choices) {
  const texts = Object.fromEntries(fields.map(({ field, value }) => [field, value]));
  const [height, width] = texts["data.size"].split(",");
  const unit = texts.images === "none" ? "minutes" : "images";
  const changed = ({ field, value, named }) => named !== null && value !== named && !OWN.includes(field);
  const [classes, clusters] = texts["data.labels"].split(":");
  return {
    data: choices.data.find((one) => one.name === data)?.id,
    recipe: choices.recipes.some((one) => one.name === recipe) ? recipe : undefined,
    name: name.replace(/-\d+$/, ""),
    ...{ height, width, classes, clusters, unit, amount: texts[unit] },
    changes: fields.filter(changed).map(({ field, value }) => [field, value]),
  };
}

class TrainForm {
  constructor({ data, recipes, fields }, about, signal) {
    const number = (props) => h("input", { type: "number", min: 1, inputmode: "numeric", ...props });
    this.controls = {
      data: menu(data.map((one) => [one.id, `${one.name} (${one.kind})`])),
      name: h("input", { maxlength: 80, placeholder: "from the data and the recipe", autocomplete: "off" }),
      recipe: menu(recipes.map((one) => one.name)),
      height: number({ min: 8 }),
      width: number({ min: 8 }),
      classes: menu(CLASSES),
      clusters: number({ min: 2, value: 16 }),
      amount: number({ min: 0, step: "any", value: 10, inputmode: "decimal", required: true }),
      unit: menu(UNITS),
    };
    Object.assign(this, { recipes, signal });
    this.changes = new Changes(fields);
    this.recipeText = h("p.note");
    this.plan = h("p.plan", { role: "status" });
    this.message = h("div");
    this.start = h("button", { type: "submit" }, "Start training");
    this.clusters = field("Number of clusters", this.controls.clusters);
    this.element = h(
      "form.sheet-form",
      { oninput: () => this.update(), onsubmit: (event) => this.submit(event) },
      this.rows(about),
      this.changes.element,
      h("div.launch", this.plan, this.message, this.start),
    );
    signal.addEventListener("abort", () => clearTimeout(this.timer));
  }

  rows({ data_folder: folder }) {
    const { data, name, recipe, height, width, classes, amount, unit } = this.controls;
    const hint = folder ? `Images below ${folder}, and built-in sets` : "";
    return [
      field("Training images", data, hint),
      field("Name", name),
      h("div", field("Recipe", recipe), this.recipeText),
      h("div.row", field("Height in pixels", height), field("Width in pixels", width)),
      h("div.row", field("Classes", classes), this.clusters),
      h("div.row", field("Train for", amount), field("Unit", unit)),
    ];
  }

  /** Put values into the form; see `values`. */
  fill({ changes = [], ...values }) {
    for (const [name, value] of Object.entries(values))
      if (value !== undefined && name in this.controls) this.controls[name].value = value;
    for (const [name, value] of changes) this.changes.add(name, value);
    this.update();
  }

  values() {
    const texts = Object.entries(this.controls).map(([name, control]) => [name, control.value.trim()]);
    return { ...Object.fromEntries(texts), changes: this.changes.pairs() };
  }

  /** Return the body of the request. */
  body() {
    const { data, recipe, height, width, classes, clusters, unit, amount, changes } = this.values();
    const labels = classes === "clusters" ? `clusters:${clusters}` : classes;
    const size = height || width ? `${height || width}x${width || height}` : undefined;
    const fields = { "data.labels": labels, ...Object.fromEntries(changes) };
    return { data, recipe, size, [unit]: Number(amount), fields };
  }

  /** Show what belongs to the values, keep them, and plan the training when the user pauses. */
  update() {
    const { recipe, height, width, classes } = this.controls;
    const { text, size } = this.recipes.find((one) => one.name === recipe.value);
    setText(this.recipeText, text);
    [height.placeholder, width.placeholder] = size ?? ["", ""];
    this.clusters.hidden = classes.value !== "clusters";
    remember("new-run", this.values());
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.makePlan(), PAUSE);
  }

  async makePlan() {
    this.planning?.abort();
    if (!this.element.checkValidity()) return show(this.plan);
    this.planning = new AbortController();
    const signal = AbortSignal.any([this.planning.signal, this.signal]);
    show(this.plan, "Planning: a large set of images takes a while the first time …");
    try {
      const { verdict } = await post("/api/plans", this.body(), signal);
      show(this.plan, h("strong", "Plan: "), verdict);
    } catch (error) {
      if (error.name !== "AbortError") show(this.plan, h("span.why", error.message));
    }
    return this.plan;
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

/** The fields of the recipe that the user changes, one row each. */
class Changes {
  constructor(fields) {
    this.help = new Map(fields.map((one) => [one.field, one.help]));
    this.list = newId("fields");
    this.rows = h("div");
    this.element = h(
      "details",
      h("summary", "Change fields of the recipe"),
      this.rows,
      h("datalist", { id: this.list }, fields.map((one) => h("option", { value: one.field }))),
      button("Add a field", () => this.add().focus(), { class: "quiet" }),
    );
  }

  add(path = "", text = "") {
    const explain = () => setText(note, this.help.get(name.value) ?? "");
    const name = h("input", { list: this.list, autocomplete: "off", value: path, oninput: explain });
    const value = h("input", { value: text });
    const note = h("small.note");
    const drop = button("Remove", () => row.remove(), { class: "quiet" });
    const row = h("div.row.change", field("Field", name), field("Value", value), drop, note);
    this.rows.append(row);
    this.element.open = true;
    explain();
    return name;
  }

  pairs() {
    const inputs = [...this.rows.children].map((row) => [...row.querySelectorAll("input")]);
    return inputs.map((pair) => pair.map((input) => input.value.trim())).filter(([name]) => name);
  }
}
