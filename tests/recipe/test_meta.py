"""Networks are built on the device "meta", where their weights take no memory, in a moment."""

import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path
from ddim.recipe.model import build_on_meta
from ddim.recipe.named import RECIPES, find_recipe
for name in RECIPES.keys() - {"edm-ve"}:  # its embedding draws random frequencies
    recipe = find_recipe(name)
    build_on_meta(recipe, 3, Path(name))
    assert "torch._dynamo" not in sys.modules, name
"""


def test_no_network_needs_the_compiler_to_be_built_on_meta():
    """Its import takes a second, at each start of `ddim sample`."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
