// Samples of the same seeds at each validation of a training: a slider, and a button that plays them.

import { hideGaps } from "./card.js";
import { button, field, h, setText, show } from "./dom.js";
import { plural } from "./format.js";

/** A slider through sheets; `update` keeps its position, and follows the newest sheet. */
export class SheetSlider {
  constructor(signal) {
    this.sheets = [];
    this.frame = h("div.sheet-frame");
    this.caption = h("figcaption.note");
    const slide = () => this.stop() ?? this.show();
    this.range = h("input", { type: "range", min: 0, max: 0, oninput: slide });
    this.playButton = button("Play", () => (this.timer ? this.stop() : this.play()), { class: "quiet" });
    this.realButton = button("Show real images", () => this.showReal(), { class: "quiet" });
    const place = field("Position in the training", this.range);
    this.controls = h("div.row", this.playButton, place, this.realButton);
    this.element = h("figure.sheets", this.frame, this.caption, this.controls);
    this.controls.hidden = true;
    signal.addEventListener("abort", () => this.stop());
  }

  get atEnd() {
    return Number(this.range.value) >= this.sheets.length - 1;
  }

  /** Show the sheets {url, images} of a run, and its `real_sheet`; see the class `Details`. */
  update({ sheets, real_sheet: real, size, state }) {
    const following = this.atEnd;
    const onload = ({ target }) => hideGaps(target, size);
    const load = (src, alt) => h("img.sheet.pixels", { src, alt, onload });
    this.controls.hidden = !sheets.length;
    this.realButton.hidden = !real;
    const trains = ["waiting", "running"].includes(state);
    if (!sheets.length)
      setText(this.caption, trains ? "The run draws its first samples at its first validation." : "No samples.");
    if (sheets.length === this.sheets.length) return;
    this.real = real && load(real, "Real images, for comparison");
    // All pictures are loaded before they are shown, so that they do not flicker.
    const text = (images) => `Samples of the same seeds after ${plural(images, "image")}`;
    this.sheets = sheets.map(({ url, images }) => load(url, text(images)));
    this.range.max = sheets.length - 1;
    if (following) this.range.value = sheets.length - 1;
    this.show();
  }

  showReal() {
    this.stop();
    this.show(this.frame.contains(this.real) ? undefined : this.real);
  }

  show(image = this.sheets[this.range.value]) {
    show(this.frame, image);
    setText(this.caption, image.alt);
    this.range.setAttribute("aria-valuetext", image.alt);
    this.realButton.setAttribute("aria-pressed", String(image === this.real));
  }

  play() {
    if (this.atEnd) this.range.value = 0;
    setText(this.playButton, "Pause");
    this.show();
    this.timer = setInterval(() => {
      if (this.atEnd) return this.stop();
      this.range.value = Number(this.range.value) + 1;
      return this.show();
    }, 450); // milliseconds
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    setText(this.playButton, "Play");
  }
}
