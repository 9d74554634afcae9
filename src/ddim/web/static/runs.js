// Show all runs as cards, and sweeps as groups; events of the server update the cards in place.

import { Card } from "./card.js";
import { announce, field, h, menu, section, setText, show } from "./dom.js";
import { plural, title } from "./format.js";
import { allRuns, allSweeps, subscribe } from "./live.js";

const STATES = ["running", "waiting", "stopped", "finished", "failed", "damaged"];
const SORTS = {
  newest: ["Last change", (row) => -(row.changed ?? 0)],
  name: ["Name", (row) => row.name],
  kid: ["KID, best first", (row) => (row.comparable ? row.metrics.kid?.value : null)],
  image_mae: [`${title("image_mae")}, smallest first`, (row) => row.errors.image_mae],
  noise_mae: [`${title("noise_mae")}, smallest first`, (row) => row.errors.noise_mae],
  images: ["Training images, most first", (row) => -row.images],
};

/** Draw the view of all runs. */
export function draw(root, { about, signal }) {
  const cards = new Map(),
    picked = new Set();
  const text = h("input", { type: "search", placeholder: "name, recipe, data", oninput: arrange });
  const state = menu([["", "all"], ...STATES], { onchange: arrange });
  const sort = menu(
    Object.entries(SORTS).map(([key, [name]]) => [key, name]),
    { onchange: arrange },
  );
  const found = h("p", { class: "note", role: "status" });
  const groups = h("div", { class: "groups" });
  const compare = h("a", { class: "button", hidden: true }, "");
  const tools = h(
    "div",
    { class: "row tools-row", role: "search" },
    field("Filter", text),
    field("State", state),
    field("Sort by", sort),
    compare,
  );
  root.append(
    h(
      "div",
      { class: "title-row" },
      h("h1", {}, "Runs"),
      about.may_train ? h("a", { class: "button", href: "#/new" }, "New run") : null,
    ),
    tools,
    found,
    groups,
  );
  const order = { key: "" };

  function pick(id, on) {
    if (on) picked.add(id);
    else picked.delete(id);
    compare.hidden = picked.size < 2;
    compare.href = `#/compare?runs=${[...picked].map(encodeURIComponent).join(",")}`;
    setText(compare, `Compare ${plural(picked.size, "run")}`);
  }

  function arrange() {
    const rows = allRuns().filter((row) => matches(row, text.value, state.value));
    rows.sort(byKey(SORTS[sort.value][1]));
    tools.hidden = found.hidden = allRuns().length === 0;
    for (const id of [...cards.keys()])
      if (!allRuns().some((row) => row.id === id)) {
        cards.delete(id);
        pick(id, false);
      }
    for (const row of rows) if (!cards.has(row.id)) cards.set(row.id, new Card(row, pick));
    setText(
      found,
      rows.length === allRuns().length
        ? plural(rows.length, "run")
        : `${plural(rows.length, "run")} of ${allRuns().length}`,
    );
    // Moving cards takes the focus away, so it is done only if the order differs.
    const key = JSON.stringify(rows.map((row) => [row.id, row.sweep]));
    if (order.key === key && rows.length) return;
    order.key = key;
    const focused = document.activeElement;
    show(
      groups,
      rows.length
        ? grouped(rows, cards)
        : allRuns().length
          ? h("p", {}, "No run matches the filter.")
          : empty(about),
    );
    if (focused && groups.contains(focused)) focused.focus();
  }

  arrange();
  subscribe((changed) => {
    for (const id of changed) {
      const row = allRuns().find((one) => one.id === id);
      const card = cards.get(id);
      if (row && card) {
        if (card.row.state !== row.state) announce(`${row.name} is ${row.state}`);
        card.update(row);
      }
    }
    arrange();
  }, signal);
}

function grouped(rows, cards) {
  const alone = rows.filter((row) => !row.sweep);
  const sweeps = [...new Set(rows.map((row) => row.sweep).filter(Boolean))].map((id) => {
    const mine = rows.filter((row) => row.sweep === id);
    const name = allSweeps().find((sweep) => sweep.id === id)?.name ?? id;
    const ended = mine.filter((row) => row.state === "finished").length;
    const report = h(
      "a",
      { href: `/api/sweeps/${encodeURIComponent(id)}/report`, target: "_blank", rel: "noopener" },
      "Report",
    );
    return section(
      `Sweep ${name}`,
      h("p", { class: "note" }, `${ended} of ${plural(mine.length, "trial")} finished · `, report),
      deck(mine, cards),
    );
  });
  return [alone.length ? deck(alone, cards) : null, sweeps];
}

const deck = (rows, cards) =>
  h(
    "div",
    { class: "deck" },
    rows.map((row) => cards.get(row.id).element),
  );

function matches(row, text, state) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const place = [row.id, row.name, row.recipe, row.data, row.state].join(" ").toLowerCase();
  return (!state || row.state === state) && words.every((word) => place.includes(word));
}

function byKey(key) {
  // Runs without a value come last.
  return (one, other) => {
    const [a, b] = [key(one) ?? null, key(other) ?? null];
    if (a === null || b === null) return (a === null) - (b === null) || one.name.localeCompare(other.name);
    return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  };
}

function empty(about) {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No runs yet"),
    h("p", {}, `This page shows the runs in the folder ${about.folder}. Train a first run on your images:`),
    h("pre", { tabindex: 0, "aria-label": "Command" }, "ddim train photos/ --minutes 10"),
    h(
      "p",
      {},
      about.may_train
        ? h("a", { class: "button", href: "#/new" }, "Start a run here")
        : "It appears here as soon as it begins, without reloading the page.",
    ),
  );
}
