// What a user can do with a run: sample, stop, resume, evaluate, distill, train again, rename, note, delete.

import { runPath, send } from "./api.js";
import { runAddress } from "./card.js";
import { announce, button, fault, field, h, show } from "./dom.js";

/** The actions of a run, of which those that can succeed are shown; `refresh` is called after an action. */
export class Actions {
  constructor(id, mayTrain, refresh) {
    Object.assign(this, { id, mayTrain, refresh });
    const key = encodeURIComponent(id);
    this.play = h("a.button", { href: `#/play/${key}` }, "Open in the playground");
    this.again = h("a.button.quiet", { href: `#/new?like=${key}` }, "Train again like this");
    const stopping = "Stopping: it saves a checkpoint.";
    this.stop = button("Stop and save", () => this.act(this.stop, "POST", "/stop", {}, stopping));

    const input = (props) => h("input", { type: "number", inputmode: "decimal", required: true, ...props });
    this.minutes = input({ min: 0.1, step: "any", required: false, placeholder: "as planned" });
    this.resume = this.form("Resume", "Resume", [field("Minutes more", this.minutes)], (submit) => {
      const body = this.minutes.value ? { minutes: Number(this.minutes.value) } : {};
      return this.act(submit, "POST", "/resume", body, "It goes on.");
    });
    const samples = input({ min: 20, max: 50000, value: 500 });
    this.evaluate = this.form("Evaluate", "Evaluate", [field("Number of samples", samples)], (submit) =>
      this.act(submit, "POST", "/evaluate", { n: Number(samples.value) }, "The result will appear below."),
    );
    const length = input({ min: 0.1, step: "any", value: 60 });
    const hint = "Trains a student that samples in one to four steps, as a new run.";
    this.distill = this.form("Distill", "Distill", [field("Minutes", length, hint)], async (submit) => {
      const body = { minutes: Number(length.value) };
      const student = await this.act(submit, "POST", "/distill", body, "The student trains.");
      if (student) location.hash = runAddress(student.id);
    });
    this.name = h("input", { autocomplete: "off", maxlength: 200, required: true });
    this.note = h("textarea", { rows: 3, maxlength: 2000 });
    const texts = [field("Name", this.name), field("Note", this.note)];
    this.change = this.form("Rename or note", "Save", texts, async (submit) => {
      const name = this.name.value === this.short ? "" : this.name.value;
      const row = await this.act(submit, "PATCH", "", { name, note: this.note.value }, "Saved.");
      if (row && row.id !== id) location.hash = runAddress(row.id);
      this.change.open = !row;
    });
    const warning = h("p", "This deletes the checkpoints, the samples and all other files of the run.");
    this.remove = this.form("Delete", "Delete for ever", [warning], async (submit) => {
      if (await this.act(submit, "DELETE", "", {}, "Deleted.")) location.hash = "#/";
    });
    this.message = h("div.message", { role: "status" });
    const forms = [this.resume, this.evaluate, this.distill, this.change, this.remove];
    this.element = h("div.row.actions", this.play, this.stop, this.again, forms, this.message);
  }

  /** Return a folded form; browsers keep at most one of them open. */
  form(title, verb, fields, onsubmit) {
    const submit = h("button", { type: "submit" }, verb);
    const listener = (event) => {
      event.preventDefault();
      onsubmit(submit);
    };
    const content = h("form.row", { onsubmit: listener }, fields, submit);
    return h("details", { name: "action" }, h("summary", title), content);
  }

  /** Show what can be done with the run, given its details and its newest row in one object. */
  update(row) {
    const { mayTrain: may, message, name, note } = this;
    const evaluating = row.doing.includes("evaluate");
    const free = may && row.can_sample && !row.doing;
    this.short = row.name.split("/").at(-1);
    // What the user writes is kept.
    if (!this.change.open) [name.value, note.value] = [this.short, row.note];
    this.play.hidden = !row.can_sample;
    this.stop.hidden = !row.can_stop;
    this.resume.hidden = !row.can_resume;
    this.minutes.required = row.state === "finished";
    this.again.hidden = !may || !row.recipe;
    this.evaluate.hidden = !free;
    this.distill.hidden = !free || row.student;
    const busy = row.state === "running" || Boolean(row.doing);
    this.change.hidden = this.remove.hidden = !row.can_change || busy;
    // A message ends when the state changes, because what it promised has come true.
    const now = `${row.state} ${row.doing}`;
    if (this.shown !== now) show(message, evaluating && h("p.note", "It is being evaluated now."));
    this.shown = now;
  }

  /** Send a request; returns its answer, or undefined after an error, which is shown. */
  async act(submit, method, path, body, done) {
    submit.disabled = true;
    try {
      const answer = await send(method, runPath(this.id, path), body);
      show(this.message, h("p.note", done));
      announce(done);
      if (method === "POST") this.refresh();
      return answer;
    } catch (error) {
      show(this.message, fault(error.message));
      return undefined;
    } finally {
      submit.disabled = false;
    }
  }
}
