// One request of the playground, shown like a notebook cell: tiles, progress, files, and the code that
// repeats it.

import { stream } from "./api.js";
import { announce, code, fault, h, newId, setText, show } from "./dom.js";
import { duration, plural } from "./format.js";
import { Tile, drawSheet, tileGrid } from "./tiles.js";

/** An entry; `run` sends the request and shows each step. */
export class Entry {
  /**
   * `size` is [height, width] of an image; `row` puts all tiles into one row; `onpick(tile)` is called when the
   * user clicks a tile.
   */
  constructor(title, names, size, row, onpick) {
    Object.assign(this, { title, size, row, onpick });
    this.tiles = names.map((name) => new Tile(name, onpick));
    this.bar = h("progress", { "aria-label": `Progress of: ${title}` });
    this.state = h("p", { class: "note" }, "Asking …");
    this.place = h("div", {}, tileGrid(this.tiles, title, row));
    this.work = h("div", { class: "work" }, this.bar, this.state);
    this.files = h("div", { class: "files" });
    const heading = h("h2", { id: newId("entry"), tabindex: -1 }, title);
    this.element = h(
      "article",
      { class: "entry", "aria-labelledby": heading.id },
      heading,
      this.work,
      this.place,
      this.files,
    );
  }

  /** Send the request, and show its steps and its result. Errors are shown here and not thrown. */
  async run(path, body, signal) {
    announce(`${this.title}: started`);
    try {
      this.finish(
        await stream(
          path,
          body,
          {
            queued: ({ ahead }) =>
              setText(
                this.state,
                ahead ? `Waiting: ${plural(ahead, "request")} ahead` : "Loading the model …",
              ),
            step: (step) => this.showStep(step),
          },
          signal,
        ),
        path.endsWith("/samples") ? body : null,
      );
    } catch (error) {
      this.fail(error);
    }
  }

  showStep(step) {
    this.bar.max = step.of;
    this.bar.value = step.k;
    setText(this.state, `${Math.round((100 * step.k) / step.of)} % of the network evaluations`);
    // If the browser is slower than the server, only the newest sheet is drawn.
    this.newest = step;
    if (!this.drawing) this.drawing = this.drawNewest();
  }

  async drawNewest() {
    while (this.newest) {
      const step = this.newest;
      this.newest = null;
      await drawSheet(this.tiles, step, this.size).catch(() => {}); // the next step draws all anew
    }
    this.drawing = null;
  }

  /**
   * Show the files of a result. `sampled` is the request if the result consists of samples, else undefined.
   */
  finish(result, sampled) {
    this.done = true;
    this.work.remove();
    if (result.images.length !== this.tiles.length) {
      this.tiles = result.images.map(({ name }) => new Tile(name.replace(/\.\w+$/, ""), this.onpick));
      show(this.place, tileGrid(this.tiles, this.title, this.row));
    }
    result.images.forEach(({ url, file, name, seed }, k) => {
      this.tiles[k].seed = result.seeded ? seed : undefined;
      this.tiles[k].options = sampled;
      this.tiles[k].finish(url, { result: result.id, name }, file);
    });
    show(
      this.files,
      this.links(result),
      (result.notes ?? []).map((note) => h("p", { class: "note" }, note)),
      h(
        "details",
        {},
        h("summary", {}, "Repeat this elsewhere"),
        code("Command line", result.command),
        code("Python", result.python),
      ),
    );
    announce(`${this.title}: ready after ${duration(result.seconds)}`);
  }

  links({ sheet, film, record, archive, nfe, seconds }) {
    const link = (url, text) => url && h("a", { href: url, download: "" }, text);
    return h(
      "p",
      { class: "row links" },
      h("span", { class: "note" }, `${nfe} network evaluation${nfe === 1 ? "" : "s"} an image, ${duration(seconds)}. Save:`),
      link(sheet, "sheet"),
      link(archive, "all (zip)"),
      link(record, "record"),
      link(film, "film"),
    );
  }

  fail(error) {
    this.done = true;
    const cancelled = error.name === "AbortError";
    this.element.classList.add("ended");
    this.place.remove();
    show(
      this.work,
      cancelled ? h("p", { class: "note", role: "status" }, "Cancelled.") : fault(error.message),
    );
    if (cancelled) announce(`${this.title}: cancelled`);
  }
}
