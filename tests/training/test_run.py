"""A run from the outside: its folder, where it starts from, and mistakes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ddim
import tiny
from ddim.errors import UserError
from ddim.files import lock_folder
from ddim.machine.runtime import Runtime
from ddim.nn.ema import Power
from ddim.recipe.codec import read_recipe
from ddim.recipe.recipe import Data
from ddim.training import Callback, train


def facts_of(run):
    return json.loads((run / "run.json").read_text())


def test_run_json_describes_the_run(whole):
    facts = facts_of(whole)
    assert read_recipe(whole / "recipe.yaml") == tiny.recipe()
    assert (facts["data"]["train"], facts["data"]["valid"], len(facts["data"]["fingerprint"])) == (32, 8, 64)
    assert facts["runtime"] | {"precision": "fp32", "compile": False, "threads": 1} == facts["runtime"]
    assert {"python", "torch", "ddim", "platform"} <= facts["versions"].keys()
    sheets = [path.name for path in sorted((whole / "samples").iterdir())]
    assert sheets == ["real.png", "step-000000005.png", "step-000000010.png"]
    lines = tiny.metrics(whole)
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 9]
    assert [line["step"] for line in lines if "image_mae" in line] == [5, 10]
    assert [line["images"] for line in lines] == [8 * line["step"] for line in lines]


def test_callbacks_are_called_in_order_and_the_losses_logged_are_means_since_the_last_line(tmp_path):
    said, seen = [], []

    class Say(Callback):
        def on_step(self, training, values):
            said.append(training.step)
            seen.append(values)

        def on_checkpoint(self, training, path):
            assert (path / "MANIFEST.json").is_file()
            said.append("saved")

        def on_validation(self, training, values):
            assert {"noise_mae", "image_mae"} < values.keys()
            assert (tmp_path / "run" / "samples" / f"step-{training.step:09d}.png").is_file()
            said.append("event")

    say = Say()
    say.on_start = lambda training, folder: said.append("begin")
    say.on_end = lambda training: said.append("end")
    folder = tiny.train(tiny.recipe(), tmp_path / "run", callbacks=[say])
    assert said == ["begin", *range(1, 6), "event", "saved", *range(6, 11), "event", "saved", "end"]
    for line in tiny.metrics(folder):
        if "loss" in line:
            window = seen[line["step"] - 3 : line["step"]]
            for name in ("loss", "gradient_norm", "lr"):
                assert line[name] == pytest.approx(sum(values[name] for values in window) / 3)


def test_a_run_from_another_starts_with_its_ema_weights_and_its_pixels(whole, tmp_path):
    class Begin(Callback):
        def on_start(self, training, folder):
            self.weights = {name: value.clone() for name, value in training.model.state_dict().items()}
            self.pixels = training.pixels
            assert training.step == 0
            for average in training.averages.values():
                assert tiny.different({name: self.weights[name] for name in average}, average) == []

    # Other images, so that its pixels would be others.
    recipe = replace(tiny.recipe(images=8), data=Data("blossoms:24", (32, 32), validation=0.5))
    recipe = replace(recipe, ema=Power(6.94, (1.0,)))
    start, plain = Begin(), Begin()
    child = tiny.train(recipe, tmp_path / "run", source=whole, callbacks=[start])
    averaged, raw = ddim.load(whole), ddim.load(whole, weights="raw")
    assert tiny.different(start.weights, averaged.model.state_dict()) == []
    assert tiny.different(start.weights, raw.model.state_dict()) != []
    tiny.train(recipe, tmp_path / "plain", callbacks=[plain])
    assert start.pixels == averaged.pixels != plain.pixels
    facts = facts_of(child)
    assert (facts["source"], facts["source_sha256"]) == (str(whole), averaged.checkpoint.sha256)
    assert facts_of(tmp_path / "plain")["source_sha256"] is None


MISTAKES = {
    "a parent that is missing": ({"source": Path("nowhere")}, "run nowhere does not exist"),
    "a network that does not fit": (
        {"recipe": tiny.recipe("keras"), "source": "parent"},
        "do not fit the network of recipe",
    ),
    "images that are missing": ({"data": "nowhere/"}, "nowhere"),
    "a batch beyond memory": ({"recipe": tiny.recipe(optim__batch="1e11")}, "of memory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_user_error_is_one_sentence_and_leaves_no_files(mistake, whole, here):
    given, said = MISTAKES[mistake]
    if given.get("source") == "parent":
        given = {**given, "source": whole}
    words = {"data": "blossoms:40", "recipe": tiny.recipe(), "machine": tiny.MACHINE, **given}
    with pytest.raises(UserError, match=said) as error:
        train(**words)
    assert "\n" not in str(error.value)
    assert list(here.iterdir()) == []


def test_a_folder_with_files_is_refused_before_images_are_read_and_an_empty_one_is_used(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="new or empty"):
        tiny.train(tiny.recipe(), tmp_path, data="nowhere/")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "note.txt").unlink()
    # The images of the recipe are used unless others are given.
    run = tiny.train(tiny.recipe(images=8), tmp_path, data="blossoms:24")
    assert (run, facts_of(run)["data"]["train"]) == (tmp_path, 19)


def test_two_processes_cannot_train_the_same_run(whole):
    with lock_folder(whole), pytest.raises(UserError, match="another process is writing into"):
        ddim.resume(whole)


def test_a_compiled_network_and_its_eager_twin_share_their_weights(monkeypatch):
    """What is validated, sampled and saved is what is trained."""
    # Nothing is compiled before the first step, which there is not.
    monkeypatch.setattr("ddim.machine.runtime.can_compile", lambda device: True)
    monkeypatch.setattr(torch, "compile", torch.nn.Sequential)
    run = tiny.training(tiny.recipe("batch norm"), runtime=Runtime(compile=True))
    assert run.compiled.net is not run.model.net
    for kind in ("parameters", "buffers"):
        ours, theirs = (list(getattr(model, kind)()) for model in (run.model, run.compiled))
        assert [tensor.data_ptr() for tensor in ours] == [tensor.data_ptr() for tensor in theirs]
        assert ours
