// The curves of a run: its loss, its validation errors, these by noise level, and KID with its intervals.

import { Chart, chartHint } from "./chart.js";
import { h, section, show } from "./dom.js";
import { title } from "./format.js";
import { toPoints } from "./scale.js";

/** The charts; `update(numbers)` keeps the zoom of each. */
export class Curves {
  constructor(signal) {
    const hint = chartHint();
    const common = { xLabel: "training images", hint, signal };
    this.loss = new Chart({ ...common, title: "Loss", yLabel: "loss" });
    this.errors = new Chart({ ...common, title: "Held-out error", yLabel: "mean absolute error" });
    this.noise = new Chart({ ...common, title: "Error by noise level", yLabel: "mean absolute error" });
    this.kid = new Chart({ ...common, title: "KID", yLabel: "KID" });
    this.place = h("div", { class: "charts" });
    this.element = section("Curves", hint, this.place);
    this.arrange(false);
  }

  /** Show the charts that have values; most runs measure no KID while they train. */
  arrange(measured) {
    const charts = [this.loss, this.errors, this.noise, ...(measured ? [this.kid] : [])];
    // Charts that stay are not moved, because that takes the focus away.
    if (this.place.children.length !== charts.length)
      show(
        this.place,
        charts.map((one) => one.element),
      );
  }

  update({ images, loss, errors, noise_images: validations, noise, kid_images: measured, kid }) {
    this.loss.update([{ name: "loss", points: toPoints(images, loss) }]);
    this.errors.update(
      Object.entries(errors).map(([name, values]) => ({
        name: title(name),
        points: toPoints(images, values),
      })),
    );
    const levels = Object.entries(noise);
    const last = Math.max(1, levels.length - 1);
    this.noise.update(
      levels.map(([label, values], k) => ({
        name: /^-?\d/.test(label) ? `log-SNR ${label.replace("-", "−")}` : label,
        // Noise levels have an order, so their colours go gradually from one colour to another.
        color: `color-mix(in oklch, var(--ramp-b) ${Math.round((100 * k) / last)}%, var(--ramp-a))`,
        points: toPoints(validations, values),
      })),
    );
    this.arrange(kid.length > 0);
    this.kid.update([
      { name: "KID", points: kid.map(({ value: y, low, high }, k) => ({ x: measured[k], y, low, high })) },
    ]);
  }
}
