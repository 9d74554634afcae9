// The arithmetic of charts: domains, ticks and positions. Nothing here changes the page.

/** The height of a chart, and the margins around its lines for the axes, in pixels. */
export const HEIGHT = 260;
export const EDGE = { top: 10, right: 14, bottom: 40, left: 66 };

/** Return up to about `wanted` round numbers in [low, high]. */
export function ticks(low, high, wanted = 5) {
  if (!(high > low)) return [low];
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found;
}

/** Return the powers of ten, and 2 and 5 times these, in [low, high]. */
export function logTicks(low, high) {
  const found = [];
  const decades = Math.log10(high / low);
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const k of decades > 3 ? [1] : [1, 2, 5]) {
      const value = k * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  return found.length > 1 ? found : ticks(low, high, 4);
}

/** Return a function from [low, high] to [start, end], with the function's inverse as `back`. */
export function scale(low, high, start, end, log = false) {
  const to = log ? Math.log : (x) => x;
  const from = log ? Math.exp : (x) => x;
  const span = to(high) - to(low) || 1;
  const map = (x) => start + ((to(x) - to(low)) / span) * (end - start);
  map.back = (position) => from(to(low) + ((position - start) / (end - start)) * span);
  return map;
}

/** Return the smallest and largest x of all series, or null if there is no point. */
export function domainX(series) {
  let low = Infinity,
    high = -Infinity;
  for (const { points } of series)
    for (const { x } of points) {
      low = Math.min(low, x);
      high = Math.max(high, x);
    }
  if (low > high) return null;
  return low === high ? [low - 1, high + 1] : [low, high];
}

/** Return the range of y of the points with x in [from, to], including their intervals and a margin. */
export function domainY(series, from, to, log) {
  let low = Infinity,
    high = -Infinity;
  for (const { points } of series)
    for (const point of points) {
      if (point.x < from || point.x > to) continue;
      const bottom = log ? point.y : Math.min(point.y, point.low ?? point.y);
      low = Math.min(low, bottom);
      high = Math.max(high, point.y, point.high ?? point.y);
    }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (log) return [low / 1.1, high * 1.1];
  const margin = (high - low || Math.abs(high) || 1) * 0.08;
  // The axis begins at zero if zero is near, because errors and distances are judged against zero.
  return [low >= 0 && low < 0.4 * high ? 0 : low - margin, high + margin];
}

/** Return the index of the point whose x is nearest; points are sorted by x. */
export function nearest(points, x) {
  let low = 0,
    high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle].x < x) low = middle;
    else high = middle;
  }
  return Math.abs(points[low].x - x) <= Math.abs(points[high].x - x) ? low : high;
}

/** Return the columns as points {x, y, low, high}; points without a value are left out. */
export function toPoints(xs, ys) {
  const points = [];
  ys.forEach((y, k) => {
    if (y !== null && y !== undefined) points.push({ x: xs[k], y });
  });
  return points;
}
