// Images of the user: chosen or dropped, then uploaded and shown as tiles.

import { upload } from "./api.js";
import { announce, fault, h, newId, show } from "./dom.js";
import { Tile } from "./tiles.js";

/** A drop zone and the tiles of the uploaded images. */
export class Uploads {
  constructor(most, size, onpick, signal) {
    Object.assign(this, { most, size, onpick, signal });
    const hint = newId("hint");
    this.input = h("input", {
      type: "file",
      accept: "image/*,.npy,.tif,.tiff",
      multiple: true,
      id: newId("file"),
      "aria-describedby": hint,
      onchange: () => this.take(this.input.files),
    });
    this.tiles = h("div", {
      class: "tiles own",
      role: "group",
      "aria-label": "Your images",
      style: { "--columns": "4" },
    });
    this.message = h("div", {});
    this.element = h(
      "section",
      { class: "drop", "aria-label": "Your images" },
      h("label", { for: this.input.id }, "Your own images"),
      this.input,
      h(
        "small",
        { class: "note", id: hint },
        "Choose or drop an image to invert, vary or inpaint it. It is cropped at its centre and resized.",
      ),
      this.message,
      this.tiles,
    );
    this.element.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.element.classList.add("over");
    });
    this.element.addEventListener("dragleave", () => this.element.classList.remove("over"));
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      this.element.classList.remove("over");
      this.take(event.dataTransfer.files);
    });
  }

  async take(files) {
    show(this.message);
    for (const file of [...files]) {
      try {
        if (file.size > this.most)
          throw new Error(
            `${file.name} has ${megabytes(file.size)}; at most ${megabytes(this.most)} can be uploaded.`,
          );
        const { upload: id } = await upload(file, file.name, this.signal);
        const tile = new Tile(file.name, this.onpick);
        tile.finish(await this.preview(file), { upload: id });
        this.tiles.append(tile.element);
        announce(`${file.name} uploaded`);
      } catch (error) {
        if (error.name !== "AbortError") show(this.message, fault(error.message));
      }
    }
    this.input.value = ""; // so that the same file can be chosen again
  }

  /**
   * Return the address of the image as the model gets it: cropped at the centre and resized to the run's size.
   */
  async preview(file) {
    const image = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
    const [height, width] = this.size ?? [image?.height ?? 64, image?.width ?? 64];
    const canvas = h("canvas", { width, height });
    if (image) {
      const zoom = Math.max(width / image.width, height / image.height);
      const [w, t] = [width / zoom, height / zoom];
      const context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      context.drawImage(image, (image.width - w) / 2, (image.height - t) / 2, w, t, 0, 0, width, height);
    }
    // The server decodes formats that a browser may not, such as HEIC; their tile stays blank until the first edit.
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    return URL.createObjectURL(blob);
  }
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
