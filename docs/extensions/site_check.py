"""Check a built site: every link within it resolves, and no page loads anything from another host."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
}
"""Attributes whose address a browser loads without being asked."""

ABOUT = ("canonical", "alternate", "author", "license")
"""Relations of a `link` that name an address and do not load it."""


class Page(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the addresses that a tag loads or links to, and the anchors that it defines."""
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if not (tag == "link" and given.get("rel") in ABOUT):
            self.loaded += [given[name] for name in LOADED.get(tag, ()) if name in given]
        if tag == "a" and "href" in given:
            self.linked.append(given["href"])
        self.loaded += list_css_addresses(given.get("style", ""))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        """Record the addresses of a style sheet within the page."""
        if self._style:
            self.loaded += list_css_addresses(data)


def list_css_addresses(text: str) -> list[str]:
    """Return the addresses that a style sheet loads."""
    found = re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)
    return [first or second for first, second in found]


def is_elsewhere(address: str) -> bool:
    """Return whether an address is on another host."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp")


def list_faults(site: Path) -> list[str]:
    """Return one sentence for each dead link and each address of another host that a page loads."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        faults += [f"{name} loads {address}" for address in page.loaded if is_elsewhere(address)]
        for address in dict.fromkeys([*page.linked, *page.loaded]):
            if not is_elsewhere(address) and not _resolves(address, path, pages):
                faults.append(f"{name} links to {address}, which is not there")
    for path in sorted(site.rglob("*.css")):
        found = list_css_addresses(path.read_text(encoding="utf-8"))
        faults += [f"{path.relative_to(site)} loads {address}" for address in found if is_elsewhere(address)]
    return faults


def _resolves(address: str, path: Path, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(address)
    if parts.scheme:  # data: and mailto:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        return False
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].anchors
