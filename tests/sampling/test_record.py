"""What the record of samples says, and the film of their states."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from ddim.plots.pictures import enlarge, make_sheet
from ddim.recipe.codec import override
from ddim.runs import checkpoint
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.record import sample_conditions, sampling_record
from ddim.sampling.samples import sample_to_folder
from ddim.sampling.sampling_setup import SamplingSetup


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tiny.training(updates=1)
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(folder / "checkpoints", run.step, run.tensors(), run.documents())
    return folder


def test_a_record_holds_everything_that_samples_depend_on(folder):
    trained = load(folder)
    fields = {"sampler": "ddim", "sampler.eta": 0.5, "grid": "quadratic"}
    trained = replace(trained, recipe=override(trained.recipe, fields))
    record = json.loads(json.dumps(sampling_record(SamplingSetup(trained, 4), [3, 9]), allow_nan=False))
    assert record["checkpoint"] == {
        "path": str(trained.checkpoint.path),
        "sha256": checkpoint.hash_checkpoint(trained.checkpoint.path),
    }
    assert record["sampler"] == {"kind": "ddim", "eta": 0.5}
    assert record["grid"] == {"kind": "quadratic"}
    assert record["times"] == pytest.approx([1, 9 / 16, 1 / 4, 1 / 16])
    assert (record["seeds"], record["nfe"], record["step"], record["label"]) == ([3, 9], 4, 1, None)
    assert (record["weights"], record["bit_equal"]) == ("ema", True)
    assert record["recipe"]["name"] == "tiny"
    assert record["runtime"] == vars(trained.runtime)
    assert record["versions"]["torch"] == torch.__version__


def test_a_record_says_whether_samples_are_bit_identical(folder, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda net: net)
    trained = load(folder, compiling=True)
    record = sampling_record(SamplingSetup(trained, 1), [0])
    assert (record["bit_equal"], record["runtime"]["compile"]) == (False, True)


def test_a_film_has_one_sheet_for_each_state_and_ends_with_the_samples(folder, tmp_path):
    setup = SamplingSetup(load(folder), 3)
    images, _ = generate(setup, range(18))
    sample_to_folder(setup.pipeline, 18, 3, out=tmp_path / "out", film=True)
    last = enlarge(make_sheet(images))
    with Image.open(tmp_path / "out" / "film.webp") as film:
        assert film.n_frames == 4
        assert not np.array_equal(np.asarray(film.convert("RGB")), last)
        film.seek(3)
        np.testing.assert_array_equal(np.asarray(film.convert("RGB")), last)


def test_samples_depend_on_the_weights_of_a_guide_and_not_on_its_place(folder):
    record = sampling_record(SamplingSetup(load(folder), 2), [0])
    guided = [record | {"guide": {"name": name, "sha256": sha256}} for name, sha256 in ("ab", "cb", "ad")]
    first, moved, other = map(sample_conditions, guided)
    assert first == moved != other
    assert sample_conditions(record | {"seeds": [5], "seconds": 1.0}) == sample_conditions(record)
    assert sample_conditions(record | {"times": [1.0]}) != sample_conditions(record)
