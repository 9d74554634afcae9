"""`ddim invert`, `interpolate`, `inpaint`, `vary`: files, records, mistakes."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import tiny
from ddim.recipe.codec import override
from ddim.sampling import edit_images
from ddim.sampling.edit_inputs import read_hole


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
    assert record["grid"]["kind"] == "uniform"
    assert len(record["times"]) == 4
    # Three steps up, three steps down, of one micro-batch.
    assert record["network_calls"] == 6
    back, image = (pixels(tmp_path / "out" / f"{name}-00.png") / 255 for name in ("restored", "input"))
    assert ((back - image) ** 2).mean() == pytest.approx(record["squared_errors"][0], rel=0.1, abs=1e-4)


def test_an_exact_inversion_has_a_smaller_round_trip_error(run, photo, tmp_path, edit):
    plain, _ = edit("invert", run, tmp_path / "a", photo, "--steps", 40)
    exact, said = edit("invert", run, tmp_path / "b", photo, "--steps", 40, "--exact")
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


def layer(colours, opaque):
    """An RGBA image of 90 x 48 pixels: colours (48, 90, 3), and where it is opaque."""
    return Image.fromarray(np.dstack([colours, 255 * opaque]).astype(np.uint8))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("white on black", None),
        ("light gray on dark gray", None),
        ("white strokes on transparency", "the white part, 50 % of the image, will be inpainted"),
        ("a photo with an erased part", "the transparent part, 50 % of the image, will be inpainted"),
        ("black with an erased part", "the transparent part, 50 % of the image, will be inpainted"),
    ],
)
def test_masks_are_read_as_paint_programs_write_them(kind, said, photo, tmp_path):
    right = np.zeros((48, 90), bool)
    right[:, 45:] = True
    colours = np.asarray(Image.open(photo).convert("RGB"))
    masks = {
        "white on black": Image.fromarray(255 * right.astype(np.uint8)),
        "light gray on dark gray": Image.fromarray(np.where(right, 200, 60).astype(np.uint8)),
        "white strokes on transparency": layer(np.full((48, 90, 3), 255), right),
        "a photo with an erased part": layer(colours, ~right),
        "black with an erased part": layer(np.zeros((48, 90, 3)), ~right),
    }
    masks[kind].save(tmp_path / "mask.png")
    told = []
    hole = read_hole(tmp_path / "mask.png", photo, (48, 90), told.append)
    assert hole.dtype == torch.float32
    assert np.array_equal(hole[0, 0].numpy(), right)
    assert told == ([] if said is None else [f"{tmp_path / 'mask.png'}: {said}"])


def test_images_of_a_strip_are_named_by_what_they_are_and_progress_reaches_its_total(run, side):
    image = torch.rand(1, 3, *side, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(1, 1, *side)
    hole[..., :4] = 1
    seen = []
    edits = {
        ("input", "mask", "painted"): lambda **o: edit_images.inpaint_image(run, image, hole, [5, 7], 4, **o),
        ("input", "varied"): lambda **o: edit_images.vary_image(run, image, 0.5, [5, 7], 4, **o),
        ("frame",): lambda **o: edit_images.interpolate(run, None, 5, 4, seeds=[5, 7], **o),
        ("input", "latent", "restored"): lambda **o: edit_images.invert_images(run, image, 4, **o),
    }
    captions = []
    for names, act in edits.items():
        seen.clear()
        found = act(progress=lambda *now: seen.append(now))
        assert tuple(found.rows) == names
        captions.append(list(found.captions))
        totals = {total for _, _, total in seen}
        assert totals == {found.calls}
        assert [done for _, done, _ in seen] == list(range(found.calls))
    fractions = ["seed 5", "25 %", "50 %", "75 %", "seed 7"]
    assert captions == [["seed 5", "seed 7"], ["seed 5", "seed 7"], fractions, []]


@pytest.mark.parametrize("gray", [0.0, 0.25, 1.0])
def test_the_masked_part_of_a_strip_is_visible_on_any_image(gray, run, side):
    hole = torch.zeros(1, 1, *side)
    hole[..., 8:40, 8:40] = 1
    edit = edit_images.inpaint_image(run, torch.full((1, 3, *side), gray), hole, [5], 2, resample=1)
    shown = edit.rows["mask"]
    assert (shown[..., :8] == gray).all()
    assert ((shown - gray).abs() * hole > 0.5).sum() > 0.4 * 3 * hole.sum()


def test_variations_are_nearer_at_a_smaller_strength(run, photo, tmp_path, edit):
    away = []
    for strength in (0.05, 0.9):
        edit("vary", run, tmp_path / str(strength), photo, "-n", 3, "--strength", strength)
        image = pixels(tmp_path / str(strength) / "input-00.png").astype(float)
        varied = [pixels(tmp_path / str(strength) / f"varied-{k:02d}.png") for k in range(3)]
        away.append(np.mean([(v - image) ** 2 for v in varied]))
        assert len({v.tobytes() for v in varied}) == 3
    assert away[0] < away[1]


def test_mistakes_are_one_sentence(run, photo, tmp_path, command, refused):
    (tmp_path / "words.png").write_text("no image")
    Image.new("L", (90, 48)).save(tmp_path / "black.png")
    assert "cannot be used" in refused("invert", run, tmp_path / "words.png")
    assert "cannot be read" in refused("vary", run, tmp_path / "none.png")
    assert "--strength must lie in" in refused("vary", run, photo, "--strength", 2)
    assert "-n must be" in refused("vary", run, photo, "-n", 0)
    assert "white pixels, to inpaint" in refused("inpaint", run, photo, "--mask", tmp_path / "black.png")
    Image.new("L", (48, 48), 255).save(tmp_path / "square.png")
    said = command("inpaint", run, photo, "--mask", tmp_path / "square.png", code=2).err
    assert said == "ddim: the mask must have the size of the image, 48x90, got 48x48\n"
    assert "two images, or --seeds" in refused("interpolate", run, photo)
    assert "two images, or --seeds" in refused("interpolate", run)
    assert "must be two seeds" in refused("interpolate", run, "--seeds", "3")
    assert "--frames must be" in refused("interpolate", run, "--seeds", "3,4", "--frames", 1)
    assert "the recipe fields it takes are grid" in refused("invert", run, photo, "--sampler", "edm")
    assert "--steps must be" in refused("invert", run, photo, "--steps", 0)
    many = 99999999999
    assert "at most 1,000,000" in refused("vary", run, photo, "--steps", many)
    assert "at most 1,000,000" in refused("interpolate", run, "--seeds", "3,4", "--frames", many)
    painted = ["inpaint", run, photo, "--mask", photo]
    assert "--resample must be at least 1 and at most" in refused(*painted, "--resample", many)
    assert "holds files already" in refused("invert", run, photo, "--out", tmp_path)
    assert f"RUN comes before IMAGE: ddim vary {run} {photo}" in refused("vary", photo, run)
    spaced = photo.with_name("my photo.png")
    shutil.copy(photo, spaced)
    assert f"RUN comes before IMAGE: ddim vary {run} '{spaced}'" in refused("vary", spaced, run)
    assert f"RUN comes before IMAGE: ddim invert {run} {photo}" in refused("invert", photo, run)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("none.png", "read: No such file"),
        ("folder", "read: Is a directory"),
        ("words.png", "used: contains no"),
    ],
)
def test_a_mask_that_is_not_an_image_is_refused(name, reason, run, photo, tmp_path, refused):
    (tmp_path / "words.png").write_text("no image")
    (tmp_path / "folder").mkdir()
    said = refused("inpaint", run, photo, "--mask", tmp_path / name)
    assert f"{str(tmp_path / name)!r} cannot be {reason}" in said


def test_a_refused_edit_leaves_no_folder(run, photo, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (90, 48)).save("black.png")
    before = sorted(tmp_path.iterdir())
    for words in (
        ["invert", run, "none.png"],
        ["vary", run, "none.png"],
        ["interpolate", run, photo, "none.png"],
        ["inpaint", run, photo, "--mask", "none.png"],
        ["inpaint", run, photo, "--mask", "black.png"],
    ):
        refused(*words)
    assert sorted(tmp_path.iterdir()) == before


def test_invert_warns_of_noise_at_the_end_of_schedule_or_grid(run, tmp_path, photo, edit):
    _, said = edit("invert", run, tmp_path / "noisy", photo)
    assert "at t = 0 this run's schedule still has noise, sigma = 0.31" in said
    recipe = tiny.recipe(optim__warmup=0, schedule__max_signal=0.99995)
    clean = tiny.train(recipe, tmp_path / "run")
    coarse = ["--grid", "uniform"]
    _, said = edit("invert", clean, tmp_path / "clean", photo, *coarse)
    assert "schedule still has noise" not in said
    assert "at the last of these 4 times, sigma is still 0.38" in said
    record, said = edit("invert", clean, tmp_path / "fine", photo)
    assert record["grid"] == {"kind": "uniform_log_snr", "end": 6.0}
    assert "sigma" not in said
