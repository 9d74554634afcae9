// Small helpers that build elements. Text always becomes a text node, so HTML in a name has no effect.

import { ago } from "./format.js";

let ids = 0;
let store = {};
try {
  store = sessionStorage;
} catch {
  /* the user forbids it */
}

/** Return a new id, which connects a label or a description with its control. */
export const newId = (word) => `${word}-${++ids}`;

/**
 * Return an element, such as `h("p.note", { title: "…" }, "text")`; the properties may be left out, and
 * properties such as `onclick` become event listeners.
 */
export function h(tag, ...parts) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  const plain = parts[0] && Object.getPrototypeOf(parts[0]) === Object.prototype;
  for (const [key, value] of Object.entries(plain ? parts.shift() : {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    // The content security policy forbids style attributes, but scripts may set styles.
    else if (key === "style")
      for (const [one, text] of Object.entries(value)) element.style.setProperty(one, text);
    else if (key === "value" || key === "checked") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.classList.add(...classes);
  element.append(...flatten(parts));
  return element;
}

const flatten = (children) =>
  children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));

/** Replace the children of an element. */
export function show(element, ...children) {
  element.replaceChildren(...flatten(children));
  return element;
}

/** Set a text only if it changes, so that a live region does not speak twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tell screen readers about a change that other users see. */
export const announce = (text) => setText(document.getElementById("announcer"), text);

/** Return a control with its label above it, and a hint below if there is one. */
export function field(label, control, hint = "") {
  control.id ||= newId("field");
  const note = hint && h("small.note", { id: newId("hint") }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div.field", h("label", { for: control.id }, label), control, note);
}

/** Return a check box with its label beside it. */
export function tick(label, props = {}) {
  const box = h("input", { type: "checkbox", ...props });
  return { box, element: h("label.tick", box, h("span", label)) };
}

/** Return a menu; each option is a text, or a pair of a value and a text. */
export function menu(options, props = {}) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const element = h("select", props, pairs.map(([value, text]) => h("option", { value }, text)));
  if (props.value !== undefined) element.value = props.value;
  return element;
}

/** Return a button. */
export const button = (text, onclick, props = {}) => h("button", { type: "button", onclick, ...props }, text);

/** Return a box with a sentence about what went wrong. */
export const fault = (text) => h("p.fault", { role: "alert" }, text);

/** Return a section with its heading; screen readers use the heading as its name. */
export function section(title, ...children) {
  const heading = h("h2", { id: newId("heading") }, title);
  return h("section", { "aria-labelledby": heading.id }, heading, ...children);
}

/** Return how long ago a time in seconds since 1970 was; `renewTimes` keeps the text true. */
export const since = (time) => h("time", { "data-since": time }, ago(time));

/** Renew the texts of all elements of `since`. */
export function renewTimes() {
  for (const one of document.querySelectorAll("[data-since]")) setText(one, ago(Number(one.dataset.since)));
}

/** Keep a value for this tab, so that it outlives a view and a reload; see `recall`. */
export const remember = (name, value) => void (store[`ddim-${name}`] = JSON.stringify(value));

/** Return the value that `remember` kept, or undefined. */
export const recall = (name) => JSON.parse(store[`ddim-${name}`] ?? "null") ?? undefined;

/** Return a box with code and a button that copies it. */
export function code(title, text) {
  const pre = h("pre", { tabindex: 0, "aria-label": title }, text);
  const copy = button("Copy", copyText, { class: "quiet", "aria-label": `Copy: ${title}` });
  async function copyText() {
    getSelection().selectAllChildren(pre);
    // Browsers allow the clipboard only over https and on this machine, but copy what is selected.
    const writing = navigator.clipboard?.writeText(text) ?? Promise.reject();
    const copied = await writing.then(() => true, () => document.execCommand("copy"));
    setText(copy, copied ? "Copied" : "Copy what is selected");
    announce(copied ? `${title} copied` : "The browser did not copy; the text is selected");
    setTimeout(() => setText(copy, "Copy"), 1800);
  }
  return h("div.code", h("div.code-head", h("span.note", title), copy), pre);
}
