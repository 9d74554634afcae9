"""Runs on images of more than 8 bits: training, exact resume, samples in files without loss."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ddim
import tiny
from ddim.errors import UserError
from ddim.evaluation.diagnose import diagnose
from ddim.evaluation.likelihood import bits_per_dim
from ddim.recipe.codec import override
from ddim.sampling.images import open_run_images
from ddim.sampling.pictures import show_image, to_pixels
from ddim.sampling.pipeline import load
from ddim.sampling.samples import write_samples
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.request import check_resumed_recipe
from deep_files import noise16

SMOOTH = noise16(20, 4, 4, 8).repeat(4, 1).repeat(4, 2)
RECIPE = tiny.recipe(data__size=16, report__guide=0, report__events=2)


def saved(folder, name, array):
    np.save(folder / f"{name}.npy", array)
    return str(folder / f"{name}.npy")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on arrays of 8 channels of 16 bits, of one such channel, and of two channels of floats."""
    root = tmp_path_factory.mktemp("runs")
    arrays = {
        "eight": SMOOTH,
        "gray": SMOOTH[..., 0],
        "floats": (SMOOTH[..., :2] / 65536).astype(np.float32) * 7 - 2,
    }
    return {
        name: (tiny.train(RECIPE, root / name, saved(root, name, array)), array)
        for name, array in arrays.items()
    }


@pytest.mark.parametrize("name", ["eight", "gray", "floats"])
def test_images_come_back_exactly_from_the_run(runs, name):
    run, array = runs[name]
    pipeline = load(run)
    images = open_run_images(pipeline).images
    assert np.array_equal(images.pixels[:].reshape(array.shape), array)
    assert pipeline.values == images.values
    assert pipeline.model.shape.channels == images.pixels.shape[3]


@pytest.mark.parametrize("name", ["eight", "gray", "floats"])
def test_samples_are_saved_without_loss(runs, name, tmp_path):
    run, array = runs[name]
    pipeline = load(run)
    written = write_samples(SamplingSetup(pipeline, 2), range(3), tmp_path / "out")
    wanted = pipeline.values.from_unit(ddim.sample(pipeline, 3, 2, progress=False))
    assert wanted.dtype == array.dtype
    stack = np.load(written.folder / "samples.npy")
    assert np.array_equal(stack.reshape(wanted.shape), wanted)
    assert stack.shape[1:] == array.shape[1:]
    for seed in range(3):
        if name == "gray":
            with Image.open(written.folder / f"{seed:05d}.png") as image:
                found = np.asarray(image)[..., None]
        else:
            found = np.load(written.folder / f"{seed:05d}.npy")
        assert np.array_equal(found, wanted[seed])
    if array.dtype == np.uint16:
        assert len(np.unique(stack & 255)) > 50, "the low bytes are used"
    else:
        assert array.min() - 1e-5 <= stack.min() < stack.max() <= array.max() + 1e-5


def test_an_interrupted_folder_is_completed(runs, tmp_path):
    pipeline = load(runs["eight"][0])
    out = tmp_path / "out"
    write_samples(SamplingSetup(pipeline, 2), range(2), out)
    (tmp_path / "out" / "00001.npy").unlink()
    before = (tmp_path / "out" / "00000.npy").stat().st_mtime_ns
    assert write_samples(SamplingSetup(pipeline, 2), range(4), out).made == 3
    assert (tmp_path / "out" / "00000.npy").stat().st_mtime_ns == before
    whole = write_samples(SamplingSetup(pipeline, 2), range(4), tmp_path / "whole")
    names = ("samples.npy", "grid.png", "00001.npy")
    assert all((tmp_path / "out" / n).read_bytes() == (whole.folder / n).read_bytes() for n in names)


def test_options_of_an_array_need_not_be_repeated_to_resume(runs, tmp_path):
    _, array = runs["eight"]
    source = saved(tmp_path, "eight", array)
    recipe = replace(RECIPE, data=replace(RECIPE.data, size=(8, 8), axis="last"))
    run = tiny.train(override(recipe, {"data.source": source}), tmp_path / "run")
    assert ddim.load(run).recipe.data.size == (8, 8)
    check_resumed_recipe(run, None, {"data.source": source})
    with pytest.raises(UserError, match="another recipe"):
        check_resumed_recipe(run, None, {"data.source": source, "data.size": "16"})


def test_a_run_of_16_bits_resumes_exactly(runs, tmp_path):
    whole, array = runs["eight"]
    cut = tiny.train_until_crash(
        RECIPE, tmp_path / "cut", tiny.CrashAtSave(1), data=saved(tmp_path, "eight", array)
    )
    (tmp_path / "eight.npy").rename(tmp_path / "moved.npy")
    ddim.resume(cut, data=str(tmp_path / "moved.npy"), progress=False)
    tiny.check_same_run(cut, whole)


def test_the_run_records_the_values_of_its_images(runs):
    for name, kind in [("eight", "uint16"), ("gray", "uint16"), ("floats", "float32")]:
        run, array = runs[name]
        newest = max((run / "checkpoints").iterdir())
        state = json.loads((newest / "state.json").read_text())
        ends = (0, 65535) if kind == "uint16" else (float(array.min()), float(array.max()))
        assert (state["values"]["type"], state["values"]["low"], state["values"]["high"]) == (kind, *ends)


def test_edits_read_and_keep_16_bits(runs):
    pipeline = load(runs["eight"][0])
    image = pipeline.values.to_unit(SMOOTH[:1])
    edit = ddim.invert(pipeline, torch.from_numpy(image).permute(0, 3, 1, 2), steps=2, progress=False)
    assert np.array_equal(to_pixels(edit.rows["input"], pipeline.values), SMOOTH[:1])


def test_values_outside_the_range_of_the_run_are_edited(runs):
    """A file of floats may have larger values than the training images."""
    pipeline, large = load(runs["floats"][0]), torch.full((1, 2, 16, 16), 1.2)
    assert ddim.vary(pipeline, large, seeds=[0], steps=2, progress=False).rows["input"].max() == large.max()
    with pytest.raises(UserError, match="finite"):
        ddim.vary(pipeline, large * torch.nan, seeds=[0], steps=2, progress=False)


def test_more_channels_are_shown_as_red_green_and_blue(runs):
    values = load(runs["eight"][0]).values
    shown = show_image(SMOOTH[0], values)
    assert np.abs(shown / 255 - SMOOTH[0, ..., :3] / 65535).max() <= 0.5 / 255 + 1e-9
    two = show_image(SMOOTH[0, ..., :2], values)
    assert (two[..., 2] == 0).all()
    assert (two[..., :2] == shown[..., :2]).all()


def test_a_range_that_leaves_out_values_is_refused(tmp_path):
    recipe = tiny.recipe(data__size=16, data__range=(0, 100))
    with pytest.raises(UserError, match="data.range must hold all values of the images"):
        tiny.train(recipe, tmp_path / "run", saved(tmp_path, "eight", SMOOTH))


def test_the_likelihood_of_16_bits_is_refused(runs):
    with pytest.raises(UserError, match="are measured for 8-bit images, but this run has uint16"):
        bits_per_dim(runs["eight"][0])


def test_a_diagnosis_of_floats_names_no_rounding(runs):
    found = diagnose(runs["floats"][0], 4, 2, progress=False)
    assert "The images need log-SNR above" in repr(found)
    assert found.noise_range.cleanest is None
    assert found.figure().axes


def test_arrays_keep_their_size_by_default(tmp_path):
    folder = tiny.train_run(
        saved(tmp_path, "gray", SMOOTH[..., 0]),
        "smoke",
        images=32,
        out=tmp_path / "run",
        machine=tiny.MACHINE,
        progress=False,
    )
    shape = load(folder).model.shape
    assert (shape.channels, shape.height, shape.width) == (1, 16, 16)
