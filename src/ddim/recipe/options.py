"""A recipe as options of the command line: one text for each field. This module does not import torch."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

ERRORS = ("noise_mae", "image_mae")
"""The names of the denoising errors on validation images in the log of a training."""

SAMPLING_FIELDS = ("sampler", "grid", "sampled_on", "clip")
"""Fields of a recipe that say how a run is sampled; commands may change them."""


def flatten(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return the values of a recipe, or of a part of it, keyed by the paths of command-line options.

    The kind (registered name) of a part is keyed by the path of the part itself.

    Example:
        >>> flatten({"schedule": {"kind": "cosine", "clip": "rates"}, "optim": {"lr": 0.001}})
        {'schedule': 'cosine', 'schedule.clip': 'rates', 'optim.lr': 0.001}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        whole = path if name == "kind" else f"{path}.{name}".lstrip(".")
        flat |= flatten(value, whole) if isinstance(value, Mapping) else {whole: value}
    return flat


def flatten_as_text(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a recipe as the text of options: {"schedule": "cosine", "optim.lr": "0.001"}.

    The name of the recipe is left out, because it only says where the other fields come from.
    """
    return {name: option_text(value) for name, value in flatten(recipe).items() if name != "name"}


def option_text(value: object) -> str:
    """Return a value as the text of an option: "true" for True, "1,2" for (1, 2), "[]" for ()."""
    if isinstance(value, list | tuple):
        return ",".join(map(option_text, value)) or "[]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def split_list(text: str) -> list[str]:
    """Return the items of a list in a text; an item in brackets is itself a list.

    This is the form of all lists on the command line: "1,2" has two items, and so has "[16,32],[32,64]".
    Spaces around items do not count. As with `str.split`, an empty text is one empty item.

    Example:
        >>> split_list("1, 2"), split_list("[16,32],[32,64]"), split_list("[16,32]")
        (['1', '2'], ['[16,32]', '[32,64]'], ['[16,32]'])
    """
    # A comma separates items, unless the next bracket closes.
    return [item.strip() for item in re.split(r",(?![^\[]*\])", text)]


def strip_brackets(text: str) -> str:
    """Return a list in a text without the brackets around it, if there are any."""
    return text.strip("()[] ")


def labels_by_default(data: Mapping[str, Any]) -> bool:
    """Return whether samples have labels by default, from `data` of a recipe (JSON); see `default_label`."""
    return isinstance(data.get("labels"), str) or data.get("vectors") is not None


def list_varied(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the fields in which recipes differ, from their values keyed by name."""
    fields = dict.fromkeys(name for recipe in recipes for name in recipe)
    values = defaultdict[tuple[str, str], set[str]](set)
    for recipe in recipes:
        for name in fields:
            # A field of a part, such as a schedule, is compared only between parts of the same kind.
            kind = recipe.get(name.rpartition(".")[0])
            values[name, str(kind)].add(str(recipe.get(name)))
    return list(dict.fromkeys(name for (name, _), seen in values.items() if len(seen) > 1))
