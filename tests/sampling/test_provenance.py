"""What a set of pictures says of itself."""

import json
import platform
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import State
from ddim.errors import UserError
from ddim.machine.distributed import Processes
from ddim.plots.pictures import make_sheet
from ddim.recipe.codec import override
from ddim.runs import checkpoint
from ddim.sampling.generate import Film, generate
from ddim.sampling.pipeline import load
from ddim.sampling.provenance import (
    check_same_sampling,
    describe_kind,
    list_versions,
    sample_conditions,
    sampling_record,
)
from ddim.sampling.sampling_setup import SamplingSetup


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tiny.training(updates=1)
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(folder / "checkpoints", run.step, run.tensors(), run.documents())
    return folder


def test_a_record_holds_everything_that_samples_depend_on(folder):
    trained = load(folder)
    trained = replace(trained, recipe=override(trained.recipe, {"sampler.eta": 0.5, "grid": "quadratic"}))
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


def test_a_kind_is_described_by_its_fields_that_are_not_default():
    assert describe_kind(ddim.DDIM()) == "ddim"
    assert describe_kind(ddim.DDIM(eta=0.2)) == "ddim eta 0.2"
    assert describe_kind(ddim.DDPM("large")) == "ddpm variance large"
    assert describe_kind(ddim.EDM(order=1, s_churn=2.0)) == "edm order 1 s_churn 2.0"


def test_a_record_says_whether_samples_are_bit_identical(folder, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda net: net)
    trained = load(folder, compiling=True)
    record = sampling_record(SamplingSetup(trained, 1), [0])
    assert (record["bit_equal"], record["runtime"]["compile"]) == (False, True)


def test_a_record_outlives_its_checkpoint(folder, tmp_path):
    """A run that goes on removes old checkpoints while pictures are made with them."""
    run = tiny.training()
    for _ in range(4):
        run.advance()
        checkpoint.save(tmp_path, run.step, run.tensors(), run.documents())
        if run.step == 1:
            trained = load(tmp_path / "step-000000001")
            digest = checkpoint.hash_checkpoint(trained.checkpoint.path)
    assert not trained.checkpoint.path.exists()
    assert sampling_record(SamplingSetup(trained, 1), [0])["checkpoint"]["sha256"] == digest


def test_a_film_has_one_sheet_for_each_state_and_ends_with_the_samples(folder):
    trained = load(folder)
    film = Film(trained.pixels, range(18))
    images, _ = generate(SamplingSetup(trained, 3), range(18), watch=film.add)
    frames = film.frames()
    assert len(frames) == 4
    assert all(frame.shape == frames[0].shape for frame in frames)
    np.testing.assert_array_equal(frames[-1], make_sheet(images))


def test_a_film_is_of_its_own_seeds_only(folder):
    """However many others are made beside them."""
    trained, (small, large) = load(folder), (Film(load(folder).pixels, [3, 17]) for _ in range(2))
    generate(SamplingSetup(trained, 2), [3, 17], watch=small.add)
    generate(SamplingSetup(trained, 2), range(40), watch=large.add)
    for one, other in zip(small.frames(), large.frames(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_film_runs_from_noise_to_samples_in_any_order_of_its_parts():
    film = Film(Pixels.fixed(0.5, 0.5, 1), [0])
    for t in (0.0, 1.0, 0.5):
        film.add([0], State(torch.full((1, 1, 2, 2), 2 * t - 1), t, torch.zeros(1, 1, 2, 2)))
    assert [frame.max() for frame in film.frames()] == sorted(
        (frame.max() for frame in film.frames()), reverse=True
    )
    assert len(film.frames()) == 3


def test_versions_name_what_numbers_depend_on():
    found = list_versions()
    assert list(found) == ["python", "torch", "torchvision", "ddim", "platform", "processor", "threads"]
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["ddim"] == ddim.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["processor"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("guidance", {"guidance": 2.0}),
        ("guide", {"guide": {"name": "@guide", "sha256": "b", "weights": "ema"}}),
        ("times", {"times": [1.0, 0.4]}),
        ("checkpoint", {"checkpoint": {"sha256": "c"}}),
    ],
)
def test_processes_that_sample_differently_are_refused(monkeypatch, name, other):
    """A machine may have a copy of the run from before a search, without its guidance.json."""
    record = {"checkpoint": {"sha256": "a"}, "times": [1.0, 0.5], "guidance": 1.0, "runtime": {"threads": 1}}

    class Two(Processes):
        def gather(self, value):
            assert "runtime" not in value  # machines may differ in it
            return [value, value | {name: sample_conditions(record | other).get(name) for name in other}]

    monkeypatch.setattr("ddim.sampling.provenance.current_processes", Two)
    with pytest.raises(UserError, match=f"process 1 samples with another {name} than this one: copy the run"):
        check_same_sampling(record)
    other.clear()
    check_same_sampling(record)
