// Tiles: images that the user can choose. They show each step on a canvas, and then the PNG file of the
// result.

import { h } from "./dom.js";

const GAP = 2; // pixels between the images of a sheet
const SHOWN = 16; // images on the sheet of a step

/**
 * A tile. `source` tells the server which image it is: {upload}, or {result, name} for a file of a result.
 */
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

  /** Draw cell k of a sheet; see `drawSheet`. */
  drawCell(sheet, k, columns, [height, width]) {
    if (this.canvas.width !== width) Object.assign(this.canvas, { width, height });
    // The server shrinks large sheets, so positions are scaled.
    const zoom = sheet.width / (columns * (width + GAP) - GAP);
    const [left, top] = [(k % columns) * (width + GAP), Math.floor(k / columns) * (height + GAP)];
    const context = this.canvas.getContext("2d");
    context.drawImage(sheet, zoom * left, zoom * top, zoom * width, zoom * height, 0, 0, width, height);
  }

  /** Show the finished image at `url`. `file` is its exact file, which may be an array. */
  finish(url, source, file = url) {
    Object.assign(this, { file, source });
    this.image = h("img", { class: "pixels", src: url, alt: "", draggable: "false" });
    // The canvas stays until the file is loaded, so that nothing flickers.
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

/** Return the tiles as a group with a label for screen readers. */
export function tileGrid(tiles, label, row = false) {
  const columns = Math.min(row ? 9 : 8, row ? tiles.length : Math.ceil(Math.sqrt(tiles.length)));
  return h(
    "div",
    { class: "tiles", role: "group", "aria-label": label, style: { "--columns": String(columns) } },
    tiles.map((tile) => tile.element),
  );
}

/**
 * Draw the sheet of a step into tiles. The sheet has at most 16 cells; `first` is the index of the tile of
 * the first cell. `size` is [height, width] of one image.
 */
export async function drawSheet(tiles, { sheet, first = 0, columns }, size) {
  if (!sheet) return;
  const image = new Image();
  image.src = sheet;
  await image.decode();
  const shown = tiles.slice(first, first + SHOWN);
  shown.forEach((tile, k) => tile.drawCell(image, k, columns ?? Math.ceil(Math.sqrt(shown.length)), size));
}
