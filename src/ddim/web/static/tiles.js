// Images that can be chosen: first blurred canvases that become clear, then the PNG files of the result.

import { h } from "./dom.js";

/** A tile. `source` says to the server which image it is, once there is one. */
export class Tile {
  constructor(name, onpick) {
    this.name = name;
    this.canvas = h("canvas", { class: "pixels", width: 1, height: 1 });
    this.caption = h("span", { class: "tile-name" }, name);
    this.element = h(
      "button",
      {
        type: "button",
        class: "tile",
        "aria-pressed": "false",
        "aria-label": name,
        disabled: true,
        onclick: () => onpick(this),
      },
      this.canvas,
      this.caption,
    );
  }

  /** Draw cell k of a sheet with so many columns and no gap. */
  drawCell(sheet, k, columns, rows) {
    const width = sheet.width / columns,
      height = sheet.height / rows;
    if (this.canvas.width !== width) Object.assign(this.canvas, { width, height });
    const [left, top] = [(k % columns) * width, Math.floor(k / columns) * height];
    this.canvas.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, width, height);
  }

  /** Show the finished image. */
  finish(url, source, seed) {
    Object.assign(this, { url, source, seed });
    this.image = h("img", { class: "pixels", src: url, alt: "", draggable: "false" });
    // The canvas stays until the file is there, so that nothing flickers.
    this.image.decode().then(
      () => this.canvas.replaceWith(this.image),
      () => this.canvas.replaceWith(this.image),
    );
    this.element.disabled = false;
  }

  set chosen(on) {
    this.element.setAttribute("aria-pressed", String(on));
  }

  get chosen() {
    return this.element.getAttribute("aria-pressed") === "true";
  }
}

/** Return a list of tiles as a group that readers of the screen can name. */
export function tileGrid(tiles, label) {
  const columns = Math.min(8, Math.ceil(Math.sqrt(tiles.length)));
  return h(
    "div",
    { class: "tiles", role: "group", "aria-label": label, style: { "--columns": String(columns) } },
    tiles.map((tile) => tile.element),
  );
}

/** Return the image of a data address, decoded. */
export async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
