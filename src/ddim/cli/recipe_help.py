"""`ddim recipe`: explain the recipes and their fields."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddim.errors import UserError, suggest
from ddim.plots.table import wrap_text
from ddim.recipe.codec import list_paths
from ddim.recipe.help import Row, explain_fields, explain_kinds
from ddim.recipe.named import RECIPES, find_recipe

INDENT = 38
"""The width of the column of fields."""


@dataclass(frozen=True)
class Explanation:
    """Fields with their values, their possible values and a sentence, in parts with a title."""

    parts: Sequence[tuple[str, Sequence[Row]]]

    def __str__(self) -> str:
        """Return each field as an option that `ddim train` takes."""
        return "\n\n".join(
            "\n".join([title, *([""] if rows else []), *map(_format_field, rows)])
            for title, rows in self.parts
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Return the title and the fields of each part."""
        heads = ("field", "value", "possible", "meaning")
        return [
            {"title": title, "fields": [dict(zip(heads, row, strict=True)) for row in rows]}
            for title, rows in self.parts
        ]


def show_recipe(name: str | None = None, *, fields: Mapping[str, Any] | None = None) -> Explanation:
    """Explain a recipe, or the values of one of its fields.

    Args:
        name: a recipe, such as fast, its YAML file, or a field, such as sampler or optim.lr (default: list
            the recipes).
        fields: other values for fields of the recipe, such as --data.size 128.

    Commands:
        ddim recipe fast
        ddim recipe schedule
    """
    if name is None:
        titles = {each: str(inspect.getdoc(make)).splitlines()[0] for each, make in RECIPES.items()}
        return Explanation([("\n".join(f"{each:<10} {title}" for each, title in titles.items()), ())])
    if name in RECIPES or name.endswith((".yaml", ".yml", ".json")):
        title = inspect.getdoc(RECIPES[name]) if name in RECIPES else name
        return Explanation([(title or name, explain_fields(find_recipe(name, fields=fields)))])
    if parts := [(f"--{name} {kind}: {about}", rows) for kind, about, rows in explain_kinds(name)]:
        return Explanation(parts)
    rows = [row for row in explain_fields(find_recipe("fast", fields=fields)) if row[0] == name]
    # Other values of its part have a field that the recipe itself lacks.
    above = name.rpartition(".")[0]
    rows = rows or [row for _, _, kind in explain_kinds(above) for row in kind if row[0] == name][:1]
    if not rows:
        known = f"a recipe ({', '.join(RECIPES)}), a file or a field"
        raise UserError(f"name must be {known}, got {name!r}{suggest(name, [*RECIPES, *list_paths()])}")
    return Explanation([(f"field {name}, with its value in recipe fast, or its default:", rows)])


def _format_field(row: Row) -> str:
    """Return a field as text: its option and value on the left, its meaning and valid values on the right."""
    path, value, possible, meaning = row
    left, text = f"  --{path} {value}", f"{meaning.replace('None', 'none')} [{possible}]"
    lines = wrap_text(text, 110, " " * INDENT).splitlines()
    if len(left) >= INDENT:
        return "\n".join([left, *lines])
    return "\n".join([left.ljust(INDENT) + lines[0].lstrip(), *lines[1:]])
