"""`ddim ablate`: its tables, its mistakes, and its reference."""

import shutil
from dataclasses import replace

import pytest
import torch

import tiny
from ddim.diffusion.samplers import EDM
from ddim.evaluation import discretisation_error, sampler_ablation
from ddim.recipe.codec import override
from ddim.sampling import pipeline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run that trained for about a second."""
    folder = tmp_path_factory.mktemp("run") / "one"
    return tiny.train(tiny.recipe(images="16", data__size="16"), folder)


def test_a_run_is_ablated(run, command):
    lines = command("ablate", run, "--evaluations", "3", "--seeds", "1").out.splitlines()
    rows = [line.split() for line in lines if line.startswith(("edm", "vp", "ve", "iddpm"))]
    assert [row[:2] for row in rows] == [
        [name, solver] for name in ("edm", "vp", "ve", "iddpm") for solver in ("euler", "heun")
    ]
    table = {tuple(row[:2]): row[2:] for row in rows}
    assert all(len(row) == 6 and all(float(value) >= 0 for value in row) for row in table.values())
    ways = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("VP", "VE", "DDIM"))}
    assert ways["DDIM"][:2] == [table["iddpm", "euler"][0], table["iddpm", "heun"][0]]
    assert ways["VP"][0] == table["vp", "euler"][5]
    assert ways["VE"][3] == table["edm", "heun"][0]
    assert sum(line.startswith("gamma") for line in lines) == 3
    assert "heun has a single step of 3 evaluations: give more --evaluations to compare it" in lines
    assert not any("uses" in line for line in lines)


@pytest.fixture
def unsampled(monkeypatch):
    """Errors without samples: the tables are of zeros, in no time."""
    zeros = torch.zeros(1, 1, 1, 1)
    monkeypatch.setattr(discretisation_error, "sample_in_model_units", lambda *_: zeros)


def test_a_solver_that_cannot_use_all_evaluations_is_said_to(run, command, unsampled):
    said = command("ablate", run, "--evaluations", "6", "--seeds", "1").out
    assert "heun uses 5 of the 6 evaluations: each of its steps needs 2" in said
    assert "euler uses" not in said


def test_sampling_times_lie_between_the_ends_of_the_runs_grid(run, monkeypatch, tmp_path, command):
    """Its model may know levels that its sample are never made from: sigma 20,000 of a cosine."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    asked = []

    def sample(trained, sampler, times, seeds, *_):
        asked.append(times)
        return torch.zeros(1, 1, 1, 1)

    narrow = {"grid": "karras", "grid.sigma_min": 0.5, "grid.sigma_max": 4.0}
    trained = pipeline.load(copy)
    trained = replace(trained, recipe=override(trained.recipe, narrow))
    monkeypatch.setattr(pipeline, "load", lambda *_, **__: trained)
    monkeypatch.setattr(discretisation_error, "sample_in_model_units", sample)
    command("ablate", copy, "--evaluations", "3", "--seeds", "1")
    bars = [trained.recipe.sampling_schedule(times).noise_to_signal for times in asked]
    assert len(bars) > 5
    for each in bars:
        assert (each[0].item(), each[-1].item()) == pytest.approx((4.0, 0.5))


@pytest.mark.parametrize(
    "words, count",
    [
        (["ablate", "--evaluations", "3"], 100),
        (["ablate", "--evaluations", "59"], 300),
    ],
)
def test_the_reference_has_at_least_ten_times_the_levels_of_the_samples(
    words, count, run, monkeypatch, tmp_path, command
):
    """Heun's method has order 2: the error of the reference is then a hundredth of that of the samples."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    asked = []

    def sample(trained, sampler, times, seeds, *_):
        asked.append((sampler, len(times)))
        return torch.zeros(1, 1, 1, 1)

    monkeypatch.setattr(discretisation_error, "sample_in_model_units", sample)
    command(words[0], copy, *words[1:], "--seeds", "1")
    assert asked[0] == (EDM(), count)
    heun = [levels for sampler, levels in asked[1:] if sampler in (EDM(), sampler_ablation.Flow())]
    assert max(heun) <= count / 10
