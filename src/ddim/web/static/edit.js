// Edit the chosen images: vary one, interpolate between two, inpaint a masked part, or invert.

import { upload } from "./api.js";
import { button, fault, field, h, menu, setText, show } from "./dom.js";
import { GuidanceFields, STEPS, evenly, fillFields, readFields, slider } from "./fields.js";
import { MASK, MaskDialog } from "./mask.js";
import { SeedFields } from "./seeds.js";

/** A panel at the foot of the window, shown while a tile is chosen; `update(tiles)` gives it the tiles. */
export class EditPanel {
  constructor(detail, { images: most, steps: longest }, gallery, onclear) {
    Object.assign(this, { detail, gallery });
    this.controls = {
      strength: slider("Strength", evenly(0.05, 1, 0.05), { value: 0.5, step: "any" }),
      frames: slider("Frames", evenly(2, most), { value: Math.min(9, most) }),
      steps: slider("Steps", STEPS.slice(1), { value: 50, max: longest }),
      grid: menu([["", "the edit's own"], ...detail.grids]),
    };
    const { grid, ...sliders } = this.controls;
    const [strength, frames, steps] = Object.values(sliders).map(({ box }) => box);
    this.seeds = new SeedFields(most, Math.min(4, most));
    this.guidance = new GuidanceFields(detail.guides);
    this.guidance.allow(detail.can_guide && detail.draws_labels);
    this.title = h("p", { role: "status" });
    this.save = h("a.button.quiet", { download: "" });
    const enlarge = button("Enlarge", () => gallery.open(this.tiles[0]), { class: "quiet" });
    const remove = button("Remove this upload", () => gallery.removeUpload(this.tiles[0]));
    const toggle = () => this.element.classList.toggle("folded");
    const fold = button("▾", toggle, { class: "quiet", "aria-label": "Fold or unfold" });
    const clear = button("✕", onclear, { class: "quiet", "aria-label": "Clear the choice" });
    const vary = button("Vary", () => this.begin("vary"), { class: "main" });
    const inpaint = button("Inpaint …", () => this.inpaint());
    const invert = button("Invert", () => this.begin("invert"));
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
      [[remove], ({ pair, upload }) => upload && !pair],
      [[vary, inpaint, strength, this.seeds.box], ({ pair }) => can("vary") && !pair],
      [[invert], ({ pair }) => can("invert") && !pair],
      [[interpolate, frames], ({ pair }) => can("interpolate") && pair],
      [[steps, more], ({ pair, seeded }) => can(pair ? "interpolate" : "vary") && !seeded],
    ];
    this.message = h("div");
    this.again = h("div");
    this.form = h("form.fields", this.seeds.box, strength, frames, steps, more, remove);
    this.element = h(
      "section.panel",
      { "aria-label": "Chosen images", hidden: true },
      h("div.head", this.title, enlarge, this.save, fold, clear),
      h("div.row.acts", vary, inpaint, invert, interpolate, this.again),
      this.message,
      this.form,
    );
  }

  update(tiles) {
    const [one, other] = (this.tiles = tiles);
    this.element.hidden = !one;
    for (const old of [this.message, this.again]) show(old);
    if (!one) return;
    this.seeded = Boolean(other) && shareSeeds(one, other);
    const now = { pair: Boolean(other), seeded: this.seeded, upload: one.source.upload };
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

  /** Interpolate between the latents, which the seeds give exactly, or an inversion, without guidance. */
  interpolate() {
    if (!this.seeded) return this.begin("interpolate");
    const { frames } = readFields(this.controls);
    const { steps = this.detail.steps, ...settings } = sampling(this.tiles[0]);
    const seeds = this.tiles.map(({ seed }) => seed);
    return this.gallery.start("interpolate", { seeds, frames, steps, ...settings });
  }

  /** Start an edit of the chosen tiles; `mask` is an uploaded mask, or `blob` is one to upload. */
  async begin(kind, { blob, mask, resample } = {}) {
    if (!this.form.reportValidity()) return;
    const { steps, grid, strength, frames } = readFields(this.controls);
    const own = { vary: { strength }, interpolate: { frames } }[kind];
    const sources = this.tiles.map(({ source }) => source);
    const body = { ...own, mask, resample, steps, sources, fields: grid && { grid } };
    show(this.message);
    try {
      // Other edits have no noise of their own, and an inversion cannot be guided.
      if (["vary", "inpaint"].includes(kind))
        Object.assign(body, { seeds: this.seeds.read(), ...this.guidance.body() });
      if (blob) body.mask = (await upload(blob, MASK)).upload;
      this.gallery.start(kind, body);
    } catch (error) {
      show(this.message, fault(error.message));
    }
  }

  /** Show the settings of an edit. */
  fill({ seeds, fields, ...body }) {
    fillFields(this.controls, { ...readFields(this.controls), grid: fields?.grid, ...body });
    if (seeds) this.seeds.fill(seeds);
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
