"""A browser for the tests of the page.

It checks logged errors, requests to other hosts, fields that the server does not send, and contrasts.
"""

import json
import re
import shutil
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit
from urllib.request import urlopen

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 1440)
"""A telephone and a desk, in pixels."""
HEIGHTS = {390: 844, 1440: 900}

REFUSED = re.compile(r"the server responded with a status of 4\d\d")
"""What Chromium logs by itself for an answer that is an error; only tests of errors allow it."""

WATCH_FIELDS = """(schemas) => {
  const known = new Map(Object.entries(schemas).map(([name, keys]) => [keys.sort().join(), name]));
  const watch = (value) => {
    if (value === null || typeof value !== "object") return value;
    for (const key of Object.keys(value)) value[key] = watch(value[key]);
    const name = known.get(Object.keys(value).sort().join());
    if (!name) return value;
    const get = (target, key) => {
      // Promises and JSON.stringify look for methods of these names.
      const strange = typeof key === "string" && !(key in target) && !["then", "toJSON"].includes(key);
      if (strange) console.error(`the page reads ${name}.${key}, which the server does not send`);
      return target[key];
    };
    return new Proxy(value, { get });
  };
  const { parse } = JSON;
  const { json } = Response.prototype;
  JSON.parse = (...given) => watch(parse(...given));
  Response.prototype.json = async function () {
    return watch(await json.call(this));
  };
}"""
"""Logs an error if the page reads a field that an object of the server does not have.

An object is one of the interface if its fields are those of a schema; others, such as texts by name, may have
any fields.
"""


@cache
def list_fields(address):
    """The fields of each schema that a server describes, keyed by the name of the schema."""
    with urlopen(f"{address}/api/openapi.json") as answer:
        schemas = json.load(answer)["components"]["schemas"]
    return {name: list(schema["properties"]) for name, schema in schemas.items() if "properties" in schema}


@contextmanager
def open_browser():
    """Start Chromium; yields it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A container gives little shared memory to Chromium.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser, address, width=1440, refused=False, **options):
    """Open a page and yield it; then check that no error was logged and no other host was asked.

    Args:
        browser: see `open_browser`.
        address: the address of the server; `page.go("#/data")` shows a view.
        width: width of the window in pixels.
        refused: whether the server may refuse a request.
        options: of the browser context, such as `color_scheme`.
    """
    context = browser.new_context(viewport={"width": width, "height": HEIGHTS[width]}, **options)
    context.set_default_timeout(30_000)
    context.add_init_script(f"({WATCH_FIELDS})({json.dumps(list_fields(address))})")
    page, faults, hosts = context.new_page(), [], set()
    page.on("console", lambda message: faults.append(_told(message)) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))

    def go(view=""):
        page.goto(f"{address}/{view}")
        page.locator("main h1").wait_for()

    page.go = go
    try:
        yield page
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, f"the page is {wider} pixels wider than its window"
    finally:
        context.close()
    wrong = [text for text in faults if not (refused and REFUSED.search(text))]
    assert not wrong, wrong
    # Previews of images have no host: they are blob: and data: addresses.
    assert hosts - {""} == {urlsplit(address).netloc}


def _told(message):
    """What a message of the console says, with the address that it is about."""
    return f"{message.text}: {message.location.get('url')}"


CONTRASTS = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  // The canvas knows every way to write a colour, such as oklch(), and turns it into sRGB.
  const parse = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(".hidden, noscript, .skip, option")) continue;
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      layers.push(color);
      if (color[3] === 1) break;
    }
    const style = getComputedStyle(element);
    const text = element instanceof SVGElement ? style.fill : style.color;
    found.push({ text: node.data.trim().slice(0, 40), color: parse(text), layers });
  }
  return found;
}"""


def contrasts(page):
    """The WCAG contrast of each visible text against what is below it, keyed by the text."""
    return {
        found["text"]: contrast(blend(found["color"], below), below)
        for found in page.evaluate(CONTRASTS)
        for below in [_stack(found["layers"])]
    }


def blend(color, below):
    """A colour (r, g, b, alpha) on an opaque one, as (r, g, b)."""
    *over, alpha = color
    return [alpha * one + (1 - alpha) * other for one, other in zip(over, below, strict=True)]


def _stack(layers):
    below = [255.0, 255.0, 255.0]
    for color in reversed(layers):
        below = blend(color, below)
    return below


def contrast(one, other):
    """The contrast of two sRGB colours (0 to 255) by WCAG 2.2: (L1 + 0.05) / (L2 + 0.05)."""
    dark, light = sorted(_luminance(color) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
