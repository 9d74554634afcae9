// Lists of seeds, written as on the command line: 0-15,40.

const LARGEST = 2 ** 32 - 1;

/** Return the seeds in a text such as "0-15,40"; throws an Error with a sentence if the text is wrong. */
export function parseSeeds(text, most) {
  const seeds = new Set();
  const limit = `This server makes at most ${most} images at once.`;
  for (const part of text.split(",").map((one) => one.trim())) {
    if (!part) continue;
    const match = /^(\d+)(?:\s*-\s*(\d+))?$/.exec(part);
    if (!match) throw new Error(`Seeds are numbers and ranges such as 0-15,40, not “${part}”.`);
    const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
    if (last > LARGEST) throw new Error(`Seeds are at most ${LARGEST}.`);
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
