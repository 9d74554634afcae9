"""What a command takes: signature and docstring of its function, read from the source without importing it.

So `ddim sample --help` does not wait for torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PLAIN = ("int", "float", "bool", "str", "Path", "object", "Any")
HIDDEN = ("progress", "own")
"""The names of parameters that a command sets itself."""

RENAMED = {"callbacks": "callback", "compiling": "compile", "opening": "open", "source": "from"}
"""The options whose names differ from those of their parameters."""

LOADED = ("Pipeline", "LoadedRun")
"""If the first parameter may be a loaded run, the options of `ddim.load` are options of the command."""


@dataclass(frozen=True)
class Type:
    """One of the types of an annotation.

    Attributes:
        name: "int", "float", "bool", "str", "Path", "object", "Literal", "Sequence", "tuple", "Mapping",
            "Callable" or the name of a class.
        inner: the values of a `Literal`; the types of the items of a sequence; for a tuple, those of each item.
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
        owner: "" for the function itself; "load", "machine" or "save" for an option of `ddim.load`, of
            `Machine`, or of the method `save` of the result.
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
        return [kind.name for kind in self.types] == ["bool"]

    @property
    def repeats(self) -> bool:
        """Whether the option may be repeated to collect values."""
        return self.types[0].name == "Mapping" or self.name == "callbacks"


@dataclass(frozen=True)
class Signature:
    """What a command takes, and what its help says.

    Attributes:
        home: the module and the name of the function.
        parameters: words first, then options.
        about: the first line of the docstring.
        text: the paragraphs after it.
        commands: examples, lines for a shell.
        fields: help of the fields of a recipe; None if the function takes none.
    """

    home: str
    parameters: tuple[Parameter, ...]
    about: str
    text: str
    commands: str
    fields: str | None


@cache
def parse_module(module: str) -> ast.Module:
    """Return the tree of a module of this package, such as "sampling.edits"."""
    path = ROOT / module.replace(".", "/")
    path = file if (file := path.with_suffix(".py")).exists() else path / "__init__.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def find_definition(module: str, name: str) -> tuple[str, ast.AST] | None:
    """Return the module that defines a name which a module has or imports, and its definition there.

    The definition is a class, a function, or the value that is assigned. None if it is not in this package.
    """
    body = parse_module(module).body
    for node in [*body, *(inner for node in body if isinstance(node, ast.If) for inner in node.body)]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return module, node.value
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddim."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find_definition((node.module or "").removeprefix("ddim."), alias.name)
    return None


def read_types(module: str, node: ast.AST | None) -> tuple[Type, ...]:
    """Return the types of an annotation in a module; names of other annotations are replaced by these."""
    if isinstance(node, ast.BinOp):
        return read_types(module, node.left) + read_types(module, node.right)
    if isinstance(node, ast.Constant):
        return read_types(module, ast.parse(node.value).body[0].value) if node.value else ()  # type: ignore
    if isinstance(node, ast.Subscript):
        return _read_subscript(module, node)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "object")
    if name not in PLAIN and isinstance(node, ast.Name) and (definition := find_definition(module, name)):
        home, value = definition
        if not isinstance(value, ast.ClassDef):
            return read_types(home, value)
    return (Type(name),)


def _read_subscript(module: str, node: ast.Subscript) -> tuple[Type, ...]:
    head = getattr(node.value, "id", getattr(node.value, "attr", ""))
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if head == "Literal":
        return (Type("Literal", tuple(ast.literal_eval(item) for item in items)),)
    if head in ("Sequence", "Iterable", "Collection", "list") or (head == "tuple" and _is_open(items)):
        return (Type("Sequence", read_types(module, items[0])),)
    if head == "tuple":
        return (Type("tuple", tuple(read_types(module, item) for item in items)),)
    return (Type(head),)


def _is_open(items: list[ast.expr]) -> bool:
    return isinstance(items[-1], ast.Constant) and items[-1].value is ...


@cache
def read_signature(home: str) -> Signature:
    """Return what the command of a function takes; `home` is its place, such as "sampling.generate:sample"."""
    module, name = find_definition(*home.split(":")) or (home, None)  # type: ignore[misc]
    if not isinstance(name, ast.FunctionDef):
        raise LookupError(f"{home} is not a function")
    about, text, sections = read_docstring(ast.get_docstring(name) or "")
    helps = sections["Args"] | sections["Other Parameters"]
    parameters = list(_list_parameters(module, name))
    parameters = [
        replace(p, help=helps.get(p.name, p.help), rare=p.rare or p.name in sections["Other Parameters"])
        for p in parameters
        if p.name not in HIDDEN and {kind.name for kind in p.types} != {"Callable"}
    ]
    fields = next((p.help for p in parameters if p.name == "fields"), None)
    parameters = [p for p in parameters if p.name != "fields"]
    parameters.sort(key=lambda p: p.place == "option")
    return Signature(home, tuple(parameters), about, text, sections["Commands"], fields)


def _list_parameters(module: str, function: ast.FunctionDef) -> Iterator[Parameter]:
    args = function.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + [ast.unparse(each) for each in args.defaults]
    loads = False
    names = {each.arg for each in (*plain, *args.kwonlyargs)}
    for k, (each, default) in enumerate(zip(plain, defaults, strict=True)):
        types = read_types(module, each.annotation)
        loads |= k == 0 and any(kind.name in LOADED for kind in types)
        place = "option" if k and default is not None else "word"
        if place == "word" and k and any(kind.name == "Sequence" for kind in types):
            place = "words"
        yield from _expand(Parameter(each.arg, types, default, place=place))
    if args.vararg:
        types = read_types(module, args.vararg.annotation)
        loads |= any(kind.name in LOADED for kind in types)
        yield Parameter(args.vararg.arg, types, "()", place="words")
    for each, value in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        default = None if value is None else ast.unparse(value)
        yield from _expand(Parameter(each.arg, read_types(module, each.annotation), default))
    if args.kwarg and isinstance(args.kwarg.annotation, ast.Subscript):  # Unpack[Options]
        yield from read_class(module, ast.unparse(args.kwarg.annotation.slice))
    if loads:
        for option in read_signature("sampling.pipeline:load").parameters[1:]:
            if option.name not in names:
                yield replace(option, owner="load", rare=True)
    yield from _list_saving(module, function.returns)


def _list_saving(module: str, returned: ast.expr | None) -> Iterator[Parameter]:
    """Yield the options of the method `save` of a result, which the command calls."""
    home, found = (isinstance(returned, ast.Name) and find_definition(module, returned.id)) or (module, None)
    for node in found.body if isinstance(found, ast.ClassDef) else ():
        if isinstance(node, ast.FunctionDef) and node.name == "save":
            helps = read_docstring(ast.get_docstring(node) or "")[2]["Args"]
            for each, default in zip(node.args.args[1:], node.args.defaults, strict=True):
                types, text = read_types(home, each.annotation), helps.get(each.arg, "")
                rare = each.arg != "out"
                yield Parameter(each.arg, types, ast.unparse(default), text, rare=rare, owner="save")


def _expand(parameter: Parameter) -> Iterator[Parameter]:
    """Yield a parameter, or in place of `machine` the fields of `Machine`."""
    if parameter.name == "machine":
        for field in read_class("training.machine", "Machine"):
            yield replace(field, owner="machine", rare=True)
    else:
        yield parameter


def read_class(module: str, name: str) -> list[Parameter]:
    """Return the fields of a dataclass or of a `TypedDict`; those without a default may be left out."""
    home, node = find_definition(module, name) or (module, None)
    assert isinstance(node, ast.ClassDef), name
    sections = read_docstring(ast.get_docstring(node) or "")[2]
    helps = sections["Args"] | sections["Attributes"]
    return [
        Parameter(
            item.target.id,
            read_types(home, item.annotation),
            ast.unparse(item.value) if item.value else "None",
            helps.get(item.target.id, ""),
        )
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]


def read_docstring(doc: str) -> tuple[str, str, dict[str, Any]]:
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
            name: " ".join(text.split()) for names, text in items for name in names.split(", ")
        }
    return about, text.strip(), sections
