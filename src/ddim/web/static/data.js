// A set of training images: a sheet, the classes, the files that were left out, and the duplicates.

import { get, post } from "./api.js";
import { hideGaps } from "./card.js";
import { field, h, menu, section, show } from "./dom.js";
import { count } from "./format.js";
import { table } from "./run_parts.js";

const SIZES = ["32", "64", "128", "256"]; // pixels at which images are shown
const SHOWN = 100; // rows of a table; more are only counted

/** Draw the list of image sets, and the set named in the address. */
export async function draw(root, { id, query, about, signal }) {
  root.append(h("h1", "Data"));
  const { data: sets } = await get("/api/choices", signal);
  if (!sets.length) return root.append(empty(about));
  const size = SIZES.includes(query.get("size")) ? query.get("size") : "64";
  const link = ({ id: own, name, kind }) =>
    h("a.button", { href: address(own, size), "aria-current": own === id && "true" }, name, h("small", kind));
  const place = h("div.data-set");
  root.append(h("nav.sets.row", { "aria-label": "Image sets" }, sets.map(link)), place);
  const chosen = sets.find((one) => one.id === id);
  const none = id ? `There are no images named ${id}.` : "Choose a set of images.";
  if (!chosen) return show(place, h("p.note", none));
  const reading = "Reading the images; a large set takes a while the first time …";
  show(place, h("div", h("p.note", { role: "status" }, reading), h("progress", { "aria-label": "Reading" })));
  const request = post(`/api/data/${encodeURIComponent(id)}`, { size: Number(size) }, signal);
  const found = await request.finally(() => show(place));
  return show(place, describe(chosen, size, about, found));
}

const address = (id, size) => `#/data/${encodeURIComponent(id)}?size=${size}`;

function empty(about) {
  const command = `ddim serve ${about.folder} --data photos/`;
  const shown = h("pre", { tabindex: 0, "aria-label": "Command" }, command);
  return h("div.empty", h("h2", "No images yet"), h("p", "Start the server with a folder of images:"), shown);
}

function describe({ id, name }, size, about, { verdict, sheet, classes, rejects, duplicates }) {
  const texts = SIZES.map((each) => [each, `${each} × ${each} px`]);
  const sizes = menu(texts, { value: size, onchange: () => (location.hash = address(id, sizes.value)) });
  const most = Math.max(...Object.values(classes));
  const bar = (label, value) => h("progress", { "aria-label": label, max: most, value });
  const counts = Object.entries(classes).map(([label, number]) => [label, bar(label, number), count(number)]);
  const left = rejects.map((one) => [one.name, one.reason]);
  const same = duplicates.map(([first, ...others]) => [first, others.join(", ")]);
  const onload = ({ target }) => hideGaps(target, [Number(size), Number(size)]);
  const train = h("a.button", { href: `#/new?data=${encodeURIComponent(id)}` }, "Train on these images");
  return [
    section(
      name,
      h("p", verdict),
      h("div.row", field("Crop and resize to", sizes), about.may_train && train),
      h("img.pixels.sheet", { src: sheet, alt: `Images of ${name}`, onload }),
    ),
    h(
      "div",
      listed("Classes", "These images have no classes.", ["Class", "Share", "Images"], counts),
      listed("Left out", "Every image can be read.", ["Image", "Why"], left),
      listed("Duplicates", "No two images are equal.", ["Image", "The same as"], same),
    ),
  ];
}

/** Return a section with a table of at most 100 rows, or with the sentence `none`. */
function listed(title, none, heads, rows) {
  if (!rows.length) return section(title, h("p.note", none));
  const more = rows.length > SHOWN && h("p.note", `and ${count(rows.length - SHOWN)} more`);
  return section(`${title} (${count(rows.length)})`, table(title, heads, rows.slice(0, SHOWN)), more);
}
