"""Load components that the user wrote in a file and names on the command line: FILE.py:NAME.

This is the only module that runs code of the user, and only from a file that the command line names.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ddim.errors import UserError, suggest

_NAMED = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")


def names_own(text: str | None) -> bool:
    """Return whether a text has the form FILE.py:NAME."""
    return text is not None and _NAMED.fullmatch(text) is not None


def load_own(text: str) -> Any:  # noqa: ANN401 (whatever the user wrote)
    """Return the object NAME of FILE.py:NAME. The file is run first, but only once in a process.

    Raises:
        UserError: if the text has another form, or the file cannot be run or has no such name.
    """
    found = _NAMED.fullmatch(text)
    if not found:
        raise UserError(
            f"a schedule, network or other component of your own is named as FILE.py:NAME, got {text!r}"
        )
    module = _run_file(Path(found["file"]).expanduser().resolve())
    if not hasattr(module, found["name"]):
        hint = suggest(found["name"], [name for name in vars(module) if name[0] != "_"])
        raise UserError(f"{found['file']} has no {found['name']}{hint}")
    return getattr(module, found["name"])


def take_own(words: list[str]) -> tuple[list[str], list[str]]:
    """Load the parts that `--own FILE.py` or `--own FILE.py:NAME` names.

    Returns:
        All other words, and the files.

    Raises:
        UserError: if --own has a text of another form, or a file cannot be run or has no such name.
    """
    rest, files, following = [], [], iter(words)
    for word in following:
        option, equals, value = word.partition("=")
        if option != "--own":
            rest.append(word)
            continue
        text = value if equals else next(following, "")
        if names_own(text):
            _give([load_own(text)])
        elif text.endswith(".py"):
            _give(_list_parts(_run_file(Path(text).expanduser().resolve())))
        else:
            raise UserError(f"--own needs FILE.py or FILE.py:NAME, got {text!r}")
        files.append(_name_file(text))
    return rest, files


def list_own_files(fields: dict[str, str]) -> list[str]:
    """Return the file of each value FILE.py:NAME of a field."""
    return [_name_file(text) for text in fields.values() if names_own(text)]


def _name_file(text: str) -> str:
    """Return FILE.py of FILE.py or FILE.py:NAME."""
    found = _NAMED.fullmatch(text)
    return found["file"] if found else text


def name_own_parts(fields: dict[str, str]) -> dict[str, str]:
    """Return the fields, with each value FILE.py:NAME replaced by the name of the part that it loads.

    Raises:
        UserError: if a part cannot be loaded.
    """
    return {path: _give([load_own(text)]) if names_own(text) else text for path, text in fields.items()}


def _give(parts: Iterable[Any]) -> str:
    """Register parts in this process; return the name of the last part."""
    from ddim.recipe.user_parts import give_parts

    return give_parts(parts)


def load_callback(text: str) -> Any:  # noqa: ANN401 (a Callback)
    """Return the callback that FILE.py:NAME names.

    NAME is an instance, or a class that needs no arguments. For a class, a new instance is returned.

    Raises:
        UserError: if NAME cannot be loaded or is not a callback.
    """
    from ddim.training import Callback

    found = load_own(text)
    found = found() if isinstance(found, type) else found
    if not isinstance(found, Callback):
        raise UserError(f"--callback needs a ddim.Callback, got {type(found).__name__} for {text}")
    return found


@cache
def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a Python file")
    name = f"own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module in sys.modules, and the file may import other files in its folder.
    sys.modules[name] = module
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _list_parts(module: ModuleType) -> Iterator[Any]:
    """Yield the components in a file: dataclasses, networks, `partial` objects, and network classes.

    A network class is left out if it needs arguments.
    """
    from functools import partial

    from torch import nn

    for value in vars(module).values():
        if isinstance(value, nn.Module | partial):
            yield value
        if not isinstance(value, type) or value.__module__ != module.__name__:
            continue
        needed = [
            parameter
            for parameter in inspect.signature(value).parameters.values()
            if parameter.default is parameter.empty and parameter.kind < parameter.VAR_POSITIONAL
        ]
        if is_dataclass(value) or (issubclass(value, nn.Module) and not needed):
            yield value
