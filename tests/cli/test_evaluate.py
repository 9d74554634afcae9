"""`ddim evaluate` and `ddim compare`: output and mistakes."""

import json
import re
import signal
from pathlib import Path

import pytest

import tiny
from ddim.cli import main
from ddim.cli.choice_tables import parse_choices
from ddim.evaluation.record import read_evaluation
from ddim.machine import distributed
from ddim.machine.distributed import Processes
from ddim.metrics import catalogue, features
from stubs import stub, written

pytestmark = pytest.mark.usefixtures("blank_figures")


def found(name=features.DEFAULT, weights=None):
    """A stub for every name."""
    return stub(name="stub" if name == features.DEFAULT else name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with 30 images held out, evaluated twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "load_extractor", found)
        recipe = tiny.recipe(data__source="blossoms:60", data__validation="0.5", optim__warmup="0")
        folder = tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")
        for words in (["-n", "40"], ["-n", "40", "--sampler", "edm"]):
            assert main(["evaluate", str(folder), "--steps", "2", *words]) == 0
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(features, "load_extractor", found)


def test_the_metrics_are_printed_with_their_conditions(run, command):
    text = command("evaluate", run, "-n", 40, "--steps", 2, "--seed", 5, "--part", "all").out
    file = text.split()[-1]
    record = json.loads(Path(file).read_text())
    assert f"40 samples of {run}: dpm_solver, 2 steps, 2 NFE, grid uniform_log_snr" in text
    assert "compared with 60 images of blossoms:60, 32x32 pixels" in text
    assert f"KID        {record['metrics']['kid']['value']:9.5f}   lower is better; 95 %" in text
    for name in ("FID", "precision", "recall", "density", "coverage"):
        assert f"\n{name}" in text
    assert "note: with so few images (40), FID, precision" in text
    assert file.startswith(f"{run}/evaluations/")
    assert record["sampling"]["seeds"] == list(range(5, 45))


def test_real_images_in_place_of_samples_are_printed_as_a_yardstick(run, command):
    # No other test has samples of these seeds.
    words = ["evaluate", run, "-n", 40, "--steps", 2, "--seed", 777]
    text = command(*words).out
    assert "would score (fewer than samples, so compare only KID)\n" in text
    assert "were kept from earlier" not in text
    assert "\n40 of the samples, or their features, were kept from earlier" in command(*words).out


def test_fid_infinity_is_said_to_keep_the_bias_of_the_reference(run, command):
    text = command("evaluate", run, "-n", 130, "--steps", 1).out
    (line,) = (line for line in text.splitlines() if line.startswith("FID-inf"))
    assert line.endswith("not for that of having only 30 reference images")


def test_features_are_taken_by_name(run, command):
    text = command("evaluate", run, "-n", 20, "--steps", 1, "--features", "other").out
    assert "features other, 12 dimensions, images at 2 px" in text


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["RUN", "--part", "vald"], "got 'vald'; perhaps you meant valid"),
        (
            ["RUN", "--optim.lr", 1],
            "--optim.lr is not an option of ddim evaluate; the recipe fields it takes are sampler",
        ),
        (["RUN", "--steps", "1,2", "--out", "RUN"], "is not a new or empty folder"),
        (["blossoms:40", "--data", "blossoms:40", "-n", 50], "-n is for runs, and blossoms:40 is not a run"),
        (["runs/typo"], "runs/typo does not exist: name a run or a folder or archive of images"),
    ],
)
def test_mistakes_are_one_sentence(run, words, sentence, refused):
    words = [str(run) if word == "RUN" else word for word in words]
    assert sentence in refused("evaluate", *words)


def test_a_stopped_evaluation_says_what_continues(run, monkeypatch, capsys, foreground):
    def stop(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("ddim.evaluation.evaluate.measure_metrics", stop)
    assert main(["evaluate", str(run), "-n", "20"]) == 130
    assert capsys.readouterr().err.endswith("ddim: stopped; the same command continues\n")


def test_evaluations_are_ranked_and_their_differing_settings_are_listed(run, tmp_path, command, refused):
    first, second = (run / "evaluations" / name for name in "12")
    why = refused("compare", first, second)
    assert why.startswith("nothing can be compared by KID: 30 images are too few to rank by KID")
    value = lambda v: {"value": v, "low": v - 0.01, "high": v + 0.01}
    folders = [
        written(tmp_path / "first", metrics__kid=value(0.3)),
        written(tmp_path / "better", metrics__kid=value(0.2), generated__images=500),
        written(tmp_path / "foreign", metrics__kid=value(0.1), features__resize="3 px"),
    ]
    lines = command("compare", *folders).out.splitlines()
    assert lines[0] == "KID, lower is better"
    assert re.split("  +", lines[2])[:5] == ["1", str(folders[1]), "images of a", "500", "0.20000"]
    assert re.split("  +", lines[3])[:5] == ["2", str(folders[0]), "images of a", "400", "0.30000"]
    assert lines[3].endswith("the first")
    assert re.split("  +", lines[4])[:5] == ["-", str(folders[2]), "images of a", "400", "0.10000"]
    assert lines[4].endswith(
        "not ranked: different features: stub (weights wwwwwwww..., 2 px) and "
        "stub (weights wwwwwwww..., 3 px)"
    )
    assert [line.split()[0] for line in lines[7:]] == ["samples"]


def test_several_values_of_a_choice_give_a_table(run, tmp_path, command):
    ways = ["--sampler", "ddim,ddpm", "--sampler.eta", "0,0.5", "--sampler.variance", "large"]
    said = command("evaluate", run, "-n", 40, "--steps", "1,2", *ways, "--out", tmp_path / "table")
    lines = said.out.splitlines()
    assert lines[0].startswith(
        "KID (lower is better) of 40 samples with equal seeds, against 30 held-out images of"
    )
    assert lines[3].split() == ["1", "steps", "2", "steps"]
    assert [line.split("  ")[0] for line in lines[4:7]] == [
        "ddim eta 0",
        "ddim eta 0.5",
        "ddpm variance large",
    ]
    assert "real images in place of samples: " in said.out
    differences = "minus ddim eta 0: differences from the first row with 95 % confidence intervals, paired"
    assert differences in said.out
    assert lines[-1] == f"{tmp_path / 'table'}/table.csv and .png"


def test_other_processes_take_the_evaluations_of_process_0_and_write_no_table(run, monkeypatch, command):
    words = ("evaluate", run, "-n", 40, "--seed", 7, "--steps", "1,2")
    command(*words)
    folders = sorted((run / "evaluations").iterdir(), key=lambda folder: int(folder.name))
    found = [read_evaluation(folder) for folder in folders[-2:]]

    class Other(Processes):
        def broadcast(self, value):
            assert value is None
            return found.pop()

    before = sorted(run.rglob("*"))
    monkeypatch.setattr(distributed, "_joined", [Other(rank=1, count=2)])
    command(*words)
    assert sorted(run.rglob("*")) == before
    assert found == []


@pytest.mark.parametrize(
    "text, found",
    [
        ({"steps": "20"}, {"steps": 20}),
        ({"steps": "10, 20", "guidance": "1,1.5"}, {"steps": [10, 20], "guidance": [1.0, 1.5]}),
        ({"grid.times": "1,0.5"}, {"grid.times": "1,0.5"}),
        ({"grid.times": "[1,0.5],[1,0.2]"}, {"grid.times": ["1,0.5", "1,0.2"]}),
        ({"sampler": "ddim,edm"}, {"sampler": ["ddim", "edm"]}),
    ],
)
def test_choices_are_values_or_lists_of_values(text, found):
    assert parse_choices(text) == found


def test_an_evaluation_has_the_difference_0_to_itself(run, monkeypatch, command):
    monkeypatch.setitem(catalogue.METRICS, "kid", catalogue.Metric("KID", True, biased=False, least=20))
    text = command("compare", run / "evaluations" / "1", run / "evaluations" / "2").out
    assert ", paired" in text
    assert "\nsampler " in text
    # Heun's method takes two evaluations in all but the last of two steps.
    (note,) = (line for line in text.splitlines() if line.startswith("note: the network evaluations per"))
    assert "dpm_solver, 2 steps, 2 NFE" in note
    assert "edm, 2 steps, 3 NFE" in note
    same = command("compare", run / "evaluations" / "1", run / "evaluations" / "1").out
    assert "+0.00000 (+0.00000 ... +0.00000), paired, not distinguishable at 95 %" in same.replace(
        "-0.0", "+0.0"
    )
