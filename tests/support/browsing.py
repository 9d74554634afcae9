"""A browser for the tests of the page.

It checks logged errors, requests to other hosts, and fields that the server does not send.
"""

import inspect
import json
import re
import shutil
import time
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from serving import BEARER, TOKEN

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 1440)
"""A telephone and a desk, in pixels."""
HEIGHTS = {390: 844, 1440: 900}

REFUSED = re.compile(r"the server responded with a status of 4\d\d|net::ERR_")
"""What Chromium logs by itself for an answer that is an error, or for none; only tests of errors allow it."""

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
    with urlopen(Request(f"{address}/api/openapi.json", headers=BEARER)) as answer:
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
        refused: whether the server may refuse a request, or stop.
        options: of the browser context, such as `color_scheme`.
    """
    context = browser.new_context(viewport={"width": width, "height": HEIGHTS[width]}, **options)
    context.set_default_timeout(30_000)
    context.request.get(f"{address}/?token={TOKEN}")  # the browser keeps the cookie
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


def wait_until(check, seconds=30):
    """Wait until something is true: a page answers a click when it has the time."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"this never came true: {inspect.getsource(check).strip()}"
        time.sleep(0.05)


def is_loaded(image):
    """Whether an image is decoded, and not a broken one."""
    return image.evaluate("image => image.complete && image.naturalWidth > 0")
