// A dialog that enlarges an image: arrows show the next one, and a button the image before its edit.

import { button, h, setText } from "./dom.js";

const ARROWS = { ArrowLeft: -1, ArrowRight: 1 };

/** Enlarge one of several tiles. */
export function openViewer(tiles, tile) {
  let place = tiles.indexOf(tile);
  let old = false;
  const image = h("img.pixels");
  const caption = h("p", { role: "status" });
  const save = h("a.button.quiet", { download: "" }, "Save");
  const before = button("", () => draw(!old));
  const close = button("✕", () => element.close(), { class: "quiet", "aria-label": "Close" });
  const back = button("←", () => move(-1), { "aria-label": "Previous image" });
  const next = button("→", () => move(1), { "aria-label": "Next image" });
  const element = h(
    "dialog.viewer",
    { "aria-label": "Enlarged image", onkeydown: ({ key }) => key in ARROWS && move(ARROWS[key]) },
    h("div.head", caption, save, close),
    image,
    h("div.row", tiles.length > 1 && back, before, tiles.length > 1 && next),
  );

  function move(by) {
    place = (place + by + tiles.length) % tiles.length;
    before.hidden = !tiles[place].before;
    save.href = tiles[place].file;
    draw(false);
  }

  function draw(beforeEdit) {
    const { name, url, before: earlier } = tiles[place];
    old = beforeEdit;
    Object.assign(image, old ? { src: earlier, alt: `${name}, before the edit` } : { src: url, alt: name });
    setText(caption, `${image.alt} (${place + 1} of ${tiles.length})`);
    setText(before, old ? "Show after" : "Show before");
  }

  move(0);
  document.body.append(element);
  element.addEventListener("close", () => element.remove());
  element.showModal();
}
