// Show the view named in the address, and move the focus to it.

import { get } from "./api.js";
import * as compare from "./compare.js";
import * as data from "./data.js";
import { fault, h, renewTimes, setText, show } from "./dom.js";
import { start } from "./live.js";
import * as play from "./play.js";
import * as run from "./run.js";
import * as runs from "./runs.js";
import * as train from "./train.js";

// All views are loaded at once, so that none is missing when the server stops.
const VIEWS = {
  "": { ...runs, title: "Runs" },
  run: { ...run, title: "Run" },
  play: { ...play, title: "Playground" },
  compare: { ...compare, title: "Compare" },
  data: { ...data, title: "Data" },
  new: { ...train, title: "New run" },
};
const RENEWED = 20_000; // milliseconds between two renewals of texts such as "3 min ago"

const main = document.getElementById("main");
let leave = new AbortController();
let first = true;
let failed = false;
let about = null;

/** Return the view, the id and the query of an address such as #/run/a~b or #/compare?runs=a,b. */
export function parseAddress(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view = "", ...rest] = path.split("/");
  // Each id of a list is encoded separately, because a name may contain a comma.
  const ids = (/(?:^|&)runs=([^&]*)/.exec(query)?.[1] ?? "").split(",").filter(Boolean).map(decode);
  return { view, id: decode(rest.join("/")), query: new URLSearchParams(query), runs: ids };
}

// Unlike decodeURIComponent, it takes a lonely % as it is.
const decode = (text) => new URLSearchParams(`text=${text}`).get("text");

async function route() {
  if (location.hash === "#main") return; // the skip link of browsers that ignore its handler
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const { view: asked, ...address } = parseAddress(location.hash);
  const name = asked in VIEWS ? asked : "";
  const { draw, title } = VIEWS[name];
  const { scroll = 0 } = history.state ?? {}; // before the new view moves the page
  mark(["run", "new"].includes(name) ? "" : name);
  const root = h("div", { class: `view view-${name || "runs"}` });
  document.title = `${title} · ddim`;
  failed = false;
  try {
    [about] = await Promise.all([about ?? get("/api/about"), start(back)]);
    if (signal.aborted) return;
    setText(document.getElementById("folder"), about.folder);
    show(main, root);
    const drawn = draw(root, { ...address, about, signal });
    if (!first) main.focus({ preventScroll: true }); // screen readers begin at the new view
    first = false;
    scrollTo(0, 0);
    await drawn;
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    failed = true;
    show(main, root);
    if (!root.querySelector("h1")) root.prepend(h("h1", title));
    root.append(fault(error.message));
  }
  if (signal.aborted) return;
  document.title = `${root.querySelector("h1")?.textContent || title} · ddim`;
  if (scroll) scrollTo(0, scroll);
}

/** Draw a view again that failed, as soon as the server is back. */
function back() {
  if (failed) route();
}

function mark(view) {
  for (const link of document.querySelectorAll("#views a"))
    link.ariaCurrent = parseAddress(link.hash).view === view ? "page" : null;
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address after # names the view
  main.focus();
});
history.scrollRestoration = "manual"; // the browser would scroll before the view is drawn
addEventListener("scrollend", () => history.replaceState({ scroll: scrollY }, ""));
addEventListener("hashchange", route);
setInterval(renewTimes, RENEWED);
route();
