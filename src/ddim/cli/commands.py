"""The commands: each name with the place of its public function, MODULE:FUNCTION in this package."""

from __future__ import annotations

import re

from ddim.cli.signatures import locate_module

GROUPS: dict[str, dict[str, str]] = {
    "Start here": {
        "train": "cli.train:train_or_resume",
        "sample": "sampling.samples:sample_to_folder",
        "evaluate": "evaluation.evaluate:evaluate",
        "serve": "web.serve:serve",
    },
    "Edit": {
        "invert": "sampling.edits:invert",
        "interpolate": "sampling.edits:interpolate",
        "inpaint": "sampling.edits:inpaint",
        "vary": "sampling.edits:vary",
    },
    "Judge": {
        "compare": "evaluation.compare:compare",
        "memorisation": "evaluation.memorisation:memorisation",
        "likelihood": "evaluation.likelihood:likelihood",
        "diagnose": "evaluation.diagnose:diagnose",
        "report": "experiments.report:report",
        "runs": "experiments.index:list_runs",
    },
    "Improve": {
        "plan": "experiments.plan:plan",
        "recipe": "cli.recipe_help:show_recipe",
        "distill": "training.run:distill",
        "search": "evaluation.search:search",
        "ema": "evaluation.averages:ema",
        "sweep": "experiments.sweep:sweep",
    },
    "Look": {
        "data": "evaluation.image_summary:inspect_data",
        "plot": "evaluation.figures:plot",
    },
    "Exchange": {
        "export": "exchange.export:export",
        "push": "exchange.hub:push",
        "import": "exchange.diffusers:import_model",
    },
    "Set up": {
        "cache": "data.cache_contents:inspect_cache",
        "completion": "cli.parser:write_completion",
    },
}
"""The groups of the overview; the first has the commands that a beginner needs."""

COMMANDS = {name: home for group in GROUPS.values() for name, home in group.items()}

SHARED = ("train", "sample", "evaluate", "distill")
"""The commands whose work several processes can share."""


def describe_command(name: str) -> str:
    """Return the first line of the docstring of a command."""
    module, function = COMMANDS[name].split(":")
    # Parsing all modules would take too long for the overview.
    text = locate_module(module).read_text(encoding="utf-8")
    line = re.search(rf'(?ms)^def {function}\(.*?"""(.+?)(?:\n|""")', text)
    return line[1].strip().removesuffix(".") if line else ""
