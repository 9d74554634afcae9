"""Ask the worker about recipes, and keep the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddim.web.answers import as_plain
from ddim.web.model_worker import ModelWorker
from ddim.web.tasks import ChoicesTask, RecipeTask

RECIPES_KEPT = 256
"""Number of explained recipes that are kept."""


@dataclass(frozen=True)
class Field:
    """A field of a recipe.

    Attributes:
        field: the path of the field, such as "optim.lr".
        value: the value of the field in this recipe, as text.
        named: the value of the field in the built-in recipe of the same name, or None.
        differs: whether `value` differs from the built-in recipe; False without such a recipe.
        help: a sentence about the field, or "".
    """

    field: str
    value: str
    named: str | None = None
    differs: bool = False
    help: str = ""


class Explainer:
    """Asks the worker about each recipe once, and keeps the answers."""

    def __init__(self, worker: ModelWorker) -> None:
        self._worker = worker
        self._choices: Mapping[str, Any] | None = None
        self._fields: dict[str, list[Field]] = {}

    async def list_choices(self) -> Mapping[str, Any]:
        """Return the named recipes, their fields, the samplers and the grids.

        Raises:
            Refused: if the worker cannot answer.
        """
        self._choices = self._choices or await self._worker.ask(ChoicesTask())
        return self._choices

    async def list_fields(self, recipe: Mapping[str, Any]) -> list[Field]:
        """Return the fields of a recipe, each with a sentence about it.

        Raises:
            Refused: if the worker cannot answer.
        """
        key = json.dumps(recipe, sort_keys=True)
        if key not in self._fields:
            found = await self._worker.ask(RecipeTask(as_plain(recipe)))
            if len(self._fields) >= RECIPES_KEPT:
                self._fields.clear()
            self._fields[key] = [Field(**each) for each in found["fields"]]
        return self._fields[key]
