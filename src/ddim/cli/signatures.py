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
        owner: "" for the function itself, "load" or "machine" for an option of `ddim.load` or of `Machine`,
            "save" for one of the method `save` of the result, which the command calls.
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
    if not isinstance(function, ast.FunctionDef):
        raise LookupError(f"{home} is not a function")
    about, text, sections = read_docstring(ast.get_docstring(function) or "")
    usual, rare = sections["Args"], sections["Other Parameters"]
    parameters, shown = list(_list_parameters(module, function)), []
    for p in parameters:
        if p.name not in (*HIDDEN, "fields") and not p.has_only("Callable"):
            text_of = {**usual, **rare}.get(p.name, p.help)
            shown.append(replace(p, help=text_of, rare=p.rare or p.name in rare))
    names = frozenset(p.name for p in parameters if not p.owner)
    names |= {p.owner for p in parameters}
    fields = next((usual.get("fields", p.help) for p in parameters if p.name == "fields"), None)
    shown.sort(key=lambda p: p.place == "option")
    return Signature(home, names, tuple(shown), about, text, sections["Commands"], fields)


def _list_parameters(module: str, function: ast.FunctionDef) -> Iterator[Parameter]:
    """Yield the parameters of a function; then the options of `ddim.load`, and of `save` of the result."""
    given = list(_read_arguments(module, function))
    for p in given:
        machine = read_class("training.machine", "Machine") if p.name == "machine" else ()
        yield from (replace(option, owner="machine", rare=True) for option in machine)
        if not machine:
            yield p
    if given and any(kind.name in LOADED for kind in given[0].types):
        for option in read_signature("sampling.pipeline:load").parameters[1:]:
            if option.name not in {p.name for p in given}:
                yield replace(option, owner="load", rare=True)
    yield from _list_saving(*find_definition(module, getattr(function.returns, "id", "")))


def _list_saving(home: str, result: ast.AST | None) -> Iterator[Parameter]:
    """Yield the parameters of the method `save` of the class of a result, if it has one."""
    for method in result.body if isinstance(result, ast.ClassDef) else ():
        if isinstance(method, ast.FunctionDef) and method.name == "save":
            helps = read_docstring(ast.get_docstring(method) or "")[2]["Args"]
            for option in list(_read_arguments(home, method))[1:]:
                yield replace(option, help=helps.get(option.name, ""), owner="save", place="option")


def _read_arguments(module: str, function: ast.FunctionDef) -> Iterator[Parameter]:
    args = function.args
    plain = [*args.posonlyargs, *args.args]
    needed = len(plain) - len(args.defaults)
    for k, arg in enumerate(plain):
        types, place = read_types(module, arg.annotation), "word"
        default = ast.unparse(args.defaults[k - needed]) if k >= needed else None
        if k and default is not None:
            place = "option"
        elif k and any(kind.name == "Sequence" for kind in types):
            place = "words"
        yield Parameter(arg.arg, types, default, place=place)
    if arg := args.vararg:
        yield Parameter(arg.arg, read_types(module, arg.annotation), "()", place="words")
    for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        default = None if value is None else ast.unparse(value)
        yield Parameter(arg.arg, read_types(module, arg.annotation), default)
    if args.kwarg and isinstance(args.kwarg.annotation, ast.Subscript):  # Unpack[Options]
        yield from read_class(module, ast.unparse(args.kwarg.annotation.slice))


def read_class(module: str, name: str) -> list[Parameter]:
    """Return the fields of a dataclass or of a `TypedDict`; those without a default may be left out."""
    home, node = find_definition(module, name)
    if not isinstance(node, ast.ClassDef):
        raise LookupError(f"{name} is not a class")
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
        sections[title] = {}
        items = re.findall(r"(?m)^    \*{0,2}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", given.get(title, ""))
        for names, words in items:
            sections[title] |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    # Two colons before an indented block are the markup of the documentation.
    return about, text.strip().replace("::\n", ":\n"), sections


# Sources


@cache
def parse_module(module: str) -> ast.Module:
    """Return the tree of a module of this package, such as "sampling.edits"."""
    return ast.parse(locate_module(module).read_text(encoding="utf-8"))


def locate_module(module: str) -> Path:
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
        return read_types(module, ast.parse(str(node.value), mode="eval").body) if node.value else ()
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
