"""Parts, such as a schedule or a parameterisation, that can be given as an object or by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, TypeVar

from ddim.errors import UserError, suggest

T = TypeVar("T")

OTHER_NAMES = {
    "euler": "ddim",
    "heun": "edm",
    "ancestral": "ddpm",
    "plms": "adams_bashforth",
    "pndm": "adams_bashforth",
    "dpm++": "dpm_solver",
    "v_prediction": "velocity",
    "epsilon": "noise",
    "flow_matching": "linear_path",
    "rectified_flow": "linear_path",
    "logit_normal": "normal_log_snr",
    "shifted": "uniform",
}
"""Names of parts in papers and other libraries, each with the most similar part of this library."""


def suggest_part(word: str, possible: Iterable[str]) -> str:
    """Return "; perhaps you meant NAME" for the end of an error message, or "" if no name is similar.

    If the unknown name is similar to one in `OTHER_NAMES`, this name is added: "ddim (euler)".

    Args:
        word: the unknown name.
        possible: the names that are allowed.
    """
    names = list(possible)
    if hint := suggest(word, names):
        return hint
    other = suggest(word, [name for name, here in OTHER_NAMES.items() if here in names])
    name = other.rpartition(" ")[2]
    return f"; perhaps you meant {OTHER_NAMES[name]} ({name})" if other else ""


def choose_part(field: str, value: T | str, registry: Mapping[str, type[T]]) -> T:
    """Return a part of a model: `value` itself, or if it is a name, the registered part with default fields.

    Args:
        field: the name of the argument, for messages.
        value: the part or its name.
        registry: the classes that can be given by name, such as `SCHEDULES`.

    Raises:
        UserError: if the name is unknown, the part has a field without a default, or `value` is a class.
    """
    if isinstance(value, type):
        raise UserError(
            f"{field} must be an instance, such as {value.__name__}(), got the class {value.__name__}"
        )
    if not isinstance(value, str):
        return value
    if value not in registry:
        hint = suggest_part(value, registry)
        raise UserError(f"{field} must be one of {', '.join(registry)}, got {value!r}{hint}")
    kind = registry[value]
    needed = [f.name for f in fields(kind) if f.default is MISSING]  # pyrefly: ignore[bad-argument-type]
    if needed:
        raise UserError(
            f"{field} {value} must be given with its {' and '.join(needed)}, as an object: "
            f"ddim.{kind.__name__}({', '.join(f'{name}=...' for name in needed)})"
        )
    return kind()


def complete(part: T, **numbers: float | None) -> T:
    """Return a part whose fields that are None have numbers, such as `entries=1000`; so have its inner parts.

    A number of a model stands once: a part whose `entries` or `sigma_data` is None takes the number of the
    schedule or of the pixels.
    """
    if not is_dataclass(part):
        return part
    changes: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if value is None and field.name in numbers:
            changes[field.name] = numbers[field.name]
        elif is_dataclass(value):
            changes[field.name] = complete(value, **numbers)
    return replace(part, **changes)  # pyrefly: ignore[bad-specialization]
