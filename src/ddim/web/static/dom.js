// Small helpers that build elements. Text always becomes a text node, so HTML in a name has no effect.

const SVG = "http://www.w3.org/2000/svg";
let ids = 0;

/** Return a new id, which connects a label or a description with its control. */
export const newId = (word) => `${word}-${++ids}`;

/**
 * Return an element: `h("p.note", { id }, child, ...)`. Classes stand behind the tag, properties may be left out,
 * and those such as `onclick` become event listeners.
 */
export function h(name, ...parts) {
  const [tag, ...classes] = name.split(".");
  const props = parts[0]?.constructor === Object ? parts.shift() : {};
  const element = fill(document.createElement(tag), props, parts);
  element.classList.add(...classes);
  return element;
}

/** Return an SVG element; see `h`. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    // The content security policy forbids style attributes, but scripts may set styles.
    else if (name === "style")
      for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...flatten(children));
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
export function announce(text) {
  setText(document.getElementById("announcer"), text);
}

/** Return a control with its label above it, and a hint below if there is one. */
export function field(label, control, hint = "") {
  control.id ||= newId("field");
  const note = hint && h("small", { id: newId("hint"), class: "note" }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
}

/** Return a check box with its label beside it. */
export function tick(label, props = {}) {
  const box = h("input", { type: "checkbox", ...props });
  return { box, element: h("label", { class: "tick" }, box, h("span", {}, label)) };
}

/** Return a menu; each option is a text, or a pair of a value and a text. */
export function menu(options, props = {}) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const element = h(
    "select",
    props,
    pairs.map(([value, text]) => h("option", { value }, text)),
  );
  if (props.value !== undefined) element.value = props.value;
  return element;
}

/** Return a button. */
export function button(text, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, text);
}

/** Return a box with a sentence about what went wrong. */
export function fault(text) {
  return h("p", { class: "fault", role: "alert" }, text);
}

/** Return a section with its heading; screen readers use the heading as its name. */
export function section(title, ...children) {
  const heading = h("h2", { id: newId("heading") }, title);
  return h("section", { "aria-labelledby": heading.id }, heading, ...children);
}

/** Return a box with code and a button that copies it. */
export function code(title, text) {
  const copy = button(
    "Copy",
    async () => {
      const copied = await copyText(text);
      setText(copy, copied ? "Copied" : "Select and copy");
      announce(copied ? `${title} copied` : "The browser did not copy; select the text");
      setTimeout(() => setText(copy, "Copy"), 1800);
    },
    { class: "quiet", "aria-label": `Copy: ${title}` },
  );
  const head = h("div", { class: "code-head" }, h("span", { class: "note" }, title), copy);
  return h("div", { class: "code" }, head, h("pre", { tabindex: 0, "aria-label": title }, text));
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers allow the clipboard only over https and on this machine. Elsewhere the text is selected and
    // copied.
    const area = h("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
