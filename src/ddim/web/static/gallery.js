// The gallery of the playground: results. It lives as long as the page, so its work goes on in other views.

import { post, remove, runPath, stream } from "./api.js";
import { announce, button, code, fault, h, newId, setText, show } from "./dom.js";
import { duration, plural } from "./format.js";
import { captions, describe, title, toAddress } from "./requests.js";
import { Tile, drawSheet } from "./tiles.js";
import { openViewer } from "./viewer.js";

/** The results of a run, the newest first. */
export class Gallery {
  /** `onpick(tile)` is called when the user clicks a tile, and `ondrop(tiles)` when tiles are removed. */
  constructor({ id, size }, onpick, ondrop) {
    Object.assign(this, { run: id, size, onpick, ondrop, entries: [], uploads: [] });
    this.element = h("div.entries");
    addEventListener("beforeunload", (event) => {
      if (this.busy) event.preventDefault(); // the browser asks the user
    });
  }

  get busy() {
    return this.entries.some((entry) => entry.job);
  }

  /** Show the results that the server keeps, for example after a reload or work in another tab. */
  update(results) {
    if (this.busy) return; // the result of a request in progress comes with its answer
    const kept = results.filter((result) => result.run === this.run);
    const ids = new Set(kept.map(({ id }) => id));
    for (const entry of this.entries.filter(({ id }) => id && !ids.has(id))) entry.end();
    for (const result of kept)
      if (!this.entries.some(({ id }) => id === result.id))
        this.add(new Entry(this, result.kind, result.request)).finish(result);
  }

  add(entry) {
    this.entries.unshift(entry);
    this.element.prepend(entry.element);
    return entry;
  }

  drop(entry) {
    this.entries = this.entries.filter((one) => one !== entry);
    entry.element.remove();
    this.ondrop(entry.tiles);
  }

  /** Start a request, unless the same one is in progress. */
  start(kind, given) {
    const body = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
    const address = toAddress(this.run, kind, body);
    const same = this.entries.find((entry) => entry.job && entry.address === address);
    const entry = same ?? this.add(new Entry(this, kind, body));
    if (!same) entry.start();
    entry.element.scrollIntoView({ block: entry.element.offsetHeight > innerHeight ? "start" : "nearest" });
  }

  /** Enlarge a tile; the arrows show the others of its result. */
  open(tile) {
    const entry = this.entries.find(({ tiles }) => tiles.includes(tile));
    openViewer(entry?.tiles ?? [tile], tile);
  }

  removeUpload(tile) {
    remove(`/api/results/${tile.source.upload}`).catch(() => {}); // the server has removed it already
    this.uploads = this.uploads.filter((one) => one !== tile);
    tile.element.remove();
    this.ondrop([tile]);
  }

  titleOf(kind, body) {
    const names = body.sources?.map((source) => this.find(source)?.name ?? "an image");
    return title(kind, body, names ?? (body.seeds ?? []).map((seed) => `seed ${seed}`));
  }

  /** Return the tile of an image that an edit starts from, or undefined. */
  find(wanted) {
    const tiles = [...this.uploads, ...this.entries.flatMap((entry) => entry.tiles)];
    const same = ({ source }) => Object.keys(wanted).every((key) => source?.[key] === wanted[key]);
    return tiles.find(same);
  }
}

/** A request and its result. */
class Entry {
  constructor(gallery, kind, body) {
    Object.assign(this, { gallery, kind, body, address: toAddress(gallery.run, kind, body) });
    this.title = gallery.titleOf(kind, body);
    this.bar = h("progress", { "aria-label": `Progress of: ${this.title}` });
    this.state = h("p.note", "Asking …");
    const cancel = button("Cancel", () => this.job.abort(), { class: "quiet" });
    this.work = h("div.work", this.bar, this.state, cancel);
    this.place = h("div");
    this.files = h("div");
    this.setTiles(captions(kind, body));
    this.heading = h("h2", { id: newId("entry") }, this.title);
    const parts = [this.heading, h("p.note", describe(body)), this.work, this.place, this.files];
    this.element = h(`article.entry.${kind}`, { "aria-labelledby": this.heading.id }, parts);
  }

  setTiles(names) {
    this.tiles = names.map((name) => new Tile(name, this.gallery.onpick));
    const columns = this.kind === "interpolate" ? names.length : Math.ceil(Math.sqrt(names.length));
    const style = { "--columns": String(Math.min(9, columns)) };
    const props = { role: "group", "aria-label": this.title, style };
    show(this.place, h("div.tiles", props, this.tiles.map(({ element }) => element)));
  }

  /** Send the request, and show its steps and its result. Errors are shown here and not thrown. */
  async start() {
    const path = this.kind === "sample" ? "/samples" : `/edits/${this.kind}`;
    const stop = (job) => post(`/api/jobs/${job}/stop`).catch(() => {}); // it has ended already
    const stopButton = (job) => button("Stop and keep what is ready", () => stop(job), { class: "quiet" });
    const waiting = (n) => (n ? `Waiting: ${plural(n, "request")} ahead` : "Loading the model …");
    const on = {
      // Samples are ready one after the other, but edits only at their end.
      begun: ({ job }) => this.kind === "sample" && this.work.append(stopButton(job)),
      queued: ({ ahead }) => setText(this.state, waiting(ahead)),
      step: (step) => this.showStep(step),
    };
    this.job = new AbortController();
    announce(`${this.title}: started`);
    try {
      const result = await stream(runPath(this.gallery.run, path), this.body, on, this.job.signal);
      this.finish(result);
      announce(`${this.title}: ready after ${duration(result.seconds)}`);
    } catch (error) {
      this.end(error.name === "AbortError" ? h("p.note", "Cancelled.") : fault(error.message));
      if (error.name === "AbortError") announce(`${this.title}: cancelled`);
    }
    this.job = null;
  }

  showStep(step) {
    this.bar.max = step.of;
    this.bar.value = step.k;
    setText(this.state, `${Math.round((100 * step.k) / step.of)} % of the network evaluations`);
    if (this.drawing) return; // the browser is slower than the server; the next step draws all anew
    const done = () => (this.drawing = null);
    this.drawing = drawSheet(this.tiles, step, this.gallery.size).then(done, done);
  }

  finish(result) {
    this.id = result.id;
    this.work.remove();
    const [ready, asked] = [result.images.length, this.body.seeds?.length];
    if (ready < asked) setText(this.heading, `${ready} of ${this.title}`);
    if (result.images.length !== this.tiles.length) this.setTiles(result.images.map(({ name }) => name));
    result.images.forEach(({ url, file, name, seed, label }, k) => {
      const tile = this.tiles[k];
      tile.rename([seed === null ? tile.name : `seed ${seed}`, label].filter(Boolean).join(" · "));
      Object.assign(tile, { seed, seeded: result.seeded, request: this.body, before: result.before });
      tile.finish({ url, file, source: { result: result.id, name } });
    });
    const again = h("details", h("summary", "Repeat this elsewhere"));
    again.append(code("Command line", result.command), code("Python", result.python));
    again.append(code("Address", new URL(this.address, location.href).href));
    const film = (src) => h("img.pixels.sheet", { src, alt: `Film of ${this.title}`, loading: "lazy" });
    const watch = result.film && h("details", h("summary", "Watch the film"), film(result.film));
    show(this.files, this.links(result), watch, result.notes.map((note) => h("p.note", note)), again);
  }

  links({ sheet, film, record, archive, nfe, seconds }) {
    const link = (url, text) => url && h("a", { href: url, download: "" }, text);
    return h(
      "p.row.links",
      h("span.note", `${plural(nfe, "network evaluation")}, ${duration(seconds)}`),
      h("a", { href: this.address }, "Use these settings"),
      button("Enlarge", () => this.gallery.open(this.tiles[0]), { class: "quiet" }),
      button("Remove", () => this.remove(), { class: "quiet" }),
      h("span.note", "Save:"),
      [link(sheet, "sheet"), link(archive, "all (zip)"), link(record, "record"), link(film, "film")],
    );
  }

  remove() {
    if (this.id) remove(`/api/results/${this.id}`).catch(() => {}); // the server has removed it already
    this.gallery.drop(this);
    announce(`${this.title}: removed`);
  }

  /** Show why there are no images; their settings are left. */
  end(text = h("p.note", "The server no longer has these images. Only their settings are left.")) {
    const again = h("a", { href: this.address }, "Use these settings");
    this.gallery.ondrop(this.tiles);
    Object.assign(this, { id: null, tiles: [] });
    this.place.replaceWith(this.work);
    show(this.files);
    show(this.work, text, again, button("Remove", () => this.remove(), { class: "quiet" }));
  }
}
