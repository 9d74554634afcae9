// Samples of the same seeds at each validation of a training: a slider, a button that plays them, and the
// real images.

import { button, field, h, setText, show } from "./dom.js";
import { plural } from "./format.js";

const MILLISECONDS = 450;

/**
 * A slider through sheets. `update(sheets, real)` keeps the position; at the newest sheet it moves on to the
 * next newest.
 */
export class SheetSlider {
  constructor(signal) {
    this.sheets = [];
    this.frame = h("div", { class: "sheet-frame" });
    this.caption = h("figcaption", { class: "note" });
    this.range = h("input", {
      type: "range",
      min: 0,
      max: 0,
      step: 1,
      oninput: () => {
        this.stop();
        this.showSheet();
      },
    });
    this.playButton = button("Play", () => (this.timer ? this.stop() : this.play()), { class: "quiet" });
    this.realButton = button("Show real images", () => this.toggleReal(), {
      class: "quiet",
      "aria-pressed": "false",
    });
    this.controls = h(
      "div",
      { class: "row" },
      this.playButton,
      field("Position in the training", this.range),
      this.realButton,
    );
    this.empty = h(
      "p",
      { class: "note" },
      "No samples yet. The run draws its first sheet at its first validation.",
    );
    this.element = h("figure", { class: "sheets" }, this.frame, this.caption, this.controls, this.empty);
    signal.addEventListener("abort", () => this.stop());
  }

  update(sheets, real) {
    // If the newest sheet is shown, later sheets replace it while the run trains.
    const following = Number(this.range.value) >= this.sheets.length - 1;
    const same = sheets.length === this.sheets.length;
    Object.assign(this, { sheets, real });
    for (const element of [this.frame, this.caption, this.controls]) element.hidden = !sheets.length;
    this.empty.hidden = sheets.length > 0;
    this.realButton.hidden = !real;
    if (!sheets.length || (same && this.kept)) return;
    this.range.max = sheets.length - 1;
    if (following) this.range.value = sheets.length - 1;
    // All pictures are loaded before they are shown, so that they do not flicker.
    this.kept = sheets.map(({ url, images }) =>
      h("img", { class: "sheet pixels", src: url, alt: `Samples after ${plural(images, "image")}` }),
    );
    this.showSheet();
  }

  showSheet() {
    const sheet = this.sheets[Number(this.range.value)];
    if (!sheet) return;
    const text = `after ${plural(sheet.images, "image")}`;
    this.setReal(false);
    show(this.frame, this.kept[Number(this.range.value)]);
    this.range.setAttribute("aria-valuetext", text);
    setText(this.caption, `Samples of the same seeds ${text}`);
  }

  toggleReal() {
    if (this.realButton.getAttribute("aria-pressed") === "true") return this.showSheet();
    this.stop();
    this.setReal(true);
    show(this.frame, h("img", { class: "sheet pixels", src: this.real, alt: "Real images" }));
    return setText(this.caption, "Real images, for comparison");
  }

  setReal(on) {
    this.realButton.setAttribute("aria-pressed", String(on));
  }

  play() {
    if (Number(this.range.value) >= this.sheets.length - 1) this.range.value = 0;
    setText(this.playButton, "Pause");
    this.showSheet();
    this.timer = setInterval(() => {
      if (Number(this.range.value) >= this.sheets.length - 1) return this.stop();
      this.range.value = Number(this.range.value) + 1;
      return this.showSheet();
    }, MILLISECONDS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    setText(this.playButton, "Play");
  }
}
