"""`ddim invert`, `interpolate`, `inpaint`, `vary`: files, records, mistakes."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import tiny
from ddim.recipe.codec import override


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a sampler and a grid of its own."""
    recipe = tiny.recipe(optim__warmup=0, sampler="dpm_solver", grid="uniform_log_snr", grid__end="1")
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


@pytest.fixture(scope="module")
def side():
    """The height and width of the run's images."""
    return tiny.recipe().data.size


@pytest.fixture
def photo(tmp_path):
    """An image of another size than the run's."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def edit(command):
    """A function that runs an edit in four steps, and returns its record and what it printed."""

    def run(name, run, out, *words):
        said = "".join(command(name, run, "--out", out, "--steps", 4, *words))
        assert (out / "strip.png").is_file()
        return json.loads((out / "record.json").read_text()), said

    return run


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_invert_writes_latents_and_reports_the_round_trip(run, side, photo, tmp_path, edit):
    record, said = edit("invert", run, tmp_path / "out", photo, photo)
    height, width = side
    assert f"{photo}: 48x90, cropped to 48x48, resized to {height}x{width}" in said
    assert f"{photo}: mean squared error of the round trip " in said
    assert load_file(tmp_path / "out" / "latents.safetensors")["latent"].shape == (2, 3, height, width)
    assert record["squared_errors"][0] == pytest.approx(record["squared_errors"][1])
    assert record["grid"]["kind"] == "uniform_log_snr"
    assert len(record["times"]) == 4
    # Three steps up, three steps down, of one micro-batch.
    assert record["network_calls"] == 6
    back, image = (pixels(tmp_path / "out" / f"{name}-00.png") / 255 for name in ("restored", "input"))
    assert ((back - image) ** 2).mean() == pytest.approx(record["squared_errors"][0], rel=0.1, abs=1e-4)


def test_an_exact_inversion_has_a_smaller_round_trip_error(run, photo, tmp_path, edit):
    plain, _ = edit("invert", run, tmp_path / "a", photo, "--steps", 8)
    exact, said = edit("invert", run, tmp_path / "b", photo, "--steps", 8, "--exact")
    assert exact["converged"]
    assert "did not converge" not in said
    assert exact["squared_errors"][0] < 1e-8 < plain["squared_errors"][0]


def test_an_edit_takes_the_grid_of_the_options(run, photo, tmp_path, edit):
    words = ["--steps", 4, "--grid", "uniform_log_snr", "--grid.end", "1"]
    record, _ = edit("vary", run, tmp_path / "a", photo, *words)
    assert record["grid"] == {"kind": "uniform_log_snr", "end": 1.0}


@pytest.mark.parametrize("name, words", [("vary", []), ("inpaint", ["--resample", 1])])
def test_an_edit_depends_on_its_seed_and_not_on_the_number_of_images(name, words, run, photo, tmp_path, edit):
    Image.fromarray(np.repeat(np.arange(90, dtype=np.uint8)[None] * 2, 48, 0)).save(tmp_path / "mask.png")
    words = [photo, *words] + (["--mask", tmp_path / "mask.png"] if name == "inpaint" else [])
    row = {"vary": "varied", "inpaint": "painted"}[name]
    edit(name, run, tmp_path / "three", *words, "-n", 3)
    edit(name, run, tmp_path / "one", *words, "-n", 1, "--seed", 2)
    one, three = (tmp_path / "one" / f"{row}-00.png", tmp_path / "three" / f"{row}-02.png")
    assert one.read_bytes() == three.read_bytes()


def test_interpolations_between_seeds_end_at_the_samples_of_those_seeds(run, tmp_path, command, edit):
    record, _ = edit("interpolate", run, tmp_path / "out", "--seeds", "3,8", "--frames", 5)
    assert record["between_seeds"] == [3, 8]
    command("sample", run, "--seeds", "3,8", "--steps", 4, "--out", tmp_path / "s")
    for frame, seed in ((0, 3), (4, 8)):
        ends = pixels(tmp_path / "out" / f"frame-{frame:02d}.png").astype(int)
        assert abs(ends - pixels(tmp_path / "s" / f"{seed:05d}.png")).max() <= 1
    with Image.open(tmp_path / "out" / "film.webp") as film:
        assert film.n_frames == 5


def test_an_interpolation_samples_as_the_recipe_says(tmp_path, command, edit):
    changes = {"clip": "yes", "sampled_on": "linear_in", "sampled_on.start": "2", "sampled_on.end": "-6"}
    recipe = override(tiny.recipe(optim__warmup=0), changes)
    run = tiny.train(recipe, tmp_path / "one")
    edit("interpolate", run, tmp_path / "way", "--seeds", "3,8", "--frames", "2")
    command("sample", run, "--seeds", "3,8", "--steps", 4, "--out", tmp_path / "ends")
    for frame, seed in ((0, 3), (1, 8)):
        wanted = pixels(tmp_path / "ends" / f"{seed:05d}.png")
        assert np.array_equal(pixels(tmp_path / "way" / f"frame-{frame:02d}.png"), wanted)


def test_interpolations_between_images_write_nine_frames(run, photo, tmp_path, edit):
    Image.fromarray(pixels(photo)[::-1]).save(tmp_path / "other.png")
    record, said = edit("interpolate", run, tmp_path / "out", photo, tmp_path / "other.png")
    assert len(list((tmp_path / "out").glob("frame-*.png"))) == 9
    assert record["images"] == [str(photo), str(tmp_path / "other.png")]
    assert said.count("resized") == 2


def test_pixels_outside_the_mask_keep_their_bytes(run, side, photo, tmp_path, edit):
    mask = np.zeros((48, 90), np.uint8)
    mask[:, 45:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = [photo, "--mask", tmp_path / "mask.png", "-n", 2, "--resample", 2]
    edit("inpaint", run, tmp_path / "out", *words)
    image = pixels(tmp_path / "out" / "input-00.png")
    half = side[1] // 2 - 1
    for k in range(2):
        painted = pixels(tmp_path / "out" / f"painted-{k:02d}.png")
        assert (painted[:, :half] == image[:, :half]).all()
        assert (painted[:, half + 2 :] != image[:, half + 2 :]).any()


def test_variations_are_nearer_at_a_smaller_strength(run, photo, tmp_path, edit):
    away = []
    for strength in (0.05, 0.9):
        edit("vary", run, tmp_path / str(strength), photo, "-n", 3, "--strength", strength)
        image = pixels(tmp_path / str(strength) / "input-00.png").astype(float)
        varied = [pixels(tmp_path / str(strength) / f"varied-{k:02d}.png") for k in range(3)]
        away.append(np.mean([(v - image) ** 2 for v in varied]))
        assert len({v.tobytes() for v in varied}) == 3
    assert away[0] < away[1]


def test_mistakes_are_one_sentence(run, photo, tmp_path, refused):
    (tmp_path / "words.png").write_text("no image")
    Image.new("L", (90, 48)).save(tmp_path / "black.png")
    assert "cannot be used" in refused("invert", run, tmp_path / "words.png")
    assert "strength must lie in (0, 1]" in refused("vary", run, photo, "--strength", 2)
    assert "white pixels, to inpaint" in refused("inpaint", run, photo, "--mask", tmp_path / "black.png")
    assert "two images, or two seeds" in refused("interpolate", run, photo)
    assert "holds files already" in refused("invert", run, photo, "--out", tmp_path)
    assert f"RUN comes before IMAGE: ddim vary {run} {photo}" in refused("vary", photo, run)


def test_a_refused_edit_leaves_no_folder(run, photo, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (90, 48)).save("black.png")
    before = sorted(tmp_path.iterdir())
    for words in (["invert", run, "none.png"], ["inpaint", run, photo, "--mask", "black.png"]):
        refused(*words)
    assert sorted(tmp_path.iterdir()) == before
