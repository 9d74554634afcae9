// Fields that the forms of samples and of edits share: numbers with sliders, and guidance.

import { field, h, menu } from "./dom.js";

/** Numbers of sampling steps at which a slider stops. */
export const STEPS = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000];

/** Return numbers from `low` to `high` in equal steps. */
export const evenly = (low, high, step = 1) =>
  Array.from({ length: Math.round((high - low) / step) + 1 }, (_, k) => Number((low + k * step).toFixed(6)));

/** Return a field for any number. */
export const numeric = (props) => h("input", { type: "number", step: "any", inputmode: "decimal", ...props });

/** Return a field of any number up to `max`; its `box` has a label, and a slider that stops at `stops`. */
export function slider(label, stops, { max = stops.at(-1), ...props }) {
  const kept = stops.filter((stop) => stop <= max);
  const input = numeric({ min: stops[0], max, step: 1, required: !props.placeholder, ...props });
  const choose = () => {
    input.value = kept[range.value];
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const name = `${label}, slider`;
  const range = h("input", { type: "range", max: kept.length - 1, "aria-label": name, oninput: choose });
  const move = () => {
    const value = Number(input.value || input.placeholder);
    const distances = kept.map((stop) => Math.abs(stop - value));
    range.value = distances.indexOf(Math.min(...distances));
    range.setAttribute("aria-valuetext", String(value));
  };
  input.addEventListener("input", move);
  move();
  input.box = h("div.slider", field(label, input), range);
  return input;
}

/** Return the values of controls, keyed by name; those of empty fields are undefined. */
export function readFields(controls) {
  const read = ({ type, value, checked }) => {
    if (type === "checkbox" || value === "") return checked || undefined;
    return type === "number" ? Number(value) : value;
  };
  return Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, read(control)]));
}

/** Show values in controls; a control without a value becomes empty, or a menu its first choice. */
export function fillFields(controls, values) {
  for (const [name, control] of Object.entries(controls)) {
    if (control.type === "checkbox") control.checked = values[name] ?? false;
    else control.value = values[name] ?? "";
    if (control.selectedIndex < 0) control.selectedIndex = 0;
    control.dispatchEvent(new Event("input"));
  }
}

/** The fields of guidance; the caller places `main` and `interval`. */
export class GuidanceFields {
  /** `guides` are texts about the weaker models, by their ids. */
  constructor(guides) {
    const scale = slider("Guidance scale", evenly(0, 8, 0.25), { max: 100, step: "any", placeholder: 1 });
    this.weaker = menu([["", "this run without a class"], ...Object.entries(guides)]);
    this.controls = { guidance: scale, guide_with: this.weaker };
    this.ends = { low: numeric({ placeholder: "all" }), high: numeric({ placeholder: "all" }) };
    this.main = h("div", scale.box, this.weaker.options.length > 1 ? field("Guide with", this.weaker) : null);
    this.interval = h(
      "fieldset",
      h("legend", "Guide only at log-SNRs"),
      h("div.row", field("from", this.ends.low), field("to", this.ends.high)),
    );
  }

  /** Offer what can succeed; `alone` says whether the run can be guided without a weaker model. */
  allow(alone) {
    const [itself, first] = this.weaker.options;
    itself.disabled = itself.hidden = !alone;
    if (!alone && first && this.weaker.value === "") this.weaker.value = first.value;
    this.main.hidden = this.interval.hidden = !alone && !first;
  }

  /** Return the options of a request. */
  body() {
    const { guidance, guide_with } = readFields(this.controls);
    if (this.main.hidden || guidance === undefined) return {};
    const { low = null, high = null } = readFields(this.ends);
    const interval = low === null && high === null ? undefined : [low, high];
    return { guidance, guide_with, guidance_interval: interval };
  }

  fill(body) {
    fillFields(this.controls, body);
    const [low, high] = body.guidance_interval ?? [];
    fillFields(this.ends, { low, high });
  }
}
