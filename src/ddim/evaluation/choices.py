"""List all combinations of choices of sampling, such as sampler and steps, and name each combination."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from ddim.diffusion.grids import GRIDS
from ddim.diffusion.samplers import SAMPLERS
from ddim.diffusion.schedules import SCHEDULES
from ddim.recipe.codec import dump
from ddim.recipe.options import option_text

OWN = ("steps", "weights", "label", "guidance", "guidance_interval", "guide_with")
"""Choices that are arguments of `evaluate`; all other choices are fields of the recipe."""

_KINDS: dict[str, Mapping[str, type]] = {"sampler": SAMPLERS, "grid": GRIDS, "sampled_on": SCHEDULES}

_LISTS = ("grid.times", "grid.shares", "guidance_interval")
"""Choices whose value is a list of numbers: "1,0.5" is one value, and "[1,0.5],[1,0.2]" are two values."""

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
    """
    listed = {name: _list_values(name, given) for name, given in choices.items()}
    # The fields of a part follow the part, so that combinations with one sampler stand together.
    parts = list(dict.fromkeys(name.partition(".")[0] for name in listed))
    names = sorted(listed, key=lambda name: (parts.index(name.partition(".")[0]), "." in name))
    found: list[Choice] = []
    for values in itertools.product(*(listed[name] for name in names)):
        choice = _combine(dict(zip(names, values, strict=True)), listed)
        if choice not in found:
            found.append(choice)
    return found


def _combine(values: Choice, listed: Mapping[str, list[Any]]) -> Choice:
    """Return one combination of values, without the fields that only other samplers or grids have."""
    combined: Choice = {}
    for name, value in values.items():
        part, dot, field = name.partition(".")
        kinds = listed.get(part, []) if dot else []
        # A field that no sampler has is kept, so that the recipe reports the error.
        known = any(_has_field(part, kind, field) for kind in kinds)
        if not known or _has_field(part, values[part], field):
            combined |= _name_value(name, value)
    return combined


def _has_field(part: str, kind: Any, field: str) -> bool:  # noqa: ANN401 (any value of a choice)
    """Return whether a sampler, grid or schedule has a field; `kind` is its name or an object."""
    known = _KINDS.get(part, {}).get(kind) if isinstance(kind, str) else type(kind)
    return not is_dataclass(known) or field in [each.name for each in fields(known)]


def _name_value(name: str, value: Any) -> Choice:  # noqa: ANN401
    """Return the choices for a value: DDIM(eta=0.5) becomes {"sampler": "ddim", "sampler.eta": 0.5}."""
    if not is_dataclass(value):
        return {name: value}
    tree = dump(value, named=True)
    # The hash of a part that the user wrote is no field. The newest part with this name is `value`.
    tree.pop("sha256", None)
    return {name: tree.pop("kind")} | {f"{name}.{field}": inner for field, inner in tree.items()}


def _list_values(name: str, given: Any) -> list[Any]:  # noqa: ANN401
    """Return the values of a choice, which are a list, or a text such as "0,0.5,1", or one value."""
    if isinstance(given, str):
        if name in _LISTS:
            return re.findall(r"\[(.+?)\]", given) or [given]
        return [word.strip() for word in given.split(",")]
    if not isinstance(given, list | tuple | range):
        return [given]
    if name in _LISTS and not any(isinstance(each, list | tuple | str) for each in given):
        return [given]
    return list(given)


def name_choices(combinations: Sequence[Choice]) -> list[str]:
    """Return a short name of each combination, made of its choices that differ, but for the steps.

    A field is named if it differs between combinations with the same sampler, grid or schedule. An example is
    "ddim eta 0.5 guidance 2".
    """
    differing = []
    for name in dict.fromkeys(itertools.chain(*combinations)):
        part, _, _ = name.rpartition(".")
        kinds = [choice.get(part) for choice in combinations]
        texts = [_name_choice(name, choice.get(name)) for choice in combinations]
        if name != "steps" and len(set(zip(kinds, texts, strict=True))) > len(set(kinds)):
            differing.append(name)
    return [
        " ".join(_name_choice(name, choice[name]) for name in differing if name in choice)
        for choice in combinations
    ]


def _name_choice(name: str, value: Any) -> str:  # noqa: ANN401
    """Return the name of a value, such as "ddim", "eta 0.5" or "guidance 2"."""
    text = f"{value:g}" if isinstance(value, float) else option_text(value)
    if name in _KINDS:
        return text
    return f"{name.rpartition('.')[2].replace('_', ' ')} {text}"
