"""The commands: each name with the place of its public function, MODULE:FUNCTION in this package.

A command is the public function of this name, see `ddim/__init__.py`, or one in `HOMES`.
"""

import re

from ddim import _NAMES
from ddim.cli.signatures import locate_module

GROUPS = {
    "Start here": ("train", "sample", "evaluate", "serve"),
    "Edit": ("invert", "interpolate", "inpaint", "vary"),
    "Judge": ("compare", "memorisation", "likelihood", "diagnose", "report", "runs"),
    "Improve": ("plan", "recipe", "distill", "search", "ema", "sweep"),
    "Look": ("data", "plot"),
    "Exchange": ("export", "push", "import"),
    "Set up": ("cache", "completion"),
}
"""The groups of the overview; the first has the commands that a beginner needs."""

HOMES = {
    "train": "cli.train:train_or_resume",
    "sample": "sampling.samples:sample_to_folder",
    "serve": "web.serve:serve",
    "runs": "experiments.index:list_runs",
    "recipe": "cli.recipe_help:show_recipe",
    "distill": "training.run:distill",
    "data": "evaluation.image_summary:inspect_data",
    "import": "exchange.diffusers:import_model",
    "cache": "data.cache_contents:inspect_cache",
    "completion": "cli.parser:write_completion",
}
"""The functions of commands, MODULE:FUNCTION, that `ddim` does not have by the names of the commands."""

COMMANDS = {name: HOMES.get(name) or f"{_NAMES[name]}:{name}" for group in GROUPS.values() for name in group}

SHARED = ("train", "sample", "evaluate", "distill")
"""The commands whose work several processes can share."""


def describe_command(name: str) -> str:
    """Return the first line of the docstring of a command."""
    module, function = COMMANDS[name].split(":")
    # Parsing all modules would take too long for the overview.
    text = locate_module(module).read_text(encoding="utf-8")
    line = re.search(rf'(?ms)^def {function}\(.*?"""(.+?)(?:\n|""")', text)
    return line[1].strip().removesuffix(".") if line else ""
