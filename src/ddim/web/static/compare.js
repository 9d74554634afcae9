// Several runs side by side: samples of the same seeds, and a ranking of the runs that are comparable.

import { get, runPath, stream } from "./api.js";
import { runAddress } from "./card.js";
import { announce, button, fault, field, h, menu, section, show, svg, tick } from "./dom.js";
import { interval, plural, smallIsGood, title } from "./format.js";
import { allRuns, allSweeps } from "./live.js";
import { table } from "./run_parts.js";
import { parseSeeds } from "./seeds.js";
import { Tile, drawSheet } from "./tiles.js";

const METRICS = ["kid", "fid", "precision", "recall", "density", "coverage"];

/** Draw the comparison of the runs named in the address. */
export async function draw(root, { query, runs: asked, about, signal }) {
  const chosen = asked.filter((id) => allRuns().some((row) => row.id === id));
  const metric = METRICS.includes(query.get("metric")) ? query.get("metric") : "kid";
  root.append(h("h1", {}, "Compare"), chooser(chosen, metric));
  const reports = allSweeps();
  if (reports.length)
    root.append(
      section(
        "Reports of sweeps",
        h(
          "ul",
          {},
          reports.map(({ id, name, runs }) =>
            h(
              "li",
              {},
              h(
                "a",
                { href: `/api/sweeps/${encodeURIComponent(id)}/report`, target: "_blank", rel: "noopener" },
                name,
              ),
              h("span", { class: "note" }, ` ${plural(runs.length, "trial")}`),
            ),
          ),
        ),
      ),
    );
  if (chosen.length < 2)
    return root.querySelector(".chooser").after(h("p", { class: "note" }, "Choose at least two runs."));
  const ranking = h("div", {}, h("p", { class: "note" }, "Comparing …"));
  const rows = chosen.map((id) => allRuns().find((row) => row.id === id));
  root
    .querySelector(".chooser")
    .after(sheets(rows), new SameSeeds(rows, about, signal).element, section("Metrics", ranking));
  try {
    const found = await get(
      `/api/compare?${chosen.map((id) => `run=${encodeURIComponent(id)}`).join("&")}&metric=${metric}`,
      signal,
    );
    show(ranking, rank(found));
  } catch (error) {
    if (error.name !== "AbortError") show(ranking, fault(error.message));
  }
  return root;
}

function chooser(chosen, metric) {
  const boxes = allRuns().map((row) => ({
    id: row.id,
    ...tick(row.sweep ? row.id.replaceAll("~", "/") : row.name, { checked: chosen.includes(row.id) }),
  }));
  const by = menu(
    METRICS.map((name) => [name, title(name)]),
    { value: metric },
  );
  return h(
    "form",
    {
      class: "chooser",
      onsubmit: (event) => {
        event.preventDefault();
        const ids = boxes.filter(({ box }) => box.checked).map(({ id }) => encodeURIComponent(id));
        location.hash = `#/compare?runs=${ids.join(",")}&metric=${by.value}`;
      },
    },
    h(
      "details",
      { open: chosen.length < 2 },
      h("summary", {}, chosen.length < 2 ? "Runs" : `${plural(chosen.length, "run")}: change the choice`),
      h(
        "fieldset",
        { class: "boxes" },
        h("legend", {}, "Runs to compare"),
        boxes.map(({ element }) => element),
      ),
      h("div", { class: "row" }, field("Metric", by), h("button", { type: "submit" }, "Compare")),
    ),
  );
}

function sheets(rows) {
  return section(
    "Newest samples of the training",
    h(
      "div",
      { class: "side-by-side" },
      rows.map((row) =>
        h(
          "figure",
          {},
          row.sheet
            ? h("img", { class: "pixels sheet", src: row.sheet, alt: `Newest samples of ${row.name}` })
            : h("p", { class: "blank" }, "No samples"),
          h("figcaption", {}, h("a", { href: runAddress(row.id) }, row.name)),
        ),
      ),
    ),
  );
}

/** A table of new samples: a column for each run, a row for each seed. */
class SameSeeds {
  constructor(rows, about, signal) {
    Object.assign(this, { rows, most: about.limits.images, signal });
    this.seeds = h("input", { value: "0-3", autocomplete: "off", required: true });
    this.make = h("button", { type: "submit" }, "Sample all runs");
    this.cancel = button("Cancel", () => this.job?.abort(), { disabled: true });
    this.state = h("p", { class: "note", role: "status" });
    this.place = h("div", {});
    this.element = section(
      "The same seeds",
      h(
        "form",
        {
          class: "row",
          onsubmit: (event) => {
            event.preventDefault();
            this.run();
          },
        },
        field("Seeds", this.seeds),
        this.make,
        this.cancel,
      ),
      this.state,
      this.place,
    );
    signal.addEventListener("abort", () => this.job?.abort());
  }

  async run() {
    this.job = new AbortController();
    this.make.disabled = true;
    this.cancel.disabled = false;
    try {
      const seeds = parseSeeds(this.seeds.value, this.most);
      const columns = this.rows.map((row) => ({
        row,
        tiles: seeds.map((seed) => new Tile(`seed ${seed}`, () => {})),
        note: h("span", { class: "note" }),
      }));
      show(
        this.place,
        table(
          "Samples of the same seeds",
          ["Seed", ...columns.map(({ row, note }) => [row.name, " ", note])],
          seeds.map((seed, k) => [String(seed), ...columns.map(({ tiles }) => tiles[k].canvas)]),
        ),
      );
      // The runs are sampled one after the other, because the server uses one model at a time.
      for (const { row, tiles, note } of columns) await this.sample(row, seeds, tiles, note);
      show(this.state, "All runs are sampled.");
    } catch (error) {
      show(this.state, error.name === "AbortError" ? "Cancelled." : fault(error.message));
    }
    this.make.disabled = false;
    this.cancel.disabled = true;
  }

  async sample(row, seeds, tiles, note) {
    show(this.state, `Sampling ${row.name} …`);
    try {
      const result = await stream(
        runPath(row.id, "/samples"),
        { seeds },
        {
          // The cells of the table are tiles, so each step is drawn into them.
          step: (step) => drawSheet(tiles, step, row.size ?? [64, 64]).catch(() => {}),
        },
        this.job.signal,
      );
      result.images.forEach(({ url }, k) => {
        const image = h("img", { class: "pixels", src: url, alt: `${row.name}, seed ${seeds[k]}` });
        tiles[k].canvas.replaceWith(image);
      });
      show(note, `${result.nfe} NFE`);
      announce(`${row.name} is sampled`);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      show(note, fault(error.message)); // the other runs can still be sampled
    }
  }
}

/** Return the ranking of `ddim compare`, whose verdict comes first. */
function rank({ comparison, runs, excluded }) {
  const name = (id) => allRuns().find((row) => row.id === id)?.name ?? id;
  const link = (id) => h("a", { href: runAddress(id) }, name(id));
  const missing = excluded.map((id) => [link(id), "it has no evaluation"]);
  if (!comparison) return [h("p", {}, "None of these runs can be ranked."), notRanked(missing)];
  const { verdict, metric, rows: records, choices: differing } = comparison;
  const rows = records.map((row) => ({
    ...row,
    value: row[metric],
    low: row[`${metric}_low`],
    high: row[`${metric}_high`],
  }));
  const ranked = rows.filter(({ note }) => !note.startsWith("not ranked"));
  const others = rows.filter((row) => !ranked.includes(row));
  const id = (row) => runs[rows.indexOf(row)];
  const bars = whiskers(ranked);
  const choices = Object.entries(differing);
  return [
    h("p", {}, verdict),
    table(
      `Runs by ${title(metric)}`,
      ["Rank", "Run", "", `${title(metric)} ${smallIsGood(metric) ? "↓" : "↑"}`, "Difference from the first"],
      ranked.map((row, k) => [String(k + 1), link(id(row)), bars(row), interval(row), difference(row)]),
      9,
    ),
    notRanked([...others.map((row) => [link(id(row)), row.note.replace("not ranked: ", "")]), ...missing]),
    choices.length
      ? [
          h("h3", {}, "Where they differ"),
          table(
            "Choices that differ",
            ["Choice", ...runs.map(name)],
            choices.map(([name, values]) => [
              h("code", {}, name),
              ...values.map((value) => (value === null ? "–" : String(value))),
            ]),
            9,
          ),
        ]
      : null,
  ];
}

/** Return in words how the value of a row differs from that of the first run. */
function difference({ difference: value, difference_low: low, difference_high: high, note }) {
  if (value === undefined) return note;
  return interval({ value, low, high }) + (low > 0 || high < 0 ? "" : ", may be chance");
}

function notRanked(rows) {
  if (!rows.length) return null;
  return [h("h3", {}, "Not ranked"), table("Runs that are not ranked", ["Run", "Why"], rows, 9)];
}

/** Return a function that draws the interval of a row on an axis that all rows share. */
function whiskers(rows) {
  const known = rows
    .flatMap((row) => [row.value, row.low, row.high])
    .filter((value) => Number.isFinite(value));
  const low = Math.min(0, ...known),
    high = Math.max(...known);
  const x = (value) => 4 + ((value - low) / (high - low || 1)) * 132;
  return (row) =>
    svg(
      "svg",
      { width: 140, height: 16, viewBox: "0 0 140 16", "aria-hidden": "true", class: "whiskers" },
      svg("line", { x1: x(0), x2: x(0), y1: 1, y2: 15, class: "base" }),
      Number.isFinite(row.low) && Number.isFinite(row.high)
        ? svg("line", { x1: x(row.low), x2: x(row.high), y1: 8, y2: 8, class: "bar" })
        : null,
      svg("circle", { cx: x(row.value), cy: 8, r: 4 }),
    );
}
