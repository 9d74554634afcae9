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

RECIPE = tiny.recipe(images=16)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on images in `flower`, which the recipe names relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    tiny.write_grays(tmp_path / "flower", range(0, 256, 16))
    return tiny.train(RECIPE, tmp_path / "runs" / "one", data="flower")


def recorded(run):
    return json.loads((run / "run.json").read_text())["data"]["path"]


def leave(tmp_path, monkeypatch):
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")


def test_a_run_is_resumed_from_another_folder(run, tmp_path, monkeypatch):
    assert recorded(run) == str(tmp_path / "flower")
    leave(tmp_path, monkeypatch)
    resume(run)
    assert len(open_run_images(load(run)).images) == 16


def test_the_new_place_of_the_images_is_accepted_and_recorded(run, tmp_path, monkeypatch):
    shutil.move("flower", "moved")
    shutil.rmtree("cache")
    leave(tmp_path, monkeypatch)
    resume(run, data="../moved")
    assert recorded(run) == str(tmp_path / "moved")
    assert len(open_run_images(load(run)).images) == 16


def test_a_copy_of_run_and_images_does_not_need_the_first_ones(run, tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    for name in ("runs", "flower"):
        shutil.copytree(name, tmp_path / "copy" / name)
    tiny.write_grays(tmp_path / "more", [7])
    shutil.move(tmp_path / "more" / "0.png", "flower/new.png")
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
    with pytest.warns(UserWarning, match="'flower', are gone; their decoded copies in the cache are used"):
        resume(run)
    with pytest.warns(UserWarning, match="decoded copies"):
        own = open_run_images(load(run))
    assert np.sort(own.images.pixels[:, 0, 0, 0]).tolist() == list(range(0, 256, 16))


def test_without_images_and_copies_the_message_says_what_to_do(run):
    shutil.rmtree("flower")
    shutil.rmtree("cache")
    with pytest.raises(UserError, match="put them back, or give their new path with `ddim train"):
        resume(run)


def test_changed_images_are_refused_though_copies_exist(run, tmp_path):
    (tmp_path / "flower" / "0.png").unlink()
    with pytest.raises(UserError, match="flower has changed since .* put its images back"):
        resume(run)


def test_the_command_resumes_with_the_new_place(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.write_grays(tmp_path / "flower", range(0, 256, 16))
    tiny.train_until_crash(RECIPE, tmp_path / "runs" / "one", tiny.CrashAtSave(1), data="flower")
    shutil.move("flower", "moved")
    assert main(["train", "moved", "--resume", "--out", "runs/one"]) == 0
    assert "continuing at step" in capsys.readouterr().err
    assert recorded(tmp_path / "runs" / "one") == str(tmp_path / "moved")
