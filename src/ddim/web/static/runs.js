// Show all runs as cards or as a table, and sweeps as groups; events of the server update them in place.

import { COLUMNS, makeCard, makeRow } from "./card.js";
import { announce, button, field, h, menu, recall, remember, section, setText, show, tick } from "./dom.js";
import { plural } from "./format.js";
import { allRuns, allSweeps, findRun, subscribe } from "./live.js";

const STATES = ["running", "waiting", "stopped", "finished", "failed", "damaged"];
const MANY = 40; // more runs than this are first shown as a table

/** Draw the view of all runs. */
export function draw(root, { about, signal }) {
  new RunList(root, about, signal);
}

/** The list; what the user chose in it is kept for the tab. */
class RunList {
  constructor(root, about, signal) {
    const as = allRuns().length > MANY ? "table" : "cards";
    this.kept = { text: "", state: "", as, sort: "changed", down: true, chosen: [], ...recall("runs") };
    this.about = about;
    this.items = new Map();
    this.found = h("p.note", { role: "status" });
    this.groups = h("div.groups");
    this.number = h("span", { role: "status" });
    this.link = h("a.button.main");
    this.more = button("", null, { class: "quiet" });
    const clear = button("Clear", () => this.setChosen([]), { class: "quiet" });
    const bar = { role: "region", "aria-label": "Chosen runs" };
    this.bar = h("div.bar", bar, this.number, this.link, this.more, clear);
    this.tools = this.makeTools();
    const start = about.may_train && h("a.button.main", { href: "#/new" }, "New run");
    root.append(h("div.title-row", h("h1", "Runs"), start), this.tools, this.found, this.groups, this.bar);
    this.arrange();
    subscribe((changed) => this.update(changed), signal);
  }

  makeTools() {
    const { text, state, sort, as } = this.kept;
    const keep = (key) => (event) => this.keep({ [key]: event.target.value });
    const search = h("input", { type: "search", value: text, oninput: keep("text") });
    const states = menu([["", "all"], ...STATES], { value: state, onchange: keep("state") });
    this.sorts = menu(COLUMNS.map(({ key, title }) => [key, title]), {
      value: sort,
      onchange: () => this.keep({ sort: this.sorts.value, down: isDown(this.sorts.value) }),
    });
    const looks = menu(["cards", "table"], { value: as, onchange: keep("as") });
    const fields = [["Filter", search], ["State", states], ["Sort by", this.sorts], ["Show as", looks]];
    return h("div.row.tools-row", { role: "search" }, fields.map(([label, control]) => field(label, control)));
  }

  /** Keep what the user changed, and show it. */
  keep(change) {
    Object.assign(this.kept, change);
    remember("runs", this.kept);
    this.sorts.value = this.kept.sort;
    this.arrange();
  }

  update(changed) {
    for (const id of changed) {
      const item = this.items.get(id);
      const row = findRun(id);
      if (!row || !item) continue;
      if (item.state !== row.state) announce(`${row.name} is ${row.state}`);
      item.state = row.state;
      item.update(row);
    }
    this.arrange();
  }

  arrange() {
    const { text, state, sort, down, as } = this.kept;
    const all = allRuns();
    this.rows = all.filter((row) => matches(row, text, state)).sort(inOrder(sort, down));
    const number = this.rows.length;
    this.tools.hidden = this.found.hidden = !all.length;
    setText(this.found, plural(number, "run") + (number < all.length ? ` of ${all.length}` : ""));
    this.showBar();
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
    const alone = this.rows.filter((row) => !row.sweep);
    const sweeps = allSweeps().map((sweep) => [sweep, this.rows.filter((row) => row.sweep === sweep.id)]);
    const shown = sweeps.filter(([, rows]) => rows.length);
    const first = alone.length && section("Single runs", this.draw(alone, "Single runs"));
    if (first && !shown.length) first.firstChild.classList.add("hidden");
    return [first || null, shown.map(([sweep, rows]) => this.drawSweep(sweep, rows))];
  }

  drawSweep({ id, name }, rows) {
    const ended = rows.filter((row) => row.state === "finished").length;
    const address = `/api/sweeps/${encodeURIComponent(id)}/report`;
    const report = h("a", { href: address, target: "_blank", rel: "noopener" }, "Report");
    const about = h("p.note", `${ended} of ${plural(rows.length, "trial")} finished · `, report);
    return section(`Sweep ${name}`, about, this.draw(rows, `Sweep ${name}`));
  }

  draw(rows, caption) {
    const elements = rows.map((row) => this.find(row).element);
    if (this.kept.as === "cards") return h("div.deck", elements);
    const heads = this.columns.map((column) => this.head(column));
    const head = h("thead", h("tr", h("th", h("span.hidden", "Compare")), heads));
    const table = h("table.runs", head, h("tbody", elements));
    return h("div.wide", { tabindex: 0, role: "group", "aria-label": caption }, table);
  }

  /** Return the card or the row of a run, the same one until the look changes. */
  find(row) {
    const { as, chosen } = this.kept;
    if (!this.items.has(row.id)) {
      const { box, element } = tick(as === "cards" ? "Compare" : "", {
        checked: chosen.includes(row.id),
        "aria-label": `Compare ${row.name}`,
        onchange: () => this.choose(row.id, box.checked),
      });
      const item = as === "cards" ? makeCard(row, element) : makeRow(row, element, this.columns);
      this.items.set(row.id, { ...item, box, state: row.state });
    }
    return this.items.get(row.id);
  }

  /** Return the head of a column: a button that sorts, a second time the other way round. */
  head({ key, title, class: name }) {
    const sorted = this.kept.sort === key;
    const down = sorted ? !this.kept.down : isDown(key);
    const arrow = h("span", { "aria-hidden": "true" }, sorted ? (this.kept.down ? " ↓" : " ↑") : "");
    const order = sorted ? (this.kept.down ? "descending" : "ascending") : null;
    const props = { class: "quiet", "data-key": key };
    const sort = button([title, arrow], () => this.keep({ sort: key, down }), props);
    return h("th", { scope: "col", class: name, "aria-sort": order }, sort);
  }

  choose(id, on) {
    this.setChosen(on ? [...this.kept.chosen, id] : this.kept.chosen.filter((one) => one !== id));
  }

  setChosen(chosen) {
    this.keep({ chosen: [...new Set(chosen)].filter(findRun) });
    for (const [id, { box }] of this.items) box.checked = this.kept.chosen.includes(id);
  }

  /** Show what can be done with the chosen runs. */
  showBar() {
    const chosen = this.kept.chosen.filter(findRun);
    const shown = this.rows.map((row) => row.id);
    const runs = plural(chosen.length, "run");
    this.bar.hidden = !chosen.length;
    setText(this.number, chosen.length > 1 ? `${runs} chosen` : "1 run chosen; choose another one to compare them.");
    this.link.hidden = chosen.length < 2;
    this.link.href = `#/compare?runs=${chosen.map(encodeURIComponent).join(",")}`;
    setText(this.link, `Compare ${runs}`);
    this.more.hidden = shown.every((id) => chosen.includes(id));
    setText(this.more, `Choose all ${shown.length} shown`);
    this.more.onclick = () => this.setChosen([...chosen, ...shown]);
  }
}

const isDown = (key) => Boolean(COLUMNS.find((column) => column.key === key)?.down);

function matches(row, text, state) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const place = [row.id, row.name, row.recipe, row.data, row.state, row.note].join(" ").toLowerCase();
  return (!state || row.state === state) && words.every((word) => place.includes(word));
}

/** Return a comparison of rows by a column. Rows without a value come last; equal ones are sorted by name. */
function inOrder(key, down) {
  const { value } = COLUMNS.find((column) => column.key === key);
  const known = (row) => (value(row) ?? "") !== "";
  const compare = (a, b) =>
    typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : Math.sign(a - b) || 0;
  return (one, other) =>
    known(other) - known(one) ||
    (known(one) && compare(value(one), value(other)) * (down ? -1 : 1)) ||
    compare(one.name, other.name);
}

function empty(about) {
  return h(
    "div.empty",
    h("h2", "No runs yet"),
    h("p", `This page shows the runs in the folder ${about.folder}. Train a first run on your images:`),
    h("pre", { tabindex: 0, "aria-label": "Command" }, "ddim train photos/ --minutes 10"),
    about.may_train
      ? h("a.button.main", { href: "#/new" }, "Start a run here")
      : h("p", "It appears here as soon as it begins, without reloading the page."),
  );
}
