// Write numbers, intervals and times as text for the user.

const known = (value) => value !== null && value !== undefined;

/** Return a count with commas: 26,800. */
export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : "–");

/** Return "1 image" or "2 images". */
export const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

/** Return a number with three significant digits; very small and very large numbers have an exponent. */
export function number(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e5 || (size && size < 1e-4)) return value.toExponential(digits - 1).replace("e+", "e");
  // Trailing zeros stay, because 0.220 is as precise as 0.219.
  const precision = { minimumSignificantDigits: digits, maximumSignificantDigits: digits };
  return value.toLocaleString("en", Number.isInteger(value) ? {} : precision);
}

/** Return a value with its 95 % interval, with the same decimals: "0.0019 (0.0011 to 0.0027)". */
export function interval(metric) {
  const { value, low, high } = metric ?? {};
  if (!known(value) || !known(low) || !known(high)) return number(value);
  // The interval's width gets two significant digits; more would be noise.
  const decimals = Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(Math.max(high - low, 1e-12)))));
  const [middle, from, to] = [value, low, high].map((x) => x.toFixed(decimals));
  return `${middle} (${from} to ${to})`;
}

/** Return seconds as "0.4 s", "40 s", "12 min", "3 h 20 min" or "2 days". */
export function duration(seconds) {
  if (!known(seconds)) return "";
  if (seconds < 90) return `${Math.max(0, seconds).toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (minutes < 90) return `${minutes} min`;
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

/** Return how long ago a time in seconds since 1970 was; see `since` of dom.js. */
export function ago(time) {
  const seconds = Date.now() / 1000 - time;
  return seconds < 60 ? "just now" : `${duration(seconds)} ago`;
}

/** Return an image size [height, width] as "64 × 64 px". */
export const size = (sides) => (sides ? `${sides[1]} × ${sides[0]} px` : "");

/** Return the title of a metric or an error. */
export const title = (name) =>
  ({ kid: "KID", fid: "FID", image_mae: "Image error", noise_mae: "Noise error" })[name] ??
  name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

/** Return whether smaller values of a metric are better. */
export const smallIsGood = (name) => !["precision", "recall", "density", "coverage"].includes(name);

/** Return a time, given as ISO 8601 text, as "27 Nov 2026, 04:43". */
export const moment = (text) =>
  new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** Return a line of the log as readable text: numbers with names, without the many errors by noise level. */
export function logLine({ step, images, time, ...values }) {
  const rest = Object.entries(values).filter(([name]) => !name.includes("/"));
  const words = rest.map(([name, value]) => `${name} ${typeof value === "number" ? number(value) : value}`);
  return [`step ${count(step)}`, plural(images ?? 0, "image"), ...words].join("   ");
}
