import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from ddim.sampling import sampling_setup as sampling_guidance
from ddim.sampling import searched
from shown_events import read_events

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run that was trained for a few updates."""
    return tiny.train(tiny.recipe(), tmp_path_factory.mktemp("run") / "one")


def test_a_run_that_has_hardly_learnt_is_not_called_memorised(run, command):
    said = command("memorisation", run, "-n", "12", "--steps", "2").out
    folder = run / "memorisation" / "1"
    assert said.startswith(
        "By pixels, this run is not seen to repeat training images: 0.0 % [0.0, 26.5] of 12"
    )
    assert f"{folder}/pairs.png" in said
    assert sorted(path.name for path in folder.iterdir()) == ["pairs.png", "record.json"]
    record = json.loads((folder / "record.json").read_text())
    assert (record["schema"], record["kind"], record["memorised"]) == (1, "memorisation", False)
    assert [sample["seed"] for sample in record["samples"]] == list(range(12))
    assert record["sampling"]["seeds"] == list(range(12))
    assert record["sampling"]["nfe"] == 2
    assert record["false_alarms"]["of"] == 4
    assert record["gap"].keys() == {"value", "low", "high", "images", "levels"}
    scalars, images = read_events(run / "events" / "memorisation")
    assert scalars["memorisation/copies"] == [(record["sampling"]["step"], 0.0)]
    ((_, pairs),) = images["memorisation"]
    with Image.open(folder / "pairs.png") as one, Image.open(io.BytesIO(pairs)) as two:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_samples_that_cannot_be_kept_in_the_cache_are_compared_all_the_same(
    run, tmp_path, monkeypatch, command
):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    (tmp_path / "features").write_text("in the way")
    said = command("memorisation", run, "-n", "5", "--steps", "2", "--out", tmp_path / "out").out
    assert said.startswith("By pixels, this run is not seen to repeat training images")


def test_samples_use_the_searched_times_of_the_run(run, tmp_path, command):
    run, recipe = shutil.copytree(run, tmp_path / "run"), tiny.recipe()
    searched.save_grid(run, recipe.sampler, 3, "ema", (1.0, 0.4, 0.1), 0.0)
    said = command("memorisation", run, "-n", 5, "--steps", 3).out
    record = json.loads((Path(said.splitlines()[-1]).parent / "record.json").read_text())
    assert record["sampling"]["times"] == [1.0, 0.4, 0.1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--features", "pixel"], "features must be one of"),
        (["--features", "inception-2015"], "--features-weights FILE"),
        (["--guidance", "2"], "guidance needs a label"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(run, words, said, monkeypatch, tmp_path, refused):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    before = sorted(run.rglob("*"))
    assert said in refused("memorisation", run, *words)
    assert sorted(run.rglob("*")) == before


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """A finished run with an early checkpoint as a guide."""
    return tiny.train(tiny.recipe(report__guide=0.5), tmp_path_factory.mktemp("guided") / "one")


def test_guided_samples_with_other_options_are_those_of_sample(guided, command, tmp_path):
    options = ["--steps", "3", "--guidance", "2", "--guide-with", "@guide", "--sampler.eta", "0.5"]
    said = command("memorisation", guided, "-n", "4", *options).out
    assert said.startswith("samples with guidance 2, guide @guide\nBy pixels, ")
    record = json.loads((guided / "memorisation" / "1" / "record.json").read_text())
    command("sample", guided, "-n", "4", *options, "--out", tmp_path / "out")
    sampled = json.loads((tmp_path / "out" / "record.json").read_text())
    same = "sampler", "times", "nfe", "seeds", "label", "guidance", "guide"
    assert [record["sampling"][name] for name in same] == [sampled[name] for name in same]
    assert record["sampling"]["nfe"] == 6


def test_guidance_that_a_search_saved_is_used_unless_it_is_turned_off(guided, tmp_path, command):
    run, recipe = shutil.copytree(guided, tmp_path / "run"), tiny.recipe()
    found = sampling_guidance.Guidance(3.0, (-2.0, None), "@guide")
    sampling_guidance.save_guidance(run, recipe.sampler, 2, "ema", found, labelled=False)
    said = command("memorisation", run, "-n", "4", "--steps", "2").out
    assert said.startswith("samples with guidance 3, log-SNR above -2, guide @guide\n")
    said = command("memorisation", run, "-n", "4", "--steps", "2", "--guidance", "1").out
    assert said.startswith("By pixels, ")
