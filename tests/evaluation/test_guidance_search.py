"""The search for guidance: what it tries, what it keeps, and what sampling then uses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ddim.evaluation.samples import Samples

import ddim
import tiny
from ddim.cli import main
from ddim.diffusion.grids import Karras, Listed
from ddim.errors import UserError
from ddim.evaluation import guidance_search
from ddim.evaluation.compare import Difference
from ddim.evaluation.evaluated_images import open_evaluated_images
from ddim.evaluation.guidance_search import SCALES, GuidanceTrial, SearchedGuidance, search_guidance
from ddim.evaluation.reference import Reference
from ddim.evaluation.sample_features import FeatureBatch, SampledParts
from ddim.machine.progress import ignore_progress
from ddim.sampling.generate import SamplesNotFinite, generate
from ddim.sampling.pipeline import load, read_run_recipe
from ddim.sampling.sampling_setup import (
    Guidance,
    SamplingSetup,
    choose_sampling,
    open_guidance,
    save_guidance,
)
from ddim.sampling.searched import save_grid
from stubs import stub

N, STEPS = 12, 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with a guide and 20 images held out."""
    recipe = tiny.recipe(data__size=16, report__guide=0.3, data__validation="0.5")
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(guidance_search, "load_extractor", stub)
    monkeypatch.setattr(guidance_search, "LEAST", 3)
    monkeypatch.setattr("ddim.evaluation.reference.LEAST", 3)
    monkeypatch.setattr("ddim.evaluation.samples.LEAST", 3)
    return Path(shutil.copytree(trained, tmp_path / "one"))


@pytest.fixture
def quality(monkeypatch):
    """A function that sets how far the samples of a guidance are from the validation images."""

    def give(distance):
        def parts(self, extractor, shown):
            draw = np.random.default_rng(self.seeds[0])
            offset = distance(self.setup.guidance, self.setup.steps)
            reference = np.random.default_rng(0).standard_normal((N, 12))
            yield FeatureBatch(
                (reference + offset + 0.1 * draw.standard_normal((N, 12))).astype(np.float32), None, 0
            )

        monkeypatch.setattr(SampledParts, "__call__", parts)
        held_out = np.random.default_rng(0).standard_normal((N, 12)).astype(np.float32)
        monkeypatch.setattr("ddim.evaluation.reference.compute_features", lambda *_: held_out)

    return give


def is_best(guidance):
    """Whether a guidance is that of scale 1.5 in the noisiest two thirds of the steps."""
    return guidance.scale == 1.5 and guidance.interval and guidance.interval[0] is None


def test_the_best_setting_is_found_saved_and_then_used(run, quality, capsys, tmp_path, monkeypatch):
    # The right scale is nearer than the others, and nearer still in the right interval.
    quality(lambda guidance, steps: 3.0 * (2 - (guidance.scale == 1.5) - bool(is_best(guidance))))
    said = []
    found = search_guidance(run, STEPS, N, announce=said.append)
    names = [trial.name for trial in found.trials]
    assert names[:2] == ["no guidance"] * 2
    assert names[2:6] == [f"guidance {scale:g}, guide @guide" for scale in SCALES]
    assert len(set(names[6:])) == 3
    assert all(name.startswith("guidance 1.5, log-SNR ") for name in names[6:])
    assert [trial.nfe for trial in found.trials] == [6, 12, *[12] * 4, 10, 10, 8]
    assert said[0].startswith(
        f"{2 + 4 + 3 + 2} settings of 12 samples, compared with the validation images: at most"
    )
    assert found.chosen == found.best.guidance
    assert is_best(Guidance(1.5, (None, found.chosen.interval[1])))
    # No guidance has as many evaluations, and is sampled with the same fresh seeds.
    assert (found.best.nfe, found.without.nfe, found.without.steps) == (10, 10, 10)
    assert found.difference.high < 0
    pipeline = load(run)
    used = open_guidance(pipeline, None, STEPS, None)
    assert used == Guidance(1.5, found.chosen.interval, "@guide")
    others = ((pipeline, STEPS + 1), (load(run, "raw"), STEPS))
    assert [open_guidance(model, None, steps, None) for model, steps in others] == [Guidance()] * 2
    assert torch.equal(
        ddim.sample(run, 2, STEPS), generate(SamplingSetup(pipeline, STEPS, guidance=used), range(2))[0]
    )
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(run), "-n", "1", "--steps", str(STEPS)]) == 0
    assert "guide @guide found by ddim search" in capsys.readouterr().out
    assert main(["sample", str(run), "-n", "1", "--steps", str(STEPS), "--guidance", "1"]) == 0
    assert "found by ddim search" not in capsys.readouterr().out
    records = [json.loads((tmp_path / f"samples/one-{k}/record.json").read_text()) for k in (1, 2)]
    assert [record["nfe"] for record in records] == [10, 6]
    summary = open_evaluated_images(run, Samples(N, STEPS), Reference(), ignore_progress).summary
    assert "guide @guide, found by ddim search (--guidance 1 turns it off), uniform_log_snr grid" in summary
    shutil.rmtree(run / "guide")
    with pytest.raises(UserError, match="has no guide checkpoint"):
        ddim.sample(run, 2, STEPS)


def test_a_gain_that_is_not_distinguishable_is_not_kept(run, quality):
    quality(lambda guidance, steps: 0.0)
    save_guidance(run, load(run).recipe.sampler, STEPS, "ema", Guidance(3.0), labelled=False)
    found = search_guidance(run, STEPS, N)
    assert found.chosen is None
    assert "no gain is distinguishable at 95 %, so no guidance is used" in found.verdict
    assert not open_guidance(load(run), None, STEPS, None).on


def test_a_lucky_setting_is_measured_again_on_fresh_samples(run, quality, monkeypatch):
    """All settings are equal, but the first samples of one of them are near the validation images."""
    seen = []

    def distance(guidance, steps):
        seen.append(guidance.scale)
        return 0.5 if guidance.scale == 2.0 and seen.count(2.0) == 1 else 3.0

    quality(distance)
    found = search_guidance(run, STEPS, N)
    assert not (run / "searched.json").exists()
    assert min(trial.kid for trial in found.trials) < found.best.kid / 2
    assert found.chosen is None


def test_a_search_makes_real_samples_and_measures_them(run):
    found = search_guidance(run, 3, N, guides=["@raw"])
    assert {trial.guidance.guide for trial in found.trials[2:]} == {"@raw"}
    rows = found.to_records()
    assert len(rows) == 2 + 4 + 3 + 2
    assert all(row["low"] < row["kid"] < row["high"] for row in rows)
    again = search_guidance(run, 3, N, guides=["@raw"])
    assert again == found


def test_a_setting_with_samples_that_are_nan_is_never_chosen(run, quality, monkeypatch):
    def distance(guidance, steps):
        if guidance.scale > 2:
            raise SamplesNotFinite("samples must be finite")
        return 0.0 if guidance.scale == 2 else 2.0

    quality(distance)
    found = search_guidance(run, STEPS, N)
    assert found.chosen.scale == 2
    rows = found.to_records()
    assert [row["kid"] for row in rows if row["guidance"].startswith("guidance 3")] == [None]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["settings"] == rows
    (line,) = [line for line in repr(found).splitlines() if line.startswith("guidance 3")]
    assert "inf" not in line


def test_guidance_must_beat_the_same_steps_without_guidance_too(run, quality):
    """Searched times can make a few steps better than twice as many."""
    quality(lambda guidance, steps: 1.0 if guidance.on else 0.5 if steps == STEPS else 2.0)
    found = search_guidance(run, STEPS, N)
    assert (found.without.steps, found.chosen) == (STEPS, None)


def test_guidance_is_saved_and_used_for_the_schedule_and_clipping_of_the_run(run, quality):
    quality(lambda guidance, steps: 0.0 if guidance.on else 2.0)
    with pytest.raises(UserError, match="^clip must be that of the run"):
        search_guidance(load(run).with_recipe(clip=True), STEPS, N)
    assert search_guidance(run, STEPS, N).chosen
    assert open_guidance(load(run), None, STEPS, None).on
    assert not open_guidance(load(run).with_recipe(clip=True), None, STEPS, None).on


def test_times_that_were_searched_do_not_replace_a_grid_that_was_chosen(run):
    own = load(run)
    times = tuple(torch.linspace(0.9, 0.1, STEPS).tolist())
    save_grid(run, own.recipe.sampler, STEPS, "ema", times, 0.1)
    listed = SamplingSetup(own.with_recipe(grid=Listed(times)), STEPS, searched=True)
    assert choose_sampling(own, STEPS, None) == listed
    karras = own.with_recipe(grid=Karras())
    assert choose_sampling(karras, STEPS, None) == SamplingSetup(karras, STEPS)
    assert not choose_sampling(own.with_recipe(sampled_on=ddim.Cosine(0.02, 0.95)), STEPS, None).searched
    one, other = (ddim.sample(model, n=1, steps=STEPS) for model in (karras, own))
    assert not torch.equal(one, other)
    assert torch.equal(one, ddim.sample(own, n=1, steps=STEPS, grid=Karras()))


def test_a_run_with_vectors_also_guides_itself(run, quality, tmp_path):
    """It draws vectors of training images for its samples, and can be sampled without a vector."""
    rows = np.random.default_rng(0).normal(size=(24, 2))
    np.save(tmp_path / "grays.npy", np.full((24, 16, 16, 1), 99, np.uint8))
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{a!r},{b!r}\n" for a, b in rows.tolist()))
    fields = {"data__size": 16, "data__vectors": str(tmp_path / "rows.csv"), "data__validation": "0.5"}
    quality(lambda guidance, steps: 0.1)
    guides = {}
    for share in (0.5, 0):
        changes = {**fields, "report__guide": share}
        folder = tiny.train(tiny.recipe(**changes), tmp_path / str(share), str(tmp_path / "grays.npy"))
        trials = search_guidance(folder, STEPS, N).trials
        guides[share] = {trial.guidance.guide for trial in trials if trial.guidance.scale != 1}
    assert guides == {0.5: {None, "@guide"}, 0: {None}}


def test_the_guidance_of_one_class_is_not_saved_for_all(run, quality, tmp_path):
    quality(lambda guidance, steps: 4.0 - guidance.scale)
    fields = {
        "data__size": 16,
        "data__labels": "clusters:2",
        "data__unlabelled": 0.5,
        "data__validation": "0.5",
    }
    labelled = tiny.train(tiny.recipe("group norm", **fields, report__guide=0.3), tmp_path / "labelled")
    place = labelled, read_run_recipe(labelled).sampler, STEPS, "ema"
    save_guidance(*place, Guidance(1.5), labelled=True)
    found = search_guidance(labelled, STEPS, N, label=0)
    assert (found.chosen.scale, found.saved) == (3.0, False)
    assert "that of a chosen label is not saved" in repr(found)
    assert open_guidance(load(labelled), "natural", STEPS, None) == Guidance(1.5)
    assert search_guidance(labelled, STEPS, N).saved
    assert search_guidance(labelled, STEPS, N, label="none", guides="@guide").saved
    assert open_guidance(load(labelled), "natural", STEPS, None).scale == 3.0


@pytest.mark.parametrize("steps", [3, 4, 6, 7, 13, 20])
def test_an_interval_leaves_out_a_third_of_the_steps(run, steps):
    loaded = load(run)
    search = guidance_search._Search(loaded, None, steps, N, stub(), ignore_progress)
    setup = choose_sampling(loaded, steps, None)
    levels = setup.pipeline.recipe.sampling_schedule(setup.times).log_snr.tolist()
    guided = [sum(low <= level <= high for level in levels) for low, high in search.list_intervals()]
    first, second = steps // 3, 2 * steps // 3
    assert guided == [second, steps - first, second - first]


@pytest.mark.parametrize("low, high, kept", [(-0.3, -0.1, True), (-0.3, 0.1, False), (0.1, 0.3, False)])
def test_guidance_is_kept_only_if_its_interval_lies_below_zero(low, high, kept):
    trial = GuidanceTrial(Guidance(2.0), 10, 20, 0.5, 0.25, 0.75)
    found = SearchedGuidance((trial,), trial, trial, Difference((low + high) / 2, low, high, True))
    assert (found.chosen is not None) == kept
    assert ("no gain is distinguishable at 95 %" in found.verdict) == (not kept)


def test_the_result_is_a_table():
    trial = GuidanceTrial(Guidance(2.0, (-2.0, 5.0)), 10, 20, 0.5, 0.25, 0.75)
    found = SearchedGuidance((trial,), trial, trial, Difference(-0.5, -0.75, -0.25, True))
    assert "guidance 2, log-SNR -2 to 5" in repr(found)
    assert "difference -0.50000 (-0.75000 ... -0.25000)" in repr(found)
    assert found.chosen == trial.guidance
