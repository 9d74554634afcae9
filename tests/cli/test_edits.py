"""`ddim invert`, `interpolate`, `inpaint`, `vary`: files, results, mistakes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import tiny

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a sampler and a grid of its own."""
    recipe = tiny.recipe(optim__warmup=0, sampler="dpm_solver", grid="uniform_log_snr", grid__end="1")
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


@pytest.fixture
def photo(tmp_path):
    """An image of another size than the run's."""
    Image.fromarray(RNG.integers(0, 256, (48, 90, 3), np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_an_exact_inversion_has_a_smaller_error(run, photo, tmp_path, command):
    errors = []
    for more in ("", "--exact"):
        record = json.loads(
            command("invert", run, photo, "--steps 8 --json --out", tmp_path / "out", more)[0]
        )
        assert f"{photo}: 48x90, cropped and resized to 32x32" in record["notes"][0]
        errors += record["squared_errors"]
        shutil.rmtree(tmp_path / "out")
    assert errors[1] < 1e-8 < errors[0]


def test_an_edit_depends_on_its_seed_and_takes_the_grid_of_the_options(run, photo, tmp_path, command):
    words = (photo, "--steps 4 --grid uniform_log_snr --grid.end 1 --out")
    command("vary", run, *words, tmp_path / "three", "-n 3")
    said = command("vary", run, *words, tmp_path / "one", "-n 1 --seed 2 --quiet")[0]
    assert said.strip() == str(tmp_path / "one")
    record = json.loads((tmp_path / "one/record.json").read_text())
    assert record["grid"] == {"kind": "uniform_log_snr", "end": 1.0}
    one, three = tmp_path / "one/varied-00.png", tmp_path / "three/varied-02.png"
    assert one.read_bytes() == three.read_bytes()
