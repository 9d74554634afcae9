// A dialog that enlarges an image: arrows show the next one, and a button the image before its edit.

import { button, h, setText } from "./dom.js";

const ARROWS = { ArrowLeft: -1, ArrowRight: 1 };

/** The dialog; `open(tiles, tile)` shows it. */
export class Viewer {
  constructor() {
    this.image = h("img.pixels");
    this.caption = h("p", { role: "status" });
    this.save = h("a.button.quiet", { download: "" }, "Save");
    this.before = button("", () => this.showBefore(!this.old));
    const close = button("✕", () => this.element.close(), { class: "quiet", "aria-label": "Close" });
    this.back = button("←", () => this.move(-1), { "aria-label": "Previous image" });
    this.next = button("→", () => this.move(1), { "aria-label": "Next image" });
    this.element = h(
      "dialog.viewer",
      { "aria-label": "Enlarged image", onkeydown: ({ key }) => key in ARROWS && this.move(ARROWS[key]) },
      h("div.title-row", this.caption, this.save, close),
      this.image,
      h("div.row", this.back, this.before, this.next),
    );
  }

  /** Show one of several tiles. */
  open(tiles, tile) {
    Object.assign(this, { tiles, place: tiles.indexOf(tile) });
    this.back.hidden = this.next.hidden = tiles.length < 2;
    this.move(0);
    document.body.append(this.element);
    this.element.showModal();
  }

  move(by) {
    this.place = (this.place + by + this.tiles.length) % this.tiles.length;
    this.before.hidden = !this.tiles[this.place].before;
    this.save.href = this.tiles[this.place].file;
    this.showBefore(false);
  }

  showBefore(old) {
    const tile = this.tiles[this.place];
    this.old = old;
    this.image.src = old ? tile.before : tile.url;
    this.image.alt = old ? `${tile.name}, before the edit` : tile.name;
    setText(this.caption, `${this.image.alt} (${this.place + 1} of ${this.tiles.length})`);
    setText(this.before, old ? "Show after" : "Show before");
  }
}
