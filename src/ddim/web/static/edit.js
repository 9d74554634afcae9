// Edit the chosen images: vary one, interpolate between two, inpaint a masked part, or invert.

import { upload } from "./api.js";
import { button, fault, field, h, menu, setText, show } from "./dom.js";
import { GuidanceFields, STEPS, evenly, fillFields, readFields, slider } from "./fields.js";
import { MASK, MaskDialog } from "./mask.js";

/** A panel at the foot of the window, shown while a tile is chosen; `update(tiles)` gives it the tiles. */
export class EditPanel {
  /** `gallery` gets the results; `onclear` ends the choice. */
  constructor(detail, { images: most, steps: longest }, gallery, onclear) {
    Object.assign(this, { detail, gallery });
    this.controls = {
      strength: slider("Strength", evenly(0.05, 1, 0.05), { value: 0.5, step: "any" }),
      n: slider("Images", evenly(1, most), { value: Math.min(4, most) }),
      frames: slider("Frames", evenly(2, most), { value: Math.min(9, most) }),
      steps: slider("Steps", STEPS.slice(1), { value: 50, max: longest }),
      grid: menu([["", "the edit's own"], ...detail.grids]),
    };
    const { grid, ...sliders } = this.controls;
    const [strength, n, frames, steps] = Object.values(sliders).map(({ box }) => box);
    this.guidance = new GuidanceFields(detail.guides);
    this.guidance.allow(detail.can_guide && detail.draws_labels);
    this.title = h("p", { role: "status" });
    this.save = h("a.button.quiet", { download: "" });
    const enlarge = button("Enlarge", () => gallery.open(this.tiles[0]), { class: "quiet" });
    const clear = button("✕", onclear, { class: "quiet", "aria-label": "Clear the choice" });
    const vary = button("Vary", () => this.begin("vary", { strength: this.controls.strength.valueAsNumber }));
    const inpaint = button("Inpaint …", () => this.inpaint());
    const invert = button("Invert", () => this.begin("invert", {}));
    const interpolate = button("Interpolate", () => this.interpolate(), { class: "main" });
    const more = h(
      "details",
      h("summary", "More choices"),
      h("div.row", this.guidance.main, this.guidance.interval, field("Sampling times (grid)", grid)),
    );
    // Which controls can succeed, or have an effect, for the chosen images.
    const can = (kind) => detail.edits.includes(kind);
    this.shown = [
      [[enlarge, this.save], ({ pair }) => !pair],
      [[vary, inpaint, strength, n], ({ pair }) => can("vary") && !pair],
      [[invert], ({ pair }) => can("invert") && !pair],
      [[interpolate, frames], ({ pair }) => can("interpolate") && pair],
      [[steps, more], ({ pair, seeded }) => can(pair ? "interpolate" : "vary") && !seeded],
    ];
    this.message = h("div");
    this.form = h("form.fields", strength, n, frames, steps, more);
    this.element = h(
      "section.panel",
      { "aria-label": "Chosen images", hidden: true },
      h("div.head", this.title, enlarge, this.save, clear),
      h("div.row.acts", vary, inpaint, invert, interpolate),
      this.message,
      this.form,
    );
  }

  update(tiles) {
    const [one, other] = (this.tiles = tiles);
    this.element.hidden = !one;
    show(this.message);
    if (!one) return;
    this.seeded = Boolean(other) && shareSeeds(one, other);
    const now = { pair: Boolean(other), seeded: this.seeded };
    for (const [elements, possible] of this.shown)
      for (const element of elements) element.hidden = !possible(now);
    setText(this.title, other ? `${one.name} and ${other.name}` : one.name);
    setText(this.save, one.file.endsWith(".npy") ? "Save array" : "Save PNG");
    this.save.href = one.file;
  }

  async inpaint() {
    const drawn = await new MaskDialog(this.tiles[0], this.detail.size).ask();
    if (drawn) await this.begin("inpaint", drawn);
  }

  /**
   * Interpolate between the latents of two samples with the same settings, which their seeds give exactly.
   * Other images are inverted first, and cannot be guided.
   */
  interpolate() {
    const { frames } = readFields(this.controls);
    if (!this.seeded) return this.begin("interpolate", { frames });
    const { steps = this.detail.steps, ...settings } = sampling(this.tiles[0]);
    const seeds = this.tiles.map(({ seed }) => seed);
    return this.gallery.start("interpolate", { seeds, frames, steps, ...settings });
  }

  /** Upload the mask if there is one, and start an edit of the chosen tiles. */
  async begin(kind, { blob, ...body }) {
    if (!this.form.reportValidity()) return;
    const { steps, grid, n } = readFields(this.controls);
    Object.assign(body, { steps, sources: this.tiles.map(({ source }) => source), fields: grid && { grid } });
    // Other edits have no noise of their own, and an inversion cannot be guided.
    if (["vary", "inpaint"].includes(kind))
      Object.assign(body, { seeds: evenly(0, n - 1), ...this.guidance.body() });
    show(this.message);
    try {
      if (blob) body.mask = (await upload(blob, MASK)).upload;
      this.gallery.start(kind, body);
    } catch (error) {
      show(this.message, fault(error.message));
    }
  }

  /** Show the settings of an edit. */
  fill({ seeds, fields, ...body }) {
    const present = readFields(this.controls);
    fillFields(this.controls, { ...present, n: seeds?.length ?? present.n, grid: fields?.grid, ...body });
    this.guidance.fill(body);
  }
}

/** Return the settings on which the sample of a seed depends. */
const sampling = ({ request: { steps, guidance, guide_with, guidance_interval } }) => {
  return { steps, guidance, guide_with, guidance_interval };
};

/** Return whether an interpolation between the seeds of two tiles ends at their images. */
const shareSeeds = (one, other) =>
  one.seeded && other.seeded && JSON.stringify(sampling(one)) === JSON.stringify(sampling(other));
