"""Explain recipes, and list recipes, samplers and grids.

The functions run in the worker process, because they need the classes of the components of a recipe.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

from ddim.diffusion.grids import GRIDS
from ddim.diffusion.samplers import SAMPLERS
from ddim.errors import UserError
from ddim.recipe.codec import dump, load_recipe
from ddim.recipe.help import explain_fields
from ddim.recipe.named import RECIPES, find_recipe
from ddim.recipe.options import flatten_as_text
from ddim.web.tasks import ChoicesTask, RecipeTask
from ddim.web.worker_process import Monitor


def explain_recipe(task: RecipeTask, _monitor: Monitor) -> dict[str, Any]:
    """Return the fields of a recipe, each with the entries of `ddim.web.explainer.Field`.

    The sentences about the fields are "" if the recipe cannot be loaded. For example, this process does not
    load components that the user wrote.
    """
    recipe = task.recipe
    own = flatten_as_text(recipe)
    named, texts = _read_named(recipe), {}
    with contextlib.suppress(UserError):
        texts = {path: text for path, _, _, text in explain_fields(load_recipe(recipe))}
    fields = [
        {
            "field": path,
            "value": value,
            "named": named.get(path),
            "differs": bool(named) and named.get(path) != value,
            "help": texts.get(path, ""),
        }
        for path, value in own.items()
    ]
    return {"fields": fields}


def _read_named(recipe: Mapping[str, Any]) -> dict[str, str]:
    name, size = recipe.get("name"), recipe["data"]["size"]
    if name not in RECIPES:
        return {}
    return flatten_as_text(dump(find_recipe(str(name), (int(size[0]), int(size[1])))))


def list_choices(_task: ChoicesTask, _monitor: Monitor) -> dict[str, Any]:
    """Return the named recipes, the fields of recipes, the samplers and the grids."""
    recipes = [
        {"name": name, "text": (inspect.getdoc(make) or "").partition("\n")[0].removesuffix(".")}
        for name, make in RECIPES.items()
    ]
    fields = [{"field": path, "help": text} for path, _, _, text in explain_fields(find_recipe("fast"))]
    return {"recipes": recipes, "fields": fields, "samplers": list(SAMPLERS), "grids": list(GRIDS)}
