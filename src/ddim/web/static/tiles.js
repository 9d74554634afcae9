// Tiles: images that the user can choose. They show each sampling step on a canvas, then the saved picture.

import { h, setText } from "./dom.js";

const GAP = 2; // pixels between the images of a sheet
const SHOWN = 16; // images on the sheet of a step

/** A tile; `onpick(tile)` is called by a click. */
export class Tile {
  constructor(name, onpick) {
    this.canvas = h("canvas.pixels", { width: 1, height: 1 });
    this.caption = h("span.tile-name");
    const props = { type: "button", "aria-pressed": "false", disabled: true, onclick: () => onpick(this) };
    this.element = h("button.tile", props, this.canvas, this.caption);
    this.rename(name);
  }

  rename(name) {
    this.name = name;
    setText(this.caption, name);
  }

  /** Show a finished image: its picture, its exact file, and its `source`, {upload} or {result, name}. */
  finish({ url, file = url, source }) {
    Object.assign(this, { url, file, source });
    this.image = h("img.pixels", { src: url, alt: "", draggable: "false" });
    // The canvas stays until the picture is loaded, so that nothing flickers.
    const replace = () => this.canvas.replaceWith(this.image);
    this.image.decode().then(replace, replace);
    this.element.disabled = false;
  }
}

/** Draw the sheet of a step on the canvases of tiles; `first` is the index of the tile of its first image. */
export async function drawSheet(tiles, { sheet, first = 0, columns }, [height, width]) {
  if (!sheet) return;
  const image = h("img", { src: sheet });
  await image.decode();
  // The server shrinks large sheets, so positions are scaled.
  const zoom = image.width / (columns * (width + GAP) - GAP);
  const [w, t] = [zoom * width, zoom * height];
  tiles.slice(first, first + SHOWN).forEach(({ canvas }, k) => {
    if (canvas.width !== width) Object.assign(canvas, { width, height });
    const [left, top] = [(k % columns) * (width + GAP), Math.floor(k / columns) * (height + GAP)];
    canvas.getContext("2d").drawImage(image, zoom * left, zoom * top, w, t, 0, 0, width, height);
  });
}

/** Draw an image onto a canvas as a run gets it: cropped at its centre and resized. */
export function drawCropped(canvas, image) {
  const { naturalWidth: across, naturalHeight: down } = image;
  const zoom = Math.max(canvas.width / across, canvas.height / down);
  const [width, height] = [zoom * across, zoom * down];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}
