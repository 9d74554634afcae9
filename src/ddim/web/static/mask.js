// A dialog in which the user paints the part of an image to generate anew, with mouse, pen, finger or keys.

import { announce, button, field, h, menu, newId, setText } from "./dom.js";
import { evenly, slider } from "./fields.js";
import { drawCropped } from "./tiles.js";

/** The name of the uploads that are masks; a photo may well be called mask.png. */
export const MASK = "mask-of-the-page.png";

const KEYS = `Arrow keys move the brush, the space bar paints, E erases, [ and ] change the size of the brush,
  and Control+Z undoes. With the mouse, the right button erases.`;
const MOVES = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };

/** A dialog; `ask()` returns {blob, resample}, or null if the user cancels. The tile keeps its mask. */
export class MaskDialog {
  constructor(tile, [height, width]) {
    Object.assign(this, { tile, width, height, at: [width >> 1, height >> 1], before: [], on: null });
    this.mask = tile.mask ?? new Uint8Array(width * height);
    const [hint, title] = [newId("hint"), newId("title")];
    this.picture = h("canvas.pixels", { width, height });
    const name = { role: "application", "aria-label": "Mask", "aria-describedby": hint };
    const release = () => (this.on = null);
    const events = {
      onpointerdown: (event) => {
        this.canvas.setPointerCapture(event.pointerId);
        this.press(event.button === 2 ? 0 : Number(this.mode.value), this.position(event));
      },
      onpointermove: (event) => this.moveTo(this.position(event)),
      onkeydown: (event) => this.onKey(event),
      oncontextmenu: (event) => event.preventDefault(),
      onkeyup: ({ key }) => key.startsWith("Arrow") || release(),
      ...{ onpointerup: release, onpointercancel: release, onblur: release },
    };
    this.canvas = h("canvas.pixels.paint", { width, height, tabindex: 0, ...name, ...events });
    const widest = Math.ceil(Math.max(width, height) / 2);
    const size = { min: 1, max: widest, value: Math.ceil(widest / 4), oninput: () => this.draw() };
    this.brush = h("input", { type: "range", ...size });
    this.mode = menu([[1, "paint"], [0, "erase"]]);
    this.rounds = slider("Rounds a step: more join the parts better", evenly(1, 20), { value: 5 });
    this.state = h("p.note", { role: "status" });
    this.make = h("button.main", { type: "submit", value: "make" }, "Generate this part");
    this.undoButton = button("Undo", () => this.undo(), { class: "quiet" });
    const style = { "aspect-ratio": `${width} / ${height}` };
    this.element = h(
      "dialog.mask",
      { "aria-labelledby": title },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: title }, "Which part should be generated anew?"),
        h("div.easel", { style }, this.picture, this.canvas),
        h("small.note.keys", { id: hint }, KEYS),
        h(
          "div.row",
          field("Brush size in pixels", this.brush),
          field("Brush", this.mode),
          this.undoButton,
          button("Clear", () => this.fill(() => 0), { class: "quiet" }),
          button("Swap", () => this.fill((on) => 1 - on), { class: "quiet" }),
        ),
        this.rounds.box,
        h("div.main-row", this.state, button("Cancel", () => this.element.close()), this.make),
      ),
    );
  }

  async ask() {
    document.body.append(this.element);
    await this.tile.image.decode().catch(() => {});
    drawCropped(this.picture, this.tile.image);
    this.element.showModal();
    this.canvas.focus();
    this.draw();
    await new Promise((resolve) => this.element.addEventListener("close", resolve, { once: true }));
    this.element.remove();
    this.tile.mask = this.mask;
    if (this.element.returnValue !== "make") return null;
    paint(this.canvas, this.mask, (on) => [255 * on, 255 * on, 255 * on, 255]);
    const blob = await new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
    return { blob, resample: this.rounds.valueAsNumber };
  }

  get radius() {
    return Math.max(this.brush.valueAsNumber / 2, 0.5);
  }

  undo() {
    this.mask = this.before.pop() ?? this.mask;
    this.draw();
  }

  fill(value) {
    this.before.push(this.mask.slice());
    this.mask = this.mask.map(value);
    this.draw();
  }

  /** Begin to set pixels to 1 (generated) or 0 (kept). */
  press(on, at) {
    this.before.push(this.mask.slice());
    Object.assign(this, { on, at });
    this.moveTo(at);
  }

  /** Move the brush; while something is pressed, set the pixels near its way. */
  moveTo(to) {
    const [left, top] = this.at;
    const [across, down] = [to[0] - left, to[1] - top];
    this.at = to;
    const set = (_, pixel) => {
      const [x, y] = [(pixel % this.width) - left, Math.floor(pixel / this.width) - top];
      const share = clamp((x * across + y * down) / (across ** 2 + down ** 2 || 1), 1);
      // Distances are between centres of pixels, so a brush of one pixel covers exactly one.
      if (Math.hypot(x - share * across, y - share * down) < this.radius) this.mask[pixel] = this.on;
    };
    if (this.on !== null) this.mask.forEach(set);
    this.draw();
  }

  draw() {
    paint(this.canvas, this.mask, (on) => [255, 60, 130, 175 * on]);
    const context = this.canvas.getContext("2d");
    context.strokeStyle = "#fff";
    context.lineWidth = 0.5;
    context.beginPath();
    context.arc(this.at[0] + 0.5, this.at[1] + 0.5, this.radius, 0, 2 * Math.PI);
    context.stroke();
    const share = this.mask.reduce((sum, on) => sum + on, 0) / this.mask.length;
    const text = `${Math.round(100 * share)} % of the image will be generated anew.`;
    setText(this.state, share ? text : "Nothing is painted yet.");
    this.make.disabled = !share;
    this.undoButton.disabled = !this.before.length;
  }

  position({ offsetX, offsetY }) {
    const zoom = this.width / this.canvas.clientWidth;
    return [Math.floor(zoom * offsetX), Math.floor(zoom * offsetY)];
  }

  onKey(event) {
    const key = event.key.toLowerCase();
    if (MOVES[key]) {
      const by = event.shiftKey ? 1 : Math.max(1, Math.floor(this.radius));
      const [x, y] = this.at.map((place, axis) => place + by * MOVES[key][axis]);
      this.moveTo([clamp(x, this.width - 1), clamp(y, this.height - 1)]);
    } else if (key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else if (key === " " || key === "e") {
      if (!event.repeat) this.press(key === " " ? Number(this.mode.value) : 0, this.at);
    } else if (key === "[" || key === "]") this.brush.valueAsNumber += key === "[" ? -1 : 1;
    else return; // Tab and Escape keep their meaning
    event.preventDefault();
    this.draw();
    announce(this.state.textContent);
  }
}

const clamp = (value, largest) => Math.min(largest, Math.max(0, value));

/** Give each pixel of a canvas the color (r, g, b, alpha) that `color(value)` returns. */
function paint(canvas, values, color) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, k) => pixels.data.set(color(value), 4 * k));
  context.putImageData(pixels, 0, 0);
}
