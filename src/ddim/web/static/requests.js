// Requests of the playground: their words for the user, and the address that repeats one.

import { plural } from "./format.js";
import { parseSeeds, writeSeeds } from "./seeds.js";

/** Return the title of a result; `sources` are the names of the images from which an edit starts. */
export function title(kind, { seeds = [], label }, sources) {
  if (kind === "vary") return `${plural(seeds.length, "variation")} of ${sources[0]}`;
  if (kind === "inpaint") return `Inpainting of ${sources[0]}`;
  if (kind === "invert") return `Inversion of ${sources[0]}`;
  if (kind === "interpolate") return `From ${sources[0]} to ${sources[1]}`;
  return plural(seeds.length, "sample") + (label && label !== "all" ? `, class ${label}` : "");
}

/** Return the names of the images of a result. */
export function captions(kind, { seeds = [], frames }) {
  if (kind === "invert") return ["image", "restored from its latent"];
  if (kind === "interpolate") return Array.from({ length: frames }, (_, k) => `frame ${k + 1}`);
  return seeds.map((seed) => `seed ${seed}`);
}

/** Return the settings of a request in words, such as "20 steps · guidance 2". */
export function describe({ seeds, sources, mask, frames, film, fields, ...rest }) {
  const words = Object.entries({ ...rest, ...fields }).map(([name, value]) => {
    if (name === "steps") return plural(value, "step");
    if (name === "label") return value === "all" ? "all classes in turn" : `class ${value}`;
    return `${name.replace(/[._]/g, " ")} ${Array.isArray(value) ? value.join(" to ") : value}`;
  });
  return words.join(" · ") || "the run's own settings";
}

/** Return the address of the playground with the settings of a request. */
export function toAddress(run, kind, body) {
  const query = new URLSearchParams({ kind });
  for (const [name, value] of Object.entries(body))
    query.set(name, name === "seeds" ? writeSeeds(value) : JSON.stringify(value));
  return `#/play/${encodeURIComponent(run)}?${query}`;
}

/** Return {kind, body} of the request in an address; null without one, or if it is damaged. */
export function fromQuery(query) {
  const { kind, ...rest } = Object.fromEntries(query);
  const read = ([name, text]) => [name, name === "seeds" ? parseSeeds(text, Infinity) : JSON.parse(text)];
  try {
    return kind ? { kind, body: Object.fromEntries(Object.entries(rest).map(read)) } : null;
  } catch {
    return null;
  }
}
