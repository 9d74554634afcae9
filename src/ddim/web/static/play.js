// The playground: draws samples step by step, and edits them.

import { get, runPath } from "./api.js";
import { fault, field, h, menu, show } from "./dom.js";
import { EditPanel } from "./edit.js";
import { Entry } from "./entry.js";
import { plural } from "./format.js";
import { allRuns } from "./live.js";
import { PlayForm } from "./play_form.js";
import { Uploads } from "./uploads.js";

/** Draw the playground of a run, by default the run that changed last. */
export async function draw(root, { id: asked, about, signal }) {
  const rows = allRuns()
    .filter((row) => row.sheet || row.id === asked)
    .sort((a, b) => (b.changed ?? 0) - (a.changed ?? 0));
  root.append(h("h1", {}, "Playground"));
  const id = asked || rows[0]?.id;
  if (!id)
    return root.append(
      h("p", {}, "There is no run to sample from yet. A run can be sampled once it has saved a checkpoint."),
    );
  const detail = await get(runPath(id), signal);
  const choice = menu(
    rows.map((row) => [row.id, row.name]),
    {
      value: id,
      onchange: () => {
        location.hash = `#/play/${encodeURIComponent(choice.value)}`;
      },
    },
  );
  const side = h("div", { class: "side" }, field("Run", choice));
  if (!detail.can_sample) {
    root.append(side, h("p", {}, "This run has no checkpoint yet, so it cannot be sampled."));
    return root;
  }
  const bench = new Bench(id, detail, about, signal);
  side.append(bench.form.element, bench.message, bench.uploads.element);
  root.append(
    h("div", { class: "play" }, side, h("div", { class: "notebook" }, bench.guide, bench.list)),
    bench.panel.element,
  );
  return root;
}

/** The state of the playground: the chosen tiles, the entries, and the request in progress. */
class Bench {
  constructor(id, detail, about, signal) {
    Object.assign(this, { id, signal, size: detail.size ?? [64, 64], chosen: [], job: null });
    this.message = h("div", {});
    this.list = h("div", { class: "entries" });
    this.guide = h(
      "p",
      { class: "note guide" },
      "Samples appear here. Choose one to vary, inpaint or invert it; choose two to interpolate between them.",
    );
    this.form = new PlayForm(detail, about.limits, {
      onsubmit: () => this.sample(),
      oncancel: () => this.job?.abort(),
    });
    this.panel = new EditPanel({
      detail,
      limits: about.limits,
      onedit: (...edit) => this.edit(...edit),
      onclear: () => this.choose([]),
      signal,
    });
    this.uploads = new Uploads(about.limits.upload_bytes, detail.size, (tile) => this.pick(tile), signal);
    signal.addEventListener("abort", () => this.job?.abort());
  }

  sample() {
    let body;
    try {
      body = this.form.body();
    } catch (error) {
      return show(this.message, fault(error.message));
    }
    return this.start(
      plural(body.seeds.length, "sample"),
      body.seeds.map((seed) => `seed ${seed}`),
      "/samples",
      body,
    );
  }

  /** Start an edit with the grid of the form. */
  edit(kind, title, names, body) {
    const grid = this.form.chosenGrid();
    return this.start(title, names, `/edits/${kind}`, grid ? { ...body, fields: { grid } } : body);
  }

  /** Start a request. While it is in progress, further clicks are ignored. */
  async start(title, names, path, body) {
    if (this.job) return;
    show(this.message);
    this.guide.hidden = true;
    this.job = new AbortController();
    this.setBusy(true);
    const entry = new Entry(title, names, this.size, path.startsWith("/edits"), (tile) => this.pick(tile));
    this.list.prepend(entry.element);
    entry.element.scrollIntoView({ block: "nearest" });
    await entry.run(runPath(this.id, path), body, this.job.signal);
    this.job = null;
    this.setBusy(false);
  }

  setBusy(busy) {
    this.form.setBusy(busy);
    this.panel.setBusy(busy);
  }

  /** Choose a tile, or deselect it. At most two are chosen; a third replaces the first. */
  pick(tile) {
    this.choose(
      this.chosen.includes(tile)
        ? this.chosen.filter((one) => one !== tile)
        : [...this.chosen, tile].slice(-2),
    );
  }

  choose(tiles) {
    for (const tile of this.chosen) tile.chosen = false;
    for (const tile of tiles) tile.chosen = true;
    this.chosen = tiles;
    this.panel.update(tiles);
  }
}
