"""Exports: programs that give the outputs of the run, how to sample with them, folders and model cards."""

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import ddim
from ddim.data.clusters import ImageClusters
from ddim.data.values import Values
from ddim.diffusion.noise import Noise
from ddim.errors import UserError
from ddim.exchange.card import write_card
from ddim.exchange.export import describe_differences, describe_sampling, write_onnx
from ddim.files import read_json
from ddim.nn.unet import UNetSpec
from ddim.recipe.codec import override
from ddim.recipe.named import clear, fast
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import Guidance, SamplingSetup, save_guidance
from ddim.sampling.searched import save_grid
from evaluated_runs import record, write_record
from small_nets import SPECS
from untrained import run_of

SMALL = UNetSpec((8, 16), (0, 1), (1, 1), (False, True), embedding=16)
SEEDS = (0, 7)
NASTY = "<script src='http://evil.example'>alert(1)</script> & | `x` [a](b)\n# *b*"
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


def small(base=None, **changes):
    """A recipe with a small network for images of 16 pixels, for which nothing else is changed."""
    chosen = replace(base or fast(), net=changes.pop("net", SMALL))
    return override(chosen, {"data.size": 16, **{k.replace("__", "."): v for k, v in changes.items()}})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(small(), tmp_path_factory.mktemp("run") / "flowers", (0.4, 0.3))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("out"))
        found = ddim.export(run, steps=5)
        return replace(found, folder=found.folder.absolute())


# Programs


def find_program(text):
    """The program in a card or a page, which draws the noise of `SEEDS` instead of its own."""
    (code,) = [found for found in re.findall(r"```python\n(.*?)```", text, re.S) if "onnxruntime" in found]
    assert "draw = np.random.default_rng(0)\n" in code
    return code.replace("np.random.default_rng(0)", "given").replace("((4,", "((2,")


class Given:
    """A generator of random numbers that returns the noise of `SEEDS`, and class 1."""

    frequencies = None

    def standard_normal(self, shape):
        return Noise(SEEDS).like(torch.zeros(shape)).numpy()

    def choice(self, classes, count, p):
        self.frequencies = p.tolist()
        return np.full(count, 1)


def test_the_default_recipe_is_exported_to_onnx_and_sampled_with_numpy(run, exported, monkeypatch):
    monkeypatch.chdir(exported.folder)
    assert (exported.format, exported.folder.name) == ("onnx", "flowers-onnx")
    assert "because diffusers cannot hold its net" in exported.verdict
    names = {"given": Given()}
    exec(find_program(Path("README.md").read_text()), names)
    wanted, nfe = generate(SamplingSetup(load(run).with_recipe(sampler="ddim"), 5), SEEDS)
    assert nfe == len(read_json(Path("sampling.json"))["steps"]) == 5
    assert wanted.std() > 0.1
    assert np.abs(names["images"] - wanted.numpy()).max() < 1e-4


def test_the_program_of_the_docs_is_that_of_the_cards(exported):
    assert find_program(DOCS.read_text()) == find_program((exported.folder / "README.md").read_text())


@pytest.mark.parametrize(
    "chosen",
    [
        small(clip="true"),
        small(clip="x0", predicts="edm", schedule="karras_sigma", grid="karras"),
        small(clear()),
        small(predicts="flow", schedule="linear_path", conditioning="time"),
        small(net=replace(SMALL, classes=3), data__labels="true"),
        small(net=replace(SMALL, classes=3), data__labels="true", data__unlabelled=0),
    ],
    ids=["clip", "clip x0 of edm", "another schedule", "flow", "classes", "a class for every image"],
)
def test_the_steps_describe_every_kind_of_run(chosen, here, monkeypatch):
    """The program of the docs, with the network of the run in place of the ONNX file."""
    pipeline = load(run_of(chosen, here / "run"))

    class Session:
        def __init__(self, file):
            assert file == "model.onnx"

        def run(self, outputs, given):
            names = ("x", "condition", "label")[: len(given)]
            return [pipeline.model.net(*(torch.from_numpy(given[name]) for name in names)).numpy()]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    Path("sampling.json").write_text(json.dumps(describe_sampling(pipeline, 4), allow_nan=False))
    draw = Given()
    names = {"given": draw}
    exec(find_program(DOCS.read_text()), names)
    label = None if chosen.data.unconditional else 1
    wanted, _ = generate(SamplingSetup(pipeline.with_recipe(sampler="ddim"), 4, label), SEEDS)
    assert draw.frequencies == (None if label is None else [1 / 3] * 3)
    assert wanted.std() > 0.05
    assert np.abs(names["images"] - wanted.numpy()).max() < 1e-4


def test_clusters_are_drawn_as_often_as_in_training(tmp_path):
    chosen = small(net=replace(SMALL, classes=2), data__labels="true")
    counts = ImageClusters(np.zeros((2, 1)), False, counts=np.array([3, 1]))
    pipeline = replace(load(run_of(chosen, tmp_path / "run")), clusters=counts)
    assert describe_sampling(pipeline, 4)["class_weights"] is None
    clustered = replace(pipeline, recipe=override(pipeline.recipe, {"data.labels": "clusters:2"}))
    assert describe_sampling(clustered, 4)["class_weights"] == [3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SPECS if "ImageNet" not in name])
def test_every_network_can_be_exported(name, tmp_path):
    """Its own check compares the program with the network, for 1, 3 and 8 images."""
    spec = SPECS[name]
    pipeline = load(run_of(small(net=spec, data__labels=str(spec.classes > 0).lower()), tmp_path / "run"))
    write_onnx(pipeline.model, [0.1, 0.5, 0.9], tmp_path / "model")
    assert (tmp_path / "model").stat().st_size > 1000


@pytest.mark.slow
def test_a_program_that_differs_leaves_nothing_behind(run, tmp_path, monkeypatch):
    class Session(onnxruntime.InferenceSession):
        def run(self, names, inputs):
            return [output + 0.001 for output in super().run(names, inputs)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(UserError, match="gives other outputs than the network, so nothing was written"):
        ddim.export(run, out=tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_notes_say_how_samples_differ_from_those_of_the_run(tmp_path):
    """Each note is about a choice that `ddim sample` makes by itself."""
    source = run_of(small(steps=4), tmp_path / "run")
    loaded = load(source)
    assert describe_differences(loaded, "diffusers") == []
    assert describe_differences(loaded.with_recipe(sampler="ddim"), "onnx") == []
    save_grid(source, loaded.recipe.sampler, 4, "ema", (1.0, 0.5, 0.2, 0.1), 0.1)
    save_guidance(source, loaded.recipe.sampler, 4, "ema", Guidance(2.0), labelled=False)
    wide = replace(loaded, values=Values("uint16", 0, 65535))
    notes = describe_differences(wide, "onnx")
    said = ["the run, by dpm_solver", "times", "guidance", "[0, 1] stands for 0 to 65535 (uint16)"]
    assert all(text in note for text, note in zip(said, notes, strict=True))


# Folders


@pytest.fixture
def quick(monkeypatch):
    """Write the files of a program without torch's exporter, which takes seconds."""
    monkeypatch.setattr("ddim.exchange.export.write_onnx", lambda model, c, path: path.write_bytes(b"onnx"))


def test_a_repeated_export_replaces_its_own_folder_and_keeps_the_licence(run, tmp_path, quick):
    out = tmp_path / "out"
    ddim.export(run, out=out, weights="raw")
    card = (out / "README.md").read_text()
    (out / "README.md").write_text(card.replace("license: unknown", "license: cc0-1.0"))
    assert ddim.export(run, out=out).folder == out
    head = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert (head["license"], head["library_name"]) == ("cc0-1.0", "onnx")
    assert read_json(out / "export.json")["weights"] == "ema"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_fails_leaves_the_earlier_one_whole(run, tmp_path, quick, monkeypatch):
    out = tmp_path / "out"
    ddim.export(run, out=out)
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fill_disk(folder, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ddim.exchange.export.publish_folder", fill_disk)
        with pytest.raises(OSError, match="No space"):
            ddim.export(run, out=out, weights="raw")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    ddim.export(run, out=out, weights="raw")
    assert (out / "notes.txt").read_text() == "mine"
    assert read_json(out / "export.json")["weights"] == "raw"


def test_a_folder_of_someone_else_is_not_overwritten(run, tmp_path, quick):
    out = tmp_path / "out"
    ddim.export(run, out=out)
    with pytest.raises(UserError, match="is not a new or empty folder"):
        ddim.export(run_of(small(), tmp_path / "other"), out=out)
    assert read_json(out / "export.json")["run"] == "flowers"
    # A run of another project may have the same name.
    with pytest.raises(UserError, match="is not a new or empty folder"):
        ddim.export(run_of(small(seed=1), tmp_path / "elsewhere" / run.name), out=out)


# Cards


@pytest.fixture
def card_of(tmp_path):
    """A function that returns the card of a run."""

    def write(source, **changes):
        write_card(replace(load(source), **changes), tmp_path, {"format": "onnx", "notes": []})
        return (tmp_path / "README.md").read_text()

    return write


def test_a_card_has_the_facts_of_the_run_and_no_folders(run, exported):
    card = (exported.folder / "README.md").read_text()
    for text in ("# flowers\n", load(run).checkpoint.sha256, "16 x 16 pixels", "imported", "None was chosen"):
        assert text in card
    assert str(run.parent) not in card


def test_names_in_a_card_do_not_become_markup(tmp_path, card_of):
    chosen = small(net=replace(SMALL, classes=2), data__labels="true", data__source="a/<i>.zip")
    card = card_of(run_of(chosen, tmp_path / "run", classes=(NASTY, "b"), images=5))
    assert "<script" not in card.replace("\\<script", "")
    assert "<i>" not in card
    assert r"\<script src='http://evil.example'\>alert\(1\)" in card
    assert "\n# *b" not in card


def test_only_measurements_of_these_weights_are_shown(tmp_path, card_of):
    source = run_of(small(), tmp_path / "run", images=5)
    assert "These weights were not evaluated" in card_of(source)
    ours = load(source).checkpoint.sha256
    others = [("0" * 64, "ema"), (ours, "raw")]
    for number, (sha256, weights) in enumerate([*others, (ours, "ema"), ("1" * 64, "ema")], 1):
        of = {"checkpoint": {"path": "x", "sha256": sha256}, "weights": weights}
        write_record(source / f"evaluations/{number}", record(number / 8, **of))
        if number == 3:
            assert "These weights were not tested" in card_of(source)
        write_record(source / f"memorisation/{number}", {**of, "verdict": f"It copies <b>{number}."})
    # A test that was killed leaves an empty folder.
    (source / "memorisation/9").mkdir()
    card = card_of(source)
    assert "| 1 | KID | 0.375 | 0.365 to 0.385 |" in card
    assert "It copies \\<b\\>3." in card
    assert not re.search(r"0\.125|0\.25 |KID \| 0\.5 |\\<b\\>[124]", card)
    # The checkpoint is of step 3, with batches of 32 images.
    assert "5 training images of blossoms. The run saw 96 images, with repetitions" in card
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("kid", 0.375, "images")
