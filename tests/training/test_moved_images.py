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


def recorded(run):
    return json.loads((run / "run.json").read_text())["data"]["path"]


def test_a_new_place_of_the_images_is_accepted_from_elsewhere_and_recorded(photos_run, tmp_path, monkeypatch):
    assert recorded(photos_run) == str(tmp_path / "photos")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    resume(photos_run)
    shutil.move("../photos", "../moved")
    shutil.rmtree("../cache")
    assert main(["train", "../moved", "--resume", "--out", "../runs/one"]) == 0
    assert recorded(photos_run) == str(tmp_path / "moved")
    assert len(open_run_images(load(max((photos_run / "checkpoints").iterdir()))).images) == 32


def test_a_copy_of_run_and_images_does_not_need_the_first_ones(photos_run, tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    for name in ("runs", "photos"):
        shutil.copytree(name, tmp_path / "copy" / name)
    (tmp_path / "photos" / "0.png").unlink()
    with pytest.raises(UserError, match="photos has changed since .* put its images back"):
        resume(photos_run)
    monkeypatch.chdir(tmp_path / "copy")
    resume("runs/one")
    assert len(open_run_images(load("runs/one")).images) == 32


def test_other_images_are_not_accepted_as_the_new_place(photos_run, tmp_path):
    tiny.write_grays(tmp_path / "other", range(1, 256, 16))
    before = (photos_run / "run.json").read_bytes()
    with pytest.raises(UserError, match="other does not hold the images on which .* was trained"):
        resume(photos_run, data="other")
    assert (photos_run / "run.json").read_bytes() == before


def test_decoded_copies_serve_where_the_images_are_gone(photos_run):
    shutil.rmtree("photos")
    with pytest.warns(UserWarning, match="are gone; their decoded copies in the cache are used"):
        resume(photos_run)
    with pytest.warns(UserWarning, match="decoded copies"):
        pixels = open_run_images(load(photos_run)).images.pixels
    assert np.sort(pixels[:, 0, 0, 0]).tolist() == list(range(0, 256, 8))
    shutil.rmtree("cache")
    with pytest.raises(UserError, match="are missing, .* `ddim train"):
        resume(photos_run)
