// What can be made from the chosen tiles: variations, the way between two, a masked part generated anew, an inversion.

import { upload } from "./api.js";
import { announce, button, fault, field, h, setText, show } from "./dom.js";
import { MaskDialog } from "./mask.js";

const whole = (label, value, min, max) => {
  const input = h("input", { type: "number", min, max, step: 1, value, inputmode: "numeric" });
  return { input, element: field(label, input) };
};

/** A panel at the foot of the window, shown while a tile is chosen. */
export class EditPanel {
  constructor({ cell, limits, onedit, onclear, signal }) {
    Object.assign(this, { onedit, tiles: [], busy: false });
    this.title = h("p", { class: "chosen", role: "status" });
    this.strength = h("input", {
      type: "range",
      min: 0.05,
      max: 1,
      step: 0.05,
      value: 0.5,
      oninput: () => this.showStrength(),
    });
    this.strengthText = h("output", { class: "note" });
    this.showStrength();
    this.n = whole("Variations", Math.min(8, limits.images), 1, limits.images);
    this.frames = whole("Frames", Math.min(9, limits.images), 2, limits.images);
    this.varyButton = button("Vary", () => this.vary());
    this.maskButton = button("Draw a mask", () => this.mask(cell, limits, signal));
    this.invertButton = button("Invert", () => this.invert());
    this.betweenButton = button("Show the way between", () => this.between());
    this.save = h("a", { class: "button quiet", download: "" }, "Save PNG");
    this.one = h(
      "div",
      { class: "row" },
      h("div", { class: "row joined" }, field("Strength", this.strength), this.strengthText),
      this.n.element,
      this.varyButton,
      this.maskButton,
      this.invertButton,
      this.save,
    );
    this.two = h("div", { class: "row" }, this.frames.element, this.betweenButton);
    this.message = h("div", {});
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Chosen images", hidden: true },
      h(
        "div",
        { class: "title-row" },
        this.title,
        button("Clear", onclear, { class: "quiet", "aria-label": "Clear the choice" }),
      ),
      this.one,
      this.two,
      this.message,
    );
  }

  showStrength() {
    const value = Number(this.strength.value);
    const word = value < 0.35 ? "details" : value < 0.7 ? "shapes" : "nearly everything";
    setText(this.strengthText, `${value.toFixed(2)}: changes ${word}`);
    this.strength.setAttribute("aria-valuetext", this.strengthText.textContent);
  }

  update(tiles) {
    this.tiles = tiles;
    this.element.hidden = !tiles.length;
    document.body.classList.toggle("with-panel", tiles.length > 0);
    this.one.hidden = tiles.length !== 1;
    this.two.hidden = tiles.length !== 2;
    setText(
      this.title,
      tiles.length === 2
        ? `Chosen: ${tiles[0].name} and ${tiles[1].name}`
        : tiles.length
          ? `Chosen: ${tiles[0].name}`
          : "",
    );
    if (tiles.length === 1) this.save.href = tiles[0].url;
    show(this.message);
  }

  setBusy(busy) {
    for (const one of [this.varyButton, this.maskButton, this.invertButton, this.betweenButton])
      one.disabled = busy;
  }

  vary() {
    const [tile] = this.tiles,
      n = Number(this.n.input.value);
    this.onedit(`${n} variations of ${tile.name}`, names(n), {
      kind: "vary",
      sources: [tile.source],
      n,
      strength: Number(this.strength.value),
    });
  }

  between() {
    const [one, other] = this.tiles,
      frames = Number(this.frames.input.value);
    // Samples are blended by their seeds, which is exact; other images are inverted first.
    const seeded = one.plain && other.plain;
    const sources = [one, other].map((tile) => (seeded ? { seed: tile.seed } : tile.source));
    this.onedit(
      `From ${one.name} to ${other.name}`,
      Array.from({ length: frames }, (_, k) => `frame ${k + 1}`),
      { kind: "interpolate", sources, frames },
    );
  }

  invert() {
    const [tile] = this.tiles;
    this.onedit(`Inversion of ${tile.name}`, ["image", "restored from its latent"], {
      kind: "invert",
      sources: [tile.source],
    });
  }

  async mask(cell, limits, signal) {
    const [tile] = this.tiles;
    const drawn = await new MaskDialog(tile, cell, limits.images).ask();
    if (!drawn) return;
    try {
      const { upload: mask } = await upload(drawn.blob, signal);
      this.onedit(`Masked part of ${tile.name}, generated anew`, names(drawn.n), {
        kind: "inpaint",
        sources: [tile.source],
        mask,
        n: drawn.n,
        resample: drawn.resample,
      });
    } catch (error) {
      show(this.message, fault(error.message));
      announce(error.message);
    }
  }
}

const names = (n) => Array.from({ length: n }, (_, k) => `seed ${k}`);
