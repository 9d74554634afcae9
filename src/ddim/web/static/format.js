// Write numbers, intervals and times as text for the user.

/** Return a count with commas: 26,800. */
export const count = (value) =>
  value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");

/** Return "1 image" or "2 images". */
export const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

/** Return a number with three significant digits; very small and very large numbers have an exponent. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(digits - 1).replace("e+", "e");
  if (Number.isInteger(value)) return value.toLocaleString("en");
  // Trailing zeros stay, because 0.220 is as precise as 0.219.
  return value.toLocaleString("en", { minimumSignificantDigits: digits, maximumSignificantDigits: digits });
}

/** Return a number of an axis, without trailing zeros. */
export const tickText = (value) =>
  Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-4)
    ? Number(value.toPrecision(3)).toExponential()
    : String(Number(value.toPrecision(6)));

/**
 * Return a value with its 95 % interval, all with the same number of decimals: "0.0019 (0.0011 to 0.0027)".
 */
export function interval(metric) {
  if (!metric || metric.value === null || metric.value === undefined) return "–";
  const { value, low, high } = metric;
  if (low === null || low === undefined || high === null || high === undefined) return number(value);
  // The interval's width gets two significant digits; more would be noise.
  const decimals = Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(Math.max(high - low, 1e-12)))));
  const text = (x) => x.toFixed(decimals);
  return `${text(value)} (${text(low)} to ${text(high)})`;
}

/** Return seconds as "0.4 s", "40 s", "12 min" or "3 h 20 min". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

/** Return how long ago a time in seconds since 1970 was. */
export function ago(time) {
  if (!time) return "";
  const seconds = Date.now() / 1000 - time;
  return seconds < 60 ? "just now" : `${duration(seconds)} ago`;
}

/** Return an image size as "64 × 64 px". */
export function size(value) {
  if (!value) return "";
  return Array.isArray(value) ? `${value[1]} × ${value[0]} px` : `${value} px`;
}

/** Titles of the metrics and errors of the library. */
const TITLES = {
  kid: "KID",
  fid: "FID",
  precision: "Precision",
  recall: "Recall",
  density: "Density",
  coverage: "Coverage",
  image_mae: "Image error",
  noise_mae: "Noise error",
};

/** Return the title of a metric or an error. */
export const title = (name) => TITLES[name] ?? name.replaceAll("_", " ");

/** Return whether smaller values of a metric are better. */
export const smallIsGood = (name) => !["precision", "recall", "density", "coverage"].includes(name);

/** Return a time, given as ISO 8601 text, as "27 Nov 2026, 04:43". */
export function moment(text) {
  const time = new Date(text ?? "");
  return Number.isNaN(time.getTime())
    ? (text ?? "")
    : time.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** Return a line of the log as readable text: numbers with names, without the many errors by noise level. */
export function logLine(entry) {
  const { step, images, time, ...values } = entry;
  const rest = Object.entries(values).filter(([name]) => !name.includes("/"));
  const words = rest.map(([name, value]) => `${name} ${typeof value === "number" ? number(value) : value}`);
  return [`step ${count(step)}`, plural(images ?? 0, "image"), ...words].join("   ");
}
