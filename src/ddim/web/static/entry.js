// One piece of work of the playground, as an entry of a notebook: tiles, progress, files, and the code that repeats it.

import { stream } from "./api.js";
import { announce, code, fault, h, newId, setText, show } from "./dom.js";
import { duration, plural } from "./format.js";
import { Tile, loadImage, tileGrid } from "./tiles.js";

/** An entry; `run` asks the server and shows each step. */
export class Entry {
  constructor(title, names, onpick) {
    this.title = title;
    this.onpick = onpick;
    this.tiles = names.map((name) => new Tile(name, onpick));
    this.bar = h("progress", { "aria-label": `Progress of: ${title}` });
    this.state = h("p", { class: "note" }, "Asking …");
    this.place = h("div", {}, tileGrid(this.tiles, title));
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

  /** Ask the server, show the steps and the result. Errors are shown here, and thrown to nobody. */
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
        path.endsWith("/samples"),
      );
    } catch (error) {
      this.fail(error);
    }
  }

  showStep({ k, of, sheet, columns }) {
    this.bar.max = of;
    this.bar.value = k;
    setText(this.state, `Step ${k} of ${of}`);
    // Only the newest sheet is drawn if the browser is slower than the server.
    this.newest = { sheet, columns };
    if (!this.drawing) this.drawing = this.drawNewest();
  }

  async drawNewest() {
    while (this.newest) {
      const { sheet, columns: told } = this.newest;
      this.newest = null;
      const columns = told ?? Math.ceil(Math.sqrt(this.tiles.length));
      const image = await loadImage(sheet).catch(() => null);
      if (image && !this.done)
        this.tiles.forEach((tile, k) =>
          tile.drawCell(image, k, columns, Math.ceil(this.tiles.length / columns)),
        );
    }
    this.drawing = null;
  }

  /** Show the files of a result; the tiles of `plain` samples can be named by their seed alone. */
  finish(result, plain) {
    this.done = true;
    this.work.remove();
    if (result.images.length !== this.tiles.length) {
      this.tiles = result.images.map(
        ({ seed, name }) => new Tile(seed === undefined ? name : `seed ${seed}`, this.onpick),
      );
      show(this.place, tileGrid(this.tiles, this.title));
    }
    result.images.forEach(({ url, seed }, k) =>
      Object.assign(this.tiles[k], { plain }).finish(
        url,
        { result: result.id, name: decodeURIComponent(url.split("/").pop()) },
        seed,
      ),
    );
    show(
      this.files,
      this.links(result),
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
      h("span", { class: "note" }, `${nfe} network evaluations an image, ${duration(seconds)}. Save:`),
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
