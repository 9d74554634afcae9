"""List all combinations of choices of sampling, such as sampler and steps, and name each combination."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ddim.diffusion.grids import GRIDS
from ddim.diffusion.samplers import SAMPLERS
from ddim.diffusion.schedules import SCHEDULES
from ddim.errors import UserError, suggest
from ddim.evaluation.record import name_interval
from ddim.recipe.codec import dump
from ddim.recipe.options import SAMPLING_FIELDS, option_text

INTERVAL = "guidance_interval"
OWN = ("steps", "weights", "label", "guidance", INTERVAL, "guide_with")
"""Choices that are arguments of `evaluate`; all other choices are fields of the recipe."""

_KINDS: dict[str, Mapping[str, type]] = {"sampler": SAMPLERS, "grid": GRIDS, "sampled_on": SCHEDULES}

_LISTS = ("grid.times", "grid.shares")
"""Fields that hold a list of numbers: "1,0.5" is one value, and "[1,0.5],[1,0.2]" are two values."""

Choice = dict[str, Any]
"""Values keyed by the name of the choice: {"steps": 10, "sampler": "ddim", "sampler.eta": 0.5}."""


def expand_choices(choices: Mapping[str, Any]) -> list[Choice]:
    """Return every combination of choices; the value of the last choice changes fastest.

    A field is combined only with the samplers, grids and schedules that have it. For example,
    {"sampler": ["ddim", "ddpm"], "sampler.eta": [0, 1], "sampler.variance": "large"} gives three
    combinations: only "ddim" has the field eta, and only "ddpm" has the field variance.

    Args:
        choices: a value or a list of values, keyed by the name of the choice. Names are "steps", "weights",
            "label", "guidance", "guidance_interval", "guide_with", and fields of sampler, grid, sampled_on
            and clip. A text may be a list too: "0,0.5,1". A sampler, grid or schedule may be a name or an
            object such as `DDIM(eta=0.5)`.

    Raises:
        UserError: if a name is not a choice, or a list is empty or has a value twice.
    """
    known = (*OWN, *SAMPLING_FIELDS)
    listed = {name: _list_values(name, values) for name, values in choices.items()}
    for name, values in listed.items():
        part, dot, _ = name.partition(".")
        if part not in known or (dot and part in OWN):
            raise UserError(
                f"{name} is no choice of sampling, which are {', '.join(known)}{suggest(name, known)}"
            )
        if not values or any(value in values[:k] for k, value in enumerate(values)):
            raise UserError(f"{name} must have different values, got {choices[name]!r}")
    parts = dict.fromkeys(name.split(".")[0] for name in listed)
    options = [_expand_part(part, listed) for part in parts]
    return [{k: v for option in found for k, v in option.items()} for found in itertools.product(*options)]


def name_choices(combinations: Sequence[Choice]) -> list[str]:
    """Return a short name of each combination, made of its choices that differ, but for the steps.

    An example is "ddim eta 0.5".
    """
    names = dict.fromkeys(name for found in combinations for name in found if name != "steps")
    texts = [{name: _text(name, value) for name, value in found.items()} for found in combinations]
    differing = [name for name in names if len({text.get(name) for text in texts}) > 1]
    return [_join({name: text[name] for name in differing if name in text}) for text in texts]


def _join(texts: Mapping[str, str]) -> str:
    """Return the name of a combination from its values as text: "ddim eta 0.5, guidance 2"."""
    words: dict[str, list[str]] = {}
    for name, text in texts.items():
        part, _, field = name.partition(".")
        word = text if name in _KINDS else f"{field or name.replace('_', ' ')} {text}"
        words.setdefault(part, []).append(word)
    return ", ".join(" ".join(found) for found in words.values())


def _text(name: str, value: Any) -> str:  # noqa: ANN401 (any value of a choice)
    if name == INTERVAL and value is not None:
        return name_interval(value)
    return f"{value:g}" if isinstance(value, float) else option_text(value)


def _expand_part(part: str, listed: Mapping[str, list[Any]]) -> list[Choice]:
    """Return all combinations of the values of one part, such as "sampler", and of its fields."""
    inner = {name: values for name, values in listed.items() if name.startswith(f"{part}.")}
    if part not in listed:
        return [dict(zip(inner, values, strict=True)) for values in itertools.product(*inner.values())]
    used = {name for kind in listed[part] for name in inner if _has_field(part, kind, name)}
    found = []
    for kind in listed[part]:
        # If none of the kinds has a field, every kind keeps it, so that the recipe reports the error.
        mine = [name for name in inner if _has_field(part, kind, name) or name not in used]
        for values in itertools.product(*(inner[name] for name in mine)):
            given = {part: kind} if part in OWN else _name_value(part, kind)
            found.append(given | dict(zip(mine, values, strict=True)))
    return found


def _has_field(part: str, kind: Any, name: str) -> bool:  # noqa: ANN401 (any value of a choice)
    known = _KINDS.get(part, {}).get(kind) if isinstance(kind, str) else type(kind)
    return not is_dataclass(known) or name.split(".")[1] in [f.name for f in fields(known)]


def _name_value(part: str, value: Any) -> Choice:  # noqa: ANN401
    """Return the choices for a value: DDIM(eta=0.5) becomes {"sampler": "ddim", "sampler.eta": 0.5}."""
    if not is_dataclass(value):
        return {part: value}
    tree = dump(value, named=True)
    # The hash of a part that the user wrote is no field. The newest part with this name is `value`.
    tree.pop("sha256", None)
    return {part if name == "kind" else f"{part}.{name}": inner for name, inner in tree.items()}


def _list_values(name: str, values: Any) -> list[Any]:  # noqa: ANN401
    """Return the values of a choice, which are a list, or a text such as "0,0.5,1", or one value."""
    if name in (*_LISTS, INTERVAL) and not any(isinstance(each, tuple | list | str) for each in values):
        return [values]
    if isinstance(values, str) and name != "label":
        if name in _LISTS:
            return re.findall(r"\[(.+?)\]", values) or [values]
        return [word.strip() for word in values.split(",")]
    if isinstance(values, np.ndarray):
        return values.tolist()
    return list(values) if isinstance(values, list | tuple | range) else [values]
