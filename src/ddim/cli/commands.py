"""The commands: each name with the place of its public function, MODULE:FUNCTION in this package."""

from __future__ import annotations

import re

from ddim.cli.signatures import find_source

OLD = ""
"""A command that still has a module `ddim.cli.NAME` with `add` and `run`."""

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
        "runs": "experiments.run_table:list_runs",
    },
    "Improve": {
        "plan": "experiments.plan:plan",
        "recipe": "cli.recipe_help:explain_recipe",
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
        "import": "exchange.import_model:import_model",
    },
    "Set up": {
        "cache": "machine.cache_folder:inspect_cache",
        "completion": "cli.completion:write_completion",
    },
}
"""The groups of the overview. A name of two words, such as "plot losses", belongs to the command `plot`."""

COMMANDS = {name: home for group in GROUPS.values() for name, home in group.items()}

SHARED = ("train", "sample", "evaluate", "distill")
"""The commands whose work several processes can share."""


def describe_command(name: str) -> str:
    """Return the first line of the docstring of a command."""
    module, _, function = (COMMANDS[name] or f"cli.{name}").partition(":")
    text = find_source(module).read_text(encoding="utf-8")
    # Parsing all modules would take too long for the overview.
    start = rf'^def {function}\(.*?"""' if function else '"""(?:`.*?`: )?'
    line = re.search(rf'(?ms){start}(.+?)(?:\n|""")', text)
    assert line, name
    return line[1].strip().removesuffix(".")
