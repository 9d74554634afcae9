// Several runs side by side: a ranking, their curves in one chart, and samples of the same seeds.

import { get, post, runPath } from "./api.js";
import { hideGaps, runAddress } from "./card.js";
import { Curves } from "./curves.js";
import { button, fault, field, h, menu, recall, section, show } from "./dom.js";
import { interval, plural, smallIsGood, title } from "./format.js";
import { findRun, subscribe } from "./live.js";
import { table } from "./run_parts.js";
import { parseSeeds } from "./seeds.js";

const link = (row) => h("a", { href: runAddress(row.id) }, row.name);

/** Draw the comparison of the runs in the address, else of those that are chosen in the list of runs. */
export async function draw(root, { query, runs: asked, about, signal }) {
  const ids = asked.length ? asked : (recall("runs")?.chosen ?? []);
  const rows = ids.map(findRun).filter(Boolean);
  const list = h("a", { href: "#/" }, "list of runs");
  const told = h("p.note", `${plural(rows.length, "run")}; choose others in the `, list, ".");
  root.append(h("h1", "Compare"), told);
  if (rows.length < 2) return root.append(h("p", "A comparison needs at least two runs."));
  const curves = new Curves(signal);
  root.append(
    ranking(rows, query.get("metric"), signal),
    curves.element,
    sheets(rows),
    sameSeeds(rows, about.limits.images, signal),
  );
  return showCurves(rows, curves, signal);
}

/** Show the curves of the runs, and those of runs that train again whenever they change. */
async function showCurves(rows, curves, signal) {
  const known = new Map();
  const read = async (ids) => {
    // A damaged run does not hide the curves of the others.
    await Promise.allSettled(ids.map(async (id) => known.set(id, await get(runPath(id, "/curves"), signal))));
    const found = rows.filter(({ id }) => known.has(id));
    curves.update(found.map(({ id, name }) => ({ name, curves: known.get(id) })));
  };
  await read(rows.map(({ id }) => id));
  subscribe((changed) => {
    const ids = rows.map(({ id }) => id).filter((id) => changed.has(id) && findRun(id));
    if (ids.length) read(ids);
  }, signal);
}

function sheets(rows) {
  const sheet = (row) => {
    const alt = `Newest samples of ${row.name}`;
    const onload = ({ target }) => hideGaps(target, row.size);
    const image = row.sheet && h("img.pixels.sheet", { src: row.sheet, alt, loading: "lazy", onload });
    return h("figure", h("figcaption", link(row)), image || h("p.blank", "No samples"));
  };
  return section("Newest samples of the training", h("div.charts", rows.map(sheet)));
}

/** Return a section that samples the same seeds of all runs: a column for each run, a row for each seed. */
function sameSeeds(rows, most, signal) {
  const text = h("input", { value: "0-3", autocomplete: "off", required: true });
  const make = h("button", { type: "submit" }, "Sample all runs");
  const cancel = button("Cancel", () => job.abort(), { hidden: true });
  const state = h("p.note", { role: "status" });
  const place = h("div");
  let job = new AbortController();
  signal.addEventListener("abort", () => job.abort());
  const onsubmit = async (event) => {
    event.preventDefault();
    job = new AbortController();
    [make.disabled, cancel.hidden] = [true, false];
    try {
      const seeds = parseSeeds(text.value, most);
      const columns = [];
      // The runs are sampled one after the other, because the server uses one model at a time.
      for (const row of rows) {
        show(state, `Sampling ${row.name} …`);
        columns.push(await sample(row, seeds, job.signal));
        const lines = seeds.map((seed, k) => [seed, ...columns.map(({ images }) => images[k])]);
        const heads = columns.map(({ head }) => head);
        show(place, table("Samples of the same seeds", ["Seed", ...heads], lines));
      }
      show(state, "All runs are sampled. NFE: network evaluations per image.");
    } catch (error) {
      show(state, error.name === "AbortError" ? "Cancelled." : fault(error.message));
    }
    [make.disabled, cancel.hidden] = [false, true];
  };
  const form = h("form.row", { onsubmit }, field("Seeds", text), make, cancel);
  return section("The same seeds", form, state, place);
}

/** Return the column of a run, {head, images}. An error becomes its head: the others can still be sampled. */
async function sample(row, seeds, signal) {
  try {
    const { images, nfe } = await post(runPath(row.id, "/samples"), { seeds }, signal);
    const image = ({ url }, k) => h("img.pixels", { src: url, alt: `${row.name}, seed ${seeds[k]}` });
    return { head: [row.name, h("span.note", ` ${nfe} NFE`)], images: images.map(image) };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { head: [row.name, fault(error.message)], images: [] };
  }
}

/** Return the section of the ranking by a metric; another metric changes this section alone. */
function ranking(rows, wanted, signal) {
  const measured = [...new Set(rows.flatMap(({ metrics }) => Object.keys(metrics)))];
  const place = h("div", h("p.note", "Comparing …"));
  if (!measured.length) return section("Metrics", h("p.note", "None of these runs is evaluated yet."));
  const options = measured.map((name) => [name, title(name)]);
  const value = measured.includes(wanted) ? wanted : measured[0];
  const metric = menu(options, { value, onchange: load });
  async function load() {
    const coded = rows.map(({ id }) => encodeURIComponent(id));
    history.replaceState(history.state, "", `#/compare?runs=${coded.join(",")}&metric=${metric.value}`);
    try {
      const found = await get(`/api/compare?run=${coded.join("&run=")}&metric=${metric.value}`, signal);
      show(place, rank(found, metric.value));
    } catch (error) {
      if (error.name !== "AbortError") show(place, fault(error.message));
    }
  }
  load();
  return section("Metrics", field("Metric", metric), place);
}

/** Return the ranking of `ddim compare`, whose verdict comes first. */
function rank({ comparison, runs, excluded }, metric) {
  const name = (id) => link(findRun(id) ?? { id, name: id });
  const ranked = [];
  const others = excluded.map((id) => [name(id), "it has no evaluation"]);
  for (const [k, row] of (comparison?.rows ?? []).entries()) {
    const [value, low, high] = ["", "_low", "_high"].map((end) => row[metric + end]);
    const cells = [name(runs[k]), interval({ value, low, high }), difference(row)];
    if (row.note.startsWith("not ranked: ")) others.push([cells[0], row.note.replace("not ranked: ", "")]);
    else ranked.push([ranked.length + 1, ...cells]);
  }
  const texts = (values) => values.map((value) => String(value ?? "–"));
  const differing = Object.entries(comparison?.choices ?? {});
  const choices = differing.map(([choice, values]) => [h("code", choice), ...texts(values)]);
  const head = `${title(metric)} ${smallIsGood(metric) ? "↓" : "↑"}`;
  const part = (name, caption, heads, rows) =>
    rows.length > 0 && [h("h3", name), table(caption, heads, rows)];
  return [
    h("p", comparison?.verdict ?? "Fewer than two of these runs can be ranked."),
    part("Ranking", `Runs by ${title(metric)}`, ["Rank", "Run", head, "Difference from the first"], ranked),
    part("Not ranked", "Runs that are not ranked", ["Run", "Why"], others),
    part("Where they differ", "Choices that differ", ["Choice", ...runs.map(name)], choices),
  ];
}

/** Return in words how the value of a row differs from that of the first run. */
function difference({ difference: value, difference_low: low, difference_high: high, note }) {
  if (value === undefined) return note;
  if (low === 0 && high === 0) return "equal";
  return interval({ value, low, high }) + (low > 0 || high < 0 ? "" : ", not distinguishable at 95 %");
}
