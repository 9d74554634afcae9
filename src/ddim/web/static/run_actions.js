// What a user can do with a run: sample, stop, resume, evaluate, distill, train again, rename, note, delete.

import { runPath, send } from "./api.js";
import { runAddress } from "./card.js";
import { button, fault, field, h, setText, show } from "./dom.js";

const MINUTES = { min: 0.1, step: "any" };

/** The actions of a run, of which those that can succeed are shown; `refresh` is called after an action. */
export class Actions {
  constructor(id, mayTrain, refresh) {
    Object.assign(this, { id, mayTrain, refresh });
    const key = encodeURIComponent(id);
    this.play = h("a.button.main", { href: `#/play/${key}` }, "Open in the playground");
    this.stop = button("", () => this.act(this.stop, "Stopping …", "POST", "/stop"));
    this.again = h("a.button.quiet", { href: `#/new?like=${key}` }, "Train again like this");
    this.resume = this.ask("Resume", "minutes", "Minutes more", { ...MINUTES, placeholder: "as planned" });
    this.evaluate = this.ask("Evaluate", "n", "Number of samples", { min: 20, max: 50000, value: 500 });
    const hint = "Trains a student that samples in one to four steps, as a new run.";
    this.distill = this.ask("Distill", "minutes", "Minutes", { ...MINUTES, value: 60 }, hint);
    this.name = h("input", { autocomplete: "off", maxlength: 200, required: true });
    this.note = h("textarea", { rows: 3, maxlength: 2000 });
    const texts = [field("Name", this.name), field("Note", this.note)];
    this.change = this.form("Rename or note", "Save", texts, (submit) => {
      const name = this.name.value === this.short ? "" : this.name.value;
      return this.act(submit, "Saved.", "PATCH", "", { name, note: this.note.value });
    });
    this.warning = h("p");
    const remove = (submit) => this.act(submit, "", "DELETE");
    this.delete = this.form("Delete", "Delete for ever", this.warning, remove);
    this.delete.classList.add("danger");
    this.message = h("div.message", { role: "status" });
    this.forms = [this.resume, this.evaluate, this.distill, this.change, this.delete];
    this.element = h("div.row.actions", this.play, this.stop, this.again, this.forms, this.message);
  }

  /** Return a folded form that asks for a number and posts it. */
  ask(verb, key, label, props, hint) {
    const input = h("input", { type: "number", inputmode: "decimal", ...props });
    return this.form(verb, verb, field(label, input, hint), (submit) => {
      const body = input.value ? { [key]: Number(input.value) } : {};
      return this.act(submit, "Starting …", "POST", `/${verb.toLowerCase()}`, body);
    });
  }

  /** Return a folded form; browsers keep at most one of them open. */
  form(title, verb, fields, act) {
    const submit = h("button", { type: "submit" }, verb);
    const onsubmit = (event) => {
      event.preventDefault();
      act(submit);
    };
    return h("details", { name: "action" }, h("summary", title), h("form.row", { onsubmit }, fields, submit));
  }

  /** Show what can be done with the run, given its details and its newest row in one object. */
  update(row) {
    const busy = row.state === "running" || Boolean(row.doing);
    const evaluating = row.doing.includes("evaluate");
    const saved = row.checkpoints.length > 0;
    const free = this.mayTrain && saved && !row.doing;
    this.short = row.name.split("/").at(-1);
    setText(this.warning, `This deletes the checkpoints, samples and all other files of ${row.name}.`);
    // What the user writes is kept.
    if (!this.change.open) [this.name.value, this.note.value] = [this.short, row.note];
    this.play.hidden = !saved;
    this.stop.hidden = !this.mayTrain || !row.doing;
    setText(this.stop, evaluating ? "Stop the evaluation" : "Stop and save");
    this.resume.hidden = !free || !row.can_change || !["stopped", "finished"].includes(row.state);
    this.resume.querySelector("input").required = row.state === "finished";
    this.again.hidden = !this.mayTrain || !row.recipe;
    this.evaluate.hidden = !free;
    this.distill.hidden = !free || !row.edits.length;
    this.delete.hidden = !row.can_change || busy;
    this.change.hidden = this.delete.hidden || !row.recipe; // a run that never began has no files
    // A message ends when the state changes, because what it promised has come true, or when a command fails.
    const now = [row.state, evaluating, row.why, evaluating && row.said].join();
    const said = row.said && ` ${row.said}`;
    if (this.shown !== now) show(this.message, evaluating && h("p.note", "It is being evaluated now.", said));
    this.shown = now;
  }

  /** Send a request and show an error; then follow the run to its new address, or leave a deleted one. */
  async act(submit, said, method, path = "", body = {}) {
    submit.disabled = true;
    try {
      const { id = this.id } = await send(method, runPath(this.id, path), body);
      show(this.message, h("p.note", said));
      for (const form of this.forms) form.open = false;
      if (method === "DELETE") location.hash = "#/";
      else if (id !== this.id) location.hash = runAddress(id);
      else this.refresh();
    } catch (error) {
      show(this.message, fault(error.message));
    }
    submit.disabled = false;
  }
}
