// The form that starts a run.

import { get, post } from "./api.js";
import { runAddress } from "./card.js";
import { button, fault, field, h, menu, newId, show } from "./dom.js";

/** Draw the form of a new run. */
export async function draw(root, { about, signal }) {
  root.append(h("h1", {}, "New run"));
  if (!about.may_train)
    return root.append(
      h("p", {}, "This server does not start trainings. Begin one with `ddim train`; it appears under Runs."),
    );
  const { data: entries, recipes, fields } = await get("/api/choices", signal);
  const data = menu(entries.map((one) => [one.id, `${one.name} (${one.kind})`]));
  const recipe = menu(recipes.map((one) => [one.name, one.name]));
  const about_recipe = h("p", { class: "note" });
  const describe = () => show(about_recipe, recipes.find((one) => one.name === recipe.value)?.text ?? "");
  recipe.addEventListener("change", describe);
  describe();
  const size = h("input", {
    type: "number",
    min: 8,
    step: 8,
    inputmode: "numeric",
    placeholder: "the recipe's",
  });
  const unit = menu([
    ["minutes", "minutes"],
    ["images", "training images"],
  ]);
  const amount = h("input", {
    type: "number",
    min: 0,
    step: "any",
    value: 10,
    inputmode: "decimal",
    required: true,
  });
  const changes = new Changes(fields);
  const message = h("div", {});
  const start = h("button", { type: "submit" }, "Start training");
  const form = h(
    "form",
    {
      class: "sheet-form",
      onsubmit: async (event) => {
        event.preventDefault();
        start.disabled = true;
        show(message);
        try {
          const body = {
            data: data.value,
            recipe: recipe.value,
            [unit.value]: Number(amount.value),
            fields: changes.values(),
          };
          if (size.value) body.size = Number(size.value);
          const { id } = await post("/api/runs", body, signal);
          location.hash = runAddress(id);
        } catch (error) {
          if (error.name !== "AbortError") show(message, fault(error.message));
          start.disabled = false;
        }
      },
    },
    field(
      "Training images",
      data,
      about.data_folder
        ? `Images below ${about.data_folder}, and built-in sets`
        : "Built-in sets; more with the option --data",
    ),
    h("div", {}, field("Recipe", recipe), about_recipe),
    field("Size of the samples in pixels", size),
    h(
      "fieldset",
      {},
      h("legend", {}, "Length"),
      h("div", { class: "row" }, field("Train for", amount), field("Unit", unit)),
    ),
    changes.element,
    message,
    h("div", { class: "row" }, start),
  );
  if (!entries.length)
    show(
      message,
      h("p", { class: "why" }, "There are no training images. Start the server with --data FOLDER."),
    );
  return root.append(form);
}

/** The fields of the recipe that the user changes, one row each. */
class Changes {
  constructor(fields) {
    this.help = new Map(fields.map((one) => [one.field, one.help]));
    this.list = newId("fields");
    this.rows = h("div", {});
    this.element = h(
      "details",
      {},
      h("summary", {}, "Change fields of the recipe"),
      this.rows,
      h(
        "datalist",
        { id: this.list },
        fields.map((one) => h("option", { value: one.field })),
      ),
      button("Add a field", () => this.add().focus(), { class: "quiet" }),
    );
    this.add();
  }

  add() {
    const note = h("small", { class: "note" });
    const name = h("input", {
      list: this.list,
      autocomplete: "off",
      oninput: () => show(note, this.help.get(name.value) ?? ""),
    });
    const value = h("input", {});
    const row = h(
      "div",
      { class: "row change" },
      field("Field", name),
      field("Value", value),
      button("Remove", () => row.remove(), { class: "quiet" }),
      note,
    );
    this.rows.append(row);
    return name;
  }

  values() {
    const pairs = [...this.rows.children].map((row) =>
      [...row.querySelectorAll("input")].map((input) => input.value.trim()),
    );
    return Object.fromEntries(pairs.filter(([name]) => name));
  }
}
