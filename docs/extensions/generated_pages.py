"""Write the pages that come from the program itself: the commands, the API reference and the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from api_pages import write_api
from command_pages import write_commands
from tested_page import write_tested


def write_pages(app: Sphinx) -> None:
    """Write the folders commands and api and the page tested.md, before Sphinx looks for pages.

    A page whose text has not changed keeps its modification time.
    """
    for folder, pages in (("commands", write_commands()), ("api", write_api())):
        replace_pages(Path(app.srcdir) / folder, pages)
    replace_page(Path(app.srcdir) / "tested.md", write_tested())


def replace_pages(folder: Path, pages: dict[str, str]) -> None:
    """Make a folder hold exactly these pages, keyed by file name."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        replace_page(folder / name, text)


def replace_page(path: Path, text: str) -> None:
    """Write a page if its text is new."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages when a build begins."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
