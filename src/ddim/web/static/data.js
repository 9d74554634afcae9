// A set of training images: a sheet, the classes, the files that were left out, and the duplicates.

import { get } from "./api.js";
import { fault, field, h, menu, section, show, svg } from "./dom.js";
import { count } from "./format.js";
import { table } from "./run_parts.js";

const SIZES = [32, 64, 128, 256]; // pixels at which images are shown
const SHOWN = 100; // rows of a table; more are only counted

/** Draw the list of image sets, and the set named in the address. */
export async function draw(root, { id, query, about, signal }) {
  root.append(h("h1", {}, "Data"));
  const { data: entries } = await get("/api/choices", signal);
  if (!entries.length)
    return root.append(
      h(
        "div",
        { class: "empty" },
        h("h2", {}, "No images yet"),
        h("p", {}, "Start the server with a folder of images:"),
        h("pre", { tabindex: 0, "aria-label": "Command" }, `ddim serve ${about.folder} --data photos/`),
      ),
    );
  const place = h("div", { class: "data-set" });
  const size = SIZES.includes(Number(query.get("size"))) ? Number(query.get("size")) : 64;
  const address = (own) => `#/data/${encodeURIComponent(own)}?size=${size}`;
  root.append(
    h(
      "nav",
      { "aria-label": "Image sets", class: "sets" },
      entries.map((one) =>
        h(
          "a",
          { href: address(one.id), "aria-current": one.id === id ? "true" : null },
          one.name,
          h("small", {}, one.kind),
        ),
      ),
    ),
    place,
  );
  const chosen = entries.find((one) => one.id === id);
  if (!chosen)
    return show(
      place,
      h("p", { class: "note" }, id ? `There are no images named ${id}.` : "Choose a set of images."),
    );
  show(
    place,
    h(
      "p",
      { class: "note", role: "status" },
      "Reading the images; a large set takes a while the first time …",
    ),
    h("progress", { "aria-label": "Reading" }),
  );
  try {
    const found = await get(`/api/data/${encodeURIComponent(id)}?size=${size}`, signal);
    const sizes = menu(
      SIZES.map((each) => [String(each), `${each} × ${each} px`]),
      {
        value: String(size),
        onchange: () => {
          location.hash = `#/data/${encodeURIComponent(id)}?size=${sizes.value}`;
        },
      },
    );
    show(place, describe(chosen, found, field("Crop and resize to", sizes)));
  } catch (error) {
    if (error.name !== "AbortError") show(place, fault(error.message));
  }
  return root;
}

function describe({ name }, found, sizes) {
  return [
    section(
      name,
      h("p", {}, found.verdict),
      sizes,
      found.sheet ? h("img", { class: "pixels sheet", src: found.sheet, alt: `Images of ${name}` }) : null,
    ),
    h("div", {}, classes(found.classes), rejects(found.rejects), duplicates(found.duplicates)),
  ];
}

function classes(counts) {
  const list = Object.entries(counts).map(([name, count]) => ({ name, count }));
  if (!list.length) return section("Classes", h("p", { class: "note" }, "These images have no classes."));
  const most = Math.max(...list.map((one) => one.count));
  return section(
    `Classes (${list.length})`,
    h(
      "div",
      { class: "bars" },
      list.map((one) => [
        h("span", {}, one.name),
        svg(
          "svg",
          { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" },
          svg("rect", { width: (100 * one.count) / most, height: 1 }),
        ),
        h("span", { class: "number" }, count(one.count)),
      ]),
    ),
  );
}

function rejects(list) {
  if (!list.length) return section("Left out", h("p", { class: "note" }, "Every image can be read."));
  return section(
    `Left out (${count(list.length)})`,
    table(
      "Images that are left out",
      ["Image", "Why"],
      list.slice(0, SHOWN).map((one) => [one.name, one.reason]),
    ),
    more(list),
  );
}

function duplicates(list) {
  if (!list.length) return section("Duplicates", h("p", { class: "note" }, "No two images are equal."));
  return section(
    `Duplicates (${count(list.length)})`,
    table(
      "Images that are equal",
      ["Image", "The same as"],
      list.slice(0, SHOWN).map(([first, ...others]) => [first, others.join(", ")]),
    ),
    more(list),
  );
}

const more = (list) =>
  list.length > SHOWN ? h("p", { class: "note" }, `and ${count(list.length - SHOWN)} more`) : null;
