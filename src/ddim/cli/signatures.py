"""What a command takes: signature and docstring of its function, read from the source without importing it.

So `ddim sample --help` does not wait for torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

PLAIN = ("int", "float", "bool", "str", "Path", "object", "Any")
"""The types whose names are not looked up in the module."""

HIDDEN = ("progress", "own")
"""The parameters that a command gives itself."""

LOADED = ("Pipeline", "LoadedRun")
"""If the first parameter may be a loaded run, the options of `ddim.load` are options of the command."""

RENAMED = {"callbacks": "callback", "compiling": "compile", "opening": "open", "source": "from"}
"""The options whose names differ from those of their parameters."""


@dataclass(frozen=True)
class Type:
    """One of the types of an annotation.

    Attributes:
        name: "int", "Literal", "Sequence", "tuple", "Mapping", "Callable", ... or the name of a class.
        inner: the values of a `Literal`; the types of the items of a sequence; or those of each item of a
            tuple.
    """

    name: str
    inner: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function, which is a word or an option of its command.

    Attributes:
        name: its name.
        types: what it may be; None is left out.
        default: the source of its default; None if it must be given.
        help: its text in the docstring.
        place: "word", "words" for any number of them, or "option".
        rare: whether the docstring has it under "Other Parameters".
        owner: "" for the function itself, "load" or "machine" for an option of `ddim.load` or of `Machine`.
    """

    name: str
    types: tuple[Type, ...]
    default: str | None
    help: str = ""
    place: str = "option"
    rare: bool = False
    owner: str = ""

    @property
    def option(self) -> str:
        """The option, such as --guidance-interval or -n; for a word, its name in capitals."""
        name = RENAMED.get(self.name, self.name).strip("_").replace("_", "-")
        if self.place != "option":
            return name.upper()
        return f"-{name}" if len(name) == 1 else f"--{name}"

    @property
    def is_flag(self) -> bool:
        """Whether the option takes no value."""
        return self.has_only("bool")

    @property
    def repeats(self) -> bool:
        """Whether the option may be repeated to collect values."""
        return self.has_only("Mapping") or self.has_only("Sequence")

    def has_only(self, name: str) -> bool:
        """Return whether there is no other type than this one."""
        return {kind.name for kind in self.types} == {name}


@dataclass(frozen=True)
class Signature:
    """What a command takes, and what its help says.

    Attributes:
        home: the module and the name of the function.
        names: the names of all its parameters.
        parameters: words first, then options.
        about: the first line of the docstring.
        text: the paragraphs after it.
        commands: examples, lines for a shell.
        fields: help of the fields of a recipe; None if the function takes none.
    """

    home: str
    names: frozenset[str]
    parameters: tuple[Parameter, ...]
    about: str
    text: str
    commands: str
    fields: str | None

    @property
    def options(self) -> dict[str, Parameter]:
        """The options, keyed by their text."""
        return {p.option: p for p in self.parameters if p.place == "option"}

    @property
    def words(self) -> list[Parameter]:
        """The parameters that are words."""
        return [p for p in self.parameters if p.place != "option"]


@cache
def read_signature(home: str) -> Signature:
    """Return what the command of a function takes; `home` is its place, such as "plots.chart:draw"."""
    module, function = find_definition(*home.split(":"))
    assert isinstance(function, ast.FunctionDef), home
    about, text, sections = read_docstring(ast.get_docstring(function) or "")
    usual, rare = sections["Args"], sections["Other Parameters"]
    parameters, shown = list(_list_parameters(module, function)), []
    for p in parameters:
        if p.name not in (*HIDDEN, "fields") and not p.has_only("Callable"):
            text_of = {**usual, **rare}.get(p.name, p.help)
            shown.append(replace(p, help=text_of, rare=p.rare or p.name in rare))
    names = frozenset(p.name for p in parameters if not p.owner)
    names |= {p.owner for p in parameters}
    fields = usual.get("fields", "") if "fields" in names else None
    shown.sort(key=lambda p: p.place == "option")
    return Signature(home, names, tuple(shown), about, text, sections["Commands"], fields)


def _list_parameters(module: str, function: ast.FunctionDef) -> Iterator[Parameter]:
    args = function.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + [ast.unparse(each) for each in args.defaults]
    given = [
        Parameter(arg.arg, read_types(module, arg.annotation), default)
        for arg, default in zip([*plain, *filter(None, [args.vararg])], [*defaults, "()"], strict=False)
    ]
    for k, p in enumerate(given):
        several = k == len(plain) or (p.default is None and any(t.name == "Sequence" for t in p.types) and k)
        word = k == 0 or p.default is None
        given[k] = replace(p, place="words" if several else "word" if word else "option")
    for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        default = None if value is None else ast.unparse(value)
        given.append(Parameter(arg.arg, read_types(module, arg.annotation), default))
    if args.kwarg and isinstance(args.kwarg.annotation, ast.Subscript):  # Unpack[Options]
        given += read_class(module, ast.unparse(args.kwarg.annotation.slice))
    for p in given:
        if p.name == "machine":
            for field in read_class("training.machine", "Machine"):
                yield replace(field, owner="machine", rare=True)
        else:
            yield p
    if any(kind.name in LOADED for kind in given[0].types if given):
        for option in read_signature("sampling.pipeline:load").parameters[1:]:
            if option.name not in {p.name for p in given}:
                yield replace(option, owner="load", rare=True)


def read_class(module: str, name: str) -> list[Parameter]:
    """Return the fields of a dataclass or of a `TypedDict`; those without a default may be left out."""
    home, node = find_definition(module, name)
    assert isinstance(node, ast.ClassDef), name
    sections = read_docstring(ast.get_docstring(node) or "")[2]
    helps = sections["Args"] | sections["Attributes"]
    fields = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            field, default = item.target.id, ast.unparse(item.value) if item.value else "None"
            types = read_types(home, item.annotation)
            fields.append(Parameter(field, types, default, helps.get(field, "")))
    return fields


def read_docstring(doc: str) -> tuple[str, str, Mapping[str, Any]]:
    """Return the first line of a docstring, the paragraphs after it, and its sections, keyed by title.

    Sections that describe arguments are dictionaries; "Commands" is a text.
    """
    parts = re.split(r"(?:^|\n)([A-Z]\w+(?: \w+)?):\n(?=    )", doc)
    about, _, text = parts[0].strip().partition("\n")
    given = dict(zip(parts[1::2], parts[2::2], strict=True))
    sections: dict[str, Any] = {"Commands": re.sub(r"(?m)^    ", "", given.get("Commands", "")).strip("\n")}
    for title in ("Args", "Attributes", "Other Parameters"):
        items = re.findall(r"(?m)^    \*{0,2}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", given.get(title, ""))
        sections[title] = {
            name: " ".join(about.split()) for names, about in items for name in names.split(", ")
        }
    return about, text.strip(), sections


# Sources


@cache
def parse_module(module: str) -> ast.Module:
    """Return the tree of a module of this package, such as "sampling.edits"."""
    return ast.parse(find_source(module).read_text(encoding="utf-8"))


def find_source(module: str) -> Path:
    """Return the file of a module of this package."""
    path = ROOT / module.replace(".", "/")
    return file if (file := path.with_suffix(".py")).exists() else path / "__init__.py"


def find_definition(module: str, name: str) -> tuple[str, ast.AST | None]:
    """Return the module that defines a name which a module has or imports, and its definition there.

    The definition is a class, a function, or the value that is assigned; None for a name of other packages.
    """
    body = parse_module(module).body
    for block in [body, *(node.body for node in body if isinstance(node, ast.If))]:
        for node in block:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return module, node
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if name in map(ast.unparse, targets):
                    return module, node.value
            if isinstance(node, ast.ImportFrom) and (home := node.module or "").startswith("ddim."):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return find_definition(home.removeprefix("ddim."), alias.name)
    return module, None


def read_types(module: str, node: ast.AST | None) -> tuple[Type, ...]:
    """Return the types of an annotation in a module; the names of other annotations are looked up."""
    if isinstance(node, ast.BinOp):
        return read_types(module, node.left) + read_types(module, node.right)
    if isinstance(node, ast.Constant):  # None, or an annotation in quotes
        return read_types(module, ast.parse(node.value, mode="eval").body) if node.value else ()
    if isinstance(node, ast.Subscript):
        return (_read_subscript(module, node),)
    name = ast.unparse(node) if node else "object"
    home, definition = (module, None) if name in PLAIN else find_definition(module, name)
    if definition is None or isinstance(definition, ast.ClassDef):
        return (Type(name),)
    return read_types(home, definition)


def _read_subscript(module: str, node: ast.Subscript) -> Type:
    """Return the type of an annotation such as `Sequence[int]`."""
    head = ast.unparse(node.value)
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if head == "Literal":
        return Type(head, tuple(map(ast.literal_eval, items)))
    if head in ("Sequence", "Iterable", "Collection", "list") or ast.unparse(items[-1]) == "...":
        return Type("Sequence", read_types(module, items[0]))
    return Type(head, tuple(read_types(module, item) for item in items) if head == "tuple" else ())
