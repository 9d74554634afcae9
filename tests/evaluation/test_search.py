"""The search for times and for guidance: what is tried, what is kept, and what sampling then uses."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
import tiny
from cases import mark_slow
from ddim.diffusion.grids import Karras, Listed
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DPMSolver, last_state
from ddim.diffusion.schedules import Cosine
from ddim.evaluation.image_sets import ImageFeatures, SampledParts
from ddim.evaluation.sampler_errors import TimeRange, sample_in_model_units, search_times
from ddim.evaluation.search import FACTOR, SCALES, TRIED, list_guided_intervals
from ddim.recipe.codec import override
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import Guidance, choose_sampling, save_guidance
from ddim.sampling.searched import read_searched
from ddim.training import distill
from oracles import normal
from stubs import stub

SCHEDULE = Cosine(0.014, 0.99995)
# With unit variance the uniform grid would be optimal: each DDIM step of this schedule would be a rotation.
LAW = Mixture(SCHEDULE, normal(4, 1, 3, 3, seed=1) / 3, 0.2)
ENDS = TimeRange(SCHEDULE, 0.1)
N, STEPS = 20, 6
RIGHT = 10.0 * FACTOR**-2


def error_of(sampler, seed):
    """Return a function for the error of times on an oracle, with start noise of this seed."""
    x = normal(128, 1, 3, 3, seed=seed)
    run = lambda chosen, times: last_state(chosen(LAW, x, times, Noise(range(128)))).x0
    truth = run(DPMSolver(2), ENDS.lay_grids(400)["uniform_log_snr"])
    return lambda times: (run(sampler, times) - truth).square().mean().item()


@pytest.mark.parametrize(
    "sampler, steps",
    mark_slow(
        itertools.product([DDIM(), DPMSolver(2)], [5, 10]),
        lambda case: case in [(DDIM(), 5), (DPMSolver(2), 10)],
    ),
    ids=str,
)
def test_searched_times_beat_every_named_grid_on_unseen_images(sampler, steps):
    found, error, named = search_times(steps, ENDS, error_of(sampler, 2))
    assert error < min(named.values())
    times = torch.tensor(found, dtype=torch.float64)
    assert (times[0], times[-1]) == (1, pytest.approx(0.1))
    assert (times.diff() < 0).all()
    unseen = error_of(sampler, 3)
    assert unseen(times) < min(unseen(grid) for grid in ENDS.lay_grids(steps).values())


def test_a_search_ends_if_nothing_lowers_the_error():
    assert search_times(4, ENDS, lambda times: 0.0)[1] == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run, which has a guide and 20 images held out, and its student."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = tiny.recipe(data__size=16, report__guide=0.3, data__validation="0.5")
    run = tiny.train(recipe, folder / "one")
    distill(run, images=8, out=folder / "student", machine=tiny.MACHINE, progress=False)
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.evaluation.search.load_extractor", stub)
    return shutil.copytree(trained, tmp_path / "runs") / "one"


@pytest.fixture
def student(run):
    return run.with_name("student")


@pytest.fixture
def quality(monkeypatch):
    """A function that sets how far samples are from the validation images, by their setup and first seed."""
    held_out = np.random.default_rng(0).standard_normal((N, 12)).astype(np.float32)
    monkeypatch.setattr("ddim.evaluation.search.compute_features", lambda *_: held_out)

    def give(distance):
        def compute(self, _):
            draw = np.random.default_rng(self.seeds[0]).standard_normal((N, 12))
            offset = distance(self.setup, self.seeds[0])
            return ImageFeatures((held_out + offset + 0.1 * draw).astype(np.float32), None)

        monkeypatch.setattr(SampledParts, "compute_features", compute)

    return give


def level(setup):
    return setup.pipeline.recipe.grid.sigma_min


def find_guidance(model, steps=STEPS, label=None):
    """The guidance of samples that use what a search saved."""
    return choose_sampling(model, steps, label, searched=True).guidance


# Times


def test_times_are_found_saved_and_then_used(run, command):
    found = ddim.search(run, 4, n=2, save=False)
    assert not (run / "searched.json").exists()
    listed, usual = ddim.sample(run, n=2, **found.options), ddim.sample(run, n=2, steps=4)
    assert ddim.search(run, 4, n=2).options == found.options
    # In Python, what was saved changes no samples unless it is asked for; the command says that it uses it.
    assert torch.equal(ddim.sample(run, n=2, steps=4), usual)
    assert torch.equal(ddim.sample(run, n=2, steps=4, searched=True), listed)
    assert not torch.equal(ddim.sample(run, n=2, steps=4, searched=True, grid="uniform"), listed)
    said = command("sample", run, "-n", 2, "--steps", 4, "--out", run / "listed").out
    assert "with sampling times found by ddim search" in said
    said = command("sample", run, "-n", 2, "--steps", 4, "--no-searched", "--out", run / "usual").out
    assert "ddim search" not in said
    (entry,) = read_searched(run)["grids"]
    assert (entry["times"], entry["error"]) == ([*found.options["grid"]], found.value)
    # Other samplers, numbers of steps and weights have their own times, and a chosen grid stays.
    own = load(run)
    others = [(own, 5), (load(run, "raw"), 4), (own.with_recipe(sampled_on=Cosine(0.02, 0.95)), 4)]
    others += [(own.with_recipe(grid=Karras()), 4), (own.with_recipe(sampler="unipc"), 4)]
    assert choose_sampling(own, 4, None, searched=True).searched
    used = [choose_sampling(model, steps, None, searched=True).searched for model, steps in others]
    assert not any(used)


def test_a_search_samples_as_the_recipe_does(run):
    """A search uses the recipe's sampling schedule and its clipping."""
    # With this scaling of pixels, predictions lie far outside the bounds.
    own, grid = replace(load(run), pixels=Pixels.fixed(0.5, 2.0)), Listed((1.0, 0.5, 0.2))
    times, seen = torch.tensor(grid.times, dtype=torch.float64), []
    for changes in ({}, {"clip": "yes"}, {"sampled_on": "linear_in", "sampled_on.end": "-5"}):
        chosen = replace(own, recipe=override(own.recipe, changes))
        setup = choose_sampling(chosen, 3, None, {"sampler": DDIM(), "grid": grid})
        seen.append(chosen.pixels.leave(sample_in_model_units(chosen, DDIM(), times, range(2))))
        assert torch.allclose(seen[-1], generate(setup, range(2))[0], atol=1e-6)
        assert len(seen) == 1 or not torch.allclose(seen[-1], seen[0], atol=1e-3)
    # Heun's method uses the predicted noise only, so clip x0 must act as clip yes.
    clips = [replace(own, recipe=override(own.recipe, {"clip": clip})) for clip in ("x0", "yes")]
    assert torch.equal(*(sample_in_model_units(each, DDIM(), times, [0]) for each in clips))


# The noise level of the last step of a student


def test_the_best_level_of_a_student_is_found_saved_and_then_used(student, quality):
    quality(lambda setup, seed: abs(np.log(level(setup) / RIGHT)))
    before = ddim.sample(student, n=2, progress=False)
    found = ddim.search(student, n=N)
    names = [row["candidate"] for row in found.rows if row["seeds"] == "search"]
    assert names == [f"sigma_min {10.0 * FACTOR**k:.3g}" for k in TRIED]
    assert found.value == min(row["kid"] for row in found.rows if row["seeds"] == "search")
    assert found.options["grid"] == tuple(Karras(RIGHT)(2, load(student).recipe.schedule).tolist())
    after = ddim.sample(student, n=2, searched=True, progress=False)
    assert not torch.equal(before, after)
    assert torch.equal(after, ddim.sample(student, n=2, grid=Karras(RIGHT), progress=False))


def test_a_level_that_is_lowest_by_chance_is_not_used(student, quality):
    quality(lambda setup, seed: np.random.default_rng([seed, int(100 * level(setup))]).normal())
    found = ddim.search(student, n=N)
    kids = {row["candidate"]: row["kid"] for row in found.rows if row["seeds"] == "search"}
    own = load(student).recipe
    assert min(kids, key=kids.__getitem__) != "sigma_min 10"
    assert found.value == kids["sigma_min 10"]
    assert found.options["grid"] == tuple(own.grid(2, own.schedule).tolist())


# Guidance


def test_the_best_guidance_is_found_saved_and_then_used(run, quality):
    """The right scale is nearer than the others, and nearer still in the noisiest two thirds of the steps."""

    def distance(setup, seed):
        guidance = setup.guidance
        inside = guidance.interval is not None and guidance.interval[0] is None
        return 3.0 * (2 - (guidance.scale == 1.5) - (guidance.scale == 1.5 and inside))

    quality(distance)
    found = ddim.search(run, STEPS, guidance=True, n=N)
    names = [row["candidate"] for row in found.rows]
    assert names[:6] == ["no guidance"] * 2 + [f"guidance {scale:g}, guide @guide" for scale in SCALES]
    assert len({name for name in names[6:9] if name.startswith("guidance 1.5, log-SNR ")}) == 3
    assert [row.get("nfe") for row in found.rows[:-1]] == [6, 12, *[12] * 4, 10, 10, 8, 10, 10]
    # No guidance has as many evaluations, and is sampled with the same new seeds.
    assert [(row["steps"], row["seeds"]) for row in found.rows[-3:-1]] == [(STEPS, "new"), (10, "new")]
    assert (found.rows[-1]["candidate"], found.rows[-1]["high"] < 0) == ("difference", True)
    own = load(run)
    used = find_guidance(own)
    assert used == Guidance(1.5, found.options["guidance_interval"], "@guide")
    assert torch.equal(ddim.sample(run, 2, STEPS, searched=True), ddim.sample(run, 2, **found.options))
    others = ((own, STEPS + 1), (load(run, "raw"), STEPS), (own.with_recipe(clip=True), STEPS))
    assert [find_guidance(model, steps) for model, steps in others] == [Guidance()] * 3


@pytest.mark.parametrize(
    "distance",
    [
        lambda setup, seed: 0.0,
        # The first samples of one setting are near the validation images by chance.
        lambda setup, seed: 0.5 if setup.guidance.scale == 2.0 and seed == 2**31 else 3.0,
        # Searched times can make a few steps better than twice as many.
        lambda setup, seed: 1.0 if setup.guidance.on else 0.5 if setup.steps == STEPS else 2.0,
        # A gain that is small beside the variation of the samples.
        lambda setup, seed: (
            (0.25 if setup.guidance.on else 0.3)
            + np.random.default_rng(int(4 * setup.guidance.scale)).standard_normal((N, 12))
        ),
    ],
    ids=["no gain", "chance", "few steps", "small gain"],
)
def test_guidance_without_a_distinguishable_gain_is_not_kept(distance, run, quality):
    quality(distance)
    save_guidance(run, load(run).recipe.sampler, STEPS, "ema", Guidance(3.0), labelled=False)
    found = ddim.search(run, STEPS, guidance=True, n=N)
    assert found.rows[-1]["high"] >= 0
    assert (found.options["guidance"], found.value) == (1.0, found.rows[0]["kid"])
    assert not find_guidance(load(run)).on


def test_real_samples_are_measured_and_a_repeated_search_finds_the_same(run):
    found = ddim.search(run, 3, guidance=True, n=N, guide_with="@raw")
    assert all(row["candidate"].endswith("guide @raw") for row in found.rows[2:-2])
    assert all(row["low"] < row["kid"] < row["high"] for row in found.rows)
    assert ddim.search(f"{run}@ema", 3, guidance=True, n=N, guide_with=["@raw"]) == found


def test_a_run_with_labels_also_guides_itself(run, quality, tmp_path):
    quality(lambda setup, seed: 4.0 - setup.guidance.scale)
    fields = {"data__size": 16, "data__labels": "clusters:2", "data__unlabelled": 0.5}
    recipe = tiny.recipe("group norm", **fields, data__validation="0.5", report__guide=0.3)
    labelled = tiny.train(recipe, tmp_path / "labelled")
    found = ddim.search(labelled, STEPS, guidance=True, n=N)
    assert [row["candidate"] for row in found.rows[2:10]] == [
        f"guidance {scale:g}{guide}" for guide in ("", ", guide @guide") for scale in SCALES
    ]
    assert find_guidance(load(labelled), label="natural") == Guidance(3.0)


@pytest.mark.parametrize("steps", [3, 4, 6, 7, 13, 20])
def test_an_interval_leaves_out_a_third_of_the_steps(run, steps):
    setup = choose_sampling(load(run), steps, None)
    levels = setup.pipeline.recipe.sampling_schedule(setup.times).log_snr.tolist()
    guided = [sum(low <= each <= high for each in levels) for low, high in list_guided_intervals(setup)]
    first, second = steps // 3, 2 * steps // 3
    assert guided == [second, steps - first, second - first]
