"""Classes on the command line: train with them, resume, sample, evaluate, measure bits."""

import json

import numpy as np
import pytest
from PIL import Image

import tiny
from ddim.cli import main
from ddim.data import open_images
from ddim.diffusion import likelihood
from ddim.evaluation import compare as ranking
from ddim.evaluation import record as scores
from ddim.metrics import features
from ddim.plots.pictures import make_sheet
from ddim.runs.codec import write_recipe
from ddim.runs.generate import generate
from ddim.runs.pipeline import load
from ddim.training import train
from stubs import stub

FAST = ["--threads", "1", "--precision", "fp32", "--no-compile"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a recipe of a second, and its run by the command, told the 12 kinds of blossoms."""
    home = tmp_path_factory.mktemp("home")
    # From where 8-bit values can be told apart, for likelihoods.
    recipe = tiny.recipe(data__validation="0.5", optim__warmup="0", schedule__max_signal=0.9999)
    (home / "tiny.yaml").write_text(write_recipe(recipe))
    words = ["train", "--recipe", home / "tiny.yaml", "--data.labels", "yes", "--out", home / "run"]
    assert main([str(word) for word in [*words, *FAST]]) == 0
    return home


def did(*words):
    assert main([str(word) for word in words]) == 0


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ddim: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("ddim: ").rstrip()


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("0*.png")}


def test_the_same_command_resumes_a_run_that_has_counted_its_classes(home, capsys):
    words = ["train", "--recipe", home / "tiny.yaml", "--data.labels", "yes", "--out", home / "run"]
    did(*words, *FAST, "--resume")
    said = capsys.readouterr().err
    assert "is finished: nothing to resume" in said
    assert f"next: ddim sample {home / 'run'} --label all\n" in said
    contradicting = refused(capsys, *words, *FAST, "--resume", "--net.classes", "3")
    assert "has net.classes = 12, which net.classes = 3 contradicts" in contradicting
    assert "data.labels = True, which data.labels = False" in refused(
        capsys, *words[:3], *words[5:], *FAST, "--resume"
    )


def test_weights_of_other_classes_can_be_trained_on_without_labels_alone(home, tmp_path, capsys):
    for kind, n in {"red": 0, "blue": 1}.items():
        (tmp_path / "two" / kind).mkdir(parents=True)
        for k in range(8):
            pixels = np.full((32, 32, 3), 20 * k + n, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "two" / kind / f"{k}.png")
    words = ["train", tmp_path / "two", "--from", home / "run", "--images", 8, *FAST, "--out"]
    did(*words, tmp_path / "without", "--data.labels", "no")
    capsys.readouterr()
    said = refused(capsys, *words, tmp_path / "run")
    assert "weights of a network with 12 classes, and" in said
    assert "has 2: train it without labels (--data.labels no)" in said
    assert not (tmp_path / "run").exists()


def test_the_grid_of_a_run_shows_its_classes_in_turn(home):
    run = load(home / "run")
    wanted = make_sheet(generate(run, range(2), 2, label="all")[0])
    assert not np.array_equal(wanted, make_sheet(generate(run, range(2), 2)[0]))
    with Image.open(home / "run" / "samples" / "step-000000010.png") as shown:
        assert np.array_equal(np.asarray(shown), wanted)


def test_a_class_by_name_by_index_and_in_turn_is_one_picture(home, tmp_path):
    for name, words in {
        "name": ["--label", "daisy"],
        "index": ["--label", "3"],
        "turn": ["--label", "all"],
        "none": [],
    }.items():
        did("sample", home / "run", "--seeds", "3,15", "--steps", 2, "--out", tmp_path / name, *words)
    found = {name: pictures(tmp_path / name) for name in ("name", "index", "turn", "none")}
    assert found["name"] == found["index"] == found["turn"] != found["none"]


def test_the_record_says_label_and_guidance_and_no_two_are_mixed(home, tmp_path, capsys):
    words = ["sample", home / "run", "-n", 1, "--steps", 2, "--out", tmp_path]
    did(*words, "--label", "daisy", "--guidance", "2.5")
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["label"], record["class"], record["guidance"], record["nfe"]) == (3, "daisy", 2.5, 4)
    for other in (["--label", "daisy"], ["--label", "all", "--guidance", "2.5"], []):
        assert "holds samples of another run or other sampling options" in refused(capsys, *words, *other)
    did(*words, "--label", "3", "--guidance", "2.5", "--seed", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--label", "dasiy"],
            "label must be one of the run's 12 classes or all, got 'dasiy'; perhaps you meant daisy",
        ),
        (["--label", "12"], "label must be one of the run's 12 classes or all, got '12'"),
        (["--guidance", "2"], "guidance needs a label, a class or all"),
        (["--label", "all", "--guidance", "-1"], "guidance must be at least 0 and finite, got -1"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, said, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "sample", home / "run", *words).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_knows_no_images_of_no_class_must_be_told_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = tiny.recipe(data__labels=True, data__unlabelled=0, images=8)
    run = train(None, recipe, out=tmp_path / "run", machine=tiny.MACHINE)
    assert "without a label sampling gives the network no class" in refused(capsys, "sample", run)
    assert "guidance must be 1" in refused(capsys, "sample", run, "--label", "rose", "--guidance", "2")
    assert "ddim interpolate gives the network no class" in refused(
        capsys, "interpolate", run, "--seeds", "0,1"
    )
    did("sample", run, "-n", 1, "--steps", 1, "--label", "rose")


def test_an_evaluation_is_of_the_pictures_that_sample_makes_and_says_which(home, monkeypatch):
    monkeypatch.setattr(features, "load_extractor", lambda *_: stub())
    monkeypatch.setattr("ddim.metrics.catalogue.LEAST", 2)
    monkeypatch.setattr("ddim.evaluation.evaluate.LEAST", 2)
    words = ["evaluate", home / "run", "-n", 12, "--steps", 2, "--label"]
    did(*words, "all", "--guidance", "2")
    did(*words, "daisy")
    made = [scores.read_evaluation(home / "run" / "evaluations" / str(k)) for k in (1, 2)]
    sampling = [evaluation.record["sampling"] for evaluation in made]
    assert [(s["label"], s["class"]) for s in sampling] == [("all", None), (3, "daisy")]
    assert [s["guidance"] for s in sampling] == [2.0, 1.0]
    assert [s["nfe"] for s in sampling] == [4, 2]
    other = ranking.list_differing_choices(made)
    assert (other["label"], other["guidance"]) == (["all", 3], [2.0, 1.0])
    wanted = make_sheet(generate(load(home / "run"), range(12), 2, label="all", guidance=2.0)[0])
    with Image.open(made[0].folder / scores.GRID) as shown:
        assert np.array_equal(np.asarray(shown), wanted)


def test_bits_of_images_that_have_changed_since_training_are_asked_for_by_name_alone(tmp_path, capsys):
    for k in range(16):
        (tmp_path / "all" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        grey = np.full((32, 32, 3), 16 * k, np.uint8)
        Image.fromarray(grey).save(tmp_path / "all" / "ab"[k % 2] / f"{k}.png")
    recipe = tiny.recipe(data__labels=True, data__validation="0.5", images=8, schedule__max_signal=0.9999)
    run = train(str(tmp_path / "all"), recipe, out=tmp_path / "run", machine=tiny.MACHINE)
    did("likelihood", run, "-n", 2, "--steps", 2)
    (tmp_path / "all" / "b").rename(tmp_path / "all" / "c")
    capsys.readouterr()
    assert main(["likelihood", str(run), "-n", "2", "--steps", "2"]) == 2
    assert f"has changed since {run} was trained on it: name images with --data" in capsys.readouterr().err
    did("likelihood", run, "-n", 2, "--steps", 2, "--data", tmp_path / "all")


def test_bits_per_dimension_are_of_an_image_whose_class_is_known(home, monkeypatch):
    told, sound = [], likelihood.vlb

    def spy(denoise, *rest):
        told.extend(denoise.inner.label.tolist())
        return sound(denoise, *rest)

    monkeypatch.setattr(likelihood, "vlb", spy)
    run = home / "run"
    did("likelihood", run, "-n", 4, "--steps", 3)
    record = json.loads((run / "likelihoods" / "1" / "record.json").read_text())
    wanted = open_images("blossoms:40", (32, 32)).labels[record["reference"]["images"]].tolist()
    assert told == record["reference"]["labels"] == wanted
    assert len(set(wanted)) > 1
