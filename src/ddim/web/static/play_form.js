// The form of the playground: seeds, steps, sampler, class and guidance.

import { button, field, h, menu, tick } from "./dom.js";
import { nextSeeds, parseSeeds } from "./seeds.js";

const optional = (input) => (input.value.trim() === "" ? undefined : Number(input.value));
const numeric = (props) => h("input", { type: "number", inputmode: "decimal", ...props });

/** A form; `body()` returns the request, `onsubmit` and `oncancel` are called by its buttons. */
export class PlayForm {
  constructor(detail, limits, { onsubmit, oncancel }) {
    this.most = limits.images;
    this.seeds = h("input", {
      value: `0-${Math.min(16, limits.images) - 1}`,
      autocomplete: "off",
      spellcheck: "false",
      required: true,
    });
    const others = button(
      "Next",
      () => {
        this.seeds.value = nextSeeds(this.seeds.value, this.most);
      },
      { class: "quiet", "aria-label": "Next seeds" },
    );
    this.steps = numeric({
      min: 1,
      max: limits.steps,
      step: 1,
      inputmode: "numeric",
      placeholder: detail.steps,
    });
    this.guidance = numeric({ min: 0, step: 0.1, placeholder: 1 });
    this.sampler = menu([["", `the recipe's${named(detail.sampler_default)}`], ...detail.samplers]);
    this.grid = menu([["", `the recipe's${named(detail.grid_default)}`], ...detail.grids]);
    this.eta = numeric({ min: 0, max: 1, step: 0.1, placeholder: "the recipe's" });
    this.low = numeric({ step: 0.5, placeholder: "all" });
    this.high = numeric({ step: 0.5, placeholder: "all" });
    this.label = menu(labels(detail.class_names));
    this.guide = menu([
      ["", detail.class_names.length ? "this run without its class" : "none"],
      ...(detail.guides ?? []),
    ]);
    this.film = tick("Make a film from noise to the samples");
    this.make = h("button", { type: "submit", class: "main" }, "Make samples");
    this.cancel = button("Cancel", oncancel, { disabled: true });
    this.element = h(
      "form",
      {
        class: "play-form",
        "aria-label": "Samples",
        onsubmit: (event) => {
          event.preventDefault();
          onsubmit();
        },
      },
      h("div", { class: "row joined" }, field("Seeds", this.seeds, "such as 0-15,40"), others),
      detail.class_names.length ? field("Class", this.label) : null,
      h("div", { class: "row" }, field("Steps", this.steps), field("Guidance scale", this.guidance)),
      h(
        "details",
        {},
        h("summary", {}, "More choices"),
        field("Sampler", this.sampler),
        field("Sampling times (grid)", this.grid),
        field("Eta", this.eta, "0 deterministic, 1 as stochastic as DDPM; for ddim and dpm_solver"),
        detail.guides?.length ? field("Guide with", this.guide, "A weaker model of this run") : null,
        h(
          "fieldset",
          {},
          h("legend", {}, "Guide only at log-SNRs"),
          h("div", { class: "row" }, field("from", this.low), field("to", this.high)),
        ),
        this.film.element,
      ),
      h("div", { class: "row" }, this.make, this.cancel),
    );
  }

  /** Return the body of a request; throws an Error with a sentence if a field is wrong. */
  body() {
    const body = { seeds: parseSeeds(this.seeds.value, this.most), ...this.shared() };
    const [low, high] = [optional(this.low), optional(this.high)];
    if ((low === undefined) !== (high === undefined))
      throw new Error("Guidance at some log-SNRs needs both ends, from and to.");
    return clean({
      ...body,
      sampler: this.sampler.value || undefined,
      eta: optional(this.eta),
      interval: low === undefined ? undefined : [low, high],
      label: this.label.value || undefined,
      film: this.film.box.checked || undefined,
    });
  }

  /** Return the options that samples and edits share, except the steps, which have different defaults. */
  shared() {
    return clean({
      steps: optional(this.steps),
      grid: this.grid.value || undefined,
      guidance: optional(this.guidance),
      guide_with: this.guide.value || undefined,
    });
  }

  /** Enable the right buttons while a request is in progress, or while none is. */
  setBusy(busy) {
    // A disabled button loses the focus, so the focus is moved first.
    const moved = busy && document.activeElement === this.make;
    this.make.disabled = busy;
    this.cancel.disabled = !busy;
    if (moved) this.cancel.focus();
    else if (!busy && document.activeElement === document.body) this.make.focus({ preventScroll: true });
  }
}

const named = (name) => (name ? ` (${name})` : "");

const clean = (body) =>
  Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined && !Number.isNaN(value)));

function labels(names) {
  return [
    ["", "the run's default"],
    ["all", "all classes in turn"],
    ...names.map((name, k) => [String(k), name]),
  ];
}
