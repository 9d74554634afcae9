"""List all combinations of choices of sampling, such as sampler and steps, and name each combination."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from ddim.diffusion.grids import GRIDS
from ddim.diffusion.samplers import SAMPLERS
from ddim.diffusion.schedules import SCHEDULES
from ddim.errors import UserError, suggest
from ddim.evaluation.guidance_name import name_interval
from ddim.evaluation.samples import Samples
from ddim.recipe.codec import dump
from ddim.recipe.options import SAMPLING_FIELDS, option_text

INTERVAL = "guidance_interval"
OWN = ("steps", "weights", "label", "guidance", INTERVAL, "guide_with")
"""Choices that are fields of `Samples`; all other choices are fields of the recipe."""

_KINDS: dict[str, Mapping[str, type]] = {"sampler": SAMPLERS, "grid": GRIDS, "sampled_on": SCHEDULES}

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
            and clip. A sampler, grid or schedule may be a name or an object such as `DDIM(eta=0.5)`.

    Raises:
        UserError: if a name is not a choice, or a list is empty or has a value twice.
    """
    known = (*OWN, *SAMPLING_FIELDS)
    for name, values in choices.items():
        part, dot, _ = name.partition(".")
        if part not in known or (dot and part in OWN):
            hint = suggest(name, known)
            raise UserError(f"{name} is not a choice of sampling; choices are {', '.join(known)}{hint}")
        listed = _list_values(name, values)
        if not listed or any(value in listed[:k] for k, value in enumerate(listed)):
            raise UserError(f"{name} must have different values, got {values!r}")
    parts = dict.fromkeys(name.split(".")[0] for name in choices)
    options = [_expand_part(part, choices) for part in parts]
    return [{k: v for option in found for k, v in option.items()} for found in itertools.product(*options)]


def choose_samples(samples: Samples, choice: Choice) -> Samples:
    """Return `samples` with the values of one combination of choices."""
    own = {name: value for name, value in choice.items() if name in OWN}
    changed = {name: value for name, value in choice.items() if name not in OWN}
    return replace(samples, **own, fields={**samples.fields, **changed})


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


def _expand_part(part: str, choices: Mapping[str, Any]) -> list[Choice]:
    """Return all combinations of the values of one part, such as "sampler", and of its fields."""
    inner = {
        name: _list_values(name, values) for name, values in choices.items() if name.startswith(f"{part}.")
    }
    if part not in choices:
        return [dict(zip(inner, values, strict=True)) for values in itertools.product(*inner.values())]
    kinds = _list_values(part, choices[part])
    used = {name for kind in kinds for name in inner if _has_field(part, kind, name)}
    found = []
    for kind in kinds:
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
    if name == INTERVAL and isinstance(values, tuple) and not any(isinstance(end, tuple) for end in values):
        return [values]
    if isinstance(values, np.ndarray):
        return values.tolist()
    return list(values) if isinstance(values, list | tuple | range) else [values]
