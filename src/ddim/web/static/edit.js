// Edit the chosen images: vary one, interpolate between two, inpaint a masked part, or invert.

import { upload } from "./api.js";
import { button, fault, field, h, setText, show } from "./dom.js";
import { GuidanceFields } from "./guidance.js";
import { MaskDialog } from "./mask.js";

const whole = (label, value, min, max) => {
  const input = h("input", { type: "number", min, max, step: 1, value, inputmode: "numeric" });
  return { input, element: field(label, input) };
};

/** A panel at the foot of the window, shown while a tile is chosen. */
export class EditPanel {
  constructor({ detail, limits, onedit, onclear, signal }) {
    Object.assign(this, { detail, onedit, signal, tiles: [] });
    this.guidance = new GuidanceFields(detail, detail.draws_labels ? "this run without its label" : "nothing");
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
    this.steps = whole("Steps", Math.min(50, limits.steps), 1, limits.steps);
    this.varyButton = button("Vary", () => this.vary());
    this.maskButton = button("Draw a mask", () => this.mask(limits));
    this.invertButton = button("Invert", () => this.invert());
    this.betweenButton = button("Interpolate", () => this.between());
    this.save = h("a", { class: "button quiet", download: "" }, "Save PNG");
    this.one = h(
      "div",
      { class: "row" },
      h("div", { class: "row joined" }, field("Strength", this.strength), this.strengthText),
      this.n.element,
      this.varyButton,
      this.maskButton,
      this.invertButton,
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
      h("div", { class: "row" }, this.one, this.two, this.steps.element, this.save),
      h(
        "details",
        {},
        h("summary", {}, "Guidance"),
        h("div", { class: "row guidance" }, this.guidance.scale, this.guidance.guide, this.guidance.interval),
      ),
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
    this.save.hidden = tiles.length !== 1;
    setText(
      this.title,
      tiles.length === 2
        ? `Chosen: ${tiles[0].name} and ${tiles[1].name}`
        : tiles.length
          ? `Chosen: ${tiles[0].name}`
          : "",
    );
    if (tiles.length === 1) {
      this.save.href = tiles[0].file;
      setText(this.save, tiles[0].file.endsWith(".npy") ? "Save array" : "Save PNG");
    }
    show(this.message);
  }

  setBusy(busy) {
    for (const one of [this.varyButton, this.maskButton, this.invertButton, this.betweenButton])
      one.disabled = busy;
  }

  async vary() {
    const [tile] = this.tiles;
    const n = Number(this.n.input.value);
    const body = { seeds: seeds(n), strength: Number(this.strength.value) };
    await this.begin("vary", `${n} variations of ${tile.name}`, names(n), body);
  }

  async between() {
    const [one, other] = this.tiles;
    const frames = Number(this.frames.input.value);
    const list = Array.from({ length: frames }, (_, k) => `frame ${k + 1}`);
    await this.begin("interpolate", `From ${one.name} to ${other.name}`, list, { frames });
  }

  async invert() {
    const [tile] = this.tiles;
    await this.begin("invert", `Inversion of ${tile.name}`, ["image", "restored from its latent"], {});
  }

  async mask(limits) {
    const [tile] = this.tiles;
    const drawn = await new MaskDialog(tile, this.detail.size, limits.images).ask();
    if (!drawn) return;
    const { blob, n, resample } = drawn;
    const title = `Inpainting of ${tile.name}`;
    await this.begin("inpaint", title, names(n), { seeds: seeds(n), resample }, blob);
  }

  /** Upload the images that the server does not have yet, and start the edit. */
  async begin(kind, title, list, body, mask) {
    const tiles = this.tiles;
    Object.assign(body, { steps: Number(this.steps.input.value) }, this.guidance.body());
    show(this.message);
    try {
      // Two samples are interpolated between their latents, which their seeds give exactly; other images are
      // inverted first. An interpolation uses no class and no vector, but it can be guided. Steps and guidance
      // that a sample was given must be those of the interpolation: else its seed leads to another image.
      const agrees = ({ options }) =>
        (options.steps === undefined || options.steps === body.steps) &&
        (options.guidance === undefined || guidanceOf(options) === guidanceOf(body));
      const seeded =
        tiles.length === 2 &&
        !this.detail.draws_labels &&
        tiles.every((tile) => tile.seed !== undefined && agrees(tile));
      if (seeded) body.seeds = tiles.map(({ seed }) => seed);
      else body.sources = tiles.map(({ source }) => source);
      if (mask) body.mask = (await upload(mask, "mask.png", this.signal)).upload;
      this.onedit(kind, title, list, body);
    } catch (error) {
      if (error.name !== "AbortError") show(this.message, fault(error.message));
    }
  }
}

const guidanceOf = ({ guidance, guide_with, guidance_interval: interval }) =>
  JSON.stringify([guidance, guide_with, interval]);
const seeds = (n) => Array.from({ length: n }, (_, k) => k);
const names = (n) => seeds(n).map((seed) => `seed ${seed}`);
