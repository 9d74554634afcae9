"""Exports: programs that give the outputs of the run, how to sample with them, and their cards."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import ddim
from ddim.data.clusters import ImageClusters
from ddim.data.values import Values
from ddim.diffusion.loss import Consistency
from ddim.diffusion.noise import Noise
from ddim.errors import UserError
from ddim.exchange import onnx as onnx_export
from ddim.exchange.export import describe_differences, export_run
from ddim.exchange.model_card import make_card
from ddim.exchange.onnx import write_onnx
from ddim.exchange.sampling_json import describe_sampling
from ddim.files import read_json, write_json
from ddim.nn.unet import UNetSpec
from ddim.recipe.codec import override
from ddim.recipe.named import clear, fast
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import Guidance, SamplingSetup, save_guidance
from ddim.sampling.searched import save_grid
from evaluated_runs import record
from small_nets import SPECS
from untrained import run_of

SMALL = UNetSpec((8, 16), (0, 1), (1, 1), (False, True), embedding=16)
SEEDS = (0, 7)
NASTY = "<script src='http://evil.example'>alert(1)</script> & | `x` [a](b)\n# *b*"
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


def small(base=None, **changes):
    """A recipe with a small network for images of 16 pixels, for which nothing else is changed."""
    made = replace(base or fast(), net=changes.pop("net", SMALL))
    return override(made, {"data.size": 16, **{k.replace("__", "."): v for k, v in changes.items()}})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(small(), tmp_path_factory.mktemp("run") / "flowers", (0.4, 0.3))


@pytest.fixture(scope="module")
def onnx(run, tmp_path_factory):
    return export_run(run, tmp_path_factory.mktemp("out") / "onnx", "onnx", steps=5).folder


def program_of(text):
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


def test_ten_lines_of_numpy_sample_what_the_run_samples(run, onnx, monkeypatch):
    monkeypatch.chdir(onnx)
    names = {"given": Given()}
    exec(program_of((onnx / "README.md").read_text()), names)
    wanted, nfe = generate(SamplingSetup(load(run).with_recipe(sampler="ddim"), 5), SEEDS)
    assert nfe == len(read_json(onnx / "sampling.json")["steps"]) == 5
    assert wanted.std() > 0.1
    assert np.abs(names["images"] - wanted.numpy()).max() < 1e-4


def test_the_program_of_the_docs_is_that_of_the_cards(onnx):
    assert program_of(DOCS.read_text()) == program_of((onnx / "README.md").read_text())


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
def test_the_steps_describe_every_kind_of_run(chosen, onnx, tmp_path, monkeypatch):
    """The program of the card, with the network of the run in place of the ONNX file."""
    pipeline = load(run_of(chosen, tmp_path / "run"))

    class Session:
        def __init__(self, file):
            assert file == "model.onnx"

        def run(self, outputs, given):
            names = ("x", "condition", "label")[: len(given)]
            return [pipeline.model.net(*(torch.from_numpy(given[name]) for name in names)).numpy()]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.chdir(tmp_path)
    Path("sampling.json").write_text(json.dumps(describe_sampling(pipeline, 4), allow_nan=False))
    draw = Given()
    names = {"given": draw}
    exec(program_of((onnx / "README.md").read_text()), names)
    label = None if chosen.data.unconditional else 1
    wanted, _ = generate(SamplingSetup(pipeline.with_recipe(sampler="ddim"), 4, label), SEEDS)
    assert draw.frequencies == (None if label is None else [1 / 3] * 3)
    assert wanted.std() > 0.05
    assert np.abs(names["images"] - wanted.numpy()).max() < 1e-4


def test_clusters_are_drawn_as_often_as_in_training(tmp_path):
    chosen = small(net=replace(SMALL, classes=2), data__labels="true")
    pipeline = replace(
        load(run_of(chosen, tmp_path / "run")),
        clusters=ImageClusters(np.zeros((2, 1)), False, counts=np.array([3, 1])),
    )
    assert describe_sampling(pipeline, 4)["class_weights"] is None
    clustered = replace(pipeline, recipe=override(pipeline.recipe, {"data.labels": "clusters:2"}))
    assert describe_sampling(clustered, 4)["class_weights"] == [3, 1]


def test_notes_say_how_samples_differ_from_those_of_the_run(tmp_path):
    """Each note is about a choice that `ddim sample` makes by itself."""
    source = run_of(small(steps=4), tmp_path / "run")
    loaded = load(source)

    def noted(to, run=loaded, steps=None):
        return " ".join(describe_differences(run, to, steps))

    assert noted("onnx").endswith("steps of DDIM, and not those of the sampler of the run, dpm_solver")
    assert noted("diffusers") == ""
    assert noted("onnx", loaded.with_recipe(sampler="ddim")) == ""
    assert noted("onnx", loaded.with_recipe(sampler=ddim.DDIM(0.5))).endswith("of the run, ddim eta 0.5")
    solver = loaded.recipe.sampler
    save_grid(source, solver, 4, "ema", (1.0, 0.5, 0.2, 0.1), 0.1)
    save_guidance(source, solver, 4, "ema", Guidance(2.0, None, None), labelled=False)
    wide = replace(loaded, values=Values("uint16", 0, 65535))
    for to in ("onnx", "diffusers"):
        text = noted(to, wide)
        assert "times that ddim search found for 4 steps of dpm_solver are left out" in text
        assert "guidance that ddim search found for 4 steps of dpm_solver is left out" in text
        assert "stands for 0 to 65535 (uint16)" in text
        assert "are left out" not in noted(to, steps=5)
    # Of class folders, all classes; of clusters, those of samples by default.
    for labels, said in (("true", "guidance that"), ("clusters:3", "draws the classes of samples as often")):
        chosen = small(net=replace(SMALL, classes=3), data__labels=labels, steps=4)
        save_guidance(source, solver, 4, "ema", Guidance(2.0, None, None), labelled=True)
        of_classes = replace(loaded, recipe=chosen, checkpoint=replace(loaded.checkpoint, recipe=chosen))
        assert said in noted("diffusers", of_classes)


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
    trace = onnx_export.trace_network

    def changed(model):
        other = copy.deepcopy(model)
        other.net.out_conv.bias += 0.001
        return trace(other)

    monkeypatch.setattr(onnx_export, "trace_network", changed)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="gives other outputs than the network, so nothing was written"):
        export_run(run, tmp_path / "out", "onnx")
    assert not [path for path in tmp_path.rglob("*") if path.name != "exports"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"to": "onx"}, "to must be one of diffusers, onnx, .* perhaps you meant onnx"),
        ({"to": "diffusers"}, "needs the net of recipe ddpm"),
    ],
)
def test_exports_that_cannot_be_are_refused_in_one_sentence(run, tmp_path, arguments, said):
    with pytest.raises(UserError, match=said) as error:
        export_run(run, tmp_path / "out", **arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


# The cards.


def card_of(source):
    return make_card(load(source), [], [])[0]


def test_a_card_has_the_facts_of_the_run_and_no_folders(run, onnx, tmp_path):
    card = (onnx / "README.md").read_text()
    pipeline = load(run)
    for text in ("# flowers\n", pipeline.checkpoint.sha256, "16 x 16 pixels", "imported", "None was chosen"):
        assert text in card
    assert str(run.parent) not in card


def test_names_in_a_card_do_not_become_markup(tmp_path):
    chosen = small(net=replace(SMALL, classes=2), data__labels="true", data__source="a/<i>.zip")
    source = run_of(chosen, tmp_path / "run", classes=(NASTY, "b"), images=5)
    card = card_of(source)
    assert "<script" not in card.replace("\\<script", "")
    assert "<i>" not in card
    assert r"\<script src='http://evil.example'\>alert\(1\)" in card
    assert "\n# *b" not in card


def test_only_evaluations_of_these_weights_are_shown(tmp_path):
    source = run_of(small(), tmp_path / "run")
    own = load(source).checkpoint.sha256
    measured = [(own, "ema", 0.25), (own, "raw", 0.5), ("0" * 64, "ema", 0.75)]
    for number, (sha256, weights, kid) in enumerate(measured, 1):
        of = {"checkpoint": {"path": "x", "sha256": sha256}, "weights": weights}
        path = source / "evaluations" / str(number) / "record.json"
        path.parent.mkdir(parents=True)
        write_json(path, record(kid, **of))
    card = card_of(source)
    assert "| 1 | KID | 0.25 | 0.24 to 0.26 |" in card
    assert "0.5 |" not in card
    assert "0.75 |" not in card
    assert "Not measured" in card


@pytest.mark.parametrize("place", ["evaluations/1/record.json"])
def test_no_card_is_made_of_a_damaged_record(place, tmp_path):
    """It would say that nothing was measured."""
    source = run_of(small(), tmp_path / "run", images=5)
    damaged = source / place
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text("{")
    with pytest.raises(UserError, match=place):
        card_of(source)


def test_a_card_says_nothing_of_a_stopped_evaluation_and_needs_no_log(tmp_path):
    source = run_of(small(), tmp_path / "run", images=5)
    (source / "evaluations" / "1").mkdir(parents=True)
    (source / "run.json").write_text("{")
    card = card_of(source)
    assert "These weights were not evaluated" in card
    # The checkpoint is of step 3, with batches of 32 images.
    assert "The run saw 96 images, with repetitions" in card


def test_a_card_has_the_verdict_of_the_memorisation_test(tmp_path):
    source = run_of(small(), tmp_path / "run", images=5)
    path = source / "memorisation" / "1" / "record.json"
    path.parent.mkdir(parents=True)
    share = {"value": 0.1, "low": 0.05, "high": 0.2}
    found = {"copies": share, "verdict": "It copies <b>.", "sampling": {}}
    tested = {"checkpoint": {"sha256": load(source).checkpoint.sha256}, "step": 1, "weights": "ema"}

    def card(name, record):
        write_json(path, record)
        return card_of(source)

    assert "It copies \\<b\\>." in card("out", found)
    assert "5 training images of blossoms" in card("same", {**found, **tested})
    assert "It copies \\<b\\>.\n" in card("again", {**found, **tested})
    other = {**tested, "checkpoint": {"sha256": "0" * 64}, "step": 1200}
    for k, measured in enumerate((other, {**tested, "weights": "raw"})):
        text = card(f"other{k}", {**found, **measured})
        assert "It copies" not in text
        assert (
            f"These weights were not tested. The newest test was of the {measured['weights']} weights" in text
        )
    # An older test of these weights counts more than a newer one of others.
    newer = source / "memorisation" / "2" / "record.json"
    newer.parent.mkdir()
    write_json(newer, {**found, **other, "verdict": "It copies nothing."})
    assert "It copies \\<b\\>.\n" in card("older", {**found, **tested})


def test_a_card_and_a_recipe_leave_out_the_folders_of_the_machine(tmp_path):
    """Those of the images, the vectors, the guide of a student, and the guides of evaluated samples."""
    secret = "/home/ada/secret"
    source = run_of(small(data__source=f"{secret}/photos"), tmp_path / "run", images=5)
    loaded = load(source)
    place = source / "evaluations" / "1" / "record.json"
    place.parent.mkdir(parents=True)
    guide = {"name": f"{secret}/small-1@raw", "sha256": "1" * 64}
    of = {"checkpoint": {"path": "x", "sha256": loaded.checkpoint.sha256}, "weights": "ema"}
    write_json(place, record(0.5, guidance=2.0, guide=guide, **of))
    loss = Consistency(guidance=2.0, guide=f"{secret}/other-1@raw")
    data = replace(loaded.recipe.data, vectors=f"{secret}/ages.csv")
    card, _ = make_card(replace(loaded, recipe=replace(loaded.recipe, objective=loss, data=data)), [], [])
    assert {name for name in ("photos", "small-1@raw", "other-1@raw", "ages.csv") if name in card} == {
        "photos",
        "small-1@raw",
        "other-1@raw",
        "ages.csv",
    }
    assert "secret" not in card
