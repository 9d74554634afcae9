"""Runs on images of more than 8 bits: training, exact resume, samples in files without loss."""

import numpy as np
import pytest
from PIL import Image

import ddim
import tiny
from ddim.data.values import Values
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load
from ddim.sampling.samples import sample_to_folder
from deep_files import noise16

SMOOTH = noise16(20, 4, 4, 8).repeat(4, 1).repeat(4, 2)
ARRAYS = {
    "eight": SMOOTH,
    "gray": SMOOTH[..., 0],
    "floats": (SMOOTH[..., :2] / 65536).astype(np.float32) * 7 - 2,
}
"""Arrays of 8 channels of 16 bits, of one such channel, and of two channels of floats."""
RECIPE = tiny.recipe(data__size=16, report__guide=0, objective__guidance=1, images=32)


def saved(folder, name):
    np.save(folder / f"{name}.npy", ARRAYS[name])
    return str(folder / f"{name}.npy")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on each array."""
    root = tmp_path_factory.mktemp("runs")
    return {name: tiny.train(RECIPE, root / name, saved(root, name)) for name in ARRAYS}


@pytest.mark.parametrize("name", ARRAYS)
def test_images_come_back_exactly_and_samples_are_saved_without_loss(name, runs, tmp_path):
    pipeline, array = load(runs[name]), ARRAYS[name]
    images = open_run_images(pipeline).images
    assert np.array_equal(images.pixels[:].reshape(array.shape), array)
    ends = (float(array.min()), float(array.max())) if name == "floats" else (0, 65535)
    assert pipeline.values == images.values == Values(str(array.dtype), *ends)
    written = sample_to_folder(pipeline, 3, 2, out=tmp_path / "out")
    wanted = pipeline.values.from_unit(ddim.sample(pipeline, 3, 2, progress=False))
    stack = np.load(written.folder / "samples.npy")
    assert (stack.dtype, stack.shape[1:]) == (array.dtype, array.shape[1:])
    assert np.array_equal(stack.reshape(wanted.shape), wanted)
    if name == "gray":
        with Image.open(written.folder / "00001.png") as image:
            assert np.array_equal(np.asarray(image), stack[1])
    else:
        assert np.array_equal(np.load(written.folder / "00001.npy"), stack[1])
    assert name == "floats" or len(np.unique(stack & 255)) > 50, "the low bytes are used"


def test_a_run_of_16_bits_resumes_exactly(runs, tmp_path):
    cut = tiny.train_until_crash(RECIPE, tmp_path / "cut", tiny.CrashAtSave(1), data=saved(tmp_path, "eight"))
    (tmp_path / "eight.npy").rename(tmp_path / "moved.npy")
    ddim.resume(cut, data=str(tmp_path / "moved.npy"), progress=False)
    tiny.check_same_run(cut, runs["eight"])
