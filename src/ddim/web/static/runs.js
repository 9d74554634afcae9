// Show all runs as cards or as a table, and sweeps as groups; events of the server update them in place.

import { COLUMNS, makeCard, makeRow } from "./card.js";
import { announce, button, field, h, menu, recall, remember, section, setText, show, tick } from "./dom.js";
import { plural } from "./format.js";
import { allRuns, findRun, subscribe } from "./live.js";

const MANY = 40; // more runs than this are first shown as a table

/** Draw the view of all runs. */
export const draw = (root, { about, signal }) => new RunList(root, about, signal);

/** The list; what the user chose in it is kept for the tab. */
class RunList {
  constructor(root, about, signal) {
    const as = allRuns().length > MANY ? "table" : "cards";
    this.kept = { text: "", as, sort: "changed", down: true, chosen: [], ...recall("runs") };
    this.about = about;
    this.items = new Map();
    this.tools = this.makeTools();
    this.found = h("p.note", { role: "status" });
    this.groups = h("div.groups");
    const start = about.may_train && h("a.button.main", { href: "#/new" }, "New run");
    const head = h("div.title-row", h("h1", "Runs"), start);
    root.append(head, this.tools, this.found, this.groups, this.makeBar());
    this.arrange();
    subscribe((changed) => this.update(changed), signal);
  }

  makeTools() {
    const { text, sort, as } = this.kept;
    const props = { type: "search", value: text, placeholder: "name, note, state, recipe, data" };
    const search = h("input", { ...props, oninput: () => this.keep({ text: search.value }) });
    const by = () => this.keep({ sort: this.sorts.value, down: isDown(this.sorts.value) });
    this.sorts = menu(COLUMNS.map(({ key, title }) => [key, title]), { value: sort, onchange: by });
    const looks = menu(["cards", "table"], { value: as, onchange: () => this.keep({ as: looks.value }) });
    const fields = [field("Filter", search), field("Sort by", this.sorts), field("Show as", looks)];
    return h("div.row.tools-row", { role: "search" }, fields);
  }

  makeBar() {
    this.number = h("span", { role: "status" });
    this.link = h("a.button.main");
    this.more = button("", () => this.choose([...this.kept.chosen, ...this.rows.map((row) => row.id)]));
    const clear = button("Clear", () => this.choose([]));
    const props = { role: "region", "aria-label": "Chosen runs" };
    this.bar = h("div.bar.row", props, this.number, this.link, this.more, clear);
    return this.bar;
  }

  /** Show what can be done with the chosen runs. */
  updateBar() {
    const chosen = this.kept.chosen.filter(findRun);
    const runs = plural(chosen.length, "run");
    this.bar.hidden = !chosen.length;
    this.link.hidden = chosen.length < 2;
    this.link.href = `#/compare?runs=${chosen.map(encodeURIComponent).join(",")}`;
    this.more.hidden = this.rows.every(({ id }) => chosen.includes(id));
    setText(this.number, `${runs} chosen${chosen.length > 1 ? "" : "; choose another to compare them"}`);
    setText(this.link, `Compare ${runs}`);
    setText(this.more, `Choose all ${this.rows.length} shown`);
  }

  /** Keep what the user changed, and show it. */
  keep(change) {
    Object.assign(this.kept, change);
    remember("runs", this.kept);
    this.sorts.value = this.kept.sort;
    this.arrange();
  }

  choose(ids) {
    this.keep({ chosen: [...new Set(ids)].filter(findRun) });
    for (const [id, { box }] of this.items) box.checked = this.kept.chosen.includes(id);
  }

  update(changed) {
    for (const row of [...changed].map(findRun).filter(Boolean)) {
      const item = this.items.get(row.id);
      if (item && item.state !== row.state) announce(`${row.name} is ${row.state}`);
      item?.update(row);
      if (item) item.state = row.state;
    }
    this.arrange();
  }

  arrange() {
    const { text, sort, down, as } = this.kept;
    const all = allRuns();
    this.rows = all.filter((row) => matches(row, text)).sort(inOrder(sort, down));
    const number = this.rows.length;
    this.tools.hidden = this.found.hidden = !all.length;
    setText(this.found, plural(number, "run") + (number < all.length ? ` of ${all.length}` : ""));
    this.updateBar();
    const columns = COLUMNS.filter(({ value }) => all.some((row) => (value(row) ?? "") !== ""));
    const look = JSON.stringify([as, columns]);
    if (this.look !== look) this.items.clear();
    // To move elements takes the focus away, so it is done only if something differs.
    const order = JSON.stringify([look, sort, down, all.length, this.rows.map((row) => [row.id, row.sweep])]);
    if (this.order === order) return;
    Object.assign(this, { look, order, columns });
    const focused = document.activeElement;
    if (number) show(this.groups, this.group());
    else show(this.groups, all.length ? h("p", "No run matches the filter.") : empty(this.about));
    if (focused.isConnected) focused.focus({ preventScroll: true });
    else this.groups.querySelector(`thead [data-key="${focused.dataset.key}"]`)?.focus();
  }

  /** Return the runs that belong to no sweep, and each sweep. */
  group() {
    const groups = [["Single runs", this.rows.filter((row) => !row.sweep)]];
    for (const [id, rows] of Map.groupBy(this.rows.filter((row) => row.sweep), (row) => row.sweep))
      groups.push([`Sweep ${rows[0].name.replace(/\/?trials\/[^/]*$/, "") || id}`, rows, id]);
    const shown = groups.filter(([, rows]) => rows.length).map((group) => this.draw(...group));
    if (shown.length === 1 && !this.rows[0].sweep) shown[0].firstChild.classList.add("hidden");
    return shown;
  }

  draw(title, rows, sweep) {
    const address = `/api/sweeps/${encodeURIComponent(sweep)}/report`;
    const report = h("a", { href: address, target: "_blank", rel: "noopener" }, "Report");
    const ended = rows.filter((row) => row.state === "finished").length;
    const about = sweep && h("p.note", `${ended} of ${plural(rows.length, "trial")} finished · `, report);
    const elements = rows.map((row) => this.find(row).element);
    if (this.kept.as === "cards") return section(title, about, h("div.deck", elements));
    const heads = [h("th", h("span.hidden", "Compare")), this.columns.map((column) => this.head(column))];
    const table = h("table.runs", h("thead", h("tr", heads)), h("tbody", elements));
    return section(title, about, h("div.wide", { tabindex: 0, role: "group", "aria-label": title }, table));
  }

  /** Return the card or the row of a run, the same one until the look changes. */
  find(row) {
    const { as, chosen } = this.kept;
    if (this.items.has(row.id)) return this.items.get(row.id);
    const others = () => this.kept.chosen.filter((id) => id !== row.id);
    const { box, element } = tick(as === "cards" ? "Compare" : "", {
      checked: chosen.includes(row.id),
      "aria-label": `Compare ${row.name}`,
      onchange: () => this.choose(box.checked ? [...others(), row.id] : others()),
    });
    const item = as === "cards" ? makeCard(row, element) : makeRow(row, element, this.columns);
    this.items.set(row.id, { ...item, box, state: row.state });
    return item;
  }

  /** Return the head of a column: a button that sorts, a second time the other way round. */
  head({ key, title, class: name }) {
    const sorted = this.kept.sort === key;
    const down = sorted ? !this.kept.down : isDown(key);
    const [order, arrow] = !sorted ? [null, ""] : down ? ["ascending", " ↑"] : ["descending", " ↓"];
    const text = [title, h("span", { "aria-hidden": "true" }, arrow)];
    const sort = button(text, () => this.keep({ sort: key, down }), { class: "quiet", "data-key": key });
    return h("th", { scope: "col", class: name, "aria-sort": order }, sort);
  }
}

const isDown = (key) => Boolean(COLUMNS.find((column) => column.key === key).down);

function matches({ id, name, recipe, data, state, note }, text) {
  const place = [id, name, recipe, data, state, note].join(" ").toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => place.includes(word));
}

/** Return a comparison of rows by a column: values that are not ranked come later, rows without one last. */
function inOrder(key, down) {
  const { value } = COLUMNS.find((column) => column.key === key);
  const rank = (row) => ((value(row) ?? "") !== "" ? 0 : row.metrics[key] ? 1 : 2);
  const compare = (a, b) => (typeof a === "number" ? Math.sign(a - b) || 0 : compareTexts(a, b));
  const sign = down ? -1 : 1;
  return (a, b) =>
    rank(a) - rank(b) || (!rank(a) && sign * compare(value(a), value(b))) || compareTexts(a.name, b.name);
}

/** Compare texts whose numbers may have decimals: lr-0.0003 stands before lr-0.001. */
function compareTexts(...texts) {
  const fill = (digits) => Number(digits).toFixed(9).padStart(30, "0");
  const [a, b] = texts.map((text) => text.replace(/\d+(\.\d+)?/g, fill));
  return a.localeCompare(b, "en");
}

function empty({ folder, may_train }) {
  const text = `This page shows the runs in the folder ${folder}. Train a first run on your images:`;
  const command = h("pre", { tabindex: 0, "aria-label": "Command" }, "ddim train photos/ --minutes 10");
  const next = may_train
    ? h("a.button.main", { href: "#/new" }, "Start a run here")
    : h("p", "It appears here as soon as it begins, without reloading the page.");
  return h("div.empty", h("h2", "No runs yet"), h("p", text), command, next);
}
