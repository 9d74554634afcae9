"""Explain the fields of a recipe with sentences from the docstrings of the dataclasses, for `ddim recipe`."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING

from ddim.recipe.codec import Slot, list_slots, walk_slots
from ddim.recipe.named import RECIPES, find_recipe
from ddim.recipe.options import option_text
from ddim.recipe.recipe import Recipe

Row = tuple[str, str, str, str]
"""The path of a field, its value in the form of an option, its valid values, and a sentence about it."""


def explain_fields(recipe: Recipe) -> list[Row]:
    """Return a row for every field of a recipe."""
    return [_explain(name, slot) for name, slot in walk_slots(recipe)]


def _explain(path: str, slot: Slot) -> Row:
    value = "required" if slot.default is MISSING else option_text(slot.value)
    return path, value, slot.possible, read_field_help(slot.owner).get(slot.name, "")


def explain_changes(recipe: Recipe) -> list[str]:
    """Return the fields in which a recipe differs from the named one, such as "steps 100 (sampling steps)".

    The images, the training length and the seed are left out, and the numbers of classes and vectors.
    """
    named = find_recipe(recipe.name, recipe.data.size) if recipe.name in RECIPES else recipe
    usual = {path: value for path, value, *_ in explain_fields(named)}
    known = re.compile(r"data\..*|minutes|images|seed|net\.classes|net\.vector")
    rows = [row for row in explain_fields(recipe) if not known.fullmatch(row[0])]
    changed = [(path, value, text) for path, value, _, text in rows if value != usual.get(path, value)]
    return [f"{path} {value} ({re.split('[,;]', text)[0]})" for path, value, text in changed]


def explain_kinds(path: str) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield (name, text, rows of fields) for each class that a field of a recipe can hold.

    The text is the first paragraph of the docstring of the class. Nothing is yielded if the field holds a
    plain value or does not exist.
    """
    kinds: dict[str, type] = {"recipe": Recipe}
    for field in path.split("."):
        slots = [slot for kind in kinds.values() for slot in list_slots(kind) if slot.name == field]
        kinds = {name: kind for slot in slots for name, kind in slot.kinds.items()}
    for name, kind in kinds.items():
        first = (inspect.getdoc(kind) or "").partition("\n\n")[0]
        rows = [_explain(f"{path}.{slot.name}", slot) for slot in list_slots(kind)]
        yield name, " ".join(first.split()), rows


def read_field_help(kind: type) -> dict[str, str]:
    """Return the first sentence about each field in the docstrings of a dataclass and its base classes."""
    help_of: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        section = (inspect.cleandoc(each.__doc__ or "")).partition("\nAttributes:\n")[2].partition("\n\n")[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
            # The points of "et al." and "eq." end no sentence.
            help_of[name] = re.split(r"(?<=[^.])(?<!\bal)(?<!\beq)\.(?: |$)", " ".join(text.split()))[0]
    return help_of
