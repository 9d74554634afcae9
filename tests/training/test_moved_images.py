"""Runs whose images have moved, are gone or have changed."""

import json
import shutil

import numpy as np
import pytest

import tiny
from ddim.cli import main
from ddim.errors import UserError
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load
from ddim.training import resume

RECIPE = tiny.recipe(images=8, data__size=8)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on images in `flower`, which the recipe names relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    tiny.write_grays(tmp_path / "flower", range(0, 256, 16))
    return tiny.train(RECIPE, tmp_path / "runs" / "one", data="flower")


def recorded(run):
    return json.loads((run / "run.json").read_text())["data"]["path"]


def test_the_new_place_of_the_images_is_accepted_from_another_folder_and_recorded(run, tmp_path, monkeypatch):
    assert recorded(run) == str(tmp_path / "flower")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    resume(run)
    shutil.move("../flower", "../moved")
    shutil.rmtree("../cache")
    assert main(["train", "../moved", "--resume", "--out", "../runs/one"]) == 0
    assert recorded(run) == str(tmp_path / "moved")
    assert len(open_run_images(load(max((run / "checkpoints").iterdir()))).images) == 16


def test_a_copy_of_run_and_images_does_not_need_the_first_ones(run, tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    for name in ("runs", "flower"):
        shutil.copytree(name, tmp_path / "copy" / name)
    (tmp_path / "flower" / "0.png").unlink()
    with pytest.raises(UserError, match="flower has changed since .* put its images back"):
        resume(run)
    monkeypatch.chdir(tmp_path / "copy")
    resume("runs/one")
    assert len(open_run_images(load("runs/one")).images) == 16


def test_other_images_are_not_accepted_as_the_new_place(run, tmp_path):
    tiny.write_grays(tmp_path / "other", range(1, 256, 16))
    before = (run / "run.json").read_bytes()
    with pytest.raises(UserError, match="other does not hold the images on which .* was trained"):
        resume(run, data="other")
    assert (run / "run.json").read_bytes() == before


def test_decoded_copies_serve_where_the_images_are_gone(run):
    shutil.rmtree("flower")
    with pytest.warns(UserWarning, match="are gone; their decoded copies in the cache are used"):
        resume(run)
    with pytest.warns(UserWarning, match="decoded copies"):
        pixels = open_run_images(load(run)).images.pixels
    assert np.sort(pixels[:, 0, 0, 0]).tolist() == list(range(0, 256, 16))
    shutil.rmtree("cache")
    with pytest.raises(UserError, match="are missing, .* `ddim train"):
        resume(run)
