"""Load components that the user wrote in a file and names on the command line: FILE.py:NAME.

This is the only module that runs code of the user, and only from a file that the command line names.
"""

import importlib.util
import os
import re
import sys
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ddim.errors import UserError, suggest

_NAMED = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")


def find_file(text: str) -> str:
    """Return FILE.py of a text FILE.py:NAME; "" for any other text."""
    named = _NAMED.fullmatch(text)
    return named["file"] if named else ""


def load_own(text: str) -> Any:  # noqa: ANN401 (whatever the user wrote)
    """Return the object NAME of FILE.py:NAME. The file is run first, but only once in a process.

    Raises:
        UserError: if the text has another form, or the file cannot be run or has no such name.
    """
    named = _NAMED.fullmatch(text)
    if not named:
        raise UserError(f"a component of your own is named as FILE.py:NAME, got {text!r}")
    values = vars(_run_file(Path(os.path.expanduser(named["file"])).resolve()))
    if named["name"] not in values:
        raise UserError(f"{named['file']} has no {named['name']}{suggest(named['name'], values)}")
    return values[named["name"]]


def name_own_part(text: str) -> str:
    """Return the name of the part of a recipe that FILE.py:NAME loads; any other text stays as it is."""
    from ddim.recipe.user_parts import give_parts

    return give_parts([load_own(text)]) if find_file(text) else text


def load_parts(file: str) -> None:
    """Load all parts of recipes that a file contains, so that runs with these parts can be loaded.

    Parts are networks, `partial` objects, dataclasses, and classes of networks that need no arguments.
    """
    from functools import partial

    from torch import nn

    from ddim.recipe.user_parts import give_parts

    module = _run_file(Path(os.path.expanduser(file)).resolve())
    for value in vars(module).values():
        written = isinstance(value, type) and value.__module__ == module.__name__
        part = is_dataclass(value) or (isinstance(value, type) and issubclass(value, nn.Module))
        if isinstance(value, nn.Module | partial) or (written and part):
            # A class that needs arguments is a layer of another network.
            with suppress(TypeError):
                give_parts([value])


@cache
def _run_file(path: Path) -> ModuleType:
    name = f"own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
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
