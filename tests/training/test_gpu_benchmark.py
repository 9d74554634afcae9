"""benchmarks/gpu.py runs from its first part to its last, on small networks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

import gpu
from ddim.machine.runtime import Runtime
from ddim.recipe.recipe import build_model
from oracles import made
from small_recipes import make_small

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
TRAINING = ["as ddim train runs it", "bare step", "float32, not compiled"]


def test_flops_of_a_step_are_those_of_its_convolutions():
    """Recipe luz has no other products. The first convolution needs no gradient of its input."""
    recipe, products = make_small("luz"), []
    model = made(lambda: build_model(recipe, 3))

    def count(layer, _, out):
        products.append(out[0].numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    model(model.blank(1), 0.5)
    assert gpu.count_flops(recipe, Runtime()) == 2 * (3 * sum(products) - products[0])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_measurement_of_the_gpu_benchmark_runs_and_is_written_down(tmp_path):
    words = [sys.executable, SCRIPT, "--tiny", "--out", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert [row["note"] for row in found["rows"]] == [""] * 31
    assert all(row["images_per_second"] > 0 for row in found["rows"])
    for name in ("luz", "fast", "ddpm", "edm"):
        rows = [row["how"] for row in found["rows"] if (row["part"], row["recipe"]) == ("training", name)]
        assert rows == TRAINING
    assert all(row["of_peak"] > 0 for row in found["rows"] if row["part"] != "sampling")
    assert found["run"]["images"] == 160
    with Image.open(tmp_path / "samples.png") as sheet:
        assert min(sheet.size) >= 64
    for title in ("training", "diffusers", "graphs", "recompute", "sampling", "run"):
        assert f"\n## {title}\n" in done.stdout
