"""`ddim invert`, `interpolate`, `inpaint`, `vary`: files, results, mistakes."""

import json

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


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_an_inversion_reports_its_round_trip_and_an_exact_one_has_a_smaller_error(
    run, photo, tmp_path, command
):
    errors = {}
    for words in ((), ("--exact",)):
        out = tmp_path / f"out{len(words)}"
        said = command("invert", run, photo, "--steps", 8, "--out", out, "--json", *words)[0]
        record = json.loads(said)
        assert record["folder"] == str(out)
        assert f"{photo}: 48x90, cropped to 48x48" in record["notes"][0]
        errors[words] = record["squared_errors"][0]
        back, image = (pixels(out / f"{name}-00.png") / 255 for name in ("restored", "input"))
        assert ((back - image) ** 2).mean() == pytest.approx(errors[words], rel=0.1, abs=1e-4)
    assert errors["--exact",] < 1e-8 < errors[()]


def test_interpolations_between_seeds_end_at_the_samples_of_those_seeds(run, tmp_path, command):
    command("interpolate", run, "--seeds", "3,8", "--frames", 5, "--steps", 4, "--out", tmp_path / "out")
    command("sample", run, "--seeds", "3,8", "--steps", 4, "--out", tmp_path / "s")
    for frame, seed in ((0, 3), (4, 8)):
        ends = pixels(tmp_path / "out" / f"frame-{frame:02d}.png")
        assert abs(ends - pixels(tmp_path / "s" / f"{seed:05d}.png")).max() <= 1
    with Image.open(tmp_path / "out" / "film.webp") as film:
        assert film.n_frames == 5


def test_an_edit_depends_on_its_seed_and_takes_the_grid_of_the_options(run, photo, tmp_path, command):
    words = [photo, "--steps", 4, "--grid", "uniform_log_snr", "--grid.end", "1"]
    command("vary", run, *words, "-n", 3, "--out", tmp_path / "three")
    said = command("vary", run, *words, "-n", 1, "--seed", 2, "--out", tmp_path / "one", "--quiet")[0]
    assert said.strip() == str(tmp_path / "one")
    record = json.loads((tmp_path / "one/record.json").read_text())
    assert record["grid"] == {"kind": "uniform_log_snr", "end": 1.0}
    one, three = tmp_path / "one/varied-00.png", tmp_path / "three/varied-02.png"
    assert one.read_bytes() == three.read_bytes()


def test_a_refused_edit_leaves_no_folder(run, photo, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (90, 48)).save("black.png")
    before = sorted(tmp_path.iterdir())
    assert "white pixels, to inpaint" in refused("inpaint", run, photo, "--mask", "black.png")
    assert "none.png" in refused("invert", run, "none.png")
    assert "only grid can" in refused("vary", run, photo, "--sampler", "ddim")
    assert sorted(tmp_path.iterdir()) == before
