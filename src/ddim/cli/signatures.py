"""What a command takes: signature and docstring of its function, read from the source without importing it.

So `ddim sample --help` does not wait for torch.
"""

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from textwrap import dedent
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
    def key(self) -> str:
        """The name with the owner before it, such as "load.device"."""
        return f"{self.owner}.{self.name}".strip(".")

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

    def has_only(self, name: str) -> bool:
        """Return whether there is no other type than this one."""
        return {kind.name for kind in self.types} == {name}


@dataclass(frozen=True)
class Docstring:
    """A docstring in Google style.

    Attributes:
        about: its first line.
        text: the paragraphs after it.
        commands: the section "Commands", examples for a shell.
        helps: the text about each argument or attribute, keyed by name.
        rare: the names of the arguments under "Other Parameters".
    """

    about: str
    text: str
    commands: str
    helps: Mapping[str, str]
    rare: Collection[str]


@dataclass(frozen=True)
class Signature:
    """What a command takes, and what its help says.

    Attributes:
        home: the module and the name of the function.
        names: the names of all its parameters.
        parameters: words first, then options.
        doc: its docstring.
        fields: help of the fields of a recipe; None if the function takes none.
    """

    home: str
    names: Collection[str]
    parameters: Sequence[Parameter]
    doc: Docstring
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
    """Return what the command of a function takes; `home` is its place, such as "sampling.edits:vary"."""
    module, function = find_definition(*home.split(":"))
    doc, fields, shown = read_docstring(function), None, []
    parameters = list(_list_parameters(module, function))
    for p in parameters:
        help_text = doc.helps.get(p.name, p.help)
        if p.name == "fields":
            fields = help_text
        elif p.name not in HIDDEN and not p.has_only("Callable"):
            shown.append(replace(p, help=help_text, rare=p.rare or p.name in doc.rare))
    shown.sort(key=lambda p: p.place == "option")
    return Signature(home, {p.name for p in parameters}, shown, doc, fields)


def _list_parameters(module: str, function: ast.FunctionDef) -> Iterator[Parameter]:
    """Yield the parameters of a function; then the options of `ddim.load`, and of `save` of the result."""
    parameters = list(_read_arguments(module, function))
    for p in parameters:
        if p.name == "machine":
            for option in read_class("training.machine", "Machine"):
                yield replace(option, owner="machine", rare=True)
        else:
            yield p
    if any(kind.name in LOADED for kind in parameters[0].types if parameters):
        for option in read_signature("sampling.pipeline:load").parameters[1:]:
            if option.name not in {p.name for p in parameters}:
                yield replace(option, owner="load", rare=True)
    home, result = find_definition(module, getattr(function.returns, "id", ""))
    for method in result.body if isinstance(result, ast.ClassDef) else ():
        if isinstance(method, ast.FunctionDef) and method.name == "save":
            for option in list(_read_arguments(home, method))[1:]:
                help_text = read_docstring(method).helps.get(option.name, "")
                yield replace(option, help=help_text, owner="save", place="option")


def _read_arguments(module: str, function: ast.FunctionDef) -> Iterator[Parameter]:
    """Yield the parameters of a function; for `**options: Unpack[Options]` the fields of `Options`."""
    args = function.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    for k, (arg, default) in enumerate(zip(plain, defaults, strict=True)):
        place = "option" if k and default else "word"
        yield Parameter(arg.arg, read_types(module, arg.annotation), _unparse(default), place=place)
    if arg := args.vararg:
        yield Parameter(arg.arg, read_types(module, arg.annotation), "()", place="words")
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield Parameter(arg.arg, read_types(module, arg.annotation), _unparse(default))
    if args.kwarg and isinstance(args.kwarg.annotation, ast.Subscript):
        yield from read_class(module, ast.unparse(args.kwarg.annotation.slice))


def read_class(module: str, name: str) -> Iterator[Parameter]:
    """Yield the fields of a dataclass or of a `TypedDict`; those without a default may be left out."""
    home, node = find_definition(module, name)
    helps = read_docstring(node).helps
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            field = ast.unparse(item.target)
            default = _unparse(item.value) or "None"
            yield Parameter(field, read_types(home, item.annotation), default, helps.get(field, ""))


def _unparse(node: ast.AST | None) -> str | None:
    return None if node is None else ast.unparse(node)


def read_docstring(node: ast.FunctionDef | ast.ClassDef) -> Docstring:
    """Return the docstring of a function or a class."""
    whole = ast.get_docstring(node) or ""
    start, *sections = re.split(r"(?:^|\n)([A-Z]\w+(?: \w+)?):\n(?=    )", whole)
    about, _, text = start.strip().partition("\n")
    commands, helps, rare = "", {}, []
    for title, section in zip(sections[::2], sections[1::2], strict=True):
        if title == "Commands":
            commands = dedent(section).strip("\n")
        if title in ("Args", "Attributes", "Other Parameters"):
            for names, words in re.findall(r"(?m)^    \*{0,2}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section):
                helps |= dict.fromkeys(names.split(", "), " ".join(words.split()))
                rare += names.split(", ") if title == "Other Parameters" else []
    # Two colons before an indented block are the markup of the documentation.
    return Docstring(about, text.strip().replace("::\n", ":\n"), commands, helps, rare)


# Sources


@cache
def parse_module(module: str) -> list[ast.stmt]:
    """Return the statements of a module of this package; those under `if TYPE_CHECKING` are last."""
    body = ast.parse(locate_module(module).read_text(encoding="utf-8")).body
    return body + [inner for node in body if isinstance(node, ast.If) for inner in node.body]


def locate_module(module: str) -> Path:
    """Return the file of a module of this package, such as "sampling.edits"."""
    path = ROOT / module.replace(".", "/")
    # A folder of an earlier version may be left with nothing but compiled files.
    return file if (file := path.with_suffix(".py")).exists() else path / "__init__.py"


def find_definition(module: str, name: str) -> tuple[str, Any]:
    """Return the module that defines a name which a module has or imports, and its definition there.

    The definition is a class, a function, or the value that is assigned; None for a name of other packages.
    """
    for node in parse_module(module):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
            return module, node.value
        if isinstance(node, ast.AnnAssign) and name == ast.unparse(node.target):
            return module, node.value
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if name == (alias.asname or alias.name):
                package, _, home = str(node.module).partition(".")
                return find_definition(home, alias.name) if package == "ddim" else (module, None)
    return module, None


def read_types(module: str, node: ast.AST | None) -> tuple[Type, ...]:
    """Return the types of an annotation in a module; the names of other annotations are looked up."""
    if isinstance(node, ast.BinOp):
        return read_types(module, node.left) + read_types(module, node.right)
    if isinstance(node, ast.Constant):  # None
        return ()
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
