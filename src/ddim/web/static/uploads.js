// Images of the user: chosen or dropped, then uploaded and shown as tiles.

import { upload } from "./api.js";
import { announce, fault, field, h, show } from "./dom.js";
import { MASK } from "./mask.js";
import { Tile } from "./tiles.js";

/** A drop zone and the tiles of the uploaded images of at most `most` bytes; a new one is chosen. */
export class Uploads {
  constructor(gallery, most, onchoose) {
    Object.assign(this, { gallery, most, onchoose });
    const hint = `Choose or drop photos to edit them. They are cropped at their centre and resized.
      Everybody who can open this page sees them.`;
    const props = { type: "file", accept: "image/*,.npy,.tif,.tiff", multiple: true };
    this.input = h("input", { ...props, onchange: () => this.take(this.input.files) });
    const style = { "--shape": `${gallery.size[1]} / ${gallery.size[0]}` };
    this.tiles = h("div.tiles.own", { role: "group", "aria-label": "Your images", style });
    this.message = h("div");
    const parts = [field("Your own images", this.input, hint), this.message, this.tiles];
    this.element = h("section.drop", { "aria-label": "Your images" }, parts);
    for (const name of ["dragover", "dragleave", "drop"])
      this.element.addEventListener(name, (event) => {
        event.preventDefault();
        this.element.classList.toggle("over", name === "dragover");
        if (name === "drop") this.take(event.dataTransfer.files);
      });
  }

  async take(files) {
    const limit = `is larger than ${Math.round(this.most / 2 ** 20)} MiB, the limit of this server.`;
    show(this.message);
    for (const file of [...files])
      try {
        if (file.size > this.most) throw new Error(`${file.name} ${limit}`);
        const tile = this.add(await upload(file, file.name));
        this.onchoose([tile]);
        tile.element.scrollIntoView({ block: "nearest" });
        announce(`${file.name} uploaded`);
      } catch (error) {
        show(this.message, fault(error.message));
      }
    this.input.value = ""; // so that the same file can be chosen again
  }

  /** Show an uploaded image, unless it is a mask or shown already; returns its tile. */
  add({ upload: id, name, url }) {
    const { uploads } = this.gallery;
    if (name === MASK || uploads.some(({ source }) => source.upload === id)) return null;
    const tile = new Tile(name, this.gallery.onpick);
    tile.finish({ url, source: { upload: id } });
    uploads.push(tile);
    this.tiles.append(tile.element);
    return tile;
  }
}
