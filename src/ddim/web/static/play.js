// The playground: draws samples step by step, and edits them.

import { get, runPath } from "./api.js";
import { button, fault, field, h, menu, recall, remember, show } from "./dom.js";
import { EditPanel } from "./edit.js";
import { readFields } from "./fields.js";
import { Gallery } from "./gallery.js";
import { allRuns } from "./live.js";
import { PlayForm } from "./play_form.js";
import { fromQuery } from "./requests.js";
import { Uploads } from "./uploads.js";

const GUIDE = "Samples appear here. Choose one, or two, to see what you can do with them.";

/** The playgrounds of the runs that were shown, keyed by run. */
const benches = new Map();

/** Draw the playground of a run, by default the last one, or the run that changed last. */
export async function draw(root, { id: asked, query, about, signal }) {
  const rows = allRuns().filter((row) => row.sheet || row.id === asked);
  rows.sort((a, b) => (b.changed ?? 0) - (a.changed ?? 0));
  root.append(h("h1", "Playground"));
  const last = rows.find((row) => row.id === recall("play")) ?? rows[0];
  const id = asked || last?.id;
  if (!id) return root.append(h("p", "There is no run to sample yet: a run first needs a checkpoint."));
  remember("play", id);
  const detail = await get(runPath(id), signal);
  const open = ({ target }) => (location.hash = `#/play/${encodeURIComponent(target.value)}`);
  const run = field("Run", menu(rows.map((row) => [row.id, row.name]), { value: id, onchange: open }));
  if (!detail.checkpoints.length)
    return root.append(run, h("p", "This run has no checkpoint yet, so it cannot be sampled."));
  const facts = JSON.stringify([detail.guides, detail.class_names, detail.size, detail.steps]);
  if (benches.get(id)?.facts !== facts) benches.set(id, new Bench(detail, about.limits, facts));
  const bench = benches.get(id);
  root.append(bench.draw(run));
  const escape = ({ key }) => key === "Escape" && !document.querySelector("dialog[open]");
  addEventListener("keydown", (event) => escape(event) && bench.choose([]), { signal });
  addEventListener("focus", () => bench.refresh().catch(() => {}), { signal }); // the banner says why
  return bench.refresh(fromQuery(query));
}

/** The playground of one run: the form, the gallery, the user's images and the edits. */
class Bench {
  constructor(detail, limits, facts) {
    Object.assign(this, { key: `play-${detail.id}`, facts, chosen: [], message: h("div") });
    const dropped = (tiles) => this.choose(this.chosen.filter((tile) => !tiles.includes(tile)));
    this.gallery = new Gallery(detail, (tile) => this.pick(tile), dropped);
    this.form = new PlayForm(detail, limits, (event) => this.sample(event));
    this.panel = new EditPanel(detail, limits, this.gallery, () => this.choose([]));
    const choose = (tiles) => this.choose(tiles);
    this.uploads = detail.edits.length ? new Uploads(this.gallery, limits.upload_bytes, choose) : null;
    const kept = recall(this.key);
    if (kept) this.form.fill(kept.form);
    if (kept) this.panel.fill(kept.panel);
    for (const { element } of [this.form, this.panel]) element.addEventListener("input", () => this.keep());
  }

  draw(run) {
    const side = h("div.side", run, this.form.element, this.message, this.uploads?.element);
    return h("div.play", side, h("div", h("p.note.guide", GUIDE), this.gallery.element, this.panel.element));
  }

  /** Keep the settings for a reload. */
  keep() {
    try {
      const panel = { ...readFields(this.panel.controls), seeds: this.panel.seeds.read() };
      remember(this.key, { form: this.form.body(), panel });
    } catch {
      // The form is not finished.
    }
  }

  /** Show what the server keeps, and the settings of a request if there is one. */
  async refresh(asked = null) {
    const { results, uploads } = await get("/api/results");
    for (const upload of uploads) this.uploads?.add(upload);
    this.gallery.update(results);
    if (asked) this.offer(asked);
    this.keep();
  }

  /** Show the settings of samples, or the settings and the images of an edit, which can be repeated. */
  offer({ kind, body }) {
    if (kind === "sample") {
      this.choose([]); // the panel of edits would hide the button of samples
      return this.form.fill(body);
    }
    this.panel.fill(body);
    this.choose((body.sources ?? []).map((source) => this.gallery.find(source)).filter(Boolean));
    const whole = this.chosen.length && this.chosen.length === body.sources.length;
    const repeat = () => (whole ? this.panel.begin(kind, body) : this.gallery.start(kind, body));
    const again = button(`Repeat: ${this.gallery.titleOf(kind, body)}`, repeat);
    show(whole ? this.panel.again : this.message, again);
    if (whole) this.chosen[0].element.scrollIntoView({ block: "nearest" }); // not the seeds of samples
  }

  sample(event) {
    event.preventDefault();
    this.keep();
    show(this.message);
    try {
      this.gallery.start("sample", this.form.body());
    } catch (error) {
      show(this.message, fault(error.message));
    }
  }

  /** Choose a tile, or deselect it. At most two are chosen; a third replaces the first. */
  pick(tile) {
    const others = this.chosen.filter((one) => one !== tile);
    this.choose(others.length < this.chosen.length ? others : [...others, tile].slice(-2));
  }

  choose(tiles) {
    const mark = (tile, on) => tile.element.setAttribute("aria-pressed", String(on));
    for (const tile of this.chosen) mark(tile, false);
    for (const tile of tiles) mark(tile, true);
    this.chosen = tiles;
    this.panel.update(tiles);
  }
}
