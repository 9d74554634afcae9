// Lists of seeds, written as on the command line: 0-15,40.

const LARGEST = 2 ** 32 - 1;

/** Return the seeds in a text such as "0-15,40"; throws an Error with a sentence if the text is wrong. */
export function parseSeeds(text, most) {
  const seeds = [];
  for (const part of text
    .split(",")
    .map((one) => one.trim())
    .filter(Boolean)) {
    const match = /^(\d+)(?:\s*-\s*(\d+))?$/.exec(part);
    if (!match) throw new Error(`Seeds are numbers and ranges such as 0-15,40, not “${part}”.`);
    const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
    if (last > LARGEST) throw new Error(`Seeds are at most ${LARGEST}.`);
    if (last < first) throw new Error(`The range ${part} ends before it begins.`);
    if (last - first >= most) throw new Error(`This server makes at most ${most} images at once.`);
    for (let seed = first; seed <= last; seed++) seeds.push(seed);
  }
  const found = [...new Set(seeds)];
  if (!found.length) throw new Error("Give at least one seed, such as 0-15.");
  if (found.length > most)
    throw new Error(`This server makes at most ${most} images at once; these are ${found.length} seeds.`);
  return found;
}

/** Return a text for the same number of seeds, all larger than the present ones. */
export function nextSeeds(text, most) {
  let seeds;
  try {
    seeds = parseSeeds(text, most);
  } catch {
    return "0-15";
  }
  const first = Math.max(...seeds) + 1;
  return first + seeds.length - 1 > LARGEST
    ? `0-${seeds.length - 1}`
    : seeds.length > 1
      ? `${first}-${first + seeds.length - 1}`
      : String(first);
}
