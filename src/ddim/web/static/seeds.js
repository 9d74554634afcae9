// Lists of seeds, written as on the command line: 0-15,40.

import { button, field, h } from "./dom.js";
import { evenly, fillFields, slider } from "./fields.js";

/** Return the seeds in a text such as "0-15,40"; throws an Error with a sentence if the text is wrong. */
export function parseSeeds(text, most) {
  const seeds = new Set();
  const limit = `This server makes at most ${most} images at once.`;
  for (const part of text.split(",").filter((one) => one.trim())) {
    const match = /^(\d+)(?:\s*-\s*(\d+))?$/.exec(part.trim());
    if (!match) throw new Error(`Seeds are numbers and ranges such as 0-15,40, not “${part}”.`);
    const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
    if (last < first) throw new Error(`The range ${part} ends before it begins.`);
    if (last - first >= most) throw new Error(limit);
    for (let seed = first; seed <= last; seed++) seeds.add(seed);
  }
  if (!seeds.size) throw new Error("Give at least one seed, such as 0-15.");
  if (seeds.size > most) throw new Error(limit);
  return [...seeds];
}

/** Return seeds as text; consecutive seeds become a range. */
export function writeSeeds(seeds) {
  const ranges = [];
  for (const seed of seeds) {
    const last = ranges.at(-1);
    if (last && seed === last[1] + 1) last[1] = seed;
    else ranges.push([seed, seed]);
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}

/** Fields of a number of images, at most `most`, and of their seeds, which follow it; `box` holds both. */
export class SeedFields {
  constructor(most, count) {
    this.most = most;
    this.count = slider("Images", evenly(1, most), { value: count });
    this.text = h("input", { value: writeSeeds(evenly(0, count - 1)), autocomplete: "off", required: true });
    const other = () => this.write(Math.floor(Math.random() * 100_000));
    const seeds = field("Seeds, such as 0-15,40", this.text);
    const dice = button("⚄", other, { "aria-label": "Other seeds", title: "Other seeds" });
    const row = h("div.row.joined", seeds, dice);
    this.box = h("div.seeds", { oninput: ({ target }) => this.follow(target) }, this.count.box, row);
  }

  /** Return the seeds; throws an Error with a sentence if the text is wrong. */
  read() {
    return parseSeeds(this.text.value, this.most);
  }

  fill(seeds) {
    this.text.value = writeSeeds(seeds);
    this.follow(this.text);
  }

  follow(changed) {
    if (changed === this.count) this.write(Number(/\d+/.exec(this.text.value) ?? 0));
    if (changed !== this.text) return;
    try {
      fillFields([this.count], [this.read().length]);
    } catch {
      // The user has not finished typing; `read` complains.
    }
  }

  /** Write as many seeds as the user wants, from a first one on. */
  write(first) {
    const { valueAsNumber: n, validity } = this.count;
    if (n && validity.valid) this.text.value = writeSeeds(evenly(first, first + n - 1));
  }
}
