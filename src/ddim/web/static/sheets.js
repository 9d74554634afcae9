// Samples of the same seeds at each validation of a training: a slider, a button that plays them, and the
// real images.

import { hideGaps } from "./card.js";
import { button, field, h, setText, show } from "./dom.js";
import { plural } from "./format.js";

const MILLISECONDS = 450;

const after = ({ images }) => `after ${plural(images, "image")}`;

/**
 * A slider through sheets; `update(sheets, real, size)` keeps its position, and follows the newest sheet.
 * `size` is [height, width] of an image.
 */
export class SheetSlider {
  constructor(signal) {
    this.sheets = [];
    this.frame = h("div.sheet-frame");
    this.caption = h("figcaption.note");
    const slide = () => this.stop() ?? this.showSheet();
    this.range = h("input", { type: "range", min: 0, max: 0, oninput: slide });
    this.playButton = button("Play", () => (this.timer ? this.stop() : this.play()), { class: "quiet" });
    this.realButton = button("Show real images", () => this.toggleReal(), { class: "quiet" });
    const place = field("Position in the training", this.range);
    this.controls = h("div.row", this.playButton, place, this.realButton);
    this.empty = h("p.note", "The run draws its first samples at its first validation.");
    this.element = h("figure.sheets", this.frame, this.caption, this.controls, this.empty);
    signal.addEventListener("abort", () => this.stop());
  }

  get place() {
    return Number(this.range.value);
  }

  get atEnd() {
    return this.place >= this.sheets.length - 1;
  }

  update(sheets, real, size) {
    const [following, same] = [this.atEnd, sheets.length === this.sheets.length];
    Object.assign(this, { sheets, real, size });
    for (const element of [this.frame, this.caption, this.controls]) element.hidden = !sheets.length;
    this.empty.hidden = sheets.length > 0;
    this.realButton.hidden = !real;
    if (!sheets.length || (same && this.kept)) return;
    this.range.max = sheets.length - 1;
    if (following) this.range.value = sheets.length - 1;
    // All pictures are loaded before they are shown, so that they do not flicker.
    this.kept = sheets.map((sheet) => this.picture(sheet.url, `Samples ${after(sheet)}`));
    this.showSheet();
  }

  showSheet() {
    const text = after(this.sheets[this.place]);
    this.show(this.kept[this.place], `Samples of the same seeds ${text}`);
    this.range.setAttribute("aria-valuetext", text);
  }

  toggleReal() {
    this.stop();
    if (this.realShown) this.showSheet();
    else this.show(this.picture(this.real, "Real images"), "Real images, for comparison", true);
  }

  show(image, text, real = false) {
    this.realShown = real;
    show(this.frame, image);
    setText(this.caption, text);
    this.realButton.setAttribute("aria-pressed", String(real));
  }

  play() {
    if (this.atEnd) this.range.value = 0;
    setText(this.playButton, "Pause");
    this.showSheet();
    this.timer = setInterval(() => {
      if (this.atEnd) return this.stop();
      this.range.value = this.place + 1;
      return this.showSheet();
    }, MILLISECONDS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    setText(this.playButton, "Play");
  }

  picture(src, alt) {
    return h("img.sheet.pixels", { src, alt, onload: ({ target }) => hideGaps(target, this.size) });
  }
}
