"""Pages of the API reference: the names of `ddim.__all__` in its groups, and the modules of each room."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import ddim

ROOMS = ("diffusion", "metrics", "data", "nn", "plots", "recipe", "runs", "sampling", "training")
ROOMS += ("evaluation", "experiments", "exchange")
WHOLE = ("diffusion", "metrics")
"""The rooms whose functions are described in full: the theory links to them."""

PACKAGE = Path(ddim.__file__).parent


def write_api() -> dict[str, str]:
    """Return the pages of the reference and their index, keyed by file name."""
    groups = list_groups()
    pages = {f"{name_page(title)}.rst": write_group(title, names) for title, names in groups.items()}
    rooms = {f"room-{room}.rst": write_room(room) for room in ROOMS}
    return {"index.rst": write_index(groups), **pages, **rooms}


def list_groups() -> dict[str, list[str]]:
    """Return the public names by the comments that group their homes in the source of ``ddim``."""
    source = Path(ddim.__file__).read_text(encoding="utf-8")
    body = source[source.index("_HOMES = {") : source.index("_NAMES = {")]
    groups: dict[str, list[str]] = {}
    for title, names in re.findall(r'# (.*)|": "(.*)",', body):
        if title:
            groups[title] = []
        else:
            groups[list(groups)[-1]] += names.split()
    return groups


def name_page(title: str) -> str:
    """Return the file name of a group, without its ending."""
    return title.lower().replace(" ", "-")


def underline(title: str, sign: str = "=") -> str:
    """Return a heading of reStructuredText."""
    return f"{title}\n{sign * len(title)}\n"


def write_index(groups: dict[str, list[str]]) -> str:
    """Return the page with every public name and the first sentence about it."""
    parts = [underline("Python"), "Every name below is an attribute of ``ddim``, such as ``ddim.sample``."]
    parts += ["Names are imported when they are first used.", ""]
    for title, names in groups.items():
        page = name_page(title)
        parts += [underline(title, "-"), f"See :doc:`{page}`.", ""]
        parts += [".. list-table::", "   :widths: 30 70", ""]
        for name in names:
            parts += [
                f"   * - :py:obj:`{name} <ddim.{name}>`",
                f"     - {first_sentence(getattr(ddim, name))}",
            ]
        parts += ["", ".. toctree::", "   :hidden:", "", f"   {page}", ""]
    parts += [
        underline("Rooms", "-"),
        "The modules behind these names, one page for each room of the package.",
        "",
    ]
    parts += [".. list-table::", "   :widths: 30 70", ""]
    for room in ROOMS:
        parts += [
            f"   * - :doc:`ddim.{room} <room-{room}>`",
            f"     - {first_sentence(import_module(f'ddim.{room}'))}",
        ]
    parts += ["", ".. toctree::", "   :hidden:", "", *(f"   room-{room}" for room in ROOMS)]
    return "\n".join(parts) + "\n"


def first_sentence(value: object) -> str:
    """Return the first sentence of a docstring, on one line."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    pieces = re.split(r"(`[^`]+`)", re.split(r"(?<=[.]) (?=[A-Z`])", text)[0])
    return "".join(p if p.startswith("`") else re.sub(r"([*|_])", r"\\\1", p) for p in pieces)


def write_group(title: str, names: list[str]) -> str:
    """Return the page of a group of public names."""
    parts = [underline(title)]
    for name in names:
        value = getattr(ddim, name)
        kind = "class" if inspect.isclass(value) else "function"
        parts += [f".. auto{kind}:: ddim.{name}"]
        if kind == "class":
            # What a class inherits stands where it is defined.
            parts += ["   :members:"]
        parts += [""]
    return "\n".join(parts)


def list_modules(room: str) -> list[str]:
    """Return the names of the modules of a room, packages first."""
    paths = sorted((PACKAGE / room).rglob("*.py"), key=lambda path: path.relative_to(PACKAGE).parts)
    names = [".".join(("ddim", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in paths]
    return sorted({name.removesuffix(".__init__") for name in names})


def write_room(room: str) -> str:
    """Return the page of a room: its modules, in full for the mathematics, else as a list."""
    parts = [underline(f"ddim.{room}")]
    for name in list_modules(room):
        if room in WHOLE:
            parts += [underline(name, "-"), f".. automodule:: {name}", *list_members(name), ""]
        else:
            parts += list_module(name)
    return "\n".join(parts)


def list_members(name: str) -> list[str]:
    """Return the options of `automodule`: a package shows no members, and no public name is shown twice."""
    if hasattr(import_module(name), "__path__"):
        return []
    public = [inner for inner in ddim.__all__ if getattr(getattr(ddim, inner), "__module__", "") == name]
    names = [getattr(getattr(ddim, inner), "__name__", inner) for inner in public]
    return ["   :members:", *([f"   :exclude-members: {', '.join(names)}"] if names else [])]


def list_module(name: str) -> list[str]:
    """Return the lines about a module: its first sentence, and those of its public functions and classes."""
    module = import_module(name)
    rows = [
        f"* ``{inner}``: {first_sentence(value)}"
        for inner, value in vars(module).items()
        if not inner.startswith("_")
        and getattr(value, "__module__", "") == name
        and (inspect.isfunction(value) or inspect.isclass(value))
    ]
    return [underline(name, "-"), first_sentence(module), "", *rows, ""]
