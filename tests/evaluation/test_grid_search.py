import itertools
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ddim
import tiny
from cases import mark_slow
from ddim.cli import main
from ddim.diffusion.grids import Listed
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DPMSolver, last_state
from ddim.diffusion.schedules import Cosine
from ddim.errors import UserError
from ddim.evaluation import grid_search
from ddim.evaluation.sampler_errors import TimeRange, sample_in_model_units
from ddim.plots.pictures import to_uint8
from ddim.recipe.codec import override
from ddim.runs import checkpoint
from ddim.sampling import searched
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import SamplingSetup
from oracles import normal

SCHEDULE = Cosine(0.014, 0.99995)
# With unit variance the uniform grid would be optimal: each DDIM step of this schedule would be a rotation.
LAW = Mixture(SCHEDULE, normal(4, 1, 3, 3, seed=1) / 3, 0.2)
END = 0.1
ENDS = TimeRange(SCHEDULE, END)


def error_of(sampler, seed):
    """Return a function for the error of times on an oracle, with start noise of this seed."""
    x = normal(128, 1, 3, 3, seed=seed)
    fine = ENDS.lay_grids(400)["uniform_log_snr"]
    run = lambda chosen, times: last_state(chosen(LAW, x, times, Noise(range(128)))).x0
    truth = run(DPMSolver(2), fine)
    return lambda times: (run(sampler, times) - truth).square().mean().item()


@pytest.mark.parametrize(
    "sampler, steps",
    mark_slow(
        itertools.product([DDIM(), DPMSolver(2)], [5, 10]),
        lambda case: case in [(DDIM(), 5), (DPMSolver(2), 10)],
    ),
    ids=str,
)
def test_a_searched_grid_beats_every_named_one_on_unseen_images(sampler, steps):
    found = grid_search.search_times(steps, ENDS, error_of(sampler, 2))
    assert found.error < min(found.named.values())
    times = torch.tensor(found.times, dtype=torch.float64)
    assert (times[0], times[-1]) == (1, pytest.approx(END))
    assert (times.diff() < 0).all()
    unseen = error_of(sampler, 3)
    named = ENDS.lay_grids(steps)
    assert unseen(times) < min(unseen(grid) for grid in named.values())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a searched grid for four steps."""
    folder = tmp_path_factory.mktemp("run") / "one"
    tiny.train(tiny.recipe(data__size=16, optim__warmup=0), folder)
    searched.save_grid(folder, load(folder).recipe.sampler, 4, "ema", (1.0, 0.6, 0.3, 0.1), 0.1)
    return folder


def record(run, out, *words):
    assert main(["sample", str(run), "-n", "2", "--out", str(out), *words]) == 0
    return json.loads((out / "record.json").read_text())


def test_a_run_is_sampled_on_its_searched_grid(run, tmp_path):
    (entry,) = (entry for entry in searched.read_searched(run)["grids"] if entry["steps"] == 4)
    assert record(run, tmp_path / "a", "--steps", "4")["times"] == entry["times"]
    assert record(run, tmp_path / "b", "--steps", "5")["grid"]["kind"] != "listed"
    assert record(run, tmp_path / "c", "--steps", "4", "--grid", "quadratic")["grid"]["kind"] == "quadratic"
    assert record(run, tmp_path / "d", "--steps", "4", "--sampler", "unipc")["grid"]["kind"] != "listed"
    assert record(run, tmp_path / "e", "--steps", "4", "--weights", "raw")["grid"]["kind"] != "listed"


@pytest.mark.slow
def test_ddim_sample_in_python_and_on_the_command_line_gives_the_same_samples(run, tmp_path):
    """Both use the searched times of the EMA weights for six steps, and the recipe's grid otherwise."""
    found = (1.0, 0.9, 0.5, 0.4, 0.2, 0.1)
    searched.save_grid(run, load(run).recipe.sampler, 6, "ema", found, 0.1)
    path = checkpoint.find_newest(run / "checkpoints")
    alone = lambda steps, weights: generate(SamplingSetup(load(run, weights), steps), range(2))[0]
    for k, (source, steps, weights) in enumerate(
        ((run, 6, "ema"), (run, 6, "raw"), (run, 5, "ema"), (path, 6, "ema"))
    ):
        images = ddim.sample(load(source, weights), 2, steps)
        assert weights != "ema" or torch.equal(ddim.sample(source, 2, steps), images)
        assert torch.equal(images, alone(steps, weights)) == (k > 0)
        record(source, tmp_path / str(k), "--steps", str(steps), "--weights", weights)
        for name, pixels in zip(("00000", "00001"), to_uint8(images), strict=True):
            with Image.open(tmp_path / str(k) / f"{name}.png") as image:
                assert (np.asarray(image) == pixels).all()


def test_a_search_samples_as_the_recipe_does(run):
    """A search uses the recipe's sampling schedule and its clipping."""
    # With this scaling of pixels, predictions lie far outside the bounds.
    trained, plain = replace(load(run), pixels=Pixels.fixed(0.5, 2.0)), None
    for changes in ({}, {"clip": "yes"}, {"sampled_on": "linear_in", "sampled_on.end": "-5"}):
        chosen = replace(trained, recipe=override(trained.recipe, changes))
        times = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
        wanted, _ = generate(
            SamplingSetup(chosen.with_recipe(sampler=DDIM(), grid=Listed((1.0, 0.5, 0.2))), 3), range(2)
        )
        found = chosen.pixels.leave(sample_in_model_units(chosen, DDIM(), times, range(2)))
        assert torch.allclose(found, wanted, atol=1e-6)
        assert plain is None or not torch.allclose(wanted, plain, atol=1e-3)
        plain = wanted if plain is None else plain


def test_times_are_saved_for_the_schedule_of_the_run_alone(run, tmp_path):
    with pytest.raises(UserError, match="fields of a search must be of the sampler or the grid, got clip"):
        grid_search.search_grid(run, 4, fields={"clip": True})
    other = load(run).with_recipe(sampled_on="linear_in")
    with pytest.raises(UserError, match="times are saved for the schedule of the run: give another folder"):
        grid_search.search_grid(other, 4)


def test_the_command_that_uses_the_times_samples_as_the_search_did(run, tmp_path, capsys):
    out = tmp_path / "two words"
    words = ["--sampler", "dpm_solver", "--sampler.order", "1", "--weights", "raw", "--out", str(out)]
    assert main(["search", str(run), "--steps", "3", "--seeds", "1", *words]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to use it: ")]
    used = shlex.split(line.removeprefix("to use it: "))
    assert used[:3] == ["ddim", "sample", str(run)]
    assert set(" ".join(used[3:]).split(" --")) >= {"sampler dpm_solver", "sampler.order 1", "steps 3"}
    assert " ".join(used).count("--weights raw") == 1
    assert main([*used[1:], "-n", "1", "--out", str(tmp_path / "images")]) == 0
    (entry,) = searched.read_searched(out)["grids"]
    times = json.loads((tmp_path / "images" / "record.json").read_text())["times"]
    assert times == pytest.approx(entry["times"], rel=1e-5)


@pytest.mark.parametrize("start", [1.0, 0.8])
def test_named_grids_have_the_same_ends(start):
    """A recipe's own grid may begin later: at sigma 80 of a cosine schedule that goes on to infinity, say."""
    for name, times in TimeRange(SCHEDULE, END, start).lay_grids(7).items():
        assert times.shape == (7,), name
        assert times[0] == start, name
        assert times[-1].item() == pytest.approx(END), name
        assert (times.diff() < 0).all(), name
    with pytest.raises(UserError, match=r"end must lie between 0 and the first time, t = 0\.8, got 0\.9"):
        TimeRange(SCHEDULE, 0.9, 0.8).check(7)


def test_a_search_ends_if_nothing_lowers_the_error():
    asked = []

    def error(times):
        asked.append(times)
        assert len(asked) < 1000, "the search goes on for good"
        return 0.0

    assert grid_search.search_times(4, ENDS, error).error == 0


def test_a_search_clips_its_samples_like_its_reference(run):
    """Heun's method uses the predicted noise only, so clip x0 must act as clip yes."""
    trained = replace(load(run), pixels=Pixels.fixed(0.5, 2.0))
    times = TimeRange(trained.recipe.sampling_schedule, 0.2).lay_grids(40)["uniform_log_snr"]
    clips = [replace(trained, recipe=override(trained.recipe, {"clip": clip})) for clip in ("x0", "yes")]
    kept, clipped = (sample_in_model_units(each, DDIM(), times, [0]) for each in clips)
    assert torch.equal(kept, clipped)
