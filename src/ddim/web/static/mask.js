// A dialog in which the user paints the part of an image to generate anew, with mouse, pen, finger or keys.

import { announce, button, field, h, menu, newId, setText } from "./dom.js";

const KEYS =
  "Arrow keys move the brush, the space bar paints, E erases, [ and ] change the size of the brush. With the mouse, the right button erases.";
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * A dialog; `ask()` returns {blob, n, resample}, or null if the user cancels. White pixels of the PNG `blob`
 * are generated.
 */
export class MaskDialog {
  constructor(tile, size, most) {
    this.tile = tile;
    const [height, width] = size ?? [64, 64];
    Object.assign(this, { width, height, filled: 0, at: [Math.floor(width / 2), Math.floor(height / 2)] });
    this.mask = new Uint8Array(width * height);
    // The picture and the mask are two canvases of the model's image size; the style sheet enlarges both
    // equally.
    this.picture = h("canvas", { width, height, class: "pixels" });
    const hint = newId("hint");
    this.canvas = h("canvas", {
      width,
      height,
      class: "pixels paint",
      tabindex: 0,
      role: "application",
      "aria-label": "Mask",
      "aria-describedby": hint,
    });
    this.brush = h("input", {
      type: "range",
      min: 1,
      max: Math.ceil(Math.max(width, height) / 2),
      step: 1,
      value: Math.ceil(Math.max(width, height) / 8),
      oninput: () => this.draw(),
    });
    this.mode = menu([
      ["1", "paint"],
      ["0", "erase"],
    ]);
    this.n = h("input", {
      type: "number",
      min: 1,
      max: most,
      step: 1,
      value: Math.min(4, most),
      inputmode: "numeric",
    });
    this.resample = h("input", { type: "number", min: 1, max: 20, step: 1, value: 5, inputmode: "numeric" });
    this.state = h("p", { class: "note", role: "status" }, "Nothing is painted yet.");
    this.make = h(
      "button",
      { type: "submit", value: "make", class: "main", disabled: true },
      "Generate this part",
    );
    const title = h("h2", { id: newId("title") }, "Which part should be generated anew?");
    this.element = h(
      "dialog",
      { class: "mask", "aria-labelledby": title.id },
      h(
        "form",
        { method: "dialog" },
        title,
        h(
          "div",
          { class: "easel", style: { "aspect-ratio": `${width} / ${height}` } },
          this.picture,
          this.canvas,
        ),
        h("small", { id: hint, class: "note" }, KEYS),
        h(
          "div",
          { class: "row" },
          field("Brush size in pixels", this.brush),
          field("Brush", this.mode),
          button("Clear", () => this.fill(() => 0), { class: "quiet" }),
          button("Swap", () => this.fill((on) => 1 - on), { class: "quiet" }),
        ),
        h("div", { class: "row" }, field("Images", this.n), field("Rounds a step", this.resample)),
        h("small", { class: "note" }, "More rounds a step join the two parts better, and take longer."),
        this.state,
        h(
          "div",
          { class: "row" },
          this.make,
          h("button", { type: "submit", value: "", formnovalidate: true }, "Cancel"),
        ),
      ),
    );
    this.listen();
  }

  async ask() {
    document.body.append(this.element);
    const picture = this.tile.image ?? this.tile.canvas;
    if (this.tile.image) await picture.decode().catch(() => {});
    this.picture.getContext("2d").drawImage(picture, 0, 0, this.width, this.height);
    this.element.showModal();
    this.canvas.focus();
    this.draw();
    await new Promise((resolve) => this.element.addEventListener("close", resolve, { once: true }));
    this.element.remove();
    if (this.element.returnValue !== "make") return null;
    return { blob: await this.toPng(), n: Number(this.n.value), resample: Number(this.resample.value) };
  }

  toPng() {
    const canvas = h("canvas", { width: this.width, height: this.height });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(this.width, this.height);
    this.mask.forEach((on, k) => pixels.data.set([255 * on, 255 * on, 255 * on, 255], 4 * k));
    context.putImageData(pixels, 0, 0);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  /** Set the pixels below the brush at a position to 1 (generated) or 0 (kept). */
  stamp([x, y], on) {
    const radius = Number(this.brush.value) / 2;
    for (let row = 0; row < this.height; row++)
      for (let column = 0; column < this.width; column++) {
        // Distances are between centres of pixels, so a brush of one pixel covers exactly one.
        if (Math.hypot(column - x, row - y) < Math.max(radius, 0.5))
          this.mask[row * this.width + column] = on;
      }
  }

  /** Set the pixels along a line, because a fast pointer reports few positions. */
  stroke(from, to, on) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let k = 0; k <= steps; k++)
      this.stamp(
        [from[0] + ((to[0] - from[0]) * k) / steps, from[1] + ((to[1] - from[1]) * k) / steps].map(
          Math.round,
        ),
        on,
      );
    this.draw();
  }

  fill(value) {
    this.mask = this.mask.map(value);
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const pixels = context.createImageData(this.width, this.height);
    let filled = 0;
    this.mask.forEach((on, k) => {
      if (!on) return;
      filled++;
      // A chequered pattern is visible on pictures of any colour.
      const light = ((k % this.width) + Math.floor(k / this.width)) % 2 ? 255 : 215;
      pixels.data.set([light, 60, 130, 175], 4 * k);
    });
    context.putImageData(pixels, 0, 0);
    context.strokeStyle = "#fff";
    context.lineWidth = 0.5;
    context.beginPath();
    context.arc(
      this.at[0] + 0.5,
      this.at[1] + 0.5,
      Math.max(Number(this.brush.value) / 2, 0.5),
      0,
      2 * Math.PI,
    );
    context.stroke();
    this.make.disabled = filled === 0;
    const share = Math.round((100 * filled) / this.mask.length);
    setText(
      this.state,
      filled ? `${share} % of the image will be generated anew.` : "Nothing is painted yet.",
    );
  }

  position(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.width,
      ((event.clientY - box.top) / box.height) * this.height,
    ].map(Math.floor);
  }

  listen() {
    let last = null,
      on = 1;
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      on = event.button === 2 ? 0 : Number(this.mode.value);
      this.at = last = this.position(event);
      this.stroke(last, last, on);
    });
    canvas.addEventListener("pointermove", (event) => {
      // Pens and fast mice report several positions between two frames.
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) {
        this.at = this.position(one);
        if (last) {
          this.stroke(last, this.at, on);
          last = this.at;
        }
      }
      this.draw();
    });
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, () => {
        last = null;
      });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  onKey(event) {
    const move = MOVES[event.key];
    const size = Number(this.brush.value);
    if (move) {
      const by = event.shiftKey ? 1 : Math.max(1, Math.floor(size / 2));
      const from = this.at;
      this.at = [clamp(from[0] + move[0] * by, this.width), clamp(from[1] + move[1] * by, this.height)];
      if (this.held) this.stroke(from, this.at, this.held.on);
    } else if (event.key === " " || event.key.toLowerCase() === "e") {
      // While the key is held, arrows draw lines.
      this.held = { on: event.key === " " ? Number(this.mode.value) : 0 };
      this.canvas.addEventListener(
        "keyup",
        () => {
          this.held = null;
        },
        { once: true },
      );
      this.stroke(this.at, this.at, this.held.on);
      announce(this.state.textContent);
    } else if (event.key === "[" || event.key === "]") this.brush.value = size + (event.key === "[" ? -1 : 1);
    else return; // Tab and Escape keep their meaning
    event.preventDefault();
    this.draw();
  }
}

const clamp = (value, size) => Math.min(size - 1, Math.max(0, value));
