// The fields of guidance: the scale, the weaker model that guides, and the log-SNRs with guidance.

import { field, h, menu } from "./dom.js";

/** Return the number in a field, or undefined if the field is empty. */
export const optional = (input) => (input.value.trim() === "" ? undefined : Number(input.value));

/** Return a field for any number. */
export const numeric = (props) => h("input", { type: "number", step: "any", inputmode: "decimal", ...props });

/** Return an object without the entries that are undefined or not a number. */
export const clean = (body) =>
  Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined && !Number.isNaN(value)));

/** The fields of guidance; the caller places `scale`, `guide` and `interval`, and `body()` reads them. */
export class GuidanceFields {
  /** `detail` is the answer about the run; `unguided` is the text for no weaker model. */
  constructor(detail, unguided) {
    this.number = numeric({ min: 0, placeholder: 1 });
    this.weaker = menu([["", unguided], ...detail.guides.map(({ id, name }) => [id, name])]);
    this.low = numeric({ placeholder: "all" });
    this.high = numeric({ placeholder: "all" });
    this.scale = field("Guidance scale", this.number);
    this.guide = detail.guides.length ? field("Guide with", this.weaker) : null;
    this.interval = h(
      "fieldset",
      {},
      h("legend", {}, "Guide only at log-SNRs"),
      h("div", { class: "row" }, field("from", this.low), field("to", this.high)),
    );
  }

  /** Return the options of a request. */
  body() {
    const ends = [optional(this.low), optional(this.high)];
    return clean({
      guidance: optional(this.number),
      guide_with: this.weaker.value || undefined,
      guidance_interval: ends.every((end) => end === undefined) ? undefined : ends.map((end) => end ?? null),
    });
  }
}
