// Show the view named in the address, and move the focus to it.

import { get } from "./api.js";
import { fault, h, show } from "./dom.js";
import { start } from "./live.js";

// Views are loaded when they are first shown.
const VIEWS = {
  "": () => import("./runs.js"),
  run: () => import("./run.js"),
  play: () => import("./play.js"),
  compare: () => import("./compare.js"),
  data: () => import("./data.js"),
  new: () => import("./train.js"),
};
const TITLES = {
  "": "Runs",
  run: "Run",
  play: "Playground",
  compare: "Compare",
  data: "Data",
  new: "New run",
};

const main = document.getElementById("main");
let leave = new AbortController();
let first = true;

/** Return the view, the id and the query of an address such as #/run/a~b or #/compare?runs=a,b. */
export function parseAddress(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view = "", ...rest] = path.split("/");
  // Each id of a list is encoded separately, because a name may contain a comma.
  const runs = (/(?:^|&)runs=([^&]*)/.exec(query)?.[1] ?? "").split(",").filter(Boolean).map(decode);
  return { view, id: decode(rest.join("/")), query: new URLSearchParams(query), runs };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // somebody typed a lonely %
  }
}

let about = null;
async function readAbout() {
  about ??= await get("/api/about");
  document.getElementById("folder").textContent = about.folder;
  return about;
}

async function route() {
  if (location.hash === "#main") return; // the skip link of browsers that ignore its handler
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const { view, id, query, runs } = parseAddress(location.hash);
  const name = view in VIEWS ? view : "";
  mark(name);
  document.title = `${id || TITLES[name]} · ddim`;
  const root = h("div", { class: `view view-${name || "runs"}` });
  try {
    const [module, facts] = await Promise.all([VIEWS[name](), readAbout(), start()]);
    if (signal.aborted) return;
    show(main, root);
    await module.draw(root, { id, query, runs, about: facts, signal });
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    show(main, root);
    if (!root.querySelector("h1")) root.prepend(h("h1", {}, id || TITLES[name]));
    root.append(fault(error.message));
  }
  // After a click on a link, screen readers begin at the new view. The first page keeps the browser's own
  // focus.
  if (!first && !signal.aborted) main.focus({ preventScroll: true });
  if (!first) scrollTo(0, 0);
  first = false;
}

function mark(name) {
  const current = { run: "", new: "" }[name] ?? name;
  for (const link of document.querySelectorAll("#views a")) {
    const here = parseAddress(link.getAttribute("href")).view === current;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address after # names the view
  main.focus();
});
addEventListener("hashchange", route);
route();
